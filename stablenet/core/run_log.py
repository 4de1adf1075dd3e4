"""The log of a run: what time was spent on, each solve and what went wrong with it, and the curve of progress.

Nothing here bears on a verdict. A `stablenet.core.ledger.Ledger` has one; its changes are events of the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stablenet.core.events import Event

PROGRESS = 0.2
"""Least seconds between two reports of progress of a stage."""


class RunLog:
    """Timing, stages, solves and solver failures of a run, and the curve of pending questions over time.

    ``send`` records an event: it adds the time and has one of ``handlers`` apply it. Times are seconds since
    ``started``; ``curve`` holds pairs of a time and the number of questions still pending then.
    """

    def __init__(self, send: Callable[[Event], None]) -> None:
        self.solves: list[dict[str, Any]] = []
        self.tightening: list[dict[str, Any]] = []
        self.solver_failures: list[dict[str, Any]] = []
        self.tolerances: list[dict[str, Any]] = []
        self.solver_options: list[dict[str, Any]] = []
        self.stage = ""
        self.under_way: tuple[str, float] | None = None
        self.seconds: dict[str, float] = {}
        self.curve: list[tuple[float, int]] = []
        self.started = time.monotonic()
        self.handlers: Mapping[str, Callable[[Event], None]] = {
            "solve": self._on_solve,
            "tightening": self._on_tightening,
            "solver_failure": self._on_solver_failure,
            "tolerances": self._on_tolerances,
            "solver_options": self._on_solver_options,
            "progress": self._on_progress,
            "begin": self._on_begin,
            "seconds": self._on_seconds,
        }
        self._send = send
        self._shown = float("-inf")

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def add_solve(self, row: Mapping[str, Any]) -> None:
        """Record one MILP solve."""
        self._send({"event": "solve", "row": dict(row)})

    def add_tightening(self, row: Mapping[str, Any]) -> None:
        """Record what tightening the bounds of one layer cost."""
        self._send({"event": "tightening", "row": dict(row)})

    def add_solver_failure(self, row: Mapping[str, Any]) -> None:
        """Record an answer of a solver that is not used; see `stablenet.backends.own_points.SolverFailure`."""
        self._send({"event": "solver_failure", "row": dict(row)})

    def set_tolerances(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record the tolerances and margin that each solver is given."""
        self._send({"event": "tolerances", "rows": [dict(row) for row in rows]})

    def set_solver_options(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record every option of a solver that differs from its default: solver, option, value, default."""
        self._send({"event": "solver_options", "rows": [dict(row) for row in rows]})

    def progress(self, stage: str, done: int, total: int) -> None:
        """Report how far a stage is; ``stage`` then says it. Calls within `PROGRESS` seconds of the last report are
        ignored.
        """
        now = time.monotonic()
        if done == total or now >= self._shown + PROGRESS:
            self._shown = now
            self._send({"event": "progress", "stage": f"{stage}: {done} of {total}"})

    def begin(self, what: str) -> None:
        """Record that time is spent on something from now on, until `add_seconds`."""
        self._send({"event": "begin", "what": what})

    def add_seconds(self, what: str, seconds: float) -> None:
        """Add to the time spent on something."""
        self._send({"event": "seconds", "what": what, "seconds": seconds})

    def cut_off(self) -> None:
        """Count the time of a step that had begun when the run was cut off."""
        if self.under_way is not None:
            what, since = self.under_way
            self.add_seconds(what, max(0.0, self.elapsed - since))

    def mark(self, seconds: float, n_pending: int) -> None:
        """Extend the curve by the number of pending questions at a time."""
        # What was revoked was never closed: the curve only falls.
        while self.curve and self.curve[-1][1] < n_pending:
            self.curve.pop()
        if self.curve and self.curve[-1][1] == n_pending:
            return
        if self.curve and seconds < self.curve[-1][0]:
            seconds = self.curve[-1][0]
        self.curve.append((seconds, n_pending))

    def _on_solve(self, event: Event) -> None:
        self.solves.append(event["row"])

    def _on_tightening(self, event: Event) -> None:
        self.tightening.append(event["row"])

    def _on_solver_failure(self, event: Event) -> None:
        self.solver_failures.append(event["row"])

    def _on_tolerances(self, event: Event) -> None:
        self.tolerances = event["rows"]

    def _on_solver_options(self, event: Event) -> None:
        self.solver_options = event["rows"]

    def _on_progress(self, event: Event) -> None:
        self.stage = event["stage"]

    def _on_begin(self, event: Event) -> None:
        self.under_way = (event["what"], float(event["t"]))

    def _on_seconds(self, event: Event) -> None:
        self.stage = ""
        self.under_way = None
        self.seconds[event["what"]] = self.seconds.get(event["what"], 0.0) + event["seconds"]
