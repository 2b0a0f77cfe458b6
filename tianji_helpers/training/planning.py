"""What a training is going to use, worked out and checked before anything of it is loaded."""

import importlib.util
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import configs, data, inspection, models
from tianji_helpers.training.configs import load_config, part

_LEAST_STEPS, _LEAST_WARMUP = 4, 2  # with fewer, the learning rate stays near 0


@dataclass(frozen=True)
class TrainingPlan:
    """What is going to be used; as text, a table.

    config: with all changes. batches: of one epoch. epochs: of the whole training, None where the config
    counts steps; steps: of the same. warmup: those in which the learning rate rises; asked_warmup: those that
    the config says, which may be too few to rise at all. changes: what was asked to differ from the file.
    """

    config: object
    rows: data.Rows
    validation: data.Rows | None
    model_dir: Path
    batches: int
    epochs: float | None
    steps: int
    warmup: int
    asked_warmup: float
    changes: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        cfg = self.config
        lora = configs.lora(cfg)
        accumulated = cfg.optim_wrapper.get("accumulative_counts", 1)
        lines = {
            "训练数据": f"{self.rows}每轮用 {_used(cfg, self.rows)}。",
            "验证数据": f"{paths.told(self.validation.path)}　{self.validation.silence}".rstrip()
            if self.validation
            else "没有",
            "基座模型": paths.told(self.model_dir),
            "步数": f"{self.steps}"
            + (f"（{self.epochs:g} 轮，每轮 {self.batches} 批）" if self.epochs else ""),
            "每批": f"{cfg.train_dataloader.batch_size}"
            + (
                f"，攒 {accumulated} 批更新一次，一共更新 {-(-self.steps // accumulated)} 次"
                if accumulated > 1
                else ""
            ),
            "热身": f"{self.warmup} 步"
            + (
                f"（配置里只有 {self.asked_warmup:.3g} 步，学习率会升不起来，所以改了）"
                if self.warmup > self.asked_warmup >= 0
                else ""
            ),
            "学习率": f"{part(cfg, 'optim_wrapper.optimizer.lr'):g}",
            "LoRA": f"r={lora.r}，alpha={lora.lora_alpha}" if lora else "",
            "种子": f"{cfg.get('randomness', {}).get('seed')}",
            "改过的": "，".join(f"{name}={value!r}" for name, value in self.changes.items()),
        }
        return "\n".join(["这次训练真正会用的：", *(f"  {n}：{text}" for n, text in lines.items() if text)])


def plan_training(
    config: str | Path, cfg_options: dict | None = None, *, deepspeed: str | None = None
) -> TrainingPlan:
    """Return what a training is going to use, every row of it looked at (see ``data.look``).

    A warm-up of less than two steps, after which the learning rate stays near 0, becomes one of two.
    Raises CourseError for what would go wrong minutes later: a setting that changes nothing, no GPU for
    a GPU config, 4-bit weights under ZeRO-3, a missing model or data file, a tower, features and a projector
    that don't fit, a row that the config cannot use, or so few steps that the learning rate never rises.
    """
    cfg = load_config(config, cfg_options)
    check_settings(cfg, deepspeed)
    _check_gpu(cfg)
    if deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise CourseError(
            "没有安装 DeepSpeed。请先运行 pip install -r configs/deepspeed/requirements.txt，"
            "或去掉 --deepspeed：只设 NPROC_PER_NODE 也能用多张卡。"
        )
    model_dir = configs.find_model(cfg)
    model = inspection.inspect_model(model_dir)
    inspection.check_architecture(model)
    if "visual_encoder" in cfg.model:
        _check_sight(cfg, model.config.get("hidden_size"))
    _check_length(cfg)
    rows = _look(cfg, "train_dataloader")
    validation = _look(cfg, "val_dataloader") if cfg.get("val_dataloader") else None
    count = batches(cfg, rows)
    epochs = None if "max_iters" in cfg.train_cfg else cfg.train_cfg.get("max_epochs")
    steps, asked, warmup = _set_steps(cfg, rows)  # of a part of an epoch it makes steps
    changes = {
        name: str(value) if isinstance(value, Path) else value for name, value in (cfg_options or {}).items()
    }
    return TrainingPlan(cfg, rows, validation, model_dir, count, epochs, steps, warmup, asked, changes)


def check_settings(cfg, deepspeed: str | None = None) -> None:
    """Raise CourseError for settings that cannot be trained with, whatever the machine and the data.

    An estimate asks this as well: memory for what is never trained is no answer.
    """
    # DeepSpeed 0.18.9 stops in the first gathering of weights: "all params must have the same dtype"
    if deepspeed and configs.zero_stage(deepspeed) == 3 and "quantization_config" in part(cfg, "model.llm"):
        raise CourseError(
            f"{deepspeed} 不能切分 4 位权重和它的适配器。QLoRA 请用 deepspeed_zero2"
            "（4 位的 7B 每张卡只占 4 GB）；deepspeed_zero3 留给全量微调，见 configs/ 里名字带 _full 的配置。"
        )
    if steps := part(cfg, "train_cfg").get("max_iters"):
        _check_steps(steps)


def _check_sight(cfg, hidden: int | None) -> None:
    """Raise CourseError unless tower, kept features, projector and language model (``hidden``) fit."""
    width = models.read_tower(part(cfg, "model.visual_encoder.pretrained_model_name_or_path"))["hidden_size"]
    if not (named := part(cfg, "train_dataloader.dataset").get("features")):
        raise CourseError(
            "配置里的模型要看图（有 visual_encoder），train_dataloader.dataset 里却没有 features。"
            "请像 configs/_base_/see.py 那样写：type=SeenRows，再用 features 指明视觉特征，即 "
            "seeing.rows.compute_features 算出的文件；或换成不看图的配置。"
        )
    features = paths.resolve(named)
    again = "请用这座塔重新算视觉特征（seeing.rows.compute_features）。"
    if not features.is_file():
        raise CourseError(f"没有视觉特征 {paths.told(features)}。{again}")
    shapes = inspection.read_shapes(features)
    if not shapes:
        raise CourseError(f"{paths.told(features)} 里一张图片也没有。{again}")
    if others := [shape for shape in shapes.values() if shape[-1:] != (width,)]:
        found = others[0][-1] if others[0] else 1
        raise CourseError(f"{paths.told(features)} 里每个词元 {found} 个数，视觉塔是 {width} 个。{again}")
    if not cfg.model.get("projector_dir"):
        return
    projector = paths.resolve(cfg.model.projector_dir)
    file = projector / "config.json"
    said = records.read_json(file) if file.is_file() else {}
    names = ("visual_hidden_size", "llm_hidden_size")
    if not isinstance(said, dict) or not all(name in said for name in names):
        raise CourseError(
            f"{paths.told(projector)} 里没有投影层。请先做第一阶段（pretrain），再转换它的检查点。"
        )
    if (sides := tuple(said[name] for name in names)) != (width, hidden):
        raise CourseError(
            f"投影层 {paths.told(projector)} 从 {sides[0]} 个数到 {sides[1]} 个，这里的视觉塔是 {width}，"
            f"语言模型是 {hidden}：它是在别的塔或别的模型上训练的。请用同一座塔、同一个模型做第一阶段。"
        )
    inspection.read_shapes(projector / inspection.WEIGHTS)


def _check_length(cfg) -> None:
    """Raise CourseError for less than an epoch that is too short however long its rows are.

    Before one is looked at: that depends on their number, so they are counted. Packing makes them fewer.
    """
    if not cfg.train_cfg.get("max_iters") and (length := part(cfg, "train_cfg.max_epochs")) < 1:
        _check_rows_file(cfg, "train_dataloader")
        dataset = cfg.train_dataloader.dataset
        found = data.count(dataset)
        rows = min(found, dataset.get("max_dataset_length") or found)
        count = max(1, -(-rows // (cfg.train_dataloader.batch_size * processes())))
        used = f"{rows} 条数据" + ("，打包以后还会更少" if dataset.get("pack_to_max_length", True) else "")
        _check_steps(math.ceil(length * count), length, count, used)


def _check_steps(steps: int, epochs: float | None = None, count: int = 0, used: str = "") -> None:
    """Raise CourseError for so few steps that the learning rate would hardly rise.

    epochs: None where steps are counted; else ``count`` batches make one, of what ``used`` says.
    """
    if steps >= _LEAST_STEPS:
        return
    if epochs is None:
        long, fix = "", f"请把步数 max_iters 提高到 {_LEAST_STEPS} 以上。"
    else:
        least = _LEAST_STEPS / count
        digits = 10 ** (2 - math.floor(math.log10(least)))
        long = f"（{used}，{count} 批，{epochs:g} 轮）"
        fix = f"请增加数据，或把轮数 max_epochs 提高到 {math.ceil(least * digits) / digits:g} 以上。"
    raise CourseError(
        f"一共只有 {steps} 步{long}，至少要 {_LEAST_STEPS} 步，不然学习率还没升起来就结束了。{fix}"
    )


def _check_rows_file(cfg, dataloader: str) -> None:
    path = paths.resolve(part(cfg, f"{dataloader}.dataset.dataset.data_files.train"))
    if not path.is_file():
        training = dataloader == "train_dataloader"
        what, name = ("训练数据", "data_path") if training else ("验证数据", "validation_path")
        state = (
            "不是一个文件，请写到文件"
            if path.exists()
            else f"不存在。请检查路径（{name}），或先运行生成它的那一课"
        )
        raise CourseError(f"配置里的{what} {paths.told(path)} {state}。")


def _look(cfg, dataloader: str) -> data.Rows:
    _check_rows_file(cfg, dataloader)
    return data.look(cfg[dataloader].dataset)


def processes() -> int:
    """How many processes train together. Raises CourseError if the environment says nonsense."""
    text = os.environ.get("NPROC_PER_NODE", "1")  # XTuner's own name for it
    if not text.isdecimal() or int(text) < 1:
        raise CourseError(f"环境变量 NPROC_PER_NODE 是 {text!r}，应当是至少 1 的整数（几张卡就写几）。")
    return int(text)


def batches(cfg, rows: data.Rows) -> int:
    """Return how many batches an epoch of the config has; rows: as ``check_config`` returns them."""
    return -(-_count(cfg, rows) // (cfg.train_dataloader.batch_size * processes()))


def _count(cfg, found: data.Rows) -> int:
    """Return the rows of an epoch; packed ones are as long as the limit."""
    dataset = cfg.train_dataloader.dataset
    usable = len(found.lengths) - found.unlearnt
    rows = min(usable, dataset.get("max_dataset_length") or usable)
    if not dataset.get("pack_to_max_length", True):
        return rows
    kept = zip(found.lengths, found.seen, strict=True)
    tokens = sum(min(length, found.max_length) for length, seen in kept if seen) * rows / usable
    return max(1, int(tokens / found.max_length))


def _used(cfg, rows: data.Rows) -> str:
    """Say how much of the rows an epoch has."""
    packed = cfg.train_dataloader.dataset.get("pack_to_max_length", True)
    return f"{_count(cfg, rows)} " + (f"行，每行 {rows.max_length} 个词元" if packed else "条数据")


def _set_steps(cfg, rows: data.Rows) -> tuple[int, float, int]:
    """Return the steps of a training, those of the warm-up that was asked for, and those it has.

    Both are made what they are in the config: a part of an epoch becomes steps, too short a warm-up longer.
    Raises CourseError if there are so few steps that the learning rate would hardly rise.
    """
    count, used = batches(cfg, rows), _used(cfg, rows)
    by_epoch = "max_iters" not in cfg.train_cfg
    length = part(cfg, f"train_cfg.{'max_epochs' if by_epoch else 'max_iters'}")
    steps = math.ceil(length * count) if by_epoch else length
    if by_epoch and length % 1:  # XTuner stops at a number of steps that is not whole
        cfg.train_cfg.pop("max_epochs")
        cfg.train_cfg.max_iters = steps
    _check_steps(steps, length if by_epoch else None, count, used)
    schedulers = cfg.get("param_scheduler")
    if not isinstance(schedulers, list) or len(schedulers) != 2 or "end" not in schedulers[0]:
        return steps, -1.0, 0  # another schedule than ours: whoever wrote it knows
    warmup, decay = schedulers
    scale = count if warmup.get("by_epoch", True) else 1
    asked = warmup.end * scale
    if scale == 1 and int(share := cfg.get("warmup_ratio", 0) * steps) == asked:
        asked = share  # of which only whole steps stand in the config
    if asked < _LEAST_WARMUP:
        # half a step more, because XTuner rounds down
        warmup.end = decay.begin = (_LEAST_WARMUP + 0.5) / scale if scale > 1 else _LEAST_WARMUP
        if "warmup_ratio" in cfg:
            cfg.warmup_ratio = warmup.end / length
    return steps, asked, int(warmup.end * scale)


def _check_gpu(cfg) -> None:
    import torch

    if part(cfg, "env_cfg.dist_cfg.backend") == "nccl" and not torch.cuda.is_available():
        raise CourseError(
            "这个配置只能在 GPU 上训练（dist_cfg 的 backend 是 nccl），而 PyTorch 没有找到 GPU。"
            "请用 tianji doctor 检查驱动，或换成 configs/ 里名字带 _cpu 的配置。"
        )
