"""llama.cpp's server on a GGUF file, in a process of its own.

The package xllamacpp carries the server. ``started`` runs it in a child, so that a model that is too large,
or a crash, or a stop that never comes to an end, is the child's and not the notebook's, and so that it ends
with the program that started it, however that ends. ``Model`` is such a child that ``inference`` talks to.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from tianji_helpers import paths, threads
from tianji_helpers.errors import CourseError

_SOCKET = "llama.sock"
_SPARE_GB = 0.6  # what a server needs beside its weights: buffers, and the answers under way


@contextmanager
def started(
    gguf_file: str | Path,
    *,
    host: str = "127.0.0.1",
    context: int = 2048,
    parallel: int = 2,
    alias: str = "",
) -> Iterator[str]:
    """Run llama.cpp's server on a GGUF file and yield its address, such as ``http://127.0.0.1:8080``.

    host: an address, of which it takes a free port, or a file for a socket (``*.sock``). context: tokens a
    conversation may have. parallel: how many answers are written at once; more requests wait. alias: the
    model's name in the interface; empty means the file's. The OpenAI-compatible interface is below ``/v1``.
    It ends with the block, or with us. Raises CourseError if the file is missing, there is too little
    memory, or llama.cpp cannot load it.
    """
    gguf_file = _existing(gguf_file)
    needed = gguf_file.stat().st_size / 1e9 + _SPARE_GB
    free = psutil.virtual_memory().available / 1e9
    if free < needed:
        raise CourseError(
            f"内存不够：运行 {gguf_file.name} 约需 {needed:.1f} GB，现在可用 {free:.1f} GB。"
            "请关掉别的程序（或别的笔记本的内核）再试。"
        )
    options = {"host": host, "context": context, "parallel": parallel, "alias": alias}
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
    # what it says later is read away: a full pipe would stop it
    drain = threading.Thread(target=child.stdout.read, daemon=True)
    try:
        said = child.stdout.readline()
        if not said.startswith("{"):
            child.stdin.close()  # it may have said something else, and wait
            with suppress(subprocess.TimeoutExpired):
                child.wait(10)
            raise CourseError(
                f"llama.cpp 的服务器没有启动起来（退出状态 {child.returncode}"
                f"{'，多半是内存不够，被系统结束了' if child.returncode == -9 else ''}）：{gguf_file.name}。"
            )
        told = json.loads(said)
        if "error" in told:
            raise CourseError(told["error"])
        drain.start()
        yield told["address"]
    finally:
        child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if drain.ident:
            drain.join()
        child.stdout.close()


@contextmanager
def behind_socket(gguf_file: str | Path, **options: Any) -> Iterator[str]:
    """Run the server as ``started`` does, behind a socket file; yield the file.

    llama.cpp looks at no ``Host``: on a port, a web site whose name was made to lead to this machine may ask
    it, and so may all who have an account here. The file lies in a folder that only we may enter.
    """
    with _socket_folder() as folder, started(gguf_file, host=(socket := f"{folder}/{_SOCKET}"), **options):
        yield socket


def _socket_folder() -> tempfile.TemporaryDirectory[str]:
    """Make the folder of a socket file. Raises CourseError where its name is longer than Linux takes."""
    for where in (None, "/tmp"):
        with suppress(OSError):
            folder = tempfile.TemporaryDirectory(prefix="tianji-", dir=where)
            if len(os.fsencode(folder.name)) + len(_SOCKET) < 107:
                return folder
            folder.cleanup()
    raise CourseError(
        f"临时文件夹的路径太长（{tempfile.gettempdir()}），放不下 llama.cpp 的套接字文件：最多约 80 字节。"
        "请用环境变量 TMPDIR 指到一个路径短的文件夹。"
    )


class Model:
    """A model that llama.cpp runs, where ``inference.stream`` otherwise takes one of transformers.

    gguf_file: its weights. context: tokens that a conversation may have. stops: ids that end an answer.
    llama.cpp is a process of its own behind a socket file, which nobody else can reach, and ends with this
    object. Raises CourseError as ``started`` does.
    """

    def __init__(self, gguf_file: str | Path, *, context: int, stops: Sequence[int]):
        import httpx

        # what ``inference`` asks a model of transformers for
        self.config = SimpleNamespace(max_position_embeddings=context)
        self.generation_config = SimpleNamespace(eos_token_id=list(stops))
        self._folder = _socket_folder()
        socket = f"{self._folder.name}/{_SOCKET}"
        self._running = started(gguf_file, host=socket, context=context, parallel=1)
        self._running.__enter__()  # it is left when this object goes
        # one connection an answer: now and then the server closes one that the next answer was to take
        way = httpx.HTTPTransport(uds=socket, limits=httpx.Limits(max_keepalive_connections=0))
        self._client = httpx.Client(transport=way, base_url="http://llama")

    def stream(
        self, prompt: list[int], stops: Sequence[int], timeout: float, **settings: Any
    ) -> Iterator[str]:
        """Yield an answer as ``inference.stream`` does. settings: as llama.cpp's server names them."""
        import httpx

        asked = {"prompt": prompt, "stream": True, "return_tokens": True, "sse_ping_interval": -1, **settings}
        try:
            with self._client.stream("POST", "/completion", json=asked, timeout=timeout) as reply:
                for line in filter(None, reply.iter_lines()):
                    said = json.loads(line.removeprefix("data: "))
                    if "error" in said:
                        raise CourseError(f"生成失败：{said['error']['message']}")
                    if not set(stops).isdisjoint(said["tokens"]):
                        return
                    if said["content"]:
                        yield said["content"]
        except httpx.ReadTimeout as error:
            raise CourseError(
                f"模型 {timeout:.0f} 秒没有说出新的内容，已停止。机器可能太忙，请再试一次。"
            ) from error
        except httpx.HTTPError as error:
            raise CourseError(f"生成失败：llama.cpp 没有回答（{error}）。请重新开始聊天。") from error


def _existing(gguf_file: str | Path) -> Path:
    gguf_file = paths.resolve(gguf_file)
    if not gguf_file.is_file():
        raise CourseError(f"找不到 {gguf_file}。GGUF 文件由 tianji export 写出。")
    return gguf_file


def _main(gguf_file: str, options: str) -> None:
    """Serve until stdin ends."""
    try:
        running = _server(Path(gguf_file), **json.loads(options))
        print(json.dumps({"address": running.listening_address}), flush=True)
        sys.stdin.read()
    except CourseError as error:
        print(json.dumps({"error": str(error)}), flush=True)
    os._exit(0)  # answers under way are nobody's any more, and llama.cpp's own way out may wait for them


def _server(gguf_file: Path, host: str, context: int, parallel: int, alias: str) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise CourseError(
            "没有安装 xllamacpp。请运行 make setup，或 pip install -r requirements.lock。"
        ) from error

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf_file)
    parameters.model_alias = {alias or gguf_file.stem}
    parameters.hostnames = [host]
    parameters.port = 0
    parameters.n_ctx = context * parallel
    parameters.n_parallel = parallel
    parameters.cpuparams.n_threads = len(os.sched_getaffinity(0))
    parameters.verbosity = 0
    parameters.warmup = False
    parameters.swa_full = True  # what a sliding window has left can be gone back to in the next turn
    parameters.cache_ram_mib = 0  # else up to 8 GB of earlier conversations
    # by default any web site may ask, and read the answer
    parameters.cors_origins = "localhost"
    parameters.cors_credentials = False
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise CourseError(
            f"llama.cpp 启动不了 {gguf_file.name}：{error}。文件可能不完整，请重新导出或下载。"
        ) from error


if __name__ == "__main__":
    _main(*sys.argv[1:])
