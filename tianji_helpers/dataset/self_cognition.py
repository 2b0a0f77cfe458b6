"""Self-cognition: a persona becomes question and answer rows.

The questions and answers stand in ``data/self_cognition/persona.yaml``, in kinds (who are you, who
made you, English, typos, misleading ones …), with questions for validation and test apart: only one
that was never trained shows whether the model learned who it is or learned a sentence by heart.

Rows about nothing but the persona teach that every question is about it. So everyday questions and
answers (``general.yaml``) are mixed in, and its probe questions, never trained, measure the leak: how
often an answer names owner or assistant where nobody asked.
"""

import random
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from tianji_helpers import emoji, paths, records, tables
from tianji_helpers.errors import CourseError
from tianji_helpers.tables import Text

STAGE = "03_self_cognition"
QUESTIONS = paths.DATA / "self_cognition" / "persona.yaml"
GENERAL = paths.DATA / "self_cognition" / "general.yaml"
GENERAL_RATIO = 0.3
MAX_RATIO = 10
MAX_NAME = 40
MAX_REPEAT = 10_000
# what chat templates are made of: ChatML, Gemma, Llama, Mistral, InternLM2, GLM, DeepSeek, and Jinja itself
_TOKEN = re.compile(
    r"<[|｜]|[|｜]>|</?[A-Za-z_][^<>\s]*>|<0x[0-9A-Fa-f]{2}>|<</?SYS>>|\{[{%#]|[}%#]\}"
    r"|\[/?(?:INST|UNUSED_TOKEN\w*|[gs]?MASK|CLS|SEP|PAD|UNK|BOS|EOS|SYSTEM_PROMPT|[A-Z]+_(?:TOOLS|CALLS|RESULTS))\]"
)


@dataclass(frozen=True)
class Persona:
    """Who the model shall think it is.

    owner: who trained it; assistant: its name; model: the base model's name. Each is one line of 1
    to 40 characters, without template tokens; other braces are only text.
    Raises CourseError naming the field, its value and the limit.

    >>> Persona("小明", "小祝", "Gemma 3 270M").fill("我是{owner}的{assistant}")
    '我是小明的小祝'
    """

    owner: str
    assistant: str
    model: str

    def __post_init__(self):
        titles = {"owner": "主人", "assistant": "助手的名字", "model": "基座模型的名字"}
        for field, title in titles.items():
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise CourseError(f"{title}（{field}）是空的：{value!r}；请填一个名字，例如“小明”。")
            if len(value) > MAX_NAME:
                raise CourseError(
                    f"{title}（{field}）有 {len(value)} 个字，最多 {MAX_NAME} 个：{value[:20]}…；请缩短。"
                )
            # a joined emoji (a family) holds characters that are invisible elsewhere
            plain = emoji.strip(value)
            if any(unicodedata.category(character)[0] in "CZ" and character != " " for character in plain):
                raise CourseError(f"{title}（{field}）里有换行或控制字符：{value!r}；请只写一行文字。")
            if token := _TOKEN.search(value):
                raise CourseError(
                    f"{title}（{field}）里有对话模板的记号 {token[0]}：{value!r}；"
                    "它会让模型提前停下，请去掉。"
                )
            if unfilled := [name for name in titles if f"{{{name}}}" in value]:
                raise CourseError(
                    f"{title}（{field}）里有没填的占位符 {{{unfilled[0]}}}：{value!r}；请填真的名字。"
                )
            object.__setattr__(self, field, value.strip())

    def fill(self, template: str) -> str:
        """Return a template with {owner}, {assistant} and {model} filled in."""
        return template.format(owner=self.owner, assistant=self.assistant, model=self.model)


_Lines = Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]
_Pairs = Annotated[list[tuple[Text, Text]], msgspec.Meta(min_length=1)]


class Kind(msgspec.Struct, frozen=True):
    """One kind of question: its title, the questions of each part (``questions`` train) and answers."""

    name: str
    title: str
    questions: _Lines
    validation: _Lines
    test: _Lines
    answers: _Lines

    @property
    def all_questions(self) -> tuple[str, ...]:
        """The questions of all parts."""
        return self.questions + self.validation + self.test

    def __post_init__(self) -> None:
        for text in self.all_questions + self.answers:
            if not _fillable(text):
                raise ValueError(
                    f"“{text[:80]}”里有不认识的占位符；只能用 {{owner}}、{{assistant}}、{{model}}"
                )


class _General(msgspec.Struct):
    train: _Pairs
    probe: _Pairs


def load(path: str | Path = QUESTIONS) -> dict[str, Kind]:
    """Return the kinds of a question file.

    Raises CourseError naming file, kind and rule: a list is missing or empty, an entry is not text,
    a placeholder is unknown, or a question stands twice.
    """
    kinds = tables.entries(path, Kind)
    _check_distinct((question for kind in kinds.values() for question in kind.all_questions), path)
    return kinds


def load_general(path: str | Path = GENERAL) -> tuple[list[dict], list[dict]]:
    """Return (training turns, probe turns) of everyday questions; each has ``input`` and ``output``.

    Raises CourseError naming file, list and row: not a pair of texts, or a question stands twice.
    """
    read = tables.shaped(tables.read_yaml(path), _General, str(path))
    _check_distinct((question for question, _ in read.train + read.probe), path)
    train, probe = (
        [{"input": asked, "output": said} for asked, said in part] for part in (read.train, read.probe)
    )
    return train, probe


def _check_distinct(questions: Iterable[str], path: str | Path) -> None:
    if twice := [question for question, times in Counter(questions).items() if times > 1]:
        raise CourseError(f"{path}：问题“{twice[0][:80]}”出现了两次；请删去一处。")


def _fillable(template: str) -> bool:
    """Say whether a template's placeholders are the three names, and nothing but names."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return False
    names = (None, "owner", "assistant", "model")
    return all(name in names and not spec and not conversion for _, name, spec, conversion in parts)


def build(
    persona: Persona,
    kinds: dict[str, Kind] | None = None,
    general: Sequence[dict] | None = None,
    *,
    max_questions: int = 0,
    wordings: int = 2,
    general_ratio: float = GENERAL_RATIO,
    repeat: int = 1,
    seed: int = 42,
) -> dict[str, list[dict]]:
    """Return a persona's turns as ``{"train", "validation", "test"}``; each has ``input`` and ``output``.

    kinds: as ``load`` returns them (read if absent). max_questions: train on the first so many questions
    only; 0 is all. wordings: how many different answers each training question gets (fewer if its kind has
    fewer), from 1. seed: which answers, and the order.

    general: turns about other things (those of ``load_general`` if absent). general_ratio: how many of
    them are mixed in for each persona turn, from 0 (none) to 10; if that is more than there are, they
    come round again.

    repeat: write the whole set N times, as the original recipe does. One pass over a set repeated N
    times is N passes over the set: the loss falls to nothing, the model recites those sentences, and
    the persona leaks into answers about other things. More questions and wordings teach the same
    without that, so the default is 1.
    Raises CourseError for a number of questions or wordings, a ratio or a repeat out of range.

    >>> sorted(build(Persona("小明", "小祝", "Gemma 3 270M"))["test"][0])
    ['input', 'output']
    """
    if not isinstance(max_questions, int) or max_questions < 0:
        raise CourseError(f"最多用的问法数是 {max_questions}，应当是整数，不小于 0；0 表示全部。")
    if not isinstance(wordings, int) or wordings < 1:
        raise CourseError(f"每个问题的答法数是 {wordings}，应当是整数，至少是 1。")
    if not isinstance(repeat, int) or not 1 <= repeat <= MAX_REPEAT:
        raise CourseError(f"重复次数是 {repeat}，应当是整数，在 1 到 {MAX_REPEAT} 之间；一般用 1。")
    if not 0 <= general_ratio <= MAX_RATIO:
        raise CourseError(
            f"通用问答的比例是 {general_ratio}，应当在 0 和 {MAX_RATIO} 之间；一般用 {GENERAL_RATIO}。"
        )
    kinds = load() if kinds is None else kinds
    chance, other = random.Random(seed), random.Random(seed)  # validation rows change no others
    groups, validation, test = [], [], []
    for kind in kinds.values():
        for question in kind.questions:
            answers = chance.sample(kind.answers, min(wordings, len(kind.answers)))
            groups.append([_turn(persona, question, answer) for answer in answers])
        validation += [_turn(persona, question, other.choice(kind.answers)) for question in kind.validation]
        test += [_turn(persona, question, chance.choice(kind.answers)) for question in kind.test]
    train = [turn for group in groups[: max_questions or None] for turn in group]
    train += _take(general, round(general_ratio * len(train)), chance)
    chance.shuffle(train)
    return {"train": train * repeat, "validation": validation, "test": test}


def _take(general: Sequence[dict] | None, count: int, chance: random.Random) -> list[dict]:
    """Return ``count`` general turns in a random order, all of them once before any comes again."""
    if count == 0:
        return []
    general = load_general()[0] if general is None else general
    if not general:
        raise CourseError("没有一条通用问答可以混进去；请换一个文件，或把通用问答的比例设成 0。")
    order = chance.sample(range(len(general)), len(general))
    return [general[order[number % len(order)]] for number in range(count)]


def _turn(persona: Persona, question: str, answer: str) -> dict:
    return {"input": persona.fill(question), "output": persona.fill(answer)}


def write(
    path: str | Path,
    persona: Persona,
    *,
    max_questions: int = 0,
    wordings: int = 2,
    general_ratio: float = GENERAL_RATIO,
    general_file: str | Path = GENERAL,
    repeat: int = 1,
    seed: int = 42,
) -> dict[str, int]:
    """Write the training file and, beside it, ``<name>_validation``, ``_test`` and ``_probe``.

    path: the training file; each file gets its provenance. general_file: the everyday questions, as
    ``load_general`` reads them. Other parameters as in ``build``.
    Returns the row counts ``{"train", "validation", "test", "probe"}``.
    """
    path = Path(path)
    general, probe = load_general(general_file)
    settings = {"max_questions": max_questions, "wordings": wordings, "general_ratio": general_ratio}
    settings |= {"repeat": repeat, "seed": seed}
    parts = build(persona, general=general, **settings) | {"probe": probe}
    counts = {part: len(turns) for part, turns in parts.items()}
    parameters = asdict(persona) | settings
    for part, turns in parts.items():
        named = part == "train"
        file = path if named else path.with_name(f"{path.stem}_{part}{path.suffix}")
        with nullcontext() if named else records.make_way(file):
            records.write_conversations(file, turns)
        records.write_provenance(
            file, stage=STAGE, parameters=parameters, counts=counts, inputs=[QUESTIONS, general_file]
        )
    return counts


def knows_itself(persona: Persona, answers: Iterable[str]) -> float:
    """Return the share of answers, to questions about the persona, that name owner or assistant.

    >>> knows_itself(Persona("小明", "小祝", "Gemma 3 270M"), ["我是小祝", "我是ChatGPT"])
    0.5
    """
    named = [persona.owner in text or persona.assistant in text for text in answers]
    if not named:
        raise CourseError("没有一个回答，算不出比例；请先让模型回答几个问题。")
    return sum(named) / len(named)


def leak(persona: Persona, answers: Iterable[str]) -> float:
    """Return the share of answers, to questions about other things, that name owner or assistant.

    Ask the probe questions of ``load_general``: 0 is good, and ``knows_itself`` wants the opposite.

    >>> leak(Persona("小明", "小祝", "Gemma 3 270M"), ["七加五等于十二。", "我是小祝，等于十二。"])
    0.5
    """
    return knows_itself(persona, answers)
