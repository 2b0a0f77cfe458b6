"""4-bit weights unpacked on a GPU by one kernel.

bitsandbytes starts three kernels a matrix, through so much Python that a GPU waits for it wherever a
micro-batch is small; and its own unpacks at half of what the memory gives.
"""

import torch
import triton
import triton.language as tl

_BLOCKS = 64  # that a program unpacks


def unpack(packed: torch.Tensor, state, dtype: torch.dtype) -> torch.Tensor:
    """Return what ``dequantize_4bit`` returns, bit for bit, where the scales are quantized too.

    state: bitsandbytes' ``QuantState``.
    """
    out = torch.empty(state.shape, dtype=dtype, device=packed.device)
    blocks, scales = state.absmax.numel(), state.state2
    _unpack[(triton.cdiv(blocks, _BLOCKS),)](
        packed,
        state.code,
        state.absmax,
        scales.code,
        scales.absmax,
        state.offset,
        out,
        blocks,
        packed.numel(),
        BYTES=state.blocksize // 2,
        GROUP=scales.blocksize,
        BLOCKS=_BLOCKS,
        enable_fp_fusion=False,
    )
    return out


@triton.jit
def _unpack(
    packed,
    code,
    scales,
    scale_code,
    scale_scales,
    offset,
    out,
    blocks,
    size,
    BYTES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    there = block < blocks
    scale = tl.load(scale_code + tl.load(scales + block, mask=there, other=0).to(tl.int32))
    scale = scale * tl.load(scale_scales + block // GROUP, mask=there, other=0.0) + tl.load(offset)
    place = block[:, None] * BYTES + tl.arange(0, BYTES)[None, :]
    byte = tl.load(packed + place, mask=place < size, other=0).to(tl.int32)
    high = tl.load(code + (byte >> 4)) * scale[:, None]
    low = tl.load(code + (byte & 15)) * scale[:, None]
    place = block[:, None] * (2 * BYTES) + tl.arange(0, 2 * BYTES)[None, :]
    tl.store(out + place, tl.interleave(high, low).to(out.dtype.element_ty), mask=place < 2 * size)
