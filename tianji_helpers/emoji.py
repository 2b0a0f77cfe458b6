"""Emoji as a person sees them: a joined family, a flag or a skin tone counts once."""

import itertools
import re

_PICTOGRAPH = (
    "[\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff\u2600-\u27bf\u2b50\u2b55\u2b1b\u2b1c"
    "\u231a\u231b\u23e9-\u23fa\u2728]"
)
_START = re.compile(_PICTOGRAPH[:-1] + "\U0001f1e6-\U0001f1ff]")
_MODIFIER = "[\ufe0f\U0001f3fb-\U0001f3ff]*"
ONE = f"(?:[\U0001f1e6-\U0001f1ff]{{2}}|{_PICTOGRAPH}{_MODIFIER}(?:\u200d{_PICTOGRAPH}{_MODIFIER})*)"
_EMOJI = re.compile(ONE)


def contains(text: str) -> bool:
    """Say whether there is an emoji in a text."""
    return _START.search(text) is not None


def count(text: str) -> int:
    """Return how many emoji a person sees.

    >>> count("生日快乐🎂👨‍👩‍👧❤️")
    3
    """
    return len(_EMOJI.findall(text)) if contains(text) else 0


def strip(text: str, keep: int = 0) -> str:
    """Return ``text`` without its emoji, save the first ``keep`` of them.

    >>> strip("生日快乐呀🎂")
    '生日快乐呀'
    >>> strip("🎂生日快乐呀🎉🎉", keep=2)
    '🎂生日快乐呀🎉'
    """
    if not contains(text):
        return text
    position = itertools.count()
    return _EMOJI.sub(lambda found: found[0] if next(position) < keep else "", text)
