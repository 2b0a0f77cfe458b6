"""Quality: a score that ranks answers as people do, read off a language model.

Hard faults (``tianji_helpers.faults``) say what is wrong; they are silent on most answers, fine or dull.
Quality ranks those. Two judges, each the embedded base model, which no training of the course has touched:

- ``score`` is for wishes. What the model makes of the answer's words behind its request (the mean over
  them of a middle layer's states: 640 numbers), and what cleaning would do to the answer (mend it, or reject
  it), are weighted, summed, and squeezed to between 0 and 1: 0.5 is the grade 3 of 5, an ordinary wish that
  one could send; 0.75 is the grade 4, a good one. The weights (``data/wishes/judge.json``) are a ridge
  regression on ``data/wishes/graded.jsonl``, wishes of our own that a large model read and graded from 1 to
  5; ``tests/benchmarks/fit_quality.py`` fits them. No person's grade was used.
- ``likelihood`` is for any answer: the geometric mean of the probabilities of its tokens behind the request,
  as by Yuan et al. 2021, "BARTScore: Evaluating Generated Text as Text Generation". 0.10 says that each
  token could be guessed one time in ten. It sees broken sentences and answers to another request, and likes
  what everybody says.

Neither knows whether an answer is true, fresh or tactful. How far they agree with people is what
``tests/benchmarks/bench_agreement.py`` measures.
"""

import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tianji_helpers import paths, wishes
from tianji_helpers.dataset import clean
from tianji_helpers.errors import CourseError
from tianji_helpers.training import inference, models

WEIGHTS = paths.DATA / "wishes" / "judge.json"
LAYER = 8  # of the base model's 18, whose output is read: chosen on our own grades, its neighbours do as well
_MAX_TOKENS = 512  # of request and answer; the rest of the answer is not read
_PROMPT = "问：{}\n答："


def score(model, tokenizer, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16) -> list[float]:
    """Return the quality of each wish, between 0 and 1; an empty one has 0.

    model, tokenizer: the embedded model as ``inference.load`` returns it. pairs: (request, answer).
    batch_size: pairs computed at a time. Raises CourseError for a model that the weights do not fit.
    """
    judge = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    weights = np.array(judge["weights"])
    if len(weights) != model.config.hidden_size + len(_VERDICTS):
        raise CourseError(
            f"质量的权重有 {len(weights)} 个，是照 {judge['model']} 拟合的；这个模型要 "
            f"{model.config.hidden_size + len(_VERDICTS)} 个。请用 {judge['model']} 来评。"
        )
    found = features(model, tokenizer, pairs, batch_size=batch_size) @ weights + judge["bias"]
    # the grades' 1 to 5 as 0 to 1, straight in the middle, and never quite at the ends
    squeezed = 1 / (1 + np.exp(-(found - 3)))
    return [one if answer.strip() else 0.0 for one, (_, answer) in zip(squeezed.tolist(), pairs, strict=True)]


_VERDICTS = ("mended", "rejected")


def features(model, tokenizer, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16) -> np.ndarray:
    """Return what ``score`` weighs: a row for each (request, answer).

    Mean states of the answer's tokens behind layer ``LAYER``, as wide as the model, then 0 or 1 for an answer
    that cleaning would mend, and for one that it would reject.
    """
    import torch

    width = model.config.hidden_size
    found = np.zeros((len(pairs), width + len(_VERDICTS)))
    for chosen, tokens, answered in _batches(model, tokenizer, pairs, batch_size):
        with torch.inference_mode():
            states = _lower_layers(model, tokens)
        words = answered[:, :, None]
        means = (states.float() * words).sum(1) / words.sum(1)
        found[chosen, :width] = means.cpu().numpy()
    matrix = wishes.load()
    for row, (request, answer) in zip(found, pairs, strict=True):
        asked, off = matrix.read(request), clean.SUITABILITY["absurd"]
        text, _ = clean.mend(answer, asked, off)
        rejected = clean.reject(text, asked, off) is not None
        row[width:] = not rejected and text != answer.strip(), rejected
    return found


class _Enough(Exception):
    """The layer that is read has spoken: what is above need not be computed."""


def _lower_layers(model, tokens):
    kept = []

    def keep(layer, given, states):
        kept.append(states[0] if isinstance(states, tuple) else states)
        raise _Enough

    hook = model.model.layers[LAYER - 1].register_forward_hook(keep)
    try:
        model.model(input_ids=tokens, use_cache=False)
    except _Enough:
        return kept[0]
    finally:
        hook.remove()
    raise AssertionError("a layer was not run")


def likelihood(model, tokenizer, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16) -> list[float]:
    """Return how likely each answer is, between 0 and 1; an empty answer has 0.

    model, tokenizer: a base model that no training touched, as ``inference.load`` returns it.
    pairs: (request, answer). batch_size: pairs computed at a time. The line break that ends an answer counts
    as a token; it is a mean, so that a long answer is not worse for being long.
    """
    import torch

    scores = [0.0] * len(pairs)
    for chosen, tokens, answered in _batches(model, tokenizer, pairs, batch_size):
        answered = answered[:, 1:]
        with torch.inference_mode():
            logits = model(input_ids=tokens).logits[:, :-1]
            surprise = torch.zeros(answered.shape, device=model.device)
            surprise[answered] = torch.nn.functional.cross_entropy(
                logits[answered].float(), tokens[:, 1:][answered], reduction="none"
            )
            likely = torch.exp(-surprise.sum(1) / answered.sum(1))
        for index, one in zip(chosen, likely.tolist(), strict=True):
            scores[index] = one
    return scores


def _batches(model, tokenizer, pairs: Sequence[tuple[str, str]], batch_size: int) -> Iterator[tuple]:
    """Yield the places of some pairs, their tokens, and which of those are the answer's; no empty answers."""
    import torch

    encoded = [_encode(tokenizer, *pair) for pair in pairs]
    # neighbours of similar length need little padding
    order = [i for i in sorted(range(len(pairs)), key=lambda i: len(encoded[i][0])) if pairs[i][1].strip()]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        longest = max(len(encoded[index][0]) for index in chosen)
        # the padding is on the right: what comes before never sees it
        tokens = torch.full((len(chosen), longest), tokenizer.pad_token_id)
        answered = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, index in enumerate(chosen):
            ids, prompt_length = encoded[index]
            tokens[row, : len(ids)] = torch.tensor(ids)
            answered[row, prompt_length : len(ids)] = True
        yield chosen, tokens.to(model.device), answered.to(model.device)


def _encode(tokenizer, request: str, answer: str) -> tuple[list[int], int]:
    """Return the ids of prompt and answer, and how many of them are the prompt's."""
    prompt = _PROMPT.format(" ".join(request.split()))
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    asked = start + tokenizer(prompt, add_special_tokens=False)["input_ids"]
    said = tokenizer(" ".join(answer.split()) + "\n", add_special_tokens=False)["input_ids"]
    asked = asked[-_MAX_TOKENS // 2 :]
    return (asked + said)[:_MAX_TOKENS], len(asked)


def rate(
    pairs: Sequence[tuple[str, str]],
    *,
    are_wishes: bool = True,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> list[float]:
    """Return what the embedded model says of (request, answer) pairs: ``score``, or else ``likelihood``.

    device: ``cpu`` or ``cuda``. report: called with one line (str) a step if the model must be prepared.
    """
    model, tokenizer = inference.load(models.prepare(models.EMBEDDED, report=report), device=device)
    return (score if are_wishes else likelihood)(model, tokenizer, pairs)
