"""Similarity: copies are found though their names differ; the template and what is short are not."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tianji_helpers import paths
from tianji_toolbox import cli
from tianji_toolbox.classroom import handed_in, similarity

GIVEN = """def load(path):
    with open(path, encoding='utf-8') as file:
        return [line.strip() for line in file]"""
ONE = """def squeeze(text):
    result = []
    for letter in text:
        if result and letter == result[-1] and letter in '！～':
            continue
        result.append(letter)
    return ''.join(result)"""
RENAMED = ONE.replace("result", "结果").replace("letter", "c").replace("squeeze", "mine") + "  # 自己写的"
RENAMED = RENAMED.replace(":\n", ':\n    """Squeeze what is\n    twice there."""\n', 1)
OTHER = """def squeeze(text):
    while '！！' in text or '～～' in text:
        text = text.replace('！！', '！').replace('～～', '～')
    return text if text.strip() else ''"""
ESSAY = (
    "这门课里我学到最多的是第二课。" * 3
    + "清洗数据要留下理由，<b>不能</b>悄悄丢掉，否则谁也不知道少了什么，也就没有人能改。"
)


@pytest.fixture
def folder(tmp_path):
    given = {"甲": [ONE], "乙": ["%matplotlib inline", RENAMED], "丙": [OTHER], "丁": ["x = 1"]}
    given |= {"戊": [ESSAY], "己": [ESSAY.replace("第二课", "第四课")]}
    (tmp_path / "class").mkdir()
    for name, cells in given.items():
        made = [
            new_markdown_cell(text) if text == ESSAY or "第四课" in text else new_code_cell(text)
            for text in cells
        ]
        nbformat.write(
            new_notebook(cells=[new_code_cell(GIVEN), *made]), tmp_path / "class" / f"{name}.ipynb"
        )
    nbformat.write(new_notebook(cells=[new_code_cell(GIVEN)]), tmp_path / "template.ipynb")
    (tmp_path / "class" / "坏.ipynb").write_text("{" * 9999)
    return tmp_path


def test_copies_are_found_and_nothing_else(folder):
    pairs, problems = similarity.find(folder / "class", [folder / "template.ipynb"], 0.8)
    assert {frozenset((pair.one, pair.other)) for pair in pairs} == {frozenset("甲乙"), frozenset("戊己")}
    assert [len(pair.passages) for pair in pairs] == [1, 1] and "读不了" in problems["坏"]
    page = similarity.write(pairs, problems, 0.8, folder).read_text(encoding="utf-8")
    assert "<b>" not in page and "&lt;b&gt;" in page and "<mark>" in page and "load(path)" not in page
    (folder / similarity.PAGE).write_text("mine")
    for _ in range(2):
        similarity.write(pairs, problems, 0.8, folder)
    assert [item.read_text() for item in folder.glob(f"{similarity.PAGE}.kept-*")] == ["mine"]
    everything, _ = similarity.find(folder / "class", [], 0.8)
    assert len(everything) == 15, "who does not name the template finds it in all six"


FIELDS = """def request(recipient, scene):
    first = f"祝{recipient}{scene}快乐！"
    second = f"给{recipient}，为{scene}写的。"
    return f"{first}{second}（{recipient}）" + f"{scene}：{recipient}" """
PROMPT = '''MESSAGES = {"system": """你是一位熟悉中国节日的老师，请替学生写一句祝福，要温暖、具体、不落俗套，
不要写成群发的样子，也不要用网上的套话，写好以后自己读一遍，念着别扭就重写。"""}'''

OTHER_PROMPT = '''messages = {"system": """请扮演严厉的编辑，逐字检查下面的祝福，找出病句、错字、重复，
不要放过任何一处，也别怕得罪人，每一处都要说明理由，再给出改法，最后打一个分。"""}'''


@pytest.mark.parametrize(
    ("mine", "copied"),
    [
        (FIELDS, FIELDS.replace("recipient", "who").replace("scene", "occasion").replace("first", "a")),
        (PROMPT, PROMPT),
        (ONE, ONE.replace("text):", "text):  # 我的\n    r'''What comes\n    twice.'''")),
        (ONE, ONE.replace("text):", "text):\n    'One line.'")),
        (ONE, ONE.replace("    result = []", "    result, mark = [], \"\\\":'''\"")),
    ],
)
def test_no_way_of_writing_hides_a_copy(mine, copied):
    (pair,) = pairs_of(mine, copied)
    assert pair.passages[0][2] > 0.6


def test_other_texts_between_three_quotes_are_not_alike():
    assert not pairs_of(PROMPT, OTHER_PROMPT)


def test_a_docstring_in_the_template_hides_nothing():
    documented = ONE.replace("text):", 'text):\n    """\n    Squeeze.\n    """')
    assert pairs_of(documented, documented, given={'"""', "Squeeze."})


def pairs_of(mine, other, given=()):
    """The pairs of two students who hand in a cell each."""
    cells = {"甲": mine, "乙": other}
    passages = [
        one
        for name, source in cells.items()
        for one in similarity._passages(name, handed_in.Cell("code", source, ""), set(given))
    ]
    return similarity._pairs(passages, 0.6)


def test_what_many_write_counts_less_than_what_two_share(folder):
    for name in "子丑寅巳午":
        nbformat.write(new_notebook(cells=[new_code_cell(RENAMED)]), folder / "class" / f"{name}.ipynb")
    for name in "卯辰":
        nbformat.write(new_notebook(cells=[new_code_cell(OTHER)]), folder / "class" / f"{name}.ipynb")
    pairs, _ = similarity.find(folder / "class", [folder / "template.ipynb"], 0.8)
    order = [frozenset((pair.one, pair.other)) for pair in pairs]
    sizes = {frozenset((pair.one, pair.other)): pair.size for pair in pairs}
    few, many = frozenset("卯丙"), frozenset("子丑")  # three students have the one, seven the other
    assert order.index(few) < order.index(many) and sizes[few] < sizes[many]


def test_of_the_lessons_nothing_is_anybodys_own(folder, capsys):
    for name in ("一", "二"):
        lesson = paths.NOTEBOOKS / "02_merge_clean.ipynb"
        (folder / "class" / f"{name}.ipynb").write_bytes(lesson.read_bytes())
    line = ["similar", str(folder / "class"), "--output", str(folder)]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert "甲" in said and "一 和 二" not in said and (folder / "similar.html").is_file()


@pytest.mark.parametrize("content", ["", "[]", '{"cells": 3}'])
def test_a_template_that_is_no_notebook_is_refused(content, folder, capsys):
    (folder / "template.ipynb").write_text(content)
    line = ["similar", str(folder / "class"), "--template", str(folder / "template.ipynb")]
    assert cli.main(line) == 1 and "读不了" in capsys.readouterr().err


def test_hostile_cells_neither_stop_nor_fill_the_comparison(folder):
    """Code that no parser survives, thousands of passages alike, and comments, which are nobody's code."""
    deep = "x = " + "-" * 2_000_000 + "1"
    many = "\n".join(f"def f{n}(text):\n    return text.replace('{n:060}', '！')" for n in range(1000))
    for name in ("深", "深二"):
        cells = [new_code_cell(deep + "\n" + ONE), new_code_cell(many), new_code_cell("# " + ESSAY)]
        nbformat.write(new_notebook(cells=cells), folder / "class" / f"{name}.ipynb")
    nbformat.write(new_notebook(cells=[new_code_cell("# " + ESSAY)]), folder / "class" / "注释.ipynb")
    (folder / "class" / "深").mkdir()
    (folder / "class" / "深.ipynb").rename(folder / "class" / "深" / "一.ipynb")
    for name in ("二", "三"):
        (folder / "class" / "深" / f"{name}.ipynb").write_text("{")
    pairs, problems = similarity.find(folder / "class", [folder / "template.ipynb"], 0.8)
    assert f"只比了前 {similarity.MAX_PASSAGES} 段" in problems["深"]
    assert "二.ipynb：" in problems["深"] and "三.ipynb：" in problems["深"]
    page = similarity.write(pairs, problems, 0.8, folder).read_text(encoding="utf-8")
    assert f"{similarity.MAX_PASSAGES} 段，约" in page and f"只列出前 {similarity.MAX_SHOWN} 段" in page
    assert [pair for pair in pairs if {pair.one, pair.other} == {"深", "深二"}]
    assert not [pair for pair in pairs if "注释" in (pair.one, pair.other)]
