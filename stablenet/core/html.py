"""Small pieces of HTML for objects that a notebook shows; all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from stablenet.core.terminal import plain

COLOURS = {"stably_active": "#2e9e5b", "stably_inactive": "#3b76c4", "unstable": "#e0a526", "unknown": "#d64545"}
"""One for each verdict, as on the page of a report."""

MOST_CELLS = 4000
"""Neurons that a map shows; more would slow a notebook down."""


def text(words: object) -> str:
    """Text as it is, escaped, control characters shown."""
    return escape(plain(str(words)))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of plain values."""
    head = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def neuron_map(layers: Sequence[Sequence[str]]) -> str:
    """A row of little squares for each layer, one a neuron, coloured by verdict; '' for more than `MOST_CELLS`."""
    if sum(map(len, layers)) > MOST_CELLS:
        return ""
    size, per_row = 8, 64
    cells, top = [], 0
    for number, verdicts in enumerate(layers):
        for i, verdict in enumerate(verdicts):
            x, y = i % per_row * size, top + i // per_row * size
            title = f"<title>layer {number}, neuron {i}: {text(verdict)}</title>"
            colour = COLOURS.get(verdict, "#888")
            cells.append(f'<rect x="{x}" y="{y}" width="{size - 1}" height="{size - 1}" fill="{colour}">{title}</rect>')
        top += -(-len(verdicts) // per_row) * size + size // 2
    keys = " ".join(f'<span style="color:{colour}">■</span> {name}' for name, colour in COLOURS.items())
    return f'<svg width="{per_row * size}" height="{max(top, 1)}" role="img">{"".join(cells)}</svg><div>{keys}</div>'
