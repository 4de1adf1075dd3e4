"""The training of the library's networks: exact sums, right gradients, the same bytes each time."""

from __future__ import annotations

import numpy as np
import pytest

from stablenet.core.errors import InputError
from stablenet.instances import training as module
from stablenet.instances.images import images
from stablenet.instances.training import Architecture, Stage, dense, train

CONV = Architecture("conv", (Stage("conv", 3, 3), Stage("conv", 3, 3, 2), Stage("dense", 9)))


@pytest.mark.parametrize("architecture", [dense(2, 12), dense(5, 10, residual=True), CONV], ids=lambda a: a.name)
def test_a_run_repeats_bit_by_bit_and_learns(architecture: Architecture) -> None:
    pixels, labels = images("digits")
    one, two = (train(architecture, pixels, labels, l1=1e-4, seed=3, epochs=14, rate=8e-3) for _ in range(2))
    assert one.network.content_digest == two.network.content_digest
    assert one.accuracy == two.accuracy > 0.75
    other = train(architecture, pixels, labels, l1=1e-4, seed=4, epochs=1)
    assert other.network.content_digest != one.network.content_digest
    for affine in [layer.affine for layer in one.network.layers] + [one.network.output]:
        for term in affine.terms:
            steps = np.asarray(term.matrix) / module.STEP
            assert (steps == np.rint(steps)).all()


def test_the_network_is_the_one_that_was_trained() -> None:
    pixels, labels = images("digits")
    for architecture in (dense(4, 10, residual=True), CONV):
        found = train(architecture, pixels, labels, l1=0.0, seed=0, epochs=15, rate=4e-3)
        said = found.network.evaluate(pixels).output.argmax(axis=1)
        assert (said == labels).mean() == pytest.approx(found.accuracy, abs=0.08)


def test_products_are_exact_at_the_limits_of_clipping() -> None:
    rng = np.random.default_rng(0)
    n = module.MOST_INPUTS
    most = int(module.MOST_ACTIVATION / module.STEP), int(module.MOST_WEIGHT / module.STEP)
    h = rng.integers(most[0] - 3, most[0] + 1, (module.BATCH + 1, n))
    w = rng.integers(most[1] - 3, most[1] + 1, (5, n)) * rng.choice([-1, 1], (5, 1))
    exact = h.astype(object) @ w.T.astype(object)
    assert ((h.astype(float) @ w.T.astype(float)).astype(object) == exact).all()
    assert max(abs(value) for value in exact.ravel()) < 2**53
    slope = int(module.MOST_SLOPE / module.SLOPE_STEP)
    assert (module.BATCH + 16) * slope * most[0] < 2**53  # gradients of weights: a batch of products
    assert n * slope * most[1] < 2**53  # and of what is below


@pytest.mark.parametrize("architecture", [dense(3, 6), dense(4, 6, residual=True), CONV], ids=lambda a: a.name)
def test_gradients_are_those_of_the_loss(architecture: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_fixed", lambda values, _step, _most: values)
    rng = np.random.default_rng(1)
    pixels, labels = rng.random((7, 64)), rng.integers(0, 4, 7)
    maps = module._maps(architecture, 64, 4)
    parameters = [p + 0.01 * rng.normal(size=p.shape) for p in module._start(maps, rng)]

    def loss() -> float:
        logits = module._forward(maps, parameters, pixels)[-1]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return float(-np.log((odds / odds.sum(axis=1, keepdims=True))[np.arange(7), labels]).mean())

    for p, slope in zip(parameters, module._gradients(maps, parameters, pixels, labels), strict=True):
        at = tuple(int(rng.integers(0, size)) for size in p.shape)
        before, ends = p[at], []
        for step in (1e-5, -1e-5):
            p[at] = before + step
            ends.append(loss())
        p[at] = before
        # Odds are of logits rounded to 1/256.
        assert slope[at] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=0.05, abs=2e-3)


def test_what_does_not_fit_is_refused() -> None:
    pixels, labels = np.zeros((20, 64)), np.arange(20) % 2
    with pytest.raises(InputError, match="another size"):
        train(Architecture("a", (Stage("dense", 5), Stage("dense", 5, skip=True))), pixels, labels,
              l1=0.0, seed=0, epochs=1)  # fmt: skip
    with pytest.raises(InputError, match="at most 1024"):
        train(Architecture("a", (Stage("dense", 1025), Stage("dense", 5))), pixels, labels, l1=0.0, seed=0, epochs=1)
