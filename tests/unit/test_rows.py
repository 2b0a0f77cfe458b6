"""Own data in files of every kind: the same rows come out, or the message says what the file is."""

import gzip
import io
import json
import zipfile

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from tianji_helpers import formats, records
from tianji_helpers.errors import CourseError
from tianji_helpers.rows import iter_rows

ONE = [{"system": "你是一名导游", "input": "第一天去哪儿？", "output": "先去古城墙，\n再去钟楼。"}]
BARE = [{"input": "“门票”多少钱, 贵吗", "output": '成人"四十"元'}]
LONG = [*ONE, {"input": "那第二天呢", "output": "去爬山。"}, {"input": "累了", "output": "歇一天。"}]
TALKS = [ONE, BARE, LONG]


def to_table(rows: list[dict]) -> pyarrow.Table:
    """What is no text becomes JSON, as people write it into a cell."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = {name: [row.get(name) for row in rows] for name in names}
    return pyarrow.table(
        {
            name: [
                json.dumps(cell, ensure_ascii=False) if isinstance(cell, list) else cell or ""
                for cell in column
            ]
            for name, column in cells.items()
        }
    )


def filled(rows: list[dict]) -> pyarrow.Table:
    """A table that has every row's fields; ``from_pylist`` alone takes those of the first."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pyarrow.Table.from_pylist([dict.fromkeys(names) | row for row in rows])


def as_table(path, rows, delimiter):
    sink = io.BytesIO()
    csv.write_csv(to_table(rows), sink, csv.WriteOptions(delimiter=delimiter))
    path.write_bytes(sink.getvalue())


WRITERS = {
    "array": lambda path, rows: path.write_text(json.dumps(rows, ensure_ascii=False, indent=1)),
    "lines": lambda path, rows: path.write_text("\r\n".join(map(json.dumps, rows)) + "\n\n"),
    "mark": lambda path, rows: path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode()),
    "array.gz": lambda path, rows: path.write_bytes(gzip.compress(json.dumps(rows).encode())),
    "lines.gz": lambda path, rows: path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode())),
    "csv": lambda path, rows: as_table(path, rows, ","),
    "tsv": lambda path, rows: as_table(path, rows, "\t"),
    "parquet of text": lambda path, rows: parquet.write_table(to_table(rows), path),
    "parquet": lambda path, rows: parquet.write_table(filled(rows), path),
}


@pytest.mark.parametrize("shape", formats.FORMATS)
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("suffix", [".json", ".dat"])  # the name says nothing
def test_every_shape_in_every_kind_of_file(tmp_path, shape, kind, suffix):
    path = tmp_path / f"own{suffix}"
    WRITERS[kind](path, [formats.from_turns(turns, shape) for turns in TALKS])
    assert [turns for _, turns in formats.read(path)] == TALKS
    assert list(formats.read_turns(path)) == [
        *(turns[0] for turns in (ONE, BARE)),
        {
            **LONG[2],
            "system": ONE[0]["system"],
            "history": [[turn["input"], turn["output"]] for turn in LONG[:2]],
        },
    ]


@pytest.mark.parametrize("names", formats.COLUMNS)
@pytest.mark.parametrize("kind", ["csv", "tsv", "lines", "parquet"])
def test_pairs_of_columns(tmp_path, kind, names):
    path = tmp_path / "own"
    rows = [
        dict(zip((*names, "system", "number"), cells, strict=True))
        for cells in (("问", "答", "s", 1), ("甲", "乙", "", 2))
    ]
    WRITERS[kind](path, rows)
    assert list(formats.read_turns(path)) == [
        {"input": "问", "output": "答", "system": "s"},
        {"input": "甲", "output": "乙"},
    ]


def test_a_prompt_for_rows_that_have_none(tmp_path):
    WRITERS["lines"](tmp_path / "own", [formats.from_turns(turns, "openai") for turns in TALKS])
    systems = [turns[0]["system"] for _, turns in formats.read(tmp_path / "own", system="你很简短")]
    assert systems == ["你是一名导游", "你很简短", "你是一名导游"]


def test_a_table_as_spreadsheets_write_it(tmp_path):
    path = tmp_path / "表.csv"
    path.write_bytes('\ufeffquestion;answer\r\n"几点;开门";"九点\r\n整"\r\nNA;null\r\n'.encode())
    assert list(formats.read_turns(path)) == [
        {"input": "几点;开门", "output": "九点\r\n整"},
        {"input": "NA", "output": "null"},
    ]


def test_roles_by_other_names_and_a_loss_that_holds_anyhow(tmp_path):
    said = [("developer", "s"), ("User", "问"), ("Assistant", "答")]
    messages = [{"role": role, "content": text} for role, text in said]
    messages[-1]["loss"] = True
    WRITERS["lines"](tmp_path / "own", [{"messages": messages}])
    assert list(formats.read_turns(tmp_path / "own")) == [{"system": "s", "input": "问", "output": "答"}]


def excel() -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    book.active.append(["question", "answer"])
    book.save(sink := io.BytesIO())
    return sink.getvalue()


def zipped(name: str) -> bytes:
    with zipfile.ZipFile(sink := io.BytesIO(), "w") as archive:
        archive.writestr(name, "祝福" * 99)
    return sink.getvalue()


def in_parquet(**columns) -> bytes:
    parquet.write_table(pyarrow.table(columns), sink := io.BytesIO())
    return sink.getvalue()


BAD = {
    "no known shape": (
        b'[{"text": "a", "label": "b"}]',
        ("text、label", "messages", "instruction", "input/output"),
    ),
    "one object": (b'{\n "data": [\n {"input": "a"}]}', ("data",)),
    "long names": (json.dumps([{"长" * 999: 1}]).encode(), ("看不出",)),
    "no header": ("几点开门,九点\n几点关门,五点\n".encode(), ("几点开门、九点", "没有表头", "input,output")),
    "not as wide": (b"input,output\na,b\nc,d,e\n", ("第 3 行有 3 列，表头有 2 列", "双引号")),
    "numbers": (b"input,output\na,1\nb,2\n", ("第 1 条", "output", "整数 1", "文字")),
    "numbers of JSON": (b'{"question": "a", "answer": 2.5}', ("第 1 行", "answer", "小数 2.5")),
    "lists": (b'[{"instruction": "a", "output": ["b"]}]', ("第 1 条", "output", "列表")),
    "numbers of parquet": (in_parquet(prompt=["a"], response=[3]), ("第 1 条", "response", "整数 3")),
    "parts": (
        b'{"messages": [{"role": "user", "content": [{"text": "a"}]}]}',
        ("第 1 句", "content", "列表"),
    ),
    "a mixture": (
        b'{"input": "a", "output": "b"}\n{"messages": [{"role": "user", "content": "a"}]}',
        ("第 2 行", "openai", "columns", "convert", "merge"),
    ),
    "GBK": ("input,output\n几点开门,九点\n".encode("gbk"), ("GBK", "iconv -f GB18030")),
    "UTF-16": ("input\toutput\n几点\t九点\n".encode("utf-16"), ("UTF-16", "iconv")),
    "Excel": (excel(), ("Excel", "CSV UTF-8")),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\xff" * 600, ("Excel", "CSV UTF-8")),
    "SQLite": (b"SQLite format 3\0\x10\0\x01\x01\0@  \xff", ("SQLite", "CSV：sqlite3 -header -csv 它")),
    "SQLite that is UTF-8": (b"SQLite format 3\0" + b"\0\x10" * 50, ("SQLite", "CSV：sqlite3 -header -csv")),
    "feather": (b"ARROW1\0\0\xff\xff", ("Arrow", "feather.read_table('它')", "新文件.parquet")),
    "old feather": (b"FEA1\0\0\xff\xff", ("Arrow", "feather.read_table('它')", "新文件.parquet")),
    "Arrow of datasets": (b"\xff\xff\xff\xff\x98\0", ("Arrow", "Dataset.from_file('它')", "新文件.parquet")),
    "a zip": (zipped("a.json"), ("unzip",)),
    "half a gzip": (gzip.compress(b'[{"input": "a", "output": "b"}]' * 9)[:-9], ("gzip", "重新下载")),
    "half a parquet": (in_parquet(input=["a"], output=["b"])[:-9], ("parquet", "重新下载")),
    "half a JSON": (b'[{"input": "a", "output": "b"},', ("第 1 行",)),
    "a broken line": (b'{"input": "a", "output": "b"}\n{"input": "a"', ("第 2 行",)),
    "nothing": (b"", ("没有一条记录",)),
    "no rows": (b"[]", ("没有一条记录",)),
    "a header only": (b"input,output\n", ("没有一条记录",)),
    "loss": (
        b'{"messages": [{"role": "user", "content": "a", "loss": false}]}',
        ("第 1 句", "loss", "False"),
    ),
    "a tool": (b'{"messages": [{"role": "tool", "content": "a"}]}', ("第 1 句", "'tool'", "去掉这一条")),
    "no answer": (b'{"messages": [{"role": "user", "content": "a"}]}', ("没有答案可学",)),
    "no list": (b"messages\nhello\n", ("第 1 条", "messages", "JSON")),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named_with_the_fix(tmp_path, name):
    content, words = BAD[name]
    path = tmp_path / "own.json"
    path.write_bytes(content)
    with pytest.raises(CourseError) as caught:
        list(formats.read(path))
    message = str(caught.value)
    assert all(word in message for word in ("own.json", *words)) and len(message) < 600, message


BOMBS = {
    "table": b"input,output\n" + b"a,b\n" * (1 << 20),
    "lines": b'{"input": "a", "output": "b"}\n' * (1 << 18),
    "array": b"[" + b'{"input": "a", "output": "b"},' * (1 << 18),
    "blanks": b" " * (1 << 22),
    "one object": b'{"input": "a",\n"output": "' + b"b" * (1 << 22),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_does_not_become_a_large_one(tmp_path, name, monkeypatch):
    monkeypatch.setattr(records, "MAX_VALUE", 1 << 20)  # 64 times less, so that the test is small, too
    path = tmp_path / "own.json.gz"
    path.write_bytes(gzip.compress(BOMBS[name]))
    with pytest.raises(CourseError, match=r"own\.json\.gz .*解压以后超过 [12] MB.*gunzip"):
        list(formats.read(path))


def test_a_packed_table_is_read_as_a_whole_and_has_a_limit_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_MOST_TEXT", 1 << 10)
    packed = {"csv": b"input,output\n" + b"a,b\n" * 999, "jsonl": b'{"input": "a", "output": "b"}\n' * 999}
    for kind, content in packed.items():
        (tmp_path / f"own.{kind}").write_bytes(gzip.compress(content))
    with pytest.raises(CourseError, match=r"own\.csv .*解压以后超过 0 MB"):
        list(iter_rows(tmp_path / "own.csv"))
    assert sum(1 for _ in iter_rows(tmp_path / "own.jsonl")) == 999
    (tmp_path / "own.csv").write_bytes(packed["csv"])  # whose size everybody sees
    assert sum(1 for _ in iter_rows(tmp_path / "own.csv")) == 999


def test_a_parquet_file_for_a_reader_of_json(tmp_path):
    (tmp_path / "own.json").write_bytes(b"PAR1\xff" + b"\xff" * 64)
    with pytest.raises(CourseError, match="parquet 文件，请先运行 tianji convert"):
        records.read_json(tmp_path / "own.json")


GOOD = [
    b'[{"input": "a", "output": "b"}]',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 3,
    'question,answer,system\n"几点, 开门","九点",\n'.encode(),
    gzip.compress(b"input\toutput\na\tb\n"),
    in_parquet(input=["a", "c"], output=["b", "d"]),
]


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=60)
    | st.text('{}[]",:;\t\n\r abinputoutp1é', max_size=60).map(str.encode)
    | st.tuples(st.sampled_from(GOOD), st.data())
)
def test_no_bytes_give_a_traceback(tmp_path_factory, content):
    if isinstance(content, tuple):  # a good file, a few bytes of it changed
        good, data = content
        broken = bytearray(good)
        for _ in range(data.draw(st.integers(1, 4))):
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
        content = bytes(broken)
    path = tmp_path_factory.mktemp("any") / "own"
    path.write_bytes(content)
    try:
        turns = list(formats.read_turns(path))
    except CourseError as error:
        assert str(path) in str(error) and len(str(error)) < 900
    else:
        assert turns and all(isinstance(turn[key], str) for turn in turns for key in ("input", "output"))
