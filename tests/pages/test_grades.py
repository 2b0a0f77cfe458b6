"""The grade table in a real browser: marks, what is missing, on a phone too, and no script of a student."""

import pytest

from tianji_helpers import exercises
from tianji_toolbox.classroom import gradebook, grading

EVIL = """<img src=x onerror="document.title='hit'"><script>document.title='hit'</script>"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    right = {number: [] for number in exercises.EXERCISES}
    grades = [
        grading.Grade("韩梅梅", dict(right)),
        grading.Grade(EVIL, right | {"01-1": [EVIL, "W" * 300]}, [f"01.ipynb：{EVIL}"]),
        grading.Grade("李雷", {"01-2": []}),
    ]
    return gradebook.write(grades, tmp_path_factory.mktemp("grades"))[1]


def test_it_shows_marks_and_what_is_missing(page, table):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(table.as_uri())
    every = len(exercises.EXERCISES)
    rows = [row.split() for row in page.locator("tbody tr").all_inner_texts()]
    assert rows[0] == ["韩梅梅", str(every), "/", str(every), *["✓"] * every]
    assert rows[2] == ["李雷", "1", "/", str(every), "·", "✓", *["·"] * (every - 2)]
    assert page.locator("tfoot td").all_inner_texts()[1:3] == ["1", "3"]
    hint = page.get_by_text("W" * 300)
    assert not hint.is_visible()
    page.locator("summary").click()
    assert hint.is_visible() and page.locator(".problem").inner_text() == f"01.ipynb：{EVIL}"
    assert page.title() == "成绩表" and asked == [table.as_uri()]


@pytest.mark.parametrize("width", [320, 1280])
def test_only_the_table_scrolls_sideways(page, table, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(table.as_uri())
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("tbody td").last.scroll_into_view_if_needed()
    assert page.locator("tbody td").first.bounding_box()["x"] >= 0, "the names stay in sight"
