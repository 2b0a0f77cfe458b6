"""Wishes on Qwen2.5-7B-Instruct, QLoRA on one GPU with 24 GB.

Changed against the wishes on InternLM2-7B: the model, which needs no code of its own, and its template.
"""

from mmengine.config import read_base
from xtuner.utils import PROMPT_TEMPLATE

with read_base():
    from ._base_.qlora_gpu import *
    from ._base_.wishes import *

pretrained_model_name_or_path = "models/qwen2.5-7b-instruct"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.update(dict(pretrained_model_name_or_path=pretrained_model_name_or_path))
del part  # every name of this file is a setting

prompt_template = PROMPT_TEMPLATE.qwen_chat
train_dataloader.dataset.template_map_fn.template = prompt_template
train_dataloader.dataset.dataset.data_files.train = data_path
model.recompute_share = 0.15  # its head is larger than that of InternLM2
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).update(
    dict(prompt_template=prompt_template, system=system, evaluation_inputs=evaluation_inputs)
)
