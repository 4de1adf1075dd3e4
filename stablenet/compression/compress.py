"""Compression from file to file: evidence, plan, graph, check."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from stablenet.api import find_stable
from stablenet.bounds.crown_layers import crown_layers
from stablenet.bounds.deviation import difference_deviation, output_deviation
from stablenet.bounds.folded import neuron_folding
from stablenet.compression.candidates import Planned, draft_of, plans, unrolled
from stablenet.compression.check import check_points, check_written, compare_files, unit_of
from stablenet.compression.reduce import Operations, reduce
from stablenet.compression.steps import Step
from stablenet.compression.store_weights import Settled, Stored, settle
from stablenet.core.arrays import Array
from stablenet.core.errors import InputError, StablenetError, UnknownNameError
from stablenet.core.files import atomic_path
from stablenet.core.network import Network
from stablenet.domain.regions import Domain
from stablenet.domain.spec import domain_text, read_domain
from stablenet.equivalence.joint import Joint, Pairing
from stablenet.equivalence.provenance import (
    BOUND_KEY,
    DOMAIN_KEY,
    PROVENANCE_KEY,
    RIGOROUS_KEY,
    SOURCE_KEY,
    Provenance,
    by_provenance,
)
from stablenet.onnx_io.graph import Graph
from stablenet.onnx_io.reader import load_onnx
from stablenet.onnx_io.rewrite import Target, rewrite
from stablenet.report.evidence import Evidence, witnesses_of
from stablenet.report.files import command_files
from stablenet.report.report import Report, check_arithmetic

STORED = ("float32", "float64")

RELATIVE = 1e-3
"""The default limit of the proven bound on the difference by merging, as a share of the largest output; the difference
is mostly far smaller."""


def compress_network(
    network: Network, evidence: Evidence, *, stored: Stored = "float64", operations: Operations = "all"
) -> tuple[Settled, list[Step]]:
    """Compress the canonical form alone: every map may be written anew. For files use `compress`."""
    draft = draft_of(network, evidence, (True,) * (len(network.layers) + 1))
    steps = reduce(draft, [np.zeros(layer.size, bool) for layer in network.layers], operations)
    return settle(draft, evidence.domain, stored), steps


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed network: the file's bytes, what was read back from them, and what is proven about it.

    ``bound`` is an upper bound on |f - f'| over the domain for each output, (n_outputs,), proof against rounding, if
    the report's refutations hold; ``rigorous_bound`` believes only those that are rigorous. ``steps`` are all
    operations in order, ``paper`` the network and steps of the published operations alone. ``left_out`` are layers of
    the original whose active neurons were left as they are since the bound, with all of them ``full_bound``, would have
    been more than ``tolerance``; ``kept`` are those whose nodes are as they were, but for channels. ``checked`` is the
    number of points on which both files were compared, ``runtime`` what evaluated them. ``same_sums`` says that rows
    were only dropped or lost terms that are 0 in every float32 evaluation too, if the report speaks of those: then
    every float32 evaluation of the result is one of the original. ``in_float32`` bounds how far any float32 evaluation
    of the one may be from any of the other, 0 for ``same_sums``, where the evaluations add in corresponding orders
    (None: not asked for).
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
    tolerance: float
    left_out: tuple[int, ...] = ()
    full_bound: float = 0.0
    kept: tuple[int, ...] = ()
    checked: int = 0
    runtime: str = ""
    same_sums: bool = False
    in_float32: float | None = None

    def write(self, path: str | Path) -> None:
        """Write the ONNX file, atomically; raises `InputError` rather than write over the original or its data."""
        original = {"the original": self.original.file} if self.original.file else {}
        with (
            command_files({"the compressed network": str(path)}, networks=original),
            atomic_path(Path(path)) as temporary,
        ):
            temporary.write_bytes(self.data)


def compress(
    network: Network | str | Path,
    report: Report | str | Path | None = None,
    *,
    domain: Domain | str | None = None,
    dtype: str | None = None,
    merge: bool = True,
    dense: bool = False,
    tolerance: float | None = None,
    samples: Array | None = None,
    check: int = 1000,
    arithmetic: str = "real",
    **options: Any,
) -> Compressed:
    """Compress the network of an ONNX file by what a report has refuted.

    Stably inactive neurons are removed, stably active ones merged or their layers folded (Serra et al., *Scaling Up
    Exact Neural Network Compression by ReLU Stability*, NeurIPS 2021, section 3, and rank reductions beyond it).

    Args:
        network: the ONNX file that the report is about, or a network that was read from it.
        report: a report of `find_stable` or of the command ``find``, or the path of one; None: stable neurons are found
            on ``domain`` first.
        domain: refuse a report about another domain; None takes the report's. A domain or a specification.
        dtype: type of the stored weights, ``float32`` or ``float64``; None: the file's own.
        merge: without it neurons are only removed, which is exact.
        dense: write convolutional layers as Gemm nodes wherever possible; otherwise they keep their nodes unless
            Gemm nodes hold fewer numbers.
        tolerance: bound on the difference, in units of the outputs, up to which active neurons are merged and layers
            folded; where it would be exceeded, the earlier layers are left as they are. None: `RELATIVE` times the
            largest output on points of the domain.
        samples: further points on which the result is compared with the original, (batch, n_inputs).
        check: number of random points of the domain for that comparison, beside vertices and the report's witnesses.
        arithmetic: with "float32" the report must speak of float32, and the result says what holds for float32
            evaluations.
        options: those of `find_stable` (all but ``samples``), without a report; ``seed`` is that of the check's random
            points too.

    Returns:
        The compressed network, the bytes of its file, and the bound that is proven on its difference.

    Raises:
        ReportError: the report is about another network or domain.
        InputError: the graph cannot be stored in ``dtype``.
        ContradictionError: the result differs from the original by more than is proven: the report is not true.
    """
    graph = Graph(_file(network))
    unit_of(graph)
    region = None if domain is None else read_domain(domain, graph.network.n_inputs)
    found = _found(graph.network, report, region, {**options, "arithmetic": arithmetic})
    seed = int(options.get("seed", 0))
    check_arithmetic(found, arithmetic)
    evidence = Evidence.of(found, graph.network, region)
    limit = _tolerance(graph.network, evidence.domain, tolerance)
    builder = _Builder(evidence, _stored(dtype, graph))
    usable = evidence if merge else evidence.merging_after(len(graph.network.layers))
    planned, paper = builder.choose(graph, usable, dense=dense)
    result = builder.within(planned, usable, limit)
    size = len(graph.model.SerializeToString())
    result = replace(result, paper=(paper.settled.network, paper.steps), original_bytes=size)
    points = check_points(evidence.domain, witnesses_of(found, graph.network), samples, check, seed)
    runtime, count = compare_files(
        graph,
        result.network,
        result.data,
        points=points,
        bound=result.bound,
        domain=evidence.domain,
        stored=builder.stored,
    )
    if arithmetic == "float32":
        result = replace(result, in_float32=_in_float32(_file(network), result))
    return replace(result, checked=count, runtime=runtime)


def _in_float32(network: str | Path, result: Compressed) -> float:
    """See `Compressed.in_float32`."""
    if result.same_sums:
        return 0.0
    both = (load_onnx(network, "float32"), read_back(result.data, "float32"))
    rounded = sum(output_deviation(one, result.domain) for one in both)
    return float(np.nextafter((result.bound + rounded).max(initial=0.0), np.inf))


def _same_sums(planned: Planned) -> bool:
    """Whether rows were only dropped, or lost terms of inactive neurons: no row is added up of other products."""
    if any(step.kind not in ("inactive", "unread") for step in planned.steps) or any(planned.graph.anew):
        return False
    written = [k for k, changed in enumerate(planned.settled.changed) if changed and planned.graph.free[k]]
    return all(planned.graph.one_product(k) for k in written)


def _file(network: Network | str | Path) -> str | Path:
    """The file to compress; raises `InputError` for a network that is not that of its file."""
    if not isinstance(network, Network):
        return network
    if not network.file or network.identity != network.sha256:
        raise InputError("a network that was not read from a file, or was changed since, cannot be compressed")
    return network.file


def _found(
    network: Network, report: Report | str | Path | None, domain: Domain | None, options: dict[str, Any]
) -> Report:
    if report is not None:
        unused = sorted(set(options) - {"seed", "arithmetic"})
        if unused:
            raise InputError(f"{unused[0]} is an option of finding stable neurons, which a report has been given for")
        return report if isinstance(report, Report) else Report.read(report)
    if domain is None:
        raise InputError("a report or a domain is missing: stable neurons are found on a domain")
    return find_stable(network, domain, **options)


def _tolerance(network: Network, domain: Domain, tolerance: float | None) -> float:
    if tolerance is None:
        points = check_points(domain, np.zeros((0, network.n_inputs)), None, 64, 0)
        return RELATIVE * (float(np.abs(network.forward(points)).max(initial=0.0)) or 1.0)
    if not tolerance >= 0:
        raise InputError(f"tolerance {tolerance}; a number from 0 up is expected")
    return tolerance


def _stored(dtype: str | None, graph: Graph) -> Stored:
    if dtype is not None and dtype not in STORED:
        raise UnknownNameError("dtype", dtype, STORED)
    if dtype == "float64" or (dtype is None and graph.is_double):
        return "float64"
    return "float32"


@dataclass(frozen=True, eq=False)
class _Builder:
    """Turns plans into files; ``evidence`` is all that the report proves, which bounds may use even if plans do not."""

    evidence: Evidence
    stored: Stored

    def choose(self, graph: Graph, usable: Evidence, *, dense: bool) -> tuple[Planned, Planned]:
        """The plan whose file holds the fewest numbers, and the published operations' plan on the graph as it is.

        Where nothing is merged the result has to be exact: then only maps that fold without rounding change their form.
        """
        best, paper = plans(graph, usable, self.stored)
        if dense:
            for other in unrolled(graph, usable, None):
                best = plans(other, usable, self.stored)[0]
            return best, paper
        size = self._numbers(best)
        merging = any(mask.any() for mask in usable.active)
        for other in unrolled(graph, usable, size):
            if not merging and not all(other.exact_map(k) for k, new in enumerate(other.anew) if new):
                continue
            planned = plans(other, usable, self.stored)[0]
            numbers = self._numbers(planned)
            if numbers < size:
                best, size = planned, numbers
        return best, paper

    def _numbers(self, planned: Planned) -> int:
        """How many numbers the file of a plan stores."""
        return sum(prod(tensor.dims) for tensor in self._model(planned, {}).graph.initializer)

    def within(self, planned: Planned, usable: Evidence, limit: float) -> Compressed:
        """The file of a plan, or of the one that merges from the earliest layer on for which the bound is in limits.

        The rounding of a merge grows through each later layer, so merging in the last layers costs least.
        """
        full = result = self.build(planned, limit)
        left_out: tuple[int, ...] = ()
        while result.bound.max(initial=0.0) > limit and len(left_out) < len(planned.merging):
            left_out = planned.merging[: len(left_out) + 1]
            less = plans(planned.graph, usable.merging_after(left_out[-1]), self.stored)[0]
            result = self.build(less, limit)
        return replace(result, left_out=left_out, full_bound=float(full.bound.max(initial=0.0)))

    def _model(self, planned: Planned, metadata: Mapping[str, str]) -> Any:
        settled = planned.settled
        target: Target | None = Target(
            settled.network,
            settled.maps,
            settled.provenance.neurons,
            settled.changed,
            self.stored,
            self.evidence.inactive,
        )
        if not planned.steps and not any(planned.graph.anew) and not self._converts(planned.graph):
            target = None  # nothing to change: the file stays as it is
        return rewrite(planned.graph, target, metadata)

    def _converts(self, graph: Graph) -> bool:
        return graph.is_double != (self.stored == "float64")

    def build(self, planned: Planned, limit: float) -> Compressed:
        """Write the graph, read it back, and bound the difference."""
        network, settled, evidence = planned.graph.network, planned.settled, self.evidence
        entries = zip(settled.network.layers, settled.provenance.to_json(), strict=True)
        metadata = {
            DOMAIN_KEY: domain_text(evidence.domain),
            SOURCE_KEY: network.identity,
            PROVENANCE_KEY: json.dumps({layer.name: entry for layer, entry in entries}, separators=(",", ":")),
        }
        first = read_back(self._model(planned, metadata))
        check_written(settled.network, first, evidence.domain, unit_of(planned.graph))
        pairing = by_provenance(network, first)
        if pairing is None:
            raise StablenetError("the compressed network has lost its provenance")
        bound = as_read = difference_bound(network, first, pairing, evidence)
        rigorous = (
            bound if evidence.is_rigorous else difference_bound(network, first, pairing, evidence.only_rigorous())
        )
        same = _same_sums(planned) and not as_read.any()
        rounded, _ = difference_deviation(network, first, evidence.domain)
        if rounded.any() and not (same and inactive_in_the_file(network, evidence)):
            # The bounds are about what the files compute, not about the networks as folded.
            bound, rigorous = (np.nextafter(each + rounded, np.inf) for each in (bound, rigorous))
        worst = {BOUND_KEY: float(bound.max(initial=0.0)), RIGOROUS_KEY: float(rigorous.max(initial=0.0))}
        model = self._model(planned, metadata | {key: repr(value) for key, value in worst.items()})
        return Compressed(
            network,
            read_back(model),
            model.SerializeToString(),
            planned.steps,
            Provenance(pairing.layers, pairing.neurons),
            evidence.domain,
            bound,
            rigorous,
            paper=(network, ()),
            original_bytes=0,
            tolerance=limit,
            kept=tuple(k for k, free in enumerate(planned.graph.free[:-1]) if not free),
            same_sums=same,
        )


def difference_bound(a: Network, b: Network, pairing: Pairing, evidence: Evidence) -> Array:
    """A bound on |B(x) - A(x)| over the domain, (n_outputs,), where the evidence about A holds."""
    parts = evidence.domain.parts
    low, high = np.stack([part.lower for part in parts]), np.stack([part.upper for part in parts])
    lower, upper = Joint(a, b, pairing, low=low, high=high, trusted=evidence.trusted()).run()
    return np.asarray(np.maximum(np.abs(lower), np.abs(upper)).max(axis=0))


def inactive_in_the_file(network: Network, evidence: Evidence) -> bool:
    """Whether CROWN proves every neuron that is called inactive to be so in the file too, where the import rounded."""
    low, high = (np.stack([getattr(part, side) for part in evidence.domain.parts]) for side in ("lower", "upper"))
    bounds, rounded = crown_layers(network, low, high), neuron_folding(network, evidence.domain)
    return all(
        bool((np.nextafter(upper.max(axis=0) + off, np.inf)[inactive] <= 0).all())
        for (_, upper), off, inactive in zip(bounds, rounded, evidence.inactive, strict=True)
    )


def read_back(model: Any, arithmetic: str = "real") -> Network:
    """The network of a model, or of a file's bytes, read as any file is."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compressed.onnx"
        path.write_bytes(data)
        return replace(load_onnx(path, arithmetic), file="")
