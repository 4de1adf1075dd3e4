"""Ctrl-C, termination and hang-up, at every stage of every command: exit code 3, one line, nothing left behind."""

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
import slow_plugins
from small import dense

COMMAND = [sys.executable, "-P", "-m", "stablenet"]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
PATIENCE = 240.0


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense(tmp_path_factory.mktemp("net"))


@pytest.fixture(name="plugin", scope="module")
def _plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slow_plugins.install(tmp_path_factory.mktemp("plugin"))


class Place:
    """A folder with a command at work in it, whose temporary files go to ``temp``."""

    def __init__(self, folder: Path, plugin: Path) -> None:
        self.folder = folder
        self.temp = folder / "temp"
        self.temp.mkdir()
        self.mark = folder / "mark"
        self.env = os.environ | {"PYTHONPATH": str(plugin), "SLOW_MARK": str(self.mark), "TMPDIR": str(self.temp)}
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: Any, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder, env=self.env | (env or {}), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def hanging(self) -> int:
        """The process that hangs in a plug-in, once one does."""

        def mark() -> str | None:
            process = self.processes[-1]
            assert process.poll() is None, process.communicate()
            return self.mark.read_text() if self.mark.exists() else None

        return int(wait_for(mark).split()[0])


@pytest.fixture(name="place")
def _place(tmp_path: Path, plugin: Path) -> Iterator[Place]:
    place = Place(tmp_path, plugin)
    yield place
    for process in place.processes:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], words: str | None = None) -> None:
    """It ended with exit code 3; with one line that holds the words, or with none."""
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, errors
    assert "Traceback" not in errors
    assert errors.count("\n") == (0 if words is None else 1), errors
    assert words is None or words in errors


@pytest.mark.parametrize("number", SIGNALS)
def test_while_modules_are_imported(number: int, place: Place) -> None:
    """The argument parser's place is taken by a module that hangs."""
    (place.folder / "typer.py").write_text(
        f"import os, time\nopen({str(place.mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    process = place.start("solvers", env={"PYTHONPATH": str(place.folder)})
    assert place.hanging() == process.pid
    process.send_signal(number)
    ended(process, "interrupted")


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("find", signal.SIGTERM),
        ("find", signal.SIGHUP),
        ("info", signal.SIGINT),
        ("info", signal.SIGTERM),
        *((command, signal.SIGHUP) for command in ("info", "export", "compress", "verify")),
    ],
)
def test_while_files_are_read(command: str, number: int, place: Place, path: Path) -> None:
    """The package that reads ONNX files is replaced by one that hangs."""
    modules = place.folder / "modules"
    modules.mkdir()
    (modules / "onnx.py").write_text(
        f"import os, time\nopen({str(place.mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    arguments: list[Any] = [path, *([path] if command == "verify" else [])]
    arguments += [] if command == "info" else ["--domain", "box:-1:1"]
    arguments += {"export": ["--output", "m.mps"], "compress": ["--output", "s.onnx"]}.get(command, [])
    process = place.start(command, *arguments, env={"PYTHONPATH": str(modules)})
    reader = place.hanging()
    process.send_signal(number)
    ended(process, "interrupt")
    assert wait_for(lambda: gone(reader))
    assert list(place.temp.iterdir()) == []
    assert not [name for name in ("m.mps", "s.onnx") if (place.folder / name).exists()]


STAGES = {
    "bounds": ["--bounds", "slow"],
    "model": ["--formulation", "slow", "--search", "neuron", "--bounds", "interval", "--no-falsify"],
    "solver": ["--solver", "slow", "--search", "neuron", "--bounds", "interval", "--no-falsify"],
    "search": ["--search", "slow", "--no-falsify", "--bounds", "interval"],
}


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("bounds", signal.SIGHUP),
        ("model", signal.SIGTERM),
        ("solver", signal.SIGHUP),
        ("search", signal.SIGINT),
        *(pytest.param("search", number, marks=pytest.mark.long) for number in SIGNALS[1:]),
    ],
)
def test_find(stage: str, number: int, place: Place, path: Path) -> None:
    process = place.start("find", path, "--domain", "box:-1:1", "--output", "r.json", *STAGES[stage])
    engine = place.hanging()
    process.send_signal(number)
    ended(process)
    report = json.loads((place.folder / "r.json").read_text())
    assert report["stopped_by"] == "interrupt"
    assert report["neurons"]
    assert gone(engine)
    assert list(place.temp.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_commands_at_work(number: int, place: Place, path: Path) -> None:
    other = dense(place.folder, seed=5, name="other.onnx")
    commands = {
        "export": [path, "--output", "m.mps", "--bounds", "slow"],
        "verify": [path, other, "--tolerance", "1000000", "--steps", "milp", "--formulation", "slow"],
    }
    for command, arguments in commands.items():
        place.mark.unlink(missing_ok=True)
        process = place.start(command, *arguments, "--domain", "box:-1:1")
        assert place.hanging() == process.pid
        process.send_signal(number)
        ended(process, "interrupted")
        assert not (place.folder / "m.mps").exists()


def test_compress_writes_what_was_found(place: Place, path: Path) -> None:
    process = place.start("compress", path, "--domain", "box:-1:1", "--output", "s.onnx", *STAGES["search"][:2])
    engine = place.hanging()
    process.send_signal(signal.SIGHUP)
    ended(process)
    assert gone(engine)
    assert (place.folder / "s.onnx").exists()
    assert not [entry for entry in place.temp.iterdir() if entry.is_dir()]  # onnxruntime leaves a file


@pytest.mark.parametrize("victim", ["engine", "supervisor"])
def test_what_is_killed_leaves_no_process_and_no_folder(victim: str, place: Place, path: Path) -> None:
    process = place.start("find", path, "--domain", "box:-1:1", "--output", "r.json", *STAGES["solver"])
    engine = place.hanging()
    os.kill(engine if victim == "engine" else process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    wait_for(lambda: gone(engine) and not list(place.temp.iterdir()))
    assert (place.folder / "r.json").exists() == (victim == "engine")


def test_a_hangup_that_is_ignored_stays_ignored(place: Place, path: Path) -> None:
    """As under ``nohup``."""
    words = [*COMMAND, "find", str(path), "--domain", "box:-1:1", "--output", "r.json", *STAGES["search"]]
    code = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=place.folder, env=place.env, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    place.processes.append(process)
    place.hanging()
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    ended(process)


GRID = """
name = "slow"
time_limit = 300.0
threads = 1
[[instances]]
name = "one"
network = "net.onnx"
domain = "box:-1:1"
[[runs]]
formulation = ["bigm"]
bounds = ["interval"]
search = ["slow"]
solver = ["highs"]
"""


@pytest.mark.parametrize(
    "number",
    [signal.SIGHUP, signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.long) for number in SIGNALS[:2])],
)
def test_compare(number: int, place: Place) -> None:
    dense(place.folder, name="net.onnx")
    (place.folder / "grid.toml").write_text(GRID)
    process = place.start("compare", "grid.toml", "--output", "sweep", "--workers", "1")
    engine = place.hanging()
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 3)
    assert "Traceback" not in errors
    wait_for(lambda: gone(engine) and not list(place.temp.iterdir()))


def test_the_handlers_stand_before_anything_slow_is_loaded() -> None:
    """What handles the signals is loaded before anything that takes time."""
    code = "import sys; import stablenet.__main__; print(sorted({'numpy', 'typer', 'rich', 'onnx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_signal_while_the_interpreter_ends_changes_no_exit_code() -> None:
    """An object that is freed last sends the signal: by then the interpreter has taken function handlers away."""
    code = """
import builtins, os, sys
from stablenet.core.signals import end_at_once, ignore_at_exit, install
install()
ignore_at_exit()
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, 15)
builtins.late = Late()
end_at_once("", 3, grace=2.0)
sys.exit(3)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3


SWALLOWED = """
import os, signal, sys
import stablenet.cli.main as main

def app(*args, **kwargs):
    if "signal" in sys.argv:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 1)
        except KeyboardInterrupt:
            pass
    raise ImportError("initialization failed")

main.app = app
main.main()
"""


@pytest.mark.parametrize("sent", [True, False])
def test_an_interrupt_that_an_import_turns_into_its_own_error(sent):
    command = [sys.executable, "-c", SWALLOWED, *(["signal"] if sent else [])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == (3 if sent else 1)
    assert ("Traceback" in ended.stderr) is not sent
