"""The steps of a run in process: samples, resuming, what is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.auditor import audit
from small import dense

from stablenet import Box, Union, find_stable, load_onnx
from stablenet.core.deadline import Deadline
from stablenet.core.errors import InputError, ReportError, UnsupportedError
from stablenet.core.events import Event
from stablenet.core.ledger import Ledger
from stablenet.domain.samples import read_samples
from stablenet.find.engine import run_job

DOMAIN = Box(-np.ones(3), np.ones(3))
NOTHING: dict[str, Any] = {"falsify": False, "decide_by_bounds": False, "search": "off", "threads": 1}
POINTS = np.random.default_rng(0).uniform(-1.5, 1.5, (40, 3))


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense(tmp_path_factory.mktemp("net"))


@pytest.fixture(name="report", scope="module")
def _report(path: Path) -> dict[str, Any]:
    return find_stable(path, DOMAIN, threads=1).to_json()


# Samples


def _save(form: str, file: Path) -> None:
    match form:
        case "npz":
            np.savez(file, a=POINTS[:20], b=POINTS[20:])
        case "images":
            np.save(file, POINTS.reshape(40, 1, 3, 1))
        case "one point":
            np.save(file, POINTS[0])
        case "fortran":
            np.save(file, np.asfortranarray(POINTS))
        case _:
            np.save(file, POINTS.astype(form))


@pytest.mark.parametrize("form", ["float64", "float32", "images", "fortran", "npz", "one point", "int8", "bool"])
def test_forms_of_samples(form: str, tmp_path: Path) -> None:
    file = tmp_path / ("s.npz" if form == "npz" else "s.npy")
    _save(form, file)
    found = read_samples(file, 3)
    expected = POINTS[:1] if form == "one point" else POINTS
    expected = expected.astype(form).astype(float) if form in ("float32", "int8", "bool") else expected
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


def test_samples_are_witnesses_where_they_lie_in_the_domain(path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.concatenate([POINTS, [[np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0]]]))
    report = find_stable(path, DOMAIN, samples=str(tmp_path / "s.npy"), **NOTHING).to_json()
    assert audit(report, path) == []
    by = {q["by"] for n in report["neurons"] for q in (n["positive"], n["negative"]) if "by" in q}
    assert by == {"samples"}
    inside = [point for point in POINTS.tolist() if max(map(abs, point)) <= 1]
    assert report["witnesses"]
    assert all(point in inside for point in report["witnesses"])
    signs = np.concatenate(load_onnx(path).pre_activations(np.array(inside)), axis=1)
    unstable = (signs > 0).any(axis=0) & (signs < 0).any(axis=0)
    assert report["counts"]["unstable"] == np.count_nonzero(unstable)


def _objects(file: Path) -> None:
    np.save(file, np.array([[1, "a", None]], dtype=object), allow_pickle=True)


def _halved(file: Path) -> None:
    np.save(file, POINTS)
    file.write_bytes(file.read_bytes()[:200])


def _broken_zip(file: Path) -> None:
    file.write_bytes(b"PK\x03\x04" + bytes(64))


def _half_zip(file: Path) -> None:
    np.savez_compressed(file.with_suffix(".npz"), a=POINTS)
    data = bytearray(file.with_suffix(".npz").read_bytes())
    data[60:90] = bytes(30)
    file.write_bytes(bytes(data))


def _bad_header(file: Path) -> None:
    np.save(file, POINTS)
    file.write_bytes(file.read_bytes().replace(b"'shape': (40, 3)", b"'shape': (40, 3("))


def _boast(file: Path) -> None:
    """A header that promises more than there is."""
    np.save(file, POINTS)
    file.write_bytes(file.read_bytes().replace(b"(40, 3), }     ", b"(400000000, 3)}"))


def _empty_zip(file: Path) -> None:
    np.savez(file.with_suffix(".npz"))
    file.write_bytes(file.with_suffix(".npz").read_bytes())


def _words(file: Path) -> None:
    np.save(file, np.array([["a", "b", "c"]]))


def _complex(file: Path) -> None:
    np.save(file, POINTS.astype(complex))


def _wide(file: Path) -> None:
    np.save(file, np.zeros((4, 5)))


BAD_SAMPLES = [_objects, _halved, _broken_zip, _half_zip, _bad_header, _boast, _empty_zip, _words, _complex, _wide]


@pytest.mark.parametrize("make", BAD_SAMPLES)
def test_bad_samples_are_refused_in_one_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "s.npy")
    with pytest.raises(InputError, match=r"s\.npy: ") as caught:
        read_samples(tmp_path / "s.npy", 3)
    assert "\n" not in str(caught.value)


def test_missing_samples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npy"):
        read_samples(tmp_path / "none.npy", 3)


# Resume


def written(data: dict[str, Any], folder: Path) -> str:
    (folder / "r.json").write_text(json.dumps(data))
    return str(folder / "r.json")


def test_resume_keeps_verdicts_and_their_evidence(path: Path, report: dict[str, Any], tmp_path: Path) -> None:
    again = find_stable(path, DOMAIN, resume=written(report, tmp_path), **NOTHING).to_json()
    assert audit(again, path) == []
    for old, new in zip(report["neurons"], again["neurons"], strict=True):
        assert old["verdict"] == new["verdict"]
        for side in ("positive", "negative"):
            if old[side]["state"] == "open":
                continue  # not needed; a witness may show it none the less
            assert old[side]["state"] == new[side]["state"]
            assert old[side].get("by") == new[side].get("by")
            assert old[side].get("rigorous") == new[side].get("rigorous")


def test_resume_goes_on_where_a_run_was_stopped(path: Path, tmp_path: Path) -> None:
    first = find_stable(path, DOMAIN, search="off", falsify=False, threads=1)
    assert not first.complete
    resume = written(first.to_json(), tmp_path)
    second = find_stable(path, DOMAIN, resume=resume, search="network", falsify=False, threads=1)
    assert second.complete
    kept = {n["positive"].get("by") for n in first.data["neurons"]} - {None}
    assert kept <= {n["positive"].get("by") for n in second.data["neurons"]}


def _change(data: dict[str, Any], **changes: Any) -> None:
    data["neurons"][0].update(changes)


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "neuron": lambda data: _change(data, neuron=77),
    "negative neuron": lambda data: _change(data, neuron=-1),
    "layer": lambda data: _change(data, layer="first"),
    "state": lambda data: _change(data, positive={"state": "sure"}),
    "no rigour": lambda data: _change(data, positive={"state": "refuted", "by": "x"}),
    "witness": lambda data: _change(data, positive={"state": "witnessed", "witness": 999, "by": "x"}),
    "negative witness": lambda data: _change(data, positive={"state": "witnessed", "witness": -1, "by": "x"}),
    "witness, a word": lambda data: _change(data, positive={"state": "witnessed", "witness": "0", "by": "x"}),
    "witnesses": lambda data: data.update(witnesses=[[1.0] for _ in data["witnesses"]]),
    "ragged": lambda data: data["witnesses"].__setitem__(0, [1.0]),
    "witnesses, words": lambda data: data["witnesses"].__setitem__(0, ["a", "b", "c"]),
    "domain": lambda data: data.update(domain={"kind": "sphere"}),
    "no domain": lambda data: data.update(domain=None),
    "network": lambda data: data.update(network=[]),
    "neurons": lambda data: data.update(neurons=None),
    "a neuron": lambda data: data.update(neurons=[3]),
    "schema": lambda data: data.update(schema="other/1"),
    "missing": lambda data: data.pop("witnesses"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_reports_are_refused(case: str, path: Path, report: dict[str, Any], tmp_path: Path) -> None:
    data = json.loads(json.dumps(report))
    MALFORMED[case](data)
    with pytest.raises(ReportError) as caught:
        find_stable(path, DOMAIN, resume=written(data, tmp_path), **NOTHING)
    assert "\n" not in str(caught.value)


def test_a_union_can_be_resumed(path: Path, tmp_path: Path) -> None:
    union = Union([Box(-np.ones(3), np.zeros(3)), Box(np.zeros(3), np.ones(3))])
    first = find_stable(path, union, search="network", threads=1)
    resume = written(first.to_json(), tmp_path)
    second = find_stable(path, union, resume=resume, **NOTHING)
    assert first.complete
    assert second.verdicts() == first.verdicts()
    with pytest.raises(ReportError, match="another domain"):
        find_stable(path, Union(union.members[::-1]), resume=resume, **NOTHING)


# Refused before any work


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"removal": "callback", "solver": "highs"}, "lazy constraints"),
        ({"removal": "callback", "solver": "cbc", "search": "network"}, "lazy constraints"),
        ({"formulation": "sos1", "solver": "highs"}, "SOS1 sets"),
        ({"formulation": "indicator", "solver": "highs", "search": "neuron"}, "indicator constraints"),
        ({"formulation": "sos1", "solver": "scip", "check_with": "highs"}, "SOS1 sets"),
    ],
)
def test_combinations_are_refused_before_bounds(options: dict[str, Any], words: str, path: Path) -> None:
    events: list[Event] = []
    request = {"network": str(path), "domain": "box:-1:1", "options": {"threads": 1, **options}}
    closing = run_job(request, events.append, Deadline(None))
    assert (closing["event"], closing["exit_code"]) == ("error", 2)
    assert words in closing["message"]
    assert events == []
    with pytest.raises(UnsupportedError, match=words):
        find_stable(path, DOMAIN, **{"threads": 1, **options})


def test_a_domain_of_another_dimension(path: Path) -> None:
    with pytest.raises(InputError, match="2 inputs"):
        find_stable(path, Box(np.zeros(2), np.ones(2)))


# Events


def test_events_of_a_job_rebuild_its_ledger(path: Path) -> None:
    lines: list[str] = []
    options = {"threads": 1, "search": "network", "falsify": False}
    request = {"network": str(path), "domain": "box:-1:1", "options": options}
    closing = run_job(request, lambda event: lines.append(json.dumps(event)), Deadline(None))
    assert closing == {"event": "done", "stopped_by": None}
    job, *events = map(json.loads, lines)
    ledger = Ledger([layer["size"] for layer in job["network"]["layers"]], job["n_parts"])
    for event in events:
        ledger.apply(event)
    assert ledger.complete
    assert set(ledger.log.seconds) == {"load", "bounds", "falsify", "search", "certify"}


def test_a_deadline_that_is_over_leaves_bounds_and_no_more(path: Path) -> None:
    events: list[Event] = []
    request = {"network": str(path), "domain": "box:-1:1", "options": {"threads": 1, "search": "network"}}
    closing = run_job(request, events.append, Deadline(0.0))
    assert closing == {"event": "done", "stopped_by": "time"}
    assert {event["event"] for event in events} <= {"job", "tolerances", "begin", "bounds", "refute", "seconds"}
