"""The data contracts of the course, and how their files are read and written.

Four shapes travel between the stages (one JSON object each):

* raw round (01): ``{"conversation": [{"system", "src_input", "style_name", "input", "output"}]}``,
  more keys may follow;
* training row (02, 03): ``{"conversation": [{"system", "input", "output"}]}``; ``system`` may be
  absent;
* messages (04): ``{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}``;
* COIG-CQIA source (04): ``{"instruction", "input", "output", ...}``.

The first two are JSON arrays (UTF-8, indent 4, unescaped), the last two JSON Lines. A file is
written to a temporary neighbour, synced and then renamed, so a reader finds the old file or the
new one, never half of one. Beside each file a stage leaves ``<name>.provenance.json``.

What is read may be gzipped; its first bytes say so, not its name. ``tianji_helpers.formats`` reads rows
that people bring along, in these shapes and others.
"""

import codecs
import errno
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from reprlib import repr as brief
from typing import IO, Any, NoReturn, cast

import msgspec

from tianji_helpers import locks, paths
from tianji_helpers.errors import CourseError

PROVENANCE = ".provenance.json"  # the end of the name of what stands beside a file
_WRITTEN = ".written.json"  # what ``make_way`` notes
RAW_FIELDS = ("system", "src_input", "style_name", "input", "output")
TRAINING_FIELDS = ("input", "output")
MAX_VALUE = 1 << 26  # characters; one row that is longer is no row of this course
_MOST_TEXT = 1 << 28  # bytes of a gzipped file that is read as a whole
_DENSEST = 100  # gzip makes a tenth of texts, a thousandth of nothing but zeros
_encode = json.JSONEncoder(ensure_ascii=False).encode
_BLOCK = 1 << 20  # bytes read at a time
_AHEAD = 8 << 20  # bytes written between two calls to put them on the disk
_AT_ONCE = 500  # conversations that are encoded at a time
_SMALL = 1 << 20  # bytes; what a person edits is no larger
_LAST_MINUTE = 60  # seconds, from a sign of life to the end
_VERSIONED = ("transformers", "peft", "xtuner", "bitsandbytes", "datasets", "openai", "torch")


@contextmanager
def atomic_writer(path: str | Path, binary: bool = False) -> Iterator[IO[Any]]:
    """Open ``path`` for writing; it appears under its name only when all went well.

    binary: the file takes bytes; otherwise text, which becomes UTF-8.
    Raises CourseError if the target is a folder or a device, cannot be written, the disk is full, or
    the text holds half a character; the file that was there before stays as it was. An error of
    whoever writes (the rows' generator, say) passes through as it is.
    """
    path = Path(path)
    temporary = None
    try:
        with writing(path):
            if path.is_dir():
                raise CourseError(f"{path} 是一个文件夹，不能写成文件；请换一个文件名。")
            if path.exists() and not path.is_file():
                raise CourseError(f"{path} 是设备或管道，不能换成一个新文件；请换一个文件名。")
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        raw = io.BufferedWriter(_Target(handle, path), buffer_size=1 << 16)
        with raw if binary else io.TextIOWrapper(raw, encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            with writing(path):
                os.fsync(file.fileno())
        with writing(path):
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
    except UnicodeEncodeError as error:
        raise CourseError(
            f"写不了 {path}：有一个字符只有半个（残缺的 emoji，{error.object[error.start]!a}），"
            "UTF-8 存不了；请改正数据。原来的文件没有改动。"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # the disk that refused the file may refuse this too
                Path(temporary).unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says about writing ``path`` into a CourseError."""
    try:
        yield
    except OSError as error:
        raise CourseError(
            f"写不了 {path}：{error.strerror or error}。请检查磁盘空间和文件夹权限；原来的文件没有改动。"
        ) from error


class _Target(io.FileIO):
    """The file behind a writer: only what fails here is a failure to write, not what rows come from."""

    def __init__(self, handle: int, path: Path):
        super().__init__(handle, "w")
        self._path, self._fresh = path, 0

    def write(self, data: Any) -> int:
        with writing(self._path):
            written = super().write(data)
            self._fresh += written
            if self._fresh >= _AHEAD and hasattr(os, "posix_fadvise"):
                # Linux then starts to write these bytes to the disk, and the sync at the end waits less
                start = self.tell() - self._fresh
                os.posix_fadvise(self.fileno(), start, self._fresh, os.POSIX_FADV_DONTNEED)
                self._fresh = 0
            return written

    def close(self) -> None:
        with writing(self._path):  # a network disk may say only here that it is full
            super().close()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json_array(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows one by one as a JSON array and return how many there were.

    The bytes are those of ``json.dump(rows, file, ensure_ascii=False, indent=4)``, but ``rows``
    may be a generator: memory holds one row at a time.
    """
    return write_arrays(path, (_indented([row]) for row in rows))


def write_arrays(path: str | Path, arrays: Iterable[bytes]) -> int:
    """Write the rows of indented arrays as one array; return how many arrays there were."""
    start, end = b"[\n    ", b"\n]"
    count = 0
    with atomic_writer(path, binary=True) as file:
        for count, array in enumerate(arrays, 1):
            file.write(b",\n    " if count > 1 else start)
            file.write(memoryview(array)[len(start) : -len(end)])
        file.write(end if count else b"[]")
    return count


def _indented(rows: list[Any]) -> bytes:
    """Return rows as ``json.dumps(…, indent=4)`` writes them, in a tenth of its time."""
    try:
        return msgspec.json.format(_encode(rows).encode(), indent=4)
    except msgspec.DecodeError:  # json writes a NaN, though JSON has none
        return json.dumps(rows, ensure_ascii=False, indent=4).encode()


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line and return how many there were.

    Lines are unescaped, save those that hold half a character (see ``check_text``): these are ASCII.
    """
    count = 0
    with atomic_writer(path, binary=True) as file:
        for row in rows:
            file.write(jsonl_line(row))
            count += 1
    return count


def jsonl_line(row: Any) -> bytes:
    """Return a JSON value as the line that ``write_jsonl`` writes."""
    if isinstance(row, dict) and set(map(type, row.values())) <= {str, int}:
        with suppress(UnicodeEncodeError, OverflowError):  # the same, in a third of json's time
            return msgspec.json.format(msgspec.json.encode(row), indent=0) + b"\n"
    try:
        return (_encode(row) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(row) + "\n").encode()


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON value, indented and unescaped, with a final newline."""
    with atomic_writer(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def read_text(path: str | Path) -> str:
    """Return a UTF-8 file's text (a byte order mark is dropped).

    Raises CourseError, saying why, for one that cannot be read, and for a gzipped one that becomes more than
    memory should hold.
    """
    return "".join(_blocks(path, _MOST_TEXT))


def _blocks(path: str | Path, most: float = math.inf) -> Iterator[str]:
    """Yield a UTF-8 file's text, a block at a time; errors as in ``read_text``.

    most: bytes that a gzipped file may have, unpacked. However it is read, ``_DENSEST`` times what it is (or
    ``MAX_VALUE``) is the limit, so that a small file is never more than a moderate one.
    """
    path = Path(path)
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0  # bytes before the block
    try:
        with open_bytes(path) as file:
            if isinstance(file, gzip.GzipFile):
                most = min(most, max(MAX_VALUE, _DENSEST * os.fstat(file.fileno()).st_size))
            else:
                most = math.inf
            while True:
                data = file.read(_BLOCK)
                if done + len(data) > most:
                    raise CourseError(
                        f"{path} 是 gzip 文件，解压以后超过 {most / 1e6:,.0f} MB，没有往下读"
                        "（它可能是用来占满内存的）。如果确实是数据，请先用 gunzip 解开，再用解开的文件。"
                    )
                pending = len(decoder.getstate()[0])
                text = decoder.decode(data, final=not data)
                yield text.removeprefix("\ufeff") if done == 0 else text
                if not data:
                    return
                done += len(data)
    except UnicodeDecodeError as error:
        place = done - pending + error.start
        raise CourseError(f"{path} 不是 UTF-8 文本（第 {place} 个字节）：{_what_it_is(path)}") from error


@contextmanager
def open_bytes(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, unpacked if it is gzipped. Raises CourseError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(2)
            file.seek(0)
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file)
    except FileNotFoundError as error:
        raise CourseError(f"找不到文件 {path}。请先运行生成它的那一课，或检查路径。") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CourseError(f"{path} 是 gzip 文件，但没有下载完整或已经损坏；请重新下载。") from error
    except OSError as error:
        raise CourseError(f"读不了 {path}：{error.strerror or error}。") from error


SQLITE = (
    "这是 SQLite 数据库，请把里面的表导出成 CSV：sqlite3 -header -csv 它 'SELECT * FROM 表名' > 新文件.csv。"
)
_SIGNATURES = {
    b"PAR1": "这是 parquet 文件，请先运行 tianji convert 它 新文件.json --to xtuner。",
    **dict.fromkeys(
        (b"ARROW1", b"FEA1"),
        '这是 Arrow（feather）文件，请先换成 parquet：python -c "from pyarrow import feather, parquet; '
        "parquet.write_table(feather.read_table('它'), '新文件.parquet')\"。",
    ),
    b"\xff\xff\xff\xff": '这是 datasets 存的 Arrow 文件，请先换成 parquet：python -c "'
    "from datasets import Dataset; Dataset.from_file('它').to_parquet('新文件.parquet')\"。",
    b"SQLite format 3": SQLITE,
    b"\xd0\xcf\x11\xe0": "这是旧版 Excel（.xls），请在 Excel 或 WPS 里另存为“CSV UTF-8”。",
    b"\xff\xfe": "这是 UTF-16，请运行 iconv -f UTF-16 -t UTF-8 它 > 新文件。",
    b"\xfe\xff": "这是 UTF-16，请运行 iconv -f UTF-16 -t UTF-8 它 > 新文件。",
    b"%PDF": "这是 PDF，请先取出里面的文字。",
    b"BZh": "这是 bzip2 压缩文件，请先运行 bunzip2 它。",
    b"\xfd7zXZ": "这是 xz 压缩文件，请先运行 unxz 它。",
    b"\x28\xb5\x2f\xfd": "这是 zstd 压缩文件，请先运行 unzstd 它。",
    b"7z\xbc\xaf": "这是 7z 压缩包，请先解开。",
    b"Rar!": "这是 RAR 压缩包，请先解开。",
    b"PK\x03\x04": "这是 Excel、Word 文件或 zip 压缩包，但没有下载完整；请重新下载。",
    b"\xff\xd8\xff": "这是图片，请先取出里面的文字。",
    b"\x89PNG": "这是图片，请先取出里面的文字。",
}


def _what_it_is(path: Path) -> str:
    """Say what a file that is no UTF-8 text is, and how it becomes one."""
    if zipfile.is_zipfile(path):
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            folders = {name.partition("/")[0] for name in archive.namelist()}
            if "xl" in folders:
                return "这是 Excel 表格（.xlsx），请在 Excel 或 WPS 里另存为“CSV UTF-8”。"
            if folders & {"word", "ppt"}:
                return "这是 Word 或 PowerPoint 文件，请另存为纯文本（UTF-8）。"
        return "这是 zip 压缩包，请先运行 unzip 它。"
    with open_bytes(path) as file:
        start = file.read(_BLOCK)
    for signature, meaning in _SIGNATURES.items():
        if start.startswith(signature):
            return meaning
    with suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("gb18030")().decode(start)
        if any("\u4e00" <= character <= "\u9fff" for character in text):
            return "它是 GBK 编码，请运行 iconv -f GB18030 -t UTF-8 它 > 新文件，或用记事本另存为 UTF-8。"
    return "它不是文本，是程序或别的软件的文件。" if b"\0" in start else "请另存为 UTF-8。"


def read_json(path: str | Path) -> Any:
    """Return the JSON value of a file. Raises CourseError with file, line and column."""
    try:
        return json.loads(read_text(path), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _broken(path, error) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} 不是 JSON 里的数")


def _broken(path: str | Path, error: Exception, line: int = 1, column: int = 1) -> CourseError:
    """Say what is wrong with a file's JSON; line, column: where the text that failed begins."""
    if isinstance(error, RecursionError):
        return CourseError(f"{path} 的 JSON 嵌套太深，不是这门课的数据。")
    if not isinstance(error, json.JSONDecodeError):  # NaN, or a number of more than 4,300 digits
        return CourseError(f"{path} 不是合法的 JSON：{error}。")
    column = error.colno + (column - 1 if error.lineno == 1 else 0)
    return CourseError(
        f"{path} 第 {line + error.lineno - 1} 行第 {column} 列不是合法的 JSON：{error.msg}。"
        "文件可能没有写完，请重新生成。"
    )


def first_character(path: str | Path) -> str:
    """Return the first character of a UTF-8 file that is no blank; empty if there is none."""
    return _Window(path).peek()


def iter_json_array(path: str | Path) -> Iterator[Any]:
    """Yield the values of a JSON array one by one; memory holds a block of the file, not the file.

    Raises CourseError with file, line and column where the JSON is broken (the values before that place
    have been yielded by then), or if the file holds something other than an array.
    """
    window = _Window(path)
    if window.peek() != "[":
        value = read_json(path)
        raise CourseError(f"{path} 的最外层是 {type(value).__name__}，应当是数组 [ … ]。")
    window.at += 1
    mark = window.peek()
    while mark != "]":
        yield window.value()
        text, end = window.text, window.at
        mark = window.peek()
        if mark == ",":
            window.at += 1
            window.peek()
            if text is window.text:
                start = max(0, end - 4)
                yield from window.values(text[start : window.at + 8], end - start)
                window.peek()
        elif mark != "]":
            raise window.error("Expecting ',' delimiter")
    window.at += 1
    if window.peek():
        raise window.error("Extra data")


_SPACES = ("", " ", "\t", "\n", "\r")
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(parse_constant=_no_constant)


class _Window:
    """A part of a JSON file's text that moves on as values are taken from it.

    ``at`` is the place of the next value in ``text``; ``line`` and ``column`` say where ``text`` begins.
    """

    def __init__(self, path: str | Path):
        self._path, self._blocks = path, _blocks(path)
        self.text, self.at, self.line, self.column = "", 0, 1, 1
        self._tried = ""  # the text that was looked at for several values

    def peek(self) -> str:
        """Pass over blanks; return the next character, or an empty string at the end."""
        while True:
            if self.text[self.at : self.at + 1] in _SPACES:
                self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # of nothing, too
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """Take the next value."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                cut = isinstance(error, json.JSONDecodeError) and len(self.text) - self.at < MAX_VALUE
                if cut and self._more():
                    continue
                raise _broken(self._path, error, self.line, self.column) from error
            if end == len(self.text) and self._more():
                continue  # a number that ends with the window may go on
            self.at = end
            return value

    def values(self, border: str, length: int) -> list[Any]:
        """Take all values up to the last one at whose end the border stands, and the comma behind it.

        msgspec reads them, at once and twice as fast as json. border: the last ``length`` characters of a
        value and the first ones of the next, which look alike through most files. Where they do not, or
        something is wrong, there are no values: ``value`` takes them one by one, and says what is wrong.
        """
        end = self.text.rfind(border, self.at)
        if end < 0 or self.text is self._tried:
            return []
        self._tried, end = self.text, end + length
        try:
            values: list[Any] = msgspec.json.decode(f"[{self.text[self.at : end]}]")
        except (msgspec.DecodeError, RecursionError):
            return []
        self.at = self.text.index(",", end) + 1
        return values

    def error(self, message: str) -> CourseError:
        """Return the error that a thing at this place is."""
        return _broken(self._path, json.JSONDecodeError(message, self.text, self.at), self.line, self.column)

    def _more(self) -> bool:
        """Drop what was taken and read on, as much again as is left; return whether there was more."""
        blocks, grown = [], 0
        for block in self._blocks:
            blocks.append(block)
            grown += len(block)
            if grown > len(self.text) - self.at:
                break
        if not grown:
            return False
        self.line += self.text.count("\n", 0, self.at)
        newline = self.text.rfind("\n", 0, self.at)
        self.column = self.at - newline if newline >= 0 else self.column + self.at
        self.text, self.at = "".join((self.text[self.at :], *blocks)), 0
        return True


def check_row(row: Any, where: str) -> dict[str, Any]:
    """Return ``row`` if it is an object; else raise CourseError. where: words that name the row."""
    if not isinstance(row, dict):
        raise CourseError(f"{where}是 {type(row).__name__}，应当是对象 {{ … }}。")
    return row


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file (see ``iter_jsonl``)."""
    return [row for _, row in iter_jsonl(path)]


def iter_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSON Lines file; blank lines are passed over.

    Raises CourseError naming file and line.
    """
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path} 第 {number} 行"
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            raise CourseError(f"{where}不是合法的 JSON：{error.msg}。") from error
        except ValueError as error:
            raise CourseError(f"{where}不是合法的 JSON：{error}。") from error
        except RecursionError as error:
            raise CourseError(f"{where}的 JSON 嵌套太深，不是这门课的数据。") from error
        yield number, check_row(row, where)


def _lines(path: str | Path) -> Iterator[str]:
    """Yield a file's lines. Only line feeds end one: U+2028 and its kin may stand inside a JSON string."""
    parts: list[str] = []  # of a line that goes on in the next block
    for block in _blocks(path):
        *lines, rest = block.split("\n")
        if lines:
            yield "".join((*parts, lines[0]))
            yield from lines[1:]
            parts = []
        parts.append(rest)
        if len(parts) * _BLOCK > MAX_VALUE:
            raise CourseError(f"{path} 里有一行超过 {MAX_VALUE >> 20} MB，不是这门课的数据。")
    yield "".join(parts)


_KINDS = {bool: "真假值", int: "整数", float: "小数", list: "列表", dict: "对象"}


def check_text(value: Any, field: str, where: str) -> str:
    """Return ``value`` if it is text that UTF-8 can hold; else raise CourseError naming row and field.

    JSON can spell half a character (a lone surrogate such as ``"\\ud83d"``), which no file can store.
    """
    if value is None:
        raise CourseError(f"{where}：缺少字段 {field}。")
    if not isinstance(value, str):
        kind = _KINDS.get(type(value), type(value).__name__)
        raise CourseError(f"{where}：字段 {field} 是{kind} {brief(value)}，应当是文字。")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CourseError(
            f"{where}：字段 {field} 第 {error.start + 1} 个字符只有半个（残缺的 emoji），存不了；请改正。"
        ) from error
    return value


def read_conversations(path: str | Path, fields: Iterable[str] = TRAINING_FIELDS) -> list[dict[str, Any]]:
    """Return the turns of a raw-round or training file: one a row, each with the ``fields`` as text.

    Raises CourseError naming row and field.
    """
    found = []
    for number, row in enumerate(iter_json_array(path), 1):
        where = f"{path} 第 {number} 条"
        turns = check_row(row, where).get("conversation")
        if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], dict):
            raise CourseError(f'{where}：应当有 "conversation"，里面恰好一轮对话。')
        for field in fields:
            check_text(turns[0].get(field), field, where)
        found.append(turns[0])
    return found


def write_conversations(path: str | Path, turns: Iterable[dict[str, Any]]) -> int:
    """Write turns (``input``, ``output``, perhaps ``system``) as conversations; return how many there were.

    One JSON array, or lines if the file's name ends in ``.jsonl``. A turn may have a ``history``, as
    ``formats.read_turns`` returns it: the turns before it.
    """
    if Path(path).suffix.lower() == ".jsonl":
        return write_jsonl(path, ({"conversation": conversation(turn)} for turn in turns))
    count = 0

    def arrays() -> Iterator[bytes]:
        nonlocal count
        left = iter(turns)
        while some := list(itertools.islice(left, _AT_ONCE)):
            count += len(some)
            yield _conversations(some)

    write_arrays(path, arrays())
    return count


def _conversations(turns: list[dict[str, Any]]) -> bytes:
    rows = [{"conversation": conversation(turn) if "history" in turn else [turn]} for turn in turns]
    if {type(value) for turn in turns for value in turn.values()} == {str}:
        return msgspec.json.format(msgspec.json.encode(rows), indent=4)  # as json does, and quicker
    return _indented(rows)


def conversation(turn: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the turns of the conversation that ends with ``turn``: its ``history`` stands before it.

    >>> conversation({"system": "s", "input": "c", "output": "d", "history": [["a", "b"]]})
    [{'system': 's', 'input': 'a', 'output': 'b'}, {'input': 'c', 'output': 'd'}]
    """
    turns = [{"input": asked, "output": said} for asked, said in turn.get("history", ())]
    turns.append({key: value for key, value in turn.items() if key not in ("history", "system")})
    if "system" in turn:
        turns[0] = {"system": turn["system"], **turns[0]}
    return turns


def sha256(path: str | Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_provenance(
    path: str | Path,
    *,
    stage: str,
    parameters: dict[str, Any],
    counts: dict[str, Any] | None = None,
    inputs: Iterable[str | Path] | Mapping[Path, str] = (),
    digest: bool = True,
) -> dict[str, Any]:
    """Write ``<path>.provenance.json``: what made the file (or model folder) at ``path``.

    parameters: what was asked for, seed included; secrets have no place here.
    counts: rows or tokens, by name. inputs: the files that were read; their sha256 is kept (a mapping
    brings it along). digest: keep that of the file at ``path`` too; to read it again takes its time. Of a
    folder its files are kept, as ``listing`` gives them (see ``replace_folder``).
    Returns what was written.
    """
    path = Path(path)
    known = inputs if isinstance(inputs, Mapping) else {item: sha256(item) for item in inputs}
    record = {
        "file": path.name,
        "stage": stage,
        "parameters": parameters,
        "counts": counts or {},
        "inputs": {paths.show(item): digest for item, digest in known.items()},
        "versions": {name: _version(name) for name in _VERSIONED},
    }
    if digest and path.is_file():
        record["sha256"] = sha256(path)
    if path.is_dir():
        record["files"] = listing(path)
    write_json(provenance_path(path), record)
    return record


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Make a folder beside ``folder``, in which that can be made; what is left there goes.

    So does what killed processes have left beside it (see ``locks.scratch``). Raises CourseError, naming
    ``folder``, if the disk refuses.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locks.scratch(folder) as place:
            yield place


def replace_folder(made: Path, folder: Path) -> Path | None:
    """Move a folder that is whole to its place, and with it the provenance that is beside it.

    What is there goes only if the provenance beside it lists all that lies in it; otherwise somebody else put
    something in, and it is kept under another name, which is returned.
    """
    file, kept, is_ours = provenance_path(folder), None, False
    with writing(folder):
        sync(made)
        if folder.exists():
            is_ours = provenance(folder).get("files") == listing(folder)
            kept = set_aside(folder)
        try:
            made.rename(folder)
            if provenance_path(made).is_file():
                provenance_path(made).replace(file)
        except OSError:  # all as it was
            if folder.exists():
                folder.rename(made)
            if kept:
                kept.rename(folder)
            raise
    if kept and is_ours:
        shutil.rmtree(kept, ignore_errors=True)  # the new one stands, whatever is left of this
        kept = None
    return kept


def sync(made: Path) -> None:
    """Have a file, or a folder with all below it, on the disk: a name given then never stands for half.

    Links are not followed, and some file systems cannot sync a folder. Raises OSError.
    """
    for path in (made, *made.rglob("*")):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            except OSError as error:
                if path.is_file() or error.errno != errno.EINVAL:
                    raise
            finally:
                os.close(handle)


@contextmanager
def make_way(file: Path, notes: Path | None = None, *, source: Path | None = None) -> Iterator[None]:
    """Keep a copy of a file that is written though nobody named it, unless it is ours or becomes the same.

    It is ours if its SHA-256 is that of the provenance beside it, which the caller writes. notes: a folder
    above the file instead, which holds the SHA-256 of all that was written so, in one hidden file: where
    many files go to people, who have no use for provenance beside each. source: what the file is made of;
    if its provenance knows only others (a.csv, where now a.json is read), it is another's result.
    """
    with writing(file):
        before = sha256(file) if file.is_file() else ""
    made: dict[str, Any] = (
        {"sha256": _notes(notes).get(_noted_as(file, notes))} if notes else provenance(file)
    )
    is_ours, others = made.get("sha256") == before, []
    if source and is_ours:
        while isinstance(earlier := (made.get("parameters") or {}).get("before"), dict):
            made = earlier  # a repair keeps what stood before it
        # names only: how the folder was written depends on where the run's results lay
        others = list(made.get("inputs", {}))
        others = [] if source.name in {Path(name).name for name in others} else others
    kept = free_name(file) if before and (others or not is_ours) else None
    try:
        if kept:
            with writing(file):
                shutil.copy2(file, kept, follow_symlinks=False)  # of a link only the link is replaced
        yield
    except BaseException:
        if notes and file.is_file() and sha256(file) != before:  # as far as it came it is ours
            with suppress(CourseError):
                note(file, notes)
        raise
    finally:
        if kept and file.is_file() and sha256(file) == before:
            kept.unlink(missing_ok=True)  # it was not written, or an earlier run wrote it, and broke off
        elif kept:
            print(told_of_kept(file, kept, others))
    if notes:
        note(file, notes)


def note(file: Path, notes: Path) -> None:
    """Note that what a file holds now need not be kept; see ``make_way``."""
    name, made = _noted_as(file, notes), sha256(file)
    if (noted := _notes(notes)).get(name) != made:
        write_json(notes / _WRITTEN, noted | {name: made})


def _noted_as(file: Path, notes: Path) -> str:
    """Return a file's name in the notes; one from Chinese Windows may be no UTF-8, which JSON has to be."""
    return file.relative_to(notes).as_posix().encode(errors="backslashreplace").decode()


def _notes(folder: Path) -> dict[str, Any]:
    """Return what is noted in a folder; a file that cannot be read, or is a link, says nothing."""
    file = folder / _WRITTEN
    made = None
    if file.is_file() and not file.is_symlink():
        with suppress(CourseError):
            made = read_json(file)
    return made if isinstance(made, dict) else {}


def told_of_kept(path: Path, kept: Path, sources: Sequence[str] = ()) -> str:
    """Return what to say of a file or folder of somebody else, or made of ``sources``, that was replaced."""
    why = f"是从 {'、'.join(sources)} 来的" if sources else "不是课程写的，或者改动过"
    return f"原来的 {paths.told(path)} {why}：没有删掉，留作 {kept.name}。"


def set_aside(folder: Path) -> Path:
    """Keep a folder under another name, ``<folder>.kept-1`` or the next that is free, and return that."""
    return folder.rename(free_name(folder))


def free_name(path: Path) -> Path:
    """Return the name beside ``path`` under which it is kept, ``<path>.kept-1`` or the next that is free."""
    names = (path.with_name(f"{path.name}.kept-{number}") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def listing(folder: Path) -> dict[str, int | str]:
    """Return what lies below a folder, by its name there: of a large file the size, of a text the SHA-256.

    A changed letter changes no size, and weights take too long to read. Of an empty folder it is 0.
    """
    found: dict[str, int | str] = {}
    for item in sorted(folder.rglob("*")):
        size = item.lstat().st_size
        if item.is_symlink() or not (item.is_dir() or item.is_file()):
            found[item.relative_to(folder).as_posix()] = size
        elif item.is_file():
            found[item.relative_to(folder).as_posix()] = size if size > _SMALL else sha256(item)
        elif not any(item.iterdir()):
            found[item.relative_to(folder).as_posix()] = 0
    return found


def is_untouched(folder: Path, mark: Path, but: Sequence[str] = ()) -> bool:
    """Say whether nothing came into a folder, or was changed there, since ``mark`` was last written.

    What works there writes the mark again and again, as a sign of life; what it made in the last minute of
    its life counts as its own. Looked at is the time that the system keeps (ctime): a file that was moved or
    copied there brings an older one of its own along. but: names in the folder that anybody may write.
    """
    last = mark.stat().st_ctime + _LAST_MINUTE
    items = (item for item in folder.rglob("*") if item.relative_to(folder).as_posix() not in but)
    return all(item.lstat().st_ctime <= last for item in items)


def provenance_path(path: str | Path) -> Path:
    """Return the name of the provenance file that stands beside ``path``."""
    path = Path(path)
    return path.with_name(path.name + PROVENANCE)


def provenance(path: str | Path) -> dict[str, Any]:
    """Return what stands beside ``path``; nothing where there is no such file."""
    file = provenance_path(path)
    made = read_json(file) if file.is_file() else None
    return made if isinstance(made, dict) else {}


@cache  # some milliseconds each; a run writes one provenance a round
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
