"""A grid of runs, read from TOML and checked as a whole.

A grid names instances and blocks of axes; a block stands for the product of its axes, the grid for the
union of its blocks. `docs/comparing.md` describes the file.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stablenet.core.errors import InputError
from stablenet.core.inputs import read_text_input

MOST_BYTES = 2**20
"""Longest grid file that is read."""

AXES = ("formulation", "bounds", "search", "solver")
"""Axes whose values are names in a registry."""

STEP_OPTIONS = {
    "decide_by_bounds": bool,
    "falsify": bool,
    "inject": str,
    "removal": str,
    "start": bool,
    "tighten": bool,
    "certify": bool,
    "margin": float,
    "check_with": str,
    "solver_defaults": bool,
    "early_stop": bool,
}
"""Options of `find` that a table ``[steps.NAME]`` may set, with their types."""

FAIR_STEP: dict[str, Any] = {"falsify": False, "inject": "off", "removal": "resolve", "early_stop": False}
"""The default step of a grid, which uses only what every solver can do. Falsifying is done for the frozen set. Not all
solvers can end a solve at the first solution that is good enough, so none does."""

PLAIN_STEP: dict[str, Any] = {**FAIR_STEP, "solver_defaults": True, "start": False}
"""Each solver at its own defaults but threads, time limit and seed."""

NO_OPTIONS = "none"
"""The value of the axis ``solver_options`` for runs without any."""


class GridError(InputError):
    """A grid with mistakes; the message lists them all."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.problems = tuple(problems)
        count = "" if len(problems) == 1 else f"{len(problems)} problems: "
        super().__init__(f"{path}: {count}{'; '.join(problems)}")


@dataclass(frozen=True)
class Instance:
    """A network on a domain. Paths are absolute; ``domain`` is a specification as for ``--domain``."""

    name: str
    network: Path
    domain: str
    samples: Path | None = None


@dataclass(frozen=True)
class FrozenSpec:
    """How the set of pending questions is made that all runs of an instance start from."""

    bounds: str = "crown"
    falsify: bool = True
    seed: int = 0
    time_limit: float = 600.0


@dataclass(frozen=True)
class StepSetting:
    """A named setting of the steps that can be switched: whether the frozen set is used, and options of `find`.

    ``samples`` says whether a run without a frozen set gets the instance's samples; None: if it falsifies.
    """

    name: str
    frozen: bool = True
    samples: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uses_samples(self) -> bool:
        """Whether runs are given the instance's samples."""
        wanted = self.options.get("falsify", True) if self.samples is None else self.samples
        return bool(wanted and not self.frozen)


@dataclass(frozen=True)
class RunProduct:
    """One product of axes; ``instances``, ``steps`` and ``solver_options`` are names."""

    instances: tuple[str, ...]
    formulation: tuple[str, ...]
    bounds: tuple[str, ...]
    search: tuple[str, ...]
    solver: tuple[str, ...]
    steps: tuple[str, ...]
    solver_options: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """A whole grid. Times are in seconds, ``memory_limit`` in megabytes; ``text`` is the file as read.

    ``solver_options`` are named sets of options, for each solver the texts ``NAME=VALUE``; ``grace`` is how
    long a run may overrun its own time limit before it is ended from outside.
    """

    path: Path
    text: str
    name: str
    time_limit: float
    memory_limit: float | None
    grace: float
    threads: int
    permute: bool
    frozen: FrozenSpec
    instances: tuple[Instance, ...]
    steps: Mapping[str, StepSetting]
    solver_options: Mapping[str, Mapping[str, tuple[str, ...]]]
    blocks: tuple[RunProduct, ...]


class _Reader:
    """Takes typed values from a TOML table and collects its mistakes."""

    def __init__(self, where: str, table: Any, problems: list[str]) -> None:
        self.where = where
        self.problems = problems
        self.table: dict[str, Any] = table if isinstance(table, dict) else {}
        if not isinstance(table, dict):
            problems.append(f"{where} is {_kind(table)}; a table is expected")
        self.taken: set[str] = set()

    def complain(self, key: str, message: str) -> None:
        self.problems.append(f"{self.where}{': ' if self.where else ''}{key} {message}")

    def take(self, key: str, kind: type, default: Any = ...) -> Any:
        self.taken.add(key)
        if key not in self.table:
            if default is ...:
                self.complain(key, "is missing")
                return kind()
            return default
        value = self.table[key]
        if kind is float and type(value) is int:
            value = _as_float(value)
        if type(value) is not kind:
            self.complain(key, f"is {_kind(value)}; {_NAMES[kind]} is expected")
            return kind() if default is ... else default
        return value

    def name(self, key: str, default: str) -> str:
        """Text that is not empty."""
        value: str = self.take(key, str, default)
        if not value.strip():
            self.complain(key, "is empty")
        return value

    def positive(self, key: str, default: Any = ...) -> Any:
        value = self.take(key, float, default)
        if type(self.table.get(key)) in {int, float} and not 0 < value < float("inf"):
            self.complain(key, f"is {value}; a number above 0 is expected")
        return value

    def many(self, key: str, kind: type, default: Any = ...) -> tuple[Any, ...]:
        """A list, or a single value for a list of one."""
        if key in self.table and type(self.table[key]) is kind:
            return (self.take(key, kind),)
        values = self.take(key, list, default)
        if key in self.table and not values:
            self.complain(key, "is empty")
        wrong = [value for value in values if type(value) is not kind]
        if wrong:
            self.complain(key, f"holds {_kind(wrong[0])}; a list of {_NAMES[kind]}s is expected")
        return tuple(dict.fromkeys(value for value in values if type(value) is kind))

    def close(self) -> None:
        for key in self.table:
            if key not in self.taken:
                self.complain(key, f"is unknown; there are: {', '.join(sorted(self.taken))}")


_NAMES: dict[type, str] = {
    str: "text", int: "whole number", float: "number", bool: "true or false", list: "list", dict: "table",
}  # fmt: skip


def _kind(value: Any) -> str:
    return f"{value!r}" if isinstance(value, (str, int, float, bool)) else f"a {_NAMES.get(type(value), 'date')}"


def _as_float(value: int) -> float:
    """The nearest float; an integer beyond all floats is infinite, as TOML's own 1e400 is."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def read_grid(path: Path | str) -> Grid:
    """Read a grid file. Raises `GridError` that lists all mistakes in it; names are looked up by `plan`."""
    path = Path(path)
    text = read_text_input(path, most=MOST_BYTES)
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise GridError(path, ["not a TOML file (it is nested too deeply)"]) from None
    except ValueError as error:
        raise GridError(path, [f"not a TOML file ({error})"]) from None
    return grid_from(data, path, text)


def grid_from(data: Mapping[str, Any], path: Path, text: str = "") -> Grid:
    """A grid from parsed TOML; paths in it are relative to the folder of ``path``."""
    problems: list[str] = []
    top = _Reader("", data, problems)
    folder = path.resolve().parent
    instances = _instances(top.take("instances", list), folder, problems)
    steps = _steps(top.take("steps", dict, {}), problems)
    frozen = _frozen(top.take("frozen", dict, {}), problems)
    options = _solver_options(top.take("solver_options", dict, {}), problems)
    known = {
        "instances": [one.name for one in instances],
        "steps": list(steps),
        "solver_options": list(options),
    }
    blocks = tuple(_block(f"runs {i}", block, known, problems) for i, block in enumerate(top.take("runs", list), 1))
    for what in ("instances", "runs"):
        if data.get(what) == []:
            top.complain(what, f"is empty; at least one table [[{what}]] is expected")
    threads = top.take("threads", int, 1)
    if threads < 1:
        top.complain("threads", f"is {threads}; a number from 1 up is expected")
    grid = Grid(
        path=path,
        text=text,
        name=top.name("name", path.stem),
        time_limit=top.positive("time_limit"),
        memory_limit=top.positive("memory_limit", None),
        grace=top.positive("grace", 10.0),
        threads=threads,
        permute=top.take("permute", bool, True),
        frozen=frozen,
        instances=instances,
        steps=steps,
        solver_options=options,
        blocks=blocks,
    )
    top.close()
    if problems:
        raise GridError(path, problems)
    return grid


def _instances(tables: list[Any], folder: Path, problems: list[str]) -> tuple[Instance, ...]:
    found: dict[str, Instance] = {}
    for i, table in enumerate(tables, 1):
        reader = _Reader(f"instances {i}", table, problems)
        if not isinstance(table, dict):
            continue
        network = reader.take("network", str)
        domain = reader.take("domain", str)
        samples = reader.take("samples", str, None)
        name = reader.name("name", f"{Path(network).stem} {domain}")
        reader.close()
        if name in found:
            reader.complain("name", f"{name!r} is taken by another instance")
        found[name] = Instance(
            name, folder / network, absolute_domain(domain, folder), None if samples is None else folder / samples
        )
    return tuple(found.values())


def absolute_domain(spec: str, folder: Path) -> str:
    """A domain's specification with the file in it, if there is one, found from ``folder``."""
    before, path, after = split_domain(spec)
    return spec if path is None else f"{before}{folder / path}{after}"


def split_domain(spec: str) -> tuple[str, str | None, str]:
    """``(before, path, after)`` of a domain's specification; ``path`` is None where it names no file."""
    if spec.startswith("ball:"):
        path, dot, after = spec.removeprefix("ball:").rpartition(".npy")
        return ("ball:", path + dot, after) if dot else ("", None, spec)
    if spec.startswith("box:"):
        return "", None, spec
    return "", spec, ""


def _frozen(table: Any, problems: list[str]) -> FrozenSpec:
    reader = _Reader("frozen", table, problems)
    spec = FrozenSpec(
        bounds=reader.take("bounds", str, "crown"),
        falsify=reader.take("falsify", bool, True),
        seed=reader.take("seed", int, 0),
        time_limit=reader.positive("time_limit", 600.0),
    )
    reader.close()
    return spec


def _steps(tables: dict[str, Any], problems: list[str]) -> dict[str, StepSetting]:
    steps = {"fair": StepSetting("fair", options=FAIR_STEP), "plain": StepSetting("plain", options=PLAIN_STEP)}
    for name, table in tables.items():
        reader = _Reader(f"steps.{name}", table, problems)
        frozen, samples = reader.take("frozen", bool, True), reader.take("samples", bool, None)
        options = {key: reader.take(key, kind) for key, kind in STEP_OPTIONS.items() if key in reader.table}
        reader.taken |= STEP_OPTIONS.keys()
        reader.close()
        steps[name] = StepSetting(name, frozen, samples, options)
    return steps


def _solver_options(tables: dict[str, Any], problems: list[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Named sets of solvers' own options: ``[solver_options.NAME]``, a table of options for each solver."""
    found: dict[str, dict[str, tuple[str, ...]]] = {NO_OPTIONS: {}}
    for name, table in tables.items():
        where = f"solver_options.{name}"
        if name == NO_OPTIONS:
            problems.append(f"{where}: the name stands for runs without options")
        found[name] = {}
        for solver, options in _Reader(where, table, problems).table.items():
            texts = []
            for option, value in _Reader(f"{where}.{solver}", options, problems).table.items():
                if isinstance(value, (str, int, float)):
                    texts.append(f"{option}={str(value).lower() if isinstance(value, bool) else value}")
                else:
                    problems.append(f"{where}.{solver}: {option} is {_kind(value)}; text or a number is expected")
            found[name][solver] = tuple(sorted(texts))
    return found


def _block(where: str, table: Any, known: Mapping[str, list[str]], problems: list[str]) -> RunProduct:
    reader = _Reader(where, table, problems)
    block = RunProduct(
        instances=reader.many("instances", str, known["instances"]),
        formulation=reader.many("formulation", str, ["bigm"]),
        bounds=reader.many("bounds", str, ["crown"]),
        search=reader.many("search", str, ["network"]),
        solver=reader.many("solver", str, ["highs"]),
        steps=reader.many("steps", str, ["fair"]),
        solver_options=reader.many("solver_options", str, [NO_OPTIONS]),
        seeds=reader.many("seeds", int, [0]),
    )
    reader.close()
    for key, names in known.items():
        problems.extend(
            f"{where}: {key} names {name!r}; there are: {', '.join(names)}"
            for name in getattr(block, key)
            if name not in names
        )
    problems.extend(
        f"{where}: seeds holds {seed}; a number from 0 to 2147483647 is expected"
        for seed in block.seeds
        if not 0 <= seed < 2**31
    )
    return block
