"""The command ``check``: exit codes, and what it names."""

from __future__ import annotations

import json

import pytest
from small import dense

from stablenet import find_stable
from stablenet.cli import main as cli


def run(monkeypatch, capsys, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["stablenet", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


@pytest.fixture
def files(tmp_path):
    network, report, proof = dense(tmp_path, (3, 8, 8, 2)), tmp_path / "report.json", tmp_path / "proof"
    find_stable(network, "box:-0.3:0.4", proof=str(proof), threads=1).write(report)
    return network, report, proof


def test_a_report_that_holds(files, monkeypatch, capsys):
    network, report, proof = files
    words = ["check", network, "--report", report, "--proof", proof]
    code, out, _ = run(monkeypatch, capsys, *words)
    assert code == 0
    assert "16 verdicts hold" in out
    code, out, _ = run(monkeypatch, capsys, *words, "--json", "--domain", "box:-0.3:0.4")
    assert code == 0
    data = json.loads(out)
    assert data["holds"]
    assert sum(data["verdicts"].values()) == 16


def test_what_does_not_hold_is_named(files, monkeypatch, capsys):
    network, report, proof = files
    data = json.loads(report.read_text())
    entry = next(e for e in data["neurons"] if e["verdict"] == "unstable")
    entry["verdict"], entry["positive"] = "stably_inactive", {"state": "refuted", "by": "crown", "rigorous": True}
    report.write_text(json.dumps(data))
    code, out, _ = run(monkeypatch, capsys, "check", network, "--report", report, "--proof", proof)
    assert code == 4
    place = f"layer {entry['layer']}, neuron {entry['neuron']}: that it cannot be positive is not proven"
    assert place in out


@pytest.mark.parametrize("which", [1, 2])
def test_what_is_no_report_or_proof_is_bad_input(files, monkeypatch, capsys, which):
    files[which].write_text("something else")
    network, report, proof = files
    code, _, err = run(monkeypatch, capsys, "check", network, "--report", report, "--proof", proof)
    assert code == 2
    assert len(err.splitlines()) == 1


def test_another_domain_is_bad_input(files, monkeypatch, capsys):
    network, report, proof = files
    words = ["check", network, "--report", report, "--proof", proof, "--domain", "box:-0.3:0.5"]
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 2
    assert "another domain" in err
