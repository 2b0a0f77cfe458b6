"""Export to GGUF: the real converter, kernels and server, on the base model and on tiny ones."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import gguf
import numpy
import openai
import pytest

from tianji_helpers import cli, records, synthesis
from tianji_helpers.errors import CourseError
from tianji_helpers.serving import export, ollama, quantize, sentencepiece_model
from tianji_helpers.training import inference

SYSTEM = "你是送祝福大师"
TEXTS = [
    "祝姐姐生日快乐，小红书风格🌟",
    "值此春节，\n\n谨祝新岁安康！",
    "The capital of France",
    "日本 кот 👨‍👩‍👧",
]


@pytest.fixture(scope="module")
def tokenizer(base_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_dir)


def save_tiny(folder, tokenizer, model_type, **settings):
    """Write a random model of two layers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(model_type, **common | settings)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def merged(base_dir, tmp_path_factory):
    """The base model as if it were a merged one: beside it stands what the course recorded."""
    folder = tmp_path_factory.mktemp("export") / "merged"
    folder.mkdir()
    for file in base_dir.iterdir():
        (folder / file.name).symlink_to(file)
    parameters = {"task": "wishes", "base_model": "gemma-3-270m", "system": SYSTEM}
    records.write_provenance(folder, stage="06_merge_chat", parameters=parameters)
    return folder


@pytest.fixture(scope="module")
def exported(merged, tmp_path_factory):
    return export.export(merged, tmp_path_factory.mktemp("gguf") / "out", "bf16", report=lambda line: None)


def test_the_exported_model_is_the_model(exported, merged):
    requests = ["祝姐姐生日快乐", "祝领导春节快乐,严肃风格", "今天天气怎么样？", "写一句话。"]
    agreement = export.compare(exported.gguf, merged, requests, max_new_tokens=16)
    assert agreement.tokens == agreement.texts == 8
    assert agreement.requests == 4 and agreement.answers >= 3, agreement.rows
    assert str(agreement).startswith("分词一致 8/8")


def test_the_server_cuts_and_frames_text_as_the_tokenizer_does(exported, merged, tokenizer):
    chat = inference.messages("再来一句", SYSTEM, [("祝姐姐生日", "姐姐，生日快乐！")])
    with export.server(exported.gguf) as address:
        for text in TEXTS:
            ids = export._post(f"{address}/tokenize", {"content": text})["tokens"]
            assert ids == tokenizer(text, add_special_tokens=False).input_ids
        prompt = export._post(f"{address}/apply-template", {"messages": chat})["prompt"]
        ids = export._post(f"{address}/tokenize", {"content": prompt, "add_special": True})["tokens"]
    assert ids == tokenizer.apply_chat_template(chat, add_generation_prompt=True)


def test_what_goes_along_with_the_file(exported, merged):
    folder = exported.gguf.parent
    names = {file.name for file in folder.iterdir()}
    assert names == {"wishes-bf16.gguf", "Modelfile", "GEMMA_TERMS.html", "NOTICE.md"}
    text = exported.modelfile.read_text(encoding="utf-8")
    assert text.startswith("FROM ./wishes-bf16.gguf\n") and f'SYSTEM """{SYSTEM}"""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    recorded = records.read_json(records.provenance_path(folder))
    assert recorded["stage"] == "06_export" and recorded["parameters"]["quantize"] == "bf16"
    assert str(merged.parent).encode() not in exported.gguf.read_bytes()[:2_000_000]


def test_the_circle_closes(exported, tmp_path):
    """A model of notebook 06 is the teacher of notebook 01."""
    with export.server(exported.gguf, alias="wishes") as address:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
            assert [model.id for model in client.models.list()] == ["wishes"]
            asked = [{"role": "user", "content": "祝姐姐生日快乐"}]
            answer = client.chat.completions.create(model="wishes", messages=asked, max_tokens=12)
            assert answer.choices[0].message.content.strip()
        summary = synthesis.synthesize(
            provider="local",
            base_url=f"{address}/v1",
            model="wishes",
            styles=["正常"],
            limit=2,
            max_tokens=24,
            output_dir=tmp_path,
        )
    turns = [turn for file in summary.files for turn in records.read_conversations(file)]
    assert len(turns) + len(summary.failures) == 2
    assert all("长度" in failure.error or "max_tokens" in failure.error for failure in summary.failures)


@pytest.mark.parametrize("kind", ["qwen2", "internlm2"])
def test_other_architectures_go_the_same_way(kind, tokenizer, tmp_path):
    folder = tmp_path / kind
    if kind == "qwen2":
        save_tiny(folder, tokenizer, "qwen2")
    else:
        folder.mkdir()
        save_tiny_internlm2(folder, tokenizer)
        base = {"base_model": "internlm2-chat-1_8b"}
        records.write_provenance(folder, stage="06_merge_chat", parameters=base)
    files = export.export(folder, tmp_path / "out", "bf16", report=lambda line: None)
    reader = gguf.GGUFReader(files.gguf)
    assert reader.fields["general.architecture"].contents() == kind
    agreement = export.compare(files.gguf, folder, TEXTS[:2], max_new_tokens=4)
    assert agreement.tokens == agreement.texts and agreement.answers == 2, agreement.rows


def save_tiny_internlm2(folder, tokenizer):
    """InternLM2 as the hub lays it out: with code of its own (here the one that XTuner ships)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source = Path(importlib.util.find_spec("xtuner").origin).parent / "_lite" / "modelings" / "internlm2"
    for name in ("configuration_internlm2.py", "modeling_internlm2.py"):
        shutil.copy(source / name, folder)
    settings = {
        "model_type": "internlm2",
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_internlm2.InternLM2Config",
            "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
        },
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
    (folder / "config.json").write_text(json.dumps(settings))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_four_bits_are_llama_cpps_types_and_close_to_the_weights(tokenizer, tmp_path):
    folder = save_tiny(tmp_path / "tiny", tokenizer, "qwen2", tie_word_embeddings=True)
    exact, small = (
        export.export(folder, tmp_path / name, name, report=lambda line: None).gguf
        for name in ("bf16", "q4_k_m")
    )
    before, after = (
        {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors} for file in (exact, small)
    )
    kinds = {name: tensor.tensor_type.name for name, tensor in after.items()}
    assert kinds["token_embd.weight"] == "Q6_K" and kinds["blk.0.ffn_up.weight"] == "Q4_K"
    assert kinds["blk.1.ffn_down.weight"] == "Q6_K" and kinds["output_norm.weight"] == "F32"
    for name, tensor in after.items():
        whole, rounded = (gguf.dequantize(t.data, t.tensor_type) for t in (before[name], tensor))
        error = numpy.linalg.norm(whole - rounded) / max(numpy.linalg.norm(whole), 1e-9)
        assert error < {"F32": 1e-9, "Q6_K": 0.03, "Q4_K": 0.1}[kinds[name]], (name, error)
    with export.server(small) as address:
        assert export._post(f"{address}/tokenize", {"content": TEXTS[0]})["tokens"]


def test_an_unknown_architecture_is_named(tokenizer, tmp_path):
    folder = save_tiny(tmp_path / "odd", tokenizer, "qwen2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["OddForCausalLM"]}))
    with pytest.raises(CourseError, match="OddForCausalLM"):
        export.export(folder, tmp_path / "out", report=lambda line: None)
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_refused(merged, tmp_path):
    with pytest.raises(CourseError, match="不是模型文件夹"):
        export.export(tmp_path, tmp_path / "out")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CourseError, match="请先合并"):
        export.export(tmp_path, tmp_path / "out")
    with pytest.raises(CourseError, match="没有叫 q2"):
        export.export(merged, tmp_path / "out", "q2")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(CourseError, match="已经有别的东西"):
        export.export(merged, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_broken_file_cannot_be_served(tmp_path, exported):
    with pytest.raises(CourseError, match="找不到"), export.server(tmp_path / "none.gguf"):
        pass
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(exported.gguf.read_bytes()[:1_000_000])
    with pytest.raises(CourseError, match="启动不了"), export.server(broken):
        pass


def go(template, system, messages):
    """Run the part of Go's template language that ``ChatFormat.template`` uses."""
    if match := re.match(r"{{ if not \.System }}(.*?){{ end }}", template, re.DOTALL):
        template = ("" if system else match[1]) + template[match.end() :]
    start, loop, rest = re.fullmatch(
        r"(.*?){{ range \.Messages }}(.*){{ end }}(.*?)", template, re.DOTALL
    ).groups()
    branches = re.findall(r'{{ if eq \.Role "(\w+)" }}(.*?){{ \.Content }}(.*?){{ end }}', loop, re.DOTALL)
    around = {role: (before, after) for role, before, after in branches}
    said = [around[m["role"]][0] + m["content"] + around[m["role"]][1] for m in messages]
    return start + "".join(said) + rest


QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_MARK_BEHIND_USER = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}[A]{{ m['content'] }}</s>"
    "{% elif m['role'] == 'user' %}[U]{{ m['content'] }}{% else %}{{ m['content'] }}|{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[A]{% endif %}"
)


@pytest.mark.parametrize("chat_template", [None, QWEN, NO_MARK_BEHIND_USER])
def test_ollamas_template_writes_the_same_prompt(chat_template, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", chat_template or tokenizer.chat_template)
    template = ollama.read_format(tokenizer).template()
    history = [("祝姐姐生日", "姐姐，生日快乐！"), ("再来", "好的")]
    for system in ("", SYSTEM):
        for chat in (inference.messages("你好", system), inference.messages("再来一句", system, history)):
            prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            assert go(template, system, chat) == prompt.removeprefix("<bos>")


@pytest.mark.parametrize(
    "chat_template",
    [
        "{{ messages[-1]['content'] }}",
        "{% for m in messages %}{{ loop.index }}:{{ m['role'] }}={{ m['content'] }};{% endfor %}",
        "{% for m in messages %}{{ m['role'] }}={{ m['content'] | upper }};{% endfor %}",
    ],
)
def test_a_template_that_does_more_is_refused(chat_template, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", chat_template)
    chat_format = pytest.raises(CourseError, ollama.read_format, tokenizer)
    assert "对话模板" in str(chat_format.value)
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(CourseError, match="没有对话模板"):
        ollama.read_format(tokenizer)


def test_quotes_that_would_end_the_modelfiles_text_are_refused(tokenizer):
    chat_format = ollama.read_format(tokenizer)
    with pytest.raises(CourseError, match="双引号"):
        ollama.modelfile("x.gguf", chat_format, ["<|im_end|>"], 'say """ then FROM /etc')


def test_other_kinds_of_tokenizers_are_left_to_the_converter(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"model": {"type": "BPE", "byte_fallback": False}, "normalizer": None}))
    assert sentencepiece_model.write(file, tmp_path / "tokenizer.model") is False
    assert not (tmp_path / "tokenizer.model").exists()


def test_types_follow_llama_cpps_mixture():
    chosen = [quantize.tensor_type(f"blk.{n}.ffn_down.weight", (256, 512), 24) for n in range(24)]
    assert chosen.count("Q6_K") == 12 and chosen[:3] == ["Q6_K"] * 3 and chosen[-3:] == ["Q6_K"] * 3
    assert quantize.tensor_type("token_embd.weight", (9, 256), 24, tied=False) == "Q4_K"


def test_the_command_says_where_the_files_are(merged, tmp_path, capsys):
    assert cli.main(["export", str(merged), str(tmp_path / "a"), "--quantize", "f16"]) == 0
    assert "wishes-f16.gguf（239 MB）" in capsys.readouterr().out
    assert cli.main(["serve", str(tmp_path / "b.gguf")]) == 1
