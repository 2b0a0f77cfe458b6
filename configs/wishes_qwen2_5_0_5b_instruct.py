"""Wishes on Qwen2.5-0.5B-Instruct, QLoRA on one GPU with 6 GB.

Changed against the 7B model: a small model wants more and smaller updates at a higher rate.
"""

from mmengine.config import read_base

with read_base():
    from .wishes_qwen2_5_7b_instruct import *

pretrained_model_name_or_path = "models/qwen2.5-0.5b-instruct"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.pretrained_model_name_or_path = pretrained_model_name_or_path
del part  # every name of this file is a setting

train_dataloader.batch_size = 2
optim_wrapper.accumulative_counts = 1
model.recompute_share = 0.5
optim_wrapper.optimizer.lr = 5e-4
