"""Providers: chosen with care, asked over the wire, errors that name the fix, keys that stay secret."""

import asyncio
import base64
import contextlib
import gzip
import json
import logging
import re
import socket
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from synthesis_teachers import FaultyTeacher

from tianji_helpers import hubs, paths, redaction, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import prompts, providers
from tianji_helpers.synthesis.providers import Refused, Retryable

KEY = "sk-0123456789.secretsecret"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch, tmp_path):
    """No key of the machine reaches a test: neither its environment nor its .env."""
    for provider in providers.PROVIDERS.values():
        if provider.key_name:
            monkeypatch.delenv(provider.key_name, raising=False)
    monkeypatch.setattr(paths, "ROOT", tmp_path)


@pytest.fixture
def body():
    prompt = prompts.build(wishes.load(), "姐姐", "生日", "正常")
    return {"messages": prompt.messages, "temperature": 0.7, "max_tokens": 99, "seed": 5}


def ask(provider, body, timeout=300.0):
    async def once():
        client = providers.connect(provider, timeout, 1)
        try:
            return await client.ask({"model": provider.model} | body)
        finally:
            await client.close()

    return asyncio.run(once())


@pytest.mark.parametrize("name", ["offline", "zhipu", "deepseek", "local"])
def test_temperature_and_seed_are_request_parameters_on_the_wire(teacher, body, monkeypatch, name):
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)
    provider = providers.choose(name, model="recorded-large", base_url=teacher.base_url)
    reply = ask(provider, body)
    assert reply.finish_reason == "stop" and "生日" in reply.text
    assert reply.completion_tokens == len(reply.text) and reply.prompt_tokens > 0
    (sent,) = teacher.bodies
    assert sent["temperature"] == 0.7 and sent["max_tokens"] == 99 and sent["seed"] == 5
    assert sent["messages"] == body["messages"]
    assert all(set(message) == {"role", "content"} for message in sent["messages"])
    # the real clients introduce themselves
    own, other = ("x-source-channel", "x-stainless-lang")[:: 1 if name == "zhipu" else -1]
    assert own in teacher.headers[0] and other not in teacher.headers[0]


def test_the_catalogue_of_providers():
    assert list(providers.PROVIDERS) == ["deepseek", "zhipu", "local", "embedded", "offline"]
    assert providers.PROVIDERS["deepseek"].base_url == "https://api.deepseek.com/v1"


def test_the_key_comes_from_the_environment_or_dotenv(monkeypatch, tmp_path):
    with pytest.raises(CourseError, match=r"DEEPSEEK_API_KEY.*\.env"):
        providers.choose("deepseek")
    (tmp_path / ".env").write_text(f"DEEPSEEK_API_KEY={KEY}\n")
    assert providers.choose("deepseek").key == KEY
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-from-environment")
    assert providers.choose("deepseek").key == "sk-from-environment"
    monkeypatch.setenv("DEEPSEEK_API_KEY", "“sk-quoted”")
    with pytest.raises(CourseError, match="不该有的字符"):
        providers.choose("deepseek")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("openai",), "可选：deepseek、zhipu、local、embedded、offline"),
        (("local",), "需要 base_url 和 model"),
        (("local", "m"), "需要 base_url 和 model"),
        (("local", "m", "127.0.0.1:8000"), "http:// 或 https:// 开头"),
    ],
)
def test_bad_choices_are_explained(arguments, words):
    with pytest.raises(CourseError, match=words):
        providers.choose(*arguments)


def test_a_password_in_the_address_is_neither_taken_nor_shown():
    with pytest.raises(CourseError, match="不能带用户名、密码") as caught:
        providers.choose("local", "m", "http://ming:geheim-123@127.0.0.1:8000/v1?key=geheim-456")
    assert "geheim" not in str(caught.value)
    with pytest.raises(CourseError) as caught:
        providers.choose("local", "m", "ftp://ming:geheim-123@127.0.0.1:8000/v1")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("source", hubs.SOURCES)
def test_a_password_in_a_hubs_own_setting_is_neither_taken_nor_shown(source, monkeypatch):
    variable = {"modelscope": "MODELSCOPE_ENDPOINT", "huggingface": "HF_ENDPOINT"}[source]
    monkeypatch.setenv(variable, "http://ming:geheim-123@127.0.0.1:9")
    with pytest.raises(CourseError, match=f"{variable}（http://127.0.0.1:9）里不能带") as caught:
        hubs.fetch(source, "a/b", "main", Path("nowhere"), needed=[])
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("name", ["deepseek", "zhipu"])
def test_an_answer_that_repeats_the_key_is_kept_without_it(teacher, body, monkeypatch, name):
    monkeypatch.setenv(providers.PROVIDERS[name].key_name, KEY)
    coded = base64.b64encode(f"me:{KEY}".encode()).decode()
    message = {"role": "assistant", "content": f"祝您 {KEY} {coded} 安康"}
    teacher.reply = lambda _: (200, {}, {"choices": [{"message": message, "finish_reason": KEY}]})
    reply = ask(providers.choose(name, "m", teacher.base_url), body)
    assert reply.text.startswith("祝您 *** ") and reply.text.endswith(" 安康")
    assert KEY[:8] not in reply.text + reply.finish_reason and coded[8:20] not in reply.text
    teacher.reply = lambda _: (500, {}, {"error": {"message": f"Basic {coded}"}})
    with pytest.raises(Retryable) as caught:
        ask(providers.choose(name, "m", teacher.base_url), body)
    assert coded not in str(caught.value)


@pytest.mark.parametrize("name", ["deepseek", "zhipu"])
@pytest.mark.parametrize(
    ("status", "message", "kind", "words"),
    [
        (401, f"Incorrect API key provided: {KEY}", CourseError, "请检查 {key_name}"),
        (403, "no", CourseError, "不接受密钥"),
        (402, "Insufficient Balance", CourseError, "余额不足"),
        (404, "page not found", CourseError, "base_url"),
        (400, "Model Not Exist", CourseError, "请检查 model（the-model）"),
        (400, "模型不存在，请检查模型代码。", CourseError, "请检查 model"),
        (422, "temperature out of range", CourseError, "请检查 temperature"),
        (400, "Content Exists Risk", Refused, "Content Exists Risk"),
        (429, f"too many requests for {KEY}", Retryable, "429"),
        (500, f"oops {KEY}", Retryable, "500"),
        (503, "busy", Retryable, "503"),
    ],
)
def test_what_a_status_means(teacher, body, monkeypatch, caplog, name, status, message, kind, words):
    provider = providers.PROVIDERS[name]
    monkeypatch.setenv(provider.key_name, KEY)
    teacher.reply = lambda _: (status, {"Retry-After": "7"}, {"error": {"message": message, "code": "x"}})
    provider = providers.choose(name, "the-model", teacher.base_url)
    with caplog.at_level(logging.INFO), pytest.raises(kind) as caught:
        ask(provider, body)
    assert words.format(key_name=provider.key_name) in str(caught.value)
    assert len(teacher.bodies) == 1  # the clients' own retries are off
    if kind is Retryable:
        assert caught.value.retry_after == 7.0
        assert caught.value.overload == (status in (429, 503))
    shown = f"{caught.value!r} {caught.value.__cause__!r} {provider!r} {caplog.text}"
    assert KEY not in shown


@pytest.mark.parametrize("name", ["offline", "zhipu"])
def test_nobody_there(body, monkeypatch, name):
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    provider = providers.choose(name, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(CourseError, match=r"连不上 http://127\.0\.0\.1:9/v1"):
        ask(provider, body)


@pytest.mark.parametrize("name", ["offline", "zhipu"])
def test_a_stalled_reply_may_be_tried_again(teacher, body, monkeypatch, name):
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    teacher.latency = 1.0
    provider = providers.choose(name, "recorded-large", teacher.base_url)
    with pytest.raises(Retryable, match="超时"):
        ask(provider, body, timeout=0.2)


@pytest.mark.parametrize(("fault", "words"), [("drop", "连接中断"), ("truncate", "不完整")])
@pytest.mark.parametrize("name", ["offline", "zhipu"])
def test_a_broken_connection_is_no_time_out(body, monkeypatch, name, fault, words):
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    with FaultyTeacher(share=0.0, stall=0.0) as teacher:
        teacher.reply = lambda _: (200, {}, fault)
        with pytest.raises(Retryable, match=words):
            ask(providers.choose(name, "recorded-large", teacher.base_url), body)


def test_the_time_out_is_for_the_whole_reply(body):
    """A server that keeps the connection alive with blanks, as DeepSeek does, cannot hold a request."""

    held = threading.Event()

    def trickle(listening):
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):  # the client hangs up
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(600):
                connection.sendall(b"\n")
                time.sleep(0.05)
            held.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=trickle, args=[listening])
        thread.start()
        provider = providers.choose("local", "m", f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        with pytest.raises(Retryable, match="超时"):
            ask(provider, body, timeout=0.3)
        thread.join()
        assert not held.is_set()


@pytest.mark.parametrize("base_url", ["http://", "http://127.0.0.1:99999/v1"])
def test_an_address_that_is_none(body, base_url):
    with pytest.raises(CourseError, match="发不出请求"):
        ask(providers.choose("local", "m", base_url), body)


def test_a_proxy_of_the_environment_does_not_stand_before_loopback(teacher, body, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(providers.choose("offline", base_url=teacher.base_url), body).text


@pytest.mark.parametrize("name", ["deepseek", "zhipu"])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_a_socks_proxy_is_named(monkeypatch, name, variable):
    for other in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("DEEPSEEK_API_KEY", "x" * 20)
    monkeypatch.setenv("ZHIPUAI_API_KEY", "x" * 20 + ".y")
    monkeypatch.setenv(variable, "socks5h://ming:geheim-1234@127.0.0.1:1080")
    with pytest.raises(CourseError, match=r"SOCKS.*unset HTTPS_PROXY.*export HTTPS_PROXY=http") as caught:
        providers.connect(providers.choose(name), 5, 1)
    assert "geheim" not in str(caught.value) and "127.0.0.1:1080" in str(caught.value)
    for source in hubs.SOURCES:
        with pytest.raises(CourseError, match="SOCKS"):
            hubs.fetch(source, "a/b", "main", Path("nowhere"), needed=[])
    monkeypatch.setenv("NO_PROXY", "api.deepseek.com")
    hubs.check_proxy("https://api.deepseek.com/v1")


def test_a_date_is_understood_as_retry_after(teacher, body):
    teacher.reply = lambda _: (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, {})
    with pytest.raises(Retryable) as caught:
        ask(providers.choose("offline", base_url=teacher.base_url), body)
    assert caught.value.retry_after == 0.0


WISH = "姐姐，生日快乐，平安喜乐！"
USAGE = {"prompt_tokens": 10, "completion_tokens": 20}


def completion(**changes):
    choice = {"message": {"role": "assistant", "content": WISH}, "finish_reason": "stop"} | changes
    return {"choices": [choice], "usage": USAGE}


@pytest.mark.parametrize("name", ["offline", "zhipu"])
@pytest.mark.parametrize(
    "payload",
    [
        *([1, 2], "x", 5, None, {}, {"choices": []}, {"choices": "abc"}, {"choices": {}}, {"choices": ["x"]}),
        *(completion(message=None), completion(message="x"), completion(message={"content": 5})),
        completion(message={"content": {"text": WISH}}),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_reply_without_a_message_may_be_tried_again(teacher, body, monkeypatch, name, payload):
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    teacher.reply = lambda _: (200, {}, payload)
    with pytest.raises(Retryable, match=r"没有 choices|content 不是文字"):
        ask(providers.choose(name, "m", teacher.base_url), body)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"choices":' + "9" * 5000 + "}", "\ufeff{}"])
def test_json_that_no_parser_takes_may_be_tried_again(text):
    with pytest.raises(Retryable, match="不是完整的 JSON"):
        providers.read(text)


@pytest.mark.parametrize("name", ["offline", "zhipu"])
@pytest.mark.parametrize(
    "usage",
    [
        *("abc", [1], 5, {"prompt_tokens": "12"}, {"prompt_tokens": -5, "completion_tokens": -1}),
        *(
            {"prompt_tokens": {}},
            {"prompt_tokens": 1e308},
            {"prompt_tokens": 10**400},
            {"prompt_tokens": True},
        ),
        *({"prompt_tokens_details": [1]}, {"prompt_tokens_details": {"cached_tokens": "x"}}),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_usage_that_is_no_number_of_tokens_costs_no_answer(teacher, body, monkeypatch, name, usage):
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    teacher.reply = lambda _: (200, {}, completion() | {"usage": usage})
    reply = ask(providers.choose(name, "m", teacher.base_url), body)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (WISH, 0, 0, 0)


def test_no_more_is_cached_than_was_sent(teacher, body):
    usage = USAGE | {"prompt_cache_hit_tokens": 64}
    teacher.reply = lambda _: (200, {}, completion() | {"usage": usage})
    assert ask(providers.choose("offline", base_url=teacher.base_url), body).cached_tokens == 10


@pytest.mark.parametrize("name", ["offline", "zhipu"])
def test_content_in_parts_is_joined_and_a_thought_is_none_of_them(teacher, body, monkeypatch, name):
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "想一想"}]},
        {"type": "text", "text": WISH[:3]},
        {"type": "text", "text": WISH[3:]},
        None,
    ]
    teacher.reply = lambda _: (200, {}, completion(message={"content": parts}))
    assert ask(providers.choose(name, "m", teacher.base_url), body).text == WISH


def test_an_odd_finish_reason_is_text(teacher, body):
    teacher.reply = lambda _: (200, {}, completion(finish_reason={"a": "x" * 1000}))
    reply = ask(providers.choose("offline", base_url=teacher.base_url), body)
    assert reply.finish_reason.startswith("{'a'") and len(reply.finish_reason) == 40


def answer_raw(head: bytes, chunks):
    """Serve one connection with these bytes; return its address."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listening, contextlib.suppress(OSError):  # the client hangs up
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
                for chunk in chunks:
                    connection.sendall(chunk)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


@pytest.mark.parametrize("name", ["local", "zhipu"])
def test_a_body_without_end_is_not_read_to_its_end(body, monkeypatch, name):
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    chunk = b"x" * 100_000
    sent = []
    chunks = (sent.append(n) or b"%x\r\n%s\r\n" % (len(chunk), chunk) for n in range(3000))  # 300 MB
    address = answer_raw(b"Transfer-Encoding: chunked\r\n", chunks)
    with pytest.raises(Retryable, match="超过 4 MB"):
        ask(providers.choose(name, "m", address), body)
    assert len(sent) < 500


@pytest.mark.parametrize("name", ["local", "zhipu"])
@pytest.mark.parametrize("drop", [b"X-Slow: 1\r\n", b"\r\n1\r\n \r\n"], ids=["head", "body"])
def test_an_answer_that_drips_for_ever_holds_up_no_other(body, monkeypatch, name, drop):
    """Each drop comes in time for a client that has a limit for every read."""
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    text = json.dumps(completion()).encode()
    listening = socket.create_server(("127.0.0.1", 0))

    def drip():
        first, _ = listening.accept()
        threading.Thread(target=answer, daemon=True).start()
        with first, contextlib.suppress(OSError):  # until the client hangs up
            first.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + drop)
            while True:
                time.sleep(0.1)
                first.sendall(drop.removeprefix(b"\r\n"))

    def answer():
        with listening, listening.accept()[0] as second:
            second.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    provider = providers.choose(name, "m", f"http://127.0.0.1:{listening.getsockname()[1]}/v1")

    async def twice():
        client = providers.connect(provider, 1.0, 1)
        with pytest.raises(Retryable, match="超时"):
            await client.ask(body)
        client._timeout = 300  # the other takes what this machine takes
        if name == "zhipu":
            client._client.timeout = 300
        reply = await client.ask(body)
        await client.close()
        return reply

    assert asyncio.run(twice()).text == WISH
    thread.join(300)
    assert not thread.is_alive()


@pytest.mark.parametrize("name", ["local", "zhipu"])
def test_a_packed_body_is_not_unpacked(body, monkeypatch, name):
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    packed = gzip.compress(b" " * 50_000_000)
    head = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(packed)
    with pytest.raises(Retryable, match="压缩过的（gzip）"):
        ask(providers.choose(name, "m", answer_raw(head, [packed])), body)


@pytest.mark.parametrize("name", ["offline", "zhipu"])
def test_a_server_is_asked_for_plain_bodies(teacher, body, monkeypatch, name):
    monkeypatch.setenv("ZHIPUAI_API_KEY", KEY)
    ask(providers.choose(name, "recorded-large", teacher.base_url), body)
    assert teacher.headers[0]["accept-encoding"] == "identity"


def ways(secret):
    """The ways in which a server may write a secret."""
    raw = secret.encode()
    yield from (secret, secret[::-1], raw.hex(), secret[:-3], secret[5:], f"x{secret}y{secret}")
    yield from (base64.b64encode(b"k" * shift + raw + b"!").decode() for shift in range(4))
    yield base64.urlsafe_b64encode(raw).decode()
    yield "".join(f"%{byte:02x}" for byte in raw)
    yield secret.replace("-", "%2D") + f" {secret} {secret[:-3]}"
    yield secret.replace("-", "%2D").replace(".", "%2e")


def gives_away(text, secret):
    raw = urllib.parse.unquote(text)
    plain = [raw, raw[::-1], *(raw[at:] for at in range(3))]
    for chunk in re.findall(r"[\w+/=-]{12,}", raw):
        for at in range(4):
            with contextlib.suppress(ValueError):
                plain.append(base64.urlsafe_b64decode(chunk[at:] + "===").decode(errors="replace"))
            with contextlib.suppress(ValueError):
                plain.append(bytes.fromhex(chunk[at:]).decode(errors="replace"))
    return any(secret[at : at + 8] in one for one in plain for at in range(len(secret) - 7))


@pytest.mark.parametrize("echo", list(ways(KEY)))
@pytest.mark.parametrize("name", ["deepseek", "zhipu"])
@pytest.mark.parametrize("where", ["status 500", "status 401", "answer", "finish", "page"])
def test_no_key_comes_back_in_whatever_a_server_says(teacher, body, monkeypatch, name, where, echo):
    monkeypatch.setenv(providers.PROVIDERS[name].key_name, KEY)
    assert gives_away(echo, KEY)
    payload, status = {"error": {"message": f"bad: {echo}"}}, 200
    if where.startswith("status"):
        status = int(where.split()[1])
    elif where == "page":
        payload = "page"
        monkeypatch.setattr(
            teacher._server.RequestHandlerClass, "_send", lambda self, *_: send_page(self, f"<p>{echo}")
        )
    else:
        payload = (
            completion(message={"content": f"祝福 {echo} 祝福"})
            if where == "answer"
            else completion(finish_reason=echo)
        )
    teacher.reply = lambda _: (status, {}, payload)
    try:
        said = repr(ask(providers.choose(name, "m", teacher.base_url), body))
    except (CourseError, Retryable) as error:
        said = str(error)
    assert not gives_away(said, KEY), said
    assert "***" in said and ("祝福" in said or where != "answer")


def send_page(handler, text):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    handler.wfile.write(text.encode())


def test_the_password_of_an_address_is_not_shown(body):
    with pytest.raises(CourseError, match="base_url") as caught:
        ask(providers.choose("local", "m", "http://me:pass-word-9@127.0.0.1:9/v1"), body)
    assert "pass-word" not in str(caught.value) and "127.0.0.1:9" in str(caught.value)


def test_a_text_without_the_key_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)
    text = "100% 祝福 %41 sk-0123 " + "祝" * 5000
    assert redaction.hide(text) == text
