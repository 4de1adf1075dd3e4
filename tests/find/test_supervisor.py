"""Engines that hang, crash, run out of memory or are killed, and supervisors that are: nothing found is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oracle.auditor import audit
from small import dense

from stablenet.testing.suite import slowness

COMMAND = [sys.executable, "-P", "-m", "stablenet.cli.main"]

LARGE = [*COMMAND, "find", "--domain", "box:-1:1", "--search", "network", "--no-falsify", "--no-decide-by-bounds"]
LARGE += ["--inject", "off"]  # relaxations would close everything before the solver has to search

PLUGIN = '''
import os, signal, sys, time
import numpy as np
from pathlib import Path
from stablenet.backends.base import Availability, Backend, Capability
from stablenet.backends.highs import Highs

class Fake(Backend):
    title = "Fake"
    left = 3
    capabilities = Highs.capabilities - {Capability.THREADS}
    def available(self):
        return Availability(True, "1", "")
    def open(self, milp, settings=None):
        return FakeSession(Highs().open(milp, settings), self)

class FakeSession:
    """HiGHS for a few solves, then trouble."""
    def __init__(self, honest, fake):
        self.honest, self.fake = honest, fake
    def __getattr__(self, name):
        return getattr(self.honest, name)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.honest.close()
    def solve(self, *args, **kwargs):
        Fake.left -= 1
        if Fake.left < 0:
            Path(os.environ["FAKE_MARK"]).write_text(str(os.getpid()))
            self.fake.trouble()
        return self.honest.solve(*args, **kwargs)

class Hanging(Fake):
    name = "hanging"
    def trouble(self):
        while True:
            time.sleep(60)

class Aborting(Fake):
    name = "aborting"
    def trouble(self):
        os.abort()

class Raising(Fake):
    name = "raising"
    def trouble(self):
        raise RuntimeError("the fake is out of order")

class Leaving(Fake):
    name = "leaving"
    def trouble(self):
        os._exit(7)

class Hungry(Fake):
    name = "hungry"
    def trouble(self):
        kept = []
        while True:
            kept.append(np.empty(5_000_000))

class Loud(Fake):
    name = "loud"
    def trouble(self):
        os.write(1, b"to stdout\\n")
        os.write(2, b"to stderr\\n")
        print("hello")
        print("hello", file=sys.stderr)
'''


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense(tmp_path_factory.mktemp("net"))


@pytest.fixture(name="plugin", scope="module")
def _plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with a package that registers backends by entry points."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "fakes.py").write_text(PLUGIN)
    info = folder / "fakes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fakes\nVersion: 1.0\n")
    names = ("Hanging", "Aborting", "Raising", "Leaving", "Hungry", "Loud")
    (info / "entry_points.txt").write_text(
        "[stablenet.backends]\n" + "".join(f"{name.lower()} = fakes:{name}\n" for name in names)
    )
    return folder


class Run:
    """One `find` in the background."""

    def __init__(self, path: Path, folder: Path, solver: str, plugin: Path, *options: str) -> None:
        self.path = path
        self.output = folder / "report.json"
        self.mark = folder / "mark"
        env = os.environ | {"PYTHONPATH": str(plugin), "FAKE_MARK": str(self.mark)}
        command = [
            *(*COMMAND, "find", str(path), "--domain", "box:-1:1", "--search", "neuron", "--threads", "1"),
            *("--no-falsify", "--no-decide-by-bounds", "--solver", solver, "--output", str(self.output), *options),
        ]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def engine(self) -> int:
        """The engine's process id, once it is in trouble."""
        wait_for(lambda: self.mark.exists() and self.mark.read_text())
        return int(self.mark.read_text())

    def end(self, within: float = 30.0) -> tuple[int, str]:
        """Exit code and stderr."""
        _, errors = self.process.communicate(timeout=within * slowness())
        return self.process.returncode, errors

    def stopped_by(self, reason: str | tuple[str, ...]) -> dict[str, Any]:
        """The report, which is whole, says why it stopped, and holds what was found before."""
        report: dict[str, Any] = json.loads(self.output.read_text())
        assert report["stopped_by"] in ((reason,) if isinstance(reason, str) else reason)
        assert audit(report, self.path) == []
        assert len(report["solves"]) >= 3
        assert report["witnesses"]
        assert report["counts"]["unknown"] > 0
        return report


@pytest.fixture(name="start")
def _start(path: Path, tmp_path: Path, plugin: Path) -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def start(solver: str, *options: str) -> Run:
        made.append(Run(path, tmp_path, solver, plugin, *options))
        return made[-1]

    yield start
    for run in made:
        run.process.kill()
        run.process.communicate()


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for what comes in much less time on an idle machine."""
    end = time.monotonic() + seconds * slowness()
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used: how far it is, whatever else the machine does."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def one_line(errors: str, *words: str) -> None:
    assert errors.startswith("stablenet: ")
    assert errors.count("\n") == 1
    assert all(word in errors for word in words), errors


def test_a_hanging_solver_ends_at_the_time_limit(start: Callable[..., Run]) -> None:
    limit = 3.0 * slowness()
    began = time.monotonic()
    run = start("hanging", "--time-limit", str(limit))
    engine = run.engine()
    hung = time.monotonic() - began
    code, errors = run.end()
    assert code == 3
    assert errors == ""
    assert time.monotonic() - began < limit + 10 * slowness()
    report = run.stopped_by("time")
    # The time of the stage that was cut off is counted too: it was under way when the solver hung.
    seconds = report["seconds"]
    assert 0.8 * (seconds["total"] - hung) < seconds["search"] <= seconds["total"]
    assert not alive(engine)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_signal_in_mid_solve(number: int, start: Callable[..., Run]) -> None:
    run = start("hanging")
    engine = run.engine()
    began = time.monotonic()
    run.process.send_signal(number)
    code, errors = run.end()
    assert time.monotonic() - began < 10 * slowness()
    assert (code, errors) == (3, "")
    run.stopped_by("interrupt")
    assert not alive(engine)


@pytest.mark.long
def test_a_second_signal_loses_nothing(start: Callable[..., Run]) -> None:
    run = start("hanging")
    run.engine()
    while run.process.poll() is None:
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.02)
        if run.output.exists():
            break
    assert run.end()[0] == 3
    run.stopped_by("interrupt")


def test_ctrl_c_of_a_real_solver_at_once(start: Callable[..., Run], tmp_path: Path) -> None:
    """HiGHS at work on a network too large to be done."""
    path = dense(tmp_path, (20, 60, 60, 60, 2), seed=0, name="large.onnx")
    output = tmp_path / "large.json"
    process = subprocess.Popen(
        [*LARGE, str(path), "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: engine_of(process.pid))
    engine = engine_of(process.pid)
    assert engine is not None
    wait_for(lambda: processor_seconds(engine) > 3.0, 60.0)  # imports take 1 to 2
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20 * slowness())
    assert time.monotonic() - began < 10 * slowness()
    report = json.loads(output.read_text())
    assert (process.returncode, errors, report["stopped_by"]) == (3, "", "interrupt")
    assert audit(report, path) == []


def test_an_engine_that_is_killed(start: Callable[..., Run]) -> None:
    run = start("hanging")
    os.kill(run.engine(), signal.SIGKILL)
    code, errors = run.end()
    assert code == 3
    one_line(errors, "SIGKILL")
    run.stopped_by("solver")


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        ("aborting", "SIGABRT"),
        pytest.param("leaving", "exit code 7", marks=pytest.mark.long),
        ("raising", "RuntimeError: the fake is out of order"),
    ],
)
def test_an_engine_that_crashes(solver: str, words: str, start: Callable[..., Run]) -> None:
    run = start(solver)
    code, errors = run.end()
    assert code == 3
    one_line(errors, words)
    run.stopped_by("solver")


def test_the_memory_limit(start: Callable[..., Run]) -> None:
    run = start("hungry", "--memory-limit", "3000")
    code, _ = run.end()
    assert code == 3
    run.stopped_by(("memory", "solver"))


def test_what_solvers_print_is_not_shown(start: Callable[..., Run]) -> None:
    run = start("loud")
    stdout, errors = run.process.communicate(timeout=300)
    assert (run.process.returncode, errors) == (0, "")
    assert "hello" not in stdout
    assert "to std" not in stdout


def test_a_killed_supervisor_leaves_the_old_file_and_no_engine(start: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("old")
    run = start("hanging")
    engine = run.engine()
    run.process.kill()
    run.process.communicate()
    wait_for(lambda: not alive(engine), 5.0)
    assert run.output.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mark", "report.json"]


def children(name: str, group: int) -> list[int]:
    """Processes of a program in a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text()
            except OSError:
                continue
            fields = words.rpartition(")")[2].split()
            if name in words.split("(")[1] and int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def engine_of(supervisor: int) -> int | None:
    """The child of the supervisor."""
    try:
        words = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    except OSError:
        return None
    return int(words[0]) if words else None


@pytest.mark.backend("cbc")
@pytest.mark.parametrize(
    "victim", ["engine", "supervisor", "solver", pytest.param("interrupt", marks=pytest.mark.long)]
)
def test_no_orphans(victim: str, tmp_path: Path) -> None:
    """CBC is a program of its own: it dies with the engine, the engine with the supervisor, and nothing hangs."""
    path = dense(tmp_path, (20, 50, 50, 50, 2), seed=0, name="large.onnx")
    output = tmp_path / "large.json"
    process = subprocess.Popen(
        [*LARGE, str(path), "--solver", "cbc", "--output", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: engine_of(process.pid))
        engine = engine_of(process.pid)
        assert engine is not None
        wait_for(lambda: children("cbc", engine))
        time.sleep(1.0)
        wait_for(lambda: children("cbc", engine))
        (solver,) = children("cbc", engine)
        target = {"engine": engine, "supervisor": process.pid, "solver": solver, "interrupt": process.pid}[victim]
        os.kill(target, signal.SIGINT if victim == "interrupt" else signal.SIGKILL)
        if victim == "solver":  # the search asks anew, and is ended then
            wait_for(lambda: [pid for pid in children("cbc", engine) if pid != solver])
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20 * slowness())
        wait_for(lambda: not alive(engine) and not children("cbc", engine), 5.0)
    finally:
        process.kill()
    if victim == "supervisor":
        assert not output.exists()
        return
    report = json.loads(output.read_text())
    assert process.returncode == 3
    assert report["stopped_by"] == ("solver" if victim == "engine" else "interrupt")
    assert audit(report, path) == []
    if victim == "engine":
        one_line(errors, "SIGKILL")
    if victim == "solver":
        assert "CBC" in report["solver_failures"][0]["sentence"]


def test_a_bug_before_there_is_a_report_is_1(path: Path, tmp_path: Path) -> None:
    """A plug-in that fails when its argument is read is an error of its author, and no report stands behind it."""
    info = tmp_path / "faulty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[stablenet.backends]\nfaulty = faulty:Faulty\n")
    (tmp_path / "faulty.py").write_text(
        "from stablenet.backends.highs import Highs\nclass Faulty(Highs):\n    name = 'faulty'\n"
        "    @classmethod\n    def from_argument(cls, argument):\n        raise ZeroDivisionError('no plug-in')\n"
    )
    done = subprocess.run(
        [*COMMAND, "find", str(path), "--domain", "box:-1:1", "--solver", "faulty"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    one_line(done.stderr, "ZeroDivisionError: no plug-in")


def test_the_engine_by_hand_leaves_its_group_alone(path: Path) -> None:
    """Started in another's process group, with no supervisor at the other end."""
    job = {"network": str(path), "domain": "box:-1:1", "options": {"threads": 1}, "deadline": None}
    script = 'sleep 0.3; printf "%s\\n" "$1" | "$2" -P -m stablenet.find.engine; echo survived'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", json.dumps(job), sys.executable],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        start_new_session=True,
    )
    assert done.stdout.endswith("survived\n")
