"""Where a batch's results go: a folder, or any address that fsspec knows (``s3://bucket/class1`` ...).

Runs always work in a local folder. With an address, each run that is over is copied there, its status
last, so that what was cut off on the way counts as not done; and what the address has already is
fetched before the first run, so that another machine can go on.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from tianji_helpers import paths
from tianji_helpers.errors import CourseError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")
_LAST = "status.json"


@dataclass(frozen=True)
class Store:
    """folder: where the runs work. address: where their results are copied to, or empty."""

    folder: Path
    address: str = ""

    def run_dir(self, name: str) -> Path:
        """Return the folder of one run."""
        return self.folder / "runs" / name

    def push_run(self, name: str) -> None:
        """Copy a run that is over to the address."""
        if self.address:
            system, root = _open(self.address)
            there = f"{root}/runs/{name}"
            if system.exists(there):
                system.rm(there, recursive=True)
            files = [file for file in self.run_dir(name).rglob("*") if file.is_file()]
            self._copy(sorted(files, key=lambda file: file.name == _LAST))

    def push_pages(self) -> None:
        """Copy the report, and what it leads to."""
        if self.address:
            self._copy([self.folder / "batch.json", *self.folder.rglob("*.html")])

    def pull_run(self, name: str) -> None:
        """Fetch what the report needs of a run, if the address has it and the folder has not."""
        if not self.address or (self.run_dir(name) / _LAST).is_file():
            return
        system, root = _open(self.address)
        there = f"{root}/runs/{name}"
        if not system.exists(f"{there}/{_LAST}"):
            return
        found = [*system.glob(f"{there}/*.*"), *system.glob(f"{there}/notebooks/*.ipynb")]
        for file in sorted(found, key=lambda file: file.endswith(_LAST)):
            target = self.run_dir(name) / file[file.index(there) + len(there) + 1 :]
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(file, str(target))

    def _copy(self, files: list[Path]) -> None:
        system, root = _open(self.address)
        for file in files:
            there = f"{root}/{file.relative_to(self.folder).as_posix()}"
            system.makedirs(there.rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), there)


def open_store(output: str | Path, name: str) -> Store:
    """Return the store that an output names.

    output: a folder, an address, or empty for ``outputs/batches/<name>``; name: the plan's.
    Raises CourseError for an address that fsspec cannot open.
    """
    output = str(output)
    if not _ADDRESS.match(output):
        return Store(paths.resolve(output or f"outputs/batches/{name}"))
    import fsspec.implementations.local

    system, root = _open(output)
    if isinstance(system, fsspec.implementations.local.LocalFileSystem):
        return Store(Path(root))
    digest = hashlib.sha256(output.encode()).hexdigest()[:8]
    return Store(paths.resolve(f"outputs/batches/{name}-{digest}"), output)


def _open(address: str):
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError, OSError) as error:
        raise CourseError(
            f"--output {address} 打不开：{error}。"
            "可以写文件夹，或 fsspec 认识的地址（有的要另装软件包，如 s3fs）。"
        ) from error
    return system, root.rstrip("/")
