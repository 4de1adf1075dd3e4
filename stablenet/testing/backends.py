"""The conformance suite for backends, for this package's own and for those of others.

With pytest::

    import pytest
    from stablenet.testing import backends

    @pytest.mark.parametrize("case", backends.backend_cases(), ids=lambda case: case.name)
    def test_conformance(case):
        backends.run_case(case, MyBackend())

and without::

    stablenet.testing.backends.check_backend(MyBackend())

A case that needs what the backend does not declare does not apply; that what is not declared is refused is a
case of its own. The true answers are known by enumeration or construction, without a solver. The
suite takes some 20 seconds, since stops are watched on a model that takes long. `interrupt` sends Ctrl-C to the
process, so the suite is to be run in its main thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from stablenet.backends.base import Backend, Capability
from stablenet.core.errors import UnknownNameError
from stablenet.testing import backend_answers as answers
from stablenet.testing import backend_calls as calls
from stablenet.testing import backend_stops as stops
from stablenet.testing.suite import Case, ConformanceError, ConformanceResult

__all__ = ["Case", "ConformanceError", "ConformanceResult", "backend_cases", "check_backend", "run_case"]

_CASES: tuple[tuple[Callable[[Backend], None], frozenset[Capability]], ...] = (
    (answers.feasible, frozenset()),
    (answers.infeasible, frozenset()),
    (answers.unbounded, frozenset()),
    (answers.empty, frozenset()),
    (answers.special_numbers, frozenset()),
    (answers.tiny_coefficients, frozenset()),
    (answers.many_equal_columns, frozenset()),
    (answers.bad_numbers, frozenset()),
    (answers.bad_limits, frozenset()),
    (answers.undeclared, frozenset()),
    (answers.big_m, frozenset()),
    (answers.sos1, frozenset({Capability.SOS1})),
    (answers.indicators, frozenset({Capability.INDICATOR})),
    (answers.changed_bounds, frozenset()),
    (answers.changed_objective, frozenset()),
    (answers.added_rows, frozenset()),
    (answers.relaxation, frozenset({Capability.DUALS})),
    (answers.seeds, frozenset({Capability.SEED})),
    (answers.threads, frozenset({Capability.THREADS})),
    (stops.time_limit, frozenset()),
    (stops.no_time, frozenset()),
    (stops.node_limit, frozenset({Capability.NODE_LIMIT})),
    (stops.memory_limit, frozenset({Capability.MEMORY_LIMIT})),
    (stops.target, frozenset({Capability.TARGET})),
    (stops.dual_stop, frozenset({Capability.DUAL_STOP})),
    (stops.start, frozenset({Capability.START})),
    (stops.bad_start, frozenset({Capability.START})),
    (stops.undeclared_calls, frozenset()),
    (stops.root_bound, frozenset({Capability.ROOT_BOUND})),
    (calls.incumbents, frozenset({Capability.INCUMBENT})),
    (calls.stop_by_incumbent, frozenset({Capability.INCUMBENT})),
    (calls.proposals, frozenset({Capability.PROPOSE})),
    (calls.cuts, frozenset({Capability.CUTS})),
    (calls.lazy_rows, frozenset({Capability.LAZY})),
    (calls.exceptions, frozenset({Capability.INCUMBENT})),
    (calls.interrupt, frozenset()),
    (calls.silence, frozenset()),
)


def backend_cases() -> tuple[Case, ...]:
    """All cases, in the order in which failures are best read."""
    return tuple(Case(check.__name__, check, needs) for check, needs in _CASES)


def run_case(case: Case, backend: Backend) -> bool:
    """Run one case; False if it does not apply. Raises `ConformanceError`, or what the backend raised."""
    if case.lacking(backend):
        return False
    case.check(backend)
    return True


def check_backend(backend: Backend, *, exclude: Collection[str] = ()) -> ConformanceResult:
    """Run all cases but those of the names in ``exclude``; raises `ConformanceError` naming each that failed."""
    cases = backend_cases()
    unknown = sorted(set(exclude) - {case.name for case in cases})
    if unknown:
        raise UnknownNameError("conformance case", unknown[0], [case.name for case in cases])
    outcome = ConformanceResult()
    for case in cases:
        if case.name in exclude:
            continue
        lacking = case.lacking(backend)
        if lacking:
            outcome.unsupported[case.name] = lacking
            continue
        try:
            case.check(backend)
        except Exception as error:
            # A backend may raise anything; the others are still to be tried.
            outcome.failed[case.name] = f"{type(error).__name__}: {error}"
        else:
            outcome.passed.append(case.name)
    if outcome.failed:
        complaints = "\n".join(f"  {name}: {why}" for name, why in outcome.failed.items())
        raise ConformanceError(f"backend {backend.name!r} failed {len(outcome.failed)} cases\n{complaints}")
    return outcome
