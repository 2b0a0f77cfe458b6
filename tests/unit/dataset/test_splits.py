"""The wishes split holds out whole pairs and leaves every name in training."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import formats, records, wishes
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


def write_rows(path, *pairs):
    """Write (question, answer) pairs in the format that the name asks for."""
    turns = [{"input": question, "output": answer} for question, answer in pairs]
    name = path.stem.partition("_")[0]
    return formats.write_rows(path, [formats.from_turns([turn], name) for turn in turns])


TRAIN = [("祝姐姐生日", "愿姐姐岁岁平安，天天开心"), ("祝爷爷重阳节", "祝爷爷福如东海，寿比南山")]
TEST = [
    ("祝妹妹生日", "愿妹妹笑口常开，前程似锦"),
    ("祝姐姐生日！", "姐姐，快乐呀"),
    ("祝奶奶春节", "祝爷爷福如东海，寿比南山"),
    ("祝爷爷重阳节", "重阳安康"),
]


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize(
    ("by", "exact", "near"),
    [
        ("question", [(3, 1)], [(1, 0, 1.0)]),
        ("answer", [(2, 1)], []),
        ("both", [(2, 1), (3, 1)], [(1, 0, 1.0)]),
    ],
)
def test_leakage_between_files_of_any_format(tmp_path, name, by, exact, near):
    train, test = tmp_path / f"{name}_train.json", tmp_path / "openai_test.jsonl"
    write_rows(train, *TRAIN)
    write_rows(test, *TEST)
    assert splits.file_leakage(train, test, by=by) == splits.Leakage(exact, near)


@pytest.mark.parametrize("name", ["xtuner", "openai"])
def test_repair_leaves_a_test_without_leaks_and_loses_no_row(tmp_path, name):
    train, test = tmp_path / f"{name}_train.json", tmp_path / f"{name}_test.json"
    write_rows(train, *TRAIN)
    write_rows(test, *TEST)
    before = [row for _, row in formats.iter_rows(test)]
    apart = splits.repair_test(test, train, splits.file_leakage(train, test, by="both"))
    assert not splits.file_leakage(train, test, by="both")
    leaked = records.read_jsonl(apart)
    assert [(entry["train_row"], entry["similarity"]) for entry in leaked] == [(1, 1.0), (2, 1.0), (2, 1.0)]
    assert [row for _, row in formats.iter_rows(test)] == before[:1]
    assert [entry["row"] for entry in leaked] == before[1:]
    made = records.read_json(records.provenance_path(test))
    assert made["counts"] == {"before": 4, "kept": 1, "leaked": 3}


def test_a_second_repair_keeps_what_the_first_took_out(tmp_path):
    train, test = tmp_path / "openai_train.jsonl", tmp_path / "openai_test.jsonl"
    write_rows(train, *TRAIN)
    write_rows(test, *TEST)
    for by, held in (("question", 2), ("both", 3), ("both", 3)):
        apart = splits.repair_test(test, train, splits.file_leakage(train, test, by=by))
        assert len(records.read_jsonl(apart)) == held


def test_a_test_of_leaks_only_is_left_as_it_is(tmp_path):
    train, test = tmp_path / "openai_train.jsonl", tmp_path / "openai_test.jsonl"
    write_rows(train, *TRAIN)
    write_rows(test, *TRAIN)
    before = test.read_bytes()
    with pytest.raises(CourseError, match="2 条全都漏题"):
        splits.repair_test(test, train, splits.file_leakage(train, test))
    assert test.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_the_wishes_split_leaks_no_request():
    train, heldout = splits.split_wishes(TURNS, MATRIX, seed=1)
    assert not splits.leakage([turn["input"] for turn in train], [turn["input"] for turn in heldout])


def test_an_empty_file_is_not_a_clean_one(tmp_path):
    write_rows(tmp_path / "openai_train.jsonl", *TRAIN)
    (tmp_path / "test.jsonl").write_text("")
    with pytest.raises(CourseError, match=r"test\.jsonl 里没有一条"):
        splits.file_leakage(tmp_path / "openai_train.jsonl", tmp_path / "test.jsonl")


def test_an_unknown_way_to_compare(tmp_path):
    with pytest.raises(CourseError, match=r"没有叫 system .*question、answer、both"):
        splits.file_leakage(tmp_path / "a", tmp_path / "b", by="system")


def test_files(tmp_path):
    records.write_conversations(tmp_path / "w.json", TURNS)
    counts = splits.write_split(tmp_path / "w.json", tmp_path / "t.json", tmp_path / "h.json", seed=3)
    assert counts["train"] + counts["heldout"] == len(TURNS)
    assert len(records.read_conversations(tmp_path / "h.json")) == counts["heldout"]
    assert records.read_json(records.provenance_path(tmp_path / "t.json"))["parameters"]["seed"] == 3
