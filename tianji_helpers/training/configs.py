"""Make the config of one run out of a config in ``configs/``.

XTuner's configs are Python, and what derives from other values (the end of the warm-up from the number of
epochs, six places that name the model) is computed when the file is read. Changing a setting therefore means
changing every place that depends on it: ``change`` does, for the settings that have a name (``SETTINGS``); it
takes any other place by its dotted name, and refuses what would change nothing. ``write_config`` writes one
plain, complete file, which is what the run uses and what a student can read afterwards.
"""

import copy
import difflib
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from reprlib import repr as brief

from tianji_helpers import paths
from tianji_helpers.errors import CourseError, check_known
from tianji_helpers.training import arguments

TASKS = ("wishes", "self_cognition", "ruozhiba", "own")
_VALIDATION_ROWS = 32  # more would cost the default training more than a few per cent of its time


def _is_template(value) -> bool:
    from xtuner.utils import PROMPT_TEMPLATE

    return isinstance(value, str) and value in PROMPT_TEMPLATE


_TEMPLATE = (_is_template, " XTuner 的一个对话模板，例如 gemma、qwen_chat、internlm2_chat")
_WHOLE = (lambda value: type(value) is int and value > 0, "正整数")
_COUNT = (lambda value: type(value) is int and value >= 0, "0 或正整数")
_AMOUNT = (lambda value: type(value) in (int, float) and 0 < value < math.inf, "大于 0 的数")
_SHARE = (lambda value: type(value) in (int, float) and 0 <= value < 1, " 0 到 1 之间的数（不到 1）")
_TEXT = (lambda value: isinstance(value, str), "文字")
_PATH = (lambda value: isinstance(value, (str, Path)) and str(value) != "", "路径")
_TEXTS = (
    lambda value: isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value),
    "一列文字",
)
_SEED = (lambda value: type(value) is int and 0 <= value < 2**32, " 0 到 4294967295 之间的整数")
_DTYPE = (lambda value: value in ("bfloat16", "float32"), " bfloat16 或 float32")
SETTINGS = {
    **dict.fromkeys(("model_dir", "data_path", "validation_path"), _PATH),
    **dict.fromkeys(("max_epochs", "lr", "lora_alpha"), _AMOUNT),
    **dict.fromkeys(("max_iters", "batch_size", "max_length", "lora_r", "every_n_iters"), _WHOLE),
    **{"prompt_template": _TEMPLATE, "system": _TEXT, "max_rows": _COUNT, "seed": _SEED},
    **{"warmup_ratio": _SHARE, "evaluation_inputs": _TEXTS, "dtype": _DTYPE},
}
TEXTS = tuple(name for name, kind in SETTINGS.items() if kind is _TEXT)
PATHS = (
    *(name for name, kind in SETTINGS.items() if kind is _PATH),
    *("load_from", "val_dataloader.dataset.dataset.data_files.train"),
    # of a model that sees
    *("train_dataloader.dataset.features", "val_dataloader.dataset.features", "model.projector_dir"),
    "model.visual_encoder.pretrained_model_name_or_path",
)
# where a setting stands in a config; whoever names that place means the setting
_DATA = "train_dataloader.dataset"
DATA_FILE = f"{_DATA}.dataset.data_files.train"
PLACES = {
    DATA_FILE: "data_path",
    f"{_DATA}.max_dataset_length": "max_rows",
    f"{_DATA}.max_length": "max_length",
    "train_dataloader.batch_size": "batch_size",
    "train_cfg.max_epochs": "max_epochs",
    "train_cfg.max_iters": "max_iters",
    "optim_wrapper.optimizer.lr": "lr",
    "model.lora.r": "lora_r",
    "model.lora.lora_alpha": "lora_alpha",
    "model.llm_lora.r": "lora_r",  # of a model that sees
    "model.llm_lora.lora_alpha": "lora_alpha",
    "model.llm.pretrained_model_name_or_path": "model_dir",
    "pretrained_model_name_or_path": "model_dir",
    "randomness.seed": "seed",
}
# XTuner's names of DeepSpeed's settings, and the stage of each
_STAGES = {"1": 1, "2": 2, "2_offload": 2, "3": 3, "3_offload": 3}
DEEPSPEED = {f"deepspeed_zero{name}": stage for name, stage in _STAGES.items()}
_SCHEDULED = ("begin", "end", "by_epoch", "convert_to_iter_based")  # all follow from epochs or steps
# what mmengine's runner reads of a config; any other name at its top was for the file itself
_READ = (
    *("model", "train_dataloader", "val_dataloader", "optim_wrapper", "param_scheduler", "train_cfg"),
    *("val_cfg", "val_evaluator", "default_hooks", "custom_hooks", "env_cfg", "log_processor", "log_level"),
    *("visualizer", "randomness", "load_from", "model_wrapper_cfg", "default_scope", "experiment_name"),
)


def default_config(task: str, model: str) -> Path:
    """Return the config in ``configs/`` for a task and a model of the catalogue.

    Rows of one's own train as the wishes do. Raises CourseError if there is none, naming those there are.
    """
    check_known(task, TASKS, "任务")
    stem = {"gemma-3-270m": "gemma3_270m_cpu"}.get(model, model.replace("-", "_").replace(".", "_"))
    path = paths.CONFIGS / f"{'wishes' if task == 'own' else task}_{stem}.py"
    if not path.is_file():
        known = "、".join(sorted(item.name for item in paths.CONFIGS.glob("*.py")))
        raise CourseError(
            f"configs/ 里没有任务 {task} 配模型 {model} 的配置 {path.name}。现有：{known}。"
            "可以复制一份来改，再用参数 config 指定它。"
        )
    return path


def load_config(path: str | Path, changes: Mapping[str, object] | None = None):
    """Read an XTuner config file; changes: as ``change`` takes them.

    Raises CourseError if it is missing or does not parse, and as ``change`` does.
    """
    from mmengine.config import Config

    path = paths.resolve(path)
    if not path.is_file():
        raise CourseError(f"找不到配置文件 {path}。configs/ 里有现成的配置。")
    if path.suffix not in (".py", ".json", ".yaml", ".yml"):
        raise CourseError(f"{path} 不是配置文件（.py）。训练数据写成 --cfg-options data_path=数据文件。")
    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # a config is a program: anything can go wrong in it
        alone = "_base_" in str(error) and "not found" in str(error)
        what = "它借用的文件不在旁边：请把配置连同 _base_ 文件夹一起复制。" if alone else ""
        raise CourseError(f"配置文件 {path} 读不进来：{what}{type(error).__name__}: {error}") from error
    if changes:
        change(cfg, changes)
    return cfg


def write_config(base: str | Path, target: str | Path, **settings) -> Path:
    """Write the config ``base`` with some settings changed to ``target`` and return ``target``.

    settings: names of ``SETTINGS``; what is None stays as it is in ``base``. model_dir: a Hugging Face
    folder. prompt_template: XTuner's name of its chat template. data_path: rows in any format of
    ``formats``. validation_path: rows whose loss is measured during the training, at most 32 of them: the
    best checkpoint is kept, and the training ends when three measurements in a row were not better by 0.01.
    max_rows: of a seeded sample; 0 means all. max_epochs: may be a fraction; max_iters: steps, instead.
    max_length: tokens. warmup_ratio: of all steps. every_n_iters: sample answers, measure the validation loss
    and save a checkpoint that often. dtype: ``bfloat16`` or ``float32``, of weights and matrix products.
    Raises CourseError for a setting that there is not, or a value that it cannot have.
    """
    for name in settings:
        check_known(name, SETTINGS, "设置")
    cfg = load_config(base, {name: value for name, value in settings.items() if value is not None})
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    cfg.dump(str(target))
    return target


def dump(cfg, path: Path) -> None:
    """Write a config for a program, which needs no layout (see ``xtuner_compat.format_configs_once``)."""
    from mmengine.config import Config

    Config(cfg.to_dict(), format_python_code=False).dump(path)


def settings(cfg) -> dict[str, int | float]:
    """Return the numbers of a loaded config that describe a training, by name; those that it has."""
    places = PLACES | {
        "optim_wrapper.accumulative_counts": "accumulative_counts",
        "model.llm.quantization_config.load_in_4bit": "load_in_4bit",
    }
    found = {}
    for place, name in places.items():
        with suppress(CourseError):
            found[name] = part(cfg, place)
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def change(cfg, options: Mapping[str, object]) -> None:
    """Change settings of a loaded config, or dotted places in it, wherever something depends on them.

    Raises CourseError for a name that would change nothing, naming one that would, and for a value of the
    wrong kind; the config is then not to be used.
    """
    named, dotted = {}, {}
    for key, value in options.items():
        name = PLACES.get(key, key)
        if name not in SETTINGS:
            dotted[key] = str(value) if isinstance(value, Path) else value
            continue
        fits, words = SETTINGS[name]
        if not fits(value):
            raise CourseError(f"{key} 是 {brief(value)}，应当是{words}。")
        if name in named and named[name] != value:
            raise CourseError(
                f"{name} 给了两个不同的值：{brief(named[name])} 和 {brief(value)}。请只写一个。"
            )
        named[name] = value
    _change_named(cfg, named)
    measured = "validation_path" in cfg
    if measured:
        _measure_validation_loss(cfg)  # which makes places that may be meant
    for place, value in dotted.items():
        _check_place(cfg, place, value)
    cfg.merge_from_dict(dotted)
    if measured:
        _measure_validation_loss(cfg)  # what is said of the rows to train with holds for these, too
        cfg.merge_from_dict(dotted)


def _change_named(cfg, named: dict) -> None:
    dataset = part(cfg, _DATA)
    for key in ("data_path", "validation_path", "model_dir"):
        if key in named:
            named[key] = _portable(named[key])
    if "model_dir" in named:
        named["pretrained_model_name_or_path"] = named["model_dir"]
    for model_part in _model_parts(cfg):
        if "model_dir" in named:
            model_part.pretrained_model_name_or_path = named["model_dir"]
    chat_hook = find_chat_hook(cfg)
    if "prompt_template" in named:
        named["prompt_template"] = f"xtuner.utils.PROMPT_TEMPLATE.{named['prompt_template']}"
        dataset.template_map_fn.template = named["prompt_template"]
        if chat_hook:
            chat_hook.prompt_template = named["prompt_template"]
    other_kind = "model.lora." if "visual_encoder" in cfg.model else "model.llm_lora."
    for place, name in PLACES.items():
        if place.startswith(other_kind):
            continue
        if name in named and name not in ("model_dir", "max_epochs", "max_iters", "max_rows"):
            above, _, key = place.rpartition(".")
            part(cfg, above)[key] = named[name]
    if named.get("max_rows") is not None:
        dataset.max_dataset_length = named["max_rows"] or None
    if {"max_epochs", "max_iters", "warmup_ratio"} & named.keys():
        _set_schedule(cfg, named)
    for key in ("every_n_iters", "evaluation_inputs", "system"):
        if key in named and not chat_hook and key != "every_n_iters":
            raise CourseError(f"{key} 没有地方放：配置的 custom_hooks 里没有试答（EvaluateChatHook）。")
        if key in named and chat_hook:
            chat_hook[key] = list(named[key]) if key == "evaluation_inputs" else named[key]
    if "every_n_iters" in named:
        part(cfg, "default_hooks.checkpoint").interval = named["every_n_iters"]
    if "dtype" in named:
        cfg.model.llm.torch_dtype = f"torch.{named['dtype']}"
        if "quantization_config" in cfg.model.llm:
            cfg.model.llm.quantization_config.bnb_4bit_compute_dtype = f"torch.{named['dtype']}"
    for key, value in named.items():  # the names at the top tell a reader what holds
        if key in cfg or key == "validation_path":
            cfg[key] = value


def _set_schedule(cfg, named: dict) -> None:
    """Set how long is trained, and warm-up and decay with it."""
    if "max_epochs" in named and "max_iters" in named:
        raise CourseError("max_epochs 和 max_iters 只能写一个：一个按轮数，一个按步数。")
    schedulers = cfg.get("param_scheduler")
    if not isinstance(schedulers, list) or len(schedulers) != 2 or "end" not in schedulers[0]:
        raise CourseError(
            "这个配置的 param_scheduler 不是“热身、余弦下降”两段；请在配置文件里把它和轮数、步数一起改。"
        )
    warmup, decay = schedulers
    length = cfg.train_cfg.get("max_iters") or part(cfg, "train_cfg.max_epochs")
    ratio = named.get("warmup_ratio", warmup.end / length)
    by_epoch = "max_epochs" in named or ("max_iters" not in named and "max_epochs" in cfg.train_cfg)
    length = named.get("max_epochs") or named.get("max_iters") or length
    for key in ("max_epochs", "max_iters"):
        cfg.train_cfg.pop(key, None)
    cfg.train_cfg["max_epochs" if by_epoch else "max_iters"] = length
    if not by_epoch:
        cfg.pop("max_epochs", None)
    for scheduler in schedulers:
        scheduler.by_epoch = by_epoch
        scheduler.pop("convert_to_iter_based", None)
        if by_epoch:
            scheduler.convert_to_iter_based = True
    warmup.end = decay.begin = ratio * length if by_epoch else int(ratio * length)
    decay.end = length


def part(cfg, place: str):
    """Return what stands in a place of a config; raises CourseError if nothing."""
    value = cfg
    for name in place.split("."):
        try:
            if isinstance(value, (list, tuple)):
                name = int(name) if name.isdecimal() else name
            value = value[name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise CourseError(
                f"配置里没有 {place}。请照 configs/ 里的配置写，或用 tianji train 自带的配置。"
            ) from None
    return value


def find_model(cfg) -> Path:
    """Return the folder of a config's model. Raises CourseError if there is no ``config.json`` in it."""
    folder = paths.resolve(part(cfg, "model.llm.pretrained_model_name_or_path"))
    if not (folder / "config.json").is_file():
        raise CourseError(
            f"配置里的模型文件夹 {paths.told(folder)} 里没有 config.json。"
            f"请先运行 tianji prepare-model {folder.name}，或改配置里的 pretrained_model_name_or_path。"
        )
    return folder


def find_chat_hook(cfg) -> dict | None:
    """Return the hook of a config that samples answers (``EvaluateChatHook``); None if it has none."""
    return next((hook for hook in cfg.get("custom_hooks") or [] if "evaluation_inputs" in hook), None)


def lora(cfg) -> dict | None:
    """Return the language model's adapter in a config, as either kind of model calls it; None without one."""
    return cfg.model.get("lora") or cfg.model.get("llm_lora")


def zero_stage(name: str) -> int:
    """Return the ZeRO stage of XTuner's name of a DeepSpeed config; raises CourseError for another name."""
    check_known(name, DEEPSPEED, " DeepSpeed 策略")
    return DEEPSPEED[name]


def _check_place(cfg, place: str, value: object) -> None:
    """Raise CourseError if a value in this place would change nothing, or is of another kind."""
    top, _, rest = place.partition(".")
    held = _can_hold(cfg, place) if rest else not isinstance(cfg.get(top, {}), (dict, list))
    why, better = "", ()
    if top == "param_scheduler" and rest.rpartition(".")[2] in _SCHEDULED:
        why, better = "它跟着轮数或步数走，单独改就对不上了", ("max_epochs", "max_iters", "warmup_ratio")
    elif not held or top not in _READ:
        why = "只在读配置文件时用过一次，现在改它" if place in cfg else "配置里没有它，写了"
        if place.startswith(f"{_DATA}.dataset."):
            why, better = "读数据时不看它，写了", ("data_path",)
        why += "什么也不会变"
    elif place.startswith("train_cfg.val_") and not cfg.get("val_dataloader"):
        why, better = "没有验证数据，写了什么也不会变", ("validation_path",)
    if why:
        known = [*SETTINGS, *_leaves(cfg)]
        same = [name for name in known if name.rpartition(".")[2] == place.rpartition(".")[2]]
        alike = better or same or difflib.get_close_matches(place, known, n=3, cutoff=0.5)
        hint = f"可以写 {'、'.join(alike[:5])}。" if alike else f"可以直接写的名字：{'、'.join(SETTINGS)}。"
        raise CourseError(f"--cfg-options 里的 {brief(place)}：{why}。{hint}")
    above, _, key = place.rpartition(".")
    holder = part(cfg, above) if above else cfg
    old = holder[int(key)] if isinstance(holder, (list, tuple)) else holder.get(key)
    kinds = {bool: bool, int: int, float: (int, float), str: str, dict: dict, list: list, tuple: list}
    kind = next((new for known, new in kinds.items() if type(old) is known or isinstance(old, known)), object)
    known = (isinstance(holder, dict) and arguments.taken(holder)) or {}
    default = getattr(known.get(key), "default", None)
    if kind in (int, object) and isinstance(default, float):
        kind, old = (int, float), default if old is None else old  # weight_decay=0 may become 0.1
    endless = isinstance(value, float) and not math.isfinite(value)
    fits = isinstance(value, kind) and not endless
    if not fits or (isinstance(value, bool) and kind is not object and kind is not bool):
        raise CourseError(
            f"{place} 是 {brief(value)}，应当和配置里的 {brief(old)} 一样是 {type(old).__name__}。"
        )
    never = key == "interval" and value == -1 and not cfg.get("validation_path")  # a hook's; no epoch's
    if key in ("interval", "val_interval") and not never and not _WHOLE[0](value):
        raise CourseError(f"{place} 是 {brief(value)}，应当是{_WHOLE[1]}。")
    if key == "type" and arguments.named(old) and not arguments.named(value):
        raise CourseError(
            f"{place} 是 {brief(value)}，没有这个类或函数。请写全名，例如 torch.optim.AdamW，或不改它。"
        )
    if place == "load_from" and value and not paths.resolve(value).exists():
        raise CourseError(f"load_from 是 {value}，那里没有检查点。接着训练请用 --resume。")


def _can_hold(cfg, place: str) -> bool:
    """Whether a place is there, or is an argument of something that is there."""
    above, _, key = place.rpartition(".")
    try:
        holder = part(cfg, above)
    except CourseError:
        return False
    if isinstance(holder, (list, tuple)):
        return key.isdecimal() and int(key) < len(holder)
    if not isinstance(holder, dict):
        return False
    known = arguments.taken(holder) if "type" in holder else holder
    if known is None:  # it takes what a model has, too: at least what is nearly a name of this part is a typo
        return key in holder or not difflib.get_close_matches(key, holder, cutoff=0.9)
    # what mmengine itself reads
    named = ("priority",) if "_hooks." in place else ()
    named = {
        "optim_wrapper": ("paramwise_cfg", "constructor"),
        "train_dataloader": ("pin_memory",),
    }.get(above, named)
    return key in (*known, *named, "type")


def _leaves(cfg) -> Iterator[str]:
    """Yield the dotted names of all places of a config that the runner reads."""

    def walk(value, name: str) -> Iterator[str]:
        if not isinstance(value, (dict, list, tuple)):
            yield name
            return
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(inner, f"{name}.{key}")

    for name in filter(cfg.__contains__, _READ):
        yield from walk(cfg[name], name)


def _measure_validation_loss(cfg) -> None:
    """Measure the loss of ``cfg.validation_path`` beside every checkpoint, by mmengine's own means."""
    rows = copy.deepcopy(cfg.train_dataloader)
    rows.sampler.shuffle = False
    rows.dataset.max_dataset_length = _VALIDATION_ROWS
    rows.dataset.dataset.data_files.train = cfg.validation_path
    cfg.val_dataloader = rows
    cfg.val_cfg = {"type": "mmengine.runner.ValLoop"}
    cfg.val_evaluator = {"type": "tianji_helpers.training.xtuner_compat.ValidationLoss"}
    cfg.train_cfg.val_interval = cfg.default_hooks.checkpoint.interval
    best = {"monitor": "validation_loss", "rule": "less"}
    cfg.default_hooks.checkpoint.update({"save_best": best["monitor"], "rule": best["rule"]})
    stop = {"type": "mmengine.hooks.EarlyStoppingHook", "patience": 3, "min_delta": 0.01, **best}
    stop["check_finite"] = False  # it would end the training without a word; the next step says what is wrong
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if "monitor" not in hook] + [stop]


def _portable(path: str | Path) -> str:
    """A path inside the project is written relative to its root, where XTuner is started."""
    path = paths.resolve(path)
    return path.relative_to(paths.ROOT).as_posix() if path.is_relative_to(paths.ROOT) else str(path)


def _model_parts(cfg) -> Iterator[dict]:
    yield part(cfg, "model.llm")
    yield part(cfg, f"{_DATA}.tokenizer")
    if "tokenizer" in cfg:
        yield cfg.tokenizer
    for hook in cfg.get("custom_hooks", []):
        if "tokenizer" in hook:
            yield hook.tokenizer
