"""A cheap OpenAI-compatible server in a process of its own: fixed latency, one fixed answer.

asyncio streams and one ready-made reply, so that what a benchmark measures is the client. It reads the
head of a request for its length and looks at nothing else.
"""

import asyncio
import contextlib
import json
import multiprocessing
from collections.abc import Iterator

ANSWER = "姐姐，祝你生日快乐，愿你每天都有好心情！"
_PAYLOAD = json.dumps(
    {
        "id": "bench",
        "object": "chat.completion",
        "created": 0,
        "model": "bench",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 120, "completion_tokens": 20, "total_tokens": 140},
    },
    ensure_ascii=False,
).encode()
_REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_PAYLOAD)
) + _PAYLOAD

_FULL = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@contextlib.contextmanager
def server(
    latency: float, capacity: int = 10**9
) -> Iterator[tuple[str, "multiprocessing.sharedctypes.Synchronized"]]:
    """Serve while the block lasts; yields the base URL and a counter of the requests that arrived.

    capacity: requests answered at once; those above it get a 429.
    """
    context = multiprocessing.get_context("spawn")
    port, count = context.Value("i", 0), context.Value("q", 0)
    process = context.Process(target=_serve, args=(latency, capacity, port, count), daemon=True)
    process.start()
    while not port.value:
        process.join(0.02)
        if process.exitcode is not None:
            raise RuntimeError("the loopback server did not start")
    try:
        yield f"http://127.0.0.1:{port.value}/v1", count
    finally:
        process.terminate()
        process.join()


def _serve(latency: float, capacity: int, port, count) -> None:
    under_way = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
                await reader.readexactly(int(length))
                count.value += 1  # one thread writes it
                if under_way >= capacity:
                    writer.write(_FULL)
                    continue
                under_way += 1
                if latency:
                    await asyncio.sleep(latency)
                under_way -= 1
                writer.write(_REPLY)
        writer.close()

    async def run() -> None:
        listening = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        port.value = listening.sockets[0].getsockname()[1]
        await listening.serve_forever()

    asyncio.run(run())
