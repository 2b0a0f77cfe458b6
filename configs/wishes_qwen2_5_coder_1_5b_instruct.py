"""Wishes on the small teacher, Qwen2.5-Coder-1.5B-Instruct, on a CPU (see ``make teacher``).

The rate: with 300 of the large teacher's rows, one epoch, 1e-3 and 5e-4 learn most (test loss 4.68 -> 3.50
and 3.51; 2e-4: 3.61, 2e-3: 3.66; a second epoch: 3.58 or more), and at 1e-3 the fewest answers go in circles
(1 of 72; at 5e-4: 6). With all 2,256 rows 5e-4 reaches 3.05, and none of 72 does.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.qwen2_5_coder_cpu import *
    from ._base_.wishes import *

train_dataloader.dataset.dataset.data_files.train = data_path
optim_wrapper.optimizer.lr = 1e-3
next(hook for hook in custom_hooks if "evaluation_inputs" in hook).update(
    dict(system=system, evaluation_inputs=evaluation_inputs)
)
