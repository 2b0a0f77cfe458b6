"""Exercises of lesson 5: where the loss looks, a LoRA layer, perplexity, a rule against cheats."""

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


_LAYERS = (  # W (out, in), A (r, in), B (out, r), alpha, x, gradient of y
    (
        [[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]],
        [[1.0, 0.0, 2.0]],
        [[0.0], [0.0]],
        2.0,
        [1.0, 2.0, 3.0],
        [1.0, -1.0],
    ),
    (
        [[0.5, -1.0, 2.0], [2.0, 1.0, 0.0]],
        [[1.0, 2.0, 0.0], [-1.0, 0.5, 1.0]],
        [[1.0, 0.0], [0.5, -2.0]],
        6.0,
        [2.0, -1.0, 1.0],
        [1.0, -2.0],
    ),
)


@exercise("05-2", "一层 LoRA")
def lora_layer(answer: Answer) -> Iterator[str]:
    """``lora_layer(W, A, B, alpha, x, grad)`` returns y, and the gradients of x, A and B, by hand."""
    import numpy as np

    for *arrays, alpha, x, grad in _LAYERS:
        W, A, B = map(np.array, arrays)
        x, grad, scale = np.array(x), np.array(grad), alpha / len(A)
        got = answer.call(*arrays, alpha, x.tolist(), grad.tolist())
        if not isinstance(got, list) or len(got) != 4:
            yield f"要返回四样：y，还有 x、A、B 的梯度；得到 {brief(got)}。"
            return
        y, by_x, by_a, by_b = got
        if not alike(y, (W @ x + scale * B @ (A @ x)).tolist()):
            yield f"前向不对：y 得到 {brief(y)}。音量是 α 除以秩，秩是 A 的行数。"
        if alike(by_x, (scale * A.T @ (B.T @ grad)).tolist()):
            yield "x 的梯度没有穿过 W：冻结的权重不更新，可是要把梯度往前传。"
        elif not alike(by_x, (W.T @ grad + scale * A.T @ (B.T @ grad)).tolist()):
            yield f"x 的梯度不对：得到 {brief(by_x)}。两条路都要走回去。"
        wanted = {"A": (by_a, scale * np.outer(B.T @ grad, x)), "B": (by_b, scale * np.outer(grad, A @ x))}
        for name, (found, right) in wanted.items():
            if not alike(found, right.tolist()):
                yield f"{name} 的梯度不对：得到 {brief(found)}。它和 {name} 一样大；音量也要乘。"


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
