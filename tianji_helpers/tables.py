"""YAML that people edit: read within bounds, and put into the shape that it should have.

A shape is one of msgspec's. Whatever is wrong is named in Chinese, with file, entry and field, and with what
YAML made of a word without quotation marks.
"""

import datetime
import re
from pathlib import Path
from reprlib import repr as brief
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
import yaml

from tianji_helpers.errors import CourseError
from tianji_helpers.records import read_text

Word = Annotated[str, msgspec.Meta(pattern=r"(?s)\A\S(?:.*\S)?\Z")]  # no blanks at its ends
Text = Annotated[str, msgspec.Meta(pattern=r"\S")]
# what the loader's own conversions raise for 2026-13-45, !!int x, 1:2: … :3.5, or a list as a key
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
_MAX_DEPTH = 50
_MAX_VALUES = 1_000_000
_PROBLEMS = {  # how msgspec begins, and what is said instead
    "Object missing": "缺少字段 {name}",
    "Object contains unknown": "不认识的字段 {name}（可用：{fields}）",
    "Expected `object`": "应当是“字段: 值”，现在是 {value}",
    "Expected `array` of length >=": "至少要有 {number} 项",
    "Expected `array` of length": "应当有 {number} 项，现在是 {value}",
    "Expected `array`": "应当是列表，现在是 {value}",
    "Expected `bool`": "应当是 true 或 false，现在是 {value}",
    "Expected `float`": "应当是不小于 0 的数，现在是 {value}",
    "Expected `date": "应当是日期，例如 2026-01-31，现在是 {value}",
    "Invalid RFC3339": "应当是日期，例如 2026-01-31，现在是 {value}",
    "Expected `int`": "应当是不小于 0 的整数，现在是 {value}",
    "Expected `str`": "应当是首尾没有空格的文字，现在是 {value}",
    "Invalid enum": "是 {value}，只能是 {choices}",
}


class _UniqueKeys(yaml.CSafeLoader):  # type: ignore[misc]
    """YAML lets a later key silently replace an earlier one; an edited list must not lose a row."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"“{key}”写了两次", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> Any:
    """Return the value of a YAML file; a key that stands twice is an error.

    Raises CourseError with file, line and column.
    """
    text = read_text(path)
    try:
        _measure(path, text)
        return yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" 第 {mark.line + 1} 行第 {mark.column + 1} 列" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise CourseError(
            f"{path}{where}不是合法的 YAML：{brief(str(problem))}。请检查缩进和引号。"
        ) from error
    except _UNREADABLE as error:
        raise CourseError(f"{path} 里有 YAML 读不懂的值：{error}。请给它加上引号。") from error


def read_word(word: str) -> Any:
    """Return what YAML makes of a word of a command line; the word as it is, unless YAML can read all of it.

    To YAML, what follows a blank and ``#`` is a comment: of a text that somebody typed it would go silently.

    >>> read_word("[1, 2.5]"), read_word("你是 #1 助手"), read_word("2026-13-45")
    ([1, 2.5], '你是 #1 助手', '2026-13-45')
    """
    try:
        _measure("", word)
        root = yaml.compose(word, Loader=yaml.CSafeLoader)
        in_one_line = root is not None and getattr(
            root, "flow_style", True
        )  # "说: 好" is a text, {说: 好} none
        if not in_one_line or word[root.end_mark.index :].strip():
            return word
        value = yaml.load(word, Loader=_UniqueKeys)
        repr(value)  # which refuses a number of thousands of digits, as whoever names the value would
    except (CourseError, yaml.YAMLError, *_UNREADABLE):
        return word
    return word if isinstance(value, int) and abs(value) >= 2**63 else value  # no setting takes a larger one


def _measure(path: str | Path, text: str) -> None:
    """Raise CourseError for YAML that is deeper or larger than any of ours, its aliases written out.

    Measured before it is loaded: depth overflows the stack of the process, and a few lines of aliases of
    aliases become thousands of millions of values for whoever walks through them.
    """
    values = 0
    open_: list[list[Any]] = []  # of each collection: its anchor, the values before it, how deep it goes
    anchors: dict[str, tuple[int, int]] = {}  # values, depth
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth = 0
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, *_ in open_):
                raise CourseError(f"{path} 的 YAML 里 &{event.anchor} 包含它自己，不是这门课的数据。")
            more, depth = anchors.get(event.anchor, (0, 0))  # an unknown one is the loader's to refuse
            values += more
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append([event.anchor, values, 1])
            values += 1
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor:
                anchors[event.anchor] = 1, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before, depth = open_.pop()
            if anchor:
                anchors[anchor] = values - before, depth
        if open_:
            open_[-1][2] = max(open_[-1][2], depth + 1)
        if len(open_) + depth > _MAX_DEPTH:
            raise CourseError(f"{path} 的 YAML 嵌套超过 {_MAX_DEPTH} 层，不是这门课的数据。")
        if values > _MAX_VALUES:
            raise CourseError(f"{path} 的 YAML 展开以后超过 {_MAX_VALUES:,} 个值，不是这门课的数据。")


def entries(path: str | Path, kind: Any) -> dict[str, Any]:
    """Return the table of a YAML file, ``name: {field: value}``: each entry as ``kind``, with its name.

    Raises CourseError that names the file, the entry and the rule it breaks.
    """
    table = read_yaml(path)
    if not isinstance(table, dict) or not table:
        raise CourseError(f"{path}：应当是“名字: 内容”的表，至少一条。")
    found = {}
    for name, content in table.items():
        shaped(name, Word, f"{path} 的一个名字")
        where = f"{path} 的条目“{name}”"
        if isinstance(content, dict):
            if "name" in content:
                raise CourseError(f"{where}：不认识的字段 name，名字写在冒号前面。")
            content = {**content, "name": name}
        found[name] = shaped(content, kind, where)
    return found


def shaped(value: Any, kind: Any, where: str) -> Any:
    """Return what was read as ``kind``. Raises CourseError; where: words that name the value in it."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$")
        places = [
            field or int(number)
            for field, number in re.findall(r"\.(\w+)|\[(\d+)\]", path.partition("[.")[0])
        ]
        for place in places:
            value = value[place]
        shown = [f"第 {place + 1} 项" if isinstance(place, int) else place for place in places]
        words = next((words for start, words in _PROBLEMS.items() if said.startswith(start)), "{said}")
        fields = get_type_hints(kind) if hasattr(kind, "__struct_fields__") else {}
        problem = words.format(
            said=said,
            name=said.partition("field `")[2].removesuffix("`"),
            number="".join(re.findall(r"\d+", said)[:1]),
            fields="、".join(name for name in fields if name != "name"),
            choices="、".join(map(str, get_args(fields.get("".join(shown))))),
            value=_as_read(value),
        )
        raise CourseError(f"{where}：{' '.join([*shown, problem])}。") from error


def _as_read(value: Any) -> str:
    """Say how YAML has read what was meant as a text, for a message.

    >>> _as_read(520)
    '520（没有加引号，被 YAML 读成了数；要当文字，请加引号）'
    """
    if isinstance(value, bool):
        return f"{value}（没有加引号的 yes、no、on、off 会被 YAML 读成“是否”；要当文字，请加引号）"
    if value is None:
        return "空的（没有加引号的 null 和 ~ 也是空；要当文字，请加引号）"
    if isinstance(value, int | float | datetime.date):
        kind = "日期" if isinstance(value, datetime.date) else "数"
        shown = value if kind == "日期" else brief(value)
        return f"{shown}（没有加引号，被 YAML 读成了{kind}；要当文字，请加引号）"
    return brief(value)
