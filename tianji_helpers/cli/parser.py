"""What all commands share: a parser that speaks Chinese, and options that mean the same everywhere."""

import argparse
from collections.abc import Sequence

from tianji_helpers.errors import CourseError

OUTPUT = {"metavar": "DIR", "default": "", "help": "结果文件夹（默认 outputs/default）"}
SEED = {"type": int, "default": 42, "metavar": "N", "help": "随机种子（默认 %(default)s）"}


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
        self.exit(2, f"错误：{message}\n用法见 {self.prog} --help\n")


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
        "--port", type=int, default=port, metavar="N", help="端口，0 表示随便找一个空的（默认 %(default)s）"
    )
