"""Writing files so that a reader never sees half of one, and no command writes over what it reads or has written."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from stablenet.core.errors import InputError

LONGEST_SUFFIX = 20
"""Characters of a suffix that temporary names keep."""


class OutputError(InputError):
    """A file that cannot be written, or is not to be: it is an input, or another output."""


@dataclass(frozen=True)
class Named:
    """A file of a command, with the word for it in messages, as ``--output``."""

    role: str
    path: Path


@dataclass
class _Guard:
    """The files that the current command reads, those that it is to write, and those that it has written."""

    reads: tuple[Named, ...]
    written: list[Path] = field(default_factory=list)


_GUARD: ContextVar[_Guard | None] = ContextVar("stablenet_files", default=None)


@contextlib.contextmanager
def guarded(reads: Iterable[Named], writes: Iterable[Named]) -> Iterator[None]:
    """Refuse, now and in the block, to write over a file that is read, or over another that is written.

    Two names count as one file where links, hard links or spellings lead to the same one. Raises `OutputError` that
    names both, or says why a file of ``writes`` cannot be written. In the block `atomic_path` refuses files of
    ``reads``, and those that it has already written there; blocks within it refuse them too.
    """
    reads, writes = tuple(reads), tuple(writes)
    for number, target in enumerate(writes):
        check_target(target.path)
        for other in (*reads, *writes[:number]):
            if same_file(target.path, other.path):
                raise OutputError(f"{target.path}: {target.role} is the same file as {other.role} ({other.path})")
    outer = _GUARD.get()
    guard = _Guard(reads) if outer is None else _Guard(outer.reads + reads, outer.written)
    token = _GUARD.set(guard)
    try:
        yield
    finally:
        _GUARD.reset(token)


def same_file(a: Path, b: Path) -> bool:
    """Whether writing to ``a`` would change ``b``; never so for devices and pipes."""
    try:
        if a.exists() and b.exists():
            return a.is_file() and a.samefile(b)
    except (OSError, ValueError):
        return False  # a name that cannot be used is refused where it is used
    return resolved(a) == resolved(b)


def resolved(path: Path) -> Path:
    """The path with all links followed. Raises `OutputError` for names that no file can have."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written ({error})") from None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, moved there when the block ends without an error.

    A link is followed. What is no regular file (a terminal, a pipe, ``/dev/null``) is itself the path. Raises
    `OutputError` where it cannot be written, and then leaves what was there as it was.
    """
    path = Path(path)
    target = resolved(path)
    _check_guard(path)
    temporary: Path | None = None
    try:
        if target.exists() and not target.is_file():
            if target.is_dir():
                raise OutputError(f"{path}: is a folder; a file name is expected")
            yield path
            return
        suffix = target.suffix if len(target.suffix) <= LONGEST_SUFFIX else ""
        temporary = target.parent / f".stablenet-{secrets.token_hex(8)}{suffix}"
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    guard = _GUARD.get()
    if guard is not None:
        guard.written.append(target)


def _check_guard(path: Path) -> None:
    guard = _GUARD.get()
    if guard is None:
        return
    for other in guard.reads:
        if same_file(path, other.path):
            raise OutputError(f"{path}: is the same file as {other.role} ({other.path}), which is not written over")
    if any(same_file(path, other) for other in guard.written):
        raise OutputError(f"{path}: was already written by this command")


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text, atomically."""
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_target(path: Path) -> None:
    """Raise `OutputError` where a file could not be written, before there is anything to write."""
    target = resolved(path)
    folder = target.parent
    try:
        if not folder.is_dir():
            raise OutputError(f"{path}: folder {folder} does not exist")
        if target.is_dir():
            raise OutputError(f"{path}: is a folder; a file name is expected")
        if target.exists() and not target.is_file():
            return
        _try_folder(folder)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _try_folder(folder: Path) -> None:
    """Raise `OSError` or `OutputError` where no file can be made in a folder; nothing is left there."""
    nameless = getattr(os, "O_TMPFILE", None)
    if nameless is not None:
        try:
            os.close(os.open(folder, nameless | os.O_WRONLY, 0o600))
        except OSError as error:
            if not isinstance(error, PermissionError) and os.access(folder, os.W_OK | os.X_OK):
                return  # not every file system has files without a name
        else:
            return
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"folder {folder} is not writable")


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where there is none. Raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise OutputError(f"{folder}: cannot be made ({words})") from None


def unique_name(name: str, taken: Sequence[str] | set[str]) -> str:
    """The name, with a number behind it if it is taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """A temporary folder for another process and all that it starts; it is removed when the block ends."""
    try:
        folder = tempfile.mkdtemp(prefix="stablenet-")
    except OSError as error:
        raise OutputError(f"{tempfile.gettempdir()}: no temporary folder can be made ({error.strerror})") from None
    try:
        yield folder
    finally:
        remove_folder(folder)


def remove_folder(folder: str, attempts: int = 20) -> None:
    """Remove a folder and what is in it, also while processes that are about to end still write there."""
    for _ in range(attempts):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        time.sleep(0.05)
