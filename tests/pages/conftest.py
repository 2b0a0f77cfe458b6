"""A real browser and the course's pages, served as a user would serve them.

The browser is the system's Chromium (Debian and Ubuntu: ``apt install chromium``); where there is
none these tests are skipped, save where TIANJI_NEEDS_BROWSER is set.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager

import pytest

# what Chromium would do on its own: look for updates, and for its makers' servers
QUIET = ("background-networking", "component-update", "sync", "gpu", "dev-shm-usage", "quic")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, driven by Playwright, whose event loop must be gone when other tests run."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    path = os.environ.get("TIANJI_BROWSER") or next(filter(None, found), None)
    if not path:
        needed = "没有找到 Chromium；请安装（apt install chromium），或用 TIANJI_BROWSER 指明它在哪里"
        pytest.fail(needed) if os.environ.get("TIANJI_NEEDS_BROWSER") else pytest.skip(needed)
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """One tab of its own context, 1280 × 900; a script error of the page fails the test."""
    errors = []
    with browser.new_context(locale="zh-CN", viewport={"width": 1280, "height": 900}) as context:
        tab = context.new_page()
        tab.set_default_timeout(60_000)
        tab.on("pageerror", lambda error: errors.append(error))  # Playwright takes no built-in
        yield tab
    assert not errors


@pytest.fixture(scope="session")
def serve():
    """``with serve("web", MODEL, ...) as url``: run ``tianji`` with a page until the block ends."""
    return _serve


@contextmanager
def _serve(*arguments: object):
    command = [sys.executable, "-m", "tianji_toolbox.cli", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    lines: list[str] = []
    threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True).start()
    try:
        yield _wait(process, lines)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _wait(process: subprocess.Popen, lines: list[str], seconds: float = 300) -> str:
    """Return the page's address when it answers."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"http://[\w.:\[\]]+", "".join(lines))
        if found:
            try:
                with urllib.request.urlopen(f"{found[0]}/_stcore/health", timeout=5):
                    return found[0]
            except OSError:
                pass
        time.sleep(0.2)
    raise AssertionError("the page did not come up:\n" + "".join(lines))
