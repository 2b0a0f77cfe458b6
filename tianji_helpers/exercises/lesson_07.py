"""Exercises of lesson 7: how many tokens a picture is, where they come, and a control that must fail."""

from collections.abc import Iterator

from tianji_helpers.exercises.answers import Answer, Wrong, brief, exercise


@exercise("07-1", "一张图几个词元")
def tokens(answer: Answer) -> Iterator[str]:
    """``tokens(size, patch)`` counts the patches of a square picture, without the class token."""
    for size, patch, wanted in ((336, 14, 576), (224, 14, 256), (224, 16, 196), (64, 32, 4)):
        got = answer.call(size, patch)
        if got != wanted:
            asked = f"{size}×{size} 的图、{patch}×{patch} 的小块"
            yield f"{asked}，应该不是 {brief(got)} 个。横着几块，竖着几块？"


@exercise("07-2", "把图放进句子")
def place(answer: Answer) -> Iterator[str]:
    """``place(ids, picture)`` puts a picture's tokens where -200 stands."""
    cases = (
        ([1, -200, 2], ["a", "b", "c"], [1, "a", "b", "c", 2], "图在中间"),
        ([-200, 7, 8], ["a"], ["a", 7, 8], "图在开头"),
        ([5, 6, -200], ["a", "b"], [5, 6, "a", "b"], "图在结尾"),
        ([5, 6], ["a", "b"], [5, 6], "句子里没有图"),
    )
    for ids, picture, wanted, what in cases:
        got = answer.call(ids, picture)
        if got != wanted:
            yield f"{what}：{ids} 和 {picture} 合起来不是 {brief(got)}。"


@exercise("07-3", "洗牌对照")
def shuffle(answer: Answer) -> Iterator[str]:
    """``shuffle(scenes)`` gives each card the place of a card of another scene."""
    for scenes in (
        ["生日", "春节", "生日", "除夕"],
        ["生日", "生日", "春节", "春节"],
        list("甲乙丙丁甲乙丙丁"),
    ):
        got = answer.call(scenes)
        if not isinstance(got, list) or len(got) != len(scenes):
            raise Wrong(f"{len(scenes)} 张卡要得到 {len(scenes)} 个下标的列表，得到 {brief(got)}。")
        if not all(isinstance(index, int) and 0 <= index < len(scenes) for index in got):
            raise Wrong(f"下标要在 0 到 {len(scenes) - 1} 之间，得到 {brief(got)}。")
        same = [number for number, index in enumerate(got) if scenes[index] == scenes[number]]
        if same:
            yield f"{scenes}：第 {same[0]} 张换到的还是{scenes[same[0]]}，这样的对照会白白得分。"


@exercise("07-4", "你的图文数据（开放）")
def picture_rows(answer: Answer) -> Iterator[str]:
    """``picture_rows`` is data in LLaVA's format for pictures that one imagines."""
    rows = answer.value()
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Wrong("要一个列表，每一项是一个字典。")
    if len(rows) < 4:
        yield f"至少写 4 条，现在 {len(rows)} 条。"
    for number, row in enumerate(rows, 1):
        image, turns = row.get("image"), row.get("conversations")
        if not isinstance(image, str) or image.startswith("/") or ".." in image:
            yield f"第 {number} 条：image 应该是相对路径，例如 cards/1.png，得到 {brief(image)}。"
        elif not isinstance(turns, list) or [turn.get("from") for turn in turns][:2] != ["human", "gpt"]:
            yield f"第 {number} 条：conversations 应该先 human 后 gpt，每句有 from 和 value。"
        elif [str(turn.get("value")).count("<image>") for turn in turns] != [1] + [0] * (len(turns) - 1):
            yield f"第 {number} 条：<image> 应该只在第一个问题里，一次。"
    asked = {str(row.get("conversations")) for row in rows}
    if len(asked) < len(rows):
        yield "有两条的对话一模一样：同一句话写几遍，模型只会背。"
    if len({row.get("image") for row in rows if isinstance(row.get("image"), str)}) < 2:
        yield "只有一张图：模型不看图也答得对，学不会看。"
