"""One notebook in a process of its own: how it ends, and that nothing of it stays."""

import re
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import batch_run, landlock
from tianji_toolbox.classroom.batch_plan import Run
from tianji_toolbox.classroom.batch_run import Status
from tianji_toolbox.classroom.runs import Limits, run_notebook

SLEEPER = (
    "import subprocess\n"
    "child = subprocess.Popen(['sleep', '99'], start_new_session=True)\n"
    "print('pid', child.pid, flush=True)"
)


@pytest.fixture
def write(tmp_path):
    def write(*cells, name="lesson"):
        path = tmp_path / f"{name}.ipynb"
        first = new_code_cell("name = 'a'", metadata={"tags": ["parameters"]})
        nbformat.write(new_notebook(cells=[first, *map(new_code_cell, cells)]), path)
        return path

    return write


def printed(path):
    cells = nbformat.read(path, as_version=4).cells
    return quiet("".join(output.get("text", "") for cell in cells for output in cell.get("outputs", [])))


def quiet(text):
    """Take out what libzmq says where sockets are emulated."""
    return re.sub(r"Assertion failed: pfd\.revents & POLLIN \(.*\)\n", "", text)


def is_gone(pid):
    """Wait for the end of a process that was killed: a busy machine takes a moment to bury it."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_a_notebook_that_runs_through(write, tmp_path):
    notes = []
    path, out, log = write("print('hello', name)"), tmp_path / "{out}" / "lesson.ipynb", tmp_path / "log.txt"
    result = run_notebook(path, out, parameters={"name": "小红"}, log=log, on_note=notes.append)
    assert (result.status, result.reason, result.cell) == ("done", "", None)
    assert printed(out) == "hello 小红\n" == quiet(log.read_text(encoding="utf-8"))
    assert {"cell": 3, "cells": 3} in notes and {"text": "hello 小红"} in notes
    assert 0.03 < result.peak_memory_gb < 1 and 0 < result.minutes < 1


def test_a_cell_that_raises_is_named_and_nothing_stays(write, tmp_path):
    out = tmp_path / "out.ipynb"
    result = run_notebook(write("x = 1", SLEEPER, "1 / 0"), out)
    assert (result.status, result.cell) == ("error", 4)
    assert result.reason.startswith("ZeroDivisionError: division by zero\n----> 1 1 / 0")
    assert is_gone(int(printed(out).split()[1]))


def test_one_that_never_ends_is_ended_with_all_it_started(write, tmp_path):
    log = tmp_path / "log.txt"
    path = write(SLEEPER, "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass")
    result = run_notebook(path, tmp_path / "out.ipynb", limits=Limits(minutes=0.1), log=log)
    assert (result.status, result.reason) == ("time", "超过时限 0.1 分钟") and result.minutes < 1
    # a machine with much else to do may not have come so far in 6 s
    assert all(is_gone(int(line.split()[1])) for line in log.read_text().splitlines())


def test_one_that_takes_all_memory_is_ended(write, tmp_path):
    out = tmp_path / "out.ipynb"
    result = run_notebook(
        write("import time\nx = bytearray(900 << 20)\ntime.sleep(60)"), out, limits=Limits(memory_gb=0.6)
    )
    assert (result.status, result.cell) == ("memory", 2)
    assert "超过上限 0.6 GB" in result.reason and result.peak_memory_gb > 0.6 and out.is_file()


def test_one_that_writes_past_its_kernel_without_end_is_ended(write, tmp_path):
    out, log = tmp_path / "out.ipynb", tmp_path / "log.txt"
    # under pytest the kernel does not take in what goes straight to standard output
    path = write("import os\nwhile True:\n    os.write(1, b'y' * 1000 + b'\\n')")
    result = run_notebook(path, out, limits=Limits(output_mb=0.5), log=log)
    assert (result.status, result.cell, result.reason) == ("output", 2, "输出超过上限 0.5 MB")
    assert out.stat().st_size < 1e6 and log.stat().st_size < 1e6


def test_one_that_kills_what_runs_it(write, tmp_path):
    path = write(
        SLEEPER, "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nimport time\ntime.sleep(60)"
    )
    log = tmp_path / "log.txt"
    result = run_notebook(path, tmp_path / "out.ipynb", log=log)
    assert (result.status, result.cell) == ("died", 3) and "退出码 -9" in result.reason
    assert is_gone(int(log.read_text().split()[1]))


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_it_writes_only_where_it_may(write, tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir(), other.mkdir()
    (other / "input.txt").write_text("keep me")
    path = write(
        f"from pathlib import Path\nimport shutil, tempfile\n(Path({str(own)!r}) / 'x').write_text('x')",
        "tempfile.NamedTemporaryFile().write(b'x')",
        f"shutil.rmtree({str(other)!r})",
    )
    result = run_notebook(path, own / "out.ipynb", writable=[own])
    assert (result.status, result.cell) == ("error", 4) and "PermissionError" in result.reason
    assert (other / "input.txt").read_text() == "keep me" and (own / "x").is_file()


def test_a_notebook_that_is_none(tmp_path):
    with pytest.raises(CourseError, match="找不到笔记本"):
        run_notebook(tmp_path / "none.ipynb", tmp_path / "out.ipynb")
    (tmp_path / "broken.ipynb").write_text("{")
    result = run_notebook(tmp_path / "broken.ipynb", tmp_path / "out.ipynb")
    assert result.status == "error" and not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize("name", ["diary.txt", "run.json", "status.json", "notebooks/lesson.ipynb"])
def test_what_no_batch_made_is_kept(name, tmp_path):
    folder, key = tmp_path / "one", iter("abcde")

    def execute():
        run = Run("one", (), {}, {}, next(key))
        return batch_run.execute(run, folder, Limits(), threads=1)

    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("private")
    execute(), execute(), execute()
    assert [item.name for item in tmp_path.glob("one*")] == ["one", "one.kept-1"]
    assert (tmp_path / "one.kept-1" / name).read_text() == "private"
    assert "one.kept-1" not in (folder / "status.json").read_text()
    (folder / "my notes.txt").write_text("added later")
    execute(), execute()
    assert (tmp_path / "one.kept-2" / "my notes.txt").read_text() == "added later"
    assert not (tmp_path / "one.kept-3").exists()


def test_a_run_that_only_has_a_status_makes_room(tmp_path):
    folder = tmp_path / "one"
    batch_run.write_status(folder, Status("one", "memory", "没有开始", key="a"))
    assert batch_run.execute(Run("one", (), {}, {}, "b"), folder, Limits(), threads=1).key == "b"
    assert [item.name for item in tmp_path.iterdir() if not item.name.startswith(".")] == ["one"]
