"""The matrix of the course as data: who is wished what, in which style.

``data/wishes/*.yaml`` hold recipients, scenes, styles, the unsuitable pairs and the random
requirements; a student edits them, so every rule that an entry breaks is reported with file, entry
and rule. The rest of the module turns a cell of the matrix into the request that the model is
trained on (``request``), reads such a request back (``parse_request``), and judges a wish by rules
(``check``): one definition for cleaning, evaluation and tests.
"""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError

SYSTEM = "你现在是一个送祝福大师，帮我针对不同人和事情、节日送对应的祝福"
DEFAULT_STYLE = "正常"  # the style that a request need not name
# The ways to ask for a wish; the first one is usual, ``dataset.variety`` uses the others too.
WORDINGS = (
    "祝{recipient}{scene}",
    "我想祝{recipient}{scene}",
    "送祝福给{recipient}：{scene}",
    "给{recipient}的{scene}祝福",
    "帮我写一句祝福，给{recipient}，{scene}",
)
RECIPIENT_KINDS = ("elder", "superior", "peer", "younger")
_MAX_REQUEST = 200  # characters
SCENE_KINDS = ("festival", "life", "work")

_PICTOGRAPH = (
    "[\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff\u2600-\u27bf\u2b50\u2b55\u2b1b\u2b1c"
    "\u231a\u231b\u23e9-\u23fa\u2728]"
)
_EMOJI_START = re.compile(_PICTOGRAPH[:-1] + "\U0001f1e6-\U0001f1ff]")
_MODIFIER = "[\ufe0f\U0001f3fb-\U0001f3ff]*"
_EMOJI = re.compile(
    f"[\U0001f1e6-\U0001f1ff]{{2}}|{_PICTOGRAPH}{_MODIFIER}(?:\u200d{_PICTOGRAPH}{_MODIFIER})*"
)

# What a clean wish never holds, anywhere and at its ends: the ways in which an answer of a model goes wrong.
_UNCLEAN = re.compile(
    r"<\|?[A-Za-z/_][^>\n]*>|\[/?(?:INST|UNUSED_TOKEN[^\]]*)\]"  # a token of a chat template
    r"|祝福语|如下|以下是"  # the stub of a chat model
    r"|[#*`_{}\n]"  # markdown, an unfilled slot
    r"|[，。！？；：、,!?;:][呀啊哦呢啦嘛吧][～~。！!]?\s*$"  # a particle stuck behind the full stop
    r"|[，。；：、,;:]{2,}|[！!]{2,}|[～~]{2,}|[。，、][！!？?]|[！!？?～~][。，、]"  # doubled stops
)
_UNCLEAN_SIGN = re.compile(  # in whatever the pattern above finds
    r"[<\[#*`_{}\n]|祝福语|如下|以下是|[，。！？；：、～,!?;:~][，。！？；：、～,!?;:~呀啊哦呢啦嘛吧]"
)
_UNCLEAN_START = re.compile(r"(?:好的|当然|没问题)[，,！!。]|\s*[-•>]\s|\s*\d+[.、]|[\"“”'‘’「『]")
_UNCLEAN_END = tuple("\"“”'‘’」』")


@lru_cache(maxsize=8)  # cleaning asks twice about the same text
def find_loop(text: str) -> str:
    """Return the words that stand three times in a row in a text, or an empty string.

    >>> find_loop("生日快乐生日快乐生日快乐")
    '生日快乐'
    """
    found = _loop(len(text) // 3).search(text)
    return found[1] if found else ""


@lru_cache(maxsize=256)
def _loop(longest: int) -> re.Pattern:
    """Return what finds such words; to know how long they can be halves the time."""
    return re.compile(rf"(.{{2,{max(2, longest)}}}?)\1\1")


def count_emoji(text: str) -> int:
    """Return how many emoji a person sees (a joined family, flag or skin tone counts once).

    >>> count_emoji("生日快乐🎂👨‍👩‍👧❤️")
    3
    """
    return len(_EMOJI.findall(text)) if _EMOJI_START.search(text) else 0


def strip_emoji(text: str, keep: int = 0) -> str:
    """Return ``text`` without its emoji, save the first ``keep`` of them.

    >>> strip_emoji("生日快乐呀🎂")
    '生日快乐呀'
    >>> strip_emoji("🎂生日快乐呀🎉🎉", keep=2)
    '🎂生日快乐呀🎉'
    """
    if not _EMOJI_START.search(text):
        return text
    position = itertools.count()
    return _EMOJI.sub(lambda found: found[0] if next(position) < keep else "", text)


@dataclass(frozen=True)
class Recipient:
    """Who is wished: ``kind`` is one of ``RECIPIENT_KINDS``, ``honorific`` is 您 or 你."""

    name: str
    kind: str
    honorific: str
    address: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """What for: any one of ``keywords`` puts a wish on topic; ``marks`` belong to no other scene."""

    name: str
    kind: str
    keywords: tuple[str, ...]
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Style:
    """How: the prompt's words and the bounds (in characters and in emoji) that a wish keeps.

    form: what is asked for (一句, 一首 ...). extra: only made when it is asked for by name.
    """

    name: str
    template: str
    examples: tuple[str, ...]
    min_chars: int
    max_chars: int
    min_emoji: int
    max_emoji: int
    endings: tuple[str, ...]
    markers: tuple[str, ...]
    avoid: tuple[str, ...]
    form: str = "一句"
    extra: bool = False


@dataclass(frozen=True)
class Matrix:
    """The whole matrix; see ``load``. ``unsuitable`` maps a scene to the recipients it does not suit."""

    system: str
    recipients: dict[str, Recipient]
    scenes: dict[str, Scene]
    styles: dict[str, Style]
    requirements: list[str]
    unsuitable: dict[str, frozenset[str]]

    @property
    def usual_styles(self) -> list[str]:
        """The styles that a run makes unless told otherwise: all but the extra ones."""
        return [name for name, style in self.styles.items() if not style.extra]

    def suitable(self, recipient: str, scene: str) -> bool:
        """Say whether one wishes this recipient this. Raises CourseError for an unknown name."""
        _find(self.recipients, recipient, "对象")
        _find(self.scenes, scene, "场景")
        return recipient not in self.unsuitable.get(scene, ())

    def pairs(self) -> list[tuple[str, str]]:
        """Return the suitable (recipient, scene) pairs in the order of the files."""
        return [(r, s) for r in self.recipients for s in self.scenes if self.suitable(r, s)]

    def request(self, recipient: str, scene: str, style: str = DEFAULT_STYLE, wording: int = 0) -> str:
        """Return what a person types: ``祝姐姐生日``, or ``祝姐姐生日,小红书风格``.

        wording: place in ``WORDINGS``.
        """
        _find(self.recipients, recipient, "对象")
        _find(self.scenes, scene, "场景")
        _find(self.styles, style, "风格")
        asked = WORDINGS[wording].format(recipient=recipient, scene=scene)
        return asked + ("" if style == DEFAULT_STYLE else f",{style}风格")

    def parse_request(self, text: str) -> tuple[str, str, str] | None:
        """Read a request back: (recipient, scene, style), or None if it is not one.

        Any of ``WORDINGS`` will do, and either comma; a 快乐 or 祝福 may follow the scene
        (祝姐姐生日快乐，严肃风格).
        """
        # the pattern's time grows with the cube of a run of spaces
        found = len(text) <= _MAX_REQUEST and self._request_pattern.match(text.strip())
        if not found:
            return None
        *asked, style = found.groups()
        recipient, scene = filter(None, asked)
        return recipient, scene, style or DEFAULT_STYLE

    def judge(self, recipient: str, scene: str, style: str) -> Callable[[str], dict[str, bool]]:
        """Return ``check`` for one cell, to be called with many texts. Raises CourseError as that does."""
        cell = recipient, scene, style
        if cell not in self._judges:
            self._judges[cell] = _Judge(self, *cell)
        return self._judges[cell]

    @cached_property
    def salutation(self) -> re.Pattern:
        """What finds a form of address, of anybody in the matrix, at the front of a wish."""
        names = {name for who in self.recipients.values() for name in (who.name, *who.address)}
        some = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
        return re.compile(rf"(?:亲爱的|尊敬的|敬爱的|祝|愿)*({some})")

    @cached_property
    def _judges(self) -> dict[tuple[str, str, str], "_Judge"]:
        return {}

    @cached_property
    def _request_pattern(self) -> re.Pattern:
        def any_of(names):
            return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))

        names = {
            "recipient": rf"({any_of(self.recipients)})\s*",
            "scene": rf"({any_of(self.scenes)})\s*(?:快乐|安康|吉祥)?",
        }
        asked = "|".join(wording.replace("：", "[：:]").format(**names) for wording in WORDINGS)
        style = rf"\s*(?:祝福)?\s*(?:[,，\s]\s*({any_of(self.styles)})风格)?"
        return re.compile(rf"(?:{asked}){style}[。！!]?$")


def load(folder: str | Path | None = None) -> Matrix:
    """Read and validate the matrix.

    folder: where the YAML files lie; None means ``data/wishes``.
    Raises CourseError that names the file, the entry and the rule it breaks.

    >>> matrix = load()
    >>> matrix.request("姐姐", "生日", "小红书")
    '祝姐姐生日,小红书风格'
    >>> matrix.parse_request("祝领导春节快乐，严肃风格")
    ('领导', '春节', '严肃')
    """
    folder = paths.DATA / "wishes" if folder is None else Path(folder)
    recipients = _read_entries(folder / "recipients.yaml", _recipient, _RECIPIENT_FIELDS)
    scenes = _read_entries(folder / "scenes.yaml", _scene, _SCENE_FIELDS)
    styles = _read_entries(folder / "styles.yaml", _style, _STYLE_FIELDS, optional=("form", "extra"))
    if DEFAULT_STYLE not in styles:
        raise CourseError(f"{folder / 'styles.yaml'}：缺少默认风格“{DEFAULT_STYLE}”。")

    file = folder / "requirements.yaml"
    requirements = records.read_yaml(file)
    if not isinstance(requirements, list) or not requirements:
        raise CourseError(f"{file}：应当是至少一条的列表（每行以 - 开头）。")
    for number, item in enumerate(requirements, 1):
        if not isinstance(item, str):
            raise CourseError(f"{file} 第 {number} 条：应当是一句话，现在是 {brief(item)}。")

    file = folder / "suitability.yaml"

    def unsuitable(entry: "_Entry") -> frozenset[str]:
        entry.check(entry.name in scenes, f"scenes.yaml 里没有场景“{entry.name}”")
        names = entry.strings("unsuitable")
        for name in names:
            entry.check(name in recipients, f"recipients.yaml 里没有对象“{name}”")
        return frozenset(names)

    table = _read_entries(file, unsuitable, ("unsuitable",), optional=("why",))
    matrix = Matrix(SYSTEM, recipients, scenes, styles, requirements, table)
    if not matrix.pairs():
        raise CourseError(f"{file}：所有组合都被标成不合适，没有可写的祝福；请删掉一些名字。")
    return matrix


def check(matrix: Matrix, recipient: str, scene: str, style: str, text: str) -> dict[str, bool]:
    """Judge a wish by rules alone (no model); True is good.

    on_topic: a keyword of the scene, and no word that belongs to another scene only.
    style: emoji, endings, markers and words to avoid, as the style says.
    length: within the style's bounds, in characters.
    honorific: no 你 for those one calls 您, no 您 for the others.
    clean: one line of plain text without template tokens, stubs, markdown, doubled punctuation.
    Raises CourseError for an unknown name.

    >>> check(load(), "姐姐", "生日", "正常", "姐姐，祝你生日快乐，万事如意！")
    {'on_topic': True, 'style': True, 'length': True, 'honorific': True, 'clean': True}
    """
    return matrix.judge(recipient, scene, style)(text)


@lru_cache(maxsize=256)
def _any(words: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(map(re.escape, words)) or "(?!)")


def _any_of(words: Iterable[str]) -> re.Pattern:
    """Return what finds any of the words, and nothing if there are none."""
    return _any(tuple(words))


class _Judge:
    """``check`` of one cell of the matrix; what does not depend on the text is made once."""

    def __init__(self, matrix: Matrix, recipient: str, scene: str, style: str):
        who = _find(matrix.recipients, recipient, "对象")
        what = _find(matrix.scenes, scene, "场景")
        self.style = _find(matrix.styles, style, "风格")
        marks = [mark for other in matrix.scenes.values() if other is not what for mark in other.marks]
        self.keywords = _any_of(what.keywords)
        self.foreign = _any_of(mark for mark in marks if mark not in what.keywords)
        self.markers, self.avoid = _any_of(self.style.markers), _any_of(self.style.avoid)
        self.wrong_you = "你" if who.honorific == "您" else "您"

    def __call__(self, text: str) -> dict[str, bool]:
        how = self.style
        return {
            "on_topic": bool(self.keywords.search(text)) and not self.foreign.search(text),
            "style": how.min_emoji <= count_emoji(text) <= how.max_emoji
            and (not how.endings or strip_emoji(text).rstrip(" 　。！!～~…").endswith(how.endings))
            and (not how.markers or bool(self.markers.search(text)))
            and not self.avoid.search(text),
            "length": how.min_chars <= len(text) <= how.max_chars,
            "honorific": self.wrong_you not in text,
            "clean": bool(text)
            and text == text.strip()
            and not (_UNCLEAN_SIGN.search(text) and _UNCLEAN.search(text))
            and not _UNCLEAN_START.match(text)
            and not text.endswith(_UNCLEAN_END)
            and not find_loop(text),
        }


def _find(table: dict[str, Any], name: str, kind: str) -> Any:
    if name not in table:
        raise CourseError(f"没有名叫“{name}”的{kind}。可用的有：{'、'.join(table)}。")
    return table[name]


# --- reading and validating YAML ------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """One entry of a file, with checks that name file, entry and rule."""

    file: Path
    name: str
    fields: dict

    def check(self, ok: bool, rule: str) -> None:
        if not ok:
            raise CourseError(f"{self.file} 的条目“{self.name}”：{rule}。")

    def string(self, field: str, allowed: tuple[str, ...] = ()) -> str:
        value = self.fields.get(field)
        self.check(
            isinstance(value, str) and bool(value.strip()),
            f"{field} 应当是非空文字，现在是 {brief(value)}",
        )
        self.check(not allowed or value in allowed, f"{field} 是“{value}”，只能是 {'、'.join(allowed)}")
        return value

    def strings(self, field: str, at_least: int = 0) -> tuple[str, ...]:
        value = self.fields.get(field)
        self.check(isinstance(value, list), f"{field} 应当是列表，现在是 {brief(value)}")
        for item in value:
            self.check(
                isinstance(item, str) and item == item.strip() != "",
                f"{field} 里的 {brief(item)} 应当是首尾没有空格的文字",
            )
        self.check(len(value) >= at_least, f"{field} 至少要有 {at_least} 项")
        self.check(len(set(value)) == len(value), f"{field} 里有重复的项")
        return tuple(value)

    def count(self, field: str) -> int:
        value = self.fields.get(field)
        self.check(type(value) is int and value >= 0, f"{field} 应当是不小于 0 的整数，现在是 {brief(value)}")
        return value


_RECIPIENT_FIELDS = ("kind", "honorific", "address")
_SCENE_FIELDS = ("kind", "keywords", "marks")
_STYLE_FIELDS = (
    "template",
    "examples",
    "min_chars",
    "max_chars",
    "min_emoji",
    "max_emoji",
    "endings",
    "markers",
    "avoid",
)


def _read_entries(
    file: Path,
    build: Callable[[_Entry], Any],
    fields: tuple[str, ...],
    optional: tuple[str, ...] = (),
) -> dict[str, Any]:
    table = records.read_yaml(file)
    if not isinstance(table, dict) or not table:
        raise CourseError(f"{file}：应当是“名字: 内容”的表，至少一条。")
    entries = {}
    for name, content in table.items():
        entry = _Entry(file, str(name), content)
        entry.check(isinstance(name, str) and name == name.strip() != "", "名字应当是首尾没有空格的文字")
        entry.check(isinstance(content, dict), f"内容应当是“字段: 值”，现在是 {brief(content)}")
        missing = [field for field in fields if field not in content]
        entry.check(not missing, f"缺少字段 {'、'.join(missing)}")
        extra = [str(field) for field in content if field not in fields + optional]
        entry.check(not extra, f"不认识的字段 {'、'.join(extra)}（可用：{'、'.join(fields + optional)}）")
        entries[name] = build(entry)
    return entries


def _recipient(entry: _Entry) -> Recipient:
    return Recipient(
        name=entry.name,
        kind=entry.string("kind", RECIPIENT_KINDS),
        honorific=entry.string("honorific", ("您", "你")),
        address=entry.strings("address", at_least=1),
    )


def _scene(entry: _Entry) -> Scene:
    return Scene(
        name=entry.name,
        kind=entry.string("kind", SCENE_KINDS),
        keywords=entry.strings("keywords", at_least=1),
        marks=entry.strings("marks"),
    )


def _style(entry: _Entry) -> Style:
    style = Style(
        name=entry.name,
        template=entry.string("template"),
        examples=entry.strings("examples"),
        **{field: entry.count(field) for field in ("min_chars", "max_chars", "min_emoji", "max_emoji")},
        **{field: entry.strings(field) for field in ("endings", "markers", "avoid")},
        form=entry.string("form") if "form" in entry.fields else Style.form,
        extra=entry.fields.get("extra", Style.extra),
    )
    entry.check(isinstance(style.extra, bool), f"extra 应当是 true 或 false，现在是 {brief(style.extra)}")
    entry.check(style.name != DEFAULT_STYLE or not style.extra, "默认风格每次都要生成，不能写 extra: true")
    for low, high in (("min_chars", "max_chars"), ("min_emoji", "max_emoji")):
        bounds = getattr(style, low), getattr(style, high)
        entry.check(bounds[0] <= bounds[1], f"{low}={bounds[0]} 大于 {high}={bounds[1]}")
    entry.check(style.max_chars > 0, "max_chars 应当大于 0")
    return style
