"""The journal: durable, owned by one process, never overwritten when it is foreign or damaged."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import textwrap

import pytest

from tianji_helpers.errors import CourseError
from tianji_helpers.synthesis import rounds
from tianji_helpers.synthesis.journal import Journal, key_of

BODY = {"model": "m", "messages": [{"role": "user", "content": "祝"}], "temperature": 1.0, "seed": 1}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "journal.sqlite"


def test_the_key_covers_the_whole_request():
    key = key_of("p", 1, BODY)
    assert key == key_of("p", 1, dict(reversed(BODY.items())))
    others = [key_of("q", 1, BODY), key_of("p", 2, BODY)]
    others += [
        key_of("p", 1, BODY | change) for change in ({"temperature": 0.5}, {"seed": 2}, {"model": "n"})
    ]
    assert len({key, *others}) == 6


def test_what_was_added_is_there_after_reopening_and_never_doubled(file):
    with Journal(file) as journal:
        journal.add([("a", {"text": "祝你生日快乐🎂"}), ("b", {"text": "二"})])
        journal.add([("a", {"text": "another"})])
    with Journal(file) as journal:
        assert journal.get("a") == {"text": "祝你生日快乐🎂"}
        assert journal.get("c") is None
        assert len(journal) == 2


def test_a_round_keeps_its_file_name(file):
    with Journal(file) as journal:
        assert journal.round_file({"round": 1, "seed": 42}, ["x.json"]) == "x.json"
    with Journal(file) as journal:
        assert journal.round_file({"seed": 42, "round": 1}, ["y.json"]) == "x.json"
        assert journal.round_file({"round": 2}, ["x.json", "z.json"]) == "z.json"


def test_a_round_of_an_older_journal_keeps_its_file_name(file):
    identity = {"style": "正常", "round": 1, "temperature": 1.0}
    with Journal(file) as journal:  # as it was written until November 2026
        journal._base.execute("INSERT INTO rounds VALUES (?, 'old.json')", [repr(sorted(identity.items()))])
        for _ in range(2):
            assert journal.round_file(identity, ["new.json"]) == "old.json"
        assert journal.round_file(identity | {"round": 2}, ["old.json", "new.json"]) == "new.json"


def test_every_commit_is_synced(file):
    with Journal(file) as journal:
        assert journal._base.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert journal._base.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_kill_minus_nine_loses_no_commit(file):
    script = """
        import sys
        from tianji_helpers.synthesis.journal import Journal
        with Journal(sys.argv[1]) as journal:
            for number in range(10**6):
                journal.add([(str(number), {"text": "祝" * 50})])
                print(number, flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), file], stdout=subprocess.PIPE, text=True
    ) as child:
        for _ in range(40):
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        last = max([last, *(int(line) for line in child.stdout.read().split("\n")[:-1])])
    alone = file.with_name("copied.sqlite")  # without what SQLite may have left beside it
    shutil.copy(file, alone)
    with Journal(alone) as journal:
        assert all(journal.get(str(number)) for number in range(last))
    with Journal(file) as journal:
        assert all(journal.get(str(number)) for number in range(last + 1))
        assert len(journal) in (last + 1, last + 2)  # one may be committed and not yet printed


def test_a_second_process_is_refused_and_the_lock_dies_with_its_owner(file):
    script = "import sys, time\nfrom tianji_helpers.synthesis.journal import Journal\n"
    script += "with Journal(sys.argv[1]) as j:\n    print('open', flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, file], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "open\n"
        with pytest.raises(CourseError, match="另一个程序正在用同一个输出文件夹"):
            Journal(file)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    with Journal(file) as journal:
        assert len(journal) == 0


def test_a_journal_of_the_first_version_without_its_second_file_is_told(file):
    base = sqlite3.connect(file, isolation_level=None)
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("CREATE TABLE answers (request TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")
    base.execute("CREATE TABLE rounds (round TEXT PRIMARY KEY, file TEXT NOT NULL UNIQUE) WITHOUT ROWID")
    base.execute(f"PRAGMA application_id = {0x746A6A31}")
    base.execute("""INSERT INTO answers VALUES ('a', '{"text": "一"}')""")
    alone, whole = file.with_name("alone.sqlite"), file.with_name("whole.sqlite")
    for copy in (alone, whole):
        shutil.copy(file, copy)
    shutil.copy(f"{file}-wal", f"{whole}-wal")
    base.close()
    before = alone.read_bytes()
    for _ in range(2):  # whatever SQLite leaves beside it
        with pytest.raises(CourseError, match=r"什么也没有.*alone\.sqlite-wal.*没有一起拷来"):
            Journal(alone)
        assert alone.read_bytes() == before
    with Journal(whole) as journal:
        assert journal.get("a") == {"text": "一"}


def test_a_foreign_database_is_named_and_kept(file):
    base = sqlite3.connect(file)
    base.execute("CREATE TABLE photos (name TEXT)")
    base.commit()
    base.close()
    before = file.read_bytes()
    with pytest.raises(CourseError, match=r"journal\.sqlite 是别的程序的 SQLite 数据库"):
        Journal(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", ["text", "header", "middle"])
def test_a_damaged_journal_is_named_and_kept(file, damage):
    if damage == "text":
        file.write_text("这不是数据库" * 100, encoding="utf-8")
    else:
        with Journal(file) as journal:
            journal.add([(f"{number:064}", {"text": "祝" * 200}) for number in range(200)])
        data = bytearray(file.read_bytes())
        data[slice(0, 16) if damage == "header" else slice(4096, len(data))] = b"\xff" * (
            16 if damage == "header" else len(data) - 4096
        )
        file.write_bytes(data)
    before = file.read_bytes()
    with pytest.raises(CourseError, match=r"journal\.sqlite 用不了.*没有被改动"), Journal(file) as journal:
        journal.get("0" * 64)
    assert file.read_bytes() == before


def test_a_full_disk_keeps_what_is_stored(file):
    with Journal(file) as journal:
        journal.add([("a", {"text": "一"})])
        pages = journal._base.execute("PRAGMA page_count").fetchone()[0]
        journal._base.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(CourseError, match="磁盘满了"):
            journal.add([("b", {"text": "祝" * 100_000})])
        assert journal.get("a") == {"text": "一"} and journal.get("b") is None


def test_a_folder_that_is_not_there_is_explained(tmp_path):
    with pytest.raises(CourseError, match="检查磁盘空间和文件夹权限"):
        Journal(tmp_path / "no" / "journal.sqlite")


def test_known_names_what_has_an_answer(file):
    with Journal(file) as journal:
        journal.add([(str(number), {"text": "一"}) for number in range(10)])
        assert journal.known(["3", "x", "7"]) == {"3", "7"} and journal.known([]) == set()


def edit(file, *statements):
    base = sqlite3.connect(file)
    for statement in statements:
        base.execute(*statement)
    base.commit()
    base.close()


def fitting(answer: str) -> str:
    return hashlib.sha256(f"a {answer}".encode()).hexdigest()


NO_ANSWERS = ['{"text": 5}', "5", "[]", "{", "[" * 100_000, '{"text": "\\ud83d"}']


@pytest.mark.parametrize(
    "change",
    [
        {"answer": '{"text": "changed"}'},
        {"answer": b"\xff"},
        {"checksum": b"\xff"},
        *({"answer": text, "checksum": fitting(text)} for text in NO_ANSWERS),
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_changed_answer_counts_as_not_there_and_is_replaced(file, change):
    with Journal(file) as journal:
        journal.add([("a", {"text": "一"}), ("b", {"text": "二"})])
    for column, value in change.items():
        edit(file, (f"UPDATE answers SET {column} = ? WHERE request = 'a'", [value]))
    with Journal(file) as journal:
        assert journal.get("a") is None and journal.known(["a", "b"]) == {"b"}
        assert journal.distrusted == {"a"}
        journal.add([("a", {"text": "三"}), ("b", {"text": "四"})])
    with Journal(file) as journal:
        assert journal.get("a") == {"text": "三"} and journal.get("b") == {"text": "二"}


def test_an_answer_under_another_request_is_not_its_answer(file):
    with Journal(file) as journal:
        journal.add([("a", {"text": "一"})])
    edit(file, ("UPDATE answers SET request = 'b'",))
    with Journal(file) as journal:
        assert journal.get("b") is None


def test_a_journal_of_the_first_version_keeps_its_answers(file):
    """It was in WAL mode, and had no checksums."""
    base = sqlite3.connect(file)
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("CREATE TABLE answers (request TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;")
    base.execute("CREATE TABLE rounds (round TEXT PRIMARY KEY, file TEXT NOT NULL UNIQUE) WITHOUT ROWID;")
    base.execute("PRAGMA application_id = 1953131057")
    base.execute("INSERT INTO answers VALUES ('a', ?)", [json.dumps({"text": "一"})])
    base.commit()
    base.close()
    for _ in range(2):
        with Journal(file) as journal:
            assert journal.get("a") == {"text": "一"} and len(journal) == 1
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_no_trigger_of_a_stranger_runs(file):
    with Journal(file) as journal:
        journal.add([("a", {"text": "一"})])
    edit(file, ("CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END",))
    with pytest.raises(CourseError, match="没有被改动"):
        Journal(file)


@pytest.mark.parametrize(
    "name",
    ["/tmp/wishes_正常_2026-01-01-00-00-00.json", "../x.json", "journal.sqlite", "", b"x"],
    ids=str,
)
def test_a_round_is_written_under_a_name_of_ours_only(file, name):
    identity = {"style": "正常", "round": 1}
    with Journal(file) as journal:
        journal._base.execute("INSERT INTO rounds VALUES (?, ?)", [repr(sorted(identity.items())), name])
        with pytest.raises(CourseError, match="不是课程起的名字"):
            rounds.write(file.parent, journal, "正常", identity, iter([{"input": "一"}]), {}, [])
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_rollback_file_of_a_stranger_removes_nothing(file, tmp_path):
    """SQLite would read it, as after a crash, and then remove the file that it names."""
    with Journal(file) as journal:
        journal.add([("a", {"text": "一"})])
    victim = tmp_path / "precious.txt"
    victim.write_text("precious")
    magic, name = bytes.fromhex("d9d505f920a163d7"), bytes(victim)
    start = (magic + struct.pack(">5I", 0, 1, 2, 512, 4096)).ljust(512, b"\0")  # no page is rolled back
    end = struct.pack(">I", 2**30 // 4096 + 1) + name + struct.pack(">2I", len(name), sum(name)) + magic
    (tmp_path / "journal.sqlite-journal").write_bytes(start + end)
    with pytest.raises(CourseError, match="指向别的文件"):
        Journal(file)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(("mode", "ending"), [("DELETE", "-journal"), ("WAL", "-wal")])
def test_links_beside_a_journal_are_not_followed(file, tmp_path, mode, ending):
    with Journal(file) as journal:
        journal.add([("a", {"text": "一"})])
    edit(file, (f"PRAGMA journal_mode = {mode}",))
    (tmp_path / f"journal.sqlite{ending}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CourseError, match="指向别的文件"), Journal(file) as journal:
        journal.add([("b", {"text": "二"})])
    assert not (tmp_path / "elsewhere").exists()


def test_a_style_with_a_slash_stays_in_the_folder(file):
    with Journal(file) as journal:
        written = rounds.write(file.parent, journal, "小红书/抖音", {}, iter([{"input": "一"}]), {}, [])
    assert written.parent == file.parent and rounds.find(file.parent) == [written]
