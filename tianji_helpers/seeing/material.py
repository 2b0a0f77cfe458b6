"""What lesson 7 trains and is tested on: cards in three parts, captions, and wishes.

``train`` and ``held_out`` have the same styles, and no card in common; ``unseen`` is all in the style that no
card of the others has. The wishes are lesson 2's own, each with a card of its scene: what the request no
longer says stands in the picture only.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tianji_helpers import records, wishes
from tianji_helpers.seeing import cards, rows

PARTS = ("train", "held_out", "unseen")
QUESTION = "这张贺卡是什么场景？"


def draw_all(
    folder: str | Path, *, per_scene: int = 48, test_per_scene: int = 5, seed: int = 42
) -> list[dict[str, Any]]:
    """Draw the cards of all parts into a folder, with ``cards.json``; return what that holds.

    per_scene: cards of a scene to train on; test_per_scene: in each of the others. Returns for each card
    ``image`` (path in the folder), ``scene``, ``style`` and ``part``.
    """
    folder, found = Path(folder), []
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
        styles = (cards.UNSEEN,) if part == "unseen" else cards.SEEN
        for number in range(per_scene if part == "train" else test_per_scene):
            for place, scene in enumerate(cards.scenes()):
                style = styles[(number + place) % len(styles)]
                image = f"{part}/{place:02}_{number:03}.png"
                cards.draw(scene, style, seed=f"{seed} {image}").save(folder / image)
                found.append({"image": image, "scene": scene, "style": style, "part": part})
    records.write_json(folder / "cards.json", found)
    return found


def captions(drawn: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each card: what scene is it?"""
    return [rows.row(card["image"], card["image"], QUESTION, card["scene"]) for card in drawn]


def request(recipient: str, style: str) -> str:
    """Return a request that does not say what for.

    >>> request("姐姐", "小红书")
    '给姐姐写一句祝福,小红书风格'
    """
    return f"给{recipient}写一句祝福" + ("" if style == wishes.DEFAULT_STYLE else f",{style}风格")


def with_cards(
    turns: Sequence[dict[str, Any]], drawn: Sequence[dict[str, Any]], *, repeats: int = 1, seed: int = 42
) -> list[dict[str, Any]]:
    """Return rows of wishes, each with a card of its scene drawn by lot.

    turns: ``input`` and ``output``, as lesson 2 leaves them; those of a scene without a card are left out.
    repeats: how many cards each wish gets.
    """
    matrix, rng, made = wishes.load(), Random(seed), []
    by_scene: dict[str, list[str]] = {}
    for card in drawn:
        by_scene.setdefault(card["scene"], []).append(card["image"])
    for round_ in range(repeats):
        for number, turn in enumerate(turns):
            asked = matrix.read(turn["input"])
            if asked.scene in by_scene and asked.recipient:
                image = rng.choice(by_scene[asked.scene])
                text = request(asked.recipient, asked.style)
                made.append(rows.row(f"wish-{round_}-{number}", image, text, turn["output"]))
    return made


def questions(drawn: Sequence[dict[str, Any]], seed: int = 42) -> list[dict[str, Any]]:
    """Return each card with a request for a wish: ``recipient``, ``how`` (the style) and ``request``."""
    matrix, rng = wishes.load(), Random(seed)
    asked = []
    for place, card in enumerate(drawn):
        recipient = rng.choice(
            [who for who in matrix.usual_recipients if matrix.suitable(who, card["scene"])]
        )
        style = matrix.usual_styles[place % len(matrix.usual_styles)]
        asked.append({**card, "recipient": recipient, "how": style, "request": request(recipient, style)})
    return asked
