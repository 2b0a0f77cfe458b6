"""Whether a model looks: its answers about cards that it never saw, and controls that must fail.

``caption``: the share of cards whose scene is named exactly. ``wish``: the share of wishes with a keyword of
their card's scene (``data/wishes/scenes.yaml``); even good wishes don't always have one, and some words fit
several scenes, so the wishes of lesson 2 themselves are the ceiling, and a shuffled picture the floor.
Controls change the picture, not the request: another card (``shuffled``), an empty one (``blank``).
How good the wishes are says the score of lesson 5 (``score``), as if the request had named the scene.
"""

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import numpy as np

from tianji_helpers import wishes
from tianji_helpers.seeing import cards, eyes, material
from tianji_helpers.training import evaluation, figures, inference

CONTROLS = ("shuffled", "blank")
WISH_TOKENS = 48  # of a wish, at most
_NOTHING = inference.Completion("", True)


def other_scene(asked: Sequence[dict[str, Any]], seed: int = 42) -> list[str]:
    """Return for each card the picture of another one, of another scene."""
    rng = Random(seed)
    return [rng.choice([two["image"] for two in asked if two["scene"] != one["scene"]]) for one in asked]


def pictures_for(
    asked: Sequence[dict[str, Any]], seen: dict[str, Any], control: str = "", seed: int = 42
) -> list[Any]:
    """Return what stands for each card's picture: itself, or as a control has it.

    seen: for each image (and for ``blank``) what ``Eyes.look`` returned of it.
    """
    if control == "shuffled":
        return [seen[image] for image in other_scene(asked, seed)]
    return [seen["blank" if control == "blank" else one["image"]] for one in asked]


def answers(
    model: Any, tokenizer: Any, sight: eyes.Eyes, requests: Sequence[str], shown: Sequence[Any], **limits: int
) -> list[str]:
    """Return the model's answers to requests, each with its picture, greedily."""
    return [said.text for said in _answers(model, tokenizer, sight, requests, shown, **limits)]


def _answers(
    model: Any, tokenizer: Any, sight: eyes.Eyes, requests: Sequence[str], shown: Sequence[Any], **limits: int
) -> list[inference.Completion]:
    system = wishes.SYSTEM
    chats = [eyes.ask(request, picture, system) for request, picture in zip(requests, shown, strict=True)]
    return eyes.answer_all(model, tokenizer, sight, chats, **limits)


def names_scene(text: str, scene: str) -> bool:
    """Whether a wish has a keyword of a scene.

    >>> names_scene("姐姐，愿蛋糕甜甜的！", "生日")
    True
    """
    return any(word in text for word in wishes.load().scenes[scene].keywords)


def share(hits: Iterable[bool]) -> dict[str, Any]:
    """Return ``value``, ``low`` and ``high`` (95 %, Wilson's, for which nothing is drawn) of a share."""
    return figures.interval(figures.shares(hits), np.random.default_rng(0))


def examine(
    model: Any,
    tokenizer: Any,
    sight: eyes.Eyes,
    asked: Sequence[dict[str, Any]],
    seen: dict[str, Any],
    *,
    wish: bool = True,
    seed: int = 42,
) -> list[dict[str, Any]]:
    """Ask about cards, and for wishes, with the right pictures and with those of the controls.

    asked: of ``material.questions``. seen: see ``pictures_for``. wish: False asks for the scene only.
    Returns a row for each part and control: ``part``, ``control`` ("" is none), ``caption`` and ``wish``,
    each as ``share`` returns it, and ``rows``, with ``said`` and ``wished`` of each card, and whether that
    ``stopped`` by itself.
    """
    found = []
    limits = {"caption": 8, "wish": WISH_TOKENS}
    for part in dict.fromkeys(one["part"] for one in asked):
        chosen = [one for one in asked if one["part"] == part]
        for control in ("", *CONTROLS) if part == "held_out" else ("", "shuffled"):
            shown = pictures_for(chosen, seen, control, seed)
            requests = {"caption": [material.QUESTION] * len(chosen)}
            if wish:
                requests["wish"] = [one["request"] for one in chosen]
            answered = {
                kind: _answers(
                    model, tokenizer, sight, words, shown, max_new_tokens=limits[kind], batch_size=45
                )
                for kind, words in requests.items()
            }
            rows = [
                {**one, "said": caption.text, "wished": said.text, "stopped": said.stopped}
                for one, caption, said in zip(
                    chosen, answered["caption"], answered.get("wish", [_NOTHING] * len(chosen)), strict=True
                )
            ]
            line = {"part": part, "control": control, "rows": rows}
            line["caption"] = share(row["said"] == row["scene"] for row in rows)
            if wish:
                line["wish"] = share(names_scene(row["wished"], row["scene"]) for row in rows)
            found.append(line)
    return found


def told(one: dict[str, Any]) -> str:
    """Return a card's request with the scene in words, as lessons 5 and 6 ask.

    >>> told({"recipient": "姐姐", "scene": "生日", "how": "小红书"})
    '祝姐姐生日,小红书风格'
    """
    return wishes.load().request(one["recipient"], one["scene"], one["how"])


def score(rows: Sequence[dict[str, Any]], seed: int = 42) -> dict[str, dict[str, Any]]:
    """Return the figures of wishes (see ``figures.of``): hard faults, quality, diversity.

    rows: of ``examine``, or the same of another model, ``wished`` and ``stopped`` beside the card's request.
    """
    said = [inference.Completion(row["wished"], row["stopped"]) for row in rows]
    rng = np.random.default_rng(seed)
    found = figures.of(evaluation.grade([told(row) for row in rows], said))
    return {name: figures.interval(values, rng) for name, values in found.items()}


def blank() -> Any:
    """Return a card with nothing on it."""
    from PIL import Image

    return Image.new("RGB", (cards.SIZE, cards.SIZE), cards.STYLES["平涂"].paper[0])
