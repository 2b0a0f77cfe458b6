"""The cleaning rules, each small, named, and shown by examples that are also its tests.

A *mend* returns a better text; a *reject* returns the reason why a text cannot be trained on, or
None. Both get the text and the request it answers. Mends change what a careful reader would change and
nothing else: wording, marks and emoji that somebody may like stay. They run in order, again and again,
until none of them changes anything; all but ``missing_wish`` make a text shorter or leave its length,
and that one works once, so it ends, and doing it twice is doing it once.

The rejects are the hard faults of ``tianji_helpers.faults``, after the mends, and the pairs of recipient
and scene that nobody would wish.
"""

import re
import unicodedata
from functools import lru_cache, partial

from tianji_helpers import emoji as emojis
from tianji_helpers import faults
from tianji_helpers.faults import Rule, rule
from tianji_helpers.request import Request

MENDS: dict[str, Rule] = {}
PAIRS: dict[str, Rule] = {}
_mend, _reject = partial(rule, MENDS, "mend"), partial(rule, PAIRS, "reject")


# --- what nobody sees -----------------------------------------------------------------------------

_SELECTOR = re.compile(rf"({emojis.ONE})|[\u200d\ufe0e\ufe0f]+|(?<=[#*0-9])\ufe0f?\u20e3")


@_mend(
    "看不见的字符",
    ("祝姐姐生日", "祝姐姐\u200b生日快乐，\u3000天天开心！\r\n", "祝姐姐生日快乐， 天天开心！\n"),
    ("祝姐姐生日", "\ufeff祝姐姐生日快乐\x07！", "祝姐姐生日快乐！"),
    ("祝姐姐康复", "天天都是晴天\ufe0f\ufe0f。早日康复🌬\ufe0f！", "天天都是晴天。早日康复🌬\ufe0f！"),
    ("祝姐姐生日", "阖家欢乐👩\u200d👩\u200d👦\u200d\u200d！", "阖家欢乐👩\u200d👩\u200d👦！"),
)
def invisible(text: str, request: Request) -> str:
    """Drop control, zero-width and half characters, and what joined an emoji and joins nothing now."""
    if not text.isprintable():  # a control, format, half or space character but the plain space
        kept = []
        for character in text.replace("\r\n", "\n").replace("\r", "\n"):
            group = unicodedata.category(character)
            if character in "\n\u200d":
                kept.append(character)
            elif group in ("Zl", "Zp"):
                kept.append("\n")
            elif group == "Zs" or character == "\t":
                kept.append(" ")
            elif group not in ("Cc", "Cf", "Cs"):
                kept.append(character)
        text = "".join(kept)
    if "\u200d" in text or "\ufe0f" in text or "\ufe0e" in text:
        return _SELECTOR.sub(lambda found: found[1] or (found[0] if "\u20e3" in found[0] else ""), text)
    return text


# --- what a chat model says around the wish -------------------------------------------------------

_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|$)\s*", re.DOTALL | re.I)


@_mend("思考过程", ("祝姐姐生日", "<think>\n要温馨一点。\n</think>\n姐姐，生日快乐！", "姐姐，生日快乐！"))
def thinking(text: str, request: Request) -> str:
    """Drop what a model thought aloud."""
    return _THINKING.sub("", text) if "<" in text else text


_FIRST_CHOICE = re.compile(
    r"\A\s*(?:[^\n]{0,40}[：:]\s*\n\s*)?"
    r"(?:(?:版本|祝福语?|方案|选项)?[（(]?(?:1|一|①)[.、）):：]|[-•]\s|①)\s*(?P<first>[^\n]+?)[^\S\n]*\n.*"
    r"(?:(?:版本|祝福语?|方案|选项)?[（(]?(?:2|二|②)[.、）):：]|②).*\Z",
    re.DOTALL,
)
_INLINE = re.compile(r"\A\s*①\s*(?P<first>[^②]*[。！!？?～~])\s*②.*\Z", re.DOTALL)  # no list of words
_OR = re.compile(
    r"(?:\n\s*(?:或者|或是|或|另一版|版本二)[：:，,]?|(?<=[。！～])(?:或者|或是|或)[：:]).*\Z|[（(]或者?[：:][^）)]*[）)]",
    re.DOTALL,
)


@_mend(
    "几个版本里取一个",
    ("祝姐姐生日", "1. 姐姐，生日快乐！\n2. 姐姐，祝你岁岁平安！", "姐姐，生日快乐！"),
    ("祝姐姐生日", "①姐姐，生日快乐！②姐姐，祝你岁岁平安！", "姐姐，生日快乐！"),
    ("祝姐姐生日", "姐姐，生日快乐！\n或者：姐姐，祝你岁岁平安！", "姐姐，生日快乐！"),
)
def first_choice(text: str, request: Request) -> str:
    """Of several wishes to choose from, take the first."""
    if not ("\n" in text or "或" in text or "②" in text) or faults.LISTED.search(text):
        return text
    if found := _FIRST_CHOICE.match(text) or _INLINE.match(text):
        return found["first"]
    shorter = _OR.sub("", text) if "或" in text or "版" in text else text
    return shorter.rstrip() if shorter != text and shorter.strip() else text


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
def title_line(text: str, request: Request) -> str:
    """Drop a first line that is a title, if another line follows; a poem keeps its 《…》."""
    found = _TITLE_LINE.match(text) if "\n" in text else None
    if not found or (request.how and request.how.extra and found[0].lstrip()[0] in "《【"):
        return text
    return text[found.end() :]


_MARKDOWN = re.compile(
    r"```\w*|\*{1,3}(?=\S)|(?<=\S)\*{1,3}|`+|(?<!\w)__(?=\S)|(?<=\S)__(?!\w)"
    r"|^[ \t]*#{1,6}[ \t]+|^[ \t]*>[ \t]+",
    re.MULTILINE,
)
_BULLET = re.compile(r"\A[ \t]*(?:[-•][ \t]+|\d{1,2}[.、][ \t]*(?!\d))")
_MARKDOWN_SIGN = re.compile(r"[`*_#>\-•\d]")  # in whatever the rule looks for


@_mend(
    "Markdown 记号",
    ("祝姐姐生日", "**姐姐**，祝你`生日快乐`！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "- 姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "1. 姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
)
def markdown(text: str, request: Request) -> str:
    """Drop the marks of bold, code, headings, quotes and of a list's first item; the words stay."""
    return _BULLET.sub("", _MARKDOWN.sub("", text)) if _MARKDOWN_SIGN.search(text) else text


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
def preamble(text: str, request: Request) -> str:
    """Drop what a chat model says before the wish; the wish behind it stays."""
    for pattern in (_YES, _ANNOUNCE):
        found = pattern.match(text)
        if found:
            text = text[found.end() :]
    return text


_POSTSCRIPT = re.compile(
    r"\s*(?:[（(](?:[^（）()\n]*\d+\s*字|字数|全文|注[：:])[^（）()\n]*[）)]"
    r"|(?:希望|愿)[您你]?(?:能|会)?喜欢(?:这[条段份个][^，,。！!？?\n]*)?[。！!～~]?"
    r"|希望这[条段份个](?:祝福|文案)[^，,。！!？?\n]*[。！!～~]?"
    r"|以上(?:就)?是[^\n]*"
    r"|如(?:果)?(?:您|你)?需要?[^\n]*(?:修改|调整|告诉我)[^\n]*)\s*$"
)
_POSTSCRIPT_SIGN = re.compile(r"[（(]|喜欢|希望这|以上|如果?[您你]?需")  # in whatever the rule looks for


@_mend(
    "附言",
    ("祝姐姐生日", "姐姐，祝你生日快乐！（共10字）", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "姐姐，祝你生日快乐！希望你喜欢这条祝福！", "姐姐，祝你生日快乐！"),
)
def postscript(text: str, request: Request) -> str:
    """Drop what a chat model says after the wish: a count of characters, an offer to change it."""
    return _POSTSCRIPT.sub("", text) if _POSTSCRIPT_SIGN.search(text) else text


_LABEL = re.compile(
    r"\s*(?:[^，,。！!？?：:\n]{0,10}(?:风格|版|祝福|祝词|贺词|文案|正文|内容|标题|回答|贺)[：:]|【[^】\n]{1,20}】)\s*"
)


@_mend(
    "标签",
    ("祝姐姐生日", "祝福：姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝李总春节,严肃风格", "严肃风格：李总，谨祝您新春大吉。", "李总，谨祝您新春大吉。"),
    ("祝李总春节,严肃风格", "尊敬的李总：谨祝您新春大吉。", "尊敬的李总：谨祝您新春大吉。"),
)
def label(text: str, request: Request) -> str:
    """Drop a label in front; a salutation with a colon (尊敬的李总：) is not one."""
    found = _LABEL.match(text)
    return text[found.end() :] if found else text


_OPEN, _CLOSE = "\"'“‘「『", "\"'”’」』"
_INNER = rf"[^{_OPEN}{_CLOSE}]*"
_WRAPPED = re.compile(
    rf"[{_OPEN}](?P<inside>{_INNER}(?:[“‘「『][^”’」』]*[”’」』]{_INNER})*)[{_CLOSE}](?P<after>[^\w]*)"
)


@_mend(
    "引号",
    ("祝姐姐生日", "“姐姐，祝你生日快乐！”", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", '姐姐，祝你生日快乐！"', "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "「姐姐，祝你生日快乐」🎂", "姐姐，祝你生日快乐🎂"),
    ("祝姐姐春节", "“福”字贴上门，祝你新春快乐！", "“福”字贴上门，祝你新春快乐！"),
    ("祝姐姐生日", "姐姐，愿“好运”常在！", "姐姐，愿“好运”常在！"),
)
def quotes(text: str, request: Request) -> str:
    """Take a wish out of the quotation marks around the whole of it, and drop a mark without a partner."""
    text = text.strip()
    if found := _WRAPPED.fullmatch(text):
        return found["inside"] + found["after"]
    if text[:1] and text[0] in _OPEN and not any(mark in _CLOSE for mark in text[1:]):
        return text[1:]
    if text[-1:] and text[-1] in _CLOSE and not any(mark in _OPEN for mark in text[:-1]):
        return text[:-1]
    return text


# --- what was left of a form ----------------------------------------------------------------------

_EMPTY_SLOT = re.compile(
    r"(?:(?:尊敬的|亲爱的|敬爱的)?(?:先生/女士|女士/先生|大人|长辈|收件人|某某|您|你)[，,：:]"
    r"|[您你]?(?:平辈|师长或上级)[，,]|敬上[您你]?[，,：:]"
    r"|[呀哦啦呢嘛吧哟哒][，,～~！]+|[您你][，,]|[，、。；：！？～,;:!?~. ]+)\s*(?=.)"
)
_CHOICE = re.compile(
    r"^(?P<title>尊敬的|亲爱的|敬爱的)?(?P<one>[^，,：:/！!。\n]{1,6})/(?P<two>[^，,：:/！!。\n]{1,6})(?=[，,：:！!])"
)
_ASIDE = re.compile(
    r"(?<=[\u4e00-\u9fff])[（(](?:[^（）()]{0,20}(?:称呼|平辈|长辈|师长|弟弟妹妹)[^（）()]{0,20}[）)]"
    r"|\s*(?:[您你]|[^（）()，。！\d]{1,8})\s*[）)](?=[，,：:！!]))"
)


_DEBRIS = re.compile(
    rf"[【\[（(](?P<emoji>(?:{emojis.ONE}|\s)+)[】\]）)]"
    r"|\s*\bemoji(?:表情包?)?(?:[：:].*$)?"
    r"|[（(\[【]此处(?:显示|故意|省略|插入|添加)[^）)\]】\n]*[）)\]】]\n?"
    r"|(?:[一-龥]某|某某)(?=顿首|再拜|敬上|拜上|谨上)"
    r"|(?:侄儿|侄子|孙儿|孙子|外孙|弟弟|妹妹|哥哥|姐姐|儿子|女儿|学生|晚辈)/[一-龥]{2}(?=在此|谨|衷心|敬|拜|$)",
    re.IGNORECASE,
)
_DEBRIS_SIGN = re.compile(r"[【\[（(/某Ee]")  # in whatever the pattern above finds


@_mend(
    "空位的残留",
    ("祝姐姐生日", "，祝你生日快乐，岁岁平安！", "祝你生日快乐，岁岁平安！"),
    ("祝医生元宵节", "大人，祝您元宵节快乐！", "祝您元宵节快乐！"),
    ("祝邻居春节", "先生/女士，祝你新春快乐！", "祝你新春快乐！"),
    ("祝医生春节", "医生叔叔/阿姨，祝您新春快乐！", "医生，祝您新春快乐！"),
    ("祝爷爷生日", "爷爷（您），祝您生日快乐！", "爷爷，祝您生日快乐！"),
    ("祝同学生日", "你，祝你生日快乐！", "祝你生日快乐！"),
    ("祝妹妹生日,小红书风格", "呀，生日快乐，天天开心哦！🎂", "生日快乐，天天开心哦！🎂"),
    ("祝堂妹元宵节", "祝堂妹（弟弟妹妹，用“你”称呼）元宵节快乐！", "祝堂妹元宵节快乐！"),
    ("祝叔叔春节", "您的叔叔，新春快乐，身体健康！", "叔叔，新春快乐，身体健康！"),
    ("祝大伯生日", "大伯，侄儿/侄女在此祝您生日快乐！", "大伯，在此祝您生日快乐！"),
    ("祝同事生日,小红书风格", "生日快乐，天天开心哦！【🌟🎂】", "生日快乐，天天开心哦！🌟🎂"),
)
def residue(text: str, request: Request) -> str:
    """Drop what stands where a form of address was left empty or to be chosen."""
    start = text[:24]
    if "/" in start and (found := _CHOICE.match(text)):
        name = next((name for name in request.names if found["one"].startswith(name)), "")
        text = (found["title"] or "") + name + text[found.end() :] if name else text[found.end() :]
    if "（" in start or "(" in start:
        text = _ASIDE.sub("", text[:60], count=1) + text[60:]
    if _DEBRIS_SIGN.search(text):
        text = _DEBRIS.sub(lambda found: found["emoji"] or "", text)
    if start[:1] in ("您", "你", "祝") or "敬上" in start:
        text = _whose(request.names).sub(r"\g<wish>\g<name>，", text)
    if "平辈" in start and request.recipient:
        text = re.sub("(?<=亲爱的|尊敬的)平辈", request.recipient, text, count=1)
    found = _EMPTY_SLOT.match(text)
    return text[found.end() :] if found else text


@lru_cache(maxsize=1024)
def _whose(names: tuple[str, ...]) -> re.Pattern:
    """Return what finds 您的大伯 where 大伯 himself is spoken to."""
    long = [re.escape(name) for name in names if len(name) > 1]
    some = "|".join(long) or "(?!)"
    return re.compile(
        rf"^(?P<wish>祝?)(?:[您你]的?(?=(?:{some})[，,])|(?=(?:{some})敬上))(?P<name>{some})(?:敬上)?[，,：:]"
    )


# --- marks, particles, spaces ---------------------------------------------------------------------

_PARTICLE = "呀啊哦呢啦嘛吧哟喔哒嘞呦哇"
_TAIL_WORD = rf"(?:祝?[{_PARTICLE}]{{1,2}}|祝福你?[{_PARTICLE}]?|哇塞|花儿|祝快乐，?[{_PARTICLE}]?)"
_EMOJI_RUN = rf"(?:{emojis.ONE}|\s)*"
_STRAY = re.compile(
    rf"(?P<mark>[。！？～!?~]+)(?P<between>{_EMOJI_RUN})[，,]?{_TAIL_WORD}"
    rf"(?P<after>(?:{emojis.ONE}|\s|[。！？～!?.~，,])*)$"
)
_COMMA_PARTICLE = re.compile(
    rf"(?P<before>{_EMOJI_RUN})[，、,](?P<between>{_EMOJI_RUN})(?P<word>[{_PARTICLE}])(?=[。！？～!?~]|{_EMOJI_RUN}$)"
)
_STRAY_SIGN = re.compile(rf"[，、。！？～!?~,](?:{_EMOJI_RUN}|，)(?:{_TAIL_WORD})\W*$")


@_mend(
    "标点后面的语气词",
    ("祝姐姐生日,小红书风格", "姐姐，生日快乐！啦~🎂", "姐姐，生日快乐！🎂"),
    ("祝姐姐生日,小红书风格", "🎂姐姐，生日快乐。哦！", "🎂姐姐，生日快乐。"),
    ("祝姐姐生日,小红书风格", "姐姐，愿你天天开心~哒！🎂", "姐姐，愿你天天开心！🎂"),
    ("祝姐姐生日,小红书风格", "姐姐，愿你天天开心～啦！", "姐姐，愿你天天开心～"),
    ("祝姐姐生日,小红书风格", "姐姐，愿你天天开心🎂。祝啦~", "姐姐，愿你天天开心🎂。"),
    ("祝姐姐生日,小红书风格", "姐姐，愿你天天开心🎂，哦！", "姐姐，愿你天天开心🎂哦！"),
    ("祝姐姐生日,小红书风格", "姐姐，愿你幸福满满哒！", "姐姐，愿你幸福满满哒！"),
    ("祝姐姐生日,小红书风格", "姐姐，生日快乐！加油哦～", "姐姐，生日快乐！加油哦～"),
)
def particle(text: str, request: Request) -> str:
    """Drop a particle that was bolted on behind the last mark; behind a comma, drop the comma."""
    if not _STRAY_SIGN.search(text[-40:]):
        return text
    if found := _STRAY.search(text):
        mark = found["mark"]
        if mark == "~" and "！" in found["after"].replace("!", "！"):
            mark = "！"
        emoji_after = re.sub("[。！？～!?.~，,]", "", found["after"])
        return text[: found.start()] + mark.replace("!", "！") + found["between"] + emoji_after
    return _COMMA_PARTICLE.sub(r"\g<before>\g<between>\g<word>", text)


_FULL = str.maketrans(",;!?", "，；！？")
_HALF = re.compile(r"(?<=[\u4e00-\u9fff])[,;!?](?!\d)|[,;!?](?=[\u4e00-\u9fff])")
_POINT = re.compile(r"(?<=[\u4e00-\u9fff])\.(?![A-Za-z0-9.])")
_RUN = re.compile(r"[，。；：、！？～~]{2,}")
_STRANDED = re.compile(rf"(?P<mark>[。！？～~])(?P<emoji>(?:{emojis.ONE}|\s)+)[，、。；：～~]+(?=\s|$)")
_DANGLING = re.compile(rf"(?P<emoji>{emojis.ONE})[，、；：]+$")
_COMMAS, _STOPS = frozenset("，、；："), frozenset("。～~")
_UNEVEN = re.compile(
    r"[，。；：、！？～~,;!?.](?:(?<=[,;!?.])|[，。；：、！？～~\s])"
)  # what it looks for, or more
_STRENGTH = "！？～~。；：，、"


@_mend(
    "标点",
    ("祝姐姐生日", "姐姐,祝你生日快乐!", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日", "姐姐，，祝你生日快乐。！！", "姐姐，祝你生日快乐！"),
    ("祝姐姐生日,小红书风格", "姐姐，生日快乐。🎂🎉，", "姐姐，生日快乐。🎂🎉"),
    ("祝姐姐生日,小红书风格", "姐姐，生日快乐！~", "姐姐，生日快乐！"),
    ("祝姐姐生日", "姐姐，生日快乐，", "姐姐，生日快乐。"),
    ("祝姐姐生日,小红书风格", "岁岁平安^_^。幸福🎂，天天开心~", "岁岁平安^_^。幸福🎂，天天开心~"),
    ("祝姐姐生日", "姐姐，愿你3.5倍快乐，10:30准时吃蛋糕！", "姐姐，愿你3.5倍快乐，10:30准时吃蛋糕！"),
)
def punctuation(text: str, request: Request) -> str:
    """Make Chinese marks Chinese, a run of different marks one mark; no mark is stranded behind an emoji."""
    last = text[-1:]
    stranded = last in _COMMAS or (last in _STOPS and not text[-2:-1].isalnum())
    if not stranded and not _UNEVEN.search(text):
        return text
    text = _POINT.sub("。", _HALF.sub(lambda found: found[0].translate(_FULL), text))
    text = _RUN.sub(_strongest, text)
    text = _STRANDED.sub(r"\g<mark>\g<emoji>", text).rstrip() if _STRANDED.search(text) else text
    text = _DANGLING.sub(r"\g<emoji>", text)
    return re.sub(r"[，、；：,;]$", "。", text)


def _strongest(run: re.Match) -> str:
    """Return the mark that a run of marks comes to."""
    if set(run[0]) == {"。"} and len(run[0]) > 2:
        return "……"
    return "？！" if set(run[0]) == set("？！") else min(run[0], key=_STRENGTH.index)


_TRAILING = re.compile(r"[ \t]+\n|\n{3,}")


@_mend(
    "空格",
    ("祝姐姐生日", " 姐姐， 祝你  生日快乐 ！ ", "姐姐， 祝你 生日快乐！"),
)
def spaces(text: str, request: Request) -> str:
    """Drop spaces at the ends and before a mark; a run of spaces is one, a run of blank lines one."""
    text = text.strip()
    if " " in text:
        text = re.sub(r"(?<=\S) {2,}", " ", text)
        text = re.sub(r"(?<=[\u4e00-\u9fff]) (?=[，。；：、！？～])", "", text)
    return (
        _TRAILING.sub(lambda found: "\n" if found[0].strip("\n") else "\n\n", text) if "\n" in text else text
    )


_ODD_EMOJI = re.compile("[🤔😡😠🤬💀☠😭😢💩🙄😒😞😔🖕👎🤢🤮]\ufe0f?")


@_mend(
    "不合适的表情",
    ("祝姐姐生日", "姐姐，祝你生日快乐！🎂", "姐姐，祝你生日快乐！"),
    ("祝赵老师中秋节,小红书风格", "赵老师，中秋节快乐，笑口常开！🤔", "赵老师，中秋节快乐，笑口常开！"),
)
def emoji(text: str, request: Request) -> str:
    """Drop the emoji where the style has none, and those that no wish wants."""
    if not emojis.contains(text):
        return text
    if request.how and not (request.how.max_emoji or request.how.extra):
        return emojis.strip(text).rstrip(" ")
    return _ODD_EMOJI.sub("", text)


# --- words ----------------------------------------------------------------------------------------

_ONE_PERSON = frozenset(("生日", "康复", "工作升职", "退休", "比赛取得好成绩", "谈判顺利"))
_SPEECH = re.compile("[“「‘][^”」’]*[你您]|我?就?知道[你您]|[说问讲道][：:]")  # somebody is quoted
_NI = re.compile(r"(?<!迷)你(?!们|我|追)")


@_mend(
    "您和你",
    ("祝邻居赵大妈春节", "赵大妈，祝你春节快乐！", "赵大妈，祝您春节快乐！"),
    ("祝妹妹生日", "尊敬的妹妹，祝您生日快乐！", "亲爱的妹妹，祝你生日快乐！"),
    ("祝爷爷生日", "爷爷，愿迷你蛋糕甜到你心里！", "爷爷，愿迷你蛋糕甜到您心里！"),
    ("祝叔叔除夕", "叔叔，祝您们除夕快乐！", "叔叔，祝你们除夕快乐！"),
    ("祝老板春节", "老板，祝您新春快乐，愿你财源滚滚！", "老板，祝您新春快乐，愿您财源滚滚！"),
)
def pronoun(text: str, request: Request) -> str:
    """Say 您 to whom the matrix calls 您, 你 to the others; and to nobody both in one wish."""
    if "您" in text:
        text = text.replace("您您", "您").replace("您们", "您" if request.scene in _ONE_PERSON else "你们")
    if request.who and request.who.kind == "younger" and text.startswith("尊敬的"):
        text = "亲爱的" + text[3:]
    wrong = request.wrong_pronoun
    both = "您" in text and "你" in text
    if (wrong == "你" or (both and not wrong and request.who)) and "你" in text:
        return text if _SPEECH.search(text) else _NI.sub("您", text)
    if wrong == "您" and "您" in text:
        return text if _SPEECH.search(text) else text.replace("您", "你")
    return text


_BARE = re.compile(
    r"(?P<before>(?:[\u4e00-\u9fff]{1,5}[，！])?)"
    r"(?=[您你](?:[^，。！？～的们得了]{0,6}(?:快乐|安康|吉祥|健康|平安|顺利|幸福)[^的]|在?新的一年))"
    r"(?![您你](?:在?新的一年，)?[^，。！～\n]*[吗？?])"  # a question is no wish
)


@_mend(
    "缺了“祝”字",
    ("祝大舅生日", "您生日快乐，愿身体健康！", "祝您生日快乐，愿身体健康！"),
    ("祝赵老师元宵节", "赵老师，您元宵节快乐！", "赵老师，祝您元宵节快乐！"),
    ("祝表妹春节", "你新的一年，事业蒸蒸日上！", "祝你新的一年，事业蒸蒸日上！"),
    ("祝同学中秋节", "你快乐吗？祝你中秋节快乐！", "你快乐吗？祝你中秋节快乐！"),
    ("祝大舅生日", "您快乐吗？愿您天天开心！", "您快乐吗？愿您天天开心！"),
    ("祝表妹春节", "你新的一年，有什么愿望？", "你新的一年，有什么愿望？"),
)
def missing_wish(text: str, request: Request) -> str:
    """Put the 祝 in front of 您生日快乐, where the wish begins; the one mend that makes a text longer."""
    found = _BARE.match(text)
    name = found and found["before"][:-1]
    if not found or (name and name not in request.names):
        return text
    return f"{found['before']}祝{text[found.end() :]}"


_AGAIN = re.compile(r"(?P<words>[\u4e00-\u9fff]{3,12})(?:[，、](?P=words))+(?=[，。！～、]|$)")


_SEQUENCE = re.compile(
    r"(?<=，)(?P<words>[^，。！]{3,12}(?:，[^，。！]{3,12}){1,3})，(?P=words)(?=[，。！]|$)"
)
_SAID = re.compile(r"(?P<words>[\u4e00-\u9fff]{3,8})，[祝愿][您你](?P=words)，")
# where the words before a mark end as those before the next mark do: in whatever the two above find
_ECHO = re.compile(r"[，、](?<=([\u4e00-\u9fff])[，、])[\u4e00-\u9fff]{3,14}(?<=\1)(?:[，。！～、]|$)")


@_mend(
    "连说几遍",
    ("祝姐姐生日", "姐姐姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝母亲生日", "妈妈，妈妈，祝您生日快乐！", "妈妈，祝您生日快乐！"),
    ("祝李总春节,严肃风格", "尊敬的尊敬的李总，谨祝您新春大吉。", "尊敬的李总，谨祝您新春大吉。"),
    ("祝姐姐生日", "姐姐，祝你生日快乐！姐姐，祝你生日快乐！", "姐姐，祝你生日快乐！"),
    ("祝妹妹工作升职", "妹妹，愿你事业蒸蒸日上，蒸蒸日上，蒸蒸日上。", "妹妹，愿你事业蒸蒸日上。"),
)
def doubled(text: str, request: Request) -> str:
    """Say once what stands twice in a row: a form of address, or some words between commas."""
    clauses = faults.split_clauses(text)
    if len(set(clauses)) < len(clauses):
        text = _SEQUENCE.sub(r"\g<words>", text)
        half = len(text) // 2  # the whole of it twice
        text = text[-half:] if half > 4 and text[:half] == text[-half:] else text
        clauses = faults.split_clauses(text)
    if _ECHO.search(text):
        text = _SAID.sub(r"\g<words>，", _AGAIN.sub(r"\g<words>", text))
    start = text[:16]  # where somebody is addressed
    twice = _twice(request.names)
    return twice.sub(r"\1", start) + text[16:] if twice.search(start) else text


@lru_cache(maxsize=1024)
def _twice(names: tuple[str, ...]) -> re.Pattern:
    long = [re.escape(name) for name in names if len(name) > 1]
    return re.compile(rf"({'|'.join((*long, '尊敬的', '亲爱的'))})(?:[，、]?\1)+(?=[，,、：:！祝愿\w])")


_TYPOS = {
    "棕香": "粽香", "棕子": "粽子", "棕叶": "粽叶", "吃棕": "吃粽", "元霄": "元宵", "重阳结": "重阳节",
    "繁华似锦": "繁花似锦", "再接再励": "再接再厉", "万事如易": "万事如意",
    "蒸蒸日尚": "蒸蒸日上", "兴高彩烈": "兴高采烈", "鹏程万理": "鹏程万里", "心想是成": "心想事成",
}  # fmt: skip
_TEACHERS = ("赵老师", "导师", "班主任", "师傅")
_PUPILS = re.compile("[，、]桃李(?:满园|芬芳|满天下|成蹊)(?=[，。！])")
_TYPO = re.compile("|".join(_TYPOS))  # apart from the next: in one pattern both are slow
_SLIP = re.compile(
    r"(?:的(?<=[您你]的)|这次(?<=[您你]这次)|在(?<=[一-龥]在))(?=身体健康[，。！]|(?:生日|新年|新春|[一-龥]{2}节|除夕|春节)(?:快乐|安康))"
)


@_mend(
    "错别字和病句",
    ("祝伯母端午节,小红书风格", "愿棕香飘满屋，端午安康呀！🎉", "愿粽香飘满屋，端午安康呀！🎉"),
    ("祝赵老师中秋节", "愿赵老师在中秋节快乐！", "愿赵老师中秋节快乐！"),
    ("祝妹妹端午节", "愿你的端午节快乐！", "愿你端午节快乐！"),
    ("祝李总康复", "李总，祝您早日康复，桃李满园。", "李总，祝您早日康复。"),
)
def wording(text: str, request: Request) -> str:
    """Mend the slips of the pen that wishes are known for."""
    if "桃李" in text and request.who and request.who.name not in _TEACHERS:
        text = _PUPILS.sub("", text)
    return _TYPO.sub(lambda found: _TYPOS[found[0]], _SLIP.sub("", text))


# --- rejects of a pair; those of a text are in ``faults`` -------------------------------------------

ABSURD, UNSUITABLE = "absurd_pair", "unsuitable"


@_reject("荒唐的组合", ("祝奶奶新婚快乐", "奶奶，祝您新婚快乐，百年好合！"))
def absurd_pair(text: str, request: Request) -> str | None:
    """Nobody would wish this recipient this, whatever the words."""
    return unsuitable(text, request) if request.misfit and request.misfit.absurd else None


@_reject("矩阵以外的组合", ("祝爷爷七夕节", "爷爷，祝您七夕节快乐，天天开心！"))
def unsuitable(text: str, request: Request) -> str | None:
    """The matrix leaves this pair out; a policy, so this rule has a switch of its own."""
    misfit = request.misfit
    return f"不给{request.recipient}送{request.scene}的祝福：{misfit.why}" if misfit else None


RULES = MENDS | faults.FAULTS | PAIRS
if len(RULES) < len(MENDS) + len(faults.FAULTS) + len(PAIRS):
    raise AssertionError("two rules of different kinds have one name")
