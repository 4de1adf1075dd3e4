"""The live line of a search."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

from stablenet.core.terminal import console, plain

if TYPE_CHECKING:
    from stablenet.core.ledger import Ledger


class Progress:
    """A line on standard error that is updated in place; nothing where standard error is no terminal."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._status: Any = None
        self._next = 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._status = console(error=True).status("starting")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, ledger: Ledger) -> None:
        """Show how far the search is, at most ten times a second."""
        now = time.monotonic()
        if self._status is None or now < self._next:
            return
        self._next = now + 0.1
        total = 2 * ledger.n_neurons
        elapsed = time.time() - self._started
        stage = f"{ledger.log.stage}; " if ledger.log.stage else ""
        from rich.text import Text

        line = (
            f"{stage}{ledger.n_pending} questions pending of {total}, {len(ledger.points)} witnesses, "
            f"{len(ledger.log.solves)} solves, {elapsed:.0f} s"
        )
        self._status.update(Text(plain(line)))
