"""Wishes on Qwen2.5-1.5B-Instruct, QLoRA on one GPU with 8 GB.

Changed against the 7B model: the model only.
"""

from mmengine.config import read_base

with read_base():
    from .wishes_qwen2_5_7b_instruct import *

pretrained_model_name_or_path = "models/qwen2.5-1.5b-instruct"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.pretrained_model_name_or_path = pretrained_model_name_or_path
del part  # every name of this file is a setting
model.recompute_share = 0.75  # 8 GB
