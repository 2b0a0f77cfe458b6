"""InternLM2 is loaded without the code of its folder; so is everything else, whatever a folder says."""

import io
import json
import shutil

import pytest
import sentencepiece
from peft import LoraConfig, get_peft_model
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tianji_helpers import records
from tianji_helpers.errors import CourseError
from tianji_helpers.training import inference, internlm2, launch, xtuner_compat
from tianji_toolbox.shipping import export

TEXTS = [
    "祝姐姐生日快乐，万事如意！",
    "good morning  dear teacher",
    "  两个空格 ok",
    "祝您 happy new year 🎉",
    "",
]
TOKEN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}


def change(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def outside(folder, evil):
    shutil.move(evil, folder.parent / "evil.py")
    return f"{folder.parent}/evil.C"


def linked(folder, evil):
    (folder.parent / "lib").mkdir()
    shutil.move(evil, folder.parent / "lib" / "evil.py")
    (folder / "lib").symlink_to("../lib")
    return "lib/evil.C"


def plain(folder, evil):
    return "evil.C"


WAYS = [plain, outside, linked]


@pytest.fixture(params=WAYS)
def archive(request, internlm2_dir, tmp_path):
    """A stranger's archive that says it is the catalogue's model, and the file its code would write."""
    folder = shutil.copytree(internlm2_dir, tmp_path / "archive" / "model")
    mark = tmp_path / "ran"
    evil = folder / "evil.py"
    evil.write_text(f"open({str(mark)!r}, 'w')\nclass C: model_type = 'internlm2'\ndef generate(**k): pass\n")
    name = request.param(folder, evil)
    maps = {"AutoConfig": name, "AutoModelForCausalLM": name, "AutoTokenizer": [name, None]}
    change(folder / "config.json", auto_map=maps)
    change(folder / "tokenizer_config.json", auto_map=maps)
    records.write_provenance(
        folder, stage="06_merge_chat", parameters={"base_model": "internlm2-chat-7b", "task": "wishes"}
    )
    return folder, mark


def test_code_of_an_archive_is_never_run(archive, internlm2_dir):
    folder, mark = archive
    model, tokenizer = inference.load(folder)
    chat = [inference.messages("祝姐姐生日")]
    same = inference.answer_all(*inference.load(internlm2_dir), chat, max_new_tokens=6)
    assert inference.answer_all(model, tokenizer, chat, max_new_tokens=6) == same
    assert not mark.exists()


def test_a_way_of_generating_of_its_own_is_refused(tiny_dir, tmp_path):
    """transformers runs it whatever trust_remote_code says."""
    folder, mark = shutil.copytree(tiny_dir, tmp_path / "model"), tmp_path / "ran"
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"def generate(**k): open({str(mark)!r}, 'w')\n")
    with pytest.raises(CourseError, match="custom_generate"):
        inference.load(folder)
    internlm2.forbid_code()
    with pytest.raises(RuntimeError, match="never run"):
        AutoModelForCausalLM.from_pretrained(folder)
    assert not mark.exists()


@pytest.mark.slow
def test_the_converter_is_shown_no_code(qwen2_dir, tmp_path):
    """It loads tokenizers with trust_remote_code=True."""
    folder, mark = shutil.copytree(qwen2_dir, tmp_path / "model"), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: pass\n")
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.C", "evil.C"]})
    change(folder / "config.json", auto_map={"AutoConfig": "evil.C"})
    export.export(folder, tmp_path / "out", "bf16")
    assert not mark.exists()


def test_xtuner_runs_no_code_either(qwen2_dir, tmp_path):
    """It says trust_remote_code=True wherever it loads by itself."""
    folder, mark = shutil.copytree(qwen2_dir, tmp_path / "model"), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: pass\n")
    change(folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})
    xtuner_compat.apply()
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "qwen2"
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    change(folder / "config.json", model_type="evil")
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert not mark.exists()


@pytest.mark.slow
@pytest.mark.parametrize("archive", [linked], indirect=True)
def test_a_merge_passes_no_code_on(archive, tmp_path):
    folder, mark = archive
    adapter = tmp_path / "adapter"
    config = LoraConfig(r=2, target_modules=["wqkv"], init_lora_weights=False)
    get_peft_model(inference.load(folder)[0], config).save_pretrained(adapter)
    records.provenance_path(folder).unlink()
    merged = launch.merge(folder, adapter, tmp_path / "merged", dtype="float32")
    assert not mark.exists() and not list(merged.rglob("*.py"))
    inference.load(merged)


@pytest.fixture
def hub_tokenizer(tmp_path):
    """A tokenizer as the hub has it: SentencePiece's file, spare pieces, and the names of two of them."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=file,
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"],
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(file.getvalue())
    spare = [number for number, piece in enumerate(proto.pieces) if piece.piece.startswith("[UNUSED")]
    for number in spare:
        proto.pieces[number].type = proto.pieces[number].NORMAL
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    names = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
    added = {
        str(number): TOKEN | {"content": name} for number, name in zip((0, 1, 2, *spare), names, strict=True)
    }
    settings = {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": added,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "sp_model_kwargs": None,
        "decode_with_prefix_space": False,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text('{"model_type": "internlm2"}')
    return tmp_path, spare


def test_the_tokenizer_is_sentencepieces(hub_tokenizer):
    folder, spare = hub_tokenizer
    internlm2.register()
    ours = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in (*TEXTS, "没见过的字：龘 a", " 前导空格", "a\n\nb\tc", "🎊é"):
        assert ours(text).input_ids == [1, *oracle.encode(text)]
        assert ours.decode(ours(text).input_ids, skip_special_tokens=True) == text
    chat = ours("<|im_start|>user\n你好<|im_end|>").input_ids
    assert [chat[1], chat[-1]] == spare
    ours.save_pretrained(folder / "saved")
    shutil.copy(folder / "config.json", folder / "saved")
    again = AutoTokenizer.from_pretrained(folder / "saved", trust_remote_code=False)
    assert again("<|im_start|>user\n你好<|im_end|>").input_ids == chat


def test_it_generates_from_embeddings_what_it_generates_from_tokens(internlm2_dir):
    model, tokenizer = inference.load(internlm2_dir, dtype="float32")
    ids = tokenizer("祝姐姐生日", return_tensors="pt").input_ids
    limits = {"max_new_tokens": 6, "pad_token_id": tokenizer.pad_token_id, **inference.GREEDY}
    embeds = model.get_input_embeddings()(ids)
    said = model.generate(inputs_embeds=embeds, attention_mask=ids.new_ones(ids.shape), **limits)
    assert said.tolist() == model.generate(ids, **limits)[:, ids.shape[1] :].tolist()
