"""Hard faults: each finds its examples, none finds good wishes, and what needs a name passes without one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji_helpers import faults, wishes
from tianji_helpers.dataset import clean

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
SLOTS = [
    "[您的名字]", "【您的名字】", "（您的姓名）", "[你的姓名]", "{姓名}", "<您的名字>", "[姓名]", "（姓名）",
    "【称呼】", "(称呼)", "[对方姓名]", "【收件人姓名】", "[收信人]", "[发送人]", "【署名】", "[公司名]",
    "【公司名称】", "[您的公司]", "【单位】", "[您的职位]", "[日期]", "【活动日期】", "[年份]", "[具体日期]",
    "[具体愿望]", "【具体成就】", "[您的愿望]", "（您的愿望）", "【XX】", "（某某）", "【某公司】",
    "（某先生）", "[某年某月某日]", "【某领导】", "[某事]", "【填写姓名】", "（请填写您的名字）",
    "（填写礼物）", "（此处填写礼物）", "[此处插入名字]", "【输入对方名字】", "[姓名/称呼]", "【姓名或昵称】",
    "[朋友的名字]", "【姐姐的名字】", "[请在这里填写您的名字]", "[您公司的名称]", "[单位全称]",
    "（您的名字，可选）", "[ 您的名字 ]", "（署名处）",
]  # fmt: skip
TITLES = [
    "【公司年会】", "【新年快乐】", "【公司十周年】", "【单位联欢】", "【您的生日】", "【我的公司我的家】",
    "【公司喜报】", "【新春贺词】", "【你的快乐我的心愿】", "（您的付出我都记得）", "（你的笑容最美）",
    "（某人说的，不怪我！）", "【某人生日快乐】", "（名字我就不写啦）", "（对象也要早点找到）",
    "（称呼您一声老师）", "（你）", "（您好）", "（弟弟）", "[公司年会]", "[玫瑰]", "《你的名字》",
]  # fmt: skip
LISTS = [
    "愿你：\n1. 身体健康\n2. 万事如意",
    "祝您：\n1、身体健康。\n2、万事如意。\n3、阖家欢乐。",
    "姐姐，生日快乐！愿你在新的一岁：\n① 平安喜乐；\n② 前程似锦。",
    "姐姐生日快乐，祝你：\n- 晚上12:30吃蛋糕\n- 明天睡个好觉",
]
CHOICES = [
    "1. 祝您生日快乐，身体健康\n2. 祝您生日快乐，万事如意",
    "1. 祝您生日快乐。\n2. 祝您万事如意。\n3. 祝您阖家欢乐。",
    "以下是三条祝姐姐生日的祝福：\n1. 祝你生日快乐！\n2. 祝你岁岁平安！",
    "姐姐的生日祝福：\n\n1、姐姐，生日快乐！\n\n2、姐姐，祝你岁岁平安！",
    "祝姐姐生日快乐：\n1. 姐姐，生日快乐，平安！\n2. 姐姐，岁岁平安，健康！",
    "好的！\n1. 祝你生日快乐，天天开心！\n2. 祝你岁岁平安！",
    "一、愿姐姐生日快乐，岁岁平安！\n二、愿姐姐笑口常开！",
    "版本一：姐姐，生日快乐\n版本二：姐姐，岁岁平安",
    "姐姐，生日快乐！\n或者：姐姐，岁岁平安！",
    "希望能帮到你：\n1. 祝姐姐生日快乐！\n2. 愿姐姐岁岁平安！",
    "送给姐姐的话：\n1. 祝你生日快乐！\n2. 愿你平安！",
    "1. 姐姐，生日快乐，天天开心\n2. 亲爱的姐姐，岁岁平安，万事如意",
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


@pytest.mark.parametrize("bracket", SLOTS)
def test_a_bracket_that_asks_to_be_filled_in_is_a_slot(bracket):
    request = MATRIX.read("祝姐姐生日")
    for text in (f"姐姐，祝你生日快乐！{bracket}", f"亲爱的{bracket}，生日快乐，岁岁平安！"):
        assert "slot" in faults.find(request, text)


@pytest.mark.parametrize("bracket", TITLES)
def test_a_bracketed_title_or_aside_is_no_slot(bracket):
    request = MATRIX.read("祝姐姐生日")
    for text in (f"姐姐，祝你生日快乐！{bracket}", f"{bracket}姐姐，祝你生日快乐，岁岁平安！"):
        assert "slot" not in faults.find(request, text)


@pytest.mark.parametrize("text", LISTS)
def test_a_list_in_one_wish_is_no_choice_and_stays(text):
    request = MATRIX.read("祝姐姐生日,小红书风格")
    assert "alternatives" not in faults.find(request, text)
    assert clean.mend(text, request)[0].count("\n") >= text.replace("\n\n", "\n").count("\n")


@pytest.mark.parametrize("text", CHOICES)
def test_several_wishes_to_choose_from_are_found(text):
    request = MATRIX.read("祝姐姐生日,小红书风格")
    assert "alternatives" in faults.find(request, text)
    mended, _ = clean.mend(text, request)
    assert "\n" not in mended or clean.reject(mended, request)[0] == "alternatives"


@pytest.mark.timeout(60)  # they took minutes
@pytest.mark.parametrize(
    "start", ["1. 姐姐，祝你生日快乐！", "版本一：祝你", "祝你或", "2026\n1.啊，", "愿你："]
)
def test_blank_lines_without_end_take_no_time(start):
    request = MATRIX.read("祝姐姐生日")
    text = start + "\n" * (clean.MAX_CHARS - len(start))
    assert "\n\n\n" not in clean.mend(text, request)[0]
    assert "alternatives" not in faults.find(request, text)


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
