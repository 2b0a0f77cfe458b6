"""What notebooks 02, 03 and 04 make by default, in one call each, if it is not there yet.

A later notebook that finds an earlier stage's files missing calls these; the files are the same as
the notebook's own with the same seed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tianji_helpers import formats, paths, records, rows, wishes
from tianji_helpers.dataset import clean, decisions, merge, plain, ruozhiba, self_cognition, splits

THRESHOLD = 0.9
DEFAULT_PERSONA = self_cognition.Persona("小明", "小祝", "Gemma 3 270M")
OWN = "own"  # the task of rows of one's own, and the name of their files
RUOZHIBA_SAMPLE = paths.DATA / "ruozhiba" / "sample.jsonl"


def ensure_wishes(rounds: Sequence[str | Path], output_dir: str | Path = "", seed: int = 42) -> bool:
    """Merge, clean and split the rounds of stage 01 unless that is done; return whether it was work.

    rounds: the folders where they lie. Raises CourseError for one that has none.
    """
    out = paths.stage_dir("02", output_dir)
    names = ("wishes.json", *(f"wishes_{part}.json" for part in splits.PARTS))
    if all((out / name).is_file() for name in names):
        return False
    merge.merge_rounds(rounds, out / "merged.json")
    _clean(out / "merged.json", out / "wishes.json")
    splits.write_split(out / "wishes.json", seed=seed)
    return True


def _clean(merged: Path, cleaned: Path) -> dict:
    out = cleaned.parent
    beside = {"rejects": out / "rejects.jsonl", "report": out / "report.json"}
    return clean.clean_file(
        merged, cleaned, threshold=THRESHOLD, decisions_file=out / decisions.FILE, **beside
    )


def wishes_dir(output_dir: str | Path = "", data: str | Path = "") -> Path:
    """Return where notebook 02 works: its stage's folder, or one in it for rows of one's own."""
    out = paths.stage_dir("02", output_dir)
    return out / OWN if data else out


def describe(data: str | Path) -> str:
    """Say in one line, in Chinese, what a file of one's own is and how it will be cleaned.

    Raises CourseError if it cannot be read: which shapes are known, what this one looks like, the fix.
    """
    data = paths.resolve(data)
    kind = {rows.TABLE: "表格", rows.PARQUET: "parquet", rows.LINES: "JSON Lines"}.get(
        rows.kind_of(data), "JSON"
    )
    turns = list(formats.read_turns(data))
    systems = Counter(turn.get("system", "") for turn in turns)
    several = sum("history" in turn for turn in turns)
    prompt = (
        "没有系统提示"
        if not any(systems)
        else f"{len(systems)} 种系统提示"
        if len(systems) > 1
        else "系统提示都一样"
    )
    return (
        f"{data.name}：{kind}，{len(turns)} 条（{several} 条有几轮），{prompt}。"
        f"{plain.kind(turns, wishes.load())[1]}。"
    )


def ensure_own(
    data: str | Path, output_dir: str | Path = "", seed: int = 42, report: Callable[[str], None] = print
) -> bool:
    """Convert, clean and split a file of one's own unless that is done; return whether it was work.

    data: of any kind and shape that ``formats`` reads. The files lie in ``wishes_dir(output_dir, data)``,
    called ``own`` instead of ``wishes``; those of another ``data`` make place. report: gets ``describe``.
    Raises CourseError as reading, cleaning and splitting do.
    """
    data, out = paths.resolve(data), wishes_dir(output_dir, data)
    merged, cleaned = out / "merged.json", out / f"{OWN}.json"
    files = [merged, cleaned, *(out / f"{OWN}_{part}.json" for part in splits.PARTS)]
    if all(file.is_file() for file in files):
        made = records.provenance(merged)
        if list(made.get("inputs", {}).values()) == [records.sha256(data)]:
            return False
    report(describe(data))
    formats.convert_file(data, merged, "xtuner")
    made = _clean(merged, cleaned)
    report(f"留下 {made['rows_out']} 条，修补过其中 {made['mended']} 条，弃用 {made['rejected']} 条。")
    splits.write_split(cleaned, by=plain.GROUPING[made["kind"]], seed=seed)
    return True


def ensure_self_cognition(output_dir: str | Path = "", seed: int = 42) -> bool:
    """Write the default persona's files unless they are there; return whether it was work."""
    out = paths.stage_dir("03", output_dir)
    names = [f"self_cognition{part}.json" for part in ("", "_validation", "_test", "_probe")]
    if all((out / name).is_file() for name in names):
        return False
    self_cognition.write(out / names[0], DEFAULT_PERSONA, seed=seed)
    return True


def ensure_ruozhiba(output_dir: str | Path = "") -> bool:
    """Convert the project's own sample, without its leak, unless that is done; return whether it was work."""
    out = paths.stage_dir("04", output_dir)
    train, validation, test = parts = [out / f"ruozhiba_{part}.jsonl" for part in splits.PARTS]
    if all(file.is_file() for file in parts):
        return False
    ruozhiba.convert_file(RUOZHIBA_SAMPLE, train, test, validation_path=validation)
    splits.repair(parts, threshold=ruozhiba.SAME_QUESTION)
    return True
