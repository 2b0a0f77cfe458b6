"""What commands are made of: ``command`` over a function, and in it the arguments, each with its help.

An argument whose name begins with a dash is an option. One without a default is required.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from reprlib import repr as brief

from tianji_helpers import paths
from tianji_helpers.errors import CourseError

Argument = tuple[str, dict]  # what add_argument takes
_REQUIRED = object()


def command(*arguments: Argument) -> Callable:
    """Make a function a command: its name is the command's, its docstring the help, these the arguments."""

    def mark(function: Callable) -> Callable:
        function.arguments = arguments
        return function

    return mark


def argument(name: str, help: str, default=_REQUIRED, **more) -> Argument:
    """Return an argument. more: what else ``add_argument`` is to know."""
    is_option = name.startswith("-")
    if not is_option:
        more.pop("metavar", None)
    if default is _REQUIRED:
        return name, more | ({"required": True} if is_option else {}) | {"help": help}
    if default not in (None, "", []) and "默认" not in help:
        help += "（默认 %(default)s）"
    return name, more | ({} if is_option else {"nargs": "?"}) | {"default": default, "help": help}


def flag(name: str, help: str) -> Argument:
    """Return an option without a value."""
    return name, {"action": "store_true", "help": help}


def choice(name: str, choices: tuple[str, ...], help: str, default=_REQUIRED, **more) -> Argument:
    """Return an argument that is one of a few words."""
    return argument(name, help, default, choices=choices, **more)


def word(name: str, metavar: str, help: str, default=_REQUIRED, **more) -> Argument:
    """Return an argument that is taken as it is. metavar: what stands for it in the help."""
    return argument(name, help, default, metavar=metavar, type=text, **more)


def text(word: str) -> str:
    """Read a word that must be text; bytes of another encoding than UTF-8 are none."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{brief(word)} 里有不是 UTF-8 的字节") from None
    return word


def words(name: str, metavar: str, help: str, **more) -> Argument:
    """Return an option that may be written several times."""
    return word(name, metavar, help, [], **{"action": "append"} | more)


def _number(
    name: str,
    help: str,
    default=_REQUIRED,
    *,
    kind: type[int] | type[float],
    words: str,
    least: float = 0,
    most: float = 10**9,
    **more,
) -> Argument:
    def read(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{brief(text)} 不行，应当是 {least} 到 {most} 之间的{words}")
        return value

    return argument(name, help, default, type=read, **more)


# an argument that is a number from least to most
whole = partial(_number, kind=int, words="整数", metavar="N")
amount = partial(_number, kind=float, words="数", metavar="X", most=1)


class Place:
    """What reads a path of the command line; a relative one starts from the current folder, in every command.

    written: whether the command writes there, else it reads. kind: ``file``, ``folder``, or empty for either.
    ends: how the name must end, as readers take the content for what the name says.
    """

    def __init__(self, written: bool = False, kind: str = "", ends: tuple[str, ...] = ()):
        self.written, self.kind, self.ends = written, kind, ends

    def __call__(self, text: str) -> Path:
        if not text:
            raise argparse.ArgumentTypeError("路径不能是空的")
        if paths.ADDRESS.match(text):  # else a folder named "s3:" would be made
            raise argparse.ArgumentTypeError(f"{brief(text)} 是网址，这里要写这台机器上的路径")
        if self.ends and Path(text).suffix.lower() not in self.ends:
            raise argparse.ArgumentTypeError(f"{brief(text)} 的名字要以 {' 或 '.join(self.ends)} 结尾")
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


read_path = Place()
path = partial(argument, type=read_path, metavar="PATH")
file = partial(argument, type=Place(kind="file"), metavar="FILE")
folder = partial(argument, type=Place(kind="folder"), metavar="DIR")
new_file = partial(argument, type=Place(written=True, kind="file"), metavar="FILE")
new_rows = partial(argument, type=Place(True, "file", (".json", ".jsonl")), metavar="FILE")
new_lines = partial(argument, type=Place(True, "file", (".jsonl",)), metavar="FILE")
new_json = partial(argument, type=Place(True, "file", (".json",)), metavar="FILE")
new_folder = partial(argument, type=Place(written=True, kind="folder"), metavar="DIR")


def folder_or_default(text: str) -> Path | str:
    """Read a path that may be left out; an empty one stays empty."""
    return read_path(text) if text else text


results = partial(argument, default="", type=folder_or_default, metavar="DIR")

OUTPUT = results("--output", "结果文件夹（默认 outputs/default）")
RUN_DIR = results("run_dir", "一次课程的结果文件夹（默认 outputs/default）")
SEED = whole("--seed", "随机种子", 42, most=2**32 - 1)
DEVICE = choice("--device", ("cpu", "cuda"), "在哪里算", "cpu")
HOST = word("--host", "H", "监听的地址（默认 %(default)s，只有这台机器能打开）", "127.0.0.1")
PORT = whole("--port", "端口，0 表示随便找一个空的", 8501, most=65535)


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as a dictionary.

    Raises CourseError for one without a name, and for a second value of a name.
    """
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CourseError(f"{text!r} 不是“名字=值”的样子，例如 seed=7。")
        if pairs.setdefault(name, value) != value:
            both = f"{brief(pairs[name])} 和 {brief(value)}"
            raise CourseError(f"{name} 给了两个不同的值：{both}。请只写一个。")
    return pairs
