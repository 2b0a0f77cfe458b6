"""Random models of two narrow layers: real folders in which nothing was learned."""

import json
import shutil
from pathlib import Path

# what Qwen3's own template does, in short
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def save(folder: Path, tokenizer, model_type: str, **settings) -> Path:
    """Write a model of an architecture that transformers knows; ``settings`` go into its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **_shape(tokenizer) | settings)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def link(model_dir: Path, folder: Path) -> Path:
    """Make a folder that holds a model's files, so that others may stand in it and beside it."""
    folder.mkdir()
    for file in model_dir.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def save_qwen3(folder: Path, tokenizer) -> Path:
    """Write Qwen3 as the hub lays it out, with a template that thinks, and prepare it as the course does."""
    from tianji_helpers.training import models

    save(folder, tokenizer, "qwen3", head_dim=16)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": THINKS}))
    models._put_chat_template(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """Write CLIP as the hub lays it out: both halves, in a pickle; 16 places a picture."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from tianji_helpers import records

    both = {"intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {**both, "hidden_size": 32, "vocab_size": 99, "max_position_embeddings": 8}
    config = CLIPConfig(text, {**both, "hidden_size": 48, "image_size": 56, "patch_size": 14})
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder, safe_serialization=False)
    pixels = {"crop_size": {"height": 56, "width": 56}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    records.write_json(folder / "preprocessor_config.json", pixels)
    return folder


def give_eyes(folder: Path) -> Path:
    """Put a random projector and CLIP's tower into a model's folder, as lesson 7 leaves it."""
    import torch
    from xtuner.model.modules import ProjectorConfig, ProjectorModel

    from tianji_helpers.training import models

    models._keep_tower(save_clip(folder / "tower"))
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    torch.manual_seed(0)
    projector = ProjectorModel(ProjectorConfig(visual_hidden_size=48, llm_hidden_size=width, depth=2))
    with torch.no_grad():
        projector.model[-1].weight *= 30  # to be heard
    projector.save_pretrained(folder / "projector")
    return folder


def qwen_tokenizer():
    """Make a tokenizer of Qwen's kind: bytes, no token that begins a text, ``<think>`` in the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import Qwen2TokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    spelled.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelled.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    tokenizer = Qwen2TokenizerFast(tokenizer_object=spelled, **special)
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


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
