"""Class lists in the form of Canvas, Moodle and Chinese platforms: who is who, and what goes back."""

import openpyxl
import pytest

from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import gradebook, grading, roster

# The columns that the importers of Canvas and Moodle look for. What the tests say of the two was found by
# running that code (roster.py says which).
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
    if not text.startswith("LastName"):
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


def test_canvas_counts_as_many_cells_in_the_first_three_lines(tmp_path):
    """Where they differ by commas, it splits at semicolons, and says "Invalid header row"."""
    _, rows = filled(CANVAS.replace("Zhang, San", "张三"), "1002", tmp_path, title="练习")
    assert {len(row) for row in rows} == {8}


def test_canvas_writes_commas_for_decimals_between_semicolons(tmp_path):
    text = "Student;ID;SIS Login ID;Section;作业一 (4711)\n    Points Possible;;;;10,00\n"
    text += "张三;1001;zhang;A;\n"
    _, rows = filled(text, "1001", tmp_path)
    assert rows[1][4] == "10,00" and rows[2] == ["张三", "1001", "zhang", "A", "7.5"]


@pytest.mark.parametrize("points", ["", "0.00", "(read only)"])
def test_canvas_keeps_the_points_of_its_assignments(points, tmp_path):
    """A number in that line becomes the assignment's points; "read only" keeps a column from being taken."""
    _, rows = filled(CANVAS.replace("10,(read", f"{points},(read"), "1001", tmp_path)
    assert rows[2][5] == points and rows[3][5] == "3", "three of our four points"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_canvas_takes_no_mark_before_a_last_name(mark, tmp_path):
    """It looks whether the first cell is just LastName; of Student it only asks whether it is in there."""
    text = "LastName,FirstName,ID,SIS Login ID,Section,作业一 (4711)\n    Points Possible,,,,,10\n"
    text += "张,三,1001,zhang,A,\n"
    _, rows = filled(text, "1001", tmp_path, encoding="utf-8-sig" if mark else "utf-8")
    assert (tmp_path / "out" / "list-grades.csv").read_bytes().startswith(b"LastName")
    assert rows[2] == ["张", "三", "1001", "zhang", "A", "7.5"]


@pytest.mark.parametrize("name", ["张三_1", "张, 三", "三 张", "zhang"])
def test_canvas_may_keep_last_and_first_names_apart(name, tmp_path):
    text = "LastName,FirstName,ID,SIS Login ID,Section\n    Points Possible,,,,\n"
    text += "张,三,1001,zhang,A\n李,四,1002,li,A\n"
    people, rows = filled(text, name, tmp_path)
    assert rows[2][-1] == "3" and people.missing == ["李, 四"]


@pytest.mark.parametrize("name", ["张三_77_assignsubmission_file_", "张三_77_assignsubmission_file", "张三"])
def test_moodle_gets_its_worksheet_back(name, tmp_path):
    people, rows = filled(MOODLE, name, tmp_path)
    assert rows[1][:6] == ["Participant 77", "张三", "zhang@example.com", "75", "100.00", "-"]
    assert rows[1][6] == "06-1：1/1；06-2：0/1 =还差一点；06-3：1/1；06-4：1/1"
    assert rows[2] == gradebook.read_table(tmp_path / "list.csv")[2] and people.missing == ["李四"]


def test_moodle_scales_to_its_maximum_in_the_words_of_today(tmp_path):
    """Older versions write Maximum Grade (mod/assign/lang/en/assign.php: maxgrade)."""
    _, rows = filled(MOODLE.replace("Maximum Grade", "Maximum grade"), "张三", tmp_path)
    assert rows[1][3] == "75"


@pytest.mark.parametrize(
    "words",
    ["标识符 参与人 最高分 上次修改（评分）", "识别码 参与者 最高成绩 最后修改（教师）"],
    ids=["a later lang zh_cn", "lang zh_cn of 3.2"],
)
@pytest.mark.parametrize("file", ["{}77_assignsubmission_file_", "张三_77_assignsubmission_file_"])
@pytest.mark.parametrize("blind", [True, False])
def test_moodle_in_chinese_gets_grades_comments_and_a_time_that_it_can_read(words, file, blind, tmp_path):
    """It reads the time with PHP's strtotime, to which a Chinese date is none: who has a grade keeps that."""
    number, participant, most, changed = words.split()
    text = f"{number},全名,状态,成绩,{most},{changed},评语反馈\n{participant}77,张三,,,50.00,-,\n"
    text += f"{participant}78,李四,,20.00,50.00,2026年03月02日 星期一 10:05,好\n"
    if blind:
        text = text.replace(",全名", "").replace(",张三", "").replace(",李四", "")
        file = "{}77_assignsubmission_file_"
    _, rows = filled(text, file.format(participant), tmp_path)
    assert rows[1][-4:-1] == ["37.5", "50.00", "-"] and rows[1][-1].startswith("06-1：1/1；")
    assert rows[2][-4:] == ["20.00", "50.00", "2026-03-02 10:05", "好"]


def test_moodle_finds_no_quotation_mark_behind_a_backslash(tmp_path):
    """PHP's fgetcsv with a backslash as escape: rows would run together, and be dropped without a word."""
    text = MOODLE.replace("Grade,", "Online text,Grade,", 1)
    text = text.replace("@example.com,,", '@example.com,"print(\\""a\\"")\\",,', 1).replace(
        ".com,50", ".com,C:\\,50"
    )
    _, rows = filled(text, "张三", tmp_path)
    assert rows[1][3] == 'print(&#92;"a&#92;")&#92;' and rows[2][3] == "C:&#92;" and len(rows) == 3


def test_moodle_keeps_comments_as_html(tmp_path):
    """The plugin for comments stores what it imports as FORMAT_HTML, so <class 'int'> would be a tag."""
    (tmp_path / "list.csv").write_text(MOODLE, encoding="utf-8")
    people = roster.load(tmp_path / "list.csv", ["张三"])
    said = {"06-1": ["<class 'int'> & \\\"\n下一行"]}
    written = roster.write(
        people, gradebook.Book(), [grading.Grade("张三", said)], "作业一", tmp_path / "out"
    )
    comment = gradebook.read_table(written)[1][6]
    assert comment.startswith("06-1：0/1 &lt;class 'int'&gt; &amp; &#92;\"<br>下一行；")


def test_only_moodles_participants_are_known_by_the_number_alone(tmp_path):
    people = CHINESE.replace("0001", "class 7").replace("0002", "group 7")
    assert filled(people, "group 7", tmp_path)[0].missing == ["张三", "张三"]


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


def test_a_participants_number_may_be_anothers_student_number(tmp_path):
    text = "标识符,全名,学号,成绩,最高分,上次修改（评分）\n"
    text += "参与人1001,张三,1002,,50.00,-\n参与人1002,李四,1001,,50.00,-\n"
    _, rows = filled(text, "张三", tmp_path)
    assert rows[1][3] == "37.5"
    with pytest.raises(CourseError, match="可能是花名册里的 张三（第 2 行）、李四（第 3 行）"):
        filled(text, "1001_assignsubmission_file", tmp_path)


def test_moodles_worksheet_kept_as_a_workbook_can_be_read_as_well(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["标识符", "全名", "成绩", "最高分", "上次修改（评分）", "评语反馈"])
    book.active.append(["参与人77", "张三", None, 50, "2026年03月02日 星期一 10:05", 'C:\\"'])
    book.save(tmp_path / "list.xlsx")
    people = roster.load(tmp_path / "list.xlsx", ["张三"])
    said = {"06-1": ['print("\\")']}
    written = roster.write(
        people, gradebook.Book(), [grading.Grade("张三", said)], "作业一", tmp_path / "out"
    )
    row = [cell.value for cell in openpyxl.load_workbook(written).active[2]]
    assert row[2:5] == [0, 50, "2026-03-02 10:05"] and 'print("&#92;")' in row[5]


def test_lists_of_others_keep_the_length_of_their_lines(tmp_path):
    filled("成绩导入模板\n学号,姓名,成绩\n0001,张三\n", "0001", tmp_path)
    assert (tmp_path / "out" / "list-grades.csv").read_text("utf-8-sig").splitlines()[0] == "成绩导入模板"
