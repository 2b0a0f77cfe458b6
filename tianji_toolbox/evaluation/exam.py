"""Examine a training, before and after: one table, one figure, and JSON for machines.

The base model and the adapter are loaded once and asked the same things with the adapter off and on:
the task's test rows, and a fixed set of everyday questions that no task trains on. What is measured,
and how sure one can be of it, is said in ``training.figures``; here it is put side by side.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tianji_helpers import paths, plots, records, wishes
from tianji_helpers.dataset import self_cognition
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import Settings
from tianji_helpers.training import evaluation, figures, inference, models, tasks
from tianji_toolbox.evaluation import judge as judges

FILE = "evaluation.json"
_MAX_TOKENS = 80  # of an answer; half as many of one to an everyday question
_WISH = re.compile("祝|愿[你您]")


def examine(
    output_dir: str | Path = "",
    task: str = "wishes",
    *,
    rows: int = 0,
    device: str = "cpu",
    judge: Settings | None = None,
    seed: int = 42,
) -> dict:
    """Examine the training of a run's task, and write ``evaluation.json`` and ``evaluation.png`` beside it.

    rows: of the test file, each request once, evenly spread; 0 is all. judge: whom to ask for an opinion
    (costs money). seed: of the intervals. Returns what is in the file: ``before`` and ``after``, each figure
    as ``{"value", "low", "high"}`` (bounds are None where there is no interval), ``change`` (paired),
    ``answers``, of wishes ``styles`` (of each the share without a hard fault), and perhaps ``judge``.
    Raises CourseError if the task was not trained, or its rows are missing.
    """
    folder = paths.stage_dir("05", output_dir, make=False) / task
    adapter = folder / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        raise CourseError(f"没有找到任务 {task} 的适配器 {paths.told(adapter)}。请先运行第 5 课。")
    if not (made := models.recorded(adapter)):
        raise CourseError(f"{paths.told(adapter)} 旁边没有出处文件，不知道它的基座模型。请重新运行第 5 课。")
    base = models.find(made["base_model"])
    turns = evaluation.pick(evaluation.read_turns(tasks.test_file(task, output_dir)), rows)
    general = [{"system": "", **turn} for turn in self_cognition.load_general()[1]]
    trained = {turn["output"].strip() for turn in evaluation.read_turns(tasks.train_file(task, output_dir))}

    print(f"加载 {base.name} 和适配器，问 {len(turns)} 条没训练过的和 {len(general)} 条通用问题，各两遍……")
    model, tokenizer = inference.load(models.locate(base.name), {task: adapter}, device=device)
    raw = {}
    for when, name in (("before", ""), ("after", task)):
        inference.switch(model, name)
        raw[when] = [
            evaluation.losses_and_answers(model, tokenizer, some, base.template, limit)
            for some, limit in ((turns, _MAX_TOKENS), (general, _MAX_TOKENS // 2))
        ]
    del model

    result = {"task": task, "base_model": base.name, "rows": len(turns), "general_rows": len(general)}
    names_itself = _persona(task, output_dir)
    kind, requests = tasks.kind(task, output_dir), [turn["input"] for turn in turns]
    rows = {
        when: evaluation.grade(requests, answers, kind, device=device)
        for when, [(_, answers), _] in raw.items()
    }
    found = {when: _figures(kind, asked, rows[when], trained, names_itself) for when, asked in raw.items()}
    rng = np.random.default_rng(seed)
    for when in raw:
        result[when] = {name: figures.interval(values, rng) for name, values in found[when].items()}
    result["change"] = {
        name: figures.interval((found["after"][name], found["before"][name]), rng) for name in found["after"]
    }
    if kind == "wishes":
        result["styles"] = _by_style(requests, [found[when]["faultless"] for when in raw], rng)
    both = zip(rows["before"], rows["after"], strict=True)
    result["answers"] = [
        {"request": old["request"], "before": old["answer"], "after": new["answer"]}
        | {"faults": new["faults"], "quality": new["quality"]}
        for old, new in both
    ]
    if judge:
        before, after = ([row["answer"] for row in graded] for graded in rows.values())
        result["judge"] = judges.compare(requests, before, after, judge, output_dir, seed)
    records.write_json(folder / FILE, result)
    draw(result).savefig((folder / FILE).with_suffix(".png"))
    return result


def _by_style(requests: list[str], faultless: list[np.ndarray], rng: np.random.Generator) -> dict:
    """Return of each style the share of ``faultless`` answers, before and after, with the change."""
    styles, before, after = np.array([wishes.load().read(request).style for request in requests]), *faultless
    return {
        style: {
            "rows": int((mine := styles == style).sum()),
            "before": figures.interval(before[mine], rng),
            "after": figures.interval(after[mine], rng),
            "change": figures.interval((after[mine], before[mine]), rng),
        }
        for style in dict.fromkeys(styles.tolist())
        if style in wishes.load().styles
    }


def _persona(task: str, output_dir: str | Path) -> Callable[[str], bool] | None:
    """Return a test whether a text names the persona that a self-cognition training taught."""
    if task != "self_cognition":
        return None
    made = models.recorded(tasks.train_file(task, output_dir))
    persona = self_cognition.Persona(*(made[field] for field in ("owner", "assistant", "model")))
    return lambda text: self_cognition.knows_itself(persona, [text]) == 1


def _figures(kind: str, asked: list, rows: list[dict], trained: set[str], names_itself) -> dict:
    """Return every figure, as ``figures.of`` returns them. asked: ``losses_and_answers`` of both sets."""
    (losses, answers), (general_losses, general) = asked
    found: dict = {"loss": np.array(losses, dtype=float)} | figures.of(rows)
    if names_itself:
        found["knows_itself"] = figures.shares(names_itself(answer.text) for answer in answers)
    if names_itself or kind == "wishes":
        found["leak"] = figures.shares((names_itself or _WISH.search)(answer.text) for answer in general)
    return found | {
        "general_loss": np.array(general_losses, dtype=float),
        "copied": figures.shares(answer.text.strip() in trained for answer in answers),
    }


def table(result: dict) -> str:
    """Return an examination as text: a figure a line, before, after, and whether it became better."""
    lines = [f"任务 {result['task']}，模型 {result['base_model']}，{result['rows']} 条没训练过的题"]
    for name in filter(figures.met(result["before"], result["after"]).__contains__, result["after"]):
        old, new, change = (result[part][name] for part in ("before", "after", "change"))
        shown = f"{figures.show(name, old):>22} → {figures.show(name, new):<22}"
        lines.append(f"{figures.TITLES[name]:　<8}{shown}{_tendency(name, change)}")
    for style, found in result.get("styles", {}).items():
        old, new = (figures.show("faultless", found[when]) for when in ("before", "after"))
        tendency = _tendency("faultless", found["change"])
        lines.append(f"没有硬伤，{style}风格（{found['rows']} 条）：{old} → {new}  {tendency}")
    lines.append("方括号里是 95% 区间；多样性没有区间。· 是每种硬伤占多少回答。")
    lines.append(
        "质量（0 到 1）是没有硬伤的回答的平均分：编辑会原样留下的在 2/3 以上，要改的在 1/3 以上，其余不要；"
        f"同一档里比 {models.EMBEDDED} 觉得它有多顺。拿来比大小，不是好坏的百分比。"
    )
    if judged := result.get("judge"):
        lines.append(
            f"评委 {judged['judge']}（盲评，交换先后各问一次）：训练后更好 {judged['better']}，"
            f"更差 {judged['worse']}，不分高下 {judged['tie']}，没评成 {judged['unjudged']}"
        )
    return "\n".join(lines)


def _tendency(name: str, change: dict) -> str:
    """Say whether a change (of a pair, see ``interval``) is for the better; "" where nobody can."""
    low, high = change["low"], change["high"]
    if low is None:
        return ""
    if low <= 0 <= high:
        return "看不出差别"
    return "变好" if (high < 0) == (name in figures.LOWER_IS_BETTER) else "变差"


def draw(result: dict):
    """Return a matplotlib figure: shares before and after with their intervals, and the losses."""
    import matplotlib.pyplot as plt

    plots.setup()
    met = figures.met(result["before"], result["after"])
    shares = [name for name in result["after"] if name in met - figures.NOT_SHARES | {"quality"}]
    losses = [name for name in ("loss", "general_loss") if name in result["after"]]
    height = 1.5 + 0.38 * len(shares)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, height), width_ratios=(3, 1.4))
    for axis, names, scale in ((left, shares, 100), (right, losses, 1)):
        for shift, (when, label) in enumerate((("before", "训练前"), ("after", "训练后"))):
            places = [index + 0.16 - 0.32 * shift for index in range(len(names))]
            values, lows, highs = (
                np.array([result[when][name][key] for name in names], dtype=float) * scale  # None is nan
                for key in ("value", "low", "high")
            )
            bounds = np.maximum(np.nan_to_num([values - lows, highs - values]), 0)
            axis.errorbar(values, places, xerr=bounds, fmt="o", capsize=3, label=label)
        axis.set_yticks(range(len(names)), [figures.TITLES[name] for name in names])
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(axis="x", alpha=0.3)
    left.set(xlim=(-3, 103), xlabel="%（质量是 100 × 平均分）")
    right.set(xlabel="每个词元的损失", xlim=(0, None))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
