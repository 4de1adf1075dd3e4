"""Networks from scikit-learn and PyTorch compute what the originals do."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stablenet.api import find_stable
from stablenet.compression.compress import compress
from stablenet.core.errors import InputError, NetworkError, NotInstalledError, UnsupportedError
from stablenet.onnx_io.convert import from_sklearn, from_torch


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


@pytest.mark.parametrize(
    "scaler",
    [
        "StandardScaler",
        "MinMaxScaler",
        "MaxAbsScaler",
        "RobustScaler",
        "clipped",
        "no mean",
        "no deviation",
        "no centre",
        "nothing",
    ],
)
def test_a_pipeline_of_scikit_learn(scaler, data, tmp_path):
    neural = pytest.importorskip("sklearn.neural_network")
    from sklearn import preprocessing
    from sklearn.pipeline import make_pipeline

    made = {
        "clipped": lambda: preprocessing.MinMaxScaler((-2, 1), clip=True),
        "no mean": lambda: preprocessing.StandardScaler(with_mean=False),
        "no deviation": lambda: preprocessing.StandardScaler(with_std=False),
        "no centre": lambda: preprocessing.RobustScaler(with_centering=False),
        "nothing": lambda: preprocessing.RobustScaler(with_centering=False, with_scaling=False),
    }.get(scaler) or getattr(preprocessing, scaler)
    x, y = data
    x = 3.0 * x + np.array([5.0, -1.0, 0.0, 2.0])
    last = neural.MLPRegressor(hidden_layer_sizes=(6,), max_iter=20, random_state=0)
    model = make_pipeline(made(), "passthrough", last).fit(x, x[:, 0] + y)
    network = from_sklearn(model, tmp_path / "net.onnx")
    points = 1.5 * x  # some are clipped
    np.testing.assert_allclose(network.forward(points)[:, 0], model.predict(points), rtol=1e-9, atol=1e-9)
    if scaler != "clipped":
        assert network.n_neurons == 6
        found = find_stable(network, f"box:{x.min()}:{x.max()}", search="off")
        assert sum(found.counts[v] for v in ("stably_active", "stably_inactive", "unstable", "unknown")) == 6


def test_steps_of_pipelines_that_are_no_scalers_are_refused(data, tmp_path):
    neural = pytest.importorskip("sklearn.neural_network")
    from sklearn.decomposition import PCA
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = data
    last = neural.MLPRegressor(hidden_layer_sizes=(6,), max_iter=5, random_state=0).fit(x, y)
    with pytest.raises(UnsupportedError, match="step 'turn' of the pipeline is a PCA; there are: StandardScaler"):
        from_sklearn(Pipeline([("turn", PCA().fit(x)), ("net", last)]), tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"step 'scale' .* not fitted"):
        from_sklearn(Pipeline([("scale", StandardScaler()), ("net", last)]), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="a Pipeline"):
        from_sklearn(Pipeline([("net", StandardScaler())]), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


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


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def modules(torch):
    """By name: a module and the shape of one sample."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(before, after, 3, stride, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, 1, 1),
                nn.BatchNorm2d(after),
            )
            self.skip = nn.Conv2d(before, after, 1, stride) if stride > 1 else nn.Identity()

        def forward(self, x):
            return torch.relu(self.body(x) + self.skip(x))

    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(12, 6), nn.Linear(6, 2)
            self.register_buffer("mean", torch.randn(12))

        def forward(self, x):
            flat = x.reshape(x.shape[0], -1) - self.mean
            hidden = torch.nn.functional.relu(self.first(flat))
            return self.last(hidden + flat[:, :6])

    plain = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 2))
    pools = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 2, groups=4),
        nn.ReLU6(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    residual = nn.Sequential(Block(2, 2, 1), Block(2, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return {
        "plain": (plain, (5,)),
        "float64": (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double(), (3,)),
        "pools": (pools, (1, 8, 8)),
        "residual": (residual, (2, 6, 6)),
        "dense residual": (Dense(), (3, 4)),
    }


def trained(torch, name):
    """A module whose batch normalisations have moved away from where they start."""
    torch.manual_seed(0)
    module, shape = modules(torch)[name]
    for part in module.modules():
        if getattr(part, "running_mean", None) is not None:
            part.running_mean.normal_(0, 0.5)
            part.running_var.uniform_(0.5, 2)
    return module, shape


def check_module(torch, module, shape, path, *, dynamo=False):
    network = from_torch(module, shape, path, dynamo=dynamo)
    x = torch.randn(20, *shape, dtype=next(module.parameters()).dtype)
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    tolerance = 1e-12 if x.dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(network.forward(x.numpy().reshape(20, -1)), expected, atol=tolerance)
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], expected, atol=tolerance)
    return network


@pytest.mark.parametrize("name", ["plain", "float64", "pools", "residual", "dense residual"])
def test_modules_of_torch(torch, name, tmp_path):
    module, shape = trained(torch, name)
    network = check_module(torch, module, shape, tmp_path / "net.onnx")
    assert network.n_neurons
    assert network.n_inputs == int(np.prod(shape))


@pytest.mark.long
def test_the_newer_exporter_of_torch(torch, tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    module, shape = trained(torch, "residual")
    check_module(torch, module, shape, tmp_path / "net.onnx", dynamo=True)


@pytest.mark.long
def test_an_exported_program_of_torch(torch, tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    module, shape = trained(torch, "plain")
    sample = torch.zeros(2, *shape)
    program = torch.export.export(module.eval(), (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    network = from_torch(program, shape, tmp_path / "net.onnx")
    x = torch.randn(20, *shape)
    np.testing.assert_allclose(network.forward(x.numpy()), module(x).detach().numpy(), atol=1e-5)
    with pytest.raises(InputError, match=r"samples of shape \(5,\), not \(6,\)"):
        from_torch(program, (6,), tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_a_module_keeps_its_modes(torch, tmp_path):
    module, shape = trained(torch, "plain")
    module.train()
    module[1].eval()
    from_torch(module, shape, tmp_path / "net.onnx")
    assert [part.training for part in module] == [True, False, True, True, True]


def test_a_module_is_compressed(torch, tmp_path):
    torch.manual_seed(0)
    nn = torch.nn
    module = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        module[0].bias[:5] = -9.0
        module[2].bias[:4] = 30.0
    from_torch(module, (4,), tmp_path / "net.onnx")
    report = find_stable(tmp_path / "net.onnx", "box:-1:1", search="off")
    result = compress(tmp_path / "net.onnx", report)
    sizes = [layer.size for layer in result.network.layers]
    assert sizes[0] == 7
    assert sizes[1] <= 6  # two stand-ins for four active neurons and two outputs
    x = torch.rand(100, 4) * 2 - 1
    expected = module(x).detach().numpy()
    np.testing.assert_allclose(result.network.forward(x.numpy()), expected, atol=1e-5 + result.bound.max())


def test_what_torch_or_this_package_cannot_take_is_one_line(torch, tmp_path):
    nn = torch.nn
    path = tmp_path / "net.onnx"
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        from_torch(object(), (3,), path)
    with pytest.raises(InputError, match="positive integers"):
        from_torch(nn.Linear(3, 2), (-1,), path)
    with pytest.raises(InputError, match=r"no batch of shape \(2, 4\)"):
        from_torch(nn.Linear(3, 2), (4,), path)
    with pytest.raises(NetworkError, match=r"the exported module: node .*Sigmoid") as raised:
        from_torch(nn.Sequential(nn.Linear(3, 2), nn.Sigmoid()), (3,), path)
    assert "\n" not in str(raised.value)

    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(InputError, match="tuple"):
        from_torch(Two(), (3,), path)
    assert not list(tmp_path.iterdir())
