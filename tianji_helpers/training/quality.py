"""Quality: a score that ranks answers, from the likelihood that a language model gives them.

Hard faults (``tianji_helpers.faults``) say what is wrong; they are silent on most answers, fine or dull.
Quality ranks those. It asks the embedded base model, which no training of the course has touched, how
well an answer follows its request:

    quality = exp(mean over the answer's tokens of log p(token | request, what came before))

the geometric mean of the probabilities, between 0 and 1: a quality of 0.10 says that each token could be
guessed one time in ten. The line break that ends an answer counts as a token. It is a mean, so that a
long wish is not worse for being long.

It sees broken sentences, words that do not belong, and answers to another request (their words are less
likely behind this one). It is blind to whether a wish is true, fresh or tactful: what everybody says is
likely, so look at diversity beside. A model's own words are likelier than a person's: compare models with
models, for the same requests, and not with the texts they learned from; different styles and tasks have
different levels. ``tests/benchmarks/bench_agreement.py`` measures how far it agrees with people.

Source: Yuan et al. 2021, "BARTScore: Evaluating Generated Text as Text Generation".
"""

from collections.abc import Callable, Sequence

from tianji_helpers.training import inference, models

_MAX_TOKENS = 512  # of request and answer; the rest of the answer is not read
_PROMPT = "问：{}\n答："


def score(model, tokenizer, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16) -> list[float]:
    """Return the quality of each answer, between 0 and 1; an empty answer has 0.

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
    pairs: Sequence[tuple[str, str]], *, device: str = "cpu", report: Callable[[str], None] = print
) -> list[float]:
    """Return what ``score`` says of (request, answer) pairs with the embedded model.

    device: ``cpu`` or ``cuda``. report: called with one line (str) a step if the model must be prepared.
    """
    model, tokenizer = inference.load(models.prepare(models.EMBEDDED, report=report), device=device)
    return score(model, tokenizer, pairs)
