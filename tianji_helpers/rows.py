"""Files of rows: JSON (an array), JSON Lines, CSV or TSV, each perhaps gzipped, and parquet.

What is in a file decides, not its name. A row is a dictionary; ``formats`` knows what it says.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from tianji_helpers import records
from tianji_helpers.errors import CourseError

_AT_ONCE = 1_000  # rows of a table that become dictionaries
ARRAY, LINES, TABLE, PARQUET = "array", "lines", "table", "parquet"


def kind_of(path: str | Path) -> str:
    """Return the kind of a file by its first characters; empty if there is nothing but blanks in it."""
    with records.open_bytes(path) as file:
        start = file.read(5)
    if start.startswith(b"PAR1"):
        return PARQUET
    if start == b"{\\rtf":  # that reader says what it is
        return TABLE
    first = records.first_character(path)
    return {"": "", "[": ARRAY, "{": LINES}.get(first, TABLE)


def iter_rows(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield (words that name the row, row) of a file of any kind; it may hold none.

    What stands in an array need not be a dictionary. A byte order mark, blank lines and CRLF do no harm.
    Raises CourseError naming file and row.
    """
    kind, path = kind_of(path), str(path)  # each row's name has it
    if kind == LINES:
        yield from _line_rows(path)
    elif kind:
        read = {ARRAY: records.iter_json_array, TABLE: _table_rows, PARQUET: _parquet_rows}[kind]
        for number, row in enumerate(read(path), 1):
            yield f"{path} 第 {number} 条", row


def _line_rows(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = records.iter_jsonl(path)
    try:
        number, row = next(lines)
    except CourseError:
        yield f"{path} 第 1 条", records.read_json(path)  # unless it is one object on many lines
        return
    yield f"{path} 第 {number} 行", row
    for number, row in lines:
        yield f"{path} 第 {number} 行", row


def _parquet_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        reason = brief(str(error).strip())
        raise CourseError(f"{path} 是 parquet 文件，但读不出来（{reason}）；请重新下载或导出。") from error


_OTHERS = {
    **dict.fromkeys(
        ("<!doctype", "<html", "<?xml"), "这是一个网页，多半是下载时要登录，或地址写错了；请重新下载。"
    ),
    "{\\rtf": "这是 RTF，写字板和 Mac 的文本编辑这样存；请另存为纯文本（UTF-8）。",
    "sqlite format 3\0": records.SQLITE,  # one that happens to be UTF-8
    "version https://git-lfs": "这是 Git LFS 的指针，数据还没有下载；请运行 git lfs pull。",
}


def _table_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV or TSV file; a column of numbers has numbers, which no text may be."""
    from pyarrow import ArrowException, csv

    text = records.read_text(path).lstrip()
    for start, meaning in _OTHERS.items():
        if text[:100].lower().startswith(start):
            raise CourseError(f"{path} 不是数据：{meaning}")
    header = text.partition("\n")[0]
    ragged = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "error"

    try:
        table = csv.read_csv(
            io.BytesIO(text.encode()),
            # one block: what a column holds is known when all of it was seen
            read_options=csv.ReadOptions(use_threads=False, block_size=min(4 * len(text) + 1, 2**31 - 1)),
            parse_options=csv.ParseOptions(
                delimiter=max(",\t;", key=header.count),
                newlines_in_values=True,
                invalid_row_handler=note,
            ),
        )
        for batch in table.to_batches(_AT_ONCE):  # all rows as dictionaries take many times the memory
            for row in batch.to_pylist():  # only a column of nothing but empty cells has no text
                yield {name: "" if cell is None else cell for name, cell in row.items()}
    except (ArrowException, ValueError, KeyError) as error:
        reason = brief(str(error).strip())
        if ragged:
            row = ragged[0]
            reason = f"第 {row.number} 行有 {row.actual_columns} 列，表头有 {row.expected_columns} 列"
        raise CourseError(
            f"{path} 不是 JSON，当作表格（CSV、TSV）也读不出来：{reason}。"
            "单元格里有逗号、引号或换行时，要用英文双引号括起来。"
        ) from error
