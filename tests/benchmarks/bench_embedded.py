"""How fast the embedded teacher writes, beside a bare loop that drives the same server.

    python tests/benchmarks/bench_embedded.py             # 48 wishes a run, three turns (about 10 minutes)
    python tests/benchmarks/bench_embedded.py --wishes 24 --turns 1

Both ask the same prompts of the same server settings, with as many threads as it has slots. What
``synthesize`` adds is the journal, the checks and the files. Beside them, what the cache of shared
beginnings is worth: the same prompts in the order of the matrix, on a server that keeps nothing.
Needs the teacher (``make teacher``).
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tianji_helpers import llama, packaged, wishes
from tianji_helpers.synthesis import client as engine
from tianji_helpers.synthesis import prompts, providers, synthesize

SLOTS = providers.PROVIDERS["embedded"].slots


def main() -> None:
    """Print wishes a second, medians over the turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wishes", type=int, default=48)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    built = list(prompts.build_round(wishes.load(), "正常", limit=args.wishes))
    alike = sorted(built, key=lambda prompt: prompt.text)
    ways = {
        "synthesize --provider embedded": lambda: ours(args.wishes),
        "bare loop, the same server": lambda: bare(alike),
        "bare loop, nothing kept": lambda: bare(built, cache_prompt=False),
    }
    rates = {name: [] for name in ways}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {args.wishes} wishes, {SLOTS} at once")
    for _ in range(args.turns):
        for name, way in ways.items():
            rates[name].append(args.wishes / way())
    reference = statistics.median(rates["bare loop, the same server"])
    for name, found in rates.items():
        rate = statistics.median(found)
        print(f"{name:34}{rate:6.2f} wishes/s{rate / reference:7.2f} of the bare loop   ", end="")
        print(" ".join(f"{one:.2f}" for one in found))


def ours(count: int) -> float:
    """Return the seconds of a whole run, start of the server and loading of the model not counted."""
    with tempfile.TemporaryDirectory() as folder, served() as url:
        began = time.perf_counter()
        summary = synthesize(
            "embedded",
            base_url=f"{url}/v1",
            styles=["正常"],
            limit=count,
            output_dir=folder,
            progress=False,
        )
        assert summary.answered == count
        return time.perf_counter() - began


def bare(asked: list[prompts.Prompt], **options) -> float:
    """Return the seconds of a loop that only asks."""
    with (
        served() as url,
        httpx.Client(timeout=900, trust_env=False) as client,
        ThreadPoolExecutor(SLOTS) as pool,
    ):

        def ask(prompt: prompts.Prompt) -> None:
            body = {"messages": prompt.messages, "seed": prompt.seed, "temperature": 1.0}
            body |= engine._bound(providers.PROVIDERS["embedded"], engine.Settings("embedded"), prompt)
            client.post(f"{url}/v1/chat/completions", json=body | options).raise_for_status()

        began = time.perf_counter()
        list(pool.map(ask, asked))
        return time.perf_counter() - began


def served():
    """Start the server as the engine does."""
    return llama.started(packaged.locate(), context=2048, parallel=SLOTS, alias=packaged.TEACHER)


if __name__ == "__main__":
    main()
