"""The offline teacher: an OpenAI-compatible HTTP server on loopback over the phrasebook.

It is NOT a language model, and it says so: model id ``phrasebook-offline``, the ``Server`` header and
``system_fingerprint``. It exists so that the course's real clients, time-outs and retries have a real
server to talk to where there is no network and no key.

``POST /v1/chat/completions`` (also without ``/v1``, as the zhipuai client asks) and ``GET /v1/models``.
It reads recipient, scene and style from the last message (the lines that ``prompts`` writes), or the
text that ``knowledge`` wants questions about. The answer depends on the request's ``seed`` and messages
alone; without a seed it differs each time, and at temperature 0 the seed does not matter, as with a real
model. ``usage`` counts characters.
"""

import json
import random
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tianji_helpers import records, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import dirt, quiz
from tianji_helpers.synthesis.phrasebook import Phrasebook

MODEL = "phrasebook-offline"
FINGERPRINT = "phrasebook, not a language model"
_FIELDS = {
    "recipient": re.compile(r"^对象：([^（\n]+)", re.M),
    "scene": re.compile(r"^场景：(.+)$", re.M),
    "style": re.compile(r"^风格：([^。\n]+)", re.M),
}
_QUIZ = re.compile(r"^请根据下面的资料出 (\d+) 道问答题。.*?^资料：\n(.+)", re.M | re.S)
_REQUIREMENT = re.compile(r"^额外要求：(.+)$", re.M)
_MAX_BODY = 1 << 20  # bytes


class Teacher:
    """Run the teacher while the ``with`` block lasts.

    dirt_share: how many of the answers are spoilt (see ``dirt``), 0 to 1.
    latency: seconds that each answer takes, to imitate a real model.
    ``base_url`` is what an OpenAI client wants.
    """

    def __init__(self, dirt_share: float = 0.18, latency: float = 0.0, matrix: wishes.Matrix | None = None):
        self.dirt_share = dirt_share
        self.latency = latency
        self._book = Phrasebook(matrix or wishes.load())
        self._server: _Server | None = None

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

    def respond(self, body: dict) -> tuple[int, dict[str, str], Any]:
        """Answer the body of one chat request: status, extra headers, what is sent as JSON."""
        time.sleep(self.latency)
        messages = body.get("messages")
        if body.get("model") != MODEL:
            return _error(404, f"没有模型 {body.get('model')!r}，这里只有 {MODEL}。", "model_not_found")
        if body.get("stream"):
            return _error(400, "短语本不支持 stream。", "unsupported")
        if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
            return _error(400, "messages 应当是非空的消息列表。", "invalid_messages")
        text = str(messages[-1].get("content", ""))
        seed = None if body.get("temperature") == 0 else body.get("seed", random.getrandbits(31))
        rng = random.Random(json.dumps([seed, messages], ensure_ascii=False))
        try:
            quiz_wanted = _QUIZ.search(text)
            answer = self._quiz(quiz_wanted, rng) if quiz_wanted else self._wish(text, rng)
        except CourseError as error:
            return _error(400, str(error), "not_in_the_book")
        limit = body.get("max_tokens")
        cut = limit is not None and len(answer) > limit
        answer = answer[:limit] if cut else answer
        prompt_tokens = sum(len(str(message.get("content", ""))) for message in messages)
        return (
            200,
            {},
            {
                "id": f"wish-{rng.getrandbits(64):016x}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": MODEL,
                "system_fingerprint": FINGERPRINT,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": answer},
                        "finish_reason": "length" if cut else "stop",
                    }
                ],
                "usage": {
                    "prompt_tokens": prompt_tokens,
                    "completion_tokens": len(answer),
                    "total_tokens": prompt_tokens + len(answer),
                },
            },
        )

    def _wish(self, text: str, rng: random.Random) -> str:
        found = {name: pattern.search(text) for name, pattern in _FIELDS.items()}
        if not all(found.values()):
            raise CourseError("短语本只会写祝福和出题：消息里要有“对象：”“场景：”“风格：”三行。")
        recipient, scene, style = (match[1].strip() for match in found.values())
        requirement = _REQUIREMENT.search(text)

        def compose() -> str:
            return self._book.compose(recipient, scene, style, requirement[1] if requirement else "", rng)

        wish = compose()
        if rng.random() >= self.dirt_share:
            return wish
        return dirt.soil(rng.choice(dirt.KINDS), wish, recipient, scene, compose, rng)

    def _quiz(self, wanted: re.Match, rng: random.Random) -> str:
        pairs = quiz.compose(wanted[2], int(wanted[1]), rng)
        if not pairs:
            raise CourseError("短语本在这段资料里找不到能出题的句子（10 到 160 个字）。")
        kind = rng.choice(dirt.JSON_KINDS) if rng.random() < self.dirt_share else ""
        return dirt.soil_json(kind, pairs, rng)


def _error(status: int, message: str, code: str) -> tuple[int, dict[str, str], Any]:
    return status, {}, {"error": {"message": message, "type": "invalid_request_error", "code": code}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    teacher: Teacher


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep connections open
    server_version = "tianji-phrasebook"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one segment
    timeout = 120  # seconds that an idle connection may stay

    def do_GET(self) -> None:
        if self.path.removeprefix("/v1") == "/models":
            model = {"id": MODEL, "object": "model", "owned_by": FINGERPRINT}
            self._send(200, {}, {"object": "list", "data": [model]})
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
                body = json.loads(data)
                if not isinstance(body, dict):
                    raise ValueError("not an object")
            except ValueError:
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
