"""Text for terminals: control characters in names from files are escaped."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderableType

LONGEST = 4000
"""Characters of a message on standard error; names in a file may have any length."""

_OTHER = re.compile(r"[^\x20-\x7e]")
_SHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # categories of characters that are escaped


def plain(text: str, keep: str = "") -> str:
    r"""A text with every control, format and unpaired surrogate character written as ``\uXXXX``, as in JSON.

    The characters in ``keep`` stay. JSON text stays JSON of the same data.
    """

    def shown(match: re.Match[str]) -> str:
        c = match.group()
        return json.dumps(c)[1:-1] if c not in keep and unicodedata.category(c) in _SHOWN else c

    return _OTHER.sub(shown, text)


def encodable(text: str, encoding: str | None) -> str:
    r"""A text in which characters that an encoding lacks are written as ``\uXXXX``."""
    name = encoding or "utf-8"
    try:
        text.encode(name)
    except UnicodeEncodeError:
        return "".join(c if _fits(c, name) else json.dumps(c)[1:-1] for c in text)
    return text


def _fits(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def say(line: str, *, error: bool = False) -> None:
    """Print a line on standard output, or on standard error."""
    stream = sys.stderr if error else sys.stdout
    stream.write(encodable(plain(line), stream.encoding) + "\n")
    stream.flush()


def say_json(text: str) -> None:
    """Print JSON text, of one line or several, on standard output."""
    sys.stdout.write(encodable(plain(text, keep="\n"), sys.stdout.encoding))
    sys.stdout.flush()


def complain(message: str) -> None:
    """Print one line on standard error, in the package's name."""
    line = " ".join(message.split())
    say(f"stablenet: {line if len(line) <= LONGEST else line[: LONGEST - 1] + '…'}", error=True)


def console(*, error: bool = False) -> Console:
    """A console of Rich for which markup and emoji codes are text, and which lets no control character through."""
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                text, style, control = segment
                if control:
                    yield segment
                else:
                    yield Segment(encodable(plain(text, keep="\n"), self.encoding), style)

    return Plain(stderr=error, markup=False, emoji=False)


def open_closed_streams() -> None:
    """Standard streams that are closed at the start (``>&-``) become the null device, for us and the engine."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
