"""Branching shared out among workers: what is found does not depend on them, proofs check, no lost task decides."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from small import dense
from typer.testing import CliRunner

from stablenet import Box, Network, find_stable, load_onnx
from stablenet.check.claims import check
from stablenet.cli.main import app
from stablenet.core.cluster import LostTask
from stablenet.core.errors import InputError, UnsupportedError
from stablenet.search import shared as module

SIZES = (6, 12, 12, 12, 2)
OPTIONS: dict[str, Any] = {"search": "branch", "bounds": "interval", "threads": 1}
DOMAIN = Box([-0.2] * 6, [0.2] * 6)


class InProcess:
    """Workers that carry tasks out at once, some of which get lost."""

    lose: range = range(0)

    def __init__(self) -> None:
        self.client = self
        self.n_tasks = 0

    @classmethod
    def here(cls, count: int) -> InProcess:
        assert count == 2
        return cls()

    @staticmethod
    def submit(work: Any, *values: Any, pure: bool) -> Any:
        del pure
        return work(*values)

    @staticmethod
    def put(name: str, value: Any) -> Any:
        assert name
        return value

    def ordered(self, work: Any, tasks: Any, common: Any, deadline: Any) -> Iterator[Any]:
        for task in tasks:
            deadline.check()
            self.n_tasks += 1
            yield LostTask("KilledWorker: 3 times") if self.n_tasks in self.lose else work(task, *common)

    def close(self) -> None:
        self.client = None


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> type[InProcess]:
    class Own(InProcess):
        pass

    monkeypatch.setattr(module, "Workers", Own)
    # A question or two for each task, so that there are many.
    monkeypatch.setattr(module, "TASK_NODES", 128)
    return Own


def verdicts(report: Any) -> list[str]:
    return [entry["verdict"] for entry in report.to_json()["neurons"]]


@pytest.mark.parametrize("search", ["branch", "auto"])
def test_what_is_found_is_the_same_and_its_proof_checks(tmp_path, in_process, monkeypatch, search):
    del in_process
    monkeypatch.setattr("stablenet.search.rigorous.FEW_INPUTS", 0)  # or `auto` would split the domain
    file = dense(tmp_path, SIZES)
    options = OPTIONS | {"search": search}
    alone = find_stable(file, DOMAIN, **options)
    report, proof = tmp_path / "report.json", tmp_path / "proof"
    found = find_stable(file, DOMAIN, workers=2, proof=str(proof), **options)
    found.write(report)
    tasks = found.to_json()["tasks"]
    assert len(tasks) > 2
    assert all(row["seconds"] >= 0 for row in tasks)
    assert verdicts(found) == verdicts(alone)
    assert found.to_json()["counts"]["rigorous"] == sum(SIZES[1:-1])
    result = check(load_onnx(file), report, proof, domain=DOMAIN)
    assert not result.problems
    assert result.unproven == 0


def test_lost_tasks_leave_their_questions_open(tmp_path, in_process):
    file = dense(tmp_path, SIZES)
    truth = verdicts(find_stable(file, DOMAIN, **OPTIONS))
    in_process.lose = range(1, 10_000)
    lost = find_stable(file, DOMAIN, workers=2, **OPTIONS)
    assert {row["lost"] for row in lost.to_json()["tasks"]} == {"KilledWorker: 3 times"}
    assert "unknown" in verdicts(lost)
    assert all(mine in {"unknown", true} for mine, true in zip(verdicts(lost), truth, strict=True))
    in_process.lose = range(2, 3)
    some = find_stable(file, DOMAIN, workers=2, **OPTIONS)
    assert verdicts(some).count("unknown") < verdicts(lost).count("unknown")
    assert all(mine in {"unknown", true} for mine, true in zip(verdicts(some), truth, strict=True))


def test_what_cannot_be_shared_is_refused(tmp_path, in_process):
    del in_process
    file = dense(tmp_path, SIZES)
    with pytest.raises(UnsupportedError, match="search 'split' cannot be shared out"):
        find_stable(file, DOMAIN, workers=2, search="split")
    with pytest.raises(InputError, match="give one"):
        find_stable(file, DOMAIN, workers=2, scheduler="tcp://127.0.0.1:1")
    network = load_onnx(file)
    unread = Network(network.n_inputs, network.layers, network.output)
    with pytest.raises(InputError, match="not read from a file"):
        find_stable(unread, DOMAIN, workers=2, **OPTIONS)
    run = CliRunner().invoke(app, ["find", str(file), "--domain", "box:-1:1", "--workers", "0"])
    assert run.exit_code != 0


@pytest.mark.long
def test_a_worker_that_dies_costs_nothing(tmp_path):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    file = dense(tmp_path, SIZES)
    alone = find_stable(file, DOMAIN, **OPTIONS)
    killed = threading.Event()
    made = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path / "d")
    )
    with made, distributed.Client(made) as client:
        victim = next(iter(client.run(os.getpid).values()))

        def kill_when_busy() -> None:
            end = time.monotonic() + 120
            while time.monotonic() < end and not killed.is_set():
                if any(client.processing().values()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                    killed.set()
                time.sleep(0.005)

        killer = threading.Thread(target=kill_when_busy)
        killer.start()
        found = find_stable(file, DOMAIN, scheduler=made.scheduler_address, **OPTIONS)
        killer.join()
    assert killed.is_set()
    assert not [row for row in found.to_json()["tasks"] if "lost" in row]
    assert verdicts(found) == verdicts(alone)
