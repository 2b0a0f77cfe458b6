"""Decisions are kept as they were made, and the last one about a row holds."""

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

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
        ('{"key": "k", "action": "drop"}', "'drop'，只能是 keep、edit、reject、undo"),
        ('{"key": "k", "action": ["keep"]}', "只能是"),
        ('{"key": "k", "action": "edit"}', "output"),
        ('{"key": "k", "action": "edit", "output": " "}', "是空的"),
        ('{"key": "k", "action": "edit", "output": "\\ud83d"}', "半个"),
        ("[]", "应当是对象"),
        ("{", "不是合法的 JSON"),
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
    with pytest.raises(CourseError, match="读不了"):
        decisions.append(tmp_path, "k", "keep")
    assert not list(tmp_path.iterdir())


def test_steps_are_taken_back_one_by_one(tmp_path):
    path = tmp_path / "decisions.jsonl"
    for key, action in [("a", "keep"), ("b", "reject"), ("a", "reject")]:
        decisions.append(path, key, action)
    assert decisions.undo(path, "b") == {"key": "b", "action": "reject"}
    taken = [decisions.undo(path) for _ in range(3)]
    assert [row and (row["key"], row["action"]) for row in taken] == [("a", "reject"), ("a", "keep"), None]
    assert decisions.history(path) == []


def test_the_lines_of_an_earlier_version_take_back(tmp_path):
    path = tmp_path / "decisions.jsonl"
    steps = [("a", "keep"), ("b", "keep"), ("a", "reject"), ("a", "undo"), ("nobody", "undo")]
    lines = [json.dumps({"key": key, "action": action}) + "\n" for key, action in steps]
    path.write_text("".join(lines), encoding="utf-8")
    assert path.read_text(encoding="utf-8").startswith(lines[0])
    assert [(row["key"], row["action"]) for row in decisions.history(path)] == steps[:2]


def test_several_decisions_are_written_at_once_or_not_at_all(tmp_path):
    path = tmp_path / "decisions.jsonl"
    rows = [{"key": str(number), "action": "keep"} for number in range(500)]
    decisions.extend(path, rows)
    with pytest.raises(CourseError, match="只能是"):
        decisions.extend(path, [*rows, {"key": "k", "action": "drop"}])
    assert decisions.history(path) == rows


def test_what_the_page_has_shown_as_done_survives_kill(tmp_path):
    path = tmp_path / "decisions.jsonl"
    code = f"""
import itertools
from tianji_helpers.dataset import decisions
for number in itertools.count():
    decisions.append({str(path)!r}, str(number), "keep")
    print(number, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        shown = [process.stdout.readline() for _ in range(20)]
        process.kill()
        shown += process.stdout.readlines()
    assert set(map(str.strip, filter(lambda line: line.endswith("\n"), shown))) <= set(decisions.read(path))


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "decisions.jsonl"
    code = f"""
import resource
from tianji_helpers.dataset import decisions
decisions.append({str(path)!r}, "a", "keep")
resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))
decisions.append({str(path)!r}, "b" * 64, "keep")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "CourseError: 写不了" in done.stderr
    assert path.read_bytes() == b'{"key": "a", "action": "keep"}\n'


def test_two_writers_lose_nothing(tmp_path):
    path = tmp_path / "decisions.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: decisions.append(path, str(key), "keep"), range(40)))
    assert set(decisions.read(path)) == set(map(str, range(40)))


def test_a_disk_that_does_not_keep_a_decision_or_cannot_lock_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(5, "Input/output error")

    path = tmp_path / "decisions.jsonl"
    monkeypatch.setattr(
        decisions.os, "fsync", lambda place, real=os.fsync: refuse() if is_folder(place) else real(place)
    )
    with pytest.raises(CourseError, match=r"decisions\.jsonl 写好了，但不知道断电以后还在不在"):
        decisions.append(path, "a", "keep")
    monkeypatch.setattr(decisions.fcntl, "flock", refuse)
    with pytest.raises(CourseError, match=r"锁不住 .*decisions\.jsonl"):
        decisions.append(path, "b", "keep")
    with pytest.raises(CourseError, match=r"写不了 .*请检查磁盘空间和文件夹权限"):
        decisions.append(path / "inner" / "decisions.jsonl", "a", "keep")


def is_folder(place):
    return stat.S_ISDIR(os.fstat(place).st_mode)
