"""Standard output that ends before a command has printed everything."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from stablenet.core.files import OutputError


@contextmanager
def readerless() -> Iterator[None]:
    """Keep the exit code of the command where the reader of standard output ends early; the rest of the output is
    dropped.

    Raises `OutputError` where standard output cannot take it otherwise, as on a full disk.
    """
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich and the argument parser turn it into an exit
        _drop_stdout()
    except OSError as error:
        if error.filename is not None:  # of another file
            raise
        _drop_stdout()
        raise OutputError(f"standard output: cannot be written ({error.strerror or error})") from None


def _drop_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
