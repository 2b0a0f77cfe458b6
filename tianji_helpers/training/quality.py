"""Quality: a score that ranks answers as people do.

Hard faults (``tianji_helpers.faults``) say what is wrong; they are silent on most answers, fine or dull.
Quality ranks those, by two things that a person minds:

1. what cleaning would do to a wish (``dataset.clean``): a tail bolted on, a slot left open, a wish that
   nobody sends to this person. What it leaves alone has at least 2/3, what it would mend at least 1/3;
2. within each third, ``likelihood``: how well the answer follows its request in the eyes of the embedded
   base model, which no training of the course has touched:

    exp(mean over the answer's tokens of log p(token | request, what came before))

   the geometric mean of the probabilities: 0.10 says that each token could be guessed one time in ten. The
   line break that ends an answer counts as a token. It is a mean, so that a long wish is not worse for being
   long. It sees broken sentences, and answers to another request (their words are less likely behind this
   one). For answers that are no wishes, it is all there is.

Both are blind to whether a wish is true, fresh or tactful: what everybody says is likely, so look at
diversity beside. A model's own words are likelier than a person's: compare models with models, for the same
requests, and not with the texts they learned from; different styles and tasks have different levels.
``tests/benchmarks/bench_agreement.py`` measures how far the score agrees with people.

Source: Yuan et al. 2021, "BARTScore: Evaluating Generated Text as Text Generation".
"""

from collections.abc import Callable, Sequence

from tianji_helpers import wishes
from tianji_helpers.dataset import clean
from tianji_helpers.training import inference, models

_MAX_TOKENS = 512  # of request and answer; the rest of the answer is not read
_PROMPT = "问：{}\n答："


def score(model, tokenizer, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16) -> list[float]:
    """Return the quality of each wish, between 0 and 1; an empty one has 0.

    Parameters as ``likelihood`` takes them.
    """
    matrix = wishes.load()
    return [
        (_standing(matrix, request, answer) + likely) / 3 if answer.strip() else 0.0
        for (request, answer), likely in zip(
            pairs, likelihood(model, tokenizer, pairs, batch_size=batch_size), strict=True
        )
    ]


def _standing(matrix: wishes.Matrix, request: str, answer: str) -> int:
    """Return what cleaning says of a wish: 2 (leaves it alone), 1 (would mend it) or 0 (would reject it).

    A wish that is absurd for this person is rejected; what is only unsuitable is not.
    """
    asked, off = matrix.read(request), clean.SUITABILITY["absurd"]
    text, _ = clean.mend(answer, asked, off)
    if clean.reject(text, asked, off):
        return 0
    return 2 if text == answer.strip() else 1


def likelihood(model, tokenizer, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16) -> list[float]:
    """Return how likely each answer is behind its request, between 0 and 1; an empty answer has 0.

    model, tokenizer: a base model that no training touched, as ``inference.load`` returns it.
    pairs: (request, answer). batch_size: pairs computed at a time.
    """
    import torch

    encoded = [_encode(tokenizer, *pair) for pair in pairs]
    scores = [0.0] * len(pairs)
    # neighbours of similar length need little padding
    order = [i for i in sorted(range(len(pairs)), key=lambda i: len(encoded[i][0])) if pairs[i][1].strip()]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        longest = max(len(encoded[index][0]) for index in chosen)
        tokens = torch.full((len(chosen), longest), tokenizer.pad_token_id)
        answered = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, index in enumerate(chosen):
            ids, prompt_length = encoded[index]
            tokens[row, : len(ids)] = torch.tensor(ids)
            answered[row, prompt_length : len(ids)] = True
        tokens, answered = tokens.to(model.device), answered[:, 1:].to(model.device)
        with torch.inference_mode():
            # the padding is on the right: what comes before never sees it
            logits = model(input_ids=tokens).logits[:, :-1]
            surprise = torch.zeros(answered.shape, device=model.device)
            surprise[answered] = torch.nn.functional.cross_entropy(
                logits[answered].float(), tokens[:, 1:][answered], reduction="none"
            )
            likely = torch.exp(-surprise.sum(1) / answered.sum(1))
        for index, one in zip(chosen, likely.tolist(), strict=True):
            scores[index] = one
    return scores


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
    """Return the embedded model's ``score`` of (request, answer) pairs, or ``likelihood`` for other tasks.

    device: ``cpu`` or ``cuda``. report: called with one line (str) a step if the model must be prepared.
    """
    model, tokenizer = inference.load(models.prepare(models.EMBEDDED, report=report), device=device)
    return (score if are_wishes else likelihood)(model, tokenizer, pairs)
