"""No search: questions that bounds and falsifying leave open stay open."""

from __future__ import annotations

from stablenet.search.base import Problem, Search


class Off(Search):
    """Bounds and falsifying only."""

    name = "off"
    title = "no search: bounds and falsifying only"
    paper = "-"
    needs_solver = False

    def run(self, problem: Problem) -> None:
        """Do nothing."""
        del problem
