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

    print(f"模型已就绪：{models.prepare(args.name)}")


def train(args: argparse.Namespace) -> None:
    """用 XTuner 训练一个配置"""
    import yaml

    from tianji_helpers.training import engine

    options = {name: yaml.safe_load(value) for name, value in _pairs(args.cfg_options).items()}
    result = engine.train(
        args.config, args.work_dir, cfg_options=options or None, resume=args.resume, deepspeed=args.deepspeed
    )
    print(result)


def chat(args: argparse.Namespace) -> None:
    """和一个模型对话"""
    from tianji_helpers.serving import chat

    chat.repl(args.model_dir, args.adapter, args.system, args.temperature, args.max_new_tokens)


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

    sub = command("chat", chat)
    sub.add_argument("model_dir", type=Path, help="模型文件夹")
    sub.add_argument("--adapter", type=Path, metavar="DIR", help="LoRA 适配器文件夹")
    sub.add_argument("--system", metavar="TEXT", help="系统提示词")
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
    return parser


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
