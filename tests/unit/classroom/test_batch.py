"""Batches of small real notebooks: in parallel, within memory, resumed; no run harms another."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from tianji_helpers.errors import CourseError
from tianji_toolbox import cli, doctor
from tianji_toolbox.classroom import batch, batch_plan, jail

pytestmark = pytest.mark.slow


class Class:
    """A folder with a plan, its notebook and its outputs."""

    def __init__(self, folder):
        self.folder, self.file, self.out = folder, folder / "plan.yaml", folder / "out"

    def write(self, code, names, **keys):
        first = new_code_cell('name = "a"', metadata={"tags": ["parameters"]})
        cells = [first, *map(new_code_cell, ["import os, time\nfrom tianji_helpers import paths", code])]
        nbformat.write(new_notebook(cells=cells), self.folder / "toy.ipynb")
        plan = {"notebooks": ["toy"], "grid": {"name": names}, "minutes": 2, "memory_gb": 1} | keys
        self.file.write_text(yaml.safe_dump(plan, allow_unicode=True))
        return self

    def run(self, **options):
        return batch.run_batch(batch_plan.load(self.file), self.out, **options)

    def start(self, *options):
        """Start the batch as a user does, and wait until a run is in its last cell."""
        command = [
            sys.executable,
            "-m",
            "tianji_toolbox.cli",
            "batch",
            str(self.file),
            "--output",
            str(self.out),
        ]
        child = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        until = time.monotonic() + 300
        while not list(self.out.glob("runs/*/here")):
            assert time.monotonic() < until and child.poll() is None
            time.sleep(0.1)
        return child


@pytest.fixture
def course_class(tmp_path):
    return Class(tmp_path)


def outcomes(statuses):
    return {status.name.removeprefix("name="): status.status for status in statuses}


BAD = """
if name == "leaves":
    os._exit(0)
elif name == "deletes":
    import shutil
    shutil.rmtree(paths.run_dir().parent / "name=good")
elif name == "prints":
    print("x" * 25_000_000)
elif name == "mended" and not (paths.run_dir().parents[2] / "mended").exists():
    raise RuntimeError("not yet")
print(name, os.environ["OMP_NUM_THREADS"])
"""


@pytest.mark.skipif(bool(jail.why_not()), reason=jail.why_not())
def test_bad_runs_fail_alone_and_only_they_are_done_again(course_class, capsys):
    names = ["good", "leaves", "deletes", "prints", "mended"]
    course_class.write(BAD, names)
    assert (
        cli.main(["batch", str(course_class.file), "--output", str(course_class.out), "--workers", "3"]) == 1
    )
    shown = capsys.readouterr().out
    assert "name=mended：出错" in shown and "RuntimeError: not yet" in shown and "完成 1 / 5，失败 4" in shown
    assert (course_class.out / "report.html").is_file()
    good = course_class.out / "runs" / "name=good"
    first = (good / "status.json").read_bytes()
    files = {"log.txt", "metrics.json", "notebooks", "run.json", "status.json"}
    assert {file.name for file in good.iterdir()} == files
    (course_class.folder / "mended").touch()
    expected = {
        "good": "done",
        "leaves": "died",
        "deletes": "error",
        "prints": "output",
        "mended": "done",
    }
    statuses = {status.name: status for status in course_class.run(workers=3, only_failed=True)}
    assert outcomes(statuses.values()) == expected
    assert "Read-only file system" in statuses["name=deletes"].reason
    assert (good / "status.json").read_bytes() == first


def test_dry_run_writes_nothing(course_class, capsys):
    course_class.write("pass", ["a", "b"])
    assert cli.main(["batch", str(course_class.file), "--output", str(course_class.out), "--dry-run"]) == 0
    assert "2 / 2 次要运行，每次 toy" in capsys.readouterr().out
    assert not course_class.out.exists()


def test_runs_begin_only_if_they_fit(course_class, monkeypatch):
    course_class.write("time.sleep(0.1)", ["a", "b", "c"])
    at_once = []
    monkeypatch.setattr(doctor, "free_memory", lambda: (1.5, ""))  # one of 1 GB, and no second

    def show(rows):
        at_once.append(sum(row.status.status == "running" for row in rows))

    statuses = course_class.run(workers=3, show=show)
    assert set(outcomes(statuses).values()) == {"done"}
    # the first ran alone; then its peak was known, and the others fit together
    assert at_once[0] == 1 and max(at_once) == 2
    monkeypatch.setattr(doctor, "free_memory", lambda: (0.01, ""))
    course_class.write("pass", ["a", "b", "c"])
    with pytest.raises(CourseError, match=r"内存：空闲 0\.0 GB"):
        course_class.run()


SHARED = """
with open(os.environ["XDG_CACHE_HOME"] + "/begun.txt", "a") as file:  # where a run may write beside its own
    file.write(name)
time.sleep(1)
(paths.run_dir() / "made.txt").write_text(name)
assert name != "d"
"""


def test_shards_that_start_at_once_share_the_runs_and_one_report(course_class):
    """Two shards, and the whole plan beside them: each run is done once, and all stand in the report."""
    course_class.write(SHARED, list("abcd"), memory_gb=0.5)
    cache = course_class.folder / "cache"
    cache.mkdir()
    command = [sys.executable, "-m", "tianji_toolbox.cli", "batch", str(course_class.file)]
    command += ["--output", str(course_class.out), "--workers", "2"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    options["env"] = os.environ | {"XDG_CACHE_HOME": str(cache)}
    children = [
        subprocess.Popen([*command, *share], **options)
        for share in (["--shard", "1/2"], ["--shard", "2/2"], [])
    ]
    said = [child.communicate(timeout=300)[0] for child in children]
    assert not any("Traceback" in text for text in said), said
    # d failed for whoever had it, and may then have been tried again; the rest is done once
    begun = (cache / "begun.txt").read_text()
    assert sorted(set(begun)) == list("abcd") and all(begun.count(name) == 1 for name in "abc"), said
    assert len(list(course_class.out.glob("runs/*/made.txt"))) == 4
    page = (course_class.out / "report.html").read_text(encoding="utf-8")
    assert "AssertionError" in page and "<b>3</b> / 4 次完成" in page
    assert not list(course_class.out.rglob("*.kept-*"))
    assert course_class.run(shard=(1, 2)) and len(begun) == len((cache / "begun.txt").read_text())


def test_a_shard_is_always_the_same_part_of_the_plan(course_class, capsys):
    course_class.write("pass", list("abcde"))
    command = ["batch", str(course_class.file), "--output", str(course_class.out), "--dry-run", "--shard"]
    assert cli.main([*command, "2/2"]) == 0
    shown = capsys.readouterr().out
    assert "name=b：要运行" in shown and "name=d：要运行" in shown and "2 / 2 次要运行" in shown
    parts = [batch_plan.share(batch_plan.load(course_class.file), (number, 3)) for number in (1, 2, 3)]
    assert sorted(run.name for part in parts for run in part) == [f"name={name}" for name in "abcde"]
    assert cli.main([*command, "1/6"]) == 1
    assert "一共 5 次运行，分不成 --shard 1/6 的 6 份，最多 5 份" in capsys.readouterr().err
    for wrong in ("3/2", "0/2", "2", "1/0", "-1/2", "a/b", "1/2/3", "", "１/２"):
        with pytest.raises(SystemExit) as caught:
            cli.main([*command[:-1], f"--shard={wrong}"])
        assert caught.value.code == 2 and "应当像 2/4" in capsys.readouterr().err, wrong
    assert not course_class.out.exists()


def test_an_address_is_no_folder(course_class, capsys, monkeypatch):
    monkeypatch.chdir(course_class.folder)
    course_class.write("pass", ["a"])
    for address in ("s3://bucket/class1", "file:///tmp/x"):
        with pytest.raises(SystemExit):
            cli.main(["batch", str(course_class.file), "--output", address])
        assert "是网址，这里要写这台机器上的路径" in capsys.readouterr().err
    assert {file.name for file in course_class.folder.iterdir()} == {"plan.yaml", "toy.ipynb"}


WAIT = """
run = paths.run_dir()
(run / "here").touch()
while not (run.parents[2] / "go").exists():
    time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("how", "code", "left"),
    [
        (signal.SIGINT, 130, "stopped"),
        (signal.SIGTERM, 130, "stopped"),
        (signal.SIGKILL, -9, "running"),
    ],
)
def test_a_batch_that_was_ended_leaves_no_process_and_goes_on(course_class, how, code, left):
    child = course_class.write(WAIT, ["a"]).start()
    with pytest.raises(CourseError, match="另一个批次正在"):
        course_class.run()
    below = psutil.Process(child.pid).children(recursive=True)
    os.kill(child.pid, how)
    said, _ = child.communicate(timeout=120)
    assert child.returncode == code and "Traceback" not in said
    assert len(below) >= 2 and not psutil.wait_procs(below, timeout=120)[1]
    plan = batch_plan.load(course_class.file)
    assert batch.survey(plan, course_class.out)[0].fresh
    assert f'"status": "{left}"' in (course_class.out / "runs" / "name=a" / "status.json").read_text()
    (course_class.folder / "go").touch()
    assert outcomes(course_class.run()) == {"a": "done"}
    assert not list(course_class.out.rglob("*.part")) and not list(course_class.out.rglob("*.kept-*"))
    assert not any(row.fresh for row in batch.survey(plan, course_class.out))
