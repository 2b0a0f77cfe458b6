"""What a batch shows while it works: a table on a terminal, lines elsewhere."""

import io
import time
from dataclasses import replace

from rich.console import Console

from tianji_toolbox.classroom import batch_table
from tianji_toolbox.classroom.batch import Progress
from tianji_toolbox.classroom.batch_plan import Run
from tianji_toolbox.classroom.batch_run import RUNNING, Status


def progress(name, **status):
    return Progress(Run(name, (), {}, {}, "key"), Status(name, **status))


def rows():
    at_work = progress("小红[1]", status=RUNNING)
    at_work.began = time.monotonic() - 90
    for note in (
        {"notebook": "05_train_qlora"},
        {"cell": 12, "cells": 18},
        {"text": "第   30/96 步  损失 1.494  学习率 1.8e-03  预计还要 0:03:26"},
        {"memory_gb": 2.34},
    ):
        at_work.note(note)
    failed = progress(
        "小刚", status="error", reason="ValueError: 坏\n---> 1", notebook="06", cell=3, minutes=2.0
    )
    return [at_work, failed, progress("小丽", status="done", minutes=4.0), progress("小明")]


def test_the_table_says_where_each_run_is():
    console = Console(file=io.StringIO(), width=160)
    console.print(batch_table.table(rows()))
    shown = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["小红[1]", "运行中", "05_train_qlora", "[12/18]", "1.494", "1.5", "2.3", "0:03:26"] in shown
    assert ["小刚", "出错", "06", "[3]：ValueError:", "坏", "2.0"] in shown
    assert ["小明", "等待"] in shown
    # two of the four took 3 minutes on average, and two are left for one worker
    assert batch_table.summary(rows()) == "完成 1 / 4，失败 1，大约还要 6 分钟"


def test_a_line_for_each_change_where_nobody_watches():
    stream, (at_work, *_) = io.StringIO(), rows()
    with batch_table.watch(stream) as show:
        show([at_work])
        at_work.note({"cell": 13})
        show([at_work])
        at_work.status = replace(at_work.status, status="done", notebook="", cell=None, minutes=2.0)
        show([at_work])
        show([at_work])
    assert stream.getvalue().splitlines() == [
        "小红[1]：运行中，05_train_qlora [12/18]",
        "小红[1]：完成，2.0 分钟，内存峰值 0.0 GB",
    ]
