"""Quality: a score that ranks answers. First what an editor would do with it, then how likely it reads.

Hard faults (``tianji_helpers.faults``) say what is wrong; they are silent on most answers, fine or dull.
Quality ranks those, between 0 and 1, in three bands: above 2/3 what cleaning would leave as it is, above
1/3 what it would mend, below that what it would reject (``dataset.clean.edit``). Inside a band a language
model decides: the embedded base model, which no training of the course has touched, reads how well an
answer follows its request:

    likelihood = exp(mean over the answer's tokens of log p(token | request, what came before))

the geometric mean of the probabilities, between 0 and 1: 0.10 says that each token could be guessed one time
in ten. The line break that ends an answer counts as a token. It is a mean, so that a long wish is not worse
for being long. It sees broken sentences, words that do not belong, and answers to another request (their
words are less likely behind this one).

Why both: on grades that people gave, likelihood alone has a rank correlation of 0.10 on published wishes,
where most of what is wrong is a word to mend, and 0.41 on a small model's answers; in bands it has 0.55 and
0.59 (``tests/benchmarks/bench_agreement.py``). A chat model of 1.5B asked for a grade, in four wordings, did
no better inside the bands. Neither part sees whether a wish is true, fresh or tactful: what everybody says is
likely, so look at diversity beside. A model's own words are likelier than a person's: compare models with
models, for the same requests, and not with the texts they learned from.

Source of the likelihood: Yuan et al. 2021, "BARTScore: Evaluating Generated Text as Text Generation".
"""

import math
from collections.abc import Sequence

from tianji_helpers import wishes
from tianji_helpers.dataset import clean
from tianji_helpers.training import inference, models

_MAX_TOKENS = 512  # of request and answer; the rest of the answer is not read
_PROMPT = "问：{}\n答："
BANDS = {"reject": 0, "mend": 1, "keep": 2}  # what an editor does with a wish → thirds below its score


def likelihood(model, tokenizer, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16) -> list[float]:
    """Return the likelihood of each answer, between 0 and 1; an empty answer has 0.

    model, tokenizer: a base model that no training touched, as ``inference.load`` returns it.
    pairs: (request, answer). batch_size: pairs computed at a time.
    """
    rows = [_encode(tokenizer, *pair) for pair in pairs]
    found = zip(pairs, inference.answer_nll(model, rows, batch_size=batch_size), strict=True)
    return [math.exp(-total / count) if answer.strip() else 0.0 for (_, answer), (total, count) in found]


def _encode(tokenizer, request: str, answer: str) -> dict[str, list[int]]:
    """Return a row of ``inference.answer_nll``."""
    prompt = _PROMPT.format(" ".join(request.split()))
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    asked = start + tokenizer(prompt, add_special_tokens=False)["input_ids"]
    said = tokenizer(" ".join(answer.split()) + "\n", add_special_tokens=False)["input_ids"]
    asked = asked[-_MAX_TOKENS // 2 :]
    said = said[: _MAX_TOKENS - len(asked)]
    return {"input_ids": asked + said, "labels": [-100] * len(asked) + said}


def rate(
    pairs: Sequence[tuple[str, str]],
    *,
    kind: str = "wishes",
    device: str = "cpu",
) -> list[float]:
    """Return the quality of (request, answer) pairs, with the likelihoods of the embedded model.

    kind: what is not ``wishes`` has no editor, and the likelihood is all. device: ``cpu`` or ``cuda``.
    """
    model, tokenizer = inference.load(models.prepare(), device=device)
    likely = likelihood(model, tokenizer, pairs)
    if kind != "wishes":
        return likely
    matrix, off = wishes.load(), clean.SUITABILITY["absurd"]
    edited = (clean.edit(answer, matrix.read(request), off)[0] for request, answer in pairs)
    return [(BANDS[verdict] + one) / 3 for verdict, one in zip(edited, likely, strict=True)]
