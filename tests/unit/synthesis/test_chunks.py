"""Chunks: nothing lost, nothing too long, cut between sentences."""

import random

import pytest

from tianji_helpers import paths, records
from tianji_helpers.synthesis.chunks import cut, sentences


@pytest.fixture(scope="module")
def text():
    return records.read_text(paths.DATA / "knowledge" / "chunjie.txt")


def test_sentences_end_where_a_reader_pauses():
    assert sentences("他说：“来吧！”我们就去了。第一行\n第二行") == [
        *("他说：“来吧！”", "我们就去了。", "第一行\n", "第二行")
    ]
    assert sentences("It costs 3.14 yuan. 真的？！好……") == ["It costs 3.14 yuan. ", "真的？！", "好……"]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_and_nothing_is_too_long(seed):
    rng = random.Random(seed)
    text = "".join(rng.choices("春夏秋冬吃饭睡觉abc 1.2，；。！？”」\n\r\t…", k=rng.randrange(1, 900)))
    size = rng.randrange(5, 120)
    overlap = rng.randrange(size)
    found = cut(text, "t", size, overlap)
    text = text.replace("\r\n", "\n")
    covered = set()
    for number, chunk in enumerate(found, 1):
        assert chunk.number == number and 0 < len(chunk.text) <= size
        assert text[chunk.start : chunk.start + len(chunk.text)] == chunk.text
        covered.update(range(chunk.start, chunk.start + len(chunk.text)))
    assert {i for i, letter in enumerate(text) if not letter.isspace()} <= covered


def test_chunks_hold_whole_sentences_and_repeat_some(text):
    found = cut(text, size=200, overlap=60)
    assert len(found) > 4
    whole = {sentence.strip() for sentence in sentences(text)}
    for chunk in found:
        assert {sentence.strip() for sentence in sentences(chunk.text)} <= whole
    ends = [chunk.start + len(chunk.text) for chunk in found]
    shared = [end - chunk.start for end, chunk in zip(ends, found[1:], strict=False)]
    assert max(shared) > 20 and max(shared) <= 60
    assert all(chunk.start <= end + 2 for end, chunk in zip(ends, found[1:], strict=False))


def test_a_long_sentence_is_cut_behind_a_comma():
    found = cut("一二三四，五六七八，九十", size=8, overlap=0)
    assert [chunk.text for chunk in found] == ["一二三四，", "五六七八，九十"]
    assert [len(chunk.text) for chunk in cut("字" * 25, size=10, overlap=3)] == [10, 10, 5]


def test_white_space_alone_is_no_chunk():
    assert cut(" \n\n\t ") == []
    with pytest.raises(ValueError, match="overlap=5"):
        cut("一", size=5, overlap=5)
