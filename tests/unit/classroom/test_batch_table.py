"""What a batch shows while it works: a table on a terminal, lines elsewhere."""

import io
import json
import time
from dataclasses import replace

import pytest
from rich.console import Console

from tianji_toolbox.classroom import batch_table
from tianji_toolbox.classroom.batch import Progress
from tianji_toolbox.classroom.batch_plan import Run
from tianji_toolbox.classroom.runs import RUNNING, Status

SCALARS = "05_training/wishes/work/20261128_101500/vis_data/scalars.json"


def progress(name, **status):
    return Progress(Run(name, (), {}, {}, "key"), Status(name, **status))


@pytest.fixture
def rows(tmp_path):
    """Four runs; the first is in a training, of which there are the lines that mmengine writes."""
    scalars = tmp_path / SCALARS
    scalars.parent.mkdir(parents=True)
    points = [{"total_steps": 96, "step": 0}]
    points += [{"loss": 1.4944, "lr": 1e-3, "time": 3.0, "step": step} for step in (10, 20, 30)]
    scalars.write_text("\n".join(map(json.dumps, points)) + '\n{"loss": 9.9, "st')  # one is being written
    at_work = progress("小红[1]", status=RUNNING)
    at_work.began, at_work.folder = time.monotonic() - 90, tmp_path
    for note in (
        {"notebook": "05_train_qlora"},
        {"cell": 12, "cells": 18},
        {"memory_gb": 2.34},
    ):
        at_work.note(note)
    failed = progress(
        "小刚", status="error", reason="ValueError: 坏\n---> 1", notebook="06", cell=3, minutes=2.0
    )
    return [at_work, failed, progress("小丽", status="done", minutes=4.0), progress("小明")]


def test_the_table_says_where_each_run_is(rows):
    console = Console(file=io.StringIO(), width=160)
    console.print(batch_table.table(rows))
    shown = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["小红[1]", "运行中", "05_train_qlora", "[12/18]", "1.494", "1.5", "2.3", "0:03:18"] in shown
    with rows[0].folder.joinpath(SCALARS).open("a") as file:  # the training is over, the notebook is not
        file.write('\n{"stopped_early": false, "step": 96}')
    console.print(batch_table.table(rows))
    shown += [line.split() for line in console.file.getvalue().splitlines()]
    assert ["小红[1]", "运行中", "05_train_qlora", "[12/18]", "1.5", "2.3"] in shown
    assert ["小刚", "出错", "06", "[3]：ValueError:", "坏", "2.0"] in shown
    assert ["小明", "等待"] in shown
    # two of the four took 3 minutes on average, and two are left for one worker
    assert batch_table.summary(rows) == "完成 1 / 4，失败 1，大约还要 6 分钟"
    assert batch_table.line(progress("小华", status="died")) == "中途结束，0.0 分钟，内存峰值 0.0 GB，："


def test_a_line_for_each_change_where_nobody_watches(rows):
    stream, (at_work, *_) = io.StringIO(), rows
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
