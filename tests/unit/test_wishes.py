"""The matrix: what ships is sound, what a student breaks is named, and the rules judge rightly."""

import shutil

import pytest

from tianji_helpers import paths, wishes
from tianji_helpers.errors import CourseError

GOOD = {"on_topic", "style", "length", "honorific", "clean"}


@pytest.fixture(scope="module")
def matrix():
    return wishes.load()


@pytest.fixture
def folder(tmp_path):
    """A copy of data/wishes that a test may break."""
    return shutil.copytree(paths.DATA / "wishes", tmp_path / "wishes")


def edit(folder, name, old, new):
    file = folder / name
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_matrix_has_the_size_of_the_original(matrix):
    assert (len(matrix.recipients), len(matrix.scenes)) == (28, 18)
    assert matrix.usual_styles == ["正常", "小红书", "严肃"]
    assert set(matrix.styles) - set(matrix.usual_styles) == {
        *("文艺", "白话", "文言文", "诗词赋", "放飞自我", "祝福长文")
    }
    assert "工作升职" in matrix.scenes  # without the original's trailing space


def test_ten_to_twenty_percent_of_the_pairs_are_unsuitable_and_skipped(matrix):
    pairs = matrix.pairs()
    assert 0.10 <= 1 - len(pairs) / (28 * 18) <= 0.20
    assert ("爷爷", "七夕节") not in pairs and not matrix.suitable("爷爷", "七夕节")
    assert pairs[0] == ("赵老师", "生日") and len(set(pairs)) == len(pairs)


def test_every_request_of_the_matrix_reads_back(matrix):
    for recipient, scene in matrix.pairs():
        for style in matrix.styles:
            request = matrix.request(recipient, scene, style)
            assert matrix.parse_request(request) == (recipient, scene, style)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("祝姐姐生日快乐", ("姐姐", "生日", "正常")),
        ("祝姐姐生日快乐，严肃风格", ("姐姐", "生日", "严肃")),
        ("祝弟弟工作升职 ,小红书风格", ("弟弟", "工作升职", "小红书")),
        ("祝邻居赵大妈新婚快乐", ("邻居赵大妈", "新婚快乐", "正常")),
        ("祝大家元宵节快乐", None),
        ("祝姐姐生日,朋克风格", None),
        ("你是谁", None),
    ],
)
def test_parse_request(matrix, text, found):
    assert matrix.parse_request(text) == found


@pytest.mark.parametrize(
    ("cell", "text", "wrong"),
    [
        (("姐姐", "生日", "正常"), "姐姐，祝你生日快乐，万事如意！", set()),
        (("姐姐", "生日", "小红书"), "姐姐，生日快乐，好运连连呀🎂", set()),
        (("爷爷", "重阳节", "严肃"), "敬爱的爷爷，值此重阳佳节，谨祝您福寿康宁，岁岁平安。", set()),
        (("爷爷", "重阳节", "严肃"), "敬爱的爷爷，值此重阳佳节，谨祝你福寿康宁，岁岁平安。", {"honorific"}),
        (("妹妹", "生日", "正常"), "妹妹，祝您生日快乐！", {"honorific"}),
        (("姐姐", "春节", "正常"), "姐姐，祝你生日快乐，万事如意！", {"on_topic"}),
        (("姐姐", "春节", "正常"), "姐姐，新年快乐，也祝你中秋愉快！", {"on_topic"}),
        (("姐姐", "生日", "小红书"), "姐姐，生日快乐，好运连连！", {"style"}),
        (("姐姐", "生日", "小红书"), "姐姐，生日快乐🎂🎂🎂好运连连呀", {"style"}),
        (("姐姐", "生日", "正常"), "生日快乐！", {"length"}),
        (("姐姐", "生日", "正常"), "姐姐，祝你生日快乐！啦~", {"clean"}),
        (("姐姐", "生日", "正常"), "姐姐，祝你生日快乐。哦！", {"clean"}),
        (("姐姐", "生日", "正常"), "好的，以下是送给姐姐的生日祝福：祝你开心！", {"clean"}),
        (("姐姐", "生日", "正常"), "姐姐，祝你生日快乐！<|im_end|>", {"clean"}),
        (("姐姐", "生日", "正常"), "**姐姐，祝你生日快乐！**", {"clean"}),
        (("姐姐", "生日", "正常"), "姐姐，祝你生日快乐！\n祝你开心！", {"clean"}),
        (("姐姐", "生日", "正常"), "“姐姐，祝你生日快乐！”", {"clean"}),
        (("姐姐", "生日", "正常"), "姐姐，，祝你生日快乐！", {"clean"}),
        (("姐姐", "生日", "正常"), "姐姐，祝你生日快乐快乐快乐快乐！", {"clean"}),
        (("姐姐", "生日", "正常"), "", {"on_topic", "length", "clean"}),
    ],
)
def test_check_finds_exactly_what_is_wrong(matrix, cell, text, wrong):
    result = wishes.check(matrix, *cell, text)
    assert set(result) == GOOD
    assert {name for name, good in result.items() if not good} == wrong


def test_unknown_names_are_named(matrix):
    with pytest.raises(CourseError, match="没有名叫“大家”的对象"):
        wishes.check(matrix, "大家", "生日", "正常", "祝大家生日快乐")
    with pytest.raises(CourseError, match="没有名叫“朋克”的风格"):
        matrix.request("姐姐", "生日", "朋克")


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("生日快乐！～1#©", 0), ("🎂", 1), ("❤️☀️", 2), ("👩‍👩‍👧", 1), ("🇨🇳", 1), ("👍🏽✨", 2)],
)
def test_emoji_are_counted_as_a_person_sees_them(text, count):
    assert wishes.count_emoji(text) == count
    assert wishes.count_emoji(wishes.strip_emoji(text)) == 0


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("recipients.yaml", "honorific: 您", "honorific: 汝", ["赵老师", "honorific", "汝"]),
        ("recipients.yaml", "赵老师: {kind: superior, ", "赵老师: {", ["赵老师", "缺少字段 kind"]),
        ("recipients.yaml", "kind: superior,", "kind: superior, age: 3,", ["赵老师", "不认识的字段 age"]),
        ("recipients.yaml", "大舅:", "赵老师:", ["第", "“赵老师”写了两次"]),
        ("recipients.yaml", "赵老师:", "'赵老师 ':", ["首尾没有空格"]),
        ("recipients.yaml", "[赵老师, 老师]", "[]", ["赵老师", "address 至少要有 1 项"]),
        ("scenes.yaml", "kind: life", "kind: party", ["生日", "party"]),
        ("scenes.yaml", "[生日, 生辰, 寿辰, 寿星]", "生日", ["生日", "marks 应当是列表"]),
        ("styles.yaml", "max_chars: 45", "max_chars: 5", ["正常", "min_chars=8 大于 max_chars=5"]),
        ("styles.yaml", "max_chars: 45", "max_chars: 四十", ["正常", "max_chars 应当是不小于 0 的整数"]),
        ("styles.yaml", "正常:", "平常:", ["缺少默认风格"]),
        ("suitability.yaml", "七夕节:", "情人节:", ["情人节", "没有场景"]),
        ("suitability.yaml", "unsuitable: [赵老师", "unsuitable: [张老师", ["七夕节", "没有对象“张老师”"]),
        ("requirements.yaml", '- ""', "- 3", ["第 1 条", "应当是一句话"]),
        ("scenes.yaml", "keywords: [生日", "keywords: [[生日", ["第", "不是合法的 YAML"]),
    ],
)
def test_a_broken_file_is_named_with_entry_and_rule(folder, name, old, new, words):
    edit(folder, name, old, new)
    with pytest.raises(CourseError) as caught:
        wishes.load(folder)
    for word in [name, *words]:
        assert word in str(caught.value)


def test_a_missing_file_is_named(folder):
    (folder / "styles.yaml").unlink()
    with pytest.raises(CourseError, match=r"styles\.yaml"):
        wishes.load(folder)


def test_a_new_recipient_is_one_line(folder):
    with (folder / "recipients.yaml").open("a", encoding="utf-8") as file:
        file.write("大家: {kind: peer, honorific: 你, address: [大家]}\n")
    matrix = wishes.load(folder)
    assert matrix.parse_request("祝大家元宵节快乐") == ("大家", "元宵节", "正常")
    assert len(matrix.pairs()) == len(wishes.load().pairs()) + 18
