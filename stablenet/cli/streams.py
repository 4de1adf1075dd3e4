"""Standard output that cannot take all that a command prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from stablenet.core.files import OutputError


@contextmanager
def readerless() -> Iterator[None]:
    """A reader of standard output that goes away costs the rest of the output, not the exit code.

    Raises `OutputError` where standard output cannot take it otherwise, as on a full disk.
    """
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich and the argument parser make an exit of it
        _drop_stdout()
    except OSError as error:
        if error.filename is not None:  # of another file
            raise
        _drop_stdout()
        raise OutputError(f"standard output: cannot be written ({error.strerror or error})") from None


def _drop_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
