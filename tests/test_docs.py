"""Every command and snippet shown in the README and in docs/ is run, by docs/run_blocks.py, which says how.

Set-up lines (make, pip, venv) are not run but checked: the target, the extra must exist. A block after the
comment ``<!-- long -->`` runs only in the long test.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

spec = importlib.util.spec_from_file_location("run_blocks", ROOT / "docs" / "run_blocks.py")
run_blocks = importlib.util.module_from_spec(spec)
sys.modules["run_blocks"] = run_blocks  # where dataclasses look for it
spec.loader.exec_module(run_blocks)


def blocks(path: Path) -> list[Any]:
    return run_blocks.blocks(path.read_text())


def runs(block: Any) -> bool:
    return block.runs and bool(block.script.strip())


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


SHORT = [path for path in FILES if any(runs(block) and not block.long for block in blocks(path))]
LONG = [path for path in FILES if any(block.long for block in blocks(path))]


@pytest.mark.parametrize("path", SHORT, ids=names(SHORT))
def test_shown_commands_and_snippets_run(path, tmp_path):
    run_blocks.run_page(path, tmp_path)
    if path.name == "README.md":
        assert_figures(json.loads((tmp_path / "report.json").read_text()), path.read_text())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nprint(1)\n```\n\n<!-- output -->\n```text\n2\n```\n", "should print"),
        ("```python\nx = 1\n```\n```python\nassert x == 2\n```\n", "AssertionError"),
        ("```sh\nfalse\n```\n", "exit code 1"),
        ("```sh\nfalse | true\n```\n", "exit code 1"),
    ],
)
def test_a_page_that_fails_or_prints_something_else_is_refused(tmp_path, text, complaint):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(run_blocks.BlockError, match=complaint):
        run_blocks.run_page(page, tmp_path)


def test_a_page_may_write_files_install_them_and_leave_text_out(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        '<!-- file: pyproject.toml -->\n```toml\n[project]\nname = "a-b"\nversion = "1"\n'
        '[project.entry-points."some.group"]\nx = "mine:x"\n```\n\n'
        "<!-- file: mine.py -->\n```python\nx = 7\n```\n\n```sh\npip install -e .\n```\n\n"
        "```python\nfrom importlib.metadata import entry_points\n"
        '(point,) = entry_points(group="some.group")\nprint("so far:", point.load())\n```\n\n'
        "<!-- output -->\n```text\nso ...: 7\n```\n"
    )
    run_blocks.run_page(page, tmp_path)


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
        run_blocks.run_page(path, tmp_path, long=True)


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
        outputs = [block for block in blocks(path) if block.output is not None]
        assert len(opened) == len(blocks(path)) + len(outputs), path
        assert not {"bash", "shell", "console", "py"} & set(opened), f"{path}: use sh and python, which are run"


def test_each_output_that_a_page_shows_is_checked():
    for path in FILES:
        marks = path.read_text().count("<!-- output -->")
        assert marks == sum(block.output is not None for block in blocks(path) if block.runs), path


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
