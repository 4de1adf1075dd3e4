"""A time limit that all steps of a run share."""

from __future__ import annotations

import time

from stablenet.core.errors import ExitCode, StablenetError


class SearchStoppedError(StablenetError):
    """A limit was met; what the ledger holds stands. ``reason`` is one of the report's stop reasons."""

    exit_code = ExitCode.STOPPED

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"stopped by {reason}")


class Deadline:
    """A moment, or none, on the monotonic clock."""

    def __init__(self, seconds: float | None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """Seconds left, None without a limit."""
        return None if self.end is None else max(0.0, self.end - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether it has passed."""
        return self.end is not None and time.monotonic() >= self.end

    def check(self) -> None:
        """Raise `SearchStoppedError` once it has passed."""
        if self.over:
            raise SearchStoppedError("time")
