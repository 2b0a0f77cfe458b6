"""Work shared with a second process: in order, nothing lost, errors in their turn."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from tianji_helpers.dataset import processes

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def two_processes(monkeypatch):
    monkeypatch.setattr(processes, "PROCESSES", 2)  # on one core, too


def told(number: int) -> tuple[int, int]:
    """Return the number and who was asked."""
    if number == 40:
        raise ValueError("forty")
    time.sleep(0.005)
    return number, os.getpid()


def test_two_processes_share_the_work_in_order():
    found = list(processes.in_order(told, (number % 40 for number in range(400)), alone=3))
    assert [number for number, _ in found] == [number % 40 for number in range(400)]
    assert {who for _, who in found[:3]} == {os.getpid()}
    assert len({who for _, who in found}) == 2


@pytest.mark.parametrize(("count", "alone"), [(2, 50), (1, 0)])
def test_short_work_and_one_process_stay_here(count, alone, monkeypatch):
    monkeypatch.setattr(processes, "PROCESSES", count)
    assert {who for _, who in processes.in_order(told, range(30), alone)} == {os.getpid()}


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_comes_when_its_turn_has_come(count, monkeypatch):
    monkeypatch.setattr(processes, "PROCESSES", count)
    shared = processes.in_order(told, range(100), alone=0)
    assert [next(shared)[0] for _ in range(40)] == list(range(40))
    with pytest.raises(ValueError, match="forty"):
        next(shared)


def grown(data: bytes) -> tuple[bytes, np.ndarray, int]:
    """Return the same, more of it, and who was asked."""
    time.sleep(0.005)
    return data, np.frombuffer(data * 2, np.uint8).reshape(2, -1), os.getpid()


@pytest.mark.parametrize("size", [100, 100 << 10, 3 << 20])
def test_results_of_any_size_come_from_the_second_process(size):
    with closing(processes.in_order(grown, itertools.repeat(bytes(size)), alone=0)) as shared:
        data, more, _ = next(found for found in shared if found[2] != os.getpid())
    assert (len(data), more.shape) == (size, (2, size))


def test_if_the_second_process_is_killed_this_one_goes_on():
    found = []
    for number, who in processes.in_order(told, (number % 40 for number in range(200)), alone=0):
        found.append((number, who))
        if who != os.getpid():
            os.kill(who, signal.SIGKILL)
    assert [number for number, _ in found] == [number % 40 for number in range(200)]
    assert len({who for _, who in found}) == 2


def noted(item: tuple[Path, int]) -> int:
    """Leave a sign that it was done; the second process takes longer."""
    folder, number = item
    if multiprocessing.parent_process():
        time.sleep(0.05)
    (folder / str(number)).touch()
    return os.getpid()


def test_what_waits_for_the_second_process_is_not_done_any_more_if_nobody_wants_it(tmp_path):
    numbers = itertools.count()
    with closing(processes.in_order(noted, zip(itertools.repeat(tmp_path), numbers), alone=0)) as shared:
        next(who for who in shared if who != os.getpid())
    assert len(list(tmp_path.iterdir())) < next(numbers)


def test_the_second_process_does_not_outlive_the_first():
    script = (
        "import itertools, test_processes as tests\n"
        "from tianji_helpers.dataset import processes\n"
        "processes.PROCESSES = 2\n"
        "for _, who in processes.in_order(tests.told, itertools.repeat(1), alone=0):\n"
        "    print(who, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path))}
    first = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    )
    second = next(int(line) for line in first.stdout if int(line) != first.pid)
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    try:
        end = time.monotonic() + 300
        while _runs(second):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.kill(second, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
