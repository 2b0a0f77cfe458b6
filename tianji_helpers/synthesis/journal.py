"""Answers are durable before they count.

An SQLite database in WAL mode with ``synchronous=FULL``: ``add`` returns after the commit is on the
disk, so a ``kill -9`` or a power cut loses nothing that was counted. Chosen over fsynced JSON Lines
because SQLite's log carries checksums (a half-written record is dropped by itself), the primary key
makes doubles impossible, look-ups need no index in memory, and the lock below comes with it.

A request is known by the hash of all that shapes its answer (``key_of``). Failures are never written.
One process owns a journal: it is locked from ``open`` to ``close``, and the operating system gives the
lock back when the process dies.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

from tianji_helpers.errors import CourseError

_APPLICATION = 0x746A6A31  # "tjj1": tells our journal from any other SQLite file
_TABLES = """
CREATE TABLE answers (request TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rounds (round TEXT PRIMARY KEY, file TEXT NOT NULL UNIQUE) WITHOUT ROWID;
"""


def key_of(provider: str, round: int, body: dict) -> str:
    """Return the hash of a full request: who is asked, which round, and the body on the wire.

    The address is left out: the same model behind another port gives the same answers.
    """
    text = json.dumps([provider, round, body], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """The journal in one file; use it in a ``with`` block.

    Raises CourseError if another process holds it, if the file is not a journal of ours or is damaged
    (it is kept as it is), or if the disk refuses.
    """

    def __init__(self, file: str | Path):
        self.file = Path(file)
        self._lock = threading.Lock()  # answers are added from a worker thread
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
        run("PRAGMA locking_mode = EXCLUSIVE")  # before WAL: then no other process may even read
        application = run("PRAGMA application_id").fetchone()[0]
        tables = run("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != _APPLICATION and (application or tables):
            raise CourseError(
                f"{self.file} 是别的程序的 SQLite 数据库，不是祝福日志；它没有被改动。"
                "请把它移走，或换一个输出文件夹。"
            )
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("BEGIN IMMEDIATE")
        if not tables:
            for statement in _TABLES.strip().splitlines():
                run(statement)
            run(f"PRAGMA application_id = {_APPLICATION}")
        run("COMMIT")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._base.close()

    def get(self, request: str) -> dict | None:
        """Return the answer of a request, or None if it has none."""
        with self._lock, _explained(self.file):
            row = self._base.execute("SELECT answer FROM answers WHERE request = ?", [request]).fetchone()
        return json.loads(row[0]) if row else None

    def known(self, requests: list[str]) -> set[str]:
        """Return which of some requests (hundreds at most) have an answer."""
        marks = ",".join("?" * len(requests))
        with self._lock, _explained(self.file):
            rows = self._base.execute(f"SELECT request FROM answers WHERE request IN ({marks})", requests)
            return {row[0] for row in rows}

    def add(self, answers: Iterable[tuple[str, dict]]) -> None:
        """Store answers by request in one transaction; on return they are on the disk."""
        rows = [(request, json.dumps(answer, ensure_ascii=False)) for request, answer in answers]
        with self._lock, _explained(self.file):
            self._base.execute("BEGIN IMMEDIATE")
            try:
                self._base.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    def round_file(self, round: str, propose: Iterable[str]) -> str:
        """Return the file name of a round; the first call takes the first free name of ``propose``."""
        with self._lock, _explained(self.file):
            for name in propose:
                self._base.execute("INSERT OR IGNORE INTO rounds VALUES (?, ?)", [round, name])
                row = self._base.execute("SELECT file FROM rounds WHERE round = ?", [round]).fetchone()
                if row:
                    return row[0]
        raise ValueError("no free name was proposed")

    def __len__(self) -> int:
        with self._lock, _explained(self.file):
            return self._base.execute("SELECT count(*) FROM answers").fetchone()[0]


class _explained:
    """Turn SQLite's errors into words that name the file and the fix."""

    def __init__(self, file: Path):
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        text = str(error)
        if "locked" in text:
            fix = "另一个程序正在用同一个输出文件夹生成。请等它结束，或换一个输出文件夹"
        elif "full" in text:
            fix = "磁盘满了。已经完成的回答都还在，请腾出空间后再运行一次"
        elif "not a database" in text or "malformed" in text or "no such table" in text:
            fix = (
                "文件不是祝福日志，或已经损坏；它没有被改动。请把它移走（里面的回答也许还能恢复），再运行一次"
            )
        else:
            fix = "请检查磁盘空间和文件夹权限，再运行一次"
        raise CourseError(f"日志 {self.file} 用不了（{text}）：{fix}。") from error
