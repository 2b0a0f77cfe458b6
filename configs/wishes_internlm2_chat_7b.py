"""Wishes on internlm2-chat-7b, QLoRA on one GPU with 24 GB: the original guide's setting."""

from mmengine.config import read_base

with read_base():
    from ._base_.qlora_gpu import *
    from ._base_.wishes import *

train_dataloader.dataset.dataset.data_files.train = data_path
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).update(
    dict(system=system, evaluation_inputs=evaluation_inputs)
)
