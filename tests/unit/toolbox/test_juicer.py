"""Cleaning in shards: the same rows kept and rejected as on one machine, for the same reasons."""

import os
import random
import subprocess
from collections import Counter

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from phrasebook import Phrasebook, dirt

from tianji_helpers import records, wishes
from tianji_helpers.dataset import clean, duplicates
from tianji_helpers.errors import CourseError
from tianji_helpers.paths import CONFIGS, ROOT
from tianji_toolbox.dataset import juicer

MATRIX = wishes.load()
RECIPE = CONFIGS / "data_juicer" / "clean_wishes.yaml"
CHAINED = 0.7  # one change in a short wish leaves more than this in common, two changes less
PROCESS = ROOT / "build" / "scale" / "bin" / "dj-process"


def turn(request: str, output: str) -> dict:
    return {"system": MATRIX.system, "input": request, "output": output}


def in_shards(turns, off=(), threshold=0.9):
    """Do in one process what the operators do on many machines; return kept and rejected rows."""
    judge = juicer.judge(MATRIX, off)
    judged = [judge(turn["input"], turn["output"]) for turn in turns]
    left = {row: one for row, one in enumerate(judged, 1) if not one.rule}
    mixed = random.Random(1).sample(sorted(left), len(left))  # machines keep no order
    buckets: dict[bytes, list] = {}
    for row, keys in zip(
        mixed, juicer.buckets([left[row].output for row in mixed], off, threshold), strict=True
    ):
        for key in keys:
            buckets.setdefault(key, []).append((row, left[row].output))
    pairs = [pair for rows in buckets.values() for pair in juicer.alike(rows, off, threshold)]
    gone = juicer.resolve(pairs, off)
    if clean.OPENING not in off:
        begun = [(left[row].opening, row) for row in mixed if row not in gone]
        counts = Counter(opening for opening, _ in begun)
        crowded = juicer.crowded(counts)
        gone |= juicer.surplus(counts, ((opening, row) for opening, row in begun if opening in crowded))
    gone |= {row: (one.rule, one.reason) for row, one in enumerate(judged, 1) if one.rule}
    kept = [
        turn | {"output": one.output}
        for row, (turn, one) in enumerate(zip(turns, judged, strict=True), 1)
        if row not in gone
    ]
    return kept, [(row, *gone[row]) for row in sorted(gone)]


def on_one_machine(turns, off=(), threshold=0.9):
    cleaned = clean.clean_turns(turns, MATRIX, off=off, threshold=threshold)
    return cleaned.kept, [(row["row"], row["rule"], row["reason"]) for row in cleaned.rejects]


def alike_wishes(seed: int = 7, count: int = 900) -> list[dict]:
    """Return the offline teacher's wishes with dirt, exact copies, and chains of ever other wishes."""
    book, rng = Phrasebook(MATRIX), random.Random(seed)
    turns: list[dict] = []
    while len(turns) < count:
        recipient, scene = rng.choice(MATRIX.pairs())
        style = rng.choice(list(MATRIX.styles))

        def again(cell=(recipient, scene, style)):
            return book.compose(*cell, rng=rng)

        wish = again()
        request = MATRIX.request(recipient, scene, style)
        copies = rng.choice([0, 0, 1, 3])
        if rng.random() < 0.2:
            wish = dirt.soil(rng.choice(dirt.KINDS), wish, recipient, scene, again, rng)
        for _ in range(1 + copies):
            turns.append(turn(request, wish))
            place = rng.randrange(2, max(3, len(wish) - 3))
            wish = rng.choice([wish, wish[:place] + rng.choice("福乐安康好") + wish[place:], wish + "！"])
    for number in range(80):  # more than may begin alike
        wish = book.compose("姐姐", "生日", "正常", rng=rng).partition("，")[2]
        turns.append(turn("祝姐姐生日", f"姐姐，愿你每天都好{number}，{wish}"))
    rng.shuffle(turns)
    return turns


@pytest.fixture(scope="module")
def turns():
    return alike_wishes()


@pytest.mark.parametrize(
    ("off", "threshold"),
    [
        ((), 0.9),
        ((), CHAINED),
        ((), 0.5),
        ((), 1.0),
        (("near_duplicate",), 0.9),
        (("duplicate",), 0.8),
        (("duplicate", "near_duplicate"), 0.9),
        (("common_opening",), 0.9),
        (("empty", "quotes"), 0.9),
    ],
)
def test_shards_give_the_rows_of_one_machine(turns, off, threshold):
    check_same(turns, off, threshold)


def check_same(turns, off, threshold):
    """Check that both ways give the same; of two earlier rows that are equally alike, either may be named."""
    (kept, rejects), (alone_kept, alone_rejects) = (
        way(turns, off, threshold) for way in (in_shards, on_one_machine)
    )
    assert kept == alone_kept
    assert [(row, rule, reason[-4:]) for row, rule, reason in rejects] == [
        (row, rule, reason[-4:]) for row, rule, reason in alone_rejects
    ]


GRAMS = st.lists(st.sampled_from(["愿姐姐", "生日快乐", "岁岁", "平安", "，", "！"]), min_size=3, max_size=12)


@settings(max_examples=15)
@given(outputs=st.lists(GRAMS.map("".join), max_size=14), threshold=st.sampled_from([0.5, 0.7, 0.9]))
def test_any_alike_rows(outputs, threshold):
    rows = [turn("祝姐姐生日", f"姐姐生日快乐{output}") for output in outputs]
    check_same(rows, ("loop", "doubled"), threshold)


def test_the_wishes_hold_chains(turns):
    """Else the tests above would not see that a row goes only for the sake of one that stays."""
    _, rejects = on_one_machine(turns, threshold=CHAINED)
    gone = {row: rule for row, rule, _ in rejects}
    near = [row for row, rule in gone.items() if rule == clean.NEAR]
    assert len(near) > 50 and {clean.EXACT, clean.OPENING, "empty"} <= set(gone.values())
    texts = dict(enumerate((clean.mend(one["output"], _ask(one))[0] for one in turns), 1))
    later = (row for row in texts if row not in gone)
    assert any(one < row and _near(texts[one], texts[row]) for row in later for one in near)


def _ask(one: dict):
    return MATRIX.read(one["input"])


def _near(one: str, other: str) -> bool:
    return duplicates.similarity(one, other) >= CHAINED


def test_a_row_stays_if_only_a_dropped_one_is_alike():
    assert juicer.resolve([(1, 2, 0.92, False), (2, 3, 0.93, False)]) == {
        2: (clean.NEAR, "和第 1 条的相似度是 0.92")
    }


def test_a_rule_that_the_recipe_does_not_know_is_refused(monkeypatch):
    monkeypatch.setitem(clean.TITLES, "new_rule", "新规则")
    with pytest.raises(CourseError, match=r"new_rule.*skipped_rules"):
        juicer.checked([])
    assert juicer.checked(["new_rule"]) == ("new_rule",)


def test_shards_are_numbered_and_joined_in_order(tmp_path):
    rows = [turn("祝姐姐生日", f"第 {number} 条") for number in range(1, 8)]
    records.write_conversations(tmp_path / "merged.json", rows)
    assert juicer.write_shards(tmp_path / "merged.json", tmp_path / "shards", 3) == 3
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        f"shard-0000{number}.jsonl" for number in range(3)
    ]
    before = (tmp_path / "shards" / "shard-00000.jsonl").read_bytes()
    with pytest.raises(CourseError, match=r"shard-00000\.jsonl 是要合起来的分片之一"):
        juicer.join_shards(tmp_path / "shards", tmp_path / "shards" / "shard-00000.jsonl")
    assert (tmp_path / "shards" / "shard-00000.jsonl").read_bytes() == before
    assert juicer.join_shards(tmp_path / "shards", tmp_path / "joined.json") == 7
    (tmp_path / "none").mkdir()
    with pytest.raises(CourseError, match="none 里一条也没有留下"):
        juicer.join_shards(tmp_path / "none", tmp_path / "nothing.json")
    assert not (tmp_path / "nothing.json").exists()
    assert records.read_conversations(tmp_path / "joined.json") == rows
    with pytest.raises(CourseError, match="不是空文件夹"):
        juicer.write_shards(tmp_path / "merged.json", tmp_path / "shards")
    records.write_jsonl(tmp_path / "shards" / "again.jsonl", [{"row": 2}])
    with pytest.raises(CourseError, match="第 2 条出现了两次"):
        juicer.read_shards(tmp_path / "shards")
    with pytest.raises(CourseError, match="请先运行 data-juicer"):
        juicer.read_shards(tmp_path / "absent")


@pytest.mark.slow
@pytest.mark.skipif(not PROCESS.is_file(), reason="没有 build/scale：data-juicer 的环境由 make scale 准备")
def test_the_recipe_on_a_local_ray(turns, tmp_path):
    records.write_conversations(tmp_path / "merged.json", turns)
    assert juicer.write_shards(tmp_path / "merged.json", tmp_path / "shards", 200) > 3
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    mapper, deduplicator = (next(iter(step.values())) for step in recipe["process"])
    recipe |= {"dataset_path": str(tmp_path / "shards"), "export_path": str(tmp_path / "kept")}
    deduplicator |= {"rejects": str(tmp_path / "rejected"), "partitions": 3, "threshold": CHAINED}
    mapper["batch_size"] = 200  # several blocks, so that rows really are apart
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")

    home = {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [PROCESS, "--config", tmp_path / "recipe.yaml"],
        cwd=ROOT,
        env=os.environ | home,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    kept, rejects = on_one_machine(turns, threshold=CHAINED)
    juicer.join_shards(tmp_path / "kept", tmp_path / "wishes.json")
    assert records.read_conversations(tmp_path / "wishes.json") == kept
    rejected = juicer.read_shards(tmp_path / "rejected")
    assert [(row["row"], row["rule"], row["reason"]) for row in rejected] == rejects
    assert [row["before"] for row in rejected] == [turns[row["row"] - 1]["output"] for row in rejected]
