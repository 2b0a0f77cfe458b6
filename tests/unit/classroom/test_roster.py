"""Class lists in the form of Canvas, Moodle and Chinese platforms: who is who, and what goes back."""

import openpyxl
import pytest

from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import gradebook, grading, roster

# the columns that Canvas's importer (lib/gradebook_importer.rb) and Moodle's (feedback/offline) look for
CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,作业一 (4711),Current Score
,,,,,Manual Posting,
    Points Possible,,,,,10,(read only)
"Zhang, San",1001,S1,zhang,A,,
"Li, Si",1002,S2,li,A,3,
"""
MOODLE = """Identifier,Full name,Email address,Grade,Maximum Grade,Last modified (grade),Feedback comments
Participant 77,张三,zhang@example.com,,100.00,-,
Participant 78,李四,li@example.com,50.00,100.00,"Monday, 1 March 2026, 10:00 AM",见面谈
"""
CHINESE = """成绩导入模板,,,
*学号,姓名,班级,成绩
0001,张三,一班,
0002,李四,一班,
0003,张三,二班,
"""
GRADE = {"06-1": [], "06-2": ["=还差一点"], "06-3": [], "06-4": []}


def filled(text, name, tmp_path, file="list.csv", encoding="utf-8", title="作业一"):
    (tmp_path / file).write_text(text, encoding=encoding)
    people = roster.load(tmp_path / file, [name])
    written = roster.write(people, gradebook.Book(), [grading.Grade(name, GRADE)], title, tmp_path / "out")
    assert written.read_bytes().startswith(b"\xef\xbb\xbf"), "Excel needs the mark"
    return people, gradebook.read_table(written)


@pytest.mark.parametrize(
    "name", ["zhangsan_1001_5_hw", "zhangsan_LATE_1001_5_hw", "zhang", "S1", "Zhang, San"]
)
def test_canvas_gets_its_gradebook_back(name, tmp_path):
    people, rows = filled(CANVAS, name, tmp_path)
    assert rows[3] == ["Zhang, San", "1001", "S1", "zhang", "A", "7.5", ""], "three of four, of ten points"
    before = gradebook.read_table(tmp_path / "list.csv")
    assert rows[:3] == before[:3] and rows[4] == before[4] and people.missing == ["Li, Si"]


def test_canvas_gets_a_new_column_with_its_points(tmp_path):
    _, rows = filled(CANVAS, "1001", tmp_path, title="练习")
    assert rows[0][7] == "练习"
    assert rows[2][7] == "4" and rows[3][7] == "3" and rows[3][5] == ""


@pytest.mark.parametrize("name", ["张三_77_assignsubmission_file_", "张三_77_assignsubmission_file", "张三"])
def test_moodle_gets_its_worksheet_back(name, tmp_path):
    people, rows = filled(MOODLE, name, tmp_path)
    assert rows[1][:6] == ["Participant 77", "张三", "zhang@example.com", "75", "100.00", "-"]
    assert rows[1][6] == "06-1：1/1；06-2：0/1 =还差一点；06-3：1/1；06-4：1/1"
    assert rows[2] == gradebook.read_table(tmp_path / "list.csv")[2] and people.missing == ["李四"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_a_chinese_template_gets_its_column_filled(encoding, tmp_path):
    people, rows = filled(CHINESE, "0003", tmp_path, encoding=encoding)
    assert [row[3] for row in rows] == ["", "成绩", "", "", "3"] and people.missing == ["张三", "李四"]
    _, rows = filled(CHINESE.replace(",", ";"), "0003_作业", tmp_path, encoding=encoding)
    assert rows[4] == ["0003", "张三", "二班", "3"]


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_a_filled_list_that_somebody_changed_is_kept(suffix, tmp_path, capsys):
    file = tmp_path / f"list{suffix}"
    rows = [["学号", "姓名", "成绩"], ["0001", "张三", ""]]
    if suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(file)
    else:
        file.write_text("\n".join(map(",".join, rows)), encoding="utf-8")
    people = roster.load(file, ["0001"])

    def write():
        graded = [grading.Grade("0001", GRADE)]
        return roster.write(people, gradebook.Book(), graded, "作业一", tmp_path / "out")

    written = write()
    written.write_bytes(b"corrected")
    write()
    kept = written.with_name(f"{written.name}.kept-1")
    assert kept.read_bytes() == b"corrected" and f"留作 {kept.name}" in capsys.readouterr().out


def test_a_workbook_stays_a_workbook(tmp_path):
    book = openpyxl.Workbook()
    for row in CHINESE.split():
        book.active.append(row.split(","))
    book.active["A2"].font = openpyxl.styles.Font(bold=True)
    book.save(tmp_path / "名单.xlsx")
    people = roster.load(tmp_path / "名单.xlsx", ["李四"])
    written = roster.write(
        people, gradebook.Book(), [grading.Grade("李四", GRADE)], "作业一", tmp_path / "out"
    )
    sheet = openpyxl.load_workbook(written).active
    assert written.name == "名单-grades.xlsx" and sheet["D4"].value == 3 and sheet["D3"].value in (None, "")
    assert sheet["A2"].font.bold and sheet["A4"].value == "0002"


@pytest.mark.parametrize(
    ("text", "names", "hint"),
    [
        (CHINESE, ["王五", "0009"], "没有这些人：王五、0009（一共 2 个）"),
        (CHINESE, ["张三"], "张三 可能是花名册里的 张三（第 3 行）、张三（第 5 行）"),
        (CHINESE, ["0001", "0001_作业"], "0001 和 0001_作业 是花名册里的同一个人"),
        (CHINESE + "0002,王五,一班,\n", ["0001"], "0002 出现了两次（第 4 和 6 行）"),
        ("甲,乙\n1,2\n", ["1"], "没有列名"),
        ("学号,姓名\n", ["1"], "一个学生也没有"),
        ("", ["1"], "是空的"),
        ('学号,姓名\n"1,2\n', ["1"], "读不了表格"),
    ],
)
def test_a_wrong_list_is_refused_and_says_what(text, names, hint, tmp_path):
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CourseError) as refused:
        roster.load(tmp_path / "list.csv", names)
    assert hint in str(refused.value)


@pytest.mark.parametrize("name", ["list.csv", "list.xlsx", "list.xls"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"PK\x03\x04", bytes(range(256))])
def test_a_list_of_any_content_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CourseError):
        roster.load(tmp_path / name, ["1"])
