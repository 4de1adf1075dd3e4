"""The command ``new``: a package of one's own with a plug-in that works, and its conformance tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer

from stablenet.core.errors import InputError
from stablenet.core.files import OutputError, write_text
from stablenet.core.terminal import say

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


class Kind(StrEnum):
    """What can be plugged in."""

    FORMULATION = "formulation"
    BOUND = "bound"
    SEARCH = "search"
    BACKEND = "backend"


@dataclass(frozen=True)
class _About:
    """Of one kind: its entry-point group, its suite, the command that lists it and the option that takes it."""

    group: str
    suite: str
    listing: str
    option: str


ABOUT = {
    Kind.FORMULATION: _About("stablenet.formulations", "formulations", "formulations", "--formulation"),
    Kind.BOUND: _About("stablenet.bounds", "bounds", "bounds", "--bounds"),
    Kind.SEARCH: _About("stablenet.searches", "searches", "searches", "--search"),
    Kind.BACKEND: _About("stablenet.backends", "backends", "solvers", "--solver"),
}


def new(
    kind: Annotated[Kind, typer.Argument(help="What to write.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="How it is called: my-bound.")],
    *,
    folder: Annotated[str | None, typer.Option(metavar="DIR", help="Folder to make; default: NAME.")] = None,
) -> None:
    """Write a package with a formulation, bound, search or backend that works and is tested, to start from."""
    target = Path(folder or name)
    written = write_package(kind, name, target)
    say(f"{target}: {', '.join(written)}")
    say(f"next: pip install -e {target} && pytest {target}")


def write_package(kind: Kind | str, name: str, folder: Path) -> list[str]:
    """Write the files of a package into a folder that does not exist yet; returns their names.

    Raises `InputError` for a name that no package can have or that is taken, `OutputError` where the folder exists.
    """
    kind = Kind(kind)
    if not _NAME.fullmatch(name):
        raise InputError(f"name {name!r}; lower-case letters and digits, with single - or _ between, are expected")
    if name in _registry(kind).names():
        raise InputError(f"the name {name!r} is taken: `stablenet {ABOUT[kind].listing}` lists those that are")
    if folder.exists():
        raise OutputError(f"{folder}: exists already")
    about = ABOUT[kind]
    words = {
        "name": name,
        "module": "stablenet_" + name.replace("-", "_"),
        "cls": "".join(part.capitalize() for part in re.split("[-_]", name)),
        "title": f"{name}, made from the example for a {kind}",
        "kind": str(kind),
        **vars(about),
    }
    module = f"{words['module']}.py"
    test = "test_backend" if kind is Kind.BACKEND else "test_suite"
    plan = {
        "pyproject.toml": "pyproject",
        module: str(kind),
        "test_conformance.py": test,
        "README.md": "readme",
    }
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror or error})") from None
    templates = files("stablenet.cli") / "templates"
    for file, template in plan.items():
        text = (templates / f"{template}.txt").read_text(encoding="utf-8")
        write_text(folder / file, Template(text).substitute(words))
    return list(plan)


def _registry(kind: Kind) -> Any:
    if kind is Kind.FORMULATION:
        from stablenet.formulations.base import registry

        return registry
    if kind is Kind.BOUND:
        from stablenet.bounds import registry as bounds

        return bounds
    if kind is Kind.SEARCH:
        from stablenet.search.base import registry as searches

        return searches
    from stablenet.backends.base import registry as backends

    return backends
