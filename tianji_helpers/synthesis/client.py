"""Ask a provider for all answers, lose none, pay for none twice.

Requests go through three stages. ``_missing`` leaves out what the journal already answers; workers send the
rest, as many at once as the ``window`` allows and within the limits a minute, and check what comes back;
``_keep`` writes good answers to the journal, all that wait at once, and only then are they counted. Run again
after a crash, a Ctrl-C or with other limits: it goes on where it was. Nothing holds more than a few hundred
requests, however long the run is.

An answer that is empty, cut, filtered, refused or of the wrong form is asked for again, under the next seed,
because the same seed may bring the same answer; a row that gets no good answer in ``tries`` tries is a
failure, which is reported and never stored. What a model thinks aloud before its answer is taken off, and
counted. A limit of the server (429, 503) holds all workers, for as long as it asks. What no second try mends
stops the run.

The event loop has a thread of its own, so that a run also works inside Jupyter, whose main thread already
runs one.
"""

import asyncio
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from anyio.from_thread import start_blocking_portal
from tqdm import tqdm

from tianji_helpers import llama, packaged, paths, thoughts
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import lanes, prices, providers
from tianji_helpers.synthesis.journal import Journal, key_of
from tianji_helpers.synthesis.limits import Pace
from tianji_helpers.synthesis.prices import Price
from tianji_helpers.synthesis.providers import Client, Provider, Refused, Reply, Retryable, connect
from tianji_helpers.synthesis.teacher import Teacher
from tianji_helpers.synthesis.window import Window

_BACK_OFF = (0.5, 30.0)  # seconds: the first wait, doubled each time, and the longest
_LONGEST_PAUSE = 120.0  # seconds: more than that a server's Retry-After is not obeyed
_GRACE = 10.0  # seconds that answers under way get when a run is stopped
_PROMPT_ROOM = 1536  # tokens, for the prompt and the text that questions are asked about
_LEAST_BOUND = 64  # tokens: of a wish of a few characters, a usual one is many times as long
_BATCH = 16  # requests looked up at once: as long as it takes to build them, replies wait
_REFUSAL = re.compile(
    r"^\W*(?:(?:非常|很|十分)?(?:抱歉|对不起|不好意思|遗憾)[，,。！!\s]*)?"
    r"(?:(?:但|不过)[，,]?)?(?:作为(?:一个|一名)?\s*(?:AI|人工智能|大?语言模型|智能助手|助手)"
    r"|我(?:是(?:一个)?\s*(?:AI|人工智能|语言模型)|无法|不能|没有?办法|暂时不能)"
    r"|(?:无法|不能)(?:提供|回答|生成|满足|完成|协助|处理)|(?:该|这个|您的|你的)(?:请求|问题|内容)"
    r"|(?:I['’]m|I am) (?:sorry|unable)|I can(?:['’]t|not)|As an AI|Sorry, )",
    re.IGNORECASE,
)


class Query(Protocol):
    """What is asked. ``where`` names it in a failure; ``answer_chars`` is about how long answers are;
    ``schema`` is the JSON schema that the answer should follow, or None.
    """

    @property
    def round(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def messages(self) -> list[dict[str, Any]]: ...
    @property
    def where(self) -> str: ...
    @property
    def answer_chars(self) -> int: ...
    @property
    def schema(self) -> dict[str, Any] | None: ...


Asked = TypeVar("Asked", bound=Query)


@dataclass(frozen=True)
class Settings:
    """Whom to ask, and how.

    provider: a name of ``providers.PROVIDERS``. model, base_url: instead of the provider's own. temperature:
    0 to 2, a request parameter. max_tokens: for one answer. concurrency: requests under way at once; 0 finds
    out how many the provider takes. rpm, tpm: requests and tokens a minute; 0 is no limit. timeout: seconds
    for one request; 0 is what suits the provider. tries: how often a request is sent before it is a failure.
    price: instead of data/prices.yaml's. Raises CourseError for a value out of bounds.
    """

    provider: str = "offline"
    model: str = ""
    base_url: str = ""
    temperature: float = 1.0
    max_tokens: int = 512
    concurrency: int = 0
    rpm: int = 0
    tpm: int = 0
    timeout: float = 0
    tries: int = 5
    price: Price | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if type(self.concurrency) is not int or not 0 <= self.concurrency <= 512:
            raise CourseError(f"concurrency={self.concurrency!r}，应当是 0（自己找）到 512 之间的整数。")
        if not isinstance(self.temperature, (int, float)) or not 0 <= self.temperature <= 2:
            raise CourseError(f"temperature={self.temperature!r}，应当是 0 到 2 之间的数。")
        if self.tries < 1 or self.timeout < 0 or self.max_tokens < 1:
            raise CourseError(
                f"tries={self.tries}、max_tokens={self.max_tokens} 都应当大于 0，"
                f"timeout={self.timeout} 应当是秒数，或 0（按 provider 定）。"
            )
        for name in ("rpm", "tpm"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise CourseError(f"{name}={getattr(self, name)!r}，应当是 0（不限）或正整数。")

    def choose(self, with_key: bool = True) -> Provider:
        """Return the provider, ready to be asked."""
        return providers.choose(self.provider, self.model, self.base_url, with_key)

    def price_of(self, provider: Provider) -> Price | None:
        """Return what the provider's model costs, or None if nobody knows."""
        return self.price or prices.find(provider.name, provider.model)


@dataclass(frozen=True)
class Failure:
    """A request that got no good answer in this run; running again tries it again."""

    where: str
    error: str


@dataclass
class Summary:
    """What a run did: of all ``prompts``, ``done`` = ``reused`` (from the journal) + ``answered`` (new).

    sent: HTTP requests, tries included. unsuitable: pairs of the matrix that are skipped. thoughtful: new
    answers from which the model's thoughts were taken off. distrusted: answers of the journal that somebody
    has changed, and that were asked for again. prompt_tokens, cached_tokens (a part of them),
    completion_tokens: as the server counted them, of all replies, good or not. files: the round files.
    """

    prompts: int = 0
    reused: int = 0
    answered: int = 0
    sent: int = 0
    unsuitable: int = 0
    thoughtful: int = 0
    distrusted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    price: Price | None = None
    failures: list[Failure] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Requests that have an answer."""
        return self.reused + self.answered

    @property
    def cost(self) -> float | None:
        """Yuan of this run, or None if the price is not known."""
        if not self.price:
            return None
        return self.price.cost(self.prompt_tokens, self.completion_tokens, self.cached_tokens)

    def tolerate(self, share: float = 0.1) -> None:
        """Say (printed) which requests failed; raise CourseError if it is more than ``share`` of them.

        A teacher that refuses some prompts for good must not stop a course; one that fails often is a
        matter of its settings.
        """
        if not self.failures:
            return
        shown = [f"  {failure.where}：{failure.error}" for failure in self.failures[:10]]
        if len(self.failures) > len(shown):
            shown.append(f"  ……另有 {len(self.failures) - len(shown)} 条")
        count = f"{self.prompts} 条里有 {len(self.failures)} 条没有得到好的回答，"
        listed = "\n".join(shown)
        if len(self.failures) > share * self.prompts:
            raise CourseError(
                f"{count}超过了容许的 {share:.0%}。请看下面的原因，换一个模型或放宽容许的比例；"
                f"已有的回答都在日志里，再运行一次只会补上失败的。\n{listed}"
            )
        print(f"{count}不超过容许的 {share:.0%}，带着其余的往下走；再运行一次会再试它们：\n{listed}")

    def __str__(self) -> str:
        skipped = f"；不合适而跳过的组合 {self.unsuitable} 对" if self.unsuitable else ""
        if self.thoughtful:
            skipped += f"；从 {self.thoughtful} 个回答里去掉了思考的部分（它也要付钱）"
        if self.distrusted:
            skipped += f"；日志里有 {self.distrusted} 个回答被改动过（和校验和对不上），没有用，重新问了"
        return (
            f"提示词 {self.prompts} 条：新生成 {self.answered}，日志里已有 {self.reused}，"
            f"失败 {len(self.failures)}；发出请求 {self.sent} 次{skipped}。\n"
            f"服务器报告的用量：输入 {self.prompt_tokens} 词元，输出 {self.completion_tokens} 词元，"
            f"花费 {prices.show(self.cost)}。"
        )


@dataclass(frozen=True)
class CostEstimate:
    """What a run would send and cost; ``reused`` of the ``prompts`` are in the journal already."""

    model: str
    prompts: int
    reused: int
    prompt_tokens: int
    completion_tokens: int
    price: Price | None

    @property
    def cost(self) -> float | None:
        """Yuan, or None if the price is not known."""
        return self.price.cost(self.prompt_tokens, self.completion_tokens) if self.price else None

    def __str__(self) -> str:
        source = f"（价格表日期 {self.price.date}）" if self.price and self.price.date else ""
        return (
            f"要发 {self.prompts - self.reused} 个请求（共 {self.prompts} 条，日志里已有 {self.reused} 条），"
            f"模型 {self.model}。\n"
            f"估计输入 {self.prompt_tokens} 词元，输出 {self.completion_tokens} 词元，"
            f"约 {prices.show(self.cost)}{source}。"
        )


def estimate(settings: Settings, requests: Iterable[Query], output_dir: str | Path = "") -> CostEstimate:
    """Count what ``Engine.run`` would send, and about what it would cost; nothing is sent or written."""
    provider = settings.choose(with_key=False)
    file = paths.run_dir(output_dir) / paths.STAGES[0] / "journal.sqlite"
    total = reused = prompt_tokens = completion_tokens = 0
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(file)) if file.exists() else None
        for request in requests:
            total += 1
            if journal is not None and journal.get(_key(provider, settings, request)):
                reused += 1
            else:
                asked, answered = _expected_tokens(request)
                prompt_tokens += asked
                completion_tokens += answered
    return CostEstimate(
        provider.model, total, reused, prompt_tokens, completion_tokens, settings.price_of(provider)
    )


@contextmanager
def started(settings: Settings, output_dir: str | Path = "") -> Iterator["Engine"]:
    """Open the run's journal and, for the offline provider, its teacher; yield the engine."""
    provider = settings.choose()
    folder = paths.stage_dir("01", output_dir)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(folder / "journal.sqlite"))
        if not provider.base_url:
            provider = stack.enter_context(_own_server(provider, settings))
        yield Engine(provider, settings, journal, folder)


@contextmanager
def _own_server(provider: Provider, settings: Settings) -> Iterator[Provider]:
    """Run the teacher that a provider without an address stands for; yield the provider with it."""
    if provider.name == "offline":
        with Teacher() as teacher:
            yield replace(provider, base_url=teacher.base_url)
    else:
        options = {"parallel": settings.concurrency or provider.slots, "alias": provider.model}
        context = settings.max_tokens + _PROMPT_ROOM
        with llama.behind_socket(packaged.locate(), context=context, **options) as socket:
            yield replace(provider, base_url="http://localhost/v1", socket=socket)


class Engine:
    """One run: whom it asks, its journal, its folder, and in ``summary`` what has come of it."""

    def __init__(self, provider: Provider, settings: Settings, journal: Journal, folder: Path):
        self.provider, self.settings, self.journal, self.folder = provider, settings, journal, folder
        self.summary = Summary(price=settings.price_of(provider))
        self._pace = Pace(settings.rpm, settings.tpm)
        self._resume_at = 0.0  # monotonic seconds; a rate limit holds all workers until then

    def key(self, request: Query) -> str:
        """Return the journal's key of a request."""
        return _key(self.provider, self.settings, request)

    def answer(self, request: Query) -> dict[str, Any] | None:
        """Return the stored answer of a request (``text``, ``seed``, tokens) with its key, or None."""
        key = self.key(request)
        answer = self.journal.get(key)
        return answer and answer | {"request": key}

    def identity(self) -> dict[str, Any]:
        """Return what of the settings shapes the answers: it belongs to a round's identity."""
        return {
            "provider": self.provider.name,
            "model": self.provider.model,
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }

    def provenance(self, request: Query, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the fields that tell where a row comes from."""
        return {
            "provider": self.provider.name,
            "model": self.provider.model,
            "seed": answer.get("seed", request.seed),  # an older journal has none
            "request": answer["request"],
            "prompt_tokens": answer.get("prompt_tokens", 0),
            "completion_tokens": answer.get("completion_tokens", 0),
        }

    def run(
        self,
        requests: Iterable[Asked],
        total: int,
        what: str,
        check: Callable[[str], object] = bool,
        answered: Callable[[list[Asked]], object] = bool,
    ) -> None:
        """Get an answer for every request into the journal; ``summary`` tells how it went.

        total, what: for the progress line. check: called with each answer's text; raises ValueError
        for one that cannot be used. answered: called with requests whose answers are in the journal,
        old or new, in the thread that owns it.
        Raises CourseError for what stops the run; what was answered before is kept.
        """
        self.summary.prompts += total
        bar = tqdm(
            total=total,
            desc=what,
            unit="条",
            mininterval=1.0,
            smoothing=0,  # the average: waits between retries would make the latest rate jump
            disable=not self.settings.progress,
        )
        with bar:
            self._bar, self._check = bar, check
            self._answered: Callable[[list[Any]], object] = answered
            self._stopping, self._stop = False, asyncio.Event()
            self._in_thread(iter(requests))
        self.summary.distrusted = len(self.journal.distrusted)

    def _in_thread(self, requests: Iterator[Query]) -> None:
        """Run the event loop in a thread; Ctrl-C lets it come to a clean stop."""
        with start_blocking_portal() as portal:
            future = portal.start_task_soon(self._run, requests)
            try:
                future.result()
            except KeyboardInterrupt:
                portal.call(self._stop.set)
                futures.wait([future])
                raise

    async def _run(self, requests: Iterator[Query]) -> None:
        self._window = Window(self.settings.concurrency or self.provider.slots)
        self._draw = asyncio.Lock()
        self._good: list[tuple[str, dict[str, Any], Query]] = []  # answers that are not in the journal yet
        self._keeping = asyncio.create_task(self._keep())
        timeout = self.settings.timeout or self.provider.timeout
        client = connect(self.provider, timeout, self._window.most)
        with futures.ThreadPoolExecutor(1, thread_name_prefix="journal") as self._disk:
            missing, most = self._missing(requests), self._window.most
            sources = lanes.deal(missing, most) if self.provider.slots else [missing] * most
            workers = [asyncio.create_task(self._work(client, source)) for source in sources]
            work = asyncio.gather(*workers)
            stop = asyncio.create_task(self._stop.wait())
            try:
                either: list[asyncio.Future[Any]] = [work, stop]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # stopped early: answers under way are paid for, so they get a moment to arrive
                self._stopping = True
                self._window.close()
                stop.cancel()
                _, late = await asyncio.wait(workers, timeout=_GRACE)
                for task in late:
                    task.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                await asyncio.wait([self._keeping])  # what is paid for is kept before anything is raised
                await missing.aclose()
                await client.close()
            await asyncio.gather(self._keeping, work)  # of both, what went wrong is heard

    async def _missing(self, requests: Iterator[Query]) -> AsyncGenerator[tuple[str, Query], None]:
        """Yield the requests that the journal does not answer, with their keys."""
        while batch := {self.key(request): request for request in islice(requests, _BATCH)}:
            known = await self._on_disk(self.journal.known, list(batch))
            if known:
                await self._on_disk(self._answered, [batch[key] for key in known])
                self.summary.reused += len(known)
                self._show(len(known), reused=True)
            for key, request in batch.items():
                if key not in known:
                    yield key, request

    async def _work(self, client: Client, source: AsyncIterator[tuple[str, Query]]) -> None:
        while not self._stopping:
            async with self._draw:  # all workers draw from one generator in the end
                drawn = await anext(source, None)
            if drawn is None:
                return
            key, request = drawn
            try:
                answer = await self._ask(client, request)
            except _Stopped:
                return
            except (Retryable, Refused) as error:
                self.summary.failures.append(Failure(request.where, str(error)))
                self._show(1)
            else:
                self._good.append((key, answer, request))
                if self._keeping.done():
                    self._keeping.result()  # raises if the disk refused: that stops the run
                    self._keeping = asyncio.create_task(self._keep())

    async def _ask(self, client: Client, request: Query) -> dict[str, Any]:
        """Return a good answer; raises Retryable when the tries are used up."""
        unusable = 0
        tokens = sum(_expected_tokens(request)) if self.settings.tpm else 0
        for attempt in range(1, self.settings.tries + 1):
            failure: Exception | None = None
            seed = request.seed + unusable
            if not await self._window.enter():
                raise _Stopped
            try:
                await self._turn(tokens)
                sent = asyncio.get_running_loop().time()
                self.summary.sent += 1
                body = _body(self.provider, self.settings, request, seed)
                reply = await client.ask(body | _bound(self.provider, self.settings, request))
                self._window.answered(sent)
            except Retryable as error:
                failure = error
                if error.overload:
                    self._window.refused()
            finally:
                self._window.leave()
            if isinstance(failure, Retryable):
                if attempt < self.settings.tries:
                    await self._back_off(attempt, failure)
                continue
            self._count(reply, tokens)
            try:
                answer = replace(reply, text=thoughts.without(reply.text))
                _check_reply(answer)
                self._check(answer.text)
            except (ValueError, RecursionError) as error:
                failure = error
                unusable += 1
            else:
                self.summary.thoughtful += answer.text != reply.text
                return vars(answer) | {"seed": seed}
        raise Retryable(f"试了 {attempt} 次：{failure}")

    async def _turn(self, tokens: int) -> None:
        """Wait until a request may be sent: the limits a minute, and the pause that a server asked for."""
        while True:
            await self._sleep_until(lambda: self._resume_at)
            pause = self._resume_at
            await self._sleep_until(partial(float, self._pace.reserve(tokens, time.monotonic())))
            if self._resume_at == pause:  # else: a limit hit meanwhile, so this turn is void
                return

    async def _back_off(self, attempt: int, failure: Retryable) -> None:
        first, longest = _BACK_OFF
        pause = min(longest, first * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        if failure.retry_after is not None:
            pause = max(pause, min(failure.retry_after, _LONGEST_PAUSE))
        again = time.monotonic() + pause
        if failure.overload and failure.retry_after is not None:
            self._resume_at = max(self._resume_at, again)
        await self._sleep_until(lambda: again)

    async def _sleep_until(self, moment: Callable[[], float]) -> None:
        """Sleep until a monotonic moment that may move. Raises _Stopped when the run is stopped."""
        while (pause := moment() - time.monotonic()) > 0 and not self._stopping:
            await asyncio.sleep(min(pause, 0.5))
        if self._stopping:
            raise _Stopped

    def _count(self, reply: Reply, expected_tokens: int) -> None:
        """Add up what a reply cost, good or not."""
        self.summary.prompt_tokens += reply.prompt_tokens
        self.summary.cached_tokens += reply.cached_tokens
        self.summary.completion_tokens += reply.completion_tokens
        if used := reply.prompt_tokens + reply.completion_tokens:
            self._pace.correct(used - expected_tokens)

    async def _keep(self) -> None:
        """Write good answers to the journal, all that are there in one transaction, until there are none."""
        while self._good:
            batch, self._good = self._good, []
            await self._on_disk(self._store, batch)
            self._show(len(batch))  # durable, so it counts

    def _store(self, batch: list[tuple[str, dict[str, Any], Query]]) -> None:
        self.journal.add((key, answer) for key, answer, _ in batch)
        self.summary.answered += len(batch)
        self._answered([request for *_, request in batch])

    def _on_disk(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Call a function in the one thread that reads and writes the journal during a run."""
        return asyncio.get_running_loop().run_in_executor(self._disk, function, *arguments)

    def _show(self, count: int, reused: bool = False) -> None:
        if not self._bar.disable:
            if reused:
                self._bar.initial += count  # they must not flatter the rate and the ETA
            text = f"失败 {len(self.summary.failures)}，花费 {prices.show(self.summary.cost)}"
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(count)


class _Stopped(Exception):
    """The run is being stopped; this request was not sent."""


def _body(provider: Provider, settings: Settings, request: Query, seed: int) -> dict[str, Any]:
    """Return the body of a request, as it goes over the wire (but see ``_bound``)."""
    body = {
        "model": provider.model,
        "messages": request.messages,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        **provider.extra,
    }
    if provider.sends_seed:
        body["seed"] = seed
    if provider.keeps_schemas and request.schema:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": request.schema}}
    return body


def _bound(provider: Provider, settings: Settings, request: Query) -> dict[str, Any]:
    """Return the field that keeps an answer from going on and on, unless the run has its own ``max_tokens``.

    It is not part of a request's key: an answer that was cut is not kept.
    """
    if not provider.longest or settings.max_tokens != Settings.max_tokens:
        return {}
    asked = provider.longest * _expected_tokens(request)[1]
    return {"max_tokens": min(max(asked, _LEAST_BOUND), settings.max_tokens)}


def _key(provider: Provider, settings: Settings, request: Query) -> str:
    """Return the journal's key; the seed counts even where the provider takes none."""
    body = _body(provider, settings, request, request.seed) | {"seed": request.seed}
    return key_of(provider.name, request.round, body)


def _expected_tokens(request: Query) -> tuple[int, int]:
    """Return about how many tokens a request and its answer are."""
    asked = sum(prices.estimate_tokens(message["content"]) + 4 for message in request.messages)
    return asked, prices.estimate_tokens("祝" * request.answer_chars)


def _check_reply(reply: Reply) -> None:
    """Raise ValueError, saying why, for an answer that cannot be used, whatever was asked."""
    if reply.finish_reason in ("content_filter", "sensitive", "refusal"):
        raise ValueError(f"服务商的内容审查拦下了回答（finish_reason={reply.finish_reason}）")
    if reply.finish_reason != "stop":
        raise ValueError(f"回答没有正常结束（finish_reason={reply.finish_reason or '空'}）")
    if not reply.text.strip():
        raise ValueError("回答是空的")
    if thoughts.START.search(reply.text):
        raise ValueError("模型只思考，没有回答")
    try:
        reply.text.encode()
    except UnicodeEncodeError:
        raise ValueError("回答里有半个字符（残缺的 emoji），存不了") from None
    if _REFUSAL.search(reply.text):
        raise ValueError(f"模型拒绝回答：{reply.text.strip()[:40]}")
