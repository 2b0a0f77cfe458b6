"""The loss on a test and wish score, against arithmetic by hand and answers that must fail."""

import random

import pytest
import torch

from tianji_helpers import records, wishes
from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis.phrasebook import Phrasebook
from tianji_helpers.training import evaluation, inference
from tianji_helpers.training.inference import Answer

TURN = {"system": "你是大师", "input": "祝姐姐生日", "output": "姐姐，祝你生日快乐，万事如意！"}


def test_chat_template_gives_the_ids_of_training(tokenizer):
    example = evaluation.encode(tokenizer, TURN, "internlm2_chat")
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


def test_score_counts_answers_that_keep_every_rule():
    score = evaluation.score_wishes(["祝姐姐生日", "祝姐姐生日"], [Answer(GOOD, True), Answer(GOOD, False)])
    assert score["passed"] == 0.5 and score["rules"]["on_topic"] == 1 and score["rules"]["stopped"] == 0.5


@pytest.mark.parametrize(
    "answer",
    [
        "祝你生日快乐，" * 8,
        "姐姐，祝你新春快乐，天天开心，事事顺心！",
        "姐姐，祝您生日快乐，天天开心，事事顺心！",
        "生日",
        GOOD + "<|im_end|>",
        "当前祝福语如下：" + GOOD,
        "",
    ],
)
def test_score_can_fail(answer):
    assert evaluation.score_wishes(["祝姐姐生日"], [Answer(answer, True)])["passed"] == 0


def test_good_answers_to_other_requests_score_badly():
    """The best that a training on shuffled rows could give: flawless wishes, each for somebody else."""
    matrix, book = wishes.load(), Phrasebook(wishes.load())
    cells = [(*pair, style) for style in ("正常", "小红书", "严肃") for pair in matrix.pairs()]
    asked = [matrix.request(*cell) for cell in cells]
    said = [Answer(book.compose(*cell, "", random.Random(str(cell))), True) for cell in cells]
    in_place = evaluation.score_wishes(asked, said)
    shuffled = evaluation.score_wishes(asked, random.Random(0).sample(said, len(said)))
    assert in_place["passed"] == 1 and shuffled["passed"] < 0.05
    assert shuffled["rules"]["on_topic"] < 0.15 and shuffled["rules"]["style"] < 0.6
    assert shuffled["rules"]["clean"] == 1  # nothing is wrong with the sentences


def test_request_outside_the_course_is_named():
    with pytest.raises(CourseError, match="看不懂请求“今天天气”"):
        evaluation.score_wishes(["今天天气"], [Answer(GOOD, True)])
