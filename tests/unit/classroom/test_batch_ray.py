"""A batch on a real Ray cluster of this machine, one of whose workers is killed.

Needs the environment of ``make scale``, which ``make test`` makes first.
"""

import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from tianji_helpers import paths
from tianji_toolbox.classroom import batch_ray

WAIT = """
import os, time
from tianji_helpers import paths
run = paths.run_dir()
(run / "here").write_text(str(os.getpid()))
while not (run.parents[2] / "go").exists():
    time.sleep(0.1)
assert name != "坏"
"""


def wait_for(condition, process):
    until = time.monotonic() + 120
    while not (value := condition()):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.2)
    return value


@pytest.mark.skipif(
    not (paths.ROOT / "build" / "scale" / ".ready").is_file(), reason="make scale has not been run"
)
def test_a_run_whose_worker_is_killed_is_done_again(tmp_path):
    first = new_code_cell('name = "a"', metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[first, new_code_cell(WAIT)]), tmp_path / "toy.ipynb")
    plan = {"notebooks": ["toy"], "grid": {"name": ["好", "坏"]}, "memory_gb": 0.5}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tianji_toolbox.cli", "batch", str(tmp_path / "plan.yaml")]
    batch = subprocess.Popen(
        [*command, "--output", str(out), "--ray", batch_ray.LOCAL, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    here = out / "runs" / "name=好" / "here"

    def kernel(but=""):
        return here.is_file() and here.read_text() not in ("", but) and here.read_text()

    try:
        first = wait_for(kernel, batch)
        above = psutil.Process(int(first)).parents()
        (worker,) = [process for process in above if "ray::" in "".join(process.cmdline())]
        worker.kill()
        wait_for(lambda: kernel(but=first), batch)
        assert not psutil.pid_exists(int(first))
        (tmp_path / "go").touch()
        said, _ = batch.communicate(timeout=120)
    finally:
        batch.send_signal(signal.SIGINT)
        batch.wait(30)
    assert batch.returncode == 1 and "完成 1 / 2，失败 1" in said
    assert "AssertionError" in (out / "report.html").read_text(encoding="utf-8")
