"""Run XTuner: train, convert the checkpoint, merge. Each in a process of its own.

A process of its own, because XTuner changes global state, keeps the model in memory, and may be
killed (no memory left) without taking the notebook with it. Success is judged by the files it
leaves as well as by its exit code.
"""

import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import paths, records, threads
from tianji_helpers.errors import CourseError
from tianji_helpers.training import configs, data, inspection, models, planning, progress, work_folder
from tianji_helpers.training.configs import load_config

_TAIL_LINES = 25
_TICK = 0.3  # seconds between two looks at how far a program is
# seconds that a program has for its end; torchrun gives its workers 30, kills them, and then ends itself
_GRACE = 45
_CAUSES = {
    "is non-finite": "损失或梯度变成了 NaN 或无穷大，训练已停下，权重没有被它改坏。多半是学习率太大："
    "请把配置里的 optim_wrapper.optimizer.lr 调小几倍，重新训练。",
    "No space left on device": "磁盘写满了。请腾出空间，或换一个 --work-dir。",
    "Input/output error": "磁盘读写出错了，可能坏了或断开了。请检查磁盘，或换一个 --work-dir。",
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
    """What a training left behind; ``checkpoint`` is the last one, to go on from, ``chosen`` the one to use.

    curve, samples: see ``progress``. seconds: wall time. peak_memory_gb: the largest resident size.
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

    cfg_options: settings to change, as ``configs.change`` takes them. resume: go on from the last checkpoint
    there. deepspeed: XTuner's name of a DeepSpeed config, such as ``deepspeed_zero2``. ``NPROC_PER_NODE`` in
    the environment is the number of GPUs, or of processes on a CPU. device: ``cpu`` hides the GPUs. report:
    called with a line of text as it goes on (``progress`` has the figures).

    An earlier training there goes when this one has come to its end, and not before (see ``work_folder``).
    Raises CourseError before anything is loaded as ``planning.plan_training`` does, and for a ``work_dir`` in
    which something would be overwritten; and when the training fails, with the cause if it is known (NaN,
    full disk), the last whole checkpoint, and the end of the log.
    """
    config, work_dir = paths.resolve(config), paths.resolve(work_dir)
    if work_dir.exists() and not work_dir.is_dir():
        raise CourseError(f"{work_dir} 是一个文件，训练要一个文件夹。请换一个 --work-dir。")
    plan = planning.plan_training(config, cfg_options, deepspeed=deepspeed)
    report(f"{plan}\n  检查点：{paths.told(work_dir)}")
    arguments = ["--work-dir", str(work_dir)]
    if config.parent == work_dir:
        raise CourseError(f"配置文件 {config} 就在 --work-dir 里，训练会盖掉它。请换一个 --work-dir。")
    if not _has_checkpoint(work_dir):
        work_folder.put_back(work_dir, config.name)  # a killed training left only this
    if resume:
        arguments += ["--resume", str(last_checkpoint(work_dir))]
        work_folder.go_on(work_dir)
    if deepspeed:
        arguments += ["--deepspeed", deepspeed]
    # DeepSpeed asks for a launcher, or for MPI, even to start one process
    processes = planning.processes() if deepspeed or planning.processes() > 1 else 0
    if processes:
        arguments += ["--launcher", "pytorch"]
    if not resume:
        about = {"config": str(config), "cfg_options": str(cfg_options or "")}
        work_folder.begin(work_dir, config.name, about)

    watch = _teller(work_dir, report)
    started = time.monotonic()
    log = work_dir / "train.log"
    try:
        with tempfile.TemporaryDirectory() as folder:
            # XTuner's own --cfg-options changes only the place that is named, and drops spaces
            whole = Path(folder) / config.name
            ours = {"type": "tianji_helpers.training.xtuner_compat.ProgressHook"}
            plan.config.custom_hooks = [*(plan.config.get("custom_hooks") or []), ours]
            configs.dump(plan.config, whole)
            arguments = [str(whole), *arguments]
            run_tool("train", arguments, log=log, watch=watch, device=device, processes=processes)
    except BaseException as error:
        advice = _advice(str(error), work_dir)
        if not _has_checkpoint(work_dir) and work_folder.put_back(work_dir, config.name):
            advice += f"先前那次训练的结果都在原处；这次的日志在 {work_dir / 'failed.log'}。"
        if not isinstance(error, CourseError):
            raise
        raise CourseError(f"{advice}\n{error}") from error
    seconds = time.monotonic() - started
    # largest child so far, in KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    checkpoint = last_checkpoint(work_dir)
    for name in work_folder.end(work_dir, config.name):
        report(f"上一次训练的文件夹里，有的不是它留下的，或者改动过：没有删掉，留作 {name}。")
    return TrainResult(
        work_dir=work_dir,
        config=config,
        checkpoint=checkpoint,
        chosen=choose_checkpoint(work_dir),
        curve=progress.read_curve(work_dir),
        samples=progress.read_samples(work_dir),
        seconds=seconds,
        peak_memory_gb=peak,
    )


def _teller(work_dir: Path, report: Callable[[str], None]) -> Callable[[], None]:
    """Return a function that reports what a training wrote down since it was called last."""
    told = len(progress.read_points(work_dir))  # by the runs before this one

    def tell() -> None:
        nonlocal told
        points = progress.read_points(work_dir)[told:]
        told += len(points)
        for text in filter(None, map(progress.describe, points)):
            report(text)

    return tell


def check_config(
    config: str | Path, cfg_options: dict | None = None, *, deepspeed: str | None = None
) -> data.Rows:
    """Return what a training would learn from; raises CourseError as ``planning.plan_training`` does."""
    return planning.plan_training(config, cfg_options, deepspeed=deepspeed).rows


def _advice(failure: str, work_dir: Path) -> str:
    """Say what a failed training means, as far as that is known, and from where it can go on."""
    cause = next((text for sign, text in _CAUSES.items() if sign in failure), "")
    try:
        return f"{cause}最后一个完好的检查点：{last_checkpoint(work_dir)}，用 --resume 可以从它接着训练。"
    except CourseError:
        return f"{cause}还没有存过完整的检查点。"


def last_checkpoint(work_dir: str | Path) -> Path:
    """Return the newest ``iter_N.pth`` that no kill or full disk cut short; raises CourseError if none."""
    work_dir = Path(work_dir)
    found = sorted(_checkpoints(work_dir), key=_step)
    whole = [path for path in found if _is_whole(path)]
    if not whole:
        broken = f"（{found[-1].name} 没有写完）" if found else ""
        raise CourseError(
            f"{paths.told(work_dir)} 里没有检查点 iter_*.pth：训练还没有存过一次{broken}。"
            "请检查是不是那次训练的 --work-dir；要从头训练，就不写 --resume。"
        )
    return whole[-1]


def _has_checkpoint(work_dir: Path) -> bool:
    return any(map(_is_whole, _checkpoints(work_dir)))


def _checkpoints(work_dir: Path, name: str = "iter_*.pth") -> list[Path]:
    """Return the checkpoints of this name; a student's ``iter_notes.pth`` is none."""
    return [path for path in work_dir.glob(name) if path.stem.rpartition("_")[2].isdecimal()]


def choose_checkpoint(work_dir: str | Path) -> Checkpoint:
    """Return the checkpoint of a training that is worth using: the one with the lowest validation loss.

    Where none was measured it is the last one. Raises CourseError if there is no whole checkpoint.
    """
    measured = {p["step"]: p["loss"] for p in progress.read_validation(work_dir) if math.isfinite(p["loss"])}
    work_dir = Path(work_dir)
    found = [*_checkpoints(work_dir, "best_*_iter_*.pth"), *_checkpoints(work_dir)]
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


def pth_to_hf(
    config: str | Path, checkpoint: str | Path, adapter_dir: str | Path, *, about: Mapping | None = None
) -> Path:
    """Convert a checkpoint of XTuner to a Hugging Face (PEFT) adapter folder and return it.

    After full fine-tuning (a config without ``lora``) the folder is a model, with its tokenizer. Of a model
    that sees it holds ``projector/``, and ``llm_adapter/`` if one was trained.
    checkpoint: an ``iter_N.pth``, which DeepSpeed makes a folder; or the work folder, of which
    ``choose_checkpoint`` takes one. about: more to keep in the provenance, beside the checkpoint with the
    reason for it, the base model and the system prompt.

    The base model's weights are not read. The folder appears only when it is complete; an earlier adapter of
    ours is replaced. Raises CourseError if there is something else.
    """
    config, checkpoint, adapter_dir = (paths.resolve(path) for path in (config, checkpoint, adapter_dir))
    cfg = load_config(config)
    if not checkpoint.exists():
        raise CourseError(f"找不到检查点 {paths.told(checkpoint)}。训练会把它存成 iter_N.pth。")
    reason = "指定的检查点"
    if checkpoint.is_dir() and checkpoint.suffix != ".pth":
        chosen = choose_checkpoint(checkpoint)
        checkpoint, reason = chosen.path, chosen.reason
    base_dir = str(cfg.model.llm.pretrained_model_name_or_path)
    # XTuner reads and quantizes the whole model if the config quantizes it, and builds an empty one
    # otherwise: the adapter is the same
    cfg.model.llm.pop("quantization_config", None)
    cfg.model.llm.pop("device_map", None)
    asked = configs.find_chat_hook(cfg) or cfg.train_dataloader.dataset.dataset  # LLaVA's rows have none
    system = asked.get("system", "")
    sees = "visual_encoder" in cfg.model
    marker = "adapter_config.json" if cfg.model.get("lora") else "config.json"

    recorded = {"base_model": Path(base_dir).name, "system": system}
    recorded |= {"checkpoint": checkpoint.name, "checkpoint_reason": reason}
    with new_folder(
        adapter_dir,
        stage="pth_to_hf",
        marker="projector/config.json" if sees else marker,
        parameters=recorded | dict(about or {}),
        inputs=[checkpoint] if checkpoint.is_file() else sorted(checkpoint.iterdir()),
    ) as (target, part):
        configs.dump(cfg, part / "config.py")
        arguments = [str(part / "config.py"), str(checkpoint), str(target), "--fp32", "--safe-serialization"]
        run_tool("pth_to_hf", arguments, log=adapter_dir.parent / "pth_to_hf.log")
        if sees:
            shutil.copy(config, target / "xtuner_config.py")
            models.leave_code_out(target / "projector")
            if cfg.model.get("llm_lora"):
                inspection.inspect_adapter(target / "llm_adapter")
        elif cfg.model.get("lora"):
            shutil.copy(config, target / "xtuner_config.py")
            inspection.inspect_adapter(target)
        else:  # a model's folder holds no Python file but its own code
            (target / "xtuner_config.py").unlink()
            inspection.inspect_model(target)
    return adapter_dir


def merge(
    model_dir: str | Path,
    adapter_dir: str | Path,
    merged_dir: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "",
    max_shard_size: str = "2GB",
    eyes: Mapping[str, Path] | None = None,
) -> Path:
    """Merge an adapter into the unquantized base model and return the new model's folder.

    device: ``cpu``, ``cuda`` or ``auto``. dtype: ``bfloat16`` or ``float32``; empty means that of the base
    model, and ``float32`` for one in half precision. max_shard_size: of one safetensors file. The folder
    appears only when it is complete; what the adapter's provenance says goes with it. A base that sees keeps
    its eyes, with the projector that was trained beside the adapter, if one was; eyes: the folders that the
    model gets instead, ``projector`` and ``tower``, or none. Raises CourseError for folders that don't fit, a
    quantized base, too little disk, or a target that holds something else.
    """
    merged_dir = paths.resolve(merged_dir)
    base = inspection.inspect_model(model_dir)
    adapter = inspection.inspect_adapter(adapter_dir, base)
    if "quantization_config" in base.config:
        raise CourseError(
            f"{paths.told(base.path)} 是量化过的模型，往它里面合并会把适配器舍入掉。"
            "请换成没有量化的基座模型。"
        )
    for source in (base.path, adapter.path):
        if source == merged_dir or merged_dir in source.parents:
            raise CourseError(f"不能合并到 {paths.told(merged_dir)}：那里放着 {paths.told(source)}。")
    dtype = dtype or base.config.get("dtype") or base.config.get("torch_dtype")
    dtype = dtype if dtype in ("bfloat16", "float32") else "float32"
    options = ["--safe-serialization", "--device", device, "--max-shard-size", max_shard_size]
    inspection.check_architecture(base)
    eyes = _eyes(base.path, adapter.path) if eyes is None else eyes
    for folder in eyes.values():
        if not (folder / "config.json").is_file():
            raise CourseError(
                f"{paths.told(folder)} 里没有 config.json，合并出来的模型就看不见了。请重新做第 7 课；"
                "基座会看图而不要它看，就先把基座里的 projector 移走。"
            )

    with new_folder(
        merged_dir,
        stage="merge",
        marker="config.json",
        parameters={"base_model": base.path.name, **models.recorded(adapter.path)}
        | ({"sees": True} if eyes else {}),
        inputs=[adapter.weights],
    ) as (target, part):
        copied = [file for folder in eyes.values() for file in folder.rglob("*") if file.is_file()]
        needed = sum(file.stat().st_size for file in (*base.weights, *copied)) / 1e9
        if (free := shutil.disk_usage(part).free / 1e9) < needed:
            raise CourseError(f"磁盘空间不够：合并后的模型要 {needed:.1f} GB，只剩 {free:.1f} GB。")
        folders = [str(folder) for folder in (base.path, adapter.path, target)]
        run_tool("merge", [dtype, *folders, *options], log=merged_dir.parent / "merge.log")
        for name, folder in eyes.items():
            shutil.copytree(folder, target / name, ignore=shutil.ignore_patterns("*.py"))
        inspection.inspect_model(target)
    return merged_dir


def _eyes(base: Path, adapter: Path) -> dict[str, Path]:
    """Return the folders that a model merged of these sees with, by their names in it; none if blind."""
    if not inspection.sees(base):
        return {}
    beside = adapter.with_name("projector")  # as the conversion leaves it
    learnt = adapter.name == "llm_adapter" and beside.is_dir()
    return {"projector": beside if learnt else base / "projector", "tower": base / "tower"}


@contextmanager
def new_folder(
    folder: Path, *, stage: str, parameters: dict, marker: str = "", inputs: Sequence[Path] = ()
) -> Iterator[tuple[Path, Path]]:
    """Give a folder to make and fill, and another for the way there; the first goes to its place when whole.

    stage, parameters, inputs: of its provenance. marker: the file by which an earlier result is known; it is
    replaced, or kept under another name if somebody has put something in. Raises CourseError for anything
    else that is there; without a marker, all that is there may go or be kept.
    """
    filled = folder.is_dir() and any(folder.iterdir())
    if folder.is_file():
        raise CourseError(f"{paths.told(folder)} 是一个文件，不是文件夹。请换一个名字，或先把它移走。")
    if marker and filled and not (folder / marker).is_file():
        raise CourseError(
            f"{paths.told(folder)} 里已经有别的东西（没有 {marker}），不覆盖。请换一个文件夹，或先把它移走。"
        )
    with records.scratch(folder) as part:
        yield (target := part / folder.name), part
        records.write_provenance(target, stage=stage, parameters=parameters, inputs=inputs)
        if kept := records.replace_folder(target, folder):
            print(records.told_of_kept(folder, kept))


def run_tool(
    tool: str,
    arguments: Sequence[str],
    *,
    log: Path,
    watch: Callable[[], None] = lambda: None,
    device: str = "",
    processes: int = 0,
) -> None:
    """Run one of XTuner's programs (see ``xtuner_compat``) and wait for it.

    log: gets all that the program prints. watch: called while it runs, some times a second, and once when
    it has ended. device: ``cpu`` hides the GPUs from it. processes: how many of it work together, one a
    GPU; 0 starts it without a launcher.
    Raises CourseError with the exit code and the end of the log if it fails; an interrupt of the
    notebook stops the program too.
    """
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    launcher = launcher if processes else []
    command = [sys.executable, "-m", *launcher, "tianji_helpers.training.xtuner_compat", tool, *arguments]
    with tempfile.TemporaryDirectory() as cache, log.open("wb") as log_file:
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
            stdout=log_file,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                while process.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_TICK)
                    watch()
            except BaseException:
                process.terminate()
                try:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_GRACE)
                finally:
                    process.kill()  # one that hangs on a GPU hears of nothing else
                raise
    if process.returncode:
        reason = (
            "被系统杀掉了，多半是内存不够" if process.returncode == -9 else f"退出码 {process.returncode}"
        )
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        raise CourseError(
            f"XTuner 的 {tool} 失败了（{reason}）。完整日志：{log}\n日志的最后几行：\n" + "\n".join(tail)
        )
