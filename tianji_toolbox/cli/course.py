"""The whole course, and the check of the machine."""

import argparse

from tianji_toolbox.cli.parser import OUTPUT, pairs


def doctor(args: argparse.Namespace) -> int:
    """检查这台机器能不能跑课程"""
    from tianji_toolbox import doctor

    return doctor.report(doctor.diagnose(args.output))


def course(args: argparse.Namespace) -> None:
    """从头到尾跑六课；停下后再运行就接着走"""
    from tianji_toolbox.classroom.course import run_course

    run_course(args.only, args.start, pairs(args.parameter), args.output)


def add(command) -> None:
    """Add these commands; ``command`` makes the parser of one."""
    command("doctor", doctor).add_argument("--output", **OUTPUT)

    sub = command("course", course)
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--only", metavar="NN", help="只跑这一课，例如 05")
    which.add_argument("--from", dest="start", metavar="NN", help="从这一课跑到最后，例如 03")
    sub.add_argument(
        "-p",
        dest="parameter",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="改笔记本的参数，可以写多次，例如 -p seed=7",
    )
    sub.add_argument("--output", **OUTPUT)
