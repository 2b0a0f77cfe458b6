"""Cleaning whole files: rows of any layout alike, faults named, two processes as one."""

import json

import pytest

from tianji_helpers import records
from tianji_helpers.dataset import clean, processes
from tianji_helpers.errors import CourseError


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
    monkeypatch.setattr(records, "_BLOCK", 500)
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


def test_a_fault_behind_many_blocks_of_the_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_BLOCK", 500)
    rows = [*map(row, range(20)), {"conversation": [{"system": "", "input": "祝姐姐生日"}]}]
    (tmp_path / "in.json").write_text(json.dumps(rows, ensure_ascii=False, indent=4), encoding="utf-8")
    files = {name: tmp_path / f"{name}.json" for name in ("rejects", "report")}
    with pytest.raises(CourseError, match=r"第 21 条.*output"):
        clean.clean_file(tmp_path / "in.json", tmp_path / "out.json", **files)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.slow
def test_two_processes_clean_a_file_as_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(clean, "_PART", 100)
    monkeypatch.setattr(clean, "_PARALLEL_ROWS", 100)
    turns = [row(number % 700)["conversation"][0] for number in range(3000)]
    records.write_conversations(tmp_path / "in.json", turns)
    written = []
    for count in (1, 2):
        monkeypatch.setattr(processes, "PROCESSES", count)
        files = {name: tmp_path / f"{name}{count}.json" for name in ("rejects", "report")}
        clean.clean_file(tmp_path / "in.json", tmp_path / f"out{count}.json", **files)
        written.append([path.read_bytes() for path in (tmp_path / f"out{count}.json", *files.values())])
    assert written[0] == written[1]
