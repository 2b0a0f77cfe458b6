"""Ask a provider for all wishes, lose none, pay for none twice.

``synthesize`` walks through the prompts with ``concurrency`` workers. A prompt whose answer is in the
journal is not sent. An answer is checked, written to the journal (durable), and only then counted;
then each round file of the data contract is written from the journal, atomically. Run again after a
crash, a Ctrl-C or with other limits: it goes on where it was, under the same file names.

The event loop has a thread of its own, so that ``synthesize`` also works inside Jupyter, whose main
thread already runs one.
"""

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from tqdm import tqdm

from tianji_helpers import paths, records, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import prompts, providers
from tianji_helpers.synthesis.journal import Journal, key_of
from tianji_helpers.synthesis.prompts import Prompt
from tianji_helpers.synthesis.providers import Client, Provider, Refused, Reply, Retryable
from tianji_helpers.synthesis.teacher import Teacher

_BACK_OFF = (0.5, 30.0)  # seconds: the first wait, doubled each time, and the longest
_LONGEST_PAUSE = 120.0  # seconds: more than that a server's Retry-After is not obeyed
_GRACE = 10.0  # seconds that answers under way get when a run is stopped
_ROUND_FILE = re.compile(r"wishes_(.+)_\d{4}(?:-\d\d){5}\.json")


@dataclass(frozen=True)
class Failure:
    """A prompt that got no good answer in this run; running again tries it again."""

    recipient: str
    scene: str
    style: str
    round: int
    error: str


@dataclass
class Summary:
    """What a run did.

    prompts: requests of this run, ``done`` = ``reused`` (already in the journal) + ``answered`` (new).
    sent: HTTP requests, tries included. unsuitable: pairs of the matrix that are skipped.
    files: the round files. prompt_tokens, completion_tokens: of the new answers, as the server counts.
    """

    prompts: int = 0
    reused: int = 0
    answered: int = 0
    sent: int = 0
    unsuitable: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failures: list[Failure] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Prompts that have an answer."""
        return self.reused + self.answered

    def __str__(self) -> str:
        return (
            f"提示词 {self.prompts} 条：新生成 {self.answered}，日志里已有 {self.reused}，"
            f"失败 {len(self.failures)}；发出请求 {self.sent} 次；不合适而跳过的组合 {self.unsuitable} 对。"
        )


@dataclass(frozen=True)
class Preview:
    """What a run would send: the number of prompts, how many pairs are skipped, and some prompts."""

    prompts: int
    unsuitable: int
    examples: list[Prompt]


def preview(
    styles: Iterable[str] | None = None,
    rounds: int = 1,
    seed: int = 42,
    limit: int | None = None,
    examples: int = 1,
    matrix: wishes.Matrix | None = None,
) -> Preview:
    """Show what ``synthesize`` would send, without sending anything. Parameters as there."""
    matrix = matrix or wishes.load()
    styles = _check_parameters(matrix, styles, rounds, limit)
    plan = list(_plan(matrix, styles, rounds, seed, limit))
    step = max(1, len(plan) // max(1, examples))
    return Preview(len(plan), _count_unsuitable(matrix), plan[::step][:examples])


def synthesize(
    provider: str = "offline",
    styles: Iterable[str] | None = None,
    rounds: int = 1,
    seed: int = 42,
    output_dir: str | Path = "",
    concurrency: int = 8,
    model: str = "",
    base_url: str = "",
    temperature: float = 1.0,
    max_tokens: int = 512,
    limit: int | None = None,
    timeout: float = 60.0,
    tries: int = 5,
    matrix: wishes.Matrix | None = None,
    progress: bool = True,
) -> Summary:
    """Generate the wishes of all suitable pairs, and write one file a style and round.

    provider: deepseek, zhipu, local or offline (the default; starts the teacher by itself).
    styles: names from the matrix, all by default. rounds: how often the whole matrix is asked.
    output_dir: the run's folder (see ``paths.run_dir``); files go to its ``01_synthesis``.
    model, base_url: instead of the provider's own. temperature: 0 to 2, a request parameter.
    limit: prompts a style and round, a seeded sample; None or 0 is all.
    timeout: seconds for one request. tries: how often a request is sent before it is a failure.
    Raises CourseError for bad parameters, a wrong key, model or address, a locked or damaged journal.
    Source: the synthesis step of the 送祝福 guide, whose script lost a whole round when it died.
    """
    matrix = matrix or wishes.load()
    styles = _check_parameters(matrix, styles, rounds, limit)
    if type(concurrency) is not int or not 1 <= concurrency <= 512:
        raise CourseError(f"concurrency={concurrency!r}，应当是 1 到 512 之间的整数。")
    if not isinstance(temperature, (int, float)) or not 0 <= temperature <= 2:
        raise CourseError(f"temperature={temperature!r}，应当是 0 到 2 之间的数。")
    if tries < 1 or timeout <= 0 or max_tokens < 1:
        raise CourseError(f"tries={tries}、timeout={timeout}、max_tokens={max_tokens} 都应当大于 0。")
    chosen = providers.choose(provider, model, base_url)
    folder = paths.stage_dir("01", output_dir)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(folder / "journal.sqlite"))
        if chosen.name == "offline" and not chosen.base_url:
            teacher = stack.enter_context(Teacher(matrix=matrix))
            chosen = replace(chosen, base_url=teacher.base_url)
        job = _Job(chosen, temperature, max_tokens, timeout, tries, journal)
        plan = _plan(matrix, styles, rounds, seed, limit)
        job.summary.prompts = sum(1 for _ in _plan(matrix, styles, rounds, seed, limit))
        job.summary.unsuitable = _count_unsuitable(matrix)
        try:
            bar = tqdm(
                total=job.summary.prompts, desc="生成祝福", unit="条", mininterval=0.5, disable=not progress
            )
            with bar:
                _in_thread(job, plan, concurrency, bar)
        finally:  # whatever stopped the run, what is answered goes into the files
            for style in styles:
                for number in range(1, rounds + 1):
                    job.write_round(folder, matrix, style, number, seed)
        return job.summary


def round_files(output_dir: str | Path = "") -> list[Path]:
    """Return the round files of a run, sorted by name."""
    folder = paths.stage_dir("01", output_dir)
    return sorted(file for file in folder.iterdir() if _ROUND_FILE.fullmatch(file.name))


def ensure_rounds(output_dir: str | Path = "", seed: int = 42) -> list[Path]:
    """Return the round files of a run; if there are none, make them offline and say so (printed)."""
    files = round_files(output_dir)
    if not files:
        print("没有找到第 1 课的轮次文件，先用离线短语本生成一轮。")
        files = synthesize("offline", seed=seed, output_dir=output_dir).files
    return files


def _check_parameters(matrix: wishes.Matrix, styles, rounds: int, limit: int | None) -> list[str]:
    if isinstance(styles, str):
        styles = [styles]
    styles = list(matrix.styles) if styles is None else list(dict.fromkeys(styles))
    unknown = [str(style) for style in styles if style not in matrix.styles]
    if unknown or not styles:
        raise CourseError(
            f"styles 里有不认识的风格：{'、'.join(unknown) or '（一个也没有）'}。"
            f"可用的有：{'、'.join(matrix.styles)}。"
        )
    if type(rounds) is not int or rounds < 1:
        raise CourseError(f"rounds={rounds!r}，应当是正整数，至少 1 轮。")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise CourseError(f"limit={limit!r}，应当是 0（全部）或正整数。")
    return styles


def _plan(
    matrix: wishes.Matrix, styles: list[str], rounds: int, seed: int, limit: int | None
) -> Iterator[Prompt]:
    for number in range(1, rounds + 1):
        for style in styles:
            yield from prompts.build_round(matrix, style, number, seed, limit)


def _count_unsuitable(matrix: wishes.Matrix) -> int:
    return len(matrix.recipients) * len(matrix.scenes) - len(matrix.pairs())


class _Job:
    """One run: what is asked, how, and what has come of it."""

    def __init__(
        self,
        provider: Provider,
        temperature: float,
        max_tokens: int,
        timeout: float,
        tries: int,
        journal: Journal,
    ):
        self.provider, self.journal = provider, journal
        self.temperature, self.max_tokens = temperature, max_tokens
        self.timeout, self.tries = timeout, tries
        self.summary = Summary()
        self._resume_at = 0.0  # monotonic seconds; a rate limit holds all workers until then
        self._stopping = False

    def body(self, prompt: Prompt) -> dict:
        """Return the body of a prompt's request, as it goes over the wire."""
        body = {
            "model": self.provider.model,
            "messages": prompt.messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if self.provider.sends_seed:
            body["seed"] = prompt.seed
        return body

    def key(self, prompt: Prompt) -> str:
        """Return the journal's key; the seed counts even where the provider takes none."""
        return key_of(self.provider.name, prompt.round, self.body(prompt) | {"seed": prompt.seed})

    async def run(self, plan: Iterator[Prompt], concurrency: int, bar: tqdm) -> None:
        """Work through the plan; raises the first error that stops the run."""
        client = providers.connect(self.provider, self.timeout, concurrency)
        pending: asyncio.Queue = asyncio.Queue()
        committer = asyncio.create_task(self._commit(pending))
        workers = [asyncio.create_task(self._work(client, plan, pending, bar)) for _ in range(concurrency)]
        work = asyncio.gather(*workers)
        self._stop = asyncio.Event()
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            # stopped early: answers under way are paid for, so they get a moment to arrive
            self._stopping = True
            stop.cancel()
            _, late = await asyncio.wait(workers, timeout=_GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await pending.put(None)
            await committer
            await client.close()
        await work

    def stop(self) -> None:
        """End the run early and cleanly; to be called on the loop's own thread."""
        self._stop.set()

    async def _work(self, client: Client, plan: Iterator[Prompt], pending: asyncio.Queue, bar: tqdm) -> None:
        for prompt in plan:  # all workers draw from one iterator
            if self._stopping:
                return
            key = self.key(prompt)
            if self.journal.get(key) is not None:
                self.summary.reused += 1
            else:
                try:
                    reply = await self._ask(client, prompt)
                except (Retryable, Refused) as error:
                    self.summary.failures.append(
                        Failure(prompt.recipient, prompt.scene, prompt.style, prompt.round, str(error))
                    )
                    bar.set_postfix({"失败": len(self.summary.failures)}, refresh=False)
                else:
                    stored = asyncio.get_running_loop().create_future()
                    await pending.put(((key, vars(reply)), stored))
                    await stored  # durable before it counts
                    self.summary.answered += 1
                    self.summary.prompt_tokens += reply.prompt_tokens
                    self.summary.completion_tokens += reply.completion_tokens
            bar.update()

    async def _ask(self, client: Client, prompt: Prompt) -> Reply:
        for attempt in range(1, self.tries + 1):
            await self._wait_until(lambda: self._resume_at)
            try:
                self.summary.sent += 1
                return _check_reply(await asyncio.wait_for(client.ask(self.body(prompt)), self.timeout))
            except (Retryable, asyncio.TimeoutError) as error:
                failure = (
                    error if isinstance(error, Retryable) else Retryable(f"{self.timeout:g} 秒内没有回答")
                )
            first, longest = _BACK_OFF
            pause = min(longest, first * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            if failure.retry_after is not None:
                pause = max(pause, min(failure.retry_after, _LONGEST_PAUSE))
            again = time.monotonic() + pause
            if failure.everyone:
                self._resume_at = max(self._resume_at, again)
            if attempt < self.tries:
                await self._wait_until(lambda again=again: again)
            if self._stopping:
                break
        raise Retryable(f"试了 {attempt} 次：{failure}")

    async def _wait_until(self, moment: Callable[[], float]) -> None:
        """Sleep until a monotonic moment that may move; a stop ends the sleep."""
        while (pause := moment() - time.monotonic()) > 0 and not self._stopping:
            await asyncio.sleep(min(pause, 0.5))

    async def _commit(self, pending: asyncio.Queue) -> None:
        """Write answers to the journal, all that are waiting in one transaction, until a None."""
        more = True
        while more:
            batch = [await pending.get()]
            while not pending.empty():
                batch.append(pending.get_nowait())
            more = batch[-1] is not None
            batch = [item for item in batch if item is not None]
            error = None
            try:
                await asyncio.to_thread(self.journal.add, [answer for answer, _ in batch])
            except Exception as caught:
                error = caught
            for _, stored in batch:
                if stored.done():  # its worker was cancelled meanwhile
                    continue
                if error:
                    stored.set_exception(error)
                else:
                    stored.set_result(None)

    def write_round(self, folder: Path, matrix: wishes.Matrix, style: str, number: int, seed: int) -> None:
        """Write one round's file from the journal: all its answers, also those of earlier runs."""
        identity = {
            "style": style,
            "round": number,
            "seed": seed,
            "provider": self.provider.name,
            "model": self.provider.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        rows = self._rows(matrix, style, number, seed)
        first = next(rows, None)
        if first is None:
            return
        name = self.journal.round_file(repr(sorted(identity.items())), _free_names(folder, style))
        file = folder / name

        def all_rows() -> Iterator[dict]:
            yield first
            yield from rows

        count = records.write_conversations(file, all_rows())
        records.write_provenance(
            file,
            stage="01_synthesis",
            parameters=identity,
            counts={
                "rows": count,
                "suitable_pairs": len(matrix.pairs()),
                "unsuitable_pairs": _count_unsuitable(matrix),
            },
            inputs=sorted((paths.DATA / "wishes").glob("*.yaml")),
        )
        self.summary.files.append(file)

    def _rows(self, matrix: wishes.Matrix, style: str, number: int, seed: int) -> Iterator[dict]:
        for prompt in prompts.build_round(matrix, style, number, seed):
            key = self.key(prompt)
            answer = self.journal.get(key)
            if answer is not None:
                yield {
                    "system": matrix.system,
                    "src_input": prompt.text,
                    "style_name": style,
                    "input": prompt.input,
                    "output": answer["text"],
                    "recipient": prompt.recipient,
                    "scene": prompt.scene,
                    "provider": self.provider.name,
                    "model": self.provider.model,
                    "seed": prompt.seed,
                    "request": key,
                    "prompt_tokens": answer["prompt_tokens"],
                    "completion_tokens": answer["completion_tokens"],
                }


def _check_reply(reply: Reply) -> Reply:
    if reply.finish_reason != "stop":
        raise Retryable(f"回答没有正常结束（finish_reason={reply.finish_reason or '空'}）")
    if not reply.text.strip():
        raise Retryable("回答是空的")
    return reply


def _free_names(folder: Path, style: str) -> Iterator[str]:
    """Yield names for a round file: this second's, then the seconds after it."""
    moment = datetime.now()
    while True:
        name = f"wishes_{style}_{moment:%Y-%m-%d-%H-%M-%S}.json"
        if not (folder / name).exists():
            yield name
        moment += timedelta(seconds=1)


def _in_thread(job: _Job, plan: Iterator[Prompt], concurrency: int, bar: tqdm) -> None:
    """Run the job's event loop in a thread; Ctrl-C lets it come to a clean stop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(job.run(plan, concurrency, bar), loop)
    try:
        future.result()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(job.stop)
        futures.wait([future])
        raise
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
