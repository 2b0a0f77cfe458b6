"""One process at a time: locks on files, which the operating system gives back when a process dies.

Two kinds are used: ``flock`` (here, and in ``dataset.decisions`` on a folder) and SQLite's own, which are
POSIX locks (``synthesis.journal``). A network disk may have neither; then nothing is done without one.
"""

import fcntl
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tianji_helpers.errors import CourseError

REMEDY = (
    "这个文件夹所在的磁盘（多半是网络盘）不支持文件锁。请把结果和模型放到本机的磁盘上"
    "（--output，环境变量 TIANJI_OUTPUT_DIR、TIANJI_MODELS_DIR），或请管理员打开文件锁"
)
_MARK = ".tianji-scratch"  # in a folder that goes with its process
_SCRATCH = re.compile(r"\..+\.[a-z0-9_]{8}")  # as ``tempfile`` names it


class Held(Exception):
    """Another process holds the lock."""


@contextmanager
def alone(file: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of a file, which is made; others wait.

    timeout: seconds to wait for another who holds it, for ever if negative. Raises Held then, and CourseError
    if the file cannot be locked at all.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(file, timeout=timeout)
    try:
        with told(file):
            lock.acquire()
    except Timeout as error:
        raise Held(file) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what the system says about locking ``path`` into a CourseError."""
    try:
        yield
    except TimeoutError:  # the lock's own word for: not yet
        raise
    except (OSError, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        remedy = "请检查磁盘空间和文件夹权限" if works_in(path.parent) else REMEDY
        raise CourseError(f"锁不住 {path}（{reason or error}）：{remedy}。") from error


def works_in(folder: Path) -> bool:
    """Say whether files in a folder can be locked, in both ways; what can have no files has no such fault."""
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed below
    except OSError:
        return True
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Make a folder beside ``folder`` that goes at the end; what killed processes have left there goes first.

    Only what is proved to be such a folder goes: by its name, its owner, and a mark of this kernel (locks of
    another may not be seen here) which nobody holds the lock of. A mark is locked before it has its name, so
    that a living process always holds the one that is seen.
    """
    with suppress(OSError):
        for place in filter(lambda item: _SCRATCH.fullmatch(item.name), list(folder.parent.iterdir())):
            with suppress(OSError):  # somebody holds it, or it is not ours to remove
                _remove(place)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}.", ignore_cleanup_errors=True
    ) as name:
        place = Path(name)
        with (place / f"{_MARK}.new").open("w", encoding="utf-8") as file:
            with suppress(OSError):  # without locks it has no mark, and stays when its process is killed
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.write(_owner(place))
                file.flush()
                Path(file.name).rename(place / _MARK)
            yield place


def _owner(place: Path) -> str:
    """Return what a mark says: the folder's name, lest a copy counts, and the kernel that holds its lock."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{place.name} {boot.read_text().strip() if boot.exists() else platform.node()}"


def _remove(place: Path) -> None:
    """Remove a scratch folder; raises OSError if its process lives, or if it is none."""
    if place.is_symlink() or place.lstat().st_uid != os.getuid():
        return
    mark = place / _MARK
    with os.fdopen(os.open(mark, os.O_RDWR | os.O_NOFOLLOW), encoding="utf-8", mode="r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if file.read() != _owner(place):
            return
        for item in place.iterdir():
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            elif item != mark:  # it is the last to go: what is stopped here goes on at the next start
                item.unlink()
        mark.unlink()
        place.rmdir()
