"""Every error that the package raises on purpose, under one root.

``exit_code`` is what the command line returns for it, see `ExitCode`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the command line returns."""

    DONE = 0
    BUG = 1
    INPUT = 2
    """Something that the user can mend: input, usage, a missing extra. Nothing was written."""
    STOPPED = 3
    """The work stopped early; what was found is written."""
    CONTRADICTION = 4
    """A witness disproves a refutation, or, of `verify`, an input disproves that two networks agree."""


class StablenetError(Exception):
    """Root of all deliberate errors."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG


class InputError(StablenetError, ValueError):
    """Wrong input or usage. The message is one line that says what is wrong, where, and what is expected."""

    exit_code = ExitCode.INPUT


class NetworkError(InputError):
    """A network file that cannot be read or is not a feed-forward piecewise-linear network."""


class UnsupportedOperatorError(NetworkError):
    """A network with an operator, or a use of one, that has no exact piecewise-linear form here."""


class TooLargeError(NetworkError):
    """A network whose import would need more memory or time than the reader allows."""


class DomainError(InputError):
    """A domain that is empty, unbounded, of the wrong length, or written wrongly."""


class ReportError(InputError):
    """A report that cannot be read, or does not belong to the network and domain at hand."""


class UnknownNameError(InputError, LookupError):
    """A name that is not in the registry. The message lists the names that exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str], broken: Iterable[str] = ()) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        words = ", ".join(sorted(set(broken)))
        more = f"; broken: {words}" if words else ""
        super().__init__(f"unknown {kind} {name!r}; there are: {', '.join(self.known)}{more}")


class UnsupportedError(InputError):
    """A combination whose parts exist but cannot work together; the message names the missing feature."""


class NotInstalledError(StablenetError, ImportError):
    """An optional package is missing; the message names the extra that brings it."""

    exit_code = ExitCode.INPUT


class LicenseError(StablenetError, RuntimeError):
    """A solver is installed but its licence does not allow this model."""

    exit_code = ExitCode.INPUT


class SolverError(StablenetError, RuntimeError):
    """A solver failed, did not take the model, or gave an answer that cannot be used."""

    exit_code = ExitCode.STOPPED


class ContradictionError(StablenetError, RuntimeError):
    """A witness and a refutation of the same question: one of the two is wrong.

    ``report`` is the report of the run that found it, where there is one.
    """

    exit_code = ExitCode.CONTRADICTION

    def __init__(self, message: str, report: object = None) -> None:
        self.report = report
        super().__init__(message)
