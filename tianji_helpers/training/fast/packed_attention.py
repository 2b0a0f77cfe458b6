"""Attention of packed samples: each looks back within itself only, as if it stood alone.

A GPU has an operation for it (variable-length attention of PyTorch, no flash-attn). PyTorch's attention for
CPUs takes twice as long as plain products where sequences are as short as wishes, so here some samples
at a time, padded to the longest of them, share a product.

Samples of one task begin alike: with the same system prompt. A token's state depends on those before it
only, so what they begin with is computed once for all of them (``SharedPrefix``).
"""

import itertools
from dataclasses import dataclass, field

import torch
from torch.autograd import Function
from torch.nn import functional as F

from tianji_helpers.training.fast.operations import round_up

_TOGETHER = 512  # tokens, with padding, that share a product


@dataclass(frozen=True)
class SharedPrefix:
    """What samples begin with alike, computed once: which tokens of a batch become rows.

    kept: (rows,), the tokens that are computed. places: (tokens,), the row of each token. boundaries:
    (samples + 1,) int32, where the samples' own rows begin and end. copies: (samples that share it but the
    first, its length), the tokens that are not computed. rows: where it stands, in the first of them.
    """

    kept: torch.Tensor
    places: torch.Tensor
    boundaries: torch.Tensor
    copies: torch.Tensor
    rows: slice


@dataclass
class Packing:
    """Where the samples of the batch in training begin and end.

    boundaries: (samples + 1,) int32, from 0 to the end of the last; None: the batch is not packed.
    longest: tokens of the longest sample. prefix: what is computed once. rotary: cosines and sines,
    computed by the first layer. groups: of the samples, for a CPU.
    """

    boundaries: torch.Tensor | None = None
    longest: int = 0
    prefix: SharedPrefix | None = None
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    groups: dict = field(default_factory=dict)

    def begin(self, boundaries: torch.Tensor | None, longest: int) -> None:
        """Forget the batch before."""
        self.boundaries, self.longest = boundaries, longest
        self.prefix, self.rotary, self.groups = None, None, {}

    @property
    def row_boundaries(self) -> torch.Tensor:
        """(samples + 1,) int32: where the rows of each begin and end."""
        return self.boundaries if self.prefix is None else self.prefix.boundaries


def find_shared_prefix(ids, unneeded, boundaries, longest: int) -> SharedPrefix | None:
    """Return what at least half of the samples begin with, if two do, as far as no answer needs it.

    ids, unneeded: (tokens,), the latter true where the next token is no answer's. boundaries, longest: as
    in ``Packing``. A sample cut by the end of a row begins otherwise, and keeps all its tokens.
    """
    starts, lengths = boundaries[:-1].long(), boundaries.diff()
    place = torch.arange(longest, device=ids.device)
    taken = place < lengths[:, None]
    tokens = starts[:, None] + place * taken
    first = ids[tokens]
    reference = first[(first[:, 0] == first[:, 0].mode().values).int().argmax()]
    common = ((first == reference) & (first >= 0) & taken & unneeded[tokens]).long().cumprod(1).sum(1)
    length = int(common.median())
    shares = (common >= length).nonzero()[:, 0]
    if not length or len(shares) < 2:
        return None
    copies = tokens[shares[1:], :length]
    keep = torch.ones_like(unneeded).index_fill_(0, copies.flatten(), False)
    counts = F.pad(keep.cumsum(0), (1, 0))
    row = int(counts[starts[shares[0]]])
    rows = torch.arange(row, row + length, device=ids.device)
    places = counts[:-1].index_copy(0, copies.flatten(), rows.repeat(len(copies)))
    return SharedPrefix(
        keep.nonzero()[:, 0], places, counts[boundaries.long()].int(), copies, slice(row, row + length)
    )


def attend(query, key, value, packing: Packing, *, scale: float, window: int | None = None) -> torch.Tensor:
    """Causal attention within each sample: (1, heads, rows, d) to (1, rows, heads, d).

    key, value: perhaps fewer heads, each for some neighbouring queries. window: how many tokens, itself
    among them, a token sees; None: all before it. On a CPU, rows behind the last sample get 0.
    """
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        # contiguous: a value that is a slice of a wider tensor would keep all of it for the backward pass
        query, key, value = (part.transpose(1, 2)[0].contiguous() for part in (query, key, value))
        if packing.prefix is not None:
            key, value = (_AtTokens.apply(part, packing.prefix) for part in (key, value))
        # of a sample with fewer queries than keys, the queries are the last tokens
        ends = (packing.row_boundaries, packing.boundaries, packing.longest, packing.longest)
        return varlen_attn(query, key, value, *ends, window_size=((window or 0) - 1, 0), scale=scale)[None]
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    if window is not None and window >= packing.longest:
        window = None
    form = window, key.shape[1], query.shape[1] // key.shape[1], query.dtype
    if form not in packing.groups:
        packing.groups[form] = _groups(packing, *form)
    return _Attention.apply(query, key, value, packing.groups[form], scale)[None]


class _AtTokens(Function):
    """(rows, heads, d) to (tokens, heads, d). Adds up what all copies of a row give it, in float32."""

    @staticmethod
    def forward(ctx, x, prefix):
        ctx.prefix = prefix
        return x.index_select(0, prefix.places)

    @staticmethod
    def backward(ctx, grad):
        out = grad.index_select(0, ctx.prefix.kept)
        out[ctx.prefix.rows] += grad[ctx.prefix.copies].sum(0)
        return out, None


class _Group:
    """Neighbouring samples, padded to the longest of them.

    rows: their own. places: (samples * longest,), the row of each place; padding has some row.
    filled: the places of own rows. copied: those of a prefix that is computed elsewhere, at ``prefix``.
    others: the rows of ``mask`` without a row of their own. mask: (samples * key heads, longest * queries,
    longest), 0 where a query sees a key, minus infinity elsewhere. Nobody sees padding.
    """

    def __init__(self, packing: Packing, first: int, last: int, window, key_heads: int, queries: int, dtype):
        starts, ends = packing.boundaries[first:last, None], packing.boundaries[first + 1 : last + 1, None]
        rows = packing.row_boundaries[first : last + 1]
        place = torch.arange(round_up(int((ends - starts).max())))
        taken = place < ends - starts
        own = taken & (place >= ends - starts - rows.diff()[:, None])
        tokens = (starts + place * taken).flatten()
        self.places = tokens if packing.prefix is None else packing.prefix.places[tokens]
        self.rows = slice(int(rows[0]), int(rows[-1]))
        self.filled = own.flatten().nonzero()[:, 0]
        self.copied = (taken & ~own).flatten().nonzero()[:, 0]
        self.prefix = packing.prefix and packing.prefix.rows
        self.samples, self.key_heads = last - first, key_heads
        back = place[:, None] - place
        seen = (back >= 0) & taken[:, None]
        if window is not None:
            seen &= back < window
        seen[..., 0] |= ~taken  # the weights would be no numbers otherwise
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
        self.mask, own = (
            part.repeat_interleave(key_heads, 0).repeat_interleave(queries, 1) for part in (mask, own)
        )
        self.others = (~own).flatten().nonzero()[:, 0]

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, heads, d) to (samples * key heads, longest * heads of a key, d)."""
        heads, size = x.shape[1:]
        places = x.index_select(0, self.places)
        places = places.view(self.samples, -1, self.key_heads, heads // self.key_heads, size)
        return places.transpose(1, 2).reshape(self.samples * self.key_heads, -1, size)

    def collect(self, x: torch.Tensor, out: torch.Tensor, copies: bool = False) -> None:
        """Write what is spread into its rows of ``out``, (rows, heads, d); copies: add theirs too."""
        heads, size = out.shape[1:]
        places = x.view(self.samples, self.key_heads, -1, heads // self.key_heads, size).transpose(1, 2)
        places = places.reshape(-1, heads, size)
        torch.index_select(places, 0, self.filled, out=out[self.rows])
        if copies and len(self.copied):
            shared = out[self.prefix]
            shared += places.index_select(0, self.copied).view(-1, *shared.shape).sum(0)


def _groups(packing: Packing, *form) -> list[_Group]:
    counts, longest = [0], 0
    for length in packing.boundaries.diff().tolist():
        longest = max(longest, length)
        if counts[-1] and (counts[-1] + 1) * longest > _TOGETHER:
            counts.append(0)
            longest = length
        counts[-1] += 1
    return [_Group(packing, *ends, *form) for ends in itertools.pairwise(itertools.accumulate([0, *counts]))]


class _Attention(Function):
    """Of query, (rows, heads, d), and key and value, (rows, key heads, d). Saves the weights."""

    @staticmethod
    def forward(ctx, query, key, value, groups, scale):
        out = query.new_zeros(query.shape)
        saved = []
        for group in groups:
            q, k, v = (group.spread(part) for part in (query, key, value))
            weights = torch.baddbmm(group.mask, q, k.mT, alpha=scale).softmax(-1)
            weights.view(-1, weights.shape[2]).index_fill_(0, group.others, 0)  # nothing is learnt from it
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
            group.collect(slope @ k, grads[0])
            group.collect(slope.mT @ q, grads[1], copies=True)
            group.collect(weights.mT @ up, grads[2], copies=True)
        return *grads, None, None
