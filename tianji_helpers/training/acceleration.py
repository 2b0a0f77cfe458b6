"""Train the same model faster on a GPU, at the same result.

Four measures, each for itself and none of them XTuner's:

* packed samples attend only to themselves (variable-length attention of PyTorch, no flash-attn);
* a 4-bit layer and its adapter are one operation that saves its input once and adds the adapter's
  share in place (PEFT keeps copies and walks over the output four times);
* norms, rotary positions, SwiGLU and cross-entropy run in liger-kernel's Triton kernels where that
  package is installed and the architecture is known; vocabulary scores are computed only for tokens
  that some answer needs;
* a chosen share of the layers, not all or none, is computed again in the backward pass.

Adapters stay in float32 (AdamW would lose small updates in bfloat16); everything else is bfloat16.
"""

import importlib.util
import sys
from dataclasses import dataclass
from functools import partial
from types import MethodType

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PACKED_ATTENTION = "tianji_packed"


@dataclass
class Packing:
    """Where the samples of the batch in training begin and end.

    boundaries: (samples + 1,) int32, from 0 to the number of tokens; None: the batch is not packed.
    longest: tokens of the longest sample. rotary: cosines and sines, computed by the first layer.
    """

    boundaries: torch.Tensor | None = None
    longest: int = 0
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None


def accelerate(llm: nn.Module, causal_lm: nn.Module, recompute_share: float = 0.0) -> Packing:
    """Put the fast paths into a model that is about to be trained; return what ``answer_loss`` needs.

    llm: a model, perhaps with PEFT adapters. causal_lm: the transformers model inside.
    recompute_share: 0 keeps the activations of all layers, 1 computes all of them again. What does
    not apply to this model (another architecture, no GPU, no 4-bit layers) stays as it was, and so
    does inference.
    """
    packing = Packing()
    _fuse_adapters(llm)
    name = type(causal_lm).__name__
    on_gpu = next(causal_lm.parameters()).is_cuda
    use_liger = on_gpu and importlib.util.find_spec("liger_kernel") is not None
    if name == "InternLM2ForCausalLM":
        _accelerate_internlm2(causal_lm, packing, use_liger)
    elif name == "Qwen2ForCausalLM" and on_gpu:
        _accelerate_qwen2(causal_lm, use_liger)
    layers = causal_lm.model.layers
    for index, layer in enumerate(layers):
        if int((index + 1) * recompute_share) > int(index * recompute_share):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return packing


def answer_loss(causal_lm: nn.Module, data: dict, packing: Packing) -> torch.Tensor:
    """Return the mean negative log-likelihood of the answer tokens of a batch.

    data: ``input_ids`` and ``labels`` (batch, length) and ``position_ids``; either ``attention_mask``,
    or ``cumulative_len`` and ``max_seqlen`` of one packed row, as XTuner's collate function gives them.
    """
    inputs = dict(data)
    targets = inputs.pop("labels")[:, 1:].flatten()
    (packing.boundaries,) = inputs.pop("cumulative_len", (None,))
    packing.longest, packing.rotary = inputs.pop("max_seqlen", 0), None
    if packing.boundaries is not None and causal_lm.config._attn_implementation == PACKED_ATTENTION:
        inputs |= {"cu_seq_lens_q": packing.boundaries, "max_length_q": packing.longest}
    needed = (targets != -100).nonzero().squeeze(1)
    hidden = causal_lm.model(**inputs, use_cache=False)[0][:, :-1].flatten(0, 1)
    scores = causal_lm.get_output_embeddings()(hidden[needed])
    if scores.is_cuda and importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.transformers.functional import liger_cross_entropy

        return liger_cross_entropy(scores, targets[needed])  # leaves the gradient in ``scores``
    return F.cross_entropy(scores.float(), targets[needed])


class _Linear4bitWithAdapter(torch.autograd.Function):
    """``x @ W.T + bias + scaling * (x @ a.T) @ b.T`` with a frozen 4-bit ``W``.

    x: (tokens, in). a: (r, in), b: (out, r), both in the type of ``x``. Saves ``x`` and ``x @ a.T``.
    """

    @staticmethod
    def forward(ctx, x, a, b, weight, bias, scaling):
        from bitsandbytes.functional import dequantize_4bit

        low = x @ a.T
        out = F.linear(x, dequantize_4bit(weight.data, weight.quant_state).to(x.dtype), bias)
        ctx.save_for_backward(x, a, b, low)
        ctx.weight, ctx.scaling = weight, scaling
        return out.addmm_(low, b.T, alpha=scaling)

    @staticmethod
    def backward(ctx, grad):
        from bitsandbytes.functional import dequantize_4bit

        x, a, b, low = ctx.saved_tensors
        grad_low = (grad @ b).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ dequantize_4bit(ctx.weight.data, ctx.weight.quant_state).to(grad.dtype)
            grad_x.addmm_(grad_low, a)
        return grad_x, grad_low.T @ x, (grad.T @ low).mul_(ctx.scaling), None, None, None


def _fuse_adapters(llm: nn.Module) -> None:
    from peft.tuners.lora.bnb import Linear4bit

    def forward(layer, x, *args, **kwargs):
        if not layer.training or layer.disable_adapters or layer.merged:
            return type(layer).forward(layer, x, *args, **kwargs)
        (name,) = layer.active_adapters
        a, b = (part[name].weight.to(x.dtype) for part in (layer.lora_A, layer.lora_B))
        base = layer.base_layer
        base.unpack_for_training()  # after an evaluation on a CPU (xtuner_compat)
        out = _Linear4bitWithAdapter.apply(
            x.reshape(-1, x.shape[-1]), a, b, base.weight, base.bias, layer.scaling[name]
        )
        return out.view(*x.shape[:-1], -1)

    for module in llm.modules():
        if isinstance(module, Linear4bit) and all(
            isinstance(dropout, nn.Identity) for dropout in module.lora_dropout.values()
        ):
            module.forward = MethodType(forward, module)


def _attend(query, key, value, boundaries, longest):
    """Causal attention within each sample: (1, heads, tokens, d) to (1, tokens, heads, d)."""
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        # contiguous: a value that is a slice of a wider tensor would keep all of it for the backward pass
        query, key, value = (part.transpose(1, 2)[0].contiguous() for part in (query, key, value))
        lengths = (boundaries, boundaries, longest, longest)
        return varlen_attn(query, key, value, *lengths, window_size=(-1, 0))[None]
    sample = torch.bucketize(torch.arange(query.shape[2]), boundaries[1:], right=True)
    mask = (sample[:, None] == sample).tril()
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2)


def _accelerate_internlm2(causal_lm: nn.Module, packing: Packing, use_liger: bool) -> None:
    """The hub's code of InternLM2 knows neither packed samples nor fused kernels."""
    if use_liger:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
        from liger_kernel.transformers.rope import liger_rotary_pos_emb as rotate
    else:
        rotate = sys.modules[type(causal_lm).__module__].apply_rotary_pos_emb

    def attention(layer, hidden_states, attention_mask=None, position_ids=None, **kwargs):
        if not layer.training or packing.boundaries is None:
            return type(layer).forward(layer, hidden_states, attention_mask, position_ids, **kwargs)
        # (tokens, key heads, queries of that head and its key and its value, d)
        parts = layer.wqkv(hidden_states).view(
            -1, layer.num_key_value_heads, layer.num_key_value_groups + 2, layer.head_dim
        )
        query, key, value = parts[:, :, :-2].flatten(1, 2), parts[:, :, -2], parts[:, :, -1]
        query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
        if packing.rotary is None:
            packing.rotary = layer.rotary_emb(value, position_ids)
        query, key = rotate(query, key, *packing.rotary)
        out = _attend(query, key, value, packing.boundaries, packing.longest)
        return layer.wo(out.flatten(2)), None, None

    def norm(layer, hidden_states):
        return LigerRMSNormFunction.apply(hidden_states, layer.weight, layer.variance_epsilon)

    def feed_forward(layer, x):
        return layer.w2(LigerSiLUMulFunction.apply(layer.w1(x), layer.w3(x)))

    for layer in causal_lm.model.layers:
        layer.attention.forward = MethodType(attention, layer.attention)
    if use_liger:
        for module in causal_lm.modules():
            if type(module).__name__ == "InternLM2RMSNorm":
                module.forward = MethodType(norm, module)
            elif type(module).__name__ == "InternLM2MLP":
                module.forward = MethodType(feed_forward, module)


def _accelerate_qwen2(causal_lm: nn.Module, use_liger: bool) -> None:
    """transformers hands its own models' attention to a function of one's choice."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(module, query, key, value, *args, cu_seq_lens_q=None, max_length_q=0, **kwargs):
        if cu_seq_lens_q is None:
            return sdpa_attention_forward(module, query, key, value, *args, **kwargs)
        return _attend(query, key, value, cu_seq_lens_q, max_length_q), None

    AttentionInterface.register(PACKED_ATTENTION, attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
    causal_lm.config._attn_implementation = PACKED_ATTENTION
    if use_liger:
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2

        apply_liger_kernel_to_qwen2(fused_linear_cross_entropy=False, model=causal_lm)
