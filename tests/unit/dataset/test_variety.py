"""Requests worded anew: still understood, and the same when it is done twice."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import wishes
from tianji_helpers.dataset import variety
from tianji_helpers.errors import CourseError

MATRIX = wishes.load()
CELLS = [(*pair, style) for pair in MATRIX.pairs() for style in MATRIX.styles]
TURNS = st.lists(
    st.builds(
        lambda cell, output: {"system": "s", "input": MATRIX.request(*cell), "output": output},
        st.sampled_from(CELLS),
        st.text(max_size=9),
    ),
    max_size=9,
)


def names(request: str) -> tuple[str, str, str]:
    asked = MATRIX.read(request)
    return (*asked.pair, asked.style)


def test_every_wording_of_every_cell_is_read_back():
    for cell in CELLS:
        requests = [MATRIX.request(*cell, wording=number) for number in range(len(wishes.WORDINGS))]
        assert len(set(requests)) == len(requests)
        assert [names(request) for request in requests] == [cell] * len(requests), requests


@given(turns=TURNS, variants=st.integers(1, len(wishes.WORDINGS)), seed=st.integers(0, 9))
def test_varying_twice_is_varying_once(turns, variants, seed):
    once = list(variety.vary(turns, variants, seed, MATRIX))
    assert list(variety.vary(once, variants, seed, MATRIX)) == once
    for before, after in zip(turns, once, strict=True):
        assert after == {**before, "input": after["input"]}
        assert names(after["input"]) == names(before["input"])


def test_wordings_come_about_as_often_and_another_seed_chooses_otherwise():
    rows = [{"input": "祝姐姐生日", "output": f"祝愿 {number}"} for number in range(1000)]
    first, second = ([row["input"] for row in variety.vary(rows, 5, seed, MATRIX)] for seed in (1, 2))
    assert len(Counter(first)) == 5 and min(Counter(first).values()) > 150
    assert first != second
    assert list(variety.vary(rows, 1)) == rows


def test_what_is_no_request_stays():
    asked = "写首诗", "祝房东泼水节快乐", "祝姐姐生日,30字以内", "祝姐姐生日，她考上研究生了"
    rows = [{"input": request, "output": "春眠不觉晓"} for request in asked]
    assert list(variety.vary(rows, 3, matrix=MATRIX)) == rows


@pytest.mark.parametrize("variants", [0, -1, 6])
def test_a_number_of_wordings_that_there_is_not(variants):
    with pytest.raises(CourseError, match=f"{variants}，应当是 1 到 5"):
        list(variety.vary([], variants))
