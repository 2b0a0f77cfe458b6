"""How merging and cleaning grow from 10,000 to 1,000,000 rows, and what the near-duplicate search misses.

    python tests/benchmarks/bench_dataset.py            # rows, merge, clean, recall (about 15 minutes)
    python tests/benchmarks/bench_dataset.py merge      # ours, and the original's loop beside it
    python tests/benchmarks/bench_dataset.py clean      # with and without the search for near duplicates
    python tests/benchmarks/bench_dataset.py recall     # planted near duplicates, found and missed
    python tests/benchmarks/bench_dataset.py clean --beside COMMIT   # and an earlier cleaning in turn with it

The rows are wishes of the offline teacher's grammar, 18 % of them spoilt as it spoils them, in round
files with all that a real round holds. Each run is a process of its own, which imports only what it
needs; its peak memory is that of the process and of the second one that a long run starts. Times are
those of the call a user makes, imports aside, to the written files and their provenance; the calls of a
size take turns, and medians are shown.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

SIZES = (10_000, 100_000, 1_000_000)


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["rows", "merge", "clean", "recall", "one"])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench_dataset")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each call, medians are shown")
    parser.add_argument("--beside", metavar="COMMIT", help="an earlier cleaning, in turn with this")
    parser.add_argument("--run", help="the call to make (used by the benchmark itself)")
    args = parser.parse_args()
    if args.what == "one":
        print(json.dumps(one(args.run, args.folder)))
        return
    import dataset_rows  # not in the runs

    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}", flush=True
    )
    folders = {rows: args.folder / f"{rows}" for rows in args.sizes}
    for rows, folder in folders.items():
        if args.what != "recall" and not (folder / "done").exists():
            print(f"{rows:,} rows written in {dataset_rows.make(rows, folder / 'rounds'):.0f} s", flush=True)
            child("merge", folder)  # what the cleaning reads
            (folder / "done").touch()
    if args.what in ("merge", None):
        table("merge", folders, {"the original's loop": "original", "tianji merge": "merge"}, args.repeat)
    if args.what in ("clean", None) and args.beside:
        with earlier(args.beside) as checkout:
            calls = {f"clean at {args.beside}": f"clean@{checkout}", "clean now": "clean"}
            table("clean", folders, calls, args.repeat)
    elif args.what in ("clean", None):
        table("clean", folders, {"no near duplicates": "clean_rules", "all rules": "clean"}, args.repeat)
    if args.what in ("recall", None):
        dataset_rows.recall()


@contextmanager
def earlier(commit: str) -> Iterator[str]:
    """Check a commit out for as long as this is open; return the folder."""
    git = ["git", "-C", str(Path(__file__).parent), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)


def table(title: str, folders: dict[int, Path], calls: dict[str, str], repeat: int) -> None:
    """Run every call at every size, in turn; print medians, and every turn's seconds beside them.

    The ratio is the median of what the turns say: the first call's seconds over this one's, run beside it.
    """
    print(f"\n{title:20}       rows   seconds    rows/s   CPU s   peak RSS MiB   ratio   load", flush=True)
    for rows, folder in folders.items():
        turns = [{name: child(call, folder) for name, call in calls.items()} for _ in range(repeat)]
        first = next(iter(calls))
        for name in calls:
            runs = [turn[name] for turn in turns]
            seconds, cpu, peak = (median(run[key] for run in runs) for key in ("seconds", "cpu", "peak"))
            ratio = median(turn[first]["seconds"] / turn[name]["seconds"] for turn in turns)
            print(
                f"{name:20}{rows:11,}{seconds:10.2f}{rows / seconds:10,.0f}{cpu:8.1f}{peak:15,.0f}"
                f"{ratio:8.2f}{os.getloadavg()[0]:7.1f}   {runs[0]['note']}; "
                + " ".join(f"{run['seconds']:.2f}" for run in runs),
                flush=True,
            )


def child(call: str, folder: Path) -> dict:
    """Run ``one`` in a fresh process and return what it found.

    The disk is no part of it: what the last run wrote is there by then, what this one reads is in memory.
    """
    os.sync()
    for path in (*(folder / "rounds").iterdir(), folder / "merged.json"):
        if path.exists():
            path.read_bytes()
    call, _, checkout = call.partition("@")
    search = [checkout, *filter(None, [os.environ.get("PYTHONPATH")])]  # what an earlier one needs besides
    environment = os.environ | ({"PYTHONPATH": os.pathsep.join(search)} if checkout else {})
    command = [sys.executable, __file__, "one", "--run", call, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(done.stdout)


def one(call: str, folder: Path) -> dict:
    """Make one call; return seconds, peak memory in MiB and a remark."""
    rounds, merged, original = folder / "rounds", folder / "merged.json", folder / "original.json"
    if call in ("original", "merge"):  # to free what an earlier run wrote is no part of this one
        (original if call == "original" else merged).unlink(missing_ok=True)
    if call == "merge":
        from tianji_helpers.dataset import merge
    elif call != "original":
        from tianji_helpers.dataset import clean
    began = time.perf_counter()
    if call == "original":
        note = f"{original_loop(rounds, original)} rows"
    elif call == "merge":
        note = f"{merge.merge_rounds(rounds, merged).rows} rows"
    else:
        out = folder / call
        report = clean.clean_file(
            merged,
            out / "wishes.json",
            rejects=out / "rejects.jsonl",
            report=out / "report.json",
            off=(clean.NEAR,) if call == "clean_rules" else (),
        )
        report = getattr(report, "report", report)  # an earlier one returned more
        counts = {rule["name"]: rule["rows"] for rule in report["rules"]}
        note = f"{report['rows_out']} kept, {counts[clean.EXACT]} twice, {counts[clean.NEAR]} nearly"
    seconds = time.perf_counter() - began
    cpu = sum(os.times()[:4])
    # not RUSAGE_SELF, which counts what the process was before it became this program
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"seconds": seconds, "cpu": cpu, "peak": peak / 1024, "note": note}


def original_loop(folder: Path, output: Path) -> int:
    """Merge as the original's script does: load every file, collect, write with indent."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        with path.open(encoding="utf-8") as file:
            for item in json.load(file):
                turn = item["conversation"][0]
                kept = {"system": turn["system"], "input": turn["input"], "output": turn["output"]}
                rows.append({"conversation": [kept]})
    with output.open("w", encoding="utf-8") as file:
        json.dump(rows, file, ensure_ascii=False, indent=4)
    return len(rows)


if __name__ == "__main__":
    main()
