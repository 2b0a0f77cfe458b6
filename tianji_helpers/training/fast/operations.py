"""Operations with a backward pass of their own, each in place of many small ones.

On a CPU every small operation walks over memory once more, and autograd keeps what a formula does not
need. Shapes: tokens of all samples stand below one another, without padding.
"""

import math

import torch
from torch.autograd import Function
from torch.nn import functional as F

_ROUND = 8
_ROWS = 8  # of vocabulary scores at a time, in float32: they stay in the cache


def round_up(count: int) -> int:
    """Return a number of tokens that is one of few.

    On a CPU, PyTorch prepares (oneDNN compiles) each product for its shape, which takes longer than a
    small product does.
    """
    return -(-count // _ROUND) * _ROUND


class FrozenMatrices:
    """Frozen layers that share an input, as one matrix, (sum of out, in), with their biases.

    layers: ``nn.Linear``, perhaps in 4 bits. On a GPU those are unpacked for every product. On a CPU, where
    unpacking takes as long as half of the product, the matrix is kept unpacked: laid out for oneDNN, for both
    directions; or, if ``lean``, once, in bfloat16, which takes a quarter of the memory in float32.
    """

    def __init__(self, layers: list, *, lean: bool = False):
        self.layers, self.lean = layers, lean
        self.kept = {}

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x @ W.T + bias``. x: (tokens, in)."""
        biases = [layer.bias for layer in self.layers if layer.bias is not None]
        bias = _joined(biases).to(x.dtype) if biases else None
        if x.is_cuda or self.lean:
            return F.linear(x, self._plain(x), bias)
        return _product(x, self._keep(x.dtype)[0], bias)

    def multiply_back(self, grad: torch.Tensor) -> torch.Tensor:
        """Return ``grad @ W``. grad: (tokens, sum of out)."""
        if grad.is_cuda or self.lean:
            return grad @ self._plain(grad)
        return _product(grad, self._keep(grad.dtype)[1], None)

    def _plain(self, x: torch.Tensor) -> torch.Tensor:
        """Return the matrix in the type of ``x``, in its usual layout."""
        if x.is_cuda:
            return self._unpacked(x.dtype)
        if "plain" not in self.kept:
            packed = any(is_four_bit(layer) for layer in self.layers)  # others take no room of their own
            self.kept["plain"] = self._unpacked(torch.bfloat16 if packed else x.dtype)
        return self.kept["plain"].to(x.dtype)

    def _keep(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        if dtype not in self.kept:
            matrix = self._unpacked(dtype)
            self.kept = {dtype: (_laid_out(matrix), _laid_out(matrix.T.contiguous()))}
        return self.kept[dtype]

    def _unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        return _joined([_unpacked(layer, dtype) for layer in self.layers])


def is_four_bit(layer) -> bool:
    """Whether the weight of a layer is quantized by bitsandbytes."""
    from bitsandbytes.nn import Linear4bit

    return isinstance(layer, Linear4bit)


def _unpacked(layer, dtype: torch.dtype) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    if not is_four_bit(layer):
        return layer.weight.detach().to(dtype)
    layer.unpack_for_training()  # after an evaluation on a CPU (four_bit)
    weight, state = layer.weight.data, layer.weight.quant_state
    if weight.is_cuda and state.nested:
        from tianji_helpers.training.fast import four_bit_gpu

        return four_bit_gpu.unpack(weight, state, dtype)
    return dequantize_4bit(weight, state).to(dtype)


# oneDNN lays a matrix out anew in every product, a tenth of its time, unless that is done beforehand; in
# float32, PyTorch takes another library otherwise, which is three times slower on some CPUs
def _laid_out(matrix: torch.Tensor) -> torch.Tensor:
    if not torch.backends.mkldnn.is_available():
        return matrix
    return torch.ops.mkldnn._reorder_linear_weight(matrix)


def _product(x: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if not matrix.is_mkldnn:
        return F.linear(x, matrix, bias)
    return torch.ops.mkldnn._linear_pointwise(x, matrix, bias, "none", [], "")


class LinearsWithAdapters(Function):
    """``x @ W.T + bias + scaling * (x @ a.T) @ b.T`` of layers that share an input, side by side.

    x: (batch, length, in). matrices: the layers' frozen ``W``. scalings: a number for each layer. adapters:
    ``a``, (r, in), and ``b``, (out, r), for each layer, float32. Returns (batch, length, sum of out).
    Saves ``x`` and ``scaling * x @ a.T``.
    """

    @staticmethod
    def forward(ctx, x, matrices, scalings, *adapters):
        shape, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
        out, saved = _multiply(x, matrices, scalings, adapters)
        ctx.save_for_backward(x, *saved)
        ctx.matrices, ctx.scalings = matrices, scalings
        return out.view(*shape, -1)

    @staticmethod
    def backward(ctx, grad):
        shape, grad = grad.shape[:-1], grad.reshape(-1, grad.shape[-1])
        wanted = ctx.needs_input_grad[0]
        grad_x, grads = _multiply_back(grad, ctx.matrices, ctx.scalings, ctx.saved_tensors, wanted)
        return grad_x.view(*shape, -1) if wanted else None, None, None, *grads


class GatedFeedForward(Function):
    """``down(silu(gate(x)) * up(x))`` of three layers with adapters, on a GPU, by liger-kernel.

    x: (batch, length, in). layers: for gate, up and down, their ``matrices`` and ``scalings`` as
    ``LinearsWithAdapters`` takes them. adapters: ``a`` and ``b`` of each. Saves no product: to compute it
    again is one walk over memory, to keep it a fifth of all activations.
    """

    @staticmethod
    def forward(ctx, x, layers, *adapters):
        from liger_kernel.ops.swiglu import swiglu_forward

        shape, x = x.shape[:-1], x.reshape(-1, x.shape[-1])
        gate, of_gate = _multiply(x, *layers[0], adapters[:2])
        up, of_up = _multiply(x, *layers[1], adapters[2:4])
        out, of_down = _multiply(swiglu_forward(gate, up)[2], *layers[2], adapters[4:])
        ctx.save_for_backward(x, gate, up, *of_gate, *of_up, *of_down)
        ctx.layers = layers
        return out.view(*shape, -1)

    @staticmethod
    def backward(ctx, grad):
        from liger_kernel.ops.swiglu import swiglu_backward, swiglu_forward

        x, gate, up, *saved = ctx.saved_tensors
        shape, grad = grad.shape[:-1], grad.reshape(-1, grad.shape[-1])
        product = swiglu_forward(gate, up)[2]
        grad, by_down = _multiply_back(grad, *ctx.layers[2], (product, *saved[6:]))
        gate, up = swiglu_backward(gate, up, grad)  # the gradients take their place
        grad_x, by_gate = _multiply_back(gate, *ctx.layers[0], (x, *saved[:3]))
        by_x, by_up = _multiply_back(up, *ctx.layers[1], (x, *saved[3:6]))
        return grad_x.add_(by_x).view(*shape, -1), None, *by_gate, *by_up, *by_down


def _multiply(x, matrices, scalings, adapters) -> tuple[torch.Tensor, tuple]:
    """Return what layers with adapters give, and what is to be saved beside ``x``, (tokens, in)."""
    a = _joined(adapters[::2]).to(x.dtype)
    bs = [b.to(x.dtype) for b in adapters[1::2]]
    low = x @ a.T
    out = matrices.multiply(x)
    for part, low_part, b, scaling in zip(*_split(bs, out, low), bs, scalings, strict=True):
        part.addmm_(low_part.mul_(scaling), b.T)
    return out, (low, a, *bs)


def _multiply_back(grad, matrices, scalings, saved, wanted: bool = True) -> tuple[torch.Tensor | None, list]:
    """Return the gradients of ``x``, if it is wanted, and of each adapter's ``a`` and ``b``."""
    x, low, a, *bs = saved
    grads, lows = _split(bs, grad, low)
    grad_low = [(part @ b).mul_(s) for part, b, s in zip(grads, bs, scalings, strict=True)]
    grad_low = _joined(grad_low, 1)
    grad_x = matrices.multiply_back(grad).addmm_(grad_low, a) if wanted else None
    grad_as = _in_float32(grad_low.T, x).split([b.shape[1] for b in bs])
    grad_bs = (_in_float32(part.T, low_part) for part, low_part in zip(grads, lows, strict=True))
    return grad_x, [part for pair in zip(grad_as, grad_bs, strict=True) for part in pair]


def _in_float32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else (a @ b).float()


class FrozenLinears(Function):
    """``x @ W.T + bias`` of layers that share an input, side by side. x: (batch, length, in)."""

    @staticmethod
    def forward(ctx, x, matrices):
        ctx.matrices = matrices
        return matrices.multiply(x.flatten(0, -2)).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        return ctx.matrices.multiply_back(grad.flatten(0, -2)).view(*grad.shape[:-1], -1), None


def _joined(parts, dim: int = 0) -> torch.Tensor:
    return torch.cat(tuple(parts), dim) if len(parts) > 1 else parts[0]


def _split(bs, out, low) -> tuple:
    return out.split([len(b) for b in bs], 1), low.split([b.shape[1] for b in bs], 1)


class FrozenHead(Function):
    """Mean negative log-likelihood of the next tokens, by a frozen head.

    hidden: (tokens, in). matrices: the head. needed: (n,), the rows that some answer needs. targets: (n,).
    Without any it is 0. Computes in float32, some rows at a time, and saves the gradient.
    """

    @staticmethod
    def forward(ctx, hidden, matrices, needed, targets):
        count = len(needed)
        # a product's shape is one of few (``round_up``); what is repeated counts for nothing
        rows = F.pad(needed, (0, round_up(max(count, 1)) - count))
        scores = matrices.multiply(hidden.index_select(0, rows))
        scores[count:] = 0
        total = torch.zeros(())
        for part, target in zip(scores[:count].split(_ROWS), targets[:, None].split(_ROWS), strict=True):
            logs = part.log_softmax(-1, dtype=torch.float32)
            chosen = logs.gather(1, target)
            total -= chosen.sum()
            part.copy_(logs.exp_().scatter_(1, target, chosen.exp_().sub_(1)).div_(count))
        if ctx.needs_input_grad[0]:
            grad = matrices.multiply_back(scores)[:count]
            ctx.save_for_backward(torch.zeros_like(hidden).index_copy_(0, needed, grad))
        return total / max(count, 1)

    @staticmethod
    def backward(ctx, grad):
        (by_hidden,) = ctx.saved_tensors
        return by_hidden * grad.to(by_hidden.dtype), None, None, None


class RootMeanSquareNorm(Function):
    """``x / rms(x) * (1 + weight)`` over the last dimension; the root mean square is computed in float32.

    weight: frozen. Saves ``x / rms(x)`` and the inverse of the root mean square, (…, 1).
    """

    @staticmethod
    def forward(ctx, x, weight, eps):
        unit, inverse = _unit(x, eps)
        ctx.save_for_backward(unit, inverse, weight)
        return torch.addcmul(unit, unit, weight)

    @staticmethod
    def backward(ctx, grad):
        unit, inverse, weight = ctx.saved_tensors
        grad = torch.addcmul(grad, grad, weight)
        return _unit_backward(grad, unit, inverse, grad), None, None


def _unit(x, eps):
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
    return x * inverse, inverse


def _unit_backward(grad, unit, inverse, out):
    """Write the gradient of ``x`` by that of ``x / rms(x)``, which is lost."""
    along = torch.linalg.vecdot(grad, unit)[..., None]
    return torch.mul(grad.addcmul_(unit, along, value=-1 / unit.shape[-1]), inverse, out=out)


class NormAndRotate(Function):
    """Norm and rotary positions of the first heads of x; the others stay as they are.

    x: (tokens, heads, d). weight: (rotated heads, d), of the norm, frozen. cos, sin: (tokens, 1, d). Pairs
    that are turned are half of d apart.
    """

    @staticmethod
    def forward(ctx, x, weight, eps, cos, sin):
        turned = len(weight)
        unit, inverse = _unit(x[:, :turned], eps)
        ctx.save_for_backward(unit, inverse, weight, cos, sin)
        out = torch.empty_like(x)
        out[:, turned:] = x[:, turned:]
        _rotate(torch.addcmul(unit, unit, weight), cos, sin, out[:, :turned])
        return out

    @staticmethod
    def backward(ctx, grad):
        unit, inverse, weight, cos, sin = ctx.saved_tensors
        turned = len(weight)
        out = torch.empty_like(grad)
        out[:, turned:] = grad[:, turned:]
        part = _rotate(grad[:, :turned], cos, -sin, torch.empty_like(unit))
        _unit_backward(part.addcmul_(part, weight), unit, inverse, out[:, :turned])
        return out, None, None, None, None


def _rotate(x, cos, sin, out):
    torch.mul(x, cos, out=out)
    half = x.shape[-1] // 2
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


class GatedGelu(Function):
    """``gelu(gate) * up`` with the tanh form of gelu, as ``x * sigmoid(2 * z)``: exp is cheaper than tanh.

    both: (…, 2 * width), gate and up side by side. Computes in float32; saves the derivatives.
    """

    @staticmethod
    def forward(ctx, both):
        gate, up = both.chunk(2, -1)
        x = gate.float()
        square, line = x * x, torch.tensor(_LINE)
        share = torch.add(line, square, alpha=_CUBE).mul_(x).sigmoid_()
        x = x * share  # not in place: in float32, x is the input itself
        gelu = x.to(both.dtype)
        # d gelu / dx = share + share * (1 - share) * x * d 2z / dx
        steep = torch.add(line, square, alpha=3 * _CUBE, out=square).mul_(x)
        slope = steep.addcmul_(steep, share, value=-1).add_(share).to(both.dtype)
        ctx.save_for_backward(slope.mul_(up), gelu)
        return gelu * up

    @staticmethod
    def backward(ctx, grad):
        by_gate, by_up = ctx.saved_tensors
        out = grad.new_empty(*grad.shape[:-1], 2 * grad.shape[-1])
        for part, by in zip(out.chunk(2, -1), (by_gate, by_up), strict=True):
            torch.mul(grad, by, out=part)
        return out


_LINE = 2 * (2 / math.pi) ** 0.5  # of 2z = _LINE * x + _CUBE * x ** 3
_CUBE = 0.044715 * _LINE
