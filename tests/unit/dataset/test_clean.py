"""Cleaning whole files: nothing lost, nothing changed twice, planted dirt found, good wishes kept."""

import random
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phrasebook import Phrasebook, dirt

from tianji_helpers import faults, records, wishes
from tianji_helpers.dataset import clean, decisions, openings, processes
from tianji_helpers.errors import CourseError

MATRIX = wishes.load()


# without what people keep: a second line, a long wish, and 你 where both words are usual
DIRT = sorted({*dirt.KINDS} - {"second_line", "too_long", "honorific"})


def turn(request: str, output: str) -> dict:
    return {"system": MATRIX.system, "input": request, "output": output}


@pytest.fixture(scope="module")
def teacher():
    """The offline teacher's wishes, every third one soiled: turns, and the kind of dirt or None."""
    book, rng = Phrasebook(MATRIX), random.Random(7)
    turns, kinds = [], []
    for recipient, scene in MATRIX.pairs():
        style = rng.choice(MATRIX.usual_styles)

        def again(cell=(recipient, scene, style)):
            return book.compose(*cell, rng=rng)

        wish, kind = again(), None
        if rng.random() < 1 / 3:
            kind = rng.choice(DIRT)
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
    assert mended >= {*DIRT} - {"stub", "too_short"}


def test_kept_rows_have_no_hard_fault(cleaned):
    assert not any(faults.find(MATRIX.read(row["input"]), row["output"]) for row in cleaned.kept)


def test_rows_are_kept_however_their_request_is_worded():
    asked = ("祝姐姐生日", "写首诗", "祝房东泼水节快乐", "我想送姐姐生日祝福，朋克风格", "")
    rows = [
        turn(request, f"{number}号祝福：生日快乐，" + "岁岁平安年年有余日日高兴"[number:])
        for number, request in enumerate(asked)
    ]
    assert not clean.clean_turns(rows, MATRIX, off=(clean.NEAR,)).rejects


def test_suitability_is_a_policy_with_a_switch_of_its_own():
    rows = [
        turn("祝奶奶新婚快乐", "奶奶，祝您百年好合，白头偕老！"),
        turn("祝爷爷七夕节", "爷爷，七夕到了，愿您和奶奶甜甜蜜蜜。"),
        turn("祝姐姐生日", "姐姐，生日快乐，岁岁平安！"),
    ]
    kept = {name: clean.clean_turns(rows, MATRIX, suitability=name) for name in clean.SUITABILITY}
    assert {name: len(cleaned.kept) for name, cleaned in kept.items()} == {"absurd": 2, "matrix": 1, "off": 3}
    assert kept["absurd"].rejects[0]["reason"] == "不给奶奶送新婚快乐的祝福：这些长辈早已成家"
    assert [cleaned.report["misfits"] for cleaned in kept.values()] == [1, 0, 2]
    with pytest.raises(CourseError, match="suitability 是 strict，只能是 absurd、matrix、off"):
        clean.clean_turns(rows, MATRIX, suitability="strict")


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
    assert "第 1 条" in result.rejects[0]["reason"] and result.rejects[0]["twin"] == 1
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
    assert without.kept[0]["output"] == f"“{GOOD}”"


def test_an_absurdly_long_answer_is_rejected_at_once():
    rejects = clean.clean_turns([turn("祝姐姐生日", "+" * 10_000_000)], MATRIX).rejects
    assert rejects[0]["rule"] == clean.OVERSIZE


def many(count: int) -> list[dict]:
    """Rows of which one opening has too many, among others that begin differently."""
    rng, letters = random.Random(11), "山水云月风花雪竹松梅兰菊春夏秋冬晨暮星河"
    tails = ["".join(rng.sample(letters, 12)) for _ in range(count)]
    heads = ["在这个特别的日子里，" if n % 2 else f"{tail[:6]}里，" for n, tail in enumerate(tails)]
    pairs = zip(heads, tails, strict=True)
    return [turn("祝姐姐生日", f"姐姐，{head}{tail}，生日快乐！") for head, tail in pairs]


def test_the_later_rows_of_an_opening_that_is_too_common_go():
    rows = many(400)
    result = clean.clean_turns(rows, MATRIX)
    assert {row["rule"] for row in result.rejects} == {clean.OPENING}
    assert [row["row"] for row in result.rejects] == [2 * n for n in range(openings.LEAST + 1, 201)]
    assert "“在这个特别的”开头的有 200 条，最多留 50 条" in result.rejects[0]["reason"]
    assert clean.clean_turns(result.kept, MATRIX).kept == result.kept
    assert len(clean.clean_turns(rows, MATRIX, off=(clean.OPENING,)).kept) == 400


@given(
    counts=st.dictionaries(st.integers(), st.integers(1, 200), max_size=12),
    share=st.floats(0.01, 1),
    least=st.integers(0, 30),
)
def test_the_limit_of_an_opening_holds_for_what_is_left(counts, share, least):
    most = openings.limit(Counter(counts), share, least)
    left = Counter({name: min(count, most) for name, count in counts.items()})
    assert all(count <= max(least, share * left.total()) for count in left.values())
    assert openings.limit(left, share, least) >= max(left.values(), default=0)


def test_the_number_of_processes_and_the_way_of_storing_change_nothing(tmp_path, teacher, monkeypatch):
    monkeypatch.setattr(clean, "_PART", 50)
    monkeypatch.setattr(clean, "_PARALLEL_ROWS", 100)
    twins = [turn("祝姐姐生日", GOOD), turn("祝姐姐生日", GOOD.replace("！", "。"))]
    rows = [*twins, *teacher[0], *many(150), *teacher[0][::3]]
    monkeypatch.setattr(processes, "PROCESSES", 1)
    one = clean.clean_turns(rows, MATRIX)
    assert {clean.EXACT, clean.NEAR, clean.OPENING, "empty"} <= {row["rule"] for row in one.rejects}
    monkeypatch.setattr(processes, "PROCESSES", 2)
    assert clean.clean_turns(rows, MATRIX) == one
    monkeypatch.undo()  # parts of another size
    records.write_conversations(tmp_path / "merged.json", rows)
    files = {name: tmp_path / f"{name}.json" for name in ("rejects", "report")}
    report = clean.clean_file(tmp_path / "merged.json", tmp_path / "out.json", **files)
    assert report == records.read_json(files["report"])
    assert report.pop("kind") == "wishes" and "祝福" in report.pop("why") and report == one.report
    assert records.read_conversations(tmp_path / "out.json") == one.kept
    assert records.read_jsonl(files["rejects"]) == one.rejects


def test_decisions_are_replayed(tmp_path):
    poem = turn("写首诗", "春眠不觉晓")
    short, wrong, good = (turn("祝姐姐生日", text) for text in ("“生日快乐！”", "姐姐，春节快乐呀！", GOOD))
    file = tmp_path / "decisions.jsonl"
    for row, action, text in (
        (poem, "keep", None),
        (short, "keep", None),
        (wrong, "edit", "姐姐，生日快乐呀！ "),
        (good, "reject", None),
    ):
        decisions.append(file, decisions.key_of(row), action, text)
    decided = decisions.read(file)
    rows = [poem, short, good, wrong, short]
    result = clean.clean_turns(rows, MATRIX, decided=decided)
    outputs = [row["output"] for row in result.kept]
    assert outputs == ["春眠不觉晓", "生日快乐！", "姐姐，生日快乐呀！ ", "生日快乐！"]
    assert [(row["row"], row["rule"]) for row in result.rejects] == [(3, clean.HUMAN)]
    assert [row["rules"] for row in result.mended] == [["quotes"], [clean.HUMAN], ["quotes"]]

    records.write_conversations(tmp_path / "merged.json", rows)
    files = {name: tmp_path / f"{name}.json" for name in ("rejects", "report")}
    clean.clean_file(tmp_path / "merged.json", tmp_path / "out.json", decisions_file=file, **files)
    assert records.read_conversations(tmp_path / "out.json") == result.kept
    provenance = records.read_json(records.provenance_path(tmp_path / "out.json"))
    assert provenance["inputs"]["decisions.jsonl"] == records.sha256(file)


@given(
    rows=st.lists(st.tuples(REQUESTS, WISHES), max_size=8),
    actions=st.lists(st.sampled_from([None, "keep", "edit", "reject"]), min_size=8, max_size=8),
)
def test_nothing_is_lost_whatever_was_decided(rows, actions):
    turns = [turn(*row) for row in rows]
    keys = [decisions.key_of(row) for row in turns]
    decided = {
        key: {"action": action, "output": "生日快乐"}
        for key, action in zip(keys, actions, strict=False)
        if action
    }
    result = clean.clean_turns(turns, MATRIX, decided=decided)
    assert len(result.kept) + len(result.rejects) == len(rows)
    rejected = {row["row"] for row in result.rejects}
    for number, key in enumerate(keys, 1):
        action = decided.get(key, {}).get("action")
        assert action is None or (number in rejected) == (action == "reject")


@pytest.mark.parametrize(
    "piece", ["“", "好的，", "🎂", "+", "，呀", "的", "生日快乐", "1. 好\n", "（您", "a ", "祝您"]
)
def test_hostile_text_does_not_hang(piece):
    started = time.process_time()
    clean.clean_turns([turn("祝姐姐生日", (piece * 2000)[:2000])], MATRIX)
    assert time.process_time() - started < 5  # a minute and more if it were cubic


@pytest.mark.parametrize("name", ["quote", "oversize", "absurd_pair"])
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
    assert records.read_conversations(tmp_path / "w.json") == [turn("祝姐姐生日", GOOD), rows[1]]
    rejects = records.read_jsonl(tmp_path / "r.jsonl")
    assert [(row["row"], row["rule"]) for row in rejects] == [(3, "empty")]
    assert rejects[0]["before"] == "当前祝福语如下"
    report = records.read_json(tmp_path / "report.json")
    assert (report["rows_in"], report["rows_out"], report["rejected"]) == (3, 2, 1)
    counts = {rule["name"]: rule["rows"] for rule in report["rules"]}
    assert counts["preamble"] == 2 and counts["empty"] == 1
    provenance = records.read_json(records.provenance_path(tmp_path / "w.json"))
    expected = {"off": [], "suitability": "absurd", "threshold": 0.9, "kind": "wishes"}
    assert provenance["parameters"] == expected
