"""A compressed file compared with its original, point by point, by an independent evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stablenet.core.errors import ContradictionError, StablenetError
from stablenet.core.network import Network
from stablenet.domain.regions import Domain
from stablenet.falsify.falsifier import puller, random_points
from stablenet.onnx_io.graph import Graph

Array = npt.NDArray[np.float64]

Evaluator: TypeAlias = Callable[[Array], Array]

MOST_SINGLE = 256
"""Points that a file with a fixed batch of 1 is run on, one by one."""

MOST_REFERENCE = 16
"""Points for the slow reference evaluator."""

CHUNK = 512

UNITS = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53, np.dtype(np.float16): 2.0**-11}
"""Unit roundoffs of what a file may compute in."""


def check_points(domain: Domain, witnesses: Array, samples: Array | None, count: int, seed: int) -> Array:
    """Points of a domain: its centre, random ones and vertices, witnesses, and those samples that lie in it."""
    rng = np.random.default_rng(seed)
    pools = [witnesses] + ([] if samples is None else [np.asarray(samples, np.float64)])
    share = max(count // (2 * len(domain.parts)), 1)
    pools += [puller(part)(random_points(part, share, rng)) for part in domain.parts]
    points = np.concatenate(pools)
    return points[domain.contains(points)]


def check_written(planned: Network, written: Network, domain: Domain) -> None:
    """Whether the file that was written holds the network that was planned, as far as a few points tell.

    A bound is proven for whatever file there is, so a mistake in writing would only show as a large one. Raises
    `StablenetError`.
    """
    rng = np.random.default_rng(0)
    points = np.concatenate([puller(part)(random_points(part, 8, rng)) for part in domain.parts])
    one, two = planned.evaluate(points), written.evaluate(points)
    # Constants that a bias took over are rounded to float32 at worst.
    slack = (one.output_error + two.output_error) * (2.0**-22 / 2.0**-53)
    if not (np.abs(one.output - two.output) <= slack).all():
        raise StablenetError("the graph that was written does not compute the network that was planned")


def compare_files(
    graph: Graph, network: Network, data: bytes, *, points: Array, bound: Array, domain: Domain, stored: str
) -> tuple[str, int]:
    """Compare the files' outputs on points; returns what evaluated them, and on how many points.

    ``bound`` (n_outputs,) is what the outputs may differ by, to which both evaluations' rounding is added. Raises
    `ContradictionError` where they differ by more.
    """
    own: list[Evaluator] = [graph.network.forward, network.forward]
    _compare(graph.network, network, points, bound, runs=own, unit=2.0**-53)
    name, runs, dtype, most = _runners(graph, data)
    inside = representable(points, dtype, domain)[:most]
    if len(inside):
        _compare(graph.network, network, inside, bound, runs=runs, unit=max(UNITS[dtype], UNITS[np.dtype(stored)]))
    return name, len(inside)


def _compare(a: Network, b: Network, points: Array, bound: Array, *, runs: list[Evaluator], unit: float) -> None:
    for start in range(0, len(points), CHUNK):
        batch = points[start : start + CHUNK]
        found = [run(batch) for run in runs]
        exact = [network.evaluate(batch) for network in (a, b)]
        rounding = sum((e.output_error for e in exact), np.zeros_like(found[0])) * (1.1 * unit / 2.0**-53)
        over = np.abs(found[0] - found[1]) - rounding - bound
        if not (over <= 0).all():
            row, column = np.unravel_index(np.argmax(np.where(np.isnan(over), np.inf, over)), over.shape)
            raise ContradictionError(
                f"the compressed network gives {found[1][row, column]!r} for output {column} where the original gives "
                f"{found[0][row, column]!r}, which is more than the bound of {bound[column]:.3g} allows: "
                "a refutation that the report holds is false"
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


def _runners(graph: Graph, data: bytes) -> tuple[str, list[Evaluator], np.dtype[Any], int]:
    """Evaluators of the original and the new file, their type, and on how many points they should be asked."""
    import onnx

    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(graph.element))
    contents = (graph.model.SerializeToString(), data)
    sessions = _sessions(contents)
    if sessions is not None:
        run = [_runner(session, graph, dtype) for session in sessions]
        return "onnxruntime", run, dtype, 10**9 if graph.symbolic else MOST_SINGLE
    from onnx.reference import ReferenceEvaluator

    evaluators = [ReferenceEvaluator(onnx.load_model_from_string(content)) for content in contents]
    run = [_runner(evaluator, graph, dtype) for evaluator in evaluators]
    return "onnx.reference", run, dtype, MOST_REFERENCE


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
