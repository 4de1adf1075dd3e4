"""Statistics against values worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from stablenet.compare.statistics import (
    FEWEST,
    MANY,
    axes_that_vary,
    best_shares,
    cactus,
    closed_share,
    curve_table,
    holm,
    interval,
    make_view,
    pairs,
    profile,
    run_curve,
    shifted_geometric_mean,
    summary,
    wilcoxon,
)

LIMIT = 10.0


def row(solver, instance, seconds, *, seed=0, outcome=None, **more):
    finished = seconds is not None
    return {
        "key": f"{solver}-{instance}-{seed}-{more.get('bounds', '')}", "instance": instance, "formulation": "bigm",
        "bounds": "crown", "search": "network", "step": "fair", "solver_options": "none", "solver": solver,
        "seed": seed,
        "outcome": outcome or ("solved" if finished else "time"), "time_limit": LIMIT, "work_s": seconds or LIMIT,
        "nodes": 5, "pending_start": 4, "pending_end": 0 if finished else 2, **more,
    }  # fmt: skip


@pytest.fixture
def rows():
    return [
        row("a", "i1", 1.0), row("a", "i2", 4.0), row("a", "i3", None),
        row("b", "i1", 2.0), row("b", "i2", 2.0), row("b", "i3", 5.0),
    ]  # fmt: skip


def test_view_by_solver(rows):
    view = make_view(rows, "solver")
    assert view.members == ("a", "b")
    assert view.cells == ("i1", "i2", "i3")
    np.testing.assert_array_equal(view.time, [[1, 4, np.inf], [2, 2, 5]])
    np.testing.assert_array_equal(view.capped, [[1, 4, LIMIT], [2, 2, 5]])


def test_summary_by_hand(rows):
    a, b, best = summary(make_view(rows, "solver"))
    assert (a["solved"], b["solved"], best["solved"]) == (2, 3, 3)
    assert a["sgm10"] == pytest.approx((11 * 14 * 20) ** (1 / 3) - 10)
    assert a["sgm1"] == pytest.approx((2 * 5 * 11) ** (1 / 3) - 1)
    assert a["par2"] == pytest.approx((1 + 4 + 20) / 3)
    assert a["par10"] == pytest.approx((1 + 4 + 100) / 3)
    assert b["par2"] == b["par10"] == pytest.approx(3.0)
    assert best["par2"] == pytest.approx((1 + 2 + 5) / 3)
    assert best["sgm1"] == pytest.approx((2 * 3 * 6) ** (1 / 3) - 1)
    assert (a["share"], b["share"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert a["outcomes"] == {"solved": 2, "time": 1}
    assert a["closed"] == pytest.approx((1 + 1 + 0.5) / 3)


def test_the_virtual_best_is_no_worse_than_any_member():
    # One seed in two is solved: the median is not, the penalised mean is half.
    runs = [row("a", "i1", 1.0), row("a", "i1", None, seed=1), row("b", "i1", None), row("b", "i1", None, seed=1)]
    a, b, best = summary(make_view(runs, "solver"))
    assert (a["par2"], b["par2"]) == (10.5, 20.0)
    assert best["par2"] == a["par2"]


def test_profiles_and_cactus_by_hand(rows):
    view = make_view(rows, "solver")
    assert profile(view) == {
        "a": [[1, pytest.approx(1 / 3)], [2, pytest.approx(2 / 3)]],
        "b": [[1, pytest.approx(2 / 3)], [2, 1]],
    }
    assert cactus(view)["b"] == [[2, pytest.approx(2 / 3)], [5, 1]]


def test_seeds_are_repetitions_and_not_samples(rows):
    more = [row(r["solver"], r["instance"], s, seed=k) for r in rows for k, s in enumerate([0.1, 3.0, 6.0])]
    view = make_view(more, "solver")
    assert view.time.shape == (2, 3)
    assert (view.time == 3.0).all()
    (pair,) = pairs(view)
    assert pair["instances"] == 3


def test_of_two_seeds_neither_the_better_nor_the_worse_stands_for_both():
    two = [
        row("a", "i", 1.0, seed=0),
        row("a", "i", None, seed=1),
        row("b", "i", 2.0, seed=0),
        row("b", "i", 2.0, seed=1),
    ]
    view = make_view(two, "solver")
    assert view.time[0, 0] == pytest.approx((1 + LIMIT) / 2)
    assert summary(view)[0]["par2"] == pytest.approx((1 + 20) / 2)
    three = [*two, row("a", "i", None, seed=2), row("b", "i", 2.0, seed=2)]
    assert math.isinf(make_view(three, "solver").time[0, 0])


def test_pairs_by_hand(rows):
    (pair,) = pairs(make_view(rows, "solver"))
    assert pair["ratio"] == pytest.approx((0.5 * 2 * 2) ** (1 / 3))
    assert pair["bound"] == ">="
    assert (pair["a_faster"], pair["b_faster"]) == (1, 2)
    assert pair["low"] is pair["high"] is None, "three instances are too few for an interval"
    assert pair["p"] == pytest.approx(wilcoxon(np.log([0.5, 2, 2])))


def test_of_many_members_each_is_compared_with_the_best_one():
    many = [row(f"s{k:02}", f"i{i}", 1.0 + (k - 3) ** 2 + i) for k in range(MANY + 1) for i in range(3)]
    found = pairs(make_view(many, "solver"))
    assert [pair["a"] for pair in found] == ["s03"] * MANY
    assert "s03" not in {pair["b"] for pair in found}
    assert len(pairs(make_view([r for r in many if r["solver"] != "s00"], "solver"))) == MANY * (MANY - 1) / 2


def test_instances_weigh_alike_however_many_cells_they_have():
    many = [row("a", "i1", 4.0, bounds=f"b{k}") for k in range(9)] + [
        row("b", "i1", 1.0, bounds=f"b{k}") for k in range(9)
    ]
    many += [row("a", "i2", 1.0), row("b", "i2", 4.0)]
    (pair,) = pairs(make_view(many, "solver"))
    assert pair["instances"] == 2
    assert pair["ratio"] == pytest.approx(1.0)


def test_a_wrong_run_is_not_solved(rows):
    view = make_view(rows, "solver", wrong=frozenset({"b-i2-0-"}))
    b = summary(view)[1]
    assert b["solved"] == 2
    assert b["outcomes"] == {"solved": 2, "wrong": 1}
    assert math.isinf(view.time[1, 1])


def test_cells_that_not_all_members_ran_are_dropped(rows):
    view = make_view([*rows, row("a", "i4", 1.0)], "solver")
    assert view.cells == ("i1", "i2", "i3")
    assert view.dropped == 1
    assert make_view([row("a", "i1", 1.0), row("b", "i2", 1.0)], "solver").cells == ()


def test_method_view_and_axes_that_vary(rows):
    view = make_view([*rows, *(row("a", f"i{k}", 1.0, bounds="interval") for k in (1, 2, 3))], "method")
    assert view.members == ("crown a", "crown b", "interval a")
    assert axes_that_vary(rows) == ["method", "solver"]


def test_ties_are_split_and_unsolved_cells_are_nobodys():
    view = make_view([row("a", "i1", 1.0), row("b", "i1", 1.001), row("a", "i2", None), row("b", "i2", None)], "solver")
    np.testing.assert_allclose(best_shares(view), [0.25, 0.25])


def test_shifted_geometric_mean():
    assert shifted_geometric_mean(np.array([2.0, 8.0]), 0.0) == pytest.approx(4.0)
    assert math.isnan(shifted_geometric_mean(np.zeros(0), 1.0))


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_wilcoxon_of_equal_times_is_1_and_of_a_clear_case_small():
    assert wilcoxon(np.zeros(5)) == 1.0
    assert wilcoxon(np.arange(1.0, 13.0)) == pytest.approx(2 / 2**12)


@pytest.mark.parametrize("draw", ["normal", "uniform", "laplace"])
@pytest.mark.parametrize("n", [FEWEST, 8, 15, 30])
def test_intervals_cover_what_they_say_and_a_percentile_bootstrap_would_not(n, draw):
    rng = np.random.default_rng(n)
    runs = 3000
    samples = getattr(rng, draw)(size=(runs, n)) - (0.5 if draw == "uniform" else 0.0)
    covered = np.mean([low <= 0.0 <= high for low, high in map(interval, samples)])
    assert 0.93 <= covered <= 0.97
    if n == FEWEST:
        picked = rng.integers(0, n, size=(400, 300, n))
        means = np.take_along_axis(samples[:400, None, :], picked, axis=2).mean(axis=2)
        low, high = np.percentile(means, [2.5, 97.5], axis=1)
        assert np.mean((low <= 0) & (high >= 0)) < 0.9


def test_no_interval_of_few_instances():
    assert interval(np.arange(FEWEST - 1.0)) == (None, None)


def plain_middle(values):
    """The median, of an even number the mean of the two in the middle, without the product's code."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@pytest.mark.parametrize("seed", range(30))
def test_means_agree_with_a_plain_recomputation_and_par2_is_no_less_than_the_means(seed):
    rng = np.random.default_rng(seed)
    seeds = int(rng.integers(1, 5))
    runs = [
        row(solver, f"i{i}", None if rng.random() < 0.4 else float(rng.uniform(0.01, 1.3 * LIMIT)), seed=k)
        for solver in ("a", "b", "c") for i in range(6) for k in range(seeds)
    ]  # fmt: skip
    for entry in summary(make_view(runs, "solver")):
        if entry["member"] == "virtual best":
            continue
        times = {1: [], 2: [], 10: []}
        for i in range(6):
            mine = [r for r in runs if r["solver"] == entry["member"] and r["instance"] == f"i{i}"]
            for penalty, found in times.items():
                # A run that took longer than its limit was stopped too late, and counts at the limit.
                seconds = [min(r["work_s"], LIMIT) if r["outcome"] == "solved" else penalty * LIMIT for r in mine]
                found.append(plain_middle(seconds))
        for shift in (1.0, 10.0):
            mean = math.exp(sum(math.log(t + shift) for t in times[1]) / 6) - shift
            assert entry[f"sgm{shift:g}"] == pytest.approx(mean)
            assert entry["par2"] >= mean - 1e-9
        assert entry["par2"] == pytest.approx(sum(times[2]) / 6)
        assert entry["par10"] == pytest.approx(sum(times[10]) / 6)


def test_shares_stay_between_0_and_1():
    more = [row("a", "i", 1.0, pending_start=4, pending_end=9), row("b", "i", 1.0)]
    a, b, _ = summary(make_view(more, "solver"))
    assert (a["closed"], b["closed"]) == (0.0, 1.0)


def test_curves_count_pending_questions_of_the_start():
    grid = np.array([0.5, 1.5, 2.5])
    one = {"key": "k", "pending_start": 4, "curve": json.dumps([[0.1, 20], [1.0, 4], [2.0, 1]])}
    np.testing.assert_allclose(run_curve(one, grid), [0, 0, 0.75])
    np.testing.assert_allclose(run_curve(one, grid, frozenset({"k"})), 0)
    np.testing.assert_allclose(run_curve({"key": "k", "pending_start": 0}, grid), 1)
    np.testing.assert_allclose(run_curve({"key": "k", "pending_start": 4, "curve": None}, grid), 0)


def test_curve_table_averages_cells_of_an_instance():
    curve = json.dumps([[0.0, 4], [1.0, 0]])
    two = [row("a", "i", 1.0, bounds="x", curve=curve), row("a", "i", None, bounds="y", curve=None)]
    grid, table = curve_table(make_view(two, "solver"))
    assert table.shape == (1, 1, len(grid))
    assert table[0, 0, -1] == pytest.approx(0.5)


def test_share_closed_ignores_runs_without_a_report():
    assert closed_share([row("a", "i", 1.0, pending_end=None)]) is None
