"""Best of several: ask a prompt several times, keep the best answer.

Hard faults go out first; among the faultless the quality score picks (``training.quality``), and if
none is faultless, among all. Every answer stays in the journal, and so does the choice with its reasons:
what was paid for can be looked at, and running again computes nothing twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tianji_helpers import faults, wishes
from tianji_helpers.synthesis.client import Engine
from tianji_helpers.synthesis.journal import key_of
from tianji_helpers.synthesis.prompts import Prompt

MOST = 16
_APART = 1_000_003  # between the seeds of one prompt's answers: a new try of one is not the next one


def variants(prompt: Prompt, count: int) -> list[Prompt]:
    """Return ``count`` prompts that differ in their seed only; the first is the prompt itself."""
    return [replace(prompt, seed=(prompt.seed + number * _APART) % 2**31) for number in range(count)]


def choose(
    engine: Engine, matrix: wishes.Matrix, prompts: Iterable[Prompt], count: int
) -> Iterator[tuple[Prompt, dict]]:
    """Yield each prompt that has an answer with its best one, as ``Engine.answer`` returns it.

    count: how many answers a prompt was asked for; 1 chooses nothing.
    """
    if count == 1:
        for prompt in prompts:
            if answer := engine.answer(prompt):
                yield prompt, answer
        return
    candidates = []
    for prompt in prompts:
        answers = [answer for one in variants(prompt, count) if (answer := engine.answer(one))]
        if answers:
            candidates.append((prompt, answers))
    keys = [
        key_of("choice", prompt.round, {"among": [a["request"] for a in answers]})
        for prompt, answers in candidates
    ]
    stored = [engine.journal.get(key) for key in keys]
    new = [number for number, choice in enumerate(stored) if choice is None]
    if new:
        judged = _judge([(matrix.read(candidates[n][0].input), candidates[n][1]) for n in new])
        engine.journal.add((keys[number], choice) for number, choice in zip(new, judged, strict=True))
        for number, choice in zip(new, judged, strict=True):
            stored[number] = choice
    for (prompt, answers), choice in zip(candidates, stored, strict=True):
        yield prompt, answers[choice["best"]]


def _judge(groups: Sequence[tuple]) -> list[dict]:
    """Return a choice for each (request, answers): the best one's place, and the reasons."""
    from tianji_helpers.training import quality

    found = [[faults.find(request, answer["text"]) for answer in answers] for request, answers in groups]
    pairs = [(request.text, answer["text"]) for request, answers in groups for answer in answers]
    rated = iter(quality.rate(pairs))
    choices = []
    for (_, answers), wrong in zip(groups, found, strict=True):
        scores = [next(rated) for _ in answers]
        best = min(range(len(answers)), key=lambda place: (bool(wrong[place]), -scores[place]))
        choices.append(
            {
                "text": answers[best]["text"],
                "best": best,
                "faults": [list(w.values()) for w in wrong],
                "quality": scores,
            }
        )
    return choices
