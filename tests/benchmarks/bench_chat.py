"""Talking speed: ``tianji chat`` beside ``xtuner chat``, same model, machine, precision and requests.

    python tests/benchmarks/bench_chat.py [--model DIR] [--requests 16] [--tokens 48] [--repeat 3]

Both chats run as programs on a pipe, greedy, with the history cleared before each request; the time
to the first character and to the end of the answer is taken from what arrives on the pipe. The same
requests also go through ``inference.answer_all`` in one batch. All three take turns, and of each
measurement the best repetition counts, because the machine may be busy with other things. Loading
is not counted anywhere.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

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
        """Return the answer, the seconds to its first character, and those to its end."""
        self._send("RESET")
        self._read_until_ready()
        began = time.perf_counter()
        self._send(request)
        text, first = self._read_until_ready()
        return text, first - began, time.perf_counter() - began

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
            "tianji_helpers.cli",
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
    firsts, totals = ({name: [[] for _ in asked] for name in programs} for _ in range(2))
    said, batches = {name: [""] * len(asked) for name in programs}, []
    for _ in range(args.repeat):
        for number, request in enumerate(asked):
            for name, program in programs.items():
                text, first, total = program.ask(request)
                said[name][number] = text
                firsts[name][number].append(first)
                totals[name][number].append(total)
        began = time.perf_counter()
        batch = inference.answer_all(model, tokenizer, chats, max_new_tokens=args.tokens, batch_size=16)
        batches.append(time.perf_counter() - began)
    for program in programs.values():
        program.close()

    def tokens(texts):
        return sum(len(tokenizer.encode(text, add_special_tokens=False)) + 1 for text in texts)

    print(f"{args.requests} requests, at most {args.tokens} tokens, {dtype}, {os.cpu_count()} cores")
    print(f"{'':<14}{'first character':>16}{'tokens/s':>10}{'all answers':>13}")
    seconds = {name: sum(map(min, rows)) for name, rows in totals.items()}
    for name in programs:
        first = median(map(min, firsts[name]))
        speed = tokens(said[name]) / seconds[name]
        print(f"{name:<14}{first * 1000:>13.0f} ms{speed:>10.1f}{seconds[name]:>11.1f} s")
    speed = tokens(answer.text for answer in batch) / min(batches)
    print(f"{'answer_all':<14}{'':>16}{speed:>10.1f}{min(batches):>11.1f} s")
    print(f"answer_all is {seconds['xtuner chat'] / min(batches):.1f} times as fast as xtuner chat")
    same = sum(one == other for one, other in zip(*said.values(), strict=True))
    print(f"same answer from both chats: {same} of {args.requests}")


if __name__ == "__main__":
    main()
