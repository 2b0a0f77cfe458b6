"""The offline teacher, asked over the wire by the real clients."""

import json
import urllib.error
import urllib.request

import openai
import pytest

from tianji_helpers import wishes
from tianji_helpers.synthesis import prompts, recordings
from tianji_helpers.synthesis.teacher import Teacher


@pytest.fixture(scope="module")
def prompt():
    return prompts.build(wishes.load(), "姐姐", "生日", "小红书")


@pytest.fixture(scope="module")
def client():
    with (
        Teacher() as running,
        openai.OpenAI(api_key="any", base_url=running.base_url, max_retries=0) as connected,
    ):
        yield connected


def ask(client, prompt, **options):
    options = {"model": recordings.LARGE, "seed": prompt.seed} | options
    return client.chat.completions.create(messages=prompt.messages, **options)


@pytest.mark.parametrize("teacher", recordings.TEACHERS)
def test_it_says_what_was_recorded_as_the_openai_client_expects(client, prompt, teacher):
    reply = ask(client, prompt, model=teacher)
    wish = reply.choices[0].message.content
    assert wish == recordings.load(teacher)[recordings.digest(prompt.messages), prompt.seed].text
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == len(wish)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + len(wish)


def test_it_says_on_its_face_that_it_computes_nothing(client, prompt):
    raw = client.chat.completions.with_raw_response.create(
        model=recordings.LARGE, messages=prompt.messages, seed=prompt.seed
    )
    assert raw.headers["Server"].startswith("tianji-offline")
    assert raw.parse().model == "recorded-large"
    assert raw.parse().system_fingerprint == "recorded answers"
    assert [model.id for model in client.models.list()] == list(recordings.TEACHERS)


def test_another_round_has_another_answer(client):
    matrix = wishes.load()
    said = {
        ask(client, prompts.build(matrix, "姐姐", "生日", "正常", number)).choices[0].message.content
        for number in (1, 2)
    }
    assert len(said) == 2


def test_max_tokens_cuts_and_says_so(client, prompt):
    choice = ask(client, prompt, max_tokens=5).choices[0]
    assert len(choice.message.content) == 5 and choice.finish_reason == "length"


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"model": "gpt-9"}, 404, "gpt-9"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "你好"}]}, 400, "没有录下.*embedded.*密钥"),
        ({"messages": ["祝"]}, 400, "messages"),
        ({"seed": 1}, 400, "没有录下"),
        ({"seed": None}, 400, "没有录下"),
        ({"stream": True}, 400, "stream"),
    ],
)
def test_a_bad_request_is_refused_with_a_reason(client, prompt, options, status, words):
    with pytest.raises(openai.APIStatusError, match=words) as caught:
        client.chat.completions.create(
            **{"model": recordings.LARGE, "messages": prompt.messages, "seed": prompt.seed} | options
        )
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
        urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=300)
    if isinstance(caught.value, urllib.error.HTTPError):  # too large a body may meet a closed pipe
        assert caught.value.code == status
        assert json.load(caught.value)["error"]["message"]
    else:
        assert status == 413
