"""The wishes of the matrix: one request a suitable pair, style and round; one file a style and round.

How requests are sent, kept and counted is the ``engine``'s matter.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tianji_helpers import paths, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import prompts, rounds
from tianji_helpers.synthesis.engine import Engine, Estimate, Settings, Summary, estimate, started
from tianji_helpers.synthesis.prompts import Prompt


@dataclass(frozen=True)
class Preview(Estimate):
    """What a run would send: see ``Estimate``; and how many pairs are skipped, and some prompts."""

    unsuitable: int
    examples: list[Prompt]


def preview(
    provider: str = "offline",
    styles: Iterable[str] | None = None,
    rounds: int = 1,
    seed: int = 42,
    output_dir: str | Path = "",
    limit: int | None = None,
    examples: int = 1,
    matrix: wishes.Matrix | None = None,
    **options,
) -> Preview:
    """Show what ``synthesize`` would send and about what it costs, without sending or writing anything.

    examples: how many prompts to show. The rest as for ``synthesize``; no key is needed.
    """
    settings = Settings(provider, **options)
    matrix = matrix or wishes.load()
    styles = _check_parameters(matrix, styles, rounds, limit)
    found = estimate(settings, _plan(matrix, styles, rounds, seed, limit), output_dir)
    step = max(1, found.prompts // max(1, examples))
    chosen = islice(_plan(matrix, styles, rounds, seed, limit), 0, step * examples, step)
    return Preview(**vars(found), unsuitable=_count_unsuitable(matrix), examples=list(chosen))


def synthesize(
    provider: str = "offline",
    styles: Iterable[str] | None = None,
    rounds: int = 1,
    seed: int = 42,
    output_dir: str | Path = "",
    limit: int | None = None,
    matrix: wishes.Matrix | None = None,
    **options,
) -> Summary:
    """Generate the wishes of all suitable pairs, and write one file a style and round.

    provider and options (model, base_url, temperature, concurrency, rpm, tpm ...): see ``Settings``.
    styles: names from the matrix; all but the extra ones by default.
    rounds: how often the whole matrix is asked.
    output_dir: the run's folder (see ``paths.run_dir``); files go to its ``01_synthesis``.
    limit: prompts a style and round, a seeded sample; None or 0 is all.
    Raises CourseError for bad parameters, a wrong key, model or address, a locked or damaged journal.
    Source: the synthesis step of the 送祝福 guide, whose script lost a whole round when it died.
    """
    settings = Settings(provider, **options)
    matrix = matrix or wishes.load()
    styles = _check_parameters(matrix, styles, rounds, limit)
    with started(settings, output_dir, matrix) as engine:
        engine.summary.unsuitable = _count_unsuitable(matrix)
        size = min(limit or len(matrix.pairs()), len(matrix.pairs()))
        waiting = {(style, number): size for number in range(1, rounds + 1) for style in styles}

        def answered(requests: list[Prompt]) -> None:
            """Write the rounds that are complete, in order, while later ones are still asked."""
            for request in requests:
                waiting[request.style, request.round] -= 1
            for style, number in list(waiting):
                if waiting[style, number]:
                    break
                _write_round(engine, matrix, style, number, seed)
                del waiting[style, number]

        try:
            plan = _plan(matrix, styles, rounds, seed, limit)
            engine.run(plan, size * len(waiting), "生成祝福", answered=answered)
        finally:  # whatever stopped the run, what is answered goes into the files
            for style, number in waiting:
                _write_round(engine, matrix, style, number, seed)
        return engine.summary


def round_files(output_dir: str | Path = "") -> list[Path]:
    """Return the round files of a run, sorted by name."""
    return rounds.find(paths.stage_dir("01", output_dir))


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
    styles = matrix.usual_styles if styles is None else list(dict.fromkeys(styles))
    unknown = [str(style) for style in styles if style not in matrix.styles]
    if unknown or not styles:
        raise CourseError(
            f"styles 里有不认识的风格：{'、'.join(unknown) or '（一个也没有）'}。"
            f"可用的有：{'、'.join(matrix.styles)}。"
        )
    check_amounts(rounds, limit)
    return styles


def check_amounts(rounds: int, limit: int | None) -> None:
    """Raise CourseError for a bad number of rounds or limit."""
    if type(rounds) is not int or rounds < 1:
        raise CourseError(f"rounds={rounds!r}，应当是正整数，至少 1 轮。")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise CourseError(f"limit={limit!r}，应当是 0（全部）或正整数。")


def _plan(
    matrix: wishes.Matrix, styles: list[str], rounds: int, seed: int, limit: int | None
) -> Iterator[Prompt]:
    for number in range(1, rounds + 1):
        for style in styles:
            yield from prompts.build_round(matrix, style, number, seed, limit)


def _count_unsuitable(matrix: wishes.Matrix) -> int:
    return len(matrix.usual_recipients) * len(matrix.usual_scenes) - len(matrix.pairs())


def _write_round(engine: Engine, matrix: wishes.Matrix, style: str, number: int, seed: int) -> None:
    """Write one round's file from the journal: all its answers, also those of earlier runs."""
    file = rounds.write(
        engine.folder,
        engine.journal,
        style,
        identity={"style": style, "round": number, "seed": seed, **engine.identity()},
        rows=_rows(engine, matrix, style, number, seed),
        counts={"suitable_pairs": len(matrix.pairs()), "unsuitable_pairs": _count_unsuitable(matrix)},
        inputs=sorted((paths.DATA / "wishes").glob("*.yaml")),
    )
    if file:
        engine.summary.files.append(file)


def _rows(engine: Engine, matrix: wishes.Matrix, style: str, number: int, seed: int) -> Iterator[dict]:
    for prompt in prompts.build_round(matrix, style, number, seed):
        answer = engine.answer(prompt)
        if answer is not None:
            yield {
                "system": matrix.system,
                "src_input": prompt.text,
                "style_name": style,
                "input": prompt.input,
                "output": answer["text"],
                "recipient": prompt.recipient,
                "scene": prompt.scene,
                **engine.provenance(prompt, answer),
            }
