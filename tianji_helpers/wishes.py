"""The matrix of the course as data: who is wished what, in which style.

``data/wishes/*.yaml`` hold recipients, scenes, styles, the unsuitable pairs and the random
requirements; a student edits them, so every rule that an entry breaks is reported with file, entry
and rule. The rest of the module turns a cell of the matrix into the request that the model is
trained on (``request``) and reads what somebody asks for (``read``, see ``tianji_helpers.request``).
What is wrong with a wish is another module's business: ``tianji_helpers.faults``.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from tianji_helpers import paths, records
from tianji_helpers.errors import CourseError
from tianji_helpers.request import Reader, Request, any_of

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
SCENE_KINDS = ("festival", "life", "work")
NEW_YEAR = frozenset(("腊八节", "元旦", "除夕", "春节", "元宵节"))  # one season: each may name the other


@dataclass(frozen=True)
class Recipient:
    """Who is wished: ``kind`` is one of ``RECIPIENT_KINDS``, ``honorific`` is 您 or 你.

    either: the other word is no fault. extra: not in the default matrix.
    """

    name: str
    kind: str
    honorific: str
    address: tuple[str, ...]
    either: bool = False
    extra: bool = False


@dataclass(frozen=True)
class Scene:
    """What for: any one of ``keywords`` puts a wish on topic; ``marks`` name this scene and no other.

    alias: other names in a request. extra: not in the default matrix.
    """

    name: str
    kind: str
    keywords: tuple[str, ...]
    marks: tuple[str, ...]
    alias: tuple[str, ...] = ()
    extra: bool = False


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
class Misfit:
    """Recipients whom one does not wish a scene, and why.

    absurd: nobody would (a grandmother's wedding); else it is a matter of taste, and a policy.
    """

    why: str
    recipients: frozenset[str]
    absurd: bool = False


@dataclass(frozen=True)
class Matrix:
    """The whole matrix; see ``load``. ``misfits`` are the unsuitable pairs, by scene."""

    system: str
    recipients: dict[str, Recipient]
    scenes: dict[str, Scene]
    styles: dict[str, Style]
    requirements: list[str]
    misfits: dict[str, tuple[Misfit, ...]]

    @property
    def usual_recipients(self) -> list[str]:
        """The recipients of the default matrix: all but the extra ones."""
        return [name for name, who in self.recipients.items() if not who.extra]

    @property
    def usual_scenes(self) -> list[str]:
        """The scenes of the default matrix: all but the extra ones."""
        return [name for name, scene in self.scenes.items() if not scene.extra]

    @property
    def usual_styles(self) -> list[str]:
        """The styles that a run makes unless told otherwise: all but the extra ones."""
        return [name for name, style in self.styles.items() if not style.extra]

    def misfit(self, recipient: str, scene: str) -> Misfit | None:
        """Return why one does not wish this recipient this; None if one does, or nobody knows."""
        return next((one for one in self.misfits.get(scene, ()) if recipient in one.recipients), None)

    def suitable(self, recipient: str, scene: str) -> bool:
        """Say whether one wishes this recipient this. Raises CourseError for an unknown name."""
        _find(self.recipients, recipient, "对象")
        _find(self.scenes, scene, "场景")
        return self.misfit(recipient, scene) is None

    def pairs(
        self, recipients: Iterable[str] | None = None, scenes: Iterable[str] | None = None
    ) -> list[tuple[str, str]]:
        """Return the suitable (recipient, scene) pairs in the order of the files.

        recipients, scenes: from which; None means the usual ones. Raises CourseError for an unknown name.
        """
        recipients = self.usual_recipients if recipients is None else list(recipients)
        scenes = self.usual_scenes if scenes is None else list(scenes)
        return [(r, s) for r in recipients for s in scenes if self.suitable(r, s)]

    def request(self, recipient: str, scene: str, style: str = DEFAULT_STYLE, wording: int = 0) -> str:
        """Return what a person types: ``祝姐姐生日``, or ``祝姐姐生日,小红书风格``.

        wording: place in ``WORDINGS``.
        """
        _find(self.recipients, recipient, "对象")
        _find(self.scenes, scene, "场景")
        _find(self.styles, style, "风格")
        asked = WORDINGS[wording].format(recipient=recipient, scene=scene)
        return asked + ("" if style == DEFAULT_STYLE else f",{style}风格")

    def read(self, text: str) -> Request:
        """Read what somebody asks for, in any wording; it never fails (see ``tianji_helpers.request``)."""
        return self._reader.read(text)

    def find_recipient(self, name: str) -> Recipient | None:
        """Return the entry of a recipient, or of whom the name ends with (王老师: 老师); None if unknown."""
        known = self.recipients.get(name) or self._endings.get(name)
        if known:
            return known
        ending = next((end for end in self._endings if name.endswith(end)), None)
        return self._endings[ending] if ending else None

    @cached_property
    def salutation(self) -> re.Pattern:
        """What finds a form of address, of anybody in the matrix, at the front of a wish; perhaps two."""
        some = any_of({name for name in self._endings if len(name) > 1} - {"亲爱的", "宝贝"})
        before, after = "(?:最?亲爱的|尊敬的|敬爱的|祝福?|愿)*", r"(?=[，,：:！!～~、\s祝愿您你])"
        return re.compile(f"{before}({some})({some})?{after}")

    def foreign_marks(self, scene: str) -> re.Pattern:
        """Return what finds a mark of any scene but this one."""
        if scene not in self._foreign:
            marks = {mark for other in self.scenes.values() if other.name != scene for mark in other.marks}
            if scene in NEW_YEAR:  # all of them wish a happy new year
                marks = {mark for mark in marks if not mark.startswith(("新年", "新春"))}
            self._foreign[scene] = re.compile(any_of(marks))
        return self._foreign[scene]

    def foreign_greetings(self, scene: str) -> re.Pattern:
        """Return what finds a greeting for any scene but this one; the days about New Year share theirs."""
        key = f"{scene} greetings"
        if key not in self._foreign:
            near = NEW_YEAR if scene in NEW_YEAR else {scene}
            marks = {m for other in self.scenes.values() if other.name not in near for m in other.marks}
            mark = f"(?:{any_of(marks)})"
            self._foreign[key] = re.compile(
                f"{mark}(?:快乐|安康|佳节|来临|之际|将至|到了|好|的日子|之喜)|(?:值此|祝您|祝你|恭喜[您你]?|您的|你的){mark}"
            )
        return self._foreign[key]

    @cached_property
    def _foreign(self) -> dict[str, re.Pattern]:
        return {}

    @cached_property
    def _endings(self) -> dict[str, Recipient]:
        """Names and forms of address, the longest first; the first recipient who has one keeps it."""
        found: dict[str, Recipient] = {}
        for who in self.recipients.values():
            for word in (who.name, *who.address):
                found.setdefault(word, who)
        return dict(sorted(found.items(), key=lambda item: -len(item[0])))

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self, DEFAULT_STYLE)


def load(folder: str | Path | None = None) -> Matrix:
    """Read and validate the matrix.

    folder: where the YAML files lie; None means ``data/wishes``.
    Raises CourseError that names the file, the entry and the rule it breaks.

    >>> matrix = load()
    >>> matrix.request("姐姐", "生日", "小红书")
    '祝姐姐生日,小红书风格'
    >>> matrix.read("我想送领导春节祝福，严肃风格").pair
    ('领导', '春节')
    """
    folder = paths.DATA / "wishes" if folder is None else Path(folder)
    recipients = _read_entries(
        folder / "recipients.yaml", _recipient, _RECIPIENT_FIELDS, optional=("either", "extra")
    )
    scenes = _read_entries(folder / "scenes.yaml", _scene, _SCENE_FIELDS, optional=("alias", "extra"))
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
    matrix = Matrix(SYSTEM, recipients, scenes, styles, requirements, _read_misfits(file, recipients, scenes))
    if not matrix.pairs():
        raise CourseError(f"{file}：所有组合都被标成不合适，没有可写的祝福；请删掉一些名字。")
    return matrix


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
            f"{field} 应当是非空文字，现在是 {records.as_read(value)}",
        )
        self.check(not allowed or value in allowed, f"{field} 是“{value}”，只能是 {'、'.join(allowed)}")
        return value

    def strings(self, field: str, at_least: int = 0) -> tuple[str, ...]:
        value = self.fields.get(field)
        self.check(isinstance(value, list), f"{field} 应当是列表，现在是 {brief(value)}")
        for item in value:
            self.check(
                isinstance(item, str) and item == item.strip() != "",
                f"{field} 里的 {records.as_read(item)} 应当是首尾没有空格的文字",
            )
        self.check(len(value) >= at_least, f"{field} 至少要有 {at_least} 项")
        self.check(len(set(value)) == len(value), f"{field} 里有重复的项")
        return tuple(value)

    def flag(self, field: str) -> bool:
        value = self.fields.get(field, False)
        self.check(isinstance(value, bool), f"{field} 应当是 true 或 false，现在是 {brief(value)}")
        return value

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
        is_name = isinstance(name, str) and name == name.strip() != ""
        entry.check(is_name, f"名字是 {records.as_read(name)}，应当是首尾没有空格的文字")
        entry.check(isinstance(content, dict), f"内容应当是“字段: 值”，现在是 {brief(content)}")
        _check_fields(entry, fields, optional)
        entries[name] = build(entry)
    return entries


def _check_fields(entry: _Entry, fields: tuple[str, ...], optional: tuple[str, ...]) -> None:
    missing = [field for field in fields if field not in entry.fields]
    entry.check(not missing, f"缺少字段 {'、'.join(missing)}")
    extra = [str(field) for field in entry.fields if field not in fields + optional]
    entry.check(not extra, f"不认识的字段 {'、'.join(extra)}（可用：{'、'.join(fields + optional)}）")


def _recipient(entry: _Entry) -> Recipient:
    return Recipient(
        name=entry.name,
        kind=entry.string("kind", RECIPIENT_KINDS),
        honorific=entry.string("honorific", ("您", "你")),
        address=entry.strings("address", at_least=1),
        either=entry.flag("either"),
        extra=entry.flag("extra"),
    )


def _scene(entry: _Entry) -> Scene:
    return Scene(
        name=entry.name,
        kind=entry.string("kind", SCENE_KINDS),
        keywords=entry.strings("keywords", at_least=1),
        marks=entry.strings("marks"),
        alias=entry.strings("alias") if "alias" in entry.fields else (),
        extra=entry.flag("extra"),
    )


def _read_misfits(file: Path, recipients: dict, scenes: dict) -> dict[str, tuple[Misfit, ...]]:
    table = records.read_yaml(file)
    if not isinstance(table, dict):
        raise CourseError(f"{file}：应当是“场景: [{{why, recipients}}, …]”的表。")
    misfits = {}
    for scene, groups in table.items():
        entry = _Entry(file, str(scene), {})
        entry.check(scene in scenes, f"scenes.yaml 里没有场景“{scene}”")
        entry.check(
            isinstance(groups, list) and all(isinstance(group, dict) for group in groups),
            f"应当是列表，每项有 why 和 recipients，现在是 {brief(groups)}",
        )
        misfits[scene] = tuple(_misfit(_Entry(file, scene, group), recipients) for group in groups)
    return misfits


def _misfit(entry: _Entry, recipients: dict) -> Misfit:
    _check_fields(entry, ("why", "recipients"), ("absurd",))
    names = entry.strings("recipients")
    for name in names:
        entry.check(name in recipients, f"recipients.yaml 里没有对象“{name}”")
    return Misfit(entry.string("why"), frozenset(names), entry.flag("absurd"))


def _style(entry: _Entry) -> Style:
    style = Style(
        name=entry.name,
        template=entry.string("template"),
        examples=entry.strings("examples"),
        **{field: entry.count(field) for field in ("min_chars", "max_chars", "min_emoji", "max_emoji")},
        **{field: entry.strings(field) for field in ("endings", "markers", "avoid")},
        form=entry.string("form") if "form" in entry.fields else Style.form,
        extra=entry.flag("extra"),
    )
    entry.check(style.name != DEFAULT_STYLE or not style.extra, "默认风格每次都要生成，不能写 extra: true")
    for low, high in (("min_chars", "max_chars"), ("min_emoji", "max_emoji")):
        bounds = getattr(style, low), getattr(style, high)
        entry.check(bounds[0] <= bounds[1], f"{low}={bounds[0]} 大于 {high}={bounds[1]}")
    entry.check(style.max_chars > 0, "max_chars 应当大于 0")
    return style
