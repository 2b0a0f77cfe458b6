"""Answers are durable before they count.

An SQLite database with ``synchronous=FULL``: ``add`` returns after the commit is on the disk, so a
``kill -9`` or a power cut loses nothing that was counted. Chosen over fsynced JSON Lines because a
half-written commit is taken back by itself, the primary key makes doubles impossible, look-ups need no
index in memory, and the lock below comes with it. Not in WAL mode, though that takes a third of the time
(0.3 ms a commit instead of 1 ms): there the answers may lie in a second file for hours, and who copies
the first one copies nothing.

A request is known by the hash of all that shapes its answer (``key_of``). Failures are never written.
One process owns a journal: it is locked from ``open`` to ``close``, and the operating system gives the
lock back when the process dies.

A journal may come from somebody else, or from an editor's hands. Each answer has a checksum; one that
does not fit, or that could not be an answer, counts as not there (``distrusted``), and the next one takes
its place.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tianji_helpers import locks
from tianji_helpers.errors import CourseError

# "tjj2": tells our journal from any other SQLite file, and from that of the first version, "tjj1"
_APPLICATION, _FIRST = 0x746A6A32, 0x746A6A31
_SUPER = bytes.fromhex("d9d505f920a163d7")  # ends a rollback file that names another one
_ROUNDS = "CREATE TABLE rounds (round TEXT PRIMARY KEY, file TEXT NOT NULL UNIQUE) WITHOUT ROWID"
_FIRST_ANSWERS = "CREATE TABLE answers (request TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"
_ANSWERS = _FIRST_ANSWERS.replace("NULL)", "NULL, checksum TEXT NOT NULL)")


def key_of(provider: str, round: int, body: dict[str, Any]) -> str:
    """Return the hash of a full request: who is asked, which round, and the body on the wire.

    The address is left out: the same model behind another port gives the same answers.
    """
    text = json.dumps([provider, round, body], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(request: str, answer: str) -> str:
    return hashlib.sha256(f"{request} {answer}".encode()).hexdigest()


def _trusted(request: str, answer: Any, checksum: object) -> dict[str, Any] | None:
    """Return the answer of a row as it was stored, or None if this is not what was stored."""
    try:
        if checksum != _checksum(request, answer):
            return None
        value: dict[str, Any] = json.loads(answer)
        value["text"].encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return value


class Journal:
    """The journal in one file; use it in a ``with`` block.

    ``distrusted`` are the requests whose stored answers were found changed.
    Raises CourseError if another process holds it, if the file is not a journal of ours or is damaged
    (it is kept as it is), or if the disk refuses.
    """

    def __init__(self, file: str | Path):
        self.file = Path(file)
        self.distrusted: set[str] = set()
        self._lock = threading.Lock()  # answers are added from a worker thread
        _check_beside(self.file.resolve())
        self._lacks_wal = _lacks_wal(self.file.resolve())
        with _explained(self.file):
            self._base = sqlite3.connect(self.file, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            with _explained(self.file):
                self._open()
        except CourseError:
            self._base.close()
            raise

    def _open(self) -> None:
        run = self._base.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA trusted_schema = OFF")
        application = run("PRAGMA application_id").fetchone()[0]
        schema = {sql for (sql,) in run("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        ours = {_APPLICATION: {_ANSWERS, _ROUNDS}, _FIRST: {_FIRST_ANSWERS, _ROUNDS}, 0: set()}
        if schema != ours.get(application):  # nor does a trigger or a view of a stranger run
            raise CourseError(
                f"{self.file} 是别的程序的 SQLite 数据库，不是祝福日志；它没有被改动。"
                "请把它移走，或换一个输出文件夹。"
            )
        if self._lacks_wal and not schema:
            raise CourseError(
                f"日志 {self.file} 里什么也没有：它是第一版写的，那时回答先写在旁边的 "
                f"{self.file.name}-wal 里，而那个文件没有一起拷来。请把它也拷到旁边，再运行一次；"
                "它已经不在的话，请把这个日志移走，从头生成。"
            )
        run("PRAGMA journal_mode = DELETE")
        run("PRAGMA synchronous = FULL")
        run("BEGIN EXCLUSIVE")  # kept until the end: no other process may even read
        if not schema:
            run(_ROUNDS)
            run(_ANSWERS)
        elif application == _FIRST:
            run("ALTER TABLE answers RENAME TO first")
            run(_ANSWERS)
            self._base.create_function("checksum", 2, _checksum, deterministic=True)
            run("INSERT INTO answers SELECT request, answer, checksum(request, answer) FROM first")
            run("DROP TABLE first")
        if application != _APPLICATION:
            run(f"PRAGMA application_id = {_APPLICATION}")
        run("COMMIT")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._base.close()

    def get(self, request: str) -> dict[str, Any] | None:
        """Return the answer of a request, or None if it has none."""
        return self._find([request]).get(request)

    def known(self, requests: list[str]) -> set[str]:
        """Return which of some requests (hundreds at most) have an answer."""
        return set(self._find(requests))

    def _find(self, requests: list[str]) -> dict[str, dict[str, Any]]:
        marks = ",".join("?" * len(requests))
        with self._lock, _explained(self.file):
            rows = self._base.execute(
                f"SELECT * FROM answers WHERE request IN ({marks})", requests
            ).fetchall()
        found = {request: _trusted(request, answer, checksum) for request, answer, checksum in rows}
        self.distrusted.update(request for request, answer in found.items() if answer is None)
        return {request: answer for request, answer in found.items() if answer is not None}

    def add(self, answers: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Store answers by request in one transaction; on return they are on the disk."""
        texts = ((request, json.dumps(answer, ensure_ascii=False)) for request, answer in answers)
        rows = [(request, text, _checksum(request, text)) for request, text in texts]
        with self._lock, _explained(self.file):
            self._base.execute("BEGIN IMMEDIATE")
            try:
                changed = [(request,) for request, *_ in rows if request in self.distrusted]
                self._base.executemany("DELETE FROM answers WHERE request = ?", changed)
                self._base.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", rows)
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    def round_file(self, identity: dict[str, Any], propose: Iterable[str]) -> str:
        """Return the file name of a round; the first call takes the first free name of ``propose``.

        identity: what makes the round this one and no other, of plain values.
        """
        key = json.dumps(identity, ensure_ascii=False, sort_keys=True)
        older = repr(sorted(identity.items()))  # what journals had before; such a round keeps its name
        with self._lock, _explained(self.file):
            run = self._base.execute
            for name in propose:
                new = "SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM rounds WHERE round = ?)"
                run(f"INSERT OR IGNORE INTO rounds {new}", [key, name, older])
                if row := run("SELECT file FROM rounds WHERE round IN (?, ?)", [key, older]).fetchone():
                    return str(row[0])
        raise ValueError("no free name was proposed")

    def __len__(self) -> int:
        with self._lock, _explained(self.file):
            return int(self._base.execute("SELECT count(*) FROM answers").fetchone()[0])


def _check_beside(file: Path) -> None:
    """Refuse files beside a journal through which SQLite would write or remove others.

    After a crash SQLite reads ``-journal``, and removes the file that it names at its end (the
    "super-journal" of a transaction over several databases). Ours name none.
    """
    for ending in ("-journal", "-wal"):
        beside = file.with_name(file.name + ending)
        wrong = beside.is_symlink()
        if ending == "-journal" and beside.is_file():
            with beside.open("rb") as opened:
                opened.seek(max(0, beside.stat().st_size - len(_SUPER)))
                wrong |= opened.read() == _SUPER
        if wrong:
            raise CourseError(
                f"{beside} 不是课程留下的：它指向别的文件，SQLite 会去改动或删除那个文件，所以没有打开日志。"
                "请把它删掉，再运行一次。"
            )


def _lacks_wal(file: Path) -> bool:
    """Whether a database is in WAL mode, as the first version's journals were, without its ``-wal``.

    It may have been left out when the file was copied: then what was not moved into the file yet is gone
    without a word. That is sure only of one without tables.
    """
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        header = opened.read(20)
    wal = file.with_name(file.name + "-wal")
    return (
        header.startswith(b"SQLite format 3\0")
        and header[18:] == b"\2\2"
        and not (wal.exists() and wal.stat().st_size)
    )


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn SQLite's errors into words that name the file and the fix."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text and not locks.works_in(file.parent):  # SQLite says the same of both
            fix = locks.REMEDY
        elif "locked" in text:
            fix = "另一个程序正在用同一个输出文件夹生成。请等它结束，或换一个输出文件夹"
        elif "full" in text:
            fix = "磁盘满了。已经完成的回答都还在，请腾出空间后再运行一次"
        elif "not a database" in text or "malformed" in text or "no such table" in text:
            fix = (
                "文件不是祝福日志，或已经损坏；它没有被改动。请把它移走（里面的回答也许还能恢复），再运行一次"
            )
        else:
            fix = "请检查磁盘空间和文件夹权限，再运行一次"
        raise CourseError(f"日志 {file} 用不了（{text}）：{fix}。") from error
