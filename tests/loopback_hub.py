"""One repository on a loopback server, as Hugging Face and ModelScope serve it."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tianji_helpers import paths


def clean_environment(home):
    """Return the environment of a client that neither sees nor touches the user's caches below ``home``."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return kept | {
        "HOME": str(home),  # both clients keep their caches and tokens below it
        "PYTHONUTF8": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        # a hub that is gone stays gone
        "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0",
        "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
    }


def run_client(home, *command, **environment):
    """Run a ``tianji`` command in such an environment, with ``environment`` added."""
    return subprocess.run(
        [sys.executable, "-m", "tianji_toolbox.cli", *command],
        env=clean_environment(home) | environment,
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def git_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub(ThreadingHTTPServer):
    """A repository of ``files`` (name → bytes), of which ``stored`` is behind a redirect.

    huggingface, revision, modelscope: its names there. kind: ``models`` or ``datasets``.
    log: (method, path, query, Range header) of each request. dies: whether the server sends half of
    the stored file and is gone from then on. tampered: the file of which a byte is another one than the
    listing promises; True means the stored one.
    """

    daemon_threads = True

    def __init__(
        self, files, stored, huggingface, revision, modelscope, kind="models", dies=False, tampered=None
    ):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.stored, self.kind = files, stored, kind
        self.huggingface, self.revision, self.modelscope = huggingface, revision, modelscope
        self.dies, self.tampered, self.dead, self.log = (
            dies,
            stored if tampered is True else tampered,
            False,
            [],
        )

    @cached_property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def content(self, name):
        data = self.files[name]
        return data[:-1] + bytes([data[-1] ^ 1]) if name == self.tampered else data

    def asked(self, text):
        return [entry for entry in self.log if text in entry[1]]

    def siblings(self):
        """The files as Hugging Face lists them (``?blobs=true``)."""
        rows = []
        for name, data in self.files.items():
            row = {"rfilename": name, "size": len(data), "blobId": git_id(data)}
            if name == self.stored:
                row["lfs"] = {"size": len(data), "sha256": sha256(data), "pointerSize": 134}
            rows.append(row)
        return rows

    def listing(self):
        """The files as ModelScope lists them."""
        folders = {name.rpartition("/")[0] for name in self.files} - {""}
        return [
            *({"Path": name, "Name": name, "Type": "tree", "Size": 0} for name in sorted(folders)),
            *(
                {"Path": name, "Type": "blob", "Size": len(data), "Sha256": sha256(data)}
                for name, data in self.files.items()
            ),
        ]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def handle(self):
        if not self.server.dead:
            super().handle()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        hub.log.append((self.command, path, query, self.headers["Range"]))
        prefix = "" if hub.kind == "models" else f"/{hub.kind}"
        listing = "files" if hub.kind == "models" else "tree"
        if path == f"/api/{hub.kind}/{hub.huggingface}/revision/{hub.revision}":
            self.send_json({"id": hub.huggingface, "sha": hub.revision, "siblings": hub.siblings()})
        elif path.startswith(resolve := f"{prefix}/{hub.huggingface}/resolve/{hub.revision}/"):
            self.send_file(path.removeprefix(resolve))
        elif path == f"/api/v1/{hub.kind}/{hub.modelscope}/repo/{listing}":
            self.send_json({"Code": 200, "Success": True, "Data": {"Files": hub.listing()}})
        elif path == f"/api/v1/{hub.kind}/{hub.modelscope}/repo":
            self.send_file(query["FilePath"][0])
        elif path == f"/storage/{hub.stored}":
            self.send_content(hub.stored)
        else:
            self.send_error(404)

    def send_json(self, value):
        self.send_body(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def send_file(self, name):
        hub = self.server
        if name != hub.stored:
            return self.send_content(name)
        self.send_body(
            302,
            {
                "Location": f"{hub.url}/storage/{name}",
                "X-Repo-Commit": hub.revision,
                "X-Linked-Size": str(len(hub.files[name])),
                "X-Linked-ETag": f'"{sha256(hub.files[name])}"',
            },
            b"",
        )

    def send_content(self, name):
        data = self.server.content(name)
        headers = {
            "X-Repo-Commit": self.server.revision,
            "ETag": f'"{git_id(data)}"',
            "Accept-Ranges": "bytes",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if not wanted:
            return self.send_body(200, headers, data)
        start = int(wanted[1])
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send_body(206, headers, data[start:])

    def send_body(self, status, headers, body):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.dies and self.path.startswith("/storage/"):
            self.server.dead = True
            body = body[: len(body) // 2]
        self.wfile.write(body)


@contextmanager
def starter(*repository, **options):
    """Yield a function that starts a ``Hub`` of this repository; all of them stop at the end."""
    hubs = []

    def start(**more):
        hub = Hub(*repository, **options, **more)
        threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
        hubs.append(hub)
        return hub

    yield start
    for hub in hubs:
        hub.shutdown()
        hub.server_close()
