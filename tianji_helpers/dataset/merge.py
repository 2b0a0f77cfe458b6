"""Many rounds in, one training file out.

A round file (notebook 01) carries what the teacher was asked beside what it answered. Training
needs only ``system``, ``input`` and ``output``. Files are read one after the other and rows are
written as they come, so memory holds one round, however many there are.

A sound file goes through msgspec whole: it reads the three fields, passes over the rest, and writes
them with json's own bytes. Only a file in which something is wrong, or a very large one, is read row by
row with json, which can say what is wrong and where, and needs memory for a row only.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from tianji_helpers import records
from tianji_helpers.errors import CourseError

STAGE = "02_merge_clean"
FIELDS = ("system", "input", "output")
_WHOLE = 32 << 20  # bytes; a larger file is read row by row


class _Turn(msgspec.Struct, gc=False):
    system: str
    input: str
    output: str


class _Row(msgspec.Struct, gc=False):
    conversation: tuple[_Turn]


_decode = msgspec.json.Decoder(list[_Row]).decode


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
        for path, data, digests[path] in _read_ahead(merged.files):
            for rows in _rows(path, data, merged, bad):
                if rows:
                    target.write(b",\n    " if merged.rows else b"[\n    ")
                    target.write(_layout(rows))
                    merged.rows += len(rows)
        target.write(b"\n]" if merged.rows else b"[]")
    records.write_provenance(
        output,
        stage=STAGE,
        parameters={"skip_bad": skip_bad},
        counts={"files": len(merged.files), "rows": merged.rows, "rejects": merged.rejected},
        inputs=digests,
    )
    return merged


def _layout(rows: list) -> bytes:
    """Return rows as they stand between the brackets of an indented array."""
    return msgspec.json.format(msgspec.json.encode(rows), indent=4)[len("[\n    ") : -len("\n]")]


def _read_ahead(files: list[Path]) -> Iterator[tuple[Path, bytes | None, str]]:
    """Yield (path, content, sha256) of every file; the next one is read while this one is used.

    The content of a large file is None.
    """
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_read, files[0])
        for path, after in zip(files, [*files[1:], None], strict=True):
            content, digest = ahead.result()
            if after:
                ahead = reader.submit(_read, after)
            yield path, content, digest


def _read(path: Path) -> tuple[bytes | None, str]:
    try:
        if path.stat().st_size > _WHOLE:
            return None, records.sha256(path)
        content = path.read_bytes()
    except OSError:  # said in full when the file is read row by row
        return None, ""
    return content, hashlib.sha256(content).hexdigest()


def _rows(path: Path, content: bytes | None, merged: Merged, bad) -> Iterator[list]:
    """Yield a file's rows in lists; what is bad goes to the file ``bad``, or raises if that is None."""
    if content is not None:
        try:
            yield _decode(content)
            return
        except (ValueError, RecursionError):
            pass
    checked = _checked_rows(path, merged, bad)
    while some := list(islice(checked, 1000)):
        yield some


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
