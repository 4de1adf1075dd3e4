"""The Python entry points: in process and in a process of its own, and Ctrl-C."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.auditor import audit
from small import dense

import stablenet
from stablenet import Box, LinfBall, Union, build_model, find_stable, load_onnx
from stablenet.core.errors import InputError, NetworkError, UnknownNameError
from stablenet.find.pipeline import find
from stablenet.testing.suite import slowness

DOMAIN = Box(-np.ones(3), np.ones(3))
BARE: dict[str, Any] = {"falsify": False, "decide_by_bounds": False, "threads": 1}


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense(tmp_path_factory.mktemp("net"))


def test_all_that_is_promised_is_there() -> None:
    for name in stablenet.__all__:
        assert getattr(stablenet, name) is not None
    assert set(stablenet.__all__) < set(dir(stablenet))
    with pytest.raises(AttributeError, match="no attribute 'find_unstable'"):
        _ = stablenet.find_unstable


def test_importing_the_package_imports_no_solver() -> None:
    code = (
        "import sys, stablenet, stablenet.cli.main; stablenet.find_stable; "
        "print([m for m in ('highspy', 'pyscipopt', 'gurobipy', 'cbcbox') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_networks_and_domains_in_every_form_agree(path: Path) -> None:
    network = load_onnx(path)
    forms: list[tuple[Any, Any]] = [
        (path, DOMAIN),
        (str(path), "box:-1:1"),
        (network, LinfBall(np.zeros(3), 1.0)),
        (network, Union([DOMAIN])),
    ]
    reports = [find_stable(net, domain, threads=1).to_json() for net, domain in forms]
    assert all(report["neurons"] == reports[0]["neurons"] for report in reports)
    assert all(report["domain"] == DOMAIN.to_json() for report in reports)


def timeless(neurons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neurons without what a run's clock says."""
    copied = copy.deepcopy(neurons)
    for neuron in copied:
        for side in ("positive", "negative"):
            neuron[side].get("certified", {}).pop("seconds", None)
    return copied


@pytest.mark.parametrize("options", [{}, {**BARE, "search": "neuron"}])
def test_isolated_and_in_process_agree(options: dict[str, Any], path: Path) -> None:
    options = {"threads": 1, **options}
    here = find_stable(path, DOMAIN, **options)
    there = find_stable(load_onnx(path), DOMAIN, isolate=True, **options)
    assert timeless(here.data["neurons"]) == timeless(there.data["neurons"])
    assert here.data["witnesses"] == there.data["witnesses"]
    assert (here.stopped_by, here.complete) == (there.stopped_by, there.complete)
    assert {**here.data["config"], "memory_limit": None} == {**there.data["config"], "memory_limit": None}
    assert audit(there.to_json(), path) == []


@pytest.mark.parametrize("isolate", [False, True])
def test_bad_input_is_the_same_error_in_both(isolate: bool, path: Path) -> None:
    with pytest.raises(InputError, match="there are: auto"):
        find_stable(path, DOMAIN, isolate=isolate, search="best")
    with pytest.raises(InputError, match="2 inputs"):
        find_stable(path, Box(np.zeros(2), np.ones(2)), isolate=isolate)


def test_unknown_options_are_named(path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown option 'serach'"):
        find_stable(path, DOMAIN, serach="network")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="missing"):
        find_stable(tmp_path / "missing.onnx", DOMAIN)


def test_a_file_that_changed_is_not_searched_for_another(tmp_path: Path) -> None:
    network = load_onnx(dense(tmp_path))
    dense(tmp_path, seed=1)
    with pytest.raises(InputError, match="not the one any more"):
        find_stable(network, DOMAIN, isolate=True, threads=1)


def test_the_time_limit_in_process(tmp_path: Path) -> None:
    path = dense(tmp_path, (20, 60, 60, 60, 2), seed=0)
    began = time.monotonic()
    report = find_stable(path, "box:-1:1", search="network", time_limit=1.0, **BARE)
    assert time.monotonic() - began < 1.0 + 10.0 * slowness()
    assert report.stopped_by == "time"
    assert audit(report.to_json(), path) == []


@pytest.mark.parametrize(("search", "threads"), [("network", 1), ("neuron", 2)])
def test_ctrl_c_in_process(search: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found comes back, and no solve goes on behind it."""
    path = dense(tmp_path, (20, 60, 60, 60, 2), seed=0)
    timer = threading.Timer(1.2, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()

    def find_interrupted(*arguments: Any) -> str | None:
        nonlocal began
        began = time.monotonic()
        timer.start()
        return find(*arguments)

    monkeypatch.setattr("stablenet.api.find", find_interrupted)
    try:
        options = {**BARE, "threads": threads, "time_limit": 12.0 * slowness()}
        report = find_stable(path, "box:-1:1", search=search, **options)
    except KeyboardInterrupt:  # pytest would end, and say nothing of where it came
        pytest.fail(traceback.format_exc())
    finally:
        timer.cancel()
    assert time.monotonic() - began < 1.2 + 8.0 * slowness()
    assert report.stopped_by == "interrupt"
    assert audit(report.to_json(), path) == []
    assert not [
        t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread() and t is not timer
    ]


def test_verdicts_by_layer(path: Path) -> None:
    report = find_stable(path, DOMAIN, threads=1)
    verdicts = report.verdicts()
    assert [len(row) for row in verdicts] == [6, 6]
    flat = [verdict for row in verdicts for verdict in row]
    assert {verdict: flat.count(verdict) for verdict in set(flat)} == {
        verdict: count for verdict, count in report.counts.items() if count and verdict != "rigorous"
    }


def test_build_model_takes_names_and_bounds(path: Path) -> None:
    from stablenet.bounds import run

    network = load_onnx(path)
    by_name = build_model(path, "box:-1:1", bounds="interval")
    by_bounds = build_model(network, DOMAIN, bounds=run("interval", network, DOMAIN))
    assert len(list(by_name.component_data_objects())) == len(list(by_bounds.component_data_objects())) > 0
