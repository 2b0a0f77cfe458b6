"""Decisions are kept as they were made, and the last one about a row holds."""

import pytest

from tianji_helpers.dataset import decisions
from tianji_helpers.errors import CourseError

TURN = {"system": "送祝福", "input": "祝姐姐生日", "output": "生日快乐！"}


def test_the_last_line_about_a_row_holds_and_can_be_undone(tmp_path):
    path = tmp_path / "new" / "decisions.jsonl"
    assert decisions.read(path) == {} and decisions.undo(path) is None
    key, other = decisions.key_of(TURN), decisions.key_of({**TURN, "output": "快乐！"})
    decisions.append(path, key, "reject")
    decisions.append(path, other, "keep")
    decisions.append(path, key, "edit", "姐姐，生日快乐🎂")
    edited = {"key": key, "action": "edit", "output": "姐姐，生日快乐🎂"}
    assert decisions.read(path) == {key: edited, other: {"key": other, "action": "keep"}}
    assert decisions.undo(path) == edited
    assert decisions.read(path)[key]["action"] == "reject"


def test_a_key_tells_rows_apart():
    assert len({decisions.key_of({**TURN, name: "x"}) for name in TURN} | {decisions.key_of(TURN)}) == 4
    assert decisions.key_of({"input": "a", "output": "b"}) == decisions.key_of(
        {"system": "", "input": "a", "output": "b"}
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"action": "keep"}', "key"),
        ('{"key": 3, "action": "keep"}', "key"),
        ('{"key": "k", "action": "drop"}', "'drop'，只能是 keep、edit、reject"),
        ('{"key": "k", "action": ["keep"]}', "只能是"),
        ('{"key": "k", "action": "edit"}', "output"),
        ('{"key": "k", "action": "edit", "output": " "}', "是空的"),
        ('{"key": "k", "action": "edit", "output": "\\ud83d"}', "半个"),
        ("[]", "应当是对象"),
    ],
)
def test_a_line_that_is_no_decision_is_named(tmp_path, line, words):
    path = tmp_path / "decisions.jsonl"
    path.write_text('{"key": "k", "action": "keep"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(CourseError, match=words) as error:
        decisions.read(path)
    assert "第 2 行" in str(error.value)


def test_a_decision_that_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(CourseError, match="只能是"):
        decisions.append(tmp_path / "decisions.jsonl", "k", "drop")
    with pytest.raises(CourseError, match="写不了"):
        decisions.append(tmp_path, "k", "keep")
    assert not list(tmp_path.iterdir())
