"""The door of ``tianji serve``: who may talk to llama.cpp's server.

llama.cpp answers whatever name it is called by, so a web site whose name was made to lead to this machine
(DNS rebinding) could have its model work and read what it says. Here it listens on a socket file, which no
browser reaches, and the door in front passes on only what asks for a name of this machine, and comes from a
page of this machine or from no page at all.
"""

import asyncio
import re
import signal
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector, web

from tianji_helpers import llama
from tianji_helpers.errors import CourseError
from tianji_toolbox import pages

_PLACE = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+)(?::\d{1,5})?")
_LOOK = 2  # seconds between two looks whether llama.cpp is still there
_HOPS = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"}


def serve(gguf_file: str | Path, host: str, port: int) -> None:
    """Serve a GGUF file until Ctrl-C, and say how to reach it. port: 0 takes a free one.

    Raises CourseError if the address cannot be had, or as ``llama.started`` does.
    """
    with tempfile.TemporaryDirectory(prefix="tianji-serve-") as place:
        inner = f"{place}/llama.sock"
        with llama.started(gguf_file, host=inner), suppress(asyncio.CancelledError):
            asyncio.run(_keep(inner, host, port, Path(gguf_file).stem))


async def _keep(inner: str, host: str, port: int, model: str) -> None:
    if threading.current_thread() is threading.main_thread():  # a termination tidies up as Ctrl-C does
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    known = {name.lower() for name in pages.names(host)}
    options = {"auto_decompress": False, "timeout": ClientTimeout(total=None)}
    async with ClientSession(connector=UnixConnector(inner, limit=0), **options) as session:

        async def answer(request: web.Request) -> web.StreamResponse:
            if reason := refusal(request.headers.get("Host", ""), request.headers.get("Origin"), known):
                return web.json_response({"error": {"message": reason, "code": 403}}, status=403)
            return await _pass_on(request, session)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, auto_decompress=False)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except (OSError, OverflowError) as error:
                raise CourseError(
                    f"不能在 {host}:{port} 上开服务（{error}）。请换一个 --port，或停下占用它的程序。"
                ) from error
            address = pages.address(host, runner.addresses[0][1]) + "/v1"
            print(
                f"{address} 已就绪（OpenAI 兼容接口），Ctrl-C 停止。例如：\n"
                f"tianji synthesize --provider local --base-url {address} --model {model} --limit 6",
                flush=True,
            )
            await _ends(inner)
            raise CourseError(
                f"llama.cpp 中途停了（多半是内存不够，被系统结束了）：{model}。请关掉别的程序，再运行一次。"
            )
        finally:
            await runner.cleanup()


async def _ends(inner: str) -> None:
    """Wait until nobody listens any more behind the door."""
    with suppress(ConnectionError, FileNotFoundError):
        while True:
            with suppress(BlockingIOError):  # so many are asking that one more has to wait
                _, line = await asyncio.open_unix_connection(inner)
                line.close()
            await asyncio.sleep(_LOOK)


def refusal(host: str, origin: str | None, known: set[str]) -> str:
    """Return why a request is refused, in Chinese; empty if it may pass. known: our own names.

    >>> refusal("localhost:8080", None, {"localhost"}), refusal("evil.example", None, {"localhost"})[:3]
    ('', '这个服')
    """
    for address in (f"http://{host}", *([origin] if origin is not None else [])):
        found = _PLACE.fullmatch(address)
        if not found or found[1].strip("[].").lower() not in known:
            return f"这个服务只回答这台机器自己的名字和网页，不回答 {address[:80]!a}。"
    return ""


async def _pass_on(request: web.Request, session: ClientSession) -> web.StreamResponse:
    """Have llama.cpp answer, and send on what it says while it says it."""
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOPS}
    body = request.content if request.body_exists else None
    address = f"http://llama{request.raw_path}"
    try:
        async with session.request(request.method, address, headers=headers, data=body) as said:
            kept = {name: value for name, value in said.headers.items() if name.lower() not in _HOPS}
            reply = web.StreamResponse(status=said.status, headers=kept)
            await reply.prepare(request)
            async for block in said.content.iter_any():
                await reply.write(block)
            await reply.write_eof()
            return reply
    except ClientError as error:
        return web.json_response({"error": {"message": f"llama.cpp：{error}", "code": 502}}, status=502)
