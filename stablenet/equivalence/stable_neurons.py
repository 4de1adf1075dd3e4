"""The search for stable neurons on the way to a proof of equality."""

from __future__ import annotations

from stablenet.api import find_stable
from stablenet.core.deadline import Deadline
from stablenet.core.errors import ContradictionError, SolverError
from stablenet.core.network import Network
from stablenet.domain.regions import Domain
from stablenet.equivalence.counterexample import Seeker
from stablenet.report.evidence import Evidence, witnesses_of

MOST_FINDING = 60.0
"""Seconds for the search of stable neurons where no time limit is given."""

FINDING_SHARE = 0.6
"""Share of a time limit that is left to that search; the rest is the MILP's."""


def searched(
    network: Network,
    domain: Domain,
    seeker: Seeker,
    deadline: Deadline,
    *,
    threads: int,
    seed: int,
    notes: list[str],
    proof: str | None = None,
) -> Evidence | None:
    """What `find_stable` finds of a network; its witnesses are offered to the seeker. None where it found nothing.

    ``proof`` is a file for the proofs of what is rigorous in it.
    """
    if not network.n_neurons:
        return None
    left = deadline.left
    budget = MOST_FINDING if left is None else max(FINDING_SHARE * left, 0.1)
    try:
        report = find_stable(network, domain, threads=threads, seed=seed, time_limit=budget, proof=proof)
    except (ContradictionError, SolverError) as error:
        notes.append(f"stable: nothing of that search is used: {error}")
        return None
    if report.data["stopped_by"] == "interrupt":  # it ends this too
        raise KeyboardInterrupt
    seeker.offer(witnesses_of(report, network))
    return Evidence.of(report, network, domain)
