"""What the instance library is made of: networks, domains and kinds of models, all named, with fixed seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from stablenet.instances.training import Architecture, Stage, dense

KINDS = {
    "milp": "the single MILP over all pending questions: how many does one input witness",
    "question": "one question: how far can one neuron's pre-activation go towards one sign",
    "optimise": "an optimum of a trained network's outputs under linear side constraints on its inputs",
}

CONV = Architecture("conv", (Stage("conv", 6, 3), Stage("conv", 8, 3, 2), Stage("dense", 40)))
CONV_MNIST = Architecture("conv", (Stage("conv", 4, 5, 3), Stage("conv", 8, 4, 2), Stage("dense", 50)))


@dataclass(frozen=True)
class NetworkRecipe:
    """One trained network: images, architecture, L1 penalty, seed, epochs."""

    data: str
    architecture: Architecture
    l1: float
    seed: int = 0
    epochs: int = 12

    @property
    def name(self) -> str:
        """As instances are named."""
        return f"{self.data}-{self.architecture.name}-l1_{self.l1:g}"


@dataclass(frozen=True)
class PublicNetwork:
    """A network that is not part of the project: an ONNX file and a VNN-LIB file in a user's folder, or a box."""

    file: str
    domain: str
    origin: str

    @property
    def name(self) -> str:
        """As instances are named."""
        return self.file.removesuffix(".onnx")


@dataclass(frozen=True)
class DomainRecipe:
    """Inputs: ``box`` is all of [0, 1]; ``ball`` those within ``eps`` of an image; ``union`` of two such balls.

    ``budget`` is the part of [0, 1] whose sum is at most ``eps`` of the number of inputs. ``file`` is a VNN-LIB file.
    """

    kind: str
    eps: float = 0.0
    images: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As instances are named."""
        numbers = "".join(f"_{i}" for i in self.images)
        return self.kind + (f"{round(1 / self.eps)}{numbers}" if self.eps else "")


@dataclass(frozen=True)
class Recipe:
    """One instance. ``choice`` picks a question (a share of those pending) or an objective and its side constraints."""

    network: NetworkRecipe | PublicNetwork
    domain: DomainRecipe
    kind: str
    formulation: str = "bigm"
    choice: int = 0

    @property
    def public(self) -> bool:
        """Whether it needs a network from a user's folder."""
        return isinstance(self.network, PublicNetwork)

    @property
    def name(self) -> str:
        """The instance's name, and that of its files."""
        words = [self.network.name, self.domain.name, self.kind + (f"_{self.choice}" if self.kind != "milp" else "")]
        if self.formulation != "bigm":
            words.append(self.formulation.replace(":", "_"))
        return "-".join(words)


BOX = DomainRecipe("box")


def _ball(share: int, image: int) -> DomainRecipe:
    return DomainRecipe("ball", 1.0 / share, (image,))


def _net(data: str, depth: int, width: int, l1: float, *, epochs: int = 0, residual: bool = False) -> NetworkRecipe:
    default = 15 if data == "digits" else 6
    return NetworkRecipe(data, dense(depth, width, residual=residual), l1, 0, epochs or default)


def _digits() -> Iterator[Recipe]:
    for (depth, width), l1 in product([(2, 50), (2, 100), (3, 100)], [0.0, 1e-4, 1e-3]):
        yield Recipe(_net("digits", depth, width, l1), BOX, "milp")
    for depth, share in product([2, 3, 4, 5], [8, 16]):
        yield Recipe(_net("digits", depth, 100, 1e-4), _ball(share, 7), "milp")
    for depth, choice in product([3, 4, 5], [0, 1, 2]):
        yield Recipe(_net("digits", depth, 100, 1e-4), _ball(8, 11), "question", choice=choice)
    for depth, l1 in product([2, 3, 4], [1e-4, 3e-4]):
        yield Recipe(_net("digits", depth, 100, l1), BOX, "question")
    for residual, share in product([False, True], [16, 32]):
        net = _net("digits", 20, 20, 0.0, epochs=30, residual=residual)
        yield Recipe(net, _ball(share, 3), "milp")
        yield Recipe(net, _ball(share, 3), "question", choice=1)
    for choice in range(3):
        yield Recipe(_net("digits", 2, 50, 1e-4), BOX, "optimise", choice=choice)
        yield Recipe(_net("digits", 3, 100, 1e-3), BOX, "optimise", choice=choice)
        yield Recipe(_net("digits", 6, 40, 1e-4, residual=True), BOX, "optimise", choice=choice)
    for kind, choice in (("milp", 0), ("question", 0), ("question", 1), ("optimise", 1)):
        yield Recipe(NetworkRecipe("digits", CONV, 1e-4, 0, 20), _ball(8, 5), kind, choice=choice)
    yield Recipe(NetworkRecipe("digits", CONV, 1e-4, 0, 20), BOX, "milp")
    for formulation in ("hull", "partition:2", "bigm-loose"):
        yield Recipe(_net("digits", 2, 50, 1e-4), BOX, "milp", formulation)
        yield Recipe(_net("digits", 3, 100, 1e-4), _ball(8, 7), "milp", formulation)
    for depth in (2, 3):
        yield Recipe(_net("digits", depth, 100, 1e-4), DomainRecipe("union", 1 / 8, (7, 11)), "milp")
        yield Recipe(_net("digits", depth, 100, 1e-4), DomainRecipe("budget", 1 / 4), "milp")
        yield Recipe(_net("digits", depth, 100, 1e-3), DomainRecipe("budget", 1 / 4), "question", choice=1)


def _mnist() -> Iterator[Recipe]:
    for (depth, width), l1 in product([(2, 50), (2, 100), (3, 100)], [0.0, 1e-4, 1e-3]):
        yield Recipe(_net("mnist", depth, width, l1), BOX, "milp")
    for width in (200, 400, 800):
        yield Recipe(_net("mnist", 2, width, 3e-4), BOX, "milp")
        yield Recipe(_net("mnist", 2, width, 3e-4), _ball(32, 4500), "milp")
        yield Recipe(_net("mnist", 2, width, 3e-4), _ball(16, 4500), "question")
    for depth, share in product([2, 3, 4, 5], [32, 64]):
        yield Recipe(_net("mnist", depth, 100, 1e-4), _ball(share, 1200), "milp")
    for depth, choice in product([3, 4, 5], [0, 1, 2]):
        yield Recipe(_net("mnist", depth, 100, 1e-4), _ball(32, 2600), "question", choice=choice)
    for choice in range(3):
        yield Recipe(_net("mnist", 2, 50, 1e-3), BOX, "optimise", choice=choice)
        yield Recipe(_net("mnist", 2, 100, 3e-4), _ball(8, 700), "optimise", choice=choice)
        yield Recipe(_net("mnist", 3, 100, 1e-3), _ball(8, 700), "optimise", choice=choice)
    for kind in ("milp", "question", "optimise"):
        yield Recipe(NetworkRecipe("mnist", CONV_MNIST, 1e-4, 0, 8), _ball(16, 3100), kind)
        yield Recipe(_net("mnist", 8, 40, 1e-4, residual=True), _ball(32, 3100), kind)
    for share in (32, 64):
        yield Recipe(_net("mnist", 3, 100, 1e-4), DomainRecipe("union", 1 / share, (1200, 2600)), "milp")
    yield Recipe(_net("mnist", 2, 100, 1e-3), DomainRecipe("budget", 1 / 8), "milp")


VNNCOMP = "VNN-COMP 2021, github.com/stanleybak/vnncomp2021"
EXACT = "github.com/yuxwind/ExactCompression (Serra, Yu, Kumar & Ramalingam 2021)"


def _public() -> Iterator[Recipe]:
    file = DomainRecipe("file")
    for prop in (1, 3, 4):  # the box of property 2 is that of 1
        net = PublicNetwork("acasxu_1_1.onnx", f"acasxu_prop_{prop}.vnnlib.gz", VNNCOMP)
        yield Recipe(net, file, "milp")
        yield Recipe(net, file, "question", choice=2)
    for depth, prop, share in product((2, 4), (0, 1), ("0.03", "0.05")):
        net = PublicNetwork(f"mnistfc_256x{depth}.onnx", f"mnistfc_prop_{prop}_{share}.vnnlib.gz", VNNCOMP)
        yield Recipe(net, file, "milp")
    for width in (100, 200):
        yield Recipe(PublicNetwork(f"seed_mnist_{width}-{width}.onnx", "box:0:1", EXACT), BOX, "milp")
    yield Recipe(
        PublicNetwork("eran_mnist_9x200.onnx", "eran_mnist_idx_1013_eps_0.015.vnnlib.gz", VNNCOMP), file, "milp"
    )


LIBRARY: dict[str, Recipe] = {recipe.name: recipe for recipe in (*_digits(), *_mnist())}
"""Instances that need no file of a user's, by name."""

PUBLIC: dict[str, Recipe] = {}
"""Instances of networks that a user has in a folder, by name."""
for _recipe in _public():
    _name = _recipe.name
    if isinstance(_recipe.network, PublicNetwork) and _recipe.domain.kind == "file":
        _name = f"{_recipe.network.domain.removesuffix('.vnnlib.gz')}-{_name}"
    PUBLIC[_name] = _recipe
