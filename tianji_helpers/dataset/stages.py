"""What notebooks 02, 03 and 04 make by default, in one call each, if it is not there yet.

A later notebook that finds an earlier stage's files missing calls these; the files are the same as
the notebook's own with the same seed.
"""

from pathlib import Path

from tianji_helpers import paths
from tianji_helpers.dataset import clean, decisions, merge, ruozhiba, self_cognition, splits

THRESHOLD = 0.9
DEFAULT_PERSONA = self_cognition.Persona("小明", "小祝", "Gemma 3 270M")
RUOZHIBA_SAMPLE = paths.DATA / "ruozhiba" / "sample.jsonl"


def ensure_wishes(output_dir: str | Path = "", seed: int = 42) -> bool:
    """Merge, clean and split the rounds of stage 01 unless that is done; return whether it was work.

    Raises CourseError if stage 01 has no rounds.
    """
    out = paths.stage_dir("02", output_dir)
    names = ("wishes.json", *(f"wishes_{part}.json" for part in splits.PARTS))
    if all((out / name).is_file() for name in names):
        return False
    merge.merge_rounds(paths.stage_dir("01", output_dir), out / "merged.json")
    clean.clean_file(
        out / "merged.json",
        out / "wishes.json",
        rejects=out / "rejects.jsonl",
        report=out / "report.json",
        threshold=THRESHOLD,
        decisions_file=out / decisions.FILE,
    )
    splits.write_split(out / "wishes.json", seed=seed)
    return True


def ensure_self_cognition(output_dir: str | Path = "", seed: int = 42) -> bool:
    """Write the default persona's files unless they are there; return whether it was work."""
    out = paths.stage_dir("03", output_dir)
    names = [f"self_cognition{part}.json" for part in ("", "_validation", "_test", "_probe")]
    if all((out / name).is_file() for name in names):
        return False
    self_cognition.write(out / names[0], DEFAULT_PERSONA, seed=seed)
    return True


def ensure_ruozhiba(output_dir: str | Path = "") -> bool:
    """Convert the project's own sample unless that is done; return whether it was work."""
    out = paths.stage_dir("04", output_dir)
    train, validation, test = (out / f"ruozhiba_{part}.jsonl" for part in splits.PARTS)
    if all(file.is_file() for file in (train, validation, test)):
        return False
    ruozhiba.convert_file(RUOZHIBA_SAMPLE, train, test, validation_path=validation)
    return True
