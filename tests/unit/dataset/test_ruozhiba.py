"""COIG-CQIA to messages: the original's bytes by default, and any reasonable file is read."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianji_helpers import paths, records
from tianji_helpers.dataset import ruozhiba, splits
from tianji_helpers.errors import CourseError

SAMPLE = paths.DATA / "ruozhiba" / "sample.jsonl"


def record(question: str, answer: str = "答", extra: str = "") -> dict:
    return {"instruction": question, "input": extra, "output": answer, "metadata": {"any": 1}}


def reference(rows: list[dict]) -> tuple[str, str]:
    """The two files that a plain conversion and a sequential 70/30 split make."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": row["instruction"]},
                    {"role": "assistant", "content": row["output"]},
                ]
            },
            ensure_ascii=False,
        )
        + "\n"
        for row in rows
    ]
    border = int(len(lines) * 0.7)
    return "".join(lines[:border]), "".join(lines[border:])


def test_default_bytes(tmp_path):
    rows = [record(f"问题{n}“引号”\\", f"第一行\n第二行\u2028{n}") for n in range(13)]
    source, train, test = (tmp_path / name for name in ("s.jsonl", "train.jsonl", "test.jsonl"))
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert ruozhiba.convert_file(source, train, test) == {"source": 13, "train": 9, "test": 4}
    assert (train.read_text(encoding="utf-8"), test.read_text(encoding="utf-8")) == reference(rows)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
FINITE = st.floats(allow_nan=False, allow_infinity=False)  # the others are no JSON
RECORD = st.fixed_dictionaries(
    {"instruction": TEXT, "output": TEXT, "metadata": TEXT | FINITE | st.dictionaries(TEXT, TEXT)},
    optional={"input": st.none() | st.just("")},
)


@settings(max_examples=40)
@given(st.lists(RECORD, min_size=2, max_size=8), st.booleans())
def test_default_bytes_of_any_valid_file(tmp_path_factory, rows, escaped):
    folder = tmp_path_factory.mktemp("any")
    source, train, test = (folder / name for name in ("s.jsonl", "train.jsonl", "test.jsonl"))
    source.write_text("".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows), encoding="utf-8")
    ruozhiba.convert_file(source, train, test)
    halves = tuple(file.read_bytes().decode() for file in (train, test))
    assert halves == reference(rows)


def test_sample_is_a_coig_cqia_file():
    rows = ruozhiba.read_source(SAMPLE)
    fields = "instruction input output task_type domain metadata answer_from human_verified copyright"
    assert 20 <= len(rows) <= 30
    assert all(list(row) == fields.split() for row in rows)
    assert {type(row["metadata"]) for row in rows} == {str, dict}
    assert sum(bool(row["input"]) for row in rows) == 1


ROWS = [record("一"), record("二", extra="补充"), record("三")]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(LINES),
        "\ufeff" + "\n".join(LINES) + "\n",
        "\r\n".join(LINES) + "\r\n",
        "\n\n" + "\n \n".join(LINES) + "\n\n",
        json.dumps(ROWS),
        "\ufeff \n" + json.dumps(ROWS, indent=2, ensure_ascii=False),
    ],
    ids=["jsonl", "bom", "crlf", "blank lines", "array", "array with bom"],
)
def test_every_shape_of_file_reads_the_same(tmp_path, content):
    path = tmp_path / "source"
    path.write_bytes(content.encode())
    assert ruozhiba.read_source(path) == ROWS


def test_input_joins_the_question():
    assert ruozhiba.to_messages(record("问", "答", "补充")) == {
        "messages": [{"role": "user", "content": "问\n补充"}, {"role": "assistant", "content": "答"}]
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ("第 4 行", "JSON")),
        ("3", ("第 4 行", "对象")),
        (
            '{"input": "", "output": "b"}',
            ("第 4 行", "instruction，它的字段是 input、output", "删掉"),
        ),
        (
            '{"question": "a", "answer": "b"}',
            ("缺少字段 instruction、output", "tianji convert 它"),
        ),
        ('{"instruction": "a", "input": ""}', ("第 4 行", "output")),
        ('{"instruction": "a", "output": ["b"]}', ("第 4 行", "output")),
        ('{"instruction": "a", "input": 3, "output": "b"}', ("第 4 行", "input")),
        ('{"instruction": " ", "output": "b"}', ("第 4 行", "instruction", "空", "删掉这一条")),
        ('{"instruction": "a", "output": "\\udc00"}', ("第 4 行", "output", "半个")),
        ("[" * 100_000, ("第 4 行", "嵌套")),
    ],
)
def test_wrong_row_is_named(tmp_path, line, words):
    path = tmp_path / "s.jsonl"
    path.write_text("\n".join([LINES[0], "", LINES[1], line, LINES[2]]), encoding="utf-8")
    with pytest.raises(CourseError) as caught:
        ruozhiba.read_source(path)
    assert all(word in str(caught.value) for word in words)


def test_wrong_row_of_an_array_is_named(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps([*ROWS, {"instruction": "a"}]), encoding="utf-8")
    with pytest.raises(CourseError, match=r"第 4 条.*output"):
        ruozhiba.read_source(path)


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_empty_source(tmp_path, content):
    path = tmp_path / "s.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CourseError, match="没有一条"):
        ruozhiba.read_source(path)


def messages(*questions):
    return [ruozhiba.to_messages(record(question)) for question in questions]


@pytest.mark.parametrize("ratio", [0, 1, -1, 2, float("nan")])
def test_ratio_out_of_range(ratio):
    with pytest.raises(CourseError, match="比例"):
        ruozhiba.split(messages("甲", "乙"), ratio)


def test_empty_side():
    with pytest.raises(CourseError, match="空的"):
        ruozhiba.split(messages("甲"), 0.7)


def test_format_output_is_every_row_in_the_order_of_the_source(tmp_path):
    files = [tmp_path / name for name in ("train.jsonl", "test.jsonl", "format.jsonl")]
    ruozhiba.convert_file(SAMPLE, *files[:2], format_path=files[2])
    train, test, whole = (file.read_bytes() for file in files)
    assert whole == train + test
    ruozhiba.convert_file(SAMPLE, *files[:2], format_path=files[2], seed=1)
    assert files[2].read_bytes() == whole and files[0].read_bytes() != train


def test_a_reworded_question_stays_with_its_twin():
    twins = ["闹钟每天叫醒我，那谁来叫醒闹钟？", "请问闹钟每天叫醒我，那谁来叫醒闹钟？"]
    others = [chr(0x4E00 + 40 * n) * 5 for n in range(8)]
    for seed in range(20):
        for part in ruozhiba.split(messages(*twins, *others), 0.5, seed).values():
            inside = [row["messages"][0]["content"] in twins for row in part]
            assert sum(inside) in (0, 2)


def test_shuffle_is_seeded_and_never_splits_near_duplicates():
    bodies = ["".join(chr(0x4E00 + 97 * n + k) for k in range(9)) for n in range(20)]
    rows = messages(*(body + mark for body in bodies for mark in ("？", "！")))
    sides = set()
    for seed in range(5):
        parts = ruozhiba.split(rows, 0.7, seed)
        assert sorted(itertools.chain(*parts.values()), key=rows.index) == rows
        assert [len(part) for part in parts.values()] == [28, 4, 8]
        plain = [{row["messages"][0]["content"].rstrip("？！") for row in part} for part in parts.values()]
        assert not any(one & other for one, other in itertools.combinations(plain, 2))
        assert parts == ruozhiba.split(rows, 0.7, seed)
        sides.add(tuple(rows.index(row) for row in parts["train"]))
    assert len(sides) == 5


def test_sample_leaks_in_file_order_but_not_shuffled():
    rows = [ruozhiba.to_messages(row) for row in ruozhiba.read_source(SAMPLE)]

    def leaks(parts):
        asked = [[row["messages"][0]["content"] for row in part] for part in parts.values()]
        return sum(len(splits.leakage(*two)) for two in itertools.combinations(asked, 2))

    assert leaks(ruozhiba.split(rows)) == 1
    assert not leaks(ruozhiba.split(rows, seed=42))


def test_the_validation_part_is_taken_from_the_other_half(tmp_path):
    train, validation, test, half = (tmp_path / f"{name}.jsonl" for name in ("a", "b", "c", "half"))
    counts = ruozhiba.convert_file(SAMPLE, train, test, validation_path=validation)
    assert counts == {"source": 24, "train": 16, "validation": 2, "test": 6}
    two = tmp_path / "two.jsonl"
    ruozhiba.convert_file(SAMPLE, two, half)
    assert train.read_bytes() == two.read_bytes()
    assert validation.read_bytes() + test.read_bytes() == half.read_bytes()


@pytest.mark.parametrize("validation", [-0.1, 1, float("nan")])
def test_validation_out_of_range(validation):
    with pytest.raises(CourseError, match="验证集比例"):
        ruozhiba.split(messages(*"甲乙丙丁"), 0.5, validation=validation)


def test_both_halves_need_their_own_file(tmp_path):
    with pytest.raises(CourseError, match="同一个文件"):
        ruozhiba.convert_file(SAMPLE, tmp_path / "a", tmp_path / "a")
    with pytest.raises(CourseError, match="同一个文件"):
        ruozhiba.convert_file(SAMPLE, tmp_path / "a", tmp_path / "b", format_path=tmp_path / "b")
    with pytest.raises(CourseError, match="同一个文件"):
        ruozhiba.convert_file(SAMPLE, tmp_path / "a", SAMPLE)


def test_the_files_are_what_their_names_say(tmp_path):
    lines = [tmp_path / "train.jsonl", tmp_path / "test.jsonl"]
    array = [tmp_path / "train.json", tmp_path / "test.json"]
    assert ruozhiba.convert_file(SAMPLE, *lines) == ruozhiba.convert_file(SAMPLE, *array)
    assert [json.loads(file.read_text()) for file in array] == [records.read_jsonl(file) for file in lines]
    with pytest.raises(CourseError, match=r"\.json（数组）或 \.jsonl"):
        ruozhiba.convert_file(SAMPLE, tmp_path / "train.txt", tmp_path / "b.jsonl")


def test_provenance(tmp_path):
    ruozhiba.convert_file(SAMPLE, tmp_path / "a.jsonl", tmp_path / "b.jsonl", ratio=0.5, seed=3)
    made = records.read_json(records.provenance_path(tmp_path / "b.jsonl"))
    assert made["parameters"] == {
        "ratio": 0.5,
        "validation": 0,
        "seed": 3,
        "threshold": ruozhiba.SAME_QUESTION,
    }
    assert made["inputs"] == {"data/ruozhiba/sample.jsonl": records.sha256(SAMPLE)}
