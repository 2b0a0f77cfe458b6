"""Exercises of lesson 1: the matrix, the request, the fingerprint, the best of several, the prompt."""

import re
import string
from collections.abc import Iterator

from tianji_helpers.exercises.answers import Answer, Wrong, brief, exercise


@exercise("01-1", "别扭的组合")
def sensible_pairs(answer: Answer) -> Iterator[str]:
    """``sensible_pairs(recipients, scenes, unsuitable)`` lists the pairs that one may ask for."""
    people, scenes = ["同桌", "奶奶", "老板"], ["中秋节", "七夕节", "加薪"]
    everything = [[who, what] for who in people for what in scenes]
    if sorted(answer.call(people, scenes, {}), key=str) != sorted(everything, key=str):
        yield "没有不合适的组合时，应该得到全部的（对象, 场景），一对也不少，先对象后场景。"
        return
    unsuitable = {"七夕节": ["奶奶", "老板"], "加薪": ["奶奶"]}
    pairs = answer.call(people, scenes, unsuitable)
    for who, what in everything:
        if who in unsuitable.get(what, []) and [who, what] in pairs:
            yield f"（{who}, {what}）不合适，还在结果里。"
        if who not in unsuitable.get(what, []) and [who, what] not in pairs:
            yield f"（{who}, {what}）是合适的，却不见了。"
    if len(pairs) > len(everything):
        yield "有的组合出现了不止一次。"


@exercise("01-2", "温度的位置")
def request(answer: Answer) -> Iterator[str]:
    """``request(text, temperature)`` returns the fields of a chat request."""
    made = answer.call("请给店长写一句开业的祝福。", 0.3)
    if not isinstance(made, dict):
        raise Wrong(f"请求应该是一个字典，得到的是 {brief(made)}。")
    messages = made.get("messages")
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages) or not messages:
        raise Wrong("请求里要有 messages：一个列表，每一项是一个字典。")
    if messages[-1].get("role") != "user" or messages[-1].get("content") != "请给店长写一句开业的祝福。":
        yield "最后一条消息要写清是谁说的（role）、说了什么（content）：这句话是用户说的。"
    if any("temperature" in item for item in messages):
        yield "消息里混进了 temperature；放在那里，服务器看不见。"
    if made.get("temperature") != 0.3:
        yield "请求的温度应该是 0.3（交给函数的那个数），现在不是。"
    if not made.get("model"):
        yield "请求里没有说找哪个模型（model）。"


@exercise("01-3", "请求的指纹")
def fingerprint(answer: Answer) -> Iterator[str]:
    """``fingerprint(text, model, seed, round)`` is the same for the same request only."""
    asked = ["祝店长开业", "deepseek", 42, 1]
    first = answer.call(*asked)
    if not isinstance(first, str) or not first:
        raise Wrong(f"指纹应该是一段文字，得到的是 {brief(first)}。")
    if answer.call(*asked) != first:
        yield "同一个请求问两遍，得到两个不同的指纹：日志就认不出它做过了。"
    changed = {"问题": ["祝店长升职", *asked[1:]], "模型": ["祝店长开业", "zhipu", 42, 1]}
    changed |= {"种子": [*asked[:2], 7, 1], "轮次": [*asked[:3], 2]}
    for what, other in changed.items():
        if answer.call(*other) == first:
            yield f"只换了{what}，指纹却没有变：新的请求会被当成做过的。"
    mixed = (["祝好", "m", 1, 12], ["祝好", "m", 11, 2]), (["祝好", "ab", 1, 1], ["祝好a", "b", 1, 1])
    for one, other in mixed:
        if answer.call(*one) == answer.call(*other):
            yield f"{brief(one)} 和 {brief(other)} 是两个请求，指纹却一样：拼在一起时分不清哪里断开。"


@exercise("01-4", "几个里挑一个")
def best_of(answer: Answer) -> Iterator[str]:
    """``best_of(answers, faults, scores)`` is the answer to keep: without faults first, then by score."""
    said, faulty = ["恭喜发财", "开业大吉", "生意兴隆", "财源广进"], ["照抄了参考句"]
    cases = (
        ([[], faulty, [], []], [0.2, 0.9, 0.7, 0.4], 2, "有硬伤的分再高，也不能留；没有硬伤的里面挑分最高的"),
        ([faulty, faulty, faulty * 2, faulty], [0.1, 0.3, 0.8, 0.5], 2, "个个都有硬伤，就在全部里挑分最高的"),
        ([[], [], [], faulty], [-3.0, -1.5, -2.0, -0.5], 1, "分可以是负的，-1.5 比 -3 高"),
        ([[], [], faulty, []], [0.1, 0.6, 0.6, 0.6], 1, "分一样，留排在前面的"),
    )
    for found, scores, best, why in cases:
        got = answer.call(said, found, scores)
        if got != said[best]:
            numbers = "、".join(
                f"{score}{'（有硬伤）' if bad else ''}" for bad, score in zip(found, scores, strict=True)
            )
            yield f"四个回答的分是 {numbers}：{why}，应该返回第 {best + 1} 个（文字），得到 {brief(got)}。"


@exercise("01-5", "你的提示词（开放）")
def template(answer: Answer) -> Iterator[str]:
    """``my_template`` is a template with the four fields, a length, and what not to write."""
    text = answer.value()
    if not isinstance(text, str):
        raise Wrong(f"模板应该是一段文字，得到的是 {brief(text)}。")
    fields = {"recipient", "scene", "style", "example"}
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise Wrong("花括号没有成对，填不了空。") from error
    for name in sorted(fields - used):
        yield f"模板里没有 {{{name}}}，老师就不知道这一样。"
    for name in sorted(used - fields):
        yield f"模板里的 {{{name}}} 没有人来填；能用的只有 {'、'.join(sorted(fields))}。"
    if not any(character.isdigit() for character in text):
        yield "没有用数字说清多少个字：老师会写得忽长忽短。"
    if not re.search("不要|不写|不用|不加|别写|别加|别用|只(?:写|要|说|回答|输出|给)", text):
        yield "没有说清什么不用写：老师会加上“好的，以下是……”。"
