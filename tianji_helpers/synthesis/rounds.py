"""The round files of the data contract, written from the journal, atomically.

A round keeps its file's name (the journal remembers it), so a run that goes on later fills the same
file instead of beginning another one.
"""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis.journal import Journal

_NAME = re.compile(r"wishes_(\w+)_\d{4}(?:-\d\d){5}\.json")


def write(
    folder: Path,
    journal: Journal,
    style: str,
    identity: dict[str, Any],
    rows: Iterator[dict[str, Any]],
    counts: dict[str, Any],
    inputs: list[Path],
) -> Path | None:
    """Write one round's rows and their provenance; return the file, or None if there are no rows.

    identity: what makes the round this one and no other; it goes into the provenance.
    Raises CourseError if the journal has another kind of name for the round's file.
    """
    first = next(rows, None)
    if first is None:
        return None
    folder.mkdir(exist_ok=True)
    name = journal.round_file(identity, _free_names(folder, style))
    if not (isinstance(name, str) and _NAME.fullmatch(name)):  # a stranger's journal could name any file
        raise CourseError(
            f"日志 {journal.file} 里记着的轮次文件叫 {brief(name)}，不是课程起的名字，所以没有写。"
            "请把日志移走，再运行一次。"
        )
    file = folder / name
    with records.make_way(file):  # somebody may have mended it by hand
        count = records.write_conversations(file, chain((first,), rows))
    records.write_provenance(
        file, stage="01_synthesis", parameters=identity, counts={"rows": count, **counts}, inputs=inputs
    )
    return file


def find(folder: Path) -> list[Path]:
    """Return the round files of a folder, sorted by name."""
    return sorted(file for file in folder.iterdir() if _NAME.fullmatch(file.name))


def _free_names(folder: Path, style: str) -> Iterator[str]:
    """Yield names for a round file: this second's, then the seconds after it."""
    moment, plain = datetime.now(), re.sub(r"\W", "_", style)[:40]
    while True:
        name = f"wishes_{plain}_{moment:%Y-%m-%d-%H-%M-%S}.json"
        if not (folder / name).exists():
            yield name
        moment += timedelta(seconds=1)
