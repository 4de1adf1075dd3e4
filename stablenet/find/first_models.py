"""The MILP that the search `network` starts with, without solving it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stablenet.core.deadline import Deadline
from stablenet.core.errors import UnsupportedError
from stablenet.core.options import Options
from stablenet.find.pipeline import Setup, before_search
from stablenet.find.prepare import read_inputs
from stablenet.milp.arrays import MILP
from stablenet.pyomo_model.export import write_milp
from stablenet.report.report import Report
from stablenet.search.part_model import PartModel
from stablenet.search.single_milp import PartSearch


@dataclass(frozen=True)
class FirstModel:
    """The first MILP on one part of a domain, or the reason why there is none.

    ``digests`` are those of network and domain, ``n_parts`` the number of parts of the domain, ``margin`` the
    relaxation of the rows, ``n_questions`` how many questions the objective counts.
    """

    digests: tuple[str | None, str]
    part: int
    n_parts: int
    margin: float
    n_questions: int = 0
    milp: MILP | None = None
    left_out: str | None = None

    def sizes(self) -> dict[str, Any]:
        """Counts of the model's rows, columns and the like."""
        milp = self.milp
        if milp is None:
            return {}
        return {
            "questions": self.n_questions, "rows": milp.n_rows, "columns": milp.n_columns,
            "binaries": milp.n_binaries, "nonzeros": milp.n_nonzeros, "sos1": len(milp.sos1),
            "indicators": 0 if milp.indicators is None else len(milp.indicators.binary),
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """Write the model, ``.mps`` or ``.lp``."""
        if self.milp is not None:
            write_milp(self.milp, path)


def first_models(network: str, domain: str, options: Options, resume: Report | None) -> Iterator[FirstModel]:
    """The first model on each part of a domain.

    Args:
        network: an ONNX file.
        domain: a specification as on the command line.
        options: those of the run; neither sampling nor falsifying is done.
        resume: a report whose closed questions are not asked again.

    Yields:
        One model for each part.
    """
    given = read_inputs(network, domain)
    options = replace(options, falsify=False, samples=None, resume=None)
    setup = Setup(given.network, given.domain, options, resume=resume)
    ledger = setup.ledger()
    problem = before_search(setup, ledger, Deadline(None))
    for part in range(ledger.n_parts):
        found = FirstModel((given.network.sha256, given.domain.digest), part, ledger.n_parts, problem.margin)
        mask = PartSearch(problem, part, "export").open_questions()
        if not mask.any():
            yield replace(found, left_out="no question is pending")
            continue
        try:
            milp = PartModel(problem, part).build(mask).milp
        except UnsupportedError as error:
            yield replace(found, left_out=str(error))
        else:
            yield replace(found, n_questions=int(np.count_nonzero(mask)), milp=milp)
