"""Fit the weights of the quality score: ``python tests/benchmarks/fit_quality.py [--check]``

Reads ``data/wishes/graded.jsonl`` (``input``, ``output``, ``grade`` 1 to 5, given by a large model that read
them; ``source``), and writes ``data/wishes/judge.json``. Prints Spearman's rank correlation of grades and
predictions in a cross-validation, for all and for each source; wishes that share their text are in one fold.
``--check`` only prints.
"""

import argparse
import json

import numpy as np
from scipy.stats import spearmanr

from tianji_helpers import paths, records
from tianji_helpers.training import inference, models, quality

RIDGE = 0.3  # weight of the penalty, chosen by cross-validation on these grades
PLAIN = 3.0  # how much less it holds back what cleaning says than the model's states
FOLDS = 6


def fit(features: np.ndarray, grades: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights and the bias of a ridge regression on features that are scaled alike."""
    states = features.shape[1] - 2
    middle, spread = features.mean(0), features.std(0) + 1e-6
    spread[:states] *= states**0.5  # together the states weigh as much as one feature
    spread[states:] /= PLAIN
    scaled = (features - middle) / spread
    inverse = np.linalg.inv(scaled.T @ scaled + 10 * RIDGE * np.eye(features.shape[1]))
    weights = inverse @ scaled.T @ (grades - grades.mean()) / spread
    return weights, float(grades.mean() - middle @ weights)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    rows = list(records.read_jsonl(paths.DATA / "wishes" / "graded.jsonl"))
    grades = np.array([row["grade"] for row in rows])
    loaded = inference.load(models.prepare(models.EMBEDDED))
    features = quality.features(*loaded, [(row["input"], row["output"]) for row in rows])
    openings = np.unique([row["output"][:8] for row in rows], return_inverse=True)[1]
    folds = np.random.default_rng(0).permutation(openings.max() + 1)[openings] % FOLDS
    guessed = np.zeros(len(rows))
    for fold in range(FOLDS):
        weights, bias = fit(features[folds != fold], grades[folds != fold])
        guessed[folds == fold] = features[folds == fold] @ weights + bias
    sources = np.array([row["source"] for row in rows])
    for title in ["all", *sorted(set(sources))]:
        some = sources == title if title != "all" else sources == sources
        print(f"{title}: {some.sum()} rows, Spearman {spearmanr(guessed[some], grades[some]).statistic:.2f}")
    if not options.check:
        weights, bias = fit(features, grades)
        judge = {"model": models.EMBEDDED, "layer": quality.LAYER, "bias": bias}
        judge["weights"] = [float(f"{one:.5g}") for one in weights]
        quality.WEIGHTS.write_text(json.dumps(judge) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
