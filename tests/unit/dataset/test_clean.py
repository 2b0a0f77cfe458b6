"""Cleaning whole files: nothing lost, nothing changed twice, planted dirt found, good wishes kept."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import records, wishes
from tianji_helpers.dataset import clean
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import dirt
from tianji_helpers.synthesis.phrasebook import Phrasebook

MATRIX = wishes.load()


def turn(request: str, output: str) -> dict:
    return {"system": MATRIX.system, "input": request, "output": output}


@pytest.fixture(scope="module")
def teacher():
    """The offline teacher's wishes, every third one soiled: turns, and the kind of dirt or None."""
    book, rng = Phrasebook(MATRIX), random.Random(7)
    turns, kinds = [], []
    for recipient, scene in MATRIX.pairs():
        style = rng.choice(list(MATRIX.styles))

        def again(cell=(recipient, scene, style)):
            return book.compose(*cell, rng=rng)

        wish, kind = again(), None
        if rng.random() < 1 / 3:
            kind = rng.choice(dirt.KINDS)
            wish = dirt.soil(kind, wish, recipient, scene, again, rng)
        turns.append(turn(MATRIX.request(recipient, scene, style), wish))
        kinds.append(kind)
    return turns, kinds


@pytest.fixture(scope="module")
def cleaned(teacher):
    return clean.clean_turns(teacher[0], MATRIX)


def test_clean_wishes_pass_untouched(teacher, cleaned):
    changed = {row["row"] for row in cleaned.mended}
    lost = {row["row"] for row in cleaned.rejects if row["rule"] not in (clean.EXACT, clean.NEAR)}
    pure = {number for number, kind in enumerate(teacher[1], 1) if kind is None}
    assert len(pure) > 200
    assert not pure & changed
    assert not pure & lost


def test_planted_dirt_is_mended_or_rejected(teacher, cleaned):
    handled = {row["row"] for row in cleaned.mended + cleaned.rejects}
    soiled = {number for number, kind in enumerate(teacher[1], 1) if kind is not None}
    assert len(soiled) > 100
    assert soiled <= handled
    mended = {teacher[1][row["row"] - 1] for row in cleaned.mended}
    assert mended >= set(dirt.KINDS) - {"stub", "too_long", "too_short"}


def test_kept_rows_pass_the_check(cleaned):
    good = [
        all(wishes.check(MATRIX, *MATRIX.parse_request(row["input"]), row["output"]).values())
        for row in cleaned.kept
    ]
    assert sum(good) >= 0.99 * len(good)


def test_cleaning_again_changes_nothing(cleaned):
    again = clean.clean_turns(cleaned.kept, MATRIX)
    assert again.kept == cleaned.kept
    assert (again.mended, again.rejects) == ([], [])


REQUESTS = st.sampled_from(["祝姐姐生日", "祝妹妹生日,小红书风格", "祝爷爷春节，严肃风格", "写首诗", ""])
WISHES = st.lists(
    st.sampled_from(
        [
            *"，。！～\n“”🎂您你呀",
            "当前祝福语如下：",
            "姐姐，",
            "爷爷，",
            "生日快乐",
            "新春",
            "谨祝",
            "岁岁平安",
            "！啦~",
        ]
    ),
    max_size=8,
).map("".join)


@given(rows=st.lists(st.tuples(REQUESTS, WISHES | st.text(max_size=12)), max_size=12))
def test_rows_in_are_rows_out_plus_rejects_and_twice_is_once(rows):
    turns = [turn(*row) for row in rows]
    once = clean.clean_turns(turns, MATRIX)
    assert len(once.kept) + len(once.rejects) == len(rows) == once.report["rows_in"]
    assert all(row["rule"] in clean.TITLES and row["reason"] for row in once.rejects)
    twice = clean.clean_turns(once.kept, MATRIX)
    assert twice.kept == once.kept
    assert not twice.rejects and not twice.mended


GOOD = "姐姐，祝你生日快乐，愿你天天开心，事事顺心！"


def test_duplicates():
    rows = [turn("祝姐姐生日", GOOD), turn("祝姐姐生日", GOOD), turn("祝姐姐生日", GOOD.replace("！", "。"))]
    result = clean.clean_turns(rows, MATRIX)
    assert [row["rule"] for row in result.rejects] == [clean.EXACT, clean.NEAR]
    assert "第 1 条" in result.rejects[0]["reason"]
    assert len(clean.clean_turns(rows, MATRIX, off=(clean.NEAR,)).kept) == 2
    assert len(clean.clean_turns(rows, MATRIX, off=(clean.NEAR, clean.EXACT)).kept) == 3


def test_threshold_decides():
    other = turn("祝姐姐生日", GOOD.replace("天天开心", "日日欢喜"))
    rows = [turn("祝姐姐生日", GOOD), other]
    assert len(clean.clean_turns(rows, MATRIX, threshold=0.9).kept) == 2
    assert len(clean.clean_turns(rows, MATRIX, threshold=0.3).kept) == 1


def test_each_rule_can_be_switched_off():
    rows = [turn("祝姐姐生日", f"“{GOOD}”")]
    assert clean.clean_turns(rows, MATRIX).kept[0]["output"] == GOOD
    without = clean.clean_turns(rows, MATRIX, off=("quotes",))
    assert without.rejects[0]["rule"] == "unfit"


def test_an_absurdly_long_answer_is_rejected_at_once():
    rejects = clean.clean_turns([turn("祝姐姐生日", "+" * 10_000_000)], MATRIX).rejects
    assert rejects[0]["rule"] == clean.OVERSIZE


@pytest.mark.parametrize("text", ["“" * 2000, "好的，" * 666, "🎂" * 2000, "+" * 2000, "，呀" * 1000])
def test_hostile_text_does_not_hang(text):
    started = time.perf_counter()
    assert len(clean.clean_turns([turn("祝姐姐生日", text)], MATRIX).rejects) == 1
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("name", ["quote", "unknown_request"])
def test_unknown_rule(name):
    with pytest.raises(CourseError, match=name):
        clean.clean_turns([], MATRIX, off=(name,))


def test_files(tmp_path):
    merged = tmp_path / "merged.json"
    rows = [
        turn("祝姐姐生日", f"好的，以下是祝福：{GOOD}"),
        turn("写首诗", "春眠不觉晓"),
        turn("祝姐姐生日", "当前祝福语如下"),
    ]
    records.write_conversations(merged, rows)
    clean.clean_file(
        merged, tmp_path / "w.json", rejects=tmp_path / "r.jsonl", report=tmp_path / "report.json"
    )
    assert records.read_conversations(tmp_path / "w.json") == [turn("祝姐姐生日", GOOD)]
    rejects = records.read_jsonl(tmp_path / "r.jsonl")
    assert [(row["row"], row["rule"]) for row in rejects] == [(2, clean.REQUEST), (3, "empty")]
    assert rejects[1]["before"] == "当前祝福语如下"
    report = records.read_json(tmp_path / "report.json")
    assert (report["rows_in"], report["rows_out"], report["rejected"]) == (3, 1, 2)
    counts = {rule["name"]: rule["rows"] for rule in report["rules"]}
    assert counts["preamble"] == 2 and counts["empty"] == 1
    provenance = records.read_json(records.provenance_path(tmp_path / "w.json"))
    assert provenance["parameters"] == {"off": [], "threshold": 0.9}
