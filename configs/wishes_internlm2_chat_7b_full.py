"""Wishes on internlm2-chat-7b, all weights trained: several GPUs and DeepSpeed ZeRO-3.

    NPROC_PER_NODE=8 tianji train configs/wishes_internlm2_chat_7b_full.py --work-dir outputs/7b_full \
        --deepspeed deepspeed_zero3

Changed against the QLoRA config: no quantization and no adapter (ZeRO-3 shares weights among the GPUs,
which it cannot do with frozen 4-bit weights); all activations are computed again; the learning rate
is the usual one of full fine-tuning, a tenth of LoRA's and less; the micro-batches of all GPUs make
up the original's 16 rows an update on 8 GPUs.
"""

from mmengine.config import read_base
from xtuner.dataset.collate_fns import default_collate_fn

with read_base():
    from .wishes_internlm2_chat_7b import *

model.pop("lora")
model.pop("recompute_share")
model.llm.pop("quantization_config")
model.update(dict(fused=False, use_activation_checkpointing=True))
train_dataloader.dataset.update(dict(use_varlen_attn=False))
train_dataloader.update(dict(batch_size=1, collate_fn=dict(type=default_collate_fn)))
optim_wrapper.optimizer.lr = 1e-5
optim_wrapper.accumulative_counts = 2
