"""The ReLU as a disjunction, transformed by Pyomo: ``gdp:bigm``, ``gdp:hull`` and ``gdp:mbigm``.

For each neuron, in the variables g and h alone::

    [ h = g ]  or  [ h <= 0, g <= 0 ]        h >= 0

``bigm`` is Pyomo's big-M with the M that it works out of the variables' bounds, ``hull`` its convex hull with g and h
disaggregated, ``mbigm`` its multiple big-M, one M per pair of disjuncts, each found by a small optimisation with HiGHS
(F. Trespalacios, I. Grossmann, *Improved big-M reformulation for generalized disjunctive programs*, Computers &
Chemical Engineering 76 (2015)). They are here so that comparisons include Pyomo's own transformations;
Q. Chen et al., *Pyomo.GDP: an ecosystem for logic based modeling and optimization development*, Optimization and
Engineering 23 (2022).

Size for n neurons: 2 n binaries; ``bigm`` 5 n rows; ``hull`` 4 n continuous variables and about 12 n rows;
``mbigm`` 5 n rows. Needs nothing beyond linear rows and binaries, but Python time per neuron; the M of ``mbigm`` are
right to the tolerance of the solver that finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from stablenet.formulations.base import Encoding, Formulation, ReluLayer, phase_handles

from stablenet.core.arrays import Array
from stablenet.core.errors import UnknownNameError

TRANSFORMATIONS = ("bigm", "hull", "mbigm")


def _sides(block: Any, i: int) -> list[Any]:
    """The two sides of disjunction i; a function of the module, so that models can be pickled."""
    return [block.on[i], block.off[i]]


class Gdp(Formulation):
    """A Pyomo disjunction and one of Pyomo's transformations."""

    name = "gdp"
    title = "Pyomo's disjunction and its transformation, gdp:bigm|hull|mbigm"
    paper = "Chen et al. 2022 (Pyomo.GDP); Trespalacios & Grossmann 2015"
    equations = "mbigm: multiple-parameter big-M"
    variants = ("gdp:bigm", "gdp:hull", "gdp:mbigm")

    def __init__(self, transformation: str = "bigm") -> None:
        if transformation not in TRANSFORMATIONS:
            raise UnknownNameError("Pyomo transformation", transformation, TRANSFORMATIONS)
        self.transformation = transformation

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """The transformation; ``bigm`` without argument."""
        return cls() if argument is None else cls(argument)

    @property
    def spec(self) -> str:
        """``gdp:transformation``."""
        return f"{self.name}:{self.transformation}"

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        """One disjunction per neuron, transformed."""
        import pyomo.environ as pyo
        from pyomo.gdp import Disjunct, Disjunction

        index = layer.neurons.tolist()
        block.on, block.off = Disjunct(index), Disjunct(index)
        for i, g, h in zip(index, layer.pre, layer.post, strict=True):
            block.on[i].same = pyo.Constraint(expr=h == g)
            block.off[i].zero = pyo.Constraint(expr=h <= 0)
            block.off[i].below = pyo.Constraint(expr=g <= 0)
        block.phase = Disjunction(index, rule=_sides)
        transformation = pyo.TransformationFactory(f"gdp.{self.transformation}")
        transformation.apply_to(block, **self._options(transformation))
        on, off = ([d[i].binary_indicator_var for i in index] for d in (block.on, block.off))
        own = {"on": on, "off": off}
        if self.transformation == "hull":
            for name, disjunct in (("on", block.on), ("off", block.off)):
                for kind, variables in (("pre", layer.pre), ("post", layer.post)):
                    own[f"{name}_{kind}"] = [
                        transformation.get_disaggregated_var(v, disjunct[i])
                        for i, v in zip(index, variables, strict=True)
                    ]
        return Encoding(own, phase_handles(on)[0], phase_handles(off)[0])

    def _options(self, transformation: Any) -> dict[str, Any]:
        if self.transformation != "mbigm":
            return {}
        import pyomo.environ as pyo

        options: dict[str, Any] = {"solver": pyo.SolverFactory("appsi_highs")}
        if "threads" in transformation.CONFIG:
            options["threads"] = 1  # else it starts processes of its own
        return options

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        """One of the two disjuncts holds; copies of g and h in the other one are 0."""
        del layer, inputs
        on = (pre > 0).astype(np.float64)
        values = {"on": on, "off": 1.0 - on}
        if self.transformation == "hull":
            values |= {"on_pre": pre * on, "on_post": pre * on, "off_pre": pre * (1.0 - on)}
            values["off_post"] = np.zeros_like(pre)
        return values
