"""Diversity, against sets whose figures are known."""

import pytest

from tianji_helpers.training import diversity


def test_distinct_n_counts_different_grams():
    assert diversity.distinct_n(["祝你好", "祝您好"], 1) == 4 / 6
    assert diversity.distinct_n(["祝你好", "祝您好"], 2) == 1
    assert diversity.distinct_n(["", "好"], 2) == 0


def test_self_bleu_tells_one_sentence_from_many():
    same = diversity.self_bleu(["姐姐，祝你生日快乐，天天开心！"] * 4)
    near = diversity.self_bleu([f"{name}，祝你生日快乐，天天开心！" for name in ("姐姐", "妹妹", "老师")])
    far = diversity.self_bleu(["姐姐，生日快乐！", "愿您身体康健", "新春大吉，万事如意～"])
    assert same == pytest.approx(100) and 100 > near > far
    assert diversity.self_bleu(["只有一句"]) == 0
