"""Attention of packed samples: each looks back within itself only, as if it stood alone.

A GPU has an operation for it (variable-length attention of PyTorch, no flash-attn). PyTorch's attention for
CPUs takes twice as long as plain products where sequences are as short as wishes, so here some samples
at a time, padded to the longest of them, share a product.
"""

import itertools
from dataclasses import dataclass, field

import torch
from torch.autograd import Function

from tianji_helpers.training.operations import round_up

_TOGETHER = 512  # tokens, with padding, that share a product


@dataclass
class Packing:
    """Where the samples of the batch in training begin and end.

    boundaries: (samples + 1,) int32, from 0 to the end of the last; None: the batch is not packed.
    longest: tokens of the longest sample. rotary: cosines and sines, computed by the first layer.
    groups: of the samples, for a CPU.
    """

    boundaries: torch.Tensor | None = None
    longest: int = 0
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    groups: dict = field(default_factory=dict)


def attend(query, key, value, packing: Packing, *, scale: float, window: int | None = None) -> torch.Tensor:
    """Causal attention within each sample: (1, heads, tokens, d) to (1, tokens, heads, d).

    key, value: perhaps fewer heads, each for some neighbouring queries. window: how many tokens, itself
    among them, a token sees; None: all before it. On a CPU, tokens behind the last sample get 0.
    """
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        # contiguous: a value that is a slice of a wider tensor would keep all of it for the backward pass
        query, key, value = (part.transpose(1, 2)[0].contiguous() for part in (query, key, value))
        lengths = (packing.boundaries, packing.boundaries, packing.longest, packing.longest)
        return varlen_attn(query, key, value, *lengths, window_size=((window or 0) - 1, 0), scale=scale)[None]
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    if window is not None and window >= packing.longest:
        window = None
    form = window, key.shape[1], query.shape[1] // key.shape[1], query.dtype
    if form not in packing.groups:
        packing.groups[form] = _groups(packing.boundaries.diff().tolist(), *form)
    return _Attention.apply(query, key, value, packing.groups[form], scale)[None]


class _Group:
    """Neighbouring samples, padded to the longest of them: ``lengths`` tokens each, the first at ``start``.

    rows: their tokens. places: (samples * longest,), the row of each place; padding has some row.
    filled: the places with a token. padding: the rows of ``mask`` without one. mask: (samples * key heads,
    longest * queries, longest), 0 where a query sees a key, minus infinity elsewhere. Nobody sees padding.
    """

    def __init__(self, start: int, lengths: list[int], window, key_heads: int, queries: int, dtype):
        place = torch.arange(round_up(max(lengths)))
        taken = place < torch.tensor(lengths)[:, None]
        self.rows = slice(start, start + sum(lengths))
        self.places = (torch.tensor([start, *lengths[:-1]]).cumsum(0)[:, None] + place * taken).flatten()
        self.filled = taken.flatten().nonzero()[:, 0]
        self.samples, self.key_heads = len(lengths), key_heads
        back = place[:, None] - place
        seen = (back >= 0) & taken[:, None]
        if window is not None:
            seen &= back < window
        seen[..., 0] |= ~taken  # the weights would be no numbers otherwise
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
        self.mask, rows = (
            part.repeat_interleave(key_heads, 0).repeat_interleave(queries, 1) for part in (mask, taken)
        )
        self.padding = (~rows).flatten().nonzero()[:, 0]

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, heads, d) to (samples * key heads, longest * heads of a key, d)."""
        heads, size = x.shape[1:]
        places = x.index_select(0, self.places)
        places = places.view(self.samples, -1, self.key_heads, heads // self.key_heads, size)
        return places.transpose(1, 2).reshape(self.samples * self.key_heads, -1, size)

    def collect(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Write what is spread into its rows of ``out``, (tokens, heads, d)."""
        heads, size = out.shape[1:]
        places = x.view(self.samples, self.key_heads, -1, heads // self.key_heads, size).transpose(1, 2)
        torch.index_select(places.reshape(-1, heads, size), 0, self.filled, out=out[self.rows])


def _groups(lengths: list[int], *form) -> list[_Group]:
    together: list[list[int]] = []
    for length in lengths:
        if not together or (len(together[-1]) + 1) * max(length, *together[-1]) > _TOGETHER:
            together.append([])
        together[-1].append(length)
    starts = itertools.accumulate(map(sum, together[:-1]), initial=0)
    return [_Group(start, group, *form) for start, group in zip(starts, together, strict=True)]


class _Attention(Function):
    """Of query, (tokens, heads, d), and key and value, (tokens, key heads, d). Saves the weights."""

    @staticmethod
    def forward(ctx, query, key, value, groups, scale):
        out = query.new_zeros(query.shape)
        saved = []
        for group in groups:
            q, k, v = (group.spread(part) for part in (query, key, value))
            weights = torch.baddbmm(group.mask, q, k.mT, alpha=scale).softmax(-1)
            weights.view(-1, weights.shape[2]).index_fill_(0, group.padding, 0)  # nothing is learnt from it
            group.collect(weights @ v, out)
            saved += (q, k, v, weights)
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.scale, ctx.key_shape = groups, scale, key.shape
        return out

    @staticmethod
    def backward(ctx, grad):
        grads = [grad.new_zeros(shape) for shape in (grad.shape, ctx.key_shape, ctx.key_shape)]
        saved = iter(ctx.saved_tensors)
        for group, q, k, v, weights in zip(ctx.groups, saved, saved, saved, saved, strict=False):
            up = group.spread(grad)
            # of a softmax: weights * (gradient - what it is on the average)
            slope = torch._softmax_backward_data(up @ v.mT, weights, -1, weights.dtype).mul_(ctx.scale)
            for part, out in zip((slope @ k, slope.mT @ q, weights.mT @ up), grads, strict=True):
                group.collect(part, out)
        return *grads, None, None
