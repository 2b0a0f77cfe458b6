"""Merging: byte for byte the contract, nothing lost, and every fault named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import records
from tianji_helpers.dataset import merge
from tianji_helpers.errors import CourseError


def raw(number: int) -> dict:
    return {
        "conversation": [
            {
                "system": "你是送祝福大师",
                "src_input": "请写……",
                "style_name": "正常",
                "input": f"祝姐姐生日{number}",
                "output": f"第一行\n“{number}”🎂",
                "model": "extra key",
            }
        ]
    }


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def rounds(tmp_path):
    folder = tmp_path / "rounds"
    folder.mkdir()
    write(folder / "wishes_正常_2026-01-02-00-00-00.json", [raw(2), raw(3)])
    write(folder / "wishes_正常_2026-01-01-00-00-00.json", [raw(1)])
    return folder


def test_bytes_are_those_of_json_dump(rounds, tmp_path):
    merged = merge.merge_rounds(rounds, tmp_path / "merged.json")
    expected = [
        {"conversation": [{name: raw(n)["conversation"][0][name] for name in ("system", "input", "output")}]}
        for n in (1, 2, 3)
    ]
    assert (tmp_path / "merged.json").read_text(encoding="utf-8") == json.dumps(
        expected, ensure_ascii=False, indent=4
    )
    assert (merged.rows, merged.rejected, merged.rejects) == (3, 0, None)
    assert records.read_json(records.provenance_path(tmp_path / "merged.json"))["counts"]["rows"] == 3


def test_never_reads_its_own_output(rounds):
    first = merge.merge_rounds(rounds, rounds / "a.json").rows
    assert merge.merge_rounds(rounds, rounds / "a.json").rows == first
    assert merge.merge_rounds(rounds, rounds / "b.json").rows == first  # a.json is ours, not a round


def test_what_is_of_another_kind_is_told(rounds, tmp_path):
    for name in ("a.xlsx", "notes.txt", ".hidden.txt", "journal.sqlite", "journal.sqlite-journal"):
        (rounds / name).write_text("x")
    (rounds / "qa").mkdir()
    write(rounds / "FROM_WINDOWS.JSON", [raw(4)])
    for output in (rounds / "merged.json", rounds / "merged.json", tmp_path / "other.json"):
        merged = merge.merge_rounds(rounds, output, skip_bad=True)
        assert ([file.name for file in merged.unread], merged.rows) == (["a.xlsx", "notes.txt"], 4)


def test_never_replaces_what_it_is_to_read(rounds, tmp_path):
    mine = rounds / "mine.json"
    write(mine, [raw(4)])
    before = mine.read_bytes()
    (tmp_path / "other.json").symlink_to(mine)
    for output in (mine, tmp_path / "other.json"):
        with pytest.raises(CourseError, match=r"mine\.json 是要合并的数据之一.*换一个名字"):
            merge.merge_rounds(rounds, output)
    assert mine.read_bytes() == before and not records.provenance_path(mine).exists()
    assert merge.merge_rounds(rounds, rounds / "all.json").rows == 4
    # an earlier result that is linked into the folder is still one
    merge.merge_rounds(rounds, tmp_path / "all.json")
    (rounds / "linked.json").symlink_to(tmp_path / "all.json")
    assert merge.merge_rounds(rounds, tmp_path / "all.json").rows == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[{", ("broken.json", "JSON")),
        ("", ("broken.json", "没有一条")),
        ('{"conversation": []}', ("broken.json", "一轮")),
        ("[1]", ("broken.json", "第 1 条", "对象")),
        ('[{"conversation": []}]', ("broken.json", "第 1 条", "一轮")),
        ('[{"conversation": [{"system": "s", "input": "i"}]}]', ("第 1 条", "output")),
        ('[{"conversation": [{"system": 3, "input": "i", "output": "o"}]}]', ("第 1 条", "system")),
        ('[{"conversation": [{"system": "s", "input": "i", "output": "\\ud83d"}]}]', ("output", "半个")),
        ("[" * 100_000, ("broken.json", "嵌套")),
    ],
)
def test_fault_is_named_and_skip_bad_keeps_it(rounds, tmp_path, content, words):
    (rounds / "broken.json").write_text(content, encoding="utf-8")
    output = tmp_path / "merged.json"
    output.write_text("old", encoding="utf-8")
    with pytest.raises(CourseError) as caught:
        merge.merge_rounds(rounds, output)
    assert all(word in str(caught.value) for word in words)
    assert output.read_text(encoding="utf-8") == "old"

    merged = merge.merge_rounds(rounds, output, skip_bad=True)
    assert (merged.rows, merged.rejected) == (3, 1)
    assert merged.rejects == tmp_path / "merged_rejects.jsonl"
    (bad,) = records.read_jsonl(merged.rejects)
    assert bad["file"] == "broken.json" and all(word in bad["reason"] for word in words)


def test_a_file_of_rejects_that_nobody_named_takes_no_others_place(rounds, tmp_path, capsys):
    write(rounds / "wishes_正常_2026-01-03-00-00-00.json", [{"conversation": 5}])
    merged, rejects = tmp_path / "merged.json", tmp_path / "merged_rejects.jsonl"
    rejects.write_text("mine")
    with pytest.raises(CourseError, match="merged 里一条也合不出来"):
        (tmp_path / "merged").mkdir()
        write(tmp_path / "merged" / "bad.json", [{"conversation": 5}])
        merge.merge_rounds(tmp_path / "merged", merged, skip_bad=True)
    assert rejects.read_text() == "mine" and not list(tmp_path.glob("*.kept-*"))
    for _ in range(2):  # the second time it is ours
        merge.merge_rounds(rounds, merged, skip_bad=True)
    assert (tmp_path / "merged_rejects.jsonl.kept-1").read_text() == "mine"
    assert "留作 merged_rejects.jsonl.kept-1" in capsys.readouterr().out
    rejects.write_text("mine")
    merge.merge_rounds(rounds, merged, skip_bad=True, rejects=rejects)  # named: as with any output
    assert len(list(tmp_path.glob("*.kept-*"))) == 1 and len(records.read_jsonl(rejects)) == 1


def test_good_rows_of_a_bad_file_survive_skip_bad(rounds, tmp_path):
    write(rounds / "wishes_正常_2026-01-03-00-00-00.json", [raw(4), {"conversation": 5}, raw(6)])
    cut = json.dumps([raw(7), raw(8)], ensure_ascii=False)[:-60]
    (rounds / "wishes_正常_2026-01-04-00-00-00.json").write_text(cut, encoding="utf-8")
    merged = merge.merge_rounds(
        rounds, tmp_path / "merged.json", skip_bad=True, rejects=tmp_path / "bad.jsonl"
    )
    assert (merged.rows, merged.rejected) == (6, 2)
    inputs = [turn["input"][-1] for turn in records.read_conversations(tmp_path / "merged.json")]
    assert inputs == list("123467")
    bad = records.read_jsonl(tmp_path / "bad.jsonl")
    assert [(row["row"], row["value"]) for row in bad] == [(2, {"conversation": 5}), (2, None)]


def test_many_files_come_in_order_with_their_digests(rounds, tmp_path):
    for number in range(30):
        write(rounds / f"wishes_正常_2026-02-{number:03}.json", [raw(number)] * 5)
    write(rounds / "wishes_正常_2026-02-015.json", [raw(15), {"conversation": 5}])
    merged = merge.merge_rounds(rounds, tmp_path / "merged.json", skip_bad=True)
    assert (merged.rows, merged.rejected) == (3 + 29 * 5 + 1, 1)
    turns = records.read_conversations(tmp_path / "merged.json")
    numbers = [1, 2, 3, *(n for n in range(30) for _ in range(1 if n == 15 else 5))]
    assert [turn["input"] for turn in turns] == [f"祝姐姐生日{number}" for number in numbers]
    provenance = records.read_json(records.provenance_path(tmp_path / "merged.json"))
    assert list(provenance["inputs"].values()) == [records.sha256(path) for path in merged.files]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    turns=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=4),
    escaped=st.booleans(),
    large=st.booleans(),
)
def test_any_text_is_laid_out_as_json_does(tmp_path_factory, turns, escaped, large):
    folder = tmp_path_factory.mktemp("rounds")
    rows = [{"conversation": [dict(zip(merge.FIELDS, turn, strict=True))]} for turn in turns]
    for number in range(2):
        file = folder / f"{number}.json"
        file.write_text(json.dumps(rows, ensure_ascii=escaped), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(merge, "_WHOLE", 1)
        assert merge.merge_rounds(folder, folder / "merged" / "all.json").rows == 2 * len(rows)
    expected = json.dumps(rows * 2, ensure_ascii=False, indent=4)
    assert (folder / "merged" / "all.json").read_bytes() == expected.encode()


def test_no_rounds(tmp_path):
    with pytest.raises(CourseError, match="第 1 课"):
        merge.merge_rounds(tmp_path, tmp_path / "merged.json")
    with pytest.raises(CourseError, match="找不到文件夹"):
        merge.merge_rounds(tmp_path / "absent", tmp_path / "merged.json")


def test_a_name_of_json_lines_is_refused(rounds, tmp_path):
    with pytest.raises(CourseError, match=r"all\.jsonl.*改成 \.json"):
        merge.merge_rounds(rounds, tmp_path / "all.jsonl")
    assert not (tmp_path / "all.jsonl").exists()
