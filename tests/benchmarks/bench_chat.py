"""Talking speed: ``tianji chat`` beside ``xtuner chat``, same model, machine, precision and requests.

    python tests/benchmarks/bench_chat.py [--model DIR] [--requests 12] [--tokens 48]

Both chats run as programs on a pipe, greedy, with the history cleared before each request; the time
to the first character and to the end of the answer is taken from what arrives on the pipe. Then the
same requests go through ``inference.answer_all`` in one batch. Loading is not counted anywhere.
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
        return text.replace("<|im_end|>", "").strip(), first

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
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=48)
    args = parser.parse_args()
    matrix = wishes.load()
    pairs = [(recipient, scene) for recipient in matrix.recipients for scene in matrix.scenes]
    asked = random.Random(0).sample([matrix.request(*pair) for pair in pairs], args.requests)
    system = models.recorded(args.model).get("system", matrix.system)
    dtype = inference.cpu_dtype()
    short = {"bfloat16": "bf16", "float32": "fp32"}[dtype]
    programs = {
        "xtuner chat": lambda: Program(
            "tianji_helpers.training.xtuner_compat",
            ["chat", str(args.model), "--torch-dtype", short, "--prompt-template", "internlm2_chat"]
            + ["--system", system, "--temperature", "0", "--max-new-tokens", str(args.tokens)],
            ready=">>> ",
            end_of_line="\n\n",
        ),
        "tianji chat": lambda: Program(
            "tianji_helpers.cli",
            ["chat", str(args.model), "--system", system, "--max-new-tokens", str(args.tokens)],
            ready="你：",
            before_answer="模型：",
        ),
    }
    model, tokenizer = inference.load(args.model)
    print(f"{args.requests} requests, at most {args.tokens} tokens, {dtype}, {os.cpu_count()} cores")
    print(f"{'':<14}{'first character':>16}{'tokens/s':>10}{'all answers':>13}")
    answers, whole = {}, {}
    for name, start in programs.items():
        program = start()
        program.ask("祝大家好")  # the first answer pays for what is made once
        rows = [program.ask(request) for request in asked]
        program.close()
        answers[name] = [text for text, _, _ in rows]
        whole[name] = sum(total for _, _, total in rows)
        tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) + 1 for text in answers[name])
        first = median(first for _, first, _ in rows)
        print(f"{name:<14}{first * 1000:>13.0f} ms{tokens / whole[name]:>10.1f}{whole[name]:>11.1f} s")
    chats = [inference.messages(request, system) for request in asked]
    inference.answer_all(model, tokenizer, chats[:2], max_new_tokens=4)
    began = time.perf_counter()
    batch = inference.answer_all(model, tokenizer, chats, max_new_tokens=args.tokens, batch_size=16)
    seconds = time.perf_counter() - began
    tokens = sum(len(tokenizer.encode(answer.text, add_special_tokens=False)) + 1 for answer in batch)
    print(f"{'answer_all':<14}{'':>16}{tokens / seconds:>10.1f}{seconds:>11.1f} s")
    print(f"the batch is {whole['xtuner chat'] / seconds:.1f} times as fast as xtuner chat")
    same = sum(one == other for one, other in zip(*answers.values(), strict=True))
    print(f"same answer from both chats: {same} of {args.requests}")


if __name__ == "__main__":
    main()
