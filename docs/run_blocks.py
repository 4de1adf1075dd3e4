"""Run the commands and snippets that a page of the documentation shows, and check the output that it shows.

    python docs/run_blocks.py PAGE.md [--folder DIR] [--long]

Fenced ``sh`` and ``python`` blocks run in order, in one folder that holds the examples. A ``python`` block knows what
the earlier ones defined, as in a reader's session. Comments before or after a block say more:

- ``<!-- file: NAME -->`` before a block of any language: the block is written to that file and not run.
- ``<!-- output -->`` between a block and a ``text`` block: the latter is what the former prints. ``...`` in it stands
  for any text, and differences in white space do not count.
- ``<!-- long -->`` before a block: it runs only with ``--long``.

Lines that set up an environment (make, pip, venv, git) are not run, with one exception: after a ``pyproject.toml`` was
written, ``pip install -e .`` makes its entry points known, without a package index.

The site and the tests both use this file. The exit code is 1 if a block fails or prints something else.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?P<long><!-- long -->\n+)?(?:<!-- file: (?P<file>\S+) -->\n+)?"
    r"^```(?P<language>[a-z]+)\n(?P<body>.*?)^```$"
    r"(?:\n+<!-- output -->\n+^```text\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
SETUP = ("make ", "pip install", "python3 -m venv", ". .venv/bin/activate", "git clone", "cd stablenet")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SECONDS = 600


class BlockError(Exception):
    """A block that fails, or prints something else than the page shows."""


@dataclass(frozen=True)
class CodeBlock:
    """One fenced block: what it holds, where it stands, and what it should print (None: anything)."""

    language: str
    body: str
    line: int
    long: bool = False
    file: str | None = None
    output: str | None = None

    @property
    def runs(self) -> bool:
        """Whether it is run, and not only shown or written to a file."""
        return self.file is None and self.language in {"sh", "python"}

    @property
    def setup(self) -> list[str]:
        """The lines that set up an environment."""
        return [x for x in self.body.splitlines() if x.startswith(SETUP)] if self.language == "sh" else []

    @property
    def script(self) -> str:
        """What is run."""
        return "\n".join(line for line in self.body.splitlines() if line not in self.setup)


def blocks(text: str) -> list[CodeBlock]:
    """All fenced blocks of a page's text that have a language, in order; shown output belongs to its block."""
    return [
        CodeBlock(
            m["language"],
            m["body"],
            text.count("\n", 0, m.start("language")) + 1,
            m["long"] is not None,
            m["file"],
            m["output"],
        )
        for m in BLOCK.finditer(text)
    ]


class Runner:
    """Runs blocks one after the other in the current folder."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: CodeBlock) -> str:
        """Run or write one block; returns what it printed. Raises `BlockError`."""
        if block.file is not None:
            Path(block.file).write_text(block.body)
            return ""
        if "pip install -e ." in block.setup and Path("pyproject.toml").exists():
            install(Path.cwd())
        if not block.runs or not block.script.strip():
            return ""
        printed = self._python(block) if block.language == "python" else self._shell(block)
        if block.output is not None and not doctest.OutputChecker().check_output(block.output, printed, FLAGS):
            raise self._error(block, f"should print\n{block.output}but prints\n{printed}")
        return printed

    def _error(self, block: CodeBlock, what: str) -> BlockError:
        return BlockError(f"{self.page}, line {block.line}:\n{block.script}\n{what}")

    def _python(self, block: CodeBlock) -> str:
        out = io.StringIO()
        code = "\n" * block.line + block.script + "\n"
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(code, self.page, "exec"), self.names)  # noqa: S102 - running the page is the purpose
        except Exception:
            raise self._error(block, f"{out.getvalue()}\n{traceback.format_exc()}") from None
        return out.getvalue()

    def _shell(self, block: CodeBlock) -> str:
        command = ["bash", "-euo", "pipefail", "-c", block.script]
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if run.returncode != 0:
            raise self._error(block, f"{run.stdout}\n{run.stderr}\nexit code {run.returncode}")
        return run.stdout


def install(folder: Path) -> None:
    """Make the entry points of a project known to every Python that has its folder on the path."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines: list[str] = []
    for group, points in project.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """The folder to run in, with the examples in it; a temporary one if none is given."""
    with tempfile.TemporaryDirectory() as temporary:
        chosen = Path(temporary) if folder is None else folder
        shutil.copytree(ROOT / "examples", chosen / "examples")
        yield chosen


def run_page(page: Path, folder: Path | None = None, *, long: bool = False) -> None:
    """Run a page's blocks in a process of its own.

    Raises `BlockError` with what the first failing block was, showed and printed.
    """
    with scratch(folder) as where:
        bin_folder = str(Path(sys.executable).parent)
        env = {
            **os.environ,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(where), os.environ.get("PYTHONPATH", "")])),
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }
        command = [sys.executable, __file__, str(page.resolve()), "--here", *(["--long"] if long else [])]
        run = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    if run.returncode != 0:
        raise BlockError(run.stdout + run.stderr)


def main() -> int:
    """Run one page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--here", action="store_true", help="run in the current folder and this process")
    chosen = parser.parse_args()
    try:
        if not chosen.here:
            run_page(chosen.page, chosen.folder, long=chosen.long)
            return 0
        runner = Runner(chosen.page.name)
        for block in blocks(chosen.page.read_text()):
            if chosen.long or not block.long:
                runner.run(block)
    except BlockError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
