"""What a person decided about single rows, kept in a file that the next cleaning replays.

The file is JSON Lines, one decision a line, only ever added to; the last line about a row wins::

    {"key": "<sha256>", "action": "keep" | "edit" | "reject", "output": "<text, for edit>"}

The key names a row by what it was before cleaning, so a decision outlives changes of the rules, and a
row that the teacher worded otherwise is a new row. ``keep`` takes a row in with the text that the
mends gave it, whatever the rules say; ``edit`` takes it in with the person's own text; ``reject``
keeps it out.
"""

import hashlib
import json
import os
from pathlib import Path

from tianji_helpers import records
from tianji_helpers.errors import CourseError

ACTIONS = ("keep", "edit", "reject")


def key_of(turn: dict) -> str:
    """Return the name of a row: SHA-256 (hex) of its system prompt, input and output, a line each.

    turn: as it came in, before any cleaning; ``system`` may be absent.

    >>> key_of({"system": "", "input": "祝姐姐生日", "output": "生日快乐！"})[:12]
    '862c47e78f5b'
    """
    text = "\n".join((turn.get("system", ""), turn["input"], turn["output"]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read(path: str | Path) -> dict[str, dict]:
    """Return the decision that holds for each key: ``{"key", "action"}``, for ``edit`` with ``output``.

    A file that is not there yet holds no decision. Raises CourseError naming file, line and field.
    """
    if not Path(path).exists():
        return {}
    rows = (_checked(row, f"{path} 第 {number} 行") for number, row in records.iter_jsonl(path))
    return {row["key"]: row for row in rows}


def append(path: str | Path, key: str, action: str, output: str | None = None) -> None:
    """Add one decision to the file, which is made if need be; it is on the disk when this returns.

    key: see ``key_of``. action: one of ``ACTIONS``. output: the person's text, for ``edit`` only.
    Raises CourseError for a decision that ``read`` would not take, or a file that cannot be written.
    """
    row = {"key": key, "action": action}
    if output is not None:
        row["output"] = output
    _checked(row, "这条决定")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("a", encoding="utf-8", newline="") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = error.strerror or error
        raise CourseError(f"写不了 {path}：{reason}。请检查磁盘空间和文件夹权限。") from error


def undo(path: str | Path) -> dict | None:
    """Take the last line off the file and return it; None if there is none."""
    rows = records.read_jsonl(path) if Path(path).exists() else []
    if not rows:
        return None
    records.write_jsonl(path, rows[:-1])
    return rows[-1]


def _checked(row: dict, where: str) -> dict:
    records.check_text(row.get("key"), "key", where)
    if row.get("action") not in ACTIONS:
        raise CourseError(f"{where}：action 是 {row.get('action')!r}，只能是 {'、'.join(ACTIONS)}。")
    if row["action"] == "edit":
        records.check_text(row.get("output"), "output", where)
        if not row["output"].strip():
            raise CourseError(f"{where}：action 是 edit，但 output 是空的；请写上文字，或改成 reject。")
    return row
