"""The default search.

First what is rigorous and needs no solver (`RigorousPart`): splitting the domain where inputs are few, then branching
on phases. Questions that stay open go to the solver: each alone with a small limit of nodes, in turns with more
branching, then the single MILP for those left. All choices count work and not seconds, so that a run repeats.
"""

from __future__ import annotations

from stablenet.search.base import Problem, Search, check_combination
from stablenet.search.branch import Brancher
from stablenet.search.per_question import PerQuestion
from stablenet.search.rigorous import RigorousPart
from stablenet.search.single_milp import PartSearch

NODES = 1
"""Nodes of the solver's pass over single questions."""

LAST_BRANCH_NODES = 524_288
"""Nodes that branching may use for a question that the solver's pass has left open."""


class Auto(Search):
    """The searches in an order that depends on the number of inputs."""

    name = "auto"
    title = "split for few inputs, branch, then the solver on what is left"
    paper = "-"

    def run(self, problem: Problem) -> None:
        """See `Search`."""
        check_combination(problem.formulation, problem.backend)
        for part in range(len(problem.domain.parts)):
            _run_part(problem, part)


def _run_part(problem: Problem, part: int) -> None:
    """The order of steps on one part."""
    rigorous = RigorousPart(problem, part)
    if problem.options.decide_by_bounds:
        rigorous.run()
    if problem.formulation.exact and rigorous.pending.any():
        PerQuestion(problem, part, "per_question", nodes=NODES).run(rigorous.pending)
    if problem.options.decide_by_bounds:
        Brancher(problem, part).run(LAST_BRANCH_NODES)
    if problem.formulation.exact and rigorous.pending.any():
        PartSearch(problem, part, "network").run()
