"""4-bit layers on a CPU: what bitsandbytes does to them for inference is undone before they train."""

import copy
from unittest import mock

import torch


def _as_it_is(model=None, **_):
    """Stand in for ``torch.compile`` and compile nothing, while bitsandbytes is imported.

    It loads PyTorch's compiler then, for functions that 4-bit layers do not reach on a GPU, and hardly on a
    CPU: more than one of the six seconds in which a training starts.

    Source: bitsandbytes 0.50.2, ``backends/default/ops.py``.
    """
    return (lambda found: found) if model is None else model


with mock.patch.object(torch, "compile", _as_it_is):
    from bitsandbytes.nn import Linear4bit


def keep_weights_trainable() -> None:
    """Undo bitsandbytes' CPU inference packing before a 4-bit layer trains or is saved.

    On CPUs with AVX512-BF16, ``Linear4bit.forward`` in eval mode repacks the weight for a fast
    kernel that has no autograd, and nothing packs it back: after any evaluation, the gradients
    through frozen layers vanish with no more than a warning. XTuner evaluates before it trains, so
    it always hits. The original weight and its quantization state are kept here before packing and
    put back when they are needed; un-packing by bitsandbytes itself loses precision.

    Source: bitsandbytes 0.49.0-0.50.2, ``nn/modules.py`` (``Linear4bit.forward``).
    """
    if hasattr(Linear4bit, "unpack_for_training"):
        return
    original_forward, original_save = Linear4bit.forward, Linear4bit._save_to_state_dict

    def is_packed(layer) -> bool:
        return getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False)

    def unpack_for_training(layer) -> None:
        if not is_packed(layer):
            return
        layer.weight.data, state = layer.__dict__.pop("_weight_before_packing")
        layer.weight.quant_state = state
        if layer.quant_state is not None:
            layer.quant_state = state

    def forward(layer, x):
        if layer.training or x.requires_grad:
            layer.unpack_for_training()
        elif x.device.type == "cpu" and layer.support_avx512bf16_for_cpu and not is_packed(layer):
            state = layer.weight.quant_state or layer.quant_state
            layer.__dict__["_weight_before_packing"] = (layer.weight.data, copy.deepcopy(state))
        return original_forward(layer, x)

    def save_to_state_dict(layer, destination, prefix, keep_vars):
        layer.unpack_for_training()
        original_save(layer, destination, prefix, keep_vars)

    Linear4bit.unpack_for_training = unpack_for_training
    Linear4bit.forward = forward
    Linear4bit._save_to_state_dict = save_to_state_dict
