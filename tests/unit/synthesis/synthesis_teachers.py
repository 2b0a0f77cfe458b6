"""Teachers for the tests: one that remembers what it was asked, one that misbehaves."""

import json
import random
import threading
import time
from collections import Counter

from phrasebook.server import PhrasebookTeacher

from tianji_helpers.synthesis import synthesize
from tianji_helpers.synthesis.journal import key_of
from tianji_helpers.synthesis.teacher import _Handler

FAULTS = (
    *("429", "500", "503", "drop", "stall", "truncate", "no_choices", "length", "empty"),
    *("filter", "refusal"),
)


def run_child(folder, base_url, limit, styles=("正常",)) -> None:
    """Run a synthesis in a process that a test may kill."""
    synthesize(
        styles=styles, limit=limit, concurrency=4, output_dir=folder, base_url=base_url, progress=False
    )


class RecordingTeacher(PhrasebookTeacher):
    """Keeps the bodies and headers it saw; ``respond`` may be overridden."""

    def __init__(self, **options):
        super().__init__(**options)
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self._asked: Counter = Counter()
        self._lock = threading.Lock()

    def __enter__(self):
        super().__enter__()
        self._server.RequestHandlerClass = _RecordingHandler
        self._server.handle_error = lambda *_: None  # a client that was killed is expected
        return self

    @property
    def asked(self) -> Counter:
        """How often each request (by the journal's key, round 1) arrived."""
        with self._lock:
            return Counter(self._asked)

    def respond(self, body):
        with self._lock:
            self.bodies.append(body)
            self._asked[key_of("offline", 1, body)] += 1
        return self.reply(body)

    def reply(self, body):
        return super().respond(body)


class FaultyTeacher(RecordingTeacher):
    """Spoils a seeded share of its replies in the ways of ``FAULTS``; counts them in ``done``."""

    def __init__(self, share: float, stall: float, **options):
        super().__init__(**options)
        self.share, self.stall = share, stall
        self.done: Counter = Counter()

    def reply(self, body):
        key = key_of("offline", 1, body)
        rng = random.Random(f"{key}{self._asked[key]}")
        fault = rng.choice(FAULTS) if rng.random() < self.share else ""
        with self._lock:
            self.done[fault] += 1
        if fault.isdigit():
            headers = {"Retry-After": "0.05"} if fault == "429" else {}
            return int(fault), headers, {"error": {"message": "injected", "code": fault}}
        status, headers, payload = super().reply(body)
        if fault == "stall":
            time.sleep(self.stall)
        elif fault == "no_choices":
            payload["choices"] = []
        elif fault == "length":
            payload["choices"][0].update(finish_reason="length")
        elif fault == "filter":
            payload["choices"][0].update(finish_reason="content_filter")
        elif fault == "refusal":
            payload["choices"][0]["message"]["content"] = "很抱歉，作为一个AI语言模型，我无法完成这个请求。"
        elif fault == "empty":
            payload["choices"][0]["message"]["content"] = " \n"
        elif fault in ("drop", "truncate"):
            payload = fault
        return status, headers, payload


class _RecordingHandler(_Handler):
    def do_POST(self):
        self.server.teacher.headers.append({name.lower(): value for name, value in self.headers.items()})
        super().do_POST()

    def _send(self, status, headers, payload):
        if payload == "drop":
            self.connection.close()
            self.close_connection = True
        elif payload == "truncate":
            data = json.dumps({"choices": [{"message": {"content": "祝"}}]}).encode()[:20]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        else:
            super()._send(status, headers, payload)
