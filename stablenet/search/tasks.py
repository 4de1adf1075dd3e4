"""What workers on other machines do: bound rows of a layer, or branch for some of its questions.

A task gets all that it rests on as values: the network's file, one part of the domain, and the bounds of the layers
before. It uses one thread and counts its work in nodes, so that its result depends on nothing else.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from stablenet.backends.base import registry as backends
from stablenet.bounds.base import Context
from stablenet.bounds.branch import bound_rows
from stablenet.bounds.layerwise import LayerwiseState
from stablenet.core.arrays import Mask
from stablenet.core.bounds import Bounds
from stablenet.core.deadline import Deadline, SearchStoppedError
from stablenet.core.events import decode_array
from stablenet.core.ledger import Ledger
from stablenet.core.network import Network
from stablenet.core.options import Options
from stablenet.core.proofs import PartProof, ProofLog, Records
from stablenet.core.questions import SIDES
from stablenet.domain.regions import Domain, domain_from_json
from stablenet.falsify.falsifier import Falsifier
from stablenet.formulations.base import registry as formulations
from stablenet.onnx_io.reader import load_onnx
from stablenet.search.base import Problem
from stablenet.search.branch import Brancher

_NETWORKS: OrderedDict[tuple[str, str], Network] = OrderedDict()
"""Networks that this process has read, by digest and arithmetic; the last few are kept."""

NETWORKS = 2


class AskedLedger(Ledger):
    """A ledger that knows of some questions only, (2, n): no others are pending."""

    def __init__(self, sizes: Sequence[int], asked: Mask) -> None:
        self.asked = asked
        self.witnesses: list[Mapping[str, Any]] = []
        super().__init__(sizes, 1, self._hear)

    def pending(self, part: int | None = None) -> Mask:
        """See `Ledger`."""
        return np.asarray(super().pending(part) & self.asked)

    def _hear(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "witness":
            self.witnesses.append(event)


def carry_out(task: Mapping[str, Any], setup: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Do a task.

    Args:
        task: ``what`` is to be done ("rows" or "branch"), on which questions, with which limit of nodes or leaves, and
            when to ``end`` (seconds since the epoch, None for no limit); ``proof`` asks for certificates.
        setup: the network's ``files``, ``digest`` and ``arithmetic``, and the ``part`` of the domain.
        state: ``lower`` and ``upper`` bounds of the layers up to the one that is worked on, and the questions that are
            ``asked`` on the part, (2, n).

    Returns:
        What was found, its certificates, and the processor ``seconds`` that it took.
    """
    began = time.process_time()
    bounds = Bounds.of("branch", list(zip(state["lower"], state["upper"], strict=True)), rigorous=True)
    given = Given(_network(setup), domain_from_json(setup["part"]), bounds, state["asked"], task)
    with threadpool_limits(1, user_api="blas"):
        result = _rows(given) if task["what"] == "rows" else _branch(given)
    return {**result, "records": given.records.records, "seconds": time.process_time() - began}


@dataclass(eq=False)
class Given:
    """What a task works on."""

    network: Network
    domain: Domain
    bounds: Bounds
    asked: Mask
    task: Mapping[str, Any]
    records: Records = field(default_factory=Records)

    @property
    def deadline(self) -> Deadline:
        """When to end."""
        end = self.task["end"]
        return Deadline(None if end is None else max(0.0, end - time.time()))


def _rows(given: Given) -> dict[str, Any]:
    """Bound rows of the last layer of the bounds."""
    proof = PartProof(given.records, 0) if given.task["proof"] else None
    context = Context(deadline=given.deadline, proof=proof)
    state = LayerwiseState(given.network, given.domain.parts[0], given.bounds, context)
    found = bound_rows(state, given.task["rows"], given.task["leaves"])
    return {"found": [(some.rows, some.lower, some.upper, some.n_nodes) for some in found]}


def _branch(given: Given) -> dict[str, Any]:
    """Branch for the questions of some neurons of the last layer of the bounds."""
    network, task, deadline = given.network, given.task, given.deadline
    ledger = AskedLedger([layer.size for layer in network.layers], given.asked)
    rng = np.random.default_rng(task["seed"])
    options = Options(threads=1, seed=task["seed"])
    problem = Problem(
        network=network,
        domain=given.domain,
        ledger=ledger,
        found=[given.bounds],
        formulation=formulations.get(options.formulation),
        backend=backends.get(options.solver),
        options=options,
        falsifier=Falsifier(network, given.domain, ledger, rng, lambda: deadline.over),
        rng=rng,
        deadline=deadline,
        proof=_InMemory(given.records) if task["proof"] else None,
    )
    brancher = Brancher(problem, 0, task["by"], only=task["neurons"])
    with contextlib.suppress(SearchStoppedError):  # what was found until then counts
        brancher.run_layer(len(given.bounds.layers) - 1, task["max_nodes"])
    refuted = ledger.part_by[0] >= 0
    return {
        "refuted": [np.flatnonzero(refuted[side]) for side in SIDES],
        "leaves": problem.leaves,
        "distrusted": bool(ledger.dead_sources),
        "points": [decode_array(event["point"]) for event in ledger.witnesses],
    }


class _InMemory(ProofLog):
    """A proof of one part that is kept in memory."""

    def __init__(self, records: Records) -> None:
        self.parts = [PartProof(records, 0)]


def _network(setup: Mapping[str, Any]) -> Network:
    """The network of a run, read once for each process."""
    key = (setup["digest"], setup["arithmetic"])
    if key in _NETWORKS:
        _NETWORKS.move_to_end(key)
        return _NETWORKS[key]
    with tempfile.TemporaryDirectory(prefix="stablenet-") as folder:
        for name, content in setup["files"]:
            file = Path(folder) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        network = load_onnx(Path(folder) / setup["files"][0][0], setup["arithmetic"])
    _NETWORKS[key] = network
    while len(_NETWORKS) > NETWORKS:
        _NETWORKS.popitem(last=False)
    return network
