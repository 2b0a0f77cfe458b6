"""Many rounds in, one training file out.

A round file (notebook 01) carries what the teacher was asked beside what it answered. Training
needs only ``system``, ``input`` and ``output``. Files are read one after the other and rows are
written as they come, so memory holds one round, however many there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tianji_helpers import records
from tianji_helpers.errors import CourseError

STAGE = "02_merge_clean"
FIELDS = ("system", "input", "output")


@dataclass
class Merged:
    """What a merge read and wrote: the files, the rows written, the bad ones with their reasons."""

    files: list[Path]
    rows: int = 0
    rejects: list[dict] = field(default_factory=list)


def round_files(folder: str | Path, output: str | Path | None = None) -> list[Path]:
    """Return the round files of a folder, sorted by name.

    These are all ``*.json`` files, save provenance, ``output`` itself, and what an earlier merge or
    cleaning wrote here (its provenance says so): a merge never reads its own output.
    Raises CourseError if the folder is not there or holds no round.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CourseError(f"找不到文件夹 {folder}。请先运行第 1 课，或检查路径。")
    files = [path for path in sorted(folder.glob("*.json")) if _is_round(path, output)]
    if not files:
        raise CourseError(f"{folder} 里没有数据文件（*.json）。请先运行第 1 课。")
    return files


def _is_round(path: Path, output: str | Path | None) -> bool:
    if path.name.startswith(".") or path.name.endswith(".provenance.json"):
        return False
    if output is not None and path.resolve() == Path(output).resolve():
        return False
    provenance = records.provenance_path(path)
    if not provenance.is_file():
        return True
    made = records.read_json(provenance)
    return not (isinstance(made, dict) and made.get("stage") == STAGE)


def merge_rounds(folder: str | Path, output: str | Path, *, skip_bad: bool = False) -> Merged:
    """Write all rounds of ``folder`` as one training file.

    The bytes are those of ``json.dump(rows, file, ensure_ascii=False, indent=4)``, rows in file
    order. skip_bad: put what cannot be used into ``rejects`` (file, row, reason, and the row) and go
    on. Returns a ``Merged``; provenance is left beside the output.
    Raises CourseError naming file, row and field at the first bad one (unless ``skip_bad``); then
    ``output`` is as it was before.
    """
    merged = Merged(round_files(folder, output))
    merged.rows = records.write_conversations(output, _turns(merged, skip_bad))
    records.write_provenance(
        output,
        stage=STAGE,
        parameters={"skip_bad": skip_bad},
        counts={"files": len(merged.files), "rows": merged.rows, "rejects": len(merged.rejects)},
        inputs=merged.files,
    )
    return merged


def _turns(merged: Merged, skip_bad: bool) -> Iterator[dict]:
    for path in merged.files:
        try:
            rows = records.read_json(path)
            if not isinstance(rows, list):
                raise CourseError(f"{path} 的最外层是 {type(rows).__name__}，应当是数组 [ … ]。")
        except CourseError as error:
            if not skip_bad:
                raise
            merged.rejects.append({"file": path.name, "row": None, "reason": str(error), "value": None})
            continue
        for number, row in enumerate(rows, 1):
            try:
                turn = _checked(row, f"{path} 第 {number} 条")
            except CourseError as error:
                if not skip_bad:
                    raise
                merged.rejects.append({"file": path.name, "row": number, "reason": str(error), "value": row})
                continue
            yield {name: turn[name] for name in FIELDS}


def _checked(row, where: str) -> dict:
    if not isinstance(row, dict):
        raise CourseError(f"{where}是 {type(row).__name__}，应当是对象 {{ … }}。")
    return records.turn(row, where, FIELDS)
