"""Many rounds in, one training file out.

A round file (notebook 01) carries what the teacher was asked beside what it answered. Training
needs only ``system``, ``input`` and ``output``. Files are read a few at a time and rows are written
in order as they come, so memory holds some rounds, however many there are; two processes share a large
folder.

A sound file goes through ``layout`` whole: it reads the three fields and passes over the rest. Only a
file in which something is wrong, or a very large one, is read row by row with json, which can say what
is wrong and where, and needs memory for a row only.
"""

import os
from collections.abc import Container, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from tianji_helpers import records
from tianji_helpers.dataset import layout, processes
from tianji_helpers.dataset.layout import FIELDS
from tianji_helpers.errors import CourseError

STAGE = "02_merge_clean"
PROCESSES = min(2, os.cpu_count() or 1)
_WHOLE = 32 << 20  # bytes; a larger file is read row by row
_PART = 2 << 20  # bytes of files that a process gets at a time
_ALONE = 20  # so many parts, or fewer, are merged before a second process has started


@dataclass
class Merged:
    """What a merge read and wrote: the files, how many rows were written and passed over.

    rejects: the file that holds what was passed over, each with its reason; None unless asked for.
    """

    files: list[Path]
    rows: int = 0
    rejected: int = 0
    rejects: Path | None = None


def round_files(folder: str | Path, output: str | Path | None = None) -> list[Path]:
    """Return the round files of a folder, sorted by name.

    These are all ``*.json`` files, save provenance, ``output`` itself, and what an earlier merge or
    cleaning wrote here (its provenance says so): a merge never reads its own output.
    Raises CourseError if the folder is not there or holds no round.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CourseError(f"找不到文件夹 {folder}。请先运行第 1 课，或检查路径。")
    home, own = folder.resolve(), Path(output).resolve() if output is not None else None
    with os.scandir(folder) as entries:
        links = {entry.name: entry.is_symlink() for entry in entries}
    files = [
        folder / name
        for name in sorted(links)
        if name.endswith(".json") and _is_round(folder, name, links)
        if ((home / name).resolve() if links[name] else home / name) != own
    ]
    if not files:
        raise CourseError(f"{folder} 里没有数据文件（*.json）。请先运行第 1 课。")
    return files


def _is_round(folder: Path, name: str, names: Container[str]) -> bool:
    if name.startswith(".") or name.endswith(records.PROVENANCE):
        return False
    if name + records.PROVENANCE not in names:
        return True
    made = records.read_json(folder / (name + records.PROVENANCE))
    return not (isinstance(made, dict) and made.get("stage") == STAGE)


def merge_rounds(
    folder: str | Path, output: str | Path, *, skip_bad: bool = False, rejects: str | Path | None = None
) -> Merged:
    """Write all rounds of ``folder`` as one training file.

    The bytes are those of ``json.dump(rows, file, ensure_ascii=False, indent=4)``, rows in file
    order. skip_bad: go on at what cannot be used, and write it to ``rejects`` (JSON Lines: file, row
    from 1, reason, value; by default ``<output>_rejects.jsonl``); of a file that breaks off the rows
    before the break are kept. Returns a ``Merged``; provenance is left beside the output.
    Raises CourseError naming file, row and field at the first bad one (unless ``skip_bad``); then
    ``output`` is as it was before.
    """
    output = Path(output)
    merged = Merged(round_files(folder, output))
    if skip_bad:
        merged.rejects = Path(rejects) if rejects else output.with_name(f"{output.stem}_rejects.jsonl")
    digests: dict[Path, str] = {}
    with ExitStack() as stack:
        bad = stack.enter_context(records.atomic_writer(merged.rejects, binary=True)) if skip_bad else None
        target = stack.enter_context(records.atomic_writer(output, binary=True))

        def put(count: int, rows: bytes) -> None:
            target.writelines(layout.pieces(merged.rows, rows))
            merged.rows += count

        parts = list(_parts(merged.files))
        work = layout.Reader(_WHOLE).lay_out
        done = processes.in_order(work, parts, PROCESSES if len(parts) > _ALONE else 1, alone=0)
        for path, (digests[path], count, rows) in zip(merged.files, chain.from_iterable(done), strict=True):
            if count:
                put(count, rows)
                continue
            if not digests[path]:
                with suppress(OSError):  # said in full when the file is read row by row
                    digests[path] = records.sha256(path)
            checked = _checked_rows(path, merged, bad)
            while some := list(islice(checked, 1000)):
                put(len(some), layout.lay_out(some))
        put(0, b"")
    records.write_provenance(
        output,
        stage=STAGE,
        parameters={"skip_bad": skip_bad},
        counts={"files": len(merged.files), "rows": merged.rows, "rejects": merged.rejected},
        inputs=digests,
        digest=False,  # a twelfth of the time; who reads the file keeps it among the inputs
    )
    return merged


def _parts(files: list[Path]) -> Iterator[list[Path]]:
    """Yield the files in order, several small ones at a time."""
    part, size = [], 0
    for path in files:
        part.append(path)
        with suppress(OSError):  # said later, as below
            size += path.stat().st_size
        if size >= _PART:
            yield part
            part, size = [], 0
    if part:
        yield part


def _checked_rows(path: Path, merged: Merged, bad) -> Iterator[dict]:
    number = 0
    try:
        for number, row in enumerate(records.iter_json_array(path), 1):
            try:
                where = f"{path} 第 {number} 条"
                turn = records.turn(records.check_row(row, where), where, FIELDS)
            except CourseError as error:
                _put_aside(error, path, number, row, merged, bad)
            else:
                yield {"conversation": [{name: turn[name] for name in FIELDS}]}
    except CourseError as error:  # the file itself breaks off after this row
        _put_aside(error, path, number + 1, None, merged, bad)


def _put_aside(error: CourseError, path: Path, number: int, value, merged: Merged, bad) -> None:
    if bad is None:
        raise error
    reject = {"file": path.name, "row": number, "reason": str(error), "value": value}
    bad.write(records.jsonl_line(reject))
    merged.rejected += 1
