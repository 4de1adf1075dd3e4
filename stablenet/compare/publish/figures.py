"""Figures as SVG, drawn from the statistics, each a file of its own for a paper, on a light background."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from stablenet.compare.statistics import View, anytime, cactus, profile

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#7a3e9d", "#4d4d4d")
"""The colours of Okabe and Ito, darkened where they are too light for lines on white."""

DASHES = ("", "6 3", "2 2", "8 3 2 3")
VERDICT_COLOURS = {
    "stably_active": "#009e73",
    "stably_inactive": "#0072b2",
    "unstable": "#e69f00",
    "unknown": "#c8c8c8",
}
WIDTH, HEIGHT = 520, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 30, 44
Points = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Plot:
    """A figure of lines: ``series`` by name; ``step`` holds the last value until the next point."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Points]
    x_log: bool = True
    y_log: bool = False
    step: bool = True
    markers: bool = False
    diagonal: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] = (0.0, 1.0)
    limits: tuple[float, ...] = field(default=())


class _Scale:
    """Numbers to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool) -> None:
        self.log = log
        self.low, self.high = (math.log10(low), math.log10(high)) if log else (low, high)
        if self.high <= self.low:
            self.high = self.low + 1.0
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        number = math.log10(max(value, 1e-300)) if self.log else value
        share = (number - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Lines with a number: 1, 2 and 5 in up to two decades, in more of them the decades alone."""
        if not self.log:
            return [self.low + i * (self.high - self.low) / 5 for i in range(6)]
        return self._within((1,) if self.high - self.low > 2.01 else (1, 2, 5))

    def lines(self) -> list[float]:
        """Fainter lines without one."""
        return self._within(range(2, 10)) if self.log and self.high - self.low <= 4.01 else []

    def _within(self, factors: Iterable[int]) -> list[float]:
        every = (m * 10.0**d for d in range(math.floor(self.low), math.ceil(self.high) + 1) for m in factors)
        return [value for value in every if self.low - 1e-9 <= math.log10(value) <= self.high + 1e-9]


def draw(plot: Plot) -> str:
    """The SVG text of a plot."""
    xs = [point[0] for points in plot.series.values() for point in points]
    low, high = plot.x_range or (min(xs, default=1.0), max(xs, default=10.0))
    x = _Scale(low, max(high, low * 1.01), LEFT, WIDTH - RIGHT, log=plot.x_log)
    y = _Scale(*plot.y_range, HEIGHT - BOTTOM, TOP, log=plot.y_log)
    body = [*_frame(plot, x, y)]
    for i, (name, points) in enumerate(plot.series.items()):
        body.append(_series(plot, i, name, points, (x, y)))
    names = [] if plot.markers and len(plot.series) == 1 else list(plot.series)
    body += _legend(names, markers=plot.markers)
    return _document(body, HEIGHT + 16 * len(names), plot.title)


def _document(body: Sequence[str], height: float, title: str, width: float = WIDTH) -> str:
    inner = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="sans-serif" font-size="11" role="img" aria-label={quoteattr(title)}>\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>\n{inner}\n</svg>\n'
    )


def _frame(plot: Plot, x: _Scale, y: _Scale) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    yield f'<text x="{LEFT}" y="18" font-size="13" font-weight="bold">{escape(plot.title)}</text>'
    faint = [f"M{x(value):.1f} {TOP}V{bottom}" for value in x.lines()]
    faint += [f"M{LEFT} {y(value):.1f}H{right}" for value in y.lines()]
    if faint:
        yield f'<path d="{"".join(faint)}" stroke="#f2f2f2"/>'
    for value in x.ticks():
        yield f'<path d="M{x(value):.1f} {TOP}V{bottom}" stroke="#dddddd"/>'
        yield f'<text x="{x(value):.1f}" y="{bottom + 15}" text-anchor="middle">{number(value)}</text>'
    for value in y.ticks():
        yield f'<path d="M{LEFT} {y(value):.1f}H{right}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{number(value)}</text>'
    if plot.diagonal:
        yield f'<path d="M{LEFT} {bottom}L{right} {TOP}" stroke="#888888" stroke-dasharray="4 3"/>'
    for limit in plot.limits:
        yield f'<path d="M{x(limit):.1f} {TOP}V{bottom}" stroke="#888888" stroke-dasharray="2 2"/>'
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#444444"/>'
    middle = (LEFT + right) / 2
    yield f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle">{escape(plot.x_label)}</text>'
    yield (
        f'<text transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(plot.y_label)}</text>"
    )


def _style(i: int) -> str:
    """Stroke of the i-th series."""
    dash = DASHES[i // len(COLOURS) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{COLOURS[i % len(COLOURS)]}" stroke-width="2"{dashed}'


def _series(plot: Plot, i: int, name: str, points: Points, scales: tuple[_Scale, _Scale]) -> str:
    x, y = scales
    if plot.markers:
        marks = (f'<circle cx="{x(px):.1f}" cy="{y(py):.1f}" r="3.5"/>' for px, py in points)
        return f'<g fill="{COLOURS[i % len(COLOURS)]}" fill-opacity="0.65">{"".join(marks)}</g>'
    parts: list[str] = []
    for px, py in points:
        if plot.step:
            parts.append(f"{'H' if parts else f'M{x.start:.1f} {y.start:.1f}H'}{x(px):.1f}V{y(py):.1f}")
        else:
            parts.append(f"{'L' if parts else 'M'}{x(px):.1f} {y(py):.1f}")
    if plot.step and parts:
        parts.append(f"H{x.end:.1f}")
    return f'<path d="{"".join(parts)}" fill="none" {_style(i)}><title>{escape(name)}</title></path>'


def _legend(names: Sequence[str], *, markers: bool) -> Iterator[str]:
    for i, name in enumerate(names):
        y = HEIGHT + 4 + 16 * i
        mark = f'<circle cx="{LEFT + 12}" cy="{y}" r="4" fill="{COLOURS[i % len(COLOURS)]}"/>'
        yield mark if markers else f'<path d="M{LEFT} {y}h24" {_style(i)}/>'
        yield f'<text x="{LEFT + 30}" y="{y + 4}">{escape(name)}</text>'


def number(value: float) -> str:
    """A number on an axis."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") if value and abs(value) < 1e-3 else f"{value:g}"


def view_figures(view: View, metric_label: str) -> Iterator[tuple[str, str]]:
    """Name and SVG of a view's figures: profile, cactus, anytime and one scatter for each pair of few members."""
    top = float(view.limit.max())
    curves = anytime(view)
    begun = min((t for points in curves.values() for t, share in points if share > 0), default=top)
    ratios = [point[0] for points in profile(view).values() for point in points]
    plots = {
        "profile": Plot(
            f"Performance profile by {view.axis}", f"time / best time ({metric_label})", "share of problems",
            profile(view), x_range=(1.0, max(10.0, *ratios, 10.0)),
        ),
        "cactus": Plot(
            f"Problems solved over time, by {view.axis}", f"seconds ({metric_label})", "share of problems solved",
            cactus(view), x_range=(_decade(float(view.capped.min()), top), top),
        ),
        "anytime": Plot(
            f"Questions closed over time, by {view.axis}", "seconds", "share of pending questions closed",
            curves, x_range=(_decade(begun, top), top),
        ),
    }  # fmt: skip
    for name, plot in plots.items():
        yield f"{view.axis}-{name}", draw(plot)
    if len(view.members) <= 6:
        for a in range(len(view.members)):
            for b in range(a + 1, len(view.members)):
                yield f"{view.axis}-scatter-{a + 1}-{b + 1}", draw(scatter(view, a, b, metric_label))


def _decade(value: float, top: float) -> float:
    """Where an axis of seconds begins that shows ``value`` and ends at ``top``."""
    return min(top / 10, 10.0 ** math.floor(math.log10(max(value, 1e-3)) + 1e-9))


def scatter(view: View, a: int, b: int, metric_label: str) -> Plot:
    """Times of two members, one point for each cell, a colour for each instance; unsolved ones lie on the limit."""
    top = float(view.limit.max())
    low = _decade(float(view.capped[[a, b]].min()), top)
    points = np.stack([view.capped[a], view.capped[b]], axis=1)
    series = {name: points[view.unit == i].tolist() for i, name in enumerate(view.instances)}
    if len(series) > len(COLOURS):
        series = {"problems": points.tolist()}
    return Plot(
        f"{view.members[a]} against {view.members[b]}", f"{view.members[a]}: seconds ({metric_label})",
        f"{view.members[b]}: seconds", series, y_log=True, markers=True, diagonal=True,
        x_range=(low, top), y_range=(low, top),
    )  # fmt: skip


def neuron_map(title: str, report: Mapping[str, Any], columns: int = 50, cell: int = 9) -> str:
    """A square for each neuron, by layer, coloured by verdict."""
    body = [f'<text x="8" y="18" font-size="13" font-weight="bold">{escape(title)}</text>']
    y = 30
    for layer in report["network"]["layers"]:
        verdicts = [neuron["verdict"] for neuron in report["neurons"] if neuron["layer"] == layer["layer"]]
        body.append(f'<text x="8" y="{y + 8}">layer {layer["layer"]}, {layer["size"]} neurons</text>')
        y += 14
        for i, verdict in enumerate(verdicts):
            left, top = 8 + i % columns * cell, y + i // columns * cell
            fill = VERDICT_COLOURS[verdict]
            body.append(f'<rect x="{left}" y="{top}" width="{cell - 1}" height="{cell - 1}" fill="{fill}"/>')
        y += math.ceil(len(verdicts) / columns) * cell + 8
    for i, (verdict, colour) in enumerate(VERDICT_COLOURS.items()):
        body.append(f'<rect x="{8 + 115 * i}" y="{y}" width="9" height="9" fill="{colour}"/>')
        body.append(f'<text x="{22 + 115 * i}" y="{y + 9}">{verdict.replace("_", " ")}</text>')
    return _document(body, y + 20, title, max(WIDTH, 16 + columns * cell))
