"""``tianji review`` in a real browser: what a person decides there is what the next cleaning does."""

import json
import re
import subprocess
import sys

import pytest

from tianji_helpers import records, wishes
from tianji_helpers.dataset import decisions

EVIL = """<img src=x onerror="document.title='hit'">**粗**![](http://127.0.0.1:9/x.png)姐姐，生日快乐！"""
ROWS = [
    ("祝姐姐生日", "姐姐，祝你生日快乐，愿你天天开心，事事顺心！"),
    ("祝妹妹生日", "妹妹，生日快乐，天天都有好心情。哦！"),
    ("祝大舅生日,严肃风格", "祝福！"),
    ("祝爷爷春节,严肃风格", "当前祝福语如下"),
    ("祝姐姐生日", EVIL),
]
OWN = "爷爷，值此新春佳节，谨祝您福寿安康，阖家欢乐，岁岁平安。"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "02_merge_clean" / "merged.json"
    turns = ({"system": wishes.SYSTEM, "input": a, "output": b} for a, b in ROWS)
    records.write_conversations(path, turns)
    return path


def card(page, row):
    return page.locator(f".st-key-current-{row}, .st-key-row-{row}")


def press(page, row, name):
    card(page, row).get_by_role("button", name=name).click()


def settled(page, count):
    """Wait until the page counts so many decisions and is at rest."""
    page.get_by_text(f"已定 {count} / 4 条").wait_for()
    page.locator("[data-test-script-state=notRunning]").wait_for()


def test_what_is_decided_on_the_page_is_what_cleaning_does(page, serve, source):
    path = source.with_name(decisions.FILE)
    with serve("review", source.parent.parent) as url:
        assert url.startswith("http://127.0.0.1:")
        page.goto(url)
        rejected = card(page, 3)
        rejected.get_by_text("弃用：没有祝福").wait_for()
        assert "去掉称呼和标点，只剩" in rejected.inner_text()
        mended = card(page, 2)
        assert mended.locator("del").all_inner_texts() == ["哦！"]
        assert "天天都有好心情。" in mended.inner_text()

        press(page, 3, "保留")
        settled(page, 1)
        press(page, 2, "弃用")
        settled(page, 2)
        press(page, 5, "弃用")
        settled(page, 3)
        page.get_by_role("button", name="撤销上一步").click()
        settled(page, 2)
        press(page, 4, "改写")
        page.get_by_role("textbox", name="改写成").fill(OWN)
        page.get_by_role("button", name="保存").click()
        settled(page, 3)

        page.reload()
        settled(page, 3)
        assert card(page, 5).is_visible() and not card(page, 4).is_visible()
        page.get_by_text("已定", exact=True).click()
        card(page, 4).get_by_text(OWN).wait_for()
        assert "已弃用" in card(page, 2).inner_text()

    output, rejects = source.with_name("wishes.json"), source.with_name("rejects.jsonl")
    command = [sys.executable, "-m", "tianji_toolbox.cli", "clean", source, "--output", output]
    command += ["--rejects", rejects, "--report", source.with_name("report.json"), "--decisions", path]
    subprocess.run(command, check=True)
    kept = [(turn["input"], turn["output"]) for turn in records.read_conversations(output)]
    assert kept == [ROWS[0], ROWS[2], (ROWS[3][0], OWN)]
    assert {row["row"] for row in records.read_jsonl(rejects)} == {2, 5}


def test_keys_are_enough(page, serve, source, tmp_path):
    path = tmp_path / "own" / "decisions.jsonl"
    with serve("review", "--source", source, "--decisions", path) as url:
        page.goto(url)
        card(page, 2).get_by_role("button", name="先放着").wait_for()
        settled(page, 0)
        page.keyboard.press("4")  # later
        page.locator(".st-key-current-3").wait_for()
        settled(page, 0)
        page.keyboard.press("3")  # reject
        settled(page, 1)
        page.locator(".st-key-current-4").wait_for()
        page.keyboard.press("2")  # write a better one
        page.locator("textarea:focus").wait_for()
        page.keyboard.type("0123")  # text, not choices
        page.keyboard.press("Control+a")
        page.keyboard.insert_text(OWN)
        page.keyboard.press("Control+Enter")
        settled(page, 2)
        page.keyboard.press("0")  # take it back
        settled(page, 1)
        page.get_by_text("第 4 条：撤销了“已改写”。").wait_for()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["action"] for line in lines] == ["reject"]
    assert decisions.history(path) == lines


def test_what_a_model_wrote_is_text(page, serve, source):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with serve("review", "--source", source) as url:
        page.goto(url)
        card(page, 5).get_by_role("button", name="弃用").wait_for()
        assert EVIL in card(page, 5).inner_text()
        assert page.locator(".stMainBlockContainer img").count() == 0
        press(page, 5, "改写")
        page.get_by_role("textbox", name="改写成").fill(EVIL)
        page.get_by_role("button", name="保存").click()  # the rule's warning quotes the text
        page.get_by_text("提醒一句").wait_for()
        page.get_by_text("已定", exact=True).click()
        card(page, 5).get_by_text("您的").wait_for()
        assert page.title() == "复核"
        assert page.locator(".stMainBlockContainer img").count() == 0
        strangers = [
            found for found in asked if not found.startswith((url, url.replace("http", "ws"), "data:"))
        ]
    assert not strangers


def test_a_narrow_screen_does_not_scroll_sideways(page, serve, tmp_path):
    path = tmp_path / "merged.json"
    turns = [{"system": wishes.SYSTEM, "input": "祝姐姐生日,小红书风格", "output": "W" * 300 + EVIL * 3}]
    turns += [{"system": wishes.SYSTEM, "input": "写首诗" * 30, "output": str(n)} for n in range(200)]
    records.write_conversations(path, turns)
    page.set_viewport_size({"width": 390, "height": 844})
    with serve("review", "--source", path) as url:
        page.goto(url)
        page.get_by_role("button", name=re.compile("都照规则的意见")).wait_for()
        assert not too_wide(page)
        press(page, 1, "改写")
        page.get_by_role("textbox", name="改写成").wait_for()
        assert not too_wide(page)


def too_wide(page):
    """Return the boxes that hold more than they are wide."""
    return page.evaluate(
        """[document.documentElement, ...document.querySelectorAll(".stMain, .stMainBlockContainer, .texts")]
        .filter(box => box.scrollWidth > box.clientWidth).map(box => box.className)"""
    )


@pytest.mark.parametrize("option", [["--source"], []])
def test_a_missing_file_is_named_before_a_page_is_served(option, tmp_path):
    command = [sys.executable, "-m", "tianji_toolbox.cli", "review", *option, tmp_path / "nowhere"]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True)
    assert done.returncode == (2 if option else 1)
    assert "nowhere" in done.stderr and "第 2 课" in done.stderr
    assert not list(tmp_path.iterdir())
