"""One matrix of a base model, and what an adapter adds to it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tianji_helpers.errors import CourseError
from tianji_helpers.training import matrices


@pytest.fixture
def model(tmp_path):
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": 3}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
    model.save_pretrained(tmp_path / "base")
    return model


@pytest.mark.parametrize("largest", [2048, 16])
def test_weight_plus_change_is_the_merged_weight(model, tmp_path, monkeypatch, largest):
    monkeypatch.setattr(matrices, "LARGEST", largest)
    name, weight = matrices.pick(tmp_path / "base")
    assert "mlp" in name and min(weight.shape) == min(24, largest)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=[name.rpartition(".")[2]]))
    layer = adapted.get_submodule(f"base_model.model.{name}")
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    adapted.save_pretrained(tmp_path / "adapter")
    layer.merge()
    merged = layer.base_layer.weight[:largest, :largest]
    assert torch.allclose(weight + matrices.change(tmp_path / "adapter", name), merged, atol=1e-5)
    with pytest.raises(CourseError, match="没有改动 nowhere"):
        matrices.change(tmp_path / "adapter", "nowhere")


def test_every_number_of_a_model_is_counted(model, tmp_path):
    counted = matrices.sizes(tmp_path / "base")
    assert counted == {name: value.numel() for name, value in model.state_dict().items()}


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CourseError, match="没有 safetensors"):
        matrices.pick(tmp_path)
