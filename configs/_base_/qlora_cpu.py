"""QLoRA of the embedded 270M model on a CPU; children name task and data.

NF4, r=64 and lora_alpha=16 are the original's. The rest suits a small model, a CPU and few tokens:
* many small updates (batch of 4, no accumulation) at 2e-3 instead of few large ones at 2e-4:
  at the original's setting a model this small learns next to nothing in some minutes (batches of 8 are
  a tenth faster, but half as many updates learn less: held-out loss 1.33 to 1.41 instead of 1.24);
* no packing to a fixed length: the four wishes of a batch are joined without padding, so that none is
  cut and none sees another one;
* no LoRA dropout: 0.1 costs a quarter of the speed;
* all activations are kept; gloo instead of nccl, and no device ids: ``NPROC_PER_NODE=2`` trains in two
  processes.
"""

from mmengine.config import read_base

from tianji_helpers.training.xtuner_compat import join_samples

with read_base():
    from .qlora_gpu import *

pretrained_model_name_or_path = "models/gemma-3-270m"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.update(dict(pretrained_model_name_or_path=pretrained_model_name_or_path))
del part  # every name of this file is a setting
model.pop("recompute_share")

train_dataloader.update(dict(batch_size=4, collate_fn=dict(type=join_samples)))
train_dataloader.dataset.update(dict(max_length=512, pack_to_max_length=False, use_varlen_attn=False))
optim_wrapper.accumulative_counts = 1
optim_wrapper.optimizer.lr = 2e-3
env_cfg.dist_cfg.backend = "gloo"
model_wrapper_cfg = dict(device_ids=None, broadcast_buffers=False)
warmup_ratio = 0.03
param_scheduler[0].end = param_scheduler[1].begin = warmup_ratio * max_epochs
