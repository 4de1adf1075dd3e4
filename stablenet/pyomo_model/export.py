"""The single MILP of a network as a file that other solvers read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from stablenet.core.bounds import Bounds
from stablenet.core.errors import InputError
from stablenet.core.files import atomic_path
from stablenet.core.network import Network
from stablenet.domain.regions import Domain
from stablenet.formulations.base import Formulation
from stablenet.milp.arrays import MILP
from stablenet.milp.lp import safe_names, write_lp
from stablenet.pyomo_model.network_model import one_part
from stablenet.pyomo_model.search_model import build_search_model

SUFFIXES = (".mps", ".lp")


def export(
    network: Network,
    domain: Domain,
    bounds: Bounds,
    formulation: str | Formulation,
    path: Path | str,
    *,
    margin: float = 0.0,
    decide: bool = True,
) -> MILP:
    """Write the model that asks both questions of every neuron that the bounds leave undecided.

    The suffix of ``path``, ``.mps`` or ``.lp``, says the format. ``margin`` and ``decide`` are those of
    `build_search_model`. Returns what was written. Raises `InputError` for another suffix, a path
    that can't be written, and where no neuron is undecided; `DomainError` for a domain of several parts.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: the suffix must be {' or '.join(SUFFIXES)}")
    part = one_part(domain)
    asked = [np.flatnonzero((b.phase == 0) | (not decide)) for b in bounds.layers]
    if not any(len(neurons) for neurons in asked):
        raise InputError("the bounds decide every neuron: there is no question to export")
    model = build_search_model(
        network, part, bounds, formulation, positive=asked, negative=asked, margin=margin, decide=decide
    )
    write_milp(model.milp, path)
    return model.milp


def write_milp(milp: MILP, path: Path) -> None:
    """Write a `MILP` in the format that the suffix says, ``.mps`` or ``.lp``, atomically."""
    if path.suffix == ".lp":
        write_lp(milp, path)
    elif path.suffix == ".mps":
        from stablenet.milp.mps import write_mps

        if any(" " in name for name in (*milp.columns, *milp.row_names)):  # which MPS cannot hold
            columns = safe_names(milp.columns, milp.n_columns, "c")
            milp = replace(milp, columns=columns, row_names=safe_names(milp.row_names, milp.n_rows, "r"))
        with atomic_path(path) as temporary:
            write_mps(milp, temporary)
    else:
        raise InputError(f"{path}: the suffix must be {' or '.join(SUFFIXES)}")
