"""Ctrl-C, termination and hang-up: three signals with one meaning: end the run and keep what was found.

`install` makes each of them raise `Interrupted` in the main thread. Inside an `Interrupts` block they are only noted,
so that what is going on there is finished. `end_at_once` is for the moments before and after all work.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import sys
import threading
import time
from typing import Any, Self

from stablenet.core.errors import ExitCode

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP

REPEAT = 1.0
"""Seconds after which a further signal interrupts again; before, it would disturb the cleaning up after the first."""


IMPORTING = 30.0
"""An import that fails within so many seconds of a signal failed because of it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, termination or hang-up came."""


def is_interrupt(error: BaseException) -> bool:
    """Whether an error comes from a signal, rather than from code that raises ``KeyboardInterrupt`` itself.

    A compiled module that is being imported makes an ``ImportError`` of it, which is told by the time of the signal.
    """
    if isinstance(error, ImportError):
        return time.monotonic() - _raise.last < IMPORTING
    if not isinstance(error, KeyboardInterrupt):
        return False
    return isinstance(error, Interrupted) or signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _handle(handler: Any) -> list[Any]:
    """Set the handler of all three; returns those before. A hang-up that is ignored (``nohup``) stays so."""
    if threading.current_thread() is not threading.main_thread():
        return []  # only the main thread may set handlers, and only it receives the exception
    return [
        signal.signal(number, handler)
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
        else signal.SIG_IGN
        for number in ENDING
    ]


class _Raise:
    """Raises `Interrupted`; not again within `REPEAT` seconds, so that the cleaning up after the first can finish."""

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, number: int, frame: object) -> None:
        del number, frame
        now = time.monotonic()
        if now - self.last >= REPEAT:
            self.last = now
            raise Interrupted


_raise = _Raise()


def install() -> None:
    """From now on all three raise `Interrupted` in the main thread."""
    _handle(_raise)


def end_at_once(message: str, code: int = ExitCode.STOPPED, grace: float = 0.0) -> None:
    """From now on all three end the process with one line and ``code``; within ``grace`` seconds they do nothing.

    For moments at which there are no results to keep and no files to remove.
    """
    since = time.monotonic()

    def end(number: int, frame: object) -> None:
        del number, frame
        if time.monotonic() - since < grace:
            return
        if message and sys.stderr is not None:
            os.write(2, f"stablenet: {message}\n".encode())
        os._exit(code)

    _handle(end)


def ignore_at_exit() -> None:
    """Ignore all three once the interpreter has begun to exit.

    It then restores the default of every handler that is a Python function, so that a signal would change the exit code
    after all work was done. Signals that are ignored stay ignored.
    """
    atexit.register(_handle, signal.SIG_IGN)


class Interrupts:
    """Context in which the three are noted in ``seen`` and do not break into what is going on.

    Inside another such context, signals that came within the outer one are noted too.
    """

    _depth = 0
    _noted = False

    def __init__(self) -> None:
        self._previous: list[Any] = []

    @property
    def seen(self) -> bool:
        """Whether one came since the outermost context was entered."""
        return Interrupts._noted

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            if Interrupts._depth == 0:
                Interrupts._noted = False
            self._previous = _handle(self._note)
            Interrupts._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous:
            Interrupts._depth -= 1
            if Interrupts._depth == 0:
                Interrupts._noted = False
            for number, handler in zip(ENDING, self._previous, strict=True):
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @staticmethod
    def _note(number: int, frame: object) -> None:
        del number, frame
        Interrupts._noted = True
