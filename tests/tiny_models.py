"""Random models of two narrow layers: real folders in which nothing was learned."""

import json
import shutil
from pathlib import Path


def save(folder: Path, tokenizer, model_type: str, **settings) -> Path:
    """Write a model of an architecture that transformers knows; ``settings`` go into its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **_shape(tokenizer) | settings)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_internlm2(folder: Path, tokenizer) -> Path:
    """Write InternLM2 as the hub lays it out: with its own code, which the course does not run."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tianji_helpers.training import internlm2

    internlm2.register()
    folder.mkdir()
    source = internlm2.architecture()
    for name in ("configuration_internlm2.py", "modeling_internlm2.py"):
        shutil.copy(source / name, folder)
    settings = {
        "model_type": "internlm2",
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_internlm2.InternLM2Config",
            "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
        },
        "bias": False,
    }
    (folder / "config.json").write_text(json.dumps(_shape(tokenizer) | settings))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _shape(tokenizer) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
