"""What somebody asks for, read from any wording: whom to wish, what for, in which style, and what else.

The published wishes reword their requests in a dozen ways, and people use more. So there is one reader
for all who need to know (cleaning, splitting, scoring, chat, the page), and it never fails: a name that
stands on no list is taken as it was said, and what cannot be read at all is a ``Request`` without names.
The reader looks for the frame of the request (祝…, 我想送…祝福, 送祝福给…), then for the border between the
recipient and the scene: a known scene at the end, else a known recipient at the front, else a mark
between them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tianji_helpers.wishes import Matrix, Misfit, Recipient, Scene, Style

MAX_CHARS = 300  # of a request that are read for names; the rest counts as details
_MAX_NAME = 16  # characters of a recipient or scene; longer is a story, not a name


@dataclass(frozen=True)
class Request:
    """One request as it was read.

    recipient, scene: as the matrix names them if it knows them, else as they were said; "" if there is
    none. style: the default style if none is named. max_chars: the length that was asked for, in
    characters. address: how the recipient wants to be called. details: whatever else was said.
    matrix: where the names are looked up.
    """

    text: str
    recipient: str
    scene: str
    style: str
    max_chars: int | None = None
    address: str = ""
    details: str = ""
    matrix: "Matrix | None" = field(default=None, repr=False, compare=False)

    @property
    def pair(self) -> tuple[str, str]:
        """The cell of the matrix: (recipient, scene)."""
        return self.recipient, self.scene

    @cached_property
    def who(self) -> "Recipient | None":
        """The recipient's entry; for 王老师 or 我的姐姐 that of the name it ends with; None if unknown."""
        return self.matrix.find_recipient(self.recipient) if self.matrix and self.recipient else None

    @cached_property
    def what(self) -> "Scene | None":
        """The scene's entry, or None if the matrix has none."""
        return self.matrix.scenes.get(self.scene) if self.matrix else None

    @cached_property
    def how(self) -> "Style | None":
        """The style's entry, or None if the matrix has none."""
        return self.matrix.styles.get(self.style) if self.matrix else None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The recipient's name and forms of address, the longest first."""
        known = self.who.address if self.who else ()
        names = {self.recipient, self.address, *known} - {""}
        return tuple(sorted(names, key=lambda name: (-len(name), name)))

    @cached_property
    def wrong_pronoun(self) -> str:
        """The pronoun that the recipient is not called by: 你, 您, or "" if both will do or nobody knows."""
        who = self.who
        if who is None or who.either:
            return ""
        if who.kind == "peer":  # a formal or playful 您 is no fault among equals
            usual = self.how is not None and not self.how.extra and self.style != "严肃"
            return "您" if usual and who.honorific == "你" else ""
        return "你" if who.honorific == "您" else "您"

    @cached_property
    def misfit(self) -> "Misfit | None":
        """Why one does not wish this recipient this; None if one does, or nobody knows."""
        return self.matrix.misfit(*self.pair) if self.matrix else None


_SPACES = re.compile(r"\s+")
_DIGITS = {digit: number for number, digit in enumerate("零一二三四五六七八九")} | {"两": 2}
_LENGTH = re.compile(
    r"(?:请|字数)?(?:不要超过|不超过|不多于|最多|少于|小于|控制在|限|约|大约|在)?\s*"
    r"([0-9]{1,4}|[一二两三四五六七八九]?百?[零一二两三四五六七八九]?十?[一二三四五六七八九]?)\s*个?字"
    r"(?:以内|之内|以下|左右|内)?"
)
_ADDRESS = re.compile(
    r"(?:称呼|叫|管)(?:[她他您你]|对方)?(?:为|作|叫)?[“\"「]?([\w·]{1,8})[”\"」]?(?:就好|就行|即可)?$"
)
_CLAUSE = re.compile(r"[，,。．！!？?；;、\n]+")
_LEAD = re.compile(
    r"(?:你好|您好|请你?|麻烦你?|能不能|能否|可以|可不可以|帮我|帮忙|帮|替我|给我|为我|我们?(?=[想要也])|也|想要?|要|需要"
    r"|写|来|发|生成|编|准备|说|做)*(?:[一两几][句条段个份首点些](?:话)?的?)?"
)
_WISH = r"(?:祝福|祝愿|贺词|祝词|祝语|问候|吉祥话)[语词]?"
_FILLER = re.compile(
    rf"(?:{_LEAD.pattern}(?:{_WISH})?(?:吧|吗|呀|好吗|可以吗)?|多?谢谢?[你您啦]?|拜托了?|快乐)"
)
_MEASURE = re.compile(r"[写来送发](?:一|两|几)?[句条段个份首点些]")
_FOR = "为(?!什么|何|了|啥)"
_FRAMES = tuple(
    re.compile(pattern + "$")
    for pattern in (
        rf"(?:送|发|写|献)?(?:上|出)?{_WISH}(?:送|写|发)?给(?P<body>.+)",
        rf"(?:送给|写给|发给|献给|送|给|{_FOR}|对(?!于|话)|向)(?P<body>.+?)的?{_WISH}",
        r"(?:恭祝|敬祝|谨祝|祝福|祝贺|祝愿|恭喜|恭贺|庆祝|庆贺|祝|贺)(?P<body>.+)",
        rf"(?P<body>.+?)的?{_WISH}",
        rf"(?:送给|写给|发给|送|给|{_FOR}|向)(?P<body>.+)",
    )
)
_NAME_ONLY = re.compile(r"(?:送给|写给|发给|送|给)([^\s你您我]{1,6})")
_OWN = re.compile(r"(?:我们?的?|咱们?的?|最?亲爱的|最?[尊敬]敬的|敬爱的)+(?=.)")
_GREETING = re.compile(r"(?:快乐|安康|吉祥|愉快|大吉|如意)[呀啊哦啦]?$")
_BETWEEN = " \t的在过要：:—-"
_FESTIVAL = re.compile(r"(.{1,8}?)的?([一-龥]{2}节)$")


class Reader:
    """Reads requests with the names of one matrix."""

    def __init__(self, matrix: "Matrix", default_style: str):
        self.matrix, self.default_style = matrix, default_style
        self._scenes = {word: name for name, scene in matrix.scenes.items() for word in (*scene.alias, name)}
        self._recipients = _unambiguous(matrix)
        styles = any_of(matrix.styles)
        self._style = re.compile(
            rf"[,，;；、\s]*[用要以]?\s*(?:({styles})\s*的?|(?:^|(?<=[,，;；、\s：:用要以]))([^\s,，;；、。：:用]{{1,8}}?)的?)风格的?"
            rf"|[,，;；、\s]*风格\s*(?:是|为|要|用|：|:)\s*(?:({styles})|([^\s,，;；、。]{{1,8}}))"
        )
        scenes, recipients = any_of(self._scenes), any_of(self._recipients)
        self._scene_last = re.compile(rf"(?P<front>.*?)(?P<scene>{scenes})$", re.DOTALL)
        self._recipient_first = re.compile(rf"(?P<recipient>{recipients})(?P<rest>.*)$", re.DOTALL)
        longer = any_of(name for name in self._recipients if len(name) > 1)
        self._some_recipient, self._some_scene = (
            re.compile(f"我({recipients})|({longer})"),
            re.compile(scenes),
        )
        self.read = lru_cache(maxsize=1 << 16)(self._read)

    def _read(self, text: str) -> Request:
        rest = _SPACES.sub(" ", text[:MAX_CHARS]).strip().strip("。！!")
        rest, style = self._take_style(rest)
        rest, max_chars = _take_length(rest)
        recipient = scene = address = ""
        details: list[str] = []
        for clause in filter(None, map(str.strip, _CLAUSE.split(rest))):
            if not address and (called := _ADDRESS.search(clause)) and called.start() < 4:
                address = called[1]
                continue
            if recipient and scene:
                details.append(clause)
                continue
            who, what = self._names(clause, bool(recipient))
            if not (who or what):
                details.append(clause)
            recipient, scene = recipient or who, scene or what
        if not (recipient or scene):
            recipient, scene = self._anywhere(rest)
        said = "，".join(detail for detail in details if not _FILLER.fullmatch(detail)) + text[MAX_CHARS:]
        return Request(text, recipient, scene, style, max_chars, address, said, self.matrix)

    def _take_style(self, text: str) -> tuple[str, str]:
        found = self._style.search(text)
        if not found:
            return text, self.default_style
        style = next(filter(None, found.groups())).strip()
        return f"{text[: found.start()]}，{text[found.end() :]}", style

    def _names(self, clause: str, have_recipient: bool) -> tuple[str, str]:
        """Return (recipient, scene) of a clause, as far as it names them."""
        if clause in self._recipients or self._scene_of(clause):
            return self._split(clause)
        lead = _LEAD.match(clause)
        asked = lead.end() if lead else 0
        # 给我姐姐 and 送我姐姐: the lead may have eaten the frame's own verb
        for start in sorted({asked, 0}, reverse=True):
            rest = clause[start:]
            body = next((found["body"] for frame in _FRAMES if (found := frame.match(rest))), None)
            if body is not None:
                names = self._split(body)
                only = _NAME_ONLY.fullmatch(rest)
                return (only[1], "") if only and names == ("", "") else names
        rest = clause[asked:] or clause
        if rest in self._recipients or self._scene_of(rest):
            return self._split(rest)
        known = self._recipient_first.match(rest)
        if not have_recipient and known and self._scene_last.match(_GREETING.sub("", rest)):
            return self._split(rest)
        return "", ""

    def _anywhere(self, text: str) -> tuple[str, str]:
        """Return the names that a story mentions (我同事要结婚了), if it mentions one of each."""
        who, what = self._some_recipient.search(text), self._some_scene.search(text)
        if not (who and what):
            return "", ""
        return self._recipients[who[1] or who[2]], self._scenes[what[0]]

    def _scene_of(self, text: str) -> str:
        """Return the scene that a text names, alone or with a greeting behind it; "" if none."""
        return self._scenes.get(text) or self._scenes.get(_GREETING.sub("", text)) or ""

    def _split(self, body: str) -> tuple[str, str]:
        """Split what stands in the frame into recipient and scene."""
        body = _OWN.sub("", body.strip(), count=1) if _OWN.match(body.strip()) else body.strip()
        body = _MEASURE.sub("", re.sub(rf"的?{_WISH}$", "", body), count=1)
        if body in self._recipients:
            return self._recipients[body], ""
        for shorter in (body, _GREETING.sub("", body)):
            if found := self._scene_last.match(shorter):
                front = found["front"].strip(_BETWEEN)
                return self._recipients.get(front, front)[:_MAX_NAME], self._scenes[found["scene"]]
        if found := self._recipient_first.match(body):
            scene = found["rest"].strip(_BETWEEN)
            return self._recipients[found["recipient"]], _name(scene)
        for mark in ("：", ":", " ", "的"):
            front, _, scene = body.partition(mark)
            if front.strip() and scene.strip():
                return _name(front), _name(scene)
        if found := _FESTIVAL.match(_GREETING.sub("", body)):
            return found[1], found[2]
        return ("", "")


def _name(text: str) -> str:
    """Return what was said where a name stands, without a festival's greeting; "" if it is a story."""
    text = text.strip()
    shorter = _GREETING.sub("", text)
    text = shorter if shorter.endswith(("节", "日")) else text
    return text if len(text) <= _MAX_NAME else ""


def _take_length(text: str) -> tuple[str, int | None]:
    for found in _LENGTH.finditer(text):
        if number := _number(found[1]):
            return f"{text[: found.start()]}，{text[found.end() :]}", number
    return text, None


def _number(digits: str) -> int:
    """Return what Arabic or Chinese digits say, up to 9,999; 0 if nothing.

    >>> [_number(digits) for digits in ("30", "三十", "一百二十", "十五", "")]
    [30, 30, 120, 15, 0]
    """
    if digits.isascii():
        return int(digits or 0)
    total = last = 0
    for digit in digits:
        if digit in "十百":
            total += (last or 1) * (10 if digit == "十" else 100)
            last = 0
        else:
            last = _DIGITS[digit]
    return total + last


def _unambiguous(matrix: "Matrix") -> dict[str, str]:
    """Return the names and the forms of address that belong to one recipient alone."""
    owners: dict[str, set[str]] = {}
    for name, who in matrix.recipients.items():
        for address in who.address:
            owners.setdefault(address, set()).add(name)
    alone = {address: next(iter(names)) for address, names in owners.items() if len(names) == 1}
    return alone | {name: name for name in matrix.recipients}


def any_of(names: Iterable[str]) -> str:
    """Return a regular expression of alternatives, the longest first; of none, one that never matches."""
    return "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name))) or "(?!)"
