"""Serving a Streamlit script: the address, and what is said when it cannot be had."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from handshakes import opened

from tianji_helpers.errors import CourseError
from tianji_toolbox import pages

pytestmark = pytest.mark.slow


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CourseError, match=f"127.0.0.1:{port}.*--port"):
            pages.serve("nothing.py", [], port=port)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_does_not_exist_is_named(port):
    with pytest.raises(CourseError, match=str(port)):
        pages.serve("nothing.py", [], port=port)


@pytest.fixture
def served(tmp_path):
    """The process that serves a page, and its port."""
    script = tmp_path / "page.py"
    script.write_text("import sys, streamlit as st\nst.write(sys.argv[1])\n", encoding="utf-8")
    code = f"from tianji_toolbox import pages; pages.serve({str(script)!r}, ['祝福'], port=0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())[1])
        for _ in range(1500):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as reply:
                    assert reply.read() == b"ok"
                    break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail("the page did not come up")
        yield process, port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_page_is_served_on_this_machine_under_its_own_names_only(served):
    process, port = served
    assert opened(port, "127.0.0.1") == opened(port, "localhost") == 101
    assert opened(port, "evil.example") == 403  # a name that was made to lead here
    assert opened(port, "localhost", "evil.example") == 403
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_the_command(served, number):
    process, port = served
    process.send_signal(number)
    process.wait(300)
    with socket.create_server(("127.0.0.1", port)):
        pass  # nobody listens there any more


def test_a_server_for_the_classroom_knows_its_own_names(monkeypatch):
    assert pages.names("192.0.2.7") == [*pages.LOOPBACK, "192.0.2.7"]
    assert socket.gethostname() in pages.names("0.0.0.0")
    assert "evil.example" not in pages.names("0.0.0.0")
    monkeypatch.setenv("TIANJI_ALLOWED_HOSTS", "class.example.edu,wishes.example.edu")
    assert pages.names("192.0.2.7")[-2:] == ["class.example.edu", "wishes.example.edu"]
    assert "" not in pages.names("192.0.2.7")
