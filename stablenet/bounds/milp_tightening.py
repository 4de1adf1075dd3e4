"""``milp`` and ``rolling``: mixed-integer programs over the layers before, one per bound, within limits.

The bound is the solver's dual bound, valid whenever it stops (Tjeng, Xiao & Tedrake, *Evaluating Robustness of Neural
Networks with Mixed Integer Programming*, ICLR 2019, arXiv 1711.07356, section 4.2). It rests on the solver's
tolerances, so it is not rigorous; all rows are relaxed by ten times these or more, as in a search, and so is the bound
itself, in units of the neuron's range: an exact extremum of 0 within rounding decides nothing. Answers that a forward
pass disproves are not used (`stablenet.backends.own_points`).

``rolling:W`` keeps the last W layers before the one that is bounded exact, and those before them as triangles
(Zhao et al., *Bound Tightening Using Rolling-Horizon Decomposition for Neural Network Verification*, CPAIOR 2024, arXiv
2401.05280): its cost does not grow with depth.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from stablenet.backends.base import Capability, SolveResult, Status
from stablenet.backends.own_points import CheckedSession
from stablenet.bounds.base import Context, whole_number
from stablenet.bounds.layer_model import (
    ByLayer,
    LayerModel,
    ask_all,
    limits_of,
    own_extremes,
    settings_of,
    solver_of,
)
from stablenet.bounds.layerwise import LayerwiseState, Tightening
from stablenet.core.errors import InputError, SolverError, UnsupportedError
from stablenet.formulations.base import Formulation
from stablenet.formulations.base import registry as formulations
from stablenet.pyomo_model.network_model import power_of_two

NODES = 50
"""Branch-and-bound nodes per bound, unless the argument says otherwise."""

Question = tuple[int, float]


class MilpTightening(Tightening):
    """Two mixed-integer programs per undecided neuron."""

    name = "milp"
    title = "MILP within limits (argument: nodes per bound, or seconds as 10s)"
    paper = "Tjeng, Xiao & Tedrake 2019 (arXiv 1711.07356)"
    rigorous = False

    def __init__(self, nodes: int | None = NODES, seconds: float | None = None) -> None:
        self.nodes = nodes
        self.seconds = seconds
        self.requires = frozenset({Capability.NODE_LIMIT} if nodes is not None else ())

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """``milp``, ``milp:NODES`` or ``milp:SECONDSs``."""
        if argument is None:
            return cls()
        if not argument.endswith("s"):
            return cls(whole_number(cls.name, argument))
        try:
            seconds = float(argument[:-1])
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise InputError(f"bounds {cls.name!r} takes a number of nodes or of seconds (as 10s), got {argument!r}")
        return cls(None, seconds)

    def check(self, context: Context) -> None:
        """The solver must keep the node limit."""
        backend = solver_of(context)
        if self.nodes is not None and not backend.supports(Capability.NODE_LIMIT):
            raise UnsupportedError(
                f"bounds {self.name!r} need {Capability.NODE_LIMIT.value}, which solver {backend.name!r} does not "
                f"offer; '{self.name}:10s' limits the time instead"
            )

    def formulation(self, layer: int) -> Formulation:
        """What encodes the layers before the one given."""
        del layer
        return formulations.get("bigm")

    def work(self, state: LayerwiseState) -> None:
        """See `Tightening`."""
        rows = state.undecided()
        known = state.bounds.layers[state.layer]
        lower, upper = np.array(known.lower), np.array(known.upper)
        settings = settings_of(state.context)
        margin = max(state.context.margin, 10.0 * max(settings.feasibility, settings.integrality))
        with state.cost(self.name, 2 * len(rows)) as row:
            model = LayerModel(
                state.network,
                state.part,
                state.bounds,
                state.layer,
                formulation=self.formulation(state.layer),
                margin=margin,
            )
            row["rows"], row["columns"], row["binaries"] = (
                model.milp.n_rows,
                model.milp.n_columns,
                model.milp.n_binaries,
            )
            affine = state.network.layers[state.layer].affine
            scale = power_of_two(np.maximum(np.abs(lower), np.abs(upper)))
            low, high = own_extremes(state.context, state.network, state.part, state.layer)
            # Once the sign is known, the bound has done its work.
            stop = -margin if solver_of(state.context).supports(Capability.DUAL_STOP) else None

            def ask(session: CheckedSession, question: Question) -> SolveResult:
                neuron, sign = question
                objective, constant = model.objective(affine, neuron, sign)
                session.change_objective(objective * scale[neuron], constant * scale[neuron], maximize=True)
                best = float(scale[neuron] * (high[neuron] if sign > 0 else -low[neuron]))
                session.own = lambda _: best if math.isfinite(best) else None
                limits = limits_of(state.context, seconds=self.seconds, nodes=self.nodes)
                return session.solve(limits, dual_stop=stop)

            questions = [(r, sign) for r in rows.tolist() for sign in (1.0, -1.0)]
            for done, ((neuron, sign), answer) in enumerate(
                ask_all(state.context, model.milp, questions, ask, self.name), 1
            ):
                state.context.progress(f"{self.name}, layer {state.layer}", done, len(questions))
                if isinstance(answer, SolverError) or answer.status is Status.INFEASIBLE:
                    row["failed"] = row.get("failed", 0) + 1
                    continue
                bound = (answer.dual_bound + margin) / scale[neuron]
                if sign > 0:
                    upper[neuron] = min(upper[neuron], bound)
                else:
                    lower[neuron] = max(lower[neuron], -bound)
            row["tightened"] = state.tighten(self.name, lower, upper, rigorous=False)


class Rolling(MilpTightening):
    """MILPs with the last layers exact and the earlier ones relaxed."""

    name = "rolling"
    title = "MILP over the last W layers, the earlier ones relaxed (argument: W)"
    paper = "Zhao et al. 2024 (arXiv 2401.05280)"
    rigorous = False

    def __init__(self, window: int = 2) -> None:
        super().__init__()
        self.window = window

    @classmethod
    def from_argument(cls, argument: str | None) -> Self:
        """``rolling`` (2 layers) or ``rolling:W``."""
        return cls() if argument is None else cls(whole_number(cls.name, argument))

    def formulation(self, layer: int) -> Formulation:
        """Triangles, then big-M."""
        return ByLayer(formulations.get("relaxed"), formulations.get("bigm"), layer - self.window)
