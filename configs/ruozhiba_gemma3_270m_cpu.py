"""Ruozhiba (questions that sound silly) on the embedded 270M model, on a CPU."""

from mmengine.config import read_base

with read_base():
    from ._base_.qlora_cpu import *
    from ._base_.ruozhiba import *

train_dataloader.dataset.dataset.data_files.train = data_path
# at 2e-3 and ten epochs the sample's 16 rows are learned by heart, and the held-out loss doubles
optim_wrapper.optimizer.lr = 5e-4
train_cfg.max_epochs = max_epochs
param_scheduler[0].end = param_scheduler[1].begin = warmup_ratio * max_epochs
param_scheduler[1].end = max_epochs
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).evaluation_inputs = evaluation_inputs
