"""A batch on several machines: its runs as tasks of a Ray cluster.

Ray is no part of the course's environment. This module, as a program, is the driver; any Python that
has Ray can run it (the course's own after ``pip install ray``, else that of ``make scale``), and it
needs nothing but Ray. The batch gives it one line a run and gets one line back. A task starts
``batch_run`` with the course's Python and holds its lifeline: when Ray loses the worker, the run ends,
and Ray does it again. Every machine needs the course at the same path, and the results a place that all
of them reach: a shared folder or an address.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from tianji_helpers import paths
from tianji_helpers.errors import CourseError

RETRIES = 2  # times that a run is begun again when its worker is lost
LOCAL = "local"


@contextmanager
def cluster(address: str, slots: int, threads: int, memory_gb: float, log: Path) -> Iterator[Callable]:
    """Give a function that has a request (for ``batch_run.main``) done by the cluster and returns the answer.

    address: of a cluster that runs, as Ray writes it, or ``local`` for one on this machine with so many
    slots. threads, memory_gb: what a run takes. log: gets what Ray says.

    Raises CourseError if there is no Ray; the function does so if the cluster could not do the run.
    """
    command = [_python(), "-m", "tianji_toolbox.classroom.batch_ray"]
    command += [address, str(slots * threads), str(threads), str(memory_gb), sys.executable]
    with log.open("ab") as errors:
        driver = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=paths.ROOT,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C at the terminal goes to us alone
        )
    asked: dict[str, Future] = {}
    sending = threading.Lock()

    def read() -> None:
        for line in driver.stdout:
            answer = json.loads(line)
            asked.pop(answer["name"]).set_result(answer)
        for future in list(asked.values()):
            future.set_result({"error": f"Ray 停了，原因见 {log}"})

    threading.Thread(target=read, daemon=True).start()

    def do(request: dict, stop: threading.Event) -> dict:
        name = request["run"]["name"]
        future = asked[name] = Future()
        try:
            with sending:
                driver.stdin.write(json.dumps(request, ensure_ascii=False) + "\n")
                driver.stdin.flush()
        except BrokenPipeError as error:
            raise CourseError(f"Ray 停了，原因见 {log}。") from error
        while not future.done() and not stop.is_set():
            stop.wait(0.5)
        return future.result() if future.done() else {"error": "被中断"}

    try:
        yield do
    finally:
        driver.stdin.close()  # its lifeline: it stops what is still at work
        driver.wait()


def _python() -> str:
    """Return a Python that has Ray."""
    from importlib.util import find_spec

    if find_spec("ray"):
        return sys.executable
    scale = paths.ROOT / "build" / "scale" / "bin" / "python"
    if scale.is_file():
        return str(scale)
    raise CourseError("没有 Ray。请运行 make scale，或在课程的环境里 pip install ray==2.60.0。")


# --- the driver -------------------------------------------------------------------------------------


def main(address: str, cpus: str, threads: str, memory_gb: str, python: str) -> None:
    """Do the runs that standard input names, one a line, until it closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints is no answer
    import ray

    own = {"num_cpus": int(cpus), "include_dashboard": False} if address == LOCAL else {"address": address}
    ray.init(log_to_driver=False, **own)
    memory = int(float(memory_gb) * 1e9)
    most = max(node["Resources"].get("memory", 0) for node in ray.nodes())
    task = ray.remote(_work).options(num_cpus=int(threads), memory=memory, max_retries=RETRIES)
    speaking = threading.Lock()

    def say(**answer) -> None:
        with speaking:
            answers.write(json.dumps(answer, ensure_ascii=False) + "\n")
            answers.flush()

    def follow(request: dict) -> None:
        try:
            say(name=request["run"]["name"], **ray.get(task.remote(python, request)))
        except ray.exceptions.RayError as error:
            say(name=request["run"]["name"], error=f"Ray：{type(error).__name__}，试了 {RETRIES + 1} 次")

    for line in sys.stdin:
        request = json.loads(line)
        if memory > most:
            error = f"集群里最大的一台能给 {most / 1e9:.1f} GB 内存，这次运行要 {memory / 1e9:g} GB"
            say(name=request["run"]["name"], error=error)
        else:
            threading.Thread(target=follow, args=(request,), daemon=True).start()
    ray.shutdown()
    os._exit(0)  # past the threads that wait for what was just stopped


def _work(python: str, request: dict) -> dict:
    """Do one run, in a Ray worker."""
    command = [python, "-m", "tianji_toolbox.classroom.batch_run"]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=request["root"],
    )
    child.stdin.write(json.dumps(request) + "\n")
    child.stdin.flush()
    said = child.stdout.read().splitlines()
    if child.wait() or not said:
        return {"error": f"运行的进程结束了（退出码 {child.returncode}）"}
    return json.loads(said[-1])


if __name__ == "__main__":
    main(*sys.argv[1:])
