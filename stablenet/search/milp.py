"""The single MILP as a benchmark: built once from all pending questions, solved once, unchanged, to its end.

The model and objective are those of `stablenet.search.single_milp` (Serra, Yu, Kumar & Ramalingam, NeurIPS 2021,
arXiv 2102.07804, section 4): maximise the number of pending questions that one input witnesses. The solver is used as
a user of an exported file could use it: no target, no bound to stop at, no start, no callbacks, no rounds. So all
solvers do the same work, and how long they take can be compared with what their own programs take on the file that
``stablenet compare --export-models`` writes.
"""

from __future__ import annotations

import time

import numpy as np

from stablenet.backends.own_points import SolverFailedError
from stablenet.core.arrays import Mask
from stablenet.core.errors import UnsupportedError
from stablenet.core.questions import NEGATIVE, POSITIVE, SIDES
from stablenet.search.base import Problem, Search, SearchStoppedError, check_combination
from stablenet.search.part_model import STOPS, OwnPoints, PartModel
from stablenet.search.single_milp import REFUTING, PartSearch


class MilpSearch(Search):
    """One solve of the single MILP, to its end."""

    name = "milp"
    title = "the single MILP, solved once, unchanged, to its end (for comparing solvers)"
    paper = "Serra, Yu, Kumar & Ramalingam 2021 (arXiv 2102.07804)"

    def run(self, problem: Problem) -> None:
        """See `Search`. An optimum of 1 or more closes what its solution shows, and leaves the rest open."""
        if problem.options.check_with is not None:
            raise UnsupportedError("search 'milp' solves its model once; --check-with is for searches that go on")
        check_combination(problem.formulation, problem.backend, problem.options)
        for part in range(len(problem.domain.parts)):
            mask = PartSearch(problem, part, self.name).open_questions()
            if mask.any():
                _solve(problem, part, mask, self.name)


def _solve(problem: Problem, part: int, mask: Mask, by: str) -> None:
    """Build the model of a part's open questions, (2, n), solve it, and close what its answer shows or proves."""
    began = time.monotonic()
    models = PartModel(problem, part)
    model = models.build(mask)
    begin = models.start(model)
    own = OwnPoints(problem, part, model, begin)
    spent = {"build_s": time.monotonic() - began}
    began = time.monotonic()
    with problem.open(model.milp, own.best, by) as session:
        spent["translate_s"] = time.monotonic() - began
        try:
            result = session.solve(problem.limits())
        except SolverFailedError as error:
            models.failed(error, by)
            raise SearchStoppedError("solver") from None
    models.record(model, result, by, spent)
    if result.x is not None:
        models.show(model.inputs(result.x), by)
    if result.status in STOPS:
        raise SearchStoppedError(STOPS[result.status])
    if result.dual_bound <= REFUTING:
        asked = model.questions
        index = asked.neuron + problem.ledger.offsets[asked.layer]
        side = np.where(asked.side > 0, POSITIVE, NEGATIVE)
        for one in SIDES:
            models.refute(one, index[side == one], by)
