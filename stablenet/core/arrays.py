"""Names for the types of arrays, the same in all modules. Shapes are given where an array is described."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
"""Numbers in double precision."""

Single = npt.NDArray[np.float32]
"""Numbers in single precision: for choices only, never for bounds that prove something."""

Index = npt.NDArray[np.intp]
"""Positions in another array."""

Mask = npt.NDArray[np.bool_]
"""True or false for each entry of another array."""
