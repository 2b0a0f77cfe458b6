"""A model that sees, in two stages, on one GPU; children name the stage.

XTuner's LLaVA configs of the guide (``llava_internlm2_chat_1_8b_*clip_vit_large_p14_336*``), changed:
* what the frozen tower says of each picture is computed once (``seeing.rows.compute_features``); theirs
  runs it in every step, and backwards too;
* one format of rows, LLaVA's ``conversations``; the guide's own file has ``conversation``, which their map
  function does not read, and its command lacks the config;
* bfloat16 instead of float16 with loss scaling, the fast paths, a fixed seed, as in ``qlora_gpu.py``;
* pictures are padded to a square in both stages (theirs: in the second only, so that the projector meets
  other pictures than it learned from);
* no LoRA on the tower (its features could not be kept), and r=64, not 512: ``model.llm_lora.r`` sets it.
"""

from mmengine.config import read_base

from tianji_helpers.seeing.rows import SeenRows, join_seen, load_llava
from tianji_helpers.seeing.tower import load as load_tower
from tianji_helpers.training.xtuner_compat import LLaVAModel

with read_base():
    from .qlora_gpu import *
    from .wishes import system

pretrained_model_name_or_path = "models/internlm2-chat-1_8b"
tower_dir = "models/clip-vit-large-patch14-336"
features = "outputs/default/07_see_wish/features.safetensors"

tokenizer.pretrained_model_name_or_path = pretrained_model_name_or_path
model.llm.pretrained_model_name_or_path = pretrained_model_name_or_path
model = dict(
    type=LLaVAModel,
    fused=True,
    recompute_share=0.0,  # 1.8B with short rows fits as it is
    freeze_llm=True,
    freeze_visual_encoder=True,
    visual_select_layer=-2,
    projector_dir="",
    llm=model.llm,
    visual_encoder=dict(type=load_tower, pretrained_model_name_or_path=tower_dir, torch_dtype=torch.bfloat16),
)
# a batch's features are 20 MB to read: workers do that while the GPU computes
train_dataloader.update(
    dict(batch_size=16, num_workers=4, persistent_workers=True, collate_fn=dict(type=join_seen))
)
train_dataloader.dataset.update(
    dict(
        type=SeenRows,
        features=features,
        dataset=dict(type=load_llava, system=system, data_files=dict(train=data_path)),
        tokenizer=tokenizer,
        remove_unused_columns=False,
        pack_to_max_length=False,
        use_varlen_attn=False,
    )
)
optim_wrapper.accumulative_counts = 1
custom_hooks = []
del system  # every name of this file is a setting
