"""The power fails at any moment: nothing that was acknowledged is lost.

A real program runs once on a disk that records what is written (see ``failing_disk``). Then the disk is made
as it could be found after every single one of these calls: what was synced is there; of what was written
since, all, some or nothing, the last of it torn; and names whose folder was not synced are the old or the
new ones.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import failing_disk
import pytest

from tianji_helpers.dataset import decisions
from tianji_helpers.synthesis.journal import Journal

ACKNOWLEDGED = "acknowledged"
PROGRAM = """
import os, sys
from pathlib import Path
from tianji_helpers.dataset import decisions
from tianji_helpers.synthesis.journal import Journal

kind, folder = sys.argv[1], Path(sys.argv[2])
told = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT)

def tell(name):
    os.write(told, (name + "\\n").encode())

if kind == "decisions":
    for number in range(4):
        decisions.append(folder / "decisions.jsonl", str(number), "edit", "祝" * 10000)
        tell(str(number))
else:
    with Journal(folder / "journal.sqlite") as journal:
        for number in range(5):
            names = [f"{number}-{part}" for part in range(4)]
            journal.add([(name, {"text": "祝" * 700 + name}) for name in names])
            for name in names:
                tell(name)
"""


@dataclass
class File:
    """What is on the disk of a file, and what was written since: (kind, offset, data)."""

    synced: bytes = b""
    since: list[tuple[str, int, bytes]] = field(default_factory=list)


def content(file: File, chosen: list) -> bytes:
    """Return a file's bytes if of all that was written since only what is ``chosen`` came through."""
    data = bytearray(file.synced)
    for change in file.since:
        for kind, offset, new in (found[1] for found in chosen if found[0] is change):
            if kind == "truncate":
                del data[offset:]
                data += bytes(offset - len(data))
            else:
                data += bytes(max(0, offset - len(data)))
                data[offset : offset + len(new)] = new
    return bytes(data)


def recorded(record: Path) -> Iterator[tuple[str, str, int, bytes]]:
    """Yield (name of the call, path, offset, data) of every call."""
    with record.open("rb") as file:
        while line := file.readline():
            name, path, offset, length = line.decode().rstrip("\n").split("\t")
            takes = name in ("write", "rename")
            yield name, path, int(offset), file.read(int(length)) if takes else b""


def disks(record: Path, folder: Path, before: dict[str, bytes]) -> Iterator[tuple[list, dict[str, bytes]]]:
    """Yield what had been acknowledged, and the folder's files as they could be found, for every moment."""
    now = {name: File(data) for name, data in before.items()}
    synced, told, seen = dict(now), b"", set()
    for name, path, offset, data in recorded(record):
        at = str(Path(path).relative_to(folder))
        if at == ACKNOWLEDGED:
            told += data
        elif name == "create":
            now[at] = File()
        elif name == "unlink":
            del now[at]
        elif name == "rename":
            now[at] = now.pop(str(Path(data.decode()).relative_to(folder)))
        elif name == "sync" and path == str(folder):
            synced = dict(now)
        elif name == "sync":
            now[at].synced = content(now[at], [(change, change) for change in now[at].since])
            now[at].since.clear()
        else:
            now[at].since.append((name, offset, data))
        for names in (synced, now):
            for chosen in choices([change for file in names.values() for change in file.since]):
                found = {name: content(file, chosen) for name, file in names.items()}
                state = hash((told, *sorted(found.items())))
                if state not in seen:
                    seen.add(state)
                    yield told.decode().split(), found


def choices(changes: list) -> Iterator[list]:
    """Yield what may have come through: (change, the part of it), in several ways."""
    whole = [(change, change) for change in changes]
    yield []
    yield whole
    for at, (change, _) in enumerate(whole):
        kind, offset, data = change
        torn = (change, (kind, offset, data[: len(data) // 2]))
        yield whole[at : at + 1]
        yield whole[:at] + whole[at + 1 :]
        yield [*whole[:at], torn]


def record_of(library: Path, tmp_path: Path, kind: str, before: dict[str, bytes]) -> tuple[Path, Path]:
    folder, record = tmp_path.resolve() / "disk", tmp_path / "record"
    folder.mkdir()
    for name, data in before.items():
        (folder / name).write_bytes(data)
    failing_disk.run(library, folder, "-c", PROGRAM, kind, folder, record=record)
    return folder, record


def older_journal(file: Path) -> dict[str, bytes]:
    """Return a journal of the first version, which is made over when it is opened."""
    base = sqlite3.connect(file)
    base.execute("CREATE TABLE answers (request TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")
    base.execute("CREATE TABLE rounds (round TEXT PRIMARY KEY, file TEXT NOT NULL UNIQUE) WITHOUT ROWID")
    base.execute("PRAGMA application_id = 1953131057")
    rows = [(f"old-{number}", json.dumps({"text": "旧" * 500})) for number in range(20)]
    base.executemany("INSERT INTO answers VALUES (?, ?)", rows)
    base.commit()
    base.close()
    return {"journal.sqlite": file.read_bytes()}


@pytest.mark.slow
@pytest.mark.parametrize("older", [False, True], ids=["new", "of the first version"])
def test_no_acknowledged_answer_is_lost(library, quick, tmp_path, older):
    before = older_journal(tmp_path / "older.sqlite") if older else {}
    old = [f"old-{number}" for number in range(20)] if older else []
    folder, record = record_of(library, tmp_path, "journal", before)
    found, number = quick, 0
    for number, (told, files) in enumerate(disks(record, folder, before), 1):
        failing_disk.lay_out(found, files)
        with Journal(found / "journal.sqlite") as journal:
            expected = [*old, *told]
            assert journal.known(expected) == set(expected), (number, told)
            journal.add([("next", {"text": "一"})])
    assert number > 100 and len(told) == 20


def test_no_decision_that_was_taken_is_lost(library, quick, tmp_path):
    folder, record = record_of(library, tmp_path, "decisions", {})
    found, number = quick, 0
    for number, (told, files) in enumerate(disks(record, folder, {}), 1):
        failing_disk.lay_out(found, files)
        standing = list(decisions.read(found / "decisions.jsonl"))
        assert standing[: len(told)] == told and len(standing) <= len(told) + 1, (number, told)
    assert number > 20 and len(told) == 4
