"""The same training, faster: the same loss and gradients with fewer and larger operations.

Why: as XTuner and PEFT do it, a small model's step on a CPU is mostly small operations that walk over memory
once more, and a GPU waits for Python, or computes again what it could have kept. What each part buys,
measured by ``tests/benchmarks`` (the README has all figures, and the machines):

=====================  =====================================================================================
``packed_attention``   Samples stand in one row, without padding, and see themselves only; a system prompt
                       that all begin with is computed once a batch, which leaves two thirds of the tokens.
                       InternLM2-7B in 24 GB: 16,144 tokens/s with it, 12,110 without the shared prompt.
``operations``         A 4-bit layer with its adapter, norms with rotary positions, gated GELU and the head's
                       loss: each one operation with its own backward pass.
``acceleration``       Puts all that into a model, with liger-kernel on a GPU, and computes a chosen share of
                       the layers again. InternLM2-7B by the guide's own config: 3,252 tokens/s, 13.5 GB;
                       by ours, all layers computed again: 15,194 tokens/s, 10.2 GB. The default model on
                       two cores: about 830 tokens/s, 61 % of what their matrix products would allow.
``four_bit_gpu``       Unpacks a 4-bit matrix in one kernel, in half of bitsandbytes' time, with less Python.
``four_bit``           4-bit layers still train after an answer was sampled: on some CPUs their gradients
                       would vanish otherwise. Imports bitsandbytes without PyTorch's compiler.
=====================  =====================================================================================

Only PyTorch, transformers, PEFT, bitsandbytes and liger-kernel are used here, and nothing else of the course:
who wants to train without these paths leaves ``fused`` out of a config. Nothing that knows XTuner, files or
data may live here.
"""
