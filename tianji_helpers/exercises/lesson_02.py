"""Exercises of lesson 2: rules that mend one kind of dirt and leave the rest alone, and their examples."""

import re
from collections.abc import Callable, Iterator

from tianji_helpers.exercises.answers import Answer, Wrong, alike, brief, exercise


def _mends(answer: Answer, cases: dict[str, str]) -> Iterator[str]:
    for before, after in cases.items():
        got = answer.call(before)
        if got != after:
            problem = "本来好好的，不该动" if before == after else "没有修好"
            yield f"{before!r} {problem}：得到 {brief(got)}。"


@exercise("02-1", "脱掉引号")
def strip_quotes(answer: Answer) -> Iterator[str]:
    """``strip_quotes(text)`` drops quotes around the whole text, and no others."""
    yield from _mends(
        answer,
        {
            "“店长，开业大吉！”": "店长，开业大吉！",
            "「同桌，考试顺利！」": "同桌，考试顺利！",
            "店长，生意兴隆！": "店长，生意兴隆！",
            "“福”字贴上门，奶奶新春快乐！": "“福”字贴上门，奶奶新春快乐！",
            "奶奶，愿您天天把日子过成一个“甜”": "奶奶，愿您天天把日子过成一个“甜”",
            "“福”到，“财”也到": "“福”到，“财”也到",
            "“福”到家门，人人都说“好”": "“福”到家门，人人都说“好”",
        },
    )


@exercise("02-2", "洗两遍")
def squeeze(answer: Answer) -> Iterator[str]:
    """``squeeze(text)`` makes one of repeated ！ or ～; washing twice changes nothing."""
    cases = {
        "店长，开业大吉！！": "店长，开业大吉！",
        "同桌加油！！！！！": "同桌加油！",
        "早点放假呀～～～": "早点放假呀～",
        "快乐！！平安！！！健康～～": "快乐！平安！健康～",
        "年年有余，岁岁平安……": "年年有余，岁岁平安……",
        "哈哈，恭喜恭喜！": "哈哈，恭喜恭喜！",
    }
    yield from _mends(answer, cases)
    for before in cases:
        once = answer.call(before)
        if isinstance(once, str) and answer.call(once) != once:
            yield f"不幂等：{brief(once)} 再洗一遍又变了。"


@exercise("02-3", "有多像")
def similarity(answer: Answer) -> Iterator[str]:
    """``similarity(one, other)`` is the Jaccard similarity of pieces of three characters."""
    if not alike(answer.call("店长开业大吉", "店长开业大吉"), 1):
        yield "一模一样的两句，相似度应该是 1。"
    if not alike(answer.call("店长开业大吉", "奶奶福寿安康"), 0):
        yield "一个小片都不共有的两句，相似度应该是 0。"
    if not alike(answer.call("生意红红火火", "生意红红火旺"), 3 / 5):
        yield "“生意红红火火”和“生意红红火旺”：各有几个小片？共有几个？合起来一共几个？"
    if not alike(answer.call("平平安安", "平平安安平平安安"), 2 / 4):
        yield "一长一短的两句不对：分母是两句的小片合在一起（重复的只算一次），不是其中一句的。"
    if not alike(answer.call("哈哈哈哈哈哈", "哈哈哈"), 1):
        yield "同一个小片在一句里出现几次，也只算一次。"


@exercise("02-4", "一条新规则")
def drop_hashtags(answer: Answer) -> Iterator[str]:
    """``drop_hashtags(text)`` drops hashtags at the end, and leaves other # alone."""
    yield from _mends(
        answer,
        {
            "店长，开业大吉呀🎉 #开业祝福": "店长，开业大吉呀🎉",
            "愿你的夏天都是西瓜味哦🍉 #生日祝福 #闺蜜 #小红书文案": "愿你的夏天都是西瓜味哦🍉",
            "奶奶，福寿安康呢🧡#重阳节#家人": "奶奶，福寿安康呢🧡",
            "你是我心里的 #1 同桌，考试顺利呀！": "你是我心里的 #1 同桌，考试顺利呀！",
            "你是全班的 #1，考试顺利呀！": "你是全班的 #1，考试顺利呀！",
            "店长，开业大吉！": "店长，开业大吉！",
            "用 C# 写了一百行，只为说句生日快乐！": "用 C# 写了一百行，只为说句生日快乐！",
        },
    )


def _without_hashtags(text: str) -> str:
    """Do what 02-4 asks for."""
    return re.sub(r"(?:\s*#\w+)+$", "", text)


_WRONG_RULES: dict[str, Callable[[str], str]] = {
    "什么也不做": str,
    "只删掉 # 号，话题的字还留着": lambda text: text.replace("#", ""),
    "从第一个 # 起，后面的全删掉": lambda text: text.split("#")[0].rstrip(),
    "句子中间的话题也删": lambda text: re.sub(r"\s*#\w+", "", text),
    "句尾有几个话题时，只删最后一个": lambda text: re.sub(r"\s*#\w+$", "", text),
    "删了话题，前面的空格还留着": lambda text: re.sub(r"(?:#\w+\s*)+$", "", text),
}


@exercise("02-5", "规则的例子（开放）")
def hashtag_examples(answer: Answer) -> Iterator[str]:
    """``my_examples`` are (before, after) pairs that the right rule passes, and no wrong one does."""
    examples = answer.value()
    if not isinstance(examples, list) or not examples:
        raise Wrong(f"要交的是一个列表，里面是一对一对的（修之前, 修之后），得到的是 {brief(examples)}。")
    for pair in examples:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise Wrong(f"每个例子是一对文字（修之前, 修之后），这一个不是：{brief(pair)}。")
    for before, after in examples:
        if _without_hashtags(before) != after:
            yield f"例子本身不对：{brief(before)} 修好以后不是 {brief(after)}。"
    for what, rule in _WRONG_RULES.items():
        if all(rule(before) == after for before, after in examples):
            yield f"有一条错的规则（{what}）通过了你的全部例子：再加一个能抓住它的。"
