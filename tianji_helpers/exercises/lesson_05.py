"""Exercises of lesson 5: where the loss looks, LoRA's size, perplexity, a rule against cheats."""

import math
from collections.abc import Iterator

from tianji_helpers.exercises.answers import Answer, alike, brief, exercise


@exercise("05-1", "损失看哪里")
def make_labels(answer: Answer) -> Iterator[str]:
    """``make_labels(prompt_ids, answer_ids, end_id)``: -100 for the prompt, then answer and end."""
    for prompt, said, end in (([5, 6, 7], [8, 9], 2), ([4], [3, 3, 3], 1), ([], [8], 2)):
        got = answer.call(prompt, said, end)
        if not isinstance(got, list) or len(got) != len(prompt) + len(said) + 1:
            yield f"提示 {len(prompt)} 个、回答 {len(said)} 个、结尾 1 个，标签的个数不对：{brief(got)}。"
            continue
        if any(label != -100 for label in got[: len(prompt)]):
            yield f"提示部分不该算损失：得到 {brief(got)}。"
        if got[len(prompt) : -1] != said:
            yield f"回答部分的标签就是回答的词元：得到 {brief(got)}。"
        if got[-1] != end:
            yield "模型学不会停：结尾标记没有参与损失。"


@exercise("05-2", "LoRA 有多大")
def lora_parameters(answer: Answer) -> Iterator[str]:
    """``lora_parameters(shapes, rank)`` counts the parameters of B and A for all matrices."""
    cases: tuple[tuple[list[list[int]], int, str], ...] = (
        ([[10, 10]], 1, "一个 10 × 10 的矩阵，秩 1"),
        ([[640, 2048]], 64, "一个 640 × 2048 的矩阵，秩 64（第 3 节算过）"),
        ([[640, 1024], [256, 640]], 8, "两个矩阵，秩 8"),
        ([], 16, "一个矩阵也不训练"),
    )
    for shapes, rank, what in cases:
        got = answer.call(shapes, rank)
        if not alike(got, sum(rank * (rows + columns) for rows, columns in shapes)):
            yield f"{what}：得到 {brief(got)}，不对。想想 B 和 A 各是几行几列。"


@exercise("05-3", "困惑度")
def perplexity(answer: Answer) -> Iterator[str]:
    """``perplexity(losses, labels)`` is exp of the mean loss over the labels that count."""
    cases = (
        ([0.0, 0.0], [5, 6], "每个词元都猜中"),
        ([math.log(4)] * 3, [5, 6, 7], "每一步都在 4 个词之间犹豫"),
        ([9.0, 9.0, math.log(2), math.log(2)], [-100, -100, 5, 6], "提示部分的损失很大，但不该算"),
        ([math.log(2), math.log(8)], [5, 6], "一步犹豫 2 个词、一步犹豫 8 个词"),
    )
    for losses, labels, what in cases:
        counted = [loss for loss, label in zip(losses, labels, strict=True) if label != -100]
        got = answer.call(losses, labels)
        if not alike(got, math.exp(sum(counted) / len(counted))):
            yield f"{what}：得到 {brief(got)}，不对。"


_CHEATS = (  # the rules of the course let all of them pass, for 姐姐 and 生日
    "姐姐，生日快乐，快乐生日，生日生日，快乐快乐。",
    "姐姐的生日，生日的姐姐，姐姐的快乐，快乐的姐姐。",
    "生日好，姐姐好，生日好，姐姐好，生日姐姐好。",
    "姐姐生日快乐，姐姐生日开心，姐姐生日顺利。",
)
_WISHES = (
    "姐姐，祝你生日快乐，岁岁平安，愿好运一直陪着你！",
    "又是一年中秋，愿远方的你抬头有月，回家有饭。",
    "店长，恭喜开业，愿每一位客人都成回头客。",
    "妈妈，辛苦了一年，愿您身体健康，心里舒坦。",
    "愿你岁岁平安，愿你事事如意，愿你天天开心。",
)


@exercise("05-4", "抓住作弊的祝福（开放）")
def suspicious(answer: Answer) -> Iterator[str]:
    """``suspicious(text)`` catches wishes that only repeat themselves, and no honest ones."""
    missed = [text for text in _CHEATS if answer.call(text) is not True]
    blamed = [text for text in _WISHES if answer.call(text) is not False]
    if missed:
        yield f"有 {len(missed)} 句翻来覆去的话没有抓住（应该返回 True），例如“{missed[0]}”。"
    if blamed:
        yield f"冤枉了 {len(blamed)} 句好祝福（应该返回 False），例如“{blamed[0]}”。"
