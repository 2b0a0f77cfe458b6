"""Wishes on internlm2-chat-1_8b, QLoRA on one GPU with 8 GB.

Changed against the 7B model: the model only.
"""

from mmengine.config import read_base

with read_base():
    from .wishes_internlm2_chat_7b import *

pretrained_model_name_or_path = "models/internlm2-chat-1_8b"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.pretrained_model_name_or_path = pretrained_model_name_or_path
del part  # every name of this file is a setting
model.recompute_share = 0.7  # 8 GB
