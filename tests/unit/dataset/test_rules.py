"""Every rule does what its examples show, and keeps the two laws that make cleaning safe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import faults, wishes
from tianji_helpers.dataset import clean, plain, rules

MATRIX = wishes.load()
REQUESTS = [
    MATRIX.request(*pair, style)
    for pair in (
        ("姐姐", "生日"),
        ("妹妹", "谈判顺利"),
        ("爷爷", "春节"),
        ("邻居赵大妈", "康复"),
        ("李总", "发财"),
    )
    for style in MATRIX.styles
]
# pieces that rules look for, so that random texts meet the rules and not only each other
PIECES = [
    *"，。！？～、；：,.!?~… \n\t*#>-“”\"'「」（）(){}[]您你呀啦哦呢🎂🎉❤️\u200d\u200b\ufeff12",
    "当前祝福语如下：", "好的，", "以下是", "祝福", "标题：", "【生日祝福】", "姐姐", "尊敬的", "赵大妈",
    "生日快乐", "新春", "！啦~", "。哦！", "...", "……", "###", "1. ", "- ", "希望你喜欢这条祝福",
    "（共20字）", "谨祝", "AI", "\r\n",
]  # fmt: skip
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.text(max_size=40))


OFF = clean.SUITABILITY["off"]
ask = MATRIX.read


def cases(kind):
    return [
        pytest.param(rule, example, id=f"{rule.name}-{number}")
        for rule in rules.RULES.values()
        if rule.kind == kind
        for number, example in enumerate(rule.examples)
    ]


@pytest.mark.parametrize(("rule", "example"), cases("mend"))
def test_mend_example(rule, example):
    assert rule.apply(example.before, ask(example.request)) == example.after


@pytest.mark.parametrize(("rule", "example"), cases("reject"))
def test_reject_example_is_caught_by_this_rule(rule, example):
    off = () if rule.name == rules.UNSUITABLE else clean.SUITABILITY["absurd"]
    found = clean.reject(example.before, ask(example.request), off)
    assert found is not None
    assert found[0] == rule.name
    assert found[1].strip()


def test_every_rule_has_title_doc_and_example():
    for rule in rules.RULES.values():
        assert rule.title and rule.apply.__doc__ and rule.examples, rule.name
    assert len({rule.title for rule in rules.RULES.values()}) == len(rules.RULES)
    assert not rules.RULES.keys() & plain.TITLES.keys(), "cleaning counts both by name"


@pytest.mark.parametrize(
    "text",
    [
        "姐姐，祝你生日快乐，愿你天天开心！",
        "姐姐，愿“好运”常在，生日快乐……",
        "姐姐，愿你3.5倍快乐，生日10:30准时吃蛋糕！",
        "好运连连，生日快乐呀，姐姐！",
        "“福”字是我剪的，生日快乐也是我写的。",
        "姐姐，蛋糕🎂，礼物🎁，都给你留着～",
        "姐姐，岁岁平安^_^。",
        "幸福满满哒！加油鸭！🦆 生日快乐哦~",
        "尊敬的姐姐：\n生日快乐，诸事顺遂。",
        "一家三口👩‍👩‍👦，日子像春风一样🌬️！",
        "①健康②快乐③平安，姐姐，都是我给你的，生日快乐！",
        "二○○八年相识，姐姐，祝你生日快乐！",
    ],
)
def test_a_clean_wish_is_left_alone(text):
    question = ask("祝姐姐生日,小红书风格")
    assert clean.mend(text, question) == (text, [])
    assert clean.reject(text, question) is None


@given(text=TEXTS, request=st.sampled_from(REQUESTS))
def test_no_mend_makes_a_text_longer_but_one(text, request):
    for rule in rules.MENDS.values():
        longer = len(rule.apply(text, ask(request))) - len(text)
        assert longer <= (rule.name == "missing_wish"), rule.name


@given(text=TEXTS, request=st.sampled_from(REQUESTS))
def test_mended_text_needs_no_mending(text, request):
    once, _ = clean.mend(text, ask(request))
    assert clean.mend(once, ask(request)) == (once, [])


@given(text=TEXTS, request=st.sampled_from(REQUESTS))
def test_what_no_rule_rejects_has_no_hard_fault(text, request):
    mended, _ = clean.mend(text, ask(request))
    if clean.reject(mended, ask(request), OFF) is None:
        assert faults.find(ask(request), mended) == {}
