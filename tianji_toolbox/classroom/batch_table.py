"""What a batch is doing, on the terminal: a live table, or plain lines where nobody watches."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from tianji_helpers.training import progress
from tianji_toolbox.classroom import runs
from tianji_toolbox.classroom.batch import Progress
from tianji_toolbox.classroom.runs import Status

_COLOURS = {runs.RUNNING: "cyan", runs.DONE: "green", runs.WAITING: "dim", runs.STOPPED: "yellow"}


@contextmanager
def watch(stream=None) -> Iterator[Callable[[list[Progress]], None]]:
    """Give a function that shows the runs: as a table on a terminal, else a line for each change."""
    stream = stream or sys.stdout
    if not stream.isatty():
        yield _lines(stream)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(file=stream), refresh_per_second=4) as live:
        yield lambda rows: live.update(table(rows))


def table(rows: list[Progress]):
    """Return the runs as a rich table."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=box.SIMPLE, caption=summary(rows), caption_justify="left")
    for title in ("运行", "状态", "到哪里了", "损失", "分钟", "内存 GB", "还要"):
        made.add_column(title, justify="left" if title in ("运行", "状态", "到哪里了") else "right")
    for row in rows:
        status = row.status
        runs_now = status.status == runs.RUNNING
        point = _training(row) if runs_now else None
        minutes = (time.monotonic() - row.began) / 60 if runs_now and row.began else status.minutes
        memory = row.memory_gb if runs_now else status.peak_memory_gb
        colour = _COLOURS.get(status.status, "red")
        made.add_row(
            escape(row.run.name),
            f"[{colour}]{runs.WORDS[status.status]}[/]",
            escape(_place(row)),
            f"{point['loss']:.3f}" if point else "",
            f"{minutes:.1f}" if minutes else "",
            f"{memory:.1f}" if memory else "",
            str(timedelta(seconds=round(point["seconds_left"]))) if point else "",
        )
    return made


def summary(rows: list[Progress]) -> str:
    """Return how far all is, and for how long it will go on, in one line."""
    fresh = [row for row in rows if row.fresh]
    over = [row for row in fresh if row.status.is_over]
    line = f"完成 {sum(row.status.status == runs.DONE for row in rows)} / {len(rows)}"
    if failed := sum(row.status.has_failed for row in rows):
        line += f"，失败 {failed}"
    active = sum(row.status.status == runs.RUNNING for row in rows)
    left = len(fresh) - len(over)
    if left and over:
        usual = sum(row.status.minutes for row in over) / len(over)
        line += f"，大约还要 {usual * left / max(1, active):.0f} 分钟"
    return line


def _training(row: Progress) -> dict | None:
    """Return where the training is that a run is at: a point with a loss; None if it is at none."""
    stages = ("05_training/*/work", "07_see_wish/*/work")
    folders = [found for stage in stages for found in row.folder.glob(stage)] if row.folder else ()
    newest = max(folders, key=lambda folder: folder.stat().st_mtime, default=None)
    points = progress.read_points(newest) if newest else []
    if points and "stopped_early" in points[-1]:  # it is over
        return None
    return next((point for point in reversed(points) if "loss" in point), None)


def _place(row: Progress) -> str:
    """Return the notebook and cell where a run is, or why it failed there."""
    status = row.status
    place = status.notebook
    if status.cell:
        of = f"/{row.cells}" if row.cells and status.status == runs.RUNNING else ""
        place += f" [{status.cell}{of}]"
    if status.has_failed:
        place += "：" + status.reason.partition("\n")[0]
    return place if len(place) <= 60 else place[:59] + "…"


def _lines(stream) -> Callable[[list[Progress]], None]:
    """Return a function that prints a line when a run begins a notebook or ends."""
    said: dict[str, tuple[str, str]] = {}

    def show(rows: list[Progress]) -> None:
        for row in rows:
            now = (row.status.status, "" if row.status.is_over else row.status.notebook)
            if row.fresh and row.status.status != runs.WAITING and said.get(row.run.name) != now:
                said[row.run.name] = now
                print(f"{row.run.name}：{line(row)}", file=stream, flush=True)

    return show


def line(row: Progress) -> str:
    """Return a run's state in words."""
    status: Status = row.status
    words = runs.WORDS[status.status]
    if status.is_over:
        words += f"，{status.minutes:.1f} 分钟，内存峰值 {status.peak_memory_gb:.1f} GB"
    place = _place(row)
    return f"{words}，{place}" if place else words
