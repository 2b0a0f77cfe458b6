"""Groups stay together, names stay in training where they can, and no part leaks into another."""

import gzip
import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import formats, paths, records, wishes
from tianji_helpers.dataset import splits
from tianji_helpers.errors import CourseError

MATRIX = wishes.load()
PAIRS = MATRIX.pairs()
TURNS = [
    {"system": MATRIX.system, "input": MATRIX.request(*pair, style), "output": f"{pair}{style}"}
    for pair in PAIRS
    for style in MATRIX.usual_styles
]


@given(seed=st.integers(), validation=st.floats(0.01, 0.2), test=st.floats(0.01, 0.2))
def test_parts_have_their_size_and_every_name_still_trains(seed, validation, test):
    parts = splits.split(PAIRS, PAIRS, validation=validation, test=test, seed=seed)
    assert sorted(itertools.chain(*parts.values())) == sorted(PAIRS)
    assert len(parts["validation"]) == max(1, round(validation * len(PAIRS)))
    assert len(parts["test"]) == max(1, round(test * len(PAIRS)))
    for place in (0, 1):
        assert {pair[place] for pair in parts["train"]} == {pair[place] for pair in PAIRS}


GROUPS = st.lists(
    st.sampled_from([*"甲乙丙丁戊己庚辛", ("姐姐", ""), ("姐姐", "生日"), ("", "生日")]), min_size=1
)


@given(groups=GROUPS, sizes=st.tuples(*[st.integers(0, 9) | st.floats(0, 0.9)] * 2), seed=st.integers())
def test_groups_of_any_size_stay_together_and_no_part_is_empty(groups, sizes, seed):
    rows = list(enumerate(groups))
    try:
        parts = splits.split(rows, groups, validation=sizes[0], test=sizes[1], seed=seed)
    except CourseError as error:
        assert "每份至少要有一组" in str(error)
        return
    assert sorted(itertools.chain(*parts.values()), key=rows.index) == rows
    assert all(part == sorted(part, key=rows.index) for part in parts.values())
    owners = [{group for _, group in part} for part in parts.values()]
    assert not any(one & other for one, other in itertools.combinations(owners, 2))
    assert [bool(part) for part in parts.values()] == [True, bool(sizes[0]), bool(sizes[1])]


def test_the_same_groups_leave_whatever_the_order_of_the_rows():
    shuffled = random.Random(1).sample(PAIRS, len(PAIRS))
    one, other = (splits.split(rows, rows, seed=3) for rows in (PAIRS, shuffled))
    assert set(one["test"]) == set(other["test"]) and set(one["validation"]) == set(other["validation"])
    assert one != splits.split(PAIRS, PAIRS, seed=4)


def test_a_name_that_is_seen_once_stays_in_training():
    once = [(f"朋友{number}", "生日") for number in range(20)]
    for seed in range(20):
        parts = splits.split(PAIRS + once, PAIRS + once, seed=seed)
        assert {who for who, _ in once} <= {who for who, _ in parts["train"]}


def test_names_that_are_all_seen_once_do_not_empty_the_other_parts():
    requests = [f"祝{surname}{name}生日" for surname in "王李张刘陈" for name in "伟芳娜敏静强磊洋艳勇"]
    groups = splits.group(requests, matrix=MATRIX)
    assert len(set(groups)) == 50
    parts = splits.split(requests, groups, validation=0.1, test=0.2)
    assert [len(part) for part in parts.values()] == [35, 5, 10]


def test_in_order_the_test_is_the_end():
    parts = splits.split("abcdefghij", "1111111111", validation=2, test=0.3, seed=None)
    assert {part: "".join(rows) for part, rows in parts.items()} == {
        "train": "abcde",
        "validation": "fg",
        "test": "hij",
    }


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("share", [1.0, -0.1, 1.5, float("nan"), -1])
def test_share_out_of_range(part, share):
    with pytest.raises(CourseError, match=f"集的比例是 {share}"):
        splits.split(PAIRS, PAIRS, **{part: share})


def test_the_fewest_rows_that_can_be_split():
    assert [len(part) for part in splits.split("abc").values()] == [1, 1, 1]
    with pytest.raises(CourseError, match=r"2 条记录（2 组.*1 条测试集、1 条验证集.*多准备"):
        splits.split("ab")
    with pytest.raises(CourseError, match=r"9 条记录（2 组"):
        splits.split(range(9), [1] * 5 + [2] * 4)
    assert [len(part) for part in splits.split(range(10)).values()] == [8, 1, 1]


def test_a_group_is_a_pair_in_any_wording_and_otherwise_a_question():
    questions = [
        "祝姐姐生日",
        "我想祝姐姐生日快乐，小红书风格",
        "祝姐姐春节",
        "怎么写诗",
        "怎么写诗？",
        "写信",
    ]
    assert splits.group(questions, matrix=MATRIX) == [
        ("姐姐", "生日"),
        ("姐姐", "生日"),
        ("姐姐", "春节"),
        "怎么写诗",
        "怎么写诗",
        "写信",
    ]
    assert splits.group(questions, "row") == list(range(6))
    assert len(set(splits.group(questions, "question"))) == 5
    with pytest.raises(CourseError, match=r"没有叫 style .*pair、question、row"):
        splits.group(questions, "style")


@pytest.mark.parametrize("text", ["", "？", "🎂", "写首诗", "祝" * 400, "的祝福", "送祝福给", "\n"])
def test_no_request_is_an_error(text):
    questions = [text, *(MATRIX.request(*pair) for pair in PAIRS[:9])]
    parts = splits.split(questions, splits.group(questions, matrix=MATRIX))
    assert sorted(itertools.chain(*parts.values())) == sorted(questions)


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


def test_a_test_of_a_kind_that_is_not_written_is_left_as_it_is(tmp_path):
    train, plain = tmp_path / "openai_train.jsonl", tmp_path / "openai_test.jsonl"
    write_rows(train, *TRAIN)
    write_rows(plain, *TEST)
    test = tmp_path / "test.jsonl.gz"
    test.write_bytes(gzip.compress(plain.read_bytes()))
    before = set(tmp_path.iterdir())
    with pytest.raises(CourseError, match=r"test\.jsonl\.gz 的名字要以 \.json"):
        splits.repair_test(test, train, splits.file_leakage(train, test))
    assert set(tmp_path.iterdir()) == before


def test_every_part_is_repaired_against_all_that_come_before_it(tmp_path):
    parts = [tmp_path / f"openai_{part}.jsonl" for part in splits.PARTS]
    asked = (
        ["鱼会渴吗？", "云重不重？"],
        ["鱼会渴吗", "猫会渴吗？"],
        ["请问，云重不重？", "猫会渴吗", "影子有影子吗？"],
    )
    for file, questions in zip(parts, asked, strict=True):
        write_rows(file, *((question, "答。") for question in questions))
    assert splits.repair(parts, threshold=0.5) == 3
    assert [[turn["input"] for turn in formats.read_turns(file)] for file in parts] == [
        asked[0],
        ["猫会渴吗？"],
        ["影子有影子吗？"],
    ]
    assert splits.repair(parts, threshold=0.5) == 0


def test_no_part_of_the_wishes_leaks_a_request():
    requests = [turn["input"] for turn in TURNS]
    parts = splits.split(requests, splits.group(requests, matrix=MATRIX)).values()
    assert not any(splits.leakage(one, other) for one, other in itertools.combinations(parts, 2))


def test_an_empty_file_is_not_a_clean_one(tmp_path):
    write_rows(tmp_path / "openai_train.jsonl", *TRAIN)
    (tmp_path / "test.jsonl").write_text("")
    with pytest.raises(CourseError, match=r"test\.jsonl 里没有一条"):
        splits.file_leakage(tmp_path / "openai_train.jsonl", tmp_path / "test.jsonl")


def test_an_unknown_way_to_compare(tmp_path):
    with pytest.raises(CourseError, match=r"没有叫 system .*question、answer、both"):
        splits.file_leakage(tmp_path / "a", tmp_path / "b", by="system")


def test_the_wishes_become_three_files(tmp_path):
    records.write_conversations(tmp_path / "w.json", TURNS)
    counts = splits.write_split(tmp_path / "w.json", seed=3)
    parts = [records.read_conversations(tmp_path / f"w_{part}.json") for part in splits.PARTS]
    assert [len(part) for part in parts] == [counts[part] for part in splits.PARTS]
    assert sorted(itertools.chain(*parts), key=TURNS.index) == TURNS
    assert counts["groups"] == len(PAIRS)
    for part in parts:  # all styles of a pair
        asked = Counter(MATRIX.read(turn["input"]).pair for turn in part)
        assert set(asked.values()) == {len(MATRIX.usual_styles)}
    made = records.read_json(records.provenance_path(tmp_path / "w_validation.json"))
    assert made["parameters"] == {"by": "pair", "validation": 0.05, "test": 0.08, "seed": 3}
    assert made["counts"] == counts


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_ten_rows_of_any_format_stay_as_they_are(tmp_path, name, suffix):
    source = tmp_path / f"mine{suffix}"
    turns = [{"input": f"第{number}个问题", "output": "好"} for number in "一二三四五六七八九十"]
    rows = [formats.from_turns([turn], name) | {"source": "我"} for turn in turns]
    formats.write_rows(source, rows)
    assert splits.write_split(source, tmp_path / "out") == {
        "train": 8,
        "validation": 1,
        "test": 1,
        "groups": 10,
    }
    files = [tmp_path / "out" / f"mine_{part}{suffix}" for part in splits.PARTS]
    written = [row for file in files for _, row in formats.iter_rows(file)]
    assert sorted(written, key=rows.index) == rows
    assert all(records.provenance_path(file).is_file() for file in files)


@pytest.mark.parametrize(("name", "suffix"), [("mine.jsonl.gz", ".jsonl"), ("mine.json.gz", ".json")])
def test_the_parts_of_a_gzipped_file_are_named_after_what_is_in_it(tmp_path, name, suffix):
    plain = tmp_path / name.removesuffix(".gz")
    write_rows(plain, *((f"问{number}", f"答{number}") for number in range(10)))
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    splits.write_split(tmp_path / name, tmp_path / "out", by="row")
    files = {file.name for file in (tmp_path / "out").iterdir() if file.suffix == suffix}
    assert {f"mine_{part}{suffix}" for part in splits.PARTS} <= files


def test_one_request_for_all_is_split_row_by_row(tmp_path):
    turns = [{"input": "写一句祝福", "output": f"祝福{number}"} for number in range(40)]
    records.write_conversations(tmp_path / "w.json", turns)
    counts = splits.write_split(tmp_path / "w.json")
    assert counts == {"train": 35, "validation": 2, "test": 3, "groups": 40}
    made = records.read_json(records.provenance_path(tmp_path / "w_test.json"))
    assert made["parameters"]["by"] == "row"


def test_the_sample_of_ruozhiba_can_be_split(tmp_path):
    splits.write_split(paths.DATA / "ruozhiba" / "sample.jsonl", tmp_path, by="question")
    files = [tmp_path / f"sample_{part}.jsonl" for part in splits.PARTS]
    assert not any(splits.file_leakage(*two) for two in itertools.combinations(files, 2))


def test_too_few_rows_write_nothing(tmp_path):
    source = tmp_path / "openai_two.jsonl"
    write_rows(source, *TRAIN)
    with pytest.raises(CourseError, match="2 条记录"):
        splits.write_split(source)
    assert list(tmp_path.iterdir()) == [source]


def test_parts_of_another_file_of_the_same_name_are_kept(tmp_path, capsys):
    rows = [{"input": f"祝{n}", "output": "json"} for n in range(40)]
    records.write_conversations(tmp_path / "a.json", rows)
    (tmp_path / "a.csv").write_text("".join(["input,output\n", *(f"祝{n},csv\n" for n in range(40))]))
    splits.write_split(tmp_path / "a.json", by="row")
    records.write_conversations(tmp_path / "a.json", rows[:30])
    splits.write_split(tmp_path / "a.json", by="row")  # the same file, changed
    assert not list(tmp_path.glob("*.kept-*")) and capsys.readouterr().out == ""
    first = records.read_conversations(tmp_path / "a_train.json")
    for _ in range(2):
        splits.write_split(tmp_path / "a.csv", by="row")
    assert len(list(tmp_path.glob("*.kept-*"))) == len(splits.PARTS)
    assert records.read_conversations(tmp_path / "a_train.json.kept-1") == first
    assert records.read_conversations(tmp_path / "a_train.json")[0]["output"] == "csv"
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and "a_train.json 是从 a.json 来的：没有删掉，留作 a_train.json.kept-1" in said[0]


def test_a_part_that_was_repaired_is_still_of_its_file(tmp_path, capsys):
    rows = [{"input": f"祝{n}号的朋友早日康复", "output": f"第{n}句祝福"} for n in range(60)]
    records.write_conversations(tmp_path / "a.json", rows + rows[:45])
    parts = [tmp_path / f"a_{part}.json" for part in ("train", "test")]
    for _ in range(2):
        splits.write_split(tmp_path / "a.json", by="row")
        assert splits.repair(parts) > 0
    assert not list(tmp_path.glob("*.kept-*")) and capsys.readouterr().out == ""


def test_a_part_that_somebody_else_wrote_or_changed_is_kept(tmp_path, capsys):
    """Nobody named these files; what the course wrote itself it writes anew."""
    for name in ("all.json", "all.v2.json"):
        records.write_conversations(tmp_path / name, [{"input": f"祝{n}", "output": name} for n in range(40)])
        splits.write_split(tmp_path / name, by="row")
    first = records.read_conversations(tmp_path / "all_train.json")
    assert first[0]["output"] == "all.json" and (tmp_path / "all.v2_train.json").is_file()
    (tmp_path / "all_train.json").write_text("mine")
    (tmp_path / "all_test.json.provenance.json").unlink()
    splits.write_split(tmp_path / "all.json", by="row")
    splits.write_split(tmp_path / "all.json", by="row")
    assert (tmp_path / "all_train.json.kept-1").read_text() == "mine"
    assert "all_train.json 不是课程写的，或者改动过" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.kept-*"))) == 1, "what would be the same needs no copy"
    assert records.read_conversations(tmp_path / "all_train.json") == first
