"""Speed of the default training on this CPU against its floor.

    python tests/benchmarks/bench_cpu.py --updates 40

Trains on wishes through `tianji train`'s own function with the config of notebook 05, and prints one JSON
line: tokens a second (every token is a real one, there is no padding), the rate of matrix products
measured before and after, the floor, and how much of the floor is reached. The floor is that rate through
the operations that training on a token needs: 4 a frozen weight, 6 an adapter's weight, scores of
the vocabulary only for answer tokens, and attention to the tokens before it in its sample. A system prompt
counts as often as it occurs, though the training computes it once a batch: ``computed_share`` of the tokens
are computed. Nothing else should run beside it: see ``load``.
"""

import argparse
import json
import os
import statistics
from pathlib import Path

import torch
from bench_gpu import computed_share, read_examples, write_rows

from tianji_helpers import paths
from tianji_helpers.training import configs, estimate, inference, launch

CONFIG = paths.CONFIGS / "wishes_gemma3_270m_cpu.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--updates", type=int, default=40, help="of 4 wishes; the first 10 warm up")
    parser.add_argument("--rows", type=Path, help="training rows; without, made-up wishes of some 80 tokens")
    parser.add_argument("--folder", type=Path, default=paths.run_dir() / "bench_cpu")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = args.rows or write_rows(args.folder / "rows.json", 4 * args.updates)
    dtype = inference.cpu_dtype()
    settings = {"data_path": rows, "max_rows": 4 * args.updates, "warmup_ratio": 0.1, "dtype": dtype}
    config = configs.write_config(CONFIG, args.folder / "config.py", every_n_iters=10**6, **settings)
    cfg = configs.load_config(config)
    examples = read_examples(cfg, rows)
    tokens = sum(len(example["labels"]) for example in examples)
    answers = sum(label >= 0 for example in examples for label in example["labels"])
    pairs = sum(len(example["labels"]) * (len(example["labels"]) + 1) // 2 for example in examples)
    hf = json.loads((paths.resolve(cfg.pretrained_model_name_or_path) / "config.json").read_text())
    unneeded = hf["vocab_size"] * hf["hidden_size"] * (1 - answers / tokens)
    # a product with keys and one with values, each forward and twice backward
    heads = hf["num_hidden_layers"] * hf["num_attention_heads"] * hf["head_dim"]
    flops = estimate.flops_per_token(config) - 4 * unneeded + 2 * 2 * 3 * heads * pairs / tokens

    before = estimate.matmul_rate(dtype, seconds=3.0)
    used = os.times()
    options = {"custom_hooks.1.max_new_tokens": 1}
    result = launch.train(
        config, args.folder / "work", cfg_options=options, device="cpu", report=lambda _: None
    )
    cpu = os.times().children_user + os.times().children_system - used.children_user - used.children_system
    rate = statistics.mean((before, estimate.matmul_rate(dtype, seconds=3.0)))

    batch = cfg.train_dataloader.batch_size
    seconds = statistics.mean(point["time"] for point in result.curve[1:])
    speed = tokens / len(examples) * batch / seconds
    printed = {
        "tokens_per_second": round(speed),
        "fraction_of_floor": round(speed * flops / rate, 3),
        "floor_tokens_per_second": round(rate / flops),
        "computed_share": round(computed_share(examples, batch), 3),
        "gflops_per_second": round(rate / 1e9),
        "mflop_per_token": round(flops / 1e6),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "cpu_seconds": round(cpu, 1),
        "peak_gb": round(result.peak_memory_gb, 2),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
