"""The embedded model's tokenizer and trimmed vocabulary against known facts and the full model."""

import gguf
import numpy as np
import pytest
import torch

from tianji_helpers.errors import CourseError
from tianji_helpers.training import embedded

pytestmark = pytest.mark.slow

# What llama.cpp's tokenizer, the oracle for this file, makes of these texts.
KNOWN = {
    "The capital of France is Paris.": ["The", "▁capital", "▁of", "▁France", "▁is", "▁Paris", "."],
    "祝姐姐生日快乐，小红书风格🌟": ["祝", "姐姐", "生日", "快乐", "，", "小", "红", "书", "风格", "🌟"],
    "a\n\nb": ["a", "\n\n", "b"],
    "1 + 1": ["1", "▁+", "▁", "1"],
}
ROUND_TRIPS = [
    *KNOWN,
    "值此新春佳节，谨祝李总事业蒸蒸日上、阖家安康。",
    "❤️👨‍👩‍👧 𝔹 кот ไทย  two  spaces\n\n\nend ",
    "龘靐齉爩",
    "\t\tx = {'a': [1, 2]}  # code",
    "",
]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    return embedded.assemble_gguf(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def vocabulary(gguf_file):
    with embedded.quick_reader():
        return embedded.Vocabulary.of(gguf.GGUFReader(gguf_file).fields)


@pytest.fixture(scope="module")
def full_tokenizer(vocabulary):
    return embedded.build_tokenizer(vocabulary)


def pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize(("text", "expected"), KNOWN.items())
def test_known_tokenizations(full_tokenizer, tokenizer, text, expected):
    assert pieces(full_tokenizer, text) == expected
    assert pieces(tokenizer, text) == expected


@pytest.mark.parametrize("text", ROUND_TRIPS)
def test_round_trips(full_tokenizer, tokenizer, text):
    for one in (full_tokenizer, tokenizer):
        assert one.decode(one.encode(text, add_special_tokens=False)) == text


def test_full_tokenizer_gives_the_ids_of_the_file(full_tokenizer, vocabulary):
    ids = full_tokenizer.encode("祝姐姐生日快乐")
    assert ids[0] == 2  # <bos>
    assert [vocabulary.tokens[i] for i in ids[1:]] == ["祝", "姐姐", "生日", "快乐"]


def test_markers_are_single_tokens_and_distinct(tokenizer):
    assert pieces(tokenizer, "<|im_start|>user\n好<|im_end|>\n") == [
        "<|im_start|>", "user", "\n", "好", "<|im_end|>", "\n",
    ]  # fmt: skip
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3


def test_trimmed_model_scores_kept_tokens_like_the_full_one(gguf_file, vocabulary, full_tokenizer):
    full = embedded.load_full_model(gguf_file, torch.float32).eval()
    ids = embedded.kept_ids(vocabulary)
    old = full_tokenizer.encode("祝姐姐生日快乐，愿你 happy every day🎂")
    assert set(old) <= set(ids)
    with torch.inference_mode():
        expected = full(torch.tensor([old])).logits[0][:, ids]
        embedded.trim_model(full, ids)
        found = full(torch.tensor([[ids.index(i) for i in old]])).logits[0]
    assert full.config.vocab_size == len(ids) == found.shape[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    ends = [ids.index(vocabulary.tokens.index(name)) for name in ("<eos>", "<bos>")]
    rows = full.get_input_embeddings().weight[ends]
    assert not torch.equal(rows[0], rows[1])


def test_foreign_content_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "GGUF_SHA256", "0" * 64)
    with pytest.raises(CourseError, match=r"sha256 是 a5fd3b62230a…，应当是 000000000000…"):
        embedded.assemble_gguf(tmp_path)


def test_the_quick_reader_reads_what_gguf_does(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_token_list(["祝", "🎂", "<pad>"])
    writer.add_tensor("weight", np.arange(12, dtype=np.float32).reshape(3, 4))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    plain = gguf.GGUFReader(tmp_path / "small.gguf")
    with embedded.quick_reader():
        quick = gguf.GGUFReader(tmp_path / "small.gguf")
    assert type(quick.data) is np.ndarray and type(plain.data) is np.memmap and gguf.gguf_reader.np is np
    read = [{name: field.contents() for name, field in one.fields.items()} for one in (quick, plain)]
    assert read[0] == read[1] and read[0]["tokenizer.ggml.tokens"] == ["祝", "🎂", "<pad>"]
    assert (quick.tensors[0].data == plain.tensors[0].data).all() and quick.tensors[0].data[2, 3] == 11
