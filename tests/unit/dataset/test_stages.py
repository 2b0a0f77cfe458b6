"""A later notebook finds what it needs, made once."""

import json

import pytest

from tianji_helpers import paths, records, wishes
from tianji_helpers.dataset import stages
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis.phrasebook import Phrasebook


def test_wishes_are_made_once_from_the_rounds(tmp_path):
    with pytest.raises(CourseError, match="第 1 课"):
        stages.ensure_wishes(tmp_path)
    matrix = wishes.load()
    book = Phrasebook(matrix)
    rows = []
    for recipient, scene in matrix.pairs():
        turn = dict.fromkeys(records.RAW_FIELDS, "")
        turn |= {"system": matrix.system, "input": matrix.request(recipient, scene, "正常")}
        rows.append({"conversation": [turn | {"output": book.compose(recipient, scene, "正常")}]})
    file = paths.stage_dir("01", tmp_path) / "wishes_正常_2026-01-01-00-00-00.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")

    assert stages.ensure_wishes(tmp_path)
    out = paths.stage_dir("02", tmp_path)
    parts = [
        len(records.read_conversations(out / f"wishes{part}.json")) for part in ("", "_train", "_heldout")
    ]
    assert parts[0] == parts[1] + parts[2] > 300
    assert not stages.ensure_wishes(tmp_path)


def test_the_other_two(tmp_path):
    assert stages.ensure_self_cognition(tmp_path)
    assert not stages.ensure_self_cognition(tmp_path)
    assert records.read_conversations(paths.stage_dir("03", tmp_path) / "self_cognition_heldout.json")
    assert stages.ensure_ruozhiba(tmp_path)
    assert not stages.ensure_ruozhiba(tmp_path)
    assert records.read_jsonl(paths.stage_dir("04", tmp_path) / "ruozhiba_test.jsonl")
