"""The same on a CPU: our small tower before the wishes model of lesson 6, 16 tokens a picture.

The learning rate is the projector's own matter: it takes 320 numbers of deviation 1, so a step of AdamW moves
what it says by about ``320 * lr`` of its size.
"""

from mmengine.config import read_base

with read_base():
    from .see import *

pretrained_model_name_or_path = "outputs/default/06_merge_chat/wishes/merged"
tower_dir = "models/efficientnet-lite0"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer):
    part.pretrained_model_name_or_path = pretrained_model_name_or_path
del part
model.visual_select_layer = -1
model.visual_encoder = dict(type=load_tower, pretrained_model_name_or_path=tower_dir)
train_dataloader.update(dict(batch_size=12, num_workers=0, persistent_workers=False))  # 16 tokens read fast
train_dataloader.dataset.max_length = 512
warmup_ratio = 0.03
param_scheduler[0].end = param_scheduler[1].begin = warmup_ratio * max_epochs
env_cfg.dist_cfg.backend = "gloo"
model_wrapper_cfg = dict(device_ids=None, broadcast_buffers=False)
