"""Builds the library's files: each model by its recipe, its best known solution, and the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stablenet.core.arrays import Array
from stablenet.core.errors import InputError
from stablenet.core.files import atomic_path, make_folder
from stablenet.core.inputs import read_input
from stablenet.instances.images import LICENCE
from stablenet.instances.manifest import FOLDER, SOLUTIONS, Entry, model_path, write_gzip, write_model
from stablenet.instances.models import build
from stablenet.instances.recipes import LIBRARY, PUBLIC, PublicNetwork, Recipe
from stablenet.instances.regression import MODELS
from stablenet.milp.arrays import MILP
from stablenet.milp.check_solution import check_solution, solution_text


@dataclass(frozen=True, eq=False)
class Built:
    """An instance as it was built: its entry, of which nothing is known but a point (n,) where there is one."""

    entry: Entry
    milp: MILP
    point: Array | None


def names(sets: tuple[str, ...]) -> dict[str, str]:
    """The set of each instance for which there is a recipe, in an order in which each network is trained once."""
    ordered = sorted(LIBRARY, key=lambda name: LIBRARY[name].network.name)
    every: dict[str, list[str]] = {"library": ordered, "public": list(PUBLIC), "regression": list(MODELS)}
    return {name: chosen for chosen, members in every.items() if chosen in sets for name in members}


def make(name: str, networks: Path | None = None) -> Built:
    """Build the model of an instance. Raises `InputError` where a public network is missing, or the name unknown."""
    if name in MODELS:
        return _regression(name)
    recipe = LIBRARY.get(name) or PUBLIC.get(name)
    if recipe is None:
        raise InputError(f"there is no recipe for an instance {name!r}")
    found = build(recipe, networks)
    entry = _entry(name, recipe, found.milp, found.meaning)
    if isinstance(recipe.network, PublicNetwork):
        entry.network = {"file": recipe.network.file, "domain": recipe.network.domain}
    else:
        net = recipe.network
        entry.network = {
            "data": net.data, "architecture": net.architecture.name, "l1": net.l1, "epochs": net.epochs,
            "accuracy": None if found.accuracy is None else round(found.accuracy, 4),
            "sha256": found.network.content_digest,
        }  # fmt: skip
        entry.seed = net.seed
    if found.point is not None:
        entry.primal = check_solution(found.milp, found.point).objective
    return Built(entry, found.milp, found.point)


def _entry(name: str, recipe: Recipe, milp: MILP, meaning: str) -> Entry:
    public = isinstance(recipe.network, PublicNetwork)
    origin = recipe.network.origin if isinstance(recipe.network, PublicNetwork) else "stablenet instances build"
    licence = "of the network's origin" if isinstance(recipe.network, PublicNetwork) else LICENCE[recipe.network.data]
    return Entry(
        name, "public" if public else "library", recipe.kind, meaning, "", milp.n_rows, milp.n_columns,
        milp.n_binaries, milp.n_nonzeros, milp.maximize, origin, licence,
        domain=recipe.domain.name, formulation=recipe.formulation,
    )  # fmt: skip


def _regression(name: str) -> Built:
    model = MODELS[name]()
    milp = model.milp
    entry = Entry(
        name, "regression", "regression", model.meaning, "", milp.n_rows, milp.n_columns, milp.n_binaries,
        milp.n_nonzeros, milp.maximize, model.origin, "MIT", primal=check_solution(milp, model.point).objective,
        dual=model.dual, dual_by="" if model.dual is None else "by construction",
    )  # fmt: skip
    return Built(entry, milp, model.point)


def write(built: Built, folder: Path, known: Mapping[str, Entry]) -> Entry:
    """Write model and solution; the entry with what the manifest knows of an instance of the same digest."""
    make_folder(folder / SOLUTIONS)
    entry = built.entry
    entry.sha256 = write_model(built.milp, entry.name, model_path(folder, entry.name))
    old = known.get(entry.name)
    if old is not None and old.sha256 == entry.sha256:
        if old.solution is not None:
            data = read_input(FOLDER / old.solution)
            with atomic_path(folder / old.solution) as temporary:
                temporary.write_bytes(data)
        return old
    if built.point is not None:
        write_point(built.milp, built.point, entry, folder)
    return entry


def write_point(milp: MILP, point: Array, entry: Entry, folder: Path) -> None:
    """Write a solution, gzipped, and enter its value."""
    entry.solution = f"{SOLUTIONS}/{entry.name}.sol.gz"
    entry.primal = check_solution(milp, point).objective
    make_folder(folder / SOLUTIONS)
    entry.solution_sha256 = write_gzip([solution_text(milp, point).encode("ascii")], folder / entry.solution)


def build_all(
    wanted: Mapping[str, str], folder: Path, known: Mapping[str, Entry], networks: Path | None
) -> Iterator[tuple[str, Entry | InputError]]:
    """Build instances one by one; for one whose network is missing, or that has no question, the error instead."""
    for name in wanted:
        try:
            yield name, write(make(name, networks), folder, known)
        except InputError as error:
            yield name, error
