"""Talking speed on a CPU: ``tianji chat`` beside llama.cpp alone, PyTorch and ``xtuner chat``, in turns.

    python tests/benchmarks/bench_chat.py [--model DIR] [--requests 12] [--tokens 48] [--repeat 3]

The chats run as programs on a pipe, greedy, with the history cleared before each request; the time to the
first character and to the end of the answer is taken from what arrives on the pipe. "llama.cpp" is the loop
inside llama.cpp, with the same file on the same cores, by its own clock: no pipe, no stream, no settings of
ours. "PyTorch" is ``inference.stream``, as ``tianji chat`` answers where llama.cpp is not to be had.

At each request all take turns. A figure is the median of the repetitions, summed over the requests; that of
the first character, the median of all. Loading is not counted. "Writing" begins at the first character.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tianji_helpers import paths, threads, wishes
from tianji_helpers.training import inference, inspection, models
from tianji_toolbox.shipping import quick_chat


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
        """Return the answer, and the seconds to its first character and to its end."""
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


class Bare:
    """llama.cpp in a process of its own (this file, run with ``--serve``)."""

    def __init__(self, gguf_file, tokenizer, system, tokens):
        self.tokenizer, self.system, self.tokens = tokenizer, system, tokens
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(gguf_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )

    def ask(self, request):
        chat = inference.messages(request, self.system)
        ids = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True)
        asked = {"prompt": ids, "max_tokens": self.tokens, "samplers": ["top_k"], "top_k": 1}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        said = json.loads(self.process.stdout.readline())
        first, rest = (said["timings"][f"{part}_ms"] / 1000 for part in ("prompt", "predicted"))
        return said["choices"][0]["text"].strip(), first, first + rest

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


def serve(gguf_file):
    """Answer one request a line, in llama.cpp's own words."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf_file
    parameters.port, parameters.verbosity = 0, 0
    parameters.n_ctx, parameters.n_parallel = 2048, 1
    parameters.cpuparams.n_threads = len(os.sched_getaffinity(0))
    running = xllamacpp.Server(parameters)
    for line in sys.stdin:
        print(json.dumps(running.handle_completions(json.loads(line))), flush=True)
    os._exit(0)


class Streamed:
    """PyTorch, through ``inference.stream``."""

    def __init__(self, model_dir, system, tokens):
        self.model, self.tokenizer = inference.load(model_dir)
        self.system, self.tokens = system, tokens

    def ask(self, request):
        first, text, began = None, "", time.perf_counter()
        chat = inference.messages(request, self.system)
        for piece in inference.stream(self.model, self.tokenizer, chat, max_new_tokens=self.tokens):
            first = first or time.perf_counter()
            text += piece
        return text.strip(), (first or time.perf_counter()) - began, time.perf_counter() - began

    def close(self):
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=paths.run_dir() / "06_merge_chat/wishes/merged")
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-xtuner", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
    matrix = wishes.load()
    pairs = [(recipient, scene) for recipient in matrix.recipients for scene in matrix.scenes]
    asked = random.Random(0).sample([matrix.request(*pair) for pair in pairs], args.requests)
    system = models.recorded(args.model).get("system", matrix.system)
    gguf_file = quick_chat.gguf_file(inspection.inspect_model(args.model))
    tokenizer = inference.load_tokenizer(args.model)
    programs = {
        "llama.cpp": Bare(gguf_file, tokenizer, system, args.tokens),
        "tianji chat": Program(
            "tianji_toolbox.cli",
            ["chat", str(args.model), "--system", system, "--max-new-tokens", str(args.tokens)],
            ready="你：",
            before_answer="模型：",
        ),
        "PyTorch": Streamed(args.model, system, args.tokens),
    }
    dtype = inference.cpu_dtype()
    if not args.no_xtuner:
        short = {"bfloat16": "bf16", "float32": "fp32"}[dtype]
        options = ["--torch-dtype", short, "--prompt-template", "internlm2_chat", "--system", system]
        options += ["--temperature", "0", "--max-new-tokens", str(args.tokens)]
        programs["xtuner chat"] = Program(
            "tianji_helpers.training.xtuner_compat",
            ["chat", str(args.model), *options],
            ready=">>> ",
            end_of_line="\n\n",
        )
    for program in programs.values():
        program.ask("祝大家好")  # the first answer pays for what is made once
    firsts, totals = ({name: [[] for _ in asked] for name in programs} for _ in range(2))
    said = {name: [""] * len(asked) for name in programs}
    for _ in range(args.repeat):
        for number, request in enumerate(asked):
            for name, program in programs.items():
                said[name][number], first, total = program.ask(request)
                firsts[name][number].append(first)
                totals[name][number].append(total)
    for program in programs.values():
        program.close()

    print(f"{args.model.name}, {gguf_file.stat().st_size / 1e6:.0f} MB; PyTorch in {dtype}; ", end="")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; ", end="")
    print(f"{args.requests} requests, at most {args.tokens} tokens, {args.repeat} times")
    print(f"{'':<14}{'first character':>16}{'tokens/s':>10}{'writing':>10}{'of llama.cpp':>14}{'same':>6}")
    speeds = {}
    for name in programs:
        counts = [len(tokenizer.encode(text, add_special_tokens=False)) for text in said[name]]
        whole, first = (sum(map(median, rows[name])) for rows in (totals, firsts))
        speeds[name] = sum(counts) / whole, (sum(counts) - len(counts)) / (whole - first)
        shares = "、".join(f"{a / b:.2f}" for a, b in zip(speeds[name], speeds["llama.cpp"], strict=True))
        same = sum(a == b for a, b in zip(said[name], said["llama.cpp"], strict=True))
        wait = median(second for times in firsts[name] for second in times) * 1000
        print(
            f"{name:<14}{wait:>13.0f} ms{speeds[name][0]:>10.1f}{speeds[name][1]:>10.1f}{shares:>14}{same:>6}"
        )


if __name__ == "__main__":
    main()
