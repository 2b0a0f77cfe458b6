"""Train the same model faster, at the same result.

Measures, each for itself and none of them XTuner's:

* packed samples attend only to themselves (variable-length attention of PyTorch, no flash-attn);
* a 4-bit layer and its adapter are one operation that saves its input once and adds the adapter's
  share in place (PEFT keeps copies and walks over the output four times);
* on a GPU, norms, rotary positions, SwiGLU and cross-entropy run in liger-kernel's Triton kernels where
  that package is installed and the architecture is known; on a CPU, Gemma 3's norms, rotary positions and
  gated GELU are one operation each, a 4-bit matrix is unpacked once and kept, and few shapes occur;
* vocabulary scores are computed only for tokens that some answer needs;
* a chosen share of the layers, not all or none, is computed again in the backward pass.

Adapters stay in float32 (AdamW would lose small updates in bfloat16); everything else is bfloat16.
"""

import importlib.util
import math
import sys
from dataclasses import dataclass, field
from functools import partial
from types import MethodType

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PACKED_ATTENTION = "tianji_packed"
# On a CPU, PyTorch prepares (oneDNN compiles) each product for its shape, which takes longer than a small
# product does. So the number of tokens is rounded up to one of few, and short samples share a product.
_ROUND = 16
_TOGETHER = 512


@dataclass
class Packing:
    """Where the samples of the batch in training begin and end.

    boundaries: (samples + 1,) int32, from 0 to the number of tokens; None: the batch is not packed.
    longest: tokens of the longest sample. rotary: cosines and sines, computed by the first layer.
    masks: what ``mask`` has made.
    """

    boundaries: torch.Tensor | None = None
    longest: int = 0
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    masks: dict = field(default_factory=dict)

    def mask(self, window: int | None, repeated: int, dtype: torch.dtype) -> list[torch.Tensor]:
        """Return who sees whom, 0 or minus infinity, for some samples at a time: (repeated * tokens, tokens).

        window: see ``_attend``. repeated: the rows stand there so many times. Samples come together, up to
        512 tokens; a longer one comes alone.
        """
        key = window, repeated, dtype
        if key not in self.masks:
            groups: list[list[int]] = []
            for length in self.boundaries.diff().tolist():
                if not groups or sum(groups[-1]) + length > _TOGETHER:
                    groups.append([])
                groups[-1].append(length)
            self.masks[key] = [_mask(lengths, window, dtype).repeat(repeated, 1) for lengths in groups]
        return self.masks[key]


def _mask(lengths: list[int], window: int | None, dtype: torch.dtype) -> torch.Tensor:
    sample = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    place = torch.arange(len(sample))
    back = place[:, None] - place
    seen = (back >= 0) & (sample[:, None] == sample)
    if window is not None:
        seen &= back < window
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))


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
    elif name == "Gemma3ForCausalLM":
        _accelerate_gemma3(causal_lm)
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
    needed = (targets != -100).nonzero().squeeze(1)
    (packing.boundaries,) = inputs.pop("cumulative_len", (None,))
    packing.longest, packing.rotary, packing.masks = inputs.pop("max_seqlen", 0), None, {}
    if packing.boundaries is not None:
        if not targets.is_cuda:
            _round_up(inputs, packing)
        if causal_lm.config._attn_implementation == PACKED_ATTENTION:
            inputs["packing"] = packing
            inputs["attention_mask"] = dict.fromkeys(("full_attention", "sliding_attention"))  # none is built
    hidden = causal_lm.model(**inputs, use_cache=False)[0][:, :-1].flatten(0, 1)
    scores = causal_lm.get_output_embeddings()(hidden[needed])
    if scores.is_cuda and importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.transformers.functional import liger_cross_entropy

        return liger_cross_entropy(scores, targets[needed])  # leaves the gradient in ``scores``
    return F.cross_entropy(scores.float(), targets[needed])


def _round_up(inputs: dict, packing: Packing) -> None:
    """Append a sample that nothing is learnt from, so that few numbers of tokens occur."""
    count = int(packing.boundaries[-1])
    if missing := -count % _ROUND:
        extra = {"input_ids": torch.zeros(missing), "position_ids": torch.arange(missing)}
        for name, values in extra.items():
            inputs[name] = torch.cat((inputs[name], values.to(inputs[name].dtype)[None]), 1)
        end = packing.boundaries.new_tensor([count + missing])
        packing.boundaries = torch.cat((packing.boundaries, end))
        packing.longest = max(packing.longest, missing)


class _Linear4bitWithAdapter(torch.autograd.Function):
    """``x @ W.T + bias + scaling * (x @ a.T) @ b.T`` with the frozen 4-bit ``W`` of a layer, ``base``.

    x: (tokens, in). a: (r, in), b: (out, r), both float32. Saves ``x`` and ``scaling * x @ a.T``.
    """

    @staticmethod
    def forward(ctx, x, a, b, base, scaling):
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = (x @ a.T).mul_(scaling)
        out = F.linear(x, _unpacked(base, x.dtype), base.bias)
        ctx.save_for_backward(x, a, b, low)
        ctx.base, ctx.scaling = base, scaling
        return out.addmm_(low, b.T)

    @staticmethod
    def backward(ctx, grad):
        x, a, b, low = ctx.saved_tensors
        grad_low = (grad @ b).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ _unpacked(ctx.base, grad.dtype)
            grad_x.addmm_(grad_low, a)
        return grad_x, (grad_low.T @ x).float(), (grad.T @ low).float(), None, None


def _unpacked(base: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """Return a 4-bit layer's matrix, (out, in), in ``dtype``; on a CPU it is kept.

    Models that train on a CPU are small, and unpacking their matrices again and again is a tenth of a step.
    """
    from bitsandbytes.functional import dequantize_4bit

    kept = getattr(base, "unpacked", None)
    if kept is not None and kept.dtype == dtype:
        return kept
    base.unpack_for_training()  # after an evaluation on a CPU (xtuner_compat)
    matrix = dequantize_4bit(base.weight.data, base.weight.quant_state).to(dtype)
    if not matrix.is_cuda:
        base.unpacked = matrix
    return matrix


def _fuse_adapters(llm: nn.Module) -> None:
    from peft.tuners.lora.bnb import Linear4bit

    def forward(layer, x, *args, **kwargs):
        if not layer.training or layer.disable_adapters or layer.merged:
            return type(layer).forward(layer, x, *args, **kwargs)
        (name,) = layer.active_adapters
        a, b = (part[name].weight for part in (layer.lora_A, layer.lora_B))
        rows = x.reshape(-1, x.shape[-1])
        out = _Linear4bitWithAdapter.apply(rows, a, b, layer.base_layer, layer.scaling[name])
        return out.view(*x.shape[:-1], -1)

    for module in llm.modules():
        if isinstance(module, Linear4bit) and all(
            isinstance(dropout, nn.Identity) for dropout in module.lora_dropout.values()
        ):
            module.forward = MethodType(forward, module)


def _attend(query, key, value, packing: Packing, *, scale, window=None):
    """Causal attention within each sample: (1, heads, tokens, d) to (1, tokens, heads, d).

    window: how many tokens, itself among them, a token sees; None: all before it.
    """
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        # contiguous: a value that is a slice of a wider tensor would keep all of it for the backward pass
        query, key, value = (part.transpose(1, 2)[0].contiguous() for part in (query, key, value))
        lengths = (packing.boundaries, packing.boundaries, packing.longest, packing.longest)
        return varlen_attn(query, key, value, *lengths, window_size=((window or 0) - 1, 0), scale=scale)[None]
    # PyTorch's own attention on a CPU takes twice as long for sequences as short as wishes
    groups = query.shape[1] // key.shape[1]  # queries that share a key stand below one another
    masks = packing.mask(window, groups, query.dtype)
    sizes = [mask.shape[1] for mask in masks]
    parts = []
    for mask, q, k, v in zip(
        masks, *(part[0].split(sizes, dim=1) for part in (query, key, value)), strict=True
    ):
        scores = torch.baddbmm(mask, q.reshape(k.shape[0], len(mask), -1), k.mT, alpha=scale)
        parts.append((scores.softmax(-1) @ v).view(q.shape))
    return torch.cat(parts, 1).transpose(0, 1)[None]


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
        out = _attend(query, key, value, packing, scale=layer.head_dim**-0.5)
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
    _attend_within_samples(causal_lm)
    if use_liger:
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2

        apply_liger_kernel_to_qwen2(fused_linear_cross_entropy=False, model=causal_lm)


def _attend_within_samples(causal_lm: nn.Module) -> None:
    """transformers hands its own models' attention to a function of one's choice."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(module, query, key, value, *args, packing=None, **kwargs):
        if packing is None:
            return sdpa_attention_forward(module, query, key, value, *args, **kwargs)
        limits = {"scale": kwargs["scaling"], "window": kwargs.get("sliding_window")}
        return _attend(query, key, value, packing, **limits), None

    AttentionInterface.register(PACKED_ATTENTION, attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
    causal_lm.config._attn_implementation = PACKED_ATTENTION


class _Gemma3Norm(torch.autograd.Function):
    """``x / rms(x) * (1 + weight)`` over the last dimension; the root mean square is computed in float32.

    Saves ``x`` and the inverse of the root mean square, (…, 1).
    """

    @staticmethod
    def forward(ctx, x, weight, eps):
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        ctx.save_for_backward(x, weight, inverse)
        unit = x * inverse
        return unit.addcmul_(unit, weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight, inverse = ctx.saved_tensors
        unit = x * inverse
        grad_unit = torch.addcmul(grad, grad, weight)
        along = (grad_unit * unit).mean(-1, keepdim=True)
        return grad_unit.addcmul_(unit, along, value=-1).mul_(inverse), None, None


class _GatedGelu(torch.autograd.Function):
    """``gelu(gate) * up`` with the tanh form of gelu, as ``x * sigmoid(2 * z)``: exp is cheaper than tanh.

    Computes in float32; saves both inputs.
    """

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        x = gate.float()
        return _GatedGelu.share(x).mul_(x).to(up.dtype).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        x = gate.float()
        share = _GatedGelu.share(x)
        gelu = (share * x).to(up.dtype)
        # d gelu / dx = share + gelu * (1 - share) * d 2z / dx
        slope = (x * x).mul_(3 * _CUBE).add_(_LINE)
        slope = slope.mul_(1 - share).mul_(x).add_(1).mul_(share).to(up.dtype)
        return slope.mul_(grad * up), gelu.mul_(grad)

    @staticmethod
    def share(x):
        return (x * x).mul_(_CUBE).add_(_LINE).mul_(x).sigmoid_()


_LINE = 2 * (2 / math.pi) ** 0.5  # of 2z = _LINE * x + _CUBE * x ** 3
_CUBE = 0.044715 * _LINE


class _Rotate(torch.autograd.Function):
    """Turn pairs of x, which are half the last dimension apart, by angles: cos, sin as wide as x."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _Rotate.turned(x, cos, sin)

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        return _Rotate.turned(grad, cos, -sin), None, None

    @staticmethod
    def turned(x, cos, sin):
        first, second = x.chunk(2, dim=-1)
        return (x * cos).addcmul_(torch.cat((-second, first), dim=-1), sin)


def _accelerate_gemma3(causal_lm: nn.Module) -> None:
    """Many small operations cost a CPU more than their arithmetic: each walks over memory once more."""
    from transformers.models.gemma3 import modeling_gemma3

    def norm(layer, x):
        return _Gemma3Norm.apply(x, layer.weight, layer.eps)

    def feed_forward(layer, x):
        return layer.down_proj(_GatedGelu.apply(layer.gate_proj(x), layer.up_proj(x)))

    def rotate(query, key, cos, sin, *args):
        cos, sin = cos[:, None], sin[:, None]
        return _Rotate.apply(query, cos, sin), _Rotate.apply(key, cos, sin)

    _attend_within_samples(causal_lm)
    modeling_gemma3.apply_rotary_pos_emb = rotate
    for module in causal_lm.modules():
        if isinstance(module, modeling_gemma3.Gemma3RMSNorm) and not module.weight.requires_grad:
            module.forward = MethodType(norm, module)
        elif isinstance(module, modeling_gemma3.Gemma3MLP):
            module.forward = MethodType(feed_forward, module)
