"""How fast the synthesis engine is, against a loopback server in another process.

    python tests/benchmarks/bench_synthesis.py            # speed, overhead, layers, memory (about 10 minutes)
    python tests/benchmarks/bench_synthesis.py speed      # 200 ms latency, C = 64, N = 2,016
    python tests/benchmarks/bench_synthesis.py overhead   # no latency: requests a second
    python tests/benchmarks/bench_synthesis.py memory     # peak memory, 2,000 and 200,000 requests
    python tests/benchmarks/bench_synthesis.py layers     # no latency: what each layer costs
    python tests/benchmarks/bench_synthesis.py window     # servers that take 4, 32, 256: found against known
    python tests/benchmarks/bench_synthesis.py profile    # where the event loop's time goes

Each run is a process of its own with a fresh journal on this disk; the time is that of ``synthesize``
as a user calls it, from the first line to the written files.
"""

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path

import aiohttp
import loopback
import openai

from tianji_helpers import wishes
from tianji_helpers.synthesis import prompts, providers, synthesize

LATENCY, CONCURRENCY, REQUESTS = 0.2, 64, 2016


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", nargs="?", choices=["speed", "overhead", "layers", "memory", "window", "profile", "one"]
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--requests", type=int, help="of each run, instead of the benchmark's own number")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY)
    parser.add_argument("--base-url", help="of a running server (used by the benchmark itself)")
    args = parser.parse_args()
    if args.what == "one":
        print(json.dumps(run(args.base_url, args.requests, args.concurrency)))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    if args.what in ("speed", None):
        speed(args.requests or REQUESTS, args.repeat)
    if args.what in ("overhead", None):
        overhead(args.requests or 20_000, args.repeat)
    if args.what in ("layers", None):
        layers(args.requests or 3_000, args.repeat)
    if args.what in ("memory", None):
        memory([2_000, args.requests or 200_000])
    if args.what in ("window", None):
        window(args.repeat)
    if args.what == "profile":
        profile(args.requests or 10_000)


def speed(requests: int, repeat: int) -> None:
    """Compare with the bound N x latency / C, and with asking one after the other."""
    bound = requests * LATENCY / CONCURRENCY
    with loopback.server(LATENCY) as (url, _):
        serial_requests = 50
        began = time.perf_counter()
        serial_loop(url, serial_requests)
        serial = (time.perf_counter() - began) / serial_requests * requests
        print(f"\nN = {requests}, C = {CONCURRENCY}, latency {LATENCY:g} s; bound {bound:.2f} s")
        print(
            f"serial loop (openai client, as the original): {serial:.0f} s, from {serial_requests} requests"
        )
        print("   wall s   / bound   serial / wall   load")
        for _ in range(repeat):
            found = child(url, requests)
            print(
                f"{found['seconds']:9.2f}{found['seconds'] / bound:10.3f}"
                f"{serial / found['seconds']:16.1f}{os.getloadavg()[0]:7.1f}"
            )


def window(repeat: int) -> None:
    """Compare the concurrency that a run finds by itself with the best fixed one, in turns."""
    print("\n  takes at once   best fixed, s   found, s   ratio   refused   (medians)")
    for capacity, requests in ((4, 600), (32, 3000), (256, 12_000)):
        times: dict[int, list[float]] = {capacity: [], 0: []}
        refused = []
        for _ in range(repeat):
            for concurrency, found in times.items():
                with loopback.server(LATENCY, capacity) as (url, _):
                    result = child(url, requests, concurrency)
                found.append(result["seconds"])
                if not concurrency:
                    refused.append(result["sent"] - result["answered"])
        fixed, own = (statistics.median(found) for found in times.values())
        print(f"{capacity:15}{fixed:16.2f}{own:11.2f}{fixed / own:8.2f}{statistics.median(refused):10.0f}")


def overhead(requests: int, repeat: int) -> None:
    """Requests a second when the server answers at once."""
    print(f"\nno latency, N = {requests}, C = {CONCURRENCY}")
    print("   wall s   requests/s   client CPU ms/request   server's count   load")
    for _ in range(repeat):
        with loopback.server(0) as (url, count):
            found = child(url, requests)
            print(
                f"{found['seconds']:9.2f}{found['sent'] / found['seconds']:13.0f}"
                f"{found['cpu'] / found['sent'] * 1e3:24.2f}{count.value:17}{os.getloadavg()[0]:7.1f}"
            )


def layers(requests: int, repeat: int) -> None:
    """CPU of a request through aiohttp alone, the openai client in two ways, and a whole run."""
    bodies = [
        {"model": "bench", "messages": prompt.messages, "temperature": 1.0, "max_tokens": 512}
        for prompt in islice(prompts.build_round(wishes.load(), "正常", 1, 1), 100)
    ]

    async def bare(url: str) -> None:
        async with aiohttp.ClientSession() as session:

            async def ask(body: dict) -> None:
                data = json.dumps(body).encode()
                async with session.post(f"{url}/chat/completions", data=data) as response:
                    json.loads(await response.read())

            await spread(ask)

    async def ours(url: str) -> None:
        client = providers.connect(providers.choose("local", "bench", url), 60.0, 1)
        await spread(client.ask)
        await client.close()

    async def usual(url: str) -> None:
        async with openai.AsyncOpenAI(api_key="none", base_url=url) as client:
            await spread(lambda body: client.chat.completions.create(**body))

    async def spread(ask) -> None:
        numbers = iter(range(requests))

        async def work() -> None:
            for number in numbers:
                await ask(bodies[number % len(bodies)])

        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))

    print(f"\nno latency, N = {requests}, C = {CONCURRENCY}; client CPU ms/request (requests/s)")
    print("     aiohttp alone   openai as we use it   openai as usual       whole run   load")
    for _ in range(repeat):
        cells = []
        with loopback.server(0) as (url, _count):
            for way in (bare, ours, usual):
                began, cpu = time.perf_counter(), time.process_time()
                asyncio.run(way(url))
                cells.append((time.process_time() - cpu, time.perf_counter() - began))
            found = child(url, requests)
            cells.append((found["cpu"], found["seconds"]))
        row = [f"{cpu / requests * 1e3:.2f} ({requests / wall:.0f})" for cpu, wall in cells]
        print("{:>18}{:>22}{:>18}{:>16}".format(*row) + f"{os.getloadavg()[0]:7.1f}", flush=True)


def memory(sizes: list[int]) -> None:
    """Peak memory of the client's process."""
    print("\n   requests   peak RSS MiB   RSS at 1/4, 2/4, 3/4 MiB   wall s   requests/s")
    for requests in sizes:
        with loopback.server(0) as (url, _):
            found = child(url, requests)
            quarters = ", ".join(f"{value:.0f}" for value in found["quarters"])
            print(
                f"{found['sent']:11}{found['peak']:15.1f}{quarters:>27}{found['seconds']:9.1f}"
                f"{found['sent'] / found['seconds']:13.0f}",
                flush=True,
            )


def profile(requests: int) -> None:
    """Print where the event loop's thread spends its time."""
    from tianji_helpers.synthesis.client import Engine

    profiler, original = cProfile.Profile(), Engine._run

    async def profiled(self, *arguments):
        profiler.enable()
        try:
            await original(self, *arguments)
        finally:
            profiler.disable()

    Engine._run = profiled
    with loopback.server(0) as (url, _):
        run(url, requests, CONCURRENCY)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def serial_loop(url: str, requests: int) -> None:
    """Ask one after the other, as the original's script does."""
    client = openai.OpenAI(api_key="none", base_url=url)
    for number in range(requests):
        client.chat.completions.create(
            model="bench", messages=[{"role": "user", "content": f"祝福 {number}"}], temperature=1.0
        )


def child(url: str, requests: int, concurrency: int = CONCURRENCY) -> dict:
    """Run ``run`` in a fresh process and return what it found."""
    command = [sys.executable, __file__, "one", "--base-url", url, "--requests", str(requests)]
    command += ["--concurrency", str(concurrency)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600).stdout)


def run(url: str, requests: int, concurrency: int) -> dict:
    """Send so many requests; return seconds, CPU seconds, memory in MiB."""
    matrix = wishes.load()
    styles = matrix.usual_styles
    # whole rounds, and no more of them than needed; a limit takes the rest off evenly
    rounds = -(-requests // (len(matrix.pairs()) * len(styles)))
    limit = -(-requests // (rounds * len(styles)))
    samples: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            samples.append(_rss())

    threading.Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.perf_counter(), time.process_time()
        summary = synthesize(
            "local",
            styles=styles,
            rounds=rounds,
            limit=limit,
            output_dir=folder,
            model="bench",
            base_url=url,
            concurrency=concurrency,
            progress=False,
        )
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    done.set()
    assert summary.answered == summary.prompts and not summary.failures
    quarters = [samples[len(samples) * part // 4] for part in (1, 2, 3)] if len(samples) > 3 else []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "sent": summary.sent,
        "answered": summary.answered,
        "seconds": seconds,
        "cpu": cpu,
        "peak": peak,
        "quarters": quarters,
    }


def _rss() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
