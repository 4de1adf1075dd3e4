"""Names from files are text on the terminal, in messages, in JSON and on pages, whatever they hold."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import model, node, save

from stablenet.api import find_stable
from stablenet.compare.publish.page import report_page
from stablenet.core.memory import LEAST_DEFAULT, SHARE, default_megabytes, machine_megabytes
from stablenet.core.options import Options
from stablenet.core.terminal import complain, console, encodable, plain, say
from stablenet.find.supervisor import EngineRefusedError, supervise
from stablenet.report.report import Report

HOSTILE = "\x1b]0;owned\x07[/red] [bold]\x9b31m\u202etxt :smile:"


def controls(text: str) -> list[str]:
    return [c for c in text if not (c.isprintable() or c in "\n ")]


def network(folder: Path, name: str = HOSTILE, file: str = "net.onnx") -> Path:
    weights = {"w": np.random.default_rng(1).normal(size=(2, 3)), "b": np.zeros(3)}
    nodes = [node("Gemm", "x", "w", "b", out="g", name=f"{name} sum"), node("Relu", "g", name=name)]
    return save(model(nodes, [1, 2], weights), folder, file)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "stablenet.cli.main", *map(str, arguments)]
    wide = os.environ | {"COLUMNS": "300"}
    return subprocess.run(words, capture_output=True, text=True, timeout=600, check=False, env=wide)


def test_plain_text_and_json() -> None:
    assert plain("a [b] é 漢 :smile:") == "a [b] é 漢 :smile:"
    assert plain("\x1b[0m\n\x9b\u202e\udcff") == "\\u001b[0m\\n\\u009b\\u202e\\udcff"
    data = {"name": HOSTILE, "tag": "\U000e0041"}
    text = plain(json.dumps(data, ensure_ascii=False, indent=2), keep="\n")
    assert not controls(text)
    assert json.loads(text) == data
    assert encodable("é漢", "latin-1") == "é\\u6f22"
    assert encodable("\udcff", "utf-8") == "\\udcff"


def test_messages_are_one_line_of_some_length(capsys: pytest.CaptureFixture[str]) -> None:
    complain(f"no {HOSTILE}\nwith {'x' * 10_000}")
    say("a\nb\x1b")
    captured = capsys.readouterr()
    assert captured.out == "a\\nb\\u001b\n"
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 5000
    assert not controls(captured.err)


def test_markup_is_text_on_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    table = Table("[/head]")
    table.add_row(f"[/]{HOSTILE}")
    out = console()
    out.print(table, width=200)
    out.print("[/x] :smile:")
    text = stream.getvalue()
    assert "[/head]" in text
    assert "[/]" in text
    assert "[/x] :smile:" in text
    assert not controls(text)


@pytest.mark.parametrize("command", ["info", "info --json", "find --domain box:-1:1 --threads 1"])
def test_commands_show_hostile_names_as_text(command: str, tmp_path: Path) -> None:
    first, *rest = command.split()
    done = run(first, network(tmp_path), *rest)
    assert (done.returncode, done.stderr) == (0, "")
    assert not controls(done.stdout)
    assert "[/red]" in done.stdout


def test_errors_show_hostile_names_as_text(tmp_path: Path) -> None:
    path = save(model([node("Relu", "x", name=HOSTILE, out="h"), node("Sigmoid", "h", name=HOSTILE)], [1, 2]), tmp_path)
    done = run("info", path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not controls(done.stderr)


def test_a_page_of_a_network_named_like_a_mark(tmp_path: Path) -> None:
    data: dict[str, Any] = find_stable(network(tmp_path), "box:-1:1", threads=1).data
    data["network"]["file"] = "/nowhere/{{SCRIPT}}<script>\udcff.onnx"
    page = report_page(data)
    assert "<title>{{SCRIPT}}&lt;script&gt;\\udcff.onnx" in page
    assert page.count("</script>") == 2
    page.encode("utf-8")


def test_a_report_of_a_path_that_is_no_utf8(tmp_path: Path) -> None:
    report = find_stable(network(tmp_path), "box:-1:1", threads=1)
    report.data["network"]["file"] = "\udcff.onnx"
    report.write(tmp_path / "r.json")
    assert Report.read(tmp_path / "r.json").data == report.data


def test_the_default_memory_limit_is_in_the_report(tmp_path: Path) -> None:
    machine = machine_megabytes()
    assert machine is not None
    assert default_megabytes() == round(max(SHARE * machine, LEAST_DEFAULT))
    outcome = supervise(str(network(tmp_path, "n")), "box:-1:1", Options(threads=1))
    assert outcome.report.data["config"]["memory_limit"] == default_megabytes()
    assert "--memory-limit" in run("find", "--help").stdout


def test_the_time_limit_holds_while_the_domain_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that reads for ever is ended; a stand-in for one is put first on the engine's path."""
    script = 'import time\nprint(\'{"event": "reading"}\', flush=True)\ntime.sleep(600)\n'
    (tmp_path / "slow.py").write_text(script)
    real = subprocess.Popen

    def start(words: list[str], **keywords: Any) -> subprocess.Popen[bytes]:
        del words
        return real([sys.executable, str(tmp_path / "slow.py")], **keywords)

    monkeypatch.setattr("stablenet.find.supervisor.subprocess.Popen", start)
    began = time.monotonic()
    with pytest.raises(EngineRefusedError, match="before network and domain were read") as caught:
        supervise("net.onnx", "box:0:1", Options(threads=1, time_limit=0.5))
    assert caught.value.code == 3
    assert time.monotonic() - began < 60
