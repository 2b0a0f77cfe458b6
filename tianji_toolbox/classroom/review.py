"""Human review: what the rules mended or rejected, one item a row, for the page to show.

The page (``review_page.py``) shows the rules' verdict on the merged file, and beside it what a person
decided (``decisions.py``); the next cleaning replays that. This module has everything but the page.
The text of a row comes from a model: it is escaped before it becomes HTML, and characters that
nobody can see are shown by their numbers.
"""

import difflib
import html
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import formats, wishes
from tianji_helpers.dataset import clean, decisions, plain

MAX_SHOWN = 2 * clean.MAX_CHARS  # characters of a text on the page
MAX_COMPARED = 400  # characters; comparing takes time that grows faster than the length
_VISIBLE = "\n\u200d\ufe0f"  # a line break has its own sign; the others hold an emoji together


@dataclass(frozen=True)
class Reviewed:
    """One row that the rules changed or rejected.

    key: see ``decisions.key_of``. row: from 1 in the merged file. after: the text that the mends left.
    rules: names of the rules that mended it, or of the one that rejected it; reason: empty unless
    rejected. other: row and text of the wish that it repeats. copies: how many later rows are the same
    to the letter; a decision holds for them too.
    """

    key: str
    row: int
    request: str
    before: str
    after: str
    rules: tuple[str, ...]
    reason: str = ""
    other: tuple[int, str] | None = None
    copies: int = 0

    @property
    def verdict(self) -> str:
        """What the rules decided: keep or reject."""
        return "reject" if self.reason else "keep"

    @property
    def can_keep(self) -> bool:
        """Whether the mended text can be trained on as it is."""
        return bool(self.after.strip()) and len(self.after) <= clean.MAX_CHARS


def load(
    source: str | Path, *, off: Collection[str] = (), threshold: float = 0.9
) -> tuple[list[Reviewed], dict[str, str]]:
    """Clean a merged file and return what there is to look at, and the titles of the rules that took part.

    off, threshold: as in ``clean.clean_turns``. A row that is the same to the letter as an earlier one
    is counted there and not shown. Raises CourseError as reading and cleaning do.
    """
    turns = list(formats.read_turns(source))
    kind, _ = plain.kind(turns, wishes.load())
    cleaned = clean.clean_turns(turns, off=off, threshold=threshold, kind=kind)
    keys = [decisions.key_of(turn) for turn in turns]
    first = {key: row for row, key in reversed(list(enumerate(keys, 1)))}
    copies = Counter(keys)
    mended = {found["row"]: found["after"] for found in cleaned.mended}

    items = []
    for found in sorted([*cleaned.mended, *cleaned.rejects], key=lambda found: found["row"]):
        row = found["row"]
        key = keys[row - 1]
        if first[key] != row:
            continue
        reason = found.get("reason", "")
        twin = found.get("twin")
        items.append(
            Reviewed(
                key=key,
                row=row,
                request=found["input"],
                before=found["before"],
                after=found["after"],
                rules=tuple(found["rules"]) if not reason else (found["rule"],),
                reason=reason,
                other=(twin, mended.get(twin, turns[twin - 1]["output"])) if twin else None,
                copies=copies[key] - 1,
            )
        )
    used = {name for item in items for name in item.rules}
    return items, {name: title for name, title in clean.TITLES.items() if name in used}


def select(
    items: Iterable[Reviewed],
    decided: dict[str, dict],
    *,
    state: str = "",
    verdict: str = "",
    rule: str = "",
    words: str = "",
) -> list[Reviewed]:
    """Return the items that pass every filter; an empty filter lets all pass.

    decided: as ``decisions.read`` returns it. state: open or decided. verdict: keep or reject, the
    rules' own. words: separated by blanks, each must stand in the row, or be its number (``16``).
    """
    wanted = words.split()
    found = []
    for item in items:
        if state and (item.key in decided) != (state == "decided"):
            continue
        if (verdict and item.verdict != verdict) or (rule and rule not in item.rules):
            continue
        text = "\n".join(
            (item.request, item.before, item.after, item.reason, decided.get(item.key, {}).get("output", ""))
        )
        if all(word in text or word == str(item.row) for word in wanted):
            found.append(item)
    return found


def warning(item: Reviewed, text: str) -> str:
    """Return why a rule would reject a person's text, or an empty string; the person is still right."""
    off = clean.SUITABILITY["absurd"]
    verdict = clean.reject(text, wishes.load().read(item.request), off)
    return verdict[1] if verdict else ""


def differences(before: str, after: str) -> tuple[str, str]:
    """Return both texts as HTML, escaped; what one has and the other has not is marked.

    Texts of more than ``MAX_COMPARED`` characters are not compared.

    >>> differences("快乐。哦！", "快乐哦！<b>")[0]
    '快乐<del>。</del>哦！'
    >>> differences("快乐。哦！", "快乐哦！<b>")[1]
    '快乐哦！<ins>&lt;b&gt;</ins>'
    """
    if max(len(before), len(after)) > MAX_COMPARED:
        return escape(before), escape(after)
    old = new = ""
    for tag, i, j, k, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        gone, come = escape(before[i:j]), escape(after[k:m])
        old += gone if tag == "equal" else gone and f"<del>{gone}</del>"
        new += come if tag == "equal" else come and f"<ins>{come}</ins>"
    return old, new


def escape(text: str) -> str:
    """Return a text as HTML that shows every character, cut after ``MAX_SHOWN``.

    >>> escape("祝\\u200b<b>好")
    '祝<i>U+200B</i>&lt;b&gt;好'
    """
    shown = "".join(map(_shown, text[:MAX_SHOWN]))
    return shown + (f"<i>…共 {len(text)} 个字符</i>" if len(text) > MAX_SHOWN else "")


def _shown(char: str) -> str:
    if char == "\n":
        return "<i>↵</i>\n"
    if unicodedata.category(char) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp") and char not in _VISIBLE:
        return f"<i>U+{ord(char):04X}</i>"
    return html.escape(char)
