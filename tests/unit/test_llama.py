"""llama.cpp's server in a process of its own: it answers, and whatever happens, it ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tianji_helpers import llama
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import client, providers
from tianji_toolbox.shipping import export


@pytest.fixture(scope="module")
def gguf_file(base_dir, tmp_path_factory):
    """The embedded model."""
    return export.export(base_dir, tmp_path_factory.mktemp("llama") / "out").gguf


def children():
    return {child.pid for child in psutil.Process().children() if "tianji_helpers.llama" in child.cmdline()}


def ask(url):
    body = {"messages": [{"role": "user", "content": "祝姐姐生日"}], "max_tokens": 4}
    with httpx.Client(trust_env=False, timeout=60) as client:
        return client.post(f"{url}/v1/chat/completions", json=body).raise_for_status().json()


def gone(pid):
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_it_answers_under_its_name_and_ends_with_the_block(gguf_file):
    with llama.started(gguf_file, context=256, alias="teacher") as url:
        (pid,) = children()
        assert ask(url)["model"] == "teacher"
    assert gone(pid) and not children()


def test_behind_a_socket_file_nobody_else_can_ask_it(gguf_file, monkeypatch):
    """Asked as synthesis asks it: no port is open, which a web site could reach under a name of its own."""
    monkeypatch.setattr(client.packaged, "locate", lambda: gguf_file)
    settings = client.Settings("embedded", max_tokens=64, concurrency=1)
    with client._own_server(settings.choose(), settings) as provider:
        (pid,) = children()
        server = psutil.Process(pid)
        assert not [one for one in server.net_connections("inet") if one.status == psutil.CONN_LISTEN]
        folder = Path(provider.socket).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        body = {"model": provider.model, "messages": [{"role": "user", "content": "祝姐姐"}], "max_tokens": 4}

        async def asked():
            asking = providers.connect(provider, 60, 1)
            replies = [await asking.ask(body) for _ in range(2)]
            await asking.close()
            return replies

        assert all(reply.text for reply in asyncio.run(asked()))
    assert gone(pid) and not folder.exists()


def test_a_server_that_dies_takes_nobody_along(gguf_file):
    with llama.started(gguf_file, context=256) as url:
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        with pytest.raises(httpx.TransportError):
            ask(url)


def test_a_server_that_says_something_else_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").touch()
    talk = [sys.executable, "-c", "import sys; print('hello', flush=True); sys.stdin.read()"]
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: popen(talk, **how))
    with pytest.raises(CourseError, match="没有启动起来"), llama.started(tmp_path / "model.gguf"):
        pass


def test_it_ends_with_whoever_started_it(gguf_file):
    program = (
        "import sys, time\nfrom tianji_helpers import llama\n"
        f"with llama.started({str(gguf_file)!r}, context=256):\n"
        "    print('up', flush=True)\n    time.sleep(99)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "up\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(child.pid)


def test_what_cannot_start_says_why(gguf_file, tmp_path, monkeypatch):
    with pytest.raises(CourseError, match="找不到"), llama.started(tmp_path / "none.gguf"):
        pass
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf_file.read_bytes()[:5000])
    with pytest.raises(CourseError, match=r"启动不了 broken\.gguf"), llama.started(broken):
        pass
    free = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(CourseError, match=r"内存不够.*可用 0\.1 GB"), llama.started(gguf_file):
        pass
    assert not children()
