"""Second stage: QLoRA of the language model, with the projector that the first stage left."""

from mmengine.config import read_base

with read_base():
    from ._base_.see import *

data_path = "outputs/default/07_see_wish/wishes.json"
train_dataloader.dataset.dataset.data_files.train = data_path
model.projector_dir = "outputs/default/07_see_wish/pretrain/converted/projector"
model.llm_lora = dict(
    type=LoraConfig, r=64, lora_alpha=16, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM"
)
optim_wrapper.paramwise_cfg = dict(custom_keys=dict(projector=dict(lr_mult=0.2)))
