"""Measure a model before and after training: the loss on a test, and a rule-based score of wishes.

Both look at rows that training never saw. The loss says how surprised the model is by the expected
answers; the score says whether its own answers are usable. The score reads no meaning: it checks
what rules can check (see ``tianji_helpers.wishes.check``), and can be fooled.
"""

import gc
import math
from collections.abc import Sequence
from pathlib import Path

from tianji_helpers import records, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.training import inference
from tianji_helpers.training.inference import Answer


def read_turns(path: str | Path) -> list[dict]:
    """Return the rows of a training or test file as turns with ``input``, ``output``, ``system``.

    Takes conversations (``.json``) and OpenAI messages (``.jsonl``).
    """
    if Path(path).suffix != ".jsonl":
        return [{"system": "", **turn} for turn in records.read_conversations(path)]
    turns = []
    for number, row in enumerate(records.read_jsonl(path), 1):
        where = f"{path} 第 {number} 条"
        said = {message["role"]: message["content"] for message in records.messages(row, where)}
        missing = [role for role in ("user", "assistant") if role not in said]
        if missing:
            raise CourseError(f"{where}：没有 role 是 {'、'.join(missing)} 的消息。")
        turns.append({"system": said.get("system", ""), "input": said["user"], "output": said["assistant"]})
    return turns


def encode(tokenizer, turn: dict, prompt_template: str, max_length: int = 2048) -> dict:
    """Return ``input_ids`` and ``labels`` of one turn, made by the very functions that train on it.

    prompt_template: XTuner's name of the chat template. Labels are -100 on the prompt.
    """
    from xtuner.dataset.map_fns import template_map_fn_factory
    from xtuner.dataset.utils import encode_fn
    from xtuner.utils import PROMPT_TEMPLATE

    # XTuner writes into what it is given
    example = template_map_fn_factory(PROMPT_TEMPLATE[prompt_template])({"conversation": [dict(turn)]})
    return encode_fn(example, tokenizer, max_length)


def mean_loss(model, tokenizer, turns: Sequence[dict], prompt_template: str, **limits) -> float:
    """Return the mean negative log-likelihood of an answer token, in nats, over all turns.

    limits: ``batch_size`` and ``max_length``, as ``answer_losses`` takes them. Raises CourseError as it does.
    """
    losses = answer_losses(model, tokenizer, turns, prompt_template, **limits)
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
    import torch
    from xtuner.dataset.collate_fns import default_collate_fn

    examples = [encode(tokenizer, turn, prompt_template, max_length) for turn in turns]
    # neighbours of similar length need little padding
    order = sorted(range(len(examples)), key=lambda index: len(examples[index]["input_ids"]))
    order = [index for index in order if any(label >= 0 for label in examples[index]["labels"])]
    if not order:
        raise CourseError(
            f"没有可以计算损失的测试数据（{len(turns)} 条里没有一个答案词元）。请检查测试文件。"
        )
    losses = [(0.0, 0)] * len(turns)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = default_collate_fn([examples[index] for index in chosen], return_hf_format=True)
        targets = batch.pop("labels")[:, 1:].to(model.device)
        with torch.inference_mode():
            logits = model(**{key: value.to(model.device) for key, value in batch.items()}).logits[:, :-1]
            answered = targets != -100
            surprise = torch.zeros(targets.shape, device=model.device)
            surprise[answered] = torch.nn.functional.cross_entropy(
                logits[answered].float(), targets[answered], reduction="none"
            )
        for row, index in enumerate(chosen):
            losses[index] = surprise[row].sum().item(), int(answered[row].sum())
    return losses


def score_wishes(
    requests: Sequence[str], answers: Sequence[Answer], matrix: wishes.Matrix | None = None
) -> dict:
    """Score answers to wish requests by rules.

    requests: such as ``祝姐姐生日,小红书风格``; answers: in the same order.
    Returns ``{"passed", "rules": {rule: share}, "rows": [...]}``; shares are between 0 and 1, and an
    answer has passed if it kept every rule, ``stopped`` (it ended by itself) among them.
    Raises CourseError for a request that names no recipient and scene of the course.
    """
    matrix = matrix or wishes.load()
    rows = []
    for request, answer in zip(requests, answers, strict=True):
        parsed = matrix.parse_request(request)
        if parsed is None:
            raise CourseError(f"看不懂请求“{request}”：里面没有课程里的对象和场景，没法打分。")
        kept = wishes.check(matrix, *parsed, answer.text) | {"stopped": answer.stopped}
        rows.append({"request": request, "answer": answer.text, "passed": all(kept.values()), **kept})
    rules = [key for key in (rows[0] if rows else {}) if key not in ("request", "answer", "passed")]
    return {
        "passed": _share(row["passed"] for row in rows),
        "rules": {rule: _share(row[rule] for row in rows) for rule in rules},
        "rows": rows,
    }


def _share(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def measure(
    model_dir: str | Path,
    adapter_dir: str | Path | None,
    turns: Sequence[dict],
    prompt_template: str,
    *,
    task: str = "wishes",
    device: str = "cpu",
    max_new_tokens: int = 80,
    trust_remote_code: bool = False,
) -> dict:
    """Load a model, measure it on test turns, and free its memory again.

    Returns ``loss`` (nats a token), ``perplexity``, and ``rows`` of ``request`` and ``answer``; for
    the task ``wishes`` also ``passed`` and ``rules`` (see ``score_wishes``).
    """
    model, tokenizer = inference.load(
        model_dir, adapter_dir, device=device, trust_remote_code=trust_remote_code
    )
    loss = mean_loss(model, tokenizer, turns, prompt_template)
    requests = [turn["input"] for turn in turns]
    chats = [inference.messages(turn["input"], turn.get("system", "")) for turn in turns]
    answers = inference.answer_all(model, tokenizer, chats, max_new_tokens=max_new_tokens, batch_size=16)
    del model
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
    measured = {"loss": loss, "perplexity": math.exp(loss)}
    if task == "wishes":
        return measured | score_wishes(requests, answers)
    rows = [
        {"request": request, "answer": answer.text, "stopped": answer.stopped}
        for request, answer in zip(requests, answers, strict=True)
    ]
    return measured | {"rows": rows}
