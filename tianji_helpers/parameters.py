"""The parameters of notebooks: which there are, and whether a value that somebody gave fits.

papermill only warns of a name that no notebook has, and its own inspection overlooks a line with a
second ``=`` (in a comment, say), so the ``parameters`` cell is read here as the Python it is.
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import nbformat

from tianji_helpers import paths, records, tables
from tianji_helpers.errors import CourseError, check_known

PATHS = ("data", "config", "source", "image")  # files that a lesson reads
_KINDS = {
    bool: "true 或 false",
    int: "整数，例如 3",
    float: "小数，例如 1e-4",
    str: "文字",
    list: "列表，例如 [正常, 小红书]",
    dict: "映射，例如 {名字: 值}",
}


def defaults(notebook: nbformat.NotebookNode, name: str) -> dict[str, Any]:
    """Return the parameters of a notebook with their default values.

    name: what to call the notebook in an error.
    Raises CourseError unless exactly one cell is tagged ``parameters`` and holds literals only.
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise CourseError(f"{name} 有 {len(cells)} 个带 parameters 标签的格子，应当恰好一个。")
    found = {}
    try:
        for statement in ast.parse(cells[0].source).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise ValueError(ast.unparse(statement))
            found[statement.targets[0].id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError) as error:
        raise CourseError(f"{name} 的参数格只能写“名字 = 字面量”：{error}") from error
    return found


def convert(name: str, value: Any, default: Any) -> Any:
    """Return ``value`` in the type of ``default``.

    value: text as typed in a shell, or a value that has its type already.
    Raises CourseError naming parameter, value and the type expected.

    >>> convert("lr", "1e-4", 2e-3), convert("styles", "[正常, 严肃]", ["小红书"])
    (0.0001, ['正常', '严肃'])
    >>> convert("epochs", "two", 1)
    Traceback (most recent call last):
        ...
    tianji_helpers.errors.CourseError: 参数 epochs 的值 'two' 不对，应当是整数，例如 3。
    """
    kind = type(default)
    try:
        if isinstance(value, str) and kind is not str:
            # YAML reads 1e-4 as text: a number without a point is none there
            value = float(value) if kind is float else tables.read_word(value)
        if kind is float and type(value) is int:
            value = float(value)
        fits = default is None or (type(value) is kind and _fits(value, default))
    except (ValueError, OverflowError):
        fits = False
    words = _KINDS.get(kind, "")
    if fits and kind is int and name.endswith("seed"):  # NumPy takes no other
        fits, words = 0 <= value < 2**32, " 0 到 4294967295 之间的整数"
    if kind is type(value) is str:
        words = "文字，不含 NUL 和半个 emoji"
    if not fits:
        raise CourseError(f"参数 {name} 的值 {brief(value)} 不对，应当是{words}。")
    return value


def with_whole_paths(given: Mapping[str, Any], folder: str | Path = "") -> dict[str, Any]:
    """Return parameters with the paths among them absolute: the kernels that take them are elsewhere.

    folder: where they start; empty means the current folder, that of whoever typed them. Raises CourseError
    for a path that cannot be one (``~nobody``).
    """
    values, folder = dict(given), Path(folder)
    for name in values.keys() & set(PATHS):
        try:
            values[name] = values[name] and str((folder / paths.expand(values[name])).absolute())
        except OSError as error:
            raise CourseError(f"参数 {name}：{error.strerror}。") from error
    return values


def contents(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the hash of a file in the place of its path: what a result depends on."""
    return {
        name: records.sha256(value) if name in PATHS and value and Path(value).is_file() else value
        for name, value in given.items()
    }


def _fits(value: Any, default: Any) -> bool:
    """Whether a value, of its parameter's type, is one that can be used."""
    if isinstance(value, float):
        return abs(value) < float("inf")  # neither infinite nor NaN
    if isinstance(value, str):
        return "\0" not in value and value == value.encode(errors="ignore").decode()  # half an emoji
    if isinstance(value, list):  # an empty one takes texts
        kinds = {type(item) for item in default} or {str}
        return len(kinds) > 1 or all(type(item) in kinds and _fits(item, "") for item in value)
    return True


def checked(lesson: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a lesson's parameters in the types that they should have.

    lesson: the number that its file's name begins with, such as ``05``. given: a namespace that holds them
    all, as papermill or a student left them (``"2e-4"``, which YAML takes for text, becomes a number).
    Raises CourseError naming parameter, value and the type expected, for an ``output_dir`` in which the
    lesson's folder cannot be made, or if there is no such lesson.
    """
    file = next(paths.NOTEBOOKS.glob(f"{lesson}_*.ipynb"), None)
    if file is None:
        raise CourseError(
            f"{paths.NOTEBOOKS} 里没有第 {lesson} 课的笔记本。"
            "请在完整的课程文件夹里运行（git clone 之后 make setup）。"
        )
    known = defaults(nbformat.read(file, as_version=4), file.name)
    values = {name: convert(name, given[name], default) for name, default in known.items()}
    output_dir = values.get("output_dir", "")
    try:
        paths.stage_dir(lesson, output_dir)
    except OSError as error:  # a file of that name, a place that is another's, an address
        named = f"参数 output_dir 的值 {brief(output_dir)} 不对，那里" if output_dir else "结果"
        raise CourseError(f"{named}建不了文件夹：{error.strerror}。") from error
    return values


def assign(given: Mapping[str, Any], notebooks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each notebook those of the given parameters that it has, in its types.

    given: values by parameter name. notebooks: defaults (see ``defaults``) by notebook name.
    Raises CourseError for a name that no notebook has, with the close ones and the whole list.

    >>> assign({"seed": "7"}, {"01": {"seed": 42}, "02": {"keep": 0.9}})
    {'01': {'seed': 7}, '02': {}}
    """
    known = {name for values in notebooks.values() for name in values}
    for name in given:
        check_known(name, sorted(known), "参数")
    return {
        notebook: {name: convert(name, given[name], values[name]) for name in given if name in values}
        for notebook, values in notebooks.items()
    }
