"""A batch's plan: which notebooks, with which parameters. All of it is checked before the first run.

A plan is a YAML file::

    notebooks: ["03", "05", "06"]    # numbers or names of the course's notebooks, or files beside the plan
    minutes: 30                      # time limit of a run
    memory_gb: 6                     # most memory of a run
    parameters: {task: self_cognition}          # for every run
    runs:                                       # one run each ...
      - {name: 小红, parameters: {owner: 小红, assistant: 阿福}}
    grid: {seed: [1, 2], lr: [1.0e-3, 2.0e-3]}  # ... for each combination of these

``runs`` and ``grid`` may be left out. The notebooks of a run work one after another in one folder, as
the lessons of the course do; each gets those parameters that it has. A file among them (``data``, ``config``,
``source``, ``image``) starts from the plan's folder, as the notebooks do, wherever the command is typed; a
run is done again when what is in such a file changed.
"""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tianji_helpers import parameters, paths, tables
from tianji_helpers.errors import CourseError
from tianji_toolbox import doctor
from tianji_toolbox.classroom import course
from tianji_toolbox.classroom.runs import Limits

MAX_RUNS = 1000
NAME = r"\A(?!\.)[\w+=@,.\-]{1,80}\Z"  # of a run, and of its folder


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Any] = {}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    notebooks: list[str]
    title: str = ""
    minutes: float = 60.0
    memory_gb: float = doctor.MEMORY_GB
    parameters: dict[str, Any] = {}
    runs: list[_Named] = []
    grid: dict[str, list[Any]] = {}


@dataclass(frozen=True)
class Run:
    """One run: its notebooks in order, and what each of them is given.

    chosen: the parameters that set this run apart from the others. key: changes with all that the run is
    made from (parameters, code of the notebooks, the package with its data).
    """

    name: str
    notebooks: tuple[Path, ...]
    given: dict[str, dict[str, Any]]
    chosen: dict[str, Any]
    key: str


Shard = tuple[int, int]  # which, counted from 1, of how many
WHOLE: Shard = (1, 1)


@dataclass(frozen=True)
class Plan:
    """A batch, checked. memory_gb stands in ``limits``; ``models`` are the base models that it names."""

    file: Path
    title: str
    limits: Limits
    runs: tuple[Run, ...]
    models: frozenset[str]

    @property
    def sees(self) -> bool:
        """Whether lesson 7 is in it, which needs the vision tower."""
        return any(notebook.stem.startswith("07_") for notebook in self.runs[0].notebooks)


def load(file: str | Path) -> Plan:
    """Read a plan and check it whole.

    Raises CourseError for anything that would go wrong later: an unknown notebook, parameter or key, a
    value of another type, a name that stands twice or is no folder name, no run at all.
    """
    file = paths.resolve(file)
    plan = _read(file)
    notebooks = [_find(name, file) for name in plan.notebooks]
    twice = {path.stem for path in notebooks if [other.stem for other in notebooks].count(path.stem) > 1}
    if twice:
        raise CourseError(f"{file.name} 的 notebooks 里 {'、'.join(sorted(twice))} 写了两次。")
    read = {path.stem: course.read(path) for path in notebooks}
    defaults = {stem: parameters.defaults(notebook, f"{stem}.ipynb") for stem, notebook in read.items()}
    made_from = [course.package_hash()]
    for notebook in read.values():
        made_from.append([cell.source for cell in notebook.cells if cell.cell_type == "code"])

    runs: dict[str, Run] = {}
    for name, chosen in _combinations(plan, file):
        merged = plan.parameters | chosen
        if "output_dir" in merged:
            raise CourseError(f"{file.name}：output_dir 由批次决定（每次运行一个文件夹），不能写在计划里。")
        try:
            assigned = parameters.assign(merged, defaults)
            given = {
                stem: parameters.with_whole_paths(values, file.parent) for stem, values in assigned.items()
            }
        except CourseError as error:
            raise CourseError(f"{file.name} 的运行 {name}：{error}") from error
        if name in runs:
            raise CourseError(f"{file.name} 里有两次运行都叫 {name}。请改掉一个名字。")
        asked = {stem: parameters.contents(values) for stem, values in given.items()}
        key = json.dumps([made_from, asked], sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(key.encode()).hexdigest()
        runs[name] = Run(name, tuple(notebooks), given, chosen, digest)
    models = {
        run.given[stem].get("base_model", values["base_model"])
        for run in runs.values()
        for stem, values in defaults.items()
        if "base_model" in values
    }
    limits = Limits(minutes=plan.minutes, memory_gb=plan.memory_gb)
    return Plan(file, plan.title or file.stem, limits, tuple(runs.values()), frozenset(models))


def share(plan: Plan, shard: Shard) -> tuple[Run, ...]:
    """Return the runs of a shard: of four shards the second has the second run, the sixth, and so on.

    Raises CourseError for more shards than runs.
    """
    number, of = shard
    if of > len(plan.runs):
        raise CourseError(
            f"{plan.file.name} 一共 {len(plan.runs)} 次运行，分不成 --shard {number}/{of} 的 {of} 份，"
            f"最多 {len(plan.runs)} 份。"
        )
    return plan.runs[number - 1 :: of]


def _read(file: Path) -> _File:
    plan = tables.shaped(tables.read_yaml(file), _File, file.name)
    for name, limit in {"minutes": plan.minutes, "memory_gb": plan.memory_gb}.items():
        if not 0 < limit < float("inf"):
            raise CourseError(f"{file.name} 的 {name} 是 {limit}，应当大于 0。")
    if not plan.notebooks:
        raise CourseError(f'{file.name} 的 notebooks 是空的，至少写一个，例如 ["04"]。')
    for name, values in plan.grid.items():
        if not values:
            raise CourseError(f"{file.name} 的 grid 里 {name} 一个值也没有。")
        if name in plan.parameters or any(name in run.parameters for run in plan.runs):
            raise CourseError(f"{file.name} 的参数 {name} 既在 grid 里，又在别处。请只写一处。")
    return plan


def _find(name: str, file: Path) -> Path:
    """Return the notebook that a plan calls by number, name or path."""
    lessons = {lesson.stem: lesson for lesson in course.find_notebooks()}
    for stem, lesson in lessons.items():
        if name in (stem, stem[:2], stem[:2].lstrip("0"), lesson.name):
            return lesson
    beside = (file.parent / name).with_suffix(".ipynb")
    if beside.is_file():
        return beside
    raise CourseError(
        f"{file.name} 里的笔记本 {name} 找不到。课程的笔记本：{'、'.join(lessons)}；"
        f"别的笔记本要放在 {file.name} 旁边，或从那里写出路径。"
    )


def _combinations(plan: _File, file: Path):
    """Yield (name, parameters) of each run: the list times the grid."""
    count = max(1, len(plan.runs))
    for values in plan.grid.values():
        count *= len(values)
    if count > MAX_RUNS:
        raise CourseError(f"{file.name} 一共 {count} 次运行，最多 {MAX_RUNS} 次。请拆成几个计划。")
    for run in plan.runs or [_Named("")]:
        for values in itertools.product(*plan.grid.values()):
            cell = dict(zip(plan.grid, values, strict=True))
            said = {k: "+".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in cell.items()}
            parts = [run.name, *(f"{key}={value}" for key, value in said.items())]
            name = ",".join(filter(None, parts)) or "run"
            if not re.match(NAME, name):
                raise CourseError(
                    f"{file.name} 的运行 {name!r} 不能当文件夹名：只能有文字、数字和 + = @ , . - _，"
                    "最多 80 个，不以点开头。" + ("" if run.name else "请在 runs 里给它起个名字。")
                )
            yield name, run.parameters | cell
