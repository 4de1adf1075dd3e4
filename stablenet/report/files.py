"""The files that a command or a call of the library reads and writes, by the names of its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from stablenet.core.files import Named, guarded
from stablenet.domain.spec import domain_file
from stablenet.onnx_io.external_data import external_files


def command_files(
    writes: Mapping[str, str | None],
    *,
    networks: Mapping[str, str] | None = None,
    domain: str | None = None,
    reads: Mapping[str, str | None] | None = None,
) -> AbstractContextManager[None]:
    """`guarded` for a command or a call: files to write, networks with their external data, the domain's, other files.

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


def beside_report(data: Mapping[str, Any], path: str | Path, role: str) -> AbstractContextManager[None]:
    """`guarded` for a file that is made of a report (its JSON object): it is none of those that the run read or wrote.

    They are known by the names in the report, its network's external data included; a report that was resumed may be
    replaced.
    """
    config, network = data.get("config", {}), data.get("network", {}).get("file")
    named = {f"the run's {name}": config.get(name) for name in ("samples", "proof", "solver_log")}
    return command_files(
        {role: str(path)},
        networks={"the report's network": network} if network else {},
        reads={what: name for what, name in named.items() if isinstance(name, str)},
    )
