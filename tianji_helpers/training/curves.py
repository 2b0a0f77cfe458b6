"""The figures of a training, from what it logged: loss, learning rate, speed, memory.

They need nothing but the work folder, so they can be drawn while a training runs, and again years later.
"""

from pathlib import Path

from tianji_helpers import paths, plots, records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import progress


def save(work_dir: str | Path, target: str | Path) -> None:
    """Draw a training's figures into a file, in the format of its suffix. Errors as in ``plot``, and for a
    suffix that matplotlib does not know.
    """
    figure = plot(work_dir)
    known = figure.canvas.get_supported_filetypes()
    suffix = Path(target).suffix.lower().removeprefix(".")
    if suffix not in known:
        endings = "、".join(f".{name}" for name in sorted(known))
        raise CourseError(f"图存不成 {target}：文件名要以 {endings} 之一结尾。")
    with records.atomic_writer(target, binary=True) as file:
        figure.savefig(file, format=suffix)


def plot(work_dir: str | Path):
    """Return a matplotlib figure of a training: four panels over the steps.

    work_dir: XTuner's, with the logs of one or several runs (``--resume``). Raises CourseError if
    nothing was logged there.
    """
    from matplotlib.figure import Figure

    curve, validation = progress.read_curve(work_dir), progress.read_validation(work_dir)
    if not curve and progress.read_points(work_dir):
        raise CourseError(
            f"{paths.told(work_dir)} 里的训练还没有记过损失（课程的配置每 10 步记一次）。"
            "要看这么短的训练，请用 --cfg-options default_hooks.logger.interval=1。"
        )
    if not curve:
        raise CourseError(
            f"{paths.told(work_dir)} 里没有训练记录 */vis_data/scalars.json。请给出训练时的 --work-dir。"
        )
    plots.setup()
    figure = Figure(figsize=(9, 6))
    (loss, rate), (speed, memory) = figure.subplots(2, 2, sharex=True)
    steps = [point["step"] for point in curve]
    loss.plot(steps, [point["loss"] for point in curve], label="训练")
    if validation:
        loss.plot([p["step"] for p in validation], [p["loss"] for p in validation], "o-", label="验证")
        best = min(validation, key=lambda point: point["loss"])
        inwards = "right" if best["step"] > steps[-1] / 2 else "left"
        above = {"xytext": (0, 8), "textcoords": "offset points", "ha": inwards}
        loss.annotate(f"最低 {best['loss']:.2f}", (best["step"], best["loss"]), **above)
    loss.legend()
    loss.set(ylabel="损失（nat/词元）", ylim=(0, None))
    rate.plot(steps, [point["lr"] for point in curve])
    rate.set(ylabel="学习率")
    for axis, key, label in (
        (speed, "tokens_per_second", "速度（词元/秒）"),
        (memory, "memory_gb", "内存或显存（GB）"),
    ):
        logged = [point for point in curve if key in point]
        axis.plot([point["step"] for point in logged], [point[key] for point in logged])
        axis.set(xlabel="步", ylabel=label, ylim=(0, None))
    figure.suptitle(paths.show(work_dir))
    return figure
