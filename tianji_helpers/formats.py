"""The reader of all conversations that people bring along, and how one format becomes another.

A file may be of any kind that ``rows`` reads. A row is one conversation, of one turn or several, in one of
these shapes:

* ``xtuner``: ``{"conversation": [{"system", "input", "output"}, …]}``;
* ``openai``: ``{"messages": [{"role", "content"}, …]}``;
* ``sharegpt``: ``{"conversations": [{"from": "human" | "gpt" | "system", "value"}, …]}``;
* ``alpaca``: ``{"instruction", "input", "output", "system", "history": [[question, answer], …]}``;
* ``columns``: a question and an answer under one of the pairs of names in ``COLUMNS``, with ``system`` and
  ``history`` as in alpaca. It is read only.

In a table the lists of the first three, and ``history``, are JSON in a cell. A system prompt may be absent.

Between the shapes stands a list of turns, each with ``input``, ``output`` and perhaps ``system``: the words,
their order and who says them, nothing else. What a format cannot hold is refused with file, row and
field (a tool call, a weight of the loss, a system prompt in mid-conversation where there is no place
for one). What is no part of the conversation (a source, a topic) is left out and counted.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from tianji_helpers import records
from tianji_helpers.errors import CourseError, check_known
from tianji_helpers.rows import iter_rows

STAGE = "convert"
FORMATS = ("xtuner", "openai", "alpaca", "sharegpt")
COLUMNS = (
    *(("input", "output"), ("question", "answer"), ("prompt", "response"), ("prompt", "completion")),
    *(("query", "response"), ("问题", "答案"), ("问题", "回答"), ("问", "答")),
)
_ALPACA = ("instruction", "output")
_LISTS = {"xtuner": "conversation", "openai": "messages", "sharegpt": "conversations"}
_USUAL = {"system", "input", "output"}
_ROLES = {"system": "system", "developer": "system"}
_ROLES |= dict.fromkeys(("user", "human"), "user") | dict.fromkeys(("assistant", "gpt", "bot"), "assistant")
# these change what is learned, so that a file without them would not be the same data
_MEANINGFUL = frozenset(
    (
        *("tools", "tool_calls", "tool_call_id", "function_call", "functions", "name", "sep"),
        *("weight", "loss", "output_with_loss", "need_eos_token"),
        *("chosen", "rejected", "kto_tag", "image", "images", "videos", "audios"),
    )
)
_ANYHOW = {(field, yes) for field in ("loss", "output_with_loss", "need_eos_token") for yes in ("true", "1")}
_ANYHOW |= {("weight", "1"), ("weight", "1.0")}  # what holds without them, too


def detect(row: dict[str, Any], where: str = "") -> str:
    """Return the shape of a row by its keys. Raises CourseError naming the keys it has.

    >>> detect({"messages": []})
    'openai'
    """
    records.check_row(row, where)
    for name, key in _LISTS.items():
        if key in row:
            return name
    if row.keys() >= set(_ALPACA):
        return "alpaca"
    if any(row.keys() >= set(pair) for pair in COLUMNS):
        return "columns"
    lists = "、".join(f"{name}（{key}）" for name, key in _LISTS.items())
    raise CourseError(
        f"{where}：看不出是哪种格式，它的字段是 {fields_of(row)}。"
        f"认识的有 {lists}、alpaca（{'、'.join(_ALPACA)}），"
        f"和一问一答两列：{'，'.join('/'.join(pair) for pair in COLUMNS)}。"
        "请改字段名；表格没有表头的话，在第一行加上 input,output。"
    )


def fields_of(row: dict[str, Any]) -> str:
    """Return the first fields of a row, for a message."""
    return "、".join(brief(key)[1:-1] for key in list(row)[:8]) or "（空）"


class NoRows(CourseError):
    """A file that can be read, and holds nothing."""


def read(
    path: str | Path,
    shape: str = "",
    *,
    system: str = "",
    left_out: Counter[str] | None = None,
    bad: Callable[[CourseError, int, Any], None] | None = None,
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield (words that name the row, its turns) of a file of any kind.

    shape: of the rows; empty means: what the rows look like, which must be the same for all. system: the
    prompt of rows that have none. left_out: see ``to_turns``. bad: takes the error, the number (from 1) and
    the value of a row that cannot be used, and the reading goes on; a file that breaks off, or holds no
    rows, has a bad row there without a value.
    Raises CourseError naming file, row and field, unless there is ``bad``.
    """
    row: Any
    first, number, rows = "", 0, iter_rows(path)
    left_out = Counter() if left_out is None else left_out
    while True:
        number, row = number + 1, None
        try:
            where, row = next(rows, ("", None))
            if shape in ("", "xtuner") and first in ("", "xtuner") and (turns := _usual(row, system)):
                first = "xtuner"
                yield where, turns
                continue
            if not where:
                if number == 1:
                    raise NoRows(f"{path} 里没有一条记录。请检查是不是写错了文件名，或下载了空文件。")
                return
            found = shape or detect(row, where)
            first = first or found
            if found != first:
                raise CourseError(
                    f"{where}是 {found} 格式，前面的却是 {first}；请把它们分成两个文件，"
                    "各自用 tianji convert 转换，再用 tianji merge 合起来。"
                )
            turns = to_turns(records.check_row(row, where), found, where, left_out)
        except CourseError as error:
            if bad is None:
                raise
            bad(error, number, row)
            continue
        if system and not turns[0].get("system"):
            turns[0] = _turn(turns[0]["input"], turns[0]["output"], system)
        yield where, turns


def _usual(row: Any, system: str) -> list[dict[str, Any]] | None:
    """Return the turns of what most files hold: an xtuner row of one turn, and nothing but text."""
    try:
        (turn,) = row["conversation"]
        if len(row) == 1 and turn.keys() == _USUAL and (turn["system"] or not system):
            "".join(turn.values()).encode()
            return [_turn(turn["input"], turn["output"], turn["system"])]
    except (TypeError, KeyError, ValueError, AttributeError):
        pass
    return None


def read_turns(path: str | Path, *, system: str = "") -> Iterator[dict[str, Any]]:
    """Yield the last turn of each row: ``input``, ``output``, perhaps ``system``.

    A row of several turns has a ``history`` as well: the turns before, each a question and its answer.
    Raises CourseError as ``read`` does, and for a system prompt in mid-conversation.
    """
    for where, turns in read(path, system=system):
        yield _last_turn(turns, where)


def _last_turn(turns: list[dict[str, Any]], where: str) -> dict[str, Any]:
    for number, turn in enumerate(turns[1:], 2):
        if "system" in turn:
            raise CourseError(
                f"{where}：第 {number} 轮有自己的 system，这里只放得下开头的一个；"
                "请把这一条拆开，或改用 xtuner、openai。"
            )
    if len(turns) == 1:
        return turns[0]
    *history, last = turns
    last = _turn(last["input"], last["output"], turns[0].get("system"))
    return last | {"history": [[turn["input"], turn["output"]] for turn in history]}


def to_turns(
    row: dict[str, Any], shape: str, where: str = "", left_out: Counter[str] | None = None
) -> list[dict[str, Any]]:
    """Return the turns of a row: ``input``, ``output`` and, where it has one, ``system``.

    shape: one of ``FORMATS``, or ``columns``. where: words that name the row in an error. left_out: counts
    the fields that are no part of the conversation, and as ``input`` the borders between an alpaca row's
    instruction and its input, which follows on a new line.
    Raises CourseError naming row and field.

    >>> to_turns({"instruction": "翻译", "input": "你好", "output": "Hello"}, "alpaca")
    [{'input': '翻译\\n你好', 'output': 'Hello'}]
    """
    turns = _READERS[shape](row, where, Counter() if left_out is None else left_out)
    if not turns:
        raise CourseError(f"{where}：一轮对话也没有；请删去这一条。")
    return turns


def from_turns(turns: list[dict[str, Any]], name: str, where: str = "") -> dict[str, Any]:
    """Return the row that holds these turns in the format ``name``.

    Raises CourseError if the format has no place for them.

    >>> from_turns([{"input": "你好", "output": "你好呀"}], "sharegpt")["conversations"][1]
    {'from': 'gpt', 'value': '你好呀'}
    """
    if name == "xtuner":
        return {"conversation": [_turn(said["input"], said["output"], said.get("system")) for said in turns]}
    if name == "openai":
        return {"messages": _messages(turns, "role", "content", ("system", "user", "assistant"))}
    last = _last_turn(turns, where)
    if name == "sharegpt":
        return {"conversations": _messages(turns, "from", "value", ("system", "human", "gpt"))}
    rest: dict[str, Any] = {key: last[key] for key in ("system", "history") if key in last}
    return {"instruction": last["input"], "input": "", "output": last["output"], **rest}


@dataclass(frozen=True)
class Converted:
    """What a conversion did: the source's shape, rows and turns, and what stayed behind.

    left_out: rows by field that is no part of the conversation. joined: alpaca rows whose ``input``
    now follows ``instruction`` on a new line (the border between them is gone).
    """

    source: str
    rows: int
    turns: int
    left_out: dict[str, int]
    joined: int


def convert_file(
    source: str | Path, target: str | Path, to: str, from_: str = "", *, system: str = ""
) -> Converted:
    """Write a file's conversations in another format, with provenance.

    to, from_: one of ``FORMATS``; an empty ``from_`` means: look at the rows. system: as ``read`` takes it.
    Raises CourseError for an unknown format, and as ``read``, ``from_turns`` and ``write_rows`` do; then
    nothing is written.
    """
    for name in filter(None, (to, from_)):
        check_known(name, FORMATS, "格式")
    shape = from_ or next((detect(row, where) for where, row in iter_rows(source)), "")
    counts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for where, turns in read(source, from_, system=system, left_out=left_out):
            counts.update(rows=1, turns=len(turns))
            yield from_turns(turns, to, where)

    write_rows(target, rows())
    joined = left_out.pop("input", 0)
    records.write_provenance(
        target,
        stage=STAGE,
        parameters={"from": shape, "to": to} | ({"system": system} if system else {}),
        counts={**counts, "joined": joined, **left_out},
        inputs=[source] if Path(source).resolve() != Path(target).resolve() else [],
    )
    return Converted(shape, counts["rows"], counts["turns"], dict(left_out), joined)


def write_rows(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as a JSON array, or as JSON Lines: the file's name says which.

    Raises CourseError as ``check_name`` does.
    """
    check_name(path)
    lines = Path(path).suffix.lower() == ".jsonl"
    return records.write_jsonl(path, rows) if lines else records.write_json_array(path, rows)


def check_name(path: str | Path) -> None:
    """Raise CourseError for the name of a file of rows that ends neither in ``.json`` nor in ``.jsonl``."""
    if Path(path).suffix.lower() not in (".json", ".jsonl"):
        raise CourseError(f"结果文件 {path} 的名字要以 .json（数组）或 .jsonl（一行一条）结尾。")


def _pick(row: dict[str, Any], known: set[str], where: str, left_out: Counter[str]) -> None:
    """Count the fields that are not ``known``; refuse one that changes what is learned."""
    for field in row.keys() - known:
        value = row[field]
        if value in (None, "", [], {}) or (field, str(value).lower()) in _ANYHOW:
            continue  # datasets fills the fields of other rows with nothing
        records.check_text(field, "的名字", where)
        if field in _MEANINGFUL:
            raise CourseError(
                f"{where}：字段 {field} 是 {brief(value)}，它会影响训练，课程的格式装不下；"
                "请先去掉这个字段，或去掉这一条。"
            )
        left_out[field] += 1


def _list(row: dict[str, Any], field: str, where: str) -> list[Any]:
    """Return a field that is a list, or JSON that spells one (a table's cell)."""
    value = row.get(field)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise CourseError(f"{where}：字段 {field} 应当是列表，或写成 JSON 的列表。") from error
    if not isinstance(value, list):
        raise CourseError(f"{where}：字段 {field} 应当是列表，现在是 {type(value).__name__}。")
    return value


def _turn(question: str, answer: str, system: str | None) -> dict[str, Any]:
    turn = {"input": question, "output": answer}
    return turn if system is None else {"system": system, **turn}


def _system(row: dict[str, Any], where: str) -> str | None:
    value = row.get("system")
    return None if value is None else records.check_text(value, "system", where)


def _read_xtuner(row: dict[str, Any], where: str, left_out: Counter[str]) -> list[dict[str, Any]]:
    _pick(row, {"conversation"}, where, left_out)
    turns = []
    for number, said in enumerate(_list(row, "conversation", where), 1):
        place = f"{where}第 {number} 轮"
        records.check_row(said, place)
        _pick(said, {"system", "input", "output"}, place, left_out)
        question, answer = (records.check_text(said.get(key), key, place) for key in ("input", "output"))
        turns.append(_turn(question, answer, _system(said, place)))
    return turns


def _read_openai(row: dict[str, Any], where: str, left_out: Counter[str]) -> list[dict[str, Any]]:
    _pick(row, {"messages"}, where, left_out)
    return _read_messages(_list(row, "messages", where), "role", "content", where, left_out)


def _read_sharegpt(row: dict[str, Any], where: str, left_out: Counter[str]) -> list[dict[str, Any]]:
    _pick(row, {"conversations", "system"}, where, left_out)
    messages = _list(row, "conversations", where)
    system = _system(row, where)
    if system is not None:
        messages = [{"from": "system", "value": system}, *messages]
    return _read_messages(messages, "from", "value", where, left_out)


def _read_columns(row: dict[str, Any], where: str, left_out: Counter[str]) -> list[dict[str, Any]]:
    pairs = (_ALPACA, *COLUMNS)
    keys = next((pair for pair in pairs if row.keys() >= set(pair)), _ALPACA)
    _pick(row, {*keys, "system", "history", *(("input",) if keys == _ALPACA else ())}, where, left_out)
    question, answer = (records.check_text(row.get(key), key, where) for key in keys)
    if keys == _ALPACA and row.get("input") is not None:
        extra = records.check_text(row["input"], "input", where)
        if extra.strip():
            question += f"\n{extra}"
            left_out["input"] += 1
    turns = []
    for number, pair in enumerate(_list(row, "history", where) if row.get("history") else [], 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise CourseError(f"{where}：字段 history 第 {number} 项应当是 [问, 答]。")
        asked, answered = (records.check_text(text, "history", where) for text in pair)
        turns.append(_turn(asked, answered, None))
    turns.append(_turn(question, answer, None))
    # an empty cell is no prompt
    return [_turn(turns[0]["input"], turns[0]["output"], _system(row, where) or None), *turns[1:]]


def _messages(
    turns: list[dict[str, Any]], who: str, what: str, names: tuple[str, str, str]
) -> list[dict[str, Any]]:
    return [
        {who: name, what: turn[key]}
        for turn in turns
        for name, key in zip(names, ("system", "input", "output"), strict=True)
        if key in turn
    ]


def _read_messages(
    messages: list[Any], who: str, what: str, where: str, left_out: Counter[str]
) -> list[dict[str, Any]]:
    """Return the turns of a list of messages: perhaps a system prompt, then user, then assistant."""
    turns: list[dict[str, Any]] = []
    heard: dict[str, str] = {}  # what was said since the last answer
    for number, message in enumerate(messages, 1):
        place = f"{where}第 {number} 句"
        records.check_row(message, place)
        _pick(message, {who, what}, place, left_out)
        name = message.get(who)
        role = _ROLES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            raise CourseError(
                f"{place}：字段 {who} 是 {brief(name)}，只认识 {'、'.join(_ROLES)}；"
                "请改成其中一个，或去掉这一条（工具调用训练不了）。"
            )
        text = records.check_text(message.get(what), what, place)
        expected = ("user",) if "system" in heard else ("system", "user")
        if "user" in heard:
            expected = ("assistant",)
        if role not in expected:
            raise CourseError(
                f"{place}：这里轮到 {' 或 '.join(expected)} 说话，现在却是 {role}；请让用户和助手一问一答。"
            )
        heard[role] = text
        if role == "assistant":
            turns.append(_turn(heard["user"], text, heard.get("system")))
            heard = {}
    if heard:
        raise CourseError(f"{where}：最后一句不是助手说的，没有答案可学；请补上回答，或去掉这一句。")
    return turns


_READERS = {
    "xtuner": _read_xtuner,
    "openai": _read_openai,
    "sharegpt": _read_sharegpt,
    "alpaca": _read_columns,
    "columns": _read_columns,
}
