"""The report of a batch: one HTML page that needs nothing but itself, and reads well on a phone.

All comes from the batch's folder, so it can be made again at any time (``tianji report``). Executed
notebooks become HTML pages beside them (nbconvert), to which the report links. Grades that lie in the
folder (``tianji grade --output``) are shown too. What models, notebooks and students said is text here:
the template escapes it, and nbconvert takes scripts out.
"""

import base64
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat

from tianji_helpers import paths, plots, records
from tianji_helpers.classroom import batch_run, batch_table, course, grading, runs
from tianji_helpers.classroom.batch_run import Status
from tianji_helpers.errors import CourseError

NAME = "report.html"
_LEGEND = 16  # runs that a figure's legend names


@dataclass(frozen=True)
class Line:
    """One run in the report. chosen: what sets it apart; tasks: as ``batch_metrics.gather`` gives them."""

    status: Status
    chosen: dict[str, Any]
    tasks: dict[str, dict]
    notebooks: list[tuple[str, str]]  # name, address relative to the report
    failed_cell: str  # its source

    @property
    def word(self) -> str:
        return batch_table.WORDS[self.status.status]


def write(folder: str | Path) -> Path:
    """Write ``report.html`` into a batch's folder and return it. Raises CourseError if it is none."""
    import jinja2

    folder = paths.resolve(folder)
    batch = _read_batch(folder)
    lines = [_line(folder, entry) for entry in batch["runs"]]
    tasks = sorted({task for line in lines for task in line.tasks})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        title=batch["title"],
        lines=lines,
        done=sum(line.status.status == runs.DONE for line in lines),
        failures=[line for line in lines if line.status.has_failed],
        minutes=sum(line.status.minutes for line in lines),
        peak=max((line.status.peak_memory_gb for line in lines), default=0.0),
        scores=list(
            dict.fromkeys(name for line in lines for one in line.tasks.values() for name in one["scores"])
        ),
        figures={task: _curves(task, lines) for task in tasks},
        answers={task: _answers(task, lines) for task in tasks},
        grades=_grades(folder),
        grades_page=grading.PAGE,
    )
    with records.atomic_writer(folder / NAME) as file:
        file.write(page)
    return folder / NAME


def _read_batch(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "batch.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(
            f"{folder} 不是批次的文件夹（没有可读的 batch.json）。请写 tianji batch 的 --output 文件夹。"
        ) from error


def _grades(folder: Path) -> list[tuple[str, str, str, str]]:
    """Return student, passed, exercises and notes of the folder's grade table; none if there is none."""
    try:
        text = (folder / grading.TABLE).read_text(encoding="utf-8-sig")
    except OSError:
        return []
    _, *rows = csv.reader(io.StringIO(text))
    return [(*row[:3], row[-1]) for row in rows]


def _line(folder: Path, entry: dict[str, Any]) -> Line:
    place = folder / "runs" / entry["name"]
    status = batch_run.read_status(place)
    try:
        tasks = json.loads((place / "metrics.json").read_text(encoding="utf-8"))["tasks"]
    except (OSError, ValueError, KeyError):
        tasks = {}
    notebooks, failed_cell = [], ""
    for executed in sorted((place / "notebooks").glob("*.ipynb")):
        try:
            notebook = nbformat.read(executed, as_version=4)
        except course.UNREADABLE:  # cut off by a crash of the machine
            continue
        page = _convert(notebook, executed)
        notebooks.append((executed.stem, quote(page.relative_to(folder).as_posix())))
        if status.has_failed and status.cell and executed.stem == status.notebook:
            failed_cell = _source(notebook, status.cell)
    return Line(status, entry["chosen"], tasks, notebooks, failed_cell)


def _source(notebook: nbformat.NotebookNode, number: int) -> str:
    """Return the source of a code cell, counted from 1."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return code[number - 1] if number <= len(code) else ""


def _convert(notebook: nbformat.NotebookNode, executed: Path) -> Path:
    """Return the HTML page of an executed notebook; made if there is none, or an older one."""
    page = executed.with_suffix(".html")
    if page.is_file() and page.stat().st_mtime >= executed.stat().st_mtime:
        return page
    from nbconvert import HTMLExporter

    # without the scripts that it would fetch from elsewhere
    exporter = HTMLExporter(
        sanitize_html=True, mathjax_url="", require_js_url="", mermaid_js_url="", language_code="zh"
    )
    text, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": executed.stem}})
    with records.atomic_writer(page) as file:
        file.write(text)
    return page


def _curves(task: str, lines: list[Line]) -> str:
    """Return the training curves of all runs as the address of a picture; empty if there is none."""
    import matplotlib

    curves = [(line.status.name, line.tasks[task]["curve"]) for line in lines if task in line.tasks]
    curves = [(name, curve) for name, curve in curves if curve]
    if not curves:
        return ""
    from matplotlib.figure import Figure

    plots.setup()
    with matplotlib.rc_context({"svg.hashsalt": "tianji"}):
        figure = Figure(figsize=(5.2, 3.4))
        axis = figure.subplots()
        colours = matplotlib.colormaps["viridis"].resampled(len(curves))
        for number, (name, curve) in enumerate(curves):
            colour = plots.COLORS[number] if len(curves) <= len(plots.COLORS) else colours(number)
            steps, losses = zip(*curve, strict=True)
            axis.plot(steps, losses, color=colour, linewidth=1.2, label=name)
        axis.set(xlabel="步", ylabel="训练损失（nat/词元）", title=task, ylim=(0, None))
        if len(curves) <= _LEGEND:
            figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
        target = io.BytesIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(target.getvalue()).decode()


def _answers(task: str, lines: list[Line]) -> list[dict[str, Any]]:
    """Return what was asked: each with the base model's answers and the runs' (name, answer)."""
    asked: dict[str, dict[str, Any]] = {}
    for line in lines:
        for row in line.tasks.get(task, {}).get("answers", []):
            one = asked.setdefault(row["request"], {"request": row["request"], "before": [], "after": []})
            if row["before"] not in one["before"]:
                one["before"].append(row["before"])
            one["after"].append((line.status.name, row["after"]))
    return sorted(asked.values(), key=lambda one: -len(one["after"]))
