"""Every formulation passes the suite, and the suite catches broken ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from stablenet.backends.base import Capability
from stablenet.formulations.base import (
    AffineRows,
    Array,
    Cuts,
    Encoding,
    Formulation,
    ReluLayer,
    add_binaries,
    add_variables,
    phase_handles,
    registry,
)
from stablenet.formulations.bigm import BigM, big_m_matrix
from stablenet.formulations.ideal import Ideal
from stablenet.formulations.relaxed import Relaxed
from stablenet.formulations.sos1 import Sos1

from stablenet.bounds import run
from stablenet.core.errors import InputError, UnknownNameError, UnsupportedError
from stablenet.testing import formulation_instances as small
from stablenet.testing import formulations as suite
from stablenet.testing.formulations import ConformanceError, Structure

SPECS = ["bigm", "bigm-loose", "indicator", "sos1", "hull", "partition:2", "partition:3:equal-range", "ideal:root"]
SPECS += ["ideal:cuts", "gdp:bigm", "gdp:hull", "gdp:mbigm", "relaxed"]
SPECS += ["complementarity", "epigraph", "pairs:root", "pairs:cuts", "sart"]
SAME_ROWS = ["partition:2:random", "partition:2:by-weight", "partition:1"]


SLOW = {"partition:3:equal-range", "gdp:bigm", "gdp:mbigm", "ideal:cuts", "pairs:cuts"}  # kin of quicker ones


def matrix() -> list[object]:
    """Specification and check; the long checks of formulations that are kin of others only run when asked for."""
    pairs = itertools.product(SPECS, suite.CHECKS)
    long = {suite.verdicts, suite.fixed_input}
    return [
        pytest.param(
            check, spec, id=f"{spec}-{check.__name__}", marks=[pytest.mark.long] * (spec in SLOW and check in long)
        )
        for spec, check in pairs
    ]


@pytest.mark.parametrize(("check", "spec"), matrix())
def test_conformance(check, spec: str) -> None:
    check(spec)


@pytest.mark.parametrize("spec", SAME_ROWS)
def test_conformance_of_other_groups(spec: str) -> None:
    suite.forward_passes(spec)
    suite.relaxation(spec)


def test_every_formulation_is_tested() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} == set(registry.names())


STRUCTURE = {
    #                    columns rows binaries sets indicators, for one neuron over two inputs
    "bigm": Structure(1, 3, 1, 0, 0),
    "bigm-loose": Structure(2, 3, 1, 0, 0),
    "indicator": Structure(1, 1, 1, 0, 2),
    "sos1": Structure(1, 1, 0, 1, 0),
    "hull": Structure(3, 12, 1, 0, 0),
    "partition:1": Structure(3, 9, 1, 0, 0),
    "partition:2": Structure(3, 12, 1, 0, 0),
    "ideal": Structure(1, 3, 1, 0, 0),
    "gdp:bigm": Structure(2, 5, 2, 0, 0),
    "gdp:hull": Structure(6, 12, 2, 0, 0),
    "gdp:mbigm": Structure(2, 5, 2, 0, 0),
    "relaxed": Structure(0, 2, 0, 0, 0),
    "complementarity": Structure(2, 3, 1, 0, 0),
    "epigraph": Structure(0, 1, 0, 0, 0),
    "pairs": Structure(1, 3, 1, 0, 0),
    "sart": Structure(1, 3, 1, 0, 0),
}


@pytest.mark.parametrize(("spec", "expected"), STRUCTURE.items())
def test_structure_of_one_neuron(spec: str, expected: Structure) -> None:
    assert suite.structure(spec) == expected


ORDER = [
    # tighter, looser: on plain relaxations with the same bounds, separation converged
    ("hull", "partition:4"),
    ("partition:4", "partition:2"),
    ("partition:2", "bigm"),
    ("ideal", "partition:2"),
    ("hull", "partition:2:random"),
    ("hull", "partition:3:by-weight"),
    ("bigm", "bigm-loose"),
    ("bigm", "relaxed"),
    ("gdp:hull", "gdp:bigm"),
    ("gdp:mbigm", "gdp:bigm"),
    ("pairs", "bigm"),
    ("relaxed", "epigraph"),
    ("complementarity", "epigraph"),
    ("bigm", "sart"),
]


@pytest.mark.parametrize("method", ["interval", "crown"])
def test_relaxations_are_ordered_as_theory_says(method: str) -> None:
    strict: set[tuple[str, str]] = set()
    specs = sorted({spec for pair in ORDER for spec in pair})
    for seed, sizes in ((11, (4, 4, 2, 2)), (12, (4, 3, 3, 1))):
        instance = small.random_instance(seed, sizes, ties=False, skip=seed == 12)
        bounds = run(method, instance.network, instance.part)
        for question in suite.open_questions(bounds):
            found = {spec: suite.root_bound(spec, instance, bounds, question) for spec in specs}
            for tight, loose in ORDER:
                assert found[tight] <= found[loose] + 1e-6, (tight, loose, found)
                if found[tight] < found[loose] - 1e-3:
                    strict.add((tight, loose))
            assert found["bigm"] == pytest.approx(found["relaxed"], abs=1e-6)
            assert found["bigm"] == pytest.approx(found["complementarity"], abs=1e-6)
            assert found["bigm"] == pytest.approx(found["sart"], abs=1e-6)
            if method == "interval":
                assert found["ideal"] == pytest.approx(found["hull"], abs=1e-5)
    assert strict >= {
        ("pairs", "bigm"),
        ("relaxed", "epigraph"),
        ("complementarity", "epigraph"),
        ("partition:2", "bigm"),
        ("bigm", "bigm-loose"),
        ("partition:4", "partition:2"),
    }


class Broken(BigM):
    """Big-M with one thing wrong at a time."""

    def __init__(self, flaw: str) -> None:
        self.flaw = flaw
        if flaw == "undeclared cuts":
            self.cuts = "tree"
        if flaw == "declared in vain":
            self.requires = frozenset({Capability.INDICATOR})

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        n, lower, upper = layer.size, layer.lower, layer.upper
        if self.flaw == "halved M":
            upper = upper / 2
        if self.flaw == "halved M below":
            lower = lower / 2
        if self.flaw == "M of 0":
            upper = upper * 0
        if self.flaw == "free binary":
            active = add_variables(block, "is_active", layer.neurons, 0.0, 1.0)
        else:
            active = add_binaries(block, "is_active", layer.neurons)
        matrix = big_m_matrix(lower, upper).toarray()
        sides = np.concatenate([np.zeros(n), -lower, np.zeros(n)])
        if self.flaw == "sign flipped":
            matrix[n : 2 * n, 2 * n :] *= -1
        if self.flaw == "row missing":
            sides[2 * n :] = np.inf
        if self.flaw == "no lower row":
            sides[:n] = np.inf
        block.relu = AffineRows(matrix, [*layer.pre, *layer.post, *active], -np.inf, sides)
        positive, negative = phase_handles(active)
        if self.flaw == "handles swapped":
            positive, negative = negative, positive
        if self.flaw == "handle that allows nothing":
            positive = [type(h)(h.variable, 0.0, 0.0) for h in positive]
        if self.flaw == "handle that allows all":
            positive = [type(h)(h.variable, 0.0, 1.0) for h in positive]
        return Encoding({"active": active}, positive, negative)

    def assign(self, layer: ReluLayer, inputs: Array, pre: Array) -> Mapping[str, Array]:
        values = dict(super().assign(layer, inputs, pre))
        if self.flaw == "wrong values":
            values["active"] = 1.0 - values["active"]
        return values


FLAWS = ["halved M", "halved M below", "M of 0", "free binary", "sign flipped", "row missing", "no lower row"]
FLAWS += ["handles swapped", "handle that allows nothing", "handle that allows all", "wrong values"]
FLAWS += ["undeclared cuts", "declared in vain"]


def caught(formulation: Formulation) -> str | None:
    """The first check that refuses a formulation."""
    for check in suite.CHECKS:
        try:
            check(formulation)
        except ConformanceError:
            return check.__name__
        except UnsupportedError:
            continue
    return None


def test_the_suite_takes_the_unbroken_one() -> None:
    assert caught(Broken("nothing")) is None


@pytest.mark.parametrize("flaw", FLAWS)
def test_the_suite_catches(flaw: str) -> None:
    assert caught(Broken(flaw))


class LooseTriangle(Relaxed):
    """A relaxation that does not contain the ReLU."""

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        super().encode(block, layer)
        block.wrong = AffineRows(np.eye(layer.size), layer.post, -np.inf, layer.upper / 3)
        return Encoding()


class GreedyIdeal(Ideal):
    """Cuts that are too deep."""

    def separate(self, layer: ReluLayer, encoding: Encoding, value: Any) -> Cuts | None:
        cuts = super().separate(layer, encoding, value)
        return None if cuts is None else Cuts(cuts.matrix, cuts.variables, cuts.lower, cuts.upper - 0.3)


class SosOnlyInName(Sos1):
    """SOS1 sets that the model loses."""

    def encode(self, block: Any, layer: ReluLayer) -> Encoding:
        encoding = super().encode(block, layer)
        block.complementary.deactivate()
        return encoding


@pytest.mark.parametrize("broken", [LooseTriangle(), GreedyIdeal(), SosOnlyInName()], ids=lambda f: type(f).__name__)
def test_the_suite_catches_other_kinds(broken: Formulation) -> None:
    assert caught(broken)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("partition:0", "at least one group"),
        ("partition:x", r"partition:P\[:strategy\]"),
        ("partition:2:alphabet", "equal-size"),
        ("ideal:never", "cuts, root"),
        ("gdp:cuttingplane", "bigm, hull, mbigm"),
        ("bigm:3", "takes no argument"),
        ("convex", "bigm, bigm-loose"),
    ],
)
def test_bad_specifications_say_what_exists(spec: str, message: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=message):
        registry.get(spec)


def test_specs_make_the_same_formulation_again() -> None:
    for spec in (*SPECS, *SAME_ROWS):
        formulation = registry.get(spec)
        assert registry.get(formulation.spec).spec == formulation.spec


def test_groups_are_a_partition_by_each_strategy() -> None:
    from stablenet.formulations.partition import STRATEGIES

    rng = np.random.default_rng(0)
    counts = np.array([1, 7, 4, 0, 12])
    neuron, weight = np.repeat(np.arange(5), counts), rng.normal(size=24)
    for (name, strategy), parts in itertools.product(STRATEGIES.items(), (1, 2, 3, 20)):
        label = strategy(neuron, weight, parts)
        assert ((label >= 0) & (label < parts)).all(), name
        if name != "equal-range":
            for i, count in enumerate(counts):
                sizes = np.bincount(label[neuron == i], minlength=parts)
                assert sizes.max(initial=0) - sizes.min(initial=count) <= 1, name
    two, four = (STRATEGIES["equal-size"](neuron, weight, parts) for parts in (2, 4))
    np.testing.assert_array_equal(two, four // 2)
    one = weight[neuron == 1]
    first = STRATEGIES["equal-size"](neuron, weight, 2)[neuron == 1] == 0
    assert one[first].max() < one[~first].min()


def test_relaxations_have_no_handles() -> None:
    instance = small.instances()[0]
    bounds = run("crown", instance.network, instance.part)
    from stablenet.pyomo_model.search_model import build_search_model

    asked = [np.flatnonzero(b.phase == 0) for b in bounds.layers]
    with pytest.raises(UnsupportedError, match="relaxed"):
        build_search_model(
            instance.network, instance.part, bounds, "relaxed", positive=asked, negative=asked, margin=0.0
        )
