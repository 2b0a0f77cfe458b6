"""Turn Qwen's own GGUF file into a Hugging Face folder that XTuner can train.

transformers reads such files too, but not as we want it (4.57.6, for Qwen2.5-Coder-1.5B-Instruct):

1. it holds all weights in 32 bits before it casts them, 11 GB at its peak; here one after another is
   de-quantized and cast, which takes 5.5 GB;
2. the model has one table for its input and its output, 233 of its 1,540 million parameters. The file
   holds that table twice, quantized to 4 bits for the input and to 6 for the output, and transformers
   takes the two for different ones. Here the finer copy serves both: of 312 tokens that llama.cpp chose
   (18 answers), the model then chooses 300, with both copies as they are 303, with the coarser one 292;
3. its tokenizer gives other ids where a text has markers, and ends at ``<|endoftext|>``, where the model ends
   its answers with ``<|im_end|>``.

The vocabulary stays whole, unlike that of the embedded model: this table is 15 % of the parameters, not two
thirds, and a trimmed one would have to be explained to every program that reads the model.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tianji_helpers.errors import CourseError
from tianji_helpers.training.embedded import CONTROL, NORMAL, USER_DEFINED, Vocabulary, quick_reader

END, PAD = "<|im_end|>", "<|endoftext|>"

# Where a text is cut before the merges, from Qwen2's tokenizer.json.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SAME_TABLE = 0.15  # two quantizations of one table differ by 0.07 of its size (root mean square)
_ROWS = 4096  # of a table compared at once


def build_tokenizer(vocabulary: Vocabulary, merges: Sequence[str], chat_template: str, max_length: int):
    """Return Qwen2's tokenizer (``transformers.Qwen2TokenizerFast``) with the vocabulary of a file.

    merges: pairs such as ``"Ġ t"``, in the order in which they are tried. max_length: tokens that the
    model reads. Texts are brought into Unicode's form NFC first, as by Qwen's own tokenizer; llama.cpp
    does not do that.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers import processors as post_processors
    from transformers import Qwen2TokenizerFast

    by_kind = {
        kind: {
            token: index for index, token in enumerate(vocabulary.tokens) if vocabulary.kinds[index] == kind
        }
        for kind in (NORMAL, CONTROL, USER_DEFINED)
    }  # the rest are unused rows
    tokenizer = Tokenizer(
        models.BPE(vocab=by_kind[NORMAL], merges=[tuple(merge.split(" ")) for merge in merges])
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = post_processors.ByteLevel(trim_offsets=False)
    added = by_kind[CONTROL] | by_kind[USER_DEFINED]
    for token, index in sorted(added.items(), key=lambda item: item[1]):
        tokenizer.add_tokens([AddedToken(token, special=token in by_kind[CONTROL], normalized=False)])
        if (given := tokenizer.token_to_id(token)) != index:
            raise CourseError(
                f"词元 {token} 的编号应当是 {index}，得到的是 {given}：这个文件的词表不是 Qwen2 的。"
            )
    return Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=None,
        bos_token=None,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[token for token in by_kind[CONTROL] if token not in (END, PAD)],
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        chat_template=chat_template,
    )


def read_config(values: Mapping, vocabulary: Vocabulary):
    """Return the model's shape (``transformers.Qwen2Config``) from the metadata of its file."""
    from transformers import Qwen2Config

    end, pad = (vocabulary.tokens.index(token) for token in (END, PAD))
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        dtype="bfloat16",
        vocab_size=len(vocabulary.tokens),
        hidden_size=values["qwen2.embedding_length"],
        intermediate_size=values["qwen2.feed_forward_length"],
        num_hidden_layers=values["qwen2.block_count"],
        num_attention_heads=values["qwen2.attention.head_count"],
        num_key_value_heads=values["qwen2.attention.head_count_kv"],
        max_position_embeddings=values["qwen2.context_length"],
        max_window_layers=values["qwen2.block_count"],
        rope_theta=values["qwen2.rope.freq_base"],
        rms_norm_eps=round(values["qwen2.attention.layer_norm_rms_epsilon"], 12),
        tie_word_embeddings=True,
        bos_token_id=pad,
        eos_token_id=end,
        pad_token_id=pad,
    )


def read_weights(tensors: Mapping, config) -> dict:
    """Return the weights by their Hugging Face names, de-quantized to bfloat16.

    tensors: of a ``gguf.GGUFReader``, by name. Raises CourseError if the tables for input and output
    are not one.
    """
    import gguf
    import torch
    from transformers import Qwen2ForCausalLM

    _check_one_table(tensors["token_embd.weight"], tensors["output.weight"])
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    weights = {}
    for name, parameter in model.named_parameters():  # without lm_head: it is the embedding
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        tensor = tensors["output.weight" if stored == "token_embd.weight" else stored]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)  # of 32 bits
        weights[name] = torch.asarray(values, dtype=torch.bfloat16, copy=True).reshape(parameter.shape)
    return weights


def _check_one_table(one, other) -> None:
    import gguf

    difference = size = 0.0
    for row in range(0, len(one.data), _ROWS):
        a, b = (gguf.dequantize(t.data[row : row + _ROWS], t.tensor_type) for t in (one, other))
        difference += float(((a - b) ** 2).sum())
        size += float((b**2).sum())
    if (share := (difference / size) ** 0.5) > _SAME_TABLE:
        raise CourseError(
            f"输入和输出的词表相差 {share:.2f}，超过 {_SAME_TABLE}："
            "这个模型的两张词表不是同一张，不能合成一张。"
        )


def convert(gguf_file: str | Path, target: str | Path, report: Callable[[str], None] = print) -> None:
    """Write the Hugging Face model of ``gguf_file``, in bfloat16, into the folder ``target``.

    report: called with one line (str) before each step.
    """
    import gguf
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    report("1/3 读取词表，重建分词器 …")
    with quick_reader():
        reader = gguf.GGUFReader(gguf_file)
    vocabulary = Vocabulary.of(reader.fields)
    values = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("tokenizer.ggml.")
    }
    config = read_config(values, vocabulary)
    tokenizer = build_tokenizer(
        vocabulary,
        reader.fields["tokenizer.ggml.merges"].contents(),
        values["tokenizer.chat_template"],
        config.max_position_embeddings,
    )
    report("2/3 反量化权重 …")
    weights = read_weights({tensor.name: tensor for tensor in reader.tensors}, config)
    report("3/3 写出模型文件 …")
    target = Path(target)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(target)
    GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=[config.eos_token_id, config.pad_token_id],
        pad_token_id=config.pad_token_id,
    ).save_pretrained(target)
    tokenizer.save_pretrained(target)
