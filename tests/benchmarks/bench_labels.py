"""How far cleaning agrees with people: ``python tests/benchmarks/bench_labels.py FILE…``

FILE: JSON Lines, a wish a line, with ``input``, ``output`` and what a person decided: ``verdict`` (keep, mend
or reject), ``mended`` (the text after, for mend), perhaps ``reason``, and ``sure`` (false where two sensible
editors could differ). Prints the confusion table of the sure rows, and the shares that matter. A mend counts
as done if the texts are the same but for marks and spaces at their ends. ``--show`` prints the rows that
differ.
"""

import argparse
from collections import Counter
from pathlib import Path

from tianji_helpers import faults, records, wishes
from tianji_helpers.dataset import clean

VERDICTS = ("keep", "mend", "reject")
PAIR = "pair"  # the reason of a reject that is a policy


def decide(matrix: wishes.Matrix, row: dict) -> tuple[str, str, str]:
    """Return what the cleaner decides: verdict, the text after, the rule or rules."""
    verdict, after, found = clean.edit(row["output"], matrix.read(row["input"]), clean.SUITABILITY["absurd"])
    return verdict, after, "、".join(found)


def _bare(text: str) -> str:
    return "".join(text.split()).strip("。！～~!")


def compare(path: Path, show: bool) -> None:
    """Print the table of one file."""
    matrix = wishes.load()
    rows = records.read_jsonl(path)
    decided = [(row, *decide(matrix, row)) for row in rows]
    sure = [one for one in decided if one[0].get("sure", True)]
    table = Counter((row["verdict"], verdict) for row, verdict, _, _ in sure)
    print(f"{path.name}: {len(rows)} rows, {len(sure)} sure")
    print(f"{'person / cleaner':>18}" + "".join(f"{verdict:>8}" for verdict in VERDICTS))
    for person in VERDICTS:
        print(f"{person:>18}" + "".join(f"{table[person, verdict]:8}" for verdict in VERDICTS))

    def share(name: str, hits: list[bool]) -> None:
        print(f"  {name}: {sum(hits)} of {len(hits)}" + (f" = {sum(hits) / len(hits):.1%}" if hits else ""))

    share("three-way agreement", [row["verdict"] == verdict for row, verdict, _, _ in sure])
    for title, some in (("sure", sure), ("all", decided)):
        kept = [one for one in some if one[0]["verdict"] != "reject"]
        share(f"rejected of keep and mend ({title})", [verdict == "reject" for _, verdict, _, _ in kept])
        mends = [one for one in some if one[0]["verdict"] == "mend"]
        done = [
            verdict != "reject" and _bare(after) == _bare(row["mended"]) for row, verdict, after, _ in mends
        ]
        share(f"mends done ({title})", done)
        bad = [one for one in some if one[0]["verdict"] == "reject" and one[0].get("reason") != PAIR]
        share(f"rejects found, pairs apart ({title})", [verdict == "reject" for _, verdict, _, _ in bad])
    good = [row for row in rows if row["verdict"] == "keep"]
    share(
        "keep rows without a hard fault",
        [not faults.find(matrix.read(r["input"]), r["output"]) for r in good],
    )
    if show:
        for row, verdict, after, rule in decided:
            wrong_mend = row["verdict"] == "mend" and _bare(after) != _bare(row["mended"])
            if row["verdict"] != verdict or wrong_mend:
                print(
                    f"  {row['verdict']} → {verdict} ({rule})",
                    "" if row.get("sure", True) else "not sure",
                    row.get("reason"),
                )
                print(
                    "   ",
                    row["input"],
                    "|",
                    repr(row["output"]),
                    "|",
                    repr(after),
                    "|",
                    repr(row.get("mended")),
                )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    for path in options.files:
        compare(path, options.show)


if __name__ == "__main__":
    main()
