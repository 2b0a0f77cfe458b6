"""Wishes on Qwen3-8B, QLoRA on one GPU with 24 GB.

Changed against Qwen2.5-7B: the model only. It is trained and asked without thinking (``tianji prepare-model``
gives it the plain template), for a wish needs none.
"""

from mmengine.config import read_base

with read_base():
    from .wishes_qwen2_5_7b_instruct import *

pretrained_model_name_or_path = "models/qwen3-8b"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.pretrained_model_name_or_path = pretrained_model_name_or_path
del part  # every name of this file is a setting
model.recompute_share = 0.3  # more layers than Qwen2.5-7B has
