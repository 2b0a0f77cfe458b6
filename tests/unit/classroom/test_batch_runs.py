"""One notebook in a process of its own: how it ends, and that nothing of it stays."""

import json
import os
import re
import signal
import subprocess
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import batch_run, jail
from tianji_toolbox.classroom.batch_plan import Run
from tianji_toolbox.classroom.runs import Limits, Status, run_notebook
from tianji_toolbox.classroom.watch import Watch

pytestmark = pytest.mark.slow

SECONDS = f"99.{os.getpid()}"  # by which these tests know their own
SLEEPER = f"import subprocess\nchild = subprocess.Popen(['sleep', '{SECONDS}'], start_new_session=True)\n"
SLEEPER += "print('sleeping', child.poll() is None)"


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


def nothing_sleeps():
    """Wait for the end of what was killed: a busy machine takes a moment to bury it."""
    for _ in range(100):
        if not [process for process in psutil.process_iter() if is_sleeper(process)]:
            return True
        time.sleep(0.1)
    return False


def is_sleeper(process):
    try:
        return process.cmdline()[1:] == [SECONDS] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_a_notebook_that_runs_through(write, tmp_path):
    notes = []
    path = write("open('/dev/null', 'w').write('gone')\nprint('hello', name)")
    out, log = tmp_path / "{out}" / "lesson.ipynb", tmp_path / "log.txt"
    result = run_notebook(path, out, parameters={"name": "小红"}, log=log, on_note=notes.append)
    assert (result.status, result.reason, result.cell) == ("done", "", None)
    assert printed(out) == "hello 小红\n" == quiet(log.read_text(encoding="utf-8"))
    assert {"cell": 3, "cells": 3} in notes
    assert 0.03 < result.peak_memory_gb < 1 and 0 < result.minutes < 1


def test_a_cell_that_raises_is_named_and_nothing_stays(write, tmp_path):
    out = tmp_path / "out.ipynb"
    result = run_notebook(write("x = 1", SLEEPER, "1 / 0"), out)
    assert (result.status, result.cell) == ("error", 4)
    assert result.reason.startswith("ZeroDivisionError: division by zero\n----> 1 1 / 0")
    assert printed(out) == "sleeping True\n" and nothing_sleeps()


def test_one_that_never_ends_is_ended_with_all_it_started(write, tmp_path):
    path = write(SLEEPER, "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass")
    result = run_notebook(path, tmp_path / "out.ipynb", limits=Limits(minutes=0.1))
    assert (result.status, result.reason) == ("time", "超过时限 6 秒") and result.minutes < 1
    assert nothing_sleeps()


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


def test_one_that_kills_all_that_it_can(write, tmp_path):
    kill = "import os, signal\nfor pid in (os.getppid(), os.getpid()):\n    os.kill(pid, signal.SIGKILL)"
    result = run_notebook(write(SLEEPER, kill), tmp_path / "out.ipynb")
    assert (result.status, result.cell) == ("died", 3) and "内核结束了" in result.reason
    assert nothing_sleeps() and (tmp_path / "out.ipynb").is_file()


@pytest.mark.skipif(bool(jail.why_not()), reason=jail.why_not())
def test_it_writes_only_where_it_may(write, tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir(), other.mkdir()
    (other / "input.txt").write_text("keep me")
    path = write(
        f"from pathlib import Path\nimport shutil, tempfile\n(Path({str(own)!r}) / 'x').write_text('x')",
        "tempfile.NamedTemporaryFile().write(b'x')\nopen('/dev/null', 'w').write('gone')",
        f"shutil.rmtree({str(other)!r})",
    )
    result = run_notebook(path, own / "out.ipynb", writable=[own])
    assert (result.status, result.cell) == ("error", 4) and "Read-only file system" in result.reason
    assert (other / "input.txt").read_text() == "keep me" and (own / "x").is_file()


def test_a_notebook_that_is_none(tmp_path):
    with pytest.raises(CourseError, match="找不到笔记本"):
        run_notebook(tmp_path / "none.ipynb", tmp_path / "out.ipynb")
    (tmp_path / "broken.ipynb").write_text("{")
    result = run_notebook(tmp_path / "broken.ipynb", tmp_path / "out.ipynb")
    assert result.status == "error" and not (tmp_path / "out.ipynb").exists()


def test_without_bubblewrap_it_runs_too_and_what_it_left_is_found(write, tmp_path, monkeypatch):
    monkeypatch.setattr(jail, "why_not", lambda: "没有 bubblewrap")
    result = run_notebook(write("name = 'b'", SLEEPER), tmp_path / "out.ipynb", writable=[tmp_path])
    assert result.status == "done" and printed(tmp_path / "out.ipynb") == "sleeping True\n"
    assert nothing_sleeps()


def test_what_cannot_be_watched_is_ended():
    with subprocess.Popen(["sleep", SECONDS]) as child:
        watch = Watch(child.pid, seconds=60, memory_gb=1, more=lambda: 1 / 0)
        watch.start()
        assert child.wait(300) == -signal.SIGKILL and "ZeroDivisionError" in watch.ended[1]


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


def test_of_a_run_that_was_cut_off_all_goes_but_what_came_later(tmp_path, monkeypatch):
    folder, key = tmp_path / "one", iter("abc")

    def cut_off():
        run = Run("one", (), {}, {}, next(key))
        batch_run.execute(run, folder, Limits(), threads=1)
        records.write_json(folder / "run.json", {"made_by": "tianji batch"})
        batch_run.write_status(folder, Status("one", "running", key=run.key))

    cut_off()
    (folder / "notebooks" / "half.ipynb").write_text("of the run")
    cut_off()
    assert [item.name for item in tmp_path.glob("one*")] == ["one"] and not [*folder.glob("notebooks/*")]
    monkeypatch.setattr(records, "_LAST_MINUTE", 0.2)
    time.sleep(0.5)
    batch_run.write_status(folder, Status("one", "memory", "没有开始", key="x"))  # nobody's work
    (tmp_path / "old.txt").write_text("moved there later")
    os.utime(tmp_path / "old.txt", (1, 1))
    (tmp_path / "old.txt").rename(folder / "notebooks" / "old.txt")
    cut_off()
    assert (tmp_path / "one.kept-1" / "notebooks" / "old.txt").read_text() == "moved there later"
    assert not (tmp_path / "one.kept-2").exists() and not [*folder.glob("notebooks/*")]


def test_a_run_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_run, "_PULSE", 0)
    (tmp_path / "run.json").touch()
    os.utime(tmp_path / "run.json", (1, 1))
    said = []
    note = batch_run._signs_of_life(tmp_path / "run.json", said.append)
    note({"memory_gb": 1.0})
    assert said == [{"memory_gb": 1.0}] and (tmp_path / "run.json").stat().st_mtime > 1e9
    (tmp_path / "run.json").unlink()
    note({"cell": 1})
    assert len(said) == 2 and not list(tmp_path.iterdir())


def test_a_run_that_only_has_a_status_makes_room(tmp_path):
    folder = tmp_path / "one"
    batch_run.write_status(folder, Status("one", "memory", "没有开始", key="a"))
    assert batch_run.execute(Run("one", (), {}, {}, "b"), folder, Limits(), threads=1).key == "b"
    assert [item.name for item in tmp_path.iterdir() if not item.name.startswith(".")] == ["one"]


@pytest.mark.parametrize(
    "change",
    [{"status": "evil"}, {"status": 5}, {"minutes": "x"}, {"peak_memory_gb": None}, {"cell": []}],
)
def test_a_damaged_status_is_none(change, tmp_path):
    status = {"name": "one", "status": "error", "reason": ""}
    (tmp_path / "status.json").write_text(json.dumps(status | change), encoding="utf-8")
    assert batch_run.read_status(tmp_path) == Status(tmp_path.name)
    (tmp_path / "status.json").unlink()
    os.mkfifo(tmp_path / "status.json")  # who reads it would wait for ever
    assert batch_run.read_status(tmp_path) == Status(tmp_path.name)


@pytest.mark.parametrize("home", ["", "own"])
def test_a_run_may_write_into_the_libraries_folder_where_there_is_one(home, homeless, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (caches := tmp_path / "own" / ".cache").mkdir(parents=True)
    if home:
        monkeypatch.setenv("HOME", str(caches.parent))
    seen = []

    def run_notebook(*_, writable, **__):
        seen.append(writable)
        return Status("01", "done")

    monkeypatch.setattr(batch_run.runs, "run_notebook", run_notebook)
    run = Run("a", (tmp_path / "01.ipynb",), {"01": {}}, {}, "key")
    assert batch_run.execute(run, tmp_path / "a", Limits(), threads=1).status == "done"
    assert seen == [[tmp_path / "a", *([caches] if home else [])]]
