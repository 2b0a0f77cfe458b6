"""Notebooks 05 and 06: base models, training, and what XTuner makes of a checkpoint."""

import argparse
from contextlib import suppress
from pathlib import Path

from tianji_toolbox.cli.parser import (
    READ,
    READ_FILE,
    READ_FOLDER,
    SEED,
    WRITE_FILE,
    WRITE_FOLDER,
    add_run_dir,
    pairs,
    whole,
)


def models(args: argparse.Namespace) -> None:
    """列出可用的底座模型"""
    from tianji_helpers.training import models

    print(models.table())


def prepare_model(args: argparse.Namespace) -> None:
    """准备一个底座模型（自带的不用联网，其余的会下载）"""
    from tianji_helpers.training import models

    folder = models.prepare(args.name, source=args.source, endpoint=args.endpoint)
    print(f"模型已就绪：{folder}")


def estimate(args: argparse.Namespace) -> int:
    """估算一个配置训练时要多少显存，看这台机器放不放得下"""
    from tianji_toolbox import estimate

    result = estimate.estimate(args.config, _options(args), deepspeed=args.deepspeed, devices=args.devices)
    available = estimate.available_gb(result.on_gpu)
    print(f"{result}\n{estimate.verdict(result, available)}")
    return 1 if available is not None and available < result.total_gb else 0


def train(args: argparse.Namespace) -> None:
    """用 XTuner 训练一个配置"""
    from tianji_helpers.training import launch

    result = launch.train(
        args.config, args.work_dir, cfg_options=_options(args), resume=args.resume, deepspeed=args.deepspeed
    )
    print(
        f"检查点：{result.chosen.path}（{result.chosen.reason}）\n"
        f"用时 {result.seconds / 60:.1f} 分钟，内存峰值 {result.peak_memory_gb:.1f} GB"
    )


def curves(args: argparse.Namespace) -> None:
    """画出一次训练的损失、学习率、速度和内存"""
    from tianji_helpers.training import curves

    target = args.output or args.work_dir / "curves.png"
    curves.save(args.work_dir, target)
    print(f"曲线图：{target}")


def pth_to_hf(args: argparse.Namespace) -> None:
    """把检查点转换成 LoRA 适配器（第 6 课）"""
    from tianji_helpers.training import launch, models

    adapter = launch.pth_to_hf(args.config, args.checkpoint, args.adapter_dir)
    made = models.recorded(adapter)
    print(f"适配器：{adapter}（来自 {made['checkpoint']}，{made['checkpoint_reason']}）")


def merge_adapter(args: argparse.Namespace) -> None:
    """把适配器合并进没有量化的基座模型（第 6 课）"""
    from tianji_helpers.training import launch

    merged = launch.merge(
        args.model_dir, args.adapter_dir, args.merged_dir, device=args.device, dtype=args.dtype
    )
    print(f"合并后的模型：{merged}")


def evaluate(args: argparse.Namespace) -> None:
    """考一考训练前后的模型：损失、硬伤、质量、多样性、遗忘，带区间"""
    from tianji_toolbox.evaluation import exam

    judge = None
    if args.judge:
        from tianji_helpers.synthesis import Settings

        judge = Settings(args.judge, args.judge_model, args.judge_base_url, temperature=0.0)
    result = exam.examine(
        args.run_dir, args.task, rows=args.rows, device=args.device, judge=judge, seed=args.seed
    )
    print(exam.table(result))


def add(command) -> None:
    """Add these commands; ``command`` makes the parser of one."""
    command("models", models)

    sub = command("prepare-model", prepare_model)
    sub.add_argument(
        "name", nargs="?", default="gemma-3-270m", help="模型名，见 tianji models（默认 %(default)s）"
    )
    sub.add_argument(
        "--source", default="", metavar="NAME", help="从哪里下载：modelscope（默认）或 huggingface"
    )
    sub.add_argument("--endpoint", default="", metavar="URL", help="镜像站的地址")

    sub = command("estimate", estimate)
    _add_config(sub)
    sub.add_argument(
        "--devices", type=whole(1, 10_000), default=1, metavar="N", help="几张卡（默认 %(default)s）"
    )

    sub = command("train", train)
    _add_config(sub)
    sub.add_argument(
        "--work-dir", required=True, type=WRITE_FOLDER, metavar="DIR", help="检查点和日志放在哪里"
    )
    sub.add_argument("--resume", action="store_true", help="从最后一个检查点接着训练")

    sub = command("curves", curves)
    sub.add_argument("work_dir", type=READ_FOLDER, help="训练时的 --work-dir")
    sub.add_argument(
        "--output", type=WRITE_FILE, metavar="PNG", help="图存到哪里（默认 WORK_DIR/curves.png）"
    )

    sub = command("pth-to-hf", pth_to_hf)
    sub.add_argument("config", type=READ_FILE, help="训练时用的配置文件")
    sub.add_argument(
        "checkpoint",
        type=READ,
        help="训练时的 --work-dir（取验证损失最低的检查点，没有量过就取最后一个），或一个检查点 iter_N.pth",
    )
    sub.add_argument("adapter_dir", type=WRITE_FOLDER, help="适配器写到哪个文件夹")

    sub = command("merge-adapter", merge_adapter)
    sub.add_argument("model_dir", type=READ_FOLDER, help="基座模型文件夹")
    sub.add_argument("adapter_dir", type=READ_FOLDER, help="适配器文件夹")
    sub.add_argument("merged_dir", type=WRITE_FOLDER, help="合并后的模型写到哪个文件夹")
    sub.add_argument(
        "--device", choices=("cpu", "cuda", "auto"), default="cpu", help="在哪里算（默认 %(default)s）"
    )
    sub.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="", help="权重的类型（默认和基座模型一样）"
    )

    sub = command("evaluate", evaluate)
    add_run_dir(sub)
    sub.add_argument(
        "--task",
        choices=("wishes", "self_cognition", "ruozhiba", "own"),
        default="wishes",
        help="考哪个任务（默认 %(default)s）",
    )
    sub.add_argument("--rows", type=whole(), default=0, metavar="N", help="考几条，均匀地抽（默认全部）")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="在哪里算（默认 %(default)s）")
    sub.add_argument("--seed", **SEED)
    sub.add_argument(
        "--judge", default="", metavar="P", help="再请一个大模型盲评：deepseek、zhipu 或 local（要花钱）"
    )
    sub.add_argument("--judge-model", default="", metavar="NAME", help="评委的模型名")
    sub.add_argument("--judge-base-url", default="", metavar="URL", help="评委的地址（local 要写）")


def _add_config(sub: argparse.ArgumentParser) -> None:
    """Add a config and what changes it: an estimate is asked for as the training is."""
    sub.add_argument("config", type=READ_FILE, help="XTuner 配置文件，见 configs/")
    sub.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="改配置里的值，例如 max_iters=10 lr=1e-3，或配置里的位置 model.recompute_share=1",
    )
    sub.add_argument("--deepspeed", metavar="NAME", help="DeepSpeed 策略，例如 deepspeed_zero2")


def _options(args: argparse.Namespace) -> dict:
    """Return the values of --cfg-options, read as YAML; a path starts from the current folder."""
    import yaml

    from tianji_helpers.training import configs

    options = {}
    for name, text in pairs(args.cfg_options).items():
        try:
            options[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            options[name] = text
        if isinstance(options[name], str):
            with suppress(ValueError):  # to YAML, 2e-4 is a word
                options[name] = float(text)
        if configs.PLACES.get(name, name) in configs.PATHS:
            options[name] = Path(text).expanduser().absolute()
    return options
