"""Grids: every mistake is listed, combinations are checked before anything runs, keys depend on contents."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from compare_helpers import stablenet, write_fakes, write_grid, write_network

from stablenet.compare.grid import GridError, absolute_domain, read_grid, split_domain
from stablenet.compare.plan import fill, find_arguments, frozen_key, input_files, plan

PRODUCT = """
[[runs]]
formulation = ["bigm", "sos1"]
bounds = ["interval", "crown"]
solver = ["highs", "scip"]
seeds = [0, 1]
"""


def test_product_without_what_a_solver_lacks(tmp_path):
    made = plan(read_grid(write_grid(tmp_path, PRODUCT, networks=2)))
    assert len(made.runs) == 2 * (2 * 2 * 2 - 2) * 2
    assert len({run.key for run in made.runs}) == len(made.runs)
    (left,) = {(item.formulation, item.solver) for item in made.unsupported}
    assert left == ("sos1", "highs")
    assert "SOS1" in made.unsupported[0].reason


def test_blocks_are_a_union_and_a_search_without_solver_has_one_row(tmp_path):
    body = PRODUCT + '[[runs]]\nformulation = ["bigm"]\n[[runs]]\nsearch = "off"\nsolver = ["highs", "scip"]\n'
    made = plan(read_grid(write_grid(tmp_path, body)))
    assert len(made.runs) == 6 * 2 + 1
    (off,) = [run for run in made.runs if run.search == "off"]
    assert (off.formulation, off.solver, off.options.permute) == ("-", "-", None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('[[runs]]\nsolver = "gurobo"\n', ["unknown solver 'gurobo'", "highs"]),
        ('[[runs]]\nformulation = ["bigm", "bigN"]\nbounds = "croon"\n', ["'bigN'", "'croon'", "2 problems"]),
        ('[[runs]]\nsteps = "fast"\n', ["steps names 'fast'", "fair"]),
        ('[[runs]]\ninstances = ["net9"]\n', ["names 'net9'", "net0"]),
        ("[[runs]]\nseeds = [0, -1]\n", ["seeds holds -1"]),
        ('[[runs]]\nseeds = ["a"]\n', ["seeds holds 'a'", "whole number"]),
        ("[[runs]]\nsolvers = 1\n", ["solvers is unknown", "solver"]),
        ("[[runs]]\nsolver = []\n", ["solver is empty"]),
        ('memory_limit = "much"\n[[runs]]\n', ["memory_limit is 'much'", "number"]),
        ("threads = 0\n[[runs]]\n", ["threads is 0"]),
        ("grace = -1.0\n[[runs]]\n", ["grace is -1.0"]),
        (f"memory_limit = 1{'0' * 400}\n[[runs]]\n", ["memory_limit is inf"]),
        (f"time_limit = 1{'0' * 5000}\n[[runs]]\n", ["not a TOML file"]),
        ('[[runs]]\nsteps = "s"\n[steps.s]\ninject = "often"\n', ["steps.s", "'often'"]),
        ('[[runs]]\n[frozen]\nbounds = "croon"\n', ["frozen", "'croon'"]),
        ('[[runs]]\nbounds = "crown:3"\n', ["takes no argument"]),
        ("runs = 3\n", ["runs is 3", "list"]),
        ("[frozen]\nfalsify = 1\n[[runs]]\n", ["falsify is 1", "true or false"]),
        ('name = " "\n[[runs]]\n', ["name is empty"]),
        ('[[runs]]\nsteps = "s"\n[steps.s]\ncheck_with = "cplex"\n', ["steps.s", "unknown solver 'cplex'"]),
        (
            '[[runs]]\nsteps = ["fair", "s"]\n[steps.s]\nfalsify = false\ninject = "off"\nearly_stop = false\n',
            ["steps.s", "the same as the step 'fair'"],
        ),
    ],
)
def test_mistakes_are_named(tmp_path, body, words):
    with pytest.raises(GridError) as error:
        plan(read_grid(write_grid(tmp_path, body)))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_all_mistakes_of_the_file_are_listed_at_once(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text('time_limit = 0\nnom = 1\n[[instances]]\nnetwork = "a.onnx"\n[[runs]]\nsolver = 3\n')
    with pytest.raises(GridError) as error:
        read_grid(path)
    assert len(error.value.problems) == 4
    for word in ("time_limit is 0", "nom is unknown", "domain is missing", "solver"):
        assert word in str(error.value)


def test_a_mistake_is_told_once(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text('time_limit = "5"\ninstances = [1]\nruns = "all"\n')
    with pytest.raises(GridError) as error:
        read_grid(path)
    assert error.value.problems == (
        "instances 1 is 1; a table is expected",
        "runs is 'all'; list is expected",
        "time_limit is '5'; number is expected",
    )


def test_one_instance_under_two_names_is_refused(tmp_path):
    path = write_grid(tmp_path, "[[runs]]\n")
    path.write_text(path.read_text() + '[[instances]]\nname = "b"\nnetwork = "net0.onnx"\ndomain = "box:-1.0:1"\n')
    with pytest.raises(GridError, match="instance 'b': the same network, domain and samples as instance 'net0'"):
        plan(read_grid(path))


def test_the_second_solver_must_take_the_formulation_too(tmp_path):
    body = '[[runs]]\nformulation = ["bigm", "sos1"]\nsolver = "scip"\nsteps = "s"\n[steps.s]\ncheck_with = "highs"\n'
    made = plan(read_grid(write_grid(tmp_path, body)))
    assert {run.formulation for run in made.runs} == {"bigm"}
    assert "'highs' does not offer" in made.unsupported[0].reason


def test_files_are_read_before_anything_runs(tmp_path):
    path = write_grid(tmp_path, "[[runs]]\n", networks=2)
    (tmp_path / "net1.onnx").write_bytes(b"not a network")
    text = path.read_text() + '[[instances]]\nnetwork = "net0.onnx"\ndomain = "box:1:0"\n'
    path.write_text(text)
    with pytest.raises(GridError) as error:
        plan(read_grid(path))
    broken, empty = error.value.problems
    assert broken.startswith("instance 'net1'")
    assert empty.startswith("instance 'net0 box:1:0'")
    assert "exceeds" in empty


def test_only_unsupported_combinations_are_refused(tmp_path):
    with pytest.raises(GridError, match=r"no combination is supported.*SOS1"):
        plan(read_grid(write_grid(tmp_path, '[[runs]]\nformulation = "sos1"\nsolver = "highs"\n')))


def test_removal_by_callback_needs_a_solver_that_can(tmp_path):
    body = '[[runs]]\nsolver = ["highs", "scip"]\nsteps = "lazy"\n[steps.lazy]\nremoval = "callback"\n'
    made = plan(read_grid(write_grid(tmp_path, body)))
    assert {run.solver for run in made.runs} == {"scip"}
    assert made.unsupported[0].solver == "highs"


def test_keys_follow_contents_not_paths(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    one = plan(read_grid(write_grid(first, PRODUCT)))
    shutil.copytree(first, second)
    same = plan(read_grid(second / "grid.toml"))
    assert [run.key for run in one.runs] == [run.key for run in same.runs]
    write_network(second, "net0.onnx", seed=7)
    other = plan(read_grid(second / "grid.toml"))
    assert not {run.key for run in one.runs} & {run.key for run in other.runs}


def test_limits_and_frozen_set_are_part_of_the_key(tmp_path):
    path = write_grid(tmp_path, "[[runs]]\n")
    text = path.read_text()
    keys = set()
    for change in ("", "memory_limit = 500\n", 'frozen = {bounds = "interval"}\n', "permute = false\n"):
        path.write_text(change + text)
        keys.add(plan(read_grid(path)).runs[0].key)
    assert len(keys) == 4


def test_commands_name_every_choice(tmp_path):
    np.save(tmp_path / "c.npy", np.zeros(3))
    np.save(tmp_path / "s.npy", np.zeros((4, 3)))
    path = write_grid(tmp_path, '[[runs]]\nseeds = 5\nsteps = "bare"\n[steps.bare]\nfrozen = false\n')
    path.write_text(path.read_text().replace('"box:-1:1"', '"ball:c.npy:0.5"\nsamples = "s.npy"'))
    made = plan(read_grid(path))
    (run,) = made.runs
    command = fill(find_arguments(run), input_files(run.instance))
    assert command[:4] == ["find", str(tmp_path / "net0.onnx"), "--domain", f"ball:{tmp_path / 'c.npy'}:0.5"]
    joined = " ".join(command)
    for part in ("--solver highs", "--seed 5", "--permute 5", "--threads 1", "--time-limit 600", "--samples"):
        assert part in joined
    assert run.frozen is None
    assert frozen_key(made.instances["net0"], made.grid.frozen)


@pytest.mark.parametrize(
    ("spec", "path"),
    [("box:0:1", None), ("ball:/a/b.npy:0.1:0:1", "/a/b.npy"), ("a/b.vnnlib.gz", "a/b.vnnlib.gz"), ("ball:x", None)],
)
def test_files_in_domains(tmp_path, spec, path):
    before, found, after = split_domain(spec)
    assert found == path
    assert f"{before}{found or ''}{after}" == spec
    if path is not None:
        assert str(tmp_path / path) in absolute_domain(spec, tmp_path)


def test_dry_run_and_outside_packages(tmp_path):
    package = write_fakes(tmp_path)
    path = write_grid(tmp_path, '[[runs]]\nformulation = ["bigm", "outside"]\nseeds = [0, 1, 2]\n')
    run = stablenet("compare", path, "--dry-run", "--workers", 1, package=package)
    assert run.returncode == 0, run.stderr
    assert "6 runs" in run.stdout
    assert "to run: 6, 1 at a time; at most 60 min" in run.stdout
    path.write_text(path.read_text() + 'solver = ["highs", "absent"]\n')
    run = stablenet("compare", path, "--output", tmp_path / "s", package=package)
    assert run.returncode == 2
    assert "pip install absent-solver" in run.stderr
    assert not (tmp_path / "s").exists()
