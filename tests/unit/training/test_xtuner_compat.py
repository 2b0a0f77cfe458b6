"""The work-arounds: exact gradients after an evaluation, and a loss equal to the library's own."""

import copy
import subprocess
import sys

import mmengine.config.config
import pytest
import torch
from mmengine.config import Config
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.cache_utils import Cache, DynamicCache

from tianji_helpers.training import xtuner_compat

xtuner_compat.apply()


@pytest.fixture
def quantized(base_dir):
    """The embedded model in NF4 with LoRA whose B matrices are not zero."""
    torch.manual_seed(0)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(
        base_dir, quantization_config=quantization, dtype=torch.bfloat16
    )
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def lora_gradients(model, tokens):
    model.zero_grad()
    model.train()
    model(input_ids=tokens, labels=tokens).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def dequantized_copy(model):
    """The same model with plain linear layers that hold the de-quantized weights."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    reference = copy.deepcopy(model)
    for parent in list(reference.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear4bit):
                weight = dequantize_4bit(child.weight.data, child.weight.quant_state)
                plain = torch.nn.Linear(*weight.shape[::-1], bias=False, dtype=torch.bfloat16)
                plain.weight = torch.nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
                setattr(parent, name, plain)
    return reference


def test_gradients_after_an_evaluation_equal_a_dequantized_reference(quantized, tokenizer):
    tokens = torch.tensor([tokenizer.encode("祝姐姐生日快乐，愿你平安喜乐，万事如意！")])
    expected = lora_gradients(dequantized_copy(quantized), tokens)
    quantized.eval()
    with torch.inference_mode():
        quantized(input_ids=tokens)
    found = lora_gradients(quantized, tokens)
    assert found.keys() == expected.keys() and len(found) == 72
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm() / gradient.norm()
        assert error < 0.05, f"{name}: {error:.3f}"


def test_saving_after_an_evaluation_keeps_the_quantized_weights(quantized, tokenizer):
    before = {k: v.clone() for k, v in quantized.state_dict().items() if "base_layer" in k}
    quantized.eval()
    with torch.inference_mode():
        quantized(input_ids=torch.tensor([tokenizer.encode("你好")]))
    after = quantized.state_dict()
    assert before and all(torch.equal(after[key], value) for key, value in before.items())


def test_loss_equals_the_librarys_own(tiny_dir):
    from mmengine.config import ConfigDict

    llm = ConfigDict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=str(tiny_dir),
        torch_dtype=torch.float32,
    )
    model = xtuner_compat.SupervisedFinetune(llm=llm, use_activation_checkpointing=False)
    torch.manual_seed(0)
    input_ids = torch.randint(300, 20_000, (3, 12))
    labels = input_ids.clone()
    labels[0, :5], labels[1, :8], labels[2, :] = -100, -100, -100
    labels[1, 11:] = -100
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    mask[1, 11:] = False
    data = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
    expected = model.llm(**data).loss
    torch.testing.assert_close(model.compute_loss(dict(data))["loss"], expected, rtol=1e-5, atol=1e-6)


def test_cache_has_the_method_of_internlm2s_code():
    assert DynamicCache().get_max_length() is None
    assert callable(Cache.get_max_length)


def test_torch_cpu_answers_xtuners_question():
    assert torch.cpu.is_bf16_supported()


def test_a_config_is_laid_out_once(monkeypatch):
    laid_out = []
    layout = mmengine.config.config.FormatCode

    def counted(text, **style):
        laid_out.append(text)
        return layout(text, **style)

    monkeypatch.setattr(mmengine.config.config, "FormatCode", counted)
    xtuner_compat.format_configs_once()
    config = Config({"model": {"name": "m" * 90}})
    assert config.pretty_text == config.pretty_text
    assert config.pretty_text.split() == ["model", "=", "dict(", "name=", f"'{'m' * 90}'", ")"]
    assert len(laid_out) == 1
    config.model.name = "other"
    assert "other" in config.pretty_text and len(laid_out) == 2


@pytest.mark.slow
def test_no_compiler_is_loaded_to_train():
    code = "import sys, tianji_helpers.training.xtuner_compat as _, bitsandbytes as _\n"
    code += "assert 'torch._inductor.compile_fx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
