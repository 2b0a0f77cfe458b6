"""Locks: one holder at a time, and an error that says what is wrong. Disks without locks: tests/faults."""

import shutil
import subprocess
import sys

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


WORK = """
import sys, time
from pathlib import Path
from tianji_helpers import locks
with locks.scratch(Path(sys.argv[1])) as place:
    (place / "result").mkdir()
    (place / "result" / "weights").write_text("gigabytes")
    print(place, flush=True)
    time.sleep(60)
"""


def worker(folder):
    process = subprocess.Popen([sys.executable, "-c", WORK, str(folder)], stdout=subprocess.PIPE, text=True)
    return process, folder.parent / process.stdout.readline().strip()


def test_what_a_killed_process_has_left_goes_at_the_next_start_and_nothing_else(tmp_path):
    folder = tmp_path / "merged"
    (process, living), (killed, left) = worker(folder), worker(tmp_path / "other")
    killed.kill()
    killed.communicate()
    (left / "link").symlink_to(living)
    others = {
        "renamed": shutil.copytree(left, tmp_path / "mine", symlinks=True),
        "without a mark": shutil.copytree(left, tmp_path / ".other.aaaaaaaa", symlinks=True),
        "of another machine": shutil.copytree(left, tmp_path / ".other.bbbbbbbb", symlinks=True),
        "a copy": shutil.copytree(left, tmp_path / ".other.backup_1", symlinks=True),
        "not of such a name": shutil.copytree(left, tmp_path / ".other", symlinks=True),
    }
    (others["without a mark"] / locks._MARK).unlink()
    (others["of another machine"] / locks._MARK).write_text("elsewhere")
    (tmp_path / ".other.cccccccc").symlink_to(others["renamed"])
    with locks.scratch(folder) as place:
        assert not left.exists() and place.is_dir() and place.name.startswith(".merged.")
        assert (living / "result" / "weights").read_text() == "gigabytes"
        assert all((kept / "result" / "weights").is_file() for kept in others.values())
    process.kill()
    process.communicate()
    with locks.scratch(folder):
        assert not living.exists()
    assert {item.name for item in tmp_path.iterdir()} == {
        *(kept.name for kept in others.values()),
        ".other.cccccccc",
    }


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    def none(file, operation):
        raise OSError(37, "No locks available")

    killed, left = worker(tmp_path / "merged")
    killed.kill()
    killed.communicate()
    with monkeypatch.context() as patch:
        patch.setattr(locks.fcntl, "flock", none)
        with locks.scratch(tmp_path / "merged") as place:
            assert left.exists() and not (place / locks._MARK).exists()
    assert list(tmp_path.iterdir()) == [left]
