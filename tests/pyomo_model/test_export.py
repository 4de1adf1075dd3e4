"""Exported models, read back by other solvers."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formulations.networks import crown, cube, dense, random_case
from optimum import optimum
from scipy import sparse

from stablenet.core.errors import DomainError, InputError
from stablenet.milp.arrays import MILP, Indicators, Rows
from stablenet.milp.lp import safe_names
from stablenet.pyomo_model.export import export, write_milp

SUFFIXES = [".lp", ".mps"]


def highs_optimum(path: Path) -> float:
    import highspy

    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("mip_rel_gap", 0.0)
    assert solver.readModel(str(path)) == highspy.HighsStatus.kOk
    solver.run()
    assert solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return float(solver.getInfo().objective_function_value)


def scip_optimum(path: Path) -> float:
    from pyscipopt import Model

    solver = Model()
    solver.hideOutput()
    solver.readProblem(str(path))
    solver.optimize()
    assert solver.getStatus() == "optimal"
    return float(solver.getObjVal())


READERS = {"highs": highs_optimum, "scip": scip_optimum}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("seed", range(11))
def test_other_solvers_find_the_same_optimum(tmp_path: Path, seed: int, reader: str, suffix: str) -> None:
    network, domain, _ = random_case(seed)
    for i, part in enumerate(domain.parts):
        path = tmp_path / f"model{i}{suffix}"
        try:
            milp = export(network, part, crown(network, part), "bigm", path)
        except InputError as error:
            assert "decide every neuron" in str(error)  # noqa: PT017 - some networks have nothing to export
            continue
        assert READERS[reader](path) == pytest.approx(optimum(milp), abs=1e-5)


def awkward() -> MILP:
    """Ranges, a constant, fixed, free, general and half-bounded columns, an empty row and long numbers."""
    matrix = np.array([[1 / 3, 2.0, -1.0, 0.0, 1e-7], [1.0, 0, 0, 1.0, 1], [0, 0, 0, 0, 0], [0, 1.0, 0, 0.5, 0]])
    return MILP(
        Rows(
            sparse.csr_array(matrix), np.array([-4.0, -np.inf, -1.0, 1.5]), np.array([7.000000000000001, 3.0, 1.0, 1.5])
        ),
        np.array([-np.inf, 0.0, 2.0, -3.0, -np.inf]),
        np.array([np.inf, 1.0, 2.0, 5.0, 4.0]),
        np.array([False, True, False, True, False]),
        np.array([1.0, -0.1, 3.0, 0.0, 2 / 3]),
        constant=-12.345678901234567,
        maximize=True,
        columns=["a[0]", "free", "e1", "a_0", "x,y z"],
        row_names=["r[1]", "r_1", "st", "[]"],
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("maximize", [True, False])
def test_awkward_models_survive(tmp_path: Path, reader: str, suffix: str, maximize: bool) -> None:
    milp = replace(awkward(), maximize=maximize)
    if not maximize:
        milp = replace(milp, objective=-milp.objective)
    path = tmp_path / f"awkward{suffix}"
    write_milp(milp, path)
    assert READERS[reader](path) == pytest.approx(optimum(milp), rel=1e-9)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sets_and_indicators_survive(tmp_path: Path, suffix: str) -> None:
    rows = Rows(sparse.csr_array(np.array([[1.0, 0, 0], [0, 1.0, 0]])), np.full(2, -np.inf), np.array([2.0, 1.0]))
    milp = MILP(
        Rows(sparse.csr_array(np.array([[1.0, 1.0, 0]])), np.array([-np.inf]), np.array([100.0])),
        np.zeros(3),
        np.array([5.0, 4.0, 1.0]),
        np.array([False, False, True]),
        np.array([1.0, 1.5, 0.25]),
        maximize=True,
    )
    sets = replace(milp, sos1=(np.array([0, 1]),))
    switched = replace(milp, indicators=Indicators(np.array([2, 2]), np.array([True, False]), rows))
    for model, expected in ((milp, 11.25), (sets, 6.25), (switched, 8.25)):
        path = tmp_path / f"model{suffix}"
        write_milp(model, path)
        assert scip_optimum(path) == pytest.approx(expected, abs=1e-6)


def test_names_are_safe_and_different() -> None:
    names = ["x[3]", "x_3", "free", "e12", "a b", "layer[0].pre[1,2]", "", "3"]
    safe = safe_names(names, len(names), "c")
    assert safe[0] == "x_3"
    assert safe[5] == "layer_0.pre_1_2"
    assert len(set(safe)) == len(names)
    assert safe_names((), 2, "r") == ["r0", "r1"]


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    network, part = dense(0, (2, 3, 1)), cube(2)
    from stablenet.domain.regions import Union

    with pytest.raises(InputError, match=r"\.mps or \.lp"):
        export(network, part, crown(network, part), "bigm", tmp_path / "model.txt")
    with pytest.raises(DomainError, match="one part"):
        export(network, Union([part, part]), crown(network, part), "bigm", tmp_path / "model.lp")
    with pytest.raises(InputError, match="cannot be written"):
        export(network, part, crown(network, part), "bigm", tmp_path / "missing" / "model.lp")
    assert not list(tmp_path.iterdir())


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.lp"
    path.write_text("before")

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(sys.modules["stablenet.milp.lp"], "_bounds", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        write_milp(awkward(), path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["model.lp"]
