"""Affine rows as Pyomo constraints, and Pyomo models as arrays."""

import contextlib

import numpy as np
import pyomo.environ as pyo
import pytest
from optimum import optimum
from pyomo.gdp import Disjunct, Disjunction
from pyomo.mpec import Complementarity, complements
from scipy import sparse

from stablenet.core.errors import InputError, UnsupportedError
from stablenet.milp.affine_rows import AffineRows, IndicatorRows
from stablenet.milp.arrays import MILP, Indicators, Rows, permute
from stablenet.milp.compiler import compile_model


def random_model(seed: int, *, arrays: bool) -> pyo.ConcreteModel:
    """A bounded feasible MILP, stated by `AffineRows` or by ordinary constraints."""
    rng = np.random.default_rng(seed)
    m, n = 6, 5
    matrix = np.round(rng.normal(size=(m, n)), 2) * (rng.random((m, n)) < 0.7)
    inside = rng.integers(0, 2, size=n).astype(float)
    lower = np.where(rng.random(m) < 0.5, matrix @ inside - rng.random(m), -np.inf)
    upper = np.where(rng.random(m) < 0.5, matrix @ inside + rng.random(m), np.inf)
    lower[0] = upper[0] = matrix[0] @ inside
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), bounds=(-2, 3))
    model.x[1].domain = pyo.Integers
    columns = list(model.x.values())
    if arrays:
        model.rows = AffineRows(matrix if seed % 2 else sparse.csr_array(matrix), columns, lower, upper)
    else:
        model.rows = pyo.ConstraintList()
        for i in range(m):
            sides = (None if np.isinf(lower[i]) else lower[i], None if np.isinf(upper[i]) else upper[i])
            if sides != (None, None) and matrix[i].any():
                model.rows.add((sides[0], sum(matrix[i, j] * columns[j] for j in range(n)), sides[1]))
    cost = rng.normal(size=n)
    model.goal = pyo.Objective(expr=sum(cost[j] * columns[j] for j in range(n)) + 1.5, sense=pyo.maximize)
    return model


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solver", ["highs", "appsi_highs", "scip_direct"])
def test_rows_are_ordinary_constraints_for_pyomos_solvers(seed: int, solver: str) -> None:
    models = [random_model(seed, arrays=arrays) for arrays in (False, True)]
    models.append(models[1].clone())
    for model in models:
        pyo.SolverFactory(solver).solve(model)
    values = [pyo.value(model.goal) for model in models]
    assert values == pytest.approx([values[0]] * 3, abs=1e-6)
    assert optimum(compile_model(models[0]).milp) == pytest.approx(values[0], abs=1e-6)
    assert optimum(compile_model(models[1]).milp) == pytest.approx(values[0], abs=1e-6)


def test_rows_answer_as_constraints_do() -> None:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(2))
    model.rows = AffineRows(
        np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]]), list(model.x.values()), [1, -np.inf, 2], [4, 5, 2]
    )
    model.x[0].value, model.x[1].value = 1.0, 0.5
    first, second, third = model.rows.values()
    assert (first.lb, first.ub, first(), first.equality) == (1.0, 4.0, 2.0, False)
    assert (second.lb, second.ub, second.has_lb(), second.has_ub()) == (None, 5.0, False, True)
    assert third.equality
    assert third.slack() == 1.0 or third.lslack() == 1.0
    assert str(third.expr) == "3.0*x[0]  ==  2.0"
    assert [c.name for c in model.component_data_objects(pyo.Constraint)] == ["rows[0]", "rows[1]", "rows[2]"]
    with pytest.raises(InputError, match="rows\\[0\\]"):
        first.set_value(model.x[0] <= 1)


def test_clones_have_their_own_variables_and_share_the_numbers() -> None:
    model = random_model(0, arrays=True)
    copy = model.clone()
    assert all(a is b for a, b in zip(copy.rows.variables, copy.x.values(), strict=True))
    assert copy.rows.arrays is model.rows.arrays
    copy.x[0].fix(1.0)
    assert compile_model(copy).milp.upper[0] == 1.0
    assert compile_model(model).milp.upper[0] == 3.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: AffineRows(np.ones((1, 3)), x, 0, 1), "3 columns for 2 variables"),
        (lambda x: AffineRows(np.array([[1.0, 1.0], [np.inf, 0.0]]), x, 0, 1), "row 1"),
        (lambda x: AffineRows(np.ones((2, 2)), x, [0.0, np.nan], 1), "lower side of row 1 is NaN"),
        (lambda x: IndicatorRows(np.ones((1, 2)), x, 0, 1, binary=x[:1]), "range"),
        (lambda x: IndicatorRows(np.ones((1, 2)), x, 0, 0, binary=x), "2 binary variables for 1 rows"),
    ],
)
def test_bad_rows_are_refused(build, message: str) -> None:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(2))
    with pytest.raises(InputError, match=message):
        build(list(model.x.values()))


def test_compile_keeps_order_unused_and_fixed_variables_and_ranges() -> None:
    model = pyo.ConcreteModel()
    model.b = pyo.Var(domain=pyo.Binary)
    model.unused = pyo.Var(bounds=(0, 7))
    model.f = pyo.Var(bounds=(0, 5))
    model.i = pyo.Var(domain=pyo.Integers, bounds=(-3, 3))
    model.f.fix(2)
    model.alias = pyo.Reference([model.i, model.b])
    model.range = pyo.Constraint(expr=pyo.inequality(-1, model.i + 2 * model.f + 1, 9))
    model.equal = pyo.Constraint(expr=model.b + model.i == 1)
    model.off = pyo.Constraint(expr=model.b >= 1)
    model.off.deactivate()
    model.rows = AffineRows(np.eye(3), [model.f, model.i, model.f], [0, -1, 0], [3, 1, 2])
    model.rows[1].deactivate()
    model.goal = pyo.Objective(expr=3 * model.i - model.f + 4)
    compiled = compile_model(model)
    result = compiled.milp
    assert list(result.columns) == ["b", "unused", "f", "i"]
    assert [v.name for v in compiled.variables] == list(result.columns)
    assert compiled.columns([model.i, model.f]).tolist() == [3, 2]
    assert list(result.row_names) == ["range", "equal", "rows[0]", "rows[2]"]
    np.testing.assert_array_equal(
        result.rows.matrix.toarray(), [[0, 0, 0, 1], [1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 0]]
    )
    np.testing.assert_array_equal(result.rows.lower, [-6, 1, 0, 0])
    np.testing.assert_array_equal(result.rows.upper, [4, 1, 3, 2])
    np.testing.assert_array_equal(result.lower, [0, 0, 2, -3])
    np.testing.assert_array_equal(result.upper, [1, 7, 2, 3])
    np.testing.assert_array_equal(result.integer, [True, False, False, True])
    assert (result.objective.tolist(), result.constant, result.maximize) == ([0, 0, 0, 3], 2.0, False)
    with pytest.raises(InputError, match="stranger"):
        compiled.column(pyo.Var(name="stranger"))


def test_the_same_variable_twice_in_a_row_adds_up() -> None:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(2))
    model.rows = AffineRows(np.array([[1.0, 2.0, 4.0], [1.0, 1.0, -1.0]]), [model.x[0], model.x[1], model.x[0]], 0, 1)
    np.testing.assert_array_equal(compile_model(model).milp.rows.matrix.toarray(), [[5, 2], [0, 1]])


def test_sos_sets_by_weight_and_indicators() -> None:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), bounds=(0, 4))
    model.z = pyo.Var(range(2), domain=pyo.Binary)
    model.set = pyo.SOSConstraint(var=model.x, index=[0, 2, 1], weights={0: 3.0, 1: 1.0, 2: 2.0}, sos=1)
    x, z = list(model.x.values()), list(model.z.values())
    model.on = IndicatorRows(
        np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), x, [-np.inf, 2], [3, 2], binary=z, value=[True, False]
    )
    result = compile_model(model).milp
    assert [s.tolist() for s in result.sos1] == [[1, 2, 0]]
    assert result.indicators is not None
    assert result.indicators.binary.tolist() == [3, 4]
    assert result.indicators.value.tolist() == [True, False]
    assert result.n_rows == 0
    assert result.violation(np.array([4.0, 0, 0, 0, 1])) == 0
    assert result.violation(np.array([4.0, 0, 0, 1, 1])) == 1
    assert result.violation(np.array([0, 0, 1.5, 0, 0])) == 0.5
    assert result.violation(np.array([1.0, 2, 0, 0, 1])) == 1


def test_an_indicator_row_is_never_lost_by_pyomos_solvers() -> None:
    def model() -> pyo.ConcreteModel:
        m = pyo.ConcreteModel()
        m.x = pyo.Var(bounds=(0, 4))
        m.z = pyo.Var(domain=pyo.Binary)
        m.on = IndicatorRows(np.ones((2, 1)), [m.x], -np.inf, [1, 3], binary=[m.z, m.z], value=[True, False])
        m.goal = pyo.Objective(expr=m.x, sense=pyo.maximize)
        return m

    solved = model()
    pyo.SolverFactory("scip_direct").solve(solved)
    assert pyo.value(solved.goal) == pytest.approx(3, abs=1e-6)
    with pytest.raises(Exception, match="degree"):
        pyo.SolverFactory("highs").solve(model())


def _carried_not(kind: str) -> pyo.ConcreteModel:
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), bounds=(0, 1))
    m.rows = AffineRows(np.eye(2), list(m.x.values()), 0, 1)
    m.rows[1].deactivate()
    if kind == "disjunction":
        m.left, m.right = Disjunct(), Disjunct()
        m.culprit = Disjunction(expr=[m.left, m.right])
    elif kind == "disjunct":
        m.culprit = Disjunct()
    elif kind == "complementarity":
        m.culprit = Complementarity(expr=complements(m.x[0] >= 0, m.x[1] >= 0))
    elif kind == "logical":
        m.y = pyo.BooleanVar(range(2))
        m.culprit = pyo.LogicalConstraint(expr=m.y[0].implies(m.y[1]))
    elif kind == "nonlinear":
        m.culprit = pyo.Constraint(expr=m.x[0] * m.x[1] <= 1)
    elif kind == "nonlinear objective":
        m.culprit = pyo.Objective(expr=m.x[0] ** 2)
    elif kind == "sos2":
        m.culprit = pyo.SOSConstraint(var=m.x, sos=2)
    elif kind == "two objectives":
        m.first, m.culprit = pyo.Objective(expr=m.x[0]), pyo.Objective(expr=m.x[1])
    elif kind == "piecewise":
        m.culprit = pyo.Piecewise(m.x[1], m.x[0], pw_pts=[0, 0.5, 1], pw_constr_type="EQ", f_rule=[0, 1, 0])
    elif kind == "domain":
        m.culprit = pyo.Var(domain=pyo.Set(initialize=[1, 4, 9]))
    return m


KINDS = ["disjunction", "disjunct", "complementarity", "logical", "nonlinear", "nonlinear objective", "sos2"]
KINDS += ["two objectives", "piecewise", "domain"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_milp_cannot_carry_is_refused_by_name_and_the_model_left_alone(kind: str) -> None:
    model = _carried_not(kind)
    named = {"disjunction": "left|right|culprit"}.get(kind, "culprit")
    with pytest.raises(UnsupportedError, match=named):
        compile_model(model)
    assert model.rows.active
    assert [row.active for row in model.rows.values()] == [True, False]
    model.del_component(model.culprit)
    with contextlib.suppress(AttributeError):
        model.left.deactivate()
        model.right.deactivate()
    assert compile_model(model).milp.n_rows == 1


def test_inactive_components_say_nothing() -> None:
    model = _carried_not("logical")
    model.culprit.deactivate()
    model.block = pyo.Block()
    model.block.rows = AffineRows(np.eye(2), list(model.x.values()), 0, 0)
    model.block.deactivate()
    assert compile_model(model).milp.n_rows == 1


def test_tiny_coefficients_relax_their_row_by_all_they_could_contribute() -> None:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), bounds=(-2e6, 4e6))
    model.y = pyo.Var()
    tiny = [[1.0, 1e-9, -5e-10], [0.0, 1e-10, 1.0], [1.0, 2e-9, 0.0]]
    model.rows = AffineRows(np.array(tiny), list(model.x.values()), [-1, -np.inf, 0], [1, 0, 0])
    model.free = pyo.Constraint(expr=model.y >= -7)
    model.goal = pyo.Objective(expr=1e-10 * model.x[1] + model.x[0], sense=pyo.maximize)
    result = compile_model(model).milp
    np.testing.assert_array_equal(result.rows.matrix.toarray()[1:, :3], [[1, 0, 0], [0, 0, 1], [1, 2e-9, 0]])
    # 1e-9 x1 - 5e-10 x2 lies in [-2e-3 - 2e-3, 4e-3 + 1e-3], and 1e-10 x1 in [-2e-4, 4e-4].
    np.testing.assert_allclose(result.rows.lower[1:], [-1 - 5e-3, -np.inf, 0], rtol=1e-12)
    np.testing.assert_allclose(result.rows.upper[1:], [1 + 4e-3, 2e-4, 0], rtol=1e-12)
    assert result.objective.tolist() == [1, 0, 0, 0]
    assert result.constant == pytest.approx(4e-4)
    rng = np.random.default_rng(0)
    for _ in range(200):
        x = rng.uniform(-2e6, 4e6, size=3)
        x[0] = rng.uniform(-1.01, 1.01)
        exact = np.array(tiny) @ x
        held = (exact >= [-1, -np.inf, 0]) & (exact <= [1, 0, 0])
        got = result.rows.matrix[1:, :3] @ x
        assert ((got >= result.rows.lower[1:]) & (got <= result.rows.upper[1:]))[held].all()


def test_a_tiny_coefficient_of_an_unbounded_variable_is_refused() -> None:
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, 1)), pyo.Var(bounds=(0, None))
    model.rows = AffineRows(np.array([[1.0, 1e-10]]), [model.x, model.y], -np.inf, 1)
    assert compile_model(model).milp.n_nonzeros == 1  # y >= 0 can only make the row tighter
    model.other = AffineRows(np.array([[1.0, 1e-10]]), [model.x, model.y], 0, np.inf)
    with pytest.raises(InputError, match=r"other\[0\].*'y'"):
        compile_model(model)


@pytest.mark.parametrize("spoil", ["no value", "fraction", "never"])
def test_models_that_make_no_sense(spoil: str) -> None:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(domain=pyo.Integers)
    if spoil == "no value":
        model.x.fixed = True
    elif spoil == "fraction":
        model.x.fix(0.5, skip_validation=True)
    else:
        model.x.fix(1)
        model.c = pyo.Constraint(expr=model.x >= 2)
    with pytest.raises(InputError):
        compile_model(model)


@pytest.mark.parametrize("seed", range(3))
def test_a_permutation_is_the_same_problem(seed: int) -> None:
    milp = compile_model(random_model(seed, arrays=True)).milp
    permuted, columns, rows = permute(milp, seed + 10)
    again, *_ = permute(milp, seed + 10)
    np.testing.assert_array_equal(permuted.rows.matrix.toarray(), again.rows.matrix.toarray())
    assert sorted(columns) == list(range(milp.n_columns))
    assert sorted(rows) == list(range(milp.n_rows))
    np.testing.assert_array_equal(permuted.rows.matrix.toarray(), milp.rows.matrix.toarray()[rows][:, columns])
    assert [permuted.columns[j] for j in range(3)] == [milp.columns[columns[j]] for j in range(3)]
    assert optimum(permuted) == pytest.approx(optimum(milp), abs=1e-6)
    x = np.random.default_rng(seed).uniform(-3, 3, size=milp.n_columns)
    assert permuted.violation(x[columns]) == pytest.approx(milp.violation(x), abs=1e-12)
    assert permuted.value(x[columns]) == pytest.approx(milp.value(x))


def test_a_permutation_takes_sets_and_indicators_along() -> None:
    rows = Rows(sparse.csr_array(np.array([[1.0, 0, 0, 1], [0, 1.0, 1, 0]])), np.zeros(2), np.full(2, np.inf))
    milp = MILP(
        Rows(sparse.csr_array((0, 4)), np.zeros(0), np.zeros(0)),
        np.full(4, -1.0),
        np.ones(4),
        np.array([False, False, False, True]),
        np.arange(4.0),
        sos1=(np.array([0, 1]), np.array([1, 2])),
        indicators=Indicators(np.array([3, 3]), np.array([True, False]), rows),
    )
    for seed in range(5):
        permuted, columns, _ = permute(milp, seed)
        rng = np.random.default_rng(seed)
        for _ in range(50):
            x = np.round(rng.uniform(-1.4, 1.4, size=4))
            assert permuted.violation(x[columns]) == milp.violation(x)
