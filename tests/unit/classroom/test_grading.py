"""Grading: honest submissions get their marks, and nobody's code does harm or hands out grades."""

import csv
import io
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tianji_helpers import paths
from tianji_helpers.errors import CourseError
from tianji_toolbox import cli
from tianji_toolbox.classroom import grading, jail, landlock
from tianji_toolbox.classroom.sandbox import Sandbox, Stopped

pytestmark = pytest.mark.slow

RIGHT = "import re\n\n\ndef squeeze(text):\n    return re.sub('([！～])\\\\1+', '\\\\1', text)\n\n\n"
RIGHT += 'check("02-2", squeeze)'
WRONG = 'def strip_quotes(text):\n    return text.strip("“”「」")\n\n\ncheck("02-1", strip_quotes)'
MARKER = "tianji-left-behind"

ENDLESS = "while True:\n    pass"
# what one cell of a student does before the right answer of another; see the class below
ATTACKS = {
    "kills": "import os\nos._exit(3)",
    "prints": "text = 'x' * 10_000_000\nwhile True:\n    print(text)",
    "memory": "held = bytearray(3_000_000_000)",
    "shared_memory": """
import mmap
held = []
while True:
    held.append(mmap.mmap(-1, 50_000_000))
    held[-1].write(b"x" * 50_000_000)
""",
    "processes": """
import subprocess
running = [subprocess.Popen(["sleep", "600"]) for _ in range(100)]
import time
time.sleep(600)
""",
    "files": "for number in range(20_000):\n    open(f'{number}', 'w').close()\nimport time\ntime.sleep(600)",
    "leaves_behind": f"""
import subprocess, sys
code = "import os, time; os.setsid(); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code, "{MARKER}"], start_new_session=True)
""",
    "deletes": """
import os, shutil
shutil.rmtree(os.getcwd(), ignore_errors=True)
assert not os.path.exists("02.ipynb")
shutil.rmtree({folder!r}, ignore_errors=True)
shutil.rmtree({root!r}, ignore_errors=True)
""",
    "writes": """
import os, shutil
doors = [
    lambda: open({folder!r} + "/new", "w"),
    lambda: open({victim!r}, "a"),
    lambda: os.truncate({victim!r}, 0),
    lambda: os.chmod({victim!r}, 0o777),
    lambda: os.utime({victim!r}),
    lambda: os.rename({victim!r}, {victim!r} + "2"),
    lambda: os.link({victim!r}, "link"),
    lambda: (os.symlink({victim!r}, "to"), open("to", "a")),
    lambda: open("/dev/shm/new", "w"),
    lambda: open("/tmp/new", "w"),
]
OPEN
""",
    "spies": """
import os
assert {secret!r} not in str(dict(os.environ))
doors = [
    lambda: open({victim!r}).read(),
    lambda: open({root!r} + "/.env").read(),
    lambda: open({root!r} + "/README.md").read(),
    lambda: os.listdir({root!r} + "/notebooks/solutions"),
    lambda: os.listdir({folder!r}),
    lambda: open("/etc/passwd").read(),
    lambda: open("/proc/{pid}/environ").read(),
    lambda: open("/proc/1/environ").read(),
    lambda: os.kill({pid}, 0),
]
OPEN
""",
    "calls_home": """
import socket
doors = [
    lambda: socket.create_connection(("127.0.0.1", {port}), timeout=2),
    lambda: socket.socket(socket.AF_UNIX).connect({unix!r}),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {port})),
]
OPEN
""",
    "breaks_out": """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def system(*call):
    if libc.syscall(*call) < 0:
        raise OSError(ctypes.get_errno(), "")
doors = [
    lambda: system(442, -100, b"/", 0x8000, struct.pack("QQQQ", 0, 1, 0, 0), 32),  # mount_setattr: writable
    lambda: system(165, b"none", b"/tmp", b"tmpfs", 0, None),  # mount
    lambda: os.setuid(12345),
    lambda: os.chroot("/"),
]
OPEN
""",
    "forges": """
import tianji_helpers.exercises.answers as theirs
theirs.hints = lambda *_: []
theirs.Answer.call = theirs.Answer.value = lambda *_: True
theirs.EXERCISES.clear()
def check(number, answer):
    print("✓", number)
""",
}
# every door must be shut
OPEN = """
found = []
for number, door in enumerate(doors):
    try:
        door()
    except OSError:
        continue
    found.append(number)
assert not found, found
"""
STOPPED = {
    "kills": "进程自己结束了",
    "shared_memory": "用的内存超过了 0.5 GB",
    "processes": "个进程",
    "files": "写下的文件太多",
}


def notebook(*sources, section="## 练习"):
    before = [new_markdown_cell("# 第 2 课"), new_code_cell("raise RuntimeError('not to be run')")]
    after = [new_markdown_cell("## 小结"), new_code_cell("raise RuntimeError('not to be run')")]
    imports = new_code_cell("from tianji_helpers.classroom import check")
    inside = [new_markdown_cell(section), imports, *map(new_code_cell, sources)]
    return new_notebook(cells=[*before, *inside, *after])


@pytest.fixture(scope="module")
def lockable():
    """Where the kernel itself forbids it, grading refuses, which is tested below; all else is skipped."""
    allowed = subprocess.run([*jail.UNSHARE, "true"], stderr=subprocess.DEVNULL).returncode == 0
    if not allowed or not landlock.version():
        pytest.skip(jail.HOW)


@pytest.fixture(scope="module")
def server():
    """What a student could talk to on this machine; ``met`` holds who came."""

    class Meet(socketserver.BaseRequestHandler):
        def handle(self):
            self.server.met.append(self.client_address)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Meet) as server:
        server.met = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def submissions(tmp_path_factory, server):
    """A class: each attack by a student of its name, in a folder, and some who do none."""
    folder = tmp_path_factory.mktemp("submissions")
    outside = tmp_path_factory.mktemp("outside")
    victim = outside / "victim.txt"
    victim.write_text("precious", encoding="utf-8")
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(outside / "socket"))
    unix.listen()
    known = {
        "folder": str(folder),
        "root": str(paths.ROOT),
        "victim": str(victim),
        "secret": "sesame-of-the-instructor",
        "pid": os.getpid(),
        "port": server.server_address[1],
        "unix": str(outside / "socket"),
    }
    for name, attack in ATTACKS.items():
        (folder / name).mkdir()
        source = attack.strip().replace("OPEN", OPEN)
        for key, value in known.items():
            source = source.replace(f"{{{key}!r}}", repr(value)).replace(f"{{{key}}}", str(value))
        nbformat.write(notebook(WRONG, source, RIGHT), folder / name / "02.ipynb")
    magic = "%time squeezed = 1\n" + RIGHT
    nbformat.write(notebook(magic), folder / "=honest()<b>.ipynb")
    nbformat.write(
        notebook("1 +", 'def squeeze(text):\n    return 1 / 0\n\n\ncheck("02-2", squeeze)'),
        folder / "fails.ipynb",
    )
    nbformat.write(notebook('1 +\ncheck("02-2", 1)'), folder / "typo.ipynb")
    nbformat.write(notebook("nothing = 1"), folder / "deleted.ipynb")
    nbformat.write(notebook(RIGHT, section="## 别的"), folder / "elsewhere.ipynb")
    (folder / "broken.ipynb").write_text("{" * 100_000, encoding="utf-8")
    (folder / "linked.ipynb").symlink_to(folder / "fails.ipynb")
    (folder / "unwritable").mkdir()
    nbformat.write(notebook(RIGHT), folder / "unwritable" / "02.ipynb")
    (folder / "unwritable" / "profile_default").symlink_to("/etc")
    (folder / "unwritable").chmod(0o555)
    (folder / "empty").mkdir()
    (folder / "pipes").mkdir()
    nbformat.write(notebook(RIGHT), folder / "pipes" / "02.ipynb")
    os.mkfifo(folder / "pipes" / "pipe")
    (folder / "twice").mkdir()
    nbformat.write(notebook(RIGHT), folder / "twice" / "1.ipynb")
    nbformat.write(notebook(RIGHT.replace("～", "")), folder / "twice" / "2.ipynb")
    yield folder
    unix.close()


@pytest.fixture(scope="module")
def grades(lockable, submissions):
    before = {path: path.read_bytes() for path in submissions.rglob("*.ipynb")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEACHERS_SECRET", "sesame-of-the-instructor")
        found = grading.grade(submissions, seconds=60, memory_gb=0.5, workers=2)
    assert {path: path.read_bytes() for path in submissions.rglob("*.ipynb")} == before
    return {grade.student: grade for grade in found}


@pytest.mark.parametrize("name", STOPPED)
def test_what_goes_too_far_is_stopped_with_its_reason(grades, name):
    grade = grades[name]
    (problem,) = grade.problems
    assert STOPPED[name] in problem and problem.startswith("02.ipynb：")
    assert "不该动" in grade.results["02-1"][0], "what was judged before stays"
    assert STOPPED[name] in grade.results["02-2"][0]


@pytest.mark.parametrize("name", ["leaves_behind", "deletes", "writes", "spies", "calls_home", "breaks_out"])
def test_what_finds_all_doors_shut_can_still_be_right(grades, name):
    assert grades[name].problems == []
    assert grades[name].results["02-2"] == []
    assert grades[name].results["02-1"]


def test_one_that_never_ends_is_stopped_and_the_next_is_graded(lockable, tmp_path):
    nbformat.write(notebook(WRONG, ENDLESS, RIGHT), tmp_path / "1.ipynb")
    nbformat.write(notebook(RIGHT), tmp_path / "2.ipynb")
    endless, honest = grading.grade(tmp_path, seconds=10)
    assert endless.problems == ["1.ipynb：超过了时间限制 10 秒"]
    assert endless.results["02-2"] == ["没有判完：超过了时间限制 10 秒"] and endless.results["02-1"]
    assert honest.results == {"02-2": []}


@pytest.mark.parametrize(("name", "reason"), [("prints", "File too large"), ("memory", "MemoryError")])
def test_what_runs_into_a_limit_is_told(grades, name, reason):
    (problem,) = grades[name].problems
    assert problem.startswith("02.ipynb：有一格出错了：") and reason in problem


def test_nothing_was_reached_or_left(grades, submissions, server):
    assert server.met == []
    outside = {path.name for path in submissions.parent.glob("outside0/*")}
    assert outside == {"victim.txt", "socket"}
    assert (submissions.parent / "outside0" / "victim.txt").read_text(encoding="utf-8") == "precious"
    assert not [p for p in psutil.process_iter(["cmdline"]) if MARKER in (p.info["cmdline"] or [])]


def test_a_student_cannot_hand_out_the_grade(grades):
    assert grades["forges"].results["02-1"] and grades["forges"].results["02-2"]


def test_other_submissions_get_what_they_deserve(grades):
    assert grades["=honest()<b>"].results == {"02-2": []}
    assert grades["=honest()<b>"].passed == 1
    assert "SyntaxError" in grades["fails"].problems[0]
    assert "ZeroDivisionError" in grades["fails"].results["02-2"][0]
    assert "SyntaxError" in grades["typo"].results["02-2"][0]
    assert "没有一个 check" in grades["deleted"].problems[0]
    assert "没有找到" in grades["elsewhere"].problems[0]
    assert "读不了" in grades["broken"].problems[0]
    assert "没有笔记本" in grades["empty"].problems[0]
    assert "复制不了" in grades["pipes"].problems[0]
    assert grades["unwritable"].results.keys() == {"02-2"}
    assert grades["twice"].results == {"02-2": []}, "the better of two counts"
    assert "linked" not in grades


def test_the_table_is_safe_to_open(grades, tmp_path):
    files = grading.write(list(grades.values()), tmp_path)
    assert [file.name for file in files] == ["grades.csv", "grades.html"]
    text = files[0].read_bytes().decode("utf-8")
    assert text.startswith("\ufeff学生,通过,共,02-1,02-2,02-3,02-4,备注")
    rows = {row[0]: row for row in csv.reader(io.StringIO(text[1:]))}
    assert rows["'=honest()<b>"][1:5] == ["1", "4", "", "1"]
    assert not [cell for row in rows.values() for cell in row if cell.startswith(("=", "+", "-", "@"))]
    page = files[1].read_text(encoding="utf-8")
    assert "=honest()&lt;b&gt;" in page and "<b>" not in page and "用的内存超过了" in page
    assert "src=" not in page and "http:" not in page and "https:" not in page


def test_the_command_accepts_the_solutions_and_rejects_the_stubs(lockable, tmp_path, capsys):
    shutil.copytree(paths.NOTEBOOKS / "solutions", tmp_path / "class" / "答案")
    (tmp_path / "class" / "空白").mkdir()
    for file in paths.NOTEBOOKS.glob("0*.ipynb"):
        shutil.copy(file, tmp_path / "class" / "空白")
    assert cli.main(["grade", str(tmp_path / "class"), "--output", str(tmp_path), "--workers", "2"]) == 0
    printed = capsys.readouterr().out
    assert " 24 / 24  答案\n" in printed and "  0 / 24  空白\n" in printed
    assert (tmp_path / "grades.csv").is_file() and (tmp_path / "grades.html").is_file()


def test_ctrl_c_ends_what_is_running(lockable, tmp_path):
    nbformat.write(notebook(ENDLESS, RIGHT), tmp_path / "1.ipynb")
    tianji = [
        sys.executable,
        "-m",
        "tianji_toolbox.cli",
        "grade",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
    ]
    grader = psutil.Popen(tianji, stderr=subprocess.PIPE, text=True)
    while "tianji_toolbox.classroom.pupil" not in str([p.cmdline() for p in grader.children(recursive=True)]):
        time.sleep(0.1)
    started = grader.children(recursive=True)
    grader.send_signal(signal.SIGINT)
    assert "已中断" in grader.communicate(timeout=60)[1] and grader.returncode == 130
    assert not psutil.wait_procs(started, timeout=30)[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(["nowhere"], "没有文件夹"), (["."], "没有笔记本"), ([".", "--timeout", "1"], "至少 5 秒")],
)
def test_what_cannot_be_graded_is_refused(arguments, hint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["grade", *arguments]) == (2 if "nowhere" in arguments else 1)
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{" * 100_000,
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1]}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code", "source": 3}]}',
        '{"nbformat": 99, "cells": []}',
        '{"nbformat": 4}',
        "\x00\ud800",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_file_of_any_content_has_a_reason(text, tmp_path):
    (tmp_path / "1.ipynb").write_text(text, encoding="utf-8", errors="surrogatepass")
    (grade,) = grading.grade(tmp_path)
    assert grade.results == {}
    assert "读不了" in grade.problems[0] or "没有找到" in grade.problems[0]


@pytest.mark.parametrize("start", [["unshare", "--no-such-option"], ["env"], ["no-such-program"]])
def test_nothing_runs_where_it_cannot_be_locked_in(start, monkeypatch, tmp_path):
    monkeypatch.setattr(jail, "UNSHARE", start)
    with pytest.raises(CourseError, match=r"关起来|关不住"), Sandbox(tmp_path, 10, 10**9) as sandbox:
        sandbox.run("open('ran', 'w')")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_too_long_or_no_answer_is_stopped(lockable, tmp_path):
    flood = "import os, contextlib\nfor fd in range(3, 50):\n"
    flood += "    with contextlib.suppress(OSError):\n        os.write(fd, TEXT)"
    for text, reason in (("b'[1]\\n'", "看不懂"), ("b'x' * 3_000_000", "MB")):
        folder = tmp_path / str(len(text))
        folder.mkdir()
        with pytest.raises(Stopped, match=reason), Sandbox(folder, 20, 10**9) as sandbox:
            sandbox.run(flood.replace("TEXT", text))


def test_one_that_answers_before_it_is_asked_cannot_stall_the_grader(lockable, tmp_path):
    forged = """
import os, time
for fd in range(3, 50):
    try:
        os.write(fd, b'{"error": ""}\\n' * 100)
    except OSError:
        pass
time.sleep(600)
"""
    with pytest.raises(Stopped, match="不再听命令"), Sandbox(tmp_path, 20, 10**9) as sandbox:
        for _ in range(100):
            sandbox.run(forged + "#" * 2000)
