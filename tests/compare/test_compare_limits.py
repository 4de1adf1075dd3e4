"""Limits enforced from outside, whatever the command does; nothing survives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stablenet.testing.suite import slowness

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits from outside are Linux's")


def start(argv, **limits):
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "stablenet.compare.run.limits"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    request = {"argv": argv, "wall": 30.0, "memory": None, "cores": [], **limits}
    watchdog.stdin.write(json.dumps(request).encode() + b"\n")
    watchdog.stdin.flush()
    return watchdog


def answer(argv, **limits):
    watchdog = start(argv, **limits)
    found = json.loads(watchdog.stdout.read())
    watchdog.stdin.close()
    watchdog.stdout.close()
    assert watchdog.wait() == 0
    return found


def python(code):
    return [sys.executable, "-S", "-c", code]


def gone(pid, patience=5.0):
    """Whether a process ends within a few seconds on an idle machine (a zombie has ended)."""
    end = time.monotonic() + patience * slowness()
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_exit_code_time_and_words_are_reported():
    found = answer(python("import sys, time; time.sleep(0.3); sys.stderr.write('why\\n'); sys.exit(3)"))
    assert (found["exit_code"], found["killed"], found["stderr"]) == (3, None, "why\n")
    assert 0.3 <= found["wall_s"] < 10 * slowness()
    assert found["peak_mb"] > 1


def test_a_signal_is_a_negative_exit_code():
    assert answer(python("import os; os.kill(os.getpid(), 11)"))["exit_code"] == -signal.SIGSEGV


def test_cpu_time_includes_children():
    child = "x = 0\nfor i in range(3000000): x += i"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    found = answer(python(code))
    assert found["cpu_s"] > 0.05


def test_a_hang_is_asked_to_end_and_may_write_what_it_has(tmp_path):
    mark = tmp_path / "written"
    code = (
        f"import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(open({str(mark)!r}, 'w').write('x') * 3))\n"
    )
    found = answer(python(code + "time.sleep(600)"), wall=1.0 * slowness())
    assert (found["killed"], found["exit_code"]) == ("wall", 3)
    assert mark.read_text() == "x"


def test_a_hang_that_ignores_the_request_is_killed():
    found = answer(
        python("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"), wall=0.5 * slowness()
    )
    assert (found["killed"], found["exit_code"]) == ("wall", -signal.SIGKILL)
    assert found["wall_s"] < 15 * slowness()


def test_memory_of_all_processes_counts_and_the_supervisor_may_report():
    child = "x = bytearray(b'x' * 300_000_000); import time; time.sleep(60)"
    code = f"import subprocess, sys; p = subprocess.run([sys.executable, '-S', '-c', {child!r}]); sys.exit(7)"
    found = answer(python(code), memory=150.0)
    assert (found["killed"], found["exit_code"]) == ("memory", 7)
    assert found["peak_mb"] > 150


def test_orphans_are_killed(tmp_path):
    file = tmp_path / "pid"
    code = "import subprocess, sys\n"
    code += (
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    )
    code += f"open({str(file)!r}, 'w').write(str(p.pid))"
    assert answer(python(code))["exit_code"] == 0
    assert gone(int(file.read_text()))


@pytest.mark.parametrize("how", ["stdin closes", "the watchdog is killed", "the watchdog is asked to end"])
def test_nothing_survives_the_sweep(tmp_path, how):
    file = tmp_path / "pids"
    child = f"import os, time; open({str(file)!r}, 'w').write(f'{{os.getppid()}} {{os.getpid()}}'); time.sleep(60)"
    # The child ends when its parent does, as an engine does.
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', {child!r}]); p.wait()"
    watchdog = start(python(code))
    end = time.monotonic() + 10 * slowness()
    while not (file.exists() and file.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    parent, grandchild = map(int, file.read_text().split())
    if how == "stdin closes":
        watchdog.stdin.close()
    else:
        watchdog.send_signal(signal.SIGKILL if "killed" in how else signal.SIGTERM)
    watchdog.wait(timeout=10 * slowness())
    watchdog.stdout.close()
    assert gone(parent)
    if how == "the watchdog is killed":  # its children's children watch their own parent
        os.kill(grandchild, signal.SIGKILL)
    assert gone(grandchild)


def test_pinned_to_its_core():
    core = min(os.sched_getaffinity(0))
    assert (
        answer(python(f"import os, sys; sys.exit(os.sched_getaffinity(0) != {{{core}}})"), cores=[core])["exit_code"]
        == 0
    )
