"""Self-cognition (who are you?) on internlm2-chat-1_8b, QLoRA on one GPU with 8 GB.

Changed against the course that this task comes from: what ``_base_/qlora_gpu.py`` says, and
* different wordings instead of two rows repeated 8,001 times, which leak into every answer; few rows
  fill few packed rows of 512 tokens, so there are several epochs, small updates (no accumulation)
  and a longer warm-up: the learning rate must have risen before the end.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.qlora_gpu import *
    from ._base_.self_cognition import *

pretrained_model_name_or_path = "models/internlm2-chat-1_8b"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.pretrained_model_name_or_path = pretrained_model_name_or_path
del part  # every name of this file is a setting

train_dataloader.dataset.dataset.data_files.train = data_path
train_dataloader.dataset.max_length = 512
train_dataloader.batch_size = 1
optim_wrapper.accumulative_counts = 1
model.recompute_share = 0.0
train_cfg.max_epochs = max_epochs
param_scheduler[0].end = param_scheduler[1].begin = warmup_ratio * max_epochs
param_scheduler[1].end = max_epochs
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).evaluation_inputs = evaluation_inputs
