"""Work shared with a second process: in order, nothing lost, errors in their turn."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tianji_helpers.dataset import processes


def told(number: int) -> tuple[int, int]:
    """Return the number and who was asked."""
    if number == 40:
        raise ValueError("forty")
    time.sleep(0.005)
    return number, os.getpid()


def test_two_processes_share_the_work_in_order():
    found = list(processes.in_order(told, (number % 40 for number in range(400)), 2, alone=3))
    assert [number for number, _ in found] == [number % 40 for number in range(400)]
    assert {who for _, who in found[:3]} == {os.getpid()}
    assert len({who for _, who in found}) == 2


@pytest.mark.parametrize(("count", "alone"), [(2, 50), (1, 0)])
def test_short_work_and_one_process_stay_here(count, alone):
    assert {who for _, who in processes.in_order(told, range(30), count, alone)} == {os.getpid()}


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_comes_when_its_turn_has_come(count):
    shared = processes.in_order(told, range(100), count, alone=0)
    assert [next(shared)[0] for _ in range(40)] == list(range(40))
    with pytest.raises(ValueError, match="forty"):
        next(shared)


def grown(data: bytes) -> tuple[bytes, int]:
    """Return more of the same and who was asked."""
    time.sleep(0.005)
    return 3 * data, os.getpid()


def test_what_does_not_fit_in_the_shared_memory_passes_too():
    sizes = [100, 1 << 20, 3 << 20] * 60
    found = list(processes.in_order(grown, (bytes(size) for size in sizes), 2, alone=0))
    assert [len(data) for data, _ in found] == [3 * size for size in sizes]
    others = {size for size, (_, who) in zip(sizes, found, strict=True) if who != os.getpid()}
    assert others == {100, 1 << 20}


def test_if_the_second_process_is_killed_this_one_goes_on():
    found = []
    for number, who in processes.in_order(told, (number % 40 for number in range(200)), 2, alone=0):
        found.append((number, who))
        if who != os.getpid():
            os.kill(who, signal.SIGKILL)
    assert [number for number, _ in found] == [number % 40 for number in range(200)]
    assert len({who for _, who in found}) == 2


def test_the_second_process_does_not_outlive_the_first():
    script = (
        "import itertools, test_processes as tests\n"
        "from tianji_helpers.dataset import processes\n"
        "for _, who in processes.in_order(tests.told, itertools.repeat(1), 2, alone=0):\n"
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
        end = time.monotonic() + 20
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
