"""Examine a training, before and after: one table, one figure, and JSON for machines.

The base model and the adapter are loaded once and asked the same things with the adapter off and on:
the task's test rows, and a fixed set of everyday questions that no task trains on. Rules, losses and
diversity are measured in the training wing; here they get intervals and are put side by side.

An interval is the percentile bootstrap over rows (95 %): how far the figure would move with other rows
of the same kind. It says nothing about other seeds. Diversity has none: drawing rows again repeats
some, and a set with repetitions looks less diverse than it is.
"""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tianji_helpers import paths, plots, records
from tianji_helpers.classroom import judge as judges
from tianji_helpers.dataset import self_cognition
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import Settings
from tianji_helpers.training import diversity, evaluation, inference, models, stages

FILE = "evaluation.json"
TITLES = {
    "loss": "测试损失",
    "passed": "过关",
    "on_topic": "切题",
    "style": "风格",
    "length": "长度",
    "honorific": "称呼",
    "clean": "干净",
    "stopped": "会停",
    "knows_itself": "认得自己",
    "leak": "串味",
    "general_loss": "通用问答损失",
    "distinct_1": "不重复的字",
    "distinct_2": "不重复的二元组",
    "self_bleu": "self-BLEU",
    "copied": "照抄训练数据",
}
LOWER_IS_BETTER = {"loss", "general_loss", "leak", "self_bleu", "copied"}
_NOT_SHARES = {"loss", "general_loss", "self_bleu"}
_WISH = re.compile("祝|愿[你您]")
_RESAMPLES = 2000


def examine(
    output_dir: str | Path = "",
    task: str = "wishes",
    *,
    rows: int = 0,
    device: str = "cpu",
    max_new_tokens: int = 80,
    judge: Settings | None = None,
    seed: int = 42,
    report: Callable[[str], None] = print,
) -> dict:
    """Examine the training of a run's task, and write ``evaluation.json`` and ``evaluation.png`` beside it.

    rows: of the test file, evenly spread; 0 is all. judge: whom to ask for an opinion (costs money).
    seed: of the intervals. Returns what is in the file: ``before`` and ``after``, each figure as
    ``{"value", "low", "high"}`` (bounds are None where there is no interval), ``change`` (paired),
    ``answers`` and perhaps ``judge``.
    Raises CourseError if the task was not trained, or its rows are missing.
    """
    folder = stages.task_dir(task, output_dir)
    adapter = folder / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        raise CourseError(f"没有找到任务 {task} 的适配器 {paths.show(adapter)}。请先运行第 5 课。")
    if not (made := models.recorded(adapter)):
        raise CourseError(f"{paths.show(adapter)} 旁边没有出处文件，不知道它的底座模型。请重新运行第 5 课。")
    base = models.find(made["base_model"])
    turns = evaluation.read_turns(stages.test_file(task, output_dir))
    count = min(rows, len(turns)) if rows else len(turns)
    turns = [turns[index * len(turns) // count] for index in range(count)]
    general = [{"system": "", **turn} for turn in self_cognition.load_general()[1]]
    trained = {turn["output"].strip() for turn in evaluation.read_turns(stages.train_file(task, output_dir))}

    report(f"加载 {base.name} 和适配器，问 {len(turns)} 条没训练过的和 {len(general)} 条通用问题，各两遍……")
    model, tokenizer = inference.load(models.locate(base.name), {task: adapter}, device=device)
    raw = {}
    for when, name in (("before", ""), ("after", task)):
        inference.switch(model, name)
        raw[when] = _ask(model, tokenizer, turns, general, base.template, max_new_tokens)
    del model

    result = {"task": task, "base_model": base.name, "rows": len(turns), "general_rows": len(general)}
    names_itself = _persona(task, output_dir)
    found = {when: _figures(task, turns, asked, trained, names_itself) for when, asked in raw.items()}
    rng = np.random.default_rng(seed)
    for when in raw:
        result[when] = {name: _with_interval(values, rng) for name, values in found[when].items()}
    result["change"] = {
        name: _with_interval((found["after"][name], found["before"][name]), rng) for name in found["after"]
    }
    before, after = (raw[when]["answers"] for when in ("before", "after"))
    result["answers"] = [
        {"request": turn["input"], "before": old.text, "after": new.text}
        for turn, old, new in zip(turns, before, after, strict=True)
    ]
    if judge:
        requests = [turn["input"] for turn in turns]
        result["judge"] = judges.compare(
            requests, [old.text for old in before], [new.text for new in after], judge, output_dir, seed
        )
    records.write_json(folder / FILE, result)
    draw(result).savefig((folder / FILE).with_suffix(".png"))
    return result


def _ask(model, tokenizer, turns, general, template: str, max_new_tokens: int) -> dict:
    """Return the losses and answers of both sets of questions."""

    def answers(asked: Sequence[dict], limit: int) -> list[inference.Answer]:
        chats = [inference.messages(turn["input"], turn["system"]) for turn in asked]
        return inference.answer_all(model, tokenizer, chats, max_new_tokens=limit, batch_size=16)

    return {
        "losses": evaluation.answer_losses(model, tokenizer, turns, template),
        "answers": answers(turns, max_new_tokens),
        "general_losses": evaluation.answer_losses(model, tokenizer, general, template),
        "general_answers": answers(general, min(max_new_tokens, 40)),
    }


def _persona(task: str, output_dir: str | Path) -> Callable[[str], bool] | None:
    """Return a test whether a text names the persona that a self-cognition training taught."""
    if task != "self_cognition":
        return None
    made = models.recorded(stages.train_file(task, output_dir))
    persona = self_cognition.Persona(*(made[field] for field in ("owner", "assistant", "model")))
    return lambda text: self_cognition.knows_itself(persona, [text]) == 1


def _figures(
    task: str,
    turns: Sequence[dict],
    asked: dict,
    trained: set[str],
    names_itself: Callable[[str], bool] | None,
) -> dict:
    """Return every figure: an array of (numerator, denominator) rows, or a number without an interval."""
    answers, general = asked["answers"], [answer.text for answer in asked["general_answers"]]
    texts = [answer.text for answer in answers]
    figures: dict = {"loss": np.array(asked["losses"], dtype=float)}
    if task == "wishes":
        scored = evaluation.score_wishes([turn["input"] for turn in turns], answers)["rows"]
        rules = [name for name in TITLES if name in scored[0]]
        figures |= {name: _shares(row[name] for row in scored) for name in rules}
    else:
        figures["stopped"] = _shares(answer.stopped for answer in answers)
    if names_itself:
        figures["knows_itself"] = _shares(map(names_itself, texts))
    if task != "ruozhiba":
        figures["leak"] = _shares(map(names_itself or _WISH.search, general))
    return figures | {
        "general_loss": np.array(asked["general_losses"], dtype=float),
        "distinct_1": diversity.distinct_n(texts, 1),
        "distinct_2": diversity.distinct_n(texts, 2),
        "self_bleu": diversity.self_bleu(texts),
        "copied": _shares(diversity.is_copied(text, trained) for text in texts),
    }


def _shares(values) -> np.ndarray:
    return np.array([(bool(value), 1) for value in values], dtype=float)


def _mean(rows: np.ndarray) -> np.ndarray:
    return rows[..., 0].sum(-1) / rows[..., 1].sum(-1)


def _with_interval(values, rng: np.random.Generator) -> dict:
    """Return a figure with its 95 % interval; a pair of figures gives their difference."""
    pair = values if isinstance(values, tuple) else (values,)
    if not isinstance(pair[0], np.ndarray):
        return {"value": pair[0] - (pair[1] if len(pair) > 1 else 0), "low": None, "high": None}

    def difference(samples: Sequence[np.ndarray]) -> np.ndarray:
        means = [_mean(sample) for sample in samples]
        return means[0] - means[1] if len(means) > 1 else means[0]

    drawn = rng.integers(len(pair[0]), size=(_RESAMPLES, len(pair[0])))  # the same rows of both
    with np.errstate(invalid="ignore"):  # a draw of rows without a single answer token
        spread = difference([rows[drawn] for rows in pair])
    low, high = np.nanpercentile(spread, (2.5, 97.5))
    return {"value": float(difference(pair)), "low": float(low), "high": float(high)}


def table(result: dict) -> str:
    """Return an examination as text: a figure a line, before, after, and whether it became better."""
    lines = [f"任务 {result['task']}，模型 {result['base_model']}，{result['rows']} 条没训练过的题"]
    for name in result["after"]:
        old, new, change = (result[part][name] for part in ("before", "after", "change"))
        lines.append(
            f"{TITLES[name]:　<8}{_show(name, old):>22} → {_show(name, new):<22}{_tendency(name, change)}"
        )
    lines.append("方括号里是 95% 区间（对题目做自助抽样）；多样性没有区间。")
    if judged := result.get("judge"):
        lines.append(
            f"评委 {judged['judge']}（盲评，交换先后各问一次）：训练后更好 {judged['better']}，"
            f"更差 {judged['worse']}，不分高下 {judged['tie']}，没评成 {judged['unjudged']}"
        )
    return "\n".join(lines)


def _show(name: str, figure: dict) -> str:
    numbers = [figure[key] for key in ("value", "low", "high") if figure[key] is not None]
    digits = [f"{value:.2f}" if name in _NOT_SHARES else f"{value:.0%}" for value in numbers]
    return digits[0] + (f" [{digits[1]}, {digits[2]}]" if len(digits) > 1 else "")


def _tendency(name: str, change: dict) -> str:
    low, high = change["low"], change["high"]
    if low is None:
        return ""
    if low <= 0 <= high:
        return "看不出差别"
    return "变好" if (high < 0) == (name in LOWER_IS_BETTER) else "变差"


def draw(result: dict):
    """Return a matplotlib figure: shares before and after with their intervals, and the losses."""
    import matplotlib.pyplot as plt

    plots.setup()
    shares = [name for name in result["after"] if name not in _NOT_SHARES]
    losses = [name for name in ("loss", "general_loss") if name in result["after"]]
    height = 1.5 + 0.38 * len(shares)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, height), width_ratios=(3, 1.4))
    for axis, names, scale in ((left, shares, 100), (right, losses, 1)):
        for shift, (when, label) in enumerate((("before", "训练前"), ("after", "训练后"))):
            figures = [result[when][name] for name in names]
            values = [scale * one["value"] for one in figures]
            places = [index + 0.16 - 0.32 * shift for index in range(len(names))]
            bounds = [
                [scale * (one["value"] - _or(one["low"], one["value"])) for one in figures],
                [scale * (_or(one["high"], one["value"]) - one["value"]) for one in figures],
            ]
            axis.errorbar(values, places, xerr=np.maximum(bounds, 0), fmt="o", capsize=3, label=label)
        axis.set_yticks(range(len(names)), [TITLES[name] for name in names])
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(axis="x", alpha=0.3)
    left.set(xlim=(-3, 103), xlabel="%")
    right.set(xlabel="每个词元的损失", xlim=(0, None))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _or(value: float | None, other: float) -> float:
    return other if value is None or math.isnan(value) else value
