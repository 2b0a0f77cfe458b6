"""Near duplicates: LSH finds what the real similarity confirms."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.lists(st.text(alphabet="祝您生日快乐aA，。🎂 ", max_size=20), max_size=8))
def test_a_sketch_counts_the_shingles_and_equal_sets_have_equal_sketches(texts):
    made = duplicates.sketch(texts)
    assert made.sizes.tolist() == [len(duplicates.shingles(text)) for text in texts]
    assert np.bitwise_count(made.bits).sum(axis=1).tolist() <= made.sizes.tolist()
    for one, first in enumerate(texts):
        for other, second in enumerate(texts):
            if duplicates.shingles(first) == duplicates.shingles(second):
                assert (made.keys[one] == made.keys[other]).all()
                assert (made.bits[one] == made.bits[other]).all()


@pytest.mark.parametrize("batch", [1, 3, 512])
def test_screening_keeps_what_asking_one_after_the_other_keeps(batch, monkeypatch):
    rng = random.Random(3)
    pool = [text[:cut] + "，" * (cut % 3) for text in texts(12, 40, seed=4) for cut in (36, 37, 38, 39, 40)]
    asked = [rng.choice(pool) for _ in range(300)]
    one_by_one, expected = duplicates.NearIndex(0.9), []
    for number, text in enumerate(asked):
        expected.append(one_by_one.nearest(text))
        if expected[-1] is None:
            one_by_one.add(number, text)
    assert 0 < expected.count(None) < 100
    monkeypatch.setattr(duplicates, "_BATCH", batch)
    index = duplicates.NearIndex(0.9)
    found = index.screen(range(100), asked[:100]) + index.screen(range(100, 300), asked[100:])
    assert found == expected


@pytest.mark.slow
def test_the_bitmap_filter_loses_no_pair():
    rng = random.Random(5)
    originals = texts(200, 40, seed=6)
    changed = []
    for text in originals:
        place = rng.randrange(40)
        changed.append(text[:place] + text[place + 1 :])
    for text, original in zip(changed, originals, strict=True):
        value = duplicates.similarity(text, original)
        index = duplicates.NearIndex(value)  # the pair is just good enough
        index.add("original", original)
        assert value > 0.8 and index.near(text) == [("original", value)]


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_threshold_out_of_range(threshold):
    with pytest.raises(CourseError, match="阈值"):
        duplicates.NearIndex(threshold)
