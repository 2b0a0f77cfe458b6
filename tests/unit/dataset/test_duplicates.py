"""Near duplicates: LSH finds what the real similarity confirms."""

import random

import pytest

from tianji_helpers.dataset import duplicates
from tianji_helpers.errors import CourseError


def texts(count: int, length: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(chr(rng.randrange(0x4E00, 0x5E00)) for _ in range(length)) for _ in range(count)]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_finds_planted_near_duplicates_and_nothing_else(threshold):
    originals = texts(300, 60, seed=1)
    index = duplicates.NearIndex(threshold)
    for number, text in enumerate(originals):
        index.add(number, text)
    found = 0
    for number, text in enumerate(originals):
        changed = text[:-1] + "改"  # one 3-gram of 58 differs
        assert duplicates.similarity(text, changed) == pytest.approx(57 / 59)
        nearest = index.nearest(changed)
        found += nearest is not None and nearest[0] == number
    assert found >= 0.995 * len(originals)
    assert all(index.nearest(text) is None for text in texts(100, 60, seed=2))


def test_similarity_is_verified_not_estimated():
    index = duplicates.NearIndex(0.9)
    index.add("a", "愿你岁岁平安天天开心")
    assert duplicates.similarity("愿你岁岁平安天天开心", "愿你岁岁平安日日开心") < 0.9
    assert index.nearest("愿你岁岁平安日日开心") is None


def test_punctuation_and_emoji_do_not_count_but_emoji_alone_do():
    assert duplicates.similarity("生日快乐，姐姐！🎂", "生日快乐姐姐") == 1
    assert duplicates.similarity("🎂🎂🎂🎂", "🎉🎉🎉🎉") == 0


def test_clusters_are_a_partition_and_chain():
    base = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"
    chain = [base, base[:-1] + "一", "二" + base[1:-1] + "一", "完全不同的另一句话在这里"]
    groups = duplicates.clusters([chain[0], chain[2], chain[3], chain[1]], 0.85)
    assert groups == [[0, 1, 3], [2]]  # 0 and 1 meet only through 3, which comes last


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_threshold_out_of_range(threshold):
    with pytest.raises(CourseError, match="阈值"):
        duplicates.NearIndex(threshold)
