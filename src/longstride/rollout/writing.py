"""What is in a store, as SQL: its tables, what is read, and what one transaction writes."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from longstride.rollout.evidence import Evidence
from longstride.rollout.plan import Plan, checked
from longstride.rollout.records import Action, Counts, Decision, Status

__all__ = [
    "Writing",
    "make_tables",
    "read_counts",
    "read_evidence",
    "read_latest",
    "read_log",
    "read_number",
    "read_plan",
]

_TABLES = """
CREATE TABLE plans (rollout INTEGER PRIMARY KEY, plan TEXT NOT NULL);
CREATE TABLE decisions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, rollout INTEGER NOT NULL, action TEXT NOT NULL, stage INTEGER NOT NULL,
    status TEXT NOT NULL, withdrawn TEXT NOT NULL, reason TEXT NOT NULL, evidence TEXT NOT NULL, by TEXT NOT NULL,
    told REAL NOT NULL
);
CREATE TABLE counts (
    rollout INTEGER, stage INTEGER, arm TEXT, requests INTEGER NOT NULL, flagged INTEGER NOT NULL,
    drift INTEGER NOT NULL, non_finite INTEGER NOT NULL, seconds REAL NOT NULL, measured INTEGER NOT NULL,
    PRIMARY KEY (rollout, stage, arm)
) WITHOUT ROWID;
CREATE TABLE bounds (rollout INTEGER, name TEXT, state BLOB NOT NULL, PRIMARY KEY (rollout, name)) WITHOUT ROWID;
CREATE TABLE pending (rollout INTEGER, name TEXT, value REAL NOT NULL, PRIMARY KEY (rollout, name)) WITHOUT ROWID;
CREATE TRIGGER plans_stay BEFORE UPDATE ON plans BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
CREATE TRIGGER plans_remain BEFORE DELETE ON plans BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
CREATE TRIGGER decisions_stay BEFORE UPDATE ON decisions BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
CREATE TRIGGER decisions_remain BEFORE DELETE ON decisions BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
"""

_COLUMNS = tuple(asdict(Counts()))
_ADD = (
    f"INSERT INTO counts (rollout, stage, arm, {', '.join(_COLUMNS)}) VALUES ({', '.join('?' * (3 + len(_COLUMNS)))}) "
    f"ON CONFLICT DO UPDATE SET {', '.join(f'{c} = {c} + excluded.{c}' for c in _COLUMNS)}"
)
_LATEST = "SELECT * FROM decisions ORDER BY number DESC LIMIT 1"


def _decision(row: Sequence[Any]) -> Decision:
    number, rollout, action, stage, status, withdrawn, reason, evidence, by, told = row
    return Decision(
        number, rollout, action, stage, status, tuple(json.loads(withdrawn)), reason, json.loads(evidence), by, told
    )


class Writing:
    """A transaction: everything that it did is kept together, or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.decided = False

    def latest(self) -> Decision | None:
        """The last decision; None: no roll-out was started."""
        return read_latest(self._connection)

    def plan(self, rollout: int) -> Plan:
        """The plan of a roll-out."""
        return read_plan(self._connection, rollout)

    def counts(self, rollout: int) -> dict[tuple[int, str], Counts]:
        """Counts by stage and arm."""
        return read_counts(self._connection, rollout)

    def evidence(self, rollout: int, plan: Plan) -> Evidence:
        """The evidence so far."""
        return read_evidence(self._connection, rollout, plan)

    def start(self, plan: Plan) -> int:
        """Keep a plan; returns the number of its roll-out."""
        text = json.dumps(plan.model_dump(mode="json"))
        return int(self._connection.execute("INSERT INTO plans (plan) VALUES (?)", (text,)).lastrowid or 0)

    def add(self, rollout: int, stage: int, arm: str, counts: Counts) -> None:
        """Add to the counts of an arm."""
        self._connection.execute(_ADD, (rollout, stage, arm, *asdict(counts).values()))

    def keep(self, rollout: int, evidence: Evidence, before: Mapping[str, float]) -> None:
        """Write what of the evidence has changed; ``before`` holds the pending values as they were."""
        rows = [(rollout, name, bounds.dumps()) for name, bounds in evidence.changed.items()]
        self._connection.executemany("INSERT OR REPLACE INTO bounds VALUES (?, ?, ?)", rows)
        new = [(rollout, name, value) for name, value in evidence.pending.items() if before.get(name) != value]
        self._connection.executemany("INSERT OR REPLACE INTO pending VALUES (?, ?, ?)", new)
        gone = [(rollout, name) for name in before if name not in evidence.pending]
        self._connection.executemany("DELETE FROM pending WHERE rollout = ? AND name = ?", gone)

    def decide(
        self,
        rollout: int,
        action: Action,
        stage: int,
        status: Status,
        withdrawn: Sequence[str],
        reason: str,
        evidence: Mapping[str, Any],
        by: Literal["itself", "hand"],
    ) -> Decision:
        """Add a decision to the log; the arguments are those of :class:`Decision`."""
        row = (rollout, action, stage, status, json.dumps(list(withdrawn)), reason, json.dumps(dict(evidence)), by)
        self._connection.execute(
            "INSERT INTO decisions (rollout, action, stage, status, withdrawn, reason, evidence, by, told) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, time.time()),
        )
        self.decided = True
        return _decision(self._connection.execute(_LATEST).fetchone())


def make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables, within a transaction that is open."""
    part = ""
    for line in _TABLES.splitlines(keepends=True):  # one by one: ``executescript`` would commit first
        part += line
        if sqlite3.complete_statement(part):
            connection.execute(part)
            part = ""


def read_latest(connection: sqlite3.Connection) -> Decision | None:
    """The last decision; None: no roll-out was started."""
    row = connection.execute(_LATEST).fetchone()
    return None if row is None else _decision(row)


def read_number(connection: sqlite3.Connection) -> int | None:
    """Number of the last decision."""
    number: int | None = connection.execute("SELECT max(number) FROM decisions").fetchone()[0]
    return number


def read_log(connection: sqlite3.Connection) -> list[Decision]:
    """All decisions, from the first to the last."""
    return [_decision(row) for row in connection.execute("SELECT * FROM decisions ORDER BY number")]


def read_plan(connection: sqlite3.Connection, rollout: int) -> Plan:
    """The plan of a roll-out."""
    (text,) = connection.execute("SELECT plan FROM plans WHERE rollout = ?", (rollout,)).fetchone()
    return checked(Plan, "the plan in the store", json.loads(text))


def read_counts(connection: sqlite3.Connection, rollout: int) -> dict[tuple[int, str], Counts]:
    """Counts by stage and arm."""
    rows = connection.execute(f"SELECT stage, arm, {', '.join(_COLUMNS)} FROM counts WHERE rollout = ?", (rollout,))
    return {(stage, arm): Counts(*numbers) for stage, arm, *numbers in rows}


def read_evidence(connection: sqlite3.Connection, rollout: int, plan: Plan) -> Evidence:
    """The evidence so far."""
    kept = dict(connection.execute("SELECT name, state FROM bounds WHERE rollout = ?", (rollout,)).fetchall())
    pending = dict(connection.execute("SELECT name, value FROM pending WHERE rollout = ?", (rollout,)).fetchall())
    return Evidence(plan, kept, pending)
