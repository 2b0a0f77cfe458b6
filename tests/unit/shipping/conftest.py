"""A run of the course that was never run: a small merged model and what the stages record."""

import json

import numpy
import pytest
from safetensors.numpy import save_file

from tianji_helpers import records

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"
SETTINGS = {"max_epochs": 1, "lora_alpha": 16, "lora_r": 64, "lr": 0.002, "seed": 42, "load_in_4bit": True}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of the course with a small merged model, and everything that the stages record."""
    monkeypatch.setenv("TIANJI_MODELS_DIR", str(tmp_path / "models"))
    base = tmp_path / "models" / "gemma-3-270m"
    base.mkdir(parents=True)
    (base / "GEMMA_TERMS.html").write_text("terms")
    folder = tmp_path / "run"
    merged = folder / "06_merge_chat" / "wishes" / "merged"
    merged.mkdir(parents=True)
    for seed, name in enumerate(SHARDS):
        weights = numpy.random.default_rng(seed).standard_normal((64, 300))
        save_file({f"layer.{seed}": weights}, merged / name, metadata={"format": "pt"})
    index = {f"layer.{seed}": name for seed, name in enumerate(SHARDS)}
    (merged / INDEX).write_text(json.dumps({"weight_map": index}))
    (merged / "config.json").write_text('{"model_type": "gemma3_text"}')
    (merged / "tokenizer.json").write_text('{"model": {"vocab": {"/home": 1, "祝": 2}}}')
    records.write_provenance(
        merged,
        stage="06_merge_chat",
        parameters={"task": "wishes", "base_model": "gemma-3-270m", "system": "你是送祝福大师"},
    )
    data = folder / "02_merge_clean" / "wishes_train.json"
    records.write_json(data, [])
    records.write_provenance(data, stage="02_merge_clean", parameters={}, counts={"train": 1123, "test": 95})
    rounds = folder / "01_synthesis" / "wishes_正常_2026-01-01-00-00-00.json"
    records.write_json(rounds, [])
    records.write_provenance(rounds, stage="01_synthesis", parameters={"model": "recorded-large"})
    trained = folder / "05_training" / "wishes"
    trained.mkdir(parents=True)
    records.write_json(
        records.provenance_path(trained / "work"),
        {
            "parameters": {"task": "wishes", "settings": SETTINGS},
            "counts": {"iterations": 280},
            "inputs": {"02_merge_clean/wishes_train.json": "0"},
            "versions": {"xtuner": "0.2.0"},
        },
    )
    never, always = ({"value": share, "low": share, "high": share} for share in (0.0, 1.0))
    nothing = {"value": None, "low": None, "high": None}
    found = {"faultless": never, "fault_unstopped": always, "quality": nothing}
    measured = {"loss": 4.494, "figures": found, "rows": [{}] * 32}
    metrics = {"task": "wishes", "base_model": "gemma-3-270m", "before": measured}
    better = {"value": 0.94, "low": 0.88, "high": 0.99}
    found = {
        "faultless": better,
        "fault_unstopped": never,
        "quality": {"value": 0.213, "low": 0.2, "high": 0.22},
    }
    after = measured | {"loss": 1.2, "figures": found}
    records.write_json(trained / "metrics.json", metrics | {"after": after})
    rows = [{"request": "祝姐姐生日|快乐", "before": "祝你\n" * 60, "after": "姐姐，生日快乐！"}]
    records.write_json(merged.parent / "comparison.json", rows)
    return folder


@pytest.fixture
def merged(run):
    return run / "06_merge_chat" / "wishes" / "merged"
