"""The files of a sweep."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from stablenet.core.files import Named, guarded
from stablenet.domain.spec import domain_file
from stablenet.report.files import network_files

if TYPE_CHECKING:
    from stablenet.compare.plan import Plan
    from stablenet.compare.store import Store


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
