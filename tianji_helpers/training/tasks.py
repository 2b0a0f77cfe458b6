"""Where a training of notebook 05 reads and writes, and the whole of it in one call.

Each task has a folder of its own, ``05_training/<task>``, with ``config.py``, ``work/`` (XTuner's),
``adapter/`` and ``metrics.json``: one adapter folder for two tasks has cost people their first one.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError, check_known
from tianji_helpers.training import configs, data, evaluation, inference, launch, models, planning

_FEW_BATCHES = 100  # of an epoch; with fewer, one epoch teaches next to nothing
_EPOCHS_OF_FEW = 3
_SAMPLED = 6  # questions that are asked again and again during a training
_PARTS = ("train", "validation", "test")
_FILES = {
    "wishes": ("02", ("wishes_train.json", "wishes_validation.json", "wishes_test.json")),
    "own": ("02", ("own/own_train.json", "own/own_validation.json", "own/own_test.json")),
    "self_cognition": (
        "03",
        ("self_cognition.json", "self_cognition_validation.json", "self_cognition_test.json"),
    ),
    "ruozhiba": ("04", ("ruozhiba_train.jsonl", "ruozhiba_validation.jsonl", "ruozhiba_test.jsonl")),
}


def task_dir(task: str, output_dir: str | Path = "") -> Path:
    """Return the folder of one task's training. Raises CourseError for a task that there is not."""
    check_known(task, configs.TASKS, "任务")
    return paths.stage_dir("05", output_dir) / task


def train_file(task: str, output_dir: str | Path = "") -> Path:
    """Return the rows that a task trains on (made by notebook 02, 03 or 04)."""
    return _file(task, "train", output_dir)


def validation_file(task: str, output_dir: str | Path = "") -> Path:
    """Return the rows that early stopping and the choice of a task's checkpoint look at."""
    return _file(task, "validation", output_dir)


def test_file(task: str, output_dir: str | Path = "") -> Path:
    """Return the rows that a task is tested on, once a checkpoint is chosen."""
    return _file(task, "test", output_dir)


def _file(task: str, part: str, output_dir: str | Path) -> Path:
    check_known(task, _FILES, "任务")
    stage, names = _FILES[task]
    return paths.stage_dir(stage, output_dir) / names[_PARTS.index(part)]


def kind(task: str, output_dir: str | Path = "") -> str:
    """Return what a task's answers are to be judged as: the task, or what the cleaning took own rows for.

    That is ``wishes`` or ``other``. Raises CourseError if own rows were not cleaned.
    """
    if task != "own":
        return task
    cleaned = train_file(task, output_dir).with_name("own.json")
    if not (made := models.recorded(cleaned)):
        raise CourseError(f"没有找到清洗过的数据 {paths.told(cleaned)}。请先用参数 data 运行第 2 课。")
    return made["kind"]


def choose_device(device: str, model: str) -> str:
    """Return ``cpu`` or ``cuda`` for a device setting (``auto``, ``cpu``, ``cuda``) and a model.

    ``auto`` is the device that the catalogue names for the model. Raises CourseError for another
    word, or where a GPU is asked for and PyTorch sees none.
    """
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise CourseError(f"device 是 {device}，只能是 auto、cpu 或 cuda。")
    wanted = ("cpu" if models.find(model).device == "CPU" else "cuda") if device == "auto" else device
    if wanted == "cuda" and not torch.cuda.is_available():
        instead = f"或把参数 base_model 改成 {models.EMBEDDED}（CPU 就能训练）。"
        if models.find(model).device == "CPU":
            instead = "或把参数 device 改成 auto：这个模型在 CPU 上就能训练。"
        raise CourseError(
            f"模型 {model} 要在 GPU 上训练，但 PyTorch 没有找到 GPU。请用 tianji doctor 检查驱动，{instead}"
        )
    return wanted


def make_config(
    task: str,
    model: str = models.EMBEDDED,
    output_dir: str | Path = "",
    *,
    device: str = "cpu",
    config: str | Path = "",
    **settings,
) -> Path:
    """Write ``<task folder>/config.py``, the config of this run, and return it.

    config: the config to start from, which keeps its data, its template and its model; empty means the one
    in ``configs/`` for task and model, with the task's data in this run. settings: as
    ``configs.write_config`` takes them. Rows of one's own bring their system prompt along, and questions to
    sample; what of the epochs would not do for so few rows is fitted to them.
    Raises CourseError if ``config`` is about another model.
    """
    target = task_dir(task, output_dir) / "config.py"
    fixed = {
        "model_dir": models.locate(model),
        "dtype": inference.cpu_dtype() if device == "cpu" else None,
    }
    if config:
        base = paths.resolve(config)
        named = configs.part(configs.load_config(base), "model.llm.pretrained_model_name_or_path")
        if Path(named).name != models.locate(model).name:
            raise CourseError(
                f"配置 {base} 训练的是模型 {named}，参数 base_model 却是 {model}。请把两处改成一样的。"
            )
        return configs.write_config(base, target, **fixed, **settings)
    base = configs.default_config(task, model)
    fixed |= {
        "prompt_template": models.find(model).template,
        "data_path": train_file(task, output_dir),
        "validation_path": rows if (rows := validation_file(task, output_dir)).is_file() else None,
    }
    if task != "own":
        return configs.write_config(base, target, **fixed, **settings)
    settings = _words(output_dir) | settings
    cfg = configs.load_config(configs.write_config(base, target, **fixed, **settings))
    return configs.write_config(base, target, **fixed, **_fitted(cfg, settings))


def _words(output_dir: str | Path) -> dict:
    """Return what own rows say about the chat: their usual system prompt, and questions to sample."""
    parts = [evaluation.read_turns(file("own", output_dir)) for file in (validation_file, train_file)]
    systems = Counter(turn["system"] for turn in parts[1])
    asked = [dict.fromkeys(turn["input"] for turn in turns if "history" not in turn) for turns in parts]
    questions = list(asked[0]) if len(asked[0]) >= _SAMPLED else [*asked[0], *asked[1]]
    questions = questions or [parts[1][0]["history"][0][0]]
    sampled = evaluation.evenly(questions, _SAMPLED)
    return {"system": systems.most_common(1)[0][0], "evaluation_inputs": sampled}


def _fitted(cfg, settings: dict) -> dict:
    """Return the settings with epochs and sampling that suit the number of rows."""
    batches = planning.batches(cfg, data.look(cfg.train_dataloader.dataset))
    epochs = settings.get("max_epochs") or (cfg.max_epochs if batches >= _FEW_BATCHES else _EPOCHS_OF_FEW)
    steps = batches * epochs
    every = min(cfg.default_hooks.checkpoint.interval, max(1, int(steps / 3)))
    return settings | {"max_epochs": epochs, "every_n_iters": every}


def data_file(config: str | Path) -> Path:
    """Return the rows that a config trains on."""
    return paths.resolve(configs.part(configs.load_config(config), configs.DATA_FILE))


def ensure_trained(
    output_dir: str | Path = "",
    task: str = "wishes",
    model: str = models.EMBEDDED,
    *,
    device: str = "cpu",
    seed: int = 42,
    report: Callable[[str], None] = print,
) -> tuple[Path, Path]:
    """Return (config, work folder) of a task's training; train first if there is no checkpoint.

    What is trained is what notebook 05 trains with its defaults. Raises CourseError if the training
    data are missing.
    """
    folder = task_dir(task, output_dir)
    config, work_dir = folder / "config.py", folder / "work"
    if (
        config.is_file()
        and any(work_dir.glob("iter_*.pth"))
        and not (task == "own" and _is_stale(output_dir))
    ):
        return config, work_dir
    models.prepare(model, report=report)
    config = make_config(task, model, output_dir, device=device, seed=seed)
    return config, train_task(config, task, output_dir, device=device, report=report).work_dir


def _is_stale(output_dir: str | Path) -> bool:
    """Whether own rows have changed since they were trained on: another file may have taken their place."""
    made = records.provenance(task_dir("own", output_dir) / "work")
    return list(made.get("inputs", {}).values()) != [records.sha256(train_file("own", output_dir))]


def train_task(
    config: str | Path,
    task: str,
    output_dir: str | Path = "",
    *,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> launch.TrainResult:
    """Train a task with a config made by ``make_config``; provenance goes beside the work folder."""
    work_dir = task_dir(task, output_dir) / "work"
    result = launch.train(config, work_dir, device=device, report=report)
    numbers = configs.settings(configs.load_config(config))
    records.write_provenance(
        work_dir,
        stage="05_training",
        parameters={"task": task, "config": Path(config).read_text(encoding="utf-8"), "settings": numbers},
        counts={"iterations": result.curve[-1]["step"] if result.curve else 0},
        inputs=[data_file(config)],
    )
    return result
