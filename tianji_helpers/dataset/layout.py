"""Training rows as bytes: how a merge lays them out, and how such a file is read again in blocks.

A row whose turn holds ``system``, ``input`` and ``output`` and nothing else goes through msgspec, which is
ten times as fast as json and writes the same bytes. That reading a block understood it is sure: laid out
again, the rows must give the block's own bytes. Any other file is read row by row (``records``).
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

FIELDS = ("system", "input", "output")
_START, _BETWEEN, _END = b"[\n    ", b",\n    ", b"\n]"
_CUT = b"\n    }" + _BETWEEN + b"{\n"  # between two rows; no text of theirs holds a bare line break
_LONGEST = 16 << 20  # bytes of a row; nobody waits for the end of a longer one


def _decoder(system: Any) -> Callable[[bytes], list]:
    """Return what makes rows of a file's bytes. system: the type of that field.

    Other keys are passed over. The decoder raises ValueError or RecursionError.
    """
    turn = msgspec.defstruct("Turn", [("system", system), ("input", str), ("output", str)], gc=False)
    row = msgspec.defstruct("Row", [("conversation", tuple[turn])], gc=False)
    return msgspec.json.Decoder(list[row]).decode


decode = _decoder(str)
_encode_into = msgspec.json.Encoder().encode_into


def lay_out(rows: list, compact: bytearray | None = None) -> bytes:
    """Return rows as an indented array.

    compact: memory to work in, for who calls often: kept, it need not grow again.
    """
    compact = bytearray() if compact is None else compact
    _encode_into(rows, compact)
    return msgspec.json.format(compact, indent=4)


class Reader:
    """Lays out files one after another; all are read into the same memory, which stays in the cache.

    Rows mostly have one ``system`` text: that of the first row is looked up, not made again for each,
    until a row has another.
    whole: bytes; a larger file is left to others.
    """

    def __init__(self, whole: int):
        self._whole, self._memory, self._compact = whole, bytearray(1), bytearray()
        self._decode: Callable[[bytes], list] | None = None

    def __reduce__(self):
        return Reader, (self._whole,)

    def lay_out(self, files: list[Path]) -> list[tuple[str, int, bytes]]:
        """Return (sha256, number of rows, rows as an indented array) of every file.

        There are no rows if something in the file is not as it should be. The sha256 is empty if the
        file was not read as a whole: it is too large, it changes, or the system says no.
        """
        return [self._one(path) for path in files]

    def _one(self, path: Path) -> tuple[str, int, bytes]:
        content = self._read(path)
        if content is None:
            return "", 0, b""
        digest = hashlib.sha256(content).hexdigest()
        try:
            rows = self._rows(content)
        except (ValueError, RecursionError):
            return digest, 0, b""
        return digest, len(rows), lay_out(rows, self._compact)

    def _rows(self, content: memoryview) -> list:
        if self._decode is not None:
            with suppress(msgspec.ValidationError):
                return self._decode(content)
            self._decode = decode
        rows = decode(content)
        if self._decode is None and rows:
            self._decode = _decoder(Literal[rows[0].conversation[0].system])
        return rows

    def _read(self, path: Path) -> memoryview | None:
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size > self._whole:
                    return None
                if size >= len(self._memory):
                    self._memory = bytearray(size + 1)
                return memoryview(self._memory)[:size] if file.readinto(self._memory) == size else None
        except OSError:
            return None


def pieces(done: int, array: bytes = b"") -> tuple[bytes | memoryview, ...]:
    """Return what comes next in a file that has ``done`` rows: an array's, or the end if none.

    >>> b"".join((*pieces(0, lay_out([1])), *pieces(1, lay_out([2])), *pieces(2)))
    b'[\\n    1,\\n    2\\n]'
    """
    if array:
        return _BETWEEN if done else _START, memoryview(array)[len(_START) : -len(_END)]
    return (_END if done else b"[]",)


def blocks(path: str | Path, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first row, whole rows), about ``size`` bytes at a time.

    Where the file is not laid out so, an empty block comes instead of what is left.
    """
    first, rest = 1, b""
    try:
        with Path(path).open("rb") as file:
            if file.read(len(_START)) == _START:
                while data := file.read(size):
                    rest += data
                    end = rest.rfind(_CUT)
                    if end >= 0:
                        end += _CUT.index(_BETWEEN)
                        yield first, rest[:end]
                        first += rest.count(_CUT, 0, end + len(_CUT))
                        rest = rest[end + len(_BETWEEN) :]
                    elif len(rest) > _LONGEST:
                        break
    except OSError:  # said in full when the file is read row by row
        rest = b""
    yield first, rest[: -len(_END)] if rest.endswith(_END) else b""


def turns(block: bytes) -> list[dict] | None:
    """Return the turns of a block, or None if it is not rows as ``lay_out`` lays them out."""
    array = _START + block + _END
    try:
        rows = decode(array)
    except (ValueError, RecursionError):
        return None
    if not rows or lay_out(rows) != array:
        return None
    found = (row.conversation[0] for row in rows)
    return [{"system": turn.system, "input": turn.input, "output": turn.output} for turn in found]
