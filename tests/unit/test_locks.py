"""Locks: one holder at a time, and an error that says what is wrong. Disks without locks: tests/faults."""

import pytest

from tianji_helpers import locks
from tianji_helpers.errors import CourseError


def test_a_second_holder_is_refused_until_the_first_is_done(tmp_path):
    with (
        locks.alone(tmp_path / ".lock"),
        pytest.raises(locks.Held),
        locks.alone(tmp_path / ".lock", timeout=0),
    ):
        pytest.fail("both held it")
    with locks.alone(tmp_path / ".lock", timeout=0):
        pass
    assert locks.works_in(tmp_path)


def test_what_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CourseError, match=r"锁不住 .*\.lock.*磁盘空间和文件夹权限"),
        locks.alone(tmp_path / "file" / ".lock"),
    ):
        pytest.fail("it was held")


def test_a_disk_without_locks_is_told_from_other_faults(tmp_path, monkeypatch):
    def none(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", none)
    assert not locks.works_in(tmp_path) and locks.works_in(tmp_path / "nowhere")
    with pytest.raises(CourseError, match="不支持文件锁"), locks.told(tmp_path / ".lock"):
        raise OSError(37, "No locks available")
