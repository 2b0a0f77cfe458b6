"""Notebook 01: wishes, and questions from texts."""

import argparse
import sys

from tianji_helpers.errors import CourseError
from tianji_toolbox.cli.parser import OUTPUT, READ, READ_FILE, SEED, amount, whole


def synthesize(args: argparse.Namespace) -> int:
    """生成祝福语，每种风格每轮一个文件（第 1 课）"""
    from tianji_helpers import records, synthesis

    options = {"styles": args.style or None, **_asking(args)}
    if args.best_of > 1:
        from tianji_helpers.training import quality

        options |= {"best_of": args.best_of, "rate": quality.rate}
    if args.requests:
        if args.style:
            raise CourseError("--requests 里的每条请求自己带着风格，不要再写 --style。")
        options["requests"] = records.read_text(args.requests).splitlines()
    if args.dry_run:
        plan = synthesis.preview(**options)
        print(f"{plan}\n不合适而跳过的组合 {plan.unsuitable} 对。第一条提示词：\n{plan.examples[0].text}")
        return 0
    return _report(synthesis.synthesize(**options))


def synthesize_qa(args: argparse.Namespace) -> int:
    """从文本文件（.txt、.md）生成问答，每轮一个文件（第 1 课）"""
    from tianji_helpers import synthesis

    options = {"folder": args.input, **_asking(args)}
    if args.dry_run:
        plan, questions = synthesis.preview_knowledge(**options)
        print(f"{plan}\n第一条提示词：\n{questions[0].text}")
        return 0
    return _report(synthesis.synthesize_knowledge(**options))


def add(command) -> None:
    """Add these commands; ``command`` makes the parser of one."""
    sub = command("synthesize", synthesize)
    sub.add_argument(
        "--style",
        action="append",
        metavar="NAME",
        help="只生成这种风格，可以写多次（默认：正常、小红书、严肃）",
    )
    sub.add_argument(
        "--requests",
        type=READ_FILE,
        metavar="FILE",
        help="不问矩阵，问这个文件里的请求：每行一条，用自己的话，可以带上故事和字数"
        "（祝姐姐生日快乐,小红书风格,30字以内,她刚考上研究生）",
    )
    sub.add_argument(
        "--best-of",
        type=whole(1, 16),
        default=1,
        metavar="N",
        help="每条问 N 次，去掉有硬伤的，留下质量最高的一个（费用也是 N 倍；默认 1）",
    )
    _add_asking(sub, "每种风格每轮最多几条（默认全部）")

    sub = command("synthesize-qa", synthesize_qa)
    sub.add_argument(
        "--input", required=True, type=READ, metavar="DIR", help="装着文本的文件夹，或一个文本文件"
    )
    _add_asking(sub, "最多几段文本（默认全部）")


def _asking(args: argparse.Namespace) -> dict:
    """Return the options that both kinds of synthesis share; what is not given keeps its default."""
    names = (
        "provider",
        "base_url",
        "model",
        "temperature",
        "max_tokens",
        "concurrency",
        "timeout",
        "rpm",
        "tpm",
    )
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    run = {"rounds": args.rounds, "seed": args.seed, "limit": args.limit, "output_dir": args.output}
    return given | run


def _report(summary) -> int:
    """Print what a synthesis did; failures make the exit status 1."""
    print(summary)
    for file in summary.files:
        print(file)
    for failure in summary.failures[:20]:
        print(f"失败：{failure.where}：{failure.error}", file=sys.stderr)
    if summary.failures:
        rest = len(summary.failures) - 20
        print(
            (f"……另有 {rest} 条失败。" if rest > 0 else "") + "再运行一次同样的命令，只会补上失败的那些。",
            file=sys.stderr,
        )
    return 1 if summary.failures else 0


def _add_asking(sub: argparse.ArgumentParser, limit: str) -> None:
    """Add the options that both kinds of synthesis share."""
    sub.add_argument(
        "--provider",
        default="offline",
        metavar="P",
        help="deepseek、zhipu、local、embedded（本机上的小老师）或 offline（录音，默认）",
    )
    sub.add_argument("--base-url", metavar="U", help="接口地址（默认用服务商的；local 必填）")
    sub.add_argument("--model", metavar="M", help="模型名（默认用服务商的；local 必填）")
    sub.add_argument("--temperature", type=amount(most=2), metavar="T", help="采样温度，0 到 2（默认 1）")
    sub.add_argument("--max-tokens", type=whole(1), metavar="N", help="一个回答最多几个词元")
    sub.add_argument("--rounds", type=whole(1), default=1, metavar="N", help="轮数（默认 %(default)s）")
    sub.add_argument("--seed", **SEED)
    sub.add_argument(
        "--concurrency",
        type=whole(0, 512),
        metavar="C",
        help="同时发几个请求（默认 0：自己找服务商容许几个）",
    )
    sub.add_argument(
        "--timeout", type=amount(1), metavar="S", help="一个请求最多等几秒（默认按 provider 定）"
    )
    sub.add_argument("--rpm", type=whole(), metavar="R", help="每分钟最多几个请求（默认不限）")
    sub.add_argument("--tpm", type=whole(), metavar="T", help="每分钟最多几个词元，按估算（默认不限）")
    sub.add_argument("--limit", type=whole(), metavar="N", help=limit)
    sub.add_argument("--dry-run", action="store_true", help="只估算请求数、词元和价格，不发请求")
    sub.add_argument("--output", **OUTPUT)
