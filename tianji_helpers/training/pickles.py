"""Read a training's checkpoint as data: its tensors, and nothing that would run.

A ``.pth`` file and the files of a DeepSpeed folder are pickles. Beside tensors and plain values they
hold objects of mmengine, numpy and DeepSpeed (log history, configs, the loss scale). PyTorch's
restricted reader is told to put a blank in the place of each of these; whatever else a file names,
it refuses. So a checkpoint from a stranger cannot do anything, and DeepSpeed need not be installed
to read its folders.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch


class Blank:
    """What stands where a checkpoint has an object that nobody needs for its weights."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


_BLANKS = (
    "builtins.getattr",  # a bound method of the log history
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(
        f"numpy.{name}"
        for core in ("core", "_core")  # numpy 1 and 2
        for name in (f"{core}.multiarray._reconstruct", f"{core}.multiarray.scalar")
    ),
    "numpy.dtype",
    "numpy.ndarray",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
_PLAIN = {
    "mmengine.config.config.ConfigDict": dict,
    "deepspeed.runtime.zero.config.ZeroStageEnum": int,
}
# deepspeed.checkpoint.constants of DeepSpeed 0.18.9; each name is its value in capitals
_ZERO_KEYS = (
    "buffer_names",
    "ds_version",
    "fp32_flat_groups",
    "frozen_param_fragments",
    "frozen_param_shapes",
    "optimizer_state_dict",
    "param_shapes",
    "partition_count",
    "single_partition_of_fp32_groups",
    "zero_stage",
)


def read_as_data() -> None:
    """Make every ``torch.load`` of this process read checkpoints as the module's text says.

    Even where a caller asks for ``weights_only=False``, as XTuner and DeepSpeed do.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    known = {**dict.fromkeys(_BLANKS, Blank), **_PLAIN}
    torch.serialization.add_safe_globals([Blank, *((value, name) for name, value in known.items())])


@contextmanager
def deepspeed_constants() -> Iterator[None]:
    """Provide, inside the ``with``, what XTuner's ZeRO reader imports of DeepSpeed: ten words.

    Afterwards DeepSpeed is again as absent, or as present, as it was.
    Source: the head of xtuner/utils/zero_to_any_dtype.py (0.2.0).
    """
    constants = ModuleType("deepspeed.checkpoint.constants")
    vars(constants).update({key.upper(): key for key in _ZERO_KEYS})
    utils = ModuleType("deepspeed.utils")
    utils.logger = None
    modules = [ModuleType("deepspeed"), ModuleType("deepspeed.checkpoint"), constants, utils]
    before = {module.__name__: sys.modules.pop(module.__name__, None) for module in modules}
    sys.modules.update({module.__name__: module for module in modules})
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
