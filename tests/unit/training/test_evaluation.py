"""The loss on a test and wish score, against arithmetic by hand and answers that must fail."""

import random

import numpy as np
import pytest
import torch
from phrasebook import Phrasebook

from tianji_helpers import records, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.training import evaluation, figures, inference
from tianji_helpers.training.inference import Completion

TURN = {"system": "你是大师", "input": "祝姐姐生日", "output": "姐姐，祝你生日快乐，万事如意！"}


@pytest.mark.parametrize(
    ("folder", "template"), [("tiny_dir", "internlm2_chat"), ("qwen3_bytes_dir", "qwen_chat")]
)
def test_chat_template_gives_the_ids_of_training(folder, template, request):
    tokenizer = inference.load_tokenizer(request.getfixturevalue(folder))
    example = evaluation.encode(tokenizer, TURN, template)
    prompt = tokenizer.apply_chat_template(
        inference.messages(TURN["input"], TURN["system"]), add_generation_prompt=True
    )
    prompt_length = example["labels"].count(-100) - 1  # the last one is the line break behind the end
    assert example["input_ids"][:prompt_length] == prompt
    whole = [
        *inference.messages(TURN["input"], TURN["system"]),
        {"role": "assistant", "content": TURN["output"]},
    ]
    assert example["input_ids"] == tokenizer.apply_chat_template(whole)


def test_each_request_is_examined_once():
    turns = [{"system": "", "input": str(number // 2), "output": str(number)} for number in range(20)]
    later = {**turns[0], "history": [["早", "早"]]}  # the same words, somewhere else in a chat
    assert evaluation.pick([*turns, later]) == [*turns[::2], later]
    assert (
        evaluation.pick(turns, 3) == [turns[0], turns[6], turns[12]]
        and evaluation.pick(turns, 99) == turns[::2]
    )


def test_loss_looks_at_the_answer_and_its_end_only(tokenizer):
    example = evaluation.encode(tokenizer, TURN, "internlm2_chat")
    seen = [label for label in example["labels"] if label != -100]
    assert tokenizer.decode(seen) == TURN["output"] + "<|im_end|>"
    assert TURN == {"system": "你是大师", "input": "祝姐姐生日", "output": "姐姐，祝你生日快乐，万事如意！"}


def test_the_loss_is_the_mean_over_answer_tokens(tiny_dir):
    model, tokenizer = inference.load(tiny_dir, dtype="float32")
    turns = [TURN, {"system": "", "input": "你是谁", "output": "我是小祝。"}, {**TURN, "output": "好"}]
    total, count = 0.0, 0
    for turn in turns:
        example = evaluation.encode(tokenizer, turn, "internlm2_chat")
        with torch.inference_mode():
            scores = model(torch.tensor([example["input_ids"]])).logits[0].log_softmax(-1)
        for position, label in enumerate(example["labels"][1:]):
            if label != -100:
                total -= scores[position, label].item()
                count += 1
    found = evaluation.mean_loss(model, tokenizer, turns, "internlm2_chat", batch_size=2)
    assert found == pytest.approx(total / count, rel=1e-4)


def test_no_answer_within_the_limit_is_an_error(tiny_dir):
    model, tokenizer = inference.load(tiny_dir)
    with pytest.raises(CourseError, match="没有可以计算损失的测试数据（1 条"):
        evaluation.mean_loss(model, tokenizer, [TURN], "internlm2_chat", max_length=4)


def test_turns_are_read_from_conversations_and_messages(tmp_path):
    records.write_conversations(tmp_path / "a.json", [{"input": "你是谁", "output": "小祝"}])
    message = [{"role": "user", "content": "你是谁"}, {"role": "assistant", "content": "小祝"}]
    records.write_jsonl(tmp_path / "a.jsonl", [{"messages": message}])
    expected = [{"system": "", "input": "你是谁", "output": "小祝"}]
    assert (
        evaluation.read_turns(tmp_path / "a.json") == evaluation.read_turns(tmp_path / "a.jsonl") == expected
    )


GOOD = "姐姐，祝你生日快乐，天天开心，事事顺心！"


@pytest.mark.parametrize(
    "answer, stopped, fault",
    [
        (GOOD, True, None),
        (GOOD, False, "unstopped"),
        ("祝你生日快乐，" * 8, True, "loop"),
        ("姐姐，祝你新春快乐，天天开心，事事顺心！", True, "wrong_scene"),
        (GOOD + "<|im_end|>", True, "leftover"),
        ("", True, "empty"),
    ],
)
def test_a_fault_is_named_with_its_reason(base_dir, answer, stopped, fault):
    (row,) = evaluation.grade(["祝姐姐生日"], [Completion(answer, stopped)])
    assert list(row["faults"]) == ([fault] if fault else [])
    assert all(row["faults"].values()) and 0 <= row["quality"] < 1


def test_good_answers_to_other_requests_rank_lower(base_dir):
    """The best that a training on shuffled rows could give: flawless wishes, each for somebody else."""
    matrix, book = wishes.load(), Phrasebook(wishes.load())
    pairs = random.Random(0).sample(matrix.pairs(), 40)
    cells = [(*pair, style) for pair in pairs for style in ("正常", "小红书", "严肃")]
    asked = [matrix.request(*cell) for cell in cells]
    said = [Completion(book.compose(*cell, "", random.Random(str(cell))), True) for cell in cells]
    random.Random(0).shuffle(asked_others := list(asked))
    own, other = (evaluation.grade(some, said) for some in (asked, asked_others))
    rng = np.random.default_rng(0)
    shown = [{name: figures.interval(one, rng) for name, one in figures.of(r).items()} for r in (own, other)]
    assert shown[0]["faultless"]["value"] == 1 and shown[1]["faultless"]["value"] < 0.3
    pairs = [
        (a["quality"], b["quality"]) for a, b in zip(own, other, strict=True) if a["request"] != b["request"]
    ]
    assert sum(a > b for a, b in pairs) >= 0.95 * len(pairs)
    assert np.mean([row["quality"] for row in own]) > 1.2 * np.mean([row["quality"] for row in other])


def test_an_answer_that_is_no_wish_is_held_to_what_any_answer_keeps(base_dir):
    """A list and an apology are no faults; what never ends is one."""
    asked = ["鸡蛋怎么煮？", "怎样拒绝别人？", "为什么天是蓝的？"]
    said = ["1. 烧水。\n2. 下锅，煮八分钟。", "可以说：很抱歉，今天没有空。", "因为" * 40]
    rows = evaluation.grade(asked, [Completion(text, len(text) < 60) for text in said], "other")
    assert [sorted(row["faults"]) for row in rows] == [[], [], ["loop", "unfinished", "unstopped"]]


def test_a_model_is_measured_whatever_it_was_taught(base_dir, tiny_dir):
    found = evaluation.measure(
        tiny_dir, None, [TURN, {**TURN, "input": "你是谁"}], "internlm2_chat", max_new_tokens=8
    )
    assert found["loss"] > 5 and len(found["rows"]) == 2
    # random weights say nothing that ends: there is no answer whose quality would count
    faultless = found["figures"]["faultless"]  # none of a few is not none ever
    assert faultless["value"] == faultless["low"] == 0 < 0.2 < faultless["high"] < 1
    assert found["figures"]["fault_unstopped"]["value"] == 1
    assert found["figures"]["quality"]["value"] is None
