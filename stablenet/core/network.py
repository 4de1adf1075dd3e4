"""The canonical network: a block-triangular affine system with ReLUs between the blocks.

With ``h_0 = x`` the input, layer ``k`` (numbered from 0) computes its pre-activations
``g_k = b_k + sum_t M_t h_src(t)`` and its post-activations ``h_{k+1} = max(g_k, 0)``; the output is
one more affine map. Everything but the ONNX reader works on this form only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stablenet.core import html
from stablenet.core.arrays import Array
from stablenet.core.errors import NetworkError
from stablenet.core.rounding import LARGEST32, OVERFLOW, SAFETY, gamma, underflow
from stablenet.core.terminal import plain

MAY_UNDERFLOW = -900.0
"""Exponent of 2 below which products may underflow in float64: a row with nonzero coefficients could then look
empty."""

Matrix = Array | sparse.csr_array


def apply(matrix: Matrix, points: Array) -> Array:
    """``points @ matrix.T`` for dense or csr matrices: (..., n) to (..., m)."""
    flat = points.reshape(math.prod(points.shape[:-1]), points.shape[-1])
    if not isinstance(matrix, sparse.csr_array):
        return np.asarray(flat @ matrix.T).reshape(*points.shape[:-1], matrix.shape[0])
    return np.ascontiguousarray((matrix @ flat.T).T).reshape(*points.shape[:-1], matrix.shape[0])


def apply_transposed(matrix: Matrix, rows: Array) -> Array:
    """``rows @ matrix`` for dense or csr matrices: (..., m) to (..., n)."""
    flat = rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])
    if not isinstance(matrix, sparse.csr_array):
        return np.asarray(flat @ matrix).reshape(*rows.shape[:-1], matrix.shape[1])
    return np.ascontiguousarray((matrix.T @ flat.T).T).reshape(*rows.shape[:-1], matrix.shape[1])


def _float64(given: Any, what: str) -> Any:
    """An array or a sparse matrix as float64 (csr): itself if it is. Raises `NetworkError` if that would round."""
    if sparse.issparse(given):
        if isinstance(given, sparse.csr_array) and given.dtype == np.float64:
            return given
        return _csr64(given, what)
    array = np.asarray(given)
    if array.dtype == np.float64:
        return array
    if array.dtype.kind not in "biuf":
        raise NetworkError(f"{what} is of type {array.dtype}; numbers are expected")
    with np.errstate(over="ignore"):
        wide = array.astype(np.float64)
    # Through Python's integers: the types' own comparison would round both sides alike.
    if array.dtype.itemsize >= 8 and wide.astype(object).tolist() != array.astype(object).tolist():
        raise NetworkError(f"{what} of type {array.dtype} is no number of float64")
    return wide


def _csr64(given: Any, what: str) -> sparse.csr_array:
    csr = sparse.csr_array(given)
    data: Array = _float64(csr.data, what)
    return sparse.csr_array((data, csr.indices, csr.indptr), shape=csr.shape)


@dataclass(frozen=True, eq=False)
class Term:
    """One summand ``matrix @ h[source]``; source 0 is the input, k + 1 the post-activations of layer k."""

    source: int
    matrix: Matrix

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", _float64(self.matrix, "a weight"))

    @cached_property
    def absolute(self) -> Matrix:
        """Entrywise absolute values of the matrix."""
        if isinstance(self.matrix, sparse.csr_array):
            return sparse.csr_array(abs(self.matrix))
        return np.abs(self.matrix)

    @cached_property
    def row_terms(self) -> int:
        """The largest number of nonzeros in a row: the length of the longest scalar product."""
        if isinstance(self.matrix, sparse.csr_array):
            return int(np.diff(self.matrix.indptr).max(initial=0))
        return int(np.count_nonzero(self.matrix, axis=1).max(initial=0))

    @cached_property
    def smallest(self) -> float:
        """The smallest nonzero magnitude (infinity if there is none)."""
        data = self.matrix.data if isinstance(self.matrix, sparse.csr_array) else self.matrix
        magnitudes = np.abs(data[data != 0])
        return float(magnitudes.min(initial=np.inf))


@dataclass(frozen=True, eq=False)
class Roundoff:
    """Bounds on the error of every float32 evaluation of an affine map: see `AffineMap.deviation`.

    With the bounds ``m[source] >= |h[source]|``, row i is off by at most ``relative * size[i] + absolute``, where
    ``size = offset + sum over terms of matrix @ m[source]``. Nothing in ``offset`` or ``terms`` is negative; where the
    map is a single product, they are the absolute values of its own. ``relative`` is a gamma, ``absolute`` underflow.
    No number on the way is larger than ``peak`` times the largest magnitude, or than ``peak``.
    """

    relative: float
    absolute: float
    offset: Array
    terms: tuple[Term, ...]
    peak: float

    def smallest(self, most: Sequence[Array]) -> float:
        """The smallest product of a coefficient and a magnitude that are not 0 (not computed: it may underflow)."""
        least = np.inf
        for term in self.terms:
            size = most[term.source]
            smaller = float(np.log2(size[size > 0].min(initial=np.inf))) + float(np.log2(term.smallest))
            least = min(least, smaller)
        return least


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``offset + sum over terms of matrix @ h[source]``; ``nodes`` names the graph nodes it folds.

    With a ``roundoff``, bounds and errors of the map hold for its float32 evaluations too: every
    value is ``offset + sum + d`` with any d up to `deviation`.
    """

    offset: Array
    terms: tuple[Term, ...]
    nodes: tuple[str, ...] = ()
    roundoff: Roundoff | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", _float64(self.offset, "an offset"))

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.offset)

    @cached_property
    def n_terms(self) -> int:
        """Length of the longest scalar product of a row, the offset not counted."""
        return sum(term.row_terms for term in self.terms)

    @property
    def n_connections(self) -> int:
        """Number of nonzero coefficients."""
        return sum(
            int(t.matrix.count_nonzero()) if isinstance(t.matrix, sparse.csr_array) else int(np.count_nonzero(t.matrix))
            for t in self.terms
        )

    def __call__(self, posts: Sequence[Array]) -> Array:
        """Value for a batch: ``posts[s]`` is (batch, n_s); the result is (batch, size)."""
        value: Array | None = None
        for term in self.terms:
            part = apply(term.matrix, posts[term.source])
            value = part if value is None else value + part
        if value is None:
            return np.broadcast_to(self.offset, (*posts[0].shape[:-1], self.size)).copy()
        return value + self.offset

    def deviation(self, most: Sequence[Array]) -> Array | None:
        """How far a float32 evaluation may be from the map, (..., size); None if only the real one counts.

        ``most[s]``, (..., n_s), bounds the magnitudes of source s in every evaluation. The standard bound for sums of
        products in any order (Higham, *Accuracy and Stability of Numerical Algorithms*, 3.1 and 4.2). A row that
        reads nothing but zeros and has no offset is exactly 0. Infinite where float32 may overflow.
        """
        given = self.roundoff
        if given is None:
            return None
        size = np.broadcast_to(given.offset, (*most[0].shape[:-1], self.size))
        with np.errstate(over="ignore", invalid="ignore"):
            for term in given.terms:
                size = size + apply(term.matrix, most[term.source])
            total = SAFETY * (given.relative * size) + given.absolute
            if given.smallest(most) > MAY_UNDERFLOW:
                total = np.where(size > 0, total, 0.0)
            largest = np.ones((*most[0].shape[:-1], 1))
            for term in given.terms:
                largest = np.maximum(largest, most[term.source].max(axis=-1, keepdims=True, initial=0.0))
            sure = (1.0 + given.relative) * given.peak * largest < LARGEST32  # not where a magnitude is NaN
        return np.asarray(np.where(sure, total, np.inf))

    def rounding(self, posts: Sequence[Array], errors: Sequence[Array]) -> Array:
        """Bound on |computed - exact| of ``self(posts)`` when each post carries an error of ``errors``.

        With a `roundoff`, "exact" is any float32 evaluation as well as the real one. The classical bound for a scalar
        product in any order of summation, plus what the errors of the inputs can move (Higham, *Accuracy and Stability
        of Numerical Algorithms*, 3.1), plus underflow. Infinite or NaN where a partial sum may have overflowed.
        """
        factor = gamma(self.n_terms + len(self.terms) + 8)
        size = np.broadcast_to(np.abs(self.offset), (*posts[0].shape[:-1], self.size))
        with np.errstate(over="ignore", invalid="ignore"):
            for term in self.terms:
                # In units of the factor, which comes last: errors times large weights must not have underflowed before.
                size = size + apply(term.absolute, np.abs(posts[term.source]) + errors[term.source] / factor)
            bound = SAFETY * factor * size + underflow(self.n_terms + 1)
            deviation = None
            if self.roundoff is not None:
                deviation = self.deviation([np.abs(post) + error for post, error in zip(posts, errors, strict=True)])
            bound = bound if deviation is None else bound + deviation
        return np.asarray(np.where(size < OVERFLOW, bound, np.inf))


@dataclass(frozen=True, eq=False)
class Layer:
    """One block of ReLUs.

    ``shape`` is the tensor shape without batch dimension, ``channel_axis`` its channel axis (None for
    vectors), ``origin`` the operator that the ReLUs stand for, ``node`` the name of its node.
    """

    affine: AffineMap
    name: str
    shape: tuple[int, ...]
    origin: str = "Relu"
    channel_axis: int | None = None
    node: str = ""

    @property
    def size(self) -> int:
        """Number of neurons."""
        return self.affine.size


@dataclass(frozen=True)
class Evaluation:
    """A batch of forward passes with bounds on their rounding errors.

    ``pre[k]`` and ``pre_error[k]`` are (batch, n_k); ``output`` and ``output_error`` are (batch, m).
    """

    pre: tuple[Array, ...]
    pre_error: tuple[Array, ...]
    output: Array
    output_error: Array

    def signs(self, layer: int) -> npt.NDArray[np.int8]:
        """+1 or -1 where the sign of a pre-activation is certain by twice its rounding bound, else 0."""
        value, margin = self.pre[layer], 2.0 * self.pre_error[layer]
        with np.errstate(invalid="ignore"):
            return (value > margin).astype(np.int8) - (value < -margin).astype(np.int8)


@dataclass(frozen=True, eq=False)
class Network:
    """A feed-forward ReLU network in canonical form.

    ``exact`` says whether the import computed without rounding; otherwise ``import_error`` bounds the
    absolute error of every single stored coefficient and offset. ``sha256`` is the digest of the ``file`` (with its
    external data) whose network this is, ``content`` what `content_digest` was when it was read; see `identity`.
    """

    n_inputs: int
    layers: tuple[Layer, ...]
    output: AffineMap
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    input_name: str = "input"
    output_name: str = "output"
    file: str = ""
    sha256: str = ""
    content: str = ""
    exact: bool = True
    import_error: float = 0.0
    metadata: dict[str, str] = field(default_factory=dict)
    opset: int = 0

    def __post_init__(self) -> None:
        sizes = self.source_sizes
        for k, affine in enumerate((*(layer.affine for layer in self.layers), self.output)):
            where = f"layer {k}" if k < len(self.layers) else "output"
            if not np.isfinite(affine.offset).all():
                raise NetworkError(f"{where}: an offset is not finite")
            for term in affine.terms:
                if not 0 <= term.source <= k:
                    raise NetworkError(f"{where}: source {term.source} is not computed before it")
                if term.matrix.shape != (affine.size, sizes[term.source]):
                    raise NetworkError(
                        f"{where}: a matrix of shape {term.matrix.shape} where "
                        f"{(affine.size, sizes[term.source])} is expected"
                    )
                data = term.matrix.data if isinstance(term.matrix, sparse.csr_array) else term.matrix
                if not np.isfinite(data).all():
                    raise NetworkError(f"{where}: a weight is not finite")

    def __repr__(self) -> str:
        file = f" {plain(self.file)!r}" if self.file else ""
        return (
            f"<Network{file}: {self.n_inputs} inputs, {self.n_neurons} neurons in {len(self.layers)} layers, "
            f"{self.n_outputs} outputs>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: a row for each layer."""
        rows = [
            (k, layer.name, layer.size, "x".join(map(str, layer.shape)), layer.origin, layer.affine.n_connections)
            for k, layer in enumerate(self.layers)
        ]
        headings = ("layer", "name", "neurons", "shape", "operator", "connections")
        return f"<div>{html.text(repr(self))}</div>{html.table(headings, rows)}"

    @cached_property
    def content_digest(self) -> str:
        """SHA-256 of all that is computed: sizes, sources, weights and offsets; sparse matrices count as such."""
        digest = hashlib.sha256(f"{self.n_inputs}".encode())
        for affine in (*(layer.affine for layer in self.layers), self.output):
            digest.update(f"|{affine.size}".encode())
            digest.update(np.ascontiguousarray(affine.offset, "<f8").tobytes())
            for term in affine.terms:
                matrix = term.matrix
                stored = (matrix.indptr, matrix.indices) if isinstance(matrix, sparse.csr_array) else ()
                digest.update(f"({term.source}, {matrix.shape}, {[len(indices) for indices in stored]})".encode())
                for indices in stored:
                    digest.update(np.ascontiguousarray(indices, "<i8").tobytes())
                data = matrix.data if isinstance(matrix, sparse.csr_array) else matrix
                digest.update(np.ascontiguousarray(data, "<f8").tobytes())
        return digest.hexdigest()

    @property
    def identity(self) -> str:
        """The digest that reports name: the file's, where this is what was read from it, else that of the content."""
        return self.sha256 if self.sha256 and self.content == self.content_digest else self.content_digest

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return self.output.size

    @cached_property
    def source_sizes(self) -> tuple[int, ...]:
        """Sizes of the sources: the input, then the post-activations of each layer."""
        return (self.n_inputs, *(layer.size for layer in self.layers))

    @property
    def n_neurons(self) -> int:
        """Number of ReLUs."""
        return sum(layer.size for layer in self.layers)

    @property
    def arithmetic(self) -> str:
        """The arithmetic for which bounds and errors hold: "real", or "float32" for its every evaluation as well."""
        return "real" if self.output.roundoff is None else "float32"

    def _points(self, x: npt.ArrayLike) -> Array:
        points = np.asarray(x, dtype=np.float64)
        points = points.reshape(1, -1) if points.ndim == 1 else points
        if points.ndim != 2 or points.shape[1] != self.n_inputs:
            raise NetworkError(f"points of shape {np.shape(x)} where (batch, {self.n_inputs}) is expected")
        return points

    def pre_activations(self, x: npt.ArrayLike, up_to: int | None = None) -> list[Array]:
        """Pre-activations of each layer (of those before ``up_to``) for x of shape (batch, n_inputs) or (n_inputs,)."""
        posts = [self._points(x)]
        pre: list[Array] = []
        for layer in self.layers[:up_to]:
            pre.append(layer.affine(posts))
            posts.append(np.maximum(pre[-1], 0.0))
        return pre

    def forward(self, x: npt.ArrayLike) -> Array:
        """Outputs in float64, (batch, n_outputs), for x of shape (batch, n_inputs) or (n_inputs,)."""
        points = self._points(x)
        posts = [points, *(np.maximum(g, 0.0) for g in self.pre_activations(points))]
        return self.output(posts)

    def evaluate(self, x: npt.ArrayLike) -> Evaluation:
        """Forward pass with a rigorous bound on the rounding error of every pre-activation and output."""
        points = self._points(x)
        posts, errors = [points], [np.zeros_like(points)]
        pre: list[Array] = []
        pre_error: list[Array] = []
        for layer in self.layers:
            pre.append(layer.affine(posts))
            pre_error.append(layer.affine.rounding(posts, errors))
            posts.append(np.maximum(pre[-1], 0.0))
            errors.append(pre_error[-1])
        return Evaluation(tuple(pre), tuple(pre_error), self.output(posts), self.output.rounding(posts, errors))
