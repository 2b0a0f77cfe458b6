"""Near duplicates among short Chinese texts.

Greetings have no spaces, so splitting into words finds nothing; here a text is the set of its
character 3-grams, after everything that is not a letter, a digit or a Chinese character has been
dropped (two wishes that differ only in punctuation or emoji are the same wish). ``rensa`` finds
candidates (MinHash and locality-sensitive hashing, in Rust); each candidate is then verified with
the real Jaccard similarity, so nothing is called a duplicate on an estimate.
"""

import re
import struct
from collections.abc import Iterable
from functools import cache

from rensa import RMinHash, RMinHashLSH

from tianji_helpers.errors import CourseError

GRAM = 3
_PERMUTATIONS = 128
_MISSED = 1e-3
_MINHASH_SEED = 42
_NOT_WORD = re.compile(r"[\W_]+")


def shingles(text: str) -> frozenset[str]:
    """Return the character 3-grams of a text's letters and digits.

    A text shorter than three such characters is its own single gram.

    >>> sorted(shingles("生日，快乐！")) == sorted(shingles("生日快乐🎂"))
    True
    """
    plain = _NOT_WORD.sub("", text).lower() or text
    return frozenset(plain[i : i + GRAM] for i in range(max(1, len(plain) - GRAM + 1)))


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of two texts' 3-grams, from 0 (nothing shared) to 1.

    >>> similarity("祝您生日快乐", "祝您生日快乐！")
    1.0
    """
    return jaccard(shingles(one), shingles(other))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the share of two sets that they have in common."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


@cache
def bands(threshold: float) -> int:
    """Return the fewest bands with which LSH misses under 0.1 % of pairs at ``threshold``.

    A band of r rows is equal in both signatures with probability ``threshold ** r``; a pair is
    missed if no band is. More bands find more and cost more comparisons.

    >>> bands(0.9), bands(0.7)
    (16, 32)
    """
    for count in (2, 4, 8, 16, 32, 64):
        rows = _PERMUTATIONS // count
        if (1 - threshold**rows) ** count < _MISSED:
            return count
    return _PERMUTATIONS


def band_keys(text: str, threshold: float) -> list[bytes]:
    """Return a key for each band of a text's signature; texts with a key in common are candidates.

    They are the pairs that ``NearIndex`` compares, for those who cannot hold all texts in one index.
    """
    digest, count = _minhash(shingles(text)).digest(), bands(threshold)
    rows = _PERMUTATIONS // count
    return [
        struct.pack(f"<{rows + 1}I", band, *digest[band * rows : (band + 1) * rows]) for band in range(count)
    ]


class NearIndex:
    """Texts that can be asked: is one of you nearly this one?

    threshold: Jaccard similarity from which two texts count as near duplicates, (0, 1].
    Raises CourseError for a threshold outside that range.

    >>> index = NearIndex(0.9)
    >>> index.add("row 1", "愿姐姐岁岁平安，年年有今日")
    >>> index.nearest("愿姐姐岁岁平安、年年有今日！")
    ('row 1', 1.0)
    """

    def __init__(self, threshold: float = 0.9):
        if not 0 < threshold <= 1:
            raise CourseError(f"近似重复的阈值是 {threshold}，应当大于 0、不超过 1；一般用 0.9。")
        self.threshold = threshold
        self._lsh = RMinHashLSH(threshold, _PERMUTATIONS, bands(threshold))
        self._names: list = []
        self._grams: list[frozenset[str]] = []

    def add(self, name, text: str) -> None:
        """Remember a text under a name (any value; it is what ``near`` hands back)."""
        grams = shingles(text)
        self._lsh.insert(len(self._names), _minhash(grams))
        self._names.append(name)
        self._grams.append(grams)

    def near(self, text: str) -> list[tuple]:
        """Return (name, similarity) of every remembered near duplicate, in the order added."""
        grams = shingles(text)
        found = []
        for key in sorted(self._lsh.query(_minhash(grams))):
            value = jaccard(grams, self._grams[key])
            if value >= self.threshold:
                found.append((self._names[key], value))
        return found

    def nearest(self, text: str) -> tuple | None:
        """Return (name, similarity) of the most similar near duplicate, the earliest of equals."""
        return max(self.near(text), key=lambda pair: pair[1], default=None)


def _minhash(grams: frozenset[str]) -> RMinHash:
    minhash = RMinHash(_PERMUTATIONS, _MINHASH_SEED)
    minhash.update(list(grams))
    return minhash


def clusters(texts: Iterable[str], threshold: float = 0.9) -> list[list[int]]:
    """Group the positions of texts that are near duplicates, directly or through others.

    Returns lists of positions; together they hold every position once, in order of first member.

    >>> clusters(["天下没有不散的筵席", "为什么鱼不会淹死", "天下没有不散的筵席！"])
    [[0, 2], [1]]
    """
    index = NearIndex(threshold)
    parent: list[int] = []  # union-find; a root is its group's first member

    def root(position: int) -> int:
        while parent[position] != position:
            position = parent[position]
        return position

    for position, text in enumerate(texts):
        roots = sorted({root(other) for other, _ in index.near(text)} | {position})
        parent.append(position)
        for other in roots:
            parent[other] = roots[0]
        index.add(position, text)
    groups: dict[int, list[int]] = {}
    for position in range(len(parent)):
        groups.setdefault(root(position), []).append(position)
    return list(groups.values())
