"""How far people and the score agree: ``python tests/benchmarks/bench_agreement.py FILE…``

FILE: JSON Lines, a wish a line, with ``input``, ``output`` and what a person said: ``grade`` (1 to 5), and
``verdict`` (keep, mend or reject); either may be absent. Prints, for each file and for all together:

- Spearman's rank correlation of grade and score, with a 95 % bootstrap interval over rows: for the likelihood
  alone; where a wish with a hard fault ranks below all others; and for quality, where cleaning decides first.
  Beside them, how far the same person's verdict goes with the grade: no score can be expected to go much
  further;
- the share of keep rows without a hard fault, and what the others have;
- the share of keep rows that rank higher for their own request than for another row's (a random order of
  the file's requests; a request that is the same is passed over), by each of the three.
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
    """Return the rows with the scores for their own request (``own``) and for another row's (``other``)."""
    matrix = wishes.load()
    others = [row["input"] for row in rows]
    random.Random(seed).shuffle(others)
    measured = [dict(row) for row in rows]
    for which, asked in (("own", [row["input"] for row in rows]), ("other", others)):
        likely = quality.likelihood(
            *loaded, [(one, row["output"]) for one, row in zip(asked, rows, strict=True)]
        )
        for row, request, one in zip(measured, asked, likely, strict=True):
            found = list(faults.find(matrix.read(request), row["output"]))
            band = quality.BANDS[decide(matrix, row | {"input": request})[0]]
            row[which] = {
                "request": request,
                "faults": found,
                "likelihood alone": one,
                "hard faults first": one - bool(found),
                "quality": (band + one) / 3,
            }
    return measured


SCORES = ("likelihood alone", "hard faults first", "quality")


def report(name: str, rows: list[dict]) -> None:
    """Print the agreement on some measured rows."""
    print(f"{name}: {len(rows)} rows")
    graded = [row for row in rows if row.get("grade") is not None]
    ranks = {title: [row["own"][title] for row in graded] for title in SCORES}
    if all(row.get("verdict") in quality.BANDS for row in graded):
        ranks["the person's own verdict"] = [quality.BANDS[row["verdict"]] for row in graded]
    for title, some in ranks.items():
        print(f"  Spearman, {title}: {correlation([row['grade'] for row in graded], some)}")
    keep = [row for row in rows if row.get("verdict") == "keep"]
    faulty = [row for row in keep if row["own"]["faults"]]
    kinds = Counter(fault for row in faulty for fault in row["own"]["faults"])
    _share("keep rows without a hard fault", len(keep) - len(faulty), len(keep), str(dict(kinds) or ""))
    pairs = [row for row in keep if row["own"]["request"] != row["other"]["request"]]
    for title in SCORES:
        higher = sum(row["own"][title] > row["other"][title] for row in pairs)
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
