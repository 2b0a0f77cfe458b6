"""The exercises: ``check("01-1", answer)`` at the end of an exercise's cell, and a module for each lesson.

A judge's inputs are others than those in the notebooks, and a hint names what goes wrong for which input,
never the code that mends it.
Not here: the running of notebooks, and what students hand in (``tianji_toolbox.classroom`` grades a class).
"""

from typing import Any

from tianji_helpers.errors import check_known
from tianji_helpers.exercises import (  # noqa: F401  they register their judges
    lesson_01,
    lesson_02,
    lesson_03,
    lesson_04,
    lesson_05,
    lesson_06,
    lesson_07,
)
from tianji_helpers.exercises.answers import EXERCISES, Answer, Wrong, brief

MOST_HINTS = 3  # at a time; the first one often explains the others


def hints(number: str, answer: Answer) -> list[str]:
    """Return what is missing in an answer; nothing if it is right.

    Raises CourseError for a number that no exercise has.
    """
    check_known(number, sorted(EXERCISES), "练习")
    found = []
    try:
        for hint in EXERCISES[number].judge(answer):
            found.append(hint)
            if len(found) == MOST_HINTS:
                break
    except Wrong as wrong:
        found.append(str(wrong))
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # an answer of another shape
        found.append(f"答案的样子和题目要求的不一样，比不下去（{brief(error)}）。再读一遍题目里的“返回”。")
    return found


def check(number: str, answer: Any) -> None:
    """Print whether the answer to an exercise is right, else what is missing.

    number: as in the exercise's heading, e.g. ``"01-1"``. answer: a function or a value.
    Raises CourseError for a number that no exercise has; a wrong answer raises nothing.
    """
    missing = hints(number, Answer(answer))
    title = EXERCISES[number].title
    if not missing:
        print(f"✓ {number} {title}：通过")
        return
    print(f"✗ {number} {title}：还没有通过")
    for hint in missing:
        print(f"  · {hint}")
