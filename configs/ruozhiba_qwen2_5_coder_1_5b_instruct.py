"""Ruozhiba (questions that sound silly) on the small teacher, Qwen2.5-Coder-1.5B-Instruct, on a CPU."""

from mmengine.config import read_base

with read_base():
    from ._base_.qwen2_5_coder_cpu import *

# 16 rows, as for the 270M model: see there
max_epochs = 3
warmup_ratio = 0.2
train_cfg.max_epochs = max_epochs
param_scheduler[0].end = param_scheduler[1].begin = warmup_ratio * max_epochs
param_scheduler[1].end = max_epochs

data_path = "outputs/default/04_ruozhiba/ruozhiba_train.jsonl"
train_dataloader.dataset.dataset.data_files.train = data_path
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).update(
    dict(evaluation_inputs=["为什么我爸妈结婚的时候没邀请我参加婚礼"])
)
