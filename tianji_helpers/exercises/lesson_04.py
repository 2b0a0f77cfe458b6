"""Exercises of lesson 4: formats, leaks, groups of alike questions, and a split that keeps them together."""

from collections.abc import Iterator
from typing import Any

from tianji_helpers.exercises.answers import Answer, Wrong, brief, exercise


def _messages(made: Any) -> list[dict[str, Any]]:
    rows = made.get("messages") if isinstance(made, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Wrong(f"要一个字典，里面的 messages 是消息的列表；得到 {brief(made)}。")
    return rows


@exercise("04-1", "别丢历史")
def to_messages(answer: Answer) -> Iterator[str]:
    """``to_messages(record)`` turns an Alpaca record, with what was said before, into OpenAI messages."""
    last = {"instruction": "那猫呢？", "input": "", "output": "会，记得添水。"}
    before = [["鱼会渴吗？", "不会。"], ["为什么？", "它一直泡在水里。"]]
    loose = {"instruction": "这句话错在哪里？", "input": "先有彩虹，后有雨。", "output": "次序反了。"}
    ending = ["那猫呢？", "会，记得添水。"]
    cases = {
        "只有一问一答": (last, ending),
        "history 里有两轮": (
            last | {"history": before},
            [*before[0], *before[1], *ending],
        ),
        "history 是空的": (last | {"history": []}, ending),
        "input 不空": (
            loose | {"history": before[:1]},
            [*before[0], "这句话错在哪里？\n先有彩虹，后有雨。", "次序反了。"],
        ),
    }
    for when, (record, wanted) in cases.items():
        made = answer.call(record)
        rows = _messages(made)
        if len(rows) != len(wanted):
            yield f"{when}：应该有 {len(wanted)} 条消息，得到 {len(rows)} 条。"
        elif [row.get("role") for row in rows] != ["user", "assistant"] * (len(wanted) // 2):
            yield f"{when}：角色应该一问一答轮流来，得到 {brief([row.get('role') for row in rows])}。"
        elif (said := [row.get("content") for row in rows]) != wanted:
            wrong = next(
                number
                for number, pair in enumerate(zip(said, wanted, strict=True))
                if len(set(map(str, pair))) > 1
            )
            yield f"{when}：第 {wrong + 1} 条消息的文字不对，得到 {brief(said[wrong])}。"


@exercise("04-2", "换一个盒子")
def from_sharegpt(answer: Answer) -> Iterator[str]:
    """``from_sharegpt(record)`` turns a ShareGPT conversation into OpenAI messages."""
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    said = [("human", "鱼会渴吗？"), ("gpt", "不会。")]
    longer = [*said, ("human", "那猫呢？"), ("gpt", "会，记得添水。")]
    cases = {"一问一答": said, "两问两答": longer, "带系统提示": [("system", "你爱开玩笑"), *said]}
    for name, turns in cases.items():
        made = answer.call({"conversations": [{"from": who, "value": text} for who, text in turns]})
        wanted = [{"role": roles[who], "content": text} for who, text in turns]
        rows = _messages(made)
        if len(rows) != len(wanted):
            yield f"{name}：有 {len(wanted)} 条消息，换完剩 {len(rows)} 条。"
        elif [row.get("role") for row in rows] != [row["role"] for row in wanted]:
            yield f"{name}：角色不对，得到 {brief([row.get('role') for row in rows])}。"
        elif rows != wanted:
            yield f"{name}：文字或键的名字不对，得到 {brief(rows)}。"


@exercise("04-3", "抓漏题")
def leaked(answer: Answer) -> Iterator[str]:
    """``leaked(train, test)`` lists the test questions that training knows, but for punctuation."""
    train = ["鱼会渴吗？", "影子有影子吗？", "wifi 累不累？"]
    cases = {
        "一字不差的": (["影子有影子吗？", "云重不重？"], ["影子有影子吗？"]),
        "只差标点的": (["鱼会渴吗", "云重不重？"], ["鱼会渴吗"]),
        "标点夹在中间的": (["影子，有影子吗？！"], ["影子，有影子吗？！"]),
        "大小写和空格不同的": (["WiFi累不累"], ["WiFi累不累"]),
        "没有见过的": (["云重不重？", "鱼会渴死吗？"], []),
    }
    for what, (test, wanted) in cases.items():
        got = answer.call(train, test)
        if not isinstance(got, list):
            raise Wrong(f"应该返回一个列表，里面是漏掉的测试题；得到 {brief(got)}。")
        if sorted(map(str, got)) != sorted(wanted):
            should = "应该抓出来" if wanted else "不该抓"
            yield f"{what}题{should}（照测试题原来的样子）：测试 {test}，得到 {brief(got)}。"


@exercise("04-4", "捆成组")
def bundle(answer: Answer) -> Iterator[str]:
    """``bundle(count, alike)`` joins positions that are alike, directly or through others, to groups."""
    cases: dict[str, tuple[int, list[list[int]], list[list[int]]]] = {
        "谁和谁都不像": (3, [], [[0], [1], [2]]),
        "两对": (5, [[0, 3], [1, 4]], [[0, 3], [1, 4], [2]]),
        "一条牵一条": (5, [[0, 1], [1, 2], [2, 4]], [[0, 1, 2, 4], [3]]),
        "后来才牵上的两组": (6, [[0, 1], [2, 3], [4, 5], [3, 0]], [[0, 1, 2, 3], [4, 5]]),
        "次序乱着给": (6, [[5, 2], [3, 1], [2, 3]], [[0], [1, 2, 3, 5], [4]]),
    }
    for what, (count, pairs, wanted) in cases.items():
        got = answer.call(count, pairs)
        if not isinstance(got, list) or not all(isinstance(group, list) for group in got):
            raise Wrong(f"应该返回组的列表，每组是题号的列表；得到 {brief(got)}。")
        if sorted(str(number) for group in got for number in group) != sorted(map(str, range(count))):
            yield f"{what}：{count} 道题，每一道应该正好在一组里；得到 {brief(got)}。"
        elif sorted(map(sorted, got)) != wanted:
            yield f"{what}：{count} 道题，像的是 {pairs}，应该捆成 {len(wanted)} 组，得到 {brief(got)}。"


@exercise("04-5", "公平地切（开放）")
def fair_split(answer: Answer) -> Iterator[str]:
    """``fair_split(rows, ratio)`` returns train and test; a group is never on both sides."""
    sizes = [3, 1, 2, 1, 4, 1, 2, 1, 1, 3, 1]
    rows = [
        {"question": f"第 {group} 组的第 {number} 种问法", "group": group}
        for number in range(max(sizes))
        for group, size in enumerate(sizes)
        if number < size
    ]
    for ratio in (0.5, 0.7, 0.8):
        made = answer.call(rows, ratio)
        if not isinstance(made, list) or len(made) != 2 or not all(isinstance(part, list) for part in made):
            raise Wrong(f"要返回两份：训练和测试，都是列表；得到 {brief(made)}。")
        train, test = made
        if sorted(map(str, train + test)) != sorted(map(str, rows)):
            yield f"比例 {ratio}：两份合起来（{len(train) + len(test)} 条）不是原来的 {len(rows)} 条。"
            continue
        both = {row["group"] for row in train} & {row["group"] for row in test}
        if both:
            yield f"比例 {ratio}：有 {len(both)} 组的题两边都有，考题漏了。"
        if not train or not test:
            yield f"比例 {ratio}：有一边是空的。"
        elif abs(len(train) / len(rows) - ratio) > 0.15 + 1e-9:
            yield f"比例 {ratio}：训练集占了 {len(train) / len(rows):.0%}，差得太远（允许差 15 个百分点）。"
