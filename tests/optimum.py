"""The optimum of a MILP by a solver that no backend uses."""

from scipy.optimize import Bounds, LinearConstraint
from scipy.optimize import milp as scipy_milp

from stablenet.milp.arrays import MILP


def optimum(problem: MILP) -> float:
    """Through SciPy's own HiGHS, independent of the backends (no SOS sets, no indicators)."""
    assert not problem.sos1
    assert problem.indicators is None
    sign = -1.0 if problem.maximize else 1.0
    result = scipy_milp(
        sign * problem.objective,
        integrality=problem.integer.astype(int),
        bounds=Bounds(problem.lower, problem.upper),
        constraints=LinearConstraint(problem.rows.matrix, problem.rows.lower, problem.rows.upper),
        options={"mip_rel_gap": 0.0},
    )
    assert result.status == 0, result.message
    return float(sign * result.fun + problem.constant)
