"""What one call of a session asks of its solver, and the refusal of what the solver lacks or no solver can do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from stablenet.backends.base import Backend, Callbacks, Capability, Limits

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError, UnsupportedError
from stablenet.milp.arrays import MILP


@dataclass(frozen=True, eq=False)
class Request:
    """The arguments of one `Session.solve`."""

    limits: Limits
    target: float | None
    dual_stop: float | None
    start: Array | None
    callbacks: Callbacks


def model_needs(milp: MILP) -> set[Capability]:
    """What the solver must offer for this model."""
    needs = set()
    if milp.sos1:
        needs.add(Capability.SOS1)
    if milp.indicators is not None and len(milp.indicators.binary):
        needs.add(Capability.INDICATOR)
    return needs


def limit_needs(limits: Limits) -> set[Capability]:
    """What the solver must offer for these limits."""
    asked = {
        Capability.NODE_LIMIT: limits.nodes is not None,
        Capability.MEMORY_LIMIT: limits.memory is not None,
        Capability.THREADS: limits.threads > 1,
        Capability.SEED: limits.seed != 0,
    }
    return {capability for capability, wanted in asked.items() if wanted}


def request_needs(request: Request) -> set[Capability]:
    """What the solver must offer for this call."""
    asked = {
        Capability.TARGET: request.target,
        Capability.DUAL_STOP: request.dual_stop,
        Capability.START: request.start,
        Capability.INCUMBENT: request.callbacks.on_incumbent,
        Capability.PROPOSE: request.callbacks.propose,
        Capability.CUTS: request.callbacks.separate,
        Capability.LAZY: request.callbacks.lazy,
    }
    return limit_needs(request.limits) | {capability for capability, value in asked.items() if value is not None}


def refuse_lacking(backend: Backend, needs: set[Capability]) -> None:
    """Raise `UnsupportedError` naming what the solver lacks."""
    lacking = sorted(capability.value for capability in needs - backend.capabilities)
    if lacking:
        raise UnsupportedError(f"solver {backend.name!r} has no {', '.join(lacking)}")


def check_limits(limits: Limits) -> None:
    """Raise `InputError` for limits that make no sense."""
    if limits.time is not None and not limits.time >= 0:
        raise InputError(f"time limit {limits.time}: a number of seconds from 0 is expected")
    if limits.nodes is not None and limits.nodes < 0:
        raise InputError(f"node limit {limits.nodes}: a number from 0 is expected")
    if limits.memory is not None and not limits.memory > 0:
        raise InputError(f"memory limit {limits.memory}: a positive number of megabytes is expected")
    if limits.threads < 1:
        raise InputError(f"threads {limits.threads}: a number from 1 is expected")
    if not 0 <= limits.seed < 2**31:
        raise InputError(f"seed {limits.seed}: a number from 0 to 2147483647 is expected")


def check_start(start: Array | None, milp: MILP) -> None:
    """Raise `InputError` for a start that is no full finite vector."""
    if start is None:
        return
    if start.shape != (milp.n_columns,):
        raise InputError(f"start of shape {start.shape} where ({milp.n_columns},) is expected")
    if not np.isfinite(start).all():
        raise InputError(f"start: entry {int(np.argmin(np.isfinite(start)))} is not finite")
