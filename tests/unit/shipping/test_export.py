"""Export to GGUF: the real converter, kernels and server, on the base model and on tiny ones."""

import argparse
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
from functools import partial

import gguf
import httpx
import numpy
import openai
import psutil
import pytest
import tiny_models
import torch
from safetensors.torch import load_file

from tianji_helpers import llama, records, synthesis
from tianji_helpers.errors import CourseError
from tianji_helpers.training import inference
from tianji_toolbox import cli
from tianji_toolbox.shipping import export, ollama, publish, quantize, sentencepiece_model

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module")
def merged(base_dir, tmp_path_factory):
    """The base model as if it were a merged one: beside it stands what the course recorded."""
    folder = tiny_models.link(base_dir, tmp_path_factory.mktemp("export") / "merged")
    parameters = {"task": "wishes", "base_model": "gemma-3-270m", "system": SYSTEM}
    records.write_provenance(folder, stage="06_merge_chat", parameters=parameters)
    return folder


@pytest.fixture(scope="module")
def exported(merged, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf") / "out"
    assert cli.main(["export", str(merged), str(folder), "--quantize", "bf16"]) == 0
    return export.Exported(folder / "wishes-bf16.gguf", folder / "Modelfile")


def test_the_exported_model_is_the_model(exported, merged):
    requests = ["祝姐姐生日快乐", "祝领导春节快乐,严肃风格", "今天天气怎么样？", "写一句话。"]
    agreement = export.compare(exported.gguf, merged, requests, max_new_tokens=16)
    assert agreement.tokens == agreement.texts == 8
    assert agreement.requests == 4 and agreement.answers >= 3, agreement.rows
    assert str(agreement).startswith("分词一致 8/8")


def test_the_server_cuts_and_frames_text_as_the_tokenizer_does(exported, merged, tokenizer):
    chat = inference.messages("再来一句", SYSTEM, [("祝姐姐生日", "姐姐，生日快乐！")])
    with llama.started(exported.gguf) as address:
        for text in TEXTS:
            ids = export._post(f"{address}/tokenize", {"content": text})["tokens"]
            assert ids == tokenizer(text, add_special_tokens=False).input_ids
        prompt = export._post(f"{address}/apply-template", {"messages": chat})["prompt"]
        ids = export._post(f"{address}/tokenize", {"content": prompt, "add_special": True})["tokens"]
    assert ids == tokenizer.apply_chat_template(chat, add_generation_prompt=True)


def test_the_server_answers_no_web_site(exported):
    ours, theirs = "http://localhost:8501", "http://evil.example"
    with llama.started(exported.gguf) as address:
        for origin, allowed in ((ours, ours), (theirs, None), ("null", None)):
            reply = httpx.get(f"{address}/v1/models", headers={"Origin": origin}, trust_env=False)
            assert reply.headers.get("Access-Control-Allow-Origin") == allowed, origin
            assert reply.headers.get("Access-Control-Allow-Credentials") != "true"


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


def test_a_door_without_a_model_behind_it_closes(exported):
    command = [sys.executable, "-m", "tianji_toolbox.cli", "serve", str(exported.gguf), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        running.stdout.readline()
        (model,) = psutil.Process(running.pid).children()
        model.kill()
        _, said = running.communicate(timeout=300)
    assert running.returncode == 1 and "llama.cpp 中途停了" in said


def test_the_circle_closes(exported, tmp_path):
    """A model of notebook 06 is the teacher of notebook 01."""
    ending = tmp_path / "ending.gguf"
    shutil.copy(exported.gguf, ending)
    fields = gguf.GGUFReader(ending, "r+").fields
    # the base model never ends by itself; with a comma for its end token it does
    comma = fields["tokenizer.ggml.tokens"].contents().index("，")
    fields["tokenizer.ggml.eos_token_id"].parts[-1][0] = comma
    command = [sys.executable, "-m", "tianji_toolbox.cli", "serve", str(ending), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            base_url = running.stdout.readline().split()[0]
            # its own name and pages, and no other's: a name of a stranger may lead to this machine
            own, port = base_url.removesuffix("/v1"), base_url.removesuffix("/v1").rpartition(":")[2]
            for headers, status in (
                ({"Host": f"localhost:{port}"}, 200),
                ({"Host": f"[::1]:{port}"}, 200),
                ({"Origin": "http://localhost:8501"}, 200),
                ({"Host": f"evil.example:{port}"}, 403),
                ({"Host": f"127.0.0.1.evil.example:{port}"}, 403),
                ({"Host": f"evil.example@127.0.0.1:{port}"}, 403),
                ({"Host": ""}, 403),
                ({"Host": "["}, 403),
                ({"Origin": "http://evil.example"}, 403),
                ({"Origin": f"http://evil.example:{port}", "Host": f"evil.example:{port}"}, 403),
                ({"Origin": "null"}, 403),
            ):
                reply = httpx.get(f"{own}/props", headers=headers, trust_env=False)
                assert reply.status_code == status, headers
            taken = subprocess.run([*command[:-1], port], capture_output=True, text=True, timeout=120)
            assert taken.returncode == 1 and "请换一个 --port" in taken.stderr
            with openai.OpenAI(base_url=base_url, api_key="none") as client:
                assert [model.id for model in client.models.list()] == ["ending"]
            summary = synthesis.synthesize(
                provider="local",
                base_url=base_url,
                model="ending",
                styles=["正常"],
                limit=2,
                max_tokens=40,
                temperature=0,
                output_dir=tmp_path,
            )
        finally:
            running.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(300)
            running.kill()
    assert running.returncode == 130
    assert not summary.failures
    (turns,) = [records.read_conversations(file, records.RAW_FIELDS) for file in summary.files]
    assert len(turns) == 2 and all(turn["output"] for turn in turns)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_qwen_goes_the_same_way(kind, tokenizer, tmp_path):
    """Its weights, that is: what stands for its tokenizer here is not the one that it has."""
    save = {"qwen2": partial(tiny_models.save, model_type=kind), "qwen3": tiny_models.save_qwen3}[kind]
    folder = save(tmp_path / kind, tokenizer)
    files = export.export(folder, tmp_path / "out", "bf16")
    fields = gguf.GGUFReader(files.gguf).fields
    assert fields["general.architecture"].contents() == kind
    assert "<think>" not in fields["tokenizer.chat_template"].contents() + files.modelfile.read_text()
    ids = tokenizer(TEXTS[0]).input_ids
    model, _ = inference.load(folder, dtype="float32")
    expected = model.generate(
        input_ids=torch.tensor([ids]), max_new_tokens=4, do_sample=False, eos_token_id=None
    )
    asked = {"prompt": ids, "n_predict": 4, "temperature": 0, "return_tokens": True, "ignore_eos": True}
    with llama.started(files.gguf) as address:
        assert export._post(f"{address}/completion", asked)["tokens"] == expected[0, len(ids) :].tolist()


def test_internlm2_goes_the_same_way(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TIANJI_MODELS_DIR", str(tmp_path / "models"))
    folder = tiny_models.save_internlm2(tmp_path / "internlm2", tokenizer)
    parameters = {"base_model": "internlm2-chat-1_8b"}
    records.write_provenance(folder, stage="06_merge_chat", parameters=parameters)
    files = export.export(folder, tmp_path / "out", "bf16")
    assert gguf.GGUFReader(files.gguf).fields["general.architecture"].contents() == "internlm2"
    agreement = export.compare(files.gguf, folder, TEXTS[:2], max_new_tokens=4)
    assert agreement.tokens == agreement.texts and agreement.answers == 2, agreement.rows


def test_four_bits_are_llama_cpps_types_and_close_to_the_weights(tokenizer, tmp_path):
    # a block of these types is 256 wide
    shape = {"hidden_size": 256, "intermediate_size": 512, "tie_word_embeddings": True}
    folder = tiny_models.save(tmp_path / "tiny", tokenizer, "qwen2", **shape)
    small = export.export(folder, tmp_path / "out", "q4_k_m").gguf
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(small).tensors}
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    assert kinds["token_embd.weight"] == "Q6_K" and kinds["blk.0.ffn_up.weight"] == "Q4_K"
    assert kinds["blk.1.ffn_down.weight"] == "Q6_K" and kinds["output_norm.weight"] == "F32"
    weights = load_file(folder / "model.safetensors")
    for name, original in {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
        "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
    }.items():
        whole = weights[original].float().numpy()
        rounded = gguf.dequantize(tensors[name].data, tensors[name].tensor_type)
        error = numpy.linalg.norm(whole - rounded) / numpy.linalg.norm(whole)
        assert error < {"Q6_K": 0.03, "Q4_K": 0.1}[kinds[name]], (name, error)
    with llama.started(small) as address:
        assert export._post(f"{address}/tokenize", {"content": TEXTS[0]})["tokens"]


def test_an_export_that_somebody_changed_is_kept(tokenizer, tmp_path, capsys):
    folder = tiny_models.save(tmp_path / "tiny", tokenizer, "qwen2")
    for _ in range(2):
        exported = export.export(folder, tmp_path / "out", "bf16")
    assert not list(tmp_path.glob("out.kept-*"))
    exported.modelfile.write_text(exported.modelfile.read_text().replace("FROM", "from"))  # as long
    export.export(folder, tmp_path / "out", "bf16")
    assert (tmp_path / "out.kept-1" / "Modelfile").read_text().startswith("from")
    assert exported.modelfile.read_text().startswith("FROM") and "out.kept-1" in capsys.readouterr().out


def test_an_unknown_architecture_is_named(tokenizer, tmp_path):
    folder = tiny_models.save(tmp_path / "odd", tokenizer, "qwen2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["OddForCausalLM"]}))
    with pytest.raises(CourseError, match="OddForCausalLM"):
        export.export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_refused(merged, tmp_path):
    with pytest.raises(CourseError, match="不是模型文件夹"):
        export.export(tmp_path, tmp_path / "out")
    with pytest.raises(CourseError, match="没有叫 q2"):
        export.export(merged, tmp_path / "out", "q2")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(CourseError, match="已经有别的东西"):
        export.export(merged, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_model_that_sees_is_not_exported_blind(merged, tmp_path):
    folder = tiny_models.link(merged, tmp_path / "sees")
    (folder / "projector").mkdir()
    with pytest.raises(CourseError, match=r"会看图（第 7 课）.*tianji web"):
        export.export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    with pytest.raises(CourseError, match="不只是在每句话前后加标记"):
        ollama.read_format(tokenizer)
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


def test_the_command_line_knows_what_there_is():
    (commands,) = (
        a.choices for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction)
    )
    (quantizations,) = (a.choices for a in commands["export"]._actions if a.dest == "quantize")
    (platforms,) = (a.choices for a in commands["publish"]._actions if a.dest == "platform")
    assert tuple(quantizations) == export.QUANTIZATIONS and tuple(platforms) == publish.PLATFORMS
