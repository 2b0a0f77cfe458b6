"""Speed and memory of QLoRA on one GPU: the original guide's config against ours, on one card.

    python tests/benchmarks/bench_gpu.py --model internlm2-chat-7b --run original --run ours:0:24

Both go through `tianji train`'s own function, with the same random weights (speed and memory do not
depend on their values), the same wishes of some 80 tokens packed to 2,048, and the same tokenizer.
A run is ``original`` (XTuner's template with the guide's changes), or ``ours:SHARE:LIMIT`` with the share
of layers computed again and the GB the process may use (0: no limit), or ``apart:SHARE:LIMIT``, the same
with wishes that begin otherwise each, so that no system prompt is computed once for all of them (both with
``:BATCH`` behind, the rows of a micro-batch, if not the config's), or
``full:BATCH``, all weights trained, with the rows of a micro-batch, or ``trl:CHOICES``, see ``peer_trl.py``
(Qwen only: TRL knows transformers' own architectures). ``NPROC_PER_NODE=2`` and
``--deepspeed deepspeed_zero3`` use two GPUs.
One JSON line a run: tokens/s of all GPUs, the share of them that is computed, peak memory of the first,
model FLOPs utilization of what is computed against this card's measured bf16 rate, and the floor of what
computes all tokens.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.nn import functional as F

from tianji_helpers import paths, records, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.training import configs, estimate, evaluation, inference, launch
from tianji_helpers.training.fast import packed_attention

ROWS = 16  # of 2,048 tokens an update, in both
INTERNLM2 = {
    "model_type": "internlm2",
    "architectures": ["InternLM2ForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_internlm2.InternLM2Config",
        "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
    },
    "bias": False,
    "vocab_size": 92544,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 8,
    "rope_theta": 1000000,
}
QWEN3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 32768}
QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 32768}
SHAPES = {
    "internlm2-chat-7b": INTERNLM2
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "internlm2-chat-1_8b": INTERNLM2
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    "qwen2.5-7b-instruct": QWEN2
    | {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "qwen3-8b": QWEN3
    | {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "qwen3-4b": QWEN3
    | {
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b-instruct": QWEN2
    | {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


def make_model(name: str, folder: Path, tokenizer_dir: Path, layers: int) -> Path:
    """Write a model with random weights in hub layout and return its folder."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if (folder / "tokenizer_config.json").is_file():  # written after the model
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = SHAPES[name] | ids | ({"num_hidden_layers": layers} if layers else {})
    if "auto_map" in shape:
        source = Path(find_spec("xtuner").origin).parent / "_lite" / "modelings" / "internlm2"
        for file in ("configuration_internlm2.py", "modeling_internlm2.py"):
            shutil.copy(source / file, folder)
    (folder / "config.json").write_text(json.dumps(shape))
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder


def write_rows(path: Path, count: int, apart: bool = False) -> Path:
    """Write that many wishes of about 80 tokens; apart: they don't begin alike."""
    matrix = wishes.load()
    blessing = "愿你的每一天都像今天这样明亮，心里有光，脚下有路，身边有人；愿所求皆如愿，所行皆坦途。"
    pairs = [(recipient, scene) for recipient in matrix.recipients for scene in matrix.scenes]
    turns = []
    for number in range(count):
        recipient, scene = pairs[number % len(pairs)]
        answer = f"{recipient}，{scene}！" + blessing[: 30 + number % 17]
        system = f"{number}{matrix.system}" if apart else matrix.system
        turns.append({"system": system, "input": matrix.request(recipient, scene), "output": answer})
    records.write_conversations(path, turns)
    return path


def read_examples(cfg, rows: Path) -> list[dict]:
    """Return the rows' ``input_ids`` and ``labels`` as training sees them."""
    tokenizer = inference.load_tokenizer(cfg.tokenizer.pretrained_model_name_or_path)
    return [
        evaluation.encode(tokenizer, turn, "internlm2_chat", cfg.train_dataloader.dataset.max_length)
        for turn in evaluation.read_turns(rows)
    ]


def computed_share(examples: list[dict], together: int) -> float:
    """Return how many of the tokens are computed where so many samples share what they begin with."""
    computed = 0
    for first in range(0, len(examples), together):
        batch = examples[first : first + together]
        ids = torch.tensor([token for example in batch for token in example["input_ids"]])
        unneeded = torch.tensor([label < 0 for example in batch for label in (*example["labels"][1:], -100)])
        lengths = torch.tensor([len(example["labels"]) for example in batch])
        boundaries = F.pad(lengths.cumsum(0), (1, 0))
        prefix = packed_attention.find_shared_prefix(ids, unneeded, boundaries, int(lengths.max()))
        computed += len(ids if prefix is None else prefix.kept)
    return computed / sum(len(example["labels"]) for example in examples)


def original_config(model_dir: Path, rows: Path, target: Path) -> Path:
    """Write the guide's config: XTuner's template with the changes that the guide makes."""
    from xtuner.configs import cfgs_name_path

    cfg = configs.load_config(cfgs_name_path["internlm2_chat_7b_qlora_oasst1_e3"])
    for part in (cfg.tokenizer, cfg.model.llm, cfg.train_dataloader.dataset.tokenizer):
        part.pretrained_model_name_or_path = str(model_dir)
    for hook in cfg.custom_hooks:
        hook.tokenizer.pretrained_model_name_or_path = str(model_dir)
    dataset = cfg.train_dataloader.dataset
    dataset.dataset = {
        "type": "datasets.load_dataset",
        "path": "json",
        "data_files": {"train": str(rows)},
    }
    dataset.dataset_map_fn = None
    cfg.dump(str(target))
    return target


def shorten(config: Path, updates: int) -> int:
    """Cut a config to some updates, log each, sample next to nothing; return the tokens of an iteration."""
    cfg = configs.load_config(config)
    count = cfg.optim_wrapper.accumulative_counts
    cfg.train_cfg.pop("max_epochs")
    cfg.train_cfg.max_iters = updates * count
    cfg.default_hooks.logger.interval = count
    cfg.log_processor = {"by_epoch": False, "window_size": count}
    cfg.default_hooks.checkpoint.update({"interval": 10**6, "save_last": False})  # 100 GB and more
    configs.find_chat_hook(cfg).update({"max_new_tokens": 4, "every_n_iters": 10**6})
    cfg.dump(str(config))
    return cfg.train_dataloader.batch_size * cfg.train_dataloader.dataset.max_length


def train(config: Path, work_dir: Path, limit_gb: float, deepspeed: str | None) -> dict:
    """Train and return seconds an iteration and the peak of allocated memory in GB."""
    if limit_gb:
        total = torch.cuda.mem_get_info()[1]
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = f"per_process_memory_fraction:{limit_gb * 1e9 / total:.6f}"
    else:
        os.environ.pop("PYTORCH_CUDA_ALLOC_CONF", None)
    try:
        launch.train(config, work_dir, deepspeed=deepspeed, report=lambda line: None)
    except CourseError as error:
        if "iter_*.pth" not in str(error):  # the benchmark saves none
            raise
    points = []
    for file in work_dir.glob("*/vis_data/scalars.json"):
        points += [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    points = [point for point in points if "loss" in point]
    return {
        "seconds": statistics.mean(point["time"] for point in points[1:]),  # the first one warms up
        "peak_gb": max(point["memory"] for point in points) * 2**20 / 1e9,
        "loss": [round(point["loss"], 3) for point in points],
    }


def train_peer(model_dir: Path, rows: Path, choices: str, updates: int) -> dict:
    """Train with TRL and return what it prints."""
    command = [
        sys.executable,
        Path(__file__).with_name("peer_trl.py"),
        model_dir,
        rows,
        choices,
        str(updates),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="internlm2-chat-7b")
    parser.add_argument(
        "--run", action="append", required=True, metavar="original|ours:…|apart:…|full:…|trl:…"
    )
    parser.add_argument(
        "--updates", type=int, default=5, help="of 16 rows of 2,048 tokens; the first warms up"
    )
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than the model has")
    parser.add_argument("--tokenizer", type=Path, default=paths.models_dir() / "gemma-3-270m")
    parser.add_argument("--folder", type=Path, default=paths.run_dir() / "bench_gpu")
    parser.add_argument("--deepspeed", metavar="NAME")
    args = parser.parse_args()
    gpus = int(os.environ.get("NPROC_PER_NODE", "1"))
    model_dir = make_model(args.model, args.folder / args.model, args.tokenizer, args.layers)
    rate = estimate.matmul_rate("bfloat16", "cuda") if torch.cuda.is_available() else float("nan")
    for run in args.run:
        kind, *numbers = run.split(":")
        config = args.folder / f"{kind}.py"
        apart = kind == "apart"
        rows = write_rows(args.folder / "rows.json", (args.updates * ROWS + 240) * 32, apart)
        if kind == "original":
            original_config(model_dir, rows, config)
        else:
            name = args.model.replace("-", "_").replace(".", "_")
            base = paths.CONFIGS / f"wishes_{name}{'_full' if kind == 'full' else ''}.py"
            configs.write_config(base, config, model_dir=model_dir, data_path=rows)
            cfg = configs.load_config(config)
            if kind in ("ours", "apart"):
                cfg.model.recompute_share = float(numbers[0])
            if kind == "full" or len(numbers) > 2:
                cfg.train_dataloader.batch_size = int(numbers.pop())
                cfg.optim_wrapper.accumulative_counts = ROWS // (gpus * cfg.train_dataloader.batch_size)
            cfg.dump(str(config))
        tokens = shorten(config, args.updates)
        limit = float(numbers[1]) if kind in ("ours", "apart") else 0.0
        result = {"model": args.model, "run": run, "gpu": torch.cuda.get_device_name(0), "gpus": gpus}
        try:
            if kind == "trl":
                result |= train_peer(model_dir, rows, numbers[0], args.updates)
            else:
                result |= train(config, args.folder / "work", limit, args.deepspeed)
                result["tokens_per_second"] = gpus * tokens / result.pop("seconds")
        except Exception as error:  # one failed run must not cost the others their figures
            print(json.dumps(result | {"error": str(error)[-1500:]}, ensure_ascii=False), flush=True)
            continue
        flops = estimate.flops_per_token(config)
        share = 1.0
        if kind in ("ours", "apart", "full"):
            cfg = configs.load_config(config)
            examples = read_examples(cfg, rows)[:1000]
            length = statistics.mean(len(example["labels"]) for example in examples)
            together = cfg.train_dataloader.batch_size * cfg.train_dataloader.dataset.max_length / length
            share = computed_share(examples, round(together))
        result |= {
            "computed_share": share,
            "mfu": result["tokens_per_second"] * flops * share / (gpus * rate),
        }
        result |= {"bf16_tflops": rate / 1e12, "floor_tokens_per_second": rate / flops}
        if kind in ("ours", "apart", "full"):
            result["estimate_gb"] = estimate.estimate(
                config, deepspeed=args.deepspeed, devices=gpus
            ).tensors_gb
        print(json.dumps(result, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
