"""Running a sweep: frozen sets first, then every row that the store does not have."""

from __future__ import annotations

import fcntl
import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from stablenet.compare.plan import (
    FROZEN,
    REPORT,
    Plan,
    Run,
    fill,
    find_arguments,
    frozen_arguments,
    frozen_key,
    input_files,
    shown,
)
from stablenet.compare.rows import lost_row, make_row
from stablenet.compare.run.execute import Job, frozen_report
from stablenet.compare.run.machine import describe_machine
from stablenet.compare.run.workers import Executor, serve
from stablenet.compare.store import FILE, Store
from stablenet.core.errors import InputError
from stablenet.core.files import OutputError, make_folder, write_text
from stablenet.report.report import dumps, package_versions

LOCK = ".lock"
"""The file that a process at work on a sweep keeps locked."""

Note = Callable[[dict[str, Any], int, int], None]
"""Called with each row as it comes, how many of this call are done, and how many there are."""


@dataclass(frozen=True)
class Sweep:
    """The result of a call of `sweep`: rows made by it, rows that were there before, frozen sets that failed."""

    made: int
    kept: int
    failed_frozen: tuple[str, ...]


def sweep(
    plan: Plan, folder: Path, executor: Executor, *, resume: bool = False, retry: Iterable[str] = (), note: Note
) -> Sweep:
    """Run all rows of a plan that the store in ``folder`` does not have yet.

    With ``resume`` a sweep may be there already; rows whose outcome is in ``retry`` are run again. Raises
    `InputError` where one is there and ``resume`` is not given, or another process is working on it.
    """
    _make_folder(folder, resume=resume)
    with _lock(folder), Store(folder, create=True) as store:
        _describe(store, plan)
        if retry:
            wanted = set(retry)
            store.remove(row["key"] for row in store.rows() if row["outcome"] in wanted)
        done = store.done()
        todo = [run for run in plan.runs if run.key not in done]
        machine = describe_machine()
        failed = _freeze(store, plan, todo, executor, retry=bool(retry))
        made = 0
        for row in _carry_out(store, plan, todo, executor, machine):
            made += 1
            note(row, made, len(todo))
        return Sweep(made, len(plan.runs) - len(todo), failed)


def remaining(plan: Plan, folder: Path) -> tuple[int, float | None]:
    """Rows that are still to be run, and the mean wall time of those there are (None without any)."""
    if not (folder / FILE).is_file():
        return len(plan.runs), None
    with Store(folder) as store:
        done = store.done()
        walls = [row["wall_s"] for row in store.rows(all_rows=True) if row["wall_s"] is not None]
    return sum(run.key not in done for run in plan.runs), sum(walls) / len(walls) if walls else None


def _make_folder(folder: Path, *, resume: bool) -> None:
    if (folder / FILE).is_file():
        if not resume:
            raise InputError(f"{folder}: a sweep is here already; --resume goes on with it")
        return
    make_folder(folder)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep a second process from working on the same sweep; the lock ends with this process, however it ends."""
    with _open_lock(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another process is working on this sweep") from None
        yield


def _open_lock(path: Path) -> IO[str]:
    try:
        return path.open("a")  # nothing is written to it
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None


def _describe(store: Store, plan: Plan) -> None:
    grid = plan.grid
    store.set_meta("name", grid.name)
    store.set_meta("grid", grid.text)
    store.set_meta("grid_file", str(shown(grid.path.resolve())))
    store.set_meta("updated", datetime.now(UTC).isoformat(timespec="seconds"))
    store.set_meta("versions", json.dumps(package_versions()))
    store.set_meta("unsupported", json.dumps([vars(item) for item in plan.unsupported]))
    instances = [
        {
            "name": loaded.instance.name,
            "network": str(shown(loaded.instance.network)),
            "sha256": loaded.network_sha256,
            "domain": loaded.instance.domain,
            "neurons": loaded.n_neurons,
            "inputs": loaded.n_inputs,
            "frozen": frozen_key(loaded, grid.frozen),
        }
        for loaded in plan.instances.values()
    ]
    store.set_meta("instances", json.dumps(instances))
    store.set_plan(run.key for run in plan.runs)


def frozen_path(folder: Path, key: str) -> Path:
    """The file of a frozen set, for `--resume`."""
    return folder / "frozen" / f"{key}.json"


def command_line(arguments: list[str], files: dict[str, Path]) -> str:
    """A command that repeats a run from the current folder."""
    paths = {token: shown(path) for token, path in files.items()} | {REPORT: Path("report.json")}
    return shlex.join(["stablenet", *fill(arguments, paths)])


def _freeze(store: Store, plan: Plan, todo: list[Run], executor: Executor, *, retry: bool) -> tuple[str, ...]:
    """Make the frozen sets that are missing; returns the names of instances where that failed."""
    known = store.frozen()
    jobs: list[tuple[str, Job]] = []
    commands: dict[str, tuple[str, str]] = {}
    for name in dict.fromkeys(run.instance.name for run in todo if run.frozen is not None):
        loaded, spec = plan.instances[name], plan.grid.frozen
        key = frozen_key(loaded, spec)
        if key in commands or (key in known and not (retry and known[key])):
            continue
        arguments = frozen_arguments(loaded.instance, spec, plan.grid.threads)
        files = input_files(loaded.instance)
        commands[key] = (name, command_line(arguments, files))
        jobs.append(
            (key, Job(arguments, files, spec.time_limit + plan.grid.grace, plan.grid.memory_limit, plan.grid.threads))
        )
    for key, result in serve(executor, jobs):
        name, command = commands[key]
        report, reason = (None, result) if isinstance(result, str) else frozen_report(result)
        store.add_frozen(key, name, report, reason, command)
    make_folder(store.folder / "frozen")
    for key, reason in store.frozen().items():
        if not reason and not frozen_path(store.folder, key).is_file():
            write_text(frozen_path(store.folder, key), dumps(store.frozen_report(key)))
    bad = {key for key, reason in store.frozen().items() if reason}
    names = {name: frozen_key(loaded, plan.grid.frozen) for name, loaded in plan.instances.items()}
    return tuple(name for name, key in names.items() if key in bad)


def _carry_out(
    store: Store, plan: Plan, todo: list[Run], executor: Executor, machine: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Run rows and commit each as it comes."""
    grid = plan.grid
    known = store.frozen()
    runs = {run.key: run for run in todo}
    frozen_keys = {
        run.key: frozen_key(plan.instances[run.instance.name], run.frozen) for run in todo if run.frozen is not None
    }
    jobs: list[tuple[str, Job]] = []
    commands: dict[str, str] = {}
    for run in todo:
        files = input_files(run.instance)
        frozen = frozen_keys.get(run.key)
        if frozen is not None:
            files[FROZEN] = frozen_path(store.folder, frozen)
        arguments = find_arguments(run)
        commands[run.key] = command_line(arguments, files)
        if frozen is not None and known.get(frozen):
            row = lost_row(run, f"no frozen set: {known[frozen]}", command=commands[run.key], machine=machine)
            store.add(row)
            yield row
            continue
        jobs.append((run.key, Job(arguments, files, grid.time_limit + grid.grace, grid.memory_limit, grid.threads)))
    for key, result in serve(executor, jobs):
        run, frozen = runs[key], frozen_keys.get(key)
        if isinstance(result, str):
            row = lost_row(run, result, command=commands[key], machine=machine)
            store.add(row)
        else:
            start = None if frozen is None else store.frozen_report(frozen)
            row = make_row(run, result, command=commands[key], frozen=start, machine=result.host or machine)
            store.add(row, result.report, frozen)
        yield row
