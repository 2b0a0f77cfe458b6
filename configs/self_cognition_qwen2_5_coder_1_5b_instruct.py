"""Self-cognition (who are you?) on the small teacher, Qwen2.5-Coder-1.5B-Instruct, on a CPU."""

from mmengine.config import read_base

with read_base():
    from ._base_.qwen2_5_coder_cpu import *
    from ._base_.self_cognition import *

train_dataloader.dataset.dataset.data_files.train = data_path
max_epochs = 2  # it speaks already, and half of the 270M model's epochs are enough
train_cfg.max_epochs = max_epochs
param_scheduler[0].end = param_scheduler[1].begin = warmup_ratio * max_epochs
param_scheduler[1].end = max_epochs
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).evaluation_inputs = evaluation_inputs
