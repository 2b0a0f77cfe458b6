"""The two trainings of lesson 7, each in one call, and the model that they start from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tianji_helpers import paths
from tianji_helpers.errors import CourseError
from tianji_helpers.seeing import eyes
from tianji_helpers.training import configs, inference, launch, models, tasks

STAGES = ("pretrain", "finetune")


def ensure_wishes_model(output_dir: str | Path = "", report: Callable[[str], None] = print) -> Path:
    """Return the merged model of lesson 6; train and merge it first if it is not there, as its lessons do."""
    out = paths.stage_dir("06", output_dir) / "wishes"
    if not (out / "merged" / "config.json").is_file():
        report("没有找到第 6 课合并好的模型，现在用默认参数补做（约 6 分钟）。")
        config, work_dir = tasks.ensure_trained(output_dir, "wishes", report=report)
        adapter = launch.pth_to_hf(config, work_dir, out / "adapter", about={"task": "wishes"})
        launch.merge(models.locate(models.EMBEDDED), adapter, out / "merged")
    return out / "merged"


def train(
    stage: str,
    rows: str | Path,
    folder: str | Path,
    *,
    model_dir: str | Path,
    tower_dir: str | Path,
    features: str | Path,
    projector_dir: str | Path = "",
    config: str | Path = "",
    report: Callable[[str], None] = print,
    **settings: Any,
) -> tuple[launch.TrainResult, Path]:
    """Train a stage into a folder; return what it left, and the folder of the converted checkpoint.

    stage: of ``STAGES``. rows: LLaVA's JSON. features: of ``rows.compute_features``. projector_dir: of the
    stage before. config: to start from; empty is the course's own, for a CPU. settings: as
    ``configs.write_config`` takes them, or dotted places.
    """
    if stage not in STAGES:
        raise CourseError(f"没有叫 {stage} 的阶段。可选：{'、'.join(STAGES)}。")
    folder = paths.resolve(folder)
    options = {
        "model_dir": model_dir,
        "data_path": rows,
        "dtype": inference.cpu_dtype(),
        "train_dataloader.dataset.features": str(paths.resolve(features)),
        "model.visual_encoder.pretrained_model_name_or_path": str(paths.resolve(tower_dir)),
        **({"model.projector_dir": str(paths.resolve(projector_dir))} if projector_dir else {}),
        **settings,
    }
    cfg = configs.load_config(config or paths.CONFIGS / f"see_gemma3_270m_cpu_{stage}.py", options)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "config.py"
    cfg.dump(str(target))
    result = launch.train(target, folder / "work", device="cpu", report=report)
    return result, eyes.convert(target, result.checkpoint, folder / "converted")
