"""For the class: batches of runs and their report, assignments, grades of submitted notebooks."""

import argparse
import re
import sys
from datetime import datetime
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
    arg.file("source", "作业，用 ### BEGIN SOLUTION、### BEGIN HIDDEN TESTS 标出答案和看不见的测试"),
    arg.results("--output", "写到哪里（默认 outputs/assignments/作业的名字）"),
    arg.amount("--timeout", "运行答案最多几秒", 60, least=0.1, most=10**6),
)
def assignment(source, output, timeout) -> int:
    """由一份作业写出学生版和教师版，并试一试答案和空白的各得几分"""
    from tianji_helpers import paths
    from tianji_toolbox.classroom import assignment, grading

    read = assignment.load(source)
    student, master = assignment.write(source, output or paths.resolve(f"outputs/assignments/{source.stem}"))
    most = sum(test.points for test in read.tests.values())
    for name, question in read.questions.items():
        print(f"{name}：{question.points:g} 分" + ("" if question.test else "，由人来判"))
    tried = grading.grade_one(master, read, seconds=timeout)
    missing = [f"  {name}：{hint}" for name, hints in tried.results.items() for hint in hints]
    blank = sum(grading.grade_one(student, read, seconds=timeout).points.values())
    got = sum(tried.points.values())
    print(f"自动判的一共 {most:g} 分：答案得 {got:g} 分，学生版原样交上来得 {blank:g} 分。")
    print(f"学生版：{student}\n教师版：{master}（评分用：tianji grade … --assignment {master}）")
    if missing or tried.problems:
        print("答案没有全部通过，请先改好：", *missing, *tried.problems, sep="\n", file=sys.stderr)
    return 1 if missing else 0


def _time(text: str) -> datetime:
    """Read a point in time; without a zone it is this machine's."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{brief(text)} 不行，应当像 2026-12-01T23:59") from None


@arg.command(
    arg.folder("submissions", "每人一个笔记本、或者每人一个文件夹"),
    arg.results("--output", "成绩表写到哪里（默认 outputs/grades）"),
    arg.file("--assignment", "tianji assignment 写出的教师版（默认判六课的练习）", None),
    arg.file("--roster", "学习平台导出的名单（CSV 或 .xlsx）；成绩填进它的一份副本，可以导回去", None),
    arg.word("--column", "NAME", "名单里没有成绩那一列时，新的一列叫什么（默认作业的名字）", ""),
    arg.argument("--deadline", "截止时间，例如 2026-12-01T23:59", None, type=_time, metavar="TIME"),
    arg.amount("--late", "迟交每过一天减去得分的几成，例如 0.1", 0.0),
    arg.amount("--timeout", "每个笔记本最多几秒", 60, least=0.1, most=10**6),
    arg.amount("--memory", "每个笔记本最多几 GB 内存", 2, least=0.1, most=10**6),
    arg.whole("--workers", "同时判几份", 1, least=1, most=10_000),
)
def grade(submissions, output, assignment, roster, column, deadline, late, timeout, memory, workers) -> None:
    """给交上来的笔记本判练习或作业，写出成绩表和每人一页的反馈"""
    from tianji_helpers import paths
    from tianji_toolbox.classroom import assignment as assignments
    from tianji_toolbox.classroom import gradebook, grading
    from tianji_toolbox.classroom import roster as rosters

    folder = output or paths.resolve("outputs/grades")
    source = assignments.load(assignment) if assignment else None
    book, people = gradebook.Book(source, deadline, late), None

    def look(students: list[str]) -> None:
        nonlocal people
        book.read_comments(folder, students)
        people = rosters.load(roster, students) if roster else None

    limits = {"seconds": timeout, "memory_gb": memory, "workers": workers}
    # what is graded stays, whatever comes after it
    grades = grading.grade(
        submissions,
        **limits,
        assignment=source,
        deadline=deadline,
        before=look,
        save=lambda some: gradebook.write(some, folder, book, whole=False),
    )
    items = book.items(grades)
    for row in grades:
        notes = "".join(f"\n      {line}" for line in [*row.doubts, *row.problems])
        print(f"{book.total(row, items):>3g} / {book.most(items):g}  {row.student}{notes}")
    for file in gradebook.write(grades, folder, book):
        print(f"写出 {file}")
    if people:
        title = column or (assignment.stem if assignment else "练习")
        print(f"写出 {rosters.write(people, book, grades, title, folder)}")
        if people.missing:
            print(f"没有交的 {len(people.missing)} 人：{'、'.join(people.missing)}")


@arg.command(
    arg.folder("submissions", "每人一个笔记本、或者每人一个文件夹"),
    arg.file("--template", "发给学生的笔记本，里面的每一行都不算（默认是六课）；可以写几个", [], nargs="+"),
    arg.amount("--threshold", "两段有多像才列出来：相同的三字片段占几成", 0.6, least=0.3),
    arg.results("--output", "写到哪里（默认 outputs/grades）"),
)
def similar(submissions, template, threshold, output) -> None:
    """找出彼此相像的提交，把相像的段落并排给人看"""
    from tianji_helpers import paths
    from tianji_toolbox.classroom import course, similarity

    pairs, problems = similarity.find(submissions, template or course.find_notebooks(), threshold)
    for pair in pairs[:20]:
        print(f"{pair.one} 和 {pair.other}：{len(pair.passages)} 段，约 {pair.size} 个字符")
    page = similarity.write(pairs, problems, threshold, output or paths.resolve("outputs/grades"))
    print(f"{len(pairs)} 对相像。并排看：{page}")
