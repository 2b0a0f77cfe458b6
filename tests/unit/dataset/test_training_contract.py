"""XTuner's own pipeline eats our files: loss on the answer only, the end token included."""

import shutil

import pytest
from phrasebook import Phrasebook
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from tianji_helpers import formats, paths, records, wishes
from tianji_helpers.dataset import ruozhiba, self_cognition, splits
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


def process(path, tokenizer, max_length=512, **options):
    from datasets import load_dataset
    from xtuner.dataset import process_hf_dataset
    from xtuner.dataset.map_fns import template_map_fn_factory
    from xtuner.utils import PROMPT_TEMPLATE

    return process_hf_dataset(
        dataset=load_dataset("json", data_files={"train": str(path)}, cache_dir=str(path.parent / "cache")),
        tokenizer=tokenizer,
        max_length=max_length,
        template_map_fn=template_map_fn_factory(template=PROMPT_TEMPLATE.internlm2_chat),
        map_num_proc=None,  # no process beside this one: ten times as fast for so few rows
        **options,
    )


def read_back(sample, tokenizer):
    """Return (all text, the text that the loss sees) of one sample."""
    learnt = [
        token for token, label in zip(sample["input_ids"], sample["labels"], strict=True) if label != IGNORED
    ]
    assert learnt == [label for label in sample["labels"] if label != IGNORED]
    return tokenizer.decode(sample["input_ids"]), tokenizer.decode(learnt)


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every kind of training file that the course writes, and XTuner's map function for it."""
    from xtuner.dataset.map_fns import openai_map_fn

    folder = tmp_path_factory.mktemp("written")
    matrix = wishes.load()
    book = Phrasebook(matrix)
    turns = [
        {"system": SYSTEM, "input": matrix.request(*pair, "正常"), "output": book.compose(*pair, "正常")}
        for pair in matrix.pairs()
    ]
    records.write_conversations(folder / "wishes.json", turns)
    splits.write_split(folder / "wishes.json")
    self_cognition.write(
        folder / "self_cognition.json", self_cognition.Persona("小明", "小祝", "Gemma 3 270M")
    )
    sample = paths.DATA / "ruozhiba" / "sample.jsonl"
    halves = [folder / f"ruozhiba_{half}.jsonl" for half in ("train", "test")]
    ruozhiba.convert_file(sample, *halves)
    formats.convert_file(sample, folder / "from_alpaca.json", "xtuner")
    long_talk = [{"system": SYSTEM, **BARE}, {"input": "你会什么", "output": "写祝福。"}, BARE]
    formats.write_rows(folder / "many_turns.json", [formats.from_turns(long_talk, "sharegpt")] * 9)
    formats.convert_file(folder / "many_turns.json", folder / "from_sharegpt.json", "xtuner")
    formats.convert_file(folder / "from_sharegpt.json", folder / "to_openai.jsonl", "openai")
    names = {
        **dict.fromkeys(
            ("wishes_train.json", "self_cognition.json", "from_alpaca.json", "from_sharegpt.json")
        ),
        **dict.fromkeys(("ruozhiba_train.jsonl", "to_openai.jsonl"), openai_map_fn),
    }
    return folder, names


FILES = (
    "wishes_train.json",
    "self_cognition.json",
    "from_alpaca.json",
    "from_sharegpt.json",
    "ruozhiba_train.jsonl",
    "to_openai.jsonl",
)


@pytest.mark.parametrize("name", FILES)
def test_packed_samples_are_the_rows_in_order_and_cut_at_block_borders_only(written, tokenizer, name):
    folder, map_fns = written
    options = {"dataset_map_fn": map_fns[name], "max_length": 1024}
    rows = process(folder / name, tokenizer, pack_to_max_length=False, **options)
    blocks = process(folder / name, tokenizer, pack_to_max_length=True, shuffle_before_pack=False, **options)
    talks = [formats.to_turns(row, formats.detect(row)) for _, row in formats.iter_rows(folder / name)]
    assert len(rows) == len(talks)
    for sample, turns in zip(rows, talks, strict=True):
        assert len(sample["input_ids"]) < 1024  # none was cut
        whole, learnt = read_back(sample, tokenizer)
        answers = [part.replace("</s>", "").strip() for part in learnt.split("<|im_end|>")]
        assert [*(turn["output"].strip() for turn in turns), ""] == answers
        assert learnt.count("<|im_end|>") == len(turns)
        assert all(turn["input"] in whole and turn.get("system", "") in whole for turn in turns)
    for field in ("input_ids", "labels"):
        packed = [token for block in blocks for token in block[field]]
        stream = [token for sample in rows for token in sample[field]]
        assert packed == stream[: len(packed)]
        assert len(stream) - len(packed) < 1024  # the last block, if it is not full


def test_a_row_beyond_the_limit_loses_its_end_token(tmp_path, tokenizer):
    records.write_conversations(tmp_path / "w.json", [BARE, BARE | {"output": "好" * 500}])
    samples = process(tmp_path / "w.json", tokenizer, pack_to_max_length=False)
    assert [read_back(sample, tokenizer)[1].count("<|im_end|>") for sample in samples] == [1, 0]


@pytest.mark.parametrize("task", ["wishes", "self_cognition", "ruozhiba"])
def test_xtuner_checks_the_file_of_each_task(written, base_dir, tmp_path, monkeypatch, capsys, task):
    from xtuner.tools import check_custom_dataset

    folder, map_fns = written
    (data,) = [folder / name for name in map_fns if name.startswith(task)]
    # its own files: the tool does not know functions by name, as a config written by the course has them
    shutil.copytree(paths.CONFIGS, tmp_path / "configs")
    config = tmp_path / "configs" / "check.py"
    config.write_text(
        "from mmengine.config import read_base\n"
        f"with read_base():\n    from .{task}_gemma3_270m_cpu import *\n"
        f"tokenizer.pretrained_model_name_or_path = {str(base_dir)!r}\n"
        f"train_dataloader.dataset.dataset.data_files.train = {str(data)!r}\n"
    )
    monkeypatch.setattr("sys.argv", ["check_custom_dataset", str(config)])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    check_custom_dataset.main()
    assert "encoded labels" in capsys.readouterr().out
