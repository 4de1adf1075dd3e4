"""The command line in processes of its own: exit codes, one line on stderr, files whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.auditor import audit
from small import dense

COMMAND = [sys.executable, "-P", "-m", "stablenet.cli.main"]


def run(*arguments: str | Path, folder: Path | None = None, env: dict[str, str] | None = None) -> Any:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env=None if env is None else os.environ | env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense(tmp_path_factory.mktemp("net"))


@pytest.fixture(name="report", scope="module")
def _report(path: Path) -> Path:
    output = path.parent / "report.json"
    done = run("find", path, "--domain", "box:-1:1", "--output", output)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 of 12 neurons are stable" in done.stdout
    assert done.stdout.rstrip().endswith(f"report: {output}".replace("\n", ""))
    return output


def test_a_complete_run(report: Path, path: Path) -> None:
    data = json.loads(report.read_text())
    assert data["status"] == "complete"
    assert audit(data, path) == []


def test_stopped_early_is_3(path: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    done = run("find", path, "--domain", "box:-1:1", "--search", "off", "--no-falsify", "--output", output)
    assert done.returncode == 3
    data = json.loads(output.read_text())
    assert (data["status"], data["stopped_by"]) == ("stopped", "search")
    assert audit(data, path) == []


def test_output_to_stdout_is_the_report_alone(path: Path) -> None:
    done = run("find", path, "--domain", "box:-1:1", "--output", "-", "--no-falsify", "--search", "network")
    assert (done.returncode, done.stderr) == (0, "")
    assert audit(json.loads(done.stdout), path) == []


def test_in_a_pipe_solvers_and_progress_are_silent(path: Path) -> None:
    """Every solver has its moment, and all that comes out is the report."""
    for solver in ("highs", "scip"):
        done = run(
            *("find", path, "--domain", "box:-1:1", "--solver", solver, "--search", "network"),
            *("--no-falsify", "--no-decide-by-bounds", "--output", "-"),
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["solves"]


BAD = {
    "no network": (["find", "missing.onnx", "--domain", "box:-1:1"], "missing.onnx"),
    "domain": (["find", "{net}", "--domain", "box:1:-1"], "empty"),
    "search": (["find", "{net}", "--domain", "box:-1:1", "--search", "best"], "there are: auto"),
    "removal that highs lacks": (["find", "{net}", "--domain", "box:-1:1", "--removal", "callback"], "lazy"),
    "time limit": (["find", "{net}", "--domain", "box:-1:1", "--time-limit", "0"], "time limit"),
    "threads, no number": (["find", "{net}", "--domain", "box:-1:1", "--threads", "two"], "--threads"),
    "samples of wrong shape": (["find", "{net}", "--domain", "box:-1:1", "--samples", "{two}"], "3 inputs"),
    "resume": (["find", "{net}", "--domain", "box:-1:1", "--resume", "{net}"], "JSON"),
    "option": (["find", "{net}", "--domain", "box:-1:1", "--fast"], "--fast"),
}


def refused(done: Any, *words: str) -> None:
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("stablenet: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case: str, path: Path, tmp_path: Path) -> None:
    arguments, word = BAD[case]
    np.save(tmp_path / "two.npy", np.zeros(2))
    before = sorted(tmp_path.iterdir())
    filled = [a.format(net=path, two=tmp_path / "two.npy") for a in arguments]
    if filled[0] == "find" and case != "option":
        filled += ["--output", "report.json"]
    refused(run(*filled, folder=tmp_path), word)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("output", ["missing/r.json", "."])
def test_where_nothing_can_be_written_no_work_is_done(output: str, path: Path, tmp_path: Path) -> None:
    refused(run("find", path, "--domain", "box:-1:1", "--output", output, folder=tmp_path), "folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_not_be_written(path: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    refused(run("find", path, "--domain", "box:-1:1", "--output", tmp_path / "r.json"), "not writable")


@pytest.mark.long
def test_devices_and_links_are_not_replaced(path: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    link.symlink_to(target)
    assert run("find", path, "--domain", "box:-1:1", "--output", link).returncode == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["status"] == "complete"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [*COMMAND, "find", path, "--domain", "box:-1:1", "--output", fifo], stdout=subprocess.DEVNULL
    ) as process:
        text = fifo.read_text()
    assert process.returncode == 0
    assert json.loads(text)["status"] == "complete"
    assert fifo.is_fifo()


@pytest.mark.parametrize(("options", "code"), [(["--search", "off", "--no-falsify"], 3)])
def test_a_reader_that_leaves_costs_output_and_not_the_code(options: list[str], code: int, path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "find", path, "--domain", "box:-1:1", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (code, "")


@pytest.mark.long
def test_closed_streams_do_no_harm(path: Path, tmp_path: Path) -> None:
    script = '"$@" >&- 2>&- <&-'
    output = tmp_path / "r.json"
    command = [*COMMAND, "find", path, "--domain", "box:-1:1", "--output", output]
    done = subprocess.run(["/bin/sh", "-c", script, "sh", *map(str, command)], check=False, timeout=600)
    assert done.returncode == 0
    assert json.loads(output.read_text())["status"] == "complete"


@pytest.mark.long
def test_modules_of_the_working_folder_stay_out(path: Path, tmp_path: Path) -> None:
    for name in ("json", "numpy", "onnx", "stablenet"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not me')\n")
    done = run("find", path, "--domain", "box:-1:1", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


# Resume


def test_resume_does_not_work_again_on_what_is_closed(path: Path, report: Path, tmp_path: Path) -> None:
    output = tmp_path / "again.json"
    options = ("--no-falsify", "--no-decide-by-bounds", "--search", "network")
    done = run("find", path, "--domain", "box:-1:1", "--resume", report, "--output", output, *options)
    assert done.returncode == 0
    first, second = json.loads(report.read_text()), json.loads(output.read_text())
    assert second["solves"] == []
    assert [n["verdict"] for n in first["neurons"]] == [n["verdict"] for n in second["neurons"]]
    assert [n["positive"].get("by") for n in first["neurons"]] == [n["positive"].get("by") for n in second["neurons"]]
    assert audit(second, path) == []


def test_resume_refuses_another_network_and_another_domain(path: Path, report: Path, tmp_path: Path) -> None:
    other = dense(tmp_path, seed=1)
    refused(run("find", other, "--domain", "box:-1:1", "--resume", report), "sha256")
    refused(run("find", path, "--domain", "box:-1:0.5", "--resume", report), "another domain")


def forged(report: Path, folder: Path, change: Any) -> Path:
    data = json.loads(report.read_text())
    change(data)
    (folder / "forged.json").write_text(json.dumps(data))
    return folder / "forged.json"


def test_forged_witnesses_are_not_believed(path: Path, report: Path, tmp_path: Path) -> None:
    def outside(data: dict[str, Any]) -> None:
        data["witnesses"] = [[1e6, -1e6, 1e6] for _ in data["witnesses"]]

    output = tmp_path / "r.json"
    resume = forged(report, tmp_path, outside)
    options = ("--no-falsify", "--no-decide-by-bounds", "--search", "off", "--output", output)
    assert run("find", path, "--domain", "box:-1:1", "--resume", resume, *options).returncode == 3
    data = json.loads(output.read_text())
    assert data["counts"]["unstable"] == 0
    assert data["witnesses"] == []


def test_a_forged_refutation_is_contradicted(path: Path, report: Path, tmp_path: Path) -> None:
    def refute(data: dict[str, Any]) -> None:
        data["witnesses"] = []
        for neuron in data["neurons"]:
            neuron["positive"] = {"state": "refuted", "by": "forger", "rigorous": True}
            neuron["negative"] = {"state": "open"}

    output = tmp_path / "r.json"
    resume = forged(report, tmp_path, refute)
    samples = tmp_path / "s.npy"
    np.save(samples, np.random.default_rng(0).uniform(-1, 1, (50, 3)))
    arguments = ("find", path, "--domain", "box:-1:1", "--resume", resume, "--samples", samples, "--output", output)
    done = run(*arguments)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "'forger' refuted that neuron" in done.stderr
    assert audit(json.loads(output.read_text()), path) == []


# The lists

LISTS = {
    "solvers": {"highs", "scip", "cbc", "gurobi"},
    "searches": {"network", "layer", "neuron", "split", "auto", "off"},
}


@pytest.mark.parametrize("what", ["solvers", "searches"])
def test_lists(what: str) -> None:
    done = run(what, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    rows = data if isinstance(data, list) else data[what]
    assert {row.get("name", row.get("solver")) for row in rows} >= LISTS[what]


def test_a_table() -> None:
    done = run("searches")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in LISTS["searches"])


def test_info(path: Path) -> None:
    done = run("info", path, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["input"]["size"] == 3


def test_version() -> None:
    from stablenet import __version__

    assert run("--version").stdout.strip() == __version__


# Writing


def test_a_reader_that_polls_sees_only_whole_reports(path: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    output.write_text('{"old": true}')
    seen = set()
    for _ in range(2):
        with subprocess.Popen(
            [*COMMAND, "find", path, "--domain", "box:-1:1", "--output", output], stdout=subprocess.DEVNULL
        ) as process:
            while process.poll() is None:
                seen.add("old" if "old" in json.loads(output.read_text()) else "new")
                time.sleep(0.001)
        assert process.returncode == 0
    assert seen == {"old", "new"}
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]
