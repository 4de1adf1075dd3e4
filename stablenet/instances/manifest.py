"""The manifest of the instance library: what each instance is, and what is known of it.

``FORMAT`` and docs/instances.md describe it. A copy is part of the package; the models are built by recipe.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stablenet.core.errors import InputError, UnknownNameError
from stablenet.core.files import atomic_path, write_text
from stablenet.core.inputs import read_input, read_text_input
from stablenet.milp.arrays import MILP
from stablenet.milp.mps import mps_chunks

FORMAT = 1

FOLDER = Path(__file__).parent / "library"
FILE = "manifest.json"
SOLUTIONS = "solutions"

SETS = ("library", "public", "regression")
STATUSES = ("easy", "hard", "open", "unmeasured")

EASY = 10.0
"""Seconds of processor time in which some solver solves an easy instance."""

OPEN = 3600.0
"""An instance is open where no solver solved it with so many."""


@dataclass
class Entry:
    """One instance. ``primal`` is the value of the point in ``solution``; see docs/instances.md for all fields."""

    name: str
    set: str
    kind: str
    meaning: str
    sha256: str
    rows: int
    columns: int
    binaries: int
    nonzeros: int
    maximize: bool
    origin: str
    licence: str
    seed: int | None = None
    network: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    formulation: str = ""
    primal: float | None = None
    dual: float | None = None
    dual_by: str = ""
    status: str = "unmeasured"
    best: dict[str, Any] | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    solution: str | None = None
    solution_sha256: str | None = None


def load(folder: Path = FOLDER) -> dict[str, Entry]:
    """The entries of a manifest by name. Raises `InputError` for what is none."""
    path = folder / FILE
    try:
        data = json.loads(read_text_input(path))
        if data["format"] != FORMAT:
            raise InputError(f"{path}: format {data['format']!r}; {FORMAT} is expected")
        entries = [_entry(row) for row in data["instances"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a manifest of instances ({error})") from None
    return {entry.name: entry for entry in entries}


def _entry(row: Mapping[str, Any]) -> Entry:
    entry = Entry(**row)
    for what, value, known in (("set", entry.set, SETS), ("status", entry.status, STATUSES)):
        if value not in known:
            raise UnknownNameError(what, value, known)
    return entry


def save(entries: Iterable[Entry], folder: Path) -> None:
    """Write a manifest, sorted by set and name; a run a line, so that changes can be read."""
    ordered = sorted(entries, key=lambda entry: (SETS.index(entry.set), entry.name))
    rows = [_lines(entry) for entry in ordered]
    write_text(folder / FILE, f'{{"format": {FORMAT}, "instances": [\n' + ",\n".join(rows) + "\n]}\n")


def _lines(entry: Entry) -> str:
    row = {key: value for key, value in asdict(entry).items() if value not in (None, "", {}, [])}
    runs = row.pop("runs", [])
    text = json.dumps(row, ensure_ascii=False)
    if not runs:
        return text
    return text[:-1] + ', "runs": [\n  ' + ",\n  ".join(json.dumps(run) for run in runs) + "]}"


def chosen(entries: Mapping[str, Entry], sets: Iterable[str] = (), only: str | None = None) -> dict[str, Entry]:
    """Entries of some sets (none named: all) whose names match a shell pattern; `InputError` where none does."""
    from fnmatch import fnmatchcase

    wanted = tuple(sets) or SETS
    for name in wanted:
        if name not in SETS:
            raise UnknownNameError("set", name, SETS)
    found = {
        name: entry
        for name, entry in entries.items()
        if entry.set in wanted and (only is None or fnmatchcase(name, only))
    }
    if not found:
        raise InputError(f"no instance of {', '.join(wanted)} matches {only!r}")
    return found


def model_path(folder: Path, name: str) -> Path:
    """Where the model of an instance stands."""
    return folder / f"{name}.mps.gz"


def write_model(milp: MILP, name: str, path: Path) -> str:
    """Write a model as gzipped MPS; returns the SHA-256 of the text, which no version of zlib changes."""
    return write_gzip((chunk.encode("ascii") for chunk in mps_chunks(milp, name=name)), path)


def write_gzip(pieces: Iterable[bytes], path: Path) -> str:
    """Write bytes gzipped, without time or name; returns the SHA-256 of what was packed."""
    digest = hashlib.sha256()
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
    ):
        for piece in pieces:
            digest.update(piece)
            packed.write(piece)
    return digest.hexdigest()


def text_digest(path: Path) -> str:
    """SHA-256 of a gzipped file's text. Raises `InputError` for what is not gzipped."""
    digest = hashlib.sha256()
    try:
        with gzip.open(io.BytesIO(read_input(path))) as stream:
            while piece := stream.read(2**20):
                digest.update(piece)
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: not a gzip file ({error})") from None
    return digest.hexdigest()


NAMES = tuple(one.name for one in fields(Entry))
"""All fields, for the documentation's test."""
