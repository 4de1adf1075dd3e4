"""From a grid to its runs: names looked up, files read, combinations checked, each run with its key."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from stablenet.compare.grid import (
    NO_OPTIONS,
    FrozenSpec,
    Grid,
    GridError,
    Instance,
    RunProduct,
    StepSetting,
    split_domain,
)
from stablenet.core.errors import StablenetError
from stablenet.core.options import Options
from stablenet.find.choices import LOOK_UP, check_installed, check_solver_options, check_together, solvers_of

MOST_RUNS = 200_000
"""Most runs that a grid may stand for."""

NONE = "-"
"""The value of an axis that a run does not use: a search without a solver has no formulation."""


@dataclass(frozen=True)
class LoadedInstance:
    """An instance whose files were read: digests of network, domain and samples."""

    instance: Instance
    network_sha256: str
    domain_digest: str
    samples_sha256: str | None
    n_neurons: int
    n_inputs: int


@dataclass(frozen=True)
class Run:
    """One row of the sweep: a value on each axis, and the `find` that it stands for.

    ``key`` is a digest of all that the result may depend on: contents of the files, options, limits.
    """

    instance: Instance
    formulation: str
    bounds: str
    search: str
    solver: str
    step: StepSetting
    solver_options: str
    seed: int
    frozen: FrozenSpec | None
    options: Options
    memory_limit: float | None
    key: str

    @cached_property
    def axes(self) -> dict[str, str]:
        """The values that tell methods apart."""
        return {
            "formulation": self.formulation,
            "bounds": self.bounds,
            "search": self.search,
            "solver": self.solver,
            "step": self.step.name,
            "solver_options": self.solver_options,
        }


@dataclass(frozen=True)
class Unsupported:
    """A combination that is left out, and why."""

    formulation: str
    solver: str
    step: str
    reason: str
    runs: int


@dataclass(frozen=True)
class Plan:
    """All runs of a grid, in the order in which they are started, and what is left out."""

    grid: Grid
    runs: tuple[Run, ...]
    unsupported: tuple[Unsupported, ...]
    instances: dict[str, LoadedInstance] = field(default_factory=dict)


def plan(grid: Grid) -> Plan:
    """Look up all names, read all instances, expand the blocks.

    Raises `GridError` that lists every unknown name, unreadable file, wrong argument and solver that is not
    installed. Combinations whose parts exist and cannot work together are left out, each with its reason. The runs are
    in an order shuffled by their keys, so that a drift in the machine's load favours no method.
    """
    problems: list[str] = []
    loaded = _load_instances(grid, problems)
    names = {axis: _names(grid, axis, problems) for axis in ("formulation", "bounds", "search", "solver")}
    _check_steps(grid, problems)
    _check_solver_options(grid, problems)
    _check_frozen(grid, problems)
    count = sum(_count(block) for block in grid.blocks)
    if count > MOST_RUNS:
        problems.append(f"it stands for {count:,} runs; at most {MOST_RUNS:,} are supported")
    if problems:
        raise GridError(grid.path, problems)
    runs: dict[str, Run] = {}
    left_out: dict[tuple[str, str, str, str], list[int]] = {}
    for block in grid.blocks:
        for values in _product(block):
            reason = _unsupported(grid, names, values)
            if reason is not None:
                entry = (values["formulation"], values["solver"], values["step"], reason)
                left_out.setdefault(entry, []).append(1)
                continue
            for name, seed in itertools.product(block.instances, block.seeds):
                run = _run(grid, loaded[name], values, seed, uses_solver=names["search"][values["search"]].needs_solver)
                runs.setdefault(run.key, run)
    if not runs:
        reasons = "; ".join(dict.fromkeys(entry[3] for entry in left_out))
        raise GridError(grid.path, [f"no combination is supported: {reasons}"])
    unsupported = tuple(Unsupported(*entry, runs=len(times)) for entry, times in left_out.items())
    return Plan(grid, tuple(sorted(runs.values(), key=lambda run: run.key)), unsupported, loaded)


def _load_instances(grid: Grid, problems: list[str]) -> dict[str, LoadedInstance]:
    from stablenet.find.prepare import read_inputs

    loaded: dict[str, LoadedInstance] = {}
    for instance in grid.instances:
        try:
            given = read_inputs(str(instance.network), instance.domain, instance.samples)
            samples = None
            if instance.samples is not None:
                samples = hashlib.sha256(instance.samples.read_bytes()).hexdigest()
        except StablenetError as error:
            problems.append(f"instance {instance.name!r}: {error}")
            continue
        network, domain = given.network, given.domain
        found = LoadedInstance(instance, network.sha256, domain.digest, samples, network.n_neurons, network.n_inputs)
        twin = next((name for name, other in loaded.items() if _content(other) == _content(found)), None)
        if twin is not None:
            problems.append(f"instance {instance.name!r}: the same network, domain and samples as instance {twin!r}")
        loaded[instance.name] = found
    return loaded


def _content(loaded: LoadedInstance) -> tuple[str, str, str | None]:
    return loaded.network_sha256, loaded.domain_digest, loaded.samples_sha256


def _names(grid: Grid, axis: str, problems: list[str]) -> dict[str, Any]:
    """The registry entries that the blocks name on an axis."""
    found: dict[str, Any] = {}
    for spec in dict.fromkeys(spec for block in grid.blocks for spec in getattr(block, axis)):
        try:
            found[spec] = LOOK_UP[axis](spec)
            if axis == "solver":
                check_installed(found[spec])
        except StablenetError as error:
            problems.append(str(error))
    return found


def _check_steps(grid: Grid, problems: list[str]) -> None:
    used = {name for block in grid.blocks for name in block.steps}
    meant: dict[Any, str] = {}
    for step in grid.steps.values():
        try:
            options = Options(**step.options)
            for second in solvers_of(options)[1:]:
                check_installed(second)
        except StablenetError as error:
            problems.append(f"steps.{step.name}: {error}")
            continue
        twin = (
            meant.setdefault((step.frozen, step.uses_samples, options), step.name) if step.name in used else step.name
        )
        if twin != step.name:
            problems.append(f"steps.{step.name}: the same as the step {twin!r}; one run cannot stand under both names")


def _check_frozen(grid: Grid, problems: list[str]) -> None:
    try:
        LOOK_UP["bounds"](grid.frozen.bounds)
        Options(seed=grid.frozen.seed)
    except StablenetError as error:
        problems.append(f"frozen: {error}")


def _count(block: RunProduct) -> int:
    """How many runs a block stands for."""
    axes = (
        block.formulation, block.bounds, block.search, block.solver, block.steps, block.solver_options,
        block.instances, block.seeds,
    )  # fmt: skip
    return prod(len(values) for values in axes)


def _product(block: RunProduct) -> Iterator[dict[str, str]]:
    axes = ("formulation", "bounds", "search", "solver", "step", "solver_options")
    values = (block.formulation, block.bounds, block.search, block.solver, block.steps, block.solver_options)
    for combination in itertools.product(*values):
        yield dict(zip(axes, combination, strict=True))


def _check_solver_options(grid: Grid, problems: list[str]) -> None:
    """Every option of every named set, also of sets that no block uses."""
    for name, solvers in grid.solver_options.items():
        for solver, texts in solvers.items():
            try:
                check_solver_options(solver, texts)
            except StablenetError as error:
                problems.append(f"solver_options.{name}: {error}")


def _unsupported(grid: Grid, names: dict[str, dict[str, Any]], values: dict[str, str]) -> str | None:
    """Why a combination cannot work, None if it can."""
    step = grid.steps[values["step"]]
    if not names["search"][values["search"]].needs_solver:
        return None
    chosen = values["solver_options"]
    if chosen != NO_OPTIONS and not grid.solver_options[chosen].get(values["solver"]):
        return f"solver_options {chosen!r} says nothing for solver {values['solver']!r}"
    options = Options(**{"formulation": values["formulation"], "solver": values["solver"], **step.options})
    try:
        check_together(names["formulation"][values["formulation"]], options)
    except StablenetError as error:
        return str(error)
    return None


def _run(grid: Grid, loaded: LoadedInstance, values: dict[str, str], seed: int, *, uses_solver: bool) -> Run:
    step = grid.steps[values["step"]]
    frozen = grid.frozen if step.frozen else None
    axes = ("bounds", "search", "formulation", "solver") if uses_solver else ("bounds", "search")
    chosen: dict[str, Any] = {axis: values[axis] for axis in axes}
    permute = seed if grid.permute and uses_solver else None
    if uses_solver:
        chosen["solver_options"] = grid.solver_options[values["solver_options"]].get(values["solver"], ())
    # Refutations by solvers are compared without certifying them, unless a step turns that on.
    steps = {"certify": False, **step.options}
    options = Options(**chosen, **steps, time_limit=grid.time_limit, threads=grid.threads, seed=seed, permute=permute)
    content = {
        "network": loaded.network_sha256,
        "domain": loaded.domain_digest,
        # Where there is a frozen set, the samples were used for it.
        "samples": loaded.samples_sha256 if step.frozen or step.uses_samples else None,
        "frozen": None if frozen is None else vars(frozen),
        "options": options.to_json(),
        # Enforced from outside, so that it is the same for all solvers.
        "memory_limit": grid.memory_limit,
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return Run(
        instance=loaded.instance,
        formulation=values["formulation"] if uses_solver else NONE,
        bounds=values["bounds"],
        search=values["search"],
        solver=values["solver"] if uses_solver else NONE,
        step=step,
        solver_options=values["solver_options"] if uses_solver else NONE,
        seed=seed,
        frozen=frozen,
        options=options,
        memory_limit=grid.memory_limit,
        key=key,
    )


def frozen_key(loaded: LoadedInstance, spec: FrozenSpec) -> str:
    """The key of an instance's frozen set."""
    content = [loaded.network_sha256, loaded.domain_digest, loaded.samples_sha256, vars(spec)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


# Command lines. Files are written as tokens, since their paths differ from machine to machine.

NETWORK, DOMAIN, SAMPLES, FROZEN, REPORT = "{network}", "{domain}", "{samples}", "{frozen}", "{report}"


def find_arguments(run: Run) -> list[str]:
    """Arguments of the `stablenet` command that is the run; files as tokens."""
    options = run.options
    arguments = _target(run.instance)
    for name in ("formulation", "bounds", "solver", "search", "inject", "removal"):
        arguments += [f"--{name}", str(getattr(options, name))]
    for text in options.solver_options:
        arguments += ["--solver-option", text]
    if options.solver_defaults:
        arguments.append("--solver-defaults")
    for name in ("decide_by_bounds", "falsify", "start", "tighten", "early_stop"):
        if not getattr(options, name):
            arguments.append(f"--no-{name.replace('_', '-')}")
    arguments += ["--certify", "on" if options.certify else "off"]
    if options.margin is not None:
        arguments += ["--margin", repr(options.margin)]
    if options.check_with is not None:
        arguments += ["--check-with", options.check_with]
    if run.frozen is not None:
        arguments += ["--resume", FROZEN]
    elif run.instance.samples is not None and run.step.uses_samples:
        arguments += ["--samples", SAMPLES]
    if options.permute is not None:
        arguments += ["--permute", str(options.permute)]
    return [*arguments, *_common(options.time_limit, options.threads, options.seed)]


def frozen_arguments(instance: Instance, spec: FrozenSpec, threads: int) -> list[str]:
    """Arguments of the `stablenet` command that makes an instance's frozen set; files as tokens."""
    arguments = [*_target(instance), "--bounds", spec.bounds, "--search", "off", "--certify", "off"]
    if not spec.falsify:
        arguments.append("--no-falsify")
    if instance.samples is not None:
        arguments += ["--samples", SAMPLES]
    return [*arguments, *_common(spec.time_limit, threads, spec.seed)]


def _target(instance: Instance) -> list[str]:
    before, path, after = split_domain(instance.domain)
    return ["find", NETWORK, "--domain", instance.domain if path is None else f"{before}{DOMAIN}{after}"]


def _common(time_limit: float | None, threads: int, seed: int) -> list[str]:
    limit = [] if time_limit is None else ["--time-limit", f"{time_limit:g}"]
    return [*limit, "--threads", str(threads), "--seed", str(seed), "--output", REPORT]


def input_files(instance: Instance) -> dict[str, Path]:
    """Files of an instance by token."""
    files = {NETWORK: instance.network}
    _, path, _ = split_domain(instance.domain)
    if path is not None:
        files[DOMAIN] = Path(path)
    if instance.samples is not None:
        files[SAMPLES] = instance.samples
    return files


def fill(arguments: list[str], files: dict[str, Path]) -> list[str]:
    """Arguments with paths in the place of tokens."""
    filled = []
    for argument in arguments:
        text = argument
        for token, path in files.items():
            text = text.replace(token, str(path))
        filled.append(text)
    return filled


def shown(path: Path) -> Path:
    """A path as it is shown in commands: relative where it lies under the current folder."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else Path(relative)
