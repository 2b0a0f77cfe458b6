"""How far people and the score agree: ``python tests/benchmarks/bench_agreement.py FILE…``

FILE: JSON Lines, a wish a line, with ``input``, ``output`` and what a person said: ``grade`` (1 to 5), and
``verdict`` (keep, mend or reject); either may be absent. Prints, for each file and for all together:

- Spearman's rank correlation of grade and quality, with a 95 % bootstrap interval over rows: for quality
  alone; where a wish with a hard fault ranks below all others; and where cleaning decides first (what it
  rejects ranks below what it mends, that below the rest, absurd pairs among the rejects). Beside them, how
  far the same person's verdict goes with the grade: no score can be expected to go much further;
- the share of keep rows without a hard fault, and what the others have;
- the share of keep rows that rank higher for their own request than for another row's (a random order of
  the file's requests; a request that is the same is passed over), with and without hard faults.
"""

import argparse
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
from bench_labels import decide
from scipy.stats import spearmanr

from tianji_helpers import faults, records, wishes
from tianji_helpers.training import inference, models, quality

_RESAMPLES = 2000


def measure(rows: list[dict], loaded, seed: int) -> list[dict]:
    """Return the rows with ``quality``, ``faulty``, and both for the request of another row."""
    matrix = wishes.load()
    others = [row["input"] for row in rows]
    random.Random(seed).shuffle(others)
    scores = {
        "own": quality.score(*loaded, [(row["input"], row["output"]) for row in rows]),
        "other": quality.score(
            *loaded, [(asked, row["output"]) for asked, row in zip(others, rows, strict=True)]
        ),
    }
    return [
        row
        | {
            "quality": scores["own"][place],
            "faults": list(faults.find(matrix.read(row["input"]), row["output"])),
            "cleaned": decide(matrix, row)[0],
            "other": other,
            "other_quality": scores["other"][place],
            "other_faults": list(faults.find(matrix.read(other), row["output"])),
        }
        for place, (row, other) in enumerate(zip(rows, others, strict=True))
    ]


GATES = {  # what comes before quality; that is below 1
    "quality alone": lambda row, which="": 0,
    "hard faults first": lambda row, which="": -1 if row[which + "faults"] else 0,
}
VERDICTS = {"reject": -2, "mend": -1, "keep": 0}


def report(name: str, rows: list[dict]) -> None:
    """Print the agreement on some measured rows."""
    print(f"{name}: {len(rows)} rows")
    graded = [row for row in rows if row.get("grade") is not None]
    ranks = {title: [gate(row) + row["quality"] for row in graded] for title, gate in GATES.items()}
    ranks["cleaning first"] = [VERDICTS[row["cleaned"]] + row["quality"] for row in graded]
    if all(row.get("verdict") in VERDICTS for row in graded):
        ranks["the person's own verdict"] = [VERDICTS[row["verdict"]] for row in graded]
    for title, some in ranks.items():
        print(f"  Spearman, {title}: {correlation([row['grade'] for row in graded], some)}")
    keep = [row for row in rows if row.get("verdict") == "keep"]
    faulty = [row for row in keep if row["faults"]]
    kinds = Counter(fault for row in faulty for fault in row["faults"])
    _share("keep rows without a hard fault", len(keep) - len(faulty), len(keep), str(dict(kinds) or ""))
    pairs = [row for row in keep if row["other"] != row["input"]]
    for title, gate in GATES.items():
        higher = sum(gate(row) + row["quality"] > gate(row, "other_") + row["other_quality"] for row in pairs)
        _share(f"higher for its own request than for another, {title}", higher, len(pairs))


def correlation(grades: list[float], ranks: list[float]) -> str:
    """Return Spearman's correlation with its interval, as text."""
    if len(grades) < 3 or len(set(grades)) < 2:
        return f"{len(grades)} graded rows, too few"
    pairs, rng = np.array([grades, ranks]).T, np.random.default_rng(0)
    drawn = (pairs[rng.integers(len(pairs), size=len(pairs))] for _ in range(_RESAMPLES))
    spread = [spearmanr(*some.T).statistic for some in drawn if (np.ptp(some, axis=0) > 0).all()]
    low, high = np.percentile(spread, (2.5, 97.5)) if spread else (np.nan, np.nan)
    return f"{spearmanr(*pairs.T).statistic:.2f} [{low:.2f}, {high:.2f}] on {len(grades)} graded rows"


def _share(title: str, some: int, of: int, more: str = "") -> None:
    print(f"  {title}: {some} of {of}" + (f" = {some / of:.1%} {more}".rstrip() if of else ""))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=42, help="of the order of the requests")
    parser.add_argument("--model", type=Path, help="folder of another model that gives the likelihoods")
    options = parser.parse_args()
    loaded = inference.load(options.model or models.prepare(models.EMBEDDED))
    together, began = [], time.monotonic()
    for path in options.files:
        rows = measure(list(records.read_jsonl(path)), loaded, options.seed)
        report(path.name, rows)
        together += rows
    seconds = time.monotonic() - began
    if len(options.files) > 1:
        report("all", together)
    print(f"{2 * len(together) / seconds:.1f} wishes/s")


if __name__ == "__main__":
    main()
