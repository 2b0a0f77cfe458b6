"""Requests are open: any wording is read, names that no list has are kept, and nothing ever fails."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import wishes
from tianji_helpers.request import MAX_CHARS

MATRIX = wishes.load()
STYLES = st.sampled_from([*MATRIX.styles, "幽默", "古风"])
# every way that people ask; {r} and {s} are the names
WORDINGS = (
    *(wording.format(recipient="{r}", scene="{s}") for wording in wishes.WORDINGS),
    "祝福{r}{s}",
    "我想祝福{r}{s}快乐",
    "我想送{r}{s}祝福",
    "我想给{r}{s}祝福",
    "送祝福给{r} {s}",
    "祝{r}{s} ",
    "祝我的{r}{s}",
    "请帮我给{r}写一段{s}祝福语",
)


@given(
    recipient=st.sampled_from(list(MATRIX.recipients)),
    scene=st.sampled_from(list(MATRIX.scenes)),
    style=STYLES,
    wording=st.sampled_from(WORDINGS),
    comma=st.sampled_from([",", "，", " ", " ,", "， "]),
)
def test_names_of_the_lists_come_back_from_every_wording(recipient, scene, style, wording, comma):
    plain = wording.format(r=recipient, s=scene)
    asked = MATRIX.read(plain)
    assert (asked.recipient, asked.scene, asked.style, asked.details) == (recipient, scene, "正常", "")
    styled = MATRIX.read(f"{plain}{comma}{style}风格")
    assert (styled.recipient, styled.scene, styled.style) == (recipient, scene, style)


NAMES = st.text(st.sampled_from("张王李阿小妞琪嬷豆"), min_size=2, max_size=4)
EVENTS = st.text(st.sampled_from("泡麦跑步展览钓鱼赢"), min_size=2, max_size=6)


@given(
    name=NAMES,
    event=EVENTS,
    wording=st.sampled_from(["送祝福给{}：{}", "祝{}的{}", "帮我写一句祝福，给{}，{}"]),
)
def test_names_that_no_list_has_are_read_as_they_were_said(name, event, wording):
    asked = MATRIX.read(wording.format(name, event))
    assert asked.recipient == name
    assert asked.scene in (event, "") and (asked.scene or event in asked.details)


@given(name=NAMES, scene=st.sampled_from(list(MATRIX.scenes)))
def test_a_strange_recipient_of_a_known_scene(name, scene):
    assert MATRIX.read(f"祝{name}{scene}").pair == (name, scene)


@pytest.mark.parametrize(
    ("text", "recipient", "scene", "style"),
    [
        ("祝姐姐生日快乐，严肃风格", "姐姐", "生日", "严肃"),
        ("用严肃风格祝领导春节快乐", "领导", "春节", "严肃"),
        ("祝大家元宵节快乐", "大家", "元宵节", "正常"),
        ("祝姐姐生日,朋克风格", "姐姐", "生日", "朋克"),
        ("祝李总监乔迁之喜", "李总监", "乔迁新居", "正常"),
        ("祝我妈妈端午安康", "母亲", "端午节", "正常"),
        ("祝王老师教师节快乐", "王老师", "教师节", "正常"),
        ("祝房东泼水节快乐", "房东", "泼水节", "正常"),
        ("祝姐姐马拉松完赛", "姐姐", "马拉松完赛", "正常"),
        ("祝姐姐和姐夫结婚快乐", "姐姐和姐夫", "新婚快乐", "正常"),
        ("我同事要结婚了，帮我写句祝福", "同事", "新婚快乐", "正常"),
        ("姐姐生日快乐", "姐姐", "生日", "正常"),
        ("祝表妹发财赚钱,放飞自我风格", "表妹", "发财", "放飞自我"),
        ("你是谁", "", "", "正常"),
        ("写首诗", "", "", "正常"),
        ("", "", "", "正常"),
    ],
)
def test_what_people_type(text, recipient, scene, style):
    asked = MATRIX.read(text)
    assert (asked.recipient, asked.scene, asked.style) == (recipient, scene, style)


def test_whatever_else_was_asked():
    asked = MATRIX.read("祝姐姐生日快乐,小红书风格,30字以内,她刚考上研究生")
    assert (asked.pair, asked.style) == (("姐姐", "生日"), "小红书")
    assert (asked.max_chars, asked.details) == (30, "她刚考上研究生")
    asked = MATRIX.read("给我姐姐写一句生日祝福，称呼她小雅，不超过三十五个字")
    assert (asked.pair, asked.address, asked.max_chars) == (("姐姐", "生日"), "小雅", 35)
    assert asked.names == ("姐姐", "小雅", "姐")


def test_the_entry_of_a_name_with_somebody_in_front():
    assert MATRIX.read("祝王老师生日").who is MATRIX.recipients["赵老师"]
    assert MATRIX.read("祝房东生日").who is None
    assert MATRIX.read("祝房东泼水节快乐").what is None


@given(st.text(max_size=60))
def test_any_text_is_read(text):
    asked = MATRIX.read(text)
    assert asked.text == text and asked.style
    assert len(asked.recipient) <= 16 and len(asked.scene) <= 16


@pytest.mark.parametrize(
    "piece", ["祝", "给", "的", "送祝福给", "风格", "，", " ", "1", "写一句", "姐姐", "百"]
)
def test_a_very_long_request_takes_no_time(piece):
    began = time.process_time()
    asked = MATRIX.read(f"祝姐姐生日，{piece * 5000}")
    assert time.process_time() - began < 1  # an hour if it were cubic
    assert asked.pair == ("姐姐", "生日") and len(asked.text) > MAX_CHARS
