"""What a training writes down: read while it is written, after a resume, and in words."""

import json

from tianji_helpers.training import progress


def write(work_dir, run, *points, end="\n"):
    file = work_dir / run / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write("\n".join(map(json.dumps, points)) + end)


def step(number, loss, **more):
    return {"lr": 2e-3, "loss": loss, "time": 0.5, "step": number, **more}


def test_a_step_says_how_long_it_will_take(tmp_path):
    write(
        tmp_path, "20261128_101500", {"total_steps": 40, "step": 0}, step(10, 2.0, tokens=100, memory_gb=1.5)
    )
    write(tmp_path, "20261128_101500", step(20, 1.5, time=1.5))
    write(tmp_path, "20261128_101500", {"validation_loss": 1.25, "step": 20}, step(30, 9.9), end="")
    scalars = tmp_path / "20261128_101500" / "vis_data" / "scalars.json"
    scalars.write_bytes(scalars.read_bytes()[:-8])  # the last line is being written
    start, first, second, measured = progress.read_points(tmp_path)
    assert (first["seconds_left"], second["seconds_left"]) == (15.0, 20.0)
    assert progress.describe(first) == (
        "第   10/40 步  损失 2.000  学习率 2.0e-03  200 词元/秒  预计还要 0:00:15"
    )
    assert progress.describe(measured) == "验证集（没训练过的题）的损失：1.250"
    assert not progress.describe(start) and "0 词元/秒" in progress.describe(second)
    assert progress.read_validation(tmp_path) == [{"step": 20, "loss": 1.25}]


def test_a_resumed_training_has_one_curve(tmp_path):
    write(tmp_path, "20261128_101500", {"total_steps": 30, "step": 0}, step(10, 2.0), step(20, 1.9))
    write(tmp_path, "20261128_111500", {"total_steps": 40, "step": 10}, step(20, 1.8), step(30, 1.7))
    curve = progress.read_curve(tmp_path)
    assert [(point["step"], point["loss"], point["total_steps"]) for point in curve] == [
        (10, 2.0, 30),
        (20, 1.8, 40),
        (30, 1.7, 40),
    ]


def test_an_early_stop_is_told_and_a_planned_end_is_not(tmp_path):
    for early in (False, True):
        write(tmp_path, f"2026112{early:d}_101500", {"stopped_early": early, "step": 8})
    late, stopped = progress.read_points(tmp_path)
    assert progress.describe(late) == "" and "提前停下" in progress.describe(stopped)


def test_nothing_was_written(tmp_path):
    assert progress.read_points(tmp_path) == progress.read_curve(tmp_path) == []
    assert progress.read_samples(tmp_path) == []
