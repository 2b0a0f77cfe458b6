"""The figures of a model's answers, each with its interval: hard faults, quality, diversity.

Three things are told apart. *Hard faults* (``tianji_helpers.faults``) are what no good answer has: the
share of answers without one, and the share that has each. *Quality* (``training.quality``) ranks answers,
and is the mean over those without a hard fault, so that neither figure hides the other. *Diversity*
(``training.diversity``) says how different the answers are from each other. Where requests tell something
of the person, *details* is the share of their answers that take it up (``tianji_helpers.details``).

An interval (95 %) says how far the figure would move with other rows of the same kind: for a share, Wilson's,
which knows that none of 32 is not none ever; for a mean or a difference, the percentile bootstrap over rows.
It says nothing about other seeds. Diversity has none: drawing rows again repeats
some, and a set with repetitions looks less diverse than it is.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.stats import binomtest

from tianji_helpers import faults
from tianji_helpers.training import diversity

FAULT = "fault_"  # before a fault's name
TITLES = {
    "loss": "测试损失",
    "faultless": "没有硬伤",
    "quality": "质量",
    "details": "写进了说的事",
    "knows_itself": "认得自己",
    "leak": "串味",
    "general_loss": "通用问答损失",
    "distinct_1": "不重复的字",
    "distinct_2": "不重复的二元组",
    "self_bleu": "self-BLEU",
    "copied": "照抄训练数据",
} | {FAULT + name: f"· {title}" for name, title in faults.TITLES.items()}
LOWER_IS_BETTER = {"loss", "general_loss", "leak", "self_bleu", "copied"} | {
    name for name in TITLES if name.startswith(FAULT)
}
NOT_SHARES = {"loss", "general_loss", "self_bleu", "quality"}
_RESAMPLES = 2000


def of(rows: Sequence[dict]) -> dict:
    """Return the figures of answers: an array of (numerator, denominator) rows, or a plain number.

    rows: each with ``answer``, ``faults`` (name → reason) and ``quality``, as ``evaluation.grade``
    returns them.
    """
    texts = [row["answer"] for row in rows]
    quality = [(row["quality"], 1) if not row["faults"] else (0, 0) for row in rows]
    told = [(bool(row["details"]), row["details"] is not None) for row in rows if "details" in row]
    return {
        "faultless": shares(not row["faults"] for row in rows),
        **{FAULT + name: shares(name in row["faults"] for row in rows) for name in faults.TITLES},
        "quality": np.array(quality, dtype=float),
        **({"details": np.array(told, dtype=float)} if any(one for _, one in told) else {}),
        "distinct_1": diversity.distinct_n(texts, 1),
        "distinct_2": diversity.distinct_n(texts, 2),
        "self_bleu": diversity.self_bleu(texts),
    }


def shares(values: Iterable) -> np.ndarray:
    """Return true and false as (numerator, denominator) rows."""
    return np.array([(bool(value), 1) for value in values], dtype=float)


def interval(values, rng: np.random.Generator) -> dict:
    """Return a figure with its 95 % interval; a pair of figures gives their difference.

    values: what ``of`` returns for a name, or a pair of them over the same rows. Returns ``value``,
    ``low`` and ``high``: floats, or None where there is nothing to measure (no answer without a fault) or
    no interval.

    >>> interval(shares([True, True, False, True]), np.random.default_rng(0))
    {'value': 0.75, 'low': 0.301, 'high': 0.954}
    """
    pair = values if isinstance(values, tuple) else (values,)
    if not isinstance(pair[0], np.ndarray):
        return {"value": pair[0] - (pair[1] if len(pair) > 1 else 0), "low": None, "high": None}

    def difference(samples: Sequence[np.ndarray]) -> np.ndarray:
        means = [sample[..., 0].sum(-1) / sample[..., 1].sum(-1) for sample in samples]
        return means[0] - means[1] if len(means) > 1 else means[0]

    if any(rows[:, 1].sum() == 0 for rows in pair):
        return {"value": None, "low": None, "high": None}
    hits, of_rows = pair[0].T
    if len(pair) == 1 and set(hits) | set(of_rows) <= {0, 1}:
        share = binomtest(int(hits.sum()), int(of_rows.sum()))
        low, high = share.proportion_ci(method="wilson")
        return {"value": float(share.statistic), "low": round(float(low), 3), "high": round(float(high), 3)}
    drawn = rng.integers(len(pair[0]), size=(_RESAMPLES, len(pair[0])))  # the same rows of both
    with np.errstate(invalid="ignore"):  # a draw of rows without a single answer token
        spread = difference([rows[drawn] for rows in pair])
    low, high = np.nanpercentile(spread, (2.5, 97.5))
    return {"value": float(difference(pair)), "low": float(low), "high": float(high)}


def show(name: str, figure: dict) -> str:
    """Return a figure as text.

    >>> show("faultless", {"value": 0.75, "low": 0.25, "high": 1.0})
    '75% [25%, 100%]'
    >>> show("quality", {"value": None, "low": None, "high": None})
    '—'
    """
    numbers = [figure[key] for key in ("value", "low", "high") if figure[key] is not None]
    if not numbers:
        return "—"
    digits = [f"{value:.2f}" if name in NOT_SHARES else f"{value:.0%}" for value in numbers]
    return digits[0] + (f" [{digits[1]}, {digits[2]}]" if len(digits) > 1 else "")


def compare(*measured: dict) -> dict[str, tuple[str, ...]]:
    """Return name → a text for each measurement, in the order of ``TITLES``.

    measured: ``figures`` of measurements. A fault that occurs in none of them is left out.

    >>> compare({}, {"fault_loop": {"value": 0.5, "low": 0.1, "high": 0.9}})
    {'fault_loop': ('—', '50% [10%, 90%]')}
    """
    none, names = {"value": None, "low": None, "high": None}, met(*measured)
    return {
        name: tuple(show(name, figures.get(name, none)) for figures in measured)
        for name in TITLES
        if name in names
    }


def met(*measured: dict) -> set[str]:
    """Return the names of figures, without the faults that occur in none of the measurements."""
    return {
        name
        for figures in measured
        for name, figure in figures.items()
        if figure["value"] or not name.startswith(FAULT)
    }
