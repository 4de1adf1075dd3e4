"""Every command and snippet shown in the README and in docs/ is run.

Fenced ``sh`` and ``python`` blocks of a file run in order, in one scratch folder with the examples in it; a
``python`` block knows what the ones before it defined, as in a reader's session.
Set-up lines (make, pip, venv) are not run but checked: the target, the extra must exist. A block after the
comment ``<!-- long -->`` runs only in the long test.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<long><!-- long -->\n+)?^```(?P<language>sh|python)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)
SETUP = ("make ", "pip install", "python3 -m venv", ". .venv/bin/activate", "git clone", "cd stablenet")


@dataclass(frozen=True)
class Block:
    language: str
    body: str
    long: bool
    line: int

    @property
    def setup(self) -> list[str]:
        return [x for x in self.body.splitlines() if x.startswith(SETUP)] if self.language == "sh" else []

    @property
    def script(self) -> str:
        return "\n".join(line for line in self.body.splitlines() if line not in self.setup)


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(m["language"], m["body"], m["long"] is not None, text.count("\n", 0, m.start()) + 1)
        for m in BLOCK.finditer(text)
    ]


def run_all(path: Path, chosen: list[Block], folder: Path) -> None:
    shutil.copytree(ROOT / "examples", folder / "examples")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
    session = ""
    for block in chosen:
        if block.language == "python":
            session += block.script + "\n"
            command = [sys.executable, "-c", session]
        else:
            command = ["bash", "-euc", block.script]
        run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert run.returncode == 0, f"{path.name}, line {block.line}:\n{block.script}\n{run.stdout}\n{run.stderr}"


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


SHORT = [path for path in FILES if any(block.script.strip() and not block.long for block in blocks(path))]
LONG = [path for path in FILES if any(block.long for block in blocks(path))]


@pytest.mark.parametrize("path", SHORT, ids=names(SHORT))
def test_shown_commands_and_snippets_run(path, tmp_path):
    run_all(path, [block for block in blocks(path) if not block.long], tmp_path)
    if path.name == "README.md":
        assert_figures(json.loads((tmp_path / "report.json").read_text()), path.read_text())


def assert_figures(report: dict[str, Any], text: str) -> None:
    """What the README says of `make demo` is what the run found."""
    counts = report["counts"]
    by = Counter(
        question["by"]
        for neuron in report["neurons"]
        for question in (neuron["positive"], neuron["negative"])
        if question["state"] == "refuted"
    )
    assert set(by) == {"interval", "crown", "branch"}
    stable = counts["stably_active"] + counts["stably_inactive"]
    said = (
        f"{stable} of its {len(report['neurons'])} neurons",
        f"intervals prove {by['interval']} of them, CROWN {by['crown']} more, and branching the last {by['branch']}",
        f"{counts['unstable']} are unstable",
    )
    for claim in said:
        assert claim in " ".join(text.split())


if LONG:

    @pytest.mark.long
    @pytest.mark.parametrize("path", LONG, ids=names(LONG))
    def test_long_commands_run(path, tmp_path):
        run_all(path, blocks(path), tmp_path)


def test_set_up_lines_name_what_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for path in FILES for block in blocks(path) for line in block.setup]
    assert "make demo" in lines
    for line in lines:
        words = shlex.split(line)
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, line
        for group in re.findall(r"\[([a-z,]+)\]", line):
            assert set(group.split(",")) <= set(extras), line


def test_nothing_escapes_the_runner():
    for path in FILES:
        fences = re.findall(r"^```(\S*)$", path.read_text(), re.MULTILINE)
        opened = [fence for fence in fences if fence]
        assert len(opened) * 2 == len(fences), f"{path}: a fence without a language"
        shown = [fence for fence in opened if fence in ("sh", "python")]
        assert len(shown) == len(blocks(path)), path
        assert not {"bash", "shell", "console", "py"} & set(opened), f"{path}: use sh and python, which are run"


def test_links_lead_somewhere():
    for path in FILES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_the_example_network_can_be_trained_again(tmp_path):
    outputs = []
    for name in ("a.onnx", "b.onnx"):
        command = [sys.executable, ROOT / "examples" / "train_digits.py", "--epochs", "2", "--output", tmp_path / name]
        subprocess.run(command, check=True, capture_output=True)
        outputs.append((tmp_path / name).read_bytes())
    assert outputs[0] == outputs[1]


def test_the_example_network_is_the_one_described():
    import onnxruntime
    from sklearn.datasets import load_digits

    path = ROOT / "examples" / "digits_3x100.onnx"
    session = onnxruntime.InferenceSession(path)
    images, labels = load_digits(return_X_y=True)
    (logits,) = session.run(None, {"image": (images / 16.0).astype("float32")})
    assert (logits.argmax(axis=1) == labels).mean() > 0.99  # 0.972 on the fifth held out, 1 on the rest
    told = session.get_modelmeta().custom_metadata_map
    assert told["accuracy"] == "1.0000 training, 0.9721 held out"
    assert "seed 1" in told["training"]
    assert path.stat().st_size < 300_000
