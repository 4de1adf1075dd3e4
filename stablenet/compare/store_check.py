"""The check that a file is a sweep's store, undamaged and of the current schema, made before anything in it is
changed.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from stablenet.core.errors import InputError

MAGIC = b"SQLite format 3\x00"

BLOBS = {"reports": ("states", "report"), "frozen": ("report",)}
"""Columns that hold compressed bytes."""


def check_store(path: Path, schema: str, tables: Mapping[str, set[str]]) -> None:
    """Raise `InputError` for a file that is no such store, or a damaged one; the file is only read.

    ``tables`` are those that must be there, with the columns that they must have. All pages are read, all texts
    searched for zeros and all blobs unpacked, since SQLite keeps no checksums: it does not notice a page of zeros
    inside a long value.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if head != MAGIC:
        raise InputError(f"{path}: not a readable sweep ({'it is no SQLite file' if head else 'it is empty'})")
    # Without a write-ahead log nobody writes, and nothing need be made beside the file for reading it.
    alone = not path.with_name(f"{path.name}-wal").exists()
    address = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=30.0)) as db:
            found = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
            if found is None or found[0] != schema:
                raise InputError(f"{path}: schema {None if found is None else found[0]!r}; {schema!r} is expected")
            problem = _problem(db, tables)
    except (sqlite3.Error, zlib.error) as error:
        raise InputError(f"{path}: not a readable sweep ({error})") from None
    if problem is not None:
        raise InputError(f"{path}: not a readable sweep ({problem})")


def _problem(db: sqlite3.Connection, tables: Mapping[str, set[str]]) -> str | None:
    (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        return " ".join(str(found).split())
    for table, needed in tables.items():
        columns = {row[1]: row[2] for row in db.execute(f"PRAGMA table_info({table})")}
        if not needed <= columns.keys():
            return f"table {table} lacks {', '.join(sorted(needed - columns.keys()))}"
        texts = [name for name, kind in columns.items() if kind == "TEXT"]
        zeros = " OR ".join(f"instr(CAST({name} AS BLOB), X'00')" for name in texts)
        if db.execute(f"SELECT 1 FROM {table} WHERE {zeros} LIMIT 1").fetchone():  # noqa: S608 - names of our own tables
            return f"a text of table {table} is damaged"
        for name in BLOBS.get(table, ()):
            for (blob,) in db.execute(f"SELECT {name} FROM {table} WHERE {name} IS NOT NULL"):  # noqa: S608
                zlib.decompress(blob)
    return None
