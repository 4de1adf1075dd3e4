"""Each step of a search is switched by one flag: in Python, on the command line and in a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_helpers import write_grid
from oracle.auditor import audit
from small import dense
from stablenet.backends.session import ArraySession
from typer.testing import CliRunner

from stablenet import Box, find_stable
from stablenet.cli.main import app
from stablenet.compare.grid import read_grid
from stablenet.compare.plan import find_arguments, plan
from stablenet.pyomo_model import search_model
from stablenet.report.report import Report

UNIT = Box(-np.ones(3), np.ones(3))
SHAPE = (3, 6, 6, 6, 2)


def solved(folder: Path, **options: Any) -> Report:
    options = {"bounds": "interval", "falsify": False, "threads": 1, "search": "layer"} | options
    return find_stable(dense(folder, SHAPE, seed=options.get("seed", 0)), UNIT, **options)


@pytest.mark.parametrize("search", ["network", "layer", "neuron"])
@pytest.mark.parametrize("start", [True, False])
def test_start_solutions(search: str, start: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    original = ArraySession.solve

    def solve(self: ArraySession, *arguments: Any, **keywords: Any) -> Any:
        given.append(keywords["start"] is not None)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(ArraySession, "solve", solve)
    report = solved(tmp_path, search=search, start=start)
    assert report.complete
    assert report.data["config"]["start"] is start
    assert given
    assert all(one is start for one in given)


def test_tightening_between_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdicts are the same; with it models are tighter and questions fall to bounds that rest on solves."""
    ranges: dict[bool, float] = {True: 0.0, False: 0.0}
    original = search_model.build_search_model
    on = True

    def build(network: Any, part: Any, bounds: Any, *arguments: Any, **keywords: Any) -> Any:
        ranges[on] += sum(float((layer.upper - layer.lower).sum()) for layer in bounds.layers)
        return original(network, part, bounds, *arguments, **keywords)

    monkeypatch.setattr("stablenet.search.part_model.build_search_model", build)
    binaries = {True: 0, False: 0}
    rigour = set()
    for search in ("layer", "neuron"):
        for seed in range(6):
            found = {}
            for on in (True, False):
                found[on] = solved(tmp_path, search=search, seed=seed, tighten=on, certify=False)
                binaries[on] += sum(solve["binaries"] for solve in found[on].data["solves"])
                assert audit(found[on].to_json(), dense(tmp_path, SHAPE, seed=seed)) == []
            assert found[True].complete
            assert found[True].verdicts() == found[False].verdicts()
            assert found[True].data["config"]["tighten"] is True
            rigour |= {
                neuron[side]["rigorous"]
                for neuron in found[True].data["neurons"]
                for side in ("positive", "negative")
                if neuron[side]["state"] == "refuted" and neuron[side]["by"] == search
            }
    assert ranges[True] < ranges[False]
    assert binaries[True] < binaries[False]
    assert rigour == {False}, "bounds over what a solver refuted are not rigorous"


def test_tightened_bounds_of_rigorous_refutations_are_rigorous(tmp_path: Path) -> None:
    """Phases proven by `branch` are known to the layers after."""
    path = dense(tmp_path, SHAPE, seed=1)
    first = find_stable(path, UNIT, search="branch", bounds="interval", falsify=False)
    assert first.counts["rigorous"] == sum(SHAPE[1:-1])
    resumed = tmp_path / "first.json"
    data = first.to_json()
    last = len(SHAPE) - 3
    for neuron in data["neurons"]:  # forget what is known of the last layer
        if neuron["layer"] == last:
            neuron |= {"verdict": "unknown", "positive": {"state": "open"}, "negative": {"state": "open"}}
    Report(data).write(resumed)
    report = find_stable(path, UNIT, search="layer", bounds="interval", resume=str(resumed), falsify=False, threads=1)
    assert report.verdicts() == find_stable(path, UNIT, threads=1).verdicts()
    # Reported bounds stay those of the methods: no refutation clips them.
    for one, other in zip(report.data["neurons"], data["neurons"], strict=True):
        assert one["lower"] == pytest.approx(other["lower"])


def test_bare_searches_are_not_tightened(tmp_path: Path) -> None:
    on, off = (solved(tmp_path, tighten=tighten, decide_by_bounds=False) for tighten in (True, False))
    assert [s["binaries"] for s in on.data["solves"]] == [s["binaries"] for s in off.data["solves"]]
    assert on.verdicts() == off.verdicts()


def test_flags_of_the_command_line(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    flags = ["--no-decide-by-bounds", "--no-falsify", "--no-start", "--no-tighten", "--inject", "off"]
    arguments = ["find", str(dense(tmp_path)), "--domain", "box:-1:1", *flags, "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    config = Report.read(output).data["config"]
    assert not any(config[name] for name in ("decide_by_bounds", "falsify", "start", "tighten"))
    assert config["inject"] == "off"
    assert config["samples"] is None


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        ("start = false", ["--no-start"]),
        ("tighten = false", ["--no-tighten"]),
        ("falsify = false", ["--no-falsify"]),
        ("decide_by_bounds = false", ["--no-decide-by-bounds"]),
        ("frozen = false\nsamples = false", []),
        ("frozen = false\nfalsify = false", ["--no-falsify"]),
        ("frozen = false", ["--samples"]),
        ("frozen = false\nsamples = true\nfalsify = false", ["--no-falsify", "--samples"]),
    ],
)
def test_steps_of_a_grid(step: str, wanted: list[str], tmp_path: Path) -> None:
    grid = write_grid(tmp_path, f'[[runs]]\nsteps = ["s"]\n[steps.s]\n{step}\n')
    samples = tmp_path / "samples.npy"
    first = read_grid(grid).instances[0]
    np.save(samples, np.zeros((1, 3)))
    text = grid.read_text().replace("[[instances]]", f'[[instances]]\nsamples = "{samples}"', 1)
    grid.write_text(text)
    run = next(run for run in plan(read_grid(grid)).runs if run.instance.name == first.name)
    arguments = find_arguments(run)
    flags = ["--no-decide-by-bounds", "--no-falsify", "--no-start", "--no-tighten", "--samples"]
    assert [flag for flag in flags if flag in arguments] == wanted
