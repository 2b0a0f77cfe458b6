"""Four ways to write down the same conversation, and how one becomes another.

* ``xtuner``: ``{"conversation": [{"system", "input", "output"}, …]}``;
* ``openai``: ``{"messages": [{"role", "content"}, …]}``;
* ``alpaca``: ``{"instruction", "input", "output", "system", "history": [[question, answer], …]}``;
* ``sharegpt``: ``{"conversations": [{"from": "human" | "gpt" | "system", "value"}, …]}``.

Between them stands a list of turns, each with ``input``, ``output`` and perhaps ``system``: the words,
their order and who says them, nothing else. What a format cannot hold is refused with file, row and
field (a tool call, a weight of the loss, a system prompt in mid-conversation where there is no place
for one). What is no part of the conversation (a source, a topic) is left out and counted.

OpenAI messages are written as JSON Lines, the others as a JSON array, or as JSON Lines if the file's
name ends in ``.jsonl``; both are read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import records
from tianji_helpers.errors import CourseError

STAGE = "convert"
FORMATS = ("xtuner", "openai", "alpaca", "sharegpt")

# these change what is learned, so that a file without them would not be the same data
_MEANINGFUL = frozenset(
    (
        *("tools", "tool_calls", "tool_call_id", "function_call", "functions", "name"),
        *("weight", "loss", "output_with_loss", "need_eos_token", "sep"),
        *("chosen", "rejected", "kto_tag", "image", "images", "videos", "audios"),
    )
)


def iter_rows(path: str | Path) -> Iterator[tuple[str, dict]]:
    """Yield (words that name the row, row) of a JSON array or a JSON Lines file.

    A byte order mark, blank lines and CRLF do no harm. Raises CourseError naming file and row.
    """
    if is_array(path):
        for number, row in enumerate(records.read_json_array(path), 1):
            yield f"{path} 第 {number} 条", row
    else:
        for number, row in records.iter_jsonl(path):
            yield f"{path} 第 {number} 行", row


def is_array(path: str | Path) -> bool:
    """Say whether a file is one JSON array, and not JSON Lines."""
    return records.read_text(path).lstrip().startswith("[")


def detect(row: dict, where: str = "") -> str:
    """Return the format of a row by its keys. Raises CourseError naming the keys it has.

    >>> detect({"messages": []})
    'openai'
    """
    for name, key in (("xtuner", "conversation"), ("openai", "messages"), ("sharegpt", "conversations")):
        if key in row:
            return name
    if "instruction" in row and "output" in row:
        return "alpaca"
    raise CourseError(
        f"{where}：看不出是哪种格式，它只有字段 {'、'.join(row)[:80] or '（空）'}。"
        f"认识的有 {'、'.join(FORMATS)}；也可以用 --from 指明。"
    )


def to_turns(row: dict, name: str, where: str = "", left_out: Counter | None = None) -> list[dict]:
    """Return the turns of a row: ``input``, ``output`` and, where it has one, ``system``.

    name: one of ``FORMATS``. where: words that name the row in an error. left_out: counts the fields
    that are no part of the conversation.
    Raises CourseError naming row and field.

    >>> to_turns({"instruction": "翻译", "input": "你好", "output": "Hello"}, "alpaca")
    [{'input': '翻译\\n你好', 'output': 'Hello'}]
    """
    turns = _READERS[name](row, where, Counter() if left_out is None else left_out)
    if not turns:
        raise CourseError(f"{where}：一轮对话也没有；请删去这一条。")
    return turns


def from_turns(turns: list[dict], name: str, where: str = "") -> dict:
    """Return the row that holds these turns in the format ``name``.

    Raises CourseError if the format has no place for them.

    >>> from_turns([{"input": "你好", "output": "你好呀"}], "sharegpt")["conversations"][1]
    {'from': 'gpt', 'value': '你好呀'}
    """
    return _WRITERS[name](turns, where)


@dataclass(frozen=True)
class Converted:
    """What a conversion did: the source's format, rows and turns, and what stayed behind.

    left_out: rows by field that is no part of the conversation. joined: alpaca rows whose ``input``
    now follows ``instruction`` on a new line (the border between them is gone).
    """

    source: str
    rows: int
    turns: int
    left_out: dict[str, int]
    joined: int


def convert_file(source: str | Path, target: str | Path, to: str, from_: str = "") -> Converted:
    """Write a file's conversations in another format, with provenance.

    to, from_: one of ``FORMATS``; an empty ``from_`` means: look at the first row.
    Raises CourseError for an unknown format, an empty file, and as ``to_turns`` and ``from_turns``
    do; then nothing is written.
    """
    for name in filter(None, (to, from_)):
        if name not in FORMATS:
            raise CourseError(f"没有叫 {name} 的格式。可选：{'、'.join(FORMATS)}。")
    counts: Counter = Counter()
    left_out: Counter = Counter()

    def rows() -> Iterator[dict]:
        nonlocal from_
        for where, row in iter_rows(source):
            from_ = from_ or detect(row, where)
            turns = to_turns(row, from_, where, left_out)
            counts["rows"] += 1
            counts["turns"] += len(turns)
            counts["joined"] += from_ == "alpaca" and bool((row.get("input") or "").strip())
            yield from_turns(turns, to, where)
        if not counts["rows"]:
            raise CourseError(f"{source} 里没有一条记录。请检查是不是下载了空文件。")

    write_rows(target, rows(), lines=to == "openai")
    result = Converted(from_, counts["rows"], counts["turns"], dict(left_out), counts["joined"])
    records.write_provenance(
        target,
        stage=STAGE,
        parameters={"from": from_, "to": to},
        counts={"rows": result.rows, "turns": result.turns, "joined": result.joined, **left_out},
        inputs=[source] if Path(source).resolve() != Path(target).resolve() else [],
    )
    return result


def write_rows(path: str | Path, rows: Iterable[dict], lines: bool = False) -> int:
    """Write rows as JSON Lines (``lines``, or a name that ends in ``.jsonl``), else as a JSON array."""
    lines = lines or Path(path).suffix == ".jsonl"
    return (records.write_jsonl if lines else records.write_json_array)(path, rows)


def _pick(row: dict, known: set[str], where: str, left_out: Counter) -> None:
    """Count the fields that are not ``known``; refuse one that changes what is learned."""
    for field in row.keys() - known:
        if row[field] in (None, "", [], {}):
            continue  # datasets fills the fields of other rows with nothing
        records.check_text(field, "的名字", where)
        if field in _MEANINGFUL:
            raise CourseError(
                f"{where}：字段 {field} 会影响训练，别的格式装不下它；请先去掉这个字段，或去掉这一条。"
            )
        left_out[field] += 1


def _list(row: dict, field: str, where: str) -> list:
    value = row.get(field)
    if not isinstance(value, list):
        raise CourseError(f"{where}：字段 {field} 应当是列表，现在是 {type(value).__name__}。")
    return value


def _turn(question: str, answer: str, system: str | None) -> dict:
    turn = {"input": question, "output": answer}
    return turn if system is None else {"system": system, **turn}


def _system(row: dict, where: str) -> str | None:
    value = row.get("system")
    return None if value is None else records.check_text(value, "system", where)


def _read_xtuner(row: dict, where: str, left_out: Counter) -> list[dict]:
    _pick(row, {"conversation"}, where, left_out)
    turns = []
    for number, said in enumerate(_list(row, "conversation", where), 1):
        place = f"{where}第 {number} 轮"
        if not isinstance(said, dict):
            raise CourseError(f"{place}是 {type(said).__name__}，应当是对象 {{ … }}。")
        _pick(said, {"system", "input", "output"}, place, left_out)
        question, answer = (records.check_text(said.get(key), key, place) for key in ("input", "output"))
        turns.append(_turn(question, answer, _system(said, place)))
    return turns


def _write_xtuner(turns: list[dict], where: str) -> dict:
    return {"conversation": [_turn(said["input"], said["output"], said.get("system")) for said in turns]}


def _read_openai(row: dict, where: str, left_out: Counter) -> list[dict]:
    _pick(row, {"messages"}, where, left_out)
    return _read_messages(_list(row, "messages", where), _OPENAI, "role", "content", where, left_out)


def _write_openai(turns: list[dict], where: str) -> dict:
    return {"messages": _messages(turns, "role", "content", ("system", "user", "assistant"))}


def _read_sharegpt(row: dict, where: str, left_out: Counter) -> list[dict]:
    _pick(row, {"conversations", "system"}, where, left_out)
    messages = _list(row, "conversations", where)
    system = _system(row, where)
    if system is not None:
        messages = [{"from": "system", "value": system}, *messages]
    return _read_messages(messages, _SHAREGPT, "from", "value", where, left_out)


def _write_sharegpt(turns: list[dict], where: str) -> dict:
    _system_only_first(turns, "sharegpt", where)
    return {"conversations": _messages(turns, "from", "value", ("system", "human", "gpt"))}


def _read_alpaca(row: dict, where: str, left_out: Counter) -> list[dict]:
    _pick(row, {"instruction", "input", "output", "system", "history"}, where, left_out)
    question, answer = (records.check_text(row.get(key), key, where) for key in ("instruction", "output"))
    extra = records.check_text("" if row.get("input") is None else row["input"], "input", where)
    turns = []
    history = [] if row.get("history") is None else _list(row, "history", where)
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise CourseError(f"{where}：字段 history 第 {number} 项应当是 [问, 答]。")
        turns.append(_turn(*(records.check_text(text, "history", where) for text in pair), None))
    turns.append(_turn(f"{question}\n{extra}" if extra.strip() else question, answer, None))
    system = _system(row, where)
    if system is not None:
        turns[0] = {"system": system, **turns[0]}
    return turns


def _write_alpaca(turns: list[dict], where: str) -> dict:
    _system_only_first(turns, "alpaca", where)
    *history, last = turns
    row = {"instruction": last["input"], "input": "", "output": last["output"]}
    if "system" in turns[0]:
        row["system"] = turns[0]["system"]
    if history:
        row["history"] = [[turn["input"], turn["output"]] for turn in history]
    return row


def _system_only_first(turns: list[dict], name: str, where: str) -> None:
    for number, turn in enumerate(turns[1:], 2):
        if "system" in turn:
            raise CourseError(
                f"{where}：第 {number} 轮有自己的 system，{name} 只放得下开头的一个；"
                "请把这一条拆开，或改用 xtuner、openai。"
            )


_OPENAI = {"system": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


def _messages(turns: list[dict], who: str, what: str, names: tuple[str, str, str]) -> list[dict]:
    return [
        {who: name, what: turn[key]}
        for turn in turns
        for name, key in zip(names, ("system", "input", "output"), strict=True)
        if key in turn
    ]


def _read_messages(
    messages: list, roles: dict[str, str], who: str, what: str, where: str, left_out: Counter
) -> list[dict]:
    """Return the turns of a list of messages: perhaps a system prompt, then user, then assistant."""
    turns: list[dict] = []
    heard: dict[str, str] = {}  # what was said since the last answer
    for number, message in enumerate(messages, 1):
        place = f"{where}第 {number} 句"
        if not isinstance(message, dict):
            raise CourseError(f"{place}是 {type(message).__name__}，应当是对象 {{ … }}。")
        _pick(message, {who, what}, place, left_out)
        name = message.get(who)
        role = roles.get(name) if isinstance(name, str) else None
        if role is None:
            raise CourseError(f"{place}：字段 {who} 是 {repr(name)[:80]}，只认识 {'、'.join(roles)}。")
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
    "alpaca": _read_alpaca,
    "sharegpt": _read_sharegpt,
}
_WRITERS = {
    "xtuner": _write_xtuner,
    "openai": _write_openai,
    "alpaca": _write_alpaca,
    "sharegpt": _write_sharegpt,
}
