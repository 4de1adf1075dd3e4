"""Points and centres from NumPy's files. Headers are read and checked before any number is."""

from __future__ import annotations

import io
import zipfile
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from stablenet.core.arrays import Array
from stablenet.core.errors import DomainError, InputError
from stablenet.core.inputs import open_input

MOST_NUMBERS = 2**28
"""Most numbers that a file of points may hold."""

_HEAD = 2**16
"""Bytes of a file that its header must fit in."""


def _header(head: bytes) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    """Shape, type and length of the header of an array file that begins with ``head``; raises anything."""
    stream = io.BytesIO(head)
    version = npy.read_magic(stream)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = read(stream)
    return shape, dtype, stream.tell()


def _checked(name: str, head: bytes, size: int, error: type[InputError]) -> tuple[int, ...]:
    """The shape of an array of numbers in a file of ``size`` bytes, by its header; raises ``error``."""
    try:
        shape, dtype, start = _header(head)
        least = min(shape, default=0)
    except MemoryError:
        raise error(f"{name}: not a .npy file of numbers (its header is nested too deeply)") from None
    except Exception as found:  # broken headers raise errors of many kinds, the tokenizer's among them
        words = " ".join(str(found).split()) or type(found).__name__
        raise error(f"{name}: not a .npy file of numbers ({words[:300]})") from None
    if dtype.kind == "O":
        raise error(f"{name}: not a .npy file of numbers: it holds pickled objects, which are never read")
    if dtype.kind not in "biuf":
        raise error(f"{name}: holds entries of type {dtype}; real numbers, saved by numpy.save, are expected")
    if least < 0 or prod(shape) * dtype.itemsize != size - start:
        raise error(f"{name}: not a .npy file of numbers: {size:,} bytes do not hold an array of shape {shape}")
    return shape


def _loaded(name: str, file: IO[bytes], error: type[InputError]) -> npt.NDArray[np.generic]:
    try:
        array = npy.read_array(file, allow_pickle=False)
    except MemoryError:
        raise error(f"{name}: needs more memory than there is (see --memory-limit)") from None
    except Exception as found:
        raise error(f"{name}: cannot be read ({' '.join(str(found).split())[:300]})") from None
    return np.asarray(array)


def read_centre(name: str, n_inputs: int) -> Array:
    """The centre of a ball from a ``.npy`` file, flattened: (n_inputs,). Raises `DomainError`."""
    with open_input(name, DomainError) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        shape = _checked(name, file.read(_HEAD), size, DomainError)
        if prod(shape) != n_inputs:
            raise DomainError(f"{name}: {prod(shape)} numbers (shape {shape}), but the network has {n_inputs} inputs")
        file.seek(0)
        array = _loaded(name, file, DomainError)
    return np.array(array, dtype=np.float64, order="C").reshape(-1)


def read_samples(path: Path, n_inputs: int) -> Array:
    """Points from a .npy file, or from all arrays of a .npz: (batch, n_inputs) after flattening each point.

    Raises `InputError` for what is no such file, before its numbers are read.
    """
    with open_input(path) as file:
        packed = file.read(4).startswith(b"PK")
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if packed:
            arrays = _members(path, file, n_inputs)
        else:
            _fits(str(path), _checked(str(path), file.read(_HEAD), size, InputError), n_inputs)
            file.seek(0)
            arrays = [_loaded(str(path), file, InputError)]
    if not arrays:
        raise InputError(f"{path}: the file holds no array")
    return np.concatenate([np.asarray(array, dtype=np.float64).reshape(-1, n_inputs) for array in arrays])


def _members(path: Path, file: IO[bytes], n_inputs: int) -> list[npt.NDArray[np.generic]]:
    """The arrays of a .npz file."""
    arrays = []
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {member: member.file_size for member in archive.infolist()}
            if sum(sizes.values()) > 8 * MOST_NUMBERS:
                raise InputError(f"{path}: unpacks to {sum(sizes.values()):,} bytes; at most {8 * MOST_NUMBERS:,}")
            for member, size in sizes.items():
                with archive.open(member) as head:
                    shape = _checked(f"{path}, {member.filename}", head.read(_HEAD), size, InputError)
                _fits(f"{path}, {member.filename}", shape, n_inputs)
            for member in sizes:
                with archive.open(member) as packed:
                    arrays.append(_loaded(f"{path}, {member.filename}", packed, InputError))
    except InputError:
        raise
    except Exception as found:  # for files that are no archive the standard library raises errors of many kinds
        words = " ".join(str(found).split()) or type(found).__name__
        raise InputError(f"{path}: no readable .npy or .npz file ({words[:300]})") from None
    return arrays


def _fits(name: str, shape: tuple[int, ...], n_inputs: int) -> None:
    per_point = prod(shape[1:]) if len(shape) > 1 else prod(shape)
    if per_point != n_inputs:
        raise InputError(f"{name}: an array of shape {shape}; points of {n_inputs} inputs are expected")
    if prod(shape) > MOST_NUMBERS:
        raise InputError(f"{name}: {prod(shape):,} numbers; at most {MOST_NUMBERS:,} are read")
