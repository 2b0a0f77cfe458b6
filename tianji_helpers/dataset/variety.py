"""Several wordings of the same request, so that a model does not learn one.

A data set that asks 祝姐姐生日 a thousand times in the same words makes a model that understands these
words. ``vary`` words each request anew, in one of the wordings that ``wishes.WORDINGS`` lists and
``Matrix.read`` reads back. Which one depends on the seed and on what the row says, not on how it
was worded before: varying twice is varying once.
"""

import hashlib
from collections.abc import Iterable, Iterator

from tianji_helpers import wishes
from tianji_helpers.errors import CourseError


def check(variants: int) -> None:
    """Raise CourseError unless there are so many wordings."""
    if not 1 <= variants <= len(wishes.WORDINGS):
        raise CourseError(f"请求的说法数是 {variants}，应当是 1 到 {len(wishes.WORDINGS)}；1 就是不改。")


def vary(
    turns: Iterable[dict], variants: int, seed: int = 42, matrix: wishes.Matrix | None = None
) -> Iterator[dict]:
    """Yield turns whose requests are worded in ``variants`` ways, each about as often.

    variants: the first so many of ``wishes.WORDINGS``; 1 changes nothing. seed: another one chooses
    otherwise. matrix: as ``wishes.load`` returns it (read if absent). A request with names of one's
    own, or that asks for more than a wish, stays. Raises CourseError for a number of wordings that there
    is not.

    >>> outputs = ("谨祝顺遂", "谨祝如意", "谨祝平安")
    >>> rows = [{"input": "祝姐姐生日,严肃风格", "output": wish} for wish in outputs]
    >>> [row["input"] for row in vary(rows, 3)]
    ['送祝福给姐姐：生日,严肃风格', '我想祝姐姐生日,严肃风格', '祝姐姐生日,严肃风格']
    """
    check(variants)
    if variants == 1:
        yield from turns
        return
    matrix = wishes.load() if matrix is None else matrix
    for turn in turns:
        asked = matrix.read(turn["input"])
        names = (*asked.pair, asked.style)
        more = asked.details or asked.address or asked.max_chars
        if more or not (asked.what and asked.how and asked.recipient in matrix.recipients):
            yield turn
            continue
        digest = hashlib.sha256("/".join((str(seed), *names, turn["output"])).encode()).digest()
        wording = int.from_bytes(digest[:8], "big") % variants
        yield {**turn, "input": matrix.request(*names, wording=wording)}
