"""``tianji assignment``: one source notebook, and the students' version of it.

A source has the markers of nbgrader, which otter shares. ``### BEGIN SOLUTION`` to ``### END SOLUTION``
becomes a stub, and so does a line that ends with ``# SOLUTION``; ``### BEGIN HIDDEN TESTS`` to ``### END
HIDDEN TESTS`` goes. The first line of a graded cell says what it is worth: ``# unique: 3 points`` (``3 分``)
in code, ``<!-- essay: 4 points -->`` in a text; the metadata that nbgrader's extension writes do as well. A
graded cell with a solution is graded by a person; without one it is a test, worth all its points if nothing
is raised, or as many as its last expression says if that is a number.

Tests run in a process of the grader's, whole, and never in the student's: what they call are the student's
functions in their sandbox. So they see plain data only, and a student sees of them what the student's
version shows. nbgrader is no help in this: its preprocessors need its metadata, and it runs tests in the
student's kernel.
"""

import ast
import builtins
import multiprocessing
import re
import resource
import textwrap
import traceback
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from IPython.core.inputtransformer2 import TransformerManager

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import handed_in, transport
from tianji_toolbox.classroom.sandbox import Sandbox, Stopped

STUB, TEXT_STUB = "# 写在这里\n...", "（在这里写你的回答）"
HIDDEN_FAILED = "没有通过看不见的测试"
_MARKER = re.compile(r"^(\s*)(?:#+|<!--)\s*(BEGIN|END)\s+([A-Z ]+?)\s*(?:-->)?\s*$")
_LINE = re.compile(r"^(\s*)(\w+\s*=\s*)?.*#\s*SOLUTION\s*$")
_SOLUTION, _HIDDEN = "SOLUTION", "HIDDEN TESTS"


@dataclass(frozen=True)
class Question:
    """A graded cell.

    test: its code; empty if a person grades it. hidden: the numbers of the lines that no student sees.
    needs: the names in it that are the student's.
    """

    number: str
    points: float
    test: str = ""
    hidden: frozenset[int] = frozenset()
    needs: tuple[str, ...] = ()

    title = ""  # as an exercise has one


@dataclass(frozen=True)
class Assignment:
    """A source that was read and checked. imports: what its tests may use of the modules that it imports."""

    file: Path
    questions: dict[str, Question]
    imports: dict[str, Any]

    @property
    def tests(self) -> dict[str, Question]:
        """The questions that need no person."""
        return {name: question for name, question in self.questions.items() if question.test}


def load(file: Path) -> Assignment:
    """Read a source.

    Raises CourseError for markers that do not fit together, a question that stands twice or is worth
    nothing, a test that is no Python or needs what neither it nor a solution defines, and where nothing is
    graded.
    """
    answers, given, graded = set(), [], {}
    for number, cell in enumerate(_read(file).cells, 1):
        where = f"{file.name} 第 {number} 格"
        kept, solved, hidden = _strip(cell, where)
        name = handed_in.question(cell, cell.source)
        is_test = bool(name) and not solved and cell.cell_type == "code"
        if hidden and not is_test:
            raise CourseError(f"{where}：{_HIDDEN} 只能写在测试里，就是第一行写明分值、又没有答案的格子。")
        if name in graded:
            raise CourseError(f"{where}：题目 {name} 出现了两次，请换一个名字。")
        if name:
            graded[name] = Question(name, _points(cell, name, where), cell.source if is_test else "", hidden)
        if is_test:
            _parse(kept, f"{where}去掉看不见的测试以后，")
            if not _parse(cell.source, where).body:
                raise CourseError(f"{where}：题目 {name} 的测试是空的。")
        elif cell.cell_type == "code":
            tree = _parse(TransformerManager().transform_cell(cell.source), where)
            answers |= _names(tree)[1] if solved else set()
            given += [] if solved else tree.body
    if not graded:
        raise CourseError(f"{file} 里没有计分的格子，它的第一行像“# 去重: 3 分”或“<!-- 心得: 3 分 -->”。")
    imports = _imports(given, file)
    for name, question in graded.items():
        used, own = _names(ast.parse(question.test))
        needed = used - own - set(dir(builtins))
        if unknown := sorted(needed - answers - imports.keys()):
            raise CourseError(
                f"{file.name} 的题目 {name} 用到了 {'、'.join(unknown)}：不是答案里写的，也没有 import。"
                "测试只能用答案、import 和它自己写的名字。"
            )
        graded[name] = replace(question, needs=tuple(sorted(needed & answers)))
    return Assignment(file, graded, imports)


def student_version(file: Path) -> Any:
    """Return a source without solutions, hidden tests and outputs; nobody edits its tests by accident."""
    notebook = _read(file)
    for number, cell in enumerate(notebook.cells, 1):
        name = handed_in.question(cell, cell.source)
        cell.source, solved, _ = _strip(cell, f"{file.name} 第 {number} 格")
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if name and not solved:
            cell.metadata |= {"editable": False, "deletable": False}
    kept = ("kernelspec", "language_info")
    notebook.metadata = {key: value for key, value in notebook.metadata.items() if key in kept}
    return notebook


def write(file: Path, folder: Path) -> list[Path]:
    """Write the student's version and a copy of the source, and return both paths.

    What somebody else wrote or changed under their names is kept.
    """
    import nbformat

    files = [folder / "student" / file.name, folder / "master" / file.name]
    for path, notebook in zip(files, (student_version(file), _read(file)), strict=True):
        with records.make_way(path, folder), records.atomic_writer(path) as target:
            target.write(nbformat.writes(notebook, version=4) + "\n")
    return files


def judge(question: Question, imports: dict[str, Any], sandbox: Sandbox) -> tuple[float, list[str]]:
    """Return the points of a test, and what is missing; nothing in it is the student's text or a hidden line.

    A value of the student's may make a test loop, or fill the memory (``range(n)``, ``"x" * n``), so it runs
    in a process of its own, which has as much memory as the sandbox and ends with it. Raises Stopped.
    """
    fork = multiprocessing.get_context("fork")  # for it talks to the sandbox
    told, tell = fork.Pipe(duplex=False)
    child = fork.Process(target=_tell_verdict, args=(tell, question, imports, sandbox), daemon=True)
    child.start()
    tell.close()
    try:
        while not told.poll(0.1):
            if sandbox.ended or not (child.is_alive() or told.poll()):
                raise Stopped(sandbox.ended or "测试的进程自己结束了")
        points, missing, stopped = told.recv()
    except EOFError:
        raise Stopped("测试的进程自己结束了") from None
    finally:
        child.kill()
        child.join()
        told.close()
    if stopped:
        raise Stopped(sandbox.ended or stopped)
    return points, missing


def _tell_verdict(tell: Connection, question: Question, imports: dict[str, Any], sandbox: Sandbox) -> None:
    room = int(psutil.Process().memory_info().vms + sandbox.memory_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    try:
        tell.send((*_judged(question, imports, sandbox), ""))
    except Stopped as stopped:
        tell.send((0.0, [], str(stopped)))


def _judged(question: Question, imports: dict[str, Any], sandbox: Sandbox) -> tuple[float, list[str]]:
    ended: list[Stopped] = []  # a test may catch all errors
    name, space, value, missing = f"<{question.number}>", dict(imports), None, []
    try:
        for needed in question.needs:
            space[needed] = _of_student(needed, sandbox, ended)
        *body, last = ast.parse(question.test).body
        result = last.value if isinstance(last, ast.Expr) else ast.Constant(None)
        body += [] if isinstance(last, ast.Expr) else [last]
        exec(compile(ast.Module(body, []), name, "exec"), space)
        value = eval(compile(ast.fix_missing_locations(ast.Expression(result)), name, "eval"), space)
    except Exception as error:
        value, missing = 0, [_reason(question, error, name)]
    if ended:
        raise ended[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return question.points, missing
    points = max(0.0, min(float(value), question.points)) if value == value else 0.0
    if points < question.points and not missing:
        missing = [f"得到 {points:g} 分，满分 {question.points:g}"]
    return points, missing


def _of_student(name: str, sandbox: Sandbox, ended: list[Stopped]) -> Any:
    def ask(*call: Any) -> Any:
        try:
            reply = sandbox.named(name, *call)
        except Stopped as stopped:
            ended.append(stopped)
            raise
        if "value" in reply:
            return transport.unpack(reply["value"])
        if "raised" in reply:
            kind = getattr(builtins, str(reply["raised"]), None)
            raise kind() if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError()
        return lambda *arguments, **keywords: ask(*map(transport.pack, (list(arguments), keywords)))

    return ask()


def _reason(question: Question, error: Exception, name: str) -> str:
    """Return which line failed: one that the student can read, or only that it was another."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    if not lines:
        return f"找不到 {'、'.join(question.needs)}，或者它不是普通的数据"
    if question.hidden.intersection(lines):
        return HIDDEN_FAILED
    line = question.test.split("\n")[lines[-1] - 1]
    return f"没有通过：{line.strip()}"


def _read(file: Path) -> Any:
    """Return a notebook as nbformat does, which takes two seconds to import."""
    import nbformat

    try:
        handed_in.read_cells(file)  # what it cannot be is said there
    except CourseError as error:
        raise CourseError(f"{file.name}：{error}。作业是 Jupyter 笔记本（.ipynb）。") from error
    try:
        return nbformat.read(file, as_version=4)
    except Exception as error:  # whatever is in the file
        raise CourseError(f"读不了笔记本 {file}（{type(error).__name__}）。") from error


class _Kept(NamedTuple):
    """What a student gets of a cell; whether a solution went; the lines of its hidden tests."""

    text: str
    solved: bool
    hidden: frozenset[int]


def _strip(cell: Any, where: str) -> _Kept:
    kind, stub = ("code", STUB) if cell.cell_type == "code" else ("markdown", TEXT_STUB)
    lines, hidden, solved, inside = [], set(), False, ""
    for number, line in enumerate(cell.source.split("\n"), 1):
        marker = _MARKER.match(line)
        if marker:
            indent, begins, what = marker[1], marker[2] == "BEGIN", marker[3]
            if what not in (_SOLUTION, _HIDDEN):
                raise CourseError(f"{where}：不认识 {line.strip()}，只有 SOLUTION 和 HIDDEN TESTS 两种。")
            if begins == bool(inside) or (inside and inside != what):
                raise CourseError(f"{where}：{line.strip()} 不成对，每个 BEGIN 后面要有同样的 END。")
            inside = what if begins else ""
            if begins and what == _SOLUTION:
                lines.append(textwrap.indent(stub, indent))
                solved = True
        one = _LINE.match(line) if kind == "code" and not inside else None
        if inside == _HIDDEN:
            hidden.add(number)
        elif one:
            lines.append(f"{one[1]}{one[2] or ''}...")
            solved = True
        elif not inside and not marker:
            lines.append(line)
    if inside:
        raise CourseError(f"{where}：BEGIN {inside} 没有 END，后面的会全部消失。")
    if handed_in.nbgrader(cell).get("solution") and not solved:  # all of it is the solution
        lines = [line for line in lines[:1] if handed_in.HEADER[kind].match(line)] + [stub]
        solved = True
    return _Kept("\n".join(lines), solved, frozenset(hidden))


def _points(cell: Any, name: str, where: str) -> float:
    header = handed_in.HEADER["code" if cell.cell_type == "code" else "markdown"].match(cell.source)
    value = handed_in.nbgrader(cell).get("points", header and header[2])
    try:
        points = float(value)
    except (TypeError, ValueError):
        points = 0.0
    if not 0 < points <= 1000:
        raise CourseError(f"{where}：题目 {name} 的分值是 {value}，应当大于 0、不超过 1000。")
    return points


def _imports(given: list[ast.stmt], file: Path) -> dict[str, Any]:
    """Return what the imports of a source import."""
    space: dict[str, Any] = {}
    for node in given:
        if isinstance(node, ast.Import | ast.ImportFrom):
            try:
                exec(compile(ast.Module([node], []), file.name, "exec"), space)
            except Exception as error:
                raise CourseError(f"{file.name} 的 {ast.unparse(node)} 做不到：{error}。") from error
    return space


def _parse(code: str, where: str) -> ast.Module:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise CourseError(f"{where}不是 Python：{error}。") from error


def _names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Return the names that a piece of code reads, and those that it gives a value."""
    read, given = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else given).add(node.id)
        elif isinstance(node, ast.alias):
            given.add(node.asname or node.name.partition(".")[0])
        else:  # functions, classes, caught errors; parameters
            given |= {value for key in ("name", "arg") if isinstance(value := getattr(node, key, None), str)}
    return read, given
