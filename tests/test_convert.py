"""Networks from scikit-learn and PyTorch compute what the originals do."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stablenet.convert import from_sklearn, from_torch
from stablenet.errors import InputError, NotInstalledError, UnsupportedError


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(80, 4)), rng.integers(0, 3, 80)


def test_a_classifier_of_scikit_learn(data, tmp_path):
    neural = pytest.importorskip("sklearn.neural_network")
    x, y = data
    for labels in (y, y > 0):
        model = neural.MLPClassifier((8, 6), max_iter=20, random_state=0).fit(x, labels)
        logits = from_sklearn(model, tmp_path / "net.onnx").forward(x)
        found = (logits > 0)[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)
        np.testing.assert_array_equal(model.classes_[found.astype(int)], model.predict(x))


def test_a_regressor_of_scikit_learn(data, tmp_path):
    neural = pytest.importorskip("sklearn.neural_network")
    x, y = data
    for activation in ("relu", "identity"):
        model = neural.MLPRegressor(hidden_layer_sizes=(8, 6), activation=activation, max_iter=20, random_state=0).fit(
            x, y.astype(float)
        )
        network = from_sklearn(model, tmp_path / "net.onnx")
        np.testing.assert_allclose(network.forward(x)[:, 0], model.predict(x), atol=1e-12)
        assert network.n_neurons == (14 if activation == "relu" else 0)


def test_what_is_no_such_network_is_refused(data, tmp_path):
    neural = pytest.importorskip("sklearn.neural_network")
    x, y = data
    with pytest.raises(InputError, match="MLPClassifier"):
        from_sklearn(object(), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="not fitted"):
        from_sklearn(neural.MLPClassifier(), tmp_path / "net.onnx")
    model = neural.MLPClassifier((4,), activation="tanh", max_iter=5).fit(x, y)
    with pytest.raises(UnsupportedError, match="relu, identity"):
        from_sklearn(model, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NotInstalledError, match="torch"):
        from_torch(object(), (3,), tmp_path / "net.onnx")


def test_modules_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU())
            self.head = nn.Linear(2 * 4 * 4, 3)

        def forward(self, x):
            return self.head(torch.flatten(torch.relu(x + self.body(x)), 1))

    torch.manual_seed(0)
    for module, shape in ((nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2)), (5,)), (Residual(), (2, 4, 4))):
        network = from_torch(module, shape, tmp_path / "net.onnx")
        x = torch.randn(10, *shape)
        expected = module.eval()(x).detach().numpy()
        np.testing.assert_allclose(network.forward(x.numpy().reshape(10, -1)), expected, atol=1e-5)
