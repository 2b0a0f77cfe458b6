"""The cleaning rules, each small, named, and shown by examples that are also its tests.

A *mend* returns a better text; a *reject* returns the reason why a text cannot be trained on, or
None. Both get the text and the ``Ask`` it answers. Two laws keep cleaning sure to end and safe to
run twice: a mend never makes a text longer, and mends run in order, again and again, until none
of them changes anything. What is good is defined once, in ``wishes.check``.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property

from tianji_helpers import wishes


@dataclass(frozen=True)
class Ask:
    """What a wish answers: the names found in the request, and the matrix they come from."""

    matrix: wishes.Matrix
    recipient: str
    scene: str
    style: str
    _last: dict[str, dict[str, bool]] = field(default_factory=dict, repr=False, compare=False)

    def verdict(self, text: str) -> dict[str, bool]:
        """Return ``wishes.check`` of a text; three rules ask about the same one."""
        if text not in self._last:
            self._last.clear()
            self._last[text] = wishes.check(self.matrix, self.recipient, self.scene, self.style, text)
        return self._last[text]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The recipient's name and forms of address, the longest first."""
        recipient = self.matrix.recipients[self.recipient]
        return tuple(sorted({recipient.name, *recipient.address}, key=lambda name: (-len(name), name)))

    @cached_property
    def addresses(self) -> tuple[str, ...]:
        """What a wish says once when it addresses the recipient."""
        return *self.names, "尊敬的", "亲爱的"


@dataclass(frozen=True)
class Example:
    """A request, the answer before, and after (None if the rule leaves it or rejects it)."""

    request: str
    before: str
    after: str | None = None


@dataclass(frozen=True)
class Rule:
    """One rule. ``kind`` is mend or reject; ``title`` is what a student reads."""

    name: str
    title: str
    kind: str
    apply: Callable[[str, Ask], str | None]
    examples: tuple[Example, ...]


MENDS: list[Rule] = []
REJECTS: list[Rule] = []


def _mend(title: str, *examples: tuple[str, str, str]):
    def register(function):
        cases = tuple(Example(*example) for example in examples)
        MENDS.append(Rule(function.__name__, title, "mend", function, cases))
        return function

    return register


def _reject(title: str, *examples: tuple[str, str]):
    def register(function):
        cases = tuple(Example(*example) for example in examples)
        REJECTS.append(Rule(function.__name__, title, "reject", function, cases))
        return function

    return register


# --- mends, in order ----------------------------------------------------------------------------

_JOINERS = "\u200d\ufe0f"  # they hold an emoji together


@_mend(
    "看不见的字符",
    ("祝姐姐生日", "祝姐姐\u200b生日快乐，\u3000天天开心！\r\n", "祝姐姐生日快乐， 天天开心！\n"),
    ("祝姐姐生日", "\ufeff祝姐姐生日快乐\x07！", "祝姐姐生日快乐！"),
)
def invisible(text: str, ask: Ask) -> str:
    """Drop control, zero-width and half characters; make every kind of space one space."""
    if text.isprintable():  # no control, format, half or space character but the plain space
        return text
    kept = []
    for character in text.replace("\r\n", "\n").replace("\r", "\n"):
        group = unicodedata.category(character)
        if character == "\n" or character in _JOINERS:
            kept.append(character)
        elif group in ("Zl", "Zp"):
            kept.append("\n")
        elif group == "Zs" or character == "\t":
            kept.append(" ")
        elif group not in ("Cc", "Cf", "Cs"):
            kept.append(character)
    return "".join(kept)


_TITLE_LINE = re.compile(
    r"\s*(?:标题[：:].*|#{1,6}\s*.*|[【《][^】》\n]{1,20}[】》]"
    r"|[^，,。！!？?～~：:\n]{0,12}(?:祝福|贺词|祝词|文案)语?)[ \t]*\n+(?=.*\S)"
)


@_mend(
    "标题行",
    ("祝姐姐生日", "标题：生日快乐\n姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "## 生日祝福\n姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "【生日祝福】\n姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
)
def title_line(text: str, ask: Ask) -> str:
    """Drop a first line that is a title, if another line follows."""
    return _TITLE_LINE.sub("", text, count=1) if _TITLE_LINE.match(text) else text


_MARKDOWN = re.compile(
    r"```\w*|[*`]+|__+|^[ \t]*(?:#{1,6}[ \t]+|>[ \t]*|[-•][ \t]+|\d{1,2}[.、][ \t]*(?!\d))", re.MULTILINE
)
_MARKDOWN_SIGN = re.compile(r"[`*_#>\-•\d]")  # in whatever the rule looks for


@_mend(
    "Markdown 记号",
    ("祝姐姐生日", "**姐姐**，祝你`生日快乐`！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "- 姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "1. 姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
)
def markdown(text: str, ask: Ask) -> str:
    """Drop the marks of bold, code, headings, quotes and lists; the words stay."""
    return _MARKDOWN.sub("", text) if _MARKDOWN_SIGN.search(text) else text


_YES = re.compile(r"\s*(?:好的|好嘞|当然(?:可以|没问题)?|没问题|收到|明白了?|OK)[，,。.！!～~：:\s]+", re.I)
_ANNOUNCE = re.compile(
    r"\s*[^，,。！!？?：:\n]{0,20}(?:以下是|下面是|如下|祝福语|祝福文案)[^，,。！!？?：:\n]{0,30}"
    r"(?:，(?:供[您你]参考|请[您你]?(?:查收|过目)))?(?:[：:，,。！!]|\n|$)\s*"
)


@_mend(
    "开场白",
    ("祝姐姐生日", "当前祝福语如下：姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "好的，以下是为您写的祝福：\n姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "当然可以！姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "当前祝福语如下", ""),
)
def preamble(text: str, ask: Ask) -> str:
    """Drop what a chat model says before the wish; the wish behind it stays."""
    for pattern in (_YES, _ANNOUNCE):
        found = pattern.match(text)
        if found:
            text = text[found.end() :]
    return text


_POSTSCRIPT = re.compile(
    r"\s*(?:[（(](?:[^（）()\n]*\d+\s*字|字数|全文|注[：:])[^（）()\n]*[）)]"
    r"|(?:希望|愿)[您你]?(?:能|会)?喜欢这[条段份个][^，,。！!？?\n]*[。！!～~]?"
    r"|以上(?:就)?是[^\n]*"
    r"|如(?:果)?(?:您|你)?需要?[^\n]*(?:修改|调整|告诉我)[^\n]*)\s*$"
)
_POSTSCRIPT_SIGN = re.compile(r"[（(]|喜欢这|以上|如果?[您你]?需")  # in whatever the rule looks for


@_mend(
    "附言",
    ("祝姐姐生日", "姐姐，祝你生日快乐！（共10字）", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "姐姐，祝你生日快乐！希望你喜欢这条祝福！", "姐姐，祝你生日快乐！"),
)
def postscript(text: str, ask: Ask) -> str:
    """Drop what a chat model says after the wish: a count of characters, an offer to change it."""
    return _POSTSCRIPT.sub("", text) if _POSTSCRIPT_SIGN.search(text) else text


_LABEL = re.compile(
    r"\s*(?:[^，,。！!？?：:\n]{0,10}(?:风格|版|祝福|祝词|贺词|文案|正文|内容|标题|回答)[：:]|【[^】\n]{1,20}】)\s*"
)


@_mend(
    "标签",
    ("祝姐姐生日", "祝福：姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝李总春节,严肃风格", "严肃风格：李总，谨祝您新春大吉。", "李总，谨祝您新春大吉。"),
    ("祝李总春节,严肃风格", "尊敬的李总：谨祝您新春大吉。", "尊敬的李总：谨祝您新春大吉。"),
)
def label(text: str, ask: Ask) -> str:
    """Drop a label in front; a salutation with a colon (尊敬的李总：) is not one."""
    found = _LABEL.match(text)
    return text[found.end() :] if found else text


_OPEN, _CLOSE = "\"'“‘「『", "\"'”’」』"
_QUOTES = tuple(_OPEN + _CLOSE)


@_mend(
    "引号",
    ("祝姐姐生日", "“姐姐，祝你生日快乐！”", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", '姐姐，祝你生日快乐！"', "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "「岁岁平安」是我给姐姐的祝愿", "岁岁平安是我给姐姐的祝愿"),
    ("祝姐姐生日", "姐姐，愿“好运”常在！", "姐姐，愿“好运”常在！"),
)
def quotes(text: str, ask: Ask) -> str:
    """Drop a quotation mark at either end, together with its partner."""
    text = text.strip()
    if text.startswith(_QUOTES):
        rest = text[1:]
        partner = next((i for i, character in enumerate(rest) if character in _CLOSE), None)
        text = rest if partner is None else rest[:partner] + rest[partner + 1 :]
    if text.endswith(_QUOTES):
        rest = text[:-1]
        partner = next((i for i in reversed(range(len(rest))) if rest[i] in _OPEN), None)
        text = rest if partner is None else rest[:partner] + rest[partner + 1 :]
    return text


@_mend(
    "多余的表情",
    ("祝姐姐生日", "姐姐，祝你生日快乐！🎂", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日,小红书风格", "🎂🎉✨姐姐，生日快乐呀🌟", "🎂🎉姐姐，生日快乐呀"),
)
def emoji(text: str, ask: Ask) -> str:
    """Drop the emoji that are more than the style allows."""
    return wishes.strip_emoji(text, keep=ask.matrix.styles[ask.style].max_emoji)


_STOPS = "，。；：、！？～…"


@_mend(
    "多行",
    ("祝姐姐生日", "姐姐，祝你生日快乐！\n愿你天天开心。", "姐姐，祝你生日快乐！愿你天天开心。"),
    ("祝姐姐生日", "姐姐生日快乐\n\n愿你天天开心", "姐姐生日快乐，愿你天天开心"),
    ("祝姐姐生日,小红书风格", "姐姐生日快乐🎂\n愿你天天开心呀", "姐姐生日快乐🎂愿你天天开心呀"),
)
def lines(text: str, ask: Ask) -> str:
    """Join the lines of a wish; a comma stands where a line ended without a mark or emoji."""
    if "\n" not in text:
        return text.strip()
    parts = [part for part in (line.strip() for line in text.split("\n")) if part]
    joined = "".join(parts[:1])
    for part in parts[1:]:
        emoji_last = wishes.strip_emoji(joined)[-1:] != joined[-1]
        joined += part if emoji_last or joined[-1] in _STOPS + ",.;:!?~" else "，" + part
    return joined


_FULL = str.maketrans(",;:!?~", "，；：！？～")
_HALF = re.compile(r"(?<=[^\x00-\x7f])[,;:!?~]+|[,;:!?~]+(?=[^\x00-\x7f])")
_POINT = re.compile(r"(?<=[^\x00-\x7f])\.(?![A-Za-z0-9.])")
_ELLIPSIS = re.compile(r"\.{3,}|。{3,}|…{3,}|·{3,}")
_RUN = re.compile(r"(?!……)[，。；：、！？～]{2,}|[，。；：、！？～]+……|……[，。；：、～]+")
_STRENGTH = "！？～。；：，、"
# What the rule looks for: a half-width mark or two marks in a row, and at the ends:
_UNEVEN = re.compile(rf"[,;:!?~.·{_STOPS}](?:(?<=[,;:!?~.·])|[{_STOPS}])")
_UNEVEN_START, _UNEVEN_END = tuple(" " + _STOPS), tuple("，、；：")
_PARTICLES = "呀啊哦呢啦嘛吧哟喔"
_EMOJI_RUN = r"[^\w\s，。；：、！？～…,.;:!?~“”‘’「」『』（）()<>《》【】{}#*\[\]|/\\]*"
_STRAY = re.compile(
    rf"(?P<before>[{_PARTICLES}]?)(?P<front>{_EMOJI_RUN})(?P<first>[，。；：、！？～!?.,~]+)"
    rf"(?P<back>{_EMOJI_RUN})(?P<particle>[{_PARTICLES}])(?P<last>[。！？～!?.~]+|(?=\W*$))"
)
_STRAY_SIGN = re.compile(rf"[，。；：、！？～!?.,~]{_EMOJI_RUN}[{_PARTICLES}]")


@_mend(
    "标点后面的语气词",
    ("祝姐姐生日,小红书风格", "姐姐，生日快乐！啦~🎂", "姐姐，生日快乐啦！🎂"),
    ("祝姐姐生日,小红书风格", "🎂姐姐，生日快乐。哦！", "🎂姐姐，生日快乐哦！"),
    ("祝姐姐生日,小红书风格", "姐姐，生日快乐！🎂呀", "姐姐，生日快乐呀！🎂"),
    ("祝姐姐生日,小红书风格", "姐姐，生日快乐🎂。呢～", "姐姐，生日快乐呢～🎂"),
    ("祝姐姐生日,小红书风格", "姐姐，生日快乐呀🎂！啦~", "姐姐，生日快乐呀！🎂"),
    ("祝李总春节,严肃风格", "李总，谨祝您新春大吉。哦！", "李总，谨祝您新春大吉！"),
)
def particle(text: str, ask: Ask) -> str:
    """Put a particle that was stuck behind a mark in front of it.

    A second particle goes, and so does any in a style that avoids particles.
    """
    if not _STRAY_SIGN.search(text):
        return text
    avoided = any(word in _PARTICLES for word in ask.matrix.styles[ask.style].avoid)

    def unstray(found: re.Match) -> str:
        marks = (found["first"] + found["last"]).translate(_FULL).replace(".", "。")
        word = found["before"] or ("" if avoided else found["particle"])
        return word + min(marks, key=_STRENGTH.index) + found["front"] + found["back"]

    return _STRAY.sub(unstray, text)


@_mend(
    "标点",
    ("祝姐姐生日", "姐姐,祝你生日快乐!", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "姐姐，，祝你生日快乐。！！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "，姐姐，祝你生日快乐~~", "姐姐，祝你生日快乐～"),
    ("祝姐姐生日", "姐姐，生日快乐，", "姐姐，生日快乐。"),
    ("祝姐姐生日", "姐姐，愿你3.5倍快乐，10:30准时吃蛋糕！", "姐姐，愿你3.5倍快乐，10:30准时吃蛋糕！"),
)
def punctuation(text: str, ask: Ask) -> str:
    """Make Chinese marks Chinese, a run of marks one mark, and end on no comma."""
    if not (_UNEVEN.search(text) or text.startswith(_UNEVEN_START) or text.endswith(_UNEVEN_END)):
        return text
    text = _ELLIPSIS.sub("……", text)
    text = _HALF.sub(lambda found: found[0].translate(_FULL), text)
    text = _POINT.sub("。", text)
    text = _RUN.sub(_strongest, text)
    text = text.lstrip(" ,.;:!?~" + _STOPS)
    return re.sub(r"[，、；：]$", "。", text)


def _strongest(run: re.Match) -> str:
    if "……" in run[0]:
        return "……"
    return min(run[0], key=_STRENGTH.index)


@_mend(
    "空格",
    ("祝姐姐生日", " 姐姐， 祝你  生日快乐 ！ ", "姐姐，祝你 生日快乐！"),
)
def spaces(text: str, ask: Ask) -> str:
    """Drop spaces at the ends and beside Chinese marks; a run of spaces is one."""
    text = text.strip()
    if " " not in text:
        return text
    text = re.sub(r" {2,}", " ", text)
    return re.sub(rf" (?=[{_STOPS}])|(?<=[{_STOPS}]) ", "", text)


_NOT_NIN, _NOT_NI = re.compile(r"(?:您|(?<!迷)你们?)+"), re.compile(r"[您你]*您[您你]*")


@_mend(
    "您和你",
    ("祝邻居赵大妈春节", "赵大妈，祝你春节快乐！", "赵大妈，祝您春节快乐！"),
    ("祝妹妹生日", "尊敬的妹妹，祝您生日快乐！", "亲爱的妹妹，祝你生日快乐！"),
    ("祝爷爷生日", "爷爷，愿迷你蛋糕甜到你心里！", "爷爷，愿迷你蛋糕甜到您心里！"),
    ("祝姐姐生日", "祝你您好，姐姐，生日快乐！", "祝你好，姐姐，生日快乐！"),
)
def honorific(text: str, ask: Ask) -> str:
    """Say 您 to whom the matrix calls 您, 你 to the others; a younger one is 亲爱的, not 尊敬的."""
    recipient = ask.matrix.recipients[ask.recipient]
    if recipient.honorific == "您":
        return _NOT_NIN.sub("您", text) if "你" in text or "您您" in text else text
    if recipient.kind == "younger":
        text = text.replace("尊敬的", "亲爱的")
    return _NOT_NI.sub("你", text) if "您" in text else text


@_mend(
    "重复的称呼",
    ("祝姐姐生日", "姐姐姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝母亲生日", "妈妈，妈妈，祝您生日快乐！", "妈妈，祝您生日快乐！"),
    ("祝李总春节,严肃风格", "尊敬的尊敬的李总，谨祝您新春大吉。", "尊敬的李总，谨祝您新春大吉。"),
)
def doubled_address(text: str, ask: Ask) -> str:
    """Say a form of address once where it stands twice in a row."""
    for name in ask.addresses:
        if text.count(name) > 1:
            return _twice(ask.addresses).sub(r"\1", text)
    return text


@cache
def _twice(names: tuple[str, ...]) -> re.Pattern:
    return re.compile(rf"({'|'.join(map(re.escape, names))})(?:[，、]?\1)+")


# --- rejects, in order --------------------------------------------------------------------------


@_reject("只有开场白", ("祝姐姐生日", ""))
def empty(text: str, ask: Ask) -> str | None:
    """Nothing is left of the answer: it was a stub, marks or blanks."""
    return None if text.strip(_STOPS + " ") else "去掉开场白和记号以后，没有祝福"


_REFUSAL = re.compile(
    r"作为(?:一个|一名|一款)?(?:AI|人工智能|语言模型|大模型|智能助手)"
    r"|我(?:无法|不能|没有办法|没办法)(?:为您|为你|帮您|帮你|提供|生成|回答|完成|满足|写)"
    r"|抱歉|对不起|很遗憾",
    re.I,
)


@_reject(
    "拒答",
    ("祝姐姐生日", "抱歉，我无法生成这条祝福。"),
    ("祝姐姐生日", "作为一个AI语言模型，我祝姐姐生日快乐！"),
)
def refusal(text: str, ask: Ask) -> str | None:
    """The model talks about itself or says no."""
    found = _REFUSAL.search(text)
    return f"出现“{found[0]}”" if found else None


_LEFTOVER = re.compile(
    # each alternative begins with a letter of its own: so the search passes quickly over the rest
    r"##*|\{|\}|字数|字以内|对象称谓|祝福场景|参考句|造句风格|语气助词|小红书风格|正常风格|严肃风格"
    r"|<\|?[A-Za-z/_][^>\n]*>|\[/?(?:INST|UNUSED_TOKEN[^\]]*)\]"
)


@_reject(
    "提示词残留",
    ("祝姐姐生日", "姐姐，祝你生日快乐！###"),
    ("祝姐姐生日", "姐姐，祝{}生日快乐！"),
    ("祝姐姐生日", "字数小于50字，姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "姐姐，祝你生日快乐！<|im_end|>"),
)
def leftover(text: str, ask: Ask) -> str | None:
    """Words or marks of the prompt, or tokens of a chat template, stand in the wish."""
    found = _LEFTOVER.search(text)
    return f"出现“{found[0]}”" if found else None


_LATIN = re.compile(r"[A-Za-z]")
_FAMILIAR = re.compile(
    r"[\0-\u036f\u2000-\u2dff\u3000-\u302d\u4e00-\u9fff\uff00-\uff65\U0001f000-\U0001faff]*"
)
_FOREIGN = ("HIRAGANA", "KATAKANA", "HANGUL", "CYRILLIC", "ARABIC", "THAI", "GREEK", "HEBREW", "DEVANAGARI")


@_reject(
    "其他语言",
    ("祝姐姐生日", "Happy birthday to my dear sister!"),
    ("祝姐姐生日", "姐姐，お誕生日おめでとう！"),
    ("祝姐姐生日", "姐姐，祝你生\ufffd快乐！"),
)
def language(text: str, ask: Ask) -> str | None:
    """Another script, mostly Latin letters, or a character that was lost in decoding."""
    if "\ufffd" in text:
        return "有解码失败的字符（�）"
    if not _FAMILIAR.fullmatch(text):
        for character in text:
            if _is_foreign(character):
                return f"出现其他文字“{character}”"
    letters = len(_LATIN.findall(text))
    return f"{len(text)} 个字符里有 {letters} 个字母" if letters * 5 > len(text) else None


@cache
def _is_foreign(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_FOREIGN)


@_reject("复读", ("祝姐姐生日", "生日快乐生日快乐生日快乐生日快乐"))
def loop(text: str, ask: Ask) -> str | None:
    """The same words three times in a row."""
    found = wishes.find_loop(text)
    return f"“{found}”连着说了三遍以上" if found else None


@_reject("不合适的组合", ("祝爷爷七夕节", "爷爷，祝您七夕节快乐，天天开心！"))
def unsuitable(text: str, ask: Ask) -> str | None:
    """The matrix says that one does not wish this recipient this."""
    if ask.matrix.suitable(ask.recipient, ask.scene):
        return None
    return f"不给{ask.recipient}送{ask.scene}的祝福"


@_reject(
    "长度",
    ("祝姐姐生日", "生日快乐！"),
    ("祝姐姐生日", "姐姐，祝你生日快乐！" + "愿你岁岁平安，事事顺心，时时有好运相伴，天天有好友相陪。" * 2),
)
def length(text: str, ask: Ask) -> str | None:
    """Outside the bounds of the style, in characters."""
    style = ask.matrix.styles[ask.style]
    if style.min_chars <= len(text) <= style.max_chars:
        return None
    return f"{len(text)} 个字符，{style.name}风格要 {style.min_chars} 到 {style.max_chars} 个"


@_reject("送错了人", ("祝姐姐生日", "亲爱的奶奶，祝你生日快乐！"))
def wrong_recipient(text: str, ask: Ask) -> str | None:
    """It opens with an address that belongs to somebody else, and never addresses the right one."""
    if any(name in text for name in ask.names):
        return None
    found = ask.matrix.salutation.match(text)
    return f"开头是“{found[1]}”，应当是“{ask.recipient}”" if found else None


@_reject(
    "送错了场景",
    ("祝姐姐生日", "姐姐，祝你春节快乐，岁岁平安！"),
    ("祝姐姐生日", "姐姐，祝你天天开心，万事如意！"),
)
def wrong_scene(text: str, ask: Ask) -> str | None:
    """No word of the scene, or a word that belongs to another scene."""
    if ask.verdict(text)["on_topic"]:
        return None
    keywords = ask.matrix.scenes[ask.scene].keywords
    for other in ask.matrix.scenes.values():
        for word in other.marks:
            if other.name != ask.scene and word in text and word not in keywords:
                return f"出现“{word}”，那是{other.name}"
    return f"没有说到{ask.scene}"


@_reject(
    "风格不符",
    ("祝姐姐生日,小红书风格", "姐姐，祝你生日快乐，天天开心呀！"),
    ("祝李总春节,严肃风格", "李总，祝您新春大吉，万事如意，身体健康，阖家欢乐！"),
)
def wrong_style(text: str, ask: Ask) -> str | None:
    """Too few emoji, an ending or a marker missing, or a word that the style avoids."""
    if ask.verdict(text)["style"]:
        return None
    style = ask.matrix.styles[ask.style]
    found = wishes.count_emoji(text)
    if not style.min_emoji <= found <= style.max_emoji:
        return f"{found} 个表情，{style.name}风格要 {style.min_emoji} 到 {style.max_emoji} 个"
    avoided = next((word for word in style.avoid if word in text), None)
    if avoided:
        return f"出现“{avoided}”，{style.name}风格不用"
    if style.markers and not any(word in text for word in style.markers):
        return f"没有{style.name}风格的用语（{'、'.join(style.markers)}）"
    return f"结尾不是语气词（{'、'.join(style.endings)}）"


@_reject(
    "其他毛病",
    ("祝爷爷生日", "爷爷，愿迷你蛋糕甜到您的心里！"),
    ("祝姐姐生日", "姐姐，这条祝福语送给你，生日快乐！"),
)
def unfit(text: str, ask: Ask) -> str | None:
    """``wishes.check`` still finds something: the net below the other rules."""
    words = {"honorific": "称呼对方的“您”“你”不对", "clean": "还有记号、开场白或不成对的标点"}
    verdict = ask.verdict(text)
    return "；".join(words.get(name, name) for name, good in verdict.items() if not good) or None


RULES: dict[str, Rule] = {rule.name: rule for rule in MENDS + REJECTS}
