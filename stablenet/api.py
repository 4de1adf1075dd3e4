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
from stablenet.core.errors import ContradictionError, ExitCode, InputError, SolverError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.core.options import FindOptions, Options
from stablenet.core.signals import Interrupts
from stablenet.domain.regions import Domain, Part
from stablenet.find.ending import Ending, Finished, finish
from stablenet.find.pipeline import find
from stablenet.find.prepare import CHANGED, prepare, read_inputs, read_network
from stablenet.find.supervisor import EngineRefusedError, supervise
from stablenet.formulations.base import Formulation
from stablenet.milp.matrices import Variables
from stablenet.pyomo_model.embedded import EmbeddedNetwork, box_of_inputs, embed
from stablenet.pyomo_model.network_model import build_model as build_from_bounds
from stablenet.report.files import command_files
from stablenet.report.report import Report
from stablenet.search.base import Deadline


def find_stable(
    network: Network | str | Path, domain: Domain | str, *, isolate: bool = False, **options: Unpack[FindOptions]
) -> Report:
    """Find every stable neuron of a network on a domain.

    Args:
        network: a network, or an ONNX file.
        domain: a domain, or its specification as on the command line.
        isolate: whether to search in a process of its own, so that a solver that crashes or hangs does not end this
            one.
        **options: see `Options`; times are in seconds, memory in megabytes.

    Returns:
        The report. After a limit, an interrupt or a failure of the solver its ``status`` is "stopped"; a failure also
        warns.

    Raises:
        ContradictionError: a witness disproves a refutation; the report is the error's ``report``.
        InputError: network, domain or options cannot be read or do not fit together, or a file to write is one that
            is read, or another one.
        NotInstalledError: the solver is missing.
    """
    choice = Options.from_json(dict(options))
    file = network.file if isinstance(network, Network) else str(network)
    with command_files(
        {"solver_log": choice.solver_log, "proof": choice.proof},
        networks={"the network": file} if file else {},
        domain=domain if isinstance(domain, str) else None,
        reads={"samples": choice.samples, "resume": choice.resume},
    ):
        return _isolated(network, domain, choice) if isolate else _in_process(network, domain, choice)


def _in_process(network: Network | str | Path, domain: Domain | str, choice: Options) -> Report:
    began = time.monotonic()
    setup = prepare(network, domain, choice)
    ledger = setup.ledger()
    ledger.log.add_seconds("load", time.monotonic() - began)
    try:
        ending = Ending(find(setup, ledger, Deadline(choice.time_limit)))
    except (KeyboardInterrupt, MemoryError, SolverError, ContradictionError) as error:
        ending = Ending.of(error)
    with Interrupts():  # a Ctrl-C now would lose what was found
        finished = finish(ledger, ending, **setup.describe(), seconds=time.monotonic() - began)
    return _report_of(finished)


def _isolated(network: Network | str | Path, domain: Domain | str, choice: Options) -> Report:
    file = network.file if isinstance(network, Network) else network
    if not file:
        raise InputError("a network that was not read from a file cannot be searched in another process")
    try:
        finished = supervise(str(file), domain if isinstance(domain, str) else domain.to_json(), choice)
    except EngineRefusedError as refused:
        if refused.code == ExitCode.INPUT:
            raise InputError(str(refused)) from None
        raise
    if isinstance(network, Network) and finished.report.data["network"]["sha256"] != network.identity:
        raise InputError(f"{file}: {CHANGED}")
    return _report_of(finished)


def _report_of(finished: Finished) -> Report:
    finished.raise_contradiction()
    if finished.message is not None:
        warnings.warn(finished.message, stacklevel=4)
    return finished.report


def build_model(
    network: Network | str | Path,
    domain: Domain | str,
    *,
    bounds: str | Bounds = "crown",
    formulation: str | Formulation = "bigm",
) -> Any:
    """The Pyomo `ConcreteModel` of a network on a domain of one part.

    `stablenet.pyomo_model.network_model.build_model` describes the model's components.

    Args:
        network: a network, or an ONNX file.
        domain: a box or a polytope, or its specification as on the command line.
        bounds: the name of a method, or bounds that hold on the domain.
        formulation: the encoding of the ReLUs.

    Returns:
        The model, without an objective.

    Raises:
        InputError: network, domain, bounds or formulation cannot be read or do not fit together.
        DomainError: the domain is a union of several parts.
    """
    given = read_inputs(network, domain)
    net, region = given.network, given.domain
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
    net = read_network(network)
    part = box_of_inputs(net, inputs)
    if isinstance(bounds, str):
        known, output_bounds = _with_output(bounds, net, part)
    else:
        known = bounds
        sides = [post_bounds(layer.lower[None, :], layer.upper[None, :]) for layer in bounds.layers]
        lows, highs = ([box[None, :], *(pair[i] for pair in sides)] for i, box in enumerate((part.lower, part.upper)))
        low, high = affine_bounds(net.output, lows, highs)
        output_bounds = low[0], high[0]
    return embed(block, net, inputs, outputs, bounds=known, output_bounds=output_bounds, formulation=formulation)


def _with_output(method: str, network: Network, part: Part) -> tuple[Bounds, tuple[Array, Array]]:
    """Bounds of all layers and of the outputs, which are bounded like one more layer."""
    last = len(network.layers)
    nothing = AffineMap(np.zeros(1), (Term(last + 1, np.zeros((1, network.n_outputs))),))
    layers = (*network.layers, Layer(network.output, "outputs", (network.n_outputs,)))
    found = run_bounds(method, Network(network.n_inputs, layers, nothing), part)
    return Bounds(found.methods, found.layers[:last]), (found.layers[last].lower, found.layers[last].upper)
