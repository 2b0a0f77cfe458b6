"""What real models answered to the course's prompts, kept in ``data/wishes/answers``.

One JSON line an answer: ``model``, ``date``, the prompt's parameters (``input``, ``recipient``,
``scene``, ``style``, ``round``, ``seed``, or ``source`` and ``chunk`` of a question about a text),
``prompt`` (the digest of the messages that were sent) and ``text``, the answer as it came. A recording
is found by its digest and seed: it answers exactly the prompt that it was made for, and no other.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tianji_helpers import paths
from tianji_helpers.errors import CourseError

FOLDER = paths.DATA / "wishes" / "answers"
LARGE, SMALL = "recorded-large", "recorded-small"
TEACHERS = {LARGE: "large", SMALL: "small"}  # the model's name at the interface: its files' first word
ROUNDS = {LARGE: 2, SMALL: 1}  # of the matrix in the usual styles


class Recording(msgspec.Struct, frozen=True):
    """One answer; ``seed`` is the request's."""

    model: str
    date: str
    prompt: str
    seed: int
    text: str


def digest(messages: Iterable[dict[str, Any]]) -> str:
    """Return what a prompt's messages are found by: 16 hexadecimal digits."""
    sent = json.dumps(list(messages), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(sent.encode("utf-8", "replace")).hexdigest()[:16]


@cache
def load(teacher: str, folder: Path = FOLDER) -> dict[tuple[str, int], Recording]:
    """Return the recordings of a teacher by digest and seed.

    teacher: a key of ``TEACHERS``. Raises CourseError, naming file and line, for a damaged recording,
    and if there are no files.
    """
    files = sorted(folder.glob(f"{TEACHERS[teacher]}*.jsonl"))
    if not files:
        raise CourseError(
            f"{folder} 里没有 {teacher} 的录音（{TEACHERS[teacher]}*.jsonl）。请重新取一份课程。"
        )
    found = {}
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                recording = msgspec.json.decode(line, type=Recording)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise CourseError(
                    f"{file} 第 {number} 行不是一条完整的录音（文件可能没有下载完）。"
                    "请用 git checkout 恢复这个文件，或重新取一份课程。"
                ) from None
            found[recording.prompt, recording.seed] = recording
    return found
