"""XTuner through our engine: a real training of a tiny model, its files, and refusals up front."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file

from tianji_helpers import records, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.training import configs, curves, evaluation, inference, launch, models, planning, progress
from tianji_toolbox import cli

pytestmark = pytest.mark.slow

CONFIG = "configs/wishes_gemma3_270m_cpu.py"


def test_training_leaves_checkpoint_curve_and_samples(trained):
    result, lines = trained
    assert result.checkpoint.name == "iter_20.pth"
    assert [point["step"] for point in result.curve][-2:] == [10, 20]
    assert result.curve[-1]["loss"] < result.curve[0]["loss"] < 12
    assert [sample["iter"] for sample in result.samples] == [0] * 6 + [10] * 6 + [20] * 6
    assert {"祝姐姐生日快乐"} <= {sample["input"] for sample in result.samples}
    assert any("20/20 步" in line and "nan" not in line for line in lines)
    assert 0.1 < result.peak_memory_gb < 20


def test_validation_loss_is_measured_and_its_best_checkpoint_kept(trained, tiny_dir, rows_file):
    result, _ = trained
    measured = progress.read_validation(result.work_dir)
    assert [point["step"] for point in measured] == [10, 20]
    assert measured[-1]["loss"] < measured[0]["loss"]
    log = (result.work_dir / "train.log").read_text(encoding="utf-8")
    said = re.findall(r"best checkpoint with (\S+) validation_loss at (\d+) iter", log)
    assert said == [(f"{point['loss']:.4f}", str(point["step"])) for point in measured]  # not their mean
    assert result.chosen.path.name == "best_validation_loss_iter_20.pth"
    best, last = (torch.load(path, weights_only=False) for path in (result.chosen.path, result.checkpoint))
    assert all(torch.equal(best["state_dict"][name], part) for name, part in last["state_dict"].items())


def test_validation_loss_is_that_of_the_evaluation(trained, adapter_dir, tiny_dir, rows_file):
    model, tokenizer = inference.load(tiny_dir, adapter_dir, dtype="float32")
    expected = evaluation.mean_loss(model, tokenizer, evaluation.read_turns(rows_file), "internlm2_chat")
    found = progress.read_validation(trained[0].work_dir)[-1]["loss"]
    assert found == pytest.approx(expected, rel=0.01)  # measured in bfloat16


@pytest.fixture(scope="module")
def overfitted(trained, tmp_path_factory):
    """A training whose validation rows are nothing like its own, so that it gets worse at them."""
    folder = tmp_path_factory.mktemp("overfitted")
    records.write_conversations(
        folder / "rows.json", [{"input": "天地玄黄", "output": "宇宙洪荒日月盈昃" * 3}]
    )
    settings = {"validation_path": folder / "rows.json", "every_n_iters": 2}
    config = configs.write_config(trained[0].config, folder / "config.py", **settings)
    lines = []
    return launch.train(config, folder / "work", report=lines.append), lines


def test_training_ends_when_the_validation_loss_no_longer_falls(overfitted):
    result, lines = overfitted
    losses = [point["loss"] for point in progress.read_validation(result.work_dir)]
    assert len(losses) == 4 and min(losses) > losses[0] - 0.01
    assert result.checkpoint.name == "iter_8.pth" and "提前停下" in lines[-1]
    said = [float(line.split("：")[1]) for line in lines if "的损失：" in line]
    assert said == pytest.approx(losses, abs=1e-3)  # the log has four digits, the line three of them


def test_the_best_checkpoint_is_converted_not_the_last(overfitted, tmp_path, capsys):
    result, _ = overfitted
    arguments = [result.config, result.work_dir, tmp_path / "adapter"]
    assert cli.main(["pth-to-hf", *map(str, arguments)]) == 0
    best = "best_validation_loss_iter_2.pth"
    assert result.chosen.path.name == best and best in capsys.readouterr().out
    made = models.recorded(tmp_path / "adapter")
    assert made["checkpoint"] == best and made["checkpoint_reason"] == result.chosen.reason
    assert "第 2 步" in made["checkpoint_reason"] and "4 次" in made["checkpoint_reason"]
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()
    best, last = (
        torch.load(path, weights_only=False)["state_dict"].values()
        for path in (result.chosen.path, result.checkpoint)
    )
    norms = [sorted(part.float().norm().item() for part in parts) for parts in (weights, best, last)]
    assert norms[0] == norms[1] != norms[2]


def test_a_best_checkpoint_that_was_cut_short_is_passed_over(overfitted, tmp_path):
    result, _ = overfitted
    work_dir = shutil.copytree(result.work_dir, tmp_path / "work")
    best = work_dir / result.chosen.path.name
    best.write_bytes(best.read_bytes()[:-1000])
    measured = {point["step"]: point["loss"] for point in progress.read_validation(work_dir)}
    step = min((4, 6, 8), key=measured.get)  # the last three are kept
    assert launch.choose_checkpoint(work_dir).path.name == f"iter_{step}.pth"


def test_curves_are_drawn_from_the_work_folder(trained, tmp_path, capsys):
    result, _ = trained
    assert all(point["tokens_per_second"] > 1 and point["memory_gb"] > 0.1 for point in result.curve)
    assert cli.main(["curves", str(result.work_dir), "--output", str(tmp_path / "curves.png")]) == 0
    assert "curves.png" in capsys.readouterr().out
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    loss, rate, speed, memory = curves.plot(result.work_dir).axes
    assert [len(line.get_xdata()) for line in loss.lines] == [3, 2]
    assert all(len(axis.lines[0].get_xdata()) == 3 for axis in (rate, speed, memory))
    with pytest.raises(CourseError, match="没有训练记录"):
        curves.plot(tmp_path)


def test_a_training_too_short_to_log_a_loss_has_no_curve_and_says_so(tmp_path):
    file = tmp_path / "20260101_000000" / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"total_steps": 4, "step": 0}\n{"stopped_early": false, "step": 4}\n')
    with pytest.raises(CourseError, match=r"还没有记过损失.*logger\.interval=1"):
        curves.plot(tmp_path)


def test_learning_rate_follows_warm_up_and_cosine(trained):
    first, last = (point["lr"] for point in trained[0].curve[-2:])
    assert 5e-4 < first < 1e-3 and last < 5e-5


def test_convert_and_merge_keep_the_answers(adapter_dir, merged_dir, tiny_dir):
    assert len(list(merged_dir.glob("model-*.safetensors"))) > 1
    assert json.loads((merged_dir / "config.json").read_text())["dtype"] == "bfloat16"
    assert not list(merged_dir.parent.glob(".*"))
    chats = [inference.messages(row, "你是大师") for row in ("祝姐姐生日", "祝领导元宵节，严肃风格")]
    logits, said = {}, {}
    folders = {"base": (tiny_dir,), "adapter": (tiny_dir, adapter_dir), "merged": (merged_dir,)}
    for name, arguments in folders.items():
        model, tokenizer = inference.load(*arguments, dtype="float32")
        with torch.inference_mode():
            logits[name] = model(torch.tensor([tokenizer.encode("祝姐姐生日，万事如意！")])).logits
        said[name] = inference.answer_all(model, tokenizer, chats, max_new_tokens=8)
    scale = logits["adapter"].norm()
    # the merged weights are rounded to bfloat16
    assert (logits["merged"] - logits["adapter"]).norm() / scale < 0.01
    assert (logits["base"] - logits["adapter"]).norm() / scale > 0.05
    assert said["merged"] == said["adapter"] != said["base"]


def test_the_chat_template_travels_and_gives_the_training_prompt(merged_dir):
    """Ids of the template are those that XTuner trains on, answer and end token included."""
    model, tokenizer = inference.load(merged_dir)
    turn = {"system": "你是送祝福大师", "input": "祝姐姐生日,小红书风格", "output": "姐姐生日快乐🎂"}
    trained_on = evaluation.encode(tokenizer, turn, "internlm2_chat")
    chat = inference.messages(turn["input"], turn["system"])
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
    assert prompt == trained_on["input_ids"][: len(prompt)]
    assert all(label == -100 for label in trained_on["labels"][: len(prompt)])
    whole = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": turn["output"]}])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert whole[: len(trained_on["input_ids"])] == trained_on["input_ids"]
    learned = [label for label in trained_on["labels"] if label != -100]
    assert learned[-1] == end and end in inference.stop_ids(model, tokenizer)


def test_provenance_goes_from_the_config_to_the_adapter_to_the_model(adapter_dir, merged_dir):
    expected = {"base_model": "tiny-gemma", "system": wishes.load().system, "seed": 7}
    expected |= {"checkpoint": "iter_20.pth", "checkpoint_reason": "指定的检查点"}
    assert models.recorded(adapter_dir) == models.recorded(merged_dir) == expected


def zero_checkpoint(state, folder, stage, ranks=2):
    """Write weights as DeepSpeed 0.18 saves them in ZeRO stage 2 or 3 on several ranks.

    Laid out after real checkpoints of both stages: stage 2 cuts one long vector of all parameters
    into a part a rank; stage 3 cuts every parameter, and each rank keeps its piece of each.
    """
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer

    folder.mkdir()
    for rank in range(ranks):
        model_states = {
            "module": {},
            "buffer_names": [],
            "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in state.items())],
            "frozen_param_shapes": None,
            "shared_params": {},
            "frozen_param_fragments": None,
            "ds_config": ConfigDict(zero=stage),
            "ds_version": "0.18.9",
            "message_hub": {"loss": HistoryBuffer([1.0], [1])},
        }
        if stage == 2:
            whole = torch.cat([tensor.flatten() for tensor in state.values()])
            part = torch.nn.functional.pad(whole, (0, -len(whole) % (2 * ranks))).chunk(ranks)[rank]
        else:
            part = torch.cat(
                [
                    torch.nn.functional.pad(t.flatten(), (0, -t.numel() % ranks)).chunk(ranks)[rank]
                    for t in state.values()
                ]
            )
        name = "single_partition_of_fp32_groups" if stage == 2 else "fp32_flat_groups"
        optimizer = {"zero_stage": stage, "partition_count": ranks, name: [part]}
        torch.save(
            {"optimizer_state_dict": optimizer},
            folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )
        prefix = f"zero_pp_rank_{rank}_" if stage == 3 else ""
        if stage == 3 or rank == 0:
            torch.save(model_states, folder / f"{prefix}mp_rank_00_model_states.pt")


@pytest.mark.parametrize("stage", [2, 3])
def test_a_deepspeed_folder_gives_the_same_adapter(trained, adapter_dir, tmp_path, stage):
    result, _ = trained
    state = torch.load(result.checkpoint, weights_only=False)["state_dict"]
    zero_checkpoint(state, tmp_path / "iter_20.pth", stage)
    adapter = launch.pth_to_hf(result.config, tmp_path / "iter_20.pth", tmp_path / "adapter")
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (adapter_dir, adapter))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_fully_tuned_checkpoint_becomes_a_model(trained, tiny_dir, tmp_path):
    result, _ = trained
    cfg = configs.load_config(result.config).copy()
    for key in ("lora", "use_lora"):
        cfg.model.pop(key, None)
    cfg.dump(str(tmp_path / "full.py"))
    tuned, _ = inference.load(tiny_dir, dtype="bfloat16")
    tuned.model.norm.weight.data += 1
    state = {f"llm.{name}": tensor for name, tensor in tuned.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "iter_1.pth")
    model, tokenizer = inference.load(
        launch.pth_to_hf(tmp_path / "full.py", tmp_path / "iter_1.pth", tmp_path / "model"), dtype="bfloat16"
    )
    assert tokenizer.chat_template
    state, expected = model.state_dict(), tuned.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


class Harm:
    """What a stranger may put into a pickle: called when it is loaded."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_a_checkpoint_cannot_run_anything(trained, tmp_path):
    result, _ = trained
    witness = tmp_path / "it ran"
    torch.save({"state_dict": {}, "meta": Harm(witness)}, tmp_path / "iter_1.pth")
    with pytest.raises(CourseError, match="mkdir"):
        launch.pth_to_hf(result.config, tmp_path / "iter_1.pth", tmp_path / "adapter")
    assert not witness.exists() and not (tmp_path / "adapter").exists()


def test_targets_that_hold_something_else_are_left_alone(trained, adapter_dir, tiny_dir, tmp_path):
    result, _ = trained
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("private")
    with pytest.raises(CourseError, match=r"mine 里已经有别的东西（没有 config\.json），不覆盖"):
        launch.merge(tiny_dir, adapter_dir, tmp_path / "mine")
    with pytest.raises(CourseError, match="已经有别的东西"):
        launch.pth_to_hf(result.config, result.checkpoint, tmp_path / "mine")
    for target, there in ((tiny_dir, "tiny-gemma"), (adapter_dir.parent, "adapter")):
        with pytest.raises(CourseError, match=f"那里放着 .*/{there}"):
            launch.merge(tiny_dir, adapter_dir, target)
    assert (tmp_path / "mine" / "diary.txt").read_text() == "private"
    with pytest.raises(CourseError, match=r"找不到检查点 /.*/iter_99\.pth"):
        launch.pth_to_hf(result.config, tmp_path / "iter_99.pth", tmp_path / "adapter")


def test_nothing_is_merged_into_a_quantized_model(adapter_dir, tiny_dir, tmp_path):
    quantized = shutil.copytree(tiny_dir, tmp_path / "quantized")
    config = json.loads((quantized / "config.json").read_text())
    (quantized / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"load_in_4bit": True}})
    )
    with pytest.raises(CourseError, match="是量化过的模型"):
        launch.merge(quantized, adapter_dir, tmp_path / "merged")


def test_a_model_that_sees_is_merged_with_its_eyes(adapter_dir, tiny_dir, tmp_path):
    base = shutil.copytree(tiny_dir, tmp_path / "sees")
    for name in ("projector", "tower"):
        records.write_json(base / name / "config.json", {"of": "base"})
    (base / "tower" / "code.py").write_text("")
    merged = launch.merge(base, adapter_dir, tmp_path / "merged")
    kept = {name: records.read_json(merged / name / "config.json") for name in ("projector", "tower")}
    assert kept == {"projector": {"of": "base"}, "tower": {"of": "base"}} and not list(merged.rglob("*.py"))
    assert models.recorded(merged)["sees"] and "tower/config.json" in records.provenance(merged)["files"]
    learnt = shutil.copytree(adapter_dir, tmp_path / "converted" / "llm_adapter")
    records.write_json(learnt.with_name("projector") / "config.json", {"of": "second stage"})
    again = launch.merge(base, learnt, tmp_path / "again")
    assert records.read_json(again / "projector" / "config.json") == {"of": "second stage"}
    given = {"projector": learnt.with_name("projector"), "tower": base / "tower"}
    other = launch.merge(base, adapter_dir, tmp_path / "other", eyes=given)
    assert records.read_json(other / "projector" / "config.json") == {"of": "second stage"}
    shutil.rmtree(base / "tower")
    for name, eyes in {"blind": None, "given": given}.items():
        with pytest.raises(CourseError, match=r"tower 里没有 config\.json，合并出来的模型就看不见了"):
            launch.merge(base, adapter_dir, tmp_path / name, eyes=eyes)


@pytest.mark.parametrize("marker", ["config.json", ""])
def test_a_file_where_a_result_folder_is_to_stand_is_named_as_one(tmp_path, marker):
    (tmp_path / "merged").write_text("mine")
    options = {"stage": "merge", "marker": marker, "parameters": {}, "inputs": []}
    with (
        pytest.raises(CourseError, match="merged 是一个文件，不是文件夹。请换一个名字"),
        launch.new_folder(tmp_path / "merged", **options),
    ):
        pass
    assert (tmp_path / "merged").read_text() == "mine"


def test_what_somebody_put_into_a_result_folder_is_kept(tmp_path, capsys):
    def make():
        options = {"stage": "merge", "marker": "config.json", "parameters": {}, "inputs": []}
        with launch.new_folder(folder, **options) as (target, _):
            target.mkdir()
            (target / "config.json").write_text("{}")

    folder = tmp_path / "merged"
    for _ in range(2):
        make()
    assert not list(tmp_path.glob("*.kept-*")) and not capsys.readouterr().out  # one of ours was replaced
    (folder / "notes.txt").write_text("mine")
    make()
    assert (tmp_path / "merged.kept-1" / "notes.txt").read_text() == "mine"
    assert "merged.kept-1" in capsys.readouterr().out and not (folder / "notes.txt").exists()


def test_a_failed_merge_leaves_the_earlier_model(adapter_dir, tiny_dir, tmp_path):
    merged = shutil.copytree(tiny_dir, tmp_path / "merged")
    before = {file.name: file.read_bytes() for file in merged.iterdir()}
    with pytest.raises(CourseError, match="merge 失败了"):
        launch.merge(tiny_dir, adapter_dir, merged, device="nowhere")
    assert {file.name: file.read_bytes() for file in merged.iterdir()} == before
    assert not list(tmp_path.glob(".*"))


def test_resume_goes_on_from_the_last_checkpoint(trained, tmp_path):
    result, _ = trained
    config = configs.write_config(result.config, tmp_path / "longer.py", max_epochs=6)
    work_dir, lines = shutil.copytree(result.work_dir, tmp_path / "work"), []
    again = launch.train(config, work_dir, resume=True, report=lines.append)
    assert again.checkpoint.name == "iter_24.pth"
    assert not any(" 10/24 步" in line for line in lines)


def test_a_killed_training_resumed_equals_one_that_was_not(trained, tmp_path):
    result, _ = trained
    work_dir = tmp_path / "work"
    command = [sys.executable, "-m", "tianji_toolbox.cli", "train", str(result.config)]
    with subprocess.Popen([*command, "--work-dir", str(work_dir)], start_new_session=True) as process:
        while not (work_dir / "last_checkpoint").is_file():
            assert process.poll() is None, "it ended before its first checkpoint"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    # the kill may also have hit the next checkpoint while it was written
    whole = (work_dir / "iter_10.pth").read_bytes()
    (work_dir / "iter_15.pth").write_bytes(whole[:-1000])
    assert launch.last_checkpoint(work_dir).name == "iter_10.pth"
    again = launch.train(result.config, work_dir, resume=True, report=lambda line: None)
    joined, unbroken = ([(p["step"], p["loss"], p["lr"]) for p in run.curve] for run in (again, result))
    assert len(joined) > 2 and joined[-1][0] == 20 and joined == unbroken
    one, other = (torch.load(run.checkpoint, weights_only=False) for run in (again, result))
    assert all(torch.equal(one["state_dict"][name], part) for name, part in other["state_dict"].items())
    for mine, theirs in zip(
        one["optimizer"]["state"].values(), other["optimizer"]["state"].values(), strict=True
    ):
        assert torch.equal(mine["exp_avg"], theirs["exp_avg"]) and mine["step"] == theirs["step"]


def contents(folder):
    """Every file below a folder, with its bytes."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_new_training_takes_the_place_of_the_earlier_one_only_when_it_stands(trained, tmp_path):
    result, _ = trained
    work_dir = shutil.copytree(result.work_dir, tmp_path / "work")
    before = contents(work_dir)
    bad = configs.write_config(result.config, tmp_path / "bad.py", max_epochs=5)
    cfg = configs.load_config(bad)
    cfg.model.llm.attn_implementation = "nowhere"
    cfg.dump(str(bad))
    with pytest.raises(CourseError, match=r"都在原处.*failed\.log"):
        launch.train(bad, work_dir, report=lambda line: None)
    assert (work_dir / "failed.log").read_bytes()
    after = contents(work_dir)
    assert {name: after[name] for name in before} == before and after.keys() - before.keys() == {"failed.log"}

    shorter = configs.write_config(result.config, tmp_path / "shorter.py", max_epochs=3, every_n_iters=4)
    again = launch.train(shorter, work_dir, report=lambda line: None)
    assert again.checkpoint.name == "iter_12.pth" and not list(work_dir.glob("iter_20.pth"))
    assert not list(work_dir.glob(".*"))


def test_a_file_is_no_work_folder(tmp_path):
    (tmp_path / "work").touch()
    with pytest.raises(CourseError, match="work 是一个文件，训练要一个文件夹。请换一个 --work-dir"):
        launch.train("configs/wishes_gemma3_270m_cpu.py", tmp_path / "work")


def test_a_config_in_the_work_folder_is_not_overwritten(trained, tmp_path):
    config = shutil.copy(trained[0].config, tmp_path / "config.py")
    with pytest.raises(CourseError, match="就在 --work-dir 里"):
        launch.train(config, tmp_path)


@pytest.mark.parametrize("value", ["two", "0", "-1", ""])
def test_a_number_of_processes_that_is_none_is_named(trained, tmp_path, monkeypatch, value):
    monkeypatch.setenv("NPROC_PER_NODE", value)
    with pytest.raises(CourseError, match=f"NPROC_PER_NODE 是 {value!r}"):
        launch.train(trained[0].config, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_loss_that_is_not_a_number_stops_before_it_reaches_the_weights(trained, tmp_path):
    config = configs.write_config(trained[0].config, tmp_path / "wild.py", lr=1e30, every_n_iters=1)
    with pytest.raises(CourseError, match=r"NaN(?s:.*)lr 调小(?s:.*)完好的检查点：.*iter_1\.pth"):
        launch.train(config, tmp_path / "work", report=lambda line: None)
    state = torch.load(launch.last_checkpoint(tmp_path / "work"), weights_only=False)["state_dict"]
    assert state and all(part.isfinite().all() for part in state.values())


def test_a_full_disk_leaves_the_last_checkpoint_and_names_it(trained, tmp_path):
    result, _ = trained
    work_dir = shutil.copytree(result.work_dir, tmp_path / "work")
    config = configs.write_config(result.config, tmp_path / "longer.py", max_epochs=8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (result.checkpoint.stat().st_size // 2, before[1]))
    try:
        with pytest.raises(CourseError, match=r"ulimit -f(?s:.*)完好的检查点：.*iter_20\.pth"):
            launch.train(config, work_dir, resume=True, report=lambda line: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(work_dir.glob("*iter_30*")), "half a checkpoint"
    assert launch.last_checkpoint(work_dir).read_bytes() == result.checkpoint.read_bytes()


@pytest.mark.parametrize(
    ("fixture", "name", "base"),
    [
        ("internlm2_dir", "internlm2-chat-7b", "configs/wishes_internlm2_chat_7b.py"),
        ("qwen2_dir", "qwen2.5-0.5b-instruct", "configs/wishes_qwen2_5_0_5b_instruct.py"),
        ("qwen3_dir", "qwen3-8b", "configs/wishes_qwen3_8b.py"),
    ],
)
def test_gpu_config_goes_the_whole_way(
    fixture, name, base, device, request, rows_file, tmp_path, monkeypatch
):
    source = request.getfixturevalue(fixture)
    monkeypatch.setenv("TIANJI_MODELS_DIR", str(tmp_path / "models"))
    model_dir = shutil.copytree(source, models.find(name).folder)
    records.write_provenance(model_dir, stage="prepare-model", parameters={"name": name})

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
        cfg.env_cfg.dist_cfg.backend = "gloo" if device == "cpu" else "nccl"
        cfg.optim_wrapper.accumulative_counts = 1
        cfg.dump(str(path))
        return path

    first = launch.train(config(3), tmp_path / "work", report=lambda line: None)
    result = launch.train(config(5), tmp_path / "work", resume=True, report=lambda line: None)
    steps = [int(item.checkpoint.stem.split("_")[1]) for item in (first, result)]
    assert steps[1] > steps[0] > 0
    assert result.curve[-1]["loss"] < result.curve[0]["loss"]
    adapter = launch.pth_to_hf(config(5), result.checkpoint, tmp_path / "adapter")
    merged = launch.merge(model_dir, adapter, tmp_path / "merged", dtype="float32", device=device)
    assert json.loads((merged / "config.json").read_text())["dtype"] == "float32"
    model, tokenizer = inference.load(merged, device=device)
    assert "<think>" not in tokenizer.chat_template
    chat = inference.messages("祝姐姐生日")
    (answer,) = inference.answer_all(model, tokenizer, [chat], max_new_tokens=6)
    assert answer.text == "".join(inference.stream(model, tokenizer, chat, max_new_tokens=6)).strip() != ""


def test_a_warm_up_too_short_to_rise_is_made_longer_and_told(qwen2_dir, rows_file, tmp_path):
    settings = {"model_dir": qwen2_dir, "data_path": rows_file, "max_length": 64, "warmup_ratio": 0.1}
    settings["max_epochs"] = 1
    config = configs.write_config(CONFIG, tmp_path / "config.py", batch_size=2, **settings)
    for packed in (True, False):
        plan = planning.plan_training(config, {"train_dataloader.dataset.pack_to_max_length": packed})
        warmup, decay = plan.config.param_scheduler
        assert plan.steps >= 4 and plan.warmup == int(warmup.end * plan.batches) == 2
        assert decay.begin == warmup.end < decay.end
        assert "热身：2 步（配置里只有 0." in str(plan)
    assert "每轮用 16 条数据" in str(plan) and f"{rows_file}：16 条" in str(plan) and "步数：8" in str(plan)
    longer = planning.plan_training(config, {"warmup_ratio": 0.5, "max_epochs": 9})
    assert (longer.steps, longer.warmup) == (72, 36) and "热身：36 步\n" in str(longer)
    few = planning.plan_training(config, {"max_rows": 5, "max_iters": 10, "batch_size": 1})
    assert (few.steps, few.batches, few.warmup) == (10, 5, 2) and "每轮用 5 条数据" in str(few)


def test_the_advice_against_too_few_steps_can_be_followed(tiny_dir, rows_file, tmp_path):
    config = configs.write_config(
        CONFIG, tmp_path / "config.py", model_dir=tiny_dir, data_path=rows_file, max_rows=8, max_epochs=1
    )
    with pytest.raises(
        CourseError, match=r"一共只有 2 步（8 条数据，2 批，1 轮）.*max_epochs 提高到"
    ) as caught:
        launch.check_config(config)
    advice = float(re.search(r"提高到 (\S+) 以上", str(caught.value))[1])
    assert planning.plan_training(config, {"max_epochs": advice}).steps >= 4
    with pytest.raises(CourseError, match="max_iters 提高到 4"):
        launch.check_config(config, {"max_iters": 3})
    assert planning.plan_training(config, {"max_iters": 4}).steps == 4


@pytest.mark.parametrize("packed", [False, True])
def test_less_than_a_few_steps_is_told_before_the_rows_are_looked_at(
    tiny_dir, rows_file, tmp_path, monkeypatch, packed
):
    settings = {"model_dir": tiny_dir, "data_path": rows_file, "batch_size": 3}
    config = configs.write_config(CONFIG, tmp_path / "config.py", **settings)
    shape = {"train_dataloader.dataset.pack_to_max_length": packed}
    with monkeypatch.context() as patch:
        patch.setattr(planning.data, "look", lambda _: pytest.fail("looked at every row"))
        with pytest.raises(
            CourseError, match=r"只有 1 步（16 条数据.*，6 批，1e-09 轮）.*提高到 0\.667 以上"
        ):
            planning.plan_training(config, {"max_epochs": 1e-9, **shape})
        with pytest.raises(CourseError, match=r"只有 3 步，至少.*max_iters 提高到 4 以上"):
            planning.plan_training(config, {"max_iters": 3, **shape})
    assert planning.plan_training(config, {"max_epochs": 0.667}).steps >= 4


def test_the_plan_says_how_short_a_warm_up_was_asked_for(tiny_dir, rows_file):
    options = {"model_dir": tiny_dir, "data_path": rows_file, "warmup_ratio": 0.03}
    for length, asked in (
        ({"max_iters": 8}, "0.24"),
        ({"max_iters": 40}, "1.2"),
        ({"max_epochs": 2}, "0.24"),
    ):
        plan = planning.plan_training(CONFIG, options | length)
        assert f"热身：2 步（配置里只有 {asked} 步，" in str(plan)
    none = planning.plan_training(CONFIG, options | {"max_iters": 8, "warmup_ratio": 0})
    tiny = planning.plan_training(CONFIG, options | {"max_epochs": 3, "warmup_ratio": 1e-4})
    assert "配置里只有 0 步" in str(none) and "配置里只有 0.0012 步" in str(tiny)


def test_cfg_options_are_what_is_trained_and_what_is_saved(tiny_dir, rows_file, tmp_path, capsys):
    data = shutil.copy(rows_file, tmp_path / "my rows.json")
    config = configs.write_config(CONFIG, tmp_path / "config.py", model_dir=tiny_dir)
    work_dir = tmp_path / "work"
    options = [f"data_path={data}", "train_cfg.max_iters=4", "lr=1e-3", "batch_size=2", "lora_r=4"]
    command = ["train", str(config), "--work-dir", str(work_dir), "--cfg-options", *options]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert f"训练数据：{data}：16 条" in shown and "步数：4" in shown and "学习率：0.001" in shown
    cfg = configs.load_config(work_dir / "config.py")
    assert (
        cfg.data_path == configs.part(cfg, "train_dataloader.dataset.dataset.data_files.train") == str(data)
    )
    assert cfg.train_cfg.max_iters == 4 and cfg.train_dataloader.batch_size == 2
    assert launch.last_checkpoint(work_dir).name == "iter_4.pth"
    assert cfg.optim_wrapper.optimizer.lr == 1e-3 and cfg.model.lora.r == 4


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("你是 #1 助手", "你是 #1 助手"),  # to YAML, a comment begins at the blank
        ("'你是 #1 助手'", "你是 #1 助手"),
        ("# 角色：大师", "# 角色：大师"),
        ("说话: 简短", "说话: 简短"),
        ('"好"字大师', '"好"字大师'),
        ("yes", "yes"),
        ("2026-13-45", "2026-13-45"),
        (" 你好 ", " 你好 "),
        ("", ""),
    ],
)
def test_a_text_of_cfg_options_is_taken_whole_and_shown(
    tiny_dir, rows_file, tmp_path, monkeypatch, typed, meant
):
    asked = []
    monkeypatch.setattr(launch, "train", lambda *_, cfg_options, **__: asked.append(cfg_options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", CONFIG, "--work-dir", "w", "--cfg-options", f"system={typed}"])
    options = {"model_dir": tiny_dir, "data_path": rows_file, "max_iters": 8}
    plan = planning.plan_training(CONFIG, options | asked[0])
    assert configs.find_chat_hook(plan.config).system == meant
    assert f"system={meant!r}" in str(plan)
    unchanged = configs.write_config(CONFIG, tmp_path / "config.py", **options)
    assert "改过的" not in str(planning.plan_training(unchanged))


def test_part_of_an_epoch_is_a_whole_number_of_steps(tiny_dir, rows_file, tmp_path):
    settings = {"model_dir": tiny_dir, "data_path": rows_file, "max_epochs": 1.1}
    config = configs.write_config(CONFIG, tmp_path / "config.py", **settings)
    plan = planning.plan_training(config)  # 16 rows, 4 at a time: 4.4 steps, which XTuner takes for an error
    assert plan.config.train_cfg.max_iters == 5 and "max_epochs" not in plan.config.train_cfg
    assert plan.epochs == 1.1 and "步数：5（1.1 轮，每轮 4 批）\n" in str(plan)
    counted = planning.plan_training(config, {"max_iters": 5})
    assert counted.epochs is None and "步数：5\n" in str(counted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_path": "outputs/nowhere.json"}, "/outputs/nowhere.json 不存在。请检查路径（data_path）"),
        ({"data_path": "configs"}, "configs 不是一个文件"),
        ({"validation_path": "outputs/nowhere.json"}, "不存在。请检查路径（validation_path）"),
        ({"model_dir": "models/nowhere"}, "tianji prepare-model nowhere"),
        ({"max_epochs": 0.5, "warmup_ratio": 0.1}, "一共只有 2 步（16 条数据，4 批，0.5 轮）"),
    ],
)
def test_bad_config_is_refused_before_anything_is_loaded(tiny_dir, rows_file, tmp_path, changes, message):
    settings = {"model_dir": tiny_dir, "data_path": rows_file} | changes
    config = configs.write_config(CONFIG, tmp_path / "config.py", **settings)
    with pytest.raises(CourseError) as caught:
        launch.train(config, tmp_path / "work")
    assert message in str(caught.value)
    assert not (tmp_path / "work").exists()


def test_empty_and_broken_data_are_named(tiny_dir, tmp_path):
    for text, message in (
        ("[]", "没有一条记录"),
        ('[{"conversation": [{"input": "x"}]}]', "缺少字段 output"),
    ):
        data = tmp_path / "rows.json"
        data.write_text(text, encoding="utf-8")
        config = configs.write_config(CONFIG, tmp_path / "config.py", model_dir=tiny_dir, data_path=data)
        with pytest.raises(CourseError, match=message):
            launch.check_config(config)


def test_crash_of_xtuner_is_an_error_with_its_log(tmp_path):
    with pytest.raises(CourseError, match=r"pth_to_hf 失败了（退出码 1）(?s:.*)FileNotFoundError"):
        launch.run_tool("pth_to_hf", ["nowhere.py", "x.pth", "y"], log=tmp_path / "log")


def test_a_program_that_does_not_hear_of_its_end_is_killed(tmp_path, monkeypatch):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    popen, started = subprocess.Popen, []

    def start(command, **how):
        started.append(popen([sys.executable, "-u", "-c", deaf], **how))
        return started[0]

    def stop():
        if "deaf" in (tmp_path / "log").read_text():
            raise CourseError("stopped")

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(launch, "_GRACE", 0.5)
    with pytest.raises(CourseError, match="stopped"):
        launch.run_tool("train", [], log=tmp_path / "log", watch=stop)
    assert started[0].returncode == -signal.SIGKILL


def test_no_checkpoint_is_an_error(tmp_path):
    for name in ("iter_notes.pth", "iter_.pth", "best_photos_iter_x.pth"):  # a student's
        (tmp_path / name).write_text("private")
    with pytest.raises(CourseError, match=r"没有检查点.*不写 --resume"):
        launch.last_checkpoint(tmp_path)
    with pytest.raises(CourseError, match="没有检查点"):
        launch.choose_checkpoint(tmp_path)
