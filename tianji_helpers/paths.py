"""Where things lie: the only module that builds paths.

A stage of the course reads and writes in ``<run>/NN_stage``; a run is ``outputs/default`` unless
the notebook parameter ``output_dir`` or the environment variable ``TIANJI_OUTPUT_DIR`` names
another folder. Relative names start from the project root, whatever the caller's working folder
is (papermill's is the caller's, nbval's is the notebook's); those of a command line start from the current
folder, and are whole by the time they get here (``cli.arguments.Place``). Those in the environment start from
the root: it reaches notebooks too, whose current folder is none that anybody chose.
"""

import builtins
import errno
import os
import re
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
CONFIGS = ROOT / "configs"
NOTEBOOKS = ROOT / "notebooks"
HELPERS = ROOT / "tianji_helpers"
TOOLBOX = ROOT / "tianji_toolbox"

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # how one begins

STAGES = (
    "01_synthesis",
    "02_merge_clean",
    "03_self_cognition",
    "04_ruozhiba",
    "05_training",
    "06_merge_chat",
    "07_see_wish",
)


def resolve(path: str | Path) -> Path:
    """Return ``path`` as an absolute path; a relative one starts from the project root."""
    return (ROOT / expand(path)).resolve()


def expand(path: str | Path) -> Path:
    """Return ``path`` with its ``~`` written out. Raises OSError for one that leads nowhere.

    That is ``~nobody``, or ``~`` where neither ``$HOME`` nor the system's list of users has a home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        # no CourseError, which looks for keys, and for that needs this module; the command line shows both
        said = f"路径 {path} 用不了：找不到 ~ 指的用户文件夹，请写完整的路径"
        raise OSError(errno.EINVAL, said) from error


def home() -> Path | None:
    """Return the home folder; None for a user without one (a container's bare number, say)."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def run_dir(output_dir: str | Path = "") -> Path:
    """Return the folder of one run of the course.

    output_dir: a folder; empty means ``$TIANJI_OUTPUT_DIR``, else ``outputs/default``. Raises OSError for an
    address.
    """
    return _place(output_dir, "TIANJI_OUTPUT_DIR", "outputs/default")


def stage_dir(stage: str, output_dir: str | Path = "", make: bool = True) -> Path:
    """Return the folder of one stage of a run, and make it if it is not there.

    stage: one of ``STAGES`` or its two digits. make: False for who only looks whether something is there.
    Raises KeyError for a stage that the course does not have.

    >>> stage_dir("08")
    Traceback (most recent call last):
        ...
    KeyError: '08'
    """
    names = {name: name for name in STAGES} | {name[:2]: name for name in STAGES}
    folder = run_dir(output_dir) / names[stage]
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def models_dir() -> Path:
    """Return the folder of prepared base models: ``$TIANJI_MODELS_DIR``, else ``models``.

    Raises OSError for an address.
    """
    return _place("", "TIANJI_MODELS_DIR", "models")


def _place(given: str | Path, variable: str, default: str) -> Path:
    """Return the folder that was given, or that a variable of the environment names, or the default.

    Raises OSError for an address, of which a folder named ``s3:`` would be made, and for ``~nobody``.
    """
    text = given or os.environ.get(variable) or default
    named = "" if given else f"环境变量 {variable} "
    if isinstance(text, str) and ADDRESS.match(text):
        raise OSError(errno.EINVAL, f"{named}{text!r} 是网址，这里要写这台机器上的路径")
    try:
        return resolve(text)
    except OSError as error:
        raise OSError(errno.EINVAL, f"{named}{error.strerror}") from error


def datasets_dir() -> Path:
    """Return the folder of data sets that were downloaded."""
    return resolve("outputs/datasets")


def show(path: str | Path, output_dir: str | Path = "") -> str:
    """Return ``path`` as text for a notebook's output, without the parts that one machine owns.

    Relative to the run's folder, else to the project root, else the bare file name.

    >>> show(DATA / "wishes" / "styles.yaml")
    'data/wishes/styles.yaml'
    """
    path, bases = resolve(path), [ROOT]
    with suppress(OSError):  # the environment may name no folder, which is said where one is made
        bases.insert(0, run_dir(output_dir))
    base = next((base for base in bases if path.is_relative_to(base)), path.parent)
    return path.relative_to(base).as_posix()


def told(path: str | Path) -> str:
    """Return ``path`` as a message names it: whole, so that nobody has to ask where was looked.

    In a notebook, whose outputs are kept and travel, it is as ``show`` returns it.
    """
    return show(path) if hasattr(builtins, "__IPYTHON__") else str(resolve(path))
