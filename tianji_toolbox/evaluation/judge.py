"""Let a large model compare two answers, blind: an optional opinion beside hard faults and quality.

The judge sees a request and two answers called 甲 and 乙, never which model said which. Judges prefer a
place (usually the first), so every pair is asked in both orders, and only a verdict that survives the
swap counts; the rest are ties. The rubric is fixed, so that two evaluations can be compared. Requests go
through the synthesis engine: paid answers are kept in the run's journal and never paid for twice.
Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena".
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import Settings
from tianji_helpers.synthesis.client import started

NAMES = ("甲", "乙")
TIE = "平"
_RUBRIC = (
    "你是严格的中文写作评委。下面有一个请求和两个回答（甲、乙）。依次看四点：\n"
    "一、切题：送给对的人，祝的是对的事；二、称呼和语气：您/你得当，风格符合请求；\n"
    "三、通顺：没有病句、重复和多余的话；四、真诚具体：不是放到谁身上都行的套话。\n"
    "前两点有硬伤的直接判负；都没有硬伤再看后两点。长短不加分，先后不加分。\n"
    '只回答一个 JSON 对象：{"better": "甲"、"乙" 或 "平", "reason": "一句话"}'
)
_OBJECT = re.compile(r"\{.*?\}", re.DOTALL)


@dataclass(frozen=True)
class Duel:
    """One question to the judge; ``first`` and ``second`` are the answers in the order it sees them."""

    request: str
    first: str
    second: str
    number: int
    seed: int
    round: int = 1
    answer_chars: int = 40
    schema = None  # judges of all kinds are asked in words

    @property
    def where(self) -> str:
        return f"第 {self.number} 题“{self.request}”"

    @property
    def messages(self) -> list[dict]:
        text = f"请求：{self.request}\n\n甲：{self.first}\n\n乙：{self.second}"
        return [{"role": "system", "content": _RUBRIC}, {"role": "user", "content": text}]


def verdict(text: str) -> str:
    """Return 甲, 乙 or 平 from a judge's reply. Raises ValueError if it says none of them.

    >>> verdict('好的 {"better": "乙", "reason": "更具体"}')
    '乙'
    """
    found = _OBJECT.search(text)
    try:
        better = json.loads(found[0])["better"] if found else ""
    except (ValueError, KeyError, TypeError):
        better = ""
    if better not in (*NAMES, TIE):
        raise ValueError(f"评委没有按格式回答：{text.strip()[:40]}")
    return better


def compare(
    requests: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    settings: Settings,
    output_dir: str | Path = "",
    seed: int = 42,
) -> dict:
    """Have every pair of answers judged in both orders.

    settings: whom to ask (not the offline teacher, which has no judgement). output_dir: the run whose
    journal keeps the replies. Returns ``better`` (the second model won both orders), ``worse``, ``tie``,
    ``unjudged`` (no usable reply in one of the orders) and ``verdicts``, one of those words a request.
    Raises CourseError for the offline provider, and for what stops a run of the engine.
    """
    if settings.provider == "offline":
        raise CourseError("离线老师只会拼短语，当不了评委。请用 deepseek、zhipu 或 local（自己的服务器）。")
    duels = [
        (Duel(request, old, new, number, seed), Duel(request, new, old, number, seed))
        for number, (request, old, new) in enumerate(zip(requests, before, after, strict=True), 1)
    ]
    with started(settings, output_dir) as engine:
        engine.run((duel for pair in duels for duel in pair), 2 * len(duels), "评委打分", verdict)
        replies = [[engine.answer(duel) for duel in pair] for pair in duels]
        summary = str(engine.summary)
    verdicts = [_both(pair) for pair in replies]
    counts = {word: verdicts.count(word) for word in ("better", "worse", "tie", "unjudged")}
    return {"judge": settings.provider, **counts, "verdicts": verdicts, "summary": summary}


def _both(replies: list[dict | None]) -> str:
    """Join the verdicts of both orders: (old first, new first)."""
    if None in replies:
        return "unjudged"
    try:
        said = tuple(verdict(reply["text"]) for reply in replies)
    except ValueError:  # kept by a run that took it, before the format was what it is
        return "unjudged"
    return {(NAMES[1], NAMES[0]): "better", NAMES: "worse"}.get(said, "tie")
