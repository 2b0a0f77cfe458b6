"""Notebooks 05 and 06: base models, training, and what XTuner makes of a checkpoint."""

import math
from argparse import ArgumentTypeError
from collections.abc import Sequence
from contextlib import nullcontext, suppress

from tianji_toolbox.cli import arguments as arg

_CONFIG = (  # an estimate is asked for as the training is
    arg.file("config", "XTuner 配置文件，见 configs/"),
    arg.word(
        "--cfg-options",
        "NAME=VALUE",
        "改配置里的值，例如 max_iters=10 lr=1e-3，或配置里的位置 model.recompute_share=1",
        [],
        nargs="+",
        action="extend",
    ),
    arg.word("--deepspeed", "NAME", "DeepSpeed 策略，例如 deepspeed_zero2", None),
)


@arg.command()
def models() -> None:
    """列出可用的基座模型"""
    from tianji_helpers.training import models

    print(models.table())


@arg.command(
    arg.word("name", "NAME", "模型名，见 tianji models", "gemma-3-270m"),
    arg.word("--source", "NAME", "从哪里下载：modelscope（默认）或 huggingface", ""),
    arg.word("--endpoint", "URL", "镜像站的地址", ""),
)
def prepare_model(name, **origin) -> None:
    """准备一个基座模型（自带的不用联网，其余的会下载）"""
    from tianji_helpers.training import models

    print(f"模型已就绪：{models.prepare(name, **origin)}")


@arg.command(*_CONFIG, arg.whole("--devices", "几张卡", 1, least=1, most=10_000))
def estimate(config, cfg_options, **machine) -> int:
    """估算一个配置训练时要多少显存、多久，看这台机器放不放得下"""
    from tianji_helpers.training import estimate

    result = estimate.estimate(config, _read_options(cfg_options), **machine)
    available = estimate.available_gb(result.on_gpu)
    print(f"{result}\n{estimate.verdict(result, available)}\n{estimate.minutes(result, machine['devices'])}")
    return 1 if available is not None and available < result.total_gb else 0


@arg.command(
    *_CONFIG,
    arg.new_folder("--work-dir", "检查点和日志放在哪里"),
    arg.flag("--resume", "从最后一个检查点接着训练"),
)
def train(config, work_dir, cfg_options, **how) -> None:
    """用 XTuner 训练一个配置"""
    from tianji_helpers.training import launch

    result = launch.train(config, work_dir, cfg_options=_read_options(cfg_options), **how)
    print(
        f"检查点：{result.chosen.path}（{result.chosen.reason}）\n"
        f"用时 {result.seconds / 60:.1f} 分钟，内存峰值 {result.peak_memory_gb:.1f} GB"
    )


def _read_options(texts: Sequence[str]) -> dict:
    """Return the values of --cfg-options, read as YAML, unless it is known that a text or a path is meant.

    What YAML cannot read, or would read a part of, is taken as it is (see ``tables.read_word``); if that is
    no value for the setting, ``configs.change`` refuses it by name. A path starts from the current folder.
    """
    from tianji_helpers import tables
    from tianji_helpers.training import configs

    options = {}
    for name, text in arg.pairs(texts).items():
        setting, value = configs.PLACES.get(name, name), tables.read_word(text)
        if setting in configs.TEXTS:  # "yes", "5" and blanks at the ends belong to it; quotation marks do not
            value = value if isinstance(value, str) and text.lstrip()[:1] in ("'", '"') else text
        elif setting in configs.PATHS and text:  # an empty one says that there is none
            try:
                value = arg.read_path(text)
            except ArgumentTypeError as error:
                raise ArgumentTypeError(f"--cfg-options 里的 {name}：{error}") from None
        elif isinstance(value, str):
            with suppress(ValueError):  # to YAML, 2e-4 is a word
                value = number if math.isfinite(number := float(text)) else value
        options[name] = value
    return options


@arg.command(
    arg.folder("work_dir", "训练时的 --work-dir"),
    arg.new_file("--output", "图存到哪里（默认 WORK_DIR/curves.png）", None, metavar="PNG"),
)
def curves(work_dir, output) -> None:
    """画出一次训练的损失、学习率、速度和内存"""
    from tianji_helpers import records
    from tianji_helpers.training import curves

    target = output or work_dir / "curves.png"
    with nullcontext() if output else records.make_way(target, work_dir):
        curves.save(work_dir, target)
    print(f"曲线图：{target}")


@arg.command(
    arg.file("config", "训练时用的配置文件"),
    arg.path(
        "checkpoint",
        "训练时的 --work-dir（取验证损失最低的检查点，没有量过就取最后一个），或一个检查点 iter_N.pth",
    ),
    arg.new_folder("adapter_dir", "适配器写到哪个文件夹"),
)
def pth_to_hf(config, checkpoint, adapter_dir) -> None:
    """把检查点转换成 LoRA 适配器（第 6 课）"""
    from tianji_helpers.training import launch, models

    adapter = launch.pth_to_hf(config, checkpoint, adapter_dir)
    made = models.recorded(adapter)
    print(f"适配器：{adapter}（来自 {made['checkpoint']}，{made['checkpoint_reason']}）")


@arg.command(
    arg.folder("model_dir", "基座模型文件夹"),
    arg.folder("adapter_dir", "适配器文件夹"),
    arg.new_folder("merged_dir", "合并后的模型写到哪个文件夹"),
    arg.choice("--device", ("cpu", "cuda", "auto"), "在哪里算", "cpu"),
    arg.choice("--dtype", ("bfloat16", "float32"), "权重的类型（默认和基座模型一样）", ""),
)
def merge_adapter(model_dir, adapter_dir, merged_dir, **how) -> None:
    """把适配器合并进没有量化的基座模型（第 6 课）"""
    from tianji_helpers.training import launch

    print(f"合并后的模型：{launch.merge(model_dir, adapter_dir, merged_dir, **how)}")


@arg.command(
    arg.RUN_DIR,
    arg.choice("--task", ("wishes", "self_cognition", "ruozhiba", "own"), "考哪个任务", "wishes"),
    arg.whole("--rows", "考几条，均匀地抽，同一个请求只考一次（默认全部）", 0),
    arg.DEVICE,
    arg.SEED,
    arg.word("--judge", "P", "再请一个大模型盲评：deepseek、zhipu 或 local（要花钱）", ""),
    arg.word("--judge-model", "NAME", "评委的模型名", ""),
    arg.word("--judge-base-url", "URL", "评委的地址（local 要写）", ""),
)
def evaluate(run_dir, task, judge, judge_model, judge_base_url, **how) -> None:
    """考一考训练前后的模型：损失、硬伤、质量、多样性、遗忘，带区间"""
    from tianji_toolbox.evaluation import exam

    if judge:
        from tianji_helpers.synthesis import Settings

        how["judge"] = Settings(judge, judge_model, judge_base_url, temperature=0.0)
    print(exam.table(exam.examine(run_dir, task, **how)))


@arg.command(
    arg.file("rows", "LLaVA 格式的 JSON：每条有 id、image、conversations"),
    arg.folder("images", "图片文件夹，image 里的路径从它开始"),
)
def check_images(rows, images) -> None:
    """检查图文数据：图片在不在、能不能用，<image> 的个数对不对"""
    from tianji_helpers.seeing import rows as seen

    found = seen.check(rows, images)
    print(f"{len(found)} 条，{len({one['image'] for one in found})} 张图片，都能用。")
