"""How much memory a training needs, and how much is computed, from its config before anything is loaded.

The model is built without weights, so its parameters are counted, not guessed; what it keeps for the
backward pass is counted tensor by tensor for a decoder layer of the Llama family (InternLM2, Qwen2,
Qwen3, Gemma 3 differ little). Every token counts; where the samples of a batch begin alike, less is needed,
for that is computed once (``packed_attention``), but how much less only the data can tell. Speed and memory
do not depend on the values of weights, so the benchmarks ``tests/benchmarks/bench_gpu.py`` and
``bench_vision.py`` hold this up against measured peaks. Of a model that sees, the tower has looked before
(``features``): its weights lie beside, and each picture is so many tokens more.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import formats, paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import configs, models, planning
from tianji_helpers.training.fast.acceleration import LEAN_FROM

CARDS_GB = (8, 12, 16, 24, 32, 40, 48, 80)
# what is not a tensor: the CUDA context, or Python with its libraries; and the allocator's gaps
_GPU_BASE_GB, _CPU_BASE_GB, _GAPS = 0.6, 1.0, 1.03
# bytes of a trained parameter, of its gradient, and of its optimizer state: AdamW keeps two moments in
# the type of the parameter; DeepSpeed computes in bfloat16 and keeps a float32 copy and float32 moments
_ADAPTER, _FULL, _DEEPSPEED = (4, 4, 8), (2, 2, 4), (2, 2, 12)
# DeepSpeed's defaults, which XTuner's configs leave as they are: elements of a bucket of gradients, of
# the weights that ZeRO-3 has gathered at a time, and of the group that its optimizer takes at a time
_BUCKET, _GATHERED, _GROUP = 5e8, 1e9, 1e9
_TEMPLATE = 20  # tokens of a chat template around a question and its answer
_REACHED = 0.5  # share of the rate of large products that a training reaches (bench_gpu.py, bench_cpu.py)


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of a training, GB (1e9 bytes) on each device.

    parts: Chinese name of a part to its size; they add up to ``tensors_gb``, which is what
    ``torch.cuda.max_memory_allocated`` measures. total_gb: with what is not a tensor. tokens: of a step.
    flops: of the whole training on all devices; 0 while its data are missing.
    """

    parts: dict[str, float]
    on_gpu: bool
    tokens: int
    flops: float = 0.0

    @property
    def tensors_gb(self) -> float:
        return sum(self.parts.values())

    @property
    def total_gb(self) -> float:
        return self.tensors_gb * _GAPS + (_GPU_BASE_GB if self.on_gpu else _CPU_BASE_GB)

    def __str__(self) -> str:
        lines = [f"{name:　<8}{size:>7.2f} GB" for name, size in self.parts.items()]
        where = "显存" if self.on_gpu else "内存"
        lines.append(f"{'合计':　<8}{self.tensors_gb:>7.2f} GB（每步 {self.tokens} 个词元）")
        lines.append(f"加上运行环境和碎片，约需 {self.total_gb:.1f} GB {where}。")
        return "\n".join(lines)


def estimate(
    config: str | Path, cfg_options: dict | None = None, *, deepspeed: str | None = None, devices: int = 1
) -> MemoryEstimate:
    """Return what a training by ``config`` needs on each of ``devices`` devices.

    cfg_options: dotted settings to change, as in training. deepspeed: XTuner's name of a DeepSpeed
    config; ZeRO-2 shares gradients and optimizer states among the devices, ZeRO-3 also the weights
    that are trained. Raises CourseError if the config or its model's ``config.json`` is missing, and as
    ``configs.change`` and ``planning.check_settings`` do.
    """
    if type(devices) is not int or devices < 1:
        raise CourseError(f"devices={devices!r}，应当是正整数：几张卡。")
    cfg = configs.load_config(config, cfg_options)
    planning.check_settings(cfg, deepspeed)
    model = _skeleton(cfg)
    linears, head = _linears(model)
    data, eyes = _read_data(cfg), _read_tower(cfg, model.config.hidden_size)
    length = cfg.train_dataloader.dataset.max_length
    if eyes and data:  # rows of pictures are not packed
        length = min(length, eyes.tokens + data.longest)
    tokens = cfg.train_dataloader.batch_size * length
    fused = cfg.model.get("fused", False)
    trained, quantized, kept = _parameters(cfg, model, linears, head)
    stage = configs.zero_stage(deepspeed) if deepspeed else 0
    lora, frozen = configs.lora(cfg), cfg.model.get("freeze_llm", False)
    weight, gradient, state = _DEEPSPEED if stage else _ADAPTER if lora or frozen else _FULL
    parts = {}
    if quantized:
        parts["四比特权重"] = quantized * (0.5 + _scales_bytes(cfg))
    if lora or frozen:
        if fused and not _on_gpu(cfg):
            # kept by operations.FrozenMatrices: once in bfloat16, or for both directions
            lean = model.num_parameters() > LEAN_FROM
            matrices = quantized or sum(layer.weight.numel() for layer in linears)
            parts["展开的权重"] = quantized * 2 if lean else (matrices + head.weight.numel()) * 2 * _wide(cfg)
        parts["其余权重"] = kept * (_wide(cfg) if fused else 4)
    if eyes:
        parts["视觉塔"] = eyes.weights
        parts["投影层"] = eyes.projector * weight
    if lora or not frozen:
        parts["适配器" if lora else "权重"] = trained * weight / (devices if stage == 3 else 1)
    learning = trained + (eyes.projector if eyes else 0)
    parts["梯度"] = learning * gradient / (devices if stage >= 2 else 1)
    parts["优化器状态"] = learning * state / (devices if stage >= 1 else 1)
    answers = data.answers / data.tokens(eyes) if data else 1.0
    saved, moment = _activations(cfg, model.config, linears, head, tokens, trained, fused, answers)
    if eyes:  # what the tower said, and what the projector keeps of it, in float32
        pictures = cfg.train_dataloader.batch_size * eyes.tokens
        saved += pictures * (eyes.width + 3 * model.config.hidden_size) * 4
    backward, step = _deepspeed(stage, trained / devices)
    parts["激活值"] = saved
    parts["一时的峰值"] = max(moment + backward, step - saved)  # no activations are left in a step
    flops = 0.0
    if data:
        if not cfg.train_dataloader.dataset.get("pack_to_max_length", True):  # they are as long as they are
            length = min(length, data.tokens(eyes) / max(1, data.rows))
        # each card has a batch in a step
        steps = (cfg.train_cfg.get("max_iters") or 0) * cfg.train_dataloader.batch_size * devices
        count = steps * length or cfg.train_cfg.max_epochs * data.tokens(eyes)
        flops = count * _flops(cfg, model, linears, head, answers)
    return MemoryEstimate({k: v / 1e9 for k, v in parts.items()}, _on_gpu(cfg), tokens, flops)


def verdict(result: MemoryEstimate, available_gb: float | None) -> str:
    """Say in a sentence whether it fits into ``available_gb`` (None: no such device here)."""
    if available_gb is None:
        fitting = next((size for size in CARDS_GB if size >= result.total_gb), None)
        card = f"一张 {fitting} GB 的卡放得下" if fitting else f"要多张卡，或一张大于 {CARDS_GB[-1]} GB 的卡"
        return f"这台机器上没有 GPU。{card}。"
    if available_gb >= result.total_gb:
        return f"这台机器有 {available_gb:.1f} GB，放得下。"
    return (
        f"这台机器只有 {available_gb:.1f} GB，还差 {result.total_gb - available_gb:.1f} GB。依次试试："
        "model.recompute_share 调到 0.5 或 1（多算换显存），调小 max_length，换小一号的模型。"
    )


def available_gb(on_gpu: bool) -> float | None:
    """Return the memory of the first GPU, or the free memory of this machine; None without a GPU."""
    if not on_gpu:
        import psutil

        return psutil.virtual_memory().available / 1e9
    import torch

    return torch.cuda.mem_get_info()[1] / 1e9 if torch.cuda.is_available() else None


def minutes(result: MemoryEstimate, devices: int = 1) -> str:
    """Say how long a training takes at this machine's speed, or at 100 TFLOP/s where the GPU is elsewhere."""
    import torch

    from tianji_helpers.training import inference

    if not result.flops:
        return "训练数据还不在，说不出要多久。"
    if not result.on_gpu:
        rate, where = _REACHED * matmul_rate(inference.cpu_dtype()), "按这台机器的速度"
    elif torch.cuda.is_available():
        rate, where = _REACHED * matmul_rate("bfloat16", "cuda"), "按这台机器的速度"
    else:
        rate, where = 100e12, "一张实际跑到 100 TFLOP/s 的卡"
    took = result.flops / rate / devices / 60
    return f"整个训练约 {result.flops / 1e15:.3g} PFLOP，{where}约 {took:.1f} 分钟（不含加载和试答）。"


def matmul_rate(dtype: str, device: str = "cpu", seconds: float = 1.0) -> float:
    """Return a device's FLOP/s on products of large random matrices: the median of some seconds."""
    import torch

    size, wait = (8192, torch.cuda.synchronize) if device == "cuda" else (2048, lambda: None)
    a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    a @ b
    wait()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        a @ b
        wait()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(times)


def flops_per_token(config: str | Path) -> float:
    """Return the floating-point operations that training on one token takes, without recomputation.

    A weight that a token is multiplied by costs 2 forward, 2 for the gradient of the input, and 2 for
    its own gradient if it is trained. Attention within short samples is left out (1.5 % for the small
    model and wishes, less for larger models).
    """
    cfg = configs.load_config(config)
    model = _skeleton(cfg)
    linears, head = _linears(model)
    return _flops(cfg, model, linears, head)


def _flops(cfg, model, linears, head, answers: float = 1.0) -> float:
    """answers: the share of tokens that the head is applied to."""
    trained, _, _ = _parameters(cfg, model, linears, head)
    matrices = sum(layer.weight.numel() for layer in linears) + head.weight.numel() * answers
    if not configs.lora(cfg) and not cfg.model.get("freeze_llm"):
        return 6 * matrices
    return 4 * matrices + 6 * trained


def _skeleton(cfg):
    """The model of a config without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tianji_helpers.training import internlm2

    folder = configs.find_model(cfg)
    internlm2.register()
    plain = {"trust_remote_code": False}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, **plain), **plain)


def _linears(model) -> tuple[Sequence, object]:
    """The matrices of the layers, and the head."""
    from torch import nn

    head = model.get_output_embeddings()
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head], head


def _parameters(cfg, model, linears, head) -> tuple[int, int, int]:
    """Numbers of trained, quantized and other parameters."""
    total = sum(part.numel() for part in model.parameters())  # a tied head counts once
    lora = configs.lora(cfg)
    quantized = 0
    if "quantization_config" in cfg.model.llm:
        quantized = sum(layer.weight.numel() for layer in linears)
    if not lora:
        return (0, quantized, total - quantized) if cfg.model.get("freeze_llm") else (total, 0, 0)
    adapted = list(linears)
    if not cfg.model.get("fused", False) and not any(
        m is head and name.endswith("lm_head") for name, m in model.named_modules()
    ):
        adapted.append(head)  # XTuner leaves only a head of that name without an adapter
    trained = sum(lora.r * (layer.in_features + layer.out_features) for layer in adapted)
    return trained, quantized, total - quantized


def _scales_bytes(cfg) -> float:
    """Bytes a weight for the scales of its block of 64; double quantization stores them in 8 bits."""
    double = cfg.model.llm.quantization_config.get("bnb_4bit_use_double_quant", False)
    return 1 / 64 + 4 / (64 * 256) if double else 4 / 64


def _deepspeed(stage: int, trained: float) -> tuple[float, float]:
    """Bytes that DeepSpeed needs for a moment, beside its share, in a backward pass and in a step.

    trained: parameters of one device. In a step their gradients are laid out in a row and then copied
    to float32: of all of them at once, in ZeRO-3 of one group after the other. Source: DeepSpeed 0.18.9,
    runtime/zero/stage_1_and_2.py and stage3.py, ``step``.
    """
    if stage == 3:
        return 2 * (_BUCKET + _GATHERED), 2 * _BUCKET + (2 + 4) * min(trained, _GROUP)
    return (2 * 2 * _BUCKET, (2 + 4) * trained) if stage else (0, 0)


def _activations(
    cfg, hf, linears, head, tokens: int, trained: int, fused: bool, answers: float
) -> tuple[float, float]:
    """Bytes of what is kept for the backward pass, and of what the loss or one layer needs for a moment."""
    lora = configs.lora(cfg)
    hidden, inner, layers = hf.hidden_size, hf.intermediate_size, hf.num_hidden_layers
    head_dim = getattr(hf, "head_dim", None) or hidden // hf.num_attention_heads
    queries, keys = hf.num_attention_heads * head_dim, hf.num_key_value_heads * head_dim
    # two residual states and two norms' results; rotated queries, keys, values, attention's result;
    # gate, up, and their product, unless it is computed again (operations.GatedFeedForward)
    gated = fused and _on_gpu(cfg) and lora and hf.model_type != "gemma3_text"
    elements = 4 * hidden + 2 * queries + 2 * keys + (2 if gated else 3) * inner
    if not trained:  # a frozen matrix hands gradients on without its input
        elements -= 2 * hidden + inner
    if hf.model_type in ("gemma3_text", "qwen3"):  # what their norms of queries and keys were given
        elements += queries + keys
    rank = lora.r if lora else 0
    elements += rank * len(linears) / layers
    wide = _wide(cfg)
    size = wide if fused else 6  # float32 beside bfloat16
    full_layer = tokens * elements * size
    if fused and wide < 4:
        full_layer += trained / layers * wide  # the adapter in bfloat16
    recomputed = (
        cfg.model.get("recompute_share", 0.0)
        if fused
        else cfg.model.get("use_activation_checkpointing", True)
    )
    count = int(layers * recomputed)
    # kept by a recomputed layer: its input
    saved = (layers - count) * full_layer + count * tokens * hidden * (wide if fused else 4)
    # one layer at work: a matrix, and the gradients of gate, up and product
    largest = max(layer.weight.numel() for layer in linears) * wide
    work = largest + tokens * 3 * inner * wide + (full_layer if count else 0)
    # scores: with fused kernels only those of answers, and their gradient takes their place
    scores = tokens * head.weight.shape[0] * (wide * answers if fused else 10)
    # the scores are gone before the first layer goes backward
    return saved, max(scores, work)


@dataclass(frozen=True)
class _Data:
    """A file of rows, in characters, of which Chinese has about one a token. longest: of a row."""

    rows: int
    characters: int
    answers: int
    longest: int

    def tokens(self, eyes: "_Tower | None") -> int:
        return max(1, self.characters + (self.rows * eyes.tokens if eyes else 0))


def _read_data(cfg) -> _Data | None:
    """What the rows hold; None while they are missing."""
    dataset = cfg.train_dataloader.dataset
    file = paths.resolve(dataset.dataset.data_files.train)
    if not file.is_file():
        return None
    if "visual_encoder" in cfg.model:  # LLaVA's rows have no system prompt of their own, and no reader here
        more = len(dataset.dataset.get("system", "")) + _TEMPLATE
        rows = [
            _texts(row, f"{paths.told(file)} 第 {number} 条")
            for number, row in enumerate(records.iter_json_array(file), 1)
        ]
        answers = sum(len(text) for texts in rows for text in texts[1::2])
    else:
        more, answers, rows = 0, 0, []
        for _, turns in formats.read(file):
            rows.append([text for turn in turns for text in turn.values()])
            answers += sum(len(turn["output"]) for turn in turns)
    lengths = [more + sum(map(len, texts)) for texts in rows]
    return _Data(len(rows), sum(lengths), answers, max(lengths, default=0))


def _texts(row, where: str) -> list[str]:
    """Return what is said in a row of LLaVA's."""
    turns = row.get("conversations") if isinstance(row, dict) else None
    said = [turn.get("value") if isinstance(turn, dict) else None for turn in turns or ()]
    if not said or not all(isinstance(text, str) for text in said):
        raise CourseError(
            f"{where}不是看图训练的一条：要有 conversations，里面每一句有 from 和 value（字符串）。"
        )
    return said


@dataclass(frozen=True)
class _Tower:
    """tokens: of a picture. width: numbers of each. weights: bytes. projector: parameters before the LLM."""

    tokens: int
    width: int
    weights: float
    projector: int


def _read_tower(cfg, hidden: int) -> _Tower | None:
    """The tower of a model that sees, by its ``config.json``; None of one that doesn't."""
    if not (part := cfg.model.get("visual_encoder")):
        return None
    said = models.read_tower(part.pretrained_model_name_or_path)
    width = said["hidden_size"]
    projector = width * hidden + hidden + hidden * hidden + hidden
    if "grid" in said:  # ours; its few weights are not worth counting one by one
        return _Tower(said["grid"] ** 2, width, 3.4e6 * 4, projector)
    tokens = (said["image_size"] // said["patch_size"]) ** 2
    layers = said["num_hidden_layers"] * (4 * width + 2 * said["intermediate_size"]) * width
    weights = layers + (3 * said["patch_size"] ** 2 + tokens) * width
    return _Tower(
        tokens, width, weights * (2 if "bfloat16" in str(part.get("torch_dtype")) else 4), projector
    )


def _wide(cfg) -> int:
    """Bytes of a number in what is computed: some CPUs are faster in float32 (``inference.cpu_dtype``)."""
    return 4 if str(cfg.model.llm.get("torch_dtype")).endswith("float32") else 2


def _on_gpu(cfg) -> bool:
    return cfg.env_cfg.dist_cfg.backend == "nccl"
