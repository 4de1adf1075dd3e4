"""CBC on weights that span six orders of magnitude, as trained ones do: its own scaling errs on seeds 1 and 21."""

import numpy as np
import pytest
from stablenet.backends.base import Limits, Status, registry

from stablenet.testing import models

pytestmark = [pytest.mark.backend("cbc"), pytest.mark.backend("highs")]


def layer(seed, n=200, k=8):
    """One layer of big-M ReLUs over a narrow box; columns x, g, h, z."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(k, n)) * 10 ** rng.uniform(-6, -1, size=(k, n))
    offset = rng.normal(size=k) * 0.1
    low = rng.uniform(0, 0.9, n)
    high = low + 0.1
    least = np.where(weight > 0, weight * low, weight * high).sum(axis=1) + offset - 0.1
    most = np.where(weight > 0, weight * high, weight * low).sum(axis=1) + offset + 0.1
    output = rng.normal(size=k)
    one, none, skip = np.eye(k), np.zeros((k, k)), np.zeros((k, n))
    matrix = np.block(
        [
            [np.where(np.abs(weight) <= 1e-9, 0.0, weight), -one, none, none],
            [skip, -one, one, none],
            [skip, none, one, -np.diag(most)],
            [skip, -one, one, -np.diag(least)],
        ]
    )
    lower = np.concatenate([-offset - 1e-8, np.zeros(k), np.full(2 * k, -np.inf)])
    upper = np.concatenate([-offset + 1e-8, np.full(k, np.inf), np.zeros(k), -least])
    return models.model(
        matrix,
        (lower, upper),
        (np.concatenate([low, least, np.zeros(2 * k)]), np.concatenate([high, most, np.maximum(most, 0), np.ones(k)])),
        np.concatenate([np.zeros(n + k), output, np.zeros(k)]),
        integer=np.arange(n + 3 * k) >= n + 2 * k,
        maximize=True,
    )


@pytest.mark.parametrize("seed", [1, 2, 3, 21, 22])
def test_optimum_is_that_of_highs(seed):
    milp = layer(seed)
    found = []
    for name in ("cbc", "highs"):
        with registry.get(name).open(milp) as session:
            result = session.solve(Limits())
        assert result.status is Status.OPTIMAL
        found.append(result.objective)
    assert found[0] == pytest.approx(found[1], abs=1e-6)
