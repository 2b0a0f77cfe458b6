"""Near duplicates among short Chinese texts.

Greetings have no spaces, so splitting into words finds nothing; here a text is the set of its
character 3-grams, after everything that is not a letter, a digit or a Chinese character has been
dropped (two wishes that differ only in punctuation or emoji are the same wish). ``sketch`` turns texts
into a few numbers each: the bands of a MinHash signature and a bitmap of the grams. Texts with an equal band
are candidates; the bitmaps throw out the pairs that cannot be similar enough, without ever losing one that
is; what is left is verified with the real Jaccard similarity: nothing is called a duplicate on an estimate.

The index holds about 300 bytes a text, in arrays, and the texts themselves. Packages were tried: to take
``rensa``'s signatures into an array costs three times what making them here does, and its index holds 1,600
bytes a text and has no bitmaps.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tianji_helpers.errors import CourseError

GRAM = 3
_PERMUTATIONS = 128
_MISSED = 1e-3
_BITMAP_WORDS = 4  # of 64 bits
_BATCH = 512  # texts compared at a time
_SLOTS = 1 << 20  # of each band's hash table; memory is touched as it fills
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits without a pattern: multiplying by it mixes numbers
_NOT_WORD = re.compile(r"[\W_]")


def shingles(text: str) -> frozenset[str]:
    """Return the character 3-grams of a text's letters and digits.

    A text shorter than three such characters is its own single gram.

    >>> sorted(shingles("生日，快乐！")) == sorted(shingles("生日快乐🎂"))
    True
    """
    plain = _plain(text)
    return frozenset(plain[i : i + GRAM] for i in range(max(1, len(plain) - GRAM + 1)))


def _plain(text: str) -> str:
    return _NOT_WORD.sub("", text).lower() or text


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


@dataclass(frozen=True)
class Sketch:
    """What the index needs to know about N texts.

    keys: (N, bands) uint32, a hash of each band of the signature. bits: (N, 4) uint64, one bit for every
    gram (several may share one). sizes: (N,) int32, how many different grams.
    """

    keys: np.ndarray
    bits: np.ndarray
    sizes: np.ndarray

    def __getitem__(self, rows: slice | list[int]) -> "Sketch":
        return Sketch(self.keys[rows], self.bits[rows], self.sizes[rows])


def sketch(texts: Sequence[str], threshold: float = 0.9) -> Sketch:
    """Return the sketch of texts for an index with this threshold."""
    count = bands(threshold)
    grams, rows = _grams([_plain(text) for text in texts])
    starts = np.searchsorted(rows, np.arange(len(texts) + 1))
    mixed = _mixed(grams)
    hashes = (mixed >> np.uint64(32)).astype(np.uint32)
    keys = np.zeros((count, len(texts)), np.uint32)
    for number, factor in enumerate(_FACTORS if len(texts) else ()):
        key = keys[number * count // _PERMUTATIONS]
        key *= np.uint32(_GOLDEN & np.uint64(2**32 - 1))
        key += np.minimum.reduceat(hashes * factor, starts[:-1])
    bits = np.zeros((len(texts), 64 * _BITMAP_WORDS), bool)
    bits[rows, mixed >> np.uint64(56)] = True  # 0 to 255
    return Sketch(keys.T, np.packbits(bits, axis=1).view(np.uint64), np.diff(starts).astype(np.int32))


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Return 64-bit numbers that look as if drawn by lot, the same for the same."""
    numbers = (numbers ^ numbers >> np.uint64(29)) * _GOLDEN
    return (numbers ^ numbers >> np.uint64(32)) * _GOLDEN


# odd numbers: a gram's hash times each of them is another hash of it
_FACTORS = (_mixed(np.arange(1, _PERMUTATIONS + 1, dtype=np.uint64)) >> np.uint64(32)).astype(np.uint32) | 1


def _grams(plain: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the different 3-grams of texts, one number each, and the number of each one's text, ascending.

    The same sets as ``shingles``; a character has 21 bits, so three of them are a 64-bit number.
    """
    padded = [text.ljust(GRAM, "\0") for text in plain]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    rows = np.repeat(np.arange(len(padded)), lengths - (GRAM - 1))
    first = np.arange(len(rows)) + (GRAM - 1) * rows  # where each gram begins
    grams = codes[first] << np.uint64(42) | codes[first + 1] << np.uint64(21) | codes[first + 2]
    # a text's equal grams come side by side: one sort of numbers, which takes a tenth of lexsort's time
    bits = np.uint64(max(1, len(padded).bit_length()))
    order = np.argsort(rows.astype(np.uint64) << np.uint64(64) - bits | grams * _GOLDEN >> bits)
    grams, rows = grams[order], rows[order]
    new = np.ones(len(grams), bool)
    new[1:] = (grams[1:] != grams[:-1]) | (rows[1:] != rows[:-1])
    return grams[new], rows[new]


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
        self._bands = bands(threshold)
        self._names: list = []
        self._texts: list[str] = []
        # texts whose band falls into the same slot are a chain: its head, and from each text the next
        # one; numbers count from 1, and 0 ends a chain
        self._heads = np.zeros(self._bands * _SLOTS, np.int32)
        self._next = np.zeros((0, self._bands), np.int32)
        self._sketch = sketch([], threshold)

    def add(self, name, text: str) -> None:
        """Remember a text under a name (any value; it is what ``near`` hands back)."""
        self._insert([name], [text], sketch([text], self.threshold))

    def near(self, text: str) -> list[tuple]:
        """Return (name, similarity) of every remembered near duplicate, in the order added."""
        asked = sketch([text], self.threshold)
        return self._verified(text, [other for _, other in self._candidates(asked)])

    def nearest(self, text: str) -> tuple | None:
        """Return (name, similarity) of the most similar near duplicate, the earliest of equals."""
        return max(self.near(text), key=lambda pair: pair[1], default=None)

    def screen(
        self, names: Sequence, texts: Sequence[str], sketched: Sketch | None = None
    ) -> list[tuple | None]:
        """Ask about texts one after the other, and remember those that are new.

        sketched: ``sketch(texts, threshold)``, if it is at hand. Returns for every text what ``nearest``
        says of it, given the remembered texts before it.
        """
        if sketched is None:
            sketched = sketch(texts, self.threshold)
        found: list[tuple | None] = []
        for start in range(0, len(texts), _BATCH):
            part = slice(start, start + _BATCH)
            found += self._screen(names[part], texts[part], sketched[part])
        return found

    def _screen(self, names: Sequence, texts: Sequence[str], sketched: Sketch) -> list[tuple | None]:
        old, slots = len(self._names), self._slots(sketched)
        heads = self._heads[slots]
        self._insert(names, texts, sketched)
        earlier: dict[int, list[int]] = {}
        for row, other in self._candidates(sketched):
            if other < old + row:
                earlier.setdefault(row, []).append(other)
        found: list[tuple | None] = [None] * len(texts)
        for row, others in earlier.items():
            others = [other for other in others if other < old or found[other - old] is None]
            found[row] = max(self._verified(texts[row], others), key=lambda pair: pair[1], default=None)
        if any(found):
            new = [row for row, twin in enumerate(found) if twin is None]
            self._heads[slots] = heads  # take the batch out again
            del self._names[old:], self._texts[old:]
            self._insert([names[row] for row in new], [texts[row] for row in new], sketched[new])
        return found

    def _verified(self, text: str, others: list[int]) -> list[tuple]:
        grams = shingles(text) if others else frozenset()
        pairs = ((self._names[other], jaccard(grams, shingles(self._texts[other]))) for other in others)
        return [(name, value) for name, value in pairs if value >= self.threshold]

    def _insert(self, names: Sequence, texts: Sequence[str], new: Sketch) -> None:
        old, count = len(self._names), len(self._names) + len(names)
        if count > len(self._next):
            size = max(2 * len(self._next), count, 1024)
            self._next = _grown(self._next, size)
            known = self._sketch
            self._sketch = Sketch(*(_grown(part, size) for part in (known.keys, known.bits, known.sizes)))
        self._names += names
        self._texts += texts
        for part, values in ((self._sketch.keys, new.keys), (self._sketch.bits, new.bits)):
            part[old:count] = values
        self._sketch.sizes[old:count] = new.sizes
        slots = self._slots(new).ravel()
        order = np.argsort(slots, kind="stable")
        slots, (rows, columns) = slots[order], np.divmod(order, self._bands)
        following, same = self._heads[slots], np.flatnonzero(slots[1:] == slots[:-1])
        following[same + 1] = rows[same] + old + 1
        self._next[rows + old, columns] = following
        self._heads[slots] = rows + old + 1  # of equal slots the last one's row stays

    def _slots(self, sketched: Sketch) -> np.ndarray:
        """Return the place of each key's chain among the heads: every band has places of its own."""
        return sketched.keys % _SLOTS + np.arange(self._bands) * _SLOTS

    def _candidates(self, asked: Sketch) -> list[tuple[int, int]]:
        """Return (row asked about, number of a text) with an equal band and like enough bitmaps, sorted."""
        found = []
        rows, columns = np.divmod(np.arange(asked.keys.size), self._bands)
        keys, links = asked.keys.ravel(), self._heads[self._slots(asked).ravel()]
        while True:
            alive = np.flatnonzero(links)
            rows, columns, keys, others = rows[alive], columns[alive], keys[alive], links[alive] - 1
            if not len(alive):
                break
            equal = np.flatnonzero(self._sketch.keys[others, columns] == keys)
            pairs = rows[equal], others[equal]
            total = asked.sizes[pairs[0]] + self._sketch.sizes[pairs[1]]
            # two sets that share so much differ in at most this many grams, and in no more bits
            most = (1 - self.threshold) / (1 + self.threshold) * total + 1e-6
            apart = np.bitwise_count(asked.bits[pairs[0]] ^ self._sketch.bits[pairs[1]]).sum(axis=1)
            apart = np.maximum(apart, np.abs(asked.sizes[pairs[0]] - self._sketch.sizes[pairs[1]]))
            near = np.flatnonzero(apart <= most)
            found.append(pairs[0][near].astype(np.int64) << 32 | pairs[1][near])
            links = self._next[others, columns]
        packed = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
        return list(zip((packed >> 32).tolist(), (packed & 0xFFFFFFFF).tolist(), strict=True))


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    grown = np.zeros((size, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def clusters(texts: Iterable[str], threshold: float = 0.9) -> list[list[int]]:
    """Group the positions of texts that are near duplicates, directly or through others.

    Returns lists of positions; together they hold every position once, in order of first member.

    >>> clusters(["天下没有不散的筵席", "为什么鱼不会淹死", "天下没有不散的筵席！"])
    [[0, 2], [1]]
    """
    from networkx.utils import UnionFind

    index, groups = NearIndex(threshold), UnionFind()
    for position, text in enumerate(texts):
        groups.union(position, *(other for other, _ in index.near(text)))
        index.add(position, text)
    return sorted(map(sorted, groups.to_sets()))
