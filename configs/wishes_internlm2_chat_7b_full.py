"""Wishes on internlm2-chat-7b, all weights trained: several GPUs and DeepSpeed ZeRO-3.

    NPROC_PER_NODE=8 tianji train configs/wishes_internlm2_chat_7b_full.py --work-dir outputs/7b_full \
        --deepspeed deepspeed_zero3

Changed against the QLoRA config: no quantization and no adapter; the activations of all layers are
computed again; the learning rate is the usual one of full fine-tuning, a tenth of LoRA's and less;
2 rows on each of 8 GPUs are the original's 16 rows an update (on fewer GPUs raise
``accumulative_counts``); one checkpoint is kept, since with the optimizer's state it has over 100 GB.
Without DeepSpeed, which keeps a float32 copy of the weights, AdamW would round small updates away.
"""

from mmengine.config import read_base

with read_base():
    from .wishes_internlm2_chat_7b import *

model.pop("lora")
model.llm.pop("quantization_config")
model.recompute_share = 1.0
train_dataloader.batch_size = 2
optim_wrapper.optimizer.lr = 1e-5
optim_wrapper.accumulative_counts = 1
default_hooks.checkpoint.max_keep_ckpts = 1
