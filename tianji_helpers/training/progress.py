"""What a training writes down while it runs: read while it does, or years later.

mmengine writes a line of JSON for each logged interval and each validation, beside XTuner's log; what these
lines lack, our hook adds to them (``xtuner_compat.ProgressHook``). They are the only way by which figures
leave a training: nobody reads them out of its log.
"""

import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from tianji_helpers import records


def read_points(work_dir: str | Path) -> list[dict]:
    """Return what a training wrote down, in order: of one run, or of several (``--resume``).

    Each has ``step``, and one of three things: ``loss`` with ``lr``, ``time`` (seconds a step),
    ``total_steps`` and ``seconds_left`` of this run, and, if they were logged, ``tokens_per_second`` (of one
    GPU, padding not counted) and ``memory_gb`` (of one process); all but ``lr`` and memory are means over the
    interval. Or ``validation_loss``; or, at the end, ``stopped_early`` (True or False).
    """
    points = []
    for file in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        total, times = 0, []
        for line in records.read_text(file).splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a kill cuts the last one short
                point = json.loads(line)
                step, total = point["step"], point.get("total_steps", total)
                if "loss" in point:
                    times.append(point["time"])
                    point["total_steps"] = total
                    point["seconds_left"] = (total - step) * sum(times) / len(times)
                    if "tokens" in point:
                        point["tokens_per_second"] = point["tokens"] / point["time"]
                points.append(point)
    return points


def describe(point: dict) -> str:
    """Say in a line what a point tells; empty if it is not for people."""
    if "loss" in point:
        return (
            f"第 {point['step']:>4}/{point['total_steps']} 步  损失 {point['loss']:.3f}  "
            f"学习率 {point['lr']:.1e}  {point.get('tokens_per_second', 0):.0f} 词元/秒  "
            f"预计还要 {timedelta(seconds=round(point['seconds_left']))}"
        )
    if "validation_loss" in point:
        return f"验证集（没训练过的题）的损失：{point['validation_loss']:.3f}"
    return "验证损失连着几次不见好，训练提前停下。" if point.get("stopped_early") else ""


def read_curve(work_dir: str | Path) -> list[dict]:
    """Return the points of a training that have a ``loss``, each step once, also where it was resumed."""
    found = {point["step"]: point for point in read_points(work_dir) if "loss" in point}
    return [found[step] for step in sorted(found)]


def read_validation(work_dir: str | Path) -> list[dict]:
    """Return the validation losses measured during a training, in order: ``step``, ``loss``."""
    found = {p["step"]: p["validation_loss"] for p in read_points(work_dir) if "validation_loss" in p}
    return [{"step": step, "loss": found[step]} for step in sorted(found)]


def read_samples(work_dir: str | Path) -> list[dict]:
    """Return the answers sampled during a training: ``iter``, ``input``, ``output``."""
    file = Path(work_dir) / "samples.jsonl"
    return records.read_jsonl(file) if file.is_file() else []
