"""Cut a text into chunks that a teacher model can be asked about.

Chinese has no spaces between sentences, so a sentence ends at 。！？； or … with the quotes and brackets
that close behind it, or at an English stop before a space, or at the end of a line. A chunk holds whole
sentences up to its size and begins with the last sentences of the one before, up to the overlap: what
stands at a cut can be asked about with its context. Only a sentence longer than a chunk is cut inside,
at a comma if there is one.
"""

import re
from dataclasses import dataclass

_SENTENCE = re.compile(
    "[^。！？!?；;…\n.]*"  # words
    "(?:\\.(?!\\s|$)[^。！？!?；;…\n.]*)*"  # a stop inside a number or a name
    "(?:[。！？!?；;…]+|\\.|(?=\n)|$)"
    "[”’」』）》)\"'\\]]*\\s*"
)
_COMMA = re.compile("[，、：,:]")


@dataclass(frozen=True)
class Chunk:
    """``number`` counts from 1 in its source; ``start`` is where ``text`` begins, in characters."""

    source: str
    number: int
    start: int
    text: str


def sentences(text: str) -> list[str]:
    """Split a text into its sentences; joined again they are the text.

    >>> sentences("你好。“真的吗？”他问，圆周率是 3.14。")
    ['你好。', '“真的吗？”', '他问，圆周率是 3.14。']
    """
    return [part for part in _SENTENCE.findall(text) if part]


def cut(text: str, source: str = "", size: int = 400, overlap: int = 80) -> list[Chunk]:
    """Return the chunks of a text; a chunk of nothing but white space is left out.

    size: characters of a chunk, at most. overlap: characters, at most, that a chunk repeats of the one
    before (whole sentences, so it may be none). Raises ValueError unless 0 <= overlap < size.

    >>> [chunk.text for chunk in cut("一二三。四五六。七八九。", size=8, overlap=4)]
    ['一二三。四五六。', '四五六。七八九。']
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap={overlap} 应当不小于 0，且小于 size={size}")
    parts: list[tuple[int, str]] = []
    start = 0
    for sentence in sentences(text.replace("\r\n", "\n")):
        for piece in _pieces(sentence, size):
            parts.append((start, piece))
            start += len(piece)

    found: list[Chunk] = []
    first = 0  # the first part of the chunk
    while first < len(parts):
        end, length = first, 0
        while end < len(parts) and length + len(parts[end][1]) <= size:
            length += len(parts[end][1])
            end += 1
        body = "".join(part for _, part in parts[first:end])
        if body.strip():
            lead = len(body) - len(body.lstrip())
            found.append(Chunk(source, len(found) + 1, parts[first][0] + lead, body.strip()))
        if end == len(parts):
            break
        again, repeated = end, 0  # go back over whole sentences, but always move on
        while again - 1 > first and repeated + len(parts[again - 1][1]) <= overlap:
            again -= 1
            repeated += len(parts[again][1])
        if repeated + len(parts[end][1]) > size:
            again = end  # the next sentence leaves no room for what it would repeat
        first = again
    return found


def _pieces(sentence: str, size: int) -> list[str]:
    """Cut a sentence that is longer than a chunk, behind a comma if the piece has one."""
    pieces = []
    while len(sentence) > size:
        commas = [match.end() for match in _COMMA.finditer(sentence, 0, size)]
        at = commas[-1] if commas else size
        pieces.append(sentence[:at])
        sentence = sentence[at:]
    return [*pieces, sentence]
