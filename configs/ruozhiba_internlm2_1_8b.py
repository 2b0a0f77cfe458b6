"""Ruozhiba (questions that sound silly) on internlm2-1_8b, the base model, QLoRA on one GPU with 8 GB.

Changed against the course that this task comes from: what ``_base_/qlora_gpu.py`` says, and
* a base model has no chat template of its own; it learns InternLM2's, which the course serves it with;
* the full set has some 170 training rows: a few packed rows, so several epochs and small updates.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.qlora_gpu import *
    from ._base_.ruozhiba import *

pretrained_model_name_or_path = "models/internlm2-1_8b"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.pretrained_model_name_or_path = pretrained_model_name_or_path
del part  # every name of this file is a setting

train_dataloader.dataset.dataset.data_files.train = data_path
train_dataloader.dataset.max_length = 1024
train_dataloader.batch_size = 1
optim_wrapper.accumulative_counts = 1
model.recompute_share = 0.0
warmup_ratio = 0.1  # the base's suits the sample's 12 updates
train_cfg.max_epochs = max_epochs
param_scheduler[0].end = param_scheduler[1].begin = warmup_ratio * max_epochs
param_scheduler[1].end = max_epochs
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).evaluation_inputs = evaluation_inputs
