"""Is this machine ready for the course? ``tianji doctor`` asks, and names the fix for each no.

Each check is a function that returns one ``Check``; none of them raises, changes anything or shows
a secret. FAIL means that the course will not run; WARN, that it runs with something slow or missing.
The runner of the course asks ``check_memory`` and ``check_disk`` again before it starts.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tianji_helpers import packaged, paths, plots
from tianji_helpers.errors import CourseError

MEMORY_GB = 6.0  # training the embedded model, with the notebook's kernel and its server
DISK_GB = 3.0  # prepared model, checkpoints and the merged model of one run
KEYS = ("DEEPSEEK_API_KEY", "ZHIPUAI_API_KEY")
LOCKS = ("requirements.lock", "requirements-xtuner.txt")

OK, WARN, FAIL = "OK", "WARN", "FAIL"
_REINSTALL = "运行 make setup（没有 make：pip install -r requirements.lock，再按 README 装 XTuner）"


@dataclass(frozen=True)
class Check:
    """One answer: ``status`` is OK, WARN or FAIL; ``fix`` says what to do about the last two."""

    name: str
    status: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"[{self.status}] {self.name}：{self.message}"
        return f"{line}\n       → {self.fix}" if self.fix else line


def check_python() -> Check:
    """3.10 to 3.12: what the lock was resolved for."""
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Check("Python", OK, version)
    return Check("Python", FAIL, f"{version}，需要 3.10–3.12", "换一个版本：make PYTHON=python3.11 course")


def check_packages(root: Path = paths.ROOT) -> Check:
    """Every package of the lock, XTuner included, is installed in just that version."""
    try:
        wanted = list(_locked(root))
    except FileNotFoundError as error:
        name = Path(error.filename).name
        return Check("依赖包", FAIL, f"找不到 {name}", "在课程的文件夹里安装（git clone 之后 make setup）")
    missing, different = [], []
    for requirement in wanted:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(f"{requirement.name}（没有装）")
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                different.append(f"{requirement.name} {version}（要 {requirement.specifier}）")
    wrong = missing + different
    if not wrong:
        return Check("依赖包", OK, f"{len(wanted)} 个，版本都和 {LOCKS[0]} 一致")
    more = f" 等 {len(wrong)} 个" if len(wrong) > 5 else ""
    return Check("依赖包", FAIL, "、".join(wrong[:5]) + more, _REINSTALL)


def _locked(root: Path) -> Iterator:
    """Yield the requirements of the lock files that apply to this interpreter and system."""
    from packaging.requirements import Requirement

    for name in LOCKS:
        for line in (root / name).read_text(encoding="utf-8").splitlines():
            text = line.partition("#")[0].strip(" \\")
            if text and not text.startswith("--hash"):
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate():
                    yield requirement


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Check:
    """Cores that this process may use, and the instructions that decide the speed of training."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return Check("CPU", OK, f"{cores} 核，{platform.machine()}（指令集未知）")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    if "avx512_bf16" in flags:
        return Check("CPU", OK, f"{cores} 核，有 AVX512-BF16：训练前会量一量，bf16 快就用它")
    if "avx2" in flags:
        return Check("CPU", OK, f"{cores} 核，有 AVX2，没有 AVX512-BF16：第 5 课会慢几倍，结果一样好")
    return Check(
        "CPU",
        WARN,
        f"{cores} 核，没有 AVX2：第 5 课会很慢",
        "先用小的训练量试：tianji course -p max_rows=320",
    )


def check_memory(needed: float = MEMORY_GB) -> Check:
    """Is so much memory (GB) free? See ``free_memory``."""
    free, where = free_memory()
    message = f"空闲 {free:.1f} GB{where}，需要 {needed:g} GB"
    if free >= needed:
        return Check("内存", OK, message)
    return Check("内存", FAIL, message, "关掉别的程序或其他笔记本的内核；在容器里就调大它的内存上限")


def free_memory() -> tuple[float, str]:
    """Return how many GB are free now, by the machine's count or the container's, the smaller one, and
    words that name the container if it is that.
    """
    import psutil

    free = psutil.virtual_memory().available / 1e9
    limit = _container_memory()
    return (limit, "（容器的上限）") if limit is not None and limit < free else (free, "")


def _container_memory(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return how many GB the control group (v2) still allows, or None where it sets no limit.

    File cache counts as used there, but is given back on demand, so it is taken off.
    """
    try:
        limit = int((root / "memory.max").read_text())  # the word "max" where there is none
        used = int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return (limit - used + int(stat.get("inactive_file", 0))) / 1e9


def check_disk(folder: Path, needed: float = DISK_GB) -> Check:
    """Free space in GB where ``folder`` is, or will be; and that one may write there."""
    place = next(place for place in (folder, *folder.parents) if place.exists())
    name = f"磁盘 {folder.relative_to(paths.ROOT) if folder.is_relative_to(paths.ROOT) else folder}"
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check(name, FAIL, f"不能写：{error.strerror}", "检查文件夹权限，或用 --output 换一个文件夹")
    free = shutil.disk_usage(place).free / 1e9
    message = f"可写，空闲 {free:.1f} GB，需要 {needed:g} GB"
    if free >= needed:
        return Check(name, OK, message)
    return Check(name, FAIL, message, "清出一些空间，或用 --output 换一块磁盘")


def check_gpu() -> Check:
    """The first CUDA device and its memory; none is fine, the default course trains on the CPU."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("GPU", FAIL, f"PyTorch 导入失败：{error}", _REINSTALL)
    if not torch.cuda.is_available():
        return Check("GPU", OK, "没有：默认的小模型在 CPU 上训练，不需要 GPU")
    device = torch.cuda.get_device_properties(0)
    return Check(
        "GPU", OK, f"{torch.cuda.device_count()} 块，{device.name}，{device.total_memory / 1e9:.0f} GB"
    )


def check_font() -> Check:
    """The Chinese font of the figures."""
    try:
        plots.font_file()
    except CourseError as error:
        return Check("中文字体", FAIL, str(error), _REINSTALL)
    return Check("中文字体", OK, plots.FONT)


def check_kernel() -> Check:
    """The Jupyter kernel that notebooks get is this very interpreter."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    fix = "运行 python -m ipykernel install --sys-prefix"
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Check("Jupyter 内核", FAIL, "没有叫 python3 的内核", fix)
    # a bare "python" is replaced by the running interpreter (jupyter_client's rule)
    if command in ("python", "python3", Path(sys.executable).name) or Path(command) == Path(sys.executable):
        return Check("Jupyter 内核", OK, "python3 就是当前环境")
    return Check("Jupyter 内核", FAIL, f"python3 指向另一个环境：{command}", fix)


def check_keys(root: Path = paths.ROOT) -> Check:
    """Which keys of the online teachers are set; their values are never shown."""
    from dotenv import dotenv_values

    values = dotenv_values(root / ".env") | os.environ
    states = "，".join(f"{name} {'已设置' if values.get(name) else '未设置'}" for name in KEYS)
    return Check("API 密钥", OK, f"{states}（默认的 offline 教师不需要）")


def check_teacher() -> Check:
    """Is the small teacher here? None is fine: the default teacher needs no model."""
    if packaged.gguf_file().is_file():
        return Check("小老师", OK, f"{paths.show(packaged.gguf_file())}，可以用 provider=embedded")
    return Check("小老师", OK, "没有：只有 provider=embedded 要用它（make teacher，下载 1.1 GB）")


def resources(folder: Path) -> list[Check]:
    """What the course needs again before each start: memory, and disk under ``folder``."""
    return [check_memory(), check_disk(folder)]


def diagnose(folder: str | Path = "") -> list[Check]:
    """Run every check.

    folder: the run folder that the course would write to (see ``paths.run_dir``).
    """
    checks: list[Callable[[], Check]] = [
        check_python,
        check_packages,
        check_cpu,
        check_gpu,
        check_font,
        check_kernel,
        check_keys,
        check_teacher,
        lambda: check_disk(paths.models_dir()),
    ]
    return [check() for check in checks] + resources(paths.run_dir(folder))


def report(checks: list[Check]) -> int:
    """Print the checks, with a last line that sums up; return 1 if one of them failed, else 0."""
    for check in checks:
        print(check, flush=True)
    failed = sum(check.status == FAIL for check in checks)
    print(f"有 {failed} 项不通过，请按 → 后面的办法处理。" if failed else "环境就绪。")
    return 1 if failed else 0
