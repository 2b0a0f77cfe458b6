"""Talking speed: ``tianji chat`` beside ``xtuner chat``, same model, machine, precision and requests.

    python tests/benchmarks/bench_chat.py [--model DIR] [--requests 16] [--tokens 48] [--repeat 3]

Both chats run as programs on a pipe, greedy, with the history cleared before each request; the time
to the first character and to the end of the answer is taken from what arrives on the pipe. The same
requests also go through ``inference.answer_all`` in one batch. All three take turns, and of each
measurement the best repetition counts, because the machine may be busy with other things. Loading
is not counted anywhere. The processor time beside the wall time hardly depends on the other things.

The merged model of lesson 6 on 2 cores that were busy with other things (load 8), 12 requests, 16 tokens:

                first character  tokens/s  processor
    xtuner chat           71 ms      27.2      7.1 s
    tianji chat           71 ms      27.9      6.9 s
    answer_all                      125.3      1.4 s
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil

from tianji_helpers import paths, threads, wishes
from tianji_helpers.training import inference, models


class Program:
    """A chat on a pipe. ready: what it prints when it waits for a line."""

    def __init__(self, module, arguments, *, ready, before_answer="", end_of_line="\n"):
        self.ready, self.before_answer, self.end_of_line = ready, before_answer, end_of_line
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=threads.with_defaults() | {"PYTHONUNBUFFERED": "1"},
            cwd=paths.ROOT,
        )
        self.usage = psutil.Process(self.process.pid)
        self._read_until_ready()

    def _read_until_ready(self):
        """Return what came, and when the first character of the answer did."""
        said, first = b"", None
        ready, before = self.ready.encode(), self.before_answer.encode()
        while not said.endswith(ready):
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise RuntimeError(f"the program ended: {said.decode(errors='replace')}")
            said += piece
            if first is None and len(said) > len(before):
                first = time.perf_counter()
        text = said.removeprefix(before).removesuffix(ready).decode()
        # XTuner's chat prints its end token, a notice and its prompt behind the answer
        return text.partition("<|im_end|>")[0].partition("Remove the memory")[0].strip(), first

    def _send(self, line):
        self.process.stdin.write((line + self.end_of_line).encode())
        self.process.stdin.flush()

    def ask(self, request):
        """Return the answer, the seconds to its first character, to its end, and of the processor."""
        self._send("RESET")
        self._read_until_ready()
        began, work = time.perf_counter(), sum(self.usage.cpu_times()[:2])
        self._send(request)
        text, first = self._read_until_ready()
        ended = time.perf_counter()
        return text, first - began, ended - began, sum(self.usage.cpu_times()[:2]) - work

    def close(self):
        self._send("EXIT")
        self.process.stdin.close()
        self.process.wait(30)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=paths.run_dir() / "06_merge_chat/wishes/merged")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    matrix = wishes.load()
    pairs = [(recipient, scene) for recipient in matrix.recipients for scene in matrix.scenes]
    asked = random.Random(0).sample([matrix.request(*pair) for pair in pairs], args.requests)
    system = models.recorded(args.model).get("system", matrix.system)
    dtype = inference.cpu_dtype()
    short = {"bfloat16": "bf16", "float32": "fp32"}[dtype]
    programs = {
        "xtuner chat": Program(
            "tianji_helpers.training.xtuner_compat",
            [
                *("chat", str(args.model), "--torch-dtype", short, "--prompt-template", "internlm2_chat"),
                *("--system", system, "--temperature", "0", "--max-new-tokens", str(args.tokens)),
            ],
            ready=">>> ",
            end_of_line="\n\n",
        ),
        "tianji chat": Program(
            "tianji_toolbox.cli",
            ["chat", str(args.model), "--system", system, "--max-new-tokens", str(args.tokens)],
            ready="你：",
            before_answer="模型：",
        ),
    }
    model, tokenizer = inference.load(args.model)
    chats = [inference.messages(request, system) for request in asked]
    for program in programs.values():
        program.ask("祝大家好")  # the first answer pays for what is made once
    inference.answer_all(model, tokenizer, chats[:2], max_new_tokens=4)
    firsts, totals, works = ({name: [[] for _ in asked] for name in programs} for _ in range(3))
    said, batches = {name: [""] * len(asked) for name in programs}, []
    for _ in range(args.repeat):
        for number, request in enumerate(asked):
            for name, program in programs.items():
                text, first, total, work = program.ask(request)
                said[name][number] = text
                firsts[name][number].append(first)
                totals[name][number].append(total)
                works[name][number].append(work)
        began, work = time.perf_counter(), time.process_time()
        batch = inference.answer_all(model, tokenizer, chats, max_new_tokens=args.tokens, batch_size=16)
        batches.append((time.perf_counter() - began, time.process_time() - work))
    for program in programs.values():
        program.close()

    def tokens(texts):
        return sum(len(tokenizer.encode(text, add_special_tokens=False)) + 1 for text in texts)

    def show(name, first, count, seconds, work):
        print(f"{name:<14}{first:>16}{count / seconds:>10.1f}{seconds:>11.1f} s{work:>11.1f} s")

    print(
        f"{args.requests} requests, at most {args.tokens} tokens, {dtype}, {os.cpu_count()} cores, ", end=""
    )
    print(f"load {os.getloadavg()[0]:.1f}")
    print(f"{'':<14}{'first character':>16}{'tokens/s':>10}{'all answers':>13}{'processor':>13}")
    whole = {name: [sum(map(min, rows[name])) for rows in (totals, works)] for name in programs}
    for name in programs:
        first = f"{median(map(min, firsts[name])) * 1000:.0f} ms"
        show(name, first, tokens(said[name]), *whole[name])
    best = [min(column) for column in zip(*batches, strict=True)]
    show("answer_all", "", tokens(answer.text for answer in batch), *best)
    times, work = (one / other for one, other in zip(whole["xtuner chat"], best, strict=True))
    print(f"answer_all is {times:.1f} times as fast as xtuner chat ({work:.1f} in processor time)")
    same = sum(one == other for one, other in zip(*said.values(), strict=True))
    print(f"same answer from both chats: {same} of {args.requests}")


if __name__ == "__main__":
    main()
