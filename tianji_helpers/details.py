"""Whether what somebody asked to have in a wish is in it.

A good wish does not repeat the story, it takes it up: 她刚考上研究生 becomes 录取通知书到手. So a story
counts as taken up if a two-character word of it comes back, or three in ten of its telling characters. Of the
320 wishes of ``data/wishes/answers/large_requests.jsonl`` 99 % do, of the same wishes dealt to other
requests 2 %.
"""

import re

from tianji_helpers.request import Request

_SHARE = 0.3
# they stand in every story and tell nothing of it
_COMMON = set(
    "她他它你您我咱们的了在是和也就都很着过把给不一个去来要会说有还又最这那被让跟从到对上下里前后每只刚才没年天次第两三几多自己家人"
)
_WORD = re.compile("[㐀-鿿]+|[a-zA-Z0-9]+")


def kept(request: Request, text: str) -> bool | None:
    """Return whether a wish takes up the request's details; None if it has none that can be looked for.

    >>> from tianji_helpers import wishes
    >>> asked = wishes.load().read("祝姐姐生日快乐,她刚考上研究生")
    >>> kept(asked, "研究生姐姐，生日快乐！"), kept(asked, "姐姐，生日快乐！")
    (True, False)
    """
    named = "".join(request.names) + request.scene
    words = {word for word in _words(request.details) if word not in named}
    characters = {one for one in request.details if one.isalnum() and one not in _COMMON and one not in named}
    if not (words or characters):
        return None
    back = sum(one in text for one in characters)
    return not words.isdisjoint(_words(text)) or (back > 0 and back >= _SHARE * len(characters))


def _words(text: str) -> set[str]:
    """Return the pairs of neighbouring Chinese characters, and the words in Latin letters and digits."""
    found = set()
    for piece in _WORD.findall(text):
        if piece.isascii():
            found.add(piece.lower())
        else:
            found.update(piece[i : i + 2] for i in range(len(piece) - 1))
    return {word for word in found if _COMMON.isdisjoint(word)}
