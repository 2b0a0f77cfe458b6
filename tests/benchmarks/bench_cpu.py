"""Speed of a training on this CPU against its floor, and beside a plain loop.

    python tests/benchmarks/bench_cpu.py --updates 40
    python tests/benchmarks/bench_cpu.py --updates 20 --plain 4 --config wishes_qwen2_5_coder_1_5b_instruct

Trains on wishes through `tianji train`'s own function with a config of `configs/`, by default that of
notebook 05, and prints one JSON line: tokens a second (every token is a real one, there is no padding), the
rate of matrix products measured before and after, the floor, and how much of the floor is reached. The floor
is that rate through the operations that training on a token needs: 4 a frozen weight, 6 an adapter's weight,
scores of the vocabulary only for answer tokens, and attention to the tokens before it in its sample. A system
prompt counts as often as it occurs, though the training computes it once a batch: ``computed_share`` of the
tokens are computed. ``--plain`` does so many updates of the same batches by transformers and PEFT alone, with
the same quantization, adapters and optimizer. Nothing else should run beside it: see ``load``.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch
from bench_gpu import computed_share, read_examples, write_rows
from torch.nn.utils.rnn import pad_sequence

from tianji_helpers import paths
from tianji_helpers.training import configs, estimate, inference, launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default="wishes_gemma3_270m_cpu", help="a name in configs/")
    parser.add_argument("--updates", type=int, default=40, help="of 4 wishes; the first 10 warm up")
    parser.add_argument("--plain", type=int, default=0, help="updates of a plain loop; the first warms up")
    parser.add_argument("--rows", type=Path, help="training rows; without, made-up wishes of some 80 tokens")
    parser.add_argument("--folder", type=Path, default=paths.run_dir() / "bench_cpu")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = args.rows or write_rows(args.folder / "rows.json", 4 * args.updates)
    dtype = inference.cpu_dtype()
    settings = {"data_path": rows, "max_rows": 4 * args.updates, "warmup_ratio": 0.1, "dtype": dtype}
    config = paths.CONFIGS / f"{args.config}.py"
    config = configs.write_config(config, args.folder / "config.py", every_n_iters=10**6, **settings)
    cfg = configs.load_config(config)
    configs.find_chat_hook(cfg).max_new_tokens = 1
    configs.dump(cfg, config)
    examples = read_examples(cfg, rows)
    tokens = sum(len(example["labels"]) for example in examples)
    answers = sum(label >= 0 for example in examples for label in example["labels"])
    pairs = sum(len(example["labels"]) * (len(example["labels"]) + 1) // 2 for example in examples)
    hf = json.loads((paths.resolve(cfg.pretrained_model_name_or_path) / "config.json").read_text())
    unneeded = hf["vocab_size"] * hf["hidden_size"] * (1 - answers / tokens)
    # a product with keys and one with values, each forward and twice backward
    width = hf["num_attention_heads"] * hf["head_dim"] if "head_dim" in hf else hf["hidden_size"]
    attention = 2 * 2 * 3 * hf["num_hidden_layers"] * width * pairs / tokens
    flops = estimate.flops_per_token(config) - 4 * unneeded + attention

    before = estimate.matmul_rate(dtype, seconds=3.0)
    used = os.times()
    result = launch.train(config, args.folder / "work", device="cpu", report=lambda _: None)
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
    }
    if args.plain:
        printed["plain_tokens_per_second"] = round(train_plainly(cfg, examples, dtype, args.plain))
    print(json.dumps(printed | {"load": os.getloadavg()[0]}))


def train_plainly(cfg, examples: list[dict], dtype: str, updates: int) -> float:
    """Return the tokens a second, without padding, of a loop that anybody would write."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    kinds = dict(cfg.model.llm.quantization_config) | {"bnb_4bit_compute_dtype": getattr(torch, dtype)}
    lora = dict(cfg.model.lora) | {"target_modules": "all-linear"}
    del kinds["type"], lora["type"]
    model = AutoModelForCausalLM.from_pretrained(
        paths.resolve(cfg.pretrained_model_name_or_path),
        dtype=getattr(torch, dtype),
        quantization_config=BitsAndBytesConfig(**kinds),
    )
    model = get_peft_model(model, LoraConfig(**lora)).train()
    trained = [part for part in model.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=cfg.optim_wrapper.optimizer.lr)
    batch, rates = cfg.train_dataloader.batch_size, []
    for first in range(0, batch * updates, batch):
        chosen = examples[first : first + batch]
        began = time.perf_counter()
        padded = {
            name: pad_sequence([torch.tensor(one[name]) for one in chosen], True, padding)
            for name, padding in (("input_ids", 0), ("labels", -100))
        }
        lengths = torch.tensor([len(one["labels"]) for one in chosen])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        model(**padded, attention_mask=mask.long()).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rates.append(int(lengths.sum()) / (time.perf_counter() - began))
    return statistics.median(rates[1:])


if __name__ == "__main__":
    main()
