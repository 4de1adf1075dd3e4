"""The baseline that the paper beats: MILPs for each neuron alone, layer by layer.

Two MILPs a neuron (Tjeng, Xiao & Tedrake, *Evaluating Robustness of Neural Networks with Mixed Integer
Programming*, ICLR 2019; Serra et al. 2021, section 4): maximise and minimise its pre-activation, stopped at the first
solution of that sign or the first bound that excludes it. A layer's model is loaded once per thread.
"""

from __future__ import annotations

from stablenet.search.base import Problem, Search, check_combination
from stablenet.search.per_question import PerQuestion


class NeuronSearch(Search):
    """One MILP a question."""

    name = "neuron"
    title = "two MILPs a neuron, layer by layer (the baseline)"
    paper = "Tjeng, Xiao & Tedrake 2019 (arXiv 1711.07356)"

    def run(self, problem: Problem) -> None:
        """See `Search`."""
        check_combination(problem.formulation, problem.backend)
        for part in range(len(problem.domain.parts)):
            PerQuestion(problem, part, self.name).run(problem.pending(part))
