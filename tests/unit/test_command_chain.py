"""Every file that a command writes is taken by every command that could follow it."""

import argparse
import csv
import json

import pytest

from tianji_helpers import formats, hubs, paths, records, wishes
from tianji_helpers.training import configs, data, evaluation
from tianji_toolbox import cli
from tianji_toolbox.classroom import review
from tianji_toolbox.cli.arguments import Place

MATRIX = wishes.load()
DISHES = ("馒头", "油条", "饺子", "米粥", "豆浆", "烧饼", "面条", "汤圆", "煎饼", "包子", "花卷", "春卷")


def run(*arguments) -> None:
    assert cli.main([str(argument) for argument in arguments]) == 0, arguments


def run_anyway(*arguments) -> bool:
    """Run what may find something, and says so by its status; but fail it must not."""
    return cli.main([str(argument) for argument in arguments]) in (0, 1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files that commands write, by a name that says how."""
    folder = tmp_path_factory.mktemp("written")
    own = folder / "own.csv"
    with own.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", "system", "history"])
        for number, dish in enumerate(DISHES):
            history = json.dumps([[f"你会做{dish}吗", "会一点。"]]) if number % 3 == 0 else ""
            prompt = "你是一名厨师。" if number % 2 else ""
            writer.writerow(
                [f"{dish}怎么做，要多久？", f"{dish}要{number + 3}分钟，\n慢慢来。", prompt, history]
            )
    files = {}

    def put(name: str):
        files[name] = folder / name
        return files[name]

    for shape in formats.FORMATS:
        for suffix in ("json", "jsonl"):
            run("convert", own, put(f"convert_{shape}.{suffix}"), "--to", shape)
    run("convert", own, put("convert_system.json"), "--to", "openai", "--system", "你很简短")
    (folder / "rounds").mkdir()
    (folder / "rounds" / "own.csv").write_bytes(own.read_bytes())
    (folder / "rounds" / "own.jsonl").write_bytes(files["convert_openai.jsonl"].read_bytes())
    run("merge", folder / "rounds", put("merge.json"))
    run("merge", folder / "rounds", put("merge_system.json"), "--system", "你很简短", "--skip-bad")
    reports = ("--rejects", folder / "rejects.jsonl", "--report", folder / "report.json")
    run("clean", own, "--output", put("clean.json"), *reports)
    run("split", files["clean.json"], "--by", "row")
    run("split", files["convert_openai.jsonl"], "--by", "row")
    for part in ("train", "validation", "test"):
        put(f"clean_{part}.json")
        put(f"convert_openai_{part}.jsonl")
    run("self-cognition", "--output", put("me.json"), "--owner", "小明", "--assistant", "小祝")
    for part in ("validation", "test", "probe"):
        put(f"me_{part}.json")
    run("synthesize", "--style", "正常", "--limit", "6", "--output", folder / "run")
    (made,) = (folder / "run" / "01_synthesis").glob("wishes_*[0-9].json")
    put("round.json").write_bytes(made.read_bytes())
    run("synthesize-qa", "--input", paths.DATA / "knowledge", "--limit", "4", "--output", folder / "qa")
    (made,) = (folder / "qa" / "01_synthesis").rglob("wishes_*[0-9].json")
    put("qa.json").write_bytes(made.read_bytes())
    (folder / "leaky.json").write_bytes(files["clean.json"].read_bytes())
    assert run_anyway(
        "leakage", files["clean_train.json"], folder / "leaky.json", "--by", "question", "--repair"
    )
    files["leaky.json"] = folder / "leaky.json"
    rows = [{"instruction": f"{dish}为什么好吃", "input": "", "output": f"{dish}香。"} for dish in DISHES]
    publish(folder / "sets", "ruozhiba", rows)
    files["ruozhiba.jsonl"] = folder / "sets" / "ruozhiba.jsonl"
    parts = ("--train", put("silly_train.jsonl"), "--test", put("silly_test.jsonl"))
    run("ruozhiba", files["ruozhiba.jsonl"], *parts, "--format-output", put("silly.jsonl"))
    turns = [
        {"input": f"祝{who}生日", "output": f"{who}，祝您生日快乐，福寿安康！"} for who in ("爷爷", "奶奶")
    ]
    records.write_conversations(folder / "wishes.json", turns)
    run("shard", folder / "wishes.json", folder / "shards")
    run("unshard", folder / "shards", put("unshard.json"))
    publish(
        folder / "sets", "wishes", [{"conversation": [{"system": "你会祝福。", **turn}]} for turn in turns]
    )
    files["wishes.json"] = folder / "sets" / "wishes.json"
    turns.append({"input": "祝姐姐升职", "output": "好的，\n\n\n姐姐，恭喜升职，前程似锦！"})
    records.write_conversations(folder / "mendable.json", turns)
    wished = ("clean", folder / "mendable.json", *reports, "--kind", "wishes")
    run(*wished, "--output", put("mended.json"))
    assert records.read_json(folder / "report.json")["mended"] == 1
    run(*wished, "--output", put("varied.json"), "--variety", "3")
    return files


def publish(folder, name, rows):
    """Have ``tianji dataset`` bring these rows, as from where their authors put them."""

    def fetch(source, repository, revision, part, *, needed, **_):
        (part / needed[0]).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(rows) if needed[0].endswith(".json") else "\n".join(map(json.dumps, rows))
        (part / needed[0]).write_text(text, encoding="utf-8")
        return {"source": source, "repository": repository, "revision": revision}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hubs, "fetch", fetch)
        run("dataset", name, "--output", folder)


NAMES = (
    *(f"convert_{shape}.{suffix}" for shape in formats.FORMATS for suffix in ("json", "jsonl")),
    *("convert_system.json", "merge.json", "merge_system.json", "clean.json", "me.json", "unshard.json"),
    *(f"clean_{part}.json" for part in ("train", "validation", "test")),
    *(f"convert_openai_{part}.jsonl" for part in ("train", "validation", "test")),
    *("silly.jsonl", "silly_train.jsonl", "silly_test.jsonl", "round.json", "leaky.json"),
    *(f"me_{part}.json" for part in ("validation", "test", "probe")),
    *("qa.json", "ruozhiba.jsonl", "wishes.json", "mended.json", "varied.json"),
)
# what writes rows: an argument that a new command has is to be added to the files above as well
WRITERS = {
    *(("convert", "target"), ("merge", "output_file"), ("clean", "output"), ("unshard", "output_file")),
    *(
        ("self-cognition", "output"),
        *(("ruozhiba", to) for to in ("train", "test", "validation", "format_output")),
    ),
}
NO_ROWS = {("clean", "rejects"), ("clean", "report"), ("review", "decisions")}


def test_every_argument_that_rows_are_written_to_is_known():
    (commands,) = [
        a.choices for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction)
    ]
    found = {
        (name, action.dest)
        for name, command in commands.items()
        for action in command._actions
        if isinstance(action.type, Place) and action.type.written and action.type.ends
    }
    assert found == WRITERS | NO_ROWS


def test_all_that_is_written_is_tried(written):
    assert set(NAMES) == set(written)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_it(written, name, tmp_path):
    path = written[name]
    expected = [turns for _, turns in formats.read(path)]
    for shape in formats.FORMATS:
        run("convert", path, tmp_path / f"{shape}.json", "--to", shape)
        assert [turns for _, turns in formats.read(tmp_path / f"{shape}.json")] == expected

    rounds = tmp_path / "rounds"
    rounds.mkdir()
    (rounds / name).write_bytes(path.read_bytes())
    run("merge", rounds, tmp_path / "merged.json")
    assert [turns for _, turns in formats.read(tmp_path / "merged.json")] == expected

    reports = ("--rejects", tmp_path / "r.jsonl", "--report", tmp_path / "p.json")
    run("clean", path, "--output", tmp_path / "clean.json", *reports)
    kept = len(list(formats.read(tmp_path / "clean.json")))
    assert kept + len(records.read_jsonl(tmp_path / "r.jsonl")) == len(expected) and kept
    assert isinstance(review.load(path)[0], list)

    if all(len(turns) == 1 for turns in expected):  # else it is refused in words
        run("shard", path, tmp_path / "shards")
        run("unshard", tmp_path / "shards", tmp_path / "unshard.json")
        joined = records.read_conversations(tmp_path / "unshard.json")
        assert [turn["output"] for turn in joined] == [turn["output"] for (turn,) in expected]
    else:
        assert cli.main(["shard", str(path), str(tmp_path / "shards")]) == 1
    if len(expected) > 2:
        run("split", path, "--by", "row", "--output-dir", tmp_path / "parts")
        assert len(list((tmp_path / "parts").glob("*_t*.json*"))) >= 2
    assert cli.main(["leakage", str(path), str(path)]) == 1  # every row of it stands in it
    first, later = tmp_path / "first.jsonl", tmp_path / name
    records.write_jsonl(first, [formats.from_turns(expected[0], "openai")])
    later.write_bytes(path.read_bytes())
    if cli.main(["leakage", str(first), str(later), "--repair"]) == 0:  # else it was all that there is
        left = [turns for _, turns in formats.read(later)]
        counts = {"before": len(expected), "kept": len(left), "leaked": len(expected) - len(left)}
        assert records.provenance(later)["counts"] == counts and expected[0] not in left
        assert list(formats.iter_rows(tmp_path / f"{later.stem}_leaked.jsonl"))
    else:
        assert later.read_bytes() == path.read_bytes()

    asked = evaluation.read_turns(path)  # what the exam and `export --check` read
    assert [turn["output"] for turn in asked] == [turns[-1]["output"] for turns in expected]
    assert all(turn["input"] for turn in asked)
    trained = tmp_path / "trained.jsonl"
    parts = ("--train", str(trained), "--test", str(tmp_path / "tested.jsonl"))
    # COIG-CQIA's records only, which have one turn and no system; of others it would lose a part
    alike = [row for _, row in formats.iter_rows(path) if not (row.get("system") or row.get("history"))]
    taken = len(alike) == len(expected) and all("instruction" in row for row in alike)
    assert cli.main(["ruozhiba", str(path), *parts]) == (0 if taken else 1)
    assert trained.exists() == taken
    # no command writes the list of questions (YAML) that it asks for
    me = ["self-cognition", "--output", str(tmp_path / "me.json"), "--owner", "小明", "--assistant", "小祝"]
    assert cli.main([*me, "--general-file", str(path)]) == 1


def test_a_training_takes_them_all(written, base_dir):
    """Each row goes through what a course config does to it, as before a training starts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    dataset = configs.load_config("configs/wishes_gemma3_270m_cpu.py").train_dataloader.dataset
    dataset.tokenizer.type = lambda **_: tokenizer
    for name, path in written.items():
        dataset.dataset.data_files.train = str(path)
        found = data.look(dataset)
        assert len(found.lengths) == len(list(formats.read(path))) and all(found.seen), name


def test_an_empty_result_is_a_failure_unless_asked_for(tmp_path, capsys):
    rounds = tmp_path / "rounds"
    rounds.mkdir()
    (rounds / "a.json").write_text('[{"text": "没有问答"}]', encoding="utf-8")
    merge = ["merge", str(rounds), str(tmp_path / "m.json"), "--skip-bad"]
    assert cli.main(merge) == 1
    assert "tianji convert" in capsys.readouterr().err and not (tmp_path / "m.json").exists()
    assert cli.main([*merge, "--allow-empty"]) == 0
    assert json.loads((tmp_path / "m.json").read_text()) == []
    for command in (["convert", "--to", "openai"], ["leakage", str(tmp_path / "m.json")], ["split"]):
        target = [str(tmp_path / "x.json")] if command[0] == "convert" else []
        name, *rest = command
        assert cli.main([name, str(tmp_path / "m.json"), *target, *rest]) == 1
        assert "没有一条记录" in capsys.readouterr().err


def test_what_cleaning_did_is_counted_rule_by_rule_on_the_screen(tmp_path, capsys):
    rows = [{"question": "怎么煮粥", "answer": "小火"}] * 3 + [{"question": "怎么蒸饭", "answer": ""}]
    records.write_jsonl(tmp_path / "own.jsonl", rows)
    files = (
        "--output",
        tmp_path / "o.json",
        "--rejects",
        tmp_path / "r.jsonl",
        "--report",
        tmp_path / "p.json",
    )
    run("clean", tmp_path / "own.jsonl", *files)
    shown = capsys.readouterr().out
    assert "不用祝福的规则" in shown and "保留 1 条" in shown
    assert "2 条  完全重复" in shown and "1 条  空的问或答" in shown and "r.jsonl" in shown
