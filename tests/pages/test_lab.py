"""A lesson in JupyterLab, with the mouse: it opens, its map is drawn, it runs, its figure is there."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tianji_helpers import paths

LESSON = "04_convert_ruozhiba.ipynb"


@pytest.fixture
def lab(tmp_path):
    """JupyterLab over a copy of the lesson; yields the lesson's address."""
    shutil.copy(paths.NOTEBOOKS / LESSON, tmp_path)
    log = tmp_path / "lab.log"
    options = [
        "--no-browser",
        "--allow-root",
        "--port=0",
        "--ip=127.0.0.1",
        f"--ServerApp.root_dir={tmp_path}",
    ]
    # settings of whoever runs the tests must not shape the page
    home = {name: str(tmp_path / "home") for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR")}
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            stdout=file,
            stderr=file,
            env=os.environ | home | {"JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")},
        )
    try:
        until = time.monotonic() + 60
        while not (found := re.search(r"(http://127\.0\.0\.1:\d+)/lab\?(token=\w+)", log.read_text("utf-8"))):
            assert time.monotonic() < until and server.poll() is None, log.read_text("utf-8")
            time.sleep(0.2)
        yield f"{found[1]}/lab/tree/{LESSON}?{found[2]}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)


def test_a_lesson_runs_by_mouse_and_shows_its_figure(page, lab):
    page.goto(lab)
    page.get_by_role("heading", name="第 4 课").wait_for()
    page.locator(".jp-RenderedMermaid").first.wait_for()
    notebook = page.locator(".jp-Notebook")
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_text("Clear Outputs of All Cells", exact=True).click()
    assert notebook.locator(".jp-OutputArea-output img").count() == 0
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before that, nothing would be run
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    figure = notebook.locator(".jp-OutputArea-output img").first
    figure.wait_for(state="attached", timeout=120_000)
    figure.scroll_into_view_if_needed()
    assert figure.evaluate("image => image.complete && image.naturalWidth") > 300
