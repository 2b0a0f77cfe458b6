"""Wishes on the embedded 270M model, on a CPU, packed as the original guide packs them: to see what it does.

The default joins the wishes of a batch so that each sees only itself. Here every row is filled to its end:
the last wish is cut there, and attention runs through, so that a wish also sees those before it. A row is
as long as four wishes are on average, so an update sees as many tokens as the default's.
``configs/batches/choices.yaml`` trains both; it is not meant for anything else.
"""

from mmengine.config import read_base
from xtuner.dataset.collate_fns import default_collate_fn

with read_base():
    from .wishes_gemma3_270m_cpu import *

train_dataloader.update(dict(batch_size=1, collate_fn=dict(type=default_collate_fn)))
train_dataloader.dataset.update(dict(max_length=280, pack_to_max_length=True))
