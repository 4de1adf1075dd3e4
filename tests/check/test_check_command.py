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


def test_a_resumed_report(files, tmp_path, monkeypatch, capsys):
    """Whatever the first run had proven or not, and whether it wrote a proof."""
    network, *_ = files
    first, second, proof = tmp_path / "first.json", tmp_path / "second.json", tmp_path / "fresh"
    options = ["--domain", "box:-0.3:0.4", "--threads", 1]
    words = ["--no-decide-by-bounds", "--search", "network", "--certify", "off", "--output", first]
    assert run(monkeypatch, capsys, "find", network, *options, *words)[0] == 0
    claimed = json.loads(first.read_text())["counts"]["rigorous"]
    code, _, _ = run(
        monkeypatch, capsys, "find", network, *options, "--resume", first, "--proof", proof, "--output", second
    )
    assert code == 0
    data = json.loads(second.read_text())
    assert data["counts"]["rigorous"] == 16 > claimed
    code, out, _ = run(monkeypatch, capsys, "check", network, "--report", second, "--proof", proof)
    assert code == 0
    assert "16 verdicts hold" in out
    assert "0 verdicts claim no proof" in out


def test_a_resumed_run_takes_no_proof_about_something_else(files, tmp_path, monkeypatch, capsys):
    network, _, proof = files
    other = tmp_path / "other.json"
    find_stable(network, "box:-0.3:0.5", threads=1).write(other)
    before = proof.read_bytes()
    words = ["find", network, "--domain", "box:-0.3:0.5", "--resume", other, "--proof", proof, "--threads", 1]
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 2
    assert "another domain" in err
    assert proof.read_bytes() == before


def test_a_compressed_network(files, tmp_path, monkeypatch, capsys):
    """The report of the network is checked before, that of the smaller one after."""
    network, report, proof = files
    small, found, fresh = tmp_path / "small.onnx", tmp_path / "small.json", tmp_path / "small.proof"
    assert run(monkeypatch, capsys, "check", network, "--report", report, "--proof", proof)[0] == 0
    assert run(monkeypatch, capsys, "compress", network, "--report", report, "--output", small)[0] == 0
    words = ["find", small, "--domain", "box:-0.3:0.4", "--proof", fresh, "--output", found, "--threads", 1]
    assert run(monkeypatch, capsys, *words)[0] == 0
    code, out, _ = run(monkeypatch, capsys, "check", small, "--report", found, "--proof", fresh)
    assert code == 0
    assert "does not hold" not in out
    assert 0 < sum(json.loads(found.read_text())["counts"][v] for v in ("stably_active", "unstable")) < 16
    code, _, err = run(monkeypatch, capsys, "check", small, "--report", report, "--proof", proof)
    assert code == 2
    assert "about this network" in err


@pytest.mark.parametrize("word", ["maybe", "", "True"])
def test_certify_is_on_or_off(files, monkeypatch, capsys, word):
    code, _, err = run(monkeypatch, capsys, "find", files[0], "--domain", "box:0:1", "--certify", word)
    assert code == 2
    assert "there are: off, on" in err
