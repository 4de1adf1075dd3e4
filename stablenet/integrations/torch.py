"""PyTorch: which neurons of a module's ReLUs are stable, and compressed networks as modules.

As in::

    network = from_torch(module, (784,), "net.onnx")
    report = find_stable(network, "box:0:1")
    masks = stable_masks(module, network, report)
    smaller = pruned(network, report)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stablenet.compression.compress import compress
from stablenet.core.arrays import Array
from stablenet.core.errors import InputError, NotInstalledError, TooLargeError
from stablenet.core.network import AffineMap, Layer, Network
from stablenet.domain.regions import Domain
from stablenet.report.evidence import Evidence
from stablenet.report.report import Report

POINTS = 8
"""Points of the domain on which module and network are compared, to see that their ReLUs correspond."""

AGREE = 1e-3
"""How far pre-activations may be apart on them, relative to ``1 + |g|``: modules compute in float32."""

MOST_WEIGHTS = 2 * 10**8
"""Weights of a module of dense layers, at most."""


@dataclass(frozen=True, eq=False)
class StableMask:
    """Stable neurons of one ReLU module: two bool tensors in the shape of one sample."""

    active: Any
    inactive: Any


def stable_masks(module: Any, network: Network, report: Report) -> dict[str, StableMask]:
    """The stable neurons of each ReLU of a module.

    Which ReLU of the module is which layer of the network follows from the order in which they are called, and is
    compared on points of the domain. Verdicts speak of the real-valued function; for those that hold in every float32
    evaluation too, take a report of ``find_stable(..., arithmetic="float32")`` and a network of that arithmetic.

    Args:
        module: a ``torch.nn.Module`` whose ReLUs are ``torch.nn.ReLU`` modules, each called once.
        network: the network that `stablenet.from_torch` made of it.
        report: what `stablenet.find_stable` found on it; what it refutes is believed.

    Returns:
        By the name of the ReLU's module in ``named_modules``, its masks.

    Raises:
        NotInstalledError: torch is not installed.
        InputError: the ReLUs of module and network do not correspond.
        ReportError: the report is about another network.
    """
    torch = _torch()
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"an object of type {type(module).__name__}; a torch.nn.Module is expected")
    evidence = Evidence.of(report, network)
    layers = [(k, layer) for k, layer in enumerate(network.layers) if layer.origin == "Relu"]
    points = _points(evidence.domain)
    calls = _recorded(torch, module, points.reshape(-1, *network.input_shape))
    different = len({name for name, _ in calls})
    if len(calls) != len(layers) or different != len(calls):
        raise InputError(
            f"the module calls {len(calls)} ReLU modules ({different} different ones), the network "
            f"has {len(layers)} layers of ReLUs; each needs a torch.nn.ReLU of its own (torch.relu has no name)"
        )
    expected = network.pre_activations(points)
    found = {}
    for (name, given), (k, layer) in zip(calls, layers, strict=True):
        _check_same(name, given, layer, expected[k])
        active, inactive = (
            torch.from_numpy(mask[k].reshape(layer.shape).copy()) for mask in (evidence.active, evidence.inactive)
        )
        found[name] = StableMask(active, inactive)
    return found


def pruned(network: Network | str | Path, report: Report | str | Path | None = None, **options: Any) -> Any:
    """A compressed network as a module: `stablenet.compress`, then `module_of`.

    Args:
        network: as for `stablenet.compress`.
        report: as for it.
        options: as for it; a bound on the difference is in what it returns, see `stablenet.Compressed`.

    Returns:
        The module, which computes on the domain what the network does.

    Raises:
        NotInstalledError: torch is not installed.
        InputError: as `stablenet.compress`.
    """
    _torch()
    return module_of(compress(network, report, **options).network)


def module_of(network: Network) -> Any:
    """A network as a ``torch.nn.Module`` of linear layers and ReLUs, in eval mode.

    Convolutions are written out as dense matrices. A chain of layers is a ``torch.nn.Sequential``.

    Args:
        network: the network.

    Returns:
        The module, for batches of the network's input shape. Weights are float32 where that holds them exactly,
        float64 otherwise.

    Raises:
        NotInstalledError: torch is not installed.
        TooLargeError: dense matrices would hold more than `MOST_WEIGHTS` weights.
    """
    torch = _torch()
    maps = [*(layer.affine for layer in network.layers), network.output]
    sizes = network.source_sizes
    total = sum(affine.size * sizes[term.source] for affine in maps for term in affine.terms)
    if total > MOST_WEIGHTS:
        raise TooLargeError(f"{total} weights as dense matrices; at most {MOST_WEIGHTS} are supported")
    dense = [{term.source: _dense(term.matrix) for term in affine.terms} for affine in maps]
    dtype = torch.float32 if _in_float32(maps, dense) else torch.float64
    if all(list(terms) == [k] for k, terms in enumerate(dense)):
        parts: list[Any] = [torch.nn.Flatten()]
        for k, affine in enumerate(maps):
            parts += [torch.nn.ReLU()] if k else []
            parts.append(_linear(torch, dense[k][k], affine.offset, dtype))
        made = torch.nn.Sequential(*parts)
    else:
        made = _with_skips(torch, maps, dense, dtype)
    if len(network.output_shape) > 1:
        made = torch.nn.Sequential(made, torch.nn.Unflatten(1, network.output_shape))
    return made.eval()


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise NotInstalledError('torch is not installed: pip install "stablenet[torch]"') from None
    return torch


def _points(domain: Domain) -> Array:
    """Random points of the boxes of a domain's parts."""
    rng = np.random.default_rng(0)
    parts = [part.lower + (part.upper - part.lower) * rng.random((POINTS, part.n_inputs)) for part in domain.parts]
    return np.concatenate(parts)


def _recorded(torch: Any, module: Any, points: Array) -> list[tuple[str, Array]]:
    """The calls of ReLU modules in a forward pass in eval mode: name, and input as (batch, neurons)."""
    calls: list[tuple[str, Array]] = []
    hooks, modes = [], [(part, part.training) for part in module.modules()]
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.ReLU):

            def note(_: Any, given: Any, name: str = name) -> None:
                calls.append((name, given[0].detach().cpu().double().reshape(len(given[0]), -1).numpy()))

            hooks.append(part.register_forward_pre_hook(note))
    like = next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.zeros(1))
    try:
        module.eval()
        with torch.no_grad():
            module(torch.from_numpy(points).to(device=like.device, dtype=like.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes:
            part.training = training
    return calls


def _check_same(name: str, given: Array, layer: Layer, expected: Array) -> None:
    if given.shape != expected.shape:
        raise InputError(f"ReLU {name!r} has {given.shape[1]} neurons, layer {layer.name!r} has {layer.size}")
    off = float((np.abs(given - expected) / (1.0 + np.abs(expected))).max(initial=0.0))
    if not off <= AGREE:
        raise InputError(
            f"ReLU {name!r} and layer {layer.name!r} compute different numbers ({off:g} apart): the network is not "
            "that of the module, or its ReLUs come in another order"
        )


def _dense(matrix: Any) -> Array:
    return matrix if isinstance(matrix, np.ndarray) else np.asarray(matrix.toarray())


def _in_float32(maps: list[AffineMap], dense: list[dict[int, Array]]) -> bool:
    arrays = [*(affine.offset for affine in maps), *(matrix for terms in dense for matrix in terms.values())]
    with np.errstate(over="ignore"):
        return all(bool((array.astype(np.float32) == array).all()) for array in arrays)


def _linear(torch: Any, weight: Array, offset: Array | None, dtype: Any) -> Any:
    made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=offset is not None, dtype=dtype)
    with torch.no_grad():
        made.weight.copy_(torch.from_numpy(np.array(weight)))
        if offset is not None:
            made.bias.copy_(torch.from_numpy(np.array(offset)))
    return made


def _with_skips(torch: Any, maps: list[AffineMap], dense: list[dict[int, Array]], dtype: Any) -> Any:
    """A module whose layers may read any that come before, or nothing."""

    class Skips(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.offsets = torch.nn.ParameterList(torch.from_numpy(np.array(m.offset)).to(dtype) for m in maps)
            self.maps = torch.nn.ModuleList(
                torch.nn.ModuleDict({str(s): _linear(torch, matrix, None, dtype) for s, matrix in terms.items()})
                for terms in dense
            )

        def forward(self, x: Any) -> Any:
            values = [x.flatten(1)]
            for k, (offset, terms) in enumerate(zip(self.offsets, self.maps, strict=True)):
                g = offset.expand(len(x), -1)
                for source, linear in terms.items():
                    g = g + linear(values[int(source)])
                values.append(torch.relu(g) if k < len(self.maps) - 1 else g)
            return values[-1]

    return Skips()


__all__ = ["StableMask", "module_of", "pruned", "stable_masks"]
