"""The report of a real, small batch in a real browser: read, followed, and on a phone."""

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from tianji_helpers.errors import CourseError
from tianji_toolbox import cli
from tianji_toolbox.classroom import gradebook, grading, report

EVIL = """<img src=x onerror="document.title='hit'"><script>document.title='hit'</script>"""
LESSON = """
import json
from IPython.display import HTML, display
from tianji_helpers import paths, records
folder = paths.stage_dir("05") / "wishes"
rows = [{"request": "祝姐姐生日", "answer": "祝你" * 200}, {"request": "W" * 300, "answer": EVIL}]
def figures(share):
    one = {"value": share, "low": None, "high": None}
    return dict.fromkeys(("faultless", "quality", "self_bleu"), one)
measured = {"loss": 4.5, "figures": figures(0.0), "rows": rows}
wish = {"request": "祝姐姐生日", "answer": f"{name}祝姐姐快乐"}
better = {"loss": 1.2, "figures": figures(0.75), "rows": [wish, rows[1]]}
records.write_json(folder / "metrics.json", {"task": "wishes", "before": measured, "after": better})
curve = [{"step": step, "loss": 4 / step, "lr": 0.1, "time": 1} for step in range(1, 9)]
records.write_jsonl(folder / "work" / "20260101" / "vis_data" / "scalars.json", curve)
display(HTML(EVIL + "shown"))
if name == "阿福":
    raise ValueError(EVIL)
"""


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch")
    first = new_code_cell('name = "a"', metadata={"tags": ["parameters"]})
    cells = [first, new_code_cell(f"EVIL = {EVIL!r}"), new_code_cell(LESSON)]
    nbformat.write(new_notebook(cells=cells), folder / "toy.ipynb")
    plan = {"title": "两个人", "notebooks": ["toy"], "grid": {"name": ["小红", "阿福"]}, "memory_gb": 1}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan, allow_unicode=True), encoding="utf-8")
    command = ["batch", str(folder / "plan.yaml"), "--output", str(folder / "out"), "--workers", "2"]
    assert cli.main(command) == 1
    return folder / "out"


def test_the_report_tells_and_leads_to_the_notebooks(page, batch):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((batch / "report.html").as_uri())
    assert page.title() == "两个人"
    row = page.locator("tbody tr").first
    assert "4.50 → 1.20" in row.inner_text() and "0% → 75%" in row.inner_text()
    failure = page.locator("pre").all_inner_texts()
    assert "raise ValueError(EVIL)" in failure[0] and EVIL in failure[1]
    cards = page.locator(".card").all_inner_texts()
    assert any("小红祝姐姐快乐" in card for card in cards) and any(EVIL in card for card in cards)
    assert page.locator("figure img").evaluate("image => image.naturalWidth") > 300
    row.get_by_role("link", name="toy").click()
    page.locator(".jp-RenderedHTML", has_text="shown").wait_for()
    assert page.title() != "hit"
    assert all(address.startswith(("file:", "data:")) for address in asked)


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_no_screen_scrolls_sideways(page, batch, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto((batch / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_can_be_made_again_and_only_from_a_batch(batch, tmp_path, capsys):
    before = (batch / "report.html").read_bytes()
    assert cli.main(["report", str(batch)]) == 0
    assert (batch / "report.html").read_bytes() == before
    with pytest.raises(CourseError, match="不是批次的文件夹"):
        report.write(tmp_path)


def test_grades_in_the_folder_are_shown(page, batch):
    passed, failed = {"01-1": [], "01-2": ["还差一点"]}, {"01-1": ["没有动手"]}
    grades = [grading.Grade("小红", passed), grading.Grade(EVIL, failed, ["读不了"])]
    files = gradebook.write(grades, batch)
    total = len(gradebook.Book().items(grades))
    try:
        assert cli.main(["report", str(batch)]) == 0
        page.goto((batch / "report.html").as_uri())
        table = page.locator("h2:has-text('练习成绩') ~ table").first
        rows = [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]
        assert rows == [["小红", f"1 / {total}", ""], [EVIL, f"0 / {total}", "读不了"]]
        assert page.title() == "两个人"
        page.get_by_role("link", name="成绩页").click()
        page.get_by_text("还差一点").first.wait_for(state="attached")
    finally:
        for file in files:
            file.unlink()
