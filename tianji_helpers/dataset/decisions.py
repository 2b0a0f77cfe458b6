"""What a person decided about single rows, kept in a file that the next cleaning replays.

The file is JSON Lines, one line a decision; the last line about a row wins::

    {"key": "<sha256>", "action": "keep" | "edit" | "reject", "output": "<text, for edit>"}

The key names a row by what it was before cleaning, so a decision outlives changes of the rules, and a
row that the teacher worded otherwise is a new row. ``keep`` takes a row in with the text that the
mends gave it, whatever the rules say; ``edit`` takes it in with the person's own text; ``reject``
keeps it out. A line ``undo`` (of an earlier version) takes the row's last decision back.

The file is written anew with every decision, as all files of the course are (``records.atomic_writer``): it
is on the disk before the page goes on, and a power cut leaves the old file or the new one. That takes 3 ms
at 1,000 decisions, some weeks of a person's work.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr as brief

from tianji_helpers import locks, records
from tianji_helpers.errors import CourseError

FILE = "decisions.jsonl"  # beside the merged file, where the course looks for it
ACTIONS = ("keep", "edit", "reject", "undo")


def key_of(turn: dict) -> str:
    """Return the name of a row: SHA-256 (hex) of its system prompt, input and output, a line each.

    turn: as it came in, before any cleaning; ``system`` may be absent. What was said before stands between.

    >>> key_of({"system": "", "input": "祝姐姐生日", "output": "生日快乐！"})[:12]
    '862c47e78f5b'
    """
    before = (text for pair in turn.get("history", ()) for text in pair)
    text = "\n".join((turn.get("system", ""), *before, turn["input"], turn["output"]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def history(path: str | Path) -> list[dict]:
    """Return the decisions that stand, the oldest first; what was undone is gone.

    Each is ``{"key", "action"}``, for ``edit`` with ``output``. A file that is not there yet holds
    none. Raises CourseError naming file, line and field.
    """
    standing: list[dict] = []
    for number, row in records.iter_jsonl(path) if Path(path).exists() else ():
        _checked(row, f"{path} 第 {number} 行")
        if row["action"] == "undo":
            _take_last(standing, row["key"])
        else:
            standing.append(row)
    return standing


def read(path: str | Path) -> dict[str, dict]:
    """Return the decision that holds for each key; see ``history``."""
    return {row["key"]: row for row in history(path)}


def append(path: str | Path, key: str, action: str, output: str | None = None) -> None:
    """Add a decision to the file, which is made if need be; it is on the disk when this returns.

    key: see ``key_of``. action: keep, edit or reject. output: the person's text, for ``edit`` only.
    Raises CourseError for a decision that ``read`` would not take, or a file that cannot be written.
    """
    extend(path, [{"key": key, "action": action} | ({"output": output} if action == "edit" else {})])


def extend(path: str | Path, rows: list[dict]) -> None:
    """Add several decisions at once, as ``history`` returns them."""
    for row in rows:
        _checked(row, "这条决定")
    with _alone(Path(path)):
        records.write_jsonl(path, [*history(path), *rows])


def undo(path: str | Path, key: str = "") -> dict | None:
    """Take back the last decision (about a row) that stands and return it; None if there is none."""
    with _alone(Path(path)):
        standing = history(path)
        taken = _take_last(standing, key)
        if taken:
            records.write_jsonl(path, standing)
    return taken


def _take_last(standing: list[dict], key: str) -> dict | None:
    about = [at for at, row in enumerate(standing) if key in ("", row["key"])]
    return standing.pop(about[-1]) if about else None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other writers of the folder's decisions waiting."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise CourseError(
            f"写不了 {path}：{error.strerror or error}。请检查磁盘空间和文件夹权限。"
        ) from error
    try:
        with locks.told(path):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
        try:
            os.fsync(folder)  # the new file's name is on the disk, too
        except OSError as error:
            raise CourseError(
                f"{path} 写好了，但不知道断电以后还在不在：{error.strerror}。请检查磁盘，再做一次。"
            ) from error
    finally:
        os.close(folder)


def _checked(row: dict, where: str) -> dict:
    records.check_text(row.get("key"), "key", where)
    if row.get("action") not in ACTIONS:
        raise CourseError(f"{where}：action 是 {brief(row.get('action'))}，只能是 {'、'.join(ACTIONS)}。")
    if row["action"] == "edit":
        records.check_text(row.get("output"), "output", where)
        if not row["output"].strip():
            raise CourseError(f"{where}：action 是 edit，但 output 是空的；请写上文字，或改成 reject。")
    return row
