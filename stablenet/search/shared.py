"""Branching shared out among the workers of a cluster.

The questions of a layer, or the rows that are to be bounded, go to workers in groups (`stablenet.search.tasks`). What
they find is entered in the order of the groups, points after they were checked anew here, before the next layer is
worked on. How the groups are made does not depend on the workers: so neither does what is found, but only the time that
it takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stablenet.bounds.base import RowBounds
from stablenet.core.arrays import Index, Mask
from stablenet.core.bounds import Bounds, LayerBounds
from stablenet.core.cluster import LostTask, Workers, same
from stablenet.core.deadline import Deadline
from stablenet.core.errors import InputError
from stablenet.core.ledger import Ledger
from stablenet.core.network import Network
from stablenet.core.options import Options
from stablenet.core.proofs import PartProof
from stablenet.core.questions import SIDES
from stablenet.domain.regions import Domain
from stablenet.onnx_io.external_data import beside
from stablenet.search.tasks import carry_out

if TYPE_CHECKING:
    from stablenet.search.base import Problem
    from stablenet.search.branch import Asked

TASK_NODES = 2048
"""Nodes that the questions of a task may use together: a tenth of a second of work, beside which a task's own cost is
small. With four times as many there were 21 tasks in 11 rounds (mnistfc_256x4, ball 0.05): too few for two workers.

A single question with a larger limit is a task of its own.
"""

USUAL_NODES = 1024
"""What a question without a limit is counted as."""


class SharedWork:
    """The work of one run that its workers do. Raises `InputError` for a network whose file cannot be sent."""

    def __init__(self, network: Network, domain: Domain, options: Options, ledger: Ledger, deadline: Deadline) -> None:
        if not (network.file and network.sha256 and network.identity == network.sha256):
            raise InputError("workers read the network from its file; one that was not read from a file cannot be sent")
        self.ledger = ledger
        self.deadline = deadline
        self.seed = options.seed
        self.workers = Workers.here(options.workers) if options.workers else Workers.at(str(options.scheduler))
        path = Path(network.file)
        files = [(str(file.relative_to(path.parent)), file.read_bytes()) for file in (path, *beside(path))]
        setup = {"files": files, "digest": network.identity, "arithmetic": network.arithmetic}
        run = f"{network.identity[:16]}-{network.arithmetic}-{domain.digest[:16]}"
        self.setups = [
            self.workers.put(f"setup-{run}-{part}", {**setup, "part": box.to_json()})
            for part, box in enumerate(domain.parts)
        ]
        self._round = 0

    def close(self) -> None:
        """Let go of the workers."""
        self.workers.close()

    def branch(self, problem: Problem, asked: Asked) -> bool:
        """Branch for questions of a layer.

        Returns:
            False if meanwhile a source was withdrawn on which the work may rest.
        """
        ledger, part, by = self.ledger, asked.part, asked.by
        since = ledger.withdrawals
        layers = problem.known(part, by, rigorous=True).layers[: asked.layer + 1]
        rigorous = all(bounds.rigorous for bounds in layers[: asked.layer])
        neurons = np.flatnonzero(asked.questions.any(axis=0))
        most = max(1, TASK_NODES // (asked.max_nodes or USUAL_NODES))
        groups = [neurons[start : start + most] for start in range(0, len(neurons), most)]
        common = {"what": "branch", "by": by, "max_nodes": asked.max_nodes, "seed": self.seed}
        tasks = [{**common, "neurons": group} for group in groups]
        label = {"by": by, "layer": asked.layer, "limit": asked.max_nodes}
        job = _Round(part, layers, problem.pending(part), problem.proof_of(part) if rigorous else None, label)
        for group, found in zip(groups, self.carried_out(job, tasks), strict=True):
            if isinstance(found, LostTask):
                for side in SIDES:
                    ledger.set_unanswered(side, ledger.flat(asked.layer, group[asked.questions[side, group]]))
                continue
            if found["distrusted"]:
                ledger.distrust(by)
            if len(found["points"]):
                problem.falsifier.witnesser.offer(np.array(found["points"]), by)
            for side in SIDES:
                refuted = found["refuted"][side]
                problem.leaves[side, refuted] = found["leaves"][side, refuted]
                ledger.refute(part, side, refuted, by, rigorous=rigorous, since=since)
        return since == ledger.withdrawals

    def rows(self, part: int, asked: Mask, proof: PartProof | None) -> _Rows:
        """What bounds rows of a layer for a bound method (`stablenet.bounds.base.RowSharing`)."""
        return _Rows(self, part, asked, proof)

    def carried_out(self, job: _Round, tasks: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any] | LostTask]:
        """Outcomes of tasks in their order; their certificates are appended to the proof, their cost is noted."""
        left = self.deadline.left
        end = None if left is None else time.time() + left
        state = {
            "lower": [bounds.lower for bounds in job.layers],
            "upper": [bounds.upper for bounds in job.layers],
            "asked": job.asked,
        }
        self._round += 1
        common = [self.setups[job.part], self.workers.client.submit(same, state, pure=False)]
        whole = [{**task, "end": end, "proof": job.proof is not None} for task in tasks]
        for found in self.workers.ordered(carry_out, whole, common, self.deadline):
            row: dict[str, Any] = {"round": self._round, "part": job.part, **job.label}
            if isinstance(found, LostTask):
                self.ledger.log.add_task({**row, "lost": found.why})
            else:
                self.ledger.log.add_task({**row, "seconds": round(found["seconds"], 4)})
                if job.proof is not None:
                    job.proof.append(found["records"])
            yield found


@dataclass(frozen=True, eq=False)
class _Round:
    """Tasks that rest on the same bounds of the first layers of a part, and what their rows in the report say."""

    part: int
    layers: Sequence[LayerBounds]
    asked: Mask
    proof: PartProof | None
    label: Mapping[str, Any]


class _Rows:
    """See `stablenet.bounds.base.RowSharing`."""

    def __init__(self, shared: SharedWork, part: int, asked: Mask, proof: PartProof | None) -> None:
        self.shared = shared
        self.part = part
        self.asked = asked
        self.proof = proof

    def __call__(self, bounds: Bounds, rows: Index, leaves: int) -> Iterator[RowBounds]:
        """Bounds of all the rows; a lost task leaves its rows with the bounds that they have."""
        most = max(1, TASK_NODES // (4 * leaves))
        tasks = [
            {"what": "rows", "rows": rows[start : start + most], "leaves": leaves}
            for start in range(0, len(rows), most)
        ]
        label = {"by": f"branch:{leaves}", "layer": len(bounds.layers) - 1, "limit": 2 * leaves - 1}
        job = _Round(self.part, bounds.layers, self.asked, self.proof, label)
        for found in self.shared.carried_out(job, tasks):
            if not isinstance(found, LostTask):
                for some in found["found"]:
                    yield RowBounds(*some)
