"""Every error that the package raises on purpose, under one root.

``exit_code`` is what the command line returns for it: 2 for anything that the user can mend
(input, usage, a missing extra), 3 where the work stopped early, 4 for a contradiction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class StablenetError(Exception):
    """Root of all deliberate errors."""

    exit_code: ClassVar[int] = 1


class InputError(StablenetError, ValueError):
    """Something that was handed in is wrong; the message is one line: what, where, what would be right."""

    exit_code = 2


class NetworkError(InputError):
    """A network file that cannot be read or is not a feed-forward piecewise-linear network."""


class UnsupportedOperatorError(NetworkError):
    """A network with an operator, or a use of one, that has no exact piecewise-linear form here."""


class TooLargeError(NetworkError):
    """A network whose import would need more memory or time than any use of it could justify."""


class DomainError(InputError):
    """A domain that is empty, unbounded, of the wrong length, or written wrongly."""


class ReportError(InputError):
    """A report that cannot be read, or does not belong to the network and domain at hand."""


class UnknownNameError(InputError, LookupError):
    """A name that no registry entry answers to. The message lists those that exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(f"unknown {kind} {name!r}; there are: {', '.join(self.known)}")


class UnsupportedError(InputError):
    """A combination whose parts exist but cannot work together; the message names the missing feature."""


class NotInstalledError(StablenetError, ImportError):
    """An optional package is missing; the message names the extra that brings it."""

    exit_code = 2


class LicenseError(StablenetError, RuntimeError):
    """A solver is installed but its licence does not allow this model."""

    exit_code = 2


class SolverError(StablenetError, RuntimeError):
    """A solver failed, refused the model, or answered in a way that proves nothing."""

    exit_code = 3


class ContradictionError(StablenetError, RuntimeError):
    """A witness and a refutation of the same question: something lied.

    ``report`` is the report of the run that found it, where there is one.
    """

    exit_code = 4

    def __init__(self, message: str, report: object = None) -> None:
        self.report = report
        super().__init__(message)
