"""A parser that speaks Chinese, and what is looked at before a command runs: whether its paths are apart.

argparse, because its words can be replaced: those of typer and cyclopts are English, their newest versions
want Python 3.11, and they need three to five times as long to show the help.
"""

import argparse
import itertools
import os
import unicodedata
from pathlib import Path

from tianji_helpers.errors import CourseError
from tianji_toolbox.cli.arguments import Place

_CHINESE = {  # argparse's own words
    "usage: ": "用法：",
    "argument %(argument_name)s: %(message)s": "%(argument_name)s：%(message)s",
    "the following arguments are required: %s": "缺少参数 %s",
    "unrecognized arguments: %s": "不认识 %s",
    "expected one argument": "后面要写一个值",
    "expected at least one argument": "后面至少要写一个值",
    "ignored explicit argument %r": "后面不能写值 %r",
    "invalid choice: %(value)r (choose from %(choices)s)": "没有 %(value)r，可选的有 %(choices)s",
}
argparse._ = lambda text: _CHINESE.get(text, text)  # it would ask gettext


class Parser(argparse.ArgumentParser):
    """A parser of ours: no abbreviations, help and errors in Chinese."""

    def __init__(self, **options):
        super().__init__(add_help=False, allow_abbrev=False, **options)
        self._positionals.title, self._optionals.title = "参数", "选项"
        self.add_argument("-h", "--help", action="help", help="显示这段说明")

    def error(self, message):
        message = message.removeprefix("argument ")  # Python 3.10 does not ask for a word for it
        self.exit(2, f"错误：{message}。用法见 {self.prog} --help\n")


def places(args: argparse.Namespace) -> list[tuple[str, Place, Path]]:
    """Return the paths of a command line: the name of the argument, what read it, and the path."""
    found = []
    for action in args.parser._actions:
        value = getattr(args, action.dest, None)
        if isinstance(action.type, Place) and value is not None:
            name = action.option_strings[-1] if action.option_strings else action.dest
            found += [(name, action.type, path) for path in (value if isinstance(value, list) else [value])]
    return found


def check_apart(args: argparse.Namespace) -> None:
    """Raise CourseError if a command would write one file twice, or over one that it reads.

    One file may have several names: a link's, a relative one, or one that differs in case only, which is
    one file on some systems. Provenance is written beside each file that a command writes.
    """
    from tianji_helpers import records

    for (name, place, path), (other_name, other_place, other) in itertools.combinations(places(args), 2):
        if (place.written or other_place.written) and _same(path, other):
            raise CourseError(
                f"{name} 和 {other_name} 是同一个文件：{path}。写出来会盖掉另一个，请换一个文件名。"
            )
        for written, beside in ((place, path), (other_place, other)):
            taken = other if beside is path else path
            if written.written and beside.name and _same(records.provenance_path(beside), taken):
                raise CourseError(f"{taken} 是 {beside.name} 的来历要写的地方，会被盖掉；请换一个文件名。")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one is not there yet
        return _plain(one) == _plain(other)


def _plain(path: Path) -> str:
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()
