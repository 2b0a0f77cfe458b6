"""Run XTuner: train, convert the checkpoint, merge. Each in a process of its own.

A process of its own, because XTuner changes global state, keeps the model in memory, and may be
killed (no memory left) without taking the notebook with it. Success is judged by the files it
leaves as well as by its exit code.
"""

import importlib.util
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import paths, records, threads
from tianji_helpers.errors import CourseError
from tianji_helpers.training import checkpoints, data, models
from tianji_helpers.training.configs import load_config

_PROGRESS = re.compile(
    r"Iter\(train\)\s*\[\s*(?P<step>\d+)/(?P<total>\d+)\].*?lr: (?P<lr>\S+)\s+eta: (?P<eta>.+?)\s+"
    r"time: (?P<time>\S+).*?loss: (?P<loss>\S+)(?:\s+tokens: (?P<tokens>\S+))?"
)
_VALIDATION = re.compile(r"Iter\(val\).*validation_loss: (\S+)")
_STOPPED = "the monitored metric did not improve"  # mmengine's EarlyStoppingHook
_TAIL_LINES = 25
_CAUSES = {
    "is non-finite": "损失或梯度变成了 NaN 或无穷大，训练已停下，权重没有被它改坏。多半是学习率太大："
    "请把配置里的 optim_wrapper.optimizer.lr 调小几倍，重新训练。",
    "No space left on device": "磁盘写满了。请腾出空间，或换一个 --work-dir。",
    "Disk quota exceeded": "磁盘配额用完了。请腾出空间，或换一个 --work-dir。",
    "File too large": "文件大小超过了系统的限制（ulimit -f）。请放宽限制，或换一个 --work-dir。",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to use, and why this one: ``reason`` says it to a student."""

    path: Path
    reason: str


@dataclass(frozen=True)
class TrainResult:
    """What a training left behind.

    checkpoint: the last ``iter_N.pth``, to go on from. chosen: the one to use, see ``choose_checkpoint``.
    curve: see ``read_curve``. samples: lines of ``samples.jsonl``. seconds: wall time of the whole process.
    peak_memory_gb: its largest resident size.
    """

    work_dir: Path
    config: Path
    checkpoint: Path
    chosen: Checkpoint
    curve: list[dict]
    samples: list[dict]
    seconds: float
    peak_memory_gb: float


def train(
    config: str | Path,
    work_dir: str | Path,
    *,
    cfg_options: dict | None = None,
    resume: bool = False,
    deepspeed: str | None = None,
    device: str = "",
    report: Callable[[str], None] = print,
) -> TrainResult:
    """Train with XTuner and return what it left in ``work_dir``.

    config: an XTuner config file. cfg_options: dotted settings to change, as XTuner's
    ``--cfg-options``. resume: go on from the last checkpoint in ``work_dir``. deepspeed: XTuner's
    name of a DeepSpeed config, such as ``deepspeed_zero2``; the environment's ``NPROC_PER_NODE`` is the
    number of GPUs to train on, or of processes on a CPU. device: ``cpu`` hides the GPUs; empty or
    ``cuda`` lets XTuner take the first one it sees. report: called with a line of progress.

    Raises CourseError before anything is loaded if the config names a missing file or model, or a
    learning rate that would never rise; and when the training fails, with the cause if it is a known one
    (NaN, full disk), the last whole checkpoint, and the end of the log.
    """
    config, work_dir = paths.resolve(config), paths.resolve(work_dir)
    report(str(check_config(config, cfg_options, deepspeed=deepspeed)))
    arguments = [str(config), "--work-dir", str(work_dir)]
    if cfg_options:
        arguments += ["--cfg-options", *(f"{key}={value}" for key, value in cfg_options.items())]
    if resume:
        arguments += ["--resume", str(last_checkpoint(work_dir))]
    elif work_dir.exists():
        _clear_earlier_training(work_dir)
    if deepspeed:
        arguments += ["--deepspeed", deepspeed]
    # DeepSpeed asks for a launcher, or for MPI, even to start one process
    processes = _processes() if deepspeed or _processes() > 1 else 0
    if processes:
        arguments += ["--launcher", "pytorch"]
    work_dir.mkdir(parents=True, exist_ok=True)

    def on_line(line: str) -> None:
        if match := _PROGRESS.search(line):
            speed = float(match["tokens"] or "nan") / float(match["time"])
            report(
                f"第 {match['step']:>4}/{match['total']} 步  损失 {float(match['loss']):.3f}  "
                f"学习率 {float(match['lr']):.1e}  {speed:.0f} 词元/秒  预计还要 {match['eta']}"
            )
        elif match := _VALIDATION.search(line):
            report(f"验证集（没训练过的题）的损失：{float(match[1]):.3f}")
        elif _STOPPED in line:
            report("验证损失连着几次不见好，训练提前停下。")

    started = time.monotonic()
    log = work_dir / "train.log"
    try:
        run_tool("train", arguments, log=log, on_line=on_line, device=device, processes=processes)
    except CourseError as error:
        raise CourseError(f"{_advice(str(error), work_dir)}\n{error}") from error
    seconds = time.monotonic() - started
    # largest child so far, in KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    return TrainResult(
        work_dir=work_dir,
        config=config,
        checkpoint=last_checkpoint(work_dir),
        chosen=choose_checkpoint(work_dir),
        curve=read_curve(work_dir),
        samples=read_samples(work_dir),
        seconds=seconds,
        peak_memory_gb=peak,
    )


def check_config(
    config: str | Path, cfg_options: dict | None = None, *, deepspeed: str | None = None
) -> data.Rows:
    """Return what a training would learn from, every row of it looked at (see ``data.look``).

    Raises CourseError for what would go wrong minutes later: no GPU for a GPU config, 4-bit weights
    under ZeRO-3, a missing model or data file, a row that the config cannot use, or a warm-up of less than
    two iterations (the learning rate then stays near 0).
    """
    cfg = load_config(config)
    if cfg_options:
        cfg.merge_from_dict(dict(cfg_options))
    _check_gpu(cfg)
    if deepspeed:
        _check_deepspeed(cfg, deepspeed)
    model_dir = paths.resolve(cfg.model.llm.pretrained_model_name_or_path)
    if not (model_dir / "config.json").is_file():
        raise CourseError(
            f"配置里的模型文件夹 {paths.show(model_dir)} 里没有 config.json。"
            f"请先运行 tianji prepare-model {model_dir.name}，或改配置里的 pretrained_model_name_or_path。"
        )
    rows = _look(cfg.train_dataloader)
    if cfg.get("val_dataloader"):
        _look(cfg.val_dataloader)
    _check_warmup(cfg, rows)
    return rows


def _look(dataloader) -> data.Rows:
    try:
        path = paths.resolve(dataloader.dataset.dataset.data_files.train)
    except (AttributeError, TypeError) as error:
        raise CourseError(
            "配置里没有 train_dataloader.dataset.dataset.data_files.train，不知道数据在哪里。"
            "请照 configs/_base_/qlora_gpu.py 写 dataset=dict(type=load_rows, data_files=dict(train=文件))。"
        ) from error
    if not path.is_file():
        raise CourseError(f"配置里的训练数据 {paths.show(path)} 不存在。请先运行生成它的那一课。")
    return data.look(dataloader.dataset)


def _processes() -> int:
    """How many processes train together. Raises CourseError if the environment says nonsense."""
    text = os.environ.get("NPROC_PER_NODE", "1")  # XTuner's own name for it
    if not text.isdecimal() or int(text) < 1:
        raise CourseError(f"环境变量 NPROC_PER_NODE 是 {text!r}，应当是至少 1 的整数（几张卡就写几）。")
    return int(text)


def _check_deepspeed(cfg, deepspeed: str) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        raise CourseError(
            "没有安装 DeepSpeed。请先运行 pip install -r configs/deepspeed/requirements.txt，"
            "或去掉 --deepspeed：只设 NPROC_PER_NODE 也能用多张卡。"
        )
    # DeepSpeed 0.18.9 stops in the first gathering of weights: "all params must have the same dtype"
    if "zero3" in deepspeed and "quantization_config" in cfg.model.llm:
        raise CourseError(
            f"{deepspeed} 不能切分 4 位权重和它的适配器。QLoRA 请用 deepspeed_zero2"
            "（4 位的 7B 每张卡只占 4 GB）；deepspeed_zero3 留给全量微调，见 configs/ 里名字带 _full 的配置。"
        )


def batches(cfg, rows: data.Rows) -> int:
    """Return how many batches an epoch has. rows: those of the config, as ``check_config`` returns them."""
    return -(-_count(cfg, rows) // (cfg.train_dataloader.batch_size * _processes()))


def _count(cfg, found: data.Rows) -> int:
    """Return the rows of an epoch; packed ones are as long as the limit."""
    dataset = cfg.train_dataloader.dataset
    usable = len(found.lengths) - found.unlearnt
    rows = min(usable, dataset.get("max_dataset_length") or usable)
    if not dataset.get("pack_to_max_length", True):
        return rows
    tokens = sum(min(length, found.max_length) for length in found.lengths) * rows / usable
    return max(1, int(tokens / found.max_length))


def _check_warmup(cfg, rows: data.Rows) -> None:
    """Raise CourseError if the learning rate would stay near 0: a warm-up of less than two iterations."""
    warmup, epochs, count = cfg.param_scheduler[0], cfg.train_cfg.max_epochs, batches(cfg, rows)
    if warmup.end * count < 2:
        packed = cfg.train_dataloader.dataset.get("pack_to_max_length", True)
        unit = f"行，每行 {rows.max_length} 个词元" if packed else "条数据"
        raise CourseError(
            f"热身只有 {warmup.end * count:.2f} 步（{_count(cfg, rows)} {unit}，{count} 批，{epochs} 轮），"
            "至少要 2 步，否则学习率一直接近 0。请增加数据或轮数，"
            f"或把 warmup_ratio 提高到 {2 / (count * epochs):.2f} 以上。"
        )


def _check_gpu(cfg) -> None:
    import torch

    if cfg.env_cfg.dist_cfg.backend == "nccl" and not torch.cuda.is_available():
        raise CourseError(
            "这个配置只能在 GPU 上训练（dist_cfg 的 backend 是 nccl），而 PyTorch 没有找到 GPU。"
            "请用 tianji doctor 检查驱动，或换成 configs/ 里名字带 _cpu 的配置。"
        )


def _clear_earlier_training(work_dir: Path) -> None:
    for item in [*work_dir.glob("iter_*.pth"), *work_dir.glob("best_*.pth")]:
        shutil.rmtree(item) if item.is_dir() else item.unlink()  # DeepSpeed's are folders
    for name in ("last_checkpoint", "samples.jsonl"):
        (work_dir / name).unlink(missing_ok=True)
    for item in work_dir.glob("[0-9]*_[0-9]*"):
        shutil.rmtree(item)


def _advice(failure: str, work_dir: Path) -> str:
    """Say what a failed training means, as far as that is known, and from where it can go on."""
    cause = next((text for sign, text in _CAUSES.items() if sign in failure), "")
    try:
        return f"{cause}最后一个完好的检查点：{last_checkpoint(work_dir)}，用 --resume 可以从它接着训练。"
    except CourseError:
        return f"{cause}还没有存过完整的检查点。"


def last_checkpoint(work_dir: str | Path) -> Path:
    """Return the newest whole ``iter_N.pth`` of a training.

    One that a kill or a full disk cut short is passed over. Raises CourseError if there is none.
    """
    work_dir = Path(work_dir)
    found = sorted(work_dir.glob("iter_*.pth"), key=_step)
    whole = [path for path in found if _is_whole(path)]
    if not whole:
        broken = f"（{found[-1].name} 没有写完）" if found else ""
        raise CourseError(f"{paths.show(work_dir)} 里没有检查点 iter_*.pth：训练还没有存过一次{broken}。")
    return whole[-1]


def choose_checkpoint(work_dir: str | Path) -> Checkpoint:
    """Return the checkpoint of a training that is worth using: the one with the lowest validation loss.

    Where none was measured it is the last one. Raises CourseError if there is no whole checkpoint.
    """
    measured = {p["step"]: p["loss"] for p in read_validation(work_dir) if math.isfinite(p["loss"])}
    found = [*Path(work_dir).glob("best_*_iter_*.pth"), *Path(work_dir).glob("iter_*.pth")]
    scored = {path: measured[_step(path)] for path in found if _step(path) in measured and _is_whole(path)}
    if not scored:
        return Checkpoint(last_checkpoint(work_dir), "最后一个检查点：训练中没有量过验证损失")
    path = min(scored, key=scored.get)
    return Checkpoint(path, f"第 {_step(path)} 步的验证损失最低：{scored[path]:.2f}，量过 {len(measured)} 次")


def _step(checkpoint: Path) -> int:
    """Return N of ``iter_N.pth`` and of ``best_validation_loss_iter_N.pth``."""
    return int(checkpoint.stem.rpartition("_")[2])


def _is_whole(checkpoint: Path) -> bool:
    """Whether all of it was written: PyTorch's files are zip archives, whose directory comes last."""
    files = list(checkpoint.glob("*.pt")) if checkpoint.is_dir() else [checkpoint]  # DeepSpeed's folder
    return bool(files) and all(zipfile.is_zipfile(file) for file in files)


def read_curve(work_dir: str | Path) -> list[dict]:
    """Return the logged points of a training, in order, one for each logged interval.

    A point has ``step``, ``loss``, ``lr`` and ``time`` (seconds an iteration), and ``tokens_per_second`` (of
    one GPU, padding not counted) and ``memory_gb`` if they were logged; all but ``lr`` and memory are means
    over the interval.
    """
    points = {}
    for point in _points(work_dir):
        if "loss" in point:
            points[point["step"]] = {key: point[key] for key in ("step", "loss", "lr", "time")}
            if "tokens" in point:
                speed = point["tokens"] / point["time"]
                points[point["step"]] |= {"tokens_per_second": speed, "memory_gb": point["memory_gb"]}
    return [points[step] for step in sorted(points)]


def read_validation(work_dir: str | Path) -> list[dict]:
    """Return the validation losses measured during a training, in order: ``step``, ``loss``."""
    name = "validation_loss"
    found = {point["step"]: point[name] for point in _points(work_dir) if name in point}
    return [{"step": step, "loss": found[step]} for step in sorted(found)]


def _points(work_dir: str | Path) -> list[dict]:
    files = sorted(Path(work_dir).glob("*/vis_data/scalars.json"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def read_samples(work_dir: str | Path) -> list[dict]:
    """Return the answers sampled during a training: ``iter``, ``input``, ``output``."""
    file = Path(work_dir) / "samples.jsonl"
    return records.read_jsonl(file) if file.is_file() else []


def pth_to_hf(
    config: str | Path, checkpoint: str | Path, adapter_dir: str | Path, *, about: Mapping | None = None
) -> Path:
    """Convert a checkpoint of XTuner to a Hugging Face (PEFT) adapter folder and return it.

    After full fine-tuning (a config without ``lora``) the folder is a model, with its tokenizer.

    config: the config that it was trained with. checkpoint: an ``iter_N.pth``, which is a file, or
    a folder after a training with DeepSpeed; or the whole work folder, of which ``choose_checkpoint`` takes
    one. about: more to keep in the provenance beside the checkpoint with the reason for it, and the base
    model and the system prompt, which come from the config.

    The base model's weights are not needed and not read. The folder appears only when it is
    complete; an earlier adapter is replaced. Raises CourseError if there is something else.
    """
    config, checkpoint, adapter_dir = (paths.resolve(path) for path in (config, checkpoint, adapter_dir))
    cfg = load_config(config)
    if not checkpoint.exists():
        raise CourseError(f"找不到检查点 {paths.show(checkpoint)}。训练会把它存成 iter_N.pth。")
    reason = "指定的检查点"
    if checkpoint.is_dir() and checkpoint.suffix != ".pth":
        chosen = choose_checkpoint(checkpoint)
        checkpoint, reason = chosen.path, chosen.reason
    base_dir = str(cfg.model.llm.pretrained_model_name_or_path)
    # XTuner reads and quantizes the whole model if the config quantizes it, and builds an empty one
    # otherwise: the adapter is the same
    cfg.model.llm.pop("quantization_config", None)
    systems = [hook.get("system") for hook in cfg.get("custom_hooks", [])]

    def make(target: Path, part: Path, log: Path) -> None:
        cfg.dump(str(part / "config.py"))
        options = [str(target), "--fp32", "--safe-serialization"]
        run_tool("pth_to_hf", [str(part / "config.py"), str(checkpoint), *options], log=log)
        if cfg.model.get("lora"):
            shutil.copy(config, target / "xtuner_config.py")
            checkpoints.inspect_adapter(target)
        else:  # a model's folder holds no Python file but its own code
            (target / "xtuner_config.py").unlink()
            checkpoints.inspect_model(target)

    recorded = {"base_model": Path(base_dir).name, "system": next(filter(None, systems), "")}
    recorded |= {"checkpoint": checkpoint.name, "checkpoint_reason": reason}
    return _make_folder(
        make,
        adapter_dir,
        tool="pth_to_hf",
        marker="adapter_config.json" if cfg.model.get("lora") else "config.json",
        parameters=recorded | dict(about or {}),
        inputs=[checkpoint] if checkpoint.is_file() else sorted(checkpoint.iterdir()),
    )


def merge(
    model_dir: str | Path,
    adapter_dir: str | Path,
    merged_dir: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "",
    max_shard_size: str = "2GB",
) -> Path:
    """Merge an adapter into the unquantized base model and return the new model's folder.

    device: ``cpu``, ``cuda`` or ``auto``. dtype: ``bfloat16`` or ``float32``; empty means that of the
    base model, and ``float32`` for one in half precision. max_shard_size: of one safetensors file.

    The folder appears only when it is complete; what the adapter's provenance says goes with it.
    Raises CourseError for folders that don't fit, a quantized base, too little disk, or a target
    that holds something else.
    """
    merged_dir = paths.resolve(merged_dir)
    base = checkpoints.inspect_model(model_dir)
    adapter = checkpoints.inspect_adapter(adapter_dir, base)
    if "quantization_config" in base.config:
        raise CourseError(
            f"{paths.show(base.path)} 是量化过的模型，往它里面合并会把适配器舍入掉。"
            "请换成没有量化的基座模型。"
        )
    for source in (base.path, adapter.path):
        if source == merged_dir or merged_dir in source.parents:
            raise CourseError(f"不能合并到 {paths.show(merged_dir)}：那里放着 {paths.show(source)}。")
    dtype = dtype or base.config.get("dtype") or base.config.get("torch_dtype")
    dtype = dtype if dtype in ("bfloat16", "float32") else "float32"
    arguments = ["--safe-serialization", "--device", device, "--dtype", dtype]
    arguments += ["--max-shard-size", max_shard_size]
    if checkpoints.needs_own_code(base):
        arguments.append("--trust-remote-code")

    def make(target: Path, part: Path, log: Path) -> None:
        needed = sum(file.stat().st_size for file in base.weights) / 1e9
        if (free := shutil.disk_usage(part).free / 1e9) < needed:
            raise CourseError(f"磁盘空间不够：合并后的模型要 {needed:.1f} GB，只剩 {free:.1f} GB。")
        run_tool("merge", [str(base.path), str(adapter.path), str(target), *arguments], log=log)
        checkpoints.inspect_model(target)

    return _make_folder(
        make,
        merged_dir,
        tool="merge",
        marker="config.json",
        parameters={"base_model": base.path.name, **models.recorded(adapter.path)},
        inputs=[adapter.weights],
    )


def _make_folder(
    make: Callable[[Path, Path, Path], None],
    folder: Path,
    *,
    tool: str,
    marker: str,
    parameters: dict,
    inputs: Sequence[Path],
) -> Path:
    """Have ``make(target, part, log)`` fill a folder, and move it to its place when it is whole.

    tool: names the log and the provenance's stage. marker: the file by which an earlier result is
    known, which may be replaced.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / marker).is_file()):
        raise CourseError(
            f"{paths.show(folder)} 里已经有别的东西（没有 {marker}），不覆盖。请换一个文件夹，或先把它移走。"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as part:
        target = Path(part) / folder.name
        make(target, Path(part), folder.parent / f"{tool}.log")
        records.write_provenance(folder, stage=tool, parameters=parameters, inputs=inputs)
        if folder.exists():
            shutil.rmtree(folder)
        target.rename(folder)
    return folder


def run_tool(
    tool: str,
    arguments: Sequence[str],
    *,
    log: Path,
    on_line: Callable[[str], None] = lambda line: None,
    device: str = "",
    processes: int = 0,
) -> None:
    """Run one of XTuner's programs (see ``xtuner_compat``) and wait for it.

    log: gets all that the program prints. on_line: called with each line as it comes. device: ``cpu``
    hides the GPUs from it. processes: how many of it work together, one a GPU; 0 starts it
    without a launcher.
    Raises CourseError with the exit code and the end of the log if it fails; an interrupt of the
    notebook stops the program too.
    """
    together = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    launcher = together if processes else []
    command = [sys.executable, "-m", *launcher, "tianji_helpers.training.xtuner_compat", tool, *arguments]
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with tempfile.TemporaryDirectory() as cache, log.open("w", encoding="utf-8", buffering=1) as log_file:
        # a cache of its own: datasets' global one may hold rows of a file that has changed since
        environment = threads.for_long_run() if tool == "train" else threads.with_defaults()
        environment |= {"HF_DATASETS_CACHE": cache, "PYTHONUNBUFFERED": "1"}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        with subprocess.Popen(
            command,
            cwd=paths.ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process:
            try:
                for line in process.stdout:
                    log_file.write(line)
                    tail.append(line)
                    on_line(line)
            except BaseException:
                process.terminate()
                raise
    if process.returncode:
        reason = (
            "被系统杀掉了，多半是内存不够" if process.returncode == -9 else f"退出码 {process.returncode}"
        )
        raise CourseError(
            f"XTuner 的 {tool} 失败了（{reason}）。完整日志：{log}\n"
            f"日志的最后几行：\n{''.join(tail).rstrip()}"
        )
