"""Wishes on the small teacher, Qwen2.5-Coder-1.5B-Instruct, on a CPU (see ``make teacher``).

Changed against the 270M model: the model and its template, and a lower rate, as a larger model wants.
"""

from mmengine.config import read_base
from xtuner.utils import PROMPT_TEMPLATE

with read_base():
    from ._base_.qlora_cpu import *
    from ._base_.wishes import *

pretrained_model_name_or_path = "models/qwen2.5-coder-1.5b-instruct"
for part in (tokenizer, model.llm, train_dataloader.dataset.tokenizer, *(h.tokenizer for h in custom_hooks)):
    part.update(dict(pretrained_model_name_or_path=pretrained_model_name_or_path))
del part  # every name of this file is a setting

prompt_template = PROMPT_TEMPLATE.qwen_chat
train_dataloader.dataset.template_map_fn.template = prompt_template
train_dataloader.dataset.dataset.data_files.train = data_path
optim_wrapper.optimizer.lr = 5e-4
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).update(
    dict(prompt_template=prompt_template, **wishes_hook)
)
