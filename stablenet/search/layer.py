"""The single MILP layer by layer: what earlier layers close fixes phases and tightens bounds in later ones."""

from __future__ import annotations

from stablenet.search.base import Problem, Search, check_combination
from stablenet.search.single_milp import PartSearch


class LayerSearch(Search):
    """One MILP for the pending questions of each layer."""

    name = "layer"
    title = "the single MILP, one layer after the other"
    paper = "Serra, Yu, Kumar & Ramalingam 2021 (arXiv 2102.07804)"

    def run(self, problem: Problem) -> None:
        """See `Search`."""
        check_combination(problem.formulation, problem.backend)
        for part in range(len(problem.domain.parts)):
            for layer in range(len(problem.network.layers)):
                search = PartSearch(problem, part, self.name, range(layer, layer + 1))
                search.models.tighten(layer, self.name)
                search.run()
