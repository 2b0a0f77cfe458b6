"""The cards: every scene in every style, never twice the same, nothing on them that gives them away."""

import pytest
from PIL import ImageChops, ImageStat

from tianji_helpers import wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import cards, material


def test_every_scene_of_the_course_can_be_drawn_in_two_ways():
    assert cards.scenes() == wishes.load().usual_scenes and len(cards.scenes()) == 18
    assert all(len(drawn) == 2 for drawn in cards.motifs().values())


@pytest.mark.parametrize("style", cards.STYLES)
def test_something_is_on_every_card(style):
    for scene in cards.scenes():
        image = cards.draw(scene, style, seed=3)
        assert image.size == (cards.SIZE, cards.SIZE) and image.mode == "RGB"
        assert max(ImageStat.Stat(image.crop((32, 32, 224, 224)).convert("L")).stddev) > 8, (scene, style)


def test_a_seed_gives_one_card_and_another_another():
    one, again, other = (cards.draw("生日", seed=seed) for seed in (1, 1, 2))
    assert ImageChops.difference(one, again).getbbox() is None
    assert ImageChops.difference(one, other).getbbox() is not None


def test_only_text_that_is_asked_for_stands_on_it():
    plain, written = cards.draw("生日", seed=1), cards.draw("生日", seed=1, text="春节")
    left, top, right, _ = ImageChops.difference(plain, written).getbbox()
    assert top > 200 and right - left < 100


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(CourseError, match="画不出“开学”。可选：生日、春节"):
        cards.draw("开学")
    with pytest.raises(CourseError, match="画不出“油画”"):
        cards.draw("生日", "油画")


def test_no_part_shares_a_card_or_the_unseen_style(tmp_path):
    drawn = material.draw_all(tmp_path, per_scene=5, test_per_scene=1)
    parts = {part: [one for one in drawn if one["part"] == part] for part in material.PARTS}
    assert [len(parts[part]) for part in material.PARTS] == [90, 18, 18]
    assert {one["style"] for one in parts["unseen"]} == {cards.UNSEEN}
    assert (
        {one["style"] for one in parts["train"]}
        == {one["style"] for one in parts["held_out"]}
        == set(cards.SEEN)
    )
    pixels = [(tmp_path / one["image"]).read_bytes() for one in drawn]
    assert len(set(pixels)) == len(pixels)


def test_a_wish_gets_a_card_of_its_scene_and_its_request_no_longer_says_it():
    drawn = [{"image": f"{scene}.png", "scene": scene} for scene in cards.scenes()]
    turns = [
        {"input": "祝姐姐生日,小红书风格", "output": "姐姐生日快乐！"},
        {"input": "祝赵老师春节", "output": "新春大吉！"},
        {"input": "祝姐姐高考", "output": "金榜题名！"},
    ]
    birthday, festival = material.with_cards(turns, drawn)
    assert birthday["image"] == "生日.png" and festival["image"] == "春节.png"
    assert birthday["conversations"][0]["value"] == "<image>\n给姐姐写一句祝福,小红书风格"
    assert festival["conversations"][1]["value"] == "新春大吉！"


def test_questions_fit_their_cards():
    drawn = [
        {"image": f"{scene}.png", "scene": scene, "part": "held_out", "style": "平涂"}
        for scene in cards.scenes()
    ]
    for one in material.questions(drawn):
        assert wishes.load().suitable(one["recipient"], one["scene"])
        assert one["scene"] not in one["request"]
