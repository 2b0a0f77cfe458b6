"""The memory estimate: against peaks measured on a card, and what moves it."""

import json
from pathlib import Path

import pytest
import torch

from tianji_helpers import records, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import material
from tianji_helpers.training import configs, estimate, launch
from tianji_toolbox import cli

# shapes of the real models, and the peak of allocated memory measured on an H100 with
# tests/benchmarks/bench_gpu.py: wishes of which 40 % of the tokens are answers, rows of 2,048
# at a time, share of the layers computed again
INTERNLM2_7B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "heads": 32}
INTERNLM2_1_8B = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "heads": 16}
MEASURED = [
    (INTERNLM2_7B, 4, 1.0, 11.44),
    (INTERNLM2_7B, 4, 0.75, 18.58),  # these four on an H200
    (INTERNLM2_7B, 4, 0.5, 25.12),
    (INTERNLM2_7B, 2, 0.1, 21.84),
    (INTERNLM2_7B, 2, 0.0, 23.05),
    (INTERNLM2_1_8B, 4, 1.0, 4.38),
]


@pytest.fixture
def shaped(internlm2_dir, tmp_path):
    """A function that returns a GPU config for an InternLM2 of some shape (no weights)."""

    def make(shape, rows=None):
        folder = tmp_path / "model"
        folder.mkdir()
        for file in internlm2_dir.glob("*.py"):
            (folder / file.name).write_text(file.read_text())
        config = json.loads((internlm2_dir / "config.json").read_text())
        config |= shape | {"num_attention_heads": shape["heads"], "num_key_value_heads": 8}
        config |= {"vocab_size": 92544, "bias": False}
        (folder / "config.json").write_text(json.dumps(config))
        settings = {"model_dir": folder, "data_path": rows or tmp_path / "none.json"}
        return configs.write_config("configs/wishes_internlm2_chat_7b.py", tmp_path / "c.py", **settings)

    return make


def shaped_dir(shaped, shape):
    return configs.load_config(shaped(shape)).pretrained_model_name_or_path


@pytest.mark.parametrize(("shape", "count", "share", "measured_gb"), MEASURED)
def test_estimate_is_within_15_percent_of_the_measured_peak(
    shaped, rows_file, shape, count, share, measured_gb
):
    options = {"model.recompute_share": share, "train_dataloader.batch_size": count}
    result = estimate.estimate(shaped(shape, rows_file), options)
    assert result.tensors_gb == pytest.approx(measured_gb, rel=0.15)
    assert result.on_gpu and result.tokens == count * 2048


@pytest.mark.parametrize(
    ("base", "shape", "rows", "deepspeed", "devices", "measured_gb"),
    [
        ("_full", INTERNLM2_7B, 4, "deepspeed_zero3", 2, 69.93),  # two H200s
        ("_full", INTERNLM2_7B, 4, "deepspeed_zero3", 4, 38.25),  # four
        ("_full", INTERNLM2_1_8B, 4, "deepspeed_zero3", 1, 37.35),
        ("_full", INTERNLM2_1_8B, 4, "deepspeed_zero2", 1, 41.63),
        ("_full", INTERNLM2_1_8B, 4, None, 1, 17.38),
    ],
)
def test_estimate_of_several_gpus_and_of_all_weights(
    shaped, rows_file, base, shape, rows, deepspeed, devices, measured_gb
):
    folder = {"model.llm.pretrained_model_name_or_path": shaped_dir(shaped, shape)}
    options = {
        "train_dataloader.batch_size": rows,
        "train_dataloader.dataset.dataset.data_files.train": rows_file,
    }
    config = f"configs/wishes_internlm2_chat_7b{base}.py"
    result = estimate.estimate(config, folder | options, deepspeed=deepspeed, devices=devices)
    assert result.tensors_gb == pytest.approx(measured_gb, rel=0.15)


def test_the_24_gb_config_fits_24_gb(shaped):
    result = estimate.estimate(shaped(INTERNLM2_7B))
    assert result.total_gb < 24
    assert "一张 24 GB 的卡放得下" in estimate.verdict(result, None)
    assert "放得下" in estimate.verdict(result, 25.0)
    assert "recompute_share" in estimate.verdict(result, 16.0)


def test_parts_follow_from_the_number_of_parameters(shaped):
    parts = estimate.estimate(shaped(INTERNLM2_7B)).parts
    per_layer = 4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336
    assert parts["四比特权重"] == pytest.approx(32 * per_layer * (0.5 + 1 / 64) / 1e9, rel=1e-3)
    # rank times the inputs and outputs of five matrices a layer
    adapter = 32 * 64 * ((4096 + 6144) + 2 * 4096 + 3 * (4096 + 14336))
    assert parts["适配器"] == parts["梯度"] == pytest.approx(adapter * 4 / 1e9)
    assert parts["优化器状态"] == pytest.approx(adapter * 8 / 1e9)


def test_zero_3_shares_what_is_trained(shaped):
    folder = {"model.llm.pretrained_model_name_or_path": shaped_dir(shaped, INTERNLM2_7B)}
    full = "configs/wishes_internlm2_chat_7b_full.py"
    alone = estimate.estimate(full, folder, deepspeed="deepspeed_zero3").parts
    shared = estimate.estimate(full, folder, deepspeed="deepspeed_zero3", devices=8).parts
    for part in ("权重", "梯度", "优化器状态"):
        assert shared[part] == pytest.approx(alone[part] / 8)
    assert alone["优化器状态"] == pytest.approx(6 * alone["权重"])


def test_flops_of_a_full_fine_tuning_are_six_a_weight(shaped):
    folder = {"model.llm.pretrained_model_name_or_path": shaped_dir(shaped, INTERNLM2_7B)}
    cfg = configs.load_config("configs/wishes_internlm2_chat_7b_full.py")
    cfg.merge_from_dict(folder)
    path = Path(cfg.model.llm.pretrained_model_name_or_path).parent / "full.py"
    cfg.dump(str(path))
    layers = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)
    assert estimate.flops_per_token(path) == pytest.approx(6 * (layers + 92544 * 4096))


def test_flops_count_frozen_weights_four_times_and_adapters_six(shaped):
    layers = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)
    adapter = 32 * 64 * ((4096 + 6144) + 2 * 4096 + 3 * (4096 + 14336))
    expected = 4 * (layers + 92544 * 4096) + 6 * adapter
    assert estimate.flops_per_token(shaped(INTERNLM2_7B)) == pytest.approx(expected)


def test_on_a_cpu_the_computing_type_and_the_size_of_the_model_count(
    tiny_dir, rows_file, tmp_path, monkeypatch
):
    def parts(dtype):
        settings = {"model_dir": tiny_dir, "data_path": rows_file, "dtype": dtype}
        config = configs.write_config(
            "configs/wishes_gemma3_270m_cpu.py", tmp_path / f"{dtype}.py", **settings
        )
        return estimate.estimate(config).parts

    wide, narrow = parts("float32"), parts("bfloat16")
    assert wide["展开的权重"] == pytest.approx(2 * narrow["展开的权重"])
    assert narrow["激活值"] < wide["激活值"] <= 2 * narrow["激活值"]
    monkeypatch.setattr(estimate, "LEAN_FROM", 0)
    assert parts("float32")["展开的权重"] < wide["展开的权重"] / 4  # once, in bfloat16, without the head


@pytest.fixture
def seeing(shaped, tmp_path):
    """Options of a config for InternLM2-1.8B behind CLIP-L/14 at 336, 40 cards; a tower of shape only."""
    clip = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    clip |= {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
    records.write_json(tmp_path / "clip" / "config.json", clip)
    drawn = [{"image": f"{number}.png", "scene": "生日"} for number in range(40)]
    records.write_json(tmp_path / "rows.json", material.captions(drawn))
    return {
        "model_dir": shaped_dir(shaped, INTERNLM2_1_8B),
        "data_path": tmp_path / "rows.json",
        "model.visual_encoder.pretrained_model_name_or_path": str(tmp_path / "clip"),
        "max_epochs": 2,
    }


def test_of_a_model_that_sees_the_first_stage_trains_the_projector_only(seeing):
    first, second = (
        estimate.estimate(f"configs/see_internlm2_chat_1_8b_{stage}.py", seeing)
        for stage in ("pretrain", "finetune")
    )
    projector = 1024 * 2048 + 2048 + 2048 * 2048 + 2048
    assert first.parts["投影层"] == first.parts["梯度"] == pytest.approx(projector * 4 / 1e9)
    assert first.parts["优化器状态"] == pytest.approx(projector * 8 / 1e9)
    assert not {"适配器", "四比特权重"} & first.parts.keys()
    assert first.parts["视觉塔"] == pytest.approx(0.607, rel=0.01)  # 303.5 million in bfloat16
    assert second.parts["梯度"] == pytest.approx(second.parts["适配器"] + projector * 4 / 1e9)
    assert second.parts["四比特权重"] < first.parts["其余权重"] / 3
    row = 576 + len(wishes.SYSTEM) + len("<image>\n" + material.QUESTION + "生日") + 20
    assert first.tokens == second.tokens == 16 * row
    layers = 24 * (2048 * 4096 + 2048 * 2048 + 3 * 2048 * 8192)
    assert first.flops == pytest.approx(2 * 40 * row * 4 * layers, rel=0.01)
    assert "PFLOP" in estimate.minutes(first)


@pytest.mark.parametrize(("stage", "measured_gb"), [("pretrain", 17.59), ("finetune", 18.28)])
def test_estimate_of_both_stages_is_within_15_percent_of_the_measured_peak(seeing, stage, measured_gb):
    """Measured on an H200 with tests/benchmarks/bench_vision.py: captions, 16 a step."""
    result = estimate.estimate(f"configs/see_internlm2_chat_1_8b_{stage}.py", seeing)
    assert result.tensors_gb == pytest.approx(measured_gb, rel=0.15)


def test_how_long_it_takes_is_measured_or_said_to_be_unknown(seeing, tiny_dir, rows_file):
    options = {"model_dir": tiny_dir, "data_path": rows_file, "dtype": "float32"}
    here = estimate.estimate("configs/wishes_gemma3_270m_cpu.py", options)
    assert "按这台机器的速度约 0.0 分钟" in estimate.minutes(here)
    gone = estimate.estimate("configs/see_internlm2_chat_1_8b_pretrain.py", seeing | {"data_path": "none"})
    assert gone.tokens == 16 * 2048 and "训练数据还不在" in estimate.minutes(gone)


def test_so_many_steps_are_as_many_on_each_card(shaped, rows_file):
    """A step is a batch a card: more cards do more in as many steps, and as much in an epoch."""
    config = shaped(INTERNLM2_1_8B, rows_file)
    one, four = (estimate.estimate(config, {"max_iters": 100}, devices=count).flops for count in (1, 4))
    assert four == pytest.approx(4 * one)
    one, four = (estimate.estimate(config, {"max_epochs": 3}, devices=count).flops for count in (1, 4))
    assert four == one


def test_steps_of_rows_that_are_not_packed_have_what_the_rows_have(seeing, tiny_dir, rows_file):
    """Sixteen rows, four a step, and forty cards, eight a step: so many steps are an epoch."""
    plain = {"model_dir": tiny_dir, "data_path": rows_file}
    seen = {**seeing, "batch_size": 8}
    seen.pop("max_epochs")
    for config, options, steps in (
        ("configs/wishes_gemma3_270m_cpu.py", plain, 4),
        ("configs/see_internlm2_chat_1_8b_pretrain.py", seen, 5),
    ):
        counted, epoch = (
            estimate.estimate(config, options | length)
            for length in ({"max_iters": steps}, {"max_epochs": 1})
        )
        assert counted.flops == pytest.approx(epoch.flops) and counted.tokens == epoch.tokens
    packed = {"train_dataloader.dataset.pack_to_max_length": True}
    full = estimate.estimate("configs/wishes_gemma3_270m_cpu.py", plain | packed | {"max_iters": 4})
    alone = estimate.estimate("configs/wishes_gemma3_270m_cpu.py", plain | {"max_iters": 4})
    assert full.flops > 5 * alone.flops  # 512 tokens a row


def test_a_missing_tower_is_named(seeing):
    seeing["model.visual_encoder.pretrained_model_name_or_path"] = "none/clip-vit-large-patch14-336"
    with pytest.raises(CourseError, match="tianji prepare-model clip-vit-large-patch14-336"):
        estimate.estimate("configs/see_internlm2_chat_1_8b_pretrain.py", seeing)


def test_a_folder_that_is_no_tower_is_named(seeing, tmp_path):
    said = records.read_json(tmp_path / "clip" / "config.json")
    for wrong, match in (
        ({"model_type": "internlm2", "hidden_size": 1024}, "model_type 是 internlm2，不是视觉塔"),
        ({"model_type": "clip"}, "没有 hidden_size"),
        (said | {"patch_size": 0}, "没有 patch_size"),
    ):
        records.write_json(tmp_path / "clip" / "config.json", wrong)
        with pytest.raises(CourseError, match=match):
            estimate.estimate("configs/see_internlm2_chat_1_8b_pretrain.py", seeing)


@pytest.mark.parametrize(
    "row",
    [
        {"id": "2", "image": "2.png"},
        {"image": "2.png", "conversations": [{"from": "human"}]},
        {"image": "2.png", "conversations": [{"from": "human", "value": ["生日"]}]},
        {"image": "2.png", "conversations": "生日"},
        "x",
    ],
)
def test_a_row_that_is_not_llavas_is_named(seeing, row):
    good = records.read_json(seeing["data_path"])[:1]
    records.write_json(seeing["data_path"], [*good, row])
    with pytest.raises(CourseError, match=r"rows\.json 第 2 条.*conversations"):
        estimate.estimate("configs/see_internlm2_chat_1_8b_pretrain.py", seeing)


def test_command_prints_the_parts_and_the_verdict(shaped, capsys):
    config = shaped(INTERNLM2_1_8B)
    status = cli.main(["estimate", str(config), "--cfg-options", "model.recompute_share=1"])
    printed = capsys.readouterr().out
    assert "四比特权重" in printed and "GB 显存" in printed and "训练数据还不在" in printed
    if not torch.cuda.is_available():
        assert status == 0 and "这台机器上没有 GPU" in printed


def test_missing_model_is_named():
    with pytest.raises(CourseError, match="tianji prepare-model internlm2-chat-7b"):
        estimate.estimate("configs/wishes_internlm2_chat_7b.py")


@pytest.mark.parametrize(
    ("options", "deepspeed", "words"),
    [
        ({"optim_wrapper.optimizer.type": "NoSuch"}, None, "没有这个类或函数"),
        ({"default_hooks.checkpoint.interval": 0}, None, "应当是正整数"),
        ({"max_iters": 3}, None, "一共只有 3 步"),
        ({}, "deepspeed_zero3", "不能切分 4 位权重"),
    ],
    ids=str,
)
def test_what_a_training_refuses_an_estimate_refuses_in_the_same_words(options, deepspeed, words):
    said = []
    for ask in (estimate.estimate, launch.check_config):
        with pytest.raises(CourseError, match=words) as caught:
            ask("configs/wishes_internlm2_chat_7b.py", options, deepspeed=deepspeed)
        said.append(str(caught.value))
    assert said[0] == said[1]
