"""A disk that fails when it is told to (``failing_disk.c``), for programs that the tests start.

A program runs with the library before all others, and tries everything in one process: between two tries it
only changes the orders.
"""

import ctypes
import errno
import io
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import count
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
# (error, whether all later calls fail too, whether half of the data comes through)
KINDS = {
    "one error": (errno.EIO, False, False),
    "full": (errno.ENOSPC, True, False),
    "full in the middle of a write": (errno.ENOSPC, True, True),
}


class Orders(ctypes.Structure):
    """What the library shall do; see its source."""

    _fields_ = [(name, ctypes.c_int64) for name in ("count", "at", "error", "lasting", "halves")]

    def give(self, at: int, error: int = 0, lasting: bool = False, halves: bool = False) -> None:
        self.count, self.error, self.lasting, self.halves = 0, error, lasting, halves
        self.at = at


def build(folder: Path) -> Path | None:
    """Compile the library; None where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        return None
    library = folder / "failing_disk.so"
    if not library.exists():
        own = folder / f"{os.getpid()}.so"  # another process may be at it
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", own, SOURCE, "-ldl", "-lpthread"], check=True
        )
        own.replace(library)
    return library


def run(library: Path, folder: Path, *command: str | Path, record: Path | None = None) -> str:
    """Run a Python program on the disk; return what it printed. Fails with its words if it fails.

    folder: where the disk fails. record: a file for what was written there.
    """
    orders = folder.with_name(folder.name + ".orders")
    orders.write_bytes(bytes(ctypes.sizeof(Orders)))
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "FAILING_DISK_ORDERS": str(orders),
        "FAILING_DISK_FOLDER": str(folder.resolve()),
        "PYTHONPATH": os.pathsep.join([*sys.path, str(SOURCE.parent)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if record is not None:
        environment["FAILING_DISK_RECORD"] = str(record)
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def orders() -> Orders:
    """Return the orders that hold in this process and its children."""
    with Path(os.environ["FAILING_DISK_ORDERS"]).open("r+b") as file:
        return Orders.from_buffer(mmap.mmap(file.fileno(), 0))


def every_call(
    act: Callable[[], None], begin: Callable[[], None], kinds: Iterable[str] = KINDS
) -> Iterator[tuple[str, int]]:
    """Let the first call of ``act`` fail, then the second, until there is none left, in every way.

    kinds: of ``KINDS``. begin: lays out the folder as it was before. Yields (how it failed, number of the
    call) after each.
    """
    told = orders()
    for kind in kinds:
        error, lasting, halves = KINDS[kind]
        for at in count(1):
            begin()
            told.give(at, error, lasting, halves)
            try:
                act()
            finally:
                calls = told.count
                told.give(0)
            if calls < at:
                break
            yield kind, at


def command(*words: str | Path) -> tuple[int, str]:
    """Run a command line of the course here; return the exit status and what it said."""
    from tianji_toolbox import cli

    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as error:  # a command line that cannot be understood
            status = error.code
    return status, said.getvalue()


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return all that lies below a folder: the bytes of files, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def lay_out(folder: Path, wanted: dict[str, bytes | None]) -> None:
    """Make a folder hold just what ``contents`` once returned."""
    shutil.rmtree(folder)
    folder.mkdir()
    for name, data in wanted.items():
        if data is None:
            (folder / name).mkdir(exist_ok=True)
        else:
            (folder / name).write_bytes(data)
