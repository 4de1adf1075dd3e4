"""The files that a command reads and writes, by the names of its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from stablenet.files import Named, guarded
from stablenet.onnx_external import external_files
from stablenet.spec import domain_file


def command_files(
    writes: Mapping[str, str | None],
    *,
    networks: Mapping[str, str] | None = None,
    domain: str | None = None,
    reads: Mapping[str, str | None] | None = None,
) -> AbstractContextManager[None]:
    """`guarded` for a command: files to write, networks with their external data, the domain's file, other files.

    Each by the name of its argument; None and ``-`` are no files.
    """
    targets = [Named(role, Path(name)) for role, name in writes.items() if name not in {None, "-"} and name is not None]
    sources = [Named(role, Path(name)) for role, name in (reads or {}).items() if name is not None]
    found = None if domain is None else domain_file(domain)
    if found is not None:
        sources.append(Named("the file of --domain", found))
    for role, name in (networks or {}).items():
        sources += network_files(role, Path(name), look=bool(targets))
    return guarded(sources, targets)


def network_files(role: str, path: Path, *, look: bool = True) -> Iterator[Named]:
    """A network's file and, with ``look``, those of its external data."""
    yield Named(role, path)
    for further in external_files(path) if look else ():
        yield Named(f"external data of {role}", further)
