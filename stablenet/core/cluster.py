"""Workers of a Dask cluster: one that runs, by the address of its scheduler, or one made on this machine.

Dask hands a task to a worker that is free, starts it anew where its worker dies, up to its own limit
(``distributed.scheduler.allowed-failures``), and gives tasks to workers that join.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from stablenet.core.deadline import Deadline
from stablenet.core.errors import InputError, NotInstalledError

CONNECT_TIMEOUT = 20.0
"""Seconds to wait for the scheduler."""

POLL = 0.2
"""Seconds between looks at the clock while a task is waited for."""


def distributed() -> Any:
    """The package of that name; raises `NotInstalledError`."""
    try:
        return importlib.import_module("distributed")
    except ImportError:
        raise NotInstalledError("distributed is not installed; pip install 'stablenet[cluster]'") from None


def connect(address: str, timeout: float) -> Any:
    """A client of a scheduler; raises `InputError` where none answers at the address."""
    try:
        return distributed().Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"scheduler {address}: no answer ({' '.join(str(error).split())})") from None


def same(value: Any) -> Any:
    """What it is given. As a task, it puts a value on the cluster that can be made again if its worker dies."""
    return value


@dataclass(frozen=True)
class LostTask:
    """A task without a result: every worker that had it died, or it failed."""

    why: str


def _awaited(future: Any, deadline: Deadline) -> BaseException | None:
    """Wait for a future; how it failed. Raises `SearchStoppedError` at the deadline."""
    while True:
        deadline.check()
        try:
            error: BaseException | None = future.exception(timeout=POLL)
        except TimeoutError:
            continue
        return error


class Workers:
    """Carries out tasks on the workers of a cluster; ``close`` ends what was started for it.

    Args:
        client: a Dask client.
        cluster: the cluster to close with it, if it was made for these tasks.
    """

    def __init__(self, client: Any, cluster: Any = None) -> None:
        self.client = client
        self._cluster = cluster

    @classmethod
    def at(cls, address: str) -> Self:
        """The workers of the scheduler at an address."""
        return cls(connect(address, CONNECT_TIMEOUT))

    @classmethod
    def here(cls, count: int) -> Self:
        """So many worker processes on this machine, of one thread each."""
        cluster = distributed().LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=0,  # the engine's own limit holds for its children
            silence_logs=logging.CRITICAL,
        )
        return cls(distributed().Client(cluster, set_as_default=False), cluster)

    def put(self, name: str, value: Any) -> Any:
        """Put a value on the cluster, to be named among the ``common`` values of tasks; equal names, equal values."""
        return self.client.submit(same, value, key=name)

    def ordered(
        self,
        work: Callable[..., Mapping[str, Any]],
        tasks: Sequence[Mapping[str, Any]],
        common: Sequence[Any],
        deadline: Deadline,
    ) -> Iterator[Mapping[str, Any] | LostTask]:
        """Yield ``work(task, *common)`` for each task, in the order of the tasks, whoever is done first.

        Raises `SearchStoppedError` at the deadline; tasks that are under way then end at their own limits.
        """
        futures = [self.client.submit(work, task, *common, pure=False) for task in tasks]
        try:
            for future in futures:
                error = _awaited(future, deadline)
                yield LostTask(f"{type(error).__name__}: {error}") if error else future.result()
                future.release()
        finally:
            with contextlib.suppress(Exception):
                self.client.cancel([future for future in futures if not future.done()])

    def close(self) -> None:
        """End the connection, and the workers if they were started for it."""
        self.client.close()
        if self._cluster is not None:
            self._cluster.close()
