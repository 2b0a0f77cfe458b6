"""Cleaning: every row goes through the rules, then duplicates go.

Rows in = rows out + rejects, always: a rule mends a wish or rejects it, and a rejected row is kept
with the rule's name and the reason. Cleaning what is clean changes nothing.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tianji_helpers import records, wishes
from tianji_helpers.dataset import duplicates
from tianji_helpers.dataset.rules import MENDS, REJECTS, RULES, Ask
from tianji_helpers.errors import CourseError

STAGE = "02_merge_clean"
REQUEST, OVERSIZE, EXACT, NEAR = "unknown_request", "oversize", "duplicate", "near_duplicate"
TITLES = (
    {REQUEST: "看不懂的请求", OVERSIZE: "长得离谱"}
    | {name: rule.title for name, rule in RULES.items()}
    | {EXACT: "完全重复", NEAR: "近似重复"}
)
MAX_CHARS = 2_000  # no wish is longer; mending costs time that grows faster than the length
_ALWAYS = {REQUEST, OVERSIZE}
_SAMPLES = 5


@dataclass
class Cleaned:
    """What cleaning made of the rows.

    kept: the clean turns. rejects: ``{"row", "rule", "reason", "input", "before", "after"}`` (row
    from 1 in the input; after: the text as the rule saw it). mended: ``{"row", "input", "before",
    "after", "rules"}`` of the kept rows that changed. report: counts and samples per rule.
    """

    kept: list[dict] = field(default_factory=list)
    rejects: list[dict] = field(default_factory=list)
    mended: list[dict] = field(default_factory=list)
    report: dict = field(default_factory=dict)


def mend(text: str, ask: Ask, off: Collection[str] = ()) -> tuple[str, list[tuple[str, str, str]]]:
    """Apply the mends until none changes the text; return it and the steps (rule, before, after).

    >>> ask = Ask(wishes.load(), "姐姐", "生日", "正常")
    >>> mend("当前祝福语如下：“姐姐，生日快乐。哦！”", ask)[0]
    '姐姐，生日快乐哦！'
    """
    steps = []
    while True:
        start = text
        for rule in MENDS:
            if rule.name in off:
                continue
            after = rule.apply(text, ask)
            if after != text:
                steps.append((rule.name, text, after))
                text = after
        if text == start:
            return text, steps


def reject(text: str, ask: Ask, off: Collection[str] = ()) -> tuple[str, str] | None:
    """Return (rule, reason) of the first rule that rejects a mended text, or None."""
    for rule in REJECTS:
        if rule.name not in off:
            reason = rule.apply(text, ask)
            if reason:
                return rule.name, reason
    return None


def clean_turns(
    turns: Iterable[dict],
    matrix: wishes.Matrix | None = None,
    *,
    off: Collection[str] = (),
    threshold: float = 0.9,
) -> Cleaned:
    """Clean wish turns (``system``, ``input``, ``output``).

    matrix: as ``wishes.load`` returns it (read if absent). off: names of rules to leave out (see
    ``TITLES``). threshold: similarity from which a wish is a near duplicate of an earlier one, in
    (0, 1]; see ``duplicates``.
    Raises CourseError for a rule that does not exist or a threshold out of range.
    """
    switchable = [name for name in TITLES if name not in _ALWAYS]
    unknown = sorted(set(off) - set(switchable))
    if unknown:
        names = "、".join(switchable)
        raise CourseError(f"没有可以关掉的规则 {'、'.join(unknown)}。可以关的有：{names}。")
    matrix = wishes.load() if matrix is None else matrix
    near = duplicates.NearIndex(threshold)
    cleaned = Cleaned()
    seen: dict[str, int] = {}
    steps_of: dict[str, list] = {name: [] for name in TITLES}
    total = 0

    for total, turn in enumerate(turns, 1):
        before = text = turn["output"]
        steps: list[tuple[str, str, str]] = []
        names = matrix.parse_request(turn["input"])
        if names is None:
            verdict = (REQUEST, "不是“祝<对象><场景>”这样的请求，或对象、场景、风格不在清单里")
        elif len(before) > MAX_CHARS:
            verdict = (OVERSIZE, f"{len(before)} 个字符，超过 {MAX_CHARS}")
        else:
            ask = Ask(matrix, *names)
            text, steps = mend(before, ask, off)
            verdict = reject(text, ask, off) or _duplicate(text, seen, near, off)
        row = {"row": total, "input": turn["input"], "before": before, "after": text}
        for name in dict.fromkeys(name for name, _, _ in steps):
            steps_of[name].append(row)
        if verdict:
            rejected = {"row": total, "rule": verdict[0], "reason": verdict[1], **row}
            cleaned.rejects.append(rejected)
            steps_of[verdict[0]].append(rejected)
            continue
        seen[text] = total
        if NEAR not in off:
            near.add(total, text)
        cleaned.kept.append({**turn, "output": text})
        if text != before:
            cleaned.mended.append({**row, "rules": list(dict.fromkeys(name for name, _, _ in steps))})

    cleaned.report = {
        "rows_in": total,
        "rows_out": len(cleaned.kept),
        "mended": len(cleaned.mended),
        "rejected": len(cleaned.rejects),
        "rules": [
            {
                "name": name,
                "title": title,
                "kind": RULES[name].kind if name in RULES else "reject",
                "rows": len(steps_of[name]),
                "samples": steps_of[name][:_SAMPLES],
            }
            for name, title in TITLES.items()
        ],
    }
    return cleaned


def _duplicate(text: str, seen: dict[str, int], near: duplicates.NearIndex, off: Collection[str]):
    if EXACT not in off and text in seen:
        return EXACT, f"和第 {seen[text]} 条一样"
    if NEAR not in off:
        found = near.nearest(text)
        if found:
            return NEAR, f"和第 {found[0]} 条的相似度是 {found[1]:.2f}"
    return None


def clean_file(
    source: str | Path,
    output: str | Path,
    *,
    rejects: str | Path,
    report: str | Path,
    off: Collection[str] = (),
    threshold: float = 0.9,
    matrix: wishes.Matrix | None = None,
) -> Cleaned:
    """Clean a merged file; write the training file, the rejects (JSONL) and the report, with provenance.

    Parameters as in ``clean_turns``. Returns what that returns.
    """
    turns = records.read_conversations(source, ("system", "input", "output"))
    cleaned = clean_turns(turns, matrix, off=off, threshold=threshold)
    records.write_conversations(output, cleaned.kept)
    records.write_jsonl(rejects, cleaned.rejects)
    records.write_json(report, cleaned.report)
    for path in (output, rejects, report):
        records.write_provenance(
            path,
            stage=STAGE,
            parameters={"off": sorted(off), "threshold": threshold},
            counts={name: cleaned.report[name] for name in ("rows_in", "rows_out", "mended", "rejected")},
            inputs=[source],
        )
    return cleaned
