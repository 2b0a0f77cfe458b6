"""The wishes split holds out whole pairs and leaves every name in training."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import records, wishes
from tianji_helpers.dataset import splits
from tianji_helpers.errors import CourseError

MATRIX = wishes.load()
TURNS = [
    {"system": MATRIX.system, "input": MATRIX.request(*pair, style), "output": f"{pair}{style}"}
    for pair in MATRIX.pairs()
    for style in MATRIX.styles
]


def pairs(turns):
    return {MATRIX.parse_request(turn["input"])[:2] for turn in turns}


@given(seed=st.integers(), share=st.floats(0.01, 0.4))
def test_whole_pairs_are_held_out_and_every_name_still_trains(seed, share):
    chosen = splits.hold_out(MATRIX.pairs(), share, seed)
    assert len(chosen) == max(1, round(share * len(MATRIX.pairs())))
    left = set(MATRIX.pairs()) - chosen
    assert {who for who, _ in left} == set(MATRIX.recipients)
    assert {what for _, what in left} == set(MATRIX.scenes)


def test_split_keeps_rows_and_order():
    train, heldout = splits.split_wishes(TURNS, MATRIX, share=0.08, seed=1)
    assert sorted(train + heldout, key=TURNS.index) == TURNS
    assert train == sorted(train, key=TURNS.index)
    assert not pairs(train) & pairs(heldout)
    assert len(heldout) == len(MATRIX.styles) * len(pairs(heldout))  # all styles of a pair
    assert splits.split_wishes(TURNS, MATRIX, seed=1) == (train, heldout)
    assert splits.split_wishes(TURNS, MATRIX, seed=2) != (train, heldout)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_share_out_of_range(share):
    with pytest.raises(CourseError, match="比例"):
        splits.hold_out(MATRIX.pairs(), share)


def test_impossible_hold_out():
    with pytest.raises(CourseError, match="留不出"):
        splits.hold_out([("姐姐", "生日"), ("爷爷", "春节")], 0.5)


def test_unreadable_request():
    with pytest.raises(CourseError, match=r"第 2 条.*写首诗"):
        splits.split_wishes([*TURNS[:1], {"input": "写首诗", "output": ""}], MATRIX)


def test_leakage_finds_exact_and_near():
    train = ["愿姐姐岁岁平安，天天开心", "祝爷爷福如东海，寿比南山"]
    found = splits.leakage(train, ["祝爷爷福如东海，寿比南山", "愿姐姐岁岁平安！天天开心！", "新春大吉"])
    assert found.exact == [(0, 1)]
    assert found.near == [(1, 0, 1.0)]


def test_files(tmp_path):
    records.write_conversations(tmp_path / "w.json", TURNS)
    counts = splits.write_split(tmp_path / "w.json", tmp_path / "t.json", tmp_path / "h.json", seed=3)
    assert counts["train"] + counts["heldout"] == len(TURNS)
    assert len(records.read_conversations(tmp_path / "h.json")) == counts["heldout"]
    assert records.read_json(records.provenance_path(tmp_path / "t.json"))["parameters"]["seed"] == 3
