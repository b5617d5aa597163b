"""The store of a roll-out: one SQLite file that every process reads and writes, and a log that is only added to.

The last decision of the log *is* the state, so the two cannot disagree. A request and all that follows from it are one
transaction: a process that is killed loses the request that it was writing, or nothing. The file is in write-ahead
mode: readers wait for nobody. Every write has reached the operating system before the call returns, and a decision has
reached the disk too: a power cut can take the last requests, never a decision. Order is by sequence numbers; times are
told and decide nothing.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from longstride.errors import StoreError
from longstride.rollout.evidence import Evidence
from longstride.rollout.plan import Plan
from longstride.rollout.records import Counts, Decision
from longstride.rollout.writing import (
    Writing,
    make_tables,
    read_counts,
    read_evidence,
    read_latest,
    read_log,
    read_number,
    read_plan,
)

__all__ = ["Store"]

#: In SQLite's header: "lngs", and the version of the tables.
_APPLICATION, _VERSION = 0x6C6E6773, 1

#: How SQLite reads a store in a read-only folder that nobody writes to.
_FROZEN = "ro&immutable=1"

T = TypeVar("T")


class Store:
    """The file, for any number of threads and processes; connections are opened when needed, and again after a fork.

    Args:
        path: The file.
        create: Whether to make it if it is missing.
        timeout: Seconds that a write waits for the writes of others.

    Raises:
        StoreError: the file is missing, is no store, was made by a newer longstride, or cannot be made.
    """

    def __init__(self, path: str | Path, *, create: bool = False, timeout: float = 5.0) -> None:
        self.path, self._timeout = Path(path).absolute(), timeout
        self._locks = {"read": threading.Lock(), "write": threading.Lock()}
        self._open: dict[str, tuple[tuple[int, ...], sqlite3.Connection]] = {}
        self._inherited: list[sqlite3.Connection] = []
        self._known: tuple[sqlite3.Connection | None, Decision | None] = (None, None)
        self._may_make = create
        if not create and not self.path.is_file():
            raise StoreError(f"there is no store at {self.path}: longstride rollout start makes one")
        if create:
            self._attempt("write", self._create)
        self._may_make = False  # a store that is lost later is told, and not made anew
        self._attempt("read", self._check)

    def _create(self, connection: sqlite3.Connection) -> None:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            return
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):  # no other was faster
                make_tables(connection)
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _check(self, connection: sqlite3.Connection) -> None:
        application, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application != _APPLICATION:
            raise StoreError(f"{self.path} is no store of a roll-out")
        if version > _VERSION:
            raise StoreError(f"{self.path} has version {version} of a newer longstride: update longstride")

    def latest(self) -> Decision | None:
        """The last decision; None: no roll-out was started."""
        return self._attempt("read", self._read_latest)

    def _read_latest(self, connection: sqlite3.Connection) -> Decision | None:
        """Decisions never change, so the last one is read again only if it has another number."""
        number = read_number(connection)
        known_by, known = self._known
        if known_by is not connection or known is None or known.number != number:
            known = read_latest(connection)
            self._known = (connection, known)
        return known

    def plan(self, rollout: int) -> Plan:
        """The plan of a roll-out."""
        return self._attempt("read", lambda connection: read_plan(connection, rollout))

    def log(self) -> list[Decision]:
        """All decisions, from the first to the last."""
        return self._attempt("read", read_log)

    def known(self, rollout: int, plan: Plan) -> tuple[dict[tuple[int, str], Counts], Evidence]:
        """Counts by stage and arm, and the evidence so far."""

        def both(connection: sqlite3.Connection) -> tuple[dict[tuple[int, str], Counts], Evidence]:
            connection.execute("BEGIN")  # both of the same moment
            try:
                return read_counts(connection, rollout), read_evidence(connection, rollout, plan)
            finally:
                connection.execute("COMMIT")

        return self._attempt("read", both)

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """A transaction that no other process can write beside.

        Raises:
            StoreError: the store cannot be written; nothing was.
        """
        with self._locks["write"], self._errors():
            connection = self._connection("write")
            connection.execute("BEGIN IMMEDIATE")
            try:
                work = Writing(connection)
                yield work
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has ended the transaction by itself
                    connection.execute("ROLLBACK")
                raise
            if work.decided:  # to the disk, unless the disk is full
                with suppress(sqlite3.Error):
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the connections of this process; the store opens them again when it is used."""
        for name, lock in self._locks.items():
            with lock:
                self._drop(name)

    def _attempt(self, name: str, do: Callable[[sqlite3.Connection], T]) -> T:
        with self._locks[name], self._errors():
            return do(self._connection(name))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"the store {self.path} cannot be used: {error}") from None

    def _identity(self) -> tuple[int, ...]:
        """Of this process, and of the file that has the path now."""
        try:
            found = os.stat(self.path)
        except OSError:
            return (os.getpid(),)
        return os.getpid(), found.st_dev, found.st_ino

    def _drop(self, name: str) -> None:
        identity, connection = self._open.pop(name, ((), None))
        if connection is not None and identity[0] != os.getpid():
            self._inherited.append(connection)  # of before a fork: SQLite wants it left alone
        elif connection is not None:
            connection.close()

    def _connection(self, name: str) -> sqlite3.Connection:
        """The connection for reading or writing."""
        if name in self._open and len(identity := self._identity()) > 1 and self._open[name][0] == identity:
            return self._open[name][1]
        self._drop(name)
        connection, lasting = self._connect(name)
        self._open[name] = (self._identity() if lasting else (os.getpid(),), connection)
        return connection

    def _connect(self, name: str) -> tuple[sqlite3.Connection, bool]:
        """A new connection, and whether it sees what others will write."""
        modes = ["rwc" if self._may_make else "rw"] if name == "write" else ["rw", "ro"]
        if name == "read" and not self.path.with_name(self.path.name + "-wal").exists():
            modes.append(_FROZEN)
        for mode in modes:
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode={mode}",
                uri=True,
                timeout=self._timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                return connection, mode != _FROZEN
            except sqlite3.Error as error:
                connection.close()
                if mode == modes[-1] or not isinstance(error, sqlite3.OperationalError):
                    raise
        raise AssertionError("unreachable")
