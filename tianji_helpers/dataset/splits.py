"""Train and held-out parts, and whether one leaks into the other.

A model that saw 祝姐姐生日 in one style has half seen it in the others, so the wishes split holds out
whole (recipient, scene) pairs, in all styles; every recipient and every scene still occurs in
training, each with other partners.

Whether a test is honest is one question for all tasks: does a row of it stand in training, word by
word or nearly? ``leakage`` looks at texts, ``file_leakage`` at two files of any format that
``formats`` reads, and ``repair_test`` takes such rows out of the test and keeps them apart.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import formats, records, wishes
from tianji_helpers.dataset import duplicates
from tianji_helpers.errors import CourseError

STAGE = "02_merge_clean"
PARTS = ("question", "answer", "both")
Pair = tuple[str, str]


def hold_out(pairs: Iterable[Pair], share: float = 0.08, seed: int = 42) -> set[Pair]:
    """Choose the (recipient, scene) pairs to hold out.

    share: part of the distinct pairs, between 0 and 1; at least one pair.
    Raises CourseError if no such choice leaves every recipient and scene in training.

    >>> pairs = [(who, what) for who in ("姐姐", "爷爷") for what in ("生日", "春节")]
    >>> len(hold_out(pairs, 0.25))
    1
    """
    if not 0 < share < 1:
        raise CourseError(f"留出的比例是 {share}，应当在 0 和 1 之间（不含两端），例如 0.08。")
    unique = sorted(set(pairs))
    wanted = max(1, round(share * len(unique)))
    left = Counter(name for pair in unique for name in pair)
    random.Random(seed).shuffle(unique)
    chosen: set[Pair] = set()
    for pair in unique:
        if len(chosen) < wanted and all(left[name] > 1 for name in pair):
            chosen.add(pair)
            left.subtract(pair)
    if len(chosen) < wanted:
        raise CourseError(
            f"{len(unique)} 个（对象, 场景）组合里留不出 {wanted} 个：每个对象和场景都要留在训练集里。"
            "请减小比例，或先多合成一些组合。"
        )
    return chosen


def split_wishes(
    turns: Sequence[dict], matrix: wishes.Matrix | None = None, *, share: float = 0.08, seed: int = 42
) -> tuple[list[dict], list[dict]]:
    """Split wish turns into (training, held-out) by whole (recipient, scene) pairs.

    Order is kept. See ``hold_out`` for share, seed and errors; a request that the matrix cannot read
    is a CourseError too (cleaning rejects such rows).
    """
    matrix = wishes.load() if matrix is None else matrix
    pairs = []
    for number, turn in enumerate(turns, 1):
        names = matrix.parse_request(turn["input"])
        if names is None:
            raise CourseError(f"第 {number} 条的请求“{turn['input']}”看不懂，不知道属于哪个组合；请先清洗。")
        pairs.append(names[:2])
    chosen = hold_out(pairs, share, seed)
    train = [turn for turn, pair in zip(turns, pairs, strict=True) if pair not in chosen]
    heldout = [turn for turn, pair in zip(turns, pairs, strict=True) if pair in chosen]
    return train, heldout


@dataclass(frozen=True)
class Leakage:
    """Held-out texts that training has seen, as (held-out position, training position[, similarity])."""

    exact: list[tuple[int, int]]
    near: list[tuple[int, int, float]]

    def __len__(self) -> int:
        return len(self.exact) + len(self.near)

    def pairs(self) -> list[tuple[int, int, float]]:
        """Return all as (held-out position, training position, similarity), in held-out order."""
        return sorted([(*pair, 1.0) for pair in self.exact] + self.near)


def leakage(train: Sequence[str], heldout: Sequence[str], threshold: float = 0.9) -> Leakage:
    """Find held-out texts that stand in training, exactly or nearly (see ``duplicates``).

    A text that leaks exactly is not counted as near as well. The search for near duplicates misses
    fewer than one in a thousand (see ``duplicates.bands``).

    >>> leakage(["愿姐姐岁岁平安"], ["愿姐姐岁岁平安！", "愿爷爷福寿安康"])
    Leakage(exact=[], near=[(0, 0, 1.0)])
    """
    index = duplicates.NearIndex(threshold)
    first: dict[str, int] = {}
    for position, text in enumerate(train):
        first.setdefault(text, position)
        index.add(position, text)
    exact, near = [], []
    for position, text in enumerate(heldout):
        if text in first:
            exact.append((position, first[text]))
        elif found := index.nearest(text):
            near.append((position, *found))
    return Leakage(exact, near)


def file_leakage(
    train_path: str | Path, test_path: str | Path, *, by: str = "question", threshold: float = 0.9
) -> Leakage:
    """Find the rows of a test file that stand in a training file, exactly or nearly.

    The files may be in any format of ``formats``, each in its own. by: compare the ``question``, the
    ``answer``, or ``both`` (then a row leaks by either). Positions count rows from 0.
    Raises CourseError for another ``by``, an empty file, and rows that cannot be read.
    """
    if by not in PARTS:
        raise CourseError(f"没有叫 {by} 的比较方式。可选：{'、'.join(PARTS)}。")
    train, test = (_texts(path) for path in (train_path, test_path))
    exact: dict[int, tuple[int, int]] = {}
    near: dict[int, tuple[int, int, float]] = {}
    for part, key in (("question", "input"), ("answer", "output")):
        if by in (part, "both"):
            found = leakage(*([row[key] for row in rows] for rows in (train, test)), threshold)
            exact |= {pair[0]: pair for pair in found.exact if pair[0] not in exact}
            near |= {pair[0]: pair for pair in found.near if pair[0] not in near}
    near = {position: pair for position, pair in near.items() if position not in exact}
    return Leakage(*(sorted(pairs.values()) for pairs in (exact, near)))


def _texts(path: str | Path) -> list[dict[str, str]]:
    """Return the joined questions and the joined answers of each row of a file."""
    rows = []
    for _, turns in formats.read(path):
        rows.append({key: "\n".join(turn[key] for turn in turns) for key in ("input", "output")})
    return rows


def repair_test(test_path: str | Path, train_path: str | Path, found: Leakage) -> Path:
    """Take the rows that ``file_leakage`` found out of a test file; return the file that holds them.

    They go to ``<test>_leaked.jsonl`` beside it, after what an earlier repair put there, each with the
    number of the training row (from 1) and the similarity. The rows that stay are not changed, nor is
    the training file.
    Raises CourseError if no row would stay; then nothing is written.
    """
    test_path = Path(test_path)
    leaked = {position: (twin, similarity) for position, twin, similarity in found.pairs()}
    rows = [row for _, row in formats.iter_rows(test_path)]
    kept = [row for position, row in enumerate(rows) if position not in leaked]
    if not kept:
        raise CourseError(
            f"{test_path} 的 {len(rows)} 条全都漏题，去掉就没有测试集了；请重新划分，或换一份数据。"
        )
    apart = test_path.with_name(f"{test_path.stem}_leaked.jsonl")
    held = records.read_jsonl(apart) if apart.is_file() else []
    for position, (twin, similarity) in leaked.items():
        entry = {"row": rows[position], "train_row": twin + 1, "similarity": similarity}
        held += [entry] if entry not in held else []
    records.write_jsonl(apart, held)
    provenance = records.provenance_path(test_path)
    before = records.read_json(provenance) if provenance.is_file() else None
    formats.write_rows(test_path, kept)
    records.write_provenance(
        test_path,
        stage="leakage",
        parameters={"before": before},
        counts={"before": len(rows), "kept": len(kept), "leaked": len(leaked)},
        inputs=[train_path],
    )
    return apart


def write_split(
    source: str | Path,
    train_path: str | Path,
    heldout_path: str | Path,
    *,
    share: float = 0.08,
    seed: int = 42,
    matrix: wishes.Matrix | None = None,
) -> dict[str, int]:
    """Split a cleaned file into two training files with provenance; return their row counts."""
    turns = records.read_conversations(source)
    train, heldout = split_wishes(turns, matrix, share=share, seed=seed)
    counts = {"train": len(train), "heldout": len(heldout)}
    for path, part in ((train_path, train), (heldout_path, heldout)):
        records.write_conversations(path, part)
        parameters = {"share": share, "seed": seed}
        records.write_provenance(path, stage=STAGE, parameters=parameters, counts=counts, inputs=[source])
    return counts
