"""Folders that are broken, of another model, or from a stranger: named before anything is loaded."""

import json
import re
import shutil

import pytest
from safetensors.torch import load_file, save_file

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import inspection, planning


@pytest.fixture
def model(tiny_dir, tmp_path):
    return shutil.copytree(tiny_dir, tmp_path / "model")


@pytest.fixture
def sharded(tiny_dir, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(tiny_dir, tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_dir).save_pretrained(folder, max_shard_size="2MB")
    return folder


@pytest.fixture
def adapter(adapter_dir, tmp_path):
    return shutil.copytree(adapter_dir, tmp_path / "adapter")


def change(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def reason(function, *arguments):
    with pytest.raises(CourseError) as caught:
        function(*arguments)
    return str(caught.value)


def test_a_whole_folder_is_described(tiny_dir, sharded, adapter_dir):
    one, many = inspection.inspect_model(tiny_dir), inspection.inspect_model(sharded)
    assert one.shapes == many.shapes and one.shapes["model.embed_tokens.weight"][1] == 64
    assert len(one.weights) == 1 and len(many.weights) > 1
    assert one.config["model_type"] == "gemma3_text"
    found = inspection.inspect_adapter(adapter_dir, one)
    assert found.config["r"] == 8 and len(found.shapes) == 2 * 7 * 2


def test_what_is_no_folder_or_another_folder_is_named(tiny_dir, adapter_dir, tmp_path):
    assert "不存在" in reason(inspection.inspect_model, tmp_path / "nowhere")
    assert "是一个文件，不是文件夹" in reason(inspection.inspect_model, tiny_dir / "config.json")
    assert "没有 config.json" in reason(inspection.inspect_model, tmp_path)
    assert "它是适配器文件夹" in reason(inspection.inspect_model, adapter_dir)
    assert "没有 adapter_config.json" in reason(inspection.inspect_adapter, tmp_path)
    assert "它是完整的模型" in reason(inspection.inspect_adapter, tiny_dir)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_file_is_named(model, adapter, kept):
    for file in (model / "model.safetensors", adapter / "adapter_model.safetensors"):
        file.write_bytes(file.read_bytes()[:kept])
    assert "model.safetensors" in (said := reason(inspection.inspect_model, model)) and "不完整" in said
    assert "adapter_model.safetensors" in (said := reason(inspection.inspect_adapter, adapter))
    assert "不完整" in said


def test_a_missing_shard_is_named(sharded):
    lost = sorted(sharded.glob("model-*.safetensors"))[1]
    lost.unlink()
    said = reason(inspection.inspect_model, sharded)
    assert "缺少 1 个分片" in said and lost.name in said


def test_a_tensor_that_no_shard_holds_is_named(sharded):
    index = sharded / inspection.INDEX
    where = json.loads(index.read_text())
    change(index, weight_map=where["weight_map"] | {"model.lost.weight": where["weight_map"].popitem()[1]})
    assert "例如 model.lost.weight" in reason(inspection.inspect_model, sharded)


@pytest.mark.parametrize("name", ["../model/model.safetensors", "/etc/passwd"])
def test_an_index_cannot_reach_out_of_the_folder(sharded, name):
    change(sharded / inspection.INDEX, weight_map={"x": name})
    assert f"文件夹以外的文件 {name}" in reason(inspection.inspect_model, sharded)


def test_pickled_weights_are_refused(model, adapter):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "pickle 格式的权重 pytorch_model.bin" in reason(inspection.inspect_model, model)
    assert "pickle 格式的权重 adapter_model.bin" in reason(inspection.inspect_adapter, adapter)
    (adapter / "adapter_model.bin").unlink()
    assert "没有 adapter_model.safetensors" in reason(inspection.inspect_adapter, adapter)


def test_broken_configs_are_named(model, adapter):
    change(model / "config.json", model_type=None)
    assert "没有 model_type" in reason(inspection.inspect_model, model)
    (model / "config.json").write_text("[]")
    assert "应当是一个 JSON 对象" in reason(inspection.inspect_model, model)
    change(adapter / "adapter_config.json", peft_type="PREFIX_TUNING")
    assert "peft_type 是 PREFIX_TUNING" in reason(inspection.inspect_adapter, adapter)


def test_a_model_without_a_tokenizer_is_named(model):
    (model / "tokenizer.json").unlink()
    assert "没有分词器" in reason(inspection.inspect_model, model)


def test_an_adapter_that_would_have_further_files_read_is_refused(adapter):
    change(adapter / "adapter_config.json", corda_config={"cache_file": "elsewhere.pt"})
    assert "corda_config" in reason(inspection.inspect_adapter, adapter)


def test_a_rank_that_the_config_does_not_name_is_an_error(adapter):
    change(adapter / "adapter_config.json", r=16)
    said = reason(inspection.inspect_adapter, adapter)
    assert "r=16" in said and "秩却是 8" in said
    change(adapter / "adapter_config.json", rank_pattern={"q_proj": 8})
    assert inspection.inspect_adapter(adapter).config["r"] == 16


def test_an_adapter_of_another_model_is_an_error(adapter_dir, base_dir, tiny_dir, model, internlm2_dir):
    assert re.search("装不到模型 .*gemma-3-270m", reason(inspection.inspect_adapter, adapter_dir, base_dir))
    said = reason(inspection.inspect_adapter, adapter_dir, internlm2_dir)
    assert "模型里没有 model.layers.0.mlp.down_proj 这一层" in said and "tiny-gemma" in said
    weights = load_file(model / "model.safetensors")
    for name, size in (("up_proj", "输出是 100，适配器要 128"), ("down_proj", "输入是 100，适配器要 128")):
        key = f"model.layers.0.mlp.{name}.weight"
        cut = weights[key][:100] if name == "up_proj" else weights[key][:, :100]
        save_file(weights | {key: cut.contiguous()}, model / "model.safetensors")
        assert f"{name} 的{size}" in reason(inspection.inspect_adapter, adapter_dir, model)


def test_an_adapter_does_not_go_onto_a_merged_model_or_another_of_the_catalogue(model, adapter):
    records.write_provenance(model, stage="06_merge_chat", parameters={"base_model": "gemma-3-270m"})
    assert "已经合并过一次" in reason(inspection.inspect_adapter, adapter, model)
    change(adapter / "adapter_config.json", base_model_name_or_path="models/gemma-3-270m")
    records.write_provenance(model, stage="prepare-model", parameters={"name": "qwen2.5-7b-instruct"})
    assert "这个模型是 qwen2.5-7b-instruct" in reason(inspection.inspect_adapter, adapter, model)


def test_an_adapter_inside_a_model_is_refused(model, adapter):
    """transformers would load the model that the adapter names, and the adapter with whatever it sets."""
    shutil.copy(adapter / "adapter_config.json", model)
    with pytest.raises(CourseError, match="另一个模型"):
        inspection.inspect_model(model)


def test_no_attention_is_fetched(model):
    before = (model / "config.json").read_text()
    for settings in (
        {"_attn_implementation": "stranger/kernel"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"text_config": {"_attn_implementation_internal": "stranger/kernel"}},
        {"_attn_implementation": {"text_config": "stranger/kernel"}},
    ):
        change(model / "config.json", **settings)
        assert "要从网上取程序来运行" in reason(inspection.inspect_model, model), settings
        (model / "config.json").write_text(before)


def test_an_architecture_of_a_stranger_is_refused(model):
    change(model / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    found = inspection.inspect_model(model)
    assert "课程从不运行" in reason(inspection.check_architecture, found)


LONGER = {"type": "Replace", "pattern": {"Regex": "."}, "content": "好" * 20}


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_a_tokenizer_that_multiplies_texts_is_refused(model, part):
    inspection.check_tokenizer(model)
    for steps in ([LONGER] * 2, [{"type": "Sequence", f"{part}s": [LONGER]}] * 2):
        change(model / "tokenizer.json", **{part: {"type": "Sequence", f"{part}s": steps}})
        assert "变成 441 个" in reason(inspection.check_tokenizer, model)
    change(model / "tokenizer.json", **{part: LONGER})
    inspection.check_tokenizer(model)
    (model / "tokenizer.json").write_text(f'{{"{part}": ' * 100_000)
    assert "以上，一直占内存" in reason(inspection.check_tokenizer, model)


BETWEEN = {"type": "Replace", "pattern": {"Regex": "|"}, "content": "好"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
A = {"Sequence": {"id": "A", "type_id": 0}}


@pytest.mark.parametrize(
    ("part", "step", "growth"),
    [
        ("normalizer", BETWEEN, 2),  # it goes between letters
        ("normalizer", BETWEEN | {"pattern": {"String": ""}}, 2),
        ("normalizer", BETWEEN | {"pattern": {"String": "a"}, "content": "\ufdfa"}, 18),  # if NFKD is next
        ("normalizer", {"type": "Prepend", "prepend": "好"}, 2),
        ("normalizer", BYTES, 4),
        ("pre_tokenizer", BYTES, 4),
        ("decoder", BETWEEN, 2),
        ("decoder", {"type": "BPEDecoder", "suffix": ""}, 2),
        ("post_processor", {"type": "TemplateProcessing", "single": [A] * 2, "pair": [A]}, 2),
    ],
)
def test_what_little_steps_come_to_is_told(model, part, step, growth):
    steps = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
    steps = steps.get(part, "processors")
    change(model / "tokenizer.json", **{part: {"type": "Sequence", steps: [step]}})
    inspection.check_tokenizer(model)
    change(model / "tokenizer.json", **{part: {"type": "Sequence", steps: [step] * 8}})
    assert f"变成 {min(growth**8, inspection._MANY)}" in reason(inspection.check_tokenizer, model)


def test_a_number_too_long_to_say_is_not_said(model):
    change(model / "tokenizer.json", normalizer=[{"type": "Precompiled"}] * 6_000)
    assert f"变成 {inspection._MANY} 个以上" in reason(inspection.check_tokenizer, model)


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": [{"type": "Prepend", "prepend": "▁"}, BETWEEN | {"pattern": {"String": " "}}]},
        {"normalizer": [{"type": "Precompiled"}, BETWEEN | {"pattern": {"Regex": " {2,}"}}]},  # XLM-R
        {"normalizer": [{"type": "BertNormalizer"}], "decoder": [{"type": "WordPiece", "prefix": "##"}]},
        {"pre_tokenizer": [{"type": "Split", "pattern": {"Regex": "a"}}, BYTES], "decoder": [BYTES]},
    ],
)
def test_tokenizers_as_they_are_pass(model, parts):
    change(model / "tokenizer.json", **{name: {"type": "Sequence", "steps": p} for name, p in parts.items()})
    inspection.check_tokenizer(model)


def test_a_training_looks_at_its_tokenizer_first(model, rows_file):
    options = {"model_dir": model, "data_path": rows_file}
    planning.plan_training("configs/wishes_gemma3_270m_cpu.py", options)
    change(model / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [LONGER] * 2})
    with pytest.raises(CourseError, match="变成 441 个"):
        planning.plan_training("configs/wishes_gemma3_270m_cpu.py", options)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": [8]},
        {"r": None},
        {"r": 8.0},
        {"r": 10**9, "rank_pattern": {"q_proj": 8}},
        {"rank_pattern": [8]},
        {"rank_pattern": {"q_proj": {"a": 1}}},
        {"rank_pattern": {"(([a-z_.0-9]+)+)+!": 8}},
        {"alpha_pattern": {"q_proj|v_proj": 8}},
        {"target_modules": "(([a-z_.0-9]+)+)+!"},
        {"target_modules": ["q_proj", "(x+)+!"]},
        {"target_modules": ["x" * 1_000_000]},
        {"target_modules": [f"m{number}" for number in range(100_000)]},
        {"rank_pattern": {f"m{number}": 8 for number in range(100_000)}},
        {"layers_to_transform": [0] * 100_000},
        {"exclude_modules": "(x+)+!"},
        {"layers_pattern": "(x+)+!"},
        {"layer_replication": [[0, 2]] * 2000},
        {"init_lora_weights": "eva"},
        {"init_lora_weights": "loftq"},
        {"modules_to_save": ["embed_tokens"]},
        {"trainable_token_indices": [0, 1]},
        {"lora_alpha": "nan"},
        {"task_type": "EVIL"},
        {"runtime_config": {"ephemeral_gpu_offload": True}},
        {"of_a_stranger": "x" * 1_000_000},
    ],
)
def test_an_adapter_sets_only_what_an_adapter_may(adapter, settings):
    inspection.inspect_adapter(adapter)
    change(adapter / "adapter_config.json", **settings)
    message = reason(inspection.inspect_adapter, adapter)
    assert next(iter(settings)) in message or "rank_pattern" in message
    assert len(message) < 400
