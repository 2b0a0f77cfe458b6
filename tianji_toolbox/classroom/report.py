"""The report of a batch: one HTML page that needs nothing but itself, and reads well on a phone.

All comes from the batch's folder, so it can be made again at any time (``tianji report``). Executed
notebooks become HTML pages in ``pages/``, where no run can write, and the report links to them. Grades that
lie in the folder (``tianji grade --output``) are shown too.

What models, notebooks and students said is text here: the template escapes it; of a notebook only texts and
pictures are converted, nbconvert takes scripts out, and each page forbids the browser to run any. What
cannot be read (a run that was killed, a folder that somebody edited) counts as not there.
"""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import nbformat

from tianji_helpers import locks, paths, plots
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import batch_plan, batch_run, gradebook, runs
from tianji_toolbox.classroom.runs import Status
from tianji_toolbox.pages import POLICY, render

NAME = "report.html"
PAGES = "pages"
_TEXTS = ("text/plain", "text/html", "text/markdown", "text/latex")
_PICTURES = ("image/png", "image/jpeg")
_ATTACHED = re.compile(r"attachment:([^\s)\"'>]*)")
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")
_MOST = 1e12  # no step and no loss is larger, or is no number
_LONGEST = 30_000  # characters of a cell: nbconvert takes four times as long for one of twice the length
_LEGEND = 16  # runs that a figure's legend names


class _PlannedRun(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(pattern=batch_plan.NAME)]
    chosen: dict[str, Any] = {}


class _Batch(msgspec.Struct):
    title: str
    runs: list[_PlannedRun]


class _Change(msgspec.Struct):
    before: float
    after: float


class _Answer(msgspec.Struct):
    request: str
    before: str
    after: str


class _Task(msgspec.Struct):
    """As ``batch_metrics.gather`` gives it."""

    loss: _Change | None = None
    scores: dict[str, tuple[str, str]] = {}
    curve: list[tuple[float, float]] = []
    answers: list[_Answer] = []


class _Metrics(msgspec.Struct):
    tasks: dict[str, _Task] = {}


@dataclass(frozen=True)
class Line:
    """One run in the report. chosen: what sets it apart."""

    status: Status
    chosen: dict[str, Any]
    tasks: dict[str, _Task]
    notebooks: list[tuple[str, str]]  # name, address relative to the report
    failed_cell: str  # its source

    @property
    def word(self) -> str:
        return runs.WORDS[self.status.status]


def write(folder: str | Path) -> Path:
    """Write ``report.html`` into a batch's folder and return it. Raises CourseError if it is none."""
    folder = paths.resolve(folder)
    _read_batch(folder)
    # shards that end together: whoever writes last has read all
    with locks.alone(folder / ".report.lock"):
        return _write(folder)


def _write(folder: Path) -> Path:
    batch = _read_batch(folder)
    lines = [_line(folder, run) for run in batch.runs]
    tasks = sorted({task for line in lines for task in line.tasks})
    page = render(
        "classroom/report.html",
        title=batch.title,
        lines=lines,
        done=sum(line.status.status == runs.DONE for line in lines),
        failures=[line for line in lines if line.status.has_failed],
        minutes=sum(line.status.minutes for line in lines),
        peak=max((line.status.peak_memory_gb for line in lines), default=0.0),
        scores=list(
            dict.fromkeys(name for line in lines for one in line.tasks.values() for name in one.scores)
        ),
        figures={task: _curves(task, lines) for task in tasks},
        answers={task: _answers(task, lines) for task in tasks},
        grades=_grades(folder),
        grades_page=gradebook.PAGE,
    )
    return gradebook.write_text(folder, NAME, page)


def _read_batch(folder: Path) -> _Batch:
    batch = batch_run.read(folder / "batch.json", _Batch)
    if batch is None:
        raise CourseError(
            f"{folder} 不是批次的文件夹（没有可读的 batch.json）。请写 tianji batch 的 --output 文件夹。"
        )
    return batch


def _grades(folder: Path) -> list[tuple[str, str, str, str]]:
    """Return student, passed, exercises and notes of the folder's grade table; none if there is none."""
    table = folder / gradebook.TABLE
    try:
        rows = gradebook.read_table(table)[1:] if table.is_file() else []
    except CourseError:
        return []
    return [(*row[:3], row[-1]) for row in rows if len(row) > 3]


def _line(folder: Path, run: _PlannedRun) -> Line:
    place = folder / "runs" / run.name
    status = batch_run.read_status(place)
    metrics = batch_run.read(place / "metrics.json", _Metrics) or _Metrics()
    notebooks, failed_cell = [], ""
    for executed in sorted((place / "notebooks").glob("*.ipynb")):
        try:
            if not executed.is_file():
                continue
            notebook = nbformat.read(executed, as_version=4)
            if status.has_failed and status.cell and executed.stem == status.notebook:
                code = [_cut(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
                failed_cell = code[status.cell - 1] if 1 <= status.cell <= len(code) else ""
            page = _convert(notebook, executed)
        except CourseError:  # the disk is full, say
            raise
        except Exception:  # cut off by a crash of the machine, or another thing under that name
            continue
        notebooks.append((executed.stem, quote(page.relative_to(folder).as_posix())))
    return Line(status, run.chosen, metrics.tasks, notebooks, failed_cell)


def _convert(notebook: nbformat.NotebookNode, executed: Path) -> Path:
    """Return the HTML page of an executed notebook; made if there is none, or an older one."""
    folder, run = executed.parents[3], executed.parents[1]
    page = folder / PAGES / run.name / f"{executed.stem}.html"
    if page.is_file() and page.stat().st_mtime >= executed.stat().st_mtime:
        return page
    if page.parent.is_symlink() or page.parent.parent.is_symlink():
        raise CourseError(f"{page.parent} 是符号链接，不会往那里写。请先删掉它。")
    from nbconvert import HTMLExporter

    # without the scripts that it would fetch from elsewhere
    exporter = HTMLExporter(
        sanitize_html=True, mathjax_url="", require_js_url="", mermaid_js_url="", language_code="zh"
    )
    text, _ = exporter.from_notebook_node(_plain(notebook), resources={"metadata": {"name": executed.stem}})
    text = text.replace("<head>", f"<head>{POLICY}", 1)
    return gradebook.write_text(folder, page.relative_to(folder).as_posix(), text)


def _plain(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave of a notebook nothing but its cells, their texts and their pictures, and return it (not a copy).

    nbconvert puts metadata (the width of a picture, tags) into the page as it stands, and diagrams as well.
    """
    notebook.metadata = {"language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata, cell.source = {}, _cut(cell.source)
        for output in cell.get("outputs", []):
            if "data" in output:
                output.metadata, output.data = {}, _shown(output.data)
        if cell.cell_type == "markdown":
            attached = {name: _shown(data) for name, data in cell.get("attachments", {}).items()}
            known = cell.attachments = {name: data for name, data in attached.items() if data}
            # nbconvert gives up where one is missing
            cell.source = _ATTACHED.sub(lambda m, known=known: m[0] if m[1] in known else "#", cell.source)
    return notebook


def _cut(source: str) -> str:
    return source if len(source) <= _LONGEST else source[:_LONGEST] + "\n…（太长，后面的没有显示）"


def _shown(data: dict[str, Any]) -> dict[str, Any]:
    """Return of an output what is text or a picture."""
    texts = {kind: data[kind] for kind in _TEXTS if isinstance(data.get(kind), str)}
    pictures = {kind: data[kind] for kind in _PICTURES if isinstance(data.get(kind), str)}
    return texts | {kind: text for kind, text in pictures.items() if _BASE64.fullmatch(text)}


def _literal(text: str) -> str:
    """Return a text for a figure, where dollars would begin a formula, and some characters have no glyph."""
    return plots.drawable(text).replace("$", r"\$")


def _curves(task: str, lines: list[Line]) -> str:
    """Return the training curves of all runs as the address of a picture; empty if there is none."""
    import matplotlib

    logged = ((line.status.name, line.tasks[task].curve) for line in lines if task in line.tasks)
    points = ((name, [p for p in curve if all(abs(x) < _MOST for x in p)]) for name, curve in logged)
    curves = [(name, curve) for name, curve in points if curve]
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
            axis.plot(steps, losses, color=colour, linewidth=1.2, label=_literal(name))
        axis.set(xlabel="步", ylabel="训练损失（nat/词元）", title=_literal(task), ylim=(0, None))
        if len(curves) <= _LEGEND:
            figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
        target = io.BytesIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(target.getvalue()).decode()


def _answers(task: str, lines: list[Line]) -> list[dict[str, Any]]:
    """Return what was asked: each with the base model's answers and the runs' (name, answer)."""
    asked: dict[str, dict[str, Any]] = {}
    for line in lines:
        for row in line.tasks[task].answers if task in line.tasks else []:
            one = asked.setdefault(row.request, {"request": row.request, "before": [], "after": []})
            if row.before not in one["before"]:
                one["before"].append(row.before)
            one["after"].append((line.status.name, row.after))
    return sorted(asked.values(), key=lambda one: -len(one["after"]))
