"""Local workers: one run per core, each pinned to its own."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from stablenet.compare.rows import Result
from stablenet.compare.run.execute import Job, WatchdogError, execute
from stablenet.compare.run.machine import describe_machine
from stablenet.core.errors import InputError, StablenetError
from stablenet.core.signals import Interrupts


class Executor(Protocol):
    """Carries out jobs, in any order; yields each one's name with its result, or why there is none."""

    def run(self, jobs: Sequence[tuple[str, Job]]) -> Iterator[tuple[str, Result | str]]:
        """Start the jobs in the order given; closing the iterator ends those under way."""
        ...


def core_slots(workers: int | None, threads: int) -> list[tuple[int, ...]]:
    """Sets of cores, one for each worker. Raises `InputError` where there are fewer cores than asked for."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    most = len(cores) // threads
    if most < 1:
        raise InputError(f"threads {threads}; this process may use {len(cores)} cores, and a run gets its own")
    if workers is not None and not 1 <= workers <= most:
        raise InputError(
            f"workers {workers}; from 1 to {most} fit on {len(cores)} cores with {threads} for each run, "
            "and runs that share a core cannot be compared"
        )
    count = most if workers is None else workers
    return [tuple(cores[i * threads : (i + 1) * threads]) for i in range(count)]


class LocalWorkers:
    """Threads that each run one job at a time on their own cores."""

    def __init__(self, slots: Sequence[tuple[int, ...]]) -> None:
        self.slots = slots
        self.machine = describe_machine()

    def run(self, jobs: Sequence[tuple[str, Job]]) -> Iterator[tuple[str, Result | str]]:
        """See `Executor`."""
        waiting: queue.SimpleQueue[tuple[str, Job]] = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)
        finished: queue.SimpleQueue[tuple[str, Result | str] | BaseException] = queue.SimpleQueue()
        stop = threading.Event()
        watchdogs: list[subprocess.Popen[bytes] | None] = [None] * len(self.slots)
        threads = [
            threading.Thread(target=self._work, args=(i, waiting, finished, stop, watchdogs), daemon=True)
            for i in range(len(self.slots))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in jobs:
                item = finished.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            with Interrupts():  # a second Ctrl-C leaves no run and no folder behind
                stop.set()
                for watchdog in watchdogs:
                    if watchdog is not None and watchdog.poll() is None:
                        watchdog.terminate()
                for thread in threads:
                    thread.join(timeout=10.0)

    def _work(
        self,
        slot: int,
        waiting: queue.SimpleQueue[tuple[str, Job]],
        finished: queue.SimpleQueue[tuple[str, Result | str] | BaseException],
        stop: threading.Event,
        watchdogs: list[subprocess.Popen[bytes] | None],
    ) -> None:
        def started(watchdog: subprocess.Popen[bytes]) -> None:
            watchdogs[slot] = watchdog
            if stop.is_set():
                watchdog.terminate()

        while not stop.is_set():
            try:
                name, job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                result = execute(replace(job, cores=self.slots[slot]), started=started)
                finished.put((name, replace(result, host=self.machine)))
            except WatchdogError as error:
                finished.put((name, str(error)))
            except (StablenetError, OSError) as error:
                finished.put(error)
                return


def serve(executor: Executor, jobs: Sequence[tuple[str, Job]]) -> Iterator[tuple[str, Result | str]]:
    """`Executor.run`, with its iterator closed when the loop over this one ends early."""
    if jobs:
        with contextlib.closing(executor.run(jobs)) as results:  # type: ignore[type-var]
            yield from results
