"""Training, validation and test: one way to split for all tasks, and whether a part leaks into another.

A model learns from the training part. The validation part is looked at while it trains: it ends the
training early and chooses the checkpoint. The test part is looked at once, at the end; a figure that was
used to choose something is no longer a fair one.

Rows that are nearly the same must not be torn apart, so ``split`` deals out whole groups. A model that
saw 祝姐姐生日 in one style has half seen it in the others, so the wishes of one (recipient, scene) pair
are a group; elsewhere the rows with nearly the same question are (``group``).

Whether a part is honest is one question for all tasks: does a row of it stand in an earlier part, word by
word or nearly? ``leakage`` looks at texts, ``file_leakage`` at two files of any format that
``formats`` reads, and ``repair_test`` takes such rows out of the later one and keeps them apart; ``repair``
does so for all parts.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from tianji_helpers import formats, records, wishes
from tianji_helpers.dataset import duplicates
from tianji_helpers.errors import CourseError, check_known
from tianji_helpers.rows import ARRAY, LINES, kind_of

STAGE = "02_merge_clean"  # ``merge`` passes over what this stage wrote
PARTS = ("train", "validation", "test")
VALIDATION_SHARE = 0.05
TEST_SHARE = 0.08
GROUPINGS = ("pair", "question", "row")
COMPARED = ("question", "answer", "both")
_TITLES = {"validation": "验证集", "test": "测试集"}
Row = TypeVar("Row")


def split(
    rows: Sequence[Row],
    groups: Sequence[Hashable] | None = None,
    *,
    validation: float = VALIDATION_SHARE,
    test: float = TEST_SHARE,
    seed: int | None = 42,
) -> dict[str, list[Row]]:
    """Split rows into ``{"train": [...], "validation": [...], "test": [...]}``; each keeps their order.

    groups: the group of each row, as ``group`` returns them; the rows of a group stay together. Without
    them every row is one. If a group is a tuple of names, such as (姐姐, 生日), it leaves the training
    part only where each of its names stays there with another group, unless the part would be less than
    half as large as asked for.
    validation, test: a share of the rows (below 1; at least one row), or a number of rows; 0 is none.
    A part is filled with groups that fit, so it may come out a little smaller, or larger where none fits.
    seed: which groups. None cuts by the order of the rows instead, and tears groups apart: training
    first, then validation, then test.
    Raises CourseError for a size out of range, and if there are fewer groups than parts: three are the
    least; a figure says something from some dozens of test rows on.

    >>> split("abcdefgh", "11223344", validation=2, test=0.25, seed=1)
    {'train': ['c', 'd', 'e', 'f'], 'validation': ['a', 'b'], 'test': ['g', 'h']}
    """
    groups = range(len(rows)) if groups is None or seed is None else groups
    wanted = {
        "test": _size(len(rows), "test", test),
        "validation": _size(len(rows), "validation", validation),
    }
    wanted = {part: size for part, size in wanted.items() if size}
    members = Counter(groups)
    if len(members) <= len(wanted) or sum(wanted.values()) >= len(rows):
        raise CourseError(
            f"{len(rows)} 条记录（{len(members)} 组，相似的问题是一组）分不成"
            f"训练集和 {'、'.join(f'{size} 条{_TITLES[part]}' for part, size in wanted.items())}："
            "每份至少要有一组。请减小比例，或多准备一些不同的问题。"
        )
    part_of = _in_order(rows, wanted) if seed is None else _at_random(members, wanted, seed)
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for row, key in zip(rows, groups, strict=True):
        parts[part_of.get(key, "train")].append(row)
    return parts


def _size(rows: int, part: str, size: float) -> int:
    """Return how many rows a part shall have."""
    if isinstance(size, int) and size >= 0:
        return size
    if not 0 <= size < 1:
        raise CourseError(
            f"{_TITLES[part]}的比例是 {size}，应当在 0 和 1 之间（不含 1），例如 0.08；0 表示不留。"
        )
    return max(1, round(size * rows)) if size else 0


def _in_order(rows: Sequence, wanted: dict[str, int]) -> dict[Hashable, str]:
    """Return the part of each position that does not train: the test at the end, before it the validation."""
    part_of: dict[Hashable, str] = {}
    for part, size in wanted.items():
        end = len(rows) - len(part_of)
        part_of |= dict.fromkeys(range(end - size, end), part)
    return part_of


def _at_random(members: Counter, wanted: dict[str, int], seed: int) -> dict[Hashable, str]:
    """Return the part of each group that does not train. members: rows by group."""
    order = sorted(members, key=str)  # whatever the order of the rows
    random.Random(seed).shuffle(order)
    training = dict.fromkeys(order)
    left = Counter(name for key in order for name in _names(key))
    part_of: dict[Hashable, str] = {}

    def can_leave(key: Hashable) -> bool:
        return all(left[name] > 1 for name in _names(key))

    def move(key: Hashable, part: str) -> None:
        del training[key]
        left.subtract(_names(key))
        part_of[key] = part

    def fill(part: str, size: int, at_least: int, allowed: Callable[[Hashable], bool]) -> int:
        for key in order:
            if key in training and len(training) > at_least and members[key] <= size and allowed(key):
                move(key, part)
                size -= members[key]
        return size

    # at least one group each has to stay for the parts that come later, training among them
    for at_least, (part, size) in zip(range(len(wanted), 0, -1), wanted.items(), strict=True):
        missing = fill(part, size, at_least, can_leave)
        if missing > size / 2:  # most names are seen only once: they cannot all stay
            missing = fill(part, missing, at_least, lambda key: True)
        if missing == size:
            move(min(training, key=members.get), part)
    return part_of


def _names(key: Hashable) -> list[tuple[int, str]]:
    """Return the names of a group, each with its place: 老师 may be a recipient and a scene."""
    return [(place, name) for place, name in enumerate(key) if name] if isinstance(key, tuple) else []


def group(
    questions: Sequence[str],
    by: str = "pair",
    *,
    threshold: float = 0.9,
    matrix: wishes.Matrix | None = None,
) -> list[Hashable]:
    """Return the group of each question, for ``split``.

    by: ``pair`` reads whom a request wishes and what for, and takes (recipient, scene) as the group; a
    request that names neither is grouped by ``question``: nearly the same ones are a group (similarity
    of at least ``threshold``, see ``duplicates``). ``row``: each stands for itself.
    Raises CourseError for another ``by``.

    >>> group(["怎么写诗", "怎么写诗？", "怎么写信"], "question")
    ['怎么写诗', '怎么写诗', '怎么写信']
    """
    check_known(by, GROUPINGS, "分组方式")
    found: list[Hashable] = list(range(len(questions)))
    if by == "row":
        return found
    unnamed = range(len(questions))
    if by == "pair":
        matrix = wishes.load() if matrix is None else matrix
        requests = [matrix.read(question) for question in questions]
        found = [(request.recipient, request.scene) for request in requests]
        unnamed = [position for position, pair in enumerate(found) if not any(pair)]
    for cluster in duplicates.clusters((questions[position] for position in unnamed), threshold):
        for number in cluster:
            found[unnamed[number]] = questions[unnamed[cluster[0]]]
    return found


@dataclass(frozen=True)
class Leakage:
    """Test texts that training has seen, as (test position, training position[, similarity])."""

    exact: list[tuple[int, int]]
    near: list[tuple[int, int, float]]

    def __len__(self) -> int:
        return len(self.exact) + len(self.near)

    def pairs(self) -> list[tuple[int, int, float]]:
        """Return all as (test position, training position, similarity), in the order of the test."""
        return sorted([(*pair, 1.0) for pair in self.exact] + self.near)


def leakage(train: Sequence[str], test: Sequence[str], threshold: float = 0.9) -> Leakage:
    """Find test texts that stand in training, exactly or nearly (see ``duplicates``).

    The same for any two parts: validation against training, test against validation.
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
    for position, text in enumerate(test):
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
    check_known(by, COMPARED, "比较方式")
    train, test = (
        [{key: "\n".join(turn[key] for turn in turns) for key in ("input", "output")} for _, turns in rows]
        for rows in map(formats.read, (train_path, test_path))
    )
    exact: dict[int, tuple[int, int]] = {}
    near: dict[int, tuple[int, int, float]] = {}
    for part, key in (("question", "input"), ("answer", "output")):
        if by in (part, "both"):
            found = leakage(*([row[key] for row in rows] for rows in (train, test)), threshold)
            exact |= {pair[0]: pair for pair in found.exact if pair[0] not in exact}
            near |= {pair[0]: pair for pair in found.near if pair[0] not in near}
    near = {position: pair for position, pair in near.items() if position not in exact}
    return Leakage(*(sorted(pairs.values()) for pairs in (exact, near)))


def repair_test(test_path: str | Path, train_path: str | Path, found: Leakage) -> Path:
    """Take the rows that ``file_leakage`` found out of a test file; return the file that holds them.

    They go to ``<test>_leaked.jsonl`` beside it, after what an earlier repair put there, each with the
    number of the training row (from 1) and the similarity. The rows that stay are not changed, nor is
    the training file.
    Raises CourseError if no row would stay, or for a file that is neither .json nor .jsonl; then nothing is
    written.
    """
    test_path = Path(test_path)
    formats.check_name(test_path)
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
    before = records.provenance(test_path) or None
    formats.write_rows(test_path, kept)
    records.write_provenance(
        test_path,
        stage="leakage",
        parameters={"before": before},
        counts={"before": len(rows), "kept": len(kept), "leaked": len(leaked)},
        inputs=[train_path],
    )
    return apart


def repair(parts: Sequence[str | Path], *, threshold: float = 0.9) -> int:
    """Take out of each part's file the rows that an earlier part has seen; return how many there were.

    parts: the files in their order: training, validation, test. See ``file_leakage`` and ``repair_test``.
    """
    leaked = 0
    for earlier, later in combinations(parts, 2):
        if found := file_leakage(earlier, later, threshold=threshold):
            repair_test(later, earlier, found)
            leaked += len(found)
    return leaked


def write_split(
    source: str | Path,
    folder: str | Path | None = None,
    *,
    by: str = "pair",
    validation: float = VALIDATION_SHARE,
    test: float = TEST_SHARE,
    seed: int = 42,
    matrix: wishes.Matrix | None = None,
) -> dict[str, int]:
    """Split a file of any format into ``<name>_train``, ``<name>_validation`` and ``<name>_test``.

    folder: where they are written, in the source's format and with provenance; None is beside it. The
    rows stay as they are. by, matrix: as in ``group``; a conversation's question is all that was asked in
    it, and if there are less than three groups, each row is one. Other parameters as in ``split``.
    Returns the number of rows of each part, and of ``groups``. Raises CourseError as ``split`` does, and
    for rows that cannot be read.
    """
    source = Path(source)
    kind, talks = kind_of(source), list(formats.read(source))
    rows = [formats.from_turns(turns, "xtuner", where) for where, turns in talks]
    if kind in (ARRAY, LINES):  # as they are, with all that is no part of the conversation
        rows = [row for _, row in formats.iter_rows(source)]
    groups = group(["\n".join(turn["input"] for turn in turns) for _, turns in talks], by, matrix=matrix)
    if len(set(groups)) < len(PARTS):  # one request for all wishes, say: rows are all that can be told apart
        by, groups = "row", group(rows, "row")
    parts = split(rows, groups, validation=validation, test=test, seed=seed)
    counts = {part: len(chosen) for part, chosen in parts.items()} | {"groups": len(set(groups))}
    parameters = {"by": by, "validation": validation, "test": test, "seed": seed}
    name, suffix = Path(source.name.removesuffix(".gz")).stem, ".jsonl" if kind == LINES else ".json"
    for part, chosen in parts.items():
        path = Path(folder or source.parent) / f"{name}_{part}{suffix}"
        with records.make_way(path, source=source):
            formats.write_rows(path, chosen)
        records.write_provenance(path, stage=STAGE, parameters=parameters, counts=counts, inputs=[source])
    return counts
