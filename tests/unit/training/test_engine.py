"""XTuner through our engine: a real training of a tiny model, its files, and refusals up front."""

import json

import pytest
import torch

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import configs, engine, inference

CONFIG = "configs/wishes_gemma3_270m_cpu.py"


def test_training_leaves_checkpoint_curve_and_samples(trained):
    result, lines = trained
    assert result.checkpoint.name == "iter_20.pth"
    assert [point["step"] for point in result.curve][-2:] == [10, 20]
    assert result.curve[-1]["loss"] < result.curve[0]["loss"] < 12
    assert [sample["iter"] for sample in result.samples] == [0] * 6 + [10] * 6 + [20] * 6
    assert {"祝姐姐生日快乐"} <= {sample["input"] for sample in result.samples}
    assert any("20/20 步" in line for line in lines)
    assert 0.1 < result.peak_memory_gb < 20


def test_learning_rate_follows_warm_up_and_cosine(trained):
    first, last = (point["lr"] for point in trained[0].curve[-2:])
    assert 1e-3 < first < 2e-3 and last < 1e-4


def test_convert_and_merge_keep_the_answers(trained, tiny_dir, tmp_path):
    result, _ = trained
    adapter = engine.pth_to_hf(result.config, result.checkpoint, tmp_path / "adapter")
    merged = engine.merge(tiny_dir, adapter, tmp_path / "merged")
    assert json.loads((merged / "config.json").read_text())["dtype"] == "bfloat16"
    tokens = None
    logits = {}
    for name, arguments in {"base": (tiny_dir,), "adapter": (tiny_dir, adapter), "merged": (merged,)}.items():
        model, tokenizer = inference.load(*arguments, dtype="float32")
        tokens = torch.tensor([tokenizer.encode("祝姐姐生日，万事如意！")])
        with torch.inference_mode():
            logits[name] = model(tokens).logits
    scale = logits["adapter"].norm()
    # the merged weights are rounded to bfloat16
    assert (logits["merged"] - logits["adapter"]).norm() / scale < 0.01
    assert (logits["base"] - logits["adapter"]).norm() / scale > 0.05
    assert not list(tmp_path.glob(".*"))


def test_resume_goes_on_from_the_last_checkpoint(trained, tmp_path):
    result, _ = trained
    config = configs.write_config(result.config, tmp_path / "longer.py", max_epochs=6)
    lines = []
    again = engine.train(config, result.work_dir, resume=True, report=lines.append)
    assert again.checkpoint.name == "iter_24.pth"
    assert not any(" 10/24 步" in line for line in lines)


@pytest.mark.parametrize(
    ("fixture", "base"),
    [
        ("internlm2_dir", "configs/wishes_internlm2_chat_7b.py"),
        ("qwen2_dir", "configs/wishes_qwen2_5_0_5b_instruct.py"),
    ],
)
def test_gpu_config_goes_the_whole_way_on_a_cpu(fixture, base, request, rows_file, tmp_path):
    model_dir = request.getfixturevalue(fixture)
    remote = fixture == "internlm2_dir"

    def config(epochs):
        path = configs.write_config(
            base,
            tmp_path / "config.py",
            model_dir=model_dir,
            data_path=rows_file,
            max_length=64,
            batch_size=2,
            max_epochs=epochs,
            warmup_ratio=0.2,
            every_n_iters=4,
            lr=2e-2,
        )
        cfg = configs.load_config(path)
        cfg.env_cfg.dist_cfg.backend = "gloo"
        cfg.optim_wrapper.accumulative_counts = 1
        cfg.dump(str(path))
        return path

    first = engine.train(config(3), tmp_path / "work", report=lambda line: None)
    result = engine.train(config(5), tmp_path / "work", resume=True, report=lambda line: None)
    steps = [int(item.checkpoint.stem.split("_")[1]) for item in (first, result)]
    assert steps[1] > steps[0] > 0
    assert result.curve[-1]["loss"] < result.curve[0]["loss"]
    adapter = engine.pth_to_hf(config(5), result.checkpoint, tmp_path / "adapter")
    merged = engine.merge(model_dir, adapter, tmp_path / "merged")
    model, tokenizer = inference.load(merged, trust_remote_code=remote)
    chat = inference.messages("祝姐姐生日")
    (answer,) = inference.answer_all(model, tokenizer, [chat], max_new_tokens=6)
    assert answer.text == "".join(inference.stream(model, tokenizer, chat, max_new_tokens=6)).strip() != ""


def test_warm_up_of_packed_data_is_checked(qwen2_dir, rows_file, tmp_path):
    settings = {"model_dir": qwen2_dir, "data_path": rows_file, "max_length": 64, "warmup_ratio": 0.1}
    config = configs.write_config(CONFIG, tmp_path / "config.py", **settings)
    options = {"train_dataloader.dataset.pack_to_max_length": True}
    with pytest.raises(CourseError, match=r"热身只有 0\.\d+ 步（\d+ 行，每行 64 个词元"):
        engine.check_config(config, options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_path": "outputs/nowhere.json"}, "训练数据 outputs/nowhere.json 不存在"),
        ({"model_dir": "models/nowhere"}, "tianji prepare-model nowhere"),
        ({"max_epochs": 0.5, "warmup_ratio": 0.1}, "热身只有 0.20 步（16 条数据，4 批，0.5 轮）"),
    ],
)
def test_bad_config_is_refused_before_anything_is_loaded(tiny_dir, rows_file, tmp_path, changes, message):
    settings = {"model_dir": tiny_dir, "data_path": rows_file} | changes
    config = configs.write_config(CONFIG, tmp_path / "config.py", **settings)
    with pytest.raises(CourseError) as caught:
        engine.train(config, tmp_path / "work")
    assert message in str(caught.value)
    assert not (tmp_path / "work").exists()


def test_empty_and_broken_data_are_named(tiny_dir, tmp_path):
    for text, message in (("[]", "一条也没有"), ('[{"conversation": [{"input": "x"}]}]', "缺少字段 output")):
        data = tmp_path / "rows.json"
        data.write_text(text, encoding="utf-8")
        config = configs.write_config(CONFIG, tmp_path / "config.py", model_dir=tiny_dir, data_path=data)
        with pytest.raises(CourseError, match=message):
            engine.check_config(config)


def test_messages_without_messages_are_named(tiny_dir, tmp_path):
    data = tmp_path / "rows.jsonl"
    records.write_jsonl(data, [{"messages": []}, {"instruction": "x"}])
    config = configs.write_config(
        "configs/ruozhiba_gemma3_270m_cpu.py", tmp_path / "config.py", model_dir=tiny_dir, data_path=data
    )
    with pytest.raises(CourseError, match='第 2 条没有 "messages"'):
        engine.check_config(config)


def test_crash_of_xtuner_is_an_error_with_its_log(tmp_path):
    with pytest.raises(CourseError, match=r"pth_to_hf 失败了（退出码 1）(?s:.*)FileNotFoundError"):
        engine.run_tool("pth_to_hf", ["nowhere.py", "x.pth", "y"], log=tmp_path / "log")


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CourseError, match="没有检查点"):
        engine.last_checkpoint(tmp_path)
