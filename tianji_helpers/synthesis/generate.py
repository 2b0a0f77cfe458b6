"""The wishes of the matrix: one request a suitable pair, style and round; one file a style and round.

Or those of a list of requests in people's own words. How they are sent, kept and counted is the matter of
``client``.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from tianji_helpers import paths, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import prompts, recordings, rounds, selection
from tianji_helpers.synthesis.client import CostEstimate, Engine, Settings, Summary, estimate, started
from tianji_helpers.synthesis.prompts import Prompt

SMALL_RUN = "small_teacher"  # in a run: the run of the small teacher
_REQUESTS = "请求"  # stands where a file's name has the style


@dataclass(frozen=True)
class Preview(CostEstimate):
    """What a run would send: see ``CostEstimate``; and how many pairs are skipped, and some prompts."""

    unsuitable: int
    examples: list[Prompt]


@dataclass(frozen=True)
class _Round:
    """One file to be: its prompts, those of this run (``asked``) and all that there are (``known``)."""

    label: str
    number: int
    identity: dict[str, Any]
    asked: Callable[[], Iterable[Prompt]]
    known: Callable[[], Iterable[Prompt]]
    size: int
    unsuitable: int = 0


def preview(
    provider: str = "offline", *, output_dir: str | Path = "", examples: int = 1, **work: Any
) -> Preview:
    """Show what ``synthesize`` would send and about what it costs, without sending or writing anything.

    work: as for ``synthesize``; no key is needed. examples: how many prompts to show.
    """
    settings, _, planned, best_of = _plan(provider, **work)
    found = estimate(settings, _prompts(planned, best_of), output_dir)
    step = max(1, found.prompts // max(1, examples))
    chosen = islice(_prompts(planned, best_of), 0, step * examples, step)
    return Preview(**vars(found), unsuitable=planned[0].unsuitable, examples=list(chosen))


def synthesize(
    provider: str = "offline",
    styles: Iterable[str] | None = None,
    rounds: int = 1,
    seed: int = 42,
    output_dir: str | Path = "",
    limit: int | None = None,
    matrix: wishes.Matrix | None = None,
    requests: Iterable[str] | None = None,
    best_of: int = 1,
    rate: selection.Rate | None = None,
    **options: Any,
) -> Summary:
    """Generate the wishes of all suitable pairs, and write one file a style and round.

    provider, options (model, base_url, temperature, concurrency, rpm, tpm ...): see ``Settings``. styles:
    names from the matrix; all but the extra ones by default. rounds: how often the whole matrix is asked.
    output_dir: the run's folder; files go to its ``01_synthesis``. limit: prompts a style and round, a seeded
    sample; None or 0 is all. requests: instead of the matrix, requests in people's own words (any recipient
    and scene, details, a length); one file a round, and ``limit`` counts from the beginning. best_of: ask
    each prompt so often and keep the best answer (see ``selection``); all are paid for. rate: tells the best,
    (request, answer) pairs to scores, as ``training.quality.rate`` does.
    Raises CourseError for bad parameters, a wrong key, model or address, a locked or damaged journal.
    Source: the synthesis step of the 送祝福 guide, whose script lost a whole round when it died.
    """
    work: dict[str, Any] = {
        "styles": styles,
        "rounds": rounds,
        "seed": seed,
        "limit": limit,
        "matrix": matrix,
    }
    work |= {"requests": requests, "best_of": best_of, "rate": rate}
    settings, matrix, planned, _ = _plan(provider, **work, **options)
    with started(settings, output_dir) as engine:
        engine.summary.unsuitable = planned[0].unsuitable
        waiting = {(round.label, round.number): round.size * best_of for round in planned}
        left = list(planned)

        def answered(prompts: list[Prompt]) -> None:
            """Write the rounds that are complete, in order, while later ones are still asked."""
            for prompt in prompts:
                label = prompt.style if requests is None else _REQUESTS
                waiting[label, prompt.round] -= 1
            while left and not waiting[left[0].label, left[0].number]:
                _write_round(engine, matrix, left.pop(0), best_of, rate)

        try:
            engine.run(_prompts(planned, best_of), sum(waiting.values()), "生成祝福", answered=answered)
        finally:  # whatever stopped the run, what is answered goes into the files
            for round in left:
                _write_round(engine, matrix, round, best_of, rate)
        return engine.summary


def round_files(output_dir: str | Path = "") -> list[Path]:
    """Return the round files of a run, sorted by name."""
    return rounds.find(paths.stage_dir("01", output_dir))


def ensure_rounds(output_dir: str | Path = "", model: str = "") -> list[Path]:
    """Return the round files of a run; if there are none, make them offline and say so (printed).

    model: which of the offline teachers; empty is the large one.
    """
    files = round_files(output_dir)
    if not files:
        print("没有找到第 1 课的轮次文件，先请离线老师（录音）来写。")
        count = recordings.ROUNDS[model or recordings.LARGE]
        files = synthesize("offline", model=model, rounds=count, output_dir=output_dir).files
    return files


def ensure_teachers(output_dir: str | Path = "") -> dict[str, Path]:
    """Return the folders with the rounds of the two teachers, ``large`` and ``small``.

    Rounds that are missing are made as by ``ensure_rounds``.
    """
    run = paths.run_dir(output_dir)
    ensure_rounds(run)
    ensure_rounds(run / SMALL_RUN, recordings.SMALL)
    return {"large": paths.stage_dir("01", run), "small": paths.stage_dir("01", run / SMALL_RUN)}


def check_amounts(rounds: int, limit: int | None) -> None:
    """Raise CourseError for a bad number of rounds or limit."""
    if type(rounds) is not int or rounds < 1:
        raise CourseError(f"rounds={rounds!r}，应当是正整数，至少 1 轮。")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise CourseError(f"limit={limit!r}，应当是 0（全部）或正整数。")


def _plan(
    provider: str,
    styles: Iterable[str] | None = None,
    rounds: int = 1,
    seed: int = 42,
    limit: int | None = None,
    matrix: wishes.Matrix | None = None,
    requests: Iterable[str] | None = None,
    best_of: int = 1,
    rate: selection.Rate | None = None,
    **options: Any,
) -> tuple[Settings, wishes.Matrix, list[_Round], int]:
    """Return what ``synthesize`` is asked for, checked; the rounds in the order in which they are asked."""
    settings = Settings(provider, **options)
    matrix = matrix or wishes.load()
    check_amounts(rounds, limit)
    numbers = range(1, rounds + 1)
    if requests is not None:
        texts = read_requests(matrix, requests)[: limit or None]
        identity = {"requests": sha256("\n".join(texts).encode()).hexdigest(), "seed": seed}
        planned: list[_Round] = []
        for number in numbers:
            asked: Callable[[], Iterable[Prompt]] = partial(
                list, [prompts.build_asked(matrix, text, number, seed) for text in texts]
            )
            planned.append(_Round(_REQUESTS, number, identity | {"round": number}, asked, asked, len(texts)))
    else:
        styles = _chosen_styles(matrix, styles)
        planned = [_style_round(matrix, style, number, seed, limit) for number in numbers for style in styles]
    _check_best_of(settings, best_of, rate)
    return settings, matrix, planned, best_of


def _style_round(matrix: wishes.Matrix, style: str, number: int, seed: int, limit: int | None) -> _Round:
    pairs = len(matrix.pairs())
    return _Round(
        style,
        number,
        {"style": style, "round": number, "seed": seed},
        partial(prompts.build_round, matrix, style, number, seed, limit),
        partial(prompts.build_round, matrix, style, number, seed),
        min(limit or pairs, pairs),
        len(matrix.usual_recipients) * len(matrix.usual_scenes) - pairs,
    )


def read_requests(matrix: wishes.Matrix, lines: Iterable[str]) -> list[str]:
    """Return requests in people's own words, one a line, without empty lines and repetitions.

    Raises CourseError, naming the line, for one that cannot be asked, and if there is none.
    """
    found: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            try:
                prompts.build_asked(matrix, text)
            except CourseError as error:
                raise CourseError(f"第 {number} 行：{error}") from None
            found[text] = None
    if not found:
        raise CourseError("没有一条请求。每行写一条，例如：祝姐姐生日快乐,小红书风格,她刚考上研究生")
    return list(found)


def _chosen_styles(matrix: wishes.Matrix, styles: Iterable[str] | None) -> list[str]:
    if isinstance(styles, str):
        styles = [styles]
    styles = matrix.usual_styles if styles is None else list(dict.fromkeys(styles))
    unknown = [str(style) for style in styles if style not in matrix.styles]
    if unknown or not styles:
        raise CourseError(
            f"styles 里有不认识的风格：{'、'.join(unknown) or '（一个也没有）'}。"
            f"可用的有：{'、'.join(matrix.styles)}。"
        )
    return styles


def _check_best_of(settings: Settings, best_of: int, rate: selection.Rate | None) -> None:
    if type(best_of) is not int or not 1 <= best_of <= selection.MOST:
        raise CourseError(f"best_of={best_of!r}，应当是 1 到 {selection.MOST} 之间的整数。")
    if best_of > 1 and settings.provider == "offline" and not settings.base_url:
        raise CourseError(
            "best_of 要换着种子问，离线老师没有别的种子的录音，只能是 1。"
            "要几个里挑一个，用 provider=embedded（先运行 make teacher），或者用密钥。"
        )
    if best_of > 1 and rate is None:
        raise CourseError(f"best_of={best_of} 要有打分的办法，例如 rate=training.quality.rate。")


def _prompts(planned: list[_Round], best_of: int) -> Iterator[Prompt]:
    """Yield all prompts of this run, within a round those that begin alike one after the other.

    A server that keeps what it worked out for the last prompt then has most of the next one.
    """
    for round in planned:
        for prompt in sorted(round.asked(), key=lambda prompt: prompt.text):
            yield from selection.variants(prompt, best_of)


def _write_round(
    engine: Engine, matrix: wishes.Matrix, round: _Round, best_of: int, rate: selection.Rate | None
) -> None:
    """Write one round's file from the journal: all its answers, also those of earlier runs."""
    file = rounds.write(
        engine.folder,
        engine.journal,
        round.label,
        identity=round.identity | engine.identity() | ({"best_of": best_of} if best_of > 1 else {}),
        rows=_rows(engine, matrix, selection.choose(engine, matrix, round.known(), best_of, rate)),
        counts={"prompts": round.size, "unsuitable_pairs": round.unsuitable},
        inputs=sorted((paths.DATA / "wishes").glob("*.yaml")),
    )
    if file:
        engine.summary.files.append(file)


def _rows(
    engine: Engine, matrix: wishes.Matrix, chosen: Iterable[tuple[Prompt, dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    for prompt, answer in chosen:
        yield {
            "system": matrix.system,
            "src_input": prompt.text,
            "style_name": prompt.style,
            "input": prompt.input,
            "output": answer["text"],
            "recipient": prompt.recipient,
            "scene": prompt.scene,
            **engine.provenance(prompt, answer),
        }
