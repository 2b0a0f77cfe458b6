"""Exercises of lesson 6: temperature, merging, stopping, and data for 大家."""

import math
from collections.abc import Iterator
from dataclasses import replace

from tianji_helpers import emoji, faults, wishes
from tianji_helpers.exercises.answers import Answer, Wrong, alike, brief, exercise


@exercise("06-1", "给分布加温")
def soften(answer: Answer) -> Iterator[str]:
    """``soften(scores, temperature)`` is the softmax at a temperature; 0 is greedy."""

    def softmax(scores: list[float], temperature: float) -> list[float]:
        weights = [math.exp((score - max(scores)) / temperature) for score in scores]
        return [weight / sum(weights) for weight in weights]

    scores = [2.0, 1.0, 0.0]
    for temperature in (1.0, 0.5, 2.0):
        got = answer.call(scores, temperature)
        if not isinstance(got, list) or len(got) != len(scores):
            raise Wrong(f"三个分数要得到三个概率，得到的是 {brief(got)}。")
        if not all(isinstance(share, int | float) for share in got) or not alike(sum(got), 1):
            yield f"温度 {temperature}：几个概率加起来应该是 1，得到 {brief(got)}。"
        elif not alike(got, softmax(scores, temperature)):
            yield f"温度 {temperature}：概率不对。温度越高，几个概率应该越接近；越低，差得越开。"
    if not alike(answer.call([0.0, 3.0, 1.0], 0), [0, 1, 0]):
        yield "温度 0 是贪心：全部的概率都给分数最高的那个。"
    if not alike(answer.call([1000.0, 999.0], 1.0), softmax([1000.0, 999.0], 1.0)):
        yield "分数很大（例如 1000）时结果不对：指数算不下了。所有分数同减一个数，概率不变。"


@exercise("06-2", "亲手合并")
def merge(answer: Answer) -> Iterator[str]:
    """``merge(W, A, B, alpha)`` is W + alpha / r * B A, as nested lists."""
    cases = (
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0]], [[0.5], [0.0]], 2.0),
        (
            [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
            [[1.0, 0.0, 1.0], [0.0, 2.0, 0.0]],
            [[1.0, 2.0], [3.0, 4.0]],
            1.0,
        ),
    )
    for W, A, B, alpha in cases:
        rank, shape = len(A), f"{len(W)} × {len(W[0])}"
        wanted = [
            [W[i][j] + alpha / rank * sum(B[i][k] * A[k][j] for k in range(rank)) for j in range(len(W[0]))]
            for i in range(len(W))
        ]
        got = answer.call(W, A, B, alpha)
        if not isinstance(got, list) or [len(row) for row in got if isinstance(row, list)] != [
            len(W[0])
        ] * len(W):
            yield f"W 是 {shape} 的，合并后也应该是；得到 {brief(got)}。"
        elif not alike(got, wanted):
            what = "变都没变" if alike(got, W) else "和把适配器放在旁边算出来的不一样"
            yield f"W 是 {shape}、秩 {rank}、alpha {alpha} 时，合并的结果{what}。"


@exercise("06-3", "该停就停")
def finish(answer: Answer) -> Iterator[str]:
    """``finish(pieces, stop)`` joins streamed pieces up to the stop mark."""
    stop = "<|im_end|>"
    cases = (
        (["店长，", "开业大吉！", stop], "店长，开业大吉！", "结尾标记自成一段"),
        (["店长，", "开业大吉！"], "店长，开业大吉！", "没有结尾标记"),
        (["开业大吉！" + stop + "开业大吉！"], "开业大吉！", "标记后面还有话"),
        (["开业", "大吉！<|im", "_end|>", "谢谢"], "开业大吉！", "标记被切成了两段"),
        (["开业大吉！", stop, "user", stop], "开业大吉！", "标记出现了两次"),
        ([stop], "", "一个字也没说就停了"),
    )
    for pieces, wanted, what in cases:
        got = answer.call(pieces, stop)
        if got != wanted:
            yield f"{what}：{pieces} 应该剩下的不是 {brief(got)}。"


@exercise("06-4", "送给大家（开放）")
def for_everybody(answer: Answer) -> Iterator[str]:
    """``for_everybody`` is training data for a recipient that the matrix does not have."""
    rows = answer.value()
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("input"), str) and isinstance(row.get("output"), str)
        for row in rows
    ):
        raise Wrong("要一个列表，每一项是一个字典，有 input 和 output，都是文字。")
    if len(rows) < 6:
        yield f"至少写 6 条，现在 {len(rows)} 条。"
    matrix = wishes.load()
    everybody = wishes.Recipient("大家", "peer", "你", ("大家", "各位"))
    matrix = replace(matrix, recipients={**matrix.recipients, "大家": everybody})
    scenes = set()
    for row in rows:
        asked, text = matrix.read(row["input"]), row["output"]
        if asked.recipient != "大家" or not asked.what:
            yield f"input {brief(row['input'])} 不是送给大家的请求，样子应该像“祝……春节”。"
            continue
        scenes.add(asked.scene)
        found = list(faults.find(asked, text).values())
        if not any(word in text for word in asked.what.keywords):
            found.append(f"没有说到{asked.scene}")
        if not 8 <= len(text) <= 45:
            found.append(f"有 {len(text)} 个字，应该是 8 到 45 个")
        if emoji.count(text):
            found.append("有 emoji")
        if found:
            yield f"{brief(text)}（{row['input']}）没有通过：{'；'.join(found)}。"
    if len(scenes) < 3:
        yield f"场景太少：至少 3 种，现在 {len(scenes)} 种，模型会以为只有这时候才祝大家。"
    if len({row["output"] for row in rows}) < len(rows):
        yield "有重复的祝福：同一句话写几遍，模型只会背。"
    if len({row["output"][:4] for row in rows}) * 2 < len(rows):
        yield "开头太像了：超过一半的祝福用同样几个字开头。"
