"""Hostile submissions: whatever one does is its own result, and it finds every door shut.

All of them are one class, graded at once, beside an honest student.
"""

import contextlib
import ctypes
import os
import platform
import socket
import socketserver
import subprocess
import threading
from pathlib import Path

import nbformat
import psutil
import pytest
from submissions import RIGHT, WRONG, notebook

from tianji_helpers import paths
from tianji_helpers.errors import CourseError
from tianji_toolbox.classroom import gradebook, grading, jail, sandbox
from tianji_toolbox.classroom.sandbox import Sandbox, Stopped

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(jail.why_not()), reason=jail.why_not()),
]

MARKER = "tianji-left-behind"
ADD_KEY, REQUEST_KEY, KEYCTL = (248, 249, 250) if platform.machine() == "x86_64" else (217, 218, 219)
MQ_OPEN = 240 if platform.machine() == "x86_64" else 180
SESSION = -3  # the keyring that a session's processes inherit
LIBC = f"""
import ctypes, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    found = function(*arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), "")
    return found
def system(*arguments):
    return call(libc.syscall, *arguments)
add_key, request_key, keyctl, mq_open = {ADD_KEY}, {REQUEST_KEY}, {KEYCTL}, {MQ_OPEN}
"""
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

# below what a path can name
DIVE = "import os\nfor _ in range(1500):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\n"

# A student of the name does this in a cell before the right answer of another. These find all doors shut ...
SHUT = {
    "writes": """
import os
doors = [
    *(lambda place=place: open(place + "/new", "w") for place in (
        {folder!r}, {root!r}, "/", "/dev", "/dev/shm", "/tmp", "/usr", "/etc", "/handed-in")),
    lambda: open({victim!r}, "a"),
    lambda: os.truncate({victim!r}, 0),
    lambda: os.chmod({victim!r}, 0o777),
    lambda: os.rename({victim!r}, {victim!r} + "2"),
    lambda: os.link({victim!r}, "link"),
    lambda: (os.symlink({victim!r}, "to"), open("to", "a")),
    lambda: open("/handed-in/02.ipynb", "a"),
    lambda: os.chmod("/dev/null", 0),
    lambda: open("/proc/sys/kernel/core_pattern", "w"),
    lambda: open("/proc/sys/vm/drop_caches", "w"),
    lambda: open("/proc/sysrq-trigger", "w"),
]
OPEN
open("/dev/null", "w").write("this one must work")
""",
    "deletes": """
import os, shutil
shutil.rmtree(os.getcwd(), ignore_errors=True)
for folder in ("/handed-in", {folder!r}, {root!r}):
    shutil.rmtree(folder, ignore_errors=True)
assert not os.path.exists("02.ipynb") and os.path.exists("/handed-in/02.ipynb")
""",
    "spies": """
import os
assert {secret!r} not in str(dict(os.environ)) and os.getpid() == 1
doors = [
    lambda: open({victim!r}).read(),
    lambda: open({root!r} + "/.env").read(),
    lambda: open({root!r} + "/README.md").read(),
    lambda: os.listdir({root!r} + "/notebooks"),
    lambda: os.listdir({folder!r}),
    # where the course itself lies below /tmp, the way to it is there
    lambda: os.listdir("/tmp/none" if {root!r}.startswith("/tmp/") else "/tmp"),
    lambda: open("/etc/passwd").read(),
    lambda: open("/proc/{pid}/environ").read(),
    lambda: open("/dev/tty"),
    lambda: os.kill({pid}, 0),
    lambda: os.pidfd_open({pid}),
]
OPEN
""",
    "calls_home": LIBC
    + """
def pair(kind):
    return socket.socketpair(socket.AF_UNIX, kind)[0]
doors = [
    lambda: socket.create_connection(("127.0.0.1", {port}), timeout=2),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {port})),
    lambda: socket.socket(socket.AF_UNIX).connect({stream!r}),
    lambda: socket.socket(socket.AF_VSOCK),
    lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    lambda: pair(socket.SOCK_STREAM).connect({stream!r}),
    lambda: pair(socket.SOCK_DGRAM).sendto(b"x", {datagram!r}),
    lambda: pair(socket.SOCK_DGRAM).sendto(b"x", "\\0" + {abstract!r}),
    lambda: pair(socket.SOCK_DGRAM).sendto(b"x", "/dev/log"),
    lambda: system(425, 8, ctypes.create_string_buffer(200)),  # io_uring could open sockets, too
]
OPEN
import asyncio
asyncio.new_event_loop().close()  # it needs a pair of sockets, which is no door
""",
    "keyring": LIBC
    + """
session, user = ctypes.c_int(-3), ctypes.c_int(-4)
doors = [
    lambda: system(keyctl, 10, session, b"user", b"tianji-teacher", 0),  # search, the session's keyring
    lambda: open("/proc/keys").read(),  # their names
    lambda: system(request_key, b"user", b"tianji-teacher", None, session),
    lambda: system(keyctl, 11, {key}, ctypes.create_string_buffer(99), 99),  # read, by its number
    lambda: system(add_key, b"user", b"tianji-student", b"left", 4, session),
    lambda: system(add_key, b"user", b"tianji-student", b"left", 4, user),
]
OPEN
""",
    "hides_memory": LIBC
    + """
import mmap
libc.shmget.restype = libc.msgget.restype = libc.semget.restype = ctypes.c_int
def map_secretly(file):
    os.ftruncate(file, 4096)
    mmap.mmap(file, 4096)
doors = [
    lambda: os.memfd_create("x"),
    lambda: mmap.mmap(-1, 50_000_000),  # shared: it stays when nobody has its pages mapped
    lambda: call(libc.shmget, 0, ctypes.c_size_t(50_000_000), 0o1600),
    lambda: call(libc.msgget, 0, 0o1600),
    lambda: call(libc.semget, 0, 30_000, 0o1600),
    lambda: system(mq_open, b"queue", os.O_CREAT | os.O_RDWR, 0o600, None),
    lambda: map_secretly(system(447, 0)),  # memfd_secret
    lambda: open("/dev/zero"),
    lambda: open("/dev/shm/x", "w"),
    lambda: call(libc.vmsplice, os.pipe()[1], None, ctypes.c_size_t(0), 0),
]
OPEN
""",
    "breaks_out": LIBC
    + """
def another_way(number):
    # the numbers of x32, another face of the same kernel
    pid = os.fork()
    if not pid:
        os._exit(0 if libc.syscall(0x40000000 | number, 0, ctypes.c_int(-3), 0) >= 0 else 1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OSError
doors = [
    lambda: call(libc.unshare, 0x10000000),  # namespaces of one's own
    lambda: call(libc.unshare, 0x10020000),
    lambda: call(libc.setns, 0, 0),
    lambda: call(libc.mount, b"none", b"/home/student", b"tmpfs", 0, None),
    lambda: call(libc.umount2, b"/proc", 2),
    lambda: system(442, -100, b"/", 0x8000, struct.pack("QQQQ", 0, 1, 0, 0), 32),  # mount_setattr: writable
    lambda: os.setuid(12345),
    lambda: os.chroot("/"),
    lambda: os.nice(-5),
    lambda: socket.sethostname("x"),
    lambda: another_way(keyctl),
]
OPEN
""",
    "leaves_behind": f"""
import subprocess, sys
code = "import os, time; os.setsid(); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code, "{MARKER}"], start_new_session=True)
""",
    "kills_itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nos.kill(0, signal.SIGTERM)",
    "prints": "for _ in range(30):\n    print('x' * 10_000_000)",
    "raises_system_exit": "raise SystemExit(0)",
    "interrupts_itself": "raise KeyboardInterrupt",
    "raises_half_a_character": "raise ValueError('\\ud83d')",
    "raises_a_liar": "class Liar(Exception):\n    def __str__(self):\n        return 1\nraise Liar",
    "magics": "\n".join(["x = !true"] * 600),
    "brackets": "x = " + "(1," * 20_000 + ")" * 20_000,
    "long_line": f"x = {'a' * 5_000_000!r}",
    "makes_deep_folders": DIVE,
    "many_errors": [f"raise ValueError('=HYPERLINK({number})')" for number in range(300)],
    "many_cells": ["pass"] * 300,
    "memory_at_once": "held = bytearray(3_000_000_000)",
}
FILL = """
import os
opened = []
for number in range(10**6):
    try:
        opened.append(open(f"{number}", "wb", 0))
        try:
            opened[-1].write(bytes(90_000_000))
        finally:
            pass
    except OSError:
        pass
"""
# ... and these are stopped, for the reason beside them
STOPPED = {
    "kills": ("import os\nos._exit(3)", "进程自己结束了"),
    "memory": (
        "import os\nfor _ in range(3):\n    os.fork()\nheld = b'x' * 400_000_000\nwhile True:\n    pass",
        "内存用到",
    ),
    "page_tables": (
        "import mmap, os, time\nos.fork(), os.fork(), os.fork()\n"
        "empty = mmap.mmap(-1, 50 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)\n"
        "for place in range(0, len(empty), 2 << 20):\n    empty[place]\ntime.sleep(600)",
        "内存用到",
    ),
    "processes": (
        "import subprocess, time\nrunning = [subprocess.Popen(['sleep', '600']) for _ in range(100)]\n"
        "time.sleep(600)",
        "个进程",
    ),
    "forks": (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "",
    ),
    "files": (
        "import time\nfor number in range(20_000):\n    open(f'{number}', 'w').close()\ntime.sleep(600)",
        "文件太多",
    ),
    "folders": (
        "import os, time\nfor n in range(20_000):\n    os.mkdir(f'{n}')\ntime.sleep(600)",
        "文件太多",
    ),
    "fills": (FILL, "文件太多"),
    "fills_deleted_files": (
        FILL.replace("finally:\n            pass", "finally:\n            os.unlink(str(number))"),
        "文件太多",
    ),
    "fills_below_the_longest_path": (DIVE + FILL, "文件太多"),
    "answers_nonsense": (
        "import os\nfor fd in range(3, 50):\n    try:\n        os.write(fd, b'[1]\\n')\n    except OSError:\n"
        "        pass",
        "看不懂",
    ),
    "answers_deep": (
        "import os\nfor fd in range(3, 50):\n    try:\n        os.write(fd, b'[' * 100_000 + b'\\n')\n"
        "    except OSError:\n        pass",
        "看不懂",
    ),
    "answers_for_ever": (
        "import os\nfor fd in range(3, 50):\n    try:\n        os.write(fd, b'x' * 3_000_000)\n"
        "    except OSError:\n        pass",
        "MB",
    ),
}
# answers, in place of the right one
ANSWERS = {
    "half_a_character": 'def squeeze(text):\n    return text + "\\ud83d"\ncheck("02-2", squeeze)',
    "huge_number": 'check("02-2", lambda text: 10**4000)',
    "no_number": 'check("02-2", lambda text: {"a": [float("nan"), float("inf")]})',
    "itself": 'x = []\nx.append(x)\ncheck("02-2", lambda text: x)',
    "deep_sum": 'check("02-2", ' + "+".join(["1"] * 200_000) + ")",
    "calls": 'check("02-2", ' + "f" + "(1)" * 2000 + ")",
    "sum": 'check("02-2", ' + "+".join(["1"] * 1800) + ")",
    "unhashable": 'check([1], 1)\ncheck("02-2", 1)',
    "exits": 'import sys\ncheck("02-2", lambda text: sys.exit())',
    "forges": """
import tianji_helpers.exercises.answers as theirs
theirs.hints = lambda *_: []
theirs.Answer.call = theirs.Answer.value = lambda *_: True
theirs.EXERCISES.clear()
def check(number, answer):
    print("✓", number)
check("02-2", 1)
""",
}


@pytest.fixture(scope="module")
def teachers_key():
    """A key in the keyring of this session, as a login leaves them; 0 where the kernel has none."""
    syscall = ctypes.CDLL(None).syscall
    key = syscall(ADD_KEY, b"user", b"tianji-teacher", b"ticket", 6, ctypes.c_int(SESSION))
    yield max(0, key)
    if key > 0:
        syscall(KEYCTL, 9, key, ctypes.c_int(SESSION))  # unlink


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
def outside(tmp_path_factory, server, teachers_key):
    """What lies around on the teacher's machine."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "victim.txt").write_text("precious", encoding="utf-8")
    abstract = f"tianji-{os.getpid()}"
    kinds = {str(folder / "stream"): socket.SOCK_STREAM}
    kinds |= dict.fromkeys((str(folder / "datagram"), "\0" + abstract), socket.SOCK_DGRAM)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_UNIX, kind)) for kind in kinds.values()]
        for one, name in zip(sockets, kinds, strict=True):
            one.bind(name)
            one.setblocking(False)
        sockets[0].listen()
        yield {
            "root": str(paths.ROOT),
            "victim": str(folder / "victim.txt"),
            "secret": "sesame-of-the-instructor",
            "pid": os.getpid(),
            "port": server.server_address[1],
            "stream": str(folder / "stream"),
            "datagram": str(folder / "datagram"),
            "abstract": abstract,
            "key": teachers_key,
            "sockets": sockets,
        }


@pytest.fixture(scope="module")
def submissions(tmp_path_factory, outside):
    folder = tmp_path_factory.mktemp("submissions")

    def hand_in(name, *sources):
        (folder / name).mkdir()
        nbformat.write(notebook(*sources), folder / name / "02.ipynb")
        return folder / name

    for name, attack in (SHUT | {name: source for name, (source, _) in STOPPED.items()}).items():
        source = attack
        if isinstance(attack, str):
            source = attack.replace("OPEN", OPEN)
            for key, value in (outside | {"folder": str(folder)}).items():
                source = source.replace(f"{{{key}!r}}", repr(value)).replace(f"{{{key}}}", str(value))
        hand_in(name, WRONG, *(source if isinstance(source, list) else [source.strip()]), RIGHT)
    for name, answer in ANSWERS.items():
        hand_in(name, answer)
    for name in ("a_honest", "z_honest"):
        hand_in(name, RIGHT)
    hand_in("x<script>\n=1\u202e", RIGHT)
    hand_in(os.fsdecode("张三".encode("gbk")), RIGHT)
    hand_in("many_checks", "def f(text):\n    return text\n" + '\ncheck("02-2", f)' * 1000)
    shadow = hand_in("shadow", RIGHT)
    for name in ("json", "re", "ast", "sitecustomize", "usercustomize", "IPython", "tianji_helpers"):
        (shadow / f"{name}.py").write_text("import os\nos._exit(7)")
    (shadow / ".ipython").symlink_to("/etc")
    (shadow / "profile_default").symlink_to("/etc")
    os.mkfifo(hand_in("pipe", RIGHT) / "pipe")
    (hand_in("link", RIGHT) / "secret.txt").symlink_to(outside["victim"])
    (hand_in("locked", RIGHT) / "inner").mkdir(mode=0)
    hand_in("unwritable", RIGHT).chmod(0o555)
    with (hand_in("large", RIGHT) / "large.bin").open("wb") as file:
        file.truncate(2 * jail.ROOM)
    deep = os.open(hand_in("deep", RIGHT), os.O_RDONLY)
    for _ in range(1200):  # an archive can hold it
        os.mkdir("d", dir_fd=deep)
        deep, above = os.open("d", os.O_RDONLY, dir_fd=deep), deep
        os.close(above)
    os.close(deep)
    yield folder
    subprocess.run(["rm", "-rf", folder / "deep"], check=True)


@pytest.fixture(scope="module")
def grades(submissions):
    before = {path: path.read_bytes() for path in submissions.glob("*/*.ipynb")}
    mode = Path(os.devnull).stat().st_mode
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEACHERS_SECRET", "sesame-of-the-instructor")
        found = grading.grade(submissions, seconds=90, memory_gb=0.5, workers=2)
    assert {path: path.read_bytes() for path in submissions.glob("*/*.ipynb")} == before
    assert Path(os.devnull).stat().st_mode == mode
    return {grade.student: grade for grade in found}


@pytest.mark.parametrize("name", SHUT)
def test_what_finds_all_doors_shut_can_still_be_right(grades, name):
    assert grades[name].results["02-2"] == []
    assert "不该动" in grades[name].results["02-1"][0]
    harmless = name.startswith(("raises", "interrupts", "magics", "brackets", "many_errors", "memory"))
    assert bool(grades[name].problems) == harmless, grades[name].problems


@pytest.mark.parametrize("name", STOPPED)
def test_what_goes_too_far_is_stopped_with_its_reason(grades, name):
    assert STOPPED[name][1] in "；".join(grades[name].problems), grades[name]
    assert grades[name].problems and grades[name].results["02-2"], grades[name]
    assert "不该动" in grades[name].results["02-1"][0], "what was judged before stays"


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none_is_wrong(grades, name):
    assert list(grades[name].results) == ["02-2"] and grades[name].results["02-2"]


def test_the_others_get_what_they_deserve(grades):
    for name in ("a_honest", "z_honest", "x<script>�=1�", "张三", "shadow", "link", "unwritable"):
        assert grades[name].results.get("02-2") == [], grades[name]
    for name in ("pipe", "large", "deep", *(["locked"] if os.geteuid() else [])):
        assert "复制不了" in grades[name].problems[-1] and grades[name].results == {}
    assert "太深" in grades["deep"].problems[0] and grades["many_checks"].results["02-2"]


def test_nothing_was_reached_or_left(grades, outside, server):
    assert server.met == []
    with pytest.raises(BlockingIOError):
        outside["sockets"][0].accept()
    for one in outside["sockets"][1:]:
        with pytest.raises(BlockingIOError):
            one.recv(99)
    assert Path(outside["victim"]).read_text() == "precious"
    assert not [p for p in psutil.process_iter(["cmdline"]) if MARKER in (p.info["cmdline"] or [])]
    left = ctypes.CDLL(None).syscall(KEYCTL, 10, ctypes.c_int(SESSION), b"user", b"tianji-student", 0)
    assert left == -1


def test_the_tables_can_be_written_whatever_they_hold(grades, tmp_path):
    table, page = gradebook.write(list(grades.values()), tmp_path)
    assert "张三" in table.read_text(encoding="utf-8-sig") and "<script>" not in page.read_text(
        encoding="utf-8"
    )


OTHERS = ("--unshare-user", "--unshare-ipc", "--unshare-net", "--unshare-uts")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root owns these")


@pytest.mark.parametrize(
    ("words", "instead", "reason"),
    [
        (("--remount-ro", "/", "--chdir"), ("--chdir",), "还能写 /"),
        (("--unshare-all", "--die-with-parent", "--as-pid-1"), OTHERS, "还能看别的进程"),
        (("--cap-drop",), ("--ro-bind", str(paths.NOTEBOOKS), str(paths.NOTEBOOKS), "--cap-drop"), "还能读"),
        (("--seccomp", "FILE"), (), "还能联网"),
        pytest.param(("--remount-ro", "/proc"), (), "还能改系统设置", marks=ROOT),
        pytest.param(
            ("unshare", "--mount", "sh", "-c", jail._AS_ROOT, "GROUP", "OWN", "HANDED_IN"),
            (),
            "还能改设备",
            marks=ROOT,
        ),
        (("bwrap",), ("no-such-program",), "关起来"),
        (("bwrap",), ("bwrap", "--no-such-option"), "关起来"),
    ],
)
def test_nothing_runs_half_locked_in(words, instead, reason, monkeypatch, tmp_path):
    whole = jail.for_student

    def lacking(handed_in, calls, group, own):
        given = {"FILE": str(calls), "GROUP": group, "OWN": own, "HANDED_IN": str(handed_in or "")}
        command = [given.get(word, word) for word in words]
        built = whole(handed_in, calls, group, own)
        (start,) = [n for n in range(len(built)) if built[n : n + len(command)] == command]
        return [*built[:start], *instead, *built[start + len(command) :]]

    monkeypatch.setattr(jail, "for_student", lacking)
    nbformat.write(notebook(RIGHT), tmp_path / "1.ipynb")
    with pytest.raises(CourseError, match=reason):
        grading.grade(tmp_path)


def test_a_machine_without_bubblewrap_is_told_what_helps(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(jail, "why_not", jail.why_not.__wrapped__)
    with pytest.raises(CourseError, match="apt install bubblewrap"):
        Sandbox(None, 10, 1).__enter__()


def test_one_that_answers_before_it_is_asked_cannot_stall_the_grader(tmp_path):
    forged = "import os, time\nfor fd in range(3, 50):\n    try:\n        os.write(fd, b'{}\\n' * 2000)\n"
    forged += "    except OSError:\n        pass\ntime.sleep(600)\n"
    nbformat.write(notebook(forged, RIGHT), tmp_path / "1.ipynb")
    with Sandbox(tmp_path / "1.ipynb", 5, 1) as pupil, pytest.raises(Stopped, match="超过时限 5 秒"):
        for _ in range(3000):
            pupil.run(1)


def test_the_file_system_itself_holds_the_limits(tmp_path):
    """What a student can have written between two looks is bounded, too."""
    fill = "import os, time\nfor number in range(10**6):\n    try:\n"
    fill += "        open(f'{number}', 'wb').write(bytes(90_000_000))\n    except OSError:\n        pass"
    nbformat.write(notebook(fill, RIGHT), tmp_path / "1.ipynb")
    with Sandbox(tmp_path / "1.ipynb", 30, 1) as pupil:
        room = os.fstatvfs(pupil._seen[0])
        assert room.f_blocks * room.f_frsize <= jail.ROOM + 4096
        if os.geteuid() == 0:
            assert room.f_files <= jail.MAX_FILES + 2
        with pytest.raises(Stopped, match=f"{jail.ROOM / 1e6:g} MB、{jail.MAX_FILES} 个文件"):
            pupil.run(1)


def test_the_kernel_itself_counts_processes(tmp_path, monkeypatch):
    """Between two looks, too; of root as well, whom the usual limit does not bind."""
    monkeypatch.setattr(sandbox, "MAX_PROCESSES", 10**6)
    fork = (
        "import os\nfor _ in range(400):\n    if not os.fork():\n        import time\n        time.sleep(60)"
    )
    nbformat.write(notebook(fork, RIGHT), tmp_path / "1.ipynb")
    with Sandbox(tmp_path / "1.ipynb", 30, 1) as pupil:
        if os.geteuid() == 0 and not list(Path("/sys/fs/cgroup").glob("**/tianji-*/pids.max")):
            pytest.skip("no control groups here")
        assert "BlockingIOError" in pupil.run(1)
