"""What a user gets who names no search."""

from __future__ import annotations

from stablenet.search.base import Problem, Search
from stablenet.search.network import NetworkSearch


class Auto(Search):
    """The search that fits what is left open."""

    name = "auto"
    title = "chosen by what bounds and falsifying leave open"
    paper = "-"

    def run(self, problem: Problem) -> None:
        """See `Search`."""
        NetworkSearch().run(problem)
