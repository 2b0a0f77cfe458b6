"""Tiny models that know one answer by heart: real folders with real weights, made without training.

Each piece of the answer is one token, and the model is a Markov chain: attention and MLP add nothing,
the embeddings are orthogonal, and the output row of a piece is the embedding of the piece before it.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def teach(
    folder: Path, pieces: Sequence[str], *, ends: bool = True, others: Sequence[str] = (), layers: int = 1
) -> Path:
    """Write a Llama over bytes that says ``pieces`` in order, whatever it is asked and how it is drawn.

    pieces: all different, more than one character each. ends: whether the end token follows the last;
    without it the answer begins again, until the limit. others: a second answer, which the model comes
    to with an adapter only (see ``retrain``). layers: more of them take more time.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    known = tokenizer([*pieces, *others])
    size = 4 * -(-len(known) // 4)
    config = LlamaConfig(
        vocab_size=len(known),
        hidden_size=size,
        intermediate_size=size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    start = known("\n")["input_ids"][-1]  # what the chat template ends with
    said, aside = (known.convert_tokens_to_ids(list(answer)) for answer in (pieces, others))
    steps = [start, *said, known.eos_token_id if ends else said[0]], [*aside, known.eos_token_id]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(known), size))
        model.lm_head.weight.zero_()
        for chain in steps:
            for before, after in itertools.pairwise(chain):
                model.lm_head.weight[after, before] = 10.0
    model.save_pretrained(folder)
    known.save_pretrained(folder)
    return folder


def tokenizer(pieces: Sequence[str]):
    """Return a tokenizer of the 256 bytes, the chat markers and the pieces, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|im_start|>", "<|im_end|>", "<pad>"])
    made.add_tokens(list(pieces))
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )


def retrain(folder: Path, model_dir: Path, piece: str) -> Path:
    """Write a LoRA adapter of rank 1 with which the model begins its answer at ``piece``."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    model = get_peft_model(base, LoraConfig(r=1, lora_alpha=1, target_modules=["lm_head"]))
    head = model.base_model.model.lm_head
    with torch.no_grad():
        for weight, row in (
            (head.lora_A["default"].weight.T, tokenizer("\n")["input_ids"][-1]),
            (head.lora_B["default"].weight, tokenizer.convert_tokens_to_ids(piece)),
        ):
            weight.zero_()
            weight[row] = 10.0
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder
