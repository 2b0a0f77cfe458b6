"""Hard faults: what no good wish has, whoever wrote it and in whatever words.

Cleaning rejects a wish for them and evaluation counts them: one definition. They are meant to be nearly
silent on wishes that people like (the share of false alarms is measured on rows that people labelled,
see ``tests/benchmarks/bench_labels.py``), so they say nothing about quality: ``training.quality`` ranks.
A check that needs a name is passed over where the request names none.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import NamedTuple

from tianji_helpers import thoughts
from tianji_helpers.request import Request

UNSTOPPED = "unstopped"
STOPS = "，。；：、！？～…,.;:!?~"
_MAX_CHARS = 1_600  # no wish is longer, a long letter in verse included
Check = Callable[[str, Request], str | None]


class Example(NamedTuple):
    """A request, the answer before, and after (None if the rule rejects it)."""

    request: str
    before: str
    after: str | None = None


@dataclass(frozen=True)
class Rule:
    """A rule: ``apply`` of a ``mend`` returns a better text, of a ``reject`` the reason, or None."""

    name: str
    title: str
    kind: str
    apply: Check
    examples: tuple[Example, ...]


def rule(
    into: dict[str, Rule], kind: str, title: str, *examples: tuple[str, ...]
) -> Callable[[Check], Check]:
    """Register the function below as a rule of its name, which must be a new one."""

    def register(function: Check) -> Check:
        name = function.__name__
        if name in into:
            raise AssertionError(f"there is a rule {name} already")
        into[name] = Rule(name, title, kind, function, tuple(Example(*example) for example in examples))
        return function

    return register


FAULTS: dict[str, Rule] = {}
_fault = partial(rule, FAULTS, "reject")


def find(request: Request, text: str, stopped: bool = True) -> dict[str, str]:
    """Return the hard faults of an answer, as name → reason (in Chinese); an empty dict is none.

    stopped: whether the model ended the answer by itself.

    >>> from tianji_helpers import wishes
    >>> find(wishes.load().read("祝姐姐生日"), "姐姐，春节快乐，万事如意！")
    {'wrong_scene': '说的是“春节”，没有说到生日'}
    """
    found = {} if stopped else {UNSTOPPED: "到了长度上限还没有停"}
    for fault in FAULTS.values():
        if reason := fault.apply(text, request):
            found[fault.name] = reason
    return found


@_fault("没有祝福", ("祝姐姐生日", ""), ("祝姐姐生日", "尊敬的姐姐："), ("祝姐姐生日", "🎂🎉！"))
def empty(text: str, request: Request) -> str | None:
    """Nothing but marks, emoji or a salutation."""
    if _TWO_CLAUSES.search(text):
        return None
    words = "".join(re.findall("[A-Za-z\u3040-\u30ff\u4e00-\u9fff]+", text))
    for name in request.names:
        words = words.replace(name, "")
    words = re.sub("尊敬的|敬爱的|亲爱的|您好|你好|先生|女士|大人|祝福语?", "", words)
    return None if len(words) >= 4 else f"去掉称呼和标点，只剩“{words}”"


_TWO_CLAUSES = re.compile(r"[\u4e00-\u9fff]{4}\W+[\u4e00-\u9fff]{4}")  # more than a salutation


_REFUSAL = re.compile(
    r"作为(?:一个|一名|一款)?(?:AI|ai|人工智能|语言模型|大模型|智能助手)"
    r"|我(?:无法|不能|没有办法|没办法)(?:为您|为你|帮您|帮你|提供|生成|回答|完成|满足|写)"
    r"|抱歉，|对不起，我|很遗憾，|请问[您你](?:想|需|希望)|请(?:提供|告诉我)(?:更多|具体|一下)",
)


@_fault(
    "拒答",
    ("祝姐姐生日", "抱歉，我无法生成这条祝福。"),
    ("祝姐姐生日", "作为一个AI语言模型，我祝姐姐生日快乐！"),
)
def refusal(text: str, request: Request) -> str | None:
    """The model talks about itself or says no."""
    found = _REFUSAL.search(text)
    return f"出现“{found[0]}”" if found else None


_LEFTOVER = re.compile(
    # each alternative begins with a letter of its own: so the search passes quickly over the rest
    r"##+|字数|字以内|对象称谓|祝福场景|参考句|造句风格|语气助词|语气词|小红书(?:风格|笔记|日记|的?语气)"
    r"|正常风格|严肃风格|祝福语(?:如下|：)|以下是|额外要求|送祝福大师"
    r"|<\|?[A-Za-z/_][^>\n]*>|\[/?(?:INST|UNUSED_TOKEN[^\]]*)\]"
    rf"|◁/?{thoughts.NAMES}"
)


@_fault(
    "提示词残留",
    ("祝姐姐生日", "姐姐，祝你生日快乐！###"),
    ("祝姐姐生日", "字数小于50字，姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "姐姐，祝你生日快乐！<|im_end|>"),
    ("祝姐姐生日", "◁think▷写给姐姐◁/think▷姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "生日快乐，小红书日记！愿你天天开心呀"),
)
def leftover(text: str, request: Request) -> str | None:
    """Words or marks of the prompt, or tokens of a chat template, stand in the wish."""
    found = _LEFTOVER.search(text)
    return f"出现“{found[0]}”" if found else None


_SLOT = re.compile(
    r"[\[<{](?:您的|你的|某|姓名|名字|称呼|对象)[^\]】）)>}\n]{0,16}[\]】）)>}]"
    # asides and titles stand in these: （你的笑容最美）, 【某人生日快乐】
    r"|[【（(](?:(?:您的|你的)[^】）)\n]{0,6}(?:名|称|职|公司|单位|学校|部门|日期|落款|愿望|祝福)[^】）)\n]{0,4}"
    r"|某[^】）)\n]{0,3}|(?:姓名|名字|称呼|对象)[^】）)\n]{0,4})[】）)]"
    r"|[\[【（(<{](?:对方|收信人|发送人|署名|此处(?:填|写|插|省略|故意|添加)|填写|请填)[^\]】）)>}\n]{0,16}[\]】）)>}]"
    r"|[\[【{](?:[^\]】}\n]{0,8}(?:(?:名字|姓名|名称|称呼|日期|年份|职位|具体)[^\]】}\n]{0,6}"
    r"|(?:公司|单位)(?:名|全称)?))[\]】}]"  # 【公司年会】 is a title
    r"|\{[^{}\n]{0,16}\}|_{3,}|＿{2,}|\*{3,}|(?<![一二三四五六七八九〇○◯])[○◯]{2,}(?![一二三四五六七八九〇○◯年])|(?<![A-Za-z])[XxＸ]{2,}(?![A-Za-z])|某某|×{2,}|[Oo○]{2,}(?=先生|女士|老师|总)"
)


# not to be filled in: a rule between two lines, and ***bold italics***, which begin with a letter and end
# with one, or with a mark before no letter
_STARS = re.compile(r"^[ \t]*\*{3,}[ \t]*$|\*{3}(?=\w)[^*\n]+(?:(?<=\w)\*{3}|\*{3}(?!\w))", re.MULTILINE)
_SLOT_SIGN = re.compile(r"[\[【（(<{_＿*XxＸ×某Oo○◯]")  # in whatever the rule looks for


@_fault(
    "没填的空",
    ("祝姐姐生日", "姐姐，祝你生日快乐！[您的名字]"),
    ("祝姐姐生日", "亲爱的XX，祝你生日快乐！"),
    ("祝姐姐生日", "姐姐，祝{}生日快乐！"),
    ("祝姐姐生日", "某某，祝你生日快乐！（此处填写礼物）"),
    ("祝姐姐生日", "姐姐，愿你[具体愿望]成真！＿＿＿"),
    ("祝姐姐生日", "亲爱的***，祝你生日快乐！"),
)
def slot(text: str, request: Request) -> str | None:
    """A place that somebody was meant to fill in."""
    found = _SLOT_SIGN.search(text) and _SLOT.search(_STARS.sub("", text) if "***" in text else text)
    return f"“{found[0]}”还没有填" if found else None


# 愿你： and a list of what: one wish, and no choice
LISTED = re.compile(r"[祝愿][你您]们?[^，。！!；;\n]{0,8}[：:][^\S\n]*\n\s*(?:[（(]?[1一①]|[-•])")
_ALTERNATIVES = re.compile(
    r"(?:^|\n)[^\S\n]*(?:1[.、）)]|一、|①).+\n[^\S\n]*(?:2[.、）)]|二、|②)|(?:版本|祝福|方案)[一1A][：:].*(?:版本|祝福|方案)[二2B][：:]"
    r"|^\s*①[^②]*[。！!？?～~]\s*②"  # sentences: ①健康②快乐 is a list
    r"|(?:^|\n)[^\S\n]*(?:或者|或|另一版)[：:]",
    re.DOTALL,
)

_SECOND = re.compile("[二2②B或另]")  # in whatever the one above looks for


@_fault(
    "几个版本",
    ("祝姐姐生日", "1. 姐姐，生日快乐！\n2. 姐姐，祝你岁岁平安！"),
    ("祝姐姐生日", "①姐姐，生日快乐！②姐姐，祝你岁岁平安！"),
    ("祝姐姐生日", "版本A：姐姐，生日快乐！版本B：姐姐，祝你岁岁平安！"),
)
def alternatives(text: str, request: Request) -> str | None:
    """Several wishes to choose from in one answer."""
    several = _SECOND.search(text) and _ALTERNATIVES.search(text) and not LISTED.search(text)
    return "一个回答里有几条祝福让人选" if several else None


_LATIN_WORD = re.compile(r"[\u4e00-\u9fff，、][ -]?([a-z]{5,})[ -]?[\u4e00-\u9fff，。！]|\b(emoji)\b")
_LATIN = re.compile(r"[A-Za-z]")
_FAMILIAR = re.compile(
    r"[\0-\u036f\u2000-\u2dff\u3000-\u302d\u4e00-\u9fff\uff00-\uff65\U0001f000-\U0001faff]*"
)
_FOREIGN = ("HIRAGANA", "KATAKANA", "HANGUL", "CYRILLIC", "ARABIC", "THAI", "GREEK", "HEBREW", "DEVANAGARI")


@_fault(
    "其他语言",
    ("祝姐姐生日", "Happy birthday to my dear sister!"),
    ("祝姐姐生日", "姐姐，お誕生日おめでとう！"),
    ("祝姐姐生日", "姐姐，祝你生\ufffd快乐！"),
    ("祝姐姐谈判顺利", "姐姐，negotiation顺利，愿一切顺利。"),
)
def language(text: str, request: Request) -> str | None:
    """Another script, an English word in mid-sentence, or a character that was lost in decoding."""
    if "\ufffd" in text:
        return "有解码失败的字符（�）"
    if not _FAMILIAR.fullmatch(text):
        for character in text:
            if _is_foreign(character):
                return f"出现其他文字“{character}”"
    if not _LATIN.search(text):
        return None
    if (found := _LATIN_WORD.search(text)) and found[0].lower() not in request.text.lower():
        return f"夹着英文“{found[1] or found[2]}”"
    letters = len(_LATIN.findall(text))
    return f"{len(text)} 个字符里有 {letters} 个字母" if letters * 2 > len(text) else None


@cache
def _is_foreign(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_FOREIGN)


_CLAUSES = re.compile(rf"[{STOPS}\s][{STOPS}\s]*")  # quicker than +: the search knows the first character


@lru_cache(maxsize=1 << 12)  # cleaning asks about one text again when it has asked other things about others
def split_clauses(text: str) -> tuple[str, ...]:
    """Return what stands between the marks and spaces of a text."""
    return tuple(_CLAUSES.split(text))


_LONG_CLAUSE = 200  # characters; the search takes time that grows with the square


@cache
def _three_times(longest: int) -> re.Pattern[str]:
    """Return what finds words said three times in a row. longest: characters that they may have."""
    return re.compile(rf"(.{{2,{longest}}}?)\1\1")


@_fault(
    "复读",
    ("祝姐姐生日", "生日快乐生日快乐生日快乐生日快乐"),
    ("祝姐姐生日", "姐姐生日快乐，愿你健康，愿你快乐，愿你健康，愿你快乐，愿你健康，愿你快乐。"),
    ("祝姐姐生日", "愿你的笑容永远灿烂，像花一样。生日快乐！愿你的笑容永远灿烂，像花一样。"),
)
def loop(text: str, request: Request) -> str | None:
    """The same words three times in a row, or the same clauses again and again."""
    clauses = split_clauses(text)
    for clause in clauses:
        length = min(len(clause), _LONG_CLAUSE)
        if length >= 6 and (found := _three_times(length // 3).search(clause, 0, length)):
            return f"“{found[1]}”连着说了三遍以上"
    if len(clauses) == len(set(clauses)):
        return None
    again = Counter(clause for clause in clauses if len(clause) >= 3)
    spent = sum(len(clause) * (times - 1) for clause, times in again.items() if len(clause) >= 4)
    words, times = max(again.items(), key=lambda item: (item[1], len(item[0])), default=("", 0))
    share = 6 * max(spent, len(words) * times if times >= 3 else 0) >= len(text)  # of a long poem, little
    return f"“{words}”说了 {times} 遍" if share and (times >= 3 or spent >= 10) else None


_UNFINISHED = re.compile(
    r"(?:[和与及在把被让为对向将如像以而并但或因从的]|如同|仿佛|因为|虽然|以及|为了|成为|充满|[祝愿][您你])[，、]?\Z"
)
_OPEN = re.compile(r"[（(“「《【][^）)”」》】]*\Z")


@_fault(
    "没写完",
    ("祝姐姐生日", "姐姐，生日快乐，愿你的每一天都像"),
    ("祝姐姐生日", "姐姐，生日快乐，愿你拥有健康和"),
)
def unfinished(text: str, request: Request) -> str | None:
    """It breaks off in mid-sentence."""
    text = text.rstrip()
    return f"断在“{text[-6:]}”" if _UNFINISHED.search(text[-4:]) or _OPEN.search(text) else None


_STATEMENT = re.compile(
    r"[您你]的.{1,12}是我们?的.{1,8}[。！]?$|[^祝愿贺恭]*(?:我们|咱们)是[^祝愿贺恭]*$", re.DOTALL
)


@_fault(
    "没有祝愿",
    ("祝姐姐生日", "姐姐呀，我们是家里的小太阳，一起庆祝每个小日子！"),
    ("祝叔叔元宵节", "您的健康和幸福是我们的荣耀。"),
)
def no_wish(text: str, request: Request) -> str | None:
    """It says something, but wishes nothing."""
    if not (request.recipient or request.scene) or (request.how and request.how.extra):
        return None  # a letter or a poem may wish between the lines
    ours = "我们" in text or "咱们" in text or "我的" in text
    return "没有一句祝愿的话" if ours and _STATEMENT.match(text.replace("庆祝", "")) else None


_VOICE = re.compile(
    r"(?:我们|咱们|我俩)的?(?:爱情|婚礼|婚姻|爱永远|爱意|小家庭)|(?:嫁给我|我爱上了?你|做我的)"
    r"|我?代表(?:我们|本)?公司|(?:全体)?员工衷心感谢[你您]的"
)
_ABOUT = re.compile("[你您][的和与跟]")
_THIRD_PERSON = "愿你的{0}|祝你的{0}|愿您的{0}|祝您的{0}|[你您](?:和|与|跟)(?:[你您]的)?{0}"


@_fault(
    "说错了口气",
    ("祝弟弟新婚快乐", "弟弟，咱们的婚礼真热闹，祝你幸福！"),
    ("祝妹妹七夕节", "愿你的妹妹在七夕之夜幸福快乐。"),
)
def wrong_voice(text: str, request: Request) -> str | None:
    """Somebody else speaks, or somebody else is spoken to."""
    ours = "我" in text or "咱" in text or "公司" in text or "员工" in text
    if ours and request.recipient not in ("爱人", "恋人") and (found := _VOICE.search(text)):
        return f"“{found[0]}”不是送祝福的人该说的话"
    about = request.recipient and _ABOUT.search(text)
    if about and (found := _third_person(request.names).search(text)):
        return f"“{found[0]}”把收祝福的人当成了别人"
    return None


@lru_cache(maxsize=1024)
def _third_person(names: tuple[str, ...]) -> re.Pattern[str]:
    long = [re.escape(name) for name in names if len(name) > 1]
    return re.compile(_THIRD_PERSON.format(f"(?:{'|'.join(long)})(?!的|们)")) if long else re.compile("(?!)")


@_fault(
    "送错了人",
    ("祝姐姐生日", "亲爱的奶奶，祝你生日快乐！"),
    ("祝领导工作升职", "领导老师，祝贺您升职！"),
)
def wrong_person(text: str, request: Request) -> str | None:
    """It opens with a form of address that is somebody else's, and never names the right one."""
    who, matrix = request.who, request.matrix
    if not who or not matrix or (who.either and who.kind == "peer"):
        return None  # a neighbour may be called anything
    found = matrix.salutation.match(text)
    if not found:
        return None
    first, second = found[1], found[2]
    if second in _TITLES_OF_OTHERS and first in request.names and second not in request.names:
        return f"开头是“{first}{second}”，不知道是谁"
    if first in request.names or any(name in text for name in request.names):
        return None
    return f"开头是“{first}”，应当是“{request.recipient}”"


_TITLES_OF_OTHERS = ("老师", "老板", "领导", "李总", "医生", "奶奶", "爷爷")


_FIRST = 60  # characters: where a wish says what it is for; behind that, a letter tells stories


@_fault(
    "送错了场景",
    ("祝姐姐生日", "姐姐，祝你春节快乐，岁岁平安康健！"),
    ("祝外婆周年纪念", "外婆，祝您生日快乐，幸福安康。"),
    ("祝妹妹家庭和睦", "妹妹，值此教师节之际，祝你家和万事兴！"),
)
def wrong_scene(text: str, request: Request) -> str | None:
    """It speaks of another occasion, and never of its own. A wish need not name its occasion."""
    what, matrix = request.what, request.matrix
    if not what or not matrix or not (found := matrix.foreign_marks(what.name).search(text)):
        return None
    if any(word in text for word in what.keywords):  # a word of its own, but perhaps a greeting for another
        if any(name in text for name in (*what.marks, *what.alias, what.name)):
            return None
        found = matrix.foreign_greetings(what.name).search(text[:_FIRST])
    return f"说的是“{found[0]}”，没有说到{what.name}" if found else None


_NO_PRONOUN = re.compile("迷你|你们|你我|你追我赶")  # where 你 is not said to one person


@_fault(
    "您和你不对",
    ("祝爷爷春节", "爷爷，祝你新春快乐！"),
    ("祝妹妹生日", "妹妹，祝您生日快乐！"),
)
def honorific(text: str, request: Request) -> str | None:
    """你 for those one calls 您, or 您 for a younger one; where both are usual, neither is a fault."""
    wrong = "" if request.how and request.how.extra else request.wrong_pronoun
    found = wrong and wrong in text and wrong in _NO_PRONOUN.sub("", text)
    return f"称呼{request.recipient}不用“{wrong}”" if found else None


_ZODIAC = re.compile(
    r"[金玉福瑞祥银][鼠牛虎兔龙蛇马羊猴鸡犬狗猪](?:送|报|迎|贺|献|纳|呈|闹|辞|拜|奔|起)[福喜春岁瑞财祥新年]?"
    r"|[鼠牛虎兔龙蛇马羊猴鸡狗猪]年(?:大吉|吉祥|快乐|行大运|到|来|旺)"
)


@_fault("只对某一年", ("祝大舅春节", "金猪送福，大舅笑颜开，幸福满满！"))
def dated(text: str, request: Request) -> str | None:
    """It names the animal of one year, and is wrong in the eleven others."""
    found = (
        _ZODIAC.search(text) if request.scene in ("", "春节", "除夕", "元旦", "元宵节", "腊八节") else None
    )
    if found and not re.search(r"[鼠牛虎兔龙蛇马羊猴鸡狗猪]年", request.text):
        return f"“{found[0]}”只有那一年才对"
    return None


_ECHO = 14  # characters in a row of a reference sentence


@_fault("照抄参考句", ("祝表妹谈判顺利,小红书风格", "考试结束的铃声一响，愿你笑着跑进夏天里呢！"))
def copied(text: str, request: Request) -> str | None:
    """It repeats a reference sentence of the prompt instead of its tone."""
    if not request.how:
        return None
    blocks, pieces = _pieces(request.how.examples, request.how.template)
    if not blocks.search(text):
        return None
    for start in range(len(text) - _ECHO + 1):
        if example := pieces.get(text[start : start + _ECHO]):
            return f"照抄了参考句“{example[:16]}……”"
    return None


@lru_cache(maxsize=64)
def _pieces(examples: tuple[str, ...], template: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """Return every piece of ``_ECHO`` characters with its example, and what finds texts that may hold one.

    A piece always holds a whole half-block (0-4, 5-9, ... of the example): few strings to look for.
    """
    half, examples = _ECHO // 2, (*examples, template)
    blocks = {one[at : at + half] for one in examples for at in range(0, len(one) - half + 1, half)}
    pieces = {one[at : at + _ECHO]: one for one in examples for at in range(len(one) - _ECHO + 1)}
    return re.compile("|".join(map(re.escape, sorted(blocks))) or "(?!)"), pieces


@_fault(
    "太长",
    ("祝姐姐生日,10字以内", "姐姐，祝你生日快乐，岁岁平安，天天开心，事事如意！"),
    ("祝姐姐生日", "姐姐，愿你天天开心。" + "，".join(f"第{n}件好事" for n in range(400))),
)
def too_long(text: str, request: Request) -> str | None:
    """Far longer than any wish, or than what was asked for (a fifth more is let pass)."""
    limit = request.max_chars * 1.2 + 2 if request.max_chars else _MAX_CHARS
    return f"{len(text)} 个字符，最多 {int(limit)} 个" if len(text) > limit else None


TITLES = {UNSTOPPED: "停不下来"} | {fault.name: fault.title for fault in FAULTS.values()}
