"""``tianji …``: the functions of the course from a shell, a module for each part of the course.

Every command imports what it needs when it runs, so that ``--help`` answers at once. What cannot be done is
one message on standard error. Status 2: the command line cannot be understood, or names a place that is not
there or is of the wrong kind. Status 1: it failed, or what it found is not good. Ctrl-C and SIGTERM end with
130 (``web``, ``review`` and ``serve``, which end in no other way, with their server's status), a reader that
went away (``| head``) quietly with 141.
Not here: work; a command reads its words, calls one function, and shows what came of it.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence

from tianji_helpers.errors import CourseError, Terminated
from tianji_toolbox.cli import classroom, course, dataset, shipping, synthesis, training
from tianji_toolbox.cli.parser import Parser, check_apart, places

_OURS = ("command", "version", "run", "parser")  # the other values are the command's arguments


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets ``run``, the function that does the work."""
    parser = Parser(prog="tianji", description="送祝福大模型课程：从数据合成到能对话的微调模型。")
    parser.set_defaults(parser=parser)
    parser.add_argument("--version", action="store_true", help="显示版本")
    commands = parser.add_subparsers(title="命令", metavar="命令", dest="command")
    for room in (course, synthesis, dataset, training, shipping, classroom):
        for function in vars(room).values():
            if hasattr(function, "arguments"):
                name, title = function.__name__.replace("_", "-"), function.__doc__
                sub = commands.add_parser(name, help=title, description=f"{title}。")
                sub.set_defaults(run=function, parser=sub)
                for word, options in function.arguments:
                    sub.add_argument(word, **options)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal of GBK or ASCII gets what it lacks in escapes
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    parser, args = build_parser(), argparse.Namespace()
    try:
        try:
            parser.parse_args(arguments, args)
            return _run(parser, args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python would write what is left when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except argparse.ArgumentTypeError as error:  # of a path within another argument
        args.parser.error(str(error))
    except CourseError as error:
        print(f"错误：{error}", file=sys.stderr)
    except OSError as error:
        fix = "请检查磁盘空间和文件夹权限，再运行一次。" if error.filename else ""
        print(f"错误：{error.filename or '系统'}：{error.strerror or error}。{fix}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\n已中断。", file=sys.stderr)
        return 130
    return 2 if any(place.is_wrong(path) for _, place, path in places(args)) else 1


def _terminate(*_: object) -> None:
    raise Terminated  # what is running is ended, and tidied up


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    if args.version:
        from tianji_helpers import __version__

        print(__version__)
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    check_apart(args)
    values = {name: value for name, value in vars(args).items() if name not in _OURS}
    return args.run(**values) or 0
