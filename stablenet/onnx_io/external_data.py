"""Which further files an ONNX file keeps its numbers in."""

from __future__ import annotations

import mmap
from pathlib import Path


def external_files(path: Path) -> list[Path]:
    """The files of a network's external data; none where it has none, or is no network that can be read.

    A file that does not hold the word that such references need is not parsed.
    """
    try:
        if not path.is_file() or path.stat().st_size == 0:
            return []
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(b"location") < 0:
                return []
    except (OSError, ValueError):
        return []
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        places = {
            entry.value
            for tensor in onnx.external_data_helper._get_all_tensors(model)  # noqa: SLF001 - what the loader itself asks
            if onnx.external_data_helper.uses_external_data(tensor)
            for entry in tensor.external_data
            if entry.key == "location"
        }
    except Exception:  # it is refused with its cause where it is read
        return []
    return [path.parent / place for place in sorted(places)]


def beside(path: Path) -> list[Path]:
    """The files of external data that a network's file names; those outside its folder are no part of it."""
    found = external_files(path) if path.suffix == ".onnx" else []
    return [file for file in found if file.is_file() and file.is_relative_to(path.parent) and ".." not in file.parts]
