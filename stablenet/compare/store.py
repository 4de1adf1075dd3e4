"""The store of a sweep: one SQLite file that survives being killed and can be read while it is written.

A row is committed as it comes (write-ahead log, synchronised), so a kill loses at most the runs under way. The
full report of a run is kept, compressed; witnesses that it shares with the frozen set are kept once.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from stablenet.compare.rows import States, states_of
from stablenet.compare.store_check import check_store
from stablenet.core.errors import InputError
from stablenet.report.report import dumps

FILE = "sweep.sqlite"
FILES = (FILE, f"{FILE}-wal", f"{FILE}-shm")
"""The store's file, and those that SQLite keeps beside it at work."""

SCHEMA = "stablenet.sweep/1"

COLUMNS = {
    "key": "TEXT PRIMARY KEY", "instance": "TEXT", "formulation": "TEXT", "bounds": "TEXT", "search": "TEXT",
    "solver": "TEXT", "step": "TEXT", "solver_options": "TEXT", "seed": "INTEGER", "permute": "INTEGER",
    "outcome": "TEXT", "reason": "TEXT", "status": "TEXT", "stopped_by": "TEXT", "exit_code": "INTEGER",
    "stably_active": "INTEGER", "stably_inactive": "INTEGER", "unstable": "INTEGER", "unknown": "INTEGER",
    "rigorous": "INTEGER", "pending_start": "INTEGER", "pending_end": "INTEGER",
    "work_s": "REAL", "load_s": "REAL", "bounds_s": "REAL", "falsify_s": "REAL", "search_s": "REAL", "build_s": "REAL",
    "translate_s": "REAL", "cuts_s": "REAL", "solver_s": "REAL", "total_s": "REAL", "wall_s": "REAL", "cpu_s": "REAL",
    "frozen_s": "REAL", "solves": "INTEGER", "nodes": "INTEGER", "rows": "INTEGER", "binaries": "INTEGER",
    "root_bound": "REAL", "final_bound": "REAL", "objective": "REAL", "peak_mb": "REAL", "load": "REAL",
    "time_limit": "REAL", "memory_limit": "REAL", "threads": "INTEGER",
    "curve": "TEXT", "versions": "TEXT", "changed_options": "TEXT", "machine": "TEXT", "ended": "TEXT",
    "command": "TEXT", "report_sha256": "TEXT",
}  # fmt: skip
"""Columns of the table ``runs``. Times end in ``_s`` (seconds), memory in ``_mb``; ``work_s`` is from the network in
memory to the last verdict; ``load`` is the machine's load average when the run began."""

NEEDED = {
    "meta": {"key", "value"},
    "planned": {"key", "position"},
    "frozen": {"key", "instance", "report", "reason", "command"},
    "runs": {"key", "instance", "outcome", "reason"},
    "reports": {"key", "frozen", "states", "report"},
}
"""Tables and columns that every version's store has."""

_TABLES = f"""
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS planned (key TEXT PRIMARY KEY, position INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS frozen (
    key TEXT PRIMARY KEY, instance TEXT NOT NULL, report BLOB, reason TEXT NOT NULL, command TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS runs ({", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())});
CREATE TABLE IF NOT EXISTS reports (key TEXT PRIMARY KEY, frozen TEXT, states BLOB NOT NULL, report BLOB NOT NULL);
"""


def pack(data: dict[str, Any]) -> bytes:
    """A JSON object, compressed."""
    return zlib.compress(dumps(data).encode(), 6)


def unpack(blob: bytes) -> dict[str, Any]:
    """The inverse of `pack`."""
    try:
        data: dict[str, Any] = json.loads(zlib.decompress(blob))
    except (zlib.error, ValueError) as error:
        raise InputError(f"a report in the store is damaged ({error})") from None
    return data


class Store:
    """The store in a folder. ``create`` makes one; otherwise it must exist."""

    def __init__(self, folder: Path | str, *, create: bool = False) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE
        if not create and not self.path.is_file():
            raise InputError(f"{self.folder}: no sweep is here ({FILE} is missing); `stablenet compare` makes one")
        if self.path.exists():
            check_store(self.path, SCHEMA, NEEDED)
        try:
            self.db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        self.db.row_factory = sqlite3.Row
        try:
            if create:
                self._prepare()
            self.meta("schema")
        except sqlite3.Error as error:
            self.db.close()
            raise self._trouble(error) from None

    def _trouble(self, error: Exception) -> InputError:
        return InputError(f"{self.path}: the sweep cannot be read or written ({error})")

    def _prepare(self) -> None:
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.executescript(_TABLES)
        there = {row["name"] for row in self.db.execute("PRAGMA table_info(runs)")}
        for name in COLUMNS.keys() - there:  # of a sweep begun by an earlier version
            self.db.execute(f"ALTER TABLE runs ADD COLUMN {name} {COLUMNS[name]}")
        self.db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (SCHEMA,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, sqlite3.Error):  # a full disk, a file damaged meanwhile
            raise self._trouble(error) from None

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite rolls back by itself where the disk is full
                self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    # The sweep's description

    def meta(self, key: str) -> str | None:
        """A text kept beside the rows."""
        found = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def set_meta(self, key: str, value: str) -> None:
        """Keep a text beside the rows."""
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def set_plan(self, keys: Iterable[str]) -> None:
        """Replace the list of the rows that the grid asks for; rows that it no longer asks for are kept."""
        with self._transaction():
            self.db.execute("DELETE FROM planned")
            self.db.executemany("INSERT INTO planned VALUES (?, ?)", ((key, i) for i, key in enumerate(keys)))

    def planned(self) -> list[str]:
        """Keys of the rows that the grid asks for, in order."""
        return [str(row[0]) for row in self.db.execute("SELECT key FROM planned ORDER BY position")]

    # Rows

    def done(self) -> set[str]:
        """Keys of all rows there are."""
        return {str(row[0]) for row in self.db.execute("SELECT key FROM runs")}

    def add(self, row: dict[str, Any], report: str | None = None, frozen: str | None = None) -> None:
        """Commit a row, and its report as the text of the file; ``frozen`` is the key of the frozen set it used."""
        unknown = row.keys() - COLUMNS.keys()
        if unknown:
            raise InputError(f"unknown columns {sorted(unknown)}")
        marks = ", ".join("?" * len(row))
        data = None if report is None else json.loads(report)
        blob = None if data is None else pack(self._slim(data, frozen))
        with self._transaction():
            self.db.execute(
                f"INSERT OR REPLACE INTO runs ({', '.join(row)}) VALUES ({marks})",  # noqa: S608 - names checked above
                list(row.values()),
            )
            self.db.execute("DELETE FROM reports WHERE key = ?", (row["key"],))
            if data is not None:
                states = zlib.compress(states_of(data).tobytes())
                self.db.execute("INSERT INTO reports VALUES (?, ?, ?, ?)", (row["key"], frozen, states, blob))

    def mark_wrong(self, reasons: Mapping[str, str]) -> None:
        """Set the outcome of runs that another run's witness disproves; runs that contradict themselves keep their
        outcome.
        """
        with self._transaction():
            self.db.executemany(
                "UPDATE runs SET outcome = 'wrong', reason = ? WHERE key = ? AND outcome != 'contradiction'",
                [(reason, key) for key, reason in reasons.items()],
            )

    def remove(self, keys: Iterable[str]) -> None:
        """Delete rows, so that they are run again."""
        with self._transaction():
            for key in keys:
                self.db.execute("DELETE FROM runs WHERE key = ?", (key,))
                self.db.execute("DELETE FROM reports WHERE key = ?", (key,))

    def rows(self, *, all_rows: bool = False) -> list[dict[str, Any]]:
        """Rows that the grid asks for, in its order (or all there are)."""
        planned = "SELECT runs.* FROM runs JOIN planned USING (key) ORDER BY position"
        found = self.db.execute("SELECT * FROM runs ORDER BY ended" if all_rows else planned)
        rows = [{**dict.fromkeys(COLUMNS), **dict(row)} for row in found]
        for row in rows:
            row["solver_options"] = row["solver_options"] or "none"  # of a sweep begun by an earlier version
        return rows

    def report(self, key: str) -> dict[str, Any] | None:
        """The full report of a run; its digest is checked against the row's."""
        found = self.db.execute("SELECT report, frozen FROM reports WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        data = unpack(found["report"])
        if found["frozen"] is not None:
            shared = self.frozen_report(found["frozen"])["witnesses"]
            data["witnesses"] = [shared[point] if isinstance(point, int) else point for point in data["witnesses"]]
        digest = self.db.execute("SELECT report_sha256 FROM runs WHERE key = ?", (key,)).fetchone()[0]
        if hashlib.sha256(dumps(data).encode()).hexdigest() != digest:
            raise InputError(f"{self.path}: the report of run {key} does not have the digest of its row")
        return data

    def states(self, instance: str) -> dict[str, States]:
        """States of all questions after each planned run of an instance that left a report: (2, neurons) by key."""
        query = (
            "SELECT key, states FROM reports JOIN runs USING (key) JOIN planned USING (key) "
            "WHERE instance = ? ORDER BY position"
        )
        return {
            str(row[0]): np.frombuffer(zlib.decompress(row[1]), dtype=np.int8).reshape(2, -1)
            for row in self.db.execute(query, (instance,))
        }

    def _slim(self, data: dict[str, Any], frozen: str | None) -> dict[str, Any]:
        if frozen is not None:
            # By their text: 0.0 and -0.0 are equal numbers and different bytes.
            numbers = {json.dumps(point): i for i, point in enumerate(self.frozen_report(frozen)["witnesses"])}
            data["witnesses"] = [numbers.get(json.dumps(point), point) for point in data["witnesses"]]
        return data

    # Frozen sets

    def add_frozen(self, key: str, instance: str, report: dict[str, Any] | None, reason: str, command: str) -> None:
        """Commit an instance's frozen set, or why there is none."""
        blob = None if report is None else pack(report)
        self.db.execute("INSERT OR REPLACE INTO frozen VALUES (?, ?, ?, ?, ?)", (key, instance, blob, reason, command))

    def frozen(self) -> dict[str, str]:
        """Keys of the frozen sets, with the reason where making one failed ('' where it did not)."""
        return {str(row[0]): str(row[1]) for row in self.db.execute("SELECT key, reason FROM frozen")}

    def frozen_report(self, key: str) -> dict[str, Any]:
        """The report that is a frozen set."""
        found = self.db.execute("SELECT report FROM frozen WHERE key = ?", (key,)).fetchone()
        if found is None or found[0] is None:
            raise InputError(f"{self.path}: there is no frozen set {key}")
        return unpack(found[0])

    def frozen_of(self, instance: str) -> list[dict[str, Any]]:
        """Key, reason and command of an instance's frozen sets."""
        found = self.db.execute("SELECT key, reason, command FROM frozen WHERE instance = ?", (instance,))
        return [dict(row) for row in found]
