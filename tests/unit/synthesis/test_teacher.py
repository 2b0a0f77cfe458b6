"""The offline teacher, asked over the wire by the real clients."""

import json
import urllib.error
import urllib.request

import openai
import pytest

from tianji_helpers import faults, wishes
from tianji_helpers.synthesis import prompts
from tianji_helpers.synthesis.teacher import FINGERPRINT, MODEL, Teacher


@pytest.fixture(scope="module")
def prompt():
    return prompts.build(wishes.load(), "姐姐", "生日", "小红书")


@pytest.fixture(scope="module")
def client():
    with (
        Teacher(dirt_share=0.0) as running,
        openai.OpenAI(api_key="any", base_url=running.base_url, max_retries=0) as connected,
    ):
        yield connected


def ask(client, prompt, **options):
    options = {"model": MODEL, "seed": 7, "temperature": 1.0} | options
    return client.chat.completions.create(messages=prompt.messages, **options)


def test_it_answers_as_the_openai_client_expects(client, prompt):
    reply = ask(client, prompt)
    wish = reply.choices[0].message.content
    assert not faults.find(wishes.load().read("祝姐姐生日,小红书风格"), wish)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == len(wish)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + len(wish)


def test_it_says_on_its_face_that_it_is_no_language_model(client, prompt):
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=prompt.messages)
    assert raw.headers["Server"].startswith("tianji-phrasebook")
    assert raw.parse().model == "phrasebook-offline"
    assert raw.parse().system_fingerprint == FINGERPRINT == "phrasebook, not a language model"
    assert [model.id for model in client.models.list()] == [MODEL]


def test_seed_and_temperature_act_as_request_parameters(client, prompt):
    def texts(**options):
        return {
            ask(client, prompt, **options | {"seed": seed}).choices[0].message.content for seed in range(8)
        }

    assert len(texts(temperature=1.0)) > 4
    assert len(texts(temperature=0)) == 1
    assert ask(client, prompt).choices[0].message.content == ask(client, prompt).choices[0].message.content


def test_max_tokens_cuts_and_says_so(client, prompt):
    choice = ask(client, prompt, max_tokens=5).choices[0]
    assert len(choice.message.content) == 5 and choice.finish_reason == "length"


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"model": "gpt-9"}, 404, "gpt-9"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "你好"}]}, 400, "短语本只会写祝福"),
        ({"messages": [{"role": "user", "content": "对象：姐姐\n场景：圣诞节\n风格：正常"}]}, 400, "圣诞节"),
        ({"stream": True}, 400, "stream"),
    ],
)
def test_a_bad_request_is_refused_with_a_reason(client, prompt, options, status, words):
    with pytest.raises(openai.APIStatusError, match=words) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": prompt.messages} | options)
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    ("path", "data", "headers", "status"),
    [
        ("/chat/completions", b"{not json", {"Authorization": "Bearer x"}, 400),
        ("/chat/completions", b"[1]", {"Authorization": "Bearer x"}, 400),
        ("/chat/completions", b"{}", {}, 401),
        ("/embeddings", b"{}", {"Authorization": "Bearer x"}, 404),
        ("/nothing", None, {}, 404),
        ("/chat/completions", b"x" * (1 << 20) + b"x", {"Authorization": "Bearer x"}, 413),
    ],
)
def test_bad_http_gets_a_json_error(client, path, data, headers, status):
    url = str(client.base_url).rstrip("/") + path
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)) as caught:
        urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=5)
    if isinstance(caught.value, urllib.error.HTTPError):  # too large a body may meet a closed pipe
        assert caught.value.code == status
        assert json.load(caught.value)["error"]["message"]
    else:
        assert status == 413


def test_the_dirty_share_is_what_was_asked_for():
    matrix = wishes.load()
    built = [p for style in matrix.styles for p in prompts.build_round(matrix, style)]
    dirty_one, clean_one = Teacher(dirt_share=0.18), Teacher(dirt_share=0)

    def say(teacher, prompt) -> str:
        _, _, payload = teacher.respond({"model": MODEL, "messages": prompt.messages, "seed": prompt.seed})
        return payload["choices"][0]["message"]["content"]

    dirty = sum(say(dirty_one, prompt) != say(clean_one, prompt) for prompt in built)
    assert 0.14 <= dirty / len(built) <= 0.22
