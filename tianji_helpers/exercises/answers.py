"""What an exercise's judge is made of: the answer it sees, and the hints it gives.

An exercise is a function that is given an ``Answer`` and yields a hint in Chinese for each thing
that is missing. It sees the answer only as plain data: a value, or what the student's function
returns for inputs that the student has not seen. So the same function judges an answer in the
notebook and one that lives in another process, where a submitted notebook is graded.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

LONGEST = 100_000  # characters of an answer as JSON


class Wrong(Exception):
    """The answer cannot be judged any further; the message is a hint for the student."""


class Answer:
    """An answer of this process.

    >>> Answer(max).call([3, 1])
    3
    """

    def __init__(self, answer: Any):
        self._answer = answer

    def value(self) -> Any:
        """Return the answer as plain data. Raises Wrong if it is none, or still the stub's."""
        if self._answer is ...:
            raise Wrong("还没有动手：把 ... 换成你的答案，再运行这一格。")
        if callable(self._answer):
            raise Wrong("这里要交的是一个值，你交的是一个函数。")
        return plain(self._answer)

    def call(self, *arguments: Any) -> Any:
        """Return what the answer, a function, returns for plain arguments, as plain data.

        Raises Wrong if it is no function, raises, or returns nothing.
        """
        if not callable(self._answer):
            raise Wrong(f"这里要交的是一个函数，你交的是 {brief(self._answer)}。")
        called = "、".join(brief(argument) for argument in arguments)
        try:
            returned = self._answer(*json.loads(json.dumps(arguments)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a check never ends the notebook
            reason = brief(error, 120)
            raise Wrong(f"用 {called} 调用时出错：{type(error).__name__}: {reason}") from None
        if returned is ...:
            raise Wrong("还没有动手：把 return 后面的 ... 换成你的答案，再运行这一格。")
        if returned is None:
            raise Wrong("函数什么也没有返回（None）：每条路走到最后都有 return 吗？")
        return plain(returned)


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: tuples become lists, arrays and tensors nested lists.

    Raises Wrong for anything else, and for what is too long.

    >>> plain(("祝", 1.5, {"a": (True, None)}))
    ['祝', 1.5, {'a': [True, None]}]
    """
    try:
        text = json.dumps(value, default=lambda item: item.tolist())
    except Exception as error:  # whatever a student's object does
        raise Wrong(
            f"{brief(value)} 不是普通的数据；请用文字、数字、列表和字典（{type(error).__name__}）。"
        ) from None
    if len(text) > LONGEST:
        raise Wrong(f"答案太长了：{len(text)} 个字符，最多 {LONGEST} 个。")
    return json.loads(text)


def brief(value: Any, longest: int = 60) -> str:
    """Return a value as text for a hint, cut where it gets long.

    >>> brief("祝" * 9, longest=6)
    "'祝祝祝…'"
    """
    try:
        text = str(value) if isinstance(value, BaseException) else repr(value)
    except Exception:  # a student's own __repr__
        text = type(value).__name__
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    return text[: longest - 2] + "…" + (text[-1] if text[-1] in "'\"])}" else "")


def alike(one: Any, other: Any, tolerance: float = 1e-6) -> bool:
    """Say whether two plain values are the same, numbers up to a relative tolerance.

    >>> alike([1.0, "a"], [1.0000000001, "a"]), alike(True, 1), alike([1], 1)
    (True, False, False)
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            alike(*pair, tolerance) for pair in zip(one, other, strict=True)
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key], tolerance) for key in one)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return type(one) is type(other) and one == other


Judge = Callable[[Answer], Iterator[str]]


@dataclass(frozen=True)
class Exercise:
    """One exercise: its number (``01-1``), a title for people, and its judge."""

    number: str
    title: str
    judge: Judge


EXERCISES: dict[str, Exercise] = {}


def exercise(number: str, title: str) -> Callable[[Judge], Judge]:
    """Register the function below as the judge of an exercise."""

    def register(judge: Judge) -> Judge:
        EXERCISES[number] = Exercise(number, title, judge)
        return judge

    return register
