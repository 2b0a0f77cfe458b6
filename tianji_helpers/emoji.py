"""Emoji as a person sees them: a joined family, a flag or a skin tone counts once."""

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


def strip(text: str) -> str:
    """Return ``text`` without its emoji.

    >>> strip("生日快乐呀🎂")
    '生日快乐呀'
    """
    return _EMOJI.sub("", text) if contains(text) else text
