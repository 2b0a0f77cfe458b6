"""Make the config of one run out of a config in ``configs/``.

XTuner's configs are Python, and values derived from others (the end of the warm-up from the number
of epochs, six places that name the model) are computed when the file is read. Changing a setting
therefore means changing every place that depends on it; ``write_config`` does that and writes one
plain, complete file, which is what the run uses and what a student can read afterwards.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

from tianji_helpers import paths
from tianji_helpers.errors import CourseError

TASKS = ("wishes", "self_cognition", "ruozhiba", "own")
_VALIDATION_ROWS = 32  # more would cost the default training more than a few per cent of its time


def default_config(task: str, model: str) -> Path:
    """Return the config in ``configs/`` for a task and a model of the catalogue.

    Rows of one's own train as the wishes do.
    Raises CourseError if there is none, naming those there are.
    """
    if task not in TASKS:
        raise CourseError(f"没有叫 {task} 的任务。可选：{'、'.join(TASKS)}。")
    stem = {"gemma-3-270m": "gemma3_270m_cpu"}.get(model, model.replace("-", "_").replace(".", "_"))
    path = paths.CONFIGS / f"{'wishes' if task == 'own' else task}_{stem}.py"
    if not path.is_file():
        known = "、".join(sorted(item.name for item in paths.CONFIGS.glob("*.py")))
        raise CourseError(
            f"configs/ 里没有任务 {task} 配模型 {model} 的配置 {path.name}。现有：{known}。"
            "可以复制一份来改，再用参数 config 指定它。"
        )
    return path


def load_config(path: str | Path):
    """Read an XTuner config file. Raises CourseError if it is missing or does not parse."""
    from mmengine.config import Config

    path = paths.resolve(path)
    if not path.is_file():
        raise CourseError(f"找不到配置文件 {path}。configs/ 里有现成的配置。")
    try:
        return Config.fromfile(str(path))
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise CourseError(f"配置文件 {path} 读不进来：{type(error).__name__}: {error}") from error


def write_config(
    base: str | Path,
    target: str | Path,
    *,
    model_dir: str | Path | None = None,
    prompt_template: str | None = None,
    trust_remote_code: bool | None = None,
    data_path: str | Path | None = None,
    validation_path: str | Path | None = None,
    max_rows: int | None = None,
    max_epochs: float | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    lora_r: int | None = None,
    lora_alpha: int | None = None,
    warmup_ratio: float | None = None,
    every_n_iters: int | None = None,
    evaluation_inputs: Sequence[str] | None = None,
    system: str | None = None,
    seed: int | None = None,
    dtype: str | None = None,
) -> Path:
    """Write the config ``base`` with some settings changed to ``target`` and return ``target``.

    model_dir: a Hugging Face folder. prompt_template: XTuner's name of its chat template.
    data_path: training rows, in any format of ``formats``. validation_path: rows whose
    loss is measured during the training, at most 32 of them: the best checkpoint is kept, and the
    training ends when three measurements in a row were not better by 0.01. max_rows: train on a
    seeded sample of that many rows; 0 means all. max_epochs: may be a fraction. max_length: tokens.
    every_n_iters: sample answers, measure the validation loss and save a checkpoint that often. dtype:
    ``bfloat16`` or ``float32`` for weights and matrix products. What is None stays as it is in ``base``.
    """
    cfg = load_config(base)
    cfg = cfg.copy()
    dataset = cfg.train_dataloader.dataset
    chat_hook = cfg.custom_hooks[1]
    for part in _model_parts(cfg):
        _set(part, "pretrained_model_name_or_path", model_dir and _portable(model_dir))
        _set(part, "trust_remote_code", trust_remote_code)
    _set(cfg, "pretrained_model_name_or_path", model_dir and _portable(model_dir))
    if prompt_template is not None:
        name = f"xtuner.utils.PROMPT_TEMPLATE.{prompt_template}"
        cfg.prompt_template = dataset.template_map_fn.template = chat_hook.prompt_template = name
    if data_path is not None:
        cfg.data_path = dataset.dataset.data_files.train = _portable(data_path)
    if max_rows:
        dataset.max_dataset_length = max_rows
    _set(dataset, "max_length", max_length)
    _set(cfg.train_dataloader, "batch_size", batch_size)
    _set(cfg.optim_wrapper.optimizer, "lr", lr)
    if "lora" in cfg.model:  # not in full fine-tuning
        _set(cfg.model.lora, "r", lora_r)
        _set(cfg.model.lora, "lora_alpha", lora_alpha)
    _set(cfg, "max_epochs", max_epochs)
    _set(cfg, "warmup_ratio", warmup_ratio)
    cfg.train_cfg.max_epochs = cfg.max_epochs
    warmup, cosine = cfg.param_scheduler
    warmup.end = cosine.begin = cfg.warmup_ratio * cfg.max_epochs
    cosine.end = cfg.max_epochs
    _set(chat_hook, "every_n_iters", every_n_iters)
    _set(cfg.default_hooks.checkpoint, "interval", every_n_iters)
    _set(chat_hook, "evaluation_inputs", evaluation_inputs and list(evaluation_inputs))
    _set(chat_hook, "system", system)
    _set(cfg.randomness, "seed", seed)
    if dtype is not None:
        cfg.model.llm.torch_dtype = f"torch.{dtype}"
        cfg.model.llm.quantization_config.bnb_4bit_compute_dtype = f"torch.{dtype}"
    if validation_path is not None:
        cfg.validation_path = _portable(validation_path)
    if "validation_path" in cfg:
        _measure_validation_loss(cfg)
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    cfg.dump(str(target))
    return target


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
    yield cfg.tokenizer
    yield cfg.model.llm
    yield cfg.train_dataloader.dataset.tokenizer
    for hook in cfg.custom_hooks:
        if "tokenizer" in hook:
            yield hook.tokenizer


def _set(part: dict, key: str, value) -> None:
    if value is not None:
        part[key] = value
