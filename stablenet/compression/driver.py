"""Compression from file to file: evidence, plan, graph, check."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stablenet.compression.check import check_points, check_written, compare_files
from stablenet.compression.draft import Array, Block, Draft, Mask
from stablenet.compression.evidence import Evidence
from stablenet.compression.metadata import (
    BOUND_KEY,
    DOMAIN_KEY,
    PROVENANCE_KEY,
    RIGOROUS_KEY,
    SOURCE_KEY,
    by_provenance,
    domain_text,
)
from stablenet.compression.plan import Operations, reduce
from stablenet.compression.settle import Settled, Stored, settle
from stablenet.compression.steps import Provenance, Step
from stablenet.domain import Domain
from stablenet.equivalence.joint import Joint, Pairing
from stablenet.errors import ReportError, StablenetError, UnknownNameError
from stablenet.files import atomic_path
from stablenet.network import Network, apply
from stablenet.onnx_channels import Channels
from stablenet.onnx_graph import Graph
from stablenet.onnx_io import load_onnx
from stablenet.onnx_rewrite import Target, rewrite
from stablenet.report import Report

STORED = ("float32", "float64")


def draft_of(network: Network, evidence: Evidence, free: tuple[bool, ...]) -> Draft:
    """The draft that steps start from; ``free`` has an entry per map, the output last."""
    most = np.max([np.maximum(np.abs(p.lower), np.abs(p.upper)) for p in evidence.domain.parts], axis=0)
    blocks: list[Block] = []
    sizes: list[Array] = [most]
    for k, layer in enumerate(network.layers):
        reach = np.abs(layer.affine.offset)
        for term in layer.affine.terms:
            reach = reach + apply(term.absolute, sizes[term.source])
        top = np.maximum(np.minimum(evidence.upper[k], reach), 0.0)
        sizes.append(top)
        blocks.append(
            Block.of(layer.affine, active=evidence.active[k], inactive=evidence.inactive[k], most=top, free=free[k])
        )
    none = np.zeros(network.n_outputs, bool)
    nothing = np.zeros(network.n_outputs)
    blocks.append(Block.of(network.output, active=none, inactive=none, most=nothing, free=free[-1]))
    return Draft(network, blocks, most)


def compress_network(
    network: Network, evidence: Evidence, *, stored: Stored = "float64", operations: Operations = "all"
) -> tuple[Settled, list[Step]]:
    """Compress the canonical form alone: every map may be written anew. For files use `compress`."""
    draft = draft_of(network, evidence, (True,) * (len(network.layers) + 1))
    steps = reduce(draft, [np.zeros(layer.size, bool) for layer in network.layers], operations)
    return settle(draft, evidence.domain, stored), steps


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan for a file: the finished maps, the steps that led there, and the connections that are left."""

    graph: Graph
    settled: Settled
    steps: tuple[Step, ...]
    connections: int


def plans(graph: Graph, evidence: Evidence, stored: Stored) -> tuple[Planned, Planned]:
    """The best plan for the network of a file, and that of the published operations alone.

    All operations are greedy, so an early one may spoil a better later one: where the published ones alone leave less,
    they come first, and the others after them.
    """
    masks = _channels(graph, evidence)
    paper = _plan(graph, evidence, masks, stored, ("paper",))
    best = _plan(graph, evidence, masks, stored, ("all",))
    if best.connections > paper.connections:
        best = _plan(graph, evidence, masks, stored, ("paper", "all"))
    return best, paper


def _channels(graph: Graph, evidence: Evidence) -> list[Mask]:
    """Neurons of layers that keep their nodes which go with whole channels, by layer."""
    structured = [k for k, free in enumerate(graph.free) if not free]
    masks = [np.zeros(layer.size, bool) for layer in graph.network.layers]
    if structured:
        for k, neurons in Channels(graph, structured, evidence.inactive).removable().items():
            masks[k][neurons] = True
    return masks


def _plan(
    graph: Graph, evidence: Evidence, masks: list[Mask], stored: Stored, rounds: tuple[Operations, ...]
) -> Planned:
    draft = draft_of(graph.network, evidence, graph.free)
    steps: list[Step] = []
    for operations in rounds:
        steps += reduce(draft, masks, operations)
        masks = [np.zeros(block.size, bool) for block in draft.blocks[:-1]]
    return Planned(graph, settle(draft, evidence.domain, stored), tuple(steps), draft.connections)


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed network: the file's bytes, what was read back from them, and what is proven about it.

    ``bound`` is an upper bound on |f - f'| over the domain for each output, (n_outputs,), proof against rounding, if
    the report's refutations hold; ``rigorous_bound`` believes only those that are rigorous. ``steps`` are all
    operations in order, ``paper`` the network and steps of the published operations alone. ``checked`` is the
    number of points on which both files were compared, ``runtime`` what evaluated them.
    """

    original: Network
    network: Network
    data: bytes
    steps: tuple[Step, ...]
    provenance: Provenance
    domain: Domain
    bound: Array
    rigorous_bound: Array
    paper: tuple[Network, tuple[Step, ...]]
    original_bytes: int
    checked: int = 0
    runtime: str = ""

    def write(self, path: str | Path) -> None:
        """Write the ONNX file, atomically."""
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(self.data)


def compress(
    network: str | Path,
    report: Report | str | Path,
    *,
    domain: Domain | None = None,
    dtype: str | None = None,
    merge: bool = True,
    samples: Array | None = None,
    check: int = 1000,
    seed: int = 0,
) -> Compressed:
    """Compress the network of an ONNX file by what a report has refuted.

    ``dtype`` is float32 or float64, None for the file's own. Without ``merge`` neurons are only removed: that is exact.
    ``samples``, (batch, n_inputs), are further points on
    which the result is compared with the original before it is returned, beside ``check`` random points of the domain,
    its vertices and the report's witnesses. Raises `ReportError` where the report is about another network (or another
    ``domain``, if one is given), `InputError` for a type that the graph cannot be stored in, and `ContradictionError`
    where the result differs from the original by more than is proven: the report then holds what is not true.
    """
    found = report if isinstance(report, Report) else Report.read(report)
    graph = Graph(network)
    evidence = Evidence.of(found, graph.network, domain)
    if not merge:
        evidence = evidence.only_inactive()
    stored = _stored(dtype, graph)
    planned, paper = plans(graph, evidence, stored)
    result = _built(planned, evidence, stored)
    result = replace(
        result, paper=(paper.settled.network, paper.steps), original_bytes=len(graph.model.SerializeToString())
    )
    points = check_points(evidence.domain, _witnesses(found, graph.network), samples, check, seed)
    runtime, count = compare_files(
        graph, result.network, result.data, points=points, bound=result.bound, domain=evidence.domain, stored=stored
    )
    return replace(result, checked=count, runtime=runtime)


def _stored(dtype: str | None, graph: Graph) -> Stored:
    if dtype is not None and dtype not in STORED:
        raise UnknownNameError("dtype", dtype, STORED)
    if dtype == "float64" or (dtype is None and graph.is_double):
        return "float64"
    return "float32"


def _witnesses(report: Report, network: Network) -> Array:
    try:
        points = np.array(report.data["witnesses"], np.float64).reshape(-1, network.n_inputs)
    except (TypeError, ValueError):
        raise ReportError("the report's witnesses are not points of the network's inputs") from None
    return points[np.isfinite(points).all(axis=1)]


def _built(planned: Planned, evidence: Evidence, stored: Stored) -> Compressed:
    """Write the graph, read it back, and bound what is different."""
    graph, settled = planned.graph, planned.settled
    target: Target | None = Target(
        settled.network, settled.maps, settled.provenance.neurons, settled.changed, stored, evidence.inactive
    )
    metadata = {
        DOMAIN_KEY: domain_text(evidence.domain),
        SOURCE_KEY: graph.network.sha256,
        PROVENANCE_KEY: json.dumps(
            {
                layer.name: entry
                for layer, entry in zip(settled.network.layers, settled.provenance.to_json(), strict=True)
            },
            separators=(",", ":"),
        ),
    }
    if not planned.steps:
        target = None  # nothing to change: the file stays as it is
    first = read_back(rewrite(graph, target, metadata))
    check_written(settled.network, first, evidence.domain)
    pairing = by_provenance(graph.network, first)
    if pairing is None:
        raise StablenetError("the compressed network has lost its provenance")
    bound = difference_bound(graph.network, first, pairing, evidence)
    rigorous = bound
    if not all(
        (r | ~(a | i)).all() for r, a, i in zip(evidence.rigorous, evidence.active, evidence.inactive, strict=True)
    ):
        rigorous = difference_bound(graph.network, first, pairing, evidence.only_rigorous())
    worst = {BOUND_KEY: float(bound.max(initial=0.0)), RIGOROUS_KEY: float(rigorous.max(initial=0.0))}
    model = rewrite(graph, target, metadata | {key: repr(value) for key, value in worst.items()})
    final = read_back(model)
    provenance = Provenance(pairing.layers, pairing.neurons)
    return Compressed(
        graph.network,
        final,
        model.SerializeToString(),
        planned.steps,
        provenance,
        evidence.domain,
        bound,
        rigorous,
        (graph.network, ()),
        0,
    )


def difference_bound(a: Network, b: Network, pairing: Pairing, evidence: Evidence) -> Array:
    """A bound on |B(x) - A(x)| over the domain, (n_outputs,), where the evidence about A holds."""
    parts = evidence.domain.parts
    low, high = np.stack([part.lower for part in parts]), np.stack([part.upper for part in parts])
    lower, upper = Joint(a, b, pairing, low=low, high=high, trusted=evidence.trusted()).run()
    return np.asarray(np.maximum(np.abs(lower), np.abs(upper)).max(axis=0))


def read_back(model: Any) -> Network:
    """The network of a model, read as any file is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compressed.onnx"
        path.write_bytes(model.SerializeToString())
        return replace(load_onnx(path), file="")
