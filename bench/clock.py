"""The benchmarks' clock: processor time, which other work on the machine hardly touches."""

from __future__ import annotations

import resource


def cpu() -> float:
    """Processor seconds of this process and of all children that have ended (CBC is one)."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
