"""Wishes on the embedded 270M model, on a CPU: the default of notebook 05.

Two epochs at half of the base's rate: a second look at the small teacher's thousand rows helps, and 1e-3
leaves fewer answers that go in circles than 2e-3 (``notebooks/choices.md``).
"""

from mmengine.config import read_base

with read_base():
    from ._base_.qlora_cpu import *
    from ._base_.wishes import *

train_dataloader.dataset.dataset.data_files.train = data_path
optim_wrapper.optimizer.lr = 1e-3
max_epochs = 2
train_cfg.max_epochs = max_epochs
param_scheduler[0].end = param_scheduler[1].begin = warmup_ratio * max_epochs
param_scheduler[1].end = max_epochs
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).update(
    dict(system=system, evaluation_inputs=evaluation_inputs)
)
