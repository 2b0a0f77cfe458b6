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

from tianji_helpers import pages
from tianji_helpers.errors import CourseError


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CourseError, match=f"127.0.0.1:{port}.*--port"):
            pages.serve("nothing.py", [], port=port)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_does_not_exist_is_named(port):
    with pytest.raises(CourseError, match=str(port)):
        pages.serve("nothing.py", [], port=port)


def test_a_page_is_served_on_this_machine_until_ctrl_c(tmp_path):
    script = tmp_path / "page.py"
    script.write_text("import sys, streamlit as st\nst.write(sys.argv[1])\n", encoding="utf-8")
    code = f"from tianji_helpers import pages; pages.serve({str(script)!r}, ['祝福'], port=0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5) as reply:
                    assert reply.read() == b"ok"
                    break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail("the page did not come up")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()
