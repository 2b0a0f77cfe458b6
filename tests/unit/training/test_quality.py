"""Quality: arithmetic by hand, and wishes whose order everybody agrees on."""

import math

import pytest
import torch

from tianji_helpers.training import inference, quality

WISHES = [
    ("祝奶奶重阳节", "奶奶，重阳节快乐，愿您登高望远，身体硬朗！"),
    ("祝同事生日,小红书风格", "生日快乐呀🎂 新的一岁，愿你加班少一点，奶茶甜一点～"),
    ("祝领导工作升职,严肃风格", "欣闻您荣升新职，谨致祝贺。愿您在新的岗位上大展宏图，再创佳绩。"),
    ("祝妹妹考试顺利", "妹妹，祝你考试顺利，会的都对，蒙的也对！"),
    ("祝邻居乔迁新居", "恭贺乔迁之喜，愿新居添福，家人平安。"),
    ("祝爷爷春节", "爷爷，新春快乐，愿您福如东海，寿比南山。"),
    ("祝弟弟新婚快乐", "弟弟，新婚快乐，祝你们百年好合，早生贵子！"),
    ("祝阿姨康复", "阿姨，祝您早日康复，平平安安，笑口常开。"),
    ("祝老板发财", "老板，恭喜发财，愿您生意兴隆，财源广进！"),
    ("祝表姐元宵节", "元宵节快乐，愿你团团圆圆，甜甜蜜蜜。"),
]


@pytest.fixture(scope="module")
def loaded(base_dir):
    return inference.load(base_dir)


def test_it_is_the_geometric_mean_of_the_tokens_probabilities(tiny_dir):
    model, tokenizer = inference.load(tiny_dir, dtype="float32")
    pairs = [WISHES[0], ("你是谁", "我。"), WISHES[2]]
    expected = []
    for asked, said in pairs:
        prompt = [
            tokenizer.bos_token_id,
            *tokenizer(f"问：{asked}\n答：", add_special_tokens=False)["input_ids"],
        ]
        answer = tokenizer(said + "\n", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            scores = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        logs = [scores[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer)]
        expected.append(math.exp(sum(logs) / len(logs)))
    # together and padded as alone
    assert quality.likelihood(model, tokenizer, pairs, batch_size=3) == pytest.approx(expected, rel=1e-4)
    assert quality.likelihood(model, tokenizer, pairs, batch_size=1) == pytest.approx(expected, rel=1e-4)


def test_an_empty_answer_has_none_and_a_long_one_is_cut(tiny_dir):
    model, tokenizer = inference.load(tiny_dir)
    scores = quality.likelihood(model, tokenizer, [("祝姐姐生日", " \n"), ("问" * 2000, "答" * 2000)])
    assert scores[0] == 0 < scores[1] < 1


def test_a_wish_ranks_higher_behind_its_own_request(loaded):
    own = quality.likelihood(*loaded, WISHES)
    for shift in range(1, len(WISHES)):
        asked = [WISHES[(place + shift) % len(WISHES)][0] for place in range(len(WISHES))]
        other = quality.likelihood(*loaded, [(a, said) for a, (_, said) in zip(asked, WISHES, strict=True)])
        assert sum(a > b for a, b in zip(own, other, strict=True)) >= len(WISHES) - 1, asked


@pytest.mark.parametrize("spoil", [lambda text: text[::-1], lambda text: text.replace("，", "的，了")])
def test_a_broken_sentence_ranks_lower(loaded, spoil):
    whole = quality.likelihood(*loaded, WISHES)
    broken = quality.likelihood(*loaded, [(asked, spoil(said)) for asked, said in WISHES])
    assert all(a > b for a, b in zip(whole, broken, strict=True))


def test_what_an_editor_would_mend_or_reject_ranks_below_what_he_leaves(base_dir):
    asked = "祝妹妹生日"
    answers = [
        "妹妹，生日快乐，愿你天天开心！",
        "妹妹，生日快乐，愿你天天开心！祝啦~",
        "作为一个人工智能，我不会过生日。",
    ]
    keep, mend, reject = quality.rate([(asked, said) for said in answers])
    assert keep > 2 / 3 > mend > 1 / 3 > reject > 0
    # where there is no editor, the likelihood is all
    (likely,) = quality.rate([(asked, answers[0])], kind="ruozhiba")
    assert keep == pytest.approx((2 + likely) / 3)


def test_an_absurd_pair_ranks_below_any_other(base_dir):
    said = "新婚快乐，愿你们白头偕老，幸福美满！"
    aunt, brother = quality.rate([("祝奶奶新婚快乐", said), ("祝弟弟新婚快乐", said)])
    assert aunt < 1 / 3 and brother > 2 / 3
