"""Hard faults: each finds its examples, none finds good wishes, and what needs a name passes without one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import faults, wishes

MATRIX = wishes.load()
# good wishes with whatever looks like dirt, written for this test
GOOD = [
    ("祝姐姐生日,小红书风格", "姐，今天你最大^_^！蛋糕🎂，鲜花🌷，统统归你～"),
    ("祝同学端午节,小红书风格", "粽是想起食堂门口的你，端午安康，加油鸭！🦆"),
    ("祝叔叔元宵节", "叔叔，元宵灯火亮堂堂，新年里的第一个月圆，愿您一家团圆。"),
    ("祝哥哥腊八节", "哥，喝了这碗粥，新年就不远了，保重身体。"),
    ("祝外婆中秋节", "外婆，月亮圆了，家庭和睦，您也要好好吃饭。"),
    ("祝弟弟家庭和睦,小红书风格", "一家三口整整齐齐👩‍👩‍👦，日子像春风一样🌬️，满满哒！"),
    ("祝邻居赵大妈生日", "阿姨，生日快乐，往后的日子都顺顺当当！"),
    ("祝同事乔迁新居", "步步高升，日日向阳！"),
    (
        "祝导师春节,严肃风格",
        "师恩如山，谨祝导师新春安康、阖家安宁。桃李满园，是您的春天；著述日新，是您的秋天。",
    ),
    ("祝老板发财", "老板，愿你财源广进，也愿你睡个好觉。"),
    ("祝妈妈元宵节", "妈妈，愿你今晚少忙一点，多吃两颗汤圆。"),
    ("祝哥哥生日,严肃风格", "值此生辰，谨祝兄长康健顺遂，愿您事业有成。"),
    ("祝房东泼水节", "水花溅起来，福气就到了，祝房东一年都顺！"),
    ("祝姐姐生日", "姐姐，***生日快乐***！愿你***天天开心***。"),
    ("祝姐姐生日,小红书风格", "姐姐，生日快乐！\n***\n愿你天天开心。"),
    ("祝姐姐生日", "【生日愿望】姐姐，祝你生日快乐！"),
    ("祝姐姐春节,严肃风格", "二○○八年，祝姐姐新春快乐，万事如意！"),
    ("祝姐姐春节,严肃风格", "二〇◯◯年的钟声已远，二○○○年正好，祝姐姐新春快乐！"),
    ("祝姐姐生日,小红书风格", "姐姐，愿你①健康②快乐③平安！"),
    ("祝姐姐生日,小红书风格", "①健康②快乐③平安，姐姐，这就是我的三个愿望，祝你生日快乐！"),
    ("写首诗", "春眠不觉晓，处处闻啼鸟。"),
]


@pytest.mark.parametrize(
    ("fault", "request_text", "text"),
    [
        (fault, example.request, example.before)
        for fault in faults.FAULTS.values()
        for example in fault.examples
    ],
    ids=lambda value: value.name if isinstance(value, faults.Rule) else "",
)
def test_a_fault_finds_its_examples(fault, request_text, text):
    found = faults.find(MATRIX.read(request_text), text)
    assert fault.name in found and found[fault.name].strip()


@pytest.mark.parametrize(("request_text", "text"), GOOD)
def test_good_wishes_have_none(request_text, text):
    assert faults.find(MATRIX.read(request_text), text) == {}


def test_an_answer_that_does_not_stop():
    request = MATRIX.read("祝姐姐生日")
    assert faults.find(request, "姐姐，祝你生日快乐！", stopped=False) == {
        faults.UNSTOPPED: "到了长度上限还没有停"
    }


def test_every_fault_has_a_title_a_docstring_and_an_example():
    assert len(set(faults.TITLES.values())) == len(faults.FAULTS) + 1
    for fault in faults.FAULTS.values():
        assert fault.title and fault.apply.__doc__ and fault.examples


def test_a_second_rule_of_one_name_is_refused():
    registry = {}

    def register():
        @faults.rule(registry, "reject", "空")
        def empty(text, request):
            return None

    register()
    with pytest.raises(AssertionError, match="empty"):
        register()


@given(st.text(max_size=60))
def test_checks_that_need_a_name_pass_without_one(text):
    named = {"wrong_person", "wrong_scene", "honorific", "no_wish"}
    assert not named & set(faults.find(MATRIX.read("写首诗"), text))


@pytest.mark.parametrize(
    ("request_text", "text", "wrong"),
    [
        ("祝爷爷重阳节", "敬爱的爷爷，值此重阳佳节，祝你福寿康宁。", {"honorific"}),
        ("祝妹妹生日", "妹妹，祝您生日快乐！", {"honorific"}),
        ("祝姐姐春节", "姐姐，祝你生日快乐，万事如意！", {"wrong_scene"}),
        ("祝姐姐春节", "姐姐，新年快乐，也祝你中秋愉快！", set()),
        ("祝姐姐生日", "姐姐，祝你生日快乐快乐快乐快乐！", {"loop"}),
        ("祝姐姐生日", "姐姐，祝你生日快乐！<|im_end|>", {"leftover"}),
        ("祝姐姐生日", "亲爱的○○，祝你生日快乐！", {"slot"}),
        ("祝姐姐生日", "祝***生日快乐，***天天开心！", {"slot"}),
        ("祝姐姐生日", "***生日快乐***，亲爱的***！", {"slot"}),
        (
            "祝姐姐生日,20字以内",
            "姐姐，祝你生日快乐，愿你岁岁平安、事事如意、天天开心、夜夜好眠！",
            {"too_long"},
        ),
    ],
)
def test_exactly_what_is_wrong_is_found(request_text, text, wrong):
    assert set(faults.find(MATRIX.read(request_text), text)) == wrong
