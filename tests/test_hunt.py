"""The campaigns of `make hunt`: each catches a planted lie, says nothing of what is true, and runs on fresh cases."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from hunt import compressed, killed, mixed, pairs, product, runner, verdicts, worker
from hunt.campaign import FATAL, Job, Outcome
from hunt.networks import dense, finished, plain, random_case, regions, spread
from hunt.registry import CAMPAIGNS
from hunt.truth import Truth, region_to_json
from oracle.exact import extrema
from oracle.plain import Region

ROOT = Path(__file__).resolve().parents[1]
SQUARE = (Region((-1.0, -1.0), (1.0, 1.0)),)
LAYERS = [
    (np.array([[1.0, 1.0], [1.0, -1.0], [0.5, 0.25]]), np.array([0.0, 0.5, 1.0])),
    (np.array([[1.0, -1.0, 0.5], [-1.0, -1.0, -1.0]]), np.array([0.25, -0.5])),
    (np.array([[1.0, 2.0]]), np.zeros(1)),
]
PLAIN_OPTIONS = {"search": "branch", "threads": 1}


def kinds(outcome: Outcome) -> set[str]:
    return {finding.kind for finding in outcome.findings}


def verdict_job(folder: Path, **options: Any) -> Job:
    """A case of the campaign `verdicts` about LAYERS on the square."""
    case = finished(np.random.default_rng(0), "by hand", LAYERS, 2, SQUARE, small=True)
    (folder / "network.onnx").write_bytes(case.onnx)
    return {
        "campaign": "verdicts", "seed": 0, "through": "python", "options": {**PLAIN_OPTIONS, **options},
        "truth": case.truth.to_json(),
    }  # fmt: skip


def question(report: dict[str, Any], state: str) -> dict[str, Any]:
    return next(n[s] for n in report["neurons"] for s in ("positive", "negative") if n[s]["state"] == state)


def refute(report: dict[str, Any]) -> None:
    """A witnessed question of an unstable neuron counts as refuted, verdict and counts in step."""
    neuron = next(n for n in report["neurons"] if n["verdict"] == "unstable")
    neuron["positive"] = {"state": "refuted", "by": "liar", "rigorous": True}
    neuron["verdict"] = "stably_inactive"
    report["counts"]["unstable"] -= 1
    report["counts"]["stably_inactive"] += 1
    used = sorted({n[s]["witness"] for n in report["neurons"] for s in ("positive", "negative") if "witness" in n[s]})
    for each in report["neurons"]:
        for side in ("positive", "negative"):
            if "witness" in each[side]:
                each[side]["witness"] = used.index(each[side]["witness"])
    report["witnesses"] = [report["witnesses"][number] for number in used]


def narrow(report: dict[str, Any]) -> None:
    """An upper bound an ulp below what is attained, at (-1, -1) for one."""
    neuron = report["neurons"][-1]
    neuron["upper"] = float(np.nextafter(-1.25, -2))
    neuron["lower"] = min(neuron["lower"], neuron["upper"])


def outside(report: dict[str, Any]) -> None:
    """A witness an ulp outside of the domain."""
    report["witnesses"][question(report, "witnessed")["witness"]][0] = float(np.nextafter(1.0, 2.0))


def elsewhere(report: dict[str, Any]) -> None:
    """A witness that does not show the sign."""
    number = report["neurons"][0]["positive"]["witness"]
    report["witnesses"][number] = [-1.0, -1.0]


def miscounted(report: dict[str, Any]) -> None:
    report["counts"]["unstable"] += 1


def test_an_honest_search_passes(tmp_path):
    outcome = verdicts.Verdicts().judged(verdict_job(tmp_path), tmp_path)
    assert not outcome.findings
    assert outcome.counts["questions"] == 10
    assert outcome.counts["verdicts"] == 5


@pytest.mark.parametrize(
    ("lie", "kind"),
    [(refute, "WRONG"), (narrow, "WRONG"), (outside, "WRONG"), (elsewhere, "WRONG"), (miscounted, "CONTRACT")],
)
def test_a_false_report_is_caught(tmp_path, monkeypatch, lie, kind):
    def lying(*arguments: Any) -> product.Found:
        found = product.find(*arguments)
        lie(found.report)
        return found

    monkeypatch.setattr(verdicts, "find", lying)
    assert kinds(verdicts.Verdicts().judged(verdict_job(tmp_path), tmp_path)) == {kind}


def test_a_false_bound_is_caught(tmp_path, monkeypatch):
    from stablenet.bounds import registry
    from stablenet.core.bounds import Bounds

    honest = registry.get("interval").__class__

    class Narrow(honest):
        name = "narrow"

        def run(self, *arguments: Any, **keywords: Any) -> Any:
            found = super().run(*arguments, **keywords)
            sides = [(layer.lower, layer.upper) for layer in found.layers]
            sides[0] = (sides[0][0], sides[0][1] - 1e-3)
            return Bounds.of("narrow", sides, rigorous=True)

    monkeypatch.setitem(registry.classes, "narrow", Narrow)
    job = verdict_job(tmp_path, bounds="narrow", search="off", falsify=False)
    assert "WRONG" in kinds(verdicts.Verdicts().judged(job, tmp_path))


def test_a_false_solver_is_caught(tmp_path, monkeypatch):
    """A narrow tent that no point at hand meets, and a solver that does not see it either."""
    from stablenet.backends.base import Status, registry

    def blind(milp: Any, result: Any) -> Any:
        # In the scaled model the tent reaches 0.45 / 64, what is around it -0.05 / 64.
        if not milp.maximize or result.objective is None or not 2.5e-3 < result.objective < 0.05:
            return result
        return replace(result, status=Status.DUAL_STOP, solver_status="bound", x=None, objective=None, dual_bound=-1e-4)

    monkeypatch.setitem(registry.classes, "liar", small.twisted(blind))
    layers = [
        (np.full((3, 1), 64.0), -64.0 * np.array([0.3 - 2**-6, 0.3, 0.3 + 2**-6])),
        (np.array([[1.0, -2.0, 1.0]]) / 2, np.array([-0.05])),
        (np.ones((1, 1)), np.zeros(1)),
    ]
    case = finished(np.random.default_rng(0), "tent", layers, 1, (Region((0.0,), (1.0,)),), small=True)
    (tmp_path / "network.onnx").write_bytes(case.onnx)
    options = {
        "search": "neuron", "bounds": "interval", "falsify": False, "inject": "off", "start": False, "threads": 1,
    }  # fmt: skip
    outcomes = {}
    for solver in ("highs", "liar"):
        job = {"through": "python", "options": {**options, "solver": solver}, "truth": case.truth.to_json()}
        outcomes[solver] = verdicts.Verdicts().judged(job, tmp_path)
    assert not outcomes["highs"].findings
    assert not outcomes["highs"].counts["solver failures"]
    # A false verdict; or the product caught the lie itself, and that is counted.
    assert kinds(outcomes["liar"]) & {"WRONG", "CONTRADICTION"} or outcomes["liar"].counts["solver failures"]


def test_a_rigorous_refutation_that_is_contradicted_counts_as_wrong(tmp_path):
    truth = Truth.from_json(verdict_job(tmp_path)["truth"])
    outcome = Outcome()
    found = product.find(tmp_path / "network.onnx", truth.regions, PLAIN_OPTIONS)
    found.contradiction = "a witness disproves 'interval'"
    found.report["contradictions"] = [{"rigorous": True}]
    verdicts.judge_found(found, tmp_path / "network.onnx", truth, outcome)
    assert {"WRONG", "CONTRADICTION"} <= kinds(outcome)


def test_truth_survives_its_file_and_knows_what_random_cases_attain():
    for seed in range(40):
        made = random_case(np.random.default_rng(seed)).truth
        again = Truth.from_json(json.loads(json.dumps(made.to_json())))
        assert again == made
        for layer, (lows, highs) in enumerate(zip(made.low, made.high, strict=True)):
            for neuron, (low, high) in enumerate(zip(lows, highs, strict=True)):
                for value in (low, high):
                    assert made.contains(value.at)
                    assert made.network.forward(value.at)[0][layer][neuron] == value.value


def test_every_seed_makes_the_same_case_again(tmp_path):
    for name in ("verdicts", "planted", "pairs", "compressed", "mixed"):
        made = []
        for folder in (tmp_path / name / "a", tmp_path / name / "b"):
            folder.mkdir(parents=True)
            job = CAMPAIGNS[name]().make(np.random.default_rng(7), folder)
            made.append((job, {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}))
        assert made[0] == made[1]


def test_spread_points_lie_in_the_domain():
    rng = np.random.default_rng(3)
    for _ in range(60):
        domain = regions(rng, int(rng.integers(1, 4)))
        points = spread(rng, domain, 20)
        assert all(any(region.contains(point) for region in domain) for point in points)
        assert points or all(region.a for region in domain)


# verify


def unequal() -> dict[str, Any]:
    """A true answer about LAYERS and a copy whose output is half as steep."""
    return {
        "outcome": "different", "tolerance": 0.1, "bound": None, "rigorous": True, "by": "hand", "notes": [],
        "counterexample": {"input": [1.0, -1.0], "output": 0, "difference": 0.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, None),
        ({"outcome": "equal", "counterexample": None}, "WRONG"),
        ({"bound": 0.2}, "WRONG"),
        ({"tolerance": 100.0}, "WRONG"),
        ({"counterexample": {"input": [1.5, -1.0], "output": 0, "difference": 0.0}}, "WRONG"),
        ({"counterexample": {"input": [1.0, -1.0], "output": 0, "difference": 50.0}}, "WRONG"),
        ({"counterexample": None}, "CONTRACT"),
    ],
)
def test_a_false_answer_about_two_networks_is_caught(change, kind):
    a, b = plain(LAYERS, 2), plain([*LAYERS[:2], (LAYERS[2][0] / 2, LAYERS[2][1])], 2)
    found = extrema(pairs.difference(a, b), SQUARE, outputs=True)
    largest = max(abs(v) for v in (*found.minimum[-1], *found.maximum[-1]))
    here = [1.0, -1.0]
    shown = abs(a.forward(here)[1][0] - b.forward(here)[1][0])
    said = unequal()
    assert shown <= largest
    if shown <= Fraction(said["tolerance"]):
        best = found.argmax[-1][0] if abs(found.maximum[-1][0]) == largest else found.argmin[-1][0]
        said["counterexample"]["input"] = [float(v) for v in best]
    outcome = Outcome()
    pairs.judge_verification({**said, **change}, a, b, SQUARE, largest, outcome)
    assert kinds(outcome) == ({kind} if kind else set())


def test_a_lying_verify_is_caught(tmp_path, monkeypatch):
    import stablenet

    seed = next(seed for seed in range(50) if Fraction(_pair(seed, tmp_path)["truth"]["largest"]) > 1)
    folder = tmp_path / str(seed)
    job = {**_pair(seed, tmp_path), "through": "python"}
    job["options"] = {"tolerance": 0.5, "time_limit": 5.0, "steps": "bounds"}

    def lying(*arguments: Any, **options: Any) -> Any:
        return replace(
            stablenet.equivalence.verify.verify(*arguments, **options), outcome="equal", bound=0.5, found=None
        )

    assert not pairs.Pairs().judged(job, folder).findings
    monkeypatch.setattr(stablenet, "verify", lying, raising=False)
    assert kinds(pairs.Pairs().judged(job, folder)) == {"WRONG"}


def _pair(seed: int, folder: Path) -> Job:
    (folder / str(seed)).mkdir(exist_ok=True)
    return pairs.Pairs().make(np.random.default_rng(seed), folder / str(seed))


# compress


def test_a_compressed_network_that_differs_is_caught():
    builder, tensor = dense(LAYERS, 2)
    original = builder.finish(tensor)[0]
    builder, tensor = dense([*LAYERS[:2], (LAYERS[2][0] * (1 + 2.0**-50), LAYERS[2][1])], 2)
    other = builder.finish(tensor)[0]
    points = [[1.0, 1.0], [-1.0, 1.0]]
    for file, bound, expected in ((original, 0.0, set()), (other, 0.0, {"WRONG"}), (other, 1e-12, set())):
        outcome = Outcome()
        compressed.judge_compressed(original, file, points, bound, outcome)
        assert kinds(outcome) == expected
        assert outcome.counts["points"] == 2


def test_a_true_report_that_compress_accuses_is_caught(tmp_path, monkeypatch):
    import stablenet
    from stablenet.core.errors import ContradictionError

    job = {**verdict_job(tmp_path), "search": PLAIN_OPTIONS, "options": {}, "points": [[0.0, 0.0]]}
    assert not compressed.Compressed().judged(job, tmp_path).findings

    def accusing(*arguments: Any, **options: Any) -> Any:
        raise ContradictionError("a refutation that the report holds is false")

    monkeypatch.setattr(stablenet, "compress", accusing, raising=False)
    assert kinds(compressed.Compressed().judged(job, tmp_path)) == {"WRONG"}


# The command line


def ended(**changes: Any) -> product.Run:
    run = product.Run(["info", "x.onnx"], 2, "", "stablenet: x.onnx: cannot be read\n", 0.5, 1e8)
    return replace(run, **changes)


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (ended(), None),
        (ended(code=0, output="fine\n", errors=""), None),
        (ended(code=1), "TRACEBACK"),
        (ended(code=-11), "CRASH"),
        (ended(code=None), "HANG"),
        (ended(code=3, errors="Traceback (most recent call last)\n"), "TRACEBACK"),
        (ended(errors="one\ntwo\n"), "CONTRACT"),
        (ended(errors="stablenet: \x1b[31m\n"), "CONTRACT"),
        (ended(memory=3e9), "MEMORY"),
        (ended(processor=500.0), "HANG"),
    ],
)
def test_a_command_that_misbehaves_is_caught(run, kind):
    outcome = Outcome()
    product.judge_run(run, outcome)
    assert kinds(outcome) == ({kind} if kind else set())


LITTER = """
import os, pathlib, signal, subprocess, sys, time
pathlib.Path(os.environ["TMPDIR"], "work").write_text("left")
pathlib.Path("out.json").write_text('{"schema": ')
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: os._exit(130))
time.sleep(600)
"""


def test_what_a_killed_command_leaves_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(killed, "COMMAND", [sys.executable, "-c", LITTER])
    monkeypatch.setattr(killed, "GUARD", 2.0)
    job = {"command": ["find"], "shell": "stablenet find", "signal": "SIGTERM", "delay": 0.0, "again": False}
    outcome = killed.Killed().judged(job, tmp_path)
    found = " ".join(finding.message for finding in outcome.findings)
    assert kinds(outcome) == {"LEAK", "CONTRACT"}
    for words in ("processes are left", "temporary files are left", "out.json is not whole", "exit code"):
        assert words in found
    assert not [pid for pid in killed.marked("") if pid != os.getpid()]


def test_a_damaged_file_that_brings_a_traceback_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(product, "COMMAND", [sys.executable, "-c", "raise ValueError"])
    job = {"target": "domain.vnnlib", "command": ["info", "network.onnx"]}
    assert "TRACEBACK" in kinds(CAMPAIGNS["mutated"]().judged(job, tmp_path))


def test_a_report_that_is_taken_for_another_network_is_caught(tmp_path, monkeypatch):
    for name, layers in (("first", LAYERS), ("second", [(-w, b) for w, b in LAYERS])):
        mixed.write_network(tmp_path / name, layers, 2, external=False)
    case = finished(np.random.default_rng(0), "by hand", [(-w, b) for w, b in LAYERS], 2, SQUARE, small=True)
    job = {
        "change": "network", "options": PLAIN_OPTIONS, "region": [region_to_json(r) for r in SQUARE],
        "seed of changes": 0, "truth": case.truth.to_json(),
    }  # fmt: skip
    assert not mixed.Mixed().judged(job, tmp_path).findings

    def believing(network: Any, regions: Any, options: dict[str, Any]) -> product.Found:
        return product.find(network, regions, {key: value for key, value in options.items() if key != "resume"})

    monkeypatch.setattr(mixed, "find", believing)
    assert kinds(mixed.Mixed().judged(job, tmp_path)) == {"WRONG"}


# The runner


def test_a_stored_case_is_run_again(tmp_path, capsys):
    job = verdict_job(tmp_path)
    (tmp_path / "case.json").write_text(json.dumps(job))
    assert runner.main(["--replay", str(tmp_path)]) == 0
    job["truth"]["high"][1][1][0] = "3"  # not true, and so at odds with what is proven
    (tmp_path / "case.json").write_text(json.dumps(job))
    assert runner.main(["--replay", str(tmp_path)]) == 1
    assert "neuron 1/1 reaches 3.0" in capsys.readouterr().out


def test_a_worker_that_dies_is_a_finding_and_is_replaced(tmp_path):
    hunt = runner.Hunt(["verdicts"], 0, tmp_path)
    hunt.totals, hunt.spent = {"verdicts": Outcome()}, {"verdicts": 0.0}
    team = runner.Worker(tmp_path / "running" / "worker")
    try:
        first = team.process.pid
        team.task = runner.Task("verdicts", 3, tmp_path / "running" / "verdicts-3", 1.0)
        os.kill(first, signal.SIGKILL)
        team.process.join()
        hunt._listen([team])
        assert team.process.pid != first
        assert team.task is None
    finally:
        team.stop()
    assert kinds(hunt.totals["verdicts"]) == {"CRASH"}
    assert "CRASH" in (tmp_path / "verdicts-0-3" / "findings.txt").read_text()


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.hunt", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_hunt_prints_its_seed_and_counts(tmp_path):
    run = command("--campaign", "pairs", "--cases", 2, "--seed", 1, "--workers", 1, "--output", tmp_path)
    assert run.returncode in (0, 1), run.stderr
    assert "hunt: seed 1, 1 workers, 2 cases" in run.stdout
    summary = json.loads((tmp_path / "summary-1.json").read_text())
    assert summary["campaigns"]["pairs"]["runs"] == 2
    assert (run.returncode == 1) == any(summary["campaigns"]["pairs"][kind] for kind in FATAL)
    assert re.search(r"^pairs +2 ", run.stdout, re.MULTILINE)
    assert not list(tmp_path.glob("running*"))


CASES = {"verdicts": 60, "planted": 40, "pairs": 40, "compressed": 40, "mutated": 15, "killed": 6, "mixed": 30}


@pytest.mark.long
@pytest.mark.parametrize("name", CAMPAIGNS)
def test_fresh_cases_show_nothing_false(name, tmp_path):
    run = command("--campaign", name, "--cases", CASES[name], "--seed", secrets.randbelow(2**31), "--output", tmp_path)
    print(run.stdout)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"


def test_what_a_case_leaves_behind_is_caught(tmp_path, monkeypatch):
    left = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    kept = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)", worker.KEPT])
    monkeypatch.setattr(worker, "children", lambda: [left.pid, kept.pid])
    (tmp_path / "model.mps").write_text("left")
    (tmp_path / ".ses").write_text("onnxruntime's own")
    outcome = Outcome()
    try:
        worker.left_behind(tmp_path, outcome)
        assert sorted(finding.kind for finding in outcome.findings) == ["LEAK", "LEAK"]
        assert kept.poll() is None
        assert [path.name for path in tmp_path.iterdir()] == [".ses"]
    finally:
        kept.kill()
        kept.wait()
        left.wait()
