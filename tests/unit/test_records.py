"""Data contracts and files: bytes as promised, never half a file, errors that name the place."""

import errno
import json
import os
import stat
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import records
from tianji_helpers.errors import CourseError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
# a lone surrogate is no text that UTF-8 could hold
ROWS = st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=3), max_size=5).filter(
    lambda rows: not any(0xD800 <= ord(c) < 0xE000 for c in json.dumps(rows, ensure_ascii=False))
)


@given(ROWS)
def test_an_array_is_written_as_json_dump_would(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("array") / "rows.json"
    assert records.write_json_array(path, iter(rows)) == len(rows)
    assert path.read_bytes() == json.dumps(rows, ensure_ascii=False, indent=4).encode()
    assert records.read_json(path) == rows


@given(ROWS)
def test_conversations_are_written_as_json_dump_would(tmp_path_factory, turns):
    path = tmp_path_factory.mktemp("array") / "rows.json"
    assert records.write_conversations(path, turns) == len(turns)
    rows = [{"conversation": [turn]} for turn in turns]
    assert path.read_bytes() == json.dumps(rows, ensure_ascii=False, indent=4).encode()


@given(ROWS)
def test_lines_come_back_as_they_were(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    assert records.write_jsonl(path, rows) == len(rows)
    assert records.read_jsonl(path) == rows


@given(st.dictionaries(st.text(), st.text() | st.integers(), max_size=4))
def test_a_line_of_texts_and_numbers_is_as_json_writes_it(row):
    assert records.jsonl_line(row) == (json.dumps(row, ensure_ascii=False) + "\n").encode()


def test_chinese_stays_readable_and_line_separators_do_not_split(tmp_path):
    path = tmp_path / "rows.jsonl"
    records.write_jsonl(path, [{"祝福": "生日\u2028快乐🎂"}])
    assert "生日\u2028快乐🎂" in path.read_text(encoding="utf-8")
    assert records.read_jsonl(path) == [{"祝福": "生日\u2028快乐🎂"}]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("old")

    def rows():
        yield {"a": 1}
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        records.write_json_array(path, rows())
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_a_full_disk_is_said_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    path.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(CourseError, match=r"No space left on device.*原来的文件没有改动"):
        records.write_json(path, {"a": 1})
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_new_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    records.write_json(tmp_path / "ours", 1)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(CourseError, match="是一个文件夹"):
        records.write_json(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1},\n {"a": }]', "第 2 行第 8 列不是合法的 JSON"),
        (b'{"a": 1}', "最外层是 dict，应当是数组"),
        (b"\xff\xfe[]", "不是 UTF-8 文本"),
        (b"", "第 1 行第 1 列不是合法的 JSON"),
        (b"[" * 100_000, "嵌套太深"),
    ],
)
def test_a_broken_array_names_the_place(tmp_path, content, message):
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(CourseError, match=message) as error:
        list(records.iter_json_array(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [("2", "第 2 条是 int，应当是对象"), ('{"conversation": []}', "第 2 条：.*恰好一轮对话")],
)
def test_a_row_that_is_no_conversation_is_named(tmp_path, row, message):
    path = tmp_path / "rows.json"
    path.write_text(f'[{{"conversation": [{{"input": "a", "output": "b"}}]}}, {row}]')
    with pytest.raises(CourseError, match=message):
        records.read_conversations(path)


@pytest.mark.parametrize(
    ("content", "message"), [('{"a": 1}\n\n{"a"', "第 3 行不是合法的 JSON"), ("[]\n", "第 1 行是 list")]
)
def test_broken_lines_name_the_line(tmp_path, content, message):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(CourseError, match=message):
        records.read_jsonl(tmp_path / "rows.jsonl")


def test_a_missing_file_and_a_folder_say_what_to_do(tmp_path):
    with pytest.raises(CourseError, match=r"找不到文件 .*请先运行生成它的那一课"):
        records.read_json(tmp_path / "none.json")
    with pytest.raises(CourseError, match="读不了"):
        records.read_json(tmp_path)


def test_an_array_streams_in_small_blocks_as_it_reads_whole(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    rows = [{"a": ["祝", {"b": 1.5}], "c": "\u2028\n]," * number} for number in range(40)] + [
        1234567,
        "祝",
        None,
    ]
    for indent in (None, 4):
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=indent) + "\n ", encoding="utf-8")
        for block in (1, 7, 1 << 20):
            monkeypatch.setattr(records, "_BLOCK", block)
            assert list(records.iter_json_array(path)) == rows
    monkeypatch.setattr(records, "_BLOCK", 5)
    for tail, place in (("1] 2", "第 3 行第 6 列"), ("1", "第 3 行第 4 列"), ("1,]", "第 3 行第 5 列")):
        path.write_text('[{"a":\n"祝祝祝祝祝祝"},\n  ' + tail, encoding="utf-8")
        values = records.iter_json_array(path)
        assert next(values) == {"a": "祝" * 6}
        with pytest.raises(CourseError, match=place):
            list(values)


TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.just('\n    },\n    {\n"},{"a": 1}')
OBJECTS = st.lists(st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(TEXTS), max_size=3), max_size=9)


@given(rows=OBJECTS, indent=st.sampled_from((None, 0, 4)), size=st.integers(1, 400), cut=st.integers(0, 20))
def test_an_array_reads_as_json_reads_it_and_a_part_of_it_is_no_array(
    tmp_path_factory, rows, indent, size, cut
):
    path = tmp_path_factory.getbasetemp() / "rows.json"
    text = json.dumps(rows, ensure_ascii=False, indent=indent)
    with mock.patch.object(records, "_BLOCK", size):
        path.write_bytes(text.encode())
        assert list(records.iter_json_array(path)) == rows
        path.write_bytes(text[: -1 - cut].encode())
        if len(text) > cut + 1:
            with pytest.raises(CourseError):
                list(records.iter_json_array(path))


@pytest.mark.parametrize("odd", ['"\\ud83d"', "1e400", str(2**70), '{"a": 1, "a": 2}', "[" * 60 + "]" * 60])
def test_values_that_msgspec_refuses_or_reads_otherwise_come_as_json_reads_them(tmp_path, odd):
    rows = [f'{{"a": {number}}}' for number in range(20)]
    text = "[" + ",\n".join([*rows, f'{{"a": {odd}}}', *rows]) + "]"
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    assert list(records.iter_json_array(tmp_path / "rows.json")) == json.loads(text)


def test_lines_stream_in_small_blocks_as_they_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    rows = [{"a": "祝" * number} for number in range(20)]
    path.write_bytes(
        b"\xef\xbb\xbf" + "\r\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    )
    for block in (3, 10, 1 << 20):
        monkeypatch.setattr(records, "_BLOCK", block)
        assert [row for _, row in records.iter_jsonl(path)] == rows
        assert [number for number, _ in records.iter_jsonl(path)] == list(range(1, 40, 2))


def test_bytes_that_are_no_text_are_counted_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_BLOCK", 4)
    (tmp_path / "rows.json").write_bytes('["祝祝"'.encode() + b"\xe7\xa5]")
    with pytest.raises(CourseError, match="第 9 个字节"):
        list(records.iter_json_array(tmp_path / "rows.json"))


def test_half_a_character_is_kept_in_ascii(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"a": "祝\ud83d"}, {"a": "祝"}]
    records.write_jsonl(path, rows)
    assert path.read_text(encoding="utf-8").splitlines()[1] == '{"a": "祝"}'
    assert records.read_jsonl(path) == rows


def test_a_huge_number_is_named(tmp_path):
    for name in ("rows.json", "rows.jsonl"):
        (tmp_path / name).write_text('{"a": ' + "9" * 5000 + "}")
    with pytest.raises(CourseError, match="不是合法的 JSON"):
        records.read_json(tmp_path / "rows.json")
    with pytest.raises(CourseError, match="第 1 行不是合法的 JSON"):
        records.read_jsonl(tmp_path / "rows.jsonl")


def test_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "rows.json").write_bytes(b"\xef\xbb\xbf[]")
    assert records.read_json(tmp_path / "rows.json") == []


def test_conversations_come_back_and_a_bad_row_is_named(tmp_path):
    path = tmp_path / "wishes.json"
    turns = [{"system": "送祝福", "input": "祝姐姐生日", "output": "生日快乐"}]
    assert records.write_conversations(path, turns) == 1
    assert records.read_conversations(path) == turns
    with pytest.raises(CourseError, match=r"wishes\.json 第 1 条：缺少字段 src_input"):
        records.read_conversations(path, records.RAW_FIELDS)
    for bad in ({"conversation": []}, {"conversation": [1]}, {}, {"conversation": turns * 2}):
        records.write_json_array(path, [{"conversation": turns}, bad])
        with pytest.raises(CourseError, match="第 2 条：应当有"):
            records.read_conversations(path)


def test_provenance_says_what_made_a_file(tmp_path):
    source, result = tmp_path / "source.json", tmp_path / "result.json"
    records.write_json(source, [])
    records.write_json(result, [1])
    written = records.write_provenance(
        result, stage="02", parameters={"seed": 42}, counts={"rows": 1}, inputs=[source]
    )
    assert records.read_json(tmp_path / "result.json.provenance.json") == written
    assert written["sha256"] == records.sha256(result)
    assert written["inputs"] == {"source.json": records.sha256(source)}
    assert written["parameters"] == {"seed": 42} and written["versions"]["transformers"]


def test_a_file_that_is_not_written_in_the_end_leaves_no_copy(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text("mine")
    with pytest.raises(OSError, match="Input/output"), records.make_way(file):
        records.write_jsonl(file, (refuse() for _ in range(1)))

    def on_a_full_disk(source, copy, **how):
        copy.write_text("mi")
        refuse()

    monkeypatch.setattr("shutil.copy2", on_a_full_disk)
    with pytest.raises(CourseError, match="写不了"), records.make_way(file):
        pass
    assert file.read_text() == "mine" and list(tmp_path.iterdir()) == [file]
    assert capsys.readouterr().out == ""


def test_what_goes_to_people_is_noted_in_one_file_of_its_folder(tmp_path, capsys):
    page, elsewhere = tmp_path / "pages" / "one.html", tmp_path.parent / "elsewhere"
    page.parent.mkdir()

    def make(text):
        with records.make_way(page, tmp_path):
            page.unlink(missing_ok=True)
            page.write_text(text)
        return sorted(item.name for item in page.parent.iterdir())

    assert make("1") == make("2") == ["one.html"] and capsys.readouterr().out == ""
    page.write_text("mine")
    assert make("3") == make("4") == ["one.html", "one.html.kept-1"]
    assert (page.parent / "one.html.kept-1").read_text() == "mine"
    assert capsys.readouterr().out.count("one.html.kept-1") == 1
    # notes that somebody has damaged say nothing, and another's file is not copied through a link
    (tmp_path / ".written.json").write_text("[")
    assert make("5") == ["one.html", "one.html.kept-1", "one.html.kept-2"]
    elsewhere.write_text("private")
    page.unlink()
    page.symlink_to(elsewhere)
    assert make("6")[-1] == "one.html.kept-3" and (page.parent / "one.html.kept-3").is_symlink()
    assert elsewhere.read_text() == "private" and page.read_text() == "6"


def test_a_name_that_is_no_utf8_is_noted_too(tmp_path):
    file = tmp_path / os.fsdecode("作业.csv".encode("gb18030"))  # from an archive of Chinese Windows
    for text in ("1", "2"):
        with records.make_way(file, tmp_path):
            file.write_text(text)
    assert sorted(tmp_path.iterdir()) == sorted([file, tmp_path / ".written.json"])


def test_a_folder_is_replaced_only_if_all_in_it_is_ours(tmp_path):
    folder = tmp_path / "result"

    def make(text):
        made = tmp_path / "made"
        (made / "part" / "empty").mkdir(parents=True)
        (made / "part" / "a.txt").write_text(text)
        records.write_provenance(made, stage="x", parameters={})
        return records.replace_folder(made, folder)

    assert make("one") is None and make("two") is None  # nothing there; one of ours
    (folder / "part" / "empty" / "mine.txt").write_text("mine")
    assert make("three") == tmp_path / "result.kept-1"
    assert (tmp_path / "result.kept-1" / "part" / "empty" / "mine.txt").read_text() == "mine"
    (folder / "part" / "a.txt").write_text("eerht")  # no longer than before
    assert make("four").name == "result.kept-2" and make("five") is None
    records.provenance_path(folder).unlink()
    assert make("six").name == "result.kept-3"
    assert (folder / "part" / "a.txt").read_text() == "six"


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    made, synced = tmp_path / "made", []
    (made / "part").mkdir(parents=True)
    files = [made / "a.bin", made / "part" / "b.bin"]
    for file in files:
        file.write_bytes(b"x")
    (tmp_path / "elsewhere").write_bytes(b"x")
    (made / "link").symlink_to(tmp_path / "elsewhere")

    def sync(handle):
        assert not (tmp_path / "result").exists()
        synced.append(os.fstat(handle).st_ino)

    expected = sorted(path.stat().st_ino for path in (made, made / "part", *files))
    monkeypatch.setattr(records.os, "fsync", sync)
    records.replace_folder(made, tmp_path / "result")
    assert sorted(synced) == expected and (tmp_path / "result" / "part" / "b.bin").is_file()


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO])
def test_a_disk_that_cannot_sync_folders_takes_them_all_the_same(tmp_path, monkeypatch, error):
    def sync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(error, os.strerror(error))

    (tmp_path / "made").mkdir()
    monkeypatch.setattr(records.os, "fsync", sync)
    if error == errno.EIO:
        with pytest.raises(CourseError, match=r"写不了 .*result：Input/output error"):
            records.replace_folder(tmp_path / "made", tmp_path / "result")
    else:
        records.replace_folder(tmp_path / "made", tmp_path / "result")
    assert (tmp_path / "result").exists() == (error == errno.EINVAL)


def test_the_name_decides_whether_conversations_are_an_array_or_lines(tmp_path):
    turns = [
        {"system": "s", "input": "甲", "output": "乙", "history": [["a", "b"]]},
        {"input": "c", "output": "d"},
    ]
    for name in ("all.json", "all.jsonl"):
        assert records.write_conversations(tmp_path / name, iter(turns)) == 2
    array = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    lines = (tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == array


def refuse(*_, **__):
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("refused", ["rename", "replace"])
def test_a_folder_that_cannot_take_its_place_leaves_all_as_it_was(tmp_path, monkeypatch, refused):
    """``refused``: the folder itself, or the provenance beside it."""
    folder = tmp_path / "result"

    def make(text):
        with records.scratch(folder) as place:
            made = place / "result"
            made.mkdir()
            (made / "a.txt").write_text(text)
            records.write_provenance(made, stage="x", parameters={"text": text})
            if text == "two":
                real = getattr(records.Path, refused)

                def fail(path, target):
                    return refuse() if place in path.parents else real(path, target)

                monkeypatch.setattr(records.Path, refused, fail)
            return records.replace_folder(made, folder)

    make("one")
    before = {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(CourseError, match=r"写不了 .*result：Input/output error"):
        make("two")
    assert before == {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    monkeypatch.undo()
    assert make("three") is None and (folder / "a.txt").read_text() == "three"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["result", "result.provenance.json"]


def test_a_first_result_that_cannot_take_its_place_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(records.Path, "rename", refuse)
    with pytest.raises(CourseError), records.scratch(tmp_path / "result") as place:
        (place / "made").mkdir()
        records.replace_folder(place / "made", tmp_path / "result")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_says_only_at_the_end_that_it_is_full_is_heard(tmp_path, monkeypatch):
    """As network disks do: it is the closing that fails."""
    path = tmp_path / "rows.json"
    path.write_text("old")
    monkeypatch.setattr(records.os, "fsync", os.close)
    with pytest.raises(CourseError, match=r"写不了 .*rows\.json：Bad file descriptor"):
        records.write_json(path, {"a": 1})
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["rows.json"]
