"""The text of a VNN-LIB file: reading it within limits, and its words and parentheses."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from stablenet.core.errors import DomainError
from stablenet.core.inputs import open_input

MAX_BYTES = 1 << 26
"""Largest text that is read, unpacked."""
MAX_DEPTH = 100
"""Deepest nesting of parentheses."""
MAX_TOKENS = 1 << 20
"""Most words and parentheses."""
MAX_INDEX = 300
"""Longest name with its index in brackets."""

_TOKEN = re.compile(r'[()]|;[^\n]*|"[^"]*"|\|[^|]*\||[^\s();"|]+|["|]')


@dataclass(slots=True)
class Form:
    """A parenthesised list and where its bracket stands in the text."""

    position: int
    items: list[str | Form]


Expression = str | Form


def read_text(path: Path) -> str:
    """The text of a plain or compressed file. Raises `DomainError` where it is too long or no text."""
    try:
        with open_input(path, DomainError) as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            data = gzip.GzipFile(fileobj=raw).read(MAX_BYTES + 1) if packed else raw.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DomainError(f"{path}: broken gzip file ({error}); it may be truncated") from None
    except OSError as error:
        raise DomainError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(data) > MAX_BYTES:
        raise DomainError(f"{path}: longer than {MAX_BYTES >> 20} MB unpacked; no VNN-LIB file is expected to be")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DomainError(f"{path}, line {line}: not a text file (byte 0x{data[error.start]:02x})") from None
    nul = text.find("\0")
    if nul >= 0:
        raise DomainError(f"{path}, line {text.count(chr(10), 0, nul) + 1}: not a text file (byte 0x00)")
    return text


class SourceText:
    """The text of a file with its name, for messages with line numbers."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name

    def error(self, position: int, message: str) -> DomainError:
        """The error to raise, with the line of a position of the text."""
        return DomainError(f"{self.name}, line {self.text.count(chr(10), 0, position) + 1}: {message}")

    def show(self, expression: Expression) -> str:
        """An expression for a message, on one line and not too long."""
        if isinstance(expression, Form):
            text = "(" + " ".join(self.show(item) for item in expression.items[:6]) + ")"
        else:
            text = expression if expression.isprintable() else repr(expression)
        return text if len(text) <= 60 else text[:57] + "..."

    def parse(self) -> list[Form]:
        """The top-level forms."""
        top = Form(0, [])
        current, stack = top, list[Form]()
        for count, match in enumerate(_TOKEN.finditer(self.text), 1):
            word = match.group()
            if count > MAX_TOKENS:
                raise self.error(match.start(), f"more than {MAX_TOKENS:,} words and parentheses")
            if word == "(":
                inner = Form(match.start(), [])
                current.items.append(inner)
                stack.append(current)
                current = inner
                if len(stack) > MAX_DEPTH:
                    raise self.error(match.start(), f"parentheses nested deeper than {MAX_DEPTH}")
            elif word == ")":
                if not stack:
                    raise self.error(match.start(), "a closing parenthesis without an opening one")
                current = stack.pop()
            elif word[0] != ";":
                if not stack:
                    raise self.error(match.start(), f"{self.show(word)} where a command in parentheses is expected")
                self._append(current, word, match.start())
        if stack:
            raise self.error(current.position, "this parenthesis is never closed; the file may be truncated")
        return [form for form in top.items if isinstance(form, Form)]

    def _append(self, form: Form, word: str, position: int) -> None:
        """Add a word to a form; an index in brackets, ``X [0, 1]``, belongs to the word before it."""
        last = form.items[-1] if form.items else None
        unfinished = isinstance(last, str) and last[0] != '"' and "[" in last and last[-1] != "]"
        if isinstance(last, str) and (unfinished or (word[0] == "[" and last[0] != '"')):
            if len(last) + len(word) > MAX_INDEX:
                raise self.error(position, f"an index of more than {MAX_INDEX} characters; is its bracket closed?")
            form.items[-1] = last + word
        else:
            form.items.append(word)
