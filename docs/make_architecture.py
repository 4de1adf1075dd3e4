"""Draw the folders of the package and the imports between them, from the code itself.

    python docs/make_architecture.py [--output docs/images/architecture.svg] [--check]

Each folder and each module that stands alone is a box. A box stands one floor above the highest of those it imports,
so that all arrows point down. Folders that import each other in a circle share a floor, and their arrows are red. An
import that follows from others (a imports b, b imports c, a imports c) is drawn pale. With ``--check`` nothing is
written: the exit code is 1 if the file is not what would be written. The same code gives the same file.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "images" / "architecture.svg"
TOP = ("stablenet", "backends", "formulations")
LEFT_OUT = {"", "__main__", "_version"}

BOX, GAP, HEIGHT, FLOOR, MARGIN = 132, 16, 40, 96, 24
PER_FLOOR = 8

Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Files of all modules by dotted name without ``stablenet.``; a package is its ``__init__``."""
    found = {}
    for top in TOP:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            parts = parts[1:] if top == "stablenet" else parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Names that a file imports anywhere in it, absolute and dotted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str, packages: set[str]) -> str:
    """The folder that a module stands in, or the module itself if it stands alone."""
    folder = module if module in packages else module.rpartition(".")[0]
    return folder or module


def graph() -> Graph:
    """Which box imports which."""
    files = modules()
    packages = {name for name, path in files.items() if path.name == "__init__.py"} - {""}
    edges: Graph = {room(name, packages): set() for name in files if name not in LEFT_OUT}
    for name, path in files.items():
        if name in LEFT_OUT:
            continue
        here = room(name, packages)
        for target in imported(path):
            inner = target.removeprefix("stablenet.") if target.startswith("stablenet.") else ""
            while inner and inner not in files:
                inner = inner.rpartition(".")[0]
            if inner not in LEFT_OUT and room(inner, packages) != here:
                edges[here].add(room(inner, packages))
    return edges


def reach(edges: Graph) -> Graph:
    """All boxes that can be reached from each, by any number of imports."""
    known: Graph = {}
    for start in edges:
        seen: set[str] = set()
        todo = list(edges[start])
        while todo:
            box = todo.pop()
            if box not in seen:
                seen.add(box)
                todo.extend(edges[box])
        known[start] = seen
    return known


def follows(edges: Graph, source: str, target: str) -> bool:
    """Whether the target is also reached from the source through another box, without coming back to the source."""
    rest = {box: targets - {source} for box, targets in edges.items() if box != source}
    far = reach(rest)
    return any(target in far[other] for other in edges[source] - {target})


def floors(edges: Graph) -> dict[str, int]:
    """The floor of each box: 0 for one that imports none, else one above the highest that it imports."""
    far = reach(edges)
    level: dict[str, int] = {}

    def floor(box: str) -> int:
        if box not in level:
            circle = {other for other in far[box] if box in far[other]} | {box}
            below = {target for member in circle for target in edges[member]} - circle
            height = 1 + max((floor(target) for target in below), default=-1)
            level.update(dict.fromkeys(circle, height))
        return level[box]

    for box in edges:
        floor(box)
    return level


def places(edges: Graph, level: dict[str, int]) -> tuple[dict[str, tuple[float, float]], float, float]:
    """Centre of each box, and the width and height of the picture.

    Boxes of a floor are ordered by the mean place of what they import; a floor with many takes several rows.
    """
    rows: list[list[str]] = []
    for height in range(max(level.values()) + 1):
        boxes = sorted(box for box in level if level[box] == height)
        n_rows = -(-len(boxes) // PER_FLOOR)
        size = -(-len(boxes) // n_rows)
        rows += [boxes[i : i + size] for i in range(0, len(boxes), size)]
    width = max(len(row) for row in rows) * (BOX + GAP) - GAP + 2 * MARGIN
    where: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        y = MARGIN + HEIGHT / 2 + (len(rows) - 1 - number) * FLOOR

        def pull(box: str) -> float:
            xs = [where[target][0] for target in sorted(edges[box]) if target in where]
            return sum(xs) / len(xs) if xs else width / 2

        ordered = sorted(row, key=lambda box: (round(pull(box), 3), box))
        start = (width - (len(row) * (BOX + GAP) - GAP)) / 2 + BOX / 2
        where.update({box: (start + i * (BOX + GAP), y) for i, box in enumerate(ordered)})
    return where, width, 2 * MARGIN + HEIGHT + (len(rows) - 1) * FLOOR


def draw(edges: Graph) -> str:
    """The picture as SVG."""
    level, far = floors(edges), reach(edges)
    where, width, height = places(edges, level)
    n_edges = sum(map(len, edges.values()))
    style = (
        ".box{fill:#e0f2f1;stroke:#00796b}.pale{stroke:#c8d0d0}.plain{stroke:#456}.circle{stroke:#c62828}"
        "path{fill:none;stroke-width:1.2}text{font-size:13px;text-anchor:middle;fill:#123}"
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height + 24:g}" font-family="sans-serif">',
        f"<style>{style}</style>",
        f"<title>{len(edges)} folders and modules on {max(level.values()) + 1} floors, {n_edges} imports</title>",
        f'<rect width="{width:g}" height="{height + 24:g}" fill="#fff"/>',
    ]
    arrows: dict[str, list[str]] = {"pale": [], "plain": [], "circle": []}
    for source, target in sorted((a, b) for a in edges for b in edges[a]):
        kind = "circle" if source in far[target] else "pale" if follows(edges, source, target) else "plain"
        arrows[kind].append(arrow(where[source], where[target], kind))
    lines += [line for kind in arrows for line in arrows[kind]]
    for box, (x, y) in sorted(where.items()):
        name = box.replace(".", "/")
        lines.append(
            f'<rect class="box" x="{x - BOX / 2:g}" y="{y - HEIGHT / 2:g}" width="{BOX}" height="{HEIGHT}" rx="5"/>'
            f'<text x="{x:g}" y="{y + 5:g}">{name}</text>'
        )
    caption = "Arrows: imports. Pale: those that follow from others."
    lines.append(f'<text x="{width / 2:g}" y="{height + 12:g}">{caption}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def arrow(source: tuple[float, float], target: tuple[float, float], kind: str) -> str:
    """A curve from the lower edge of one box to the upper edge of another, or between sides of one floor."""
    (x1, y1), (x2, y2) = source, target
    way = 1 if y2 >= y1 else -1
    y1, y2 = y1 + way * HEIGHT / 2, y2 - way * HEIGHT / 2
    bend = way * max(abs(y2 - y1) / 2, 18)
    curve = f"M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"
    head = f"M{x2 - 4:g} {y2 - 6 * way:g}L{x2:g} {y2:g}L{x2 + 4:g} {y2 - 6 * way:g}"
    return f'<path class="{kind}" d="{curve}{head}"/>'


def main() -> int:
    """Write or check the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--check", action="store_true")
    chosen = parser.parse_args()
    edges = graph()
    level = floors(edges)
    text = draw(edges)
    print(f"{len(edges)} boxes, {max(level.values()) + 1} floors, {sum(map(len, edges.values()))} imports")
    if chosen.check:
        same = chosen.output.is_file() and chosen.output.read_text(encoding="utf-8") == text
        if not same:
            print(f"{chosen.output} is not current: run python docs/make_architecture.py")
        return 0 if same else 1
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
