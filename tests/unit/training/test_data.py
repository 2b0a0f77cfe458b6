"""Every row is looked at before a training starts, by what the training itself does to it."""

import json

import pytest

from tianji_helpers import formats, paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import configs, data, evaluation, launch, planning

CONFIG = "configs/wishes_gemma3_270m_cpu.py"
TALK = [
    {"system": "你是一名导游", "input": "第一天去哪儿", "output": "去古城墙。"},
    {"input": "第二天呢", "output": "去爬山。"},
    {"input": "第三天呢", "output": "歇一天。"},
]
SHORT = [{"input": "你好", "output": "您好。"}]
LONG = [{"input": "讲个故事", "output": "从前有座山，山里有座庙。" * 60}]


@pytest.fixture
def written(tiny_dir, tmp_path):
    """A function that writes a config for rows of any shape, and returns it."""

    def write(rows, *lines: str, name="rows.json", base=CONFIG, **settings):
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        target = configs.write_config(
            base,
            tmp_path / "config.py",
            model_dir=tiny_dir,
            data_path=path,
            warmup_ratio=0.5,
            max_epochs=9,
            **settings,
        )
        if lines:
            target.write_text("\n".join((target.read_text(encoding="utf-8"), *lines)), encoding="utf-8")
        return target

    return write


@pytest.mark.parametrize("shape", formats.FORMATS)
@pytest.mark.parametrize("base", [CONFIG, "configs/ruozhiba_gemma3_270m_cpu.py"])
def test_any_shape_trains_with_any_config(written, tokenizer, shape, base):
    config = written([formats.from_turns(turns, shape) for turns in (TALK, SHORT)], base=base)
    rows = launch.check_config(config)
    encoded = [evaluation.encode(tokenizer, turn, "internlm2_chat") for turn in formats.read_turns(rows.path)]
    assert rows.lengths == [len(row["input_ids"]) for row in encoded]
    assert rows.answers == rows.seen == [sum(label >= 0 for label in row["labels"]) for row in encoded]


def test_the_loss_sees_every_answer_of_a_long_talk_and_nothing_else(written, tokenizer):
    from xtuner.registry import BUILDER

    config = written([formats.from_turns(TALK, "openai")])
    cfg = configs.load_config(config)
    (row,) = BUILDER.build(cfg.train_dataloader.dataset)
    whole = tokenizer.decode(row["input_ids"])
    learnt = tokenizer.decode([token for token in row["labels"] if token >= 0])
    assert [part.strip() for part in learnt.split("<|im_end|>")] == [*(turn["output"] for turn in TALK), ""]
    assert whole.index("你是一名导游") < whole.index("第一天") < whole.index("第三天") < whole.index("歇一天")


def test_rows_beyond_the_limit_are_counted_before_the_training(written):
    config = written([formats.from_turns(turns, "xtuner") for turns in (SHORT, LONG, SHORT)], max_length=64)
    rows = launch.check_config(config)
    assert (rows.too_long, rows.unlearnt, max(rows.lengths) > 400) == (1, 0, True)
    assert "有 1 条超过上限 64，后面的会截掉（答案的 9" in str(rows) and "max_length 调大" in str(rows)
    assert "都不超过上限 2048" in str(
        launch.check_config(written(map(json.loads, ['{"input": "a", "output": "b"}'] * 9), max_length=2048))
    )
    with pytest.raises(CourseError, match=r"3 条里，没有一个词元能算损失.*上限 2 个词元"):
        launch.check_config(
            written([formats.from_turns(turns, "xtuner") for turns in (SHORT, LONG, SHORT)], max_length=2)
        )


@pytest.mark.parametrize("silent", ["", " \n"])
def test_rows_with_an_empty_answer_are_named_and_nothing_else_does_not_train(written, silent):
    """The template's end of an answer is a token that the loss sees: such rows teach to say nothing."""
    nothing = [{"input": "你好", "output": silent}]
    later = [*TALK[:2], {"input": "第三天呢", "output": silent}]
    rows = launch.check_config(
        written([formats.from_turns(turns, "xtuner") for turns in (SHORT, nothing, TALK, later)])
    )
    assert rows.empty == [2, 4] and rows.unlearnt == 0
    assert "有 2 条的答案是空的（第 2、4 条）" in str(rows) and "请补上答案，或删掉" in str(rows)
    plan = planning.plan_training(rows.path.with_name("config.py"), {"validation_path": rows.path})
    assert str(plan).count("（第 2、4 条）") == 2
    for shape in ("xtuner", "openai"):
        config = written([formats.from_turns(nothing, shape)] * 16)
        with pytest.raises(CourseError, match=r"rows\.json 的 16 条里，答案全是空的（第 1、2、.*请补上答案"):
            launch.check_config(config)
    lines = [line.format("openai_map_fn") for line in XTUNERS_OWN]
    config = written([formats.from_turns(nothing, "openai")] * 16, *lines, name="rows.jsonl")
    with pytest.raises(CourseError, match="答案全是空的"):
        launch.check_config(config)


def cut(row):
    question, answer = row["conversation"].split("｜")
    return {"conversation": [{"input": question, "output": answer}]}


def test_rows_of_an_own_shape_are_looked_at_after_their_map(written):
    lines = [line.format("") for line in XTUNERS_OWN[:2]]
    lines += ["rows['dataset_map_fn'] = 'test_data.cut'", "del rows"]
    texts = [{"conversation": "你好｜您好"}, {"conversation": "再见｜"}]
    rows = launch.check_config(written(texts * 8, *lines, name="rows.jsonl"))
    assert len(rows.lengths) == 16 and rows.empty == [*range(2, 17, 2)]


def test_packed_rows_are_of_those_that_have_an_answer():
    cfg = configs.load_config("configs/wishes_gemma3_270m_cpu_packed.py")
    short, long = 30, 10  # the long ones are left out before packing
    rows = data.Rows(paths.DATA, [1000] * long + [20] * short, [2] * 40, [0] * long + [2] * short, 280)
    assert planning.batches(cfg, rows) == 600 // 280


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("tokenizer.pretrained_model_name_or_path", "/x", " 用不了"),
        ("template_map_fn.type", "nowhere", r"\.template_map_fn\.type 是 'nowhere'，没有这个类或函数"),
    ],
)
def test_a_part_of_the_reading_that_is_not_there_is_named(written, place, value, said):
    config = written([formats.from_turns(SHORT, "xtuner")] * 9)
    with pytest.raises(CourseError, match=rf"train_dataloader\.dataset{said}"):
        launch.check_config(config, {f"train_dataloader.dataset.{place}": value})


XTUNERS_OWN = (  # as configs are that XTuner's users bring along
    "rows = train_dataloader['dataset']",
    "rows['dataset'] = dict(type='datasets.load_dataset', path='json', data_files=dict(train=data_path))",
    "rows['dataset_map_fn'] = 'xtuner.dataset.map_fns.{}'",
    "del rows",
)


def messages(*roles):
    return {"messages": [{"role": role, "content": "说"} for role in roles]}


@pytest.mark.parametrize(
    ("mapped", "bad", "words"),
    [
        ("openai_map_fn", messages("developer", "user", "assistant"), ("第 2 条", "NotImplementedError")),
        ("openai_map_fn", {"messages": None}, ("第 2 条", "messages")),
        ("alpaca_map_fn", messages("user", "assistant"), ("KeyError", "instruction", "messages")),
        ("nowhere_map_fn", messages("user", "assistant"), ("没有 xtuner.dataset.map_fns.nowhere_map_fn",)),
    ],
)
def test_a_row_that_a_map_function_cannot_take_is_named(written, mapped, bad, words):
    lines = [line.format(mapped) for line in XTUNERS_OWN]
    good = messages("user", "assistant") if mapped == "openai_map_fn" else bad
    with pytest.raises(CourseError) as caught:
        launch.check_config(written([good, bad], *lines, name="rows.jsonl"))
    assert all(word in str(caught.value) for word in ("tianji convert", *words)), caught.value


def test_columns_that_datasets_cannot_put_together_are_named(written):
    lines = [line.format("alpaca_map_fn") for line in XTUNERS_OWN]
    rows = [
        {"instruction": "a", "input": "", "output": "b"},
        {"instruction": ["a"], "input": 3, "output": {}},
    ]
    with pytest.raises(CourseError, match=r"rows\.jsonl.*tianji convert"):
        launch.check_config(written(rows, *lines, name="rows.jsonl"))


def test_rows_of_xtuners_own_config_are_counted_as_it_counts_them(written):
    lines = [line.format("openai_map_fn") for line in XTUNERS_OWN]
    silent = messages("user", "assistant")
    silent["messages"][1]["loss"] = False
    loud = messages("user", "assistant")
    loud["messages"][1]["loss"] = True
    rows = launch.check_config(written([loud, silent, loud], *lines, name="rows.jsonl"))
    assert (
        rows.unlearnt == 1
        and planning.batches(configs.load_config(rows.path.with_name("config.py")), rows) == 1
    )
    with pytest.raises(CourseError, match="没有一个词元能算损失"):
        launch.check_config(written([silent], *lines, name="rows.jsonl"))


def test_a_config_that_hides_its_data_is_told_where_to_name_them(written):
    config = written(
        [formats.from_turns(SHORT, "xtuner")],
        "train_dataloader['dataset']['dataset']['data_files'] = 'x.json'",
    )
    with pytest.raises(CourseError, match=r"train_dataloader\.dataset\.dataset\.data_files\.train.*configs/"):
        launch.check_config(config)


def test_a_bad_row_among_thousands(tmp_path):
    rows = [formats.from_turns(SHORT, "xtuner")] * 2_500
    formats.write_rows(tmp_path / "rows.jsonl", [*rows, {"conversation": [{"input": "a"}]}])
    with pytest.raises(CourseError, match="第 2501 行第 1 轮：缺少字段 output"):
        data.load_rows({"train": tmp_path / "rows.jsonl"})
    formats.write_rows(tmp_path / "rows.jsonl", rows)
    loaded = data.load_rows({"train": tmp_path / "rows.jsonl"})["train"]
    assert loaded.num_rows == 2_500 and loaded[2_499] == {"conversation": [{"system": None, **SHORT[0]}]}
    records.write_jsonl(tmp_path / "empty.jsonl", [])
    with pytest.raises(CourseError, match="没有一条记录"):
        data.load_rows({"train": tmp_path / "empty.jsonl"})
