"""A sweep on a Dask cluster of two workers, one of which dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time

import pytest
from compare_helpers import stablenet, write_grid
from small import dense

from stablenet import load_onnx
from stablenet.compare.store import Store

distributed = pytest.importorskip("distributed", reason="distributed is not installed")


@pytest.fixture
def cluster(tmp_path):
    folder = str(tmp_path / "dask")
    made = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=folder,
    )  # fmt: skip
    with made:
        yield made


@pytest.mark.long
def test_a_worker_that_dies_costs_nothing(cluster, tmp_path):
    from stablenet.compare.grid import read_grid
    from stablenet.compare.plan import plan
    from stablenet.compare.run import cluster as module
    from stablenet.compare.run.runner import sweep

    grid = write_grid(tmp_path, "[[runs]]\nseeds = [0, 1, 2, 3]\n[frozen]\nfalsify = false\n")
    with distributed.Client(cluster) as client:
        victim = next(iter(client.run(os.getpid).values()))
    killed = threading.Event()

    def kill_when_busy():
        end = time.monotonic() + 60
        while time.monotonic() < end and not killed.is_set():
            if (tmp_path / "sweep" / "frozen").is_dir():
                time.sleep(1.0)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                killed.set()
            time.sleep(0.05)

    killer = threading.Thread(target=kill_when_busy)
    killer.start()
    rows = []
    executor = module.Cluster(cluster.scheduler_address)
    done = sweep(plan(read_grid(grid)), tmp_path / "sweep", executor, note=lambda row, *_: rows.append(row))
    killer.join()
    executor.client.close()
    assert killed.is_set()
    assert done.made == len(rows) == 4
    assert {row["outcome"] for row in rows} == {"solved"}
    with Store(tmp_path / "sweep") as store:
        assert len(store.rows()) == 4
        assert all(store.report(row["key"])["status"] == "complete" for row in store.rows())


def test_an_address_without_a_scheduler_is_refused(tmp_path, monkeypatch):
    grid = write_grid(tmp_path, "[[runs]]\n")
    monkeypatch.setattr("stablenet.compare.run.cluster.CONNECT_TIMEOUT", 1.0)
    from stablenet.compare.run.cluster import Cluster
    from stablenet.core.errors import InputError

    with pytest.raises(InputError, match="no answer"):
        Cluster("tcp://127.0.0.1:1")
    run = stablenet("compare", grid, "--output", tmp_path / "s", "--scheduler", "tcp://127.0.0.1:1", "--workers", 1)
    assert run.returncode == 2
    assert "give one" in run.stderr


def test_runs_on_one_machine_get_cores_of_their_own():
    from stablenet.compare.run.cluster import free_cores

    available = len(os.sched_getaffinity(0))
    with free_cores(1) as first, free_cores(1) as second:
        assert len(first) == 1
        assert not set(first) & set(second)
    with free_cores(available + 1) as none:
        assert none == ()


@pytest.mark.long
def test_external_data_travels_with_its_network(cluster, tmp_path):
    """A run on a worker reads a network whose weights lie in another file beside it."""
    import onnx

    from stablenet.compare.plan import REPORT
    from stablenet.compare.run.cluster import Cluster
    from stablenet.compare.run.execute import Job

    made = onnx.load(dense(tmp_path))
    source = tmp_path / "source"
    source.mkdir()
    path = source / "net.onnx"
    onnx.save(made, path, save_as_external_data=True, location="data.bin", size_threshold=0)
    executor = Cluster(cluster.scheduler_address)
    arguments = ["find", "{network}", "--domain", "box:-1:1", "--search", "off", "--output", REPORT]
    try:
        ((name, found),) = executor.run([("one", Job(arguments, {"{network}": path}, 120.0))])
    finally:
        executor.client.close()
    assert name == "one"
    assert json.loads(found.report)["network"]["sha256"] == load_onnx(path).sha256
