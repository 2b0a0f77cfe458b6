"""``tianji …``: the functions of the course from a shell, a module for each part of the course.

Every command imports what it needs when it runs, so that ``--help`` answers at once. A
``CourseError`` is printed without a traceback and ends with status 1; Ctrl-C ends with 130.
"""

import argparse
import sys
from collections.abc import Sequence

from tianji_helpers.cli import classroom, course, dataset, serving, synthesis, training
from tianji_helpers.cli.parser import Parser
from tianji_helpers.errors import CourseError


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets ``run``, the function that does the work."""
    parser = Parser(prog="tianji", description="送祝福大模型课程：从数据合成到能对话的微调模型。")
    parser.add_argument("--version", action="store_true", help="显示版本")
    commands = parser.add_subparsers(title="命令", metavar="命令", dest="command")

    def command(name: str, run) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__ + "。")
        sub.set_defaults(run=run)
        return sub

    for room in (course, synthesis, dataset, training, serving, classroom):
        room.add(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.version:
        from tianji_helpers import __version__

        print(__version__)
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    try:
        return args.run(args) or 0
    except CourseError as error:
        print(f"错误：{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\n已中断。", file=sys.stderr)
        return 130
