"""What the course raises on purpose."""

from collections.abc import Iterable
from difflib import get_close_matches

from tianji_helpers import redaction


class HidesSecrets(Exception):
    """An exception whose message, which may quote a server or a client, shows no key (see ``redaction``)."""

    def __init__(self, message: object = ""):
        super().__init__(redaction.hide(str(message)))


class CourseError(HidesSecrets):
    """Something that the person at the keyboard can mend.

    The message is Simplified Chinese and names the observed value, the limit and the fix. The
    command line prints it without a traceback and exits with status 1.
    """


class Terminated(KeyboardInterrupt):
    """Somebody ended this program (SIGTERM): all is tidied up as after a Ctrl-C, and nothing goes on."""


def check_known(name: str, known: Iterable[str], what: str) -> None:
    """Raise CourseError, naming the closest and all, unless a name is known. what: they are, in Chinese."""
    if name not in (names := list(known)):
        close = get_close_matches(str(name), names, n=1)
        hint = f"你是想用 {close[0]} 吗？" if close else ""
        raise CourseError(f"没有叫 {str(name)[:80]} 的{what}。{hint}可选：{'、'.join(names)}。")
