"""Tiny random models for the tests, and a short real training of one."""

import pytest
import tiny_models
import torch

from tianji_helpers import records, wishes
from tianji_helpers.training import configs, launch

ROWS = [("姐姐", "生日"), ("赵老师", "春节"), ("妹妹", "谈判顺利"), ("领导", "元宵节")] * 4


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=GPU)])
def device(request):
    """Where a test computes that holds on a GPU as well."""
    return request.param


@pytest.fixture(scope="session")
def tokenizer(base_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_dir)


@pytest.fixture(scope="session")
def tiny_dir(base_dir, tokenizer, tmp_path_factory):
    """A random Gemma 3 of two narrow layers, in the shape of a prepared model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(base_dir)
    config.update(
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_attention_heads": 2,
            "head_dim": 32,
        }
    )
    folder = tmp_path_factory.mktemp("tiny") / "tiny-gemma"
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def internlm2_dir(tokenizer, tmp_path_factory):
    return tiny_models.save_internlm2(tmp_path_factory.mktemp("tiny") / "tiny-internlm2", tokenizer)


@pytest.fixture(scope="session")
def qwen2_dir(tokenizer, tmp_path_factory):
    """It has a bias in q, k and v, as the real one."""
    return tiny_models.save(tmp_path_factory.mktemp("tiny") / "tiny-qwen2", tokenizer, "qwen2")


@pytest.fixture(scope="session")
def qwen3_dir(tokenizer, tmp_path_factory):
    return tiny_models.save_qwen3(tmp_path_factory.mktemp("tiny") / "tiny-qwen3", tokenizer)


@pytest.fixture(scope="session")
def qwen3_bytes_dir(tmp_path_factory):
    """The same with a tokenizer of Qwen's own kind, which needs many tokens for little."""
    return tiny_models.save_qwen3(
        tmp_path_factory.mktemp("tiny") / "tiny-qwen3-bytes", tiny_models.qwen_tokenizer()
    )


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory):
    """Sixteen training rows, four different ones."""
    matrix = wishes.load()
    turns = [
        {
            "system": matrix.system,
            "input": matrix.request(*pair),
            "output": f"祝{pair[0]}{pair[1]}，万事如意！",
        }
        for pair in ROWS
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    records.write_conversations(path, turns)
    return path


@pytest.fixture(scope="session")
def trained(tiny_dir, rows_file, tmp_path_factory):
    """A short real training of the tiny model through XTuner."""
    folder = tmp_path_factory.mktemp("trained")
    config = configs.write_config(
        "configs/wishes_gemma3_270m_cpu.py",
        folder / "config.py",
        model_dir=tiny_dir,
        data_path=rows_file,
        validation_path=rows_file,
        max_epochs=5,
        warmup_ratio=0.2,
        every_n_iters=10,
        lora_r=8,
    )
    lines = []
    result = launch.train(config, folder / "work", report=lines.append)
    return result, lines


@pytest.fixture(scope="session")
def adapter_dir(trained, tmp_path_factory):
    """The adapter of that training."""
    result, _ = trained
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    return launch.pth_to_hf(result.config, result.checkpoint, folder, about={"seed": 7})


@pytest.fixture(scope="session")
def merged_dir(tiny_dir, adapter_dir, tmp_path_factory):
    """The tiny model with that adapter merged into it, in several files."""
    folder = tmp_path_factory.mktemp("merged") / "merged"
    return launch.merge(tiny_dir, adapter_dir, folder, max_shard_size="2MB")
