"""Blocks of bytes: what is read fast is what the slow way reads, and anything else is left to it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import records
from tianji_helpers.dataset import clean, layout
from tianji_helpers.errors import CourseError

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.just('\n    },\n    {\n"}')
TURN = st.tuples(TEXTS, TEXTS, TEXTS).map(lambda texts: dict(zip(layout.FIELDS, texts, strict=True)))
TURNS = st.lists(TURN, min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layout")


@given(turns=TURNS, size=st.integers(1, 400))
def test_blocks_hold_every_row_once(folder, turns, size):
    records.write_conversations(folder / "rows.json", turns)
    read = []
    for first, block in layout.blocks(folder / "rows.json", size):
        assert first == len(read) + 1
        read += layout.turns(block)
    assert read == turns


@given(turns=TURNS, cut=st.integers(1, 2000) | st.integers(1, 8), size=st.integers(1, 400))
def test_a_file_that_breaks_off_is_never_taken_for_a_whole_one(folder, turns, cut, size):
    records.write_conversations(folder / "rows.json", turns)
    whole = (folder / "rows.json").read_bytes()
    (folder / "rows.json").write_bytes(whole[: -min(cut, len(whole))])
    assert None in [layout.turns(block) for _, block in layout.blocks(folder / "rows.json", size)]


@given(systems=st.lists(st.lists(TEXTS | st.just("你是送祝福大师"), max_size=3), min_size=1, max_size=5))
def test_a_reader_lays_out_files_whatever_their_system_texts(folder, systems):
    files = [folder / f"{number}.json" for number in range(len(systems))]
    for file, texts in zip(files, systems, strict=True):
        turns = [{"system": text, "input": "祝姐姐生日", "output": "生日快乐！"} for text in texts]
        records.write_conversations(file, turns)
    assert layout.Reader(1 << 20).lay_out(files) == [
        (records.sha256(file), len(texts), file.read_bytes())
        for file, texts in zip(files, systems, strict=True)
    ]


def row(number: int, **more) -> dict:
    wish = f"姐姐，生日快乐，愿你第{number}个心愿也成真！"
    return {"conversation": [{"system": "你是送祝福大师", "input": "祝姐姐生日", "output": wish, **more}]}


@pytest.mark.parametrize(
    "odd",
    [
        row(7, model="extra key", seed=2**70),
        {"id": 7, **row(7)},
        {"conversation": [dict(reversed(row(7)["conversation"][0].items()))]},
    ],
)
@pytest.mark.parametrize("indent", [4, None])
def test_rows_of_another_layout_are_cleaned_alike(tmp_path, monkeypatch, odd, indent):
    monkeypatch.setattr(clean, "_BLOCK", 500)
    rows = [*map(row, range(20)), odd, *map(row, range(20, 40)), row(3)]
    (tmp_path / "in.json").write_text(json.dumps(rows, ensure_ascii=False, indent=indent), encoding="utf-8")
    files = {name: tmp_path / f"{name}.json" for name in ("rejects", "report")}
    clean.clean_file(tmp_path / "in.json", tmp_path / "out.json", **files, off=(clean.NEAR,))
    turns = [item["conversation"][0] for item in rows]
    expected = clean.clean_turns(turns, off=(clean.NEAR,))
    assert [list(turn.items()) for turn in records.read_conversations(tmp_path / "out.json")] == [
        list(turn.items()) for turn in expected.kept
    ]
    assert records.read_jsonl(files["rejects"]) == expected.rejects


def test_a_fault_behind_many_blocks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(clean, "_BLOCK", 500)
    rows = [*map(row, range(20)), {"conversation": [{"system": "", "input": "祝姐姐生日"}]}]
    (tmp_path / "in.json").write_text(json.dumps(rows, ensure_ascii=False, indent=4), encoding="utf-8")
    files = {name: tmp_path / f"{name}.json" for name in ("rejects", "report")}
    with pytest.raises(CourseError, match=r"第 21 条.*output"):
        clean.clean_file(tmp_path / "in.json", tmp_path / "out.json", **files)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.slow
def test_two_processes_clean_a_file_as_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(clean, "_BLOCK", 2000)
    monkeypatch.setattr(clean, "_PARALLEL_ROWS", clean._PART)
    turns = [row(number % 700)["conversation"][0] for number in range(3000)]
    records.write_conversations(tmp_path / "in.json", turns)
    written = []
    for count in (1, 2):
        files = {name: tmp_path / f"{name}{count}.json" for name in ("rejects", "report")}
        clean.clean_file(tmp_path / "in.json", tmp_path / f"out{count}.json", **files, processes=count)
        written.append([path.read_bytes() for path in (tmp_path / f"out{count}.json", *files.values())])
    assert written[0] == written[1]
