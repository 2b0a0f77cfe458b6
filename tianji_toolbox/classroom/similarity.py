"""``tianji similar``: pairs of submissions that resemble one another, for a person to look at.

What counts is what a student added to the template. Functions, other statements and paragraphs are compared
as sets of 3-grams, by the index that finds near duplicates among wishes. Names that a program may choose
freely become one and the same letter first, so renaming hides nothing. What many students have alike is the
natural answer, and says little: a passage counts the less, the more of them have it. No grade follows.

Tried on 18 copies that were disguised by hand, each among six answers to all exercises that were written
independently, all by large models (21 pairs): at 0.6 the copied pair is the first of the list for six of six
whose names and comments were changed, and for five of six whose statements were reordered and rewritten in
part; with all passages counted alike, for two of the latter. Where loops had become comprehensions and
functions were split, it is not above the chance. The threshold was chosen on these copies.
"""

import builtins
import difflib
import html
import keyword
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tianji_helpers.dataset.duplicates import NearIndex
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import gradebook, grading, handed_in
from tianji_toolbox.pages import render

PAGE = "similar.html"
LEAST = 60  # letters and digits of a passage; shorter ones are alike by chance
MAX_PASSAGE = 2000  # characters
MAX_PASSAGES = 200  # of a student
MAX_PAIRS, MAX_SHOWN = 200, 20  # on the page, and passages of each
_KNOWN = {*keyword.kwlist, *dir(builtins)}
# where a statement begins, by the eye: Python's own parser can be made to fall over by what it reads
_STATEMENT = re.compile(r"\n(?![ \t\n)\]}]|(?:else|elif|except|finally)\b)")
# texts, comments and names; a text that is not closed goes to the end of its line, or of all
_LITERAL = r"""(?P<text>(?P<prefix>\b[rbufRBUF]{1,2})?(?:
    \"{3}(?:[^\\]|\\[\s\S])*?(?:\"{3}|\Z) | '{3}(?:[^\\]|\\[\s\S])*?(?:'{3}|\Z)
    | "(?:[^"\\\n]|\\.)*"? | '(?:[^'\\\n]|\\.)*'?))"""
_PIECE = re.compile(rf"{_LITERAL} | (?P<comment>\#.*) | (?P<name>\b[^\W\d]\w*)", re.VERBOSE)
# what stands before a docstring, and behind it; what an f-string fills in
_BLOCK = re.compile(r"(?:^|\n)[ \t]*(?:(?:async[ \t]+)?def\b|class\b|\))[^\n]*:[ \t]*(?:#[^\n]*)?\n\s*\Z")
_LINE_END, _FIELD = re.compile(r"[ \t]*(?:#|\n|\Z)"), re.compile(r"\{[^{}\n]*\}")


@dataclass(frozen=True)
class Passage:
    """A piece of what a student added. compared: the same without names."""

    student: str
    text: str
    compared: str


@dataclass(frozen=True)
class Pair:
    """Two students, and their passages that are alike: one's, the other's, and how much, from 0 to 1.

    weight: characters that are alike, each divided by how many other students have a passage like it.
    """

    one: str
    other: str
    passages: tuple[tuple[str, str, float], ...]
    weight: float

    @property
    def size(self) -> int:
        """How many characters are alike."""
        return round(sum(len(one) * share for one, _, share in self.passages))


def find(folder: Path, templates: Iterable[Path], threshold: float) -> tuple[list[Pair], dict[str, str]]:
    """Return the pairs of submissions in a folder with passages that are alike, the weightiest first.

    templates: notebooks whose lines are nobody's own. threshold: Jaccard similarity, (0, 1]. Also returns, by
    student, what was not read or not compared, and why. Raises CourseError where there is nothing to compare.
    """
    given = {
        line.strip()
        for file in templates
        for cell in handed_in.read_cells(file)
        for line in cell.source.split("\n")
    }
    passages: list[Passage] = []
    problems: dict[str, list[str]] = {}
    submissions = grading.find_submissions(folder)
    for student, submission in submissions.items():
        own: dict[str, Passage] = {}
        for notebook in submission.notebooks:
            try:
                cells = handed_in.read_cells(notebook)
            except (CourseError, OSError) as error:
                problems.setdefault(student, []).append(f"{notebook.name}：{error}")
                continue
            own |= {one.compared: one for cell in cells for one in _passages(student, cell, given)}
        if len(own) > MAX_PASSAGES:
            problems.setdefault(student, []).append(f"有 {len(own)} 段，只比了前 {MAX_PASSAGES} 段")
        passages += [*own.values()][:MAX_PASSAGES]
    if len(submissions) < 2:
        raise CourseError(f"{folder} 里只有一个人交，没有可以比的。")
    return _pairs(passages, threshold), {student: "；".join(said) for student, said in problems.items()}


def _passages(student: str, cell: handed_in.Cell, given: set[str]) -> Iterable[Passage]:
    code = cell.kind == "code"
    for piece in _statements(cell.source) if code else cell.source.split("\n\n"):
        said = _unexplained(piece) if code else piece
        compared = _nameless(said) if code else piece
        lines = zip(*(text.split("\n") for text in (piece, said, compared)), strict=True)
        own = [line for line in lines if line[0].strip() and line[0].strip() not in given]
        kept = ["\n".join(filter(str.strip, part))[:MAX_PASSAGE] for part in zip(*own, strict=True)]
        if kept and sum(map(str.isalnum, kept[1])) >= LEAST:
            yield Passage(student, kept[0], kept[2])


def _statements(code: str) -> Iterable[str]:
    one_line = _PIECE.sub(lambda found: found[0].replace("\n", " ") if found["text"] else found[0], code)
    cuts = [found.start() for found in _STATEMENT.finditer(one_line)]
    return (code[start + 1 : end] for start, end in pairwise([-1, *cuts, len(code)]))


def _unexplained(code: str) -> str:
    """Return code without comments and docstrings; its lines stay.

    >>> _unexplained("x = '#1'  # the first")
    "x = '#1'  "
    """

    def written(found: re.Match) -> str:
        explains = found["comment"] or (found["text"] and _is_docstring(found))
        return "\n" * found[0].count("\n") if explains else found[0]

    return _PIECE.sub(written, code)


def _is_docstring(found: re.Match) -> bool:
    before = found.string[max(found.start() - 300, 0) : found.start()]
    begins = _BLOCK.search(before) or (found.start() < 300 and not before.strip())
    return bool(begins and _LINE_END.match(found.string, found.end()))


def _nameless(code: str) -> str:
    """Return code with one letter for all names that its author chose; texts stay.

    >>> _nameless("for 祝福 in wishes: print(f'祝{祝福}', end='。')")
    "for 名 in 名: print(f'祝{名}', 名='。')"
    """

    def written(found: re.Match) -> str:
        if found["name"]:
            return found[0] if found[0] in _KNOWN else "名"
        if "f" in (found["prefix"] or "").lower():
            return _FIELD.sub(lambda field: _PIECE.sub(written, field[0]), found[0])
        return found[0]

    return _PIECE.sub(written, code)


def _pairs(passages: list[Passage], threshold: float) -> list[Pair]:
    index = NearIndex(threshold)
    found: dict[tuple[str, str], list[tuple[Passage, Passage, float]]] = {}
    others: dict[Passage, set[str]] = {passage: set() for passage in passages}  # who have one like it
    for passage in passages:
        best: dict[str, tuple[Passage, float]] = {}
        for other, share in index.near(passage.compared):
            if other.student != passage.student and share > best.get(other.student, (None, 0))[1]:
                best[other.student] = other, share
        for other, share in best.values():
            found.setdefault((other.student, passage.student), []).append((other, passage, share))
            others[other].add(passage.student)
            others[passage].add(other.student)
        index.add(passage, passage.compared)
    pairs = [
        Pair(
            *students,
            passages=tuple((one.text, other.text, share) for one, other, share in alike),
            weight=sum(
                share * len(one.text) / (len(others[one] | others[other] | {*students}) - 1)
                for one, other, share in alike
            ),
        )
        for students, alike in found.items()
    ]
    return sorted(pairs, key=lambda pair: -pair.weight)


def write(pairs: list[Pair], problems: Mapping[str, str], threshold: float, folder: Path) -> Path:
    """Write the page with the passages side by side, and return it."""
    shown = []
    for pair in pairs[:MAX_PAIRS]:
        passages = [(*_marked(one, other), share) for one, other, share in pair.passages[:MAX_SHOWN]]
        shown.append({"pair": pair, "passages": passages})
    values = {"pairs": shown, "left": len(pairs) - len(shown), "threshold": threshold, "problems": problems}
    return gradebook.write_text(folder, PAGE, render("classroom/similar.html", **values))


def _marked(one: str, other: str) -> tuple[str, str]:
    """Return two texts as HTML, with what they share marked."""
    texts = ["", ""]
    for tag, i, j, k, m in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        for side, part in enumerate(map(html.escape, (one[i:j], other[k:m]))):
            texts[side] += f"<mark>{part}</mark>" if tag == "equal" and j - i > 3 else part
    return texts[0], texts[1]
