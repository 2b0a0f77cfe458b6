"""Cleaning on many machines: what the data-juicer recipe needs, without data-juicer itself.

One machine reads the rows in order and asks for each: is a kept row before it nearly this one? Many
machines cannot, so the question is turned round. Rows travel as numbered JSON Lines shards. Every row
goes through the rules where it lies (``judge``); then rows that could be near duplicates meet, because
they share a bucket (``buckets``: the same bands as in ``duplicates``, so the same candidates); each
bucket says which of its rows really are alike (``alike``); and from all these pairs one place decides
who stays (``resolve``), the earlier row first. What is left is counted by openings, and the later rows
of a crowded one go (``crowded``, ``surplus``). The result is row for row that of ``clean.clean_turns``.

``configs/data_juicer/`` holds the recipe and the operators that call this; they run in an environment
of their own, because data-juicer's pins do not fit the course's lock.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from tianji_helpers import formats, paths, records, wishes
from tianji_helpers.dataset import clean, duplicates, openings, plain
from tianji_helpers.dataset.rules import RULES
from tianji_helpers.errors import CourseError

FIELDS = ("system", "input", "output")
# without a file of decisions, which the recipe does not take, HUMAN never occurs; nor does what is for rows
# that are no wishes
_KNOWN = {clean.HUMAN, clean.OVERSIZE, *plain.TITLES, *RULES, clean.EXACT, clean.NEAR, clean.OPENING}
SHARD = "shard-{:05d}.jsonl"


class Judged(NamedTuple):
    """One answer after the rules: its text, rule and reason if it is rejected (else empty), its opening."""

    output: str
    rule: str
    reason: str
    opening: str


def write_shards(source: str | Path, folder: str | Path, rows: int = 100_000) -> int:
    """Cut a merged file into JSON Lines shards of numbered rows; return how many shards there are.

    rows: how many a shard holds. Raises CourseError for a bad row, or a folder that holds other files
    (data-juicer would read them too).
    """
    if not isinstance(rows, int) or rows < 1:
        raise CourseError(f"每个分片的条数是 {rows!r}，应当是不小于 1 的整数。")
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise CourseError(f"{folder} 不是空文件夹；data-juicer 会把里面的文件都当成数据。请换一个新文件夹。")

    def numbered() -> Iterator[dict]:
        for number, turn in enumerate(formats.read_turns(source), 1):
            if "history" in turn:
                raise CourseError(f"{source} 第 {number} 条有几轮；多机清洗只认祝福，请用 tianji clean。")
            yield {"row": number, "system": "", **turn}

    shards = groupby(numbered(), lambda row: (row["row"] - 1) // rows)
    return sum(records.write_jsonl(folder / SHARD.format(shard), part) > 0 for shard, part in shards)


def read_shards(folder: str | Path) -> list[dict]:
    """Return the rows of a folder's JSON Lines files, sorted by row number.

    Raises CourseError if the folder is not there, or holds a row twice (Ray adds to what it finds there).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CourseError(f"找不到文件夹 {folder}。请先运行 data-juicer。")
    rows: dict[int, dict] = {}
    for path in shard_files(folder):
        for line, row in records.iter_jsonl(path):
            number = row.get("row")
            if type(number) is not int:
                raise CourseError(f"{path} 第 {line} 行没有序号 row；这不是分片清洗的结果。")
            if number in rows:
                raise CourseError(f"{folder} 里第 {number} 条出现了两次，像是两次运行的结果；请清空后重跑。")
            rows[number] = row
    return [rows[number] for number in sorted(rows)]


def shard_files(folder: str | Path) -> list[Path]:
    """Return the JSON Lines files of a folder, sorted by name."""
    return sorted(path for path in Path(folder).iterdir() if path.suffix in (".json", ".jsonl"))


def join_shards(folder: str | Path, output: str | Path) -> int:
    """Write the kept rows of a run as one training file, in the order of the input, with provenance.

    Returns how many there are. Raises CourseError if there are none, and if ``output`` is a shard itself.
    """
    shards = read_shards(folder)
    if any(Path(output).exists() and file.samefile(output) for file in shard_files(folder)):
        raise CourseError(f"{output} 是要合起来的分片之一，写在这里会盖掉它。请给训练文件换一个名字。")
    rows = [
        {
            field: records.check_text(row.get(field), field, f"第 {row['row']} 条")
            for field in FIELDS
            if field != "system" or row.get(field)  # there was none: a shard's rows all have the same fields
        }
        for row in shards
    ]
    if not rows:
        raise CourseError(f"{paths.told(folder)} 里一条也没有留下。请检查清洗的配方，和它的 export_path。")
    records.write_conversations(output, rows)
    records.write_provenance(
        output, stage=clean.STAGE, parameters={"shards": paths.show(folder)}, counts={"rows_out": len(rows)}
    )
    return len(rows)


def checked(off: Iterable[str], threshold: float = 0.9) -> tuple[str, ...]:
    """Return the names of rules to leave out.

    Raises CourseError for a name or a threshold that ``clean.clean_turns`` does not take, and for a rule
    of cleaning that these functions do not know: it must be left out.
    """
    off = tuple(off)
    clean.clean_turns([], off=off, threshold=threshold)
    missing = [name for name in clean.TITLES if name not in _KNOWN and name not in off]
    if missing:
        names = "、".join(missing)
        raise CourseError(f"分片清洗还不会做规则 {names}；请在配方里把它写进 skipped_rules。")
    return off


def judge(matrix: wishes.Matrix, off: Collection[str] = ()) -> Callable[[str, str], Judged]:
    """Return a function that puts one answer through the rules, given its request and its text."""
    rules = clean._prepare(matrix, off, "absurd", 1, None)

    def judged(request: str, text: str) -> Judged:
        (outcome,) = rules.rows(0, [{"system": "", "input": request, "output": text}])
        return Judged(outcome.after, *(outcome.verdict or ("", "")), outcome.opening)

    return judged


def buckets(texts: Sequence[str], off: Collection[str] = (), threshold: float = 0.9) -> list[list[bytes]]:
    """Return for each text the keys of the buckets in which it meets those that it might duplicate.

    >>> one, other = buckets(["生日快乐，岁岁平安", "生日快乐！岁岁平安"])
    >>> len(one), one == other
    (16, True)
    """
    if clean.NEAR not in off:
        keys = duplicates.sketch(texts, threshold).keys.tolist()
        return [[struct.pack("<HI", *key) for key in enumerate(row)] for row in keys]
    if clean.EXACT not in off:
        return [[hashlib.sha256(text.encode()).digest()] for text in texts]
    return [[] for _ in texts]


def alike(
    rows: Iterable[tuple[int, str]], off: Collection[str] = (), threshold: float = 0.9
) -> Iterator[tuple[int, int, float, bool]]:
    """Yield (earlier row, later row, similarity, same text) of the duplicates in one bucket.

    rows: (row number, text). Of rows whose similarity is 1 only the first is compared with the others:
    what holds for it holds for them. Of equal texts only the first is looked at.

    >>> list(alike([(7, "岁岁平安！"), (3, "岁岁平安"), (5, "新春大吉")]))
    [(3, 7, 1.0, False)]
    """
    near = clean.NEAR not in off
    texts: dict[str, int] = {}
    kinds: dict[frozenset[str], int] = {}
    for row, text in sorted(rows):
        if text in texts:
            yield texts[text], row, 1.0, True
            continue
        texts[text] = row
        if not near:
            continue
        kind = duplicates.shingles(text)
        if kind in kinds:
            yield kinds[kind], row, 1.0, False
            continue
        for grams, earlier in kinds.items():
            value = duplicates.jaccard(kind, grams)
            if value >= threshold:
                yield earlier, row, value, False
        kinds[kind] = row


def resolve(
    pairs: Iterable[tuple[int, int, float, bool]], off: Collection[str] = ()
) -> dict[int, tuple[str, str]]:
    """Decide which duplicates go: return (rule, reason) by row number.

    pairs: as ``alike`` yields them, of all buckets, in any order, repeated or not. A row goes if an
    earlier one that stays is alike; its rule and reason name the most similar of those.

    >>> resolve([(1, 2, 0.95, False), (2, 3, 0.92, False)])
    {2: ('near_duplicate', '和第 1 条的相似度是 0.95')}
    """
    gone: dict[int, tuple[str, str]] = {}
    for later, group in groupby(sorted(set(pairs), key=itemgetter(1, 0)), key=itemgetter(1)):
        group = list(group)
        first = next((pair[0] for pair in group if pair[3]), None)
        if first is not None and clean.EXACT not in off:
            gone[later] = clean.EXACT, f"和第 {first} 条一样"
            continue
        stay = [pair for pair in group if pair[0] not in gone]
        twin = next((pair[0] for pair in group if pair[2] == 1.0), None)
        if stay:
            earlier, _, value, _ = max(stay, key=itemgetter(2))
            gone[later] = clean.NEAR, f"和第 {earlier} 条的相似度是 {value:.2f}"
        elif twin is not None:
            gone[later] = gone[twin]
    return gone


def surplus(counts: Counter, rows: Iterable[tuple[str, int]]) -> dict[int, tuple[str, str]]:
    """Decide which rows go because too many begin alike: return (rule, reason) by row number.

    counts: how many rows are left by opening. rows: (opening, row number), at least of all openings that
    are ``crowded``; the earliest rows stay.
    """
    most = openings.limit(counts)
    met: dict[str, list[int]] = {}
    for opening, row in rows:
        met.setdefault(opening, []).append(row)
    return {
        row: (clean.OPENING, f"“{opening}”开头的有 {counts[opening]} 条，最多留 {most} 条")
        for opening, numbers in met.items()
        for row in sorted(numbers)[most:]
    }


def crowded(counts: Counter) -> set[str]:
    """Return the openings that more rows have than may."""
    most = openings.limit(counts)
    return {opening for opening, count in counts.items() if count > most}
