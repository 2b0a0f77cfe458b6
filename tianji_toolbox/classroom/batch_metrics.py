"""What came out of a run, in figures that can stand side by side: read from what lessons 3, 5, 6, 7 wrote."""

from pathlib import Path
from typing import Any

import numpy as np

from tianji_helpers import records
from tianji_helpers.errors import CourseError

SCORES = ("faultless", "quality", "self_bleu")  # of the figures: what the report has a column for
SAMPLES = 6  # answers that are kept of each training
SEEING = "看图送祝福"
_SEEN = {  # part and control of lesson 7's examination
    ("held_out", ""): "说对场景（一 → 两个阶段）",
    ("held_out", "shuffled"): "· 洗牌",
    ("held_out", "blank"): "· 白卡",
    ("unseen", ""): "· 没见过的画风",
}
_TEXT = 160  # characters of an answer that are kept: what never ends is still seen to be so


def gather(folder: Path) -> dict[str, Any]:
    """Return ``{"tasks": {task: {...}}}`` of a run's folder: one entry for each training that was measured.

    Each has ``loss`` (on the test, nat/token) as ``{"before", "after"}``, ``scores`` (title → before, after),
    ``curve`` (``[step, loss]`` of the training) and ``answers`` (``{"request", "before", "after"}``).
    Lesson 7's has no loss and no answers; there the first stage is before. A file that cannot be read is
    passed over and named under ``"unreadable"``.
    """
    tasks, unreadable = {}, []
    seen = folder.glob("07_see_wish/comparison.json")
    for file in [*sorted(folder.glob("05_training/*/metrics.json")), *seen]:
        try:
            if file.name == "metrics.json":
                tasks[file.parent.name] = _task(file, folder)
            else:
                tasks[SEEING] = _seeing(file)
        except (CourseError, KeyError, TypeError, AttributeError):
            unreadable.append(file.relative_to(folder).as_posix())
    return {"tasks": tasks} | ({"unreadable": unreadable} if unreadable else {})


def _task(file: Path, folder: Path) -> dict[str, Any]:
    from tianji_helpers.training import progress

    measured = records.read_json(file)
    both = {moment: measured[moment] for moment in ("before", "after")}
    asked = {row["request"]: row["answer"] for row in both["before"]["rows"]}
    answers = [
        {"request": row["request"], "before": asked.get(row["request"], ""), "after": row["answer"]}
        for row in both["after"]["rows"]
    ]
    chat = folder / "06_merge_chat" / measured["task"] / "comparison.json"
    if chat.is_file():
        answers = records.read_json(chat)
    return {
        "loss": {moment: one["loss"] for moment, one in both.items()},
        "scores": _scores(both, measured["task"], folder),
        "curve": [[point["step"], point["loss"]] for point in progress.read_curve(file.parent / "work")],
        "answers": [
            {key: row[key][:_TEXT] for key in ("request", "before", "after")} for row in answers[:SAMPLES]
        ],
    }


def _seeing(file: Path) -> dict[str, Any]:
    from tianji_helpers.training import figures, progress

    measured = records.read_json(file)
    first, second = (
        {(line["part"], line["control"]): line for line in measured[stage]} for stage in ("first", "second")
    )
    scores = {
        title: [figures.show("", stage[key]["caption"]) for stage in (first, second)]
        for key, title in _SEEN.items()
    }
    scores["祝福里有场景的词"] = ["—", figures.show("", second["held_out", ""]["wish"])]
    for name in ("faultless", "quality"):
        scores[figures.TITLES[name]] = ["—", figures.show(name, second["held_out", ""]["scores"][name])]
    curve = progress.read_curve(file.parent / "finetune" / "work")
    return {"scores": scores, "curve": [[point["step"], point["loss"]] for point in curve]}


def _scores(both: dict, task: str, folder: Path) -> dict[str, tuple[str, str]]:
    from tianji_helpers.training import figures

    known = {moment: {name: one["figures"][name] for name in SCORES} for moment, one in both.items()}
    persona_file = folder / "03_self_cognition" / "self_cognition.json"
    if task == "self_cognition" and persona_file.is_file():
        from tianji_helpers.dataset import self_cognition
        from tianji_helpers.training import models

        made = models.recorded(persona_file)
        persona = self_cognition.Persona(*(made[field] for field in ("owner", "assistant", "model")))
        for moment, one in both.items():
            knows = [self_cognition.knows_itself(persona, [row["answer"]]) == 1 for row in one["rows"]]
            known[moment]["knows_itself"] = figures.interval(figures.shares(knows), np.random.default_rng(0))
    compared = figures.compare(known["before"], known["after"])
    return {figures.TITLES[name]: texts for name, texts in compared.items()}
