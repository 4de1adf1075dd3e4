"""Masks of stable neurons for PyTorch's modules, and compressed networks as modules."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stablenet import Box, find_stable, from_torch
from stablenet.compression.compress import compress
from stablenet.core.errors import InputError, NotInstalledError, ReportError
from stablenet.core.network import AffineMap, Layer, Network, Term
from stablenet.integrations import torch as for_torch


@pytest.fixture(name="torch", scope="module")
def _torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def dense(torch, seed=0):
    torch.manual_seed(seed)
    nn = torch.nn
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        module[0].bias[:3] = -9.0
        module[2].bias[:2] = 30.0
    return module


def convolutional(torch):
    nn = torch.nn
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.ReLU(),
        nn.Linear(4, 2),
    )


def test_masks_are_those_of_the_report_and_hold_in_the_module(torch, tmp_path):
    for module, shape in ((dense(torch), (3,)), (convolutional(torch), (1, 6, 6))):
        network = from_torch(module, shape, tmp_path / "net.onnx")
        report = find_stable(network, Box(-np.ones(network.n_inputs), np.ones(network.n_inputs)), search="off")
        module.train()
        masks = for_torch.stable_masks(module, network, report)
        assert module.training
        assert list(masks) == [name for name, part in module.named_modules() if isinstance(part, torch.nn.ReLU)]
        verdicts = [v for layer, v in zip(network.layers, report.verdicts(), strict=True) if layer.origin == "Relu"]
        for mask, told in zip(masks.values(), verdicts, strict=True):
            assert mask.inactive.flatten().tolist() == [v == "stably_inactive" for v in told]
            assert mask.active.flatten().tolist() == [v == "stably_active" for v in told]
        if shape == (3,):
            assert int(masks["1"].inactive.sum()) >= 3
            assert int(masks["3"].active.sum()) >= 2
        x = torch.rand(200, *shape) * 2 - 1
        module.eval()
        for name, mask in masks.items():
            before = x
            for part in list(module)[: int(name)]:
                before = part(before)
            assert (before[:, mask.active] >= 0).all()
            assert (before[:, mask.inactive] <= 0).all()


def test_a_pruned_module_computes_the_same_on_the_domain(torch, tmp_path):
    module = dense(torch)
    network = from_torch(module, (3,), tmp_path / "net.onnx")
    report = find_stable(network, "box:-1:1", search="off")
    smaller = for_torch.pruned(network, report)
    assert isinstance(smaller, torch.nn.Sequential)
    count = sum(p.numel() for p in smaller.parameters())
    assert count < sum(p.numel() for p in module.parameters())
    x = torch.rand(500, 3) * 2 - 1
    bound = float(compress(network, report).bound.max())
    assert float((smaller(x) - module(x)).abs().max().detach()) <= bound + 1e-4


def test_networks_with_skips_and_shapes_are_modules_too(torch):
    rng = np.random.default_rng(0)
    layers = []
    for k, sources in enumerate([(0,), (0, 1), ()]):
        terms = tuple(Term(source, rng.normal(size=(4, 4 if source else 3))) for source in sources)
        layers.append(Layer(AffineMap(rng.normal(size=4), terms), f"r{k}", (4,)))
    output = AffineMap(rng.normal(size=6), (Term(1, rng.normal(size=(6, 4))), Term(3, rng.normal(size=(6, 4)))))
    network = Network(3, tuple(layers), output, (3,), (2, 3))
    module = for_torch.module_of(network)
    x = rng.normal(size=(20, 3))
    found = module(torch.from_numpy(x))
    assert found.shape == (20, 2, 3)
    np.testing.assert_allclose(found.detach().numpy().reshape(20, 6), network.forward(x), atol=1e-12)


def test_modules_that_do_not_fit_the_network_are_refused(torch, tmp_path):
    nn = torch.nn
    module = dense(torch)
    network = from_torch(module, (3,), tmp_path / "net.onnx")
    report = find_stable(network, "box:-1:1", search="off")
    with pytest.raises(InputError, match="compute different numbers"):
        for_torch.stable_masks(dense(torch, 5), network, report)
    shared = nn.ReLU()
    twice = nn.Sequential(module[0], shared, module[2], shared, module[4])
    with pytest.raises(InputError, match=r"2 ReLU modules \(1 different"):
        for_torch.stable_masks(twice, network, report)
    with pytest.raises(InputError, match="0 ReLU modules"):
        for_torch.stable_masks(nn.Linear(3, 2), network, report)
    other = from_torch(dense(torch, 5), (3,), tmp_path / "other.onnx")
    with pytest.raises(ReportError):
        for_torch.stable_masks(module, other, report)
    with pytest.raises(InputError, match=r"a torch\.nn\.Module is expected"):
        for_torch.stable_masks(3, network, report)


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NotInstalledError, match=r"stablenet\[torch\]"):
        for_torch.module_of(None)
