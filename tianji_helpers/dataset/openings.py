"""Openings that too many wishes share.

A teacher that begins every second wish with 在这个特别的日子里 teaches that beginning and little else.
The opening of a wish is its first characters behind the form of address. No opening may stand in more
than a share of the rows *that are left*, so that counting again afterwards finds nothing to take away.
"""

import re
from collections import Counter
from collections.abc import Iterable

SHARE = 0.05  # of the rows that are kept
LEAST = 50  # rows that may always share an opening: in a small set, a share says little
CHARS = 6
_NOT_WORD = re.compile(r"[\W_]")
_SALUTATION = re.compile(r"(?:尊敬的|亲爱的|敬爱的)*")


def opening(text: str, names: Iterable[str]) -> str:
    """Return how a wish begins: its first letters, without punctuation.

    names: forms of address, the longest first; one at the front is passed over.

    >>> opening("尊敬的李总：值此新春，谨祝您万事如意。", ["李总"])
    '值此新春谨祝'
    """
    plain = _NOT_WORD.sub("", text[: 8 * CHARS])
    plain = plain[_SALUTATION.match(plain).end() :]
    name = next((name for name in names if plain.startswith(name)), "")
    return plain[len(name) :][:CHARS]


def limit(counts: Counter, share: float = SHARE, least: int = LEAST) -> int:
    """Return how many rows may have the same opening.

    The largest number that is within ``share`` of all rows once every opening has no more rows than
    that, but at least ``least``.

    >>> limit(Counter({"愿你每天都": 80, "生日快乐愿": 10, "祝你生日快": 10}), share=0.4, least=1)
    13
    """
    rows = 0
    most = max(counts.values(), default=0)
    while True:
        kept = sum(min(count, most) for count in counts.values())
        if kept == rows:
            return most
        rows, most = kept, max(least, int(share * kept))
