"""The course in JupyterLab, with the mouse: the start page and its links, a lesson, a dark theme."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from playwright.sync_api import expect

from tianji_helpers import paths

LESSON = "04_convert_ruozhiba.ipynb"
NEXT = "05_train_qlora.ipynb"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab, set up as ``make lab`` does, over copies; ``lab(NAME)`` is the address of a file."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("README.md", LESSON, NEXT):
        shutil.copy(paths.NOTEBOOKS / name, folder)
    log = folder / "lab.log"
    options = [
        "--no-browser",
        "--allow-root",
        "--port=0",
        "--ip=127.0.0.1",
        f"--ServerApp.root_dir={folder}",
    ]
    # settings of whoever runs the tests must not shape the page
    own = {name: str(folder / "home") for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR")}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / "home"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    own |= {"JUPYTER_CONFIG_PATH": str(paths.CONFIGS / "jupyter")}
    # Streamlit sets MPLBACKEND when it is imported; kernels would then show no figure
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            stdout=file,
            stderr=file,
            env=inherited | own,
        )
    try:
        until = time.monotonic() + 300
        while not (found := re.search(r"(http://127\.0\.0\.1:\d+)/lab\?(token=\w+)", log.read_text("utf-8"))):
            assert time.monotonic() < until and server.poll() is None, log.read_text("utf-8")
            time.sleep(0.2)
        yield lambda name: f"{found[1]}/lab/tree/{name}?reset&{found[2]}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(300)


def test_the_start_page_leads_through_the_course(page, lab):
    page.goto(lab("README.md"))
    start = page.locator(".jp-MarkdownViewer")
    start.get_by_role("heading", name="课程首页").wait_for()
    start.locator(".jp-RenderedMermaid").wait_for()
    start.get_by_role("link", name="第 4 课 ·").click()
    page.get_by_role("heading", name="第 4 课").wait_for()
    page.locator(".jp-Notebook").get_by_role("link", name="05 QLoRA 训练").first.click()
    page.get_by_role("heading", name="第 5 课").wait_for()
    page.locator(".jp-Notebook:visible").get_by_role("link", name="课程首页").first.click()
    expect(start.get_by_role("heading", name="课程首页")).to_be_visible()


def test_a_lesson_runs_by_mouse_and_shows_its_figure(page, lab):
    page.goto(lab(LESSON))
    page.get_by_role("heading", name="第 4 课").wait_for()
    page.locator(".jp-RenderedMermaid").first.wait_for()
    notebook = page.locator(".jp-Notebook")
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_text("Clear Outputs of All Cells", exact=True).click()
    figures = notebook.locator(".jp-OutputArea-output img")
    expect(figures).to_have_count(0)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before that, nothing would be run
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    figures.first.wait_for(state="attached", timeout=120_000)
    figures.first.scroll_into_view_if_needed()
    width = figures.first.evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert width > 300


def test_a_dark_theme_leaves_figures_and_token_boxes_readable(page, lab):
    page.goto(lab(NEXT))
    page.get_by_role("heading", name="第 5 课").wait_for()
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.get_by_text("Theme", exact=True).hover()
    page.get_by_text("JupyterLab Dark", exact=True).click()
    page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
    notebook = page.locator(".jp-Notebook")
    box = notebook.locator(".jp-RenderedHTML span", has_text="姐姐").first
    box.scroll_into_view_if_needed()
    colors = box.evaluate("box => [getComputedStyle(box).color, getComputedStyle(box).backgroundColor]")
    assert colors == ["rgb(17, 17, 17)", "rgb(255, 255, 255)"]
    figure = notebook.locator(".jp-OutputArea-output img").first
    figure.scroll_into_view_if_needed()
    corner = figure.evaluate("""image => {
        const context = document.createElement("canvas").getContext("2d");
        context.drawImage(image, 0, 0);
        return [...context.getImageData(1, 1, 1, 1).data];
    }""")
    assert corner == [255, 255, 255, 255]
