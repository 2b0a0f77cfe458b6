"""XTuner's own pipeline eats our files: loss on the answer only, the end token included."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from tianji_helpers import records
from tianji_helpers.dataset import ruozhiba, self_cognition
from tianji_helpers.wishes import SYSTEM

IGNORED = -100
WISH = {"system": SYSTEM, "input": "祝姐姐生日,小红书风格", "output": "姐姐，生日快乐呀🎂"}
BARE = {"input": "你是谁", "output": "我是小祝。"}


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level tokenizer with the template's markers, as a Hugging Face tokenizer."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: number for number, token in enumerate(specials + alphabet)}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(specials)
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def process(path, tokenizer, **options):
    from datasets import load_dataset
    from xtuner.dataset import process_hf_dataset
    from xtuner.dataset.map_fns import template_map_fn_factory
    from xtuner.utils import PROMPT_TEMPLATE

    return process_hf_dataset(
        dataset=load_dataset("json", data_files={"train": str(path)}, cache_dir=str(path.parent / "cache")),
        tokenizer=tokenizer,
        max_length=512,
        template_map_fn=template_map_fn_factory(template=PROMPT_TEMPLATE.internlm2_chat),
        map_num_proc=1,
        **options,
    )


def read_back(sample, tokenizer):
    """Return (all text, the text that the loss sees) of one sample."""
    learnt = [
        token for token, label in zip(sample["input_ids"], sample["labels"], strict=True) if label != IGNORED
    ]
    assert learnt == [label for label in sample["labels"] if label != IGNORED]
    return tokenizer.decode(sample["input_ids"]), tokenizer.decode(learnt)


def test_loss_sees_the_answer_and_its_end_only(tmp_path, tokenizer):
    records.write_conversations(tmp_path / "w.json", [WISH, BARE])
    samples = process(tmp_path / "w.json", tokenizer, pack_to_max_length=False)
    for turn, sample in zip((WISH, BARE), samples, strict=True):
        whole, learnt = read_back(sample, tokenizer)
        assert turn["input"] in whole
        assert turn.get("system", "") in whole
        assert learnt.replace("</s>", "").strip() == turn["output"] + "<|im_end|>"


def test_messages_train_through_the_openai_map(tmp_path, tokenizer):
    from xtuner.dataset.map_fns import openai_map_fn

    record = {"instruction": "1+1=?", "input": "用中文回答", "output": "二"}
    records.write_jsonl(tmp_path / "m.jsonl", [ruozhiba.to_messages(record)])
    samples = process(tmp_path / "m.jsonl", tokenizer, dataset_map_fn=openai_map_fn, pack_to_max_length=False)
    whole, learnt = read_back(samples[0], tokenizer)
    assert "1+1=?\n用中文回答" in whole
    assert learnt.replace("</s>", "").strip() == "二<|im_end|>"


def test_packing_loses_no_answer(tmp_path, tokenizer):
    persona = self_cognition.Persona("小明", "小祝", "Gemma 3 270M")
    path = tmp_path / "self_cognition.json"
    self_cognition.write(path, persona)
    samples = process(path, tokenizer, pack_to_max_length=True, shuffle_before_pack=False)
    whole = tokenizer.decode([token for sample in samples for token in sample["input_ids"]])
    turns = records.read_conversations(path)
    found = [turn for turn in turns if f"{turn['output']}<|im_end|>" in whole]
    assert len(samples) > 1
    assert len(found) >= len(turns) - 2  # XTuner drops the last, incomplete block
