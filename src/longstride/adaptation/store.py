"""The file of an adaptation: one SQLite database that any number of processes share.

A transaction holds all that follows from one sample: a process that is killed loses the samples that it was measuring,
at most. Every text has its digest beside it, so that damage is noticed when it is read. Digests of noise are never
dropped.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from longstride.errors import StoreError, one_line

__all__ = ["AdaptationStore"]

#: In SQLite's header: "lnga", and the version of the tables.
_APPLICATION, _VERSION = 0x6C6E6761, 1
_TABLES = (
    "CREATE TABLE texts (name TEXT PRIMARY KEY, text TEXT NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE noise (digest TEXT PRIMARY KEY) WITHOUT ROWID",
)


class AdaptationStore:
    """Named texts and digests of noise, in a file or in memory.

    Args:
        path: The file, made if it is missing; None: nothing outlives the object.
        timeout: Seconds that a write waits for the writes of others.

    Raises:
        StoreError: the file cannot be used, is damaged, is no such store, or was made by a newer longstride.
    """

    def __init__(self, path: str | Path | None, timeout: float = 5.0) -> None:
        self.path = ":memory:" if path is None else str(Path(path).absolute())
        self._lock = threading.RLock()
        with self._errors():
            self._connection = sqlite3.connect(
                self.path, timeout=timeout, isolation_level=None, check_same_thread=False
            )
        # Damaged text then fails its digest, and no error of SQLite quotes it.
        self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            with self._errors():
                self._begin()
        except BaseException:
            self._connection.close()
            raise

    def _begin(self) -> None:
        if self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            self._connection.execute("PRAGMA journal_mode = WAL")
            with self.writing():
                if self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                    for table in _TABLES:
                        self._connection.execute(table)
                    self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                    self._connection.execute(f"PRAGMA user_version = {_VERSION}")
        application, version = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application != _APPLICATION:
            raise StoreError(f"{self.path} is no store of an adaptation: name another file")
        if version > _VERSION:
            raise StoreError(f"{self.path} has version {version} of a newer longstride: update longstride")
        if self._connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise self.damaged("SQLite finds it malformed")

    def damaged(self, what: str) -> StoreError:
        """The error for a damaged file."""
        return StoreError(f"{self.path} is damaged ({what}): move it away, and the adaptation begins anew")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError):
                raise StoreError(f"the store {self.path} cannot be used: {one_line(str(error))}") from None
            raise self.damaged(one_line(str(error))) from None
        except sqlite3.Error as error:
            raise StoreError(f"the store {self.path} cannot be used: {one_line(str(error))}") from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction that no other process can write beside; all is kept, or nothing.

        Raises:
            StoreError: the file cannot be written; nothing was.
        """
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Several reads of one moment."""
        with self._lock, self._errors():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def get(self, name: str) -> str | None:
        """A text; None: there is none.

        Raises:
            StoreError: the file cannot be read, or the text is not what was written.
        """
        with self._lock, self._errors():
            row = self._connection.execute("SELECT text, digest FROM texts WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        if not isinstance(row[0], str) or _digest(row[0]) != row[1]:
            raise self.damaged(f"its part {name!r} is not what was written")
        return row[0]

    def put(self, name: str, text: str | None) -> None:
        """Write a text, within :meth:`writing`; None: drop it."""
        if text is None:
            self._connection.execute("DELETE FROM texts WHERE name = ?", (name,))
        else:
            self._connection.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", (name, text, _digest(text)))

    def claim(self, digests: Sequence[str]) -> list[bool]:
        """Keep digests of noise, within :meth:`writing`; whether each of them is new."""
        insert = "INSERT OR IGNORE INTO noise VALUES (?)"
        return [self._connection.execute(insert, (one,)).rowcount == 1 for one in digests]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
