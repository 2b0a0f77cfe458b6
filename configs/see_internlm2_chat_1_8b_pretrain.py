"""First stage: only the projector learns, from captions."""

from mmengine.config import read_base

with read_base():
    from ._base_.see import *

data_path = "outputs/default/07_see_wish/captions.json"
train_dataloader.dataset.dataset.data_files.train = data_path
model.llm.pop("quantization_config")  # nothing of it learns, and it fits
model.llm.device_map = "cuda"  # at once: the fast paths look where it is, and mmengine would move it later
optim_wrapper.optimizer.lr = 1e-3
