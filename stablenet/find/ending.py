"""How a run ended: what stopped it, its exit code and its message, the same for every entry point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from stablenet.core.errors import ContradictionError, ExitCode, SolverError
from stablenet.core.ledger import Ledger
from stablenet.report.report import Report, build_report

ENGINE_PROCESS = "the engine process"
"""How a message begins that tells how an engine process died."""


@dataclass(frozen=True)
class Ending:
    """What stopped a run.

    ``stopped_by`` is one of the report's stop reasons, None if the run ended by itself; ``message`` says more.
    ``contradiction`` says that a witness disproved a refutation outside of the ledger, which records others itself.
    """

    stopped_by: str | None = None
    message: str | None = None
    contradiction: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """The ending of a run by an error that leaves what was found valid; any other error is raised again."""
        if isinstance(error, KeyboardInterrupt):
            return cls("interrupt")
        if isinstance(error, MemoryError):
            return cls("memory")
        if isinstance(error, SolverError | ContradictionError):
            return cls("solver", str(error), isinstance(error, ContradictionError))
        raise error

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Self:
        """The inverse of `to_event`."""
        return cls(event["stopped_by"], event.get("message"), bool(event.get("contradiction")))

    def to_event(self) -> dict[str, Any]:
        """The closing event of an engine process."""
        event: dict[str, Any] = {"event": "done", "stopped_by": self.stopped_by}
        if self.message is not None:
            event["message"] = self.message
        if self.contradiction:
            event["contradiction"] = True
        return event


@dataclass(frozen=True)
class Finished:
    """A run that has ended: its report, the exit code that the command line returns for it, and a message."""

    report: Report
    exit_code: int
    message: str | None = None

    @property
    def contradicted(self) -> bool:
        """Whether a witness disproved a refutation."""
        return self.exit_code == ExitCode.CONTRADICTION

    def raise_contradiction(self) -> None:
        """Raise `ContradictionError`, with the report, if a witness disproved a refutation."""
        if self.contradicted:
            raise ContradictionError(self.message or "a witness disproves a refutation", self.report)


def finish(
    ledger: Ledger,
    ending: Ending,
    *,
    network: dict[str, Any],
    domain: dict[str, Any],
    options: dict[str, Any],
    seconds: float,
) -> Finished:
    """Report, exit code and message of a run that has ended.

    Args:
        ledger: what was found.
        ending: what stopped the run.
        network: the report's description of the network.
        domain: that of the domain.
        options: the run's options as plain values.
        seconds: what the run took in all.

    Returns:
        All that an entry point hands on.
    """
    report = build_report(
        ledger, network=network, domain=domain, config=options, stopped_by=ending.stopped_by, total_seconds=seconds
    )
    if not (ledger.contradictions or ending.contradiction):
        return Finished(report, ExitCode.DONE if report.complete else ExitCode.STOPPED, ending.message)
    words = [*(str(found) for found in ledger.contradictions), *([ending.message] if ending.message else [])]
    return Finished(report, ExitCode.CONTRADICTION, "; ".join(words))
