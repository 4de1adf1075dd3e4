"""True extrema of every pre-activation, by enumeration of activation cells in rational arithmetic.

On a cell, the set of inputs with given phases of the layers before, every pre-activation is affine, so it takes its
extrema at the cell's vertices. A cell is kept as its vertices, each in homogeneous integers with the set of
constraints that hold with equality there, and is cut by ``g >= 0`` and ``g <= 0`` where g takes both signs on it
(the double description method: a cut's new vertices lie on the edges that cross it). There is no floating point and
no tolerance anywhere. Cost grows like the number of cells: meant for up to 4 inputs and some 20 neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from math import gcd, lcm
from operator import mul

from oracle.plain import PlainMap, PlainNetwork, Region

Form = tuple[int, ...]  # homogeneous: the constant first, then one coefficient per free input


@dataclass(frozen=True)
class Vertex:
    """The point ``form[1:] / form[0]``, form[0] > 0; ``tight`` has a bit per constraint that is an equality here."""

    form: Form
    tight: int


@dataclass
class Extremum:
    """Smallest and largest value seen, and where."""

    low: Fraction | None = None
    high: Fraction | None = None
    argmin: tuple[Fraction, ...] = ()
    argmax: tuple[Fraction, ...] = ()


@dataclass
class Extrema:
    """Exact minimum and maximum of each pre-activation, ``minimum[k][i]``, over the domain.

    ``argmin`` and ``argmax`` are points of the domain that attain them. ``cells`` counts the cells on which the last
    layer was read. With outputs, the output stands as one more layer.
    """

    minimum: list[list[Fraction]] = field(default_factory=list)
    maximum: list[list[Fraction]] = field(default_factory=list)
    argmin: list[list[tuple[Fraction, ...]]] = field(default_factory=list)
    argmax: list[list[tuple[Fraction, ...]]] = field(default_factory=list)
    cells: int = 0


def extrema(network: PlainNetwork, regions: Sequence[Region], *, outputs: bool = False) -> Extrema:
    """Exact extrema over the union of the regions."""
    maps = [*network.layers, network.output] if outputs else list(network.layers)
    best = [[Extremum() for _ in layer.offset] for layer in maps]
    cells = 0
    for region in regions:
        walk = _Walk(maps, region, best)
        if walk.start:
            walk.visit(0, [walk.inputs], walk.start)
        cells += walk.cells
    if any(e.low is None for layer in best for e in layer):
        raise ValueError("the domain is empty")
    return Extrema(
        [[e.low for e in layer if e.low is not None] for layer in best],
        [[e.high for e in layer if e.high is not None] for layer in best],
        [[e.argmin for e in layer] for layer in best],
        [[e.argmax for e in layer] for layer in best],
        cells,
    )


def cut(vertices: Sequence[Vertex], values: Sequence[int], bit: int, dimension: int) -> list[Vertex]:
    """The vertices of the part of a polytope where a form is <= 0, given the form's values on its vertices."""
    above = [(v, s) for v, s in zip(vertices, values, strict=True) if s > 0]
    below = [(v, s) for v, s in zip(vertices, values, strict=True) if s < 0]
    kept = [v if s else Vertex(v.form, v.tight | bit) for v, s in zip(vertices, values, strict=True) if s <= 0]
    for up, s in above:
        for down, t in below:
            common = up.tight & down.tight
            if common.bit_count() < dimension - 1:
                continue
            # An edge joins them iff no third vertex lies on all the constraints that they share.
            if any(common & ~w.tight == 0 and w is not up and w is not down for w in vertices):
                continue
            between = [s * q - t * p for p, q in zip(up.form, down.form, strict=True)]
            kept.append(Vertex(_reduced(between), common | bit))
    return kept


def _reduced(form: Sequence[int]) -> Form:
    divisor = gcd(*form)
    return tuple(v // divisor for v in form)


def _dot(form: Form, point: Form) -> int:
    return sum(map(mul, form, point))


class _Walk:
    """Depth-first visit of the activation cells of one region."""

    def __init__(self, maps: Sequence[PlainMap], region: Region, best: list[list[Extremum]]) -> None:
        self.best = best
        self.cells = 0
        lower, upper = [Fraction(v) for v in region.lower], [Fraction(v) for v in region.upper]
        self.lower = lower
        self.free = [j for j, (low, high) in enumerate(zip(lower, upper, strict=True)) if low < high]
        self.dimension = len(self.free)
        self.bits = 0
        scale = lcm(1, *(v.denominator for v in lower))
        self.inputs: list[Form | None] = []
        for j, low in enumerate(lower):
            form = [0] * (self.dimension + 1)
            if j in self.free:
                form[1 + self.free.index(j)] = scale
            else:
                form[0] = int(low * scale)
            self.inputs.append(tuple(form))
        self.maps: list[tuple[list[int], list[tuple[int, list[list[tuple[int, int]]]]], int]] = []
        scales = [scale]
        for layer in maps:
            self.maps.append(_integers(layer, scales))
            scales.append(self.maps[-1][2])
        self.start = self._box(lower, upper)
        for row, rhs in zip(region.a, region.b, strict=True):
            self.start = self._restrict(self.start, [Fraction(w) for w in row], Fraction(rhs))

    def _box(self, lower: Sequence[Fraction], upper: Sequence[Fraction]) -> list[Vertex]:
        vertices = []
        for sides in product((0, 1), repeat=self.dimension):
            point = [(upper if side else lower)[j] for side, j in zip(sides, self.free, strict=True)]
            common = lcm(1, *(v.denominator for v in point))
            tight = sum(1 << (2 * i + side) for i, side in enumerate(sides))
            vertices.append(Vertex((common, *(int(v * common) for v in point)), tight))
        self.bits = 2 * self.dimension
        return vertices

    def _restrict(self, vertices: list[Vertex], row: Sequence[Fraction], rhs: Fraction) -> list[Vertex]:
        constant = sum((w * self.lower[j] for j, w in enumerate(row) if j not in self.free), -rhs)
        form = [constant, *(row[j] for j in self.free)]
        common = lcm(1, *(v.denominator for v in form))
        whole = tuple(int(v * common) for v in form)
        self.bits += 1
        return cut(vertices, [_dot(whole, v.form) for v in vertices], 1 << (self.bits - 1), self.dimension)

    def visit(self, k: int, posts: list[list[Form | None]], cell: list[Vertex]) -> None:
        """Read layer k on a cell, then go on with the cells that it is cut into."""
        forms = self._forms(k, posts)
        for i, form in enumerate(forms):
            self._read(self.best[k][i], form, self.maps[k][2], cell)
        if k + 1 == len(self.maps):
            self.cells += 1
        else:
            self._split(forms, [], posts, cell)

    def _split(
        self, forms: list[Form], post: list[Form | None], posts: list[list[Form | None]], cell: list[Vertex]
    ) -> None:
        """Cut the cell by the neurons of the layer after ``posts``; those in ``post`` are done."""
        if len(post) == len(forms):
            self.visit(len(posts), [*posts, post], cell)
            return
        form = forms[len(post)]
        values = [_dot(form, v.form) for v in cell]
        up, down = max(values) > 0, min(values) < 0
        if up and down:
            bit = 1 << self.bits
            self.bits += 1
            negated = [-v for v in values]
            self._split(forms, [*post, form], posts, cut(cell, negated, bit, self.dimension))
            self._split(forms, [*post, None], posts, cut(cell, values, bit, self.dimension))
            self.bits -= 1
        else:
            self._split(forms, [*post, form if up else None], posts, cell)

    def _forms(self, k: int, posts: list[list[Form | None]]) -> list[Form]:
        offset, terms, _ = self.maps[k]
        forms = []
        for i, constant in enumerate(offset):
            total = [0] * (self.dimension + 1)
            total[0] = constant
            for source, rows in terms:
                for j, w in rows[i]:
                    post = posts[source][j]
                    if post is not None:
                        total = [t + w * p for t, p in zip(total, post, strict=True)]
            forms.append(tuple(total))
        return forms

    def _read(self, best: Extremum, form: Form, scale: int, cell: list[Vertex]) -> None:
        low_vertex = high_vertex = cell[0]
        low = high = _dot(form, cell[0].form)
        for vertex in cell[1:]:
            value = _dot(form, vertex.form)
            if value * low_vertex.form[0] < low * vertex.form[0]:
                low, low_vertex = value, vertex
            if value * high_vertex.form[0] > high * vertex.form[0]:
                high, high_vertex = value, vertex
        minimum = Fraction(low, scale * low_vertex.form[0])
        maximum = Fraction(high, scale * high_vertex.form[0])
        if best.low is None or minimum < best.low:
            best.low, best.argmin = minimum, self._point(low_vertex)
        if best.high is None or maximum > best.high:
            best.high, best.argmax = maximum, self._point(high_vertex)

    def _point(self, vertex: Vertex) -> tuple[Fraction, ...]:
        point = list(self.lower)
        for j, v in zip(self.free, vertex.form[1:], strict=True):
            point[j] = Fraction(v, vertex.form[0])
        return tuple(point)


def _integers(
    layer: PlainMap, scales: Sequence[int]
) -> tuple[list[int], list[tuple[int, list[list[tuple[int, int]]]]], int]:
    """The map in integers, times the scale that is returned; source s is given times ``scales[s]``."""
    own = lcm(1, *(v.denominator for v in layer.offset))
    own = lcm(own, *(w.denominator for _, rows in layer.terms for row in rows for w in row))
    common = lcm(1, *(scales[source] for source, _ in layer.terms))
    terms = []
    for source, rows in layer.terms:
        factor = own * (common // scales[source])
        terms.append((source, [[(j, int(w * factor)) for j, w in enumerate(row) if w] for row in rows]))
    return [int(v * own * common) for v in layer.offset], terms, own * common
