"""What a person decided about single rows, kept in a file that the next cleaning replays.

The file is JSON Lines, one line a step, only ever added to; the last line about a row wins::

    {"key": "<sha256>", "action": "keep" | "edit" | "reject" | "undo", "output": "<text, for edit>"}

The key names a row by what it was before cleaning, so a decision outlives changes of the rules, and a
row that the teacher worded otherwise is a new row. ``keep`` takes a row in with the text that the
mends gave it, whatever the rules say; ``edit`` takes it in with the person's own text; ``reject``
keeps it out; ``undo`` takes the row's last decision back, so that the one before holds again.

A line is on the disk before the page goes on. What a power cut leaves of a line, at the file's end
and without its line break, is no decision: reading passes over it, and the next line takes its place.
"""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as brief

from tianji_helpers import records
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
    for where, row in _lines(path):
        _checked(row, where)
        if row["action"] != "undo":
            standing.append(row)
            continue
        for position in range(len(standing) - 1, -1, -1):
            if standing[position]["key"] == row["key"]:
                del standing[position]
                break
    return standing


def read(path: str | Path) -> dict[str, dict]:
    """Return the decision that holds for each key; see ``history``."""
    return {row["key"]: row for row in history(path)}


def append(path: str | Path, key: str, action: str, output: str | None = None) -> None:
    """Add one line to the file, which is made if need be; it is on the disk when this returns.

    key: see ``key_of``. action: one of ``ACTIONS``. output: the person's text, for ``edit`` only.
    Raises CourseError for a decision that ``read`` would not take, or a file that cannot be written.
    """
    row = {"key": key, "action": action}
    if action == "edit":
        row["output"] = output
    line = json.dumps(_checked(row, "这条决定"), ensure_ascii=False).encode() + b"\n"
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            whole, tail = _split(file.read())
            size = len(whole) + len(tail)
            if tail and _parsed(tail) is None:
                size = file.truncate(len(whole))
            elif tail:
                line = b"\n" + line
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise CourseError(
            f"写不了 {path}：{error.strerror or error}。请检查磁盘空间和文件夹权限。"
        ) from error


def undo(path: str | Path) -> dict | None:
    """Take back the last decision that stands and return it; None if there is none."""
    standing = history(path)
    if not standing:
        return None
    append(path, standing[-1]["key"], "undo")
    return standing[-1]


def _lines(path: str | Path) -> Iterator[tuple[str, dict]]:
    """Yield (words that name the line, its JSON value); a torn last line is passed over."""
    try:
        whole, tail = _split(Path(path).read_bytes())
    except FileNotFoundError:
        return
    except OSError as error:
        raise CourseError(f"读不了 {path}：{error.strerror or error}。") from error
    if tail and _parsed(tail) is not None:
        whole += tail
    for number, line in enumerate(whole.split(b"\n"), 1):
        if line.strip():
            where = f"{path} 第 {number} 行"
            row = _parsed(line)
            if row is None:
                raise CourseError(f"{where}不是合法的 JSON 对象；请改正或删去这一行。")
            yield where, row


def _split(content: bytes) -> tuple[bytes, bytes]:
    """Return the whole lines, and what follows the last line break."""
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def _parsed(line: bytes) -> dict | None:
    """Return the line's JSON object, or None if it is none."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _checked(row: dict, where: str) -> dict:
    records.check_text(row.get("key"), "key", where)
    if row.get("action") not in ACTIONS:
        raise CourseError(f"{where}：action 是 {brief(row.get('action'))}，只能是 {'、'.join(ACTIONS)}。")
    if row["action"] == "edit":
        records.check_text(row.get("output"), "output", where)
        if not row["output"].strip():
            raise CourseError(f"{where}：action 是 edit，但 output 是空的；请写上文字，或改成 reject。")
    return row
