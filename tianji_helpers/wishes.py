"""The matrix of the course as data: who is wished what, in which style.

``data/wishes/*.yaml`` hold recipients, scenes, styles, the unsuitable pairs and the random
requirements; a student edits them, so every rule that an entry breaks is reported with file, entry
and rule. The rest of the module turns a cell of the matrix into the request that the model is
trained on (``request``) and reads what somebody asks for (``read``, see ``tianji_helpers.request``).
What is wrong with a wish is another module's business: ``tianji_helpers.faults``.
"""

import itertools
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tianji_helpers import paths, tables
from tianji_helpers.errors import CourseError, check_known
from tianji_helpers.request import Reader, Request, any_of
from tianji_helpers.tables import Text, Word

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
NEW_YEAR = frozenset(("腊八节", "元旦", "除夕", "春节", "元宵节"))  # one season: each may name the other
_Words = tuple[Word, ...]
_SomeWords = Annotated[_Words, msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of a file. extra: not in the default matrix, or only made when it is asked for by name."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, tuple) and len(set(value)) < len(value):
                raise ValueError(f"{field} 里有重复的项")


class Recipient(_Entry, frozen=True):
    """Who is wished. either: the other pronoun is no fault."""

    name: str
    kind: Literal["elder", "superior", "peer", "younger"]
    honorific: Literal["您", "你"]
    address: _SomeWords
    either: bool = False
    extra: bool = False


class Scene(_Entry, frozen=True):
    """What for: any one of ``keywords`` puts a wish on topic; ``marks`` name this scene and no other.

    alias: other names in a request.
    """

    name: str
    kind: Literal["festival", "life", "work"]
    keywords: _SomeWords
    marks: _Words
    alias: _Words = ()
    extra: bool = False


class Style(_Entry, frozen=True):
    """How: the prompt's words and the bounds (in characters and in emoji) that a wish keeps.

    form: what is asked for (一句, 一首 ...).
    """

    name: str
    template: Text
    examples: _Words
    min_chars: _Count
    max_chars: _Count
    min_emoji: _Count
    max_emoji: _Count
    endings: _Words
    markers: _Words
    avoid: _Words
    form: Text = "一句"
    extra: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == DEFAULT_STYLE and self.extra:
            raise ValueError("默认风格每次都要生成，不能写 extra: true")
        for low, high in (("min_chars", "max_chars"), ("min_emoji", "max_emoji")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}={getattr(self, low)} 大于 {high}={getattr(self, high)}")
        if not self.max_chars:
            raise ValueError("max_chars 应当大于 0")


class Misfit(_Entry, frozen=True):
    """Recipients whom one does not wish a scene, and why.

    absurd: nobody would (a grandmother's wedding); else it is a matter of taste, and a policy.
    """

    why: Text
    recipients: frozenset[Word]
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
        check_known(recipient, self.recipients, "对象")
        check_known(scene, self.scenes, "场景")
        return self.misfit(recipient, scene) is None

    def pairs(self) -> list[tuple[str, str]]:
        """Return the suitable (recipient, scene) pairs of the default matrix in the order of the files."""
        usual = self.usual_recipients, self.usual_scenes
        return [pair for pair in itertools.product(*usual) if self.suitable(*pair)]

    def request(self, recipient: str, scene: str, style: str = DEFAULT_STYLE, wording: int = 0) -> str:
        """Return what a person types: ``祝姐姐生日``, or ``祝姐姐生日,小红书风格``.

        wording: place in ``WORDINGS``.
        """
        check_known(recipient, self.recipients, "对象")
        check_known(scene, self.scenes, "场景")
        check_known(style, self.styles, "风格")
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
    def salutation(self) -> re.Pattern[str]:
        """What finds a form of address, of anybody in the matrix, at the front of a wish; perhaps two."""
        some = any_of({name for name in self._endings if len(name) > 1} - {"亲爱的", "宝贝"})
        before, after = "(?:最?亲爱的|尊敬的|敬爱的|祝福?|愿)*", r"(?=[，,：:！!～~、\s祝愿您你])"
        return re.compile(f"{before}({some})({some})?{after}")

    def foreign_marks(self, scene: str) -> re.Pattern[str]:
        """Return what finds a mark of any scene but this one."""
        if scene not in self._foreign:
            marks = {mark for other in self.scenes.values() if other.name != scene for mark in other.marks}
            if scene in NEW_YEAR:  # all of them wish a happy new year
                marks = {mark for mark in marks if not mark.startswith(("新年", "新春"))}
            self._foreign[scene] = re.compile(any_of(marks))
        return self._foreign[scene]

    def foreign_greetings(self, scene: str) -> re.Pattern[str]:
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
    def _foreign(self) -> dict[str, re.Pattern[str]]:
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
    """Read and validate the matrix, again only if one of its files has changed.

    folder: where the YAML files lie; None means ``data/wishes``.
    Raises CourseError that names the file, the entry and the rule it breaks.

    >>> matrix = load()
    >>> matrix.request("姐姐", "生日", "小红书")
    '祝姐姐生日,小红书风格'
    >>> matrix.read("我想送领导春节祝福，严肃风格").pair
    ('领导', '春节')
    """
    folder = paths.DATA / "wishes" if folder is None else Path(folder)
    stats = [(file.name, file.stat()) for file in sorted(folder.glob("*.yaml")) if file.is_file()]
    return _load(folder, tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


@lru_cache(maxsize=2)
def _load(folder: Path, _state: tuple[tuple[str, int, int], ...]) -> Matrix:
    recipients = tables.entries(folder / "recipients.yaml", Recipient)
    scenes = tables.entries(folder / "scenes.yaml", Scene)
    styles = tables.entries(folder / "styles.yaml", Style)
    if DEFAULT_STYLE not in styles:
        raise CourseError(f"{folder / 'styles.yaml'}：缺少默认风格“{DEFAULT_STYLE}”。")
    file = folder / "requirements.yaml"
    requirements = tables.shaped(
        tables.read_yaml(file), Annotated[list[str], msgspec.Meta(min_length=1)], str(file)
    )
    file = folder / "suitability.yaml"
    table = tables.shaped(tables.read_yaml(file), dict[str, Any], str(file))
    misfits = {}
    for scene, groups in table.items():
        where = f"{file} 的条目“{scene}”"
        if scene not in scenes:
            raise CourseError(f"{where}：scenes.yaml 里没有这个场景。")
        numbered = enumerate(tables.shaped(groups, list[dict[str, Any]], where), 1)
        misfits[scene] = tuple(
            tables.shaped(one, Misfit, f"{where} 第 {number} 项") for number, one in numbered
        )
        for name in frozenset().union(*(one.recipients for one in misfits[scene])) - recipients.keys():
            raise CourseError(f"{where}：recipients.yaml 里没有对象“{name}”。")
    matrix = Matrix(SYSTEM, recipients, scenes, styles, requirements, misfits)
    if not matrix.pairs():
        raise CourseError(f"{file}：所有组合都被标成不合适，没有可写的祝福；请删掉一些名字。")
    return matrix
