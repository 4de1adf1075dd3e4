"""A network in a Pyomo model of the user's own, between variables of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError, SolverError
from stablenet.core.network import Network
from stablenet.domain.regions import Box, Part
from stablenet.formulations.base import Formulation
from stablenet.milp.matrices import Variables
from stablenet.pyomo_model.network_model import Source, add_exact, check_fit, resolve

_OWN = ("inputs_in_box", "layer", "output", "output_rows", "embedded")
"""Names that an embedded network takes in its block."""

TOLERANCE = 1e-5
"""How far, relative to ``1 + |output|``, a solver's outputs may be from the forward pass: its tolerances add up."""


@dataclass(frozen=True, eq=False)
class EmbeddedNetwork:
    """A network in a block of a Pyomo model; it stands there as ``block.embedded``, is cloned and pickled with it.

    ``inputs`` and ``outputs`` are the scalar Pyomo variables that it ties. ``lower`` and ``upper``, (n_inputs,), are
    the box that the encoding holds in; ``output_lower`` and ``output_upper``, (n_outputs,), bound the outputs there.
    """

    block: Any
    network: Network
    inputs: Variables
    outputs: Variables
    lower: Array
    upper: Array
    output_lower: Array
    output_upper: Array

    def __repr__(self) -> str:
        return (
            f"<EmbeddedNetwork in {self.block.name!r}: {len(self.inputs)} inputs, {self.network.n_neurons} neurons, "
            f"{len(self.outputs)} outputs>"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A clone's variables are its own, its network is the same object: networks do not change."""
        from copy import deepcopy

        memo[id(self.network)] = self.network
        copy = object.__new__(type(self))
        memo[id(self)] = copy
        for name, value in vars(self).items():
            object.__setattr__(copy, name, deepcopy(value, memo))
        return copy

    def tighten_outputs(self) -> None:
        """Give the output variables the bounds that follow from the network, where these are tighter than their own.

        This changes no solution. Another network that reads these variables takes its bounds from them.
        """
        for variable, lower, upper in zip(
            self.outputs, self.output_lower.tolist(), self.output_upper.tolist(), strict=True
        ):
            low, high = variable.bounds
            variable.setlb(lower if low is None else max(low, lower))
            variable.setub(upper if high is None else min(high, upper))

    def check_inputs(self) -> None:
        """Raise `InputError` where an input variable has wider bounds than when the network was added.

        Compiling, writing and solving do this too.
        """
        self.block.inputs_in_box.check()

    def forward(self) -> Array:
        """The network's outputs, (n_outputs,), at the values that the input variables have. Raises `InputError`."""
        return np.asarray(self.network.forward(_values(self.inputs))[0])

    def difference(self) -> float:
        """How far the output variables are from `forward`, at most, relative to ``1 + |output|``."""
        outputs = self.forward()
        off = np.abs(_values(self.outputs) - outputs) / (1.0 + np.abs(outputs))
        return float(off.max(initial=0.0))

    def check_solution(self, tolerance: float = TOLERANCE) -> None:
        """Raise `SolverError` where the values in the model are not what the network computes.

        That is: an input lies outside of the box by more than ``tolerance`` (relative), or `difference` exceeds it.
        `InputError` if a variable has no value.
        """
        values = _values(self.inputs)
        outside = np.maximum(self.lower - values, values - self.upper) / (1.0 + np.abs(values))
        if (outside > tolerance).any():
            worst = int(outside.argmax())
            raise SolverError(
                f"input {str(self.inputs[worst])!r} is {values[worst]:g}, outside of "
                f"[{self.lower[worst]:g}, {self.upper[worst]:g}] by more than {tolerance:g}"
            )
        outputs, found = self.forward(), _values(self.outputs)
        off = np.abs(found - outputs) / (1.0 + np.abs(outputs))
        if not (off <= tolerance).all():
            worst = int(off.argmax())
            raise SolverError(
                f"output {str(self.outputs[worst])!r} is {found[worst]:g} in the model, and {outputs[worst]:g} by a "
                f"forward pass of the inputs in it: more than {tolerance:g} apart, relative"
            )


def box_of_inputs(network: Network, inputs: Variables) -> Part:
    """The box that the bounds of input variables make. Raises `InputError` for a variable without finite bounds."""
    from stablenet.pyomo_model.input_box import box_of

    _check_variables("input", inputs, network.n_inputs)
    lower, upper = box_of(inputs)
    for variable, low, high in zip(inputs, lower.tolist(), upper.tolist(), strict=True):
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(
                f"input variable {variable.name!r} has bounds [{low:g}, {high:g}]; finite ones are needed "
                "(for a variable that another network computes, `tighten_outputs` sets them)"
            )
        if low > high:
            raise InputError(f"input variable {variable.name!r} has lower bound {low:g} above upper bound {high:g}")
    return Box(lower, upper).parts[0]


def embed(
    block: Any,
    network: Network,
    inputs: Variables,
    outputs: Variables | None,
    *,
    bounds: Bounds,
    output_bounds: tuple[Array, Array],
    formulation: str | Formulation,
) -> EmbeddedNetwork:
    """Add a network to a block; see `stablenet.api.add_network`. ``bounds`` and ``output_bounds`` hold in the box."""
    from stablenet.pyomo_model.input_box import InputBox

    part = box_of_inputs(network, inputs)
    if outputs is not None:
        _check_variables("output", outputs, network.n_outputs)
    check_fit(network, part, bounds)
    chosen = resolve(formulation)
    _check_block(block)
    source = Source(np.arange(network.n_inputs), list(inputs), np.ones(network.n_inputs), part.lower, part.upper)
    block.inputs_in_box = InputBox(source.variables, part.lower, part.upper)
    add_exact(block, source, network, bounds, chosen, outputs=outputs)
    given = list(block.output.values()) if outputs is None else list(outputs)
    embedded = EmbeddedNetwork(block, network, source.variables, given, part.lower, part.upper, *output_bounds)
    if outputs is None:
        embedded.tighten_outputs()
    block.embedded = embedded
    return embedded


def embedded_networks(model: Any) -> list[EmbeddedNetwork]:
    """All networks embedded in a Pyomo model or block, in nested blocks too; also of a clone, or after pickling.

    Args:
        model: a Pyomo model or block; blocks that are not active are passed over.

    Returns:
        The networks, in the order of their blocks; empty where there is none.

    Raises:
        AttributeError: the object is no Pyomo block.
    """
    return list(_find(model))


def _find(block: Any) -> Iterator[EmbeddedNetwork]:
    for data in block.block_data_objects(active=True, descend_into=True):
        found = vars(data).get("embedded")
        if isinstance(found, EmbeddedNetwork):
            yield found


def _values(variables: Variables) -> Array:
    values = []
    for variable in variables:
        if variable.value is None:
            raise InputError(f"variable {variable.name!r} has no value: solve the model, and load its solution, first")
        values.append(float(variable.value))
    return np.array(values)


def _check_variables(what: str, variables: Variables, expected: int) -> None:
    if len(variables) != expected:
        raise InputError(f"{len(variables)} {what} variables, the network has {expected} {what}s")
    for number, variable in enumerate(variables):
        if not getattr(variable, "is_variable_type", bool)() or variable.is_indexed():
            raise InputError(
                f"{what} {number} is {variable!r:.80}; a scalar Pyomo variable is expected "
                "(tie a variable to an expression by a constraint; of an indexed one take `.values()`)"
            )


def _check_block(block: Any) -> None:
    if getattr(block, "component", None) is None or block.is_indexed():
        raise InputError(f"{block!r:.80} is no Pyomo block that takes components (of an indexed one take [i])")
    if not block.parent_component().is_constructed():
        raise InputError(f"block {block.name!r} is not constructed: assign it to a concrete model first")
    taken = [name for name in _OWN if block.component(name) is not None or name in vars(block)]
    if taken:
        raise InputError(f"block {block.name!r} has a component {taken[0]!r}: give each network a block of its own")
