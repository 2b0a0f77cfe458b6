"""One process at a time: locks on files, which the operating system gives back when a process dies.

Two kinds are used: ``flock`` (here, and in ``dataset.decisions`` on a folder) and SQLite's own, which are
POSIX locks (``synthesis.journal``). A network disk may have neither; then nothing is done without one.
"""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tianji_helpers.errors import CourseError

REMEDY = (
    "这个文件夹所在的磁盘（多半是网络盘）不支持文件锁。请把结果和模型放到本机的磁盘上"
    "（--output，环境变量 TIANJI_OUTPUT_DIR、TIANJI_MODELS_DIR），或请管理员打开文件锁"
)


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
