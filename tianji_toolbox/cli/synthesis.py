"""Notebook 01: wishes, and questions from texts."""

import sys

from tianji_helpers.errors import CourseError
from tianji_toolbox.cli import arguments as arg

_ASKING = (  # what is None keeps the default of synthesis.Settings
    arg.word(
        "--provider",
        "P",
        "deepseek、zhipu、local、embedded（本机上的小老师）或 offline（录音，默认）",
        "offline",
    ),
    arg.word("--base-url", "U", "接口地址（默认用服务商的；local 必填）", None),
    arg.word("--model", "M", "模型名（默认用服务商的；local 必填）", None),
    arg.amount("--temperature", "采样温度，0 到 2（默认 1）", None, most=2),
    arg.whole("--max-tokens", "一个回答最多几个词元", None, least=1),
    arg.whole("--rounds", "轮数", 1, least=1),
    arg.SEED,
    arg.whole("--concurrency", "同时发几个请求（默认 0：自己找服务商容许几个）", None, most=512),
    arg.amount("--timeout", "一个请求最多等几秒（默认按 provider 定）", None, least=1, most=10**9),
    arg.whole("--rpm", "每分钟最多几个请求（默认不限）", None),
    arg.whole("--tpm", "每分钟最多几个词元，按估算（默认不限）", None),
    arg.whole("--limit", "每种风格每轮最多几条，或最多几段文本（默认全部）", None),
    arg.flag("--dry-run", "只估算请求数、词元和价格，不发请求"),
    arg.OUTPUT,
)


@arg.command(
    arg.words("--style", "NAME", "只生成这种风格，可以写多次（默认：正常、小红书、严肃）"),
    arg.file(
        "--requests",
        "不问矩阵，问这个文件里的请求：每行一条，用自己的话，可以带上故事和字数"
        "（祝姐姐生日快乐,小红书风格,30字以内,她刚考上研究生）",
        None,
    ),
    arg.whole(
        "--best-of",
        "每条问 N 次，去掉有硬伤的，留下质量最高的一个（费用也是 N 倍；默认 1）",
        1,
        least=1,
        most=16,
    ),
    *_ASKING,
)
def synthesize(style, requests, dry_run, **asking) -> int:
    """生成祝福语，每种风格每轮一个文件（第 1 课）"""
    from tianji_helpers import records, synthesis

    options = _given(asking) | {"styles": style or None}
    if asking["best_of"] > 1:
        from tianji_helpers.training import quality

        options["rate"] = quality.rate
    if requests:
        if style:
            raise CourseError("--requests 里的每条请求自己带着风格，不要再写 --style。")
        options["requests"] = records.read_text(requests).splitlines()
    if dry_run:
        plan = synthesis.preview(**options)
        print(f"{plan}\n不合适而跳过的组合 {plan.unsuitable} 对。第一条提示词：\n{plan.examples[0].text}")
        return 0
    if asking["best_of"] > 1 and (plan := synthesis.preview(**options)).cost:
        print(plan, flush=True)  # what is paid N times is seen first
    return _report(synthesis.synthesize(**options))


@arg.command(arg.path("--input", "装着文本的文件夹，或一个文本文件", metavar="DIR"), *_ASKING)
def synthesize_qa(input, dry_run, **asking) -> int:
    """从文本文件（.txt、.md）生成问答，每轮一个文件（第 1 课）"""
    from tianji_helpers import synthesis

    if dry_run:
        plan, questions = synthesis.preview_knowledge(input, **_given(asking))
        print(f"{plan}\n第一条提示词：\n{questions[0].text}")
        return 0
    return _report(synthesis.synthesize_knowledge(input, **_given(asking)))


def _given(asking: dict) -> dict:
    """Return the options that were given, by the names that the functions of ``synthesis`` have for them."""
    given = {name: value for name, value in asking.items() if value is not None}
    return given | {"output_dir": given.pop("output")}


def _report(summary) -> int:
    """Print what a synthesis did; failures make the exit status 1."""
    print(summary, *summary.files, sep="\n")
    for failure in summary.failures[:20]:
        print(f"失败：{failure.where}：{failure.error}", file=sys.stderr)
    if summary.failures:
        rest = len(summary.failures) - 20
        more = f"……另有 {rest} 条失败。" if rest > 0 else ""
        print(f"{more}再运行一次同样的命令，只会补上失败的那些。", file=sys.stderr)
    return 1 if summary.failures else 0
