"""What the review page shows, how it is found and escaped, and what its buttons write."""

import re
import sys
import time

import pytest
from streamlit.testing.v1 import AppTest

from tianji_helpers import paths, records, wishes
from tianji_helpers.dataset import clean, decisions
from tianji_toolbox.classroom import review

PAGE = paths.ROOT / "tianji_toolbox" / "classroom" / "review_page.py"
SYSTEM = wishes.SYSTEM
GOOD = "姐姐，祝你生日快乐，愿你天天开心，事事顺心！"
ROWS = [
    ("祝姐姐生日", GOOD),
    ("祝姐姐生日", GOOD.replace("！", "！！")),  # the same when mended
    ("祝妹妹生日", "妹妹，生日快乐，天天都有好心情。哦！"),
    ("祝大舅生日,严肃风格", "祝福！"),
    ("写首诗", "床前明月光"),
    ("祝大舅生日,严肃风格", "祝福！"),  # to the letter as row 4
    ("祝爷爷春节,严肃风格", "当前祝福语如下"),
]


def write(path, rows=ROWS):
    records.write_conversations(path, ({"system": SYSTEM, "input": a, "output": b} for a, b in rows))
    return path


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "merged.json")


@pytest.fixture
def items(source):
    return review.load(source)[0]


def test_every_row_that_was_mended_or_rejected_is_there_once(items):
    assert [(item.row, item.verdict, item.rules[0]) for item in items] == [
        (2, "reject", clean.EXACT),
        (3, "keep", "particle"),
        (4, "reject", "empty"),
        (7, "reject", "empty"),
    ]
    assert items[0].other == (1, GOOD)
    assert items[1].after == "妹妹，生日快乐，天天都有好心情。"
    assert [item.copies for item in items] == [0, 0, 1, 0]
    assert [item.can_keep for item in items] == [True, True, True, False]


def test_keys_are_those_of_the_rows_as_they_came_in(source, items):
    turns = records.read_conversations(source)
    assert [item.key for item in items] == [decisions.key_of(turns[item.row - 1]) for item in items]


def test_rules_that_are_off_and_the_threshold_count(source):
    items, titles = review.load(source, off=[clean.EXACT, clean.NEAR])
    assert [(item.row, item.verdict) for item in items[:2]] == [(2, "keep"), (3, "keep")]
    assert list(titles) == [name for name in clean.TITLES if any(name in item.rules for item in items)]
    write(source, [ROWS[0], ("祝姐姐生日", GOOD.replace("天天开心", "天天快乐"))])
    assert review.load(source, threshold=0.95) == ([], {})
    near = review.load(source, threshold=0.3)[0]
    assert [(item.row, item.rules, item.other) for item in near] == [(2, (clean.NEAR,), (1, GOOD))]


def test_filters_and_search(items):
    decided = {items[0].key: {"action": "edit", "output": "姐姐，快乐每一天🎂"}}
    rows = [
        ({}, [2, 3, 4, 7]),
        ({"state": "open"}, [3, 4, 7]),
        ({"state": "decided"}, [2]),
        ({"verdict": "keep"}, [3]),
        ({"verdict": "reject", "rule": "empty"}, [4, 7]),
        ({"rule": "particle", "verdict": "reject"}, []),
        ({"words": "大舅  严肃"}, [4]),
        ({"words": "每一天🎂"}, [2]),
        ({"words": "7"}, [7]),
        ({"words": "<b>"}, []),
    ]
    for filters, expected in rows:
        assert [item.row for item in review.select(items, decided, **filters)] == expected, filters


def test_a_warning_is_given_for_a_text_that_the_rules_would_reject(items):
    assert "只剩“好”" in review.warning(items[2], "好！")
    assert review.warning(items[1], "妹妹，生日快乐，天天都有好心情哦！") == ""


def test_text_is_escaped_and_what_cannot_be_seen_is_shown():
    assert review.escape("<img src=x onerror=\"a('&')\">") == (
        "&lt;img src=x onerror=&quot;a(&#x27;&amp;&#x27;)&quot;&gt;"
    )
    assert review.escape("a\u202eb\x07c\nd👨‍👩‍👧❤️") == ("a<i>U+202E</i>b<i>U+0007</i>c<i>↵</i>\nd👨‍👩‍👧❤️")
    assert len(review.escape("哈" * 100_000)) < 5_000 and "100000" in review.escape("哈" * 100_000)


@pytest.mark.parametrize(
    ("before", "after"),
    [("甲<b>乙", "甲</b>丙"), ("", "好"), ("好", ""), ("快乐", "快乐"), ("哈" * 9_999, "呵")],
)
def test_the_marked_texts_say_what_the_texts_said(before, after):
    for text, marked in zip((before, after), review.differences(before, after), strict=True):
        unmarked = re.sub("</?(?:ins|del)>", "", marked)
        assert unmarked == review.escape(text)


def test_texts_of_any_shape_are_compared_in_time():
    start = time.process_time()
    for text in ("哈" * 400, "哈呵" * 200, "啊" * 10_000_000):
        review.differences(text, text[::-1][3:] + "呵")
    assert time.process_time() - start < 10


@pytest.fixture
def page(source, monkeypatch):
    path = source.with_name("decisions.jsonl")
    monkeypatch.setattr(sys, "argv", ["page", str(source), str(path), "0.9"])
    return AppTest.from_file(PAGE, default_timeout=60).run(), path


def cards(app):
    """Return the numbers of the rows on the page."""
    return [int(button.key.partition("-")[2]) for button in app.button if button.key.startswith("reject-")]


def test_buttons_write_what_they_say_and_undo_takes_back_step_by_step(page, items):
    app, path = page
    assert cards(app) == [2, 3, 4, 7]
    assert app.button(key="undo").disabled
    app.button(key="keep-2").click().run()
    app.button(key="reject-3").click().run()
    app.button(key="edit-4").click().run()
    app.text_area(key="edited").set_value("大舅，祝您生日快乐，福寿绵长，平安喜乐，万事顺遂。")
    app.button(key="save").click().run()
    assert cards(app) == [7]
    written = [decisions.read(path)[item.key] for item in items[:3]]
    assert [row["action"] for row in written] == ["keep", "reject", "edit"]
    assert written[2]["output"].startswith("大舅，祝您")
    for expected in ([4, 7], [3, 4, 7], [2, 3, 4, 7]):
        app.button(key="undo").click().run()
        assert cards(app) == expected
    assert app.button(key="undo").disabled and decisions.read(path) == {}
    assert not app.exception


def test_the_rest_of_a_page_can_follow_the_rules(page, items):
    app, path = page
    app.button(key="keep-2").click().run()
    app.button(key="agree").click().run()
    written = decisions.read(path)
    assert [written[item.key]["action"] for item in items] == ["keep", "keep", "reject", "reject"]
    assert cards(app) == [] and "没有要看的" in app.info[0].value


def test_a_row_can_wait_and_what_makes_no_sense_cannot_be_chosen(page):
    app, _ = page
    app.button(key="later-2").click().run()
    assert cards(app) == [3, 4, 7, 2]
    assert [app.button(key=key).disabled for key in ("keep-4", "keep-7", "edit-7")] == [False, True, False]


def test_an_empty_answer_is_refused_in_words(page):
    app, path = page
    app.button(key="edit-2").click().run()
    app.text_area(key="edited").set_value(" ")
    app.button(key="save").click().run()
    assert "是空的" in app.code[0].value and not app.exception
    assert not path.exists()


def test_files_that_cannot_be_read_are_named_on_the_page(page):
    app, path = page
    path.write_text('{"key": 1}\n', encoding="utf-8")
    app.run()
    assert "第 1 行" in app.code[0].value and not app.exception
    path.unlink()
    write(path.with_name("merged.json"), [("祝姐姐生日", "")])
    path.with_name("merged.json").write_text("[1", encoding="utf-8")
    app.run()
    assert "merged.json" in app.code[0].value and not app.exception


def test_thousands_of_rows_come_in_pages(source, monkeypatch):
    styles = ("", ",小红书风格", ",严肃风格")
    write(source, [(f"祝姐姐生日{styles[n % 3]}", f"<{n}>") for n in range(5_000)])
    monkeypatch.setattr(sys, "argv", ["page", str(source), str(source.with_name("d.jsonl")), "0.9"])
    app = AppTest.from_file(PAGE, default_timeout=60).run()
    assert cards(app) == list(range(1, 11))
    app.text_input(key="words").set_value("<4321>").run()
    assert cards(app) == [4322]
    app.button(key="reject-4322").click()
    start = time.process_time()
    app.run()
    assert time.process_time() - start < 3
    assert "1 / 5000" in app.get("progress")[0].proto.text
