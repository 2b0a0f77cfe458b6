"""Who writes the wishes: a model behind an API, or recordings of one.

``deepseek``, ``local`` (any OpenAI-compatible server: vLLM, LMDeploy, Ollama ...), ``embedded`` (a model
on this machine, started by ``client``) and ``offline`` are asked through the asynchronous
``openai`` client, ``zhipu`` through the ``zhipuai`` client, which is synchronous and runs in threads.
Their own retries are off: ``client`` decides what is tried again, from the two exceptions here
(``Retryable``, ``Refused``); what no second try can mend, such as a wrong key, is a CourseError and
stops the run.

Keys come from the environment or ``.env`` and go nowhere else: not into a repr, a log, a file or a
message (``redaction.hide`` takes them out of what a server says).
"""

import json
import math
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
import httpx
import httpx2
import openai
from dotenv import dotenv_values

from tianji_helpers import hubs, packaged, paths, redaction
from tianji_helpers.errors import CourseError, HidesSecrets, check_known
from tianji_helpers.synthesis import recordings

_NO_KEY = "not-needed"
_MOST_BYTES = 4 << 20  # of a reply's body: some hundred times the longest answer that is asked for
_MOST_TOKENS = 10_000_000  # of one request: more than any model reads


@dataclass(frozen=True)
class Provider:
    """Whom to ask. ``key`` is never shown; ``extra`` goes into the body of every request.

    longest: how many times as long as what is asked for an answer of this model may become; 0 is no bound but
    the run's ``max_tokens``. socket: a file behind which a server of ours listens, instead of a port.
    """

    name: str
    base_url: str
    model: str
    key_name: str = ""
    key: str = field(default=_NO_KEY, repr=False)
    sends_seed: bool = True
    timeout: float = 60.0  # seconds for one request
    slots: int = 0  # answers that it is known to write at once; 0 is found out
    keeps_schemas: bool = False  # the server lets the model write nothing but JSON of a given schema
    extra: dict[str, Any] = field(default_factory=dict[str, Any])
    longest: int = 0
    socket: str = ""


PROVIDERS = {
    provider.name: provider
    for provider in (
        # DeepSeek has no seed, and thinks unless told not to: a wish needs no thinking, thinking is paid
        # for, and the temperature does nothing while it thinks
        Provider(
            "deepseek",
            "https://api.deepseek.com/v1",
            "deepseek-flash",
            "DEEPSEEK_API_KEY",
            sends_seed=False,
            extra={"thinking": {"type": "disabled"}},
        ),
        Provider("zhipu", "https://open.bigmodel.cn/api/paas/v4", "glm-4-flash-250414", "ZHIPUAI_API_KEY"),
        Provider("local", "", ""),
        # Reading prompts takes most of the time. Each slot reads a shared beginning once (``lanes``), and
        # more of them write faster: on two cores 60 wishes take 112 s with 2 slots, 86 and 89 s with 4;
        # 36 take 58 to 61 s with either, 83 s with 6. With more cores, ``concurrency`` asks for more. Now and
        # then it repeats itself without end; of its 1,293 recorded wishes 4 are over ``longest``, three so.
        Provider("embedded", "", packaged.TEACHER, timeout=900.0, slots=4, keeps_schemas=True, longest=6),
        Provider("offline", "", recordings.LARGE),
    )
}


def choose(name: str, model: str = "", base_url: str = "", with_key: bool = True) -> Provider:
    """Return a provider ready to be asked.

    name: a key of ``PROVIDERS``. model, base_url: instead of the provider's own; ``local`` needs both,
    ``offline`` gets its address when its teacher starts. with_key: False needs no key (for a preview).
    Raises CourseError for an unknown name, a missing address, model or key.

    >>> choose("deepsek")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    tianji_helpers.errors.CourseError: 没有叫 deepsek 的 provider。你是想用 deepseek 吗？可选：...
    """
    check_known(name, PROVIDERS, " provider")
    base = PROVIDERS[name]
    base_url, model = base_url or base.base_url, model or base.model
    if name == "local" and not (base_url and model):
        raise CourseError(
            "provider=local 需要 base_url 和 model，例如 base_url=http://127.0.0.1:8000/v1、"
            "model=服务器 /v1/models 里列出的名字。"
        )
    hubs.check_address(base_url, "base_url")
    if base_url and urlsplit(base_url).scheme not in ("http", "https"):
        raise CourseError(f"base_url 应当以 http:// 或 https:// 开头，现在是 {base_url!r}。")
    key = _NO_KEY
    if base.key_name and with_key:
        key = (
            os.environ.get(base.key_name) or dotenv_values(paths.ROOT / ".env").get(base.key_name) or ""
        ).strip()
        if not key:
            raise CourseError(
                f"没有找到 {name} 的密钥。请设置环境变量 {base.key_name}，或在项目根目录的 .env 文件里写一行 "
                f"{base.key_name}=你的密钥（不要写进 notebook）。没有密钥可以用 provider=offline。"
            )
        if not key.isascii() or not key.isprintable():
            raise CourseError(f"{base.key_name} 里有不该有的字符（例如中文引号或换行），请重新复制密钥。")
    longest = base.longest if model == base.model else 0
    return replace(base, base_url=base_url, model=model, key=key, longest=longest)


@dataclass(frozen=True)
class Reply:
    """What a model said; ``finish_reason`` is ``stop`` when it came to its own end."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # the part of prompt_tokens that the server had in its cache


class Retryable(HidesSecrets):
    """This try failed, another may not.

    retry_after: seconds that the server asks to wait. overload: it cannot take as many as it gets; if it
    says for how long, all requests wait.
    """

    def __init__(self, message: str, retry_after: float | None = None, overload: bool = False):
        super().__init__(message)
        self.retry_after = retry_after
        self.overload = overload


class Refused(HidesSecrets):
    """The server does not want this one request; others may be fine."""


class Client(Protocol):
    """An open connection to a provider."""

    async def ask(self, body: dict[str, Any]) -> Reply:
        """Send one chat request (``model``, ``messages``, ``temperature`` ...) and return the reply.

        Raises Retryable, Refused, or CourseError if the whole run must stop.
        """

    async def close(self) -> None:
        """Give the connections back."""


def connect(provider: Provider, timeout: float, concurrency: int) -> Client:
    """Open a client. timeout: seconds for one request. concurrency: requests under way at once."""
    kind = _ZhipuClient if provider.name == "zhipu" else _OpenAIClient
    return kind(provider, timeout, concurrency)


class _OpenAIClient:
    """Asks with ``client.post``: ``chat.completions.create`` would send the same.

    It would also look through every message and make every answer a pydantic model. Without that, and
    with the client's aiohttp transport, a request takes 0.5 ms of CPU instead of 1.4 (measured by
    tests/benchmarks/bench_synthesis.py layers).
    """

    def __init__(self, provider: Provider, timeout: float, concurrency: int):
        self._provider, self._timeout = provider, timeout
        self._reached = False
        # whole: the client would join a path to its base_url again for every request
        self._url = provider.base_url.rstrip("/") + "/chat/completions"
        if not _is_loopback(provider.base_url):
            hubs.check_proxy(provider.base_url)
        self._client = openai.AsyncOpenAI(
            api_key=provider.key,
            base_url=provider.base_url,
            timeout=None,  # it would be one for each read; ``ask`` has one for the whole
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(
                transport=_through(provider.socket) if provider.socket else None,
                # a proxy of the environment cannot reach this machine's own servers
                trust_env=not _is_loopback(provider.base_url),
                # without TLS there is nothing to verify, and reading the certificates takes 50 ms
                verify=urlsplit(provider.base_url).scheme == "https",
                headers=_PLAIN,
                event_hooks={"response": [_bound_async]},
            ),
        )

    async def ask(self, body: dict[str, Any]) -> Reply:
        try:
            with anyio.fail_after(self._timeout):
                text = await self._client.post(self._url, body=body, cast_to=str)
            self._reached = True
        except TimeoutError:
            raise Retryable("超时没有回答", overload=True) from None
        except Exception as error:
            raise _translate(self._provider, self._reached, error) from None  # the cause may quote the key
        return read(text)

    async def close(self) -> None:
        await self._client.close()


def _through(socket: str) -> httpx2.AsyncHTTPTransport:
    # one connection an answer, as ``llama.Model`` has it: now and then llama.cpp closes the kept one
    return httpx2.AsyncHTTPTransport(uds=socket, limits=httpx2.Limits(max_keepalive_connections=0))


class _ZhipuClient:
    def __init__(self, provider: Provider, timeout: float, concurrency: int):
        import zhipuai

        self._provider, self._timeout = provider, timeout
        self._reached = False
        if not _is_loopback(provider.base_url):
            hubs.check_proxy(provider.base_url, "socksio", bypass=False)
        self._http = httpx.Client(
            timeout=timeout,
            trust_env=not _is_loopback(provider.base_url),
            headers=_PLAIN,
            event_hooks={"response": [lambda response: _bound(response, timeout)]},
        )
        self._client = zhipuai.ZhipuAI(
            api_key=provider.key,
            base_url=provider.base_url,
            timeout=timeout,
            max_retries=0,
            http_client=self._http,
        )
        self._limiter = anyio.CapacityLimiter(concurrency)

    async def ask(self, body: dict[str, Any]) -> Reply:
        try:
            with anyio.fail_after(self._timeout):  # httpx has one for each read only
                return await anyio.to_thread.run_sync(
                    self._send, body, abandon_on_cancel=True, limiter=self._limiter
                )
        except TimeoutError:
            raise Retryable("超时没有回答", overload=True) from None

    def _send(self, body: dict[str, Any]) -> Reply:
        try:
            # as ``chat.completions.create`` does, which would make a model of an answer of any shape
            text = self._client.post("/chat/completions", body=body, cast_type=str)
            self._reached = True
        except Exception as error:
            raise _translate(self._provider, self._reached, error) from None
        return read(text)

    async def close(self) -> None:
        self._http.close()


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


# a few KB packed can be some GB
_PLAIN = {"Accept-Encoding": "identity"}


class _Bounded(httpx.SyncByteStream, httpx2.AsyncByteStream):
    """A body that breaks off where it becomes too long, or takes too long."""

    def __init__(self, stream: Any, seconds: float):
        self._stream, self._left, self._until = stream, _MOST_BYTES, time.monotonic() + seconds

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            yield self._counted(chunk)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield self._counted(chunk)

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def _counted(self, chunk: bytes) -> bytes:
        self._left -= len(chunk)
        if self._left < 0:
            raise Retryable(f"回答太长：超过 {_MOST_BYTES >> 20} MB，没有读完")
        if time.monotonic() > self._until:  # nobody waits for it any more
            raise Retryable("超时没有回答", overload=True)
        return chunk


def _bound(response: httpx.Response | httpx2.Response, seconds: float = math.inf) -> None:
    """Have a body read no further, and no longer, than any answer goes."""
    packed = response.headers.get("Content-Encoding", "identity")
    if packed != "identity":
        raise Retryable(f"回答是压缩过的（{packed[:20]}），而请求里说了不要压缩")
    response.stream = _Bounded(response.stream, seconds)


async def _bound_async(response: httpx2.Response) -> None:
    _bound(response)


def read(text: str) -> Reply:
    """Return what the body of a chat completion says, every field checked.

    Raises Retryable for one without a message, CourseError for a web page. What a server reports as its
    usage and is no number of tokens counts as not reported.
    """
    try:
        completion = json.loads(text)
    except (ValueError, RecursionError):
        if text.lstrip().startswith("<"):  # a web page: every other request would get it too
            raise CourseError(
                f"服务器回答的不是 API 的 JSON，而是网页：{text.strip()[:60]!r}。"
                "请检查 base_url，它通常以 /v1 结尾。"
            ) from None
        raise Retryable("回答不完整（不是完整的 JSON）") from None
    choices = _object(completion).get("choices")
    choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Retryable("回答里没有 choices，或者里面没有 message")
    finish_reason = redaction.hide(str(choice.get("finish_reason") or "")[:1000])[:40]
    finish_reason = finish_reason.encode(errors="replace").decode()
    usage = _object(completion.get("usage"))
    prompt_tokens = _tokens(usage.get("prompt_tokens"))
    # DeepSeek's name, and OpenAI's
    cached = usage.get("prompt_cache_hit_tokens") or _object(usage.get("prompt_tokens_details")).get(
        "cached_tokens"
    )
    return Reply(
        text=redaction.hide(_content(message.get("content"))),
        finish_reason="refusal" if message.get("refusal") else finish_reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=_tokens(usage.get("completion_tokens")),
        cached_tokens=min(_tokens(cached), prompt_tokens),
    )


def _content(content: Any) -> str:
    """Return a message's text, which may come in parts; those that are no answer (thoughts) are left out."""
    if isinstance(content, list):
        parts = [_object(part) for part in content]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    if content is None:
        return ""
    if not isinstance(content, str):
        raise Retryable(f"回答的 content 不是文字，而是 {type(content).__name__}")
    return content


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tokens(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0


def _translate(provider: Provider, reached: bool, error: Any) -> Exception:
    """Say what a client's exception means. reached: the server has answered before."""
    if hasattr(error, "status_code"):
        return _explain(provider, error.status_code, error.response.text, error.response.headers)
    causes = list(_causes(error))
    if ours := next((cause for cause in causes if isinstance(cause, Retryable)), None):
        return ours
    kinds = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    what = f"{type(causes[-1]).__name__}：{_short(causes[-1])}"
    if kinds & {"ConnectError", "ClientConnectorError"} and not reached:
        return CourseError(
            f"连不上 {provider.base_url}：没有服务器在那里应答。"
            "请检查 base_url、网络和代理设置；"
            "本地服务器（vLLM、LMDeploy、Ollama）要先启动。"
        )
    bad_value = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
    if bad_value or kinds & {"LocalProtocolError", "InvalidURL", "UnsupportedProtocol"}:
        return CourseError(f"发不出请求（{what}）。请检查 base_url（{provider.base_url}）和密钥。")
    # openai's aiohttp transport also calls a broken connection a time-out
    if "TimeoutException" in kinds and "ClientError" not in kinds:
        return Retryable("超时没有回答", overload=True)
    return Retryable(f"连接中断或回答不完整（{what}）")


def _short(what: object) -> str:
    """Return a server's or client's words on one line, without a key."""
    return redaction.hide(" ".join(str(what)[:10_000].split()))[:300]


def _explain(provider: Provider, status: int, text: str, headers: Mapping[str, str]) -> Exception:
    """Say what an HTTP status other than 200 means."""
    text = _short(text)
    answer = f"服务器回答 {status}：{text}"
    if status in (401, 403):
        return CourseError(
            f"{provider.name} 不接受密钥。{answer}。请检查 {provider.key_name or '服务器要求的密钥'}。"
        )
    if status == 402:
        return CourseError(f"{provider.name} 的余额不足。{answer}。充值后再运行一次，已有的回答不会重发。")
    # some answer 400 to an unknown model (DeepSeek: Model Not Exist; Zhipu: code 1211)
    no_model = re.search(r"model.{0,40}not.{0,10}(exist|found)|模型不存在|\b1211\b", text, re.I)
    if status in (404, 405) or (status in (400, 422) and no_model):
        return CourseError(
            f"{provider.name} 没有这个模型或地址。{answer}。请检查 model（{provider.model}）"
            f"和 base_url（{provider.base_url}，通常以 /v1 结尾）。"
        )
    if status == 422:
        return CourseError(f"{provider.name} 不接受请求的参数。{answer}。请检查 temperature 和 max_tokens。")
    if status in (408, 409, 429) or status >= 500:
        return Retryable(answer, _retry_after(headers), overload=status in (429, 503))
    return Refused(answer)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError):
        return None
