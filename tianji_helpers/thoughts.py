"""What a model thinks aloud before its answer, known by its marks.

A teacher's is taken off (``synthesis.client``); in data that somebody brings along it is dirt
(``dataset.plain``): a small model that learns it thinks without end, and says nothing.
"""

import re

NAMES = r"(?:seed:)?(?:think|thinking|thought|reasoning)[>▷]"  # ▷: Kimi's
START = re.compile(rf"[<◁]{NAMES}|<\|begin_of_thought\|>", re.IGNORECASE)
_END = re.compile(rf"[<◁]/{NAMES}|<\|end_of_thought\|>", re.IGNORECASE)
_ALL = re.compile(rf"^.*(?:{_END.pattern})\s*", re.IGNORECASE | re.DOTALL)


def without(text: str) -> str:
    """Return an answer without what the model thought aloud before it.

    Some servers keep the opening mark for themselves.

    >>> without("<think>\\n写给姐姐。</think>\\n\\n姐姐，生日快乐！")
    '姐姐，生日快乐！'
    """
    return _ALL.sub("", text)


def find(text: str) -> str:
    """Return the mark of a thought that stands before an answer; empty if there is none.

    An answer may speak of such marks: they count where it begins with one, or closes what it never opened.

    >>> find("先想想</think>好"), find("标签写成 <think>…</think>。")
    ('</think>', '')
    """
    start = START.search(text)
    if start and not text[: start.start()].strip():
        return start[0]
    end = _END.search(text)
    return end[0] if end and not (start and start.start() < end.start()) else ""
