"""The offline teacher: an OpenAI-compatible HTTP server on loopback that replays recorded answers.

It computes nothing: what a real model once answered to exactly this prompt (``recordings``) is sent again. So
the course's real client, time-outs and retries have a real server to talk to, and the students real answers
to look at, without a network and a key. What was never recorded is refused, with the two ways out.

``POST /v1/chat/completions`` (also without ``/v1``, as the zhipuai client asks) and ``GET /v1/models``.
``usage`` counts characters.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import recordings

_MAX_BODY = 1 << 20  # bytes


class Teacher:
    """Run the teacher while the ``with`` block lasts.

    latency: seconds that each answer takes, to imitate a real model.
    ``base_url`` is what an OpenAI client wants.
    """

    models = tuple(recordings.TEACHERS)
    fingerprint = "recorded answers"
    _server: "_Server"

    def __init__(self, latency: float = 0.0):
        self.latency = latency

    def __enter__(self) -> "Teacher":
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.teacher = self
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        """The address, with ``/v1``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def answer(self, body: dict[str, Any]) -> str:
        """Return what is said to the messages of a chat request; raises CourseError if it is nothing."""
        seed: Any = body.get("seed")
        found = recordings.load(body["model"]).get((recordings.digest(body["messages"]), seed))
        if found is None:
            raise CourseError(
                "没有录下这一问的回答：录音里只有课程自带的对象、场景、风格和例句，随机种子 42，"
                "常用的三种风格两轮（小老师一轮）。要问别的，用 provider=embedded"
                "（本机上的小老师，先运行 make teacher），或者用密钥请 deepseek、zhipu。"
            )
        return found.text

    def respond(self, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        """Answer the body of one chat request: status, extra headers, what is sent as JSON."""
        time.sleep(self.latency)
        messages, limit = body.get("messages"), body.get("max_tokens")
        if body.get("model") not in self.models:
            known = "、".join(self.models)
            return _error(404, f"没有模型 {body.get('model')!r}，这里只有 {known}。", "model_not_found")
        if body.get("stream"):
            return _error(400, "离线老师不支持 stream。", "unsupported")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            return _error(400, "messages 应当是非空的消息列表。", "invalid_messages")
        try:
            whole = self.answer(body)
        except CourseError as error:
            return _error(400, str(error), "not_recorded")
        text = whole[:limit]
        ended = "stop" if text == whole else "length"
        message = {"role": "assistant", "content": text}
        asked = sum(len(str(message.get("content", ""))) for message in messages)
        reply = {
            "id": f"wish-{time.monotonic_ns():016x}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "system_fingerprint": self.fingerprint,
            "choices": [{"index": 0, "message": message, "finish_reason": ended}],
        }
        usage = {"prompt_tokens": asked, "completion_tokens": len(text), "total_tokens": asked + len(text)}
        return 200, {}, reply | {"usage": usage}


def _error(status: int, message: str, code: str) -> tuple[int, dict[str, str], Any]:
    return status, {}, {"error": {"message": message, "type": "invalid_request_error", "code": code}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    teacher: Teacher


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep connections open
    server_version = "tianji-offline"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one segment
    timeout = 120  # seconds that an idle connection may stay
    server: _Server

    def do_GET(self) -> None:
        if self.path.removeprefix("/v1") == "/models":
            owner = self.server.teacher.fingerprint
            models = [
                {"id": name, "object": "model", "owned_by": owner} for name in self.server.teacher.models
            ]
            self._send(200, {}, {"object": "list", "data": models})
        else:
            self._send(*_error(404, f"没有 {self.path} 这个地址。", "not_found"))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _MAX_BODY:
            self.close_connection = True
            self._send(*_error(413, "请求要带 Content-Length，且不超过 1 MiB。", "too_large"))
            return
        data = self.rfile.read(int(length))
        if self.path.removeprefix("/v1") != "/chat/completions":
            self._send(*_error(404, f"没有 {self.path} 这个地址。", "not_found"))
        elif not self.headers.get("Authorization", "").startswith("Bearer "):
            self._send(*_error(401, "请求要带 Authorization: Bearer …（离线老师接受任何密钥）。", "no_key"))
        else:
            try:
                body = msgspec.json.decode(data, type=dict)
            except msgspec.DecodeError:
                self._send(*_error(400, "请求体不是 JSON 对象。", "invalid_json"))
            else:
                self._send(*self.server.teacher.respond(body))

    def _send(self, status: int, headers: dict[str, str], payload: Any) -> None:
        data = records.jsonl_line(payload)
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: the caller has its own progress line."""
