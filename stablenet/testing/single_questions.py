"""Questions one at a time, in models of their own: what `stablenet.testing.formulations` asks of single ones."""

from __future__ import annotations

import numpy as np

from stablenet.backends.base import Backend, Limits, Settings, Status
from stablenet.bounds import run
from stablenet.core.arrays import Array
from stablenet.core.bounds import Bounds
from stablenet.formulations.base import Formulation
from stablenet.pyomo_model.search_model import SearchModel, build_search_model
from stablenet.testing.formulation_instances import Instance
from stablenet.testing.suite import ConformanceError

TOLERANCE = 1e-5
"""What an optimum may be off, relative to the size of the model's numbers (1 to 10)."""


def open_questions(bounds: Bounds) -> list[tuple[int, int, int]]:
    """Both questions of the undecided neurons of all layers but the first, whose bounds are exact."""
    return [
        (k, int(i), side)
        for k in range(1, len(bounds.layers))
        for i in np.flatnonzero(bounds.layers[k].phase == 0)
        for side in (1, -1)
    ]


def question_model(
    formulation: Formulation, instance: Instance, bounds: Bounds, question: tuple[int, int, int]
) -> SearchModel:
    """The model of one question (layer, neuron, side) alone."""
    layer, neuron, side = question
    asked: list[list[int]] = [[] for _ in range(layer)] + [[neuron]]
    none: list[list[int]] = []
    positive, negative = (asked, none) if side > 0 else (none, asked)
    return build_search_model(
        *(instance.network, instance.part, bounds, formulation),
        positive=positive,
        negative=negative,
        margin=0.0,
        witness=False,
    )


def own_models(
    formulation: Formulation, instance: Instance, truth: tuple[tuple[Array, Array], ...], solver: Backend
) -> None:
    """Each question in a model of its own has the true extremum, and every forward pass is a point of that model."""
    bounds = run("interval", instance.network, instance.part)
    for layer, neuron, side in open_questions(bounds):
        model = question_model(formulation, instance, bounds, (layer, neuron, side))
        exact = float(truth[layer][1][neuron] if side > 0 else -truth[layer][0][neuron])
        objective, scale = model.question_objective(layer, neuron, side)
        with solver.open(model.milp, Settings()) as session:
            session.change_objective(objective, maximize=True)
            result = session.solve(Limits())
        where = f"{formulation.spec}, {instance.label}, layer {layer}, neuron {neuron}, side {side}, asked alone"
        if result.status is not Status.OPTIMAL or result.objective is None:
            raise ConformanceError(f"{where}: ends with {result.solver_status!r}")
        best = result.objective / scale
        if abs(best - exact) > TOLERANCE * max(1.0, abs(best), abs(exact)):
            raise ConformanceError(f"{where}: the extremum is {exact}; the model says {best}")
        if max(model.milp.violation(point) for point in model.points(instance.points)) > 1e-9:
            raise ConformanceError(f"{where}: a forward pass violates the model")
