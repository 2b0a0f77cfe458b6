"""The whole course, and the check of the machine."""

import argparse

from tianji_toolbox.cli import arguments as arg


@arg.command(arg.OUTPUT)
def doctor(output) -> int:
    """检查这台机器能不能跑课程"""
    from tianji_toolbox import doctor

    return doctor.report(doctor.diagnose(output))


@arg.command(
    arg.word("--only", "NN", "只跑这一课，例如 05", None),
    arg.word("--from", "NN", "从这一课跑到最后，例如 03", None, dest="start"),
    arg.words("-p", "NAME=VALUE", "改笔记本的参数，可以写多次，例如 -p seed=7", dest="parameters"),
    arg.OUTPUT,
)
def course(only, start, parameters, output) -> None:
    """从头到尾跑六课；停下后再运行就接着走"""
    from tianji_toolbox.classroom.course import run_course

    if None not in (only, start):
        raise argparse.ArgumentTypeError("--only 和 --from 只能写一个")
    run_course(only, start, arg.pairs(parameters), output)
