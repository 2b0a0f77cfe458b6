"""QLoRA of the embedded 270M model on a CPU; children name task and data.

NF4, r=64 and lora_alpha=16 are the original's. The rest suits a small model, a CPU and few tokens:
* many small updates (batch of 4, no accumulation) at 2e-3 instead of few large ones at 2e-4:
  at the original's setting a model this small learns next to nothing in some minutes;
* no packing: a batch of four short wishes is padded instead, so that no wish sees another one and
  none is cut, at a length where packing would save little;
* no LoRA dropout (0.1 costs a quarter of the speed) and no gradient checkpointing (it fits);
* bfloat16 autocast inside the model: mmengine's AmpOptimWrapper asserts a GPU;
* ``map_num_proc=1``: XTuner's default starts 32 processes; gloo instead of nccl.
"""

from mmengine.config import read_base
from mmengine.optim import OptimWrapper

with read_base():
    from .qlora_gpu import *

pretrained_model_name_or_path = "models/gemma-3-270m"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.update(dict(pretrained_model_name_or_path=pretrained_model_name_or_path, trust_remote_code=False))
del part  # every name of this file is a setting
model.update(dict(use_activation_checkpointing=False, autocast_dtype="bfloat16"))
model.lora.lora_dropout = 0.0

train_dataloader.update(dict(batch_size=4))
train_dataloader.dataset.update(dict(max_length=512, pack_to_max_length=False, map_num_proc=1))
optim_wrapper.pop("dtype")
optim_wrapper.update(dict(type=OptimWrapper, accumulative_counts=1))
optim_wrapper.optimizer.lr = 2e-3
env_cfg.dist_cfg.backend = "gloo"
