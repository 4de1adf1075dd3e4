"""The Python entry points: `find_stable` and `build_model`."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from stablenet.bounds import run as run_bounds
from stablenet.bounds.interval import affine_bounds, post_bounds
from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.errors import ContradictionError, InputError, SolverError
from stablenet.core.float32 import in_float32
from stablenet.core.ledger import Ledger
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.core.options import FindOptions, Options
from stablenet.core.signals import Interrupts
from stablenet.domain.regions import Domain, Part
from stablenet.domain.spec import parse_domain
from stablenet.find.pipeline import Setup, find
from stablenet.find.supervisor import EngineRefusedError, supervise
from stablenet.formulations.base import Formulation
from stablenet.milp.matrices import Variables
from stablenet.onnx_io.reader import load_onnx
from stablenet.pyomo_model.embedded import EmbeddedNetwork, box_of_inputs, embed
from stablenet.pyomo_model.network_model import build_model as build_from_bounds
from stablenet.pyomo_model.network_model import check_fit
from stablenet.report.report import Report, build_report, network_to_json
from stablenet.search.base import Deadline


def find_stable(
    network: Network | str | Path, domain: Domain | str, *, isolate: bool = False, **options: Unpack[FindOptions]
) -> Report:
    """Find every stable neuron of a network on a domain.

    ``network`` is a `Network` or an ONNX file, ``domain`` a `Domain` or a specification as on the command
    line; for the other options see `Options`. The search runs in this process, or with ``isolate`` in one of its own,
    which a crashing or hanging solver cannot take down with it. A limit, an interrupt or a failing solver ends in
    a report with ``status`` "stopped"; the last also warns. Raises `ContradictionError`, with the report as its
    ``report``, if a witness disproves a refutation, and `InputError` for what cannot be searched.
    """
    choice = Options.from_json(dict(options))
    if isolate:
        return _isolated(network, domain, choice)
    began = time.monotonic()
    net = read_network(network, choice.arithmetic)
    region = parse_domain(domain, net.n_inputs) if isinstance(domain, str) else domain
    setup = Setup(net, region, choice)
    ledger = Ledger([layer.size for layer in net.layers], len(region.parts))
    ledger.log.add_seconds("load", time.monotonic() - began)
    trouble: str | None = None
    contradiction = False
    try:
        stopped_by = find(setup, ledger, Deadline(choice.time_limit))
    except KeyboardInterrupt:
        stopped_by = "interrupt"
    except (SolverError, ContradictionError) as error:
        stopped_by, trouble = "solver", str(error)
        contradiction = isinstance(error, ContradictionError)
    with Interrupts():  # a Ctrl-C now would lose what was found
        report = build_report(
            ledger,
            network=network_to_json(net, region),
            domain=region.to_json(),
            config=choice.to_json(),
            stopped_by=stopped_by,
            total_seconds=time.monotonic() - began,
        )
    words = [*(str(found) for found in ledger.contradictions), *([trouble] if trouble else [])]
    return _settle(report, "; ".join(words) or None, contradiction=contradiction or bool(ledger.contradictions))


def read_network(network: Network | str | Path, arithmetic: str) -> Network:
    """The network itself, or that of a file; for float32 a file is read anew, for how its nodes compute each map."""
    if not isinstance(network, Network):
        return load_onnx(network, arithmetic)
    if arithmetic == network.arithmetic:
        return network
    if arithmetic == "real":
        raise InputError("the network speaks of float32 arithmetic; the option arithmetic='float32' is missing")
    if not (network.file and network.content == network.content_digest):
        return in_float32(network)
    read = load_onnx(network.file, arithmetic)
    if read.identity != network.identity:
        raise InputError(f"{network.file}: the file is not the one any more that the network was read from")
    return read


def _isolated(network: Network | str | Path, domain: Domain | str, choice: Options) -> Report:
    file = network.file if isinstance(network, Network) else network
    if not file:
        raise InputError("a network that was not read from a file cannot be searched in another process")
    try:
        outcome = supervise(str(file), domain if isinstance(domain, str) else domain.to_json(), choice)
    except EngineRefusedError as refused:
        if refused.code == InputError.exit_code:
            raise InputError(str(refused)) from None
        raise
    if isinstance(network, Network) and outcome.report.data["network"]["sha256"] != network.identity:
        raise InputError(f"{file}: the file is not the one any more that the network was read from")
    return _settle(outcome.report, outcome.message, contradiction=outcome.exit_code == ContradictionError.exit_code)


def _settle(report: Report, trouble: str | None, *, contradiction: bool) -> Report:
    if contradiction:
        raise ContradictionError(trouble or "a witness disproves a refutation", report)
    if trouble is not None:
        warnings.warn(trouble, stacklevel=3)
    return report


def build_model(
    network: Network | str | Path,
    domain: Domain | str,
    *,
    bounds: str | Bounds = "crown",
    formulation: str | Formulation = "bigm",
) -> Any:
    """The Pyomo `ConcreteModel` of a network on a domain of one part.

    See `stablenet.pyomo_model.network_model.build_model`.

    ``bounds`` is the name of a method, or bounds at hand.
    """
    net = network if isinstance(network, Network) else load_onnx(network)
    region = parse_domain(domain, net.n_inputs) if isinstance(domain, str) else domain
    found = run_bounds(bounds, net, region.parts[0]) if isinstance(bounds, str) else bounds
    return build_from_bounds(net, region, bounds=found, formulation=formulation)


def add_network(
    block: Any,
    network: Network | str | Path,
    inputs: Variables,
    outputs: Variables | None = None,
    *,
    bounds: str | Bounds = "crown",
    formulation: str | Formulation = "bigm",
) -> EmbeddedNetwork:
    """Add a network to a Pyomo model of your own: ``outputs = network(inputs)`` holds in every solution.

    The input variables need finite bounds, since the encoding rests on them. They may be narrowed later, not widened:
    the model is then refused where it is compiled, written or solved. Variables may be shared: the outputs of one
    network may be the inputs of another (see `EmbeddedNetwork.tighten_outputs`).

    Args:
        block: a Pyomo block, or a concrete model, that takes the network's variables and rows: one for each network.
        network: a network, or an ONNX file.
        inputs: as many scalar variables as the network has inputs, wherever in the model they stand.
        outputs: as many scalar variables as it has outputs; None makes ``block.output``.
        bounds: the name of a method, or bounds at hand that hold in the box of the inputs' bounds.
        formulation: the encoding of the ReLUs.

    Returns:
        What was embedded, to check a solution by a forward pass; it stands in the block as ``block.embedded`` too.

    Raises:
        InputError: variables, bounds or block do not fit.
    """
    net = network if isinstance(network, Network) else load_onnx(network)
    part = box_of_inputs(net, inputs)
    known, output_bounds = bounds_and_outputs(bounds, net, part)
    return embed(block, net, inputs, outputs, bounds=known, output_bounds=output_bounds, formulation=formulation)


def bounds_and_outputs(bounds: str | Bounds, network: Network, part: Part) -> tuple[Bounds, tuple[Array, Array]]:
    """Bounds of all layers on a part, and of the outputs, each (n_outputs,); by a method, or from bounds at hand."""
    if isinstance(bounds, str):
        return _with_output(bounds, network, part)
    check_fit(network, part, bounds)
    sides = [post_bounds(layer.lower[None, :], layer.upper[None, :]) for layer in bounds.layers]
    lows, highs = ([box[None, :], *(pair[i] for pair in sides)] for i, box in enumerate((part.lower, part.upper)))
    low, high = affine_bounds(network.output, lows, highs)
    return bounds, (low[0], high[0])


def _with_output(method: str, network: Network, part: Part) -> tuple[Bounds, tuple[Array, Array]]:
    """Bounds of all layers and of the outputs, which are bounded like one more layer."""
    last = len(network.layers)
    nothing = AffineMap(np.zeros(1), (Term(last + 1, np.zeros((1, network.n_outputs))),))
    layers = (*network.layers, Layer(network.output, "outputs", (network.n_outputs,)))
    found = run_bounds(method, Network(network.n_inputs, layers, nothing), part)
    return Bounds(found.methods, found.layers[:last]), (found.layers[last].lower, found.layers[last].upper)
