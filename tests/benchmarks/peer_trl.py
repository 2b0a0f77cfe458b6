"""The peer of ``bench_gpu.py``: QLoRA by transformers, PEFT and TRL's SFTTrainer at the same settings.

    python tests/benchmarks/peer_trl.py MODEL_DIR ROWS.json flash+liger 5

``bench_gpu.py --run trl:flash+liger`` starts it on its own model and rows: NF4 with double quantization,
rank 64 on all matrices but the head, 4 rows of 2,048 tokens packed with TRL's own best-fit, 4 such
batches an update, bfloat16, gradient checkpointing. ``sdpa`` is transformers' default attention;
``flash`` is what TRL recommends for packing, FlashAttention 2 on variable lengths (flash-attn comes as
source only; PyTorch has the same kernels); ``+liger`` turns on TRL's ``use_liger_kernel``; ``unsloth``
lets Unsloth load the model, lay its adapter on and patch TRL, with its own gradient checkpointing.
Prints one JSON line. Neither is in the lock: ``pip install trl==1.16.0``, or ``unsloth==2026.10.9`` in an
environment of its own (it wants other versions).
"""

import json
import statistics
import sys
import time

if any("unsloth" in word for word in sys.argv[3:4]):
    from unsloth import FastLanguageModel  # patches what is imported after it

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn.attention.varlen import varlen_attn
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer
from xtuner.utils import PROMPT_TEMPLATE

from tianji_helpers import records


def flash_attention(module, query, key, value, attention_mask, position_ids=None, **kwargs):
    """Attend within each sample, found by its positions, as transformers' flash_attention_2 does."""
    starts = (position_ids.flatten() == 0).nonzero().squeeze(1)
    boundaries = torch.cat([starts, starts.new_tensor([position_ids.numel()])]).int()
    longest = int(boundaries.diff().max())
    query, key, value = (part.transpose(1, 2)[0].contiguous() for part in (query, key, value))
    lengths = (boundaries, boundaries, longest, longest)
    return varlen_attn(query, key, value, *lengths, window_size=(-1, 0))[None], None


class Clock(TrainerCallback):
    """Note when each update ends."""

    def __init__(self):
        self.times = []

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def load(model_dir: str, choices: str):
    """Return a model in 4 bits, and the adapter that TRL is to lay on it, if it has none yet."""
    rank = {"r": 64, "lora_alpha": 16}
    if "unsloth" in choices:
        model, _ = FastLanguageModel.from_pretrained(
            model_dir, max_seq_length=2048, dtype=torch.bfloat16, load_in_4bit=True, local_files_only=True
        )
        parts = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        return FastLanguageModel.get_peft_model(
            model, **rank, target_modules=parts, use_gradient_checkpointing="unsloth"
        ), None
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
    )
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, quantization_config=quantization, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    if "flash" in choices:
        AttentionInterface.register("flash_attention_2", flash_attention)
        model.config._attn_implementation = "flash_attention_2"
    return model, LoraConfig(**rank, target_modules="all-linear", task_type="CAUSAL_LM")


def main(model_dir: str, rows: str, choices: str, updates: str) -> None:
    template = PROMPT_TEMPLATE.internlm2_chat
    examples = [
        {
            "prompt": template.SYSTEM.format(system=turn["system"])
            + template.INSTRUCTION.format(input=turn["input"]),
            "completion": turn["output"] + template.SUFFIX,
        }
        for turn in records.read_conversations(rows)
    ]
    model, adapter = load(model_dir, choices)
    clock = Clock()
    trainer = SFTTrainer(
        model,
        train_dataset=Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(model_dir),
        peft_config=adapter,
        callbacks=[clock],
        args=SFTConfig(
            output_dir="/tmp/peer_trl",
            max_length=2048,
            packing=True,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            gradient_checkpointing="unsloth" not in choices,  # it has its own
            bf16=True,
            use_liger_kernel="liger" in choices,
            learning_rate=2e-4,
            optim="adamw_torch_fused",
            max_steps=int(updates),
            logging_steps=1,
            save_strategy="no",
            report_to=[],
        ),
    )
    packed = trainer.train_dataset
    length = statistics.mean(len(ids) for ids in packed["input_ids"])
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    seconds = (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1)  # the first update warms up
    result = {
        "tokens_per_second": 16 * length / seconds,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "loss": [round(point["loss"], 3) for point in trainer.state.log_history if "loss" in point],
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
