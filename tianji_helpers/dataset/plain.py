"""Rows that are no wishes: how one tells, and the checks that need no names.

The rules for wishes know what a wish is like; to answers about anything else they would do harm. Such rows
are not mended, and rejected only for what spoils any training: an empty question or answer, text that was
decoded wrongly, tokens of a chat template, a model's thoughts before its answer, sheer size, and (in
``clean``) what stood there before.
"""

import re
from collections.abc import Collection, Iterable
from itertools import islice

from tianji_helpers import thoughts, wishes

WISHES, OTHER = "wishes", "other"
GROUPING = {WISHES: "pair", OTHER: "question"}  # see ``splits.group``
LOOKED_AT = 1_000  # rows; more would not change the mind
MAX_CHARS = 20_000  # of a conversation; no model of the course reads more at a time
BLANK, GARBLED, TOKENS, THOUGHTS = "blank", "garbled", "template_tokens", "thoughts"
TITLES = {BLANK: "空的问或答", GARBLED: "乱码", TOKENS: "模板词元", THOUGHTS: "思考过程"}

# what is left of text that was read in another encoding than it was written in
_GARBLED = re.compile("\ufffd|锟斤拷|烫烫烫|屯屯屯|â€[œ\x9c\x9d™]|(?:[ÃÂåäçèéæ][\x80-\xbf]){2,}")
_TOKENS = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|\[UNUSED_TOKEN[^\]\n]*\]|</?(?:start|end)_of_turn>"
    r"|<(?:bos|eos|pad|unk)>|<s>|</s>"
)


def kind(turns: Iterable[dict], matrix: wishes.Matrix) -> tuple[str, str]:
    """Return whether the rows are ``WISHES`` or ``OTHER``, by the first of them, and why, in Chinese.

    turns: as ``formats.read_turns`` yields them. They are wishes if at least half of them are.

    >>> rows = [{"input": "祝姐姐生日快乐", "output": "…"}, {"input": "怎么写诗", "output": "…"}]
    >>> kind(rows, wishes.load())
    ('wishes', '前 2 条里有 1 条是祝福（看系统提示和请求），按祝福的规则清洗')
    """
    looked = [is_wish(turn, matrix) for turn in islice(turns, LOOKED_AT)]
    found = f"前 {len(looked)} 条里有 {sum(looked)} 条是祝福（看系统提示和请求）"
    if 2 * sum(looked) >= len(looked):
        return WISHES, f"{found}，按祝福的规则清洗"
    return OTHER, f"{found}，只查空的、乱码、模板词元、思考过程、太长和重复，不用祝福的规则"


def is_wish(turn: dict, matrix: wishes.Matrix) -> bool:
    """Say whether a row asks for a wish: the system prompt says so, or a request names whom and what for."""
    system = turn.get("system", "").strip()
    if "history" in turn or (system and "祝福" not in system):
        return False
    return system == matrix.system or all(matrix.read(turn["input"]).pair)


def texts(turn: dict) -> list[str]:
    """Return all that is said in a row, questions and answers in turn."""
    return [*(text for pair in turn.get("history", ()) for text in pair), turn["input"], turn["output"]]


def reject(turn: dict, off: Collection[str] = ()) -> tuple[str, str] | None:
    """Return (rule, reason) of what makes a row unfit for any training, or None.

    >>> reject({"input": "1+1=?", "output": "2<|im_end|>"})
    ('template_tokens', '出现“<|im_end|>”')
    """
    said = texts(turn)
    if BLANK not in off and not all(map(str.strip, said)):
        return BLANK, "没有问题，或没有回答"
    for name, pattern in ((GARBLED, _GARBLED), (TOKENS, _TOKENS)):
        for text in (turn.get("system", ""), *said) if name not in off else ():
            if found := pattern.search(text):
                return name, f"出现“{found[0]}”"
    for text in said[1::2] if THOUGHTS not in off else ():
        if mark := thoughts.find(text):
            return THOUGHTS, f"回答前面有模型的思考（“{mark}”）"
    return None
