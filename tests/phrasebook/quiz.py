"""Questions about a text by rule: what the offline teacher knows of reading.

It turns sentences that say what, when or why something is into a question with the sentence as the
answer. This is no language model: it understands nothing, and it asks clumsily.
"""

import random
import re

from tianji_helpers.synthesis import chunks

_LEAST, _MOST = 10, 160  # characters of a sentence that is asked about
_FRAMES = (
    (re.compile(r"^([^，。；：“”]{2,12}?)在(?:农历|每年|公历)"), "{0}在什么时候？"),
    (re.compile(r"^([^，。；：“”]{2,12}?)(?:又叫|也叫|又称)"), "{0}又叫什么？"),
    (re.compile(r"^([^，。；：“”]{2,12}?)是"), "{0}是什么？"),
    (re.compile(r"^([^，。；：“”]{2,12}?)(?:要|应当|讲究|适合)"), "{0}有什么讲究？"),
)


def compose(text: str, count: int, rng: random.Random) -> list[dict[str, str]]:
    """Return up to ``count`` pairs of ``question`` and ``answer``, in the order of the text.

    >>> compose("中秋节在农历八月十五，主题是团圆。", 1, random.Random(0))
    [{'question': '中秋节在什么时候？', 'answer': '中秋节在农历八月十五，主题是团圆。'}]
    """
    found = [sentence.strip() for sentence in chunks.sentences(text)]
    found = [sentence for sentence in found if _LEAST <= len(sentence) <= _MOST]
    drawn = rng.sample(range(len(found)), len(found))
    drawn.sort(key=lambda number: _framed(found[number]) is None)  # the less clumsy ones first
    return [{"question": _ask(found[n]), "answer": found[n]} for n in sorted(drawn[:count])]


def _framed(sentence: str) -> str | None:
    for pattern, frame in _FRAMES:
        if match := pattern.match(sentence):
            return frame.format(match[1])
    return None


def _ask(sentence: str) -> str:
    if question := _framed(sentence):
        return question
    head = re.split("[，。；：！？,;]", sentence, maxsplit=1)[0][:16]
    return f"关于“{head.strip('“”')}”，资料里是怎么说的？"
