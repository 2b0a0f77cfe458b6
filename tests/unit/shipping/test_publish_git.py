"""Publishing by git: the real git and git-lfs against git's own server program and an LFS store."""

import base64
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import loopback_hub
import pytest

from tianji_helpers.errors import CourseError
from tianji_toolbox import cli
from tianji_toolbox.shipping import publish

TOKEN = "very-secret-git-token"
REPO = "xiaoming/wishes"
needs_lfs = pytest.mark.skipif(not shutil.which("git-lfs"), reason="没有 git-lfs（apt install git-lfs）")


class Server(ThreadingHTTPServer):
    """Repositories below ``root``, for whoever knows the token, with an LFS store that ``accepts`` so
    many objects. lfs: whether it has a store at all. puts: how often an object was sent."""

    daemon_threads = True

    def __init__(self, root, accepts=99, lfs=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.accepts, self.lfs = root, accepts, lfs
        self.objects, self.puts, self.lock = {}, 0, threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_json(self, status, value):
        self.answer(status, json.dumps(value).encode(), Content_Type="application/vnd.git-lfs+json")

    def do_GET(self):
        server, (path, _, query) = self.server, self.path.partition("?")
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        known = "Basic " + base64.b64encode(f"xiaoming:{TOKEN}".encode()).decode()
        if self.headers["Authorization"] != known:
            return self.answer(401, WWW_Authenticate='Basic realm="git"')
        if "/lfs/" in path and not server.lfs:
            return self.answer(404)
        if path == f"/{REPO}.git/info/lfs/objects/batch":
            return self.answer_json(200, {"transfer": "basic", "objects": self.batch(json.loads(body))})
        if path.startswith(f"/{REPO}.git/lfs/"):
            oid = path.rsplit("/", 1)[1]
            if self.command == "PUT":
                return self.store(oid, body)
            return self.answer(200, server.objects[oid])
        return self.git(path, query, body)

    do_POST = do_PUT = do_GET

    def batch(self, asked):
        """Say where each object goes or is; one that is here is not asked for again."""
        link = {"href": f"{self.server.url}/{REPO}.git/lfs/"}
        rows = []
        for row in asked["objects"]:
            if (asked["operation"] == "upload") == (row["oid"] not in self.server.objects):
                row["actions"] = {asked["operation"]: {"href": link["href"] + row["oid"]}}
            rows.append(row)
        return rows

    def store(self, oid, body):
        server = self.server
        with server.lock:
            server.puts += 1
            if len(server.objects) >= server.accepts:
                return self.answer_json(507, {"message": "out of space"})
            assert hashlib.sha256(body).hexdigest() == oid
            server.objects[oid] = body
        return self.answer(200)

    def git(self, path, query, body):
        """Hand the request to git's own server program, as a web server does."""
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers["Git-Protocol"] or "",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers["Content-Type"] or "",
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_USER": "xiaoming",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, capture_output=True, check=True
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        status = int(headers.pop("Status", "200").split()[0])
        self.answer(status, content, **headers)


def git(*arguments, cwd=None):
    done = subprocess.run(["git", *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def start(tmp_path):
    """Start a server with an empty repository."""
    servers = []

    def start(**settings):
        root = tmp_path / f"server{len(servers)}"
        git("init", "--quiet", "--bare", "--initial-branch=main", root / f"{REPO}.git")
        servers.append(server := Server(root, **settings))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def place(tmp_path):
    """A home whose git settings are a trap, and a ``git`` that notes what it is called with."""
    home, tools = tmp_path / "home", tmp_path / "tools"
    hooks = home / "hooks"
    for folder in (hooks, tools):
        folder.mkdir(parents=True)
    for name in ("pre-push", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {home}/hooked\n")
    (home / ".gitconfig").write_text(
        f"[core]\nhooksPath = {hooks}\nautocrlf = true\nexcludesFile = {home}/.ignored\n"
        f'[commit]\ngpgSign = true\n[credential]\nhelper = "!touch {home}/asked; false"\n'
        '[lfs "transfer"]\nmaxretries = 1\n'  # eight with growing pauses otherwise: 40 seconds
    )
    (home / ".ignored").write_text("*.safetensors\n*.html\n")
    (tools / "git").write_text(f'#!/bin/sh\necho "$@" >> {tools}/called\nexec {shutil.which("git")} "$@"\n')
    for script in (*hooks.iterdir(), tools / "git"):
        script.chmod(0o755)
    return tmp_path


def upload(merged, place, url, *, token=TOKEN, path=None):
    """Run the command with only what it needs in the environment."""
    command = ["publish", str(merged), "--to", "openxlab", "--repo", REPO, "--endpoint", url, "--yes"]
    done = loopback_hub.run_client(
        place / "home",
        *command,
        PATH=path or f"{place / 'tools'}:{os.environ['PATH']}",
        TIANJI_MODELS_DIR=os.environ["TIANJI_MODELS_DIR"],
        OPENXLAB_GIT_TOKEN=token,
        NO_PROXY="127.0.0.1",
        GIT_DIR="/nowhere",  # as in a hook of another repository
    )
    assert token not in done.stdout + done.stderr and "Traceback" not in done.stderr
    for folder in (place / "home", place / "tools", merged.parent):
        for file in folder.rglob("*"):
            assert not (file.is_file() and token.encode() in file.read_bytes()), file
    assert not (place / "home" / "hooked").exists() and not (place / "home" / "asked").exists()
    return done


@pytest.fixture
def cloned(tmp_path):
    """Return what a friend gets who clones the repository: contents by name."""

    def cloned(server):
        folder = tmp_path / "clone"
        shutil.rmtree(folder, ignore_errors=True)
        lfs = ["-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.required=true"]
        helper = f"credential.helper=!printf 'username=xiaoming\\npassword={TOKEN}\\n' #"
        git("-c", helper, *lfs, "clone", "--quiet", f"{server.url}/{REPO}.git", folder)
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    return cloned


@pytest.mark.slow
@needs_lfs
def test_an_upload_that_broke_goes_on_and_friends_get_every_byte(merged, place, start, cloned):
    (merged / "tokenizer.json").write_text(json.dumps({"model": {"vocab": "祝" * 1_000_000}}))  # large
    server = start(accepts=1)
    broken = upload(merged, place, server.url)
    assert broken.returncode == 1 and "没能上传" in broken.stderr and "不会再传" in broken.stderr
    assert len(server.objects) == 1 and "out of space" in broken.stderr
    assert not git("--git-dir", server.root / f"{REPO}.git", "for-each-ref")  # no half of a model
    server.accepts, server.puts = 99, 0
    done = upload(merged, place, server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{server.url}/{REPO}"
    assert server.puts == 2  # of two weights and a tokenizer
    folder = merged.with_name("merged.publish") / "openxlab"
    sent = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert cloned(server) == sent
    assert {".gitattributes", "README.md", "GEMMA_TERMS.html", "config.json"} < sent.keys()
    # the same again is no new commit
    assert upload(merged, place, server.url).returncode == 0
    repository = server.root / f"{REPO}.git"
    assert git("--git-dir", repository, "rev-list", "--count", "main").strip() == "1"
    assert (
        git("--git-dir", repository, "log", "--format=%an %ae") == "xiaoming xiaoming@users.noreply.invalid\n"
    )


@needs_lfs
def test_what_the_repository_has_besides_stays(merged, place, start, cloned, tmp_path):
    server = start()
    work = tmp_path / "work"
    repository = server.root / f"{REPO}.git"
    git("init", "--quiet", "--initial-branch=master", work)
    (work / "picture.txt").write_text("a picture")
    (work / "README.md").write_text("made by the platform")
    (work / ".gitattributes").write_text("*.png filter=lfs diff=lfs merge=lfs -text\n*.gguf text\n")
    git("add", ".", cwd=work)
    git("-c", "user.name=x", "-c", "user.email=x@x.invalid", "commit", "--quiet", "-m", "first", cwd=work)
    git("push", "--quiet", repository, "master", cwd=work)
    git("--git-dir", repository, "symbolic-ref", "HEAD", "refs/heads/master")
    assert upload(merged, place, server.url).returncode == 0
    got = cloned(server)
    assert got["picture.txt"] == b"a picture" and b"made by the platform" not in got["README.md"]
    rules = got[".gitattributes"].decode().splitlines()
    assert rules[0].startswith("*.png") and rules.index("*.gguf text") < len(rules) - 1
    assert rules[-1] == "*.gguf filter=lfs diff=lfs merge=lfs -text"
    assert git("--git-dir", repository, "rev-list", "--count", "master").strip() == "2"


@pytest.mark.slow
@needs_lfs
def test_what_goes_wrong_is_said_in_words(merged, place, start):
    server = start()
    wrong = upload(merged, place, server.url, token="wrong-" + "y" * 20)
    assert wrong.returncode == 1 and "令牌" in wrong.stderr and "Authentication failed" in wrong.stderr
    nobody = upload(merged, place, "http://127.0.0.1:1")
    assert nobody.returncode == 1 and "检查网络" in nobody.stderr
    shutil.rmtree(server.root / f"{REPO}.git")
    missing = upload(merged, place, server.url)
    assert missing.returncode == 1 and "请先在平台的网页上新建" in missing.stderr
    no_store = start(lfs=False)
    refused = upload(merged, place, no_store.url)
    assert refused.returncode == 1 and "没能上传" in refused.stderr and not no_store.objects


def test_without_git_or_git_lfs_it_says_what_to_install(merged, place):
    tools = place / "only"
    tools.mkdir()
    assert "apt install git；" in upload(merged, place, "http://127.0.0.1:1", path=str(tools)).stderr
    (tools / "git").symlink_to(shutil.which("git"))
    bare = upload(merged, place, "http://127.0.0.1:1", path=str(tools))
    assert bare.returncode == 1 and "apt install git-lfs" in bare.stderr


def test_the_dry_run_lists_the_files_and_privacy_is_chosen_on_the_page(merged, capsys):
    assert cli.main(["publish", str(merged), "--to", "openxlab", "--repo", REPO]) == 0
    shown = capsys.readouterr().out
    assert ".gitattributes" in shown and "什么也没有上传" in shown
    plan = publish.prepare(merged, "openxlab", REPO)
    card = (plan.folder / "README.md").read_text(encoding="utf-8")
    assert f"git clone https://code.openxlab.org.cn/{REPO}.git model" in card
    with pytest.raises(CourseError, match="请去掉 --private"):
        publish.upload(plan, private=True)
