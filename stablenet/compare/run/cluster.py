"""Workers of a Dask cluster, by the address of its scheduler.

Workers need this package, the solvers and Linux; the files that a run reads are sent with it. Where a worker dies, its
runs die too; Dask starts them again on another one, up to its own limit (``distributed.scheduler.allowed-failures``),
after which the row says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stablenet.compare.rows import Result
from stablenet.compare.run.execute import Job, execute
from stablenet.compare.run.machine import describe_machine
from stablenet.core.errors import InputError, NotInstalledError
from stablenet.find.prepare import beside

CONNECT_TIMEOUT = 20.0
"""Seconds to wait for the scheduler."""


class Cluster:
    """Carries out jobs on a Dask cluster. Raises `InputError` where no scheduler answers at the address."""

    def __init__(self, address: str) -> None:
        self.dask = _distributed()
        try:
            self.client = self.dask.Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(f"scheduler {address}: no answer ({' '.join(str(error).split())})") from None

    def run(self, jobs: Sequence[tuple[str, Job]]) -> Iterator[tuple[str, Result | str]]:
        """See `Executor`. When it is closed early, runs under way on workers end at their own limits."""
        blobs: dict[Path, Any] = {}
        names: dict[str, str] = {}
        futures = []
        for name, job in jobs:
            files = {
                token: [(str(file.relative_to(path.parent)), self._blob(file, blobs)) for file in (path, *beside(path))]
                for token, path in job.files.items()
            }
            future = self.client.submit(
                run_remotely, job.arguments, files, job.wall, job.memory, job.threads, pure=False
            )
            names[future.key] = name
            futures.append(future)
        try:
            for future in self.dask.as_completed(futures, loop=self.client.loop):
                error = future.exception()
                yield names[future.key], f"{type(error).__name__}: {error}" if error else Result(**future.result())
                future.release()
        finally:
            with contextlib.suppress(Exception):
                self.client.cancel([future for future in futures if not future.done()])

    def _blob(self, path: Path, blobs: dict[Path, Any]) -> Any:
        """A file's contents as a task, so that the scheduler can make them again wherever they are needed."""
        if path not in blobs:
            content = path.read_bytes()
            key = f"file-{hashlib.sha256(content).hexdigest()}"
            blobs[path] = self.client.submit(_contents, content, key=key)
        return blobs[path]


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError:
        raise NotInstalledError("distributed is not installed; pip install 'stablenet[cluster]'") from None


def _contents(content: bytes) -> bytes:
    return content


def run_remotely(
    arguments: list[str],
    files: dict[str, list[tuple[str, bytes]]],
    wall: float,
    memory: float | None,
    threads: int,
) -> dict[str, Any]:
    """On a worker: carry out a job; returns a `Result` as plain values.

    ``files`` are, by the word that stands for a file in the arguments, its name and content, then those of the files
    that it needs in its folder.
    """
    with tempfile.TemporaryDirectory(prefix="stablenet-") as folder, free_cores(threads) as cores:
        paths = {}
        for i, (token, contents) in enumerate(files.items()):
            own = Path(folder) / str(i)
            for name, content in contents:
                (own / name).parent.mkdir(parents=True, exist_ok=True)
                (own / name).write_bytes(content)
            paths[token] = own / contents[0][0]
        result = execute(Job(arguments, paths, wall, memory, threads, cores))
    return {**asdict(result), "host": describe_machine()}


@contextmanager
def free_cores(count: int) -> Iterator[tuple[int, ...]]:
    """Cores that no other run on this machine is pinned to; none (unpinned) where there are not that many.

    Held by locks on files, which end with the process that holds them.
    """
    held: list[int] = []
    with ExitStack() as stack:
        for core in sorted(os.sched_getaffinity(0)):
            if len(held) == count:
                break
            path = Path(tempfile.gettempdir()) / f"stablenet-{os.getuid()}-core-{core}.lock"
            file = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            held.append(core)
        yield tuple(held) if len(held) == count else ()
