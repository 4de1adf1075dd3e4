"""The files that a command reads and writes, by the names of its arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from stablenet.core.files import Named, guarded
from stablenet.domain.spec import domain_file
from stablenet.onnx_io.external_data import external_files

if TYPE_CHECKING:
    from stablenet.compare.plan import Plan
    from stablenet.compare.store import Store


def command_files(
    writes: Mapping[str, str | None],
    *,
    networks: Mapping[str, str] | None = None,
    domain: str | None = None,
    reads: Mapping[str, str | None] | None = None,
) -> AbstractContextManager[None]:
    """Refuse, as `guarded` does, to write over the files of a command: networks with their external data, the domain's
    file, other files.

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


def guarded_sweep(plan: Plan, folder: Path | None) -> AbstractContextManager[None]:
    """Refuse, as `guarded` does, to write over files of a sweep: the grid, all that its instances are read from, and
    the store.
    """
    from stablenet.compare.run.runner import LOCK
    from stablenet.compare.store import FILES

    reads = [Named("the grid", plan.grid.path)]
    for loaded in plan.instances.values():
        instance = loaded.instance
        reads += network_files(f"the network of {instance.name!r}", instance.network)
        further = {"domain": domain_file(instance.domain), "samples": instance.samples}
        reads += [Named(f"the {what} of {instance.name!r}", path) for what, path in further.items() if path is not None]
    writes = []
    if folder is not None and folder.is_dir():
        writes = [Named("a file of the sweep", folder / name) for name in (*FILES, LOCK)]
    return guarded(reads, writes)


def store_files(store: Store) -> dict[str, str | None]:
    """What a sweep's page must not write over: the store, the grid and the networks, by what they are."""
    from stablenet.compare.store import FILES

    found: dict[str, str | None] = {f"the sweep's {name}": str(store.folder / name) for name in FILES}
    found["the grid"] = store.meta("grid_file")
    for instance in json.loads(store.meta("instances") or "[]"):
        found[f"the network of {instance['name']!r}"] = instance["network"]
    return found
