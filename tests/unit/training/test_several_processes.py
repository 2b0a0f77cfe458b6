"""Training in several processes: on two of a CPU, as on two GPUs."""

import importlib.util
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tianji_helpers.errors import CourseError
from tianji_helpers.paths import ROOT
from tianji_helpers.training import configs, launch, planning

pytestmark = pytest.mark.slow

DEEPSPEED = ROOT / "build" / "deepspeed"
DEVICE = "cuda" if torch.cuda.device_count() > 1 else "cpu"
QLORA = "configs/wishes_internlm2_chat_7b.py"
FULL = "configs/wishes_internlm2_chat_7b_full.py"


def test_two_processes_learn_what_one_learns(trained, tmp_path, monkeypatch):
    alone, _ = trained
    config = configs.write_config(alone.config, tmp_path / "config.py", batch_size=2)  # 4 together
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    result = launch.train(config, tmp_path / "work", report=lambda line: None)
    assert result.checkpoint.name == alone.checkpoint.name == "iter_20.pth"
    assert len(result.samples) == len(alone.samples)  # one process writes
    ours, theirs = (torch.load(item.checkpoint, weights_only=False)["state_dict"] for item in (result, alone))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        # each process averages over its own answers, so both differ a little
        assert (weight - theirs[name]).norm() < 0.05 * theirs[name].norm(), name


@pytest.fixture
def deepspeed(monkeypatch):
    """DeepSpeed on the path of one test's processes, two of them."""
    monkeypatch.syspath_prepend(DEEPSPEED)
    monkeypatch.setenv("PYTHONPATH", str(DEEPSPEED), prepend=os.pathsep)
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("没有 build/deepspeed：由 make deepspeed 准备")
    monkeypatch.setenv("NPROC_PER_NODE", "2")


def write_config(base, folder, model_dir, rows_file):
    """Write a config for two GPUs, or for two processes of a CPU where there are fewer."""
    settings = {"model_dir": model_dir, "data_path": rows_file, "max_length": 64, "batch_size": 1}
    settings |= {"max_epochs": 3, "warmup_ratio": 0.3, "every_n_iters": 6, "lr": 2e-2}
    config = configs.write_config(base, folder / "config.py", **settings)
    cfg = configs.load_config(config)
    cfg.env_cfg.dist_cfg.backend = "nccl" if DEVICE == "cuda" else "gloo"
    cfg.optim_wrapper.accumulative_counts = 1
    cfg.dump(str(config))
    return config


def train(config, work_dir, stage, resume=False):
    settings, lines = {"deepspeed": f"deepspeed_zero{stage}", "device": DEVICE}, []
    result = launch.train(config, work_dir, resume=resume, report=lines.append, **settings)
    assert any(" 6/18 步" in line for line in lines) != resume  # it went on, and not from the beginning
    assert result.curve[-1]["loss"] < result.curve[0]["loss"]
    assert len(list(result.checkpoint.glob("*_optim_states.pt"))) == 2  # each process its half
    return result


def test_zero_2_trains_adapters_and_goes_on_after_a_stop(internlm2_dir, rows_file, tmp_path, deepspeed):
    config = write_config(QLORA, tmp_path, internlm2_dir, rows_file)
    result = train(config, tmp_path / "work", stage=2)
    stopped = shutil.copytree(result.work_dir, tmp_path / "stopped")
    shutil.rmtree(stopped / result.checkpoint.name)
    assert launch.last_checkpoint(stopped).name == "iter_12.pth"
    again = train(config, stopped, stage=2, resume=True)
    assert again.checkpoint.name == result.checkpoint.name == "iter_18.pth"
    for rank in range(2):  # the weights in 32 bit and the optimizer's moments
        name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        assert (again.checkpoint / name).read_bytes() == (result.checkpoint / name).read_bytes()
    adapter = launch.pth_to_hf(config, again.checkpoint, tmp_path / "adapter")
    assert all(part.any() for part in load_file(adapter / "adapter_model.safetensors").values())


def test_zero_3_shares_the_weights_of_a_full_fine_tuning(internlm2_dir, rows_file, tmp_path, deepspeed):
    config = write_config(FULL, tmp_path, internlm2_dir, rows_file)
    result = train(config, tmp_path / "work", stage=3)
    model_dir = launch.pth_to_hf(config, result.checkpoint, tmp_path / "model")
    weights, base = (load_file(path / "model.safetensors") for path in (model_dir, internlm2_dir))
    assert weights.keys() == base.keys()
    assert all((weights[name].float() != base[name].float()).any() for name in weights)


def test_zero_3_with_4_bit_weights_is_refused(internlm2_dir, rows_file, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    config = write_config(QLORA, tmp_path, internlm2_dir, rows_file)
    with pytest.raises(CourseError, match=r"deepspeed_zero3 不能切分 4 位权重.*deepspeed_zero2"):
        launch.check_config(config, deepspeed="deepspeed_zero3")


def test_a_missing_deepspeed_is_named(trained, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match="没有安装 DeepSpeed"):
        launch.check_config(trained[0].config, deepspeed="deepspeed_zero2")


def test_the_steps_of_several_processes_are_planned(trained, monkeypatch):
    alone = planning.plan_training(trained[0].config)
    monkeypatch.setenv("NPROC_PER_NODE", "4")
    shared = planning.plan_training(trained[0].config)
    assert shared.steps < alone.steps and shared.warmup == 2  # less than two would not warm up at all
