"""Quantize a GGUF file to 4 bits, with llama.cpp's own kernels.

llama.cpp's converter writes 8 bits at the least. Its K-quants (blocks of 256 weights with scales of
their own) are made by C code, which the package xllamacpp carries; what it does not carry is the
program that chooses a type for each tensor. That choice is made here as llama.cpp makes it for
``Q4_K_M``: 4 bits for most, 6 for the embedding and for half of the tensors that suffer most, 5 or 8
where a row is no multiple of 256, and 32 for vectors.
"""

import ctypes
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy
import xllamacpp.xllamacpp

from tianji_helpers.training.embedded import quick_reader

_BLOCK = 256
_ROWS = 1024  # a thread takes at a time
_FTYPE_Q4_K_M = 15  # llama.cpp's number for the mixture, kept in general.file_type
_DELICATE = re.compile(r"blk\.(\d+)\.(attn_v|ffn_down)\.weight")


def tensor_type(name: str, shape: tuple[int, ...], layers: int, tied: bool = True) -> str:
    """Return the type of one tensor in a ``Q4_K_M`` file.

    shape: rows first, so that ``shape[-1]`` is the length of a row. layers: how many the model has.
    tied: whether the embedding is the output matrix too.

    >>> tensor_type("blk.0.ffn_up.weight", (8192, 2048), 24), tensor_type("blk.0.ffn_up.weight", (8, 640), 24)
    ('Q4_K', 'Q5_0')
    >>> tensor_type("token_embd.weight", (92544, 2048), 24), tensor_type("output_norm.weight", (2048,), 24)
    ('Q6_K', 'F32')
    """
    if len(shape) == 1:
        return "F32"
    fine = name == "output.weight" or (tied and name == "token_embd.weight")
    if match := _DELICATE.fullmatch(name):
        layer, eighth = int(match[1]), layers // 8
        fine = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    if shape[-1] % _BLOCK:
        return "Q8_0" if fine else "Q5_0"
    return "Q6_K" if fine else "Q4_K"


def to_q4_k_m(source: str | Path, target: str | Path) -> None:
    """Write the GGUF file ``source`` (16 or 32 bits a weight) to ``target`` in ``Q4_K_M``.

    Memory: one tensor at a time in 32 bits.
    """
    with quick_reader():
        reader = gguf.GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    layers = reader.fields[gguf.Keys.LLM.BLOCK_COUNT.format(arch=architecture)].contents()
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
            continue  # the writer writes these
        value = _FTYPE_Q4_K_M if field.name == gguf.Keys.General.FILE_TYPE else field.contents()
        item_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=item_type)
    kinds = []
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        kind = gguf.GGMLQuantizationType[tensor_type(tensor.name, shape, layers, tied)]
        kinds.append(kind)
        stored = gguf.quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(tensor.name, stored, numpy.dtype("uint8"), math.prod(stored), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in zip(reader.tensors, kinds, strict=True):
        writer.write_tensor_data(_quantize(gguf.dequantize(tensor.data, tensor.tensor_type), kind))
    writer.close()


def _quantize(weights: numpy.ndarray, kind: gguf.GGMLQuantizationType) -> numpy.ndarray:
    """Return 32-bit weights as bytes of the given type, row by row; F32 stays as it is."""
    weights = numpy.ascontiguousarray(weights, dtype=numpy.float32)
    if kind == gguf.GGMLQuantizationType.F32:
        return weights
    kernel = ctypes.CDLL(xllamacpp.xllamacpp.__file__).ggml_quantize_chunk
    kernel.restype = ctypes.c_size_t
    # type, source, target, first weight, rows, weights a row, importance matrix
    kernel.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    row = weights.shape[-1]
    result = numpy.empty(gguf.quant_shape_to_byte_shape(weights.shape, kind), dtype=numpy.uint8)
    sources, targets = weights.reshape(-1, row), result.reshape(-1, result.shape[-1])

    def quantize_rows(start: int) -> None:
        part = sources[start : start + _ROWS]
        kernel(kind.value, part.ctypes.data, targets[start:].ctypes.data, 0, len(part), row, None)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(quantize_rows, range(0, len(sources), _ROWS)))
    return result
