"""How far people and the score agree: ``python tests/benchmarks/bench_agreement.py FILE…``

FILE: JSON Lines, a wish a line, with ``input``, ``output`` and what a person said: ``grade`` (1 to 5), and
``verdict`` (keep, mend or reject); either may be absent. Prints, for each file and for all together:

- Spearman's rank correlation of grade and quality, with a 95 % bootstrap interval over rows; once for
  quality alone, once where a wish with a hard fault ranks below all others;
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
            "other": other,
            "other_quality": scores["other"][place],
            "other_faults": list(faults.find(matrix.read(other), row["output"])),
        }
        for place, (row, other) in enumerate(zip(rows, others, strict=True))
    ]


def rank(row: dict, which: str = "", gate: bool = True) -> float:
    """Return what a row is ranked by: its quality, below zero if it has a hard fault."""
    return row[which + "quality"] - (1 if gate and row[which + "faults"] else 0)


def report(name: str, rows: list[dict]) -> None:
    """Print the agreement on some measured rows."""
    print(f"{name}: {len(rows)} rows")
    graded = [row for row in rows if row.get("grade") is not None]
    for title, gate in (("quality alone", False), ("hard faults first", True)):
        pairs = np.array([(row["grade"], rank(row, gate=gate)) for row in graded])
        print(f"  Spearman, {title}: {correlation(pairs)}")
    keep = [row for row in rows if row.get("verdict") == "keep"]
    faulty = [row for row in keep if row["faults"]]
    kinds = Counter(fault for row in faulty for fault in row["faults"])
    _share("keep rows without a hard fault", len(keep) - len(faulty), len(keep), str(dict(kinds) or ""))
    pairs = [row for row in keep if row["other"] != row["input"]]
    for title, gate in (("quality alone", False), ("hard faults first", True)):
        higher = sum(rank(row, gate=gate) > rank(row, "other_", gate) for row in pairs)
        _share(f"higher for its own request than for another, {title}", higher, len(pairs))


def correlation(pairs: np.ndarray) -> str:
    """Return Spearman's correlation of two columns with its interval, as text."""
    if len(pairs) < 3 or len(set(pairs[:, 0])) < 2:
        return f"{len(pairs)} graded rows, too few"
    rng = np.random.default_rng(0)
    drawn = (pairs[rng.integers(len(pairs), size=len(pairs))] for _ in range(_RESAMPLES))
    spread = [spearmanr(*some.T).statistic for some in drawn if len(set(some[:, 0])) > 1]
    low, high = np.percentile(spread, (2.5, 97.5))
    return f"{spearmanr(*pairs.T).statistic:.2f} [{low:.2f}, {high:.2f}] on {len(pairs)} graded rows"


def _share(title: str, some: int, of: int, more: str = "") -> None:
    print(f"  {title}: {some} of {of}" + (f" = {some / of:.1%} {more}".rstrip() if of else ""))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=42, help="of the order of the requests")
    options = parser.parse_args()
    loaded = inference.load(models.prepare(models.EMBEDDED))
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
