"""The ways in which real models spoil an answer, for the offline teacher to imitate.

Cleaning is most of the work on synthetic data, so an offline course needs data worth cleaning. Each
kind is a mistake that the original's authors or their readers met.
"""

import json
import random
from collections.abc import Callable

KINDS = (
    "stub",  # the announcement without the wish
    "preamble",  # the announcement, and the wish behind it
    "stuck_particle",  # a particle behind the full stop
    "too_long",
    "too_short",
    "quotes",
    "title",
    "second_line",
    "honorific",  # 您 for a younger sister, 你 for an elder
    "doubled_stop",
    "markdown",
)
JSON_KINDS = ("fence", "preamble", "comma", "half_pair", "cut")


def soil(
    kind: str, wish: str, recipient: str, scene: str, again: Callable[[], str], rng: random.Random
) -> str:
    """Return ``wish`` spoilt in one way.

    kind: one of ``KINDS``. again: makes another clean wish for the same request.

    >>> soil("stuck_particle", "姐姐，祝你生日快乐！", "姐姐", "生日", str, random.Random(2))
    '姐姐，祝你生日快乐！啦~'
    """
    if kind == "stub":
        return rng.choice(("当前祝福语如下", "当前祝福语如下：", "祝福语如下：", "以下是祝福语："))
    if kind == "preamble":
        head = rng.choice(
            ("好的，以下是送给{}的{}祝福：", "当然，以下是为{}写的{}祝福语：", "给{}的{}祝福语如下：")
        )
        return head.format(recipient, scene) + rng.choice(("", "\n", "\n\n")) + wish
    if kind == "stuck_particle":
        body = wish.rstrip("。！")
        return body + rng.choice(("！啦~", "。哦！", "！呀！", "。呢~"))
    if kind == "too_long":
        return "".join([wish, *(again() for _ in range(5))])
    if kind == "too_short":
        return rng.choice(("祝好！", "祝福！", "快乐！"))
    if kind == "quotes":
        return rng.choice(("“{}”", '"{}"', "「{}」")).format(wish)
    if kind == "title":
        return rng.choice(("【{1}祝福】\n{2}", "《致{0}的{1}祝福》\n{2}", "{1}祝福\n\n{2}")).format(
            recipient, scene, wish
        )
    if kind == "second_line":
        return f"{wish}\n{again()}"
    if kind == "honorific":
        return (
            wish.translate(str.maketrans("你您", "您你"))
            if "你" in wish or "您" in wish
            else f"祝你您好，{wish}"
        )
    if kind == "doubled_stop":
        return wish.replace("，", "，，", 1) if rng.random() < 0.5 else wish.rstrip("。！") + "！！！"
    if kind == "markdown":
        return rng.choice(("**{}**", "- {}", "1. {}", "> {}")).format(wish)
    raise ValueError(f"unknown kind of dirt: {kind}")


def soil_json(kind: str, pairs: list[dict], rng: random.Random) -> str:
    """Return ``{"qa": pairs}`` as JSON, spoilt in one way that can be mended.

    kind: one of ``JSON_KINDS``, or an empty string for clean JSON.

    >>> soil_json("comma", [{"question": "几时？", "answer": "今天。"}], random.Random(0))
    '{"qa": [{"question": "几时？", "answer": "今天。"},]}'
    """
    if kind == "half_pair":
        pairs = [*pairs, {"question": rng.choice(pairs)["question"]}]
    text = json.dumps({"qa": pairs}, ensure_ascii=False)
    if kind == "fence":
        return f"```json\n{text}\n```"
    if kind == "preamble":
        return f"好的，下面是根据资料出的题目：\n{text}\n希望对你有帮助！"
    if kind == "comma":
        return text[:-2] + ",]}"
    if kind == "cut":
        return text[: -rng.randint(1, 2)]
    return text
