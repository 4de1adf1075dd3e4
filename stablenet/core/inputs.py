"""Reading files that a user names: only regular files, up to a largest size."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from stablenet.core.errors import InputError

MOST_BYTES = 2**28
"""Longest input that is read whole, unless its reader says otherwise."""


def open_input(path: str | Path, error: type[InputError] = InputError, most: int | None = None) -> BinaryIO:
    """A regular file, opened for reading in binary.

    Pipes, terminals and devices are refused: they may have no end, and cannot be read twice. Raises ``error`` with
    one line where there is no such file, it may not be read, or it is longer than ``most`` bytes.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise error(f"{path}: cannot be read (no such file)") from None
    except (OSError, ValueError) as found:
        raise error(f"{path}: cannot be read ({getattr(found, 'strerror', None) or found})") from None
    status = os.fstat(handle)
    why = None
    if stat.S_ISDIR(status.st_mode):
        why = "it is a directory; a file is expected"
    elif not stat.S_ISREG(status.st_mode):
        why = "it is a pipe or a device; a regular file is expected"
    elif most is not None and status.st_size > most:
        why = f"it has {status.st_size:,} bytes; at most {most:,} are read"
    if why is not None:
        os.close(handle)
        raise error(f"{path}: cannot be read ({why})")
    return os.fdopen(handle, "rb")


def read_input(path: str | Path, error: type[InputError] = InputError, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes; raises ``error`` as `open_input` does."""
    with open_input(path, error, most) as file:
        try:
            return file.read(most + 1)[:most]
        except OSError as found:
            raise error(f"{path}: cannot be read ({found.strerror or found})") from None
        except MemoryError:
            raise error(f"{path}: is too large for the memory that there is (see --memory-limit)") from None


def read_text_input(path: str | Path, error: type[InputError] = InputError, most: int = MOST_BYTES) -> str:
    """The UTF-8 text of a regular file of at most ``most`` bytes; raises ``error``."""
    try:
        return read_input(path, error, most).decode("utf-8")
    except UnicodeDecodeError as found:
        raise error(f"{path}: cannot be read (byte {found.start} is not UTF-8)") from None
