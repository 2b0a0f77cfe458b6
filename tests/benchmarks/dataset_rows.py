"""The rows that ``bench_dataset.py`` measures with, and the near duplicates that it plants."""

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script, not a test: pytest would know the folder
from phrasebook import Phrasebook, dirt

from tianji_helpers import records, wishes
from tianji_helpers.dataset import duplicates
from tianji_helpers.synthesis import prompts

DIRT = 0.18


def make(count: int, folder: Path) -> float:
    """Write so many rows of the offline teacher's grammar as round files; return the seconds."""
    began = time.perf_counter()
    matrix = wishes.load()
    book, rng = Phrasebook(matrix), random.Random(42)
    number = 0
    while count > 0:
        number += 1
        for style in matrix.usual_styles:
            rows = [_row(book, prompt, rng) for prompt in prompts.build_round(matrix, style, number)][:count]
            count -= len(rows)
            if rows:
                records.write_json_array(folder / f"wishes_{style}_{number:06}.json", rows)
    return time.perf_counter() - began


def _row(book: Phrasebook, prompt: prompts.Prompt, rng: random.Random) -> dict:
    cell = (prompt.recipient, prompt.scene, prompt.style)

    def compose() -> str:
        return book.compose(*cell, prompt.requirement, rng)

    wish = compose()
    if rng.random() < DIRT:
        wish = dirt.soil(rng.choice(dirt.KINDS), wish, prompt.recipient, prompt.scene, compose, rng)
    return {
        "conversation": [
            {
                "system": book.matrix.system,
                "src_input": prompt.text,
                "style_name": prompt.style,
                "input": prompt.input,
                "output": wish,
                "recipient": prompt.recipient,
                "scene": prompt.scene,
                "provider": "offline",
                "model": "recorded-large",
                "seed": prompt.seed,
                "request": f"{rng.getrandbits(256):064x}",
                "prompt_tokens": len(prompt.text),
                "completion_tokens": len(wish),
            }
        ]
    }


def recall() -> None:
    """Plant near duplicates of grammar wishes and count which the index finds, by similarity."""
    matrix, rng = wishes.load(), random.Random(7)
    book = Phrasebook(matrix)
    originals: dict[str, None] = {}
    while len(originals) < 20_000:
        (recipient, scene), style = rng.choice(matrix.pairs()), rng.choice(matrix.usual_styles)
        originals[book.compose(recipient, scene, style, rng=rng)] = None
    letters = sorted({letter for text in originals for letter in text if letter.isalpha()})
    print("\nplanted: one to three letters replaced, dropped or added in each of 20,000 wishes")
    print("threshold   planted at or above   found   recall")
    for threshold in (0.9, 0.8, 0.7):
        index = duplicates.NearIndex(threshold)
        for text in originals:
            index.add(text, text)
        planted = found = 0
        for text in originals:
            changed = list(text)
            for _ in range(rng.randint(1, 3)):
                place = rng.randrange(len(changed))
                changed[place] = rng.choice(("", rng.choice(letters), changed[place] + rng.choice(letters)))
            twin = "".join(changed)
            if duplicates.similarity(text, twin) >= threshold:
                planted += 1
                found += any(name == text for name, _ in index.near(twin))
        print(f"{threshold:9}{planted:22,}{found:8,}{found / planted:9.4f}", flush=True)
