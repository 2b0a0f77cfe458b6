"""Wishes on Qwen3-1.7B, QLoRA on one GPU with 8 GB.

Changed against Qwen3-8B: the model only.
"""

from mmengine.config import read_base

with read_base():
    from .wishes_qwen3_8b import *

pretrained_model_name_or_path = "models/qwen3-1.7b"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.pretrained_model_name_or_path = pretrained_model_name_or_path
del part  # every name of this file is a setting
model.recompute_share = 1  # 8 GB
