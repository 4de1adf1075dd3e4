"""A compressed file compared with its original, point by point, by an independent evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stablenet.core.arrays import Array
from stablenet.core.errors import ContradictionError, InputError, StablenetError
from stablenet.core.network import Network, apply
from stablenet.domain.regions import Domain
from stablenet.falsify.falsifier import puller, random_points
from stablenet.onnx_io.graph import Graph

Evaluator: TypeAlias = Callable[[Array], Array]

Made: TypeAlias = tuple[str, list[Evaluator], np.dtype[Any], int]
"""An evaluator's name, its runs of the original and the new file, their type, and the number of points to use."""

MOST_SINGLE = 256
"""Points that a file with a fixed batch of 1 is run on, one by one."""

MOST_REFERENCE = 16
"""Points for the slow reference evaluator."""

CHUNK = 512

UNITS = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53, np.dtype(np.float16): 2.0**-11}
"""Unit roundoffs of what a file may compute in."""

SMALLEST_HALF = 2.0**-24
"""The smallest positive float16, which bounds the error of underflow in it."""


def unit_of(graph: Graph) -> float:
    """Unit roundoff of a file's type; raises `InputError` for a type that `compress` does not write."""
    dtype = _dtype(graph)
    if dtype not in UNITS:
        raise InputError(f"the network computes in {dtype.name}; compress takes float16, float32 and float64")
    return UNITS[dtype]


def check_points(domain: Domain, witnesses: Array, samples: Array | None, count: int, seed: int) -> Array:
    """Points of a domain: its centre, random ones and vertices, witnesses, and those samples that lie in it."""
    rng = np.random.default_rng(seed)
    pools = [witnesses] + ([] if samples is None else [np.asarray(samples, np.float64)])
    share = max(count // (2 * len(domain.parts)), 1)
    pools += [puller(part)(random_points(part, share, rng)) for part in domain.parts]
    points = np.concatenate(pools)
    return points[domain.contains(points)]


def check_written(planned: Network, written: Network, domain: Domain, unit: float = 2.0**-24) -> None:
    """Check on a few points that the file that was written holds the network that was planned.

    A bound is proven for whatever file there is, so a mistake in writing would only show as a large one. ``unit`` is
    the roundoff of the type of the file's outputs: an output that is constant is stored in it. Raises
    `StablenetError`.
    """
    rng = np.random.default_rng(0)
    points = np.concatenate([puller(part)(random_points(part, 8, rng)) for part in domain.parts])
    one, two = planned.evaluate(points), written.evaluate(points)
    # Constants that a bias took over are rounded to float32 at worst.
    slack = (one.output_error + two.output_error) * (2.0**-22 / 2.0**-53)
    slack = slack + 1.1 * unit * np.abs(one.output) + (SMALLEST_HALF if unit > 1e-4 else 0.0)
    if not (np.abs(one.output - two.output) <= slack).all():
        raise StablenetError("the graph that was written does not compute the network that was planned")


def compare_files(
    graph: Graph, network: Network, data: bytes, *, points: Array, bound: Array, domain: Domain, stored: str
) -> tuple[str, int]:
    """Compare the files' outputs on points; returns what evaluated them, and on how many points.

    ``bound`` (n_outputs,) is what the outputs may differ by, to which both evaluations' rounding is added. Raises
    `ContradictionError` where the networks as read differ by more: then a refutation is false. An evaluator that
    computes the original otherwise than its network as read says nothing about the report: it is named in the first
    value returned, and not used. Raises `StablenetError` where it agrees on the original alone.
    """
    for start in range(0, len(points), CHUNK):
        _compare_own(graph.network, network, points[start : start + CHUNK], bound)
    refused: list[str] = []
    for make in (_onnxruntime, _reference):
        made = make(graph, data)
        if made is None:
            continue
        inside = representable(points, made[2], domain)[: made[3]]
        doubt = None
        for start in range(0, len(inside), CHUNK):
            batch = inside[start : start + CHUNK]
            doubt = doubt or _doubt(made, (graph.network, network), batch, bound, np.dtype(stored))
        if doubt is None:
            return "; ".join([made[0], *refused]), len(inside)
        refused.append(f"not by {doubt}")
    return "; ".join(["stablenet itself", *refused]), len(points)


def _compare_own(a: Network, b: Network, points: Array, bound: Array) -> None:
    one, two = a.evaluate(points), b.evaluate(points)
    over = np.abs(one.output - two.output) - 1.1 * (one.output_error + two.output_error) - bound
    if not (over <= 0).all():
        row, column = np.unravel_index(np.argmax(np.where(np.isnan(over), np.inf, over)), over.shape)
        raise ContradictionError(
            f"the compressed network gives {float(two.output[row, column])!r} for output {column} where the original "
            f"gives {float(one.output[row, column])!r}, which is more than the bound of {bound[column]:.3g} allows: "
            "a refutation that the report holds is false"
        )


def growth_of_underflow(network: Network) -> float:
    """A bound on the effect of underflow in a network's sums on its outputs, in units of the smallest number of its
    type.

    Each sum loses at most one unit for each of its terms, and the maps after it enlarge that by their largest sum of
    magnitudes in a row. Infinite where that product overflows.
    """
    total = 1.0
    with np.errstate(over="ignore"):
        for affine in (*(layer.affine for layer in network.layers), network.output):
            rows = np.zeros(affine.size)
            for term in affine.terms:
                magnitudes: Any = abs(term.matrix)  # the type stubs of csr arrays lack this
                rows += apply(magnitudes, np.ones(term.matrix.shape[1]))
            total = (1.0 + float(rows.max(initial=0.0))) * total + 4.0 * (affine.n_terms + 1)
    return total


def _doubt(
    made: Made, networks: tuple[Network, Network], points: Array, bound: Array, stored: np.dtype[Any]
) -> str | None:
    """How an evaluator computes the original file otherwise than its network as read; None if it has no objection.

    Raises `StablenetError` where its two results differ by more than the bound although it agrees on the original.
    """
    name, runs, dtype, _ = made
    unit = max(UNITS[dtype], UNITS[stored])
    read = [network.evaluate(points) for network in networks]
    found = [run(points) for run in runs]
    tiny = max(float(np.finfo(kind).smallest_subnormal) for kind in (dtype, stored))
    lost = [tiny * growth_of_underflow(network) for network in networks]
    rounding = [
        e.output_error * (1.1 * unit / 2.0**-53) + 1.1 * unit * np.abs(e.output) + under
        for e, under in zip(read, lost, strict=True)
    ]
    over = np.abs(found[0] - found[1]) - rounding[0] - rounding[1] - bound
    if (over <= 0).all():
        return None
    row, column = np.unravel_index(np.argmax(np.where(np.isnan(over), np.inf, over)), over.shape)
    first, second = (float(values[row, column]) for values in found)
    original = float(read[0].output[row, column])
    if not abs(first - original) <= rounding[0][row, column]:
        return f"{name}, which gives output {column} of the original as {first:.9g}, its network as read {original:.9g}"
    raise StablenetError(
        f"{name} gives output {column} of the compressed file as {second:.9g}, the network read from it "
        f"{float(read[1].output[row, column]):.9g}; on the original both agree: nothing is written"
    )


def representable(points: Array, dtype: np.dtype[Any], domain: Domain) -> Array:
    """Points rounded to a type, back into the domain by a unit in the last place where that helps, else left out."""
    kept = []
    with np.errstate(over="ignore"):
        for part in domain.parts:
            near = points[part.holds(points)].astype(dtype)
            near = np.where(near > part.upper, np.nextafter(near, dtype.type(-np.inf)), near)
            near = np.where(near < part.lower, np.nextafter(near, dtype.type(np.inf)), near).astype(np.float64)
            kept.append(near[part.holds(near)])
    return np.concatenate(kept)


def _onnxruntime(graph: Graph, data: bytes) -> Made | None:
    """onnxruntime, where it is installed and has all operators."""
    sessions = _sessions((graph.model.SerializeToString(), data))
    if sessions is None:
        return None
    dtype = _dtype(graph)
    runs = [_runner(session, graph, dtype) for session in sessions]
    return "onnxruntime", runs, dtype, 10**9 if graph.symbolic else MOST_SINGLE


def _reference(graph: Graph, data: bytes) -> Made | None:
    """The evaluator of the onnx package; slow, and not right everywhere (batch normalisation before opset 14)."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    contents = (graph.model.SerializeToString(), data)
    dtype = _dtype(graph)
    evaluators = [ReferenceEvaluator(onnx.load_model_from_string(content)) for content in contents]
    return "onnx.reference", [_runner(each, graph, dtype) for each in evaluators], dtype, MOST_REFERENCE


def _dtype(graph: Graph) -> np.dtype[Any]:
    import onnx

    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(graph.element))


def _sessions(contents: Sequence[bytes]) -> list[Any] | None:
    """The files in onnxruntime; None where it is not installed, or lacks an operator (Conv in float64)."""
    try:
        import onnxruntime
    except ImportError:
        return None
    try:
        return [_session(onnxruntime, content) for content in contents]
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error):
            raise
        return None


def _session(onnxruntime: Any, content: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _runner(evaluator: Any, graph: Graph, dtype: np.dtype[Any]) -> Evaluator:
    """``evaluator`` has the method ``run`` of onnxruntime's sessions."""
    shape = graph.network.input_shape

    def run(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(evaluator.run(None, {graph.input: x})[0])

    def evaluate(points: Array) -> Array:
        given = points.astype(dtype)
        if graph.symbolic:
            return run(given.reshape(len(points), *shape)).reshape(len(points), -1).astype(np.float64)
        lead = (1, *shape) if graph.batched else shape
        return np.array([run(x.reshape(lead)).reshape(-1) for x in given], np.float64)

    return evaluate
