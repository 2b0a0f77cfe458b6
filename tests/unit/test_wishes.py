"""The matrix: what ships is sound, and what a student breaks is named."""

import shutil

import pytest

from tianji_helpers import emoji, paths, wishes
from tianji_helpers.errors import CourseError


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
    assert (len(matrix.usual_recipients), len(matrix.usual_scenes)) == (28, 18)
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


def test_recipients_and_scenes_beyond_the_original_are_not_made_by_default(matrix):
    assert {"父亲", "客户", "恋人", "朋友", "孩子"} <= set(matrix.recipients) - set(matrix.usual_recipients)
    assert {"元旦", "开业", "高考", "退休", "毕业", "教师节"} <= set(matrix.scenes) - set(matrix.usual_scenes)
    assert matrix.suitable("父亲", "元旦") and not matrix.suitable("孩子", "新婚快乐")
    with pytest.raises(CourseError, match="没有叫 房东 的对象"):
        matrix.suitable("房东", "元旦")


def test_every_misfit_has_its_reason(matrix):
    assert matrix.misfit("爷爷", "七夕节").why == "情人的节日，对长辈和上级说显得没大没小"
    assert matrix.misfit("奶奶", "新婚快乐").absurd and not matrix.misfit("爷爷", "七夕节").absurd
    assert matrix.misfit("姐姐", "工作升职") is None is matrix.misfit("母亲", "工作升职")


def test_every_request_of_the_matrix_reads_back(matrix):
    for recipient, scene in matrix.pairs():
        for style in matrix.styles:
            request = matrix.request(recipient, scene, style)
            asked = matrix.read(request)
            assert (*asked.pair, asked.style) == (recipient, scene, style)


def test_unknown_names_are_named(matrix):
    with pytest.raises(CourseError, match="没有叫 大家 的对象"):
        matrix.request("大家", "生日")
    with pytest.raises(CourseError, match="没有叫 朋克 的风格"):
        matrix.request("姐姐", "生日", "朋克")


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("生日快乐！～1#©", 0), ("🎂", 1), ("❤️☀️", 2), ("👩‍👩‍👧", 1), ("🇨🇳", 1), ("👍🏽✨", 2)],
)
def test_emoji_are_counted_as_a_person_sees_them(text, count):
    assert emoji.count(text) == count
    assert emoji.count(emoji.strip(text)) == 0


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
        ("scenes.yaml", "marks: [生日, 生辰, 寿辰]", "marks: 生日", ["生日", "marks 应当是列表"]),
        ("styles.yaml", "max_chars: 45", "max_chars: 5", ["正常", "min_chars=8 大于 max_chars=5"]),
        ("styles.yaml", "max_chars: 45", "max_chars: 四十", ["正常", "max_chars 应当是不小于 0 的整数"]),
        ("styles.yaml", "正常:", "平常:", ["缺少默认风格"]),
        ("suitability.yaml", "七夕节:", "光棍节:", ["光棍节", "没有这个场景"]),
        ("suitability.yaml", "recipients: [赵老师", "recipients: [张老师", ["七夕节", "没有对象“张老师”"]),
        ("suitability.yaml", "absurd: true", "absurd: 对", ["新婚快乐", "absurd 应当是 true 或 false"]),
        ("suitability.yaml", "- why: 多半", "- reason: 多半", ["不认识的字段 reason（可用：why、"]),
        ("recipients.yaml", "extra: true", "extra: 是", ["extra 应当是 true 或 false"]),
        ("requirements.yaml", '- ""', "- 3", ["第 1 项", "文字，现在是 3"]),
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
    assert wishes.load(folder) is wishes.load(folder)  # read again only when a file has changed
    with (folder / "recipients.yaml").open("a", encoding="utf-8") as file:
        file.write("大家: {kind: peer, honorific: 你, address: [大家]}\n")
    matrix = wishes.load(folder)
    assert matrix.read("祝大家元宵节快乐").who.name == "大家"
    assert len(matrix.pairs()) == len(wishes.load().pairs()) + 18
