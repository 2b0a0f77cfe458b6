"""Wishes on the embedded 270M model, on a CPU: the default of notebook 05."""

from mmengine.config import read_base

with read_base():
    from ._base_.qlora_cpu import *
    from ._base_.wishes import *

train_dataloader.dataset.dataset.data_files.train = data_path
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).update(wishes_hook)
