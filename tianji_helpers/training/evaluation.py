"""Measure a model before and after training: the loss on a test, hard faults and quality of its answers.

All look at rows that training never saw. The loss says how surprised the model is by the expected
answers; the rest is about what it answers itself: see ``training.figures``.
"""

import gc
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tianji_helpers import details, faults, formats, records, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.training import figures, inference, quality
from tianji_helpers.training.inference import Completion

# The hard faults of any answer; the others would forbid a list or an apology where one was asked for.
ANY_ANSWER = (faults.UNSTOPPED, "empty", "language", "loop", "unfinished")


def read_turns(path: str | Path) -> list[dict]:
    """Return the rows of a training or test file as turns: ``system``, ``input``, ``output``.

    See ``formats.read_turns`` for what the file may be, and the ``history`` of a row of several turns.
    """
    return [{"system": "", **turn} for turn in formats.read_turns(path)]


def pick(turns: Sequence[dict], rows: int = 0) -> list[dict]:
    """Return the turns to examine a model on: each request once, at most ``rows`` (0: all), evenly spread.

    A teacher may have answered a request twice; asked twice, a model only says the same again. The first of
    the teacher's answers is the expected one.
    """
    asked: dict[str, dict] = {}
    for turn in turns:
        asked.setdefault(repr(chat(turn)), turn)
    return evenly(list(asked.values()), rows or len(asked))


def evenly(items: Sequence, count: int) -> list:
    """Return ``count`` of the items, evenly spread; all where there are fewer."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def encode(tokenizer, turn: dict, prompt_template: str, max_length: int = 2048) -> dict:
    """Return ``input_ids`` and ``labels`` of one turn, made by the very functions that train on it.

    prompt_template: XTuner's name of the chat template. Labels are -100 on the prompt; the answers of
    the turn's ``history`` are answers, too.
    """
    from xtuner.dataset.map_fns import template_map_fn_factory
    from xtuner.dataset.utils import encode_fn
    from xtuner.utils import PROMPT_TEMPLATE

    row = {"conversation": records.conversation(turn)}
    return encode_fn(template_map_fn_factory(PROMPT_TEMPLATE[prompt_template])(row), tokenizer, max_length)


def chat(turn: dict) -> list[dict]:
    """Return the chat that asks for the answer of a turn, in its place."""
    return inference.messages(turn["input"], turn.get("system", ""), turn.get("history", ()))


def mean_loss(model, tokenizer, turns: Sequence[dict], prompt_template: str, **limits) -> float:
    """Return the mean negative log-likelihood of an answer token, in nats, over all turns.

    limits: ``batch_size`` and ``max_length``, as ``answer_losses`` takes them. Raises CourseError as it does.
    """
    return _mean(answer_losses(model, tokenizer, turns, prompt_template, **limits))


def _mean(losses: Sequence[tuple[float, int]]) -> float:
    return sum(total for total, _ in losses) / sum(count for _, count in losses)


def answer_losses(
    model,
    tokenizer,
    turns: Sequence[dict],
    prompt_template: str,
    *,
    batch_size: int = 8,
    max_length: int = 512,
) -> list[tuple[float, int]]:
    """Return, for each turn, the negative log-likelihood of its answer in nats, and its answer tokens.

    batch_size: turns computed at a time. max_length: tokens; the rest of a turn is cut off. A turn without
    an answer token within it has (0.0, 0). Raises CourseError if all have, or if there is no turn.
    """
    examples = [encode(tokenizer, turn, prompt_template, max_length) for turn in turns]
    losses = inference.answer_nll(model, examples, batch_size=batch_size)
    if not any(count for _, count in losses):
        raise CourseError(
            f"没有可以计算损失的测试数据（{len(turns)} 条里没有一个答案词元）。请检查测试文件。"
        )
    return losses


def losses_and_answers(
    model, tokenizer, turns: Sequence[dict], prompt_template: str, max_new_tokens: int
) -> tuple[list[tuple[float, int]], list[Completion]]:
    """Return what ``answer_losses`` gives for some turns, and what the model answers to them itself."""
    chats = [chat(turn) for turn in turns]
    answers = inference.answer_all(model, tokenizer, chats, max_new_tokens=max_new_tokens, batch_size=16)
    return answer_losses(model, tokenizer, turns, prompt_template), answers


def grade(
    requests: Sequence[str],
    answers: Sequence[Completion],
    kind: str = "wishes",
    *,
    matrix: wishes.Matrix | None = None,
    device: str = "cpu",
) -> list[dict]:
    """Look at each answer: hard faults, quality, details.

    requests: in any wording; answers: in the same order. kind: ``tasks.kind`` of the task; where it is
    not ``wishes``, only the faults of any answer count (``ANY_ANSWER``). device: as ``quality.rate``
    takes it. Returns rows of ``request``, ``answer``, ``stopped``, ``faults`` (name →
    reason in Chinese; empty if there is none), ``quality`` (0 to 1) and ``details`` (whether the answer takes
    up what the request tells; None if it tells nothing).
    """
    matrix = matrix or wishes.load()
    scores = quality.rate(
        [(request, answer.text) for request, answer in zip(requests, answers, strict=True)],
        kind=kind,
        device=device,
    )
    rows = []
    for request, answer, score in zip(requests, answers, scores, strict=True):
        asked = matrix.read(request)
        found = faults.find(asked, answer.text, answer.stopped)
        if kind != "wishes":
            found = {name: reason for name, reason in found.items() if name in ANY_ANSWER}
        rows.append(
            {
                "request": request,
                "answer": answer.text,
                "stopped": answer.stopped,
                "faults": found,
                "quality": score,
                "details": details.kept(asked, answer.text),
            }
        )
    return rows


def measure(
    model_dir: str | Path,
    adapter_dir: str | Path | None,
    turns: Sequence[dict],
    prompt_template: str,
    *,
    kind: str = "wishes",
    device: str = "cpu",
    max_new_tokens: int = 80,
    seed: int = 42,
) -> dict:
    """Load a model, measure it on test turns, and free its memory again.

    kind: as ``grade`` takes it. seed: of the intervals. Returns ``loss`` (nats a token), ``perplexity``,
    ``figures`` (name → ``value``, ``low``, ``high``; see ``figures.of``), and ``rows`` as ``grade`` returns
    them.
    """
    model, tokenizer = inference.load(model_dir, adapter_dir, device=device)
    losses, answers = losses_and_answers(model, tokenizer, turns, prompt_template, max_new_tokens)
    del model
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
    loss, rows = _mean(losses), grade([turn["input"] for turn in turns], answers, kind, device=device)
    rng = np.random.default_rng(seed)
    found = {name: figures.interval(values, rng) for name, values in figures.of(rows).items()}
    return {"loss": loss, "perplexity": math.exp(loss), "figures": found, "rows": rows}
