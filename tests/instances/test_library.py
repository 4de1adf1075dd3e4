"""The instance library: built by recipe, checked without a solver, and against solvers, honest ones and liars."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stablenet.cli.main import _run
from stablenet.core.errors import InputError, UnknownNameError
from stablenet.instances import check as checks
from stablenet.instances import library, manifest, regression
from stablenet.instances.check import answer, beats, check_entry
from stablenet.instances.manifest import Entry, load
from stablenet.instances.models import build, hull, regions, trained
from stablenet.instances.recipes import BOX, LIBRARY, PUBLIC, DomainRecipe, NetworkRecipe, PublicNetwork, Recipe
from stablenet.instances.training import dense
from stablenet.milp.check_solution import check_solution

ROOT = Path(__file__).resolve().parents[2]
SMALL = NetworkRecipe("digits", dense(3, 50), 0.0, 0, 3)
NAMES = ("digits-2x50-l1_0.001-box-milp", "highs-2957", "planted-1-1e-05")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        assert _run(["instances", "build", str(folder), "--only", name]) == 0
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(folder: Path, name: str, **changes: Any) -> Entry:
    entries = load(folder)
    entries[name] = replace(entries[name], **changes)
    manifest.save(entries.values(), folder)
    return entries[name]


def test_what_is_built_is_what_the_manifest_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = load()
    for name, entry in load(folder).items():
        assert entry == known[name]
    assert _run(["instances", "check", str(folder), "--rebuild"]) == 0
    said = capsys.readouterr().out
    assert said.count("right") == len(NAMES)
    assert said.count("built anew: the same") == len(NAMES)


def test_models_are_readable_and_unpermuted(folder: Path) -> None:
    text = gzip.decompress((folder / f"{NAMES[0]}.mps.gz").read_bytes()).decode()
    assert text.startswith(f"NAME {NAMES[0]}\nOBJSENSE\n    MAX\n")
    columns = [line.split()[0] for line in text[text.index("COLUMNS") : text.index("RHS\n")].splitlines()[1:]]
    order = list(dict.fromkeys(name for name in columns if name != "MARKER"))
    first = [name for name in order if name.startswith("x[")]
    assert order[: len(first)] == first == [f"x[{i}]" for i in range(64)]
    assert "layer[0].pre[" in text
    assert "layer[1].is_active[" in text


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        ({"sha256": "0" * 64}, "digest"),
        ({"rows": 7}, "rows, columns"),
        ({"primal": 3.5}, "said is 3.5"),
        ({"dual": 9.5, "dual_by": "a liar"}, "excludes a point of value 9"),
        ({"runs": [{"solver": "liar", "dual_bound": 9.5}]}, "the bound of liar"),
        ({"solution_sha256": "0" * 64}, "solution's digest"),
        ({"solution": "solutions/none.sol.gz"}, "missing"),
    ],
)
def test_a_false_manifest_is_told(
    copy: Path, break_it: Mapping[str, Any], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(copy, "highs-2957", **break_it)
    assert _run(["instances", "check", str(copy), "--set", "regression"]) == 4
    assert complaint in capsys.readouterr().out


def test_a_solution_that_is_none_is_told(copy: Path) -> None:
    entry = load(copy)["highs-2957"]
    text = b"=obj= 9.0\nx 4.25\n"
    (copy / str(entry.solution)).write_bytes(gzip.compress(text))
    found = check_entry(entry, copy)
    assert found.wrong
    assert "violates row at_least[0] by 0.25" in found.text


def test_a_model_that_is_missing_or_other_is_told(copy: Path) -> None:
    (copy / f"{NAMES[2]}.mps.gz").unlink()
    assert _run(["instances", "check", str(copy)]) == 3
    path = copy / "highs-2957.mps.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"4.5", b"4.4")))
    assert _run(["instances", "check", str(copy)]) == 4
    assert "another" in check_entry(load(copy)["highs-2957"], copy).text


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_solvers_that_are_right_pass(folder: Path, solver: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["instances", "check", str(folder), "--backend", solver, "--only", "highs-2957"]) == 0
    said = capsys.readouterr().out
    assert "highs-2957: optimal, value" in said
    assert "agrees" in said
    assert "highs-3090: not here; https://github.com" in said


def test_a_solver_that_contradicts_ends_with_exit_code_4(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"status": "optimal", "objective": 15.0, "dual_bound": 15.0, "checked": "feasible"}  # HiGHS 1.14.0
    monkeypatch.setattr(checks, "solve_all", lambda _files, _requests: iter([row]))
    command = ["instances", "check", str(folder), "--backend", "highs", "--only", "highs-2957"]
    assert _run(command) == 4
    out, err = capsys.readouterr()
    assert "WRONG: optimal, bound 15, and a point of value 9 is known" in out
    assert "1 of 3 contradict" in err


RIGHT: dict[str, Any] = {"status": "optimal", "objective": 5.0, "dual_bound": 5.0, "checked": "feasible"}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, False),
        ({"objective": 4.0, "dual_bound": 4.0}, True),
        ({"objective": 4.0}, True),
        ({"status": "time limit", "objective": 4.0, "dual_bound": 6.0}, False),
        ({"status": "time limit", "dual_bound": 4.9}, True),
        ({"objective": 7.0, "dual_bound": 7.0}, True),
        ({"status": "infeasible", "objective": None, "dual_bound": None}, True),
        ({"status": "unbounded", "objective": None, "dual_bound": None}, True),
        ({"checked": "violated by more than 1e-06", "violation": 1.0, "where": "row r"}, True),
    ],
)
def test_what_contradicts(changes: Mapping[str, Any], wrong: bool) -> None:
    found = answer("a", RIGHT | dict(changes), 5.0, 6.0, maximize=True)
    assert found.wrong == wrong
    mirrored = {
        key: -value if isinstance(value, float) and key != "violation" else value for key, value in changes.items()
    }
    start = RIGHT | {"objective": -5.0, "dual_bound": -5.0}
    assert answer("a", start | mirrored, -5.0, -6.0, maximize=False).wrong == wrong
    assert answer("a", {"status": "error", "error": "it broke"}, 5.0, 6.0, maximize=True).failed


def test_external_models_are_used_where_they_are(folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"status": "infeasible"}
    monkeypatch.setattr(checks, "solve_all", lambda _files, _requests: iter([row]))
    (copy / "highs-3090.mps").write_bytes(gzip.decompress((folder / "highs-2957.mps.gz").read_bytes()))
    request = checks.Request("highs", 5.0)
    with pytest.raises(InputError, match="73 rows"):
        checks._external(regression.EXTERNAL[0], copy, request)
    one = replace(regression.EXTERNAL[0], rows=1, columns=2, nonzeros=2)
    assert checks._external(one, copy, request).wrong  # "infeasible", and it is not


@pytest.mark.parametrize("name", regression.MODELS)
def test_regression_models_are_what_they_say(name: str) -> None:
    truth = regression.MODELS[name]()
    found = check_solution(truth.milp, truth.point)
    assert found.feasible(1e-12)
    if truth.dual is not None:
        assert not beats(found.objective, truth.dual, maximize=truth.milp.maximize)
        assert found.objective == pytest.approx(truth.dual, abs=1e-6)
    else:
        assert found.objective == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("domain", [BOX, DomainRecipe("union", 1 / 8, (3, 5)), DomainRecipe("budget", 1 / 2)])
@pytest.mark.parametrize("kind", ["milp", "question", "optimise"])
def test_recipes_make_models_with_a_feasible_point(domain: DomainRecipe, kind: str) -> None:
    found = build(Recipe(SMALL, domain, kind))
    assert found.milp.maximize
    if found.point is not None:
        assert check_solution(found.milp, found.point).feasible(1e-9)
    else:
        assert kind == "optimise"  # whose side constraints the centre may violate


def test_a_union_admits_its_parts_and_nothing_else() -> None:
    from scipy import optimize

    found = build(
        Recipe(NetworkRecipe("digits", dense(2, 50), 1e-4, 0, 4), DomainRecipe("union", 1 / 8, (3, 5)), "milp")
    )
    milp = found.milp
    names = list(milp.columns)
    x = [names.index(f"x[{i}]") for i in range(64)]
    choice = [names.index(f"part[{i}]") for i in range(2)]
    assert found.point is not None
    assert sorted(found.point[choice]) == [0.0, 1.0]
    from stablenet.instances.images import images

    first, second = images("digits")[0][[3, 5]]
    scale = milp.upper[x] / hull(regions(DomainRecipe("union", 1 / 8, (3, 5)), images("digits")[0])).upper
    middle = 0.5 * (first + second)
    for centre, possible in ((first, True), (second, True), (middle, False)):
        lower, upper = milp.lower.copy(), milp.upper.copy()
        lower[x] = upper[x] = scale * centre
        answer_ = optimize.milp(
            np.zeros(milp.n_columns), integrality=milp.integer.astype(int), bounds=optimize.Bounds(lower, upper),
            constraints=optimize.LinearConstraint(milp.rows.matrix, milp.rows.lower, milp.rows.upper),
        )  # fmt: skip
        assert (answer_.status == 0) == possible


def test_the_library_has_what_it_promises() -> None:
    entries = load()
    of = {which: [e for e in entries.values() if e.set == which] for which in manifest.SETS}
    assert len(of["library"]) >= 100
    assert {e.name for e in of["library"]} == set(LIBRARY)
    assert {e.name for e in of["regression"]} == set(regression.MODELS)
    assert {e.name for e in of["public"]} <= set(PUBLIC)
    digests = [e.sha256 for e in entries.values()]
    assert len(set(digests)) == len(digests)
    for entry in entries.values():
        assert entry.status == "unmeasured" or entry.runs
        if entry.solution is not None:
            file = manifest.FOLDER / entry.solution
            assert manifest.text_digest(file) == entry.solution_sha256
        if entry.dual is not None and entry.primal is not None:
            assert not beats(entry.primal, entry.dual, maximize=entry.maximize)
    sizes = [p.stat().st_size for p in manifest.FOLDER.rglob("*") if p.is_file()]
    assert max(sizes) < 1_000_000
    assert sum(sizes) < 4_000_000


def test_the_page_names_every_field_and_status() -> None:
    text = (ROOT / "docs" / "instances.md").read_text()
    for one in fields(Entry):
        assert f"`{one.name}`" in text, one.name
    for word in (*manifest.STATUSES, *manifest.SETS):
        assert f"`{word}`" in text, word


def test_list_filters(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["instances", "list", "--set", "regression", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == set(regression.MODELS)
    assert _run(["instances", "list", "--only", "digits-2x50*"]) == 0
    said = capsys.readouterr().out
    assert "digits-2x50-l1_0" in said
    assert "mnist" not in said
    for bad in (["--set", "nosuch"], ["--status", "nosuch"], ["--only", "nosuch"]):
        assert _run(["instances", "list", *bad]) == 2


def test_unknown_things_are_refused(tmp_path: Path) -> None:
    assert _run(["instances", "build", str(tmp_path), "--set", "nosuch"]) == 2
    assert _run(["instances", "build", str(tmp_path), "--only", "nosuch"]) == 2
    assert _run(["instances", "check", str(tmp_path)]) == 2
    with pytest.raises(InputError, match="no recipe"):
        library.make("nosuch")
    (tmp_path / "manifest.json").write_text('{"format": 7, "instances": []}')
    with pytest.raises(InputError, match="format 7"):
        load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 1, "instances": [{"name": "a"}]}')
    with pytest.raises(InputError, match="not a manifest"):
        load(tmp_path)
    entry = next(iter(load().values()))
    manifest.save([replace(entry, status="great")], tmp_path)
    with pytest.raises(UnknownNameError, match="great"):
        load(tmp_path)


def test_a_public_network_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(name for name, recipe in PUBLIC.items() if isinstance(recipe.network, PublicNetwork))
    (tmp_path / "networks").mkdir()
    command = ["instances", "build", str(tmp_path / "m"), "--set", "public", "--only", name]
    assert _run([*command, "--networks", str(tmp_path / "networks")]) == 3
    assert "no such file" in capsys.readouterr().out
    assert _run(command) == 3
    assert "--networks" in capsys.readouterr().out


def test_networks_are_those_of_the_manifest() -> None:
    entry = load()[NAMES[0]]
    recipe = LIBRARY[NAMES[0]].network
    assert isinstance(recipe, NetworkRecipe)
    found = trained(recipe)
    assert found.network.content_digest == entry.network["sha256"]


@pytest.mark.long
def test_all_that_needs_no_public_network_is_built_as_the_manifest_says(tmp_path: Path) -> None:
    assert _run(["instances", "build", str(tmp_path / "all")]) == 0
    assert _run(["instances", "check", str(tmp_path / "all")]) == 0
