"""Many rounds in, one training file out.

A round file (notebook 01) carries what the teacher was asked beside what it answered. Training
needs only ``system`` (which may be absent), ``input`` and ``output``. Files are read one at a time and rows
are written in order as they come, so memory holds one round, however many there are.

A sound file goes through msgspec whole, which reads the three fields, passes over the rest, and lays out
rows as json does in a tenth of the time. Only a file of another shape, one in which something is wrong, or
a very large one, is read row by row (``formats``), which can say what is wrong and where, and needs memory
for a row only.
"""

import hashlib
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tianji_helpers import formats, records
from tianji_helpers.errors import CourseError

STAGE = "02_merge_clean"
FIELDS = ("system", "input", "output")
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")  # gzipped or not
_JOURNAL = "journal.sqlite"  # of lesson 1; what SQLite leaves beside it begins like it
_WHOLE = 32 << 20  # bytes; a larger file is read row by row


@dataclass
class Merged:
    """What a merge read and wrote: the files, how many rows were written and passed over.

    unread: what lies beside the files and is of another kind, such as a spreadsheet.
    rejects: the file that holds what was passed over, each with its reason; None unless asked for.
    reason: the first of them.
    """

    files: list[Path]
    unread: list[Path]
    rows: int = 0
    rejected: int = 0
    rejects: Path | None = None
    reason: str = ""


def round_files(folder: str | Path, output: str | Path | None = None) -> list[Path]:
    """Return the round files of a folder, sorted by name.

    These are all files whose names end as in ``SUFFIXES``, save provenance, ``output`` itself, and what an
    earlier merge or cleaning wrote here (its provenance says so): a merge never reads its own output. Nor
    does it read the rejects that stand beside the questions and answers of lesson 1.
    Raises CourseError if the folder is not there or holds no round, and if ``output`` is a round itself.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CourseError(f"找不到文件夹 {folder}。请先运行第 1 课，或检查路径。")
    home, own = folder.resolve(), Path(output).resolve() if output is not None else None
    with os.scandir(folder) as entries:
        links = {entry.name: entry.is_symlink() for entry in entries}
    if own is not None:
        _check_is_no_round(folder, own, links)
    files = [
        folder / name
        for name in sorted(links)
        if _is_data(name) and _is_round(folder, name, links)
        if ((home / name).resolve() if links[name] else home / name) != own
    ]
    if not files:
        raise CourseError(
            f"{folder} 里没有数据文件（{'、'.join(SUFFIXES)}）。"
            "请先运行第 1 课，或把自己的数据存成其中一种（Excel 表格另存为“CSV UTF-8”）。"
        )
    return files


def unread_files(folder: str | Path) -> list[Path]:
    """Return the files of a folder that are of a kind which no merge reads, sorted by name.

    Hidden ones, and the journal of lesson 1, are nobody's data.
    """
    return sorted(
        file
        for file in Path(folder).iterdir()
        if not (_is_data(file.name) or file.name.startswith((".", _JOURNAL))) and file.is_file()
    )


def _is_data(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith(SUFFIXES)


def _check_is_no_round(folder: Path, output: Path, names: Container[str]) -> None:
    """Raise CourseError if ``output`` is data that lies in the folder: it would be left out and replaced."""
    if not output.is_file() or records.provenance(output).get("stage") == STAGE:
        return
    for file in sorted(folder.iterdir()):
        is_read = _is_data(file.name) and _is_round(folder, file.name, names) and file.exists()
        # samefile: a link, or a name in other letters where the system takes both for one
        if is_read and file.samefile(output):
            raise CourseError(
                f"{file} 是要合并的数据之一，不是以前合并出来的；写在这里会盖掉它。"
                "请给合并后的文件换一个名字。"
            )


def _is_round(folder: Path, name: str, names: Container[str]) -> bool:
    if name.startswith(".") or name.endswith(records.PROVENANCE):
        return False
    if name + records.PROVENANCE not in names:
        return True
    if name.endswith("_rejects.jsonl"):
        return False
    made = records.read_json(folder / (name + records.PROVENANCE))
    return not (isinstance(made, dict) and made.get("stage") == STAGE)


def merge_rounds(
    folders: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    skip_bad: bool = False,
    rejects: str | Path | None = None,
    system: str = "",
    allow_empty: bool = False,
) -> Merged:
    """Write all rounds of a folder, or of several, as one training file; files of other shapes, too.

    The bytes are those of ``json.dump(rows, file, ensure_ascii=False, indent=4)``, rows in file
    order. system: the prompt of rows that have none; empty means that they stay so. skip_bad: go on at what
    cannot be used, and write it to ``rejects`` (JSON Lines: file, row from 1, reason, value; by default
    ``<output>_rejects.jsonl``, see ``records.make_way``); of a file that breaks off the rows before the
    break are kept.
    Returns a ``Merged``; provenance is left beside the output.
    Raises CourseError naming file, row and field at the first bad one (unless ``skip_bad``), if no row is
    left (unless ``allow_empty``), and for a name that promises another form than a JSON array;
    then ``output`` is as it was before.
    """
    output = Path(output)
    if output.suffix.lower() == ".jsonl":
        raise CourseError(
            f"合并写出的是一个 JSON 数组，{output.name} 却说它是 JSON Lines。请把名字改成 .json；"
            "要 JSON Lines，合并以后用 tianji convert --to openai。"
        )
    folders = [folders] if isinstance(folders, str | Path) else folders
    merged = Merged(
        files=[file for folder in folders for file in round_files(folder, output)],
        unread=[file for folder in folders for file in unread_files(folder)],
    )
    if skip_bad:
        merged.rejects = Path(rejects) if rejects else output.with_name(f"{output.stem}_rejects.jsonl")
    digests: dict[Path, str] = {}
    with (
        records.make_way(merged.rejects) if skip_bad and not rejects else nullcontext(),
        records.atomic_writer(merged.rejects, binary=True) if skip_bad else nullcontext() as bad,
    ):

        def arrays() -> Iterator[bytes]:
            for path in merged.files:
                content = _content(path)
                digests[path] = hashlib.sha256(content).hexdigest() if content else ""
                whole = _whole(content) if content and not system else []
                for rows in [whole] if whole else ([row] for row in _checked_rows(path, merged, bad, system)):
                    merged.rows += len(rows)
                    yield msgspec.json.format(msgspec.json.encode(rows), indent=4)
                if not digests[path]:
                    with suppress(OSError):  # it was said above
                        digests[path] = records.sha256(path)
            if not (merged.rows or allow_empty):
                raise CourseError(
                    f"{'、'.join(map(str, folders))} 里一条也合不出来"
                    f"（弃用 {merged.rejected} 条，第一条：{merged.reason}）。"
                    "请先改正数据，或用 tianji convert 转换；真的要空文件，就加上 --allow-empty。"
                )

        records.write_arrays(output, arrays())
    counts = {"files": len(merged.files), "rows": merged.rows, "rejects": merged.rejected}
    if skip_bad:
        records.write_provenance(merged.rejects, stage=STAGE, parameters={}, counts=counts)
    records.write_provenance(
        output,
        stage=STAGE,
        parameters={"skip_bad": skip_bad} | ({"system": system} if system else {}),
        counts=counts,
        inputs=digests,
        digest=False,  # a twelfth of the time; who reads the file keeps it among the inputs
    )
    return merged


class _Turn(msgspec.Struct, gc=False):
    system: str
    input: str
    output: str


class _Row(msgspec.Struct, gc=False):
    conversation: tuple[_Turn]


_decode = msgspec.json.Decoder(list[_Row]).decode


def _content(path: Path) -> bytes | None:
    """Return a file's bytes; None if it is very large, or cannot be read (which is said later)."""
    with suppress(OSError):
        return path.read_bytes() if path.stat().st_size <= _WHOLE else None


def _whole(content: bytes) -> list[_Row]:
    """Return the rows of a sound file; none if something in it is not as it should be."""
    try:
        return _decode(content)
    except (ValueError, RecursionError):
        return []


def _checked_rows(path: Path, merged: Merged, bad, system: str) -> Iterator[dict]:
    def put_aside(error: CourseError, number: int, value) -> None:
        reject = {"file": path.name, "row": number, "reason": str(error), "value": value}
        bad.write(records.jsonl_line(reject))
        merged.rejected += 1
        merged.reason = merged.reason or str(error)

    for where, turns in formats.read(path, system=system, bad=put_aside if bad else None):
        yield formats.from_turns(turns, "xtuner", where)
