"""Proofs and counterexamples: against exact extrema of the difference, and on changed copies of a real network."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from compress_tools import domain_of, plain, points_of, quick_report, save_dense
from oracle.exact import extrema
from oracle.networks import case
from oracle.plain import Region
from stablenet.backends.base import Status
from stablenet.backends.base import registry as backends

from stablenet.api import find_stable
from stablenet.compression.compress import compress
from stablenet.core.errors import InputError, ReportError, SolverError, UnknownNameError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.domain.regions import Box
from stablenet.equivalence.counterexample import difference_network
from stablenet.equivalence.joint import Joint
from stablenet.equivalence.pairing import by_matching, checked
from stablenet.equivalence.verify import STEPS, verify
from stablenet.onnx_io.reader import load_onnx

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits_3x100.onnx"


def perturbed(network: Network, seed: int, size: float) -> Network:
    """A copy with random relative changes of some coefficients."""
    rng = np.random.default_rng(seed)

    def change(affine: AffineMap) -> AffineMap:
        terms = []
        for term in affine.terms:
            matrix = term.matrix if isinstance(term.matrix, np.ndarray) else term.matrix.toarray()
            chosen = rng.random(matrix.shape) < 0.3
            terms.append(
                Term(term.source, np.where(chosen, matrix * (1.0 + size * rng.normal(size=matrix.shape)), matrix))
            )
        return replace(affine, terms=tuple(terms))

    layers = tuple(replace(layer, affine=change(layer.affine)) for layer in network.layers)
    return replace(network, layers=layers, output=change(network.output), sha256="")


def largest(a: Network, b: Network, domain) -> float:
    """The exact largest |B - A| over the domain."""
    joint = plain(difference_network(a, b))
    regions = [Region(tuple(p.lower.tolist()), tuple(p.upper.tolist())) for p in domain.parts]
    found = extrema(joint, regions)
    return float(max(*(-v for v in found.minimum[-1]), *found.maximum[-1]))


def small(seed: int, tmp_path) -> tuple[Network, object]:
    made = case(seed)
    path = tmp_path / f"{seed}.onnx"
    path.write_bytes(made.onnx)
    return load_onnx(path), domain_of(made)


@pytest.mark.parametrize("seed", [s for s in range(40) if case(s).family in ("dense", "dyadic", "integer", "inactive")])
def test_the_answer_is_that_of_exact_arithmetic(seed, tmp_path):
    a, domain = small(seed, tmp_path)
    b = perturbed(a, seed, 0.05)
    truth = largest(a, b, domain)
    above = verify(a, b, domain, tolerance=1.05 * truth + 1e-7, time_limit=1200)
    assert above.outcome == "equal"
    assert above.bound >= truth * (1 - 1e-9)
    if truth > 1e-6:
        below = verify(a, b, domain, tolerance=0.9 * truth, time_limit=1200)
        assert below.outcome == "different"
        assert below.found is not None
        assert 0.9 * truth < below.found.difference <= truth * (1 + 1e-9)
        assert domain.contains(below.found.point).all()


SMALL = [s for s in range(60) if case(s).family in ("dense", "dyadic") and s != 18]  # those of 18 hardly differ


@pytest.mark.parametrize("seed", SMALL[:6])
@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_the_milp_alone_decides_as_exact_arithmetic_does(seed, solver, tmp_path):
    a, domain = small(seed, tmp_path)
    b = perturbed(a, seed, 0.05)
    truth = largest(a, b, domain)
    assert truth > 1e-6
    options = {"steps": ["milp"], "solver": solver, "time_limit": 600}
    above = verify(a, b, domain, tolerance=1.02 * truth, **options)
    assert (above.outcome, above.by, above.rigorous, above.notes) == ("equal", "milp", False, ())
    assert above.bound >= truth * (1 - 1e-6)
    below = verify(a, b, domain, tolerance=0.95 * truth, **options)
    assert below.outcome == "different"
    assert 0.95 * truth < below.found.difference <= truth * (1 + 1e-9)


def between(tmp_path) -> tuple[Network, Network, object, float]:
    """Networks of many inputs and a tolerance that holds, and that neither bounds nor the search for phases prove."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s) / np.sqrt(s[1]) for s in ((8, 26), (6, 8), (2, 6))]
    offsets = [rng.normal(size=n) * 0.1 for n in (8, 6, 2)]
    a = load_onnx(save_dense(tmp_path, weights, offsets))
    b = perturbed(a, 1, 0.1)
    domain = Box(-np.ones(26), np.ones(26))
    bound = verify(a, b, domain, tolerance=1e3, steps=["bounds"]).bound
    found = verify(a, b, domain, tolerance=0.999 * bound, steps=["gradient"]).found.difference
    return a, b, domain, 0.7 * found + 0.3 * bound


def test_the_milp_closes_what_bounds_leave_open(tmp_path):
    a, b, domain, tolerance = between(tmp_path)
    rest = verify(a, b, domain, tolerance=tolerance, steps=[step for step in STEPS if step != "milp"])
    assert rest.outcome == "undecided"
    assert rest.bound > tolerance
    result = verify(a, b, domain, tolerance=tolerance, time_limit=600)
    assert (result.outcome, result.by, result.rigorous) == ("equal", "milp", False)
    assert result.found.difference <= result.bound <= tolerance


def test_a_solver_that_fails_is_named_and_proves_nothing(tmp_path, monkeypatch):
    a, b, domain, tolerance = between(tmp_path)

    def fails(*_, **__):
        raise SolverError("the solver is out of order")

    monkeypatch.setattr("stablenet.equivalence.verify.largest_difference", fails)
    result = verify(a, b, domain, tolerance=tolerance, steps=["bounds", "milp"])
    assert result.outcome == "undecided"
    assert result.bound > tolerance
    assert [note.split(": ")[-1] for note in result.notes] == ["the solver is out of order"]
    assert result.to_json()["notes"] == list(result.notes)


def test_a_solver_that_says_infeasible_proves_nothing(tmp_path, monkeypatch):
    a, b, domain, tolerance = between(tmp_path)
    backend = type(backends.get("highs"))
    opened = backend.open

    def lying(self, *arguments, **keywords):
        session = opened(self, *arguments, **keywords)
        solve = session.solve
        monkeypatch.setattr(session, "solve", lambda *a, **k: replace(solve(*a, **k), status=Status.INFEASIBLE))
        return session

    monkeypatch.setattr(backend, "open", lying)
    result = verify(a, b, domain, tolerance=tolerance, steps=["milp"])
    assert result.outcome == "undecided"
    assert result.bound == np.inf
    assert result.notes
    assert all("is a solution; the answer is not used" in note for note in result.notes)


def at_one_vertex(inputs: int, size: float) -> tuple[Network, Network]:
    """Networks on [0, 1]^n that differ by 1/2, and only near one vertex, through a neuron of range ``size``."""
    ones = np.ones((1, inputs))
    first = Layer(AffineMap(np.array([size * (0.5 - inputs)]), (Term(0, size * ones),)), "g", (1,))
    a = Network(inputs, (first,), AffineMap(np.zeros(1), (Term(1, np.array([[1.0 / size]])),)))
    return a, replace(a, output=AffineMap(np.zeros(1), (Term(1, np.zeros((1, 1))),)))


@pytest.mark.parametrize("size", [2.0**-40, 1e-9, 1.0, 1e9])
@pytest.mark.parametrize(
    "solver", [pytest.param(s, marks=pytest.mark.backend(s)) for s in ("highs", "scip", "cbc", "gurobi")]
)
def test_the_milp_misses_no_vertex_whatever_the_scale(size, solver):
    a, b = at_one_vertex(26, size)
    for steps in (["bounds", "milp"], ["milp"]):
        result = verify(a, b, Box(np.zeros(26), np.ones(26)), solver=solver, steps=steps)
        assert result.outcome == "different"
        assert result.rigorous
        assert 0.4 < result.found.difference <= result.bound < 1.0


def test_two_terms_of_one_source_both_count():
    weights = np.ones((1, 26))
    offset = np.array([-25.5])
    output = AffineMap(np.zeros(1), (Term(1, np.ones((1, 1))),))

    def made(*terms: Term, out: AffineMap = output) -> Network:
        return Network(26, (Layer(AffineMap(offset, terms), "g", (1,)),), out)

    once, twice = made(Term(0, weights)), made(Term(0, weights / 4), Term(0, 0.75 * weights))
    domain = Box(np.zeros(26), np.ones(26))
    for first, second in ((once, twice), (twice, once), (twice, twice)):
        same = verify(first, second, domain, steps=["bounds"])
        assert (same.outcome, same.bound, same.rigorous) == ("equal", 0.0, True)
    less = made(Term(0, 0.75 * weights))
    split_output = AffineMap(np.zeros(1), (Term(1, np.ones((1, 1))), Term(1, np.ones((1, 1)))))
    for first, second in ((twice, less), (less, twice), (once, made(Term(0, weights), out=split_output))):
        for steps in (["bounds", "milp"], ["milp"], list(STEPS)):
            assert verify(first, second, domain, steps=steps).outcome == "different"


def test_a_bound_beside_a_counterexample_holds_there(tmp_path):
    a, domain = small(0, tmp_path)
    result = verify(a, perturbed(a, 0, 0.05), domain, tolerance=0.0)
    assert result.outcome == "different"
    assert result.rigorous
    assert result.found.difference <= result.bound < np.inf


def test_a_report_takes_the_place_of_the_search(tmp_path, monkeypatch):
    """A stand-in is equal only where the neurons that it stands for are active, which bounds do not see here."""
    rng = np.random.default_rng(3)
    sizes = (4, *(16,) * 5, 3)
    weights = [rng.normal(size=(m, n)) / np.sqrt(n) for n, m in pairwise(sizes)]
    offsets = [np.where(np.arange(m) % 4, 0.0, 3.0) for m in sizes[1:]]
    path, domain = save_dense(tmp_path, weights, offsets), Box(-np.ones(4), np.ones(4))
    report = find_stable(path, domain, threads=1)
    small_path = tmp_path / "small.onnx"
    compress(path, report).write(small_path)
    monkeypatch.setattr("stablenet.equivalence.stable_neurons.find_stable", None)
    steps = ["bounds", "stable"]
    result = verify(path, small_path, domain, steps=steps, report=report)
    assert (result.outcome, result.by, result.rigorous) == ("equal", "stable, report", True)
    assert verify(small_path, path, domain, steps=steps, report=report).equal
    monkeypatch.undo()
    assert verify(path, small_path, domain, steps=["bounds"]).outcome == "undecided"
    with pytest.raises(ReportError, match="domain"):
        verify(path, small_path, "box:-2:2", report=report)


def test_an_unknown_step_is_named(tmp_path):
    a, domain = small(0, tmp_path)
    with pytest.raises(UnknownNameError, match="there are: bounds, gradient"):
        verify(a, a, domain, steps=["bound"])


def test_a_wrong_pairing_costs_sharpness_not_soundness(tmp_path):
    a, domain = small(0, tmp_path)
    b = perturbed(a, 5, 0.1)
    rng = np.random.default_rng(0)
    neurons = [rng.permutation(layer.size) for layer in b.layers]
    wrong = checked(a, b, list(range(len(b.layers))), neurons)
    low, high = np.stack([p.lower for p in domain.parts]), np.stack([p.upper for p in domain.parts])
    lower, upper = Joint(a, b, wrong, low=low, high=high).run()
    points = points_of(domain, 200)
    difference = b.forward(points) - a.forward(points)
    assert (difference <= upper.max(axis=0) + 1e-12).all()
    assert (difference >= lower.min(axis=0) - 1e-12).all()


def test_impossible_partners_are_dropped(tmp_path):
    a, _ = small(0, tmp_path)
    n = [layer.size for layer in a.layers]
    pairing = checked(a, a, [len(n)] + [0] * (len(n) - 1), [np.zeros(m, np.intp) for m in n])
    assert pairing.layers[0] == -1
    assert all((p >= 0).sum() <= 1 for p in pairing.neurons)


def test_a_permuted_copy_is_matched_and_proven(tmp_path):
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=s) for s in ((12, 5), (12, 12), (3, 12))]
    offsets = [rng.normal(size=n) for n in (12, 12, 3)]
    order = rng.permutation(12)
    moved = [weights[0][order], weights[1][:, order], weights[2]]
    a = load_onnx(save_dense(tmp_path, weights, offsets, "a.onnx"))
    b = load_onnx(save_dense(tmp_path, moved, [offsets[0][order], *offsets[1:]], "b.onnx"))
    domain = Box(-np.ones(5), np.ones(5))
    pairing = by_matching(a, b, points_of(domain, 30))
    assert pairing.neurons[0].tolist() == order.tolist()
    result = verify(a, b, domain)
    assert (result.outcome, result.bound, result.rigorous) == ("equal", 0.0, True)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory) -> Path:
    domain = Box(np.zeros(64), np.ones(64))
    path = tmp_path_factory.mktemp("digits") / "small.onnx"
    compress(DIGITS, quick_report(load_onnx(DIGITS), domain)).write(path)
    return path


def test_the_shipped_example_is_proven_equal(compressed):
    result = verify(DIGITS, compressed, "box:0:1", time_limit=600)
    assert result.equal
    assert result.rigorous
    assert result.neurons["related"] == result.neurons["alone"] == 0


def changed(path: Path, target: Path, weight: str, change) -> Path:
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == weight)
    values = onnx.numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, weight))
    onnx.save(model, target)
    return target


def weight_names(path: Path) -> list[str]:
    return [t.name for t in onnx.load(path).graph.initializer if len(t.dims) == 2]


def largest_up(values: np.ndarray) -> None:
    values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= 1.01


def test_a_weight_changed_by_one_percent_is_found(compressed, tmp_path):
    for name in weight_names(compressed):
        other = changed(compressed, tmp_path / "other.onnx", name, largest_up)
        result = verify(DIGITS, other, "box:0:1", tolerance=1e-5, time_limit=600)
        assert result.outcome == "different", name
        difference = np.abs(
            load_onnx(DIGITS).forward(result.found.point) - load_onnx(other).forward(result.found.point)
        )
        assert difference.max() > 1e-5


def test_an_unstable_neuron_that_is_removed_is_found(compressed, tmp_path):
    last = weight_names(compressed)[-1]
    network = load_onnx(compressed)
    column = int(np.abs(network.output.terms[-1].matrix).sum(axis=0).argmax())

    def clear(values: np.ndarray) -> None:
        values[:, column] = 0.0

    result = verify(DIGITS, changed(compressed, tmp_path / "other.onnx", last, clear), "box:0:1", time_limit=600)
    assert result.outcome == "different"


def test_an_enlarged_domain_is_found(compressed):
    result = verify(DIGITS, compressed, "box:-30:30", time_limit=600)
    assert result.outcome == "different"


def test_shapes_and_tolerances_that_make_no_sense_are_refused(compressed, tmp_path):
    a, domain = small(0, tmp_path)
    with pytest.raises(InputError, match="same shapes"):
        verify(a, DIGITS, domain)
    with pytest.raises(InputError, match="tolerance"):
        verify(DIGITS, compressed, "box:0:1", tolerance=float("nan"))


def test_a_question_outside_of_the_domain_that_a_file_states_is_said_to_be_so(tmp_path) -> None:
    from small import dense as small_network

    from stablenet import Box, compress

    path, domain = small_network(tmp_path), Box(-np.ones(3), np.ones(3))
    small = tmp_path / "small.onnx"
    compress(path, domain=domain, search="off", threads=1).write(small)
    inside = verify(str(path), str(small), Box(-0.5 * np.ones(3), np.ones(3)))
    assert not [note for note in inside.notes if "states a domain" in note]
    outside = verify(str(path), str(small), Box(-2.0 * np.ones(3), np.ones(3)), steps=["bounds"])
    assert [note for note in outside.notes if str(small) in note and "states a domain" in note]
