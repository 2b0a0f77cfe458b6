"""Take the README's pictures of the demo again: ``python tests/pages/screenshots.py MERGED BASE``.

MERGED is the model of lesson 6 (``outputs/default/06_merge_chat/wishes/merged``), BASE the model that
it was trained from (``models/gemma-3-270m``). Needs a font with emoji.
"""

import sys
from pathlib import Path

from playwright.sync_api import expect

FOLDER = Path(__file__).with_suffix("")
SIZES = {"desktop": (1280, 960), "narrow": (390, 1300)}


def take(page, name: str) -> None:
    """Ask for a wish before and after the training, and write the picture."""
    for box, option in {"送给谁": "叔叔", "为了什么": "中秋节"}.items():
        page.get_by_role("combobox", name=box).fill(option)
        page.get_by_role("option", name=option, exact=True).click()
        page.wait_for_timeout(1_500)  # the page runs again
    page.get_by_role("radio", name="小红书").click()
    page.get_by_role("textbox", name="还想说的事").fill("他刚退休")
    page.get_by_text("前后对比").click()
    settings = page.get_by_text("生成设置")
    settings.click()
    page.get_by_role("slider", name="温度").press("Home")
    length = page.get_by_role("slider", name="最多多少个词元")
    length.press("Home")
    for _ in range(3):
        length.press("ArrowRight")
    settings.click()
    page.get_by_role("button", name="送祝福", exact=True).click()
    expect(page.get_by_role("button", name="复制")).to_have_count(2)
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(1_000)  # for the animations
    page.screenshot(path=FOLDER / f"{name}.png")


def main(merged: str, base: str) -> None:
    """Serve the demo and take every picture."""
    from conftest import browser, serve  # here: to a test run another file may be "conftest"

    expect.set_options(timeout=120_000)
    FOLDER.mkdir(exist_ok=True)
    for chromium in browser.__wrapped__():
        with serve.__wrapped__()("web", merged, "--base", base) as url:
            for name, (width, height) in SIZES.items():
                page = chromium.new_page(locale="zh-CN", viewport={"width": width, "height": height})
                page.goto(url)
                expect(page.get_by_role("button", name="送祝福", exact=True)).to_be_visible()
                take(page, name)
                page.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
