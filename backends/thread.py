"""A solver call on its own thread, so that Ctrl-C, limits and callbacks are handled on the thread that called.

Solvers that release the interpreter lock run on a worker thread. The asking thread waits, runs the search's
callbacks when the worker asks for one, and receives Ctrl-C at once, which a thread inside a C library would not.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

GRACE = 0.7
"""Seconds that a solver gets to stop after Ctrl-C before its thread is abandoned."""

POLL = 0.1
"""Seconds between checks whether to stop."""

OVERRUN = 0.5
"""Seconds past its own time limit after which a solver is told to stop."""


class Stopped(BaseException):
    """Raised inside a solver's callback when the calling thread waits for it no more."""


@dataclass(frozen=True)
class _Call:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class _Done:
    value: Any = None
    error: BaseException | None = None


class SolverThread(Generic[T]):
    """Runs ``work`` on a worker thread; ``stop`` must make it return soon and may be called from any thread."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._inbox: SimpleQueue[_Call | _Done] = SimpleQueue()
        self._replies: SimpleQueue[_Done] = SimpleQueue()
        self._one_at_a_time = threading.Lock()
        self._cancelled = False
        self.error: BaseException | None = None
        self.overran = False
        self.abandoned = False

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """From the worker: the value of ``function(*arguments)`` run on the asking thread.

        Raises `Stopped` if that raised (the asking thread raises the error again) or nobody waits any more.
        """
        with self._one_at_a_time:
            if self._cancelled:
                raise Stopped
            self._inbox.put(_Call(function, arguments))
            reply = self._replies.get()
        if reply.error is not None:
            raise Stopped
        return reply.value

    def run(
        self, work: Callable[[], T], time_limit: float | None = None, stop_asked: Callable[[], bool] | None = None
    ) -> T:
        """The value of ``work()``, stopped when ``stop_asked`` says so; raises what it, a callback or Ctrl-C raised."""

        def target() -> None:
            try:
                done = _Done(work())
            except BaseException as error:
                done = _Done(error=error)
            self._inbox.put(done)

        worker = threading.Thread(target=target, name="stablenet-solver", daemon=True)
        deadline = None if time_limit is None else time.monotonic() + time_limit + OVERRUN
        worker.start()
        try:
            done = self._serve(deadline, stop_asked)
        except BaseException as error:
            # Ctrl-C, or the like. A solver's thread that does not stop is abandoned.
            self._cancel(error)
            self.abandoned = not self._settles(time.monotonic() + GRACE)
            raise
        worker.join()
        if self.error is not None:
            raise self.error
        if done.error is not None:
            raise done.error
        value: T = done.value
        return value

    def _serve(self, deadline: float | None, stop_asked: Callable[[], bool] | None) -> _Done:
        while True:
            wait = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if stop_asked is not None:
                wait = POLL if wait is None else min(wait, POLL)
            try:
                item = self._inbox.get(timeout=wait)
            except Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    self.overran, deadline = True, None
                    self._stop()
                elif stop_asked is not None and stop_asked():
                    stop_asked = None
                    self._stop()
                continue
            if isinstance(item, _Done):
                return item
            try:
                reply = _Done(item.function(*item.arguments))
            except KeyboardInterrupt:
                self._replies.put(_Done(error=Stopped()))
                raise
            except BaseException as error:
                self.error = error
                self._stop()
                reply = _Done(error=error)
            self._replies.put(reply)

    def _cancel(self, error: BaseException) -> None:
        self._cancelled = True
        self.error = error
        # A solver that fails to stop is abandoned: its failure must not hide the interrupt.
        with contextlib.suppress(Exception):
            self._stop()

    def _settles(self, deadline: float) -> bool:
        while True:
            try:
                item = self._inbox.get(timeout=max(deadline - time.monotonic(), 0.0))
            except Empty:
                return False
            if isinstance(item, _Done):
                return True
            self._replies.put(_Done(error=Stopped()))
