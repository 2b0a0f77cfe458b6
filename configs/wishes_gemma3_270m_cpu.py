"""Wishes on the embedded 270M model, on a CPU: the default of notebook 05."""

from mmengine.config import read_base

with read_base():
    from ._base_.qlora_cpu import *
    from ._base_.wishes import *

train_dataloader.dataset.dataset.data_files.train = data_path
custom_hooks[1].update(wishes_hook)
