"""Best of several: ask a prompt several times, keep the best answer.

Hard faults go out first; among the faultless a score of the caller's picks (``training.quality``), and if
none is faultless, among all. Every answer stays in the journal, and so does the choice with its reasons:
what was paid for can be looked at, and running again computes nothing twice.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tianji_helpers import faults, wishes
from tianji_helpers.synthesis.client import Engine
from tianji_helpers.synthesis.journal import key_of
from tianji_helpers.synthesis.prompts import Prompt

MOST = 16
Rate = Callable[[Sequence[tuple[str, str]]], Sequence[float]]  # (request, answer) pairs to scores
_APART = 1_000_003  # between the seeds of one prompt's answers: a new try of one is not the next one


def variants(prompt: Prompt, count: int) -> list[Prompt]:
    """Return ``count`` prompts that differ in their seed only; the first is the prompt itself."""
    return [replace(prompt, seed=(prompt.seed + number * _APART) % 2**31) for number in range(count)]


def choose(
    engine: Engine, matrix: wishes.Matrix, prompts: Iterable[Prompt], count: int, rate: Rate | None
) -> Iterator[tuple[Prompt, dict[str, Any]]]:
    """Yield each prompt that has an answer with its best one, as ``Engine.answer`` returns it.

    count: how many answers a prompt was asked for; 1 chooses nothing, and needs no ``rate``.
    """
    each = ((p, [a for one in variants(p, count) if (a := engine.answer(one))]) for p in prompts)
    found = ((prompt, answers) for prompt, answers in each if answers)
    if count == 1:
        yield from ((prompt, answer) for prompt, (answer,) in found)
        return
    asked = list(found)
    keys = [
        key_of("choice", prompt.round, {"among": [a["request"] for a in answers]})
        for prompt, answers in asked
    ]
    new = [number for number, key in enumerate(keys) if engine.journal.get(key) is None]
    if new:
        assert rate  # ``synthesize`` has seen to it
        judged = _judge([(matrix.read(asked[n][0].input), asked[n][1]) for n in new], rate)
        engine.journal.add((keys[number], choice) for number, choice in zip(new, judged, strict=True))
    for key, (prompt, answers) in zip(keys, asked, strict=True):
        choice = engine.journal.get(key)
        assert choice  # it has just been stored
        yield prompt, answers[choice["best"]]


def _judge(groups: Sequence[tuple[Any, ...]], rate: Rate) -> list[dict[str, Any]]:
    """Return a choice for each (request, answers): the best one's place, and the reasons."""
    pairs = [(request.text, answer["text"]) for request, answers in groups for answer in answers]
    rated = iter(rate(pairs))
    choices = []
    for request, answers in groups:
        wrong = [faults.find(request, answer["text"]) for answer in answers]
        scores = [next(rated) for _ in answers]
        best = min(range(len(answers)), key=lambda place: (bool(wrong[place]), -scores[place]))
        reasons = {"faults": [list(found.values()) for found in wrong], "quality": scores}
        choices.append({"text": answers[best]["text"], "best": best, **reasons})
    return choices
