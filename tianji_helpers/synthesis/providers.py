"""Who writes the wishes: a model behind an API, or the offline phrasebook.

``deepseek``, ``local`` (any OpenAI-compatible server: vLLM, LMDeploy, Ollama ...) and ``offline`` are
asked through the asynchronous ``openai`` client, ``zhipu`` through the ``zhipuai`` client, which is
synchronous and runs in threads. Their own retries are off: ``generate`` decides what is tried again,
from the two exceptions here (``Retryable``, ``Refused``); what no second try can mend, such as a wrong
key, is a CourseError and stops the run.

Keys come from the environment or ``.env`` and go nowhere else: not into a repr, a log, a file or a
message (``Provider.hide`` blacks them out of what a server says).
"""

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from dotenv import dotenv_values

from tianji_helpers import paths
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis.teacher import MODEL as OFFLINE_MODEL

_NO_KEY = "not-needed"


@dataclass(frozen=True)
class Provider:
    """Whom to ask. ``client`` is the Python client (openai or zhipuai); ``key`` is never shown."""

    name: str
    client: str
    base_url: str
    model: str
    key_name: str = ""
    key: str = field(default=_NO_KEY, repr=False)
    sends_seed: bool = True

    def hide(self, text: str) -> str:
        """Return ``text`` without the key."""
        return text if self.key == _NO_KEY else text.replace(self.key, "***")


PROVIDERS = {
    provider.name: provider
    for provider in (
        # DeepSeek's interface has no seed
        Provider(
            "deepseek",
            "openai",
            "https://api.deepseek.com/v1",
            "deepseek-chat",
            "DEEPSEEK_API_KEY",
            sends_seed=False,
        ),
        Provider(
            "zhipu", "zhipuai", "https://open.bigmodel.cn/api/paas/v4", "glm-4-flash", "ZHIPUAI_API_KEY"
        ),
        Provider("local", "openai", "", ""),
        Provider("offline", "openai", "", OFFLINE_MODEL),
    )
}


def choose(name: str, model: str = "", base_url: str = "") -> Provider:
    """Return a provider ready to be asked.

    name: a key of ``PROVIDERS``. model, base_url: instead of the provider's own; ``local`` needs both,
    ``offline`` gets its address when its teacher starts.
    Raises CourseError for an unknown name, a missing address, model or key.

    >>> choose("deepsek")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    tianji_helpers.errors.CourseError: 没有名叫“deepsek”的 provider。可用的有：deepseek、...
    """
    if name not in PROVIDERS:
        raise CourseError(f"没有名叫“{name}”的 provider。可用的有：{'、'.join(PROVIDERS)}。")
    base = PROVIDERS[name]
    base_url, model = base_url or base.base_url, model or base.model
    if name == "local" and not (base_url and model):
        raise CourseError(
            "provider=local 需要 base_url 和 model，例如 base_url=http://127.0.0.1:8000/v1、"
            "model=服务器 /v1/models 里列出的名字。"
        )
    if base_url and urlsplit(base_url).scheme not in ("http", "https"):
        raise CourseError(f"base_url 应当以 http:// 或 https:// 开头，现在是 {base_url!r}。")
    key = _NO_KEY
    if base.key_name:
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
    return replace(base, base_url=base_url, model=model, key=key)


@dataclass(frozen=True)
class Reply:
    """What a model said; ``finish_reason`` is ``stop`` when it came to its own end."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Retryable(Exception):
    """This try failed, another may not. ``retry_after``: seconds that the server asks to wait."""

    def __init__(self, message: str, retry_after: float | None = None, everyone: bool = False):
        super().__init__(message)
        self.retry_after = retry_after
        self.everyone = everyone  # a rate limit: all requests should pause


class Refused(Exception):
    """The server does not want this one request; others may be fine."""


class Client(Protocol):
    """An open connection to a provider."""

    async def ask(self, body: dict) -> Reply:
        """Send one chat request (``model``, ``messages``, ``temperature`` ...) and return the reply.

        Raises Retryable, Refused, or CourseError if the whole run must stop.
        """

    async def close(self) -> None:
        """Give the connections back."""


def connect(provider: Provider, timeout: float, concurrency: int) -> Client:
    """Open a client. timeout: seconds for one request. concurrency: requests under way at once."""
    kind = _ZhipuClient if provider.client == "zhipuai" else _OpenAIClient
    return kind(provider, timeout, concurrency)


class _OpenAIClient:
    def __init__(self, provider: Provider, timeout: float, concurrency: int):
        import openai  # 0.7 s: only when it is used

        self._provider = provider
        self._client = openai.AsyncOpenAI(
            api_key=provider.key,
            base_url=provider.base_url,
            timeout=timeout,
            max_retries=0,
            # a proxy of the environment cannot reach this machine's own servers
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not _is_loopback(provider.base_url)),
        )

    async def ask(self, body: dict) -> Reply:
        try:
            return _read(await self._client.chat.completions.create(**body))
        except Exception as error:
            raise _translate(error, self._provider) from None  # the cause may quote the key

    async def close(self) -> None:
        await self._client.close()


class _ZhipuClient:
    def __init__(self, provider: Provider, timeout: float, concurrency: int):
        import httpx
        import zhipuai

        self._provider = provider
        self._http = httpx.Client(timeout=timeout, trust_env=not _is_loopback(provider.base_url))
        self._client = zhipuai.ZhipuAI(
            api_key=provider.key,
            base_url=provider.base_url,
            timeout=timeout,
            max_retries=0,
            http_client=self._http,
        )
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="zhipu")

    async def ask(self, body: dict) -> Reply:
        def send() -> Reply:
            return _read(self._client.chat.completions.create(**body))

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, send)
        except Exception as error:
            raise _translate(error, self._provider) from None

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.close()


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _read(completion: Any) -> Reply:
    if isinstance(completion, str):  # a web page, say: every other request would get it too
        raise CourseError(
            f"服务器回答的不是 API 的 JSON，而是：{completion[:60]!r}。请检查 base_url，它通常以 /v1 结尾。"
        )
    choices = getattr(completion, "choices", None)
    if not choices:
        raise Retryable("回答里没有 choices")
    usage = getattr(completion, "usage", None)
    return Reply(
        text=getattr(choices[0].message, "content", None) or "",
        finish_reason=choices[0].finish_reason or "",
        prompt_tokens=getattr(usage, "prompt_tokens", None) or 0,
        completion_tokens=getattr(usage, "completion_tokens", None) or 0,
    )


def _translate(error: Exception, provider: Provider) -> Exception:
    """Say what a client's exception means; both clients' exceptions carry the same attributes."""
    if isinstance(error, (Retryable, CourseError)):
        return error
    text = provider.hide(" ".join(str(error).split()))[:300]
    status = getattr(error, "status_code", None)
    if status is None:
        chain = {type(cause).__name__ for cause in _causes(error)}
        if "ConnectError" in chain:
            return CourseError(
                f"连不上 {provider.base_url}：没有服务器在那里应答。请检查 base_url、网络和代理设置；"
                "本地服务器（vLLM、LMDeploy、Ollama）要先启动。"
            )
        if "LocalProtocolError" in chain or "InvalidURL" in chain or "UnsupportedProtocol" in chain:
            return CourseError(f"发不出请求：{text}。请检查 base_url（{provider.base_url}）和密钥。")
        if any("Timeout" in name for name in chain):
            return Retryable("超时没有回答")
        return Retryable(f"连接中断或回答不完整（{type(error).__name__}：{text}）")
    answer = f"服务器回答 {status}：{text}"
    if status in (401, 403):
        return CourseError(
            f"{provider.name} 不接受密钥。{answer}。请检查 {provider.key_name or '服务器要求的密钥'}。"
        )
    if status == 402:
        return CourseError(f"{provider.name} 的余额不足。{answer}。充值后再运行一次，已有的回答不会重发。")
    if status == 404 or (status in (400, 422) and _names_model(text)):
        return CourseError(
            f"{provider.name} 没有这个模型或地址。{answer}。请检查 model（{provider.model}）"
            f"和 base_url（{provider.base_url}，通常以 /v1 结尾）。"
        )
    if status == 422:
        return CourseError(f"{provider.name} 不接受请求的参数。{answer}。请检查 temperature 和 max_tokens。")
    if status in (408, 409, 429) or status >= 500:
        return Retryable(answer, _retry_after(error), everyone=status in (429, 503))
    return Refused(answer)


def _causes(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _names_model(text: str) -> bool:
    """Some servers answer 400 to an unknown model (DeepSeek: Model Not Exist; Zhipu: code 1211)."""
    return bool(re.search(r"model.{0,40}not.{0,10}(exist|found)|模型不存在|\b1211\b", text, re.I))


def _retry_after(error: Exception) -> float | None:
    value = error.response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError):
        return None
