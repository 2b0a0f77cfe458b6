"""For the class: batches of runs and their report, grades of submitted notebooks."""

import argparse
import re
import sys
from reprlib import repr as brief

from tianji_toolbox.cli import arguments as arg


def _shard(text: str) -> tuple[int, int]:
    """Read which shard of how many."""
    found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{brief(text)} 不行，应当像 2/4：四份里的第二份")
    return int(found[1]), int(found[2])


_SHARD_HELP = "只做 N 份里的第 K 份（默认全做），例如 2/4：几台机器各做一份，--output 写同一个共享文件夹"


@arg.command(
    arg.file("plan", "计划文件（.yaml），例子在 configs/batches/"),
    arg.whole("--workers", "最多同时运行几个（默认每两个核一个）", None, least=1, most=10_000),
    arg.results("--output", "批次的文件夹（默认 outputs/batches/计划的名字）"),
    arg.argument("--shard", _SHARD_HELP, (1, 1), type=_shard, metavar="K/N"),
    arg.flag("--only-failed", "只重做失败的"),
    arg.flag("--dry-run", "只检查计划，列出要运行的"),
)
def batch(plan, workers, output, shard, only_failed, dry_run) -> int:
    """按计划批量运行笔记本；停下后再运行就接着走"""
    from tianji_helpers import paths
    from tianji_toolbox.classroom import batch, batch_plan, batch_table, jail, report

    plan = batch_plan.load(plan)
    folder = output or paths.resolve(f"outputs/batches/{plan.file.stem}")
    if dry_run:
        rows = batch.survey(plan, folder, only_failed, shard)
        for row in rows:
            chosen = "，".join(f"{name}={value}" for name, value in row.run.chosen.items())
            print(f"{row.run.name}：{'要运行' if row.fresh else batch_table.line(row)}（{chosen}）")
        names = " → ".join(notebook.stem for notebook in plan.runs[0].notebooks)
        print(f"{plan.title}：{sum(row.fresh for row in rows)} / {len(rows)} 次要运行，每次 {names}")
        return 0
    if why := jail.why_not():
        print(f"注意：运行中的笔记本能写别的文件夹，因为这台机器关不住它们：{why}", file=sys.stderr)
    with batch_table.watch() as show:
        options = {"workers": workers, "only_failed": only_failed, "shard": shard}
        statuses = batch.run_batch(plan, folder, show=show, **options)
    page = report.write(folder)
    failed = sum(status.has_failed for status in statuses)
    done = sum(status.status == "done" for status in statuses)
    elsewhere = sum(status.status == "running" for status in statuses)
    again = f"，另一个批次正在做 {elsewhere}" if elsewhere else ""
    again += f"，失败 {failed}。再运行一次同样的命令，只会补上这些" if failed else ""
    print(f"完成 {done} / {len(statuses)}{again}。\n报告：{page}")
    return 1 if failed or elsewhere else 0


@arg.command(arg.folder("folder", "tianji batch 的结果文件夹"))
def report(folder) -> None:
    """写出一个批次的报告，一个网页"""
    from tianji_toolbox.classroom import report

    print(f"报告：{report.write(folder)}")


@arg.command(
    arg.folder("submissions", "每人一个笔记本、或者每人一个文件夹"),
    arg.results("--output", "成绩表写到哪里（默认 outputs/grades）"),
    arg.amount("--timeout", "每个笔记本最多几秒", 60, least=0.1, most=10**6),
    arg.amount("--memory", "每个笔记本最多几 GB 内存", 2, least=0.1, most=10**6),
    arg.whole("--workers", "同时判几份", 1, least=1, most=10_000),
)
def grade(submissions, output, timeout, memory, workers) -> None:
    """给交上来的笔记本判练习，写出成绩表"""
    from tianji_helpers import paths
    from tianji_toolbox.classroom import grading

    folder = output or paths.resolve("outputs/grades")
    limits = {"seconds": timeout, "memory_gb": memory, "workers": workers}
    # what is graded stays, whatever comes after it
    grades = grading.grade(submissions, **limits, save=lambda some: grading.write(some, folder))
    total = len(grading.columns(grades))
    for row in grades:
        print(
            f"{row.passed:>3} / {total}  {row.student}" + "".join(f"\n      {line}" for line in row.problems)
        )
    for file in grading.write(grades, folder):
        print(f"写出 {file}")
