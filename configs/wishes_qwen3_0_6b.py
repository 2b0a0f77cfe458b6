"""Wishes on Qwen3-0.6B, QLoRA on one GPU with 6 GB.

Changed against Qwen2.5-0.5B: the model only. It is trained and asked without thinking, as Qwen3-8B.
"""

from mmengine.config import read_base

with read_base():
    from .wishes_qwen2_5_0_5b_instruct import *

pretrained_model_name_or_path = "models/qwen3-0.6b"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.pretrained_model_name_or_path = pretrained_model_name_or_path
del part  # every name of this file is a setting
