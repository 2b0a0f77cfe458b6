"""``tianji …``: the functions of the course from a shell.

Every command imports what it needs when it runs, so that ``--help`` answers at once. A
``CourseError`` is printed without a traceback and ends with status 1; Ctrl-C ends with 130.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tianji_helpers.errors import CourseError


def doctor(args: argparse.Namespace) -> int:
    """检查这台机器能不能跑课程"""
    from tianji_helpers import doctor

    return doctor.report(doctor.diagnose(args.output))


def course(args: argparse.Namespace) -> None:
    """从头到尾跑六课；停下后再运行就接着走"""
    from tianji_helpers.classroom.course import run_course

    run_course(args.only, args.start, _pairs(args.parameter), args.output)


def models(args: argparse.Namespace) -> None:
    """列出可用的底座模型"""
    from tianji_helpers.training import models

    print(models.table())


def prepare_model(args: argparse.Namespace) -> None:
    """准备一个底座模型（自带的不用联网，其余的会下载）"""
    from tianji_helpers.training import models

    folder = models.prepare(args.name, source=args.source, endpoint=args.endpoint)
    print(f"模型已就绪：{folder}")


def train(args: argparse.Namespace) -> None:
    """用 XTuner 训练一个配置"""
    import yaml

    from tianji_helpers.training import engine

    options = {name: yaml.safe_load(value) for name, value in _pairs(args.cfg_options).items()}
    result = engine.train(
        args.config, args.work_dir, cfg_options=options or None, resume=args.resume, deepspeed=args.deepspeed
    )
    print(
        f"检查点：{result.checkpoint}\n"
        f"用时 {result.seconds / 60:.1f} 分钟，内存峰值 {result.peak_memory_gb:.1f} GB"
    )


def estimate(args: argparse.Namespace) -> int:
    """估算一个配置训练时要多少显存，看这台机器放不放得下"""
    import yaml

    from tianji_helpers.training import estimate

    options = {name: yaml.safe_load(value) for name, value in _pairs(args.cfg_options).items()}
    result = estimate.estimate(args.config, options or None, deepspeed=args.deepspeed, devices=args.devices)
    available = estimate.available_gb(result.on_gpu)
    print(f"{result}\n{estimate.verdict(result, available)}")
    return 1 if available is not None and available < result.total_gb else 0


def pth_to_hf(args: argparse.Namespace) -> None:
    """把检查点转换成 LoRA 适配器（第 6 课）"""
    from tianji_helpers.training import engine

    print(f"适配器：{engine.pth_to_hf(args.config, args.checkpoint, args.adapter_dir)}")


def merge_adapter(args: argparse.Namespace) -> None:
    """把适配器合并进没有量化的基座模型（第 6 课）"""
    from tianji_helpers.training import engine

    merged = engine.merge(
        args.model_dir, args.adapter_dir, args.merged_dir, device=args.device, dtype=args.dtype
    )
    print(f"合并后的模型：{merged}")


def chat(args: argparse.Namespace) -> None:
    """和一个模型对话，可以带几个适配器"""
    from tianji_helpers.serving import chat

    adapters = {}
    for text in args.adapter:
        name, equals, folder = text.partition("=")
        if not equals:
            path = Path(text).resolve()
            name, folder = (path.parent if path.name == "adapter" else path).name.replace(".", "_"), text
        if name in adapters:
            raise CourseError(f"有两个适配器都叫 {name}。请给它们不同的名字：--adapter 名字=文件夹。")
        adapters[name] = folder
    chat.repl(
        args.model_dir,
        adapters,
        args.system,
        style=args.style,
        temperature=args.temperature,
        max_new_tokens=args.max_new_tokens,
        device=args.device,
    )


def synthesize(args: argparse.Namespace) -> int:
    """生成祝福语，每种风格每轮一个文件（第 1 课）"""
    from tianji_helpers import synthesis

    options = {"styles": args.style or None, **_asking(args)}
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


def _asking(args: argparse.Namespace) -> dict:
    """Return the options that both kinds of synthesis share; what is not given keeps its default."""
    names = ("provider", "base_url", "model", "temperature", "max_tokens", "concurrency", "rpm", "tpm")
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


def merge(args: argparse.Namespace) -> None:
    """把各轮文件合并成一个训练文件（第 2 课）"""
    from tianji_helpers.dataset.merge import merge_rounds

    merged = merge_rounds(args.folder, args.output_file, skip_bad=args.skip_bad)
    counts = f"{len(merged.files)} 个文件，写出 {merged.rows} 条，弃用 {len(merged.rejects)} 条"
    print(f"{counts}：{args.output_file}")
    for reject in merged.rejects:
        print(f"弃用：{reject['reason']}", file=sys.stderr)


def clean(args: argparse.Namespace) -> None:
    """清洗合并后的文件，弃用的连原因一起留下（第 2 课）"""
    from tianji_helpers.dataset.clean import clean_file

    output = args.output_file
    report = clean_file(
        args.source,
        output,
        rejects=output.with_name(f"{output.stem}_rejects.jsonl"),
        report=output.with_name(f"{output.stem}_report.json"),
        off=args.off,
        threshold=args.threshold,
    ).report
    print(
        f"读入 {report['rows_in']} 条，保留 {report['rows_out']} 条"
        f"（修补过 {report['mended']} 条），弃用 {report['rejected']} 条：{output}"
    )


def self_cognition(args: argparse.Namespace) -> None:
    """写出自我认知的训练和测试文件（第 3 课）"""
    from tianji_helpers.dataset.self_cognition import Persona, write

    persona = Persona(args.owner, args.assistant, args.model)
    counts = write(args.folder, persona, wordings=args.wordings, repeat=args.repeat, seed=args.seed)
    print(f"训练 {counts['train']} 条，测试 {counts['heldout']} 条：{args.folder}")


def ruozhiba(args: argparse.Namespace) -> None:
    """把 COIG-CQIA 记录转成对话并划分（第 4 课）"""
    from tianji_helpers.dataset.ruozhiba import convert_file

    counts = convert_file(args.source, args.train_file, args.test_file, ratio=args.ratio, seed=args.seed)
    print(f"读入 {counts['source']} 条：训练 {counts['train']} 条，测试 {counts['test']} 条")


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as a dictionary. Raises CourseError for one without a name."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CourseError(f"{text!r} 不是“名字=值”的样子，例如 -p seed=7。")
        pairs[name] = value
    return pairs


class _Formatter(argparse.HelpFormatter):
    """Help in Chinese as far as argparse allows."""

    def add_usage(self, usage, actions, groups, prefix=None):
        super().add_usage(usage, actions, groups, "用法：" if prefix is None else prefix)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(formatter_class=_Formatter, add_help=False, allow_abbrev=False, **options)
        self._positionals.title, self._optionals.title = "参数", "选项"
        self.add_argument("-h", "--help", action="help", help="显示这段说明")

    def error(self, message):
        self.exit(2, f"错误：{message}\n用法见 {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets ``run``, the function that does the work."""
    parser = _Parser(prog="tianji", description="送祝福大模型课程：从数据合成到能对话的微调模型。")
    parser.add_argument("--version", action="store_true", help="显示版本")
    commands = parser.add_subparsers(title="命令", metavar="命令", dest="command")

    def command(name: str, run) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=run.__doc__, description=run.__doc__ + "。")
        sub.set_defaults(run=run)
        return sub

    output = {"metavar": "DIR", "default": "", "help": "结果文件夹（默认 outputs/default）"}

    seed = {"type": int, "default": 42, "metavar": "N", "help": "随机种子（默认 %(default)s）"}

    command("doctor", doctor).add_argument("--output", **output)

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
    sub.add_argument("--output", **output)

    command("models", models)

    sub = command("prepare-model", prepare_model)
    sub.add_argument(
        "name", nargs="?", default="gemma-3-270m", help="模型名，见 tianji models（默认 %(default)s）"
    )
    sub.add_argument(
        "--source", default="", metavar="NAME", help="从哪里下载：modelscope（默认）或 huggingface"
    )
    sub.add_argument("--endpoint", default="", metavar="URL", help="镜像站的地址")

    sub = command("train", train)
    sub.add_argument("config", type=Path, help="XTuner 配置文件，见 configs/")
    sub.add_argument("--work-dir", required=True, type=Path, metavar="DIR", help="检查点和日志放在哪里")
    sub.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="改配置里的值，例如 train_cfg.max_iters=10",
    )
    sub.add_argument("--resume", action="store_true", help="从最后一个检查点接着训练")
    sub.add_argument("--deepspeed", metavar="NAME", help="DeepSpeed 策略，例如 deepspeed_zero2")

    sub = command("estimate", estimate)
    sub.add_argument("config", type=Path, help="XTuner 配置文件，见 configs/")
    sub.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="改配置里的值，例如 model.recompute_share=1",
    )
    sub.add_argument("--deepspeed", metavar="NAME", help="DeepSpeed 策略，例如 deepspeed_zero3")
    sub.add_argument("--devices", type=int, default=1, metavar="N", help="几张卡（默认 %(default)s）")

    sub = command("pth-to-hf", pth_to_hf)
    sub.add_argument("config", type=Path, help="训练时用的配置文件")
    sub.add_argument("checkpoint", type=Path, help="检查点 iter_N.pth：文件，或 DeepSpeed 存的文件夹")
    sub.add_argument("adapter_dir", type=Path, help="适配器写到哪个文件夹")

    sub = command("merge-adapter", merge_adapter)
    sub.add_argument("model_dir", type=Path, help="基座模型文件夹")
    sub.add_argument("adapter_dir", type=Path, help="适配器文件夹")
    sub.add_argument("merged_dir", type=Path, help="合并后的模型写到哪个文件夹")
    sub.add_argument(
        "--device", choices=("cpu", "cuda", "auto"), default="cpu", help="在哪里算（默认 %(default)s）"
    )
    sub.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="", help="权重的类型（默认和基座模型一样）"
    )

    sub = command("chat", chat)
    sub.add_argument("model_dir", type=Path, help="模型文件夹")
    sub.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="LoRA 适配器文件夹，可以写多次；对话中用 USE 名字 切换",
    )
    sub.add_argument("--system", metavar="TEXT", help="系统提示词（默认用训练时的那一句）")
    sub.add_argument("--style", default="正常", metavar="NAME", help="祝福的风格，例如 小红书、严肃")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="在哪里算（默认 %(default)s）")
    sub.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 = 每次都选最可能的词（默认）"
    )
    sub.add_argument(
        "--max-new-tokens",
        type=int,
        default=200,
        metavar="N",
        help="回答的最大长度，词元数（默认 %(default)s）",
    )

    sub = command("synthesize", synthesize)
    sub.add_argument(
        "--style",
        action="append",
        metavar="NAME",
        help="只生成这种风格，可以写多次（默认：正常、小红书、严肃）",
    )
    _add_asking(sub, seed, output, "每种风格每轮最多几条（默认全部）")

    sub = command("synthesize-qa", synthesize_qa)
    sub.add_argument(
        "--input", required=True, type=Path, metavar="DIR", help="装着文本的文件夹，或一个文本文件"
    )
    _add_asking(sub, seed, output, "最多几段文本（默认全部）")

    sub = command("merge", merge)
    sub.add_argument("folder", type=Path, help="装着各轮文件的文件夹")
    sub.add_argument("output_file", type=Path, help="合并后的文件")
    sub.add_argument("--skip-bad", action="store_true", help="跳过不能用的记录，而不是停下")

    sub = command("clean", clean)
    sub.add_argument("source", type=Path, help="合并后的文件")
    sub.add_argument("output_file", type=Path, help="清洗后的文件；弃用的记录和报告写在它旁边")
    sub.add_argument("--off", action="append", default=[], metavar="RULE", help="关掉一条规则，可以写多次")
    sub.add_argument(
        "--threshold", type=float, default=0.9, metavar="S", help="相似度达到多少算重复（默认 %(default)s）"
    )

    sub = command("self-cognition", self_cognition)
    sub.add_argument("folder", type=Path, help="结果文件夹")
    sub.add_argument("--owner", required=True, metavar="NAME", help="主人是谁")
    sub.add_argument("--assistant", required=True, metavar="NAME", help="助手叫什么")
    sub.add_argument(
        "--model", default="Gemma 3 270M", metavar="NAME", help="底座模型的名字（默认 %(default)s）"
    )
    sub.add_argument(
        "--wordings", type=int, default=2, metavar="N", help="每个问题几种答法（默认 %(default)s）"
    )
    sub.add_argument("--repeat", type=int, default=1, metavar="N", help="整套重复几遍（默认 %(default)s）")
    sub.add_argument("--seed", **seed)

    sub = command("ruozhiba", ruozhiba)
    sub.add_argument("source", type=Path, help="COIG-CQIA 的 .jsonl 文件")
    sub.add_argument("train_file", type=Path, help="训练集写到哪里")
    sub.add_argument("test_file", type=Path, help="测试集写到哪里")
    sub.add_argument("--ratio", type=float, default=0.7, metavar="R", help="训练集的比例（默认 %(default)s）")
    sub.add_argument("--seed", type=int, metavar="N", help="随机种子（默认不打乱）")
    return parser


def _add_asking(sub: argparse.ArgumentParser, seed: dict, output: dict, limit: str) -> None:
    """Add the options that both kinds of synthesis share."""
    sub.add_argument(
        "--provider", default="offline", metavar="P", help="deepseek、zhipu、local 或 offline（默认）"
    )
    sub.add_argument("--base-url", metavar="U", help="接口地址（默认用服务商的；local 必填）")
    sub.add_argument("--model", metavar="M", help="模型名（默认用服务商的；local 必填）")
    sub.add_argument("--temperature", type=float, metavar="T", help="采样温度，0 到 2（默认 1）")
    sub.add_argument("--max-tokens", type=int, metavar="N", help="一个回答最多几个词元")
    sub.add_argument("--rounds", type=int, default=1, metavar="N", help="轮数（默认 %(default)s）")
    sub.add_argument("--seed", **seed)
    sub.add_argument("--concurrency", type=int, metavar="C", help="同时发几个请求（默认 8）")
    sub.add_argument("--rpm", type=int, metavar="R", help="每分钟最多几个请求（默认不限）")
    sub.add_argument("--tpm", type=int, metavar="T", help="每分钟最多几个词元，按估算（默认不限）")
    sub.add_argument("--limit", type=int, metavar="N", help=limit)
    sub.add_argument("--dry-run", action="store_true", help="只估算请求数、词元和价格，不发请求")
    sub.add_argument("--output", **output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.version:
        from tianji_helpers import __version__

        print(__version__)
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    try:
        return args.run(args) or 0
    except CourseError as error:
        print(f"错误：{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\n已中断。", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
