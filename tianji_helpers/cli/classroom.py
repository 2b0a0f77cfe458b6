"""For instructors: a class's submissions."""

import argparse
from pathlib import Path

from tianji_helpers.cli.parser import OUTPUT


def grade(args: argparse.Namespace) -> None:
    """给交上来的笔记本判练习，写出成绩表"""
    from tianji_helpers import paths
    from tianji_helpers.classroom import grading

    limits = {"seconds": args.timeout, "memory_gb": args.memory, "workers": args.workers}
    grades = grading.grade(Path(args.submissions), **limits)
    total = len(grading.columns(grades))
    for row in grades:
        print(
            f"{row.passed:>3} / {total}  {row.student}" + "".join(f"\n      {line}" for line in row.problems)
        )
    for file in grading.write(grades, paths.resolve(args.output or "outputs/grades")):
        print(f"写出 {file}")


def add(command) -> None:
    """Add these commands; ``command`` makes the parser of one."""
    sub = command("grade", grade)
    sub.add_argument("submissions", metavar="DIR", help="每人一个笔记本、或者每人一个文件夹")
    sub.add_argument("--output", **OUTPUT | {"help": "成绩表写到哪里（默认 outputs/grades）"})
    limit = {"type": float, "metavar": "N"}
    sub.add_argument("--timeout", default=60, help="每个笔记本最多几秒（默认 %(default)s）", **limit)
    sub.add_argument("--memory", default=2, help="每个笔记本最多几 GB 内存（默认 %(default)s）", **limit)
    sub.add_argument("--workers", type=int, default=1, metavar="N", help="同时判几份（默认 %(default)s）")
