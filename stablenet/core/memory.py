"""The limit on memory: set on a process before it reads anything, enforced by the operating system."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 0.75
"""Share of the machine's memory that a process may take by default."""

LEAST_DEFAULT = 4096.0
"""The least default, in megabytes: an interpreter with its packages reserves up to half of it."""

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_megabytes() -> float | None:
    """Memory of the machine or of the container in it, in megabytes; None if the system does not say."""
    try:
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):
        sizes = []
    for name in _CGROUPS:
        try:
            sizes.append(int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    sizes = [size for size in sizes if size > 0]
    return min(sizes) / 2**20 if sizes else None


def default_megabytes() -> float | None:
    """The limit where none is given: `SHARE` of the memory that there is, `LEAST_DEFAULT` at least."""
    machine = machine_megabytes()
    return None if machine is None else round(max(SHARE * machine, LEAST_DEFAULT))


def limit_memory(megabytes: float | None = None) -> float | None:
    """Limit the address space of this process and of those that it starts; returns the limit in megabytes.

    None stands for the default. A lower limit that was set from outside stays; a later call may set another one. Where
    the system has no such limits, nothing happens and None is returned.
    """
    wanted = default_megabytes() if megabytes is None else megabytes
    try:
        import resource
    except ImportError:
        return None
    if wanted is None:
        return None
    _, ceiling = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(wanted * 2**20)
    if ceiling != resource.RLIM_INFINITY:
        limit = min(limit, ceiling)
    resource.setrlimit(resource.RLIMIT_AS, (limit, ceiling))
    return limit / 2**20
