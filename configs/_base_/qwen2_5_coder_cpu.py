"""The small teacher, Qwen2.5-Coder-1.5B-Instruct, on a CPU (``make teacher``); children name task and data.

Changed against ``qlora_cpu.py``: the model, its template, and half of the rate or less, as it speaks already.
"""

from mmengine.config import read_base
from xtuner.utils import PROMPT_TEMPLATE

with read_base():
    from .qlora_cpu import *

pretrained_model_name_or_path = "models/qwen2.5-coder-1.5b-instruct"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.update(dict(pretrained_model_name_or_path=pretrained_model_name_or_path))
del part  # every name of this file is a setting

prompt_template = PROMPT_TEMPLATE.qwen_chat
train_dataloader.dataset.template_map_fn.template = prompt_template
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).prompt_template = prompt_template
optim_wrapper.optimizer.lr = 5e-4
