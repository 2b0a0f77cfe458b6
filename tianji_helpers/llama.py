"""llama.cpp's server on a GGUF file: how the course runs one, in this process or in one of its own.

The package xllamacpp carries the server. ``server`` runs it here; ``started`` runs it in a child, so
that a model that is too large, or a crash, ends the child and not the notebook, and so that it ends
with the program that started it, however that ends.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tianji_helpers import paths, threads
from tianji_helpers.errors import CourseError

_SPARE_GB = 0.6  # what a server needs beside its weights: buffers, and the answers under way


@contextmanager
def server(
    gguf_file: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    context: int = 2048,
    parallel: int = 2,
    alias: str = "",
) -> Iterator[str]:
    """Run llama.cpp's server on a GGUF file and yield its address, such as ``http://127.0.0.1:8080``.

    host: an address, or a file for a socket (``*.sock``). port: 0 takes a free one. context: tokens a
    conversation may have. parallel: how many answers are written at once; more requests wait. alias: the
    model's name in the interface; empty means the file's. The OpenAI-compatible interface is below ``/v1``.
    Raises CourseError if the file is missing or llama.cpp cannot load it.
    """
    try:
        import xllamacpp
    except ImportError as error:
        raise CourseError(
            "没有安装 xllamacpp。请运行 make setup，或 pip install -r requirements.lock。"
        ) from error

    gguf_file = _existing(gguf_file)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf_file)
    parameters.model_alias = {alias or gguf_file.stem}
    parameters.hostnames = [host]
    parameters.port = port
    parameters.n_ctx = context * parallel
    parameters.n_parallel = parallel
    parameters.cpuparams.n_threads = len(os.sched_getaffinity(0))
    parameters.verbosity = 0
    parameters.warmup = False
    # by default any web site may ask, and read the answer
    parameters.cors_origins = "localhost"
    parameters.cors_credentials = False
    try:
        running = xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise CourseError(
            f"llama.cpp 启动不了 {gguf_file.name}：{error}。文件可能不完整（请重新导出），"
            f"或 {host}:{port} 已经被占用（请换一个 --port）。"
        ) from error
    try:
        yield running.listening_address
    finally:
        del running  # its destructor stops the server


@contextmanager
def started(
    gguf_file: str | Path, *, context: int = 2048, parallel: int = 2, alias: str = ""
) -> Iterator[str]:
    """Run ``server`` in a process of its own; yield its address. It ends with the block, or with us.

    Raises CourseError if the file is missing, there is too little memory, or llama.cpp cannot load it.
    """
    gguf_file = _existing(gguf_file)
    needed = gguf_file.stat().st_size / 1e9 + _SPARE_GB
    free = psutil.virtual_memory().available / 1e9
    if free < needed:
        raise CourseError(
            f"内存不够：运行 {gguf_file.name} 约需 {needed:.1f} GB，现在可用 {free:.1f} GB。"
            "请关掉别的程序（或别的笔记本的内核）再试。"
        )
    options = {"context": context, "parallel": parallel, "alias": alias}
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, str(gguf_file), json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=threads.for_long_run(),
        start_new_session=True,  # Ctrl-C is for us: answers under way are still wanted
    )
    assert child.stdin and child.stdout  # pipes
    try:
        said = child.stdout.readline()
        if not said.startswith("{"):
            child.wait()
            raise CourseError(
                f"llama.cpp 的服务器没有启动起来（退出状态 {child.returncode}"
                f"{'，多半是内存不够，被系统结束了' if child.returncode == -9 else ''}）：{gguf_file.name}。"
            )
        told = json.loads(said)
        if "error" in told:
            raise CourseError(told["error"])
        threading.Thread(target=child.stdout.read, daemon=True).start()  # a full pipe would stop it
        yield told["address"]
    finally:
        child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _existing(gguf_file: str | Path) -> Path:
    gguf_file = paths.resolve(gguf_file)
    if not gguf_file.is_file():
        raise CourseError(f"找不到 {gguf_file}。GGUF 文件由 tianji export 写出。")
    return gguf_file


def _main(gguf_file: str, options: str) -> None:
    """Serve until stdin ends."""
    try:
        with server(gguf_file, **json.loads(options)) as address:
            print(json.dumps({"address": address}), flush=True)
            sys.stdin.read()
            os._exit(0)  # answers under way are nobody's any more
    except CourseError as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
