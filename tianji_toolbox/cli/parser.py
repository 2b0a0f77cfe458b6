"""What all commands share: a parser that speaks Chinese, and options that mean the same everywhere."""

import argparse
import itertools
import math
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from reprlib import repr as brief

from tianji_helpers.errors import CourseError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Place:
    """What reads a path of the command line; a relative one starts from the current folder, in every command.

    written: whether the command writes there, else it reads. kind: ``file``, ``folder``, or empty for either.
    """

    def __init__(self, written: bool = False, kind: str = ""):
        self.written, self.kind = written, kind

    def __call__(self, text: str) -> Path:
        if not text:
            raise argparse.ArgumentTypeError("路径不能是空的")
        if _ADDRESS.match(text):  # else a folder named "s3:" would be made
            raise argparse.ArgumentTypeError(f"{brief(text)} 是网址，这里要写这台机器上的路径")
        try:
            return Path(text).expanduser().absolute()
        except (OSError, RuntimeError) as error:  # a current folder that is gone; ~nobody
            raise argparse.ArgumentTypeError(f"路径 {brief(text)} 用不了：{error}") from None

    def is_wrong(self, path: Path) -> bool:
        """Whether a path cannot be what is asked for: it is not there, or it is the other kind."""
        try:
            if not path.exists():
                return not self.written
            return (self.kind == "file" and path.is_dir()) or (self.kind == "folder" and not path.is_dir())
        except OSError:  # too long a name, a folder that may not be entered
            return True


READ, READ_FILE, READ_FOLDER = Place(), Place(kind="file"), Place(kind="folder")
WRITE_FILE, WRITE_FOLDER = Place(written=True, kind="file"), Place(written=True, kind="folder")


def folder_or_default(text: str) -> Path | str:
    """Read a path that may be left out; an empty one stays empty."""
    return READ(text) if text else text


def whole(least: int = 0, most: int = 10**9) -> Callable[[str], int]:
    """Return what reads a whole number within these limits."""
    return _number(int, "整数", least, most)


def amount(least: float = 0, most: float = 10**9) -> Callable[[str], float]:
    """Return what reads a number within these limits."""
    return _number(float, "数", least, most)


def _number(kind: Callable, words: str, least: float, most: float) -> Callable:
    def read(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{brief(text)} 不行，应当是 {least} 到 {most} 之间的{words}")
        return value

    return read


OUTPUT = {
    "type": folder_or_default,
    "metavar": "DIR",
    "default": "",
    "help": "结果文件夹（默认 outputs/default）",
}
SEED = {
    "type": whole(most=2**32 - 1),
    "default": 42,
    "metavar": "N",
    "help": "随机种子（默认 %(default)s）",
}


class _Formatter(argparse.HelpFormatter):
    """Help in Chinese as far as argparse allows."""

    def add_usage(self, usage, actions, groups, prefix=None):
        super().add_usage(usage, actions, groups, "用法：" if prefix is None else prefix)


class Parser(argparse.ArgumentParser):
    """A parser of ours: no abbreviations, help and errors in Chinese."""

    def __init__(self, **options):
        super().__init__(formatter_class=_Formatter, add_help=False, allow_abbrev=False, **options)
        self._positionals.title, self._optionals.title = "参数", "选项"
        self.add_argument("-h", "--help", action="help", help="显示这段说明")

    def error(self, message):
        self.exit(2, f"错误：{message}。用法见 {self.prog} --help\n")


def places(args: argparse.Namespace) -> list[tuple[str, Place, Path]]:
    """Return the paths of a command line: the name of the argument, what read it, and the path."""
    found = []
    for action in args.parser._actions:
        value = getattr(args, action.dest, None)
        if isinstance(action.type, Place) and value is not None:
            name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
            found += [(name, action.type, path) for path in (value if isinstance(value, list) else [value])]
    return found


def check_apart(args: argparse.Namespace) -> None:
    """Raise CourseError if a command would write one file twice, or over one that it reads.

    One file may have several names: a link's, a relative one, or one that differs in case only, which is
    one file on some systems.
    """
    for (name, place, path), (other_name, other_place, other) in itertools.combinations(places(args), 2):
        if (place.written or other_place.written) and _same(path, other):
            raise CourseError(
                f"{name} 和 {other_name} 是同一个文件：{path}。写出来会盖掉另一个，请换一个文件名。"
            )


def check_words(args: argparse.Namespace) -> None:
    """Raise CourseError for a word of the command line that is not text: bytes that are not UTF-8."""
    for action in args.parser._actions:
        value = getattr(args, action.dest, None) if action.type is None else None
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and not word.isascii():
                try:
                    word.encode()
                except UnicodeEncodeError:
                    raise CourseError(f"{action.dest} 里有不是 UTF-8 的字节：{brief(word)}。") from None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one is not there yet
        return _plain(one) == _plain(other)


def _plain(path: Path) -> str:
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as a dictionary. Raises CourseError for one without a name."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CourseError(f"{text!r} 不是“名字=值”的样子，例如 -p seed=7。")
        pairs[name] = value
    return pairs


def add_run_dir(sub: argparse.ArgumentParser) -> None:
    """Add the folder of a run of the course, which may be left out."""
    sub.add_argument(
        "run_dir",
        nargs="?",
        type=folder_or_default,
        default="",
        metavar="RUN_DIR",
        help="一次课程的结果文件夹（默认 outputs/default）",
    )


def add_address(sub: argparse.ArgumentParser, port: int = 8501) -> None:
    """Add the options of the address that a page or a server listens on."""
    sub.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="监听的地址（默认 %(default)s，只有这台机器能打开）"
    )
    sub.add_argument(
        "--port",
        type=whole(most=65535),
        default=port,
        metavar="N",
        help="端口，0 表示随便找一个空的（默认 %(default)s）",
    )
