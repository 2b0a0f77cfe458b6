"""Train the same model faster, at the same result.

Measures, each for itself and none of them XTuner's:

* packed samples attend only to themselves, and what they begin with alike, such as a system prompt, is
  computed once for all samples of a batch (``packed_attention``);
* a 4-bit layer and its adapter are one operation that saves its input once and adds the adapter's
  share in place (PEFT keeps copies and walks over the output four times);
* on a GPU, norms, rotary positions, SwiGLU and cross-entropy run in liger-kernel's Triton kernels where
  that package is installed and the architecture is known; on a CPU, Gemma 3's layers are few operations
  (``operations``), a 4-bit matrix is unpacked once and kept (twice, if the model is small), and few shapes
  occur;
* vocabulary scores are computed only for tokens that some answer needs;
* a chosen share of the layers, not all or none, is computed again in the backward pass.

Adapters stay in float32 (AdamW would lose small updates in bfloat16); everything else is bfloat16.
"""

import importlib.util
import itertools
import sys
from functools import partial
from types import MethodType

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tianji_helpers.training.fast import operations
from tianji_helpers.training.fast.packed_attention import Packing, attend, find_shared_prefix

PACKED_ATTENTION = "tianji_packed"
LEAN_FROM = 0.6e9  # parameters: above, on a CPU, memory counts for more than time (1.5B: 7 GB, not 16)


def accelerate(llm: nn.Module, causal_lm: nn.Module, recompute_share: float = 0.0) -> "AnswerLoss":
    """Put the fast paths into a model that is about to be trained; return its loss.

    llm: a model, perhaps with PEFT adapters. causal_lm: the transformers model inside.
    recompute_share: 0 keeps the activations of all layers, 1 computes all of them again. What does
    not apply to this model (another architecture, no GPU, no 4-bit layers) stays as it was, and so
    does inference.
    """
    from tianji_helpers.training.fast import four_bit

    four_bit.keep_weights_trainable()
    packing = Packing()
    on_gpu = next(causal_lm.parameters()).is_cuda
    lean = causal_lm.num_parameters() > LEAN_FROM
    _fuse_adapters(llm, lean)
    if not on_gpu and not any(part.requires_grad for part in llm.parameters()):
        _lay_out_frozen(causal_lm, lean)
    if not on_gpu:
        _leave_the_file(causal_lm)
    name = type(causal_lm).__name__
    use_liger = on_gpu and importlib.util.find_spec("liger_kernel") is not None
    if name == "InternLM2ForCausalLM":
        _accelerate_internlm2(causal_lm, packing, use_liger)
    elif name in ("Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        _accelerate_qwen(causal_lm, use_liger)
    elif name == "Gemma3ForCausalLM":
        _accelerate_gemma3(causal_lm, lean)
    else:
        packing = None
    layers = causal_lm.model.layers
    for index, layer in enumerate(layers):
        if int((index + 1) * recompute_share) > int(index * recompute_share):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return AnswerLoss(causal_lm, packing, lean)


def _leave_the_file(causal_lm: nn.Module) -> None:
    """Copy what was not quantized: it is a view of the mapped file, which would stay in memory whole."""
    for parameter in causal_lm.parameters():
        if type(parameter) is nn.Parameter:
            parameter.data = parameter.data.clone()


class AnswerLoss:
    """The mean negative log-likelihood of the answer tokens of a batch."""

    def __init__(self, causal_lm: nn.Module, packing: Packing | None, lean: bool = False):
        """packing: where the model looks where samples begin and end, if it does. lean: of the head."""
        self.causal_lm, self.packing = causal_lm, packing
        self.head = causal_lm.get_output_embeddings()
        self.frozen_head = operations.FrozenMatrices([self.head], lean=lean)

    def __call__(self, data: dict) -> torch.Tensor:
        """Return it, 0-dimensional.

        data: ``input_ids`` and ``labels`` (batch, length) and ``position_ids``; either ``attention_mask``,
        or ``cumulative_len`` and ``max_seqlen`` of one packed row, as XTuner's collate function gives them.
        Where pictures stand in the text, ``inputs_embeds`` too: see ``inference.splice``.
        """
        inputs = dict(data)
        targets = F.pad(inputs.pop("labels"), (0, 1), value=-100)[:, 1:].flatten()
        (boundaries,), longest = inputs.pop("cumulative_len", (None,)), inputs.pop("max_seqlen", 0)
        if self.packing is not None:
            targets = self._pack(inputs, targets, boundaries, longest)
        needed = (targets != -100).nonzero().squeeze(1)
        targets = targets[needed]
        if "inputs_embeds" in inputs:
            del inputs["input_ids"]
        hidden = self.causal_lm.model(**inputs, use_cache=False)[0].flatten(0, 1)
        if not hidden.is_cuda and not self.head.weight.requires_grad:
            return operations.FrozenHead.apply(hidden, self.frozen_head, needed, targets)
        scores = self.head(hidden[needed])
        if scores.is_cuda and importlib.util.find_spec("liger_kernel") is not None:
            from liger_kernel.transformers.functional import liger_cross_entropy

            return liger_cross_entropy(scores, targets)  # leaves the gradient in ``scores``
        return F.cross_entropy(scores.float(), targets)

    def _pack(self, inputs: dict, targets, boundaries, longest: int) -> torch.Tensor:
        """Tell the model about a batch; leave of it, and of the targets, what is to be computed."""
        packing, padding = self.packing, 0
        packing.begin(boundaries, longest)
        if boundaries is None:
            return targets
        packing.prefix = find_shared_prefix(inputs["input_ids"][0], targets == -100, boundaries, longest)
        if not targets.is_cuda:  # tokens of no sample, so that few numbers of tokens occur
            count = int(packing.row_boundaries[-1])
            padding = operations.round_up(count) - count
        for name in {"input_ids", "position_ids", "inputs_embeds"} & inputs.keys():
            if packing.prefix is not None:
                inputs[name] = inputs[name].index_select(1, packing.prefix.kept)
            inputs[name] = F.pad(inputs[name], (0, 0) * (inputs[name].dim() - 2) + (0, padding))
        if self.causal_lm.config._attn_implementation == PACKED_ATTENTION:
            inputs["packing"] = packing
            # no mask is built
            inputs["attention_mask"] = dict.fromkeys(("full_attention", "sliding_attention"))
        return targets if packing.prefix is None else targets[packing.prefix.kept]


class _AdaptedLayers:
    """4-bit layers with adapters that share an input; in training they are one operation.

    Called like a layer, gives their outputs side by side. Otherwise PEFT's own way is taken, but not by a
    large model on a CPU: bitsandbytes would pack all matrices anew for every sample (3.7 GB at 1.5B).
    """

    def __init__(self, layers: tuple[nn.Module, ...], lean: bool):
        self.layers = layers
        self.matrices = operations.FrozenMatrices([layer.base_layer for layer in layers], lean=lean)

    @staticmethod
    def can_take(layer: nn.Module) -> bool:
        from peft.tuners.lora.bnb import Linear4bit

        return isinstance(layer, Linear4bit) and all(
            isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values()
        )

    def applies(self, x: torch.Tensor) -> bool:
        fused = self.layers[0].training or (self.matrices.lean and not x.is_cuda)
        return fused and not any(layer.disable_adapters or layer.merged for layer in self.layers)

    def __call__(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if not self.applies(x):
            return _side_by_side(type(layer).forward(layer, x, *args, **kwargs) for layer in self.layers)
        scalings, adapters = self.adapters()
        return operations.LinearsWithAdapters.apply(x, self.matrices, scalings, *adapters)

    def adapters(self) -> tuple[list[float], list[torch.Tensor]]:
        """Return the layers' scalings, and ``a`` and ``b`` of each."""
        adapters, scalings = [], []
        for layer in self.layers:
            (name,) = layer.active_adapters
            adapters += (layer.lora_A[name].weight, layer.lora_B[name].weight)
            scalings.append(layer.scaling[name])
        return scalings, adapters


class _FrozenLayers:
    """Layers without adapters that share an input; in training they are one operation."""

    def __init__(self, layers: tuple[nn.Module, ...], lean: bool):
        self.layers = layers
        self.matrices = operations.FrozenMatrices(list(layers), lean=lean)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self.layers[0].training:
            return _side_by_side(type(layer).forward(layer, x) for layer in self.layers)
        return operations.FrozenLinears.apply(x, self.matrices)


def _lay_out_frozen(causal_lm: nn.Module, lean: bool) -> None:
    """Of a model that only hands gradients on, to what stands before it."""
    for module in causal_lm.model.modules():
        if isinstance(module, nn.Linear):
            module.forward = _FrozenLayers((module,), lean)


def _fuse_adapters(llm: nn.Module, lean: bool) -> None:
    for module in llm.modules():
        if _AdaptedLayers.can_take(module):
            module.forward = _AdaptedLayers((module,), lean)


def _as_one(lean: bool, *layers: nn.Module):
    """Return a function that gives the outputs of layers that share an input, side by side."""
    if all(map(_AdaptedLayers.can_take, layers)):
        return _AdaptedLayers(layers, lean)
    if all(isinstance(getattr(layer, "forward", None), _FrozenLayers) for layer in layers):
        return _FrozenLayers(layers, lean)
    return lambda x: _side_by_side(layer(x) for layer in layers)


def _side_by_side(parts) -> torch.Tensor:
    first, *others = parts
    return torch.cat((first, *others), -1) if others else first


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
        parts = parts.split([layer.num_key_value_groups, 1, 1], 2)  # of slices, the gradients are added up
        query, key, value = (part.flatten(1, 2).transpose(0, 1)[None] for part in parts)
        if packing.rotary is None:
            packing.rotary = layer.rotary_emb(value, position_ids)
        query, key = rotate(query, key, *packing.rotary)
        out = attend(query, key, value, packing, scale=layer.head_dim**-0.5)
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
                _fuse_feed_forward(module, module.w1, module.w3, module.w2)


def _fuse_feed_forward(module: nn.Module, *layers: nn.Module) -> None:
    """Make gate, up and down of a layer one operation, if all have adapters."""
    if not all(map(_AdaptedLayers.can_take, layers)):
        return
    plain, adapted = module.forward, [layer.forward for layer in layers]  # by _fuse_adapters

    def forward(x):
        if not all(layer.applies(x) for layer in adapted):
            return plain(x)
        scalings, adapters = zip(*(layer.adapters() for layer in adapted), strict=True)
        parts = [*zip((layer.matrices for layer in adapted), scalings, strict=True)]
        return operations.GatedFeedForward.apply(x, parts, *itertools.chain(*adapters))

    module.forward = forward


def _accelerate_qwen(causal_lm: nn.Module, use_liger: bool) -> None:
    _attend_within_samples(causal_lm)
    if use_liger:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

        apply = MODEL_TYPE_TO_APPLY_LIGER_FN[causal_lm.config.model_type]
        apply(fused_linear_cross_entropy=False, model=causal_lm)
        for layer in causal_lm.model.layers:
            _fuse_feed_forward(layer.mlp, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)


def _attend_within_samples(causal_lm: nn.Module) -> None:
    """transformers hands its own models' attention to a function of one's choice."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(module, query, key, value, *args, packing=None, **kwargs):
        if packing is None:
            return sdpa_attention_forward(module, query, key, value, *args, **kwargs)
        limits = {"scale": kwargs["scaling"], "window": kwargs.get("sliding_window")}
        return attend(query, key, value, packing, **limits), None

    AttentionInterface.register(PACKED_ATTENTION, attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
    causal_lm.config._attn_implementation = PACKED_ATTENTION


def _accelerate_gemma3(causal_lm: nn.Module, lean: bool) -> None:
    """On a CPU: few operations instead of many small ones."""
    from transformers.models.gemma3 import modeling_gemma3

    def norm(layer, x):
        return operations.RootMeanSquareNorm.apply(x, layer.weight, layer.eps)

    def feed_forward(gate_and_up, layer, x):
        if not layer.training:
            return type(layer).forward(layer, x)
        return layer.down_proj(operations.GatedGelu.apply(gate_and_up(x)))

    def attention(query_key_value, weight, layer, hidden_states, position_embeddings, *args, **kwargs):
        packing = kwargs.get("packing")
        if packing is None:  # inference too
            return type(layer).forward(layer, hidden_states, position_embeddings, *args, **kwargs)
        heads = query_key_value(hidden_states)[0].unflatten(-1, (-1, layer.head_dim))
        cos, sin = (part[0, :, None] for part in position_embeddings)
        heads = operations.NormAndRotate.apply(heads, weight, layer.q_norm.eps, cos, sin)
        keys = layer.config.num_key_value_heads
        parts = (part.transpose(0, 1)[None] for part in heads.split([len(weight) - keys, keys, keys], 1))
        out = attend(*parts, packing, scale=layer.scaling, window=layer.sliding_window)
        return layer.o_proj(out.flatten(2)), None

    _attend_within_samples(causal_lm)
    for module in causal_lm.modules():
        if isinstance(module, modeling_gemma3.Gemma3RMSNorm) and not module.weight.requires_grad:
            module.forward = MethodType(norm, module)
        elif isinstance(module, modeling_gemma3.Gemma3MLP):
            forward = partial(feed_forward, _as_one(lean, module.gate_proj, module.up_proj))
            module.forward = MethodType(forward, module)
        elif isinstance(module, modeling_gemma3.Gemma3Attention) and not module.q_norm.weight.requires_grad:
            config, norms = module.config, (module.q_norm.weight, module.k_norm.weight)
            repeats = config.num_attention_heads, config.num_key_value_heads
            weight = torch.cat([part.detach().repeat(n, 1) for part, n in zip(norms, repeats, strict=True)])
            forward = partial(attention, _as_one(lean, module.q_proj, module.k_proj, module.v_proj), weight)
            module.forward = MethodType(forward, module)
