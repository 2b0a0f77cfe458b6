"""Keys, tokens and passwords of this machine, and how they are kept out of what is shown or stored.

Whatever comes from elsewhere (a server's error page, an answer, a client's exception) may repeat the key
that it was sent: whole, cut, or in another encoding. ``hide`` takes all of that out. It stands where such
words come in: every ``CourseError`` and every reply of a provider passes through it.
"""

import base64
import html
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

from tianji_helpers import paths

MARK = "***"
SHORTEST = 8  # characters; of a key, fewer in a row tell nothing, and of a shorter value everything is a word
_NAME = re.compile(r"(?:^|_)(?:API)?(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_ESCAPE = re.compile(r"\\+(?:u00|x)([2-7][0-9A-Fa-f])")
_WORD = re.compile(rf"[!-~]{{{SHORTEST},}}")


def secrets() -> tuple[str, ...]:
    """Return the values of keys, tokens and passwords in the environment and in ``.env``."""
    values = dict(os.environ)
    file = paths.ROOT / ".env"
    if file.is_file():
        from dotenv import dotenv_values

        values = {name: value or "" for name, value in dotenv_values(file).items()} | values
    found = [value.strip() for name, value in values.items() if _NAME.search(name)]
    found += [_password(value) for name, value in values.items() if name.lower().endswith("_proxy")]
    return tuple(sorted({value for value in found if len(value) >= SHORTEST}))


def _password(url: str) -> str:
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return ""


def hide(text: str) -> str:
    """Return ``text`` with each stretch of 8 or more characters of a secret, in any encoding, as ``***``.

    Encodings: URL, base64 (also as a part of something longer), hexadecimal, backwards, and the escapes of
    JSON and HTML.
    """
    if not _WORD.search(text) or not (known := secrets()):
        return text
    pieces = _pieces(known)

    def blacken(match: re.Match[str]) -> str:
        word = match[0]
        if any(sign in word for sign in "%&\\"):  # any of the letters may be spelled, twice even
            word = max(word, _spelled_out(word), key=lambda word: _count(word, pieces))
        low, out, at = word.lower(), [], 0
        while at < len(word):
            end = at
            while low[end : end + SHORTEST] in pieces:
                end += 1
            out.append(MARK if end > at else word[at])
            at = end + SHORTEST - 1 if end > at else at + 1
        return "".join(out)

    return _WORD.sub(blacken, text)


def _spelled_out(word: str) -> str:
    """Return a word without the escapes of addresses, HTML and JSON."""
    for _ in range(3):
        word = html.unescape(unquote(_ESCAPE.sub(lambda match: chr(int(match[1], 16)), word)))
    return word


def holds(text: str) -> bool:
    """Say whether a text holds a whole secret of this machine, in any encoding."""
    low = text.lower()
    return any(form.lower() in low for secret in secrets() for form in _forms(secret))


def _count(word: str, pieces: frozenset[str]) -> int:
    low = word.lower()
    return sum(low[at : at + SHORTEST] in pieces for at in range(len(low) - SHORTEST + 1))


@lru_cache(maxsize=8)
def _pieces(known: tuple[str, ...]) -> frozenset[str]:
    """Return every stretch of 8 characters of the secrets in all encodings, in small letters."""
    return frozenset(
        form[at : at + SHORTEST].lower()
        for secret in known
        for form in _forms(secret)
        for at in range(len(form) - SHORTEST + 1)
    )


def _forms(secret: str) -> Iterable[str]:
    data = secret.encode()
    yield secret
    yield secret[::-1]
    yield quote(secret, safe="")
    yield "".join(f"%{byte:02x}" for byte in data)
    yield data.hex()
    for escape in ("\\u{:04x}", "\\x{:02x}", "&#{:d};", "&#x{:x};"):
        yield "".join(escape.format(ord(character)) for character in secret)
    for before in range(3):  # how far into a group of three bytes it begins
        text = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        whole = text[(0, 2, 3)[before] : len(text) - bool((before + len(data)) % 3)]
        yield whole
        yield whole.translate(str.maketrans("+/", "-_"))


def shown(url: str) -> str:
    """Return an address without the parts in which passwords stand.

    >>> shown("https://ming:geheim@example.com/v1?key=1")
    'https://example.com/v1'
    """
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        return "（读不懂的地址）"
