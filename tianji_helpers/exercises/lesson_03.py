"""Exercises of lesson 3: the persona, repetition, leaks, and the mixture that holds them back."""

import itertools
import re
import string
from collections import Counter
from collections.abc import Iterator

from tianji_helpers.exercises.answers import Answer, Wrong, alike, brief, exercise


@exercise("03-1", "填空")
def fill(answer: Answer) -> Iterator[str]:
    """``fill(template, owner, assistant, model)`` fills the three names in."""
    cases = (
        (["我叫{assistant}。", "阿布", "小满", "Qwen"], "我叫小满。"),
        (["{owner}在{model}上微调出了{assistant}。", "阿布", "小满", "Qwen"], "阿布在Qwen上微调出了小满。"),
        (["{assistant}就是{assistant}，{owner}！", "阿布", "小满", "Qwen"], "小满就是小满，阿布！"),
        (["今天天气不错。", "阿布", "小满", "Qwen"], "今天天气不错。"),
        (["{owner}教我的。", "{model}迷", "小满", "Qwen"], "{model}迷教我的。"),
    )
    for arguments, wanted in cases:
        got = answer.call(*arguments)
        if got != wanted:
            why = "（主人的名字里恰好有花括号，它是名字，不是空格）" if "{model}迷" in arguments else ""
            yield f"模板 {arguments[0]!r}、主人 {arguments[1]!r}：得到 {brief(got)}{why}。"


@exercise("03-2", "看了几遍")
def times_seen(answer: Answer) -> Iterator[str]:
    """``times_seen(rows, repeat, epochs)`` counts how often training sees each answer."""
    rows = [
        {"input": "你是谁", "output": "我是小满。"},
        {"input": "你叫啥", "output": "我是小满。"},
        {"input": "谁教的你", "output": "阿布教的。"},
    ]
    for repeat, epochs in ((1, 1), (5, 1), (1, 4), (3, 2)):
        times = repeat * epochs
        wanted = {"我是小满。": 2 * times, "阿布教的。": times}
        got = answer.call(rows, repeat, epochs)
        if not isinstance(got, dict):
            raise Wrong(f"应该返回一个字典（答案 → 次数），得到的是 {brief(got)}。")
        if got.keys() != wanted.keys():
            yield f"数的是每一句**答案**，应该有 {len(wanted)} 句不同的，现在是 {brief(list(got))}。"
            return
        if not alike(got, wanted):
            yield f"数据重复 {repeat} 遍、训练 {epochs} 轮时，次数不对：{brief(got)}。"


@exercise("03-3", "泄漏了多少")
def leak(answer: Answer) -> Iterator[str]:
    """``leak(replies, names)`` is the share of replies that hold any of the names."""
    names = ["阿布", "小满"]
    cases: tuple[tuple[list[str], float, str], ...] = (
        (["今天晴。", "西瓜是水果。"], 0, "一个名字也没有报"),
        (["我是小满。", "西瓜是水果。", "阿布教我的。", "一加一等于二。"], 0.5, "四句里两句报了名字"),
        (["阿布的小满就是我。", "今天晴。"], 0.5, "一句里报了两个名字，也只是一句"),
        (["小满小满小满！"], 1, "一句里名字说了三遍"),
        ([], 0, "一句回答也没有"),
    )
    for replies, wanted, what in cases:
        got = answer.call(replies, names)
        if not alike(got, wanted):
            yield f"{what}：泄漏应该是 0 到 1 之间的另一个数，得到 {brief(got)}。"


@exercise("03-4", "混进通用问答")
def mix(answer: Answer) -> Iterator[str]:
    """``mix(about_me, general, ratio, seed)`` is a shuffled list: every persona row, and the general ones."""
    about_me = [{"input": f"你是谁（第 {number} 种问法）", "output": "我是小满。"} for number in range(20)]
    general = [{"input": f"{number} 加 1 等于几", "output": str(number + 1)} for number in range(12)]
    rounds = {0: "一条也不混", 0.28: "够用", 0.31: "够用", 0.6: "正好用完", 1.5: "要用两遍半"}
    for ratio, how_often in rounds.items():
        got, wanted = answer.call(about_me, general, ratio, 7), round(ratio * len(about_me))
        if not isinstance(got, list) or not all(isinstance(row, dict) for row in got):
            raise Wrong(f"应该返回一个列表，里面是一问一答的字典；得到 {brief(got)}。")
        asked = Counter(str(row.get("input")) for row in got)
        if sorted(asked[row["input"]] for row in about_me) != [1] * len(about_me):
            yield f"比例 {ratio}：{len(about_me)} 条人设问答应该各有一条，不多不少。"
        times = [asked[row["input"]] for row in general]
        if sum(times) != wanted:
            yield f"比例 {ratio}：通用问答应该有 {wanted} 条，现在是 {sum(times)} 条。"
        elif max(times) - min(times) > 1:
            yield f"比例 {ratio}（{how_often}）：有的通用问答用了 {max(times)} 遍，有的才 {min(times)} 遍。"
        if len(got) != len(about_me) + sum(times):
            yield f"比例 {ratio}：混进了两边都没有的条目。"
    got = answer.call(about_me, general, 0.6, 7)
    if got != answer.call(about_me, general, 0.6, 7):
        yield "同一个 seed，两次的结果不一样。"
    if got == answer.call(about_me, general, 0.6, 8):
        yield "换了 seed，结果却一点没变。"
    mine = [row in about_me for row in got]
    if mine == sorted(mine) or mine == sorted(mine, reverse=True):
        yield "没有打乱：人设问答和通用问答还各排在一头。"


_FIELDS = {"title": 1, "questions": 3, "validation": 1, "test": 1, "answers": 3}


@exercise("03-5", "添一类问题（开放）")
def my_kind(answer: Answer) -> Iterator[str]:
    """``my_kind`` is a kind of questions: wordings to train, to validate and to test on, and answers."""
    kind = answer.value()
    if not isinstance(kind, dict) or set(kind) != set(_FIELDS):
        raise Wrong(f"要一个字典，键恰好是 {'、'.join(_FIELDS)}；得到 {brief(kind)}。")
    if not isinstance(kind["title"], str) or not kind["title"].strip():
        yield "title 要写上这一类叫什么。"
    lists = {name: kind[name] for name in _FIELDS if name != "title"}
    for name, texts in lists.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise Wrong(f"{name} 应该是一个列表，里面是文字。")
        if len({_bare(text) for text in texts}) < _FIELDS[name]:
            yield f"{name} 至少要 {_FIELDS[name]} 种不同的（只差标点算一种），现在不够。"
        for text in texts:
            unknown = _names(text) - {"owner", "assistant", "model"}
            if unknown:
                yield f"{name} 里的 {brief(text)} 有填不了的空：能用的只有 owner、assistant、model。"
    asked = [{_bare(text) for text in kind[part]} for part in ("questions", "validation", "test")]
    if any(one & other for one, other in itertools.combinations(asked, 2)):
        yield "有一句问法在两份里都出现（或者只差标点），这样考不出真假。"
    for text in kind["answers"]:
        if not _names(text) & {"owner", "assistant"}:
            yield f"答法 {brief(text)} 里没有主人也没有助手的名字。"


def _bare(text: str) -> str:
    return re.sub(r"\W", "", text)


def _names(text: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError:
        return {"?"}
