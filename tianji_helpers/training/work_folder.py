"""The work folder of a training: what in it is the training's, and how an earlier one makes room.

The folder is the student's, and other things may lie there. A training touches only what it has made, and it
knows that by the mark that it leaves before its first file: under these names, in a folder with the mark.
An earlier training is set aside while the new one runs; it goes when the new one has come to its end, and
comes back if the new one ended without a checkpoint.
"""

import re
import shutil
from contextlib import suppress
from pathlib import Path

from tianji_helpers import records
from tianji_helpers.errors import CourseError

MARK = "training.json"
_MADE_BY = "tianji train"
_ASIDE = ".earlier-trainings"
_CHECKPOINT = r"(?:best_\w+_)?iter_\d+\.pth"
_PART = re.compile(rf"\.{_CHECKPOINT}\.\w+\.part")  # what a killed training leaves
_FILES = re.compile(
    rf"{_CHECKPOINT}|{_PART.pattern}|last_checkpoint|zero_to_fp32\.py|samples\.jsonl|(?:train|failed)\.log"
)
_LOGS = re.compile(r"\d{8}_\d{6}")  # mmengine's folder of a run, with a log of the same name


def begin(work_dir: Path, config_name: str, about: dict) -> None:
    """Make the folder ready for a new training: an earlier one is set aside.

    config_name: of the copy of the config that XTuner leaves. about: what is trained, for the mark.
    Raises CourseError if something lies in the way that no training of ours has made.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    found = _results(work_dir, config_name)
    if found and not is_ours(work_dir):
        names = "、".join(item.name for item in found[:3])
        raise CourseError(
            f"{work_dir} 里已经有 {names}，看不出是课程的训练留下的，所以既不覆盖也不删除。"
            "请换一个 --work-dir，或先把它们移走。"
        )
    if found:
        numbers = [int(item.name) for item in (work_dir / _ASIDE).glob("*")]
        place = work_dir / _ASIDE / str(max(numbers, default=0) + 1)
        with records.writing(work_dir):
            place.mkdir(parents=True)
            try:
                for item in found:
                    item.rename(place / item.name)
            except OSError:
                _take_back(place, work_dir)
                raise
    records.write_json(work_dir / MARK, {"made_by": _MADE_BY, **about})


def go_on(work_dir: Path) -> None:
    """Make the folder ready for a training that goes on: half of a checkpoint is of no use to it."""
    for item in work_dir.iterdir():
        if _PART.fullmatch(item.name) and is_ours(work_dir):
            item.unlink()


def end(work_dir: Path, config_name: str) -> list[str]:
    """Note what the new training has made, now that it stands, and drop what was set aside for it.

    Returns the names of what stays of that: what is not as the earlier training has noted it, somebody else
    put there or changed. One that was cut off has noted nothing, and goes by its names.
    """
    if is_ours(work_dir):  # it may have gone on with another's checkpoint, or have lost its mark
        ours = {item.name for item in _results(work_dir, config_name)} - {MARK}
        made = {name: of for name, of in records.listing(work_dir).items() if _top(name) in ours}
        records.write_json(work_dir / MARK, {"made_by": _MADE_BY, **_mark(work_dir), "files": made})
    kept = []
    for place in sorted((work_dir / _ASIDE).glob("*")):
        noted = _mark(place).get("files")
        found = records.listing(place).items() if noted is not None else ()
        for name in sorted({_top(name) for name, of in found if name != MARK and noted.get(name) != of}):
            kept.append((place / name).rename(records.free_name(work_dir / name)).name)
        shutil.rmtree(place)
    if (work_dir / _ASIDE).is_dir():
        (work_dir / _ASIDE).rmdir()
    return kept


def _mark(folder: Path) -> dict:
    found = None
    with suppress(CourseError):  # a damaged mark is none
        found = records.read_json(folder / MARK) if (folder / MARK).is_file() else None
    return found if isinstance(found, dict) else {}


def _top(name: str) -> str:
    return name.partition("/")[0]


def put_back(work_dir: Path, config_name: str) -> bool:
    """Undo ``begin`` for a training that left no checkpoint; return whether something had been set aside.

    If so, the new training's log stays as ``failed.log``.
    """
    places = sorted((work_dir / _ASIDE).glob("*"), key=lambda place: int(place.name))
    if not places:
        return False
    # the mark is the last to be moved: without it the earlier training was not even set aside
    whole = (places[-1] / MARK).is_file() or not is_ours(work_dir)
    for item in _results(work_dir, config_name) if whole else ():
        if item.name == "train.log":
            item.replace(work_dir / "failed.log")
        else:
            _remove(item)
    _take_back(places[-1], work_dir)
    return True


def _take_back(place: Path, work_dir: Path) -> None:
    for item in place.iterdir():
        item.replace(work_dir / item.name)
    place.rmdir()
    if not any(place.parent.iterdir()):
        place.parent.rmdir()


def _remove(item: Path) -> None:
    if item.is_dir() and not item.is_symlink():  # DeepSpeed's checkpoints are folders
        shutil.rmtree(item)
    else:
        item.unlink()


def is_ours(work_dir: Path) -> bool:
    """Say whether a training of the course has begun in a folder.

    The course's own work folders also had provenance beside them before there was a mark.
    """
    return (
        _mark(work_dir).get("made_by") == _MADE_BY
        or records.provenance(work_dir).get("stage") == "05_training"
    )


def _results(work_dir: Path, config_name: str) -> list[Path]:
    """Return what a training leaves under these names."""
    return [
        item
        for item in sorted(work_dir.iterdir())
        if _FILES.fullmatch(item.name)
        or item.name in (config_name, MARK)
        or (_LOGS.fullmatch(item.name) and (item / f"{item.name}.log").is_file())
    ]
