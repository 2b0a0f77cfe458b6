"""The fast paths compute what the plain ones compute, on the architectures that they know."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes import functional
from mmengine.config import ConfigDict
from peft import LoraConfig
from peft.tuners.lora.bnb import Linear4bit
from psutil import Process
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from tianji_helpers.training import fast, xtuner_compat
from tianji_helpers.training.fast import acceleration, operations, packed_attention

LENGTHS = (5, 9, 4, 14, 6)


@pytest.fixture(params=["internlm2_dir", "qwen2_dir", "qwen3_dir", "tiny_dir"])
def build(request):
    """A function that builds the model of a config: 4-bit, LoRA with B that is not zero.

    In float32 on a CPU, in bfloat16 on a GPU, which has no other attention within samples.
    """
    folder = request.getfixturevalue(request.param)

    def make(device="cpu", targets=None, **settings):
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        quantization = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_use_double_quant": True,
        }
        llm = ConfigDict(
            type=AutoModelForCausalLM.from_pretrained,
            pretrained_model_name_or_path=str(folder),
            trust_remote_code=False,
            torch_dtype=dtype,
            device_map={"": device},
            quantization_config={"type": BitsAndBytesConfig, **quantization},
        )
        lora = ConfigDict(
            type=LoraConfig,
            r=4,
            lora_alpha=8,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
            target_modules=targets,
        )
        model = xtuner_compat.SupervisedFinetune(
            llm=llm, lora=lora, use_activation_checkpointing=False, **settings
        )
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                # XTuner gives InternLM2's head an adapter too: here it does nothing
                torch.nn.init.normal_(parameter, std=0.0 if ".output." in name else 0.1)
        return model.train()

    # liger-kernel puts its GPU functions there, for every later model
    kept = [(vars(module), dict(vars(module))) for module in (modeling_qwen2, modeling_qwen3)]
    yield make
    for names, before in kept:
        names.update(before)


def samples(device="cpu", alike=0):
    """Prompts of 3 tokens and answers; all but two that are cut begin with the same ``alike`` tokens."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(300, 20_000, (1, length), generator=generator).to(device) for length in LENGTHS]
    for row in (rows[1], rows[3]):
        row[:, :alike] = rows[4][:, :alike]
    return [(row, torch.where(torch.arange(row.shape[1], device=device) < 3, -100, row)) for row in rows]


def ends(device="cpu"):
    return torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32, device=device)


def packed(rows):
    device = rows[0][0].device
    return {
        "input_ids": torch.cat([ids for ids, _ in rows], dim=1),
        "labels": torch.cat([labels for _, labels in rows], dim=1),
        "position_ids": torch.cat([torch.arange(length, device=device)[None] for length in LENGTHS], dim=1),
        "cumulative_len": [ends(device)],
        "max_seqlen": max(LENGTHS),
    }


def test_joined_rows_are_the_samples_of_all_rows():
    rows = [
        {
            "input_ids": list(range(5)),
            "labels": [7, 1, -100, 3, 4],
            "position_ids": [0, 1, 0, 1, 2],
            "cumulative_len": [0, 2, 5],
        },
        {"input_ids": [8, 9], "labels": [8, 9], "position_ids": [0, 1], "cumulative_len": [0, 2]},
    ]
    data = xtuner_compat.join_packed_rows(rows)["data"]
    assert data["input_ids"].tolist() == [[0, 1, 2, 3, 4, 8, 9]]
    assert data["labels"].tolist() == [[-100, 1, -100, 3, 4, -100, 9]]
    assert data["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 1]]
    assert data["cumulative_len"][0].tolist() == [0, 2, 5, 7] and data["max_seqlen"] == 3
    assert data["cumulative_len"][0].dtype == torch.int32


def test_joined_samples_are_packed_without_padding():
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8, 9], "labels": [8, 9]}]
    data = xtuner_compat.join_samples(rows)["data"]
    assert data["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert data["labels"].tolist() == [[-100, 6, 7, -100, 9]]
    assert data["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert data["cumulative_len"][0].tolist() == [0, 3, 5] and data["max_seqlen"] == 3


def shared_prefix(alike, device="cpu"):
    ids = torch.cat([ids for ids, _ in samples(device, alike)], dim=1)[0]
    unneeded = torch.ones_like(ids, dtype=torch.bool)
    return packed_attention.find_shared_prefix(ids, unneeded, ends(device), max(LENGTHS))


def test_what_samples_begin_with_alike_is_computed_once():
    assert shared_prefix(0) is None
    prefix = shared_prefix(3)
    assert prefix.kept.tolist() == [*range(18), *range(21, 32), 35, 36, 37]
    assert prefix.places.tolist() == [*range(18), 5, 6, 7, *range(18, 29), 5, 6, 7, 29, 30, 31]
    assert prefix.boundaries.tolist() == [0, 5, 14, 18, 29, 32]
    assert prefix.copies.tolist() == [[18, 19, 20], [32, 33, 34]] and prefix.rows == slice(5, 8)


def test_of_what_samples_begin_with_alike_only_what_no_answer_needs_is_shared():
    ids = torch.tensor([7, 7, 7, 7, 7, 7, 7, 7])
    unneeded = torch.tensor([True, True, False, False, True, False, False, False])
    boundaries = torch.tensor([0, 4, 8], dtype=torch.int32)
    prefix = packed_attention.find_shared_prefix(ids, unneeded, boundaries, 4)
    assert prefix.copies.tolist() == [[4]]
    assert packed_attention.find_shared_prefix(ids, ~unneeded, boundaries, 4) is None
    assert packed_attention.find_shared_prefix(ids[:4], unneeded[:4], boundaries[:2], 4) is None


@pytest.mark.parametrize("alike", [0, 3])
@pytest.mark.parametrize("together", [512, 12])
@pytest.mark.parametrize("window", [None, 5])
def test_attention_looks_back_as_far_as_its_window_and_not_into_other_samples(
    window, together, alike, device, monkeypatch
):
    monkeypatch.setattr(packed_attention, "_TOGETHER", together)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    boundaries, prefix = ends(device), shared_prefix(alike, device)
    every = torch.arange(sum(LENGTHS), device=device)
    kept, places = (prefix.kept, prefix.places) if prefix else (every, every)
    shapes = ((1, heads, len(kept), 64) for heads in (4, 2, 2))
    query, key, value = (
        torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes
    )
    sample = torch.bucketize(every, boundaries[1:], right=True)
    seen = (sample[:, None] == sample).tril()
    if window:
        seen = seen.triu(1 - window)
    queries, keys, values = (part[:, :, places].float() for part in (query, key, value))
    keys, values = (part.repeat_interleave(2, 1) for part in (keys, values))
    scores = (queries @ keys.mT * 0.3).masked_fill(~seen, float("-inf"))
    expected = (scores.softmax(-1) @ values).transpose(1, 2)[:, kept]
    packing = packed_attention.Packing(boundaries, max(LENGTHS), prefix)
    found = packed_attention.attend(query, key, value, packing, scale=0.3, window=window)
    up = torch.randn_like(expected)
    pairs = [(found, expected)]
    pairs += zip(
        *(torch.autograd.grad(out, (query, key, value), up.to(out.dtype)) for out in (found, expected)),
        strict=True,
    )
    for ours, theirs in pairs:
        error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert error < (1e-5 if device == "cpu" else 1e-2)


def gradients(model):
    return {name: part.grad for name, part in model.named_parameters() if part.grad is not None}


@pytest.mark.parametrize(("recompute_share", "alike"), [(0.0, 0), (0.0, 3), (0.5, 3), (1.0, 0)])
def test_packed_samples_give_the_loss_and_gradients_of_each_alone(
    build, recompute_share, alike, device, monkeypatch
):
    monkeypatch.setattr(operations, "_ROUND", 1)
    rows = samples(device, alike)
    plain = build(device)
    losses = [
        torch.nn.functional.cross_entropy(
            plain.llm(input_ids=ids).logits[0, :-1], labels[0, 1:], reduction="sum"
        )
        for ids, labels in rows
    ]
    count = sum(int((labels[:, 1:] != -100).sum()) for _, labels in rows)
    expected = sum(losses) / count
    expected.backward()
    model = build(device, fused=True, recompute_share=recompute_share)
    computed = []
    embeddings = model._causal_lm().get_input_embeddings()
    embeddings.register_forward_hook(lambda layer, inputs, out: computed.append(out.shape[1]))
    loss = model.compute_loss(packed(rows))["loss"]
    loss.backward()
    # the third token of what begins alike is needed: an answer follows
    assert computed == [sum(LENGTHS) - 2 * max(0, alike - 1)]
    exact = device == "cpu"  # bfloat16 has three digits
    torch.testing.assert_close(loss.float(), expected.float(), rtol=1e-4 if exact else 1e-2, atol=1e-5)
    found, wanted = gradients(model), gradients(plain)
    assert len(found) >= 2 * 2 * 5
    for name, gradient in found.items():
        error = (gradient - wanted[name]).norm() / wanted[name].norm()
        assert error < (1e-3 if exact else 0.1), f"{name}: {error:.2e}"


@pytest.mark.parametrize("build", ["tiny_dir"], indirect=True)
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["up_proj"]])
def test_layers_without_an_adapter_stand_beside_those_with_one(build, targets):
    rows = packed(samples())
    losses = []
    for fused in (False, True):
        model = build(targets=targets, fused=fused)
        ids, labels = rows["input_ids"][:, :9], rows["labels"][:, :9]
        data = {"input_ids": ids, "labels": labels, "position_ids": rows["position_ids"][:, :9]}
        packing = {"cumulative_len": [torch.tensor([0, 9], dtype=torch.int32)], "max_seqlen": 9}
        mask = {"attention_mask": torch.ones_like(ids)}
        losses.append(model.compute_loss(data | (packing if fused else mask))["loss"])
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", ["tiny_dir"], indirect=True)
def test_a_matrix_is_multiplied_alike_however_it_is_laid_out(build, monkeypatch):
    rows = packed(samples())
    expected = build(fused=True).compute_loss(rows)["loss"]
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(build(fused=True).compute_loss(rows)["loss"], expected)


@pytest.mark.parametrize("build", ["qwen2_dir", "tiny_dir"], indirect=True)
def test_a_larger_model_keeps_each_matrix_once_and_learns_the_same(build, monkeypatch):
    rows, measured = packed(samples()), []
    for most in (acceleration.LEAN_FROM, 0):
        monkeypatch.setattr(acceleration, "LEAN_FROM", most)
        model = build(fused=True)
        loss = model.compute_loss(rows)["loss"]
        loss.backward()
        measured.append((loss, gradients(model)))
    assert list(model.answer_loss.frozen_head.kept) == ["plain"]
    (expected, wanted), (loss, found) = measured
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=1e-3)  # bfloat16 has three digits
    for name, gradient in found.items():
        error = (gradient - wanted[name]).norm() / wanted[name].norm()
        assert error < 0.05, f"{name}: {error:.2e}"


def test_a_larger_model_answers_by_what_it_keeps_and_packs_nothing(build, monkeypatch):
    monkeypatch.setattr(acceleration, "LEAN_FROM", 0)
    layer = next(module for module in build(fused=True).modules() if isinstance(module, Linear4bit))
    x, called = torch.randn(3, layer.base_layer.in_features), []
    original = operations.LinearsWithAdapters.apply
    monkeypatch.setattr(
        operations.LinearsWithAdapters, "apply", lambda *args: called.append(1) or original(*args)
    )
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), layer.train()(x))
        assert len(called) == 2 and "_weight_before_packing" not in layer.base_layer.__dict__


def test_no_weight_keeps_the_models_file_in_memory(qwen2_dir, tmp_path):
    """Weights are read as views of the mapped file, and one such view keeps all of it."""
    folder = shutil.copytree(qwen2_dir, tmp_path / "model")

    def is_mapped():
        return any(one.path.startswith(str(folder)) for one in Process().memory_maps())

    llm = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    expected = {name: value.clone() for name, value in llm.state_dict().items()}
    assert is_mapped()
    acceleration.accelerate(llm, llm)
    assert not is_mapped()
    assert all(torch.equal(value, expected[name]) for name, value in llm.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_unpacks_weights_bit_for_bit_as_bitsandbytes_does():
    from tianji_helpers.training.fast import four_bit_gpu

    for shape in ((96, 320), (1000, 4096)):
        weight = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        expected = functional.dequantize_4bit(packed, state)
        assert torch.equal(four_bit_gpu.unpack(packed, state, torch.bfloat16), expected)


def test_a_batch_without_answers_costs_nothing(build):
    rows = packed(samples())
    rows["labels"] = torch.full_like(rows["labels"], -100)
    model = build(fused=True)
    loss = model.compute_loss(rows)["loss"]
    loss.backward()
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients(model).values())


def test_samples_of_a_pack_do_not_see_each_other(build):
    model = build(fused=True)
    rows = samples()
    rows[0] = (rows[0][0], torch.full_like(rows[0][1], -100))
    expected = model.compute_loss(packed(rows))["loss"]
    rows[0] = (rows[0][0].flip(1), rows[0][1])
    torch.testing.assert_close(model.compute_loss(packed(rows))["loss"], expected)


def test_loss_is_the_same_after_an_evaluation(build):
    model = build(fused=True)
    rows = packed(samples())
    expected = model.compute_loss(rows)["loss"]
    with torch.inference_mode():
        model.eval().llm(input_ids=rows["input_ids"])
    torch.testing.assert_close(model.train().compute_loss(rows)["loss"], expected)


def test_the_head_has_no_adapter_and_frozen_weights_keep_their_type(build):
    model = build(fused=True)
    head = model._causal_lm().get_output_embeddings()
    assert type(head) is torch.nn.Linear and not head.weight.requires_grad
    trained = {name for name, part in model.named_parameters() if part.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert all(part.dtype == torch.float32 for _, part in model.named_parameters() if part.requires_grad)


def test_dropout_and_inference_take_pefts_own_way(build):
    model = build(fused=True)
    layer = next(module for module in model.modules() if isinstance(module, Linear4bit))
    x = torch.randn(3, layer.base_layer.in_features)
    called = []
    original = operations.LinearsWithAdapters.apply
    operations.LinearsWithAdapters.apply = lambda *args: called.append(1) or original(*args)
    try:
        fused = layer(x)
        plain = layer.eval()(x)
    finally:
        operations.LinearsWithAdapters.apply = original
    assert len(called) == 1
    # inference on some CPUs multiplies in bfloat16
    assert (fused - plain).norm() / plain.norm() < 0.02


def test_they_stand_alone():
    for file in Path(fast.__file__).parent.glob("*.py"):
        used = re.findall(r"^ *(?:from|import) (tianji_[\w.]+)", file.read_text(encoding="utf-8"), re.M)
        assert all(name.startswith("tianji_helpers.training.fast") for name in used), (file.name, used)
