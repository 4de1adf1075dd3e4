"""Make the screenshots of the README: the terminal, and the page of a run.

    python docs/make_images.py

Needs Playwright (`pip install -e ".[page]"`) and Chromium; CHROMIUM names its program if it is not on the path. Writes
docs/images/terminal.svg and docs/images/page.png.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
COLUMNS = 110
LARGEST = 200_000
COMMAND = ["stablenet", "find", "examples/digits_3x100.onnx", "--domain", "box:0:1"]

FRAME = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own frame loads a font from the network; this one takes the reader's."""


def run(page: Path) -> str:
    """The output of the command, with colours; writes its page."""
    env = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    command = [sys.executable, "-m", *COMMAND, "--page", str(page)]
    return subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout


def terminal(output: str) -> None:
    """The terminal as SVG."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
    console.print(Text("$ " + " ".join(COMMAND), style="bold"))
    console.print(Text.from_ansi(output))
    console.save_svg(
        str(IMAGES / "terminal.svg"),
        title="stablenet find",
        theme=DEFAULT_TERMINAL_THEME,
        code_format=FRAME,
        unique_id="stablenet",
    )


def screenshot(page: Path) -> None:
    """The top of the page as PNG."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1000, "height": 760})
        view.goto(page.as_uri())
        view.wait_for_load_state("networkidle")
        view.screenshot(path=IMAGES / "page.png")
        browser.close()


def main() -> None:
    """Make both; fails for an image that is too large."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        terminal(run(page))
        screenshot(page)
    for name in ("terminal.svg", "page.png"):
        size = (IMAGES / name).stat().st_size
        print(f"{IMAGES / name}: {size} bytes")
        if size > LARGEST:
            sys.exit(f"{name} is larger than {LARGEST} bytes")


if __name__ == "__main__":
    main()
