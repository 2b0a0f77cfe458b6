"""Cleaning: every row goes through the rules, then duplicates go, then openings that too many share.

Rows in = rows out + rejects, always: a rule mends a wish or rejects it, and a rejected row is kept
with the rule's name and the reason. Cleaning what is clean changes nothing. Rows that are no wishes only pass
the checks that any row has to pass (``plain``).

Rules look at one row, and a second process may share that work; what looks at the whole set (duplicates,
openings) stays here and takes the rows in order, so the result does not depend on how many processes
there are. Files are cleaned as a stream: rows wait on the disk, not in memory, until the openings of all
of them are counted. What grows with the rows is the index of the wishes that were kept: the texts, and
about 300 bytes each (see ``duplicates``).
"""

import pickle
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, count, islice
from pathlib import Path

import msgspec

from tianji_helpers import formats, records, wishes
from tianji_helpers.dataset import decisions, duplicates, openings, plain, variety
from tianji_helpers.dataset.processes import in_bulk, in_order
from tianji_helpers.dataset.rules import ABSURD, RULES, UNSUITABLE
from tianji_helpers.errors import CourseError
from tianji_helpers.request import Request

STAGE = "02_merge_clean"
OVERSIZE, HUMAN = "oversize", "human"
EXACT, NEAR, OPENING = "duplicate", "near_duplicate", "common_opening"
TITLES = (
    {HUMAN: "人工决定", OVERSIZE: "长得离谱"}
    | plain.TITLES
    | {name: rule.title for name, rule in RULES.items()}
    | {EXACT: "完全重复", NEAR: "近似重复", OPENING: "开头扎堆"}
)
MAX_CHARS = 2_000  # no wish is longer; mending costs time that grows faster than the length
_PARALLEL_ROWS = 20_000  # fewer are cleaned before a second process has started
_PART = 2_000  # rows that a process gets at a time
# Whether one wishes somebody something is a policy with a switch of its own: which rules it leaves out.
SUITABILITY = {"absurd": {UNSUITABLE}, "matrix": {ABSURD}, "off": {ABSURD, UNSUITABLE}}
_ALWAYS = {OVERSIZE, HUMAN, ABSURD, UNSUITABLE}
_SAMPLES = 5


@dataclass
class Cleaned:
    """What cleaning made of the rows.

    kept: the clean turns. rejects: ``{"row", "rule", "reason", "input", "before", "after"}`` (row from 1 in
    the input; after: the text as the rule saw it), and ``twin``, the row that it repeats. mended: ``{"row",
    "input", "before", "after", "rules"}`` of the kept rows that changed. report: counts and samples per
    rule. A row's place in its source is what leads back to all of it (``decisions.key_of``).
    """

    kept: list[dict] = field(default_factory=list)
    rejects: list[dict] = field(default_factory=list)
    mended: list[dict] = field(default_factory=list)
    report: dict = field(default_factory=dict)


def mend(text: str, request: Request, off: Collection[str] = ()) -> tuple[str, list[tuple[str, str, str]]]:
    """Apply the mends until none changes the text; return it and the steps (rule, before, after).

    >>> mend("当前祝福语如下：“姐姐，生日快乐。哦！”", wishes.load().read("祝姐姐生日"))[0]
    '姐姐，生日快乐。'
    """
    texts = [text]
    (steps,) = _mend(texts, [request], off)
    return texts[0], steps


def _mend(
    texts: list[str], requests: Sequence[Request], off: Collection[str]
) -> list[list[tuple[str, str, str]]]:
    """Mend texts where they stand in the list; return the steps of each.

    One rule after the other goes over all texts: a processor is a quarter quicker at doing the same again.
    """
    steps: list[list[tuple[str, str, str]]] = [[] for _ in texts]
    left = list(range(len(texts)))
    while left:
        before, asked = [texts[row] for row in left], [requests[row] for row in left]
        now = before
        for name, apply in _active("mend", frozenset(off)):
            after = list(map(apply, now, asked))
            if after != now:
                for row, old, new in zip(left, now, after, strict=True):
                    if new != old:
                        steps[row].append((name, old, new))
                now = after
        for row, text in zip(left, now, strict=True):
            texts[row] = text
        left = [row for row, old, new in zip(left, before, now, strict=True) if old != new]
    return steps


def reject(text: str, request: Request, off: Collection[str] = ()) -> tuple[str, str] | None:
    """Return (rule, reason) of the first rule that rejects a mended text, or None."""
    return _reject([text], [request], off)[0]


def _reject(
    texts: Sequence[str], requests: Sequence[Request], off: Collection[str]
) -> list[tuple[str, str] | None]:
    verdicts: list[tuple[str, str] | None] = [None] * len(texts)
    for name, apply in _active("reject", frozenset(off)):
        for row, reason in enumerate(map(apply, texts, requests)):
            if reason and verdicts[row] is None:
                verdicts[row] = name, reason
    return verdicts


def edit(text: str, request: Request, off: Collection[str] = ()) -> tuple[str, str, tuple[str, ...]]:
    """Return what cleaning does with one wish: ``keep``, ``mend`` or ``reject``, the text after, the rules.

    >>> edit("姐姐，生日快乐！祝啦~", wishes.load().read("祝姐姐生日"))
    ('mend', '姐姐，生日快乐！', ('particle',))
    """
    after, steps = mend(text, request, off)
    if found := reject(after, request, off):
        return "reject", after, found[:1]
    same = after == text.strip()
    return ("keep", after, ()) if same else ("mend", after, tuple(dict.fromkeys(name for name, *_ in steps)))


@cache
def _active(kind: str, off: frozenset[str]) -> list[tuple[str, Callable[[str, Request], str | None]]]:
    return [(rule.name, rule.apply) for rule in RULES.values() if rule.kind == kind and rule.name not in off]


class _Outcome(msgspec.Struct, array_like=True, gc=False):
    """What became of one row: the text it ended with, the mends that changed it, perhaps a rejection."""

    row: int
    after: str
    mends: list[str]
    verdict: tuple[str, str] | None = None
    decided: bool = False  # by a person: kept whatever the rules say
    opening: str = ""
    is_wish: bool = True
    misfit: bool = False  # a wish that the matrix leaves out
    twin: int = 0  # the earlier row that it repeats

    def compared(self, turn: dict) -> str:
        """What must not stand there twice: a wish; elsewhere an answer may well be that of two questions."""
        return self.after if self.is_wish else "\n".join((*plain.texts(turn)[:-1], self.after))


@dataclass
class _Part:
    """Some rows in order, and what became of each.

    turns: none on the way from the second process, for the first one has them, and what is short is sent
    in one piece. sketch: of the rows that the rules let pass (None if nobody needs it).
    """

    turns: list[dict]
    outcomes: list[_Outcome]
    sketch: duplicates.Sketch | None = None

    def __reduce__(self):  # msgpack takes a quarter of pickle's time, but not every JSON value
        try:
            return _unpacked, (msgspec.msgpack.encode((self.turns, self.outcomes)), self.sketch)
        except (OverflowError, UnicodeEncodeError):
            return _Part, (self.turns, self.outcomes, self.sketch)

    def rows(self) -> Iterator[tuple[dict, _Outcome]]:
        """Yield every turn with what became of it."""
        return zip(self.turns, self.outcomes, strict=True)


def _unpacked(part: bytes, sketch: duplicates.Sketch | None) -> _Part:
    return _Part(*_unpack(part), sketch)


_unpack = msgspec.msgpack.Decoder(tuple[list[dict], list[_Outcome]]).decode


@dataclass
class _Judge:
    """The rules that look at one row."""

    matrix: wishes.Matrix
    off: frozenset[str]
    threshold: float
    decided: dict[str, dict]
    kind: str

    def __reduce__(self):  # without what is made on the way
        return _Judge, (replace(self.matrix), self.off, self.threshold, self.decided, self.kind)

    def part(self, numbered: tuple[int, list[dict]]) -> _Part:
        """Judge (number of the first row, turns); whoever asks has the turns."""
        first, turns = numbered
        outcomes = self.rows(first, turns)
        if NEAR in self.off:
            return _Part([], outcomes)
        rows = zip(turns, outcomes, strict=True)
        texts = [outcome.compared(turn) for turn, outcome in rows if outcome.verdict is None]
        return _Part([], outcomes, duplicates.sketch(texts, self.threshold))

    def rows(self, first: int, turns: Iterable[dict]) -> list[_Outcome]:
        """Judge turns, numbered from ``first``."""
        outcomes, asked, inputs = [], [], []
        for row, turn in enumerate(turns, first):
            outcome = _Outcome(row, turn["output"], [])
            outcomes.append(outcome)
            outcome.is_wish = self.kind == plain.WISHES and "history" not in turn
            decision = self.decided.get(decisions.key_of(turn), {}) if self.decided else {}
            action = decision.get("action")
            outcome.decided = action in ("keep", "edit")
            most = MAX_CHARS if outcome.is_wish else plain.MAX_CHARS
            length = len(outcome.after) if outcome.is_wish else sum(map(len, plain.texts(turn)))
            if action == "reject":
                outcome.verdict = HUMAN, "看过的人决定不要"
            elif action == "edit":
                outcome.after = decision["output"]
                outcome.misfit = outcome.is_wish and self.matrix.read(turn["input"]).misfit is not None
            elif length > most:
                outcome.verdict = OVERSIZE, f"{length} 个字符，超过 {most}"
            elif outcome.is_wish:
                asked.append(outcome)
                inputs.append(turn["input"])
            else:
                outcome.verdict = plain.reject(turn, self.off)
        requests = list(map(self.matrix.read, inputs))
        texts = [outcome.after for outcome in asked]
        mends = _mend(texts, requests, self.off)
        verdicts = _reject(texts, requests, self.off)
        for outcome, request, text, steps, verdict in zip(
            asked, requests, texts, mends, verdicts, strict=True
        ):
            outcome.after, outcome.verdict = text, verdict
            outcome.mends = list(dict.fromkeys(name for name, _, _ in steps))
            outcome.misfit = request.misfit is not None
            if verdict is None:
                outcome.opening = openings.opening(text, request.names)
        for outcome in outcomes:
            if outcome.decided:
                outcome.verdict = None
        return outcomes


def _prepare(
    matrix: wishes.Matrix | None,
    off: Collection[str],
    suitability: str,
    threshold: float,
    decided: dict[str, dict] | None,
    kind: str = plain.WISHES,
) -> _Judge:
    switchable = [name for name in TITLES if name not in _ALWAYS]
    unknown = sorted(set(off) - set(switchable))
    if unknown:
        names = "、".join(switchable)
        raise CourseError(f"没有可以关掉的规则 {'、'.join(unknown)}。可以关的有：{names}。")
    if suitability not in SUITABILITY:
        raise CourseError(f"suitability 是 {suitability}，只能是 {'、'.join(SUITABILITY)}。")
    off = {*off, *SUITABILITY[suitability]}
    matrix = wishes.load() if matrix is None else matrix
    return _Judge(matrix, frozenset(off), threshold, decided or {}, kind)


def _judged(turns: Iterable[dict], judge: _Judge) -> Iterator[_Part]:
    """Judge turns; two processes share a long stream."""
    turns, asked = iter(turns), deque()

    def numbered() -> Iterator[tuple[int, list[dict]]]:
        for first in count(1, _PART):
            if not (part := list(islice(turns, _PART))):
                return
            asked.append(part)
            yield first, part

    for part in in_order(judge.part, numbered(), _PARALLEL_ROWS // _PART):
        part.turns = asked.popleft()
        yield part


def _unique(parts: Iterable[_Part], judge: _Judge) -> Iterator[_Part]:
    """Reject what stood in an earlier row, exactly or nearly."""
    near = duplicates.NearIndex(judge.threshold)
    seen: dict[str, int] = {}  # every text that the rules let pass, and its first row
    for part in parts:
        left = [(outcome, outcome.compared(turn)) for turn, outcome in part.rows() if outcome.verdict is None]
        new = []
        for place, (outcome, text) in enumerate(left):
            first = outcome.row if EXACT in judge.off else seen.setdefault(text, outcome.row)
            if first == outcome.row:
                new.append(place)
            elif not outcome.decided:
                outcome.verdict, outcome.twin = (EXACT, f"和第 {first} 条一样"), first
        if part.sketch is not None:
            rows, texts = [left[place][0].row for place in new], [left[place][1] for place in new]
            for place, twin in zip(new, near.screen(rows, texts, part.sketch[new]), strict=True):
                outcome = left[place][0]
                if twin and not outcome.decided:
                    outcome.verdict = NEAR, f"和第 {twin[0]} 条的相似度是 {twin[1]:.2f}"
                    outcome.twin = twin[0]
        yield _Part(part.turns, part.outcomes)


def _cleaned(
    turns: Iterable[dict], judge: _Judge, hold: Callable[[Iterator[_Part]], Iterable[_Part]]
) -> Iterator[tuple[dict, _Outcome]]:
    """Yield every turn and what becomes of it. hold: keeps all until the openings of the last are counted."""
    counts: Counter = Counter()

    def counted() -> Iterator[_Part]:
        for part in _unique(_judged(turns, judge), judge):
            if OPENING not in judge.off:
                counts.update(outcome.opening for outcome in part.outcomes if _may_crowd(outcome))
            yield part

    held = iter(hold(counted()))
    first = next(held, _Part([], []))  # all are counted by now
    most = openings.limit(counts)
    left = {opening: most for opening, rows in counts.items() if rows > most}
    for part in chain([first], held):
        for turn, outcome in part.rows():
            if outcome.opening in left and _may_crowd(outcome):
                left[outcome.opening] -= 1
                if left[outcome.opening] < 0:  # the later ones go
                    reason = f"“{outcome.opening}”开头的有 {counts[outcome.opening]} 条，最多留 {most} 条"
                    outcome.verdict = OPENING, reason
            yield turn, outcome


def _may_crowd(outcome: _Outcome) -> bool:
    return outcome.is_wish and outcome.verdict is None and not outcome.decided


def _on_disk(parts: Iterator[_Part]) -> Iterator[_Part]:
    """Keep rows in a temporary file. Whatever is read meanwhile words its own errors."""
    try:
        with tempfile.TemporaryFile() as spool:
            for part in parts:
                pickle.dump(part, spool, pickle.HIGHEST_PROTOCOL)
            spool.seek(0)
            with in_bulk():
                while spool.peek(1):
                    yield pickle.load(spool)
    except OSError as error:
        raise CourseError(
            f"临时文件夹 {tempfile.gettempdir()} 放不下等着的数据：{error.strerror or error}。"
            "请腾出空间，或用环境变量 TMPDIR 换一个文件夹。"
        ) from error


class _Report:
    """Counts and the first samples, rule by rule; and the rows kept whose pair the matrix leaves out."""

    def __init__(self) -> None:
        self.rows_in = self.rows_out = self.mended = self.misfits = 0
        self.rows: Counter = Counter()
        self.samples: dict[str, list[dict]] = {name: [] for name in TITLES}

    def add(self, turn: dict, outcome: _Outcome) -> dict | None:
        """Count one row; return what is noted of it if it is rejected or mended, else None."""
        self.rows_in += 1
        edited = outcome.decided and outcome.after != turn["output"] and not outcome.mends
        rules = [HUMAN] if edited else outcome.mends
        if outcome.verdict is None:
            self.rows_out += 1
            self.misfits += outcome.misfit
            if not rules:
                return None
        note = {
            "row": outcome.row,
            "input": turn["input"],
            "before": turn["output"],
            "after": outcome.after,
        }
        for name in rules:
            self._count(name, note)
        if outcome.verdict is None:
            self.mended += 1
            return {**note, "rules": rules}
        name, reason = outcome.verdict
        note = {"row": outcome.row, "rule": name, "reason": reason, **note}
        note |= {"twin": outcome.twin} if outcome.twin else {}
        self._count(name, note)
        return note

    def _count(self, name: str, note: dict) -> None:
        self.rows[name] += 1
        if len(self.samples[name]) < _SAMPLES:
            self.samples[name].append(note)

    def summary(self) -> str:
        """Return the rules that acted, each with its rows, the busiest first."""
        return "、".join(f"{TITLES[name]} {rows} 条" for name, rows in self.rows.most_common())

    def result(self) -> dict:
        """Return the report as it is written."""
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "mended": self.mended,
            "rejected": self.rows_in - self.rows_out,
            "misfits": self.misfits,
            "rules": [
                {
                    "name": name,
                    "title": title,
                    "kind": RULES[name].kind if name in RULES else "reject",
                    "rows": self.rows[name],
                    "samples": self.samples[name],
                }
                for name, title in TITLES.items()
            ],
        }


def clean_turns(
    turns: Iterable[dict],
    matrix: wishes.Matrix | None = None,
    *,
    off: Collection[str] = (),
    suitability: str = "absurd",
    threshold: float = 0.9,
    decided: dict[str, dict] | None = None,
    kind: str = plain.WISHES,
) -> Cleaned:
    """Clean turns (``input``, ``output``, perhaps ``system`` and ``history``, see ``formats.read_turns``).

    kind: what the rows are, as ``plain.kind`` says it; ``other`` rows are not mended, and compared with
    their questions.
    matrix: as ``wishes.load`` returns it (read if absent). off: names of rules to leave out (see
    ``TITLES``). suitability: reject the pairs of recipient and scene that are ``absurd``, all that the
    ``matrix`` leaves out, or none (``off``). threshold: similarity from which a wish is a near duplicate of
    an earlier one, in (0, 1]; see ``duplicates``. decided: what people decided about single rows, as
    ``decisions.read`` returns it.
    Raises CourseError for a rule that does not exist or a threshold out of range.
    """
    judge = _prepare(matrix, off, suitability, threshold, decided, kind)
    cleaned, report = Cleaned(), _Report()
    for turn, outcome in _cleaned(turns, judge, list):
        note = report.add(turn, outcome)
        if outcome.verdict:
            cleaned.rejects.append(note)
            continue
        cleaned.kept.append({**turn, "output": outcome.after})
        if note:
            cleaned.mended.append(note)
    cleaned.report = report.result()
    return cleaned


def clean_file(
    source: str | Path,
    output: str | Path,
    *,
    rejects: str | Path,
    report: str | Path,
    off: Collection[str] = (),
    suitability: str = "absurd",
    threshold: float = 0.9,
    matrix: wishes.Matrix | None = None,
    decisions_file: str | Path | None = None,
    variants: int = 1,
    seed: int = 42,
    kind: str = "",
    system: str = "",
    allow_empty: bool = False,
) -> dict:
    """Clean a file of any format; write training file, rejects (JSONL) and report, with provenance.

    kind: ``wishes`` or ``other``; empty means: look at the rows (``plain.kind``); the report says what it
    is, and why. system: the prompt of rows that have none. decisions_file: decisions to replay (see
    ``decisions``). variants, seed: see ``variety.vary``; 1 leaves the requests as they are. The others as in
    ``clean_turns``. Returns the report.
    Raises CourseError as reading and ``clean_turns`` do, and if no row is left (unless ``allow_empty``); then
    nothing is written.
    """
    decided = decisions.read(decisions_file) if decisions_file else {}
    variety.check(variants)
    judge = _prepare(matrix, off, suitability, threshold, decided, kind)
    found = f"按您说的，当作{'祝福' if kind == plain.WISHES else '别的数据'}清洗"
    if not kind:
        turns = _perhaps_none(formats.read_turns(source, system=system), allow_empty)
        judge.kind, found = plain.kind(turns, judge.matrix)
    made = _Report()

    def kept(rows: Iterable[tuple[dict, _Outcome]], bad) -> Iterator[dict]:
        for turn, outcome in rows:
            note = made.add(turn, outcome)
            if outcome.verdict:
                bad.write(records.jsonl_line(note))
            else:
                yield {**turn, "output": outcome.after}
        if not (made.rows_out or allow_empty):
            raise CourseError(
                f"{source} 清洗以后一条也没有留下（{made.summary()}）。请检查数据，"
                "或用 --off 关掉不合适的规则；真的要空文件，或想看弃用的记录，就加上 --allow-empty。"
            )

    with records.atomic_writer(rejects, binary=True) as bad:
        turns = _perhaps_none(formats.read_turns(source, system=system), allow_empty)
        rows = kept(_cleaned(turns, judge, _on_disk), bad)
        variants = variants if judge.kind == plain.WISHES else 1
        records.write_conversations(output, variety.vary(rows, variants, seed, judge.matrix))
    result = {"kind": judge.kind, "why": found} | made.result()
    records.write_json(report, result)
    parameters = {"off": sorted(off), "suitability": suitability, "threshold": threshold, "kind": judge.kind}
    parameters |= {"system": system} if system else {}
    if variants > 1:
        parameters |= {"variants": variants, "seed": seed}
    inputs = {Path(path): records.sha256(path) for path in (source, *([decisions_file] if decided else []))}
    for path in (output, rejects, report):
        records.write_provenance(
            path,
            stage=STAGE,
            parameters=parameters,
            counts={name: result[name] for name in ("rows_in", "rows_out", "mended", "rejected")},
            inputs=inputs,
        )
    return result


def _perhaps_none(rows: Iterable, allowed: bool) -> Iterator:
    """Yield what is read from a file; one that holds nothing is an error unless that is allowed."""
    try:
        yield from rows
    except formats.NoRows:
        if not allowed:
            raise
