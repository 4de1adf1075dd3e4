"""``verify`` with properties and VNN-LIB 2.0 files, ``run-instance`` and the scripts of VNN-COMP: codes and words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import dense

from stablenet.cli import main as cli
from stablenet.onnx_io.reader import load_onnx

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "vnncomp"

TWO = (
    "(vnnlib-version <2.0>)\n"
    "(declare-network f (declare-input X_f real [1,3]) (declare-output Y_f real [1,2]))\n"
    "(declare-network g (isomorphic-to f) (declare-input X_g real [1,3]) (declare-output Y_g real [1,2]))\n"
    + "".join(
        f"(assert (and (<= X_f[0,{i}] 0.5) (>= X_f[0,{i}] 0.0)))(assert (== X_f[0,{i}] X_g[0,{i}]))\n" for i in range(3)
    )
)


def band(t: float) -> str:
    return TWO + "".join(
        f"(assert (and (<= Y_g[0,{j}] (+ Y_f[0,{j}] {t})) (>= Y_g[0,{j}] (- Y_f[0,{j}] {t}))))\n" for j in range(2)
    )


@pytest.fixture(name="run")
def _run(monkeypatch, capsys):
    def run(*arguments: object):
        # Time limits count from the start of the process, which here is that of all the tests.
        monkeypatch.setattr(sys, "argv", ["stablenet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    return run


@pytest.fixture(name="files")
def _files(tmp_path):
    """Two networks, and a third that is the first but for one weight in a thousand."""
    a, b = dense(tmp_path, seed=1, name="a.onnx"), dense(tmp_path, seed=2, name="b.onnx")
    import onnx

    proto = onnx.load(a)
    weight = proto.graph.initializer[0]
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0] *= 1.001
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(proto, tmp_path / "c.onnx")
    return a, b, tmp_path / "c.onnx"


def test_properties(run, files):
    a, b, c = files
    code, out, err = run("verify", a, c, "--domain", "box:0:0.5", "--property", "top1:0.1")
    assert (code, err) == (0, "")
    assert out.startswith(
        "holds: the largest output is the same wherever A's exceeds the others by more than 0.1 (rigor"
    )
    code, out, _ = run("verify", a, b, "--domain", "box:0:0.5", "--property", "order", "--json")
    data = json.loads(out)
    assert code == 4
    assert data["outcome"] == "violated"
    x = np.array(data["counterexample"]["input"])
    one, two = load_onnx(a).forward(x)[0], load_onnx(b).forward(x)[0]
    np.testing.assert_allclose(data["counterexample"]["output_a"], one)
    assert (one[0] - one[1]) * (two[0] - two[1]) < 0
    code, out, _ = run("verify", a, c, "--domain", "box:0:0.5", "--norm", "l2", "--tolerance", "0.05")
    assert code == 0
    assert "the l2 norm of B - A is at most 0.05" in out
    code, out, _ = run("verify", a, c, "--domain", "box:0:0.5", "--property", "top1", "--steps", "gradient")
    assert code in (3, 4)


def test_a_counterexample_goes_to_a_file(run, files, tmp_path):
    a, b, _ = files
    code, out, _ = run("verify", a, b, "--domain", "box:0:0.5", "--property", "top1", "--output", tmp_path / "x.npy")
    assert code == 4
    assert f"at x in {tmp_path / 'x.npy'}" in out
    x = np.load(tmp_path / "x.npy")
    assert load_onnx(a).forward(x)[0].argmax() != load_onnx(b).forward(x)[0].argmax()


def test_within_is_the_comparison_with_a_tolerance(run, files):
    a, _, c = files
    code, out, _ = run("verify", a, c, "--domain", "box:0:0.5", "--property", "within", "--tolerance", "0.05")
    assert code == 0
    assert out.startswith("equal within 0.05")


def test_a_file_of_two_networks_says_what_is_asked(run, files, tmp_path):
    a, b, c = files
    path = tmp_path / "band.vnnlib"
    path.write_text(band(0.05))
    code, out, _ = run("verify", a, c, "--domain", path)
    assert code == 0
    assert "networks f (A) and g (B) of the same input" in out
    assert "read as what is meant: no output may differ by more than 0.05" in out
    assert "holds: no output differs by more than 0.05 (rigorous" in out
    code, out, _ = run("verify", a, b, "--domain", path, "--json")
    assert code == 4
    data = json.loads(out)
    assert "read as what is meant" in data["read"]
    assert "leave the band" in data["meaning"]
    code, out, _ = run("verify", a, c, "--domain", path, "--reading", "written")
    assert code == 4
    assert "the input satisfies the file (shown in exact arithmetic" in out
    # A tolerance or a property takes the file's region alone.
    assert run("verify", a, c, "--domain", path, "--tolerance", "0.2")[1].startswith("equal within 0.2")
    assert "holds: the outputs come" in run("verify", a, c, "--domain", path, "--property", "order:0.2")[1]
    code, out, _ = run("find", a, "--domain", path, "--search", "off", "--output", "-")
    assert json.loads(out)["domain"] == {"kind": "box", "lower": [0.0] * 3, "upper": [0.5] * 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--property", "same"], "unknown property 'same'; there are: order, top1, within"),
        (["--property", "top1", "--tolerance", "1"], "written top1:MARGIN"),
        (["--property", "top1", "--norm", "l1"], "belongs to the property within"),
        (["--norm", "l7"], "unknown norm"),
        (["--reading", "written"], "--reading is of a VNN-LIB file"),
        (["--property", "top1", "--steps", "milp"], "unknown step 'milp'"),
        (["--property", "top1", "--report", "r.json"], "--report is of a comparison with a tolerance"),
    ],
)
def test_what_is_refused(run, files, options, words, tmp_path):
    (tmp_path / "r.json").write_text("{}")
    options = [str(tmp_path / o) if o == "r.json" else o for o in options]
    code, out, err = run("verify", files[0], files[1], "--domain", "box:0:1", *options)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def pair(one: Path, two: Path) -> str:
    return f"[('f', '{one}'), ('g', '{two}')]"


def test_run_instance(run, files, tmp_path):
    a, b, c = files
    spec, result = tmp_path / "band.vnnlib", tmp_path / "result.txt"
    spec.write_text(band(0.05))
    code, out, _ = run("run-instance", pair(a, c), spec, result, 100_000, "--reading", "meant")
    assert (code, result.read_text()) == (0, "unsat\n")
    code, out, _ = run("run-instance", pair(a, b), spec, result, 100_000, "--reading", "meant")
    assert code == 0
    lines = result.read_text().splitlines()
    assert lines[0] == "sat"
    assert [line for line in lines if "[" in line] == [
        f"{n} real [1,{k}]" for n, k in (("X_f", 3), ("Y_f", 2), ("X_g", 3), ("Y_g", 2))
    ]
    numbers = np.array([float(line) for line in lines[1:] if "[" not in line])
    np.testing.assert_array_equal(numbers[:3], numbers[5:8])
    np.testing.assert_allclose(numbers[3:5], load_onnx(a).forward(numbers[:3])[0])
    np.testing.assert_allclose(numbers[8:], load_onnx(b).forward(numbers[:3])[0])
    assert np.abs(numbers[3:5] - numbers[8:]).max() > 0.05
    code, out, _ = run(
        "run-instance", pair(a, b), spec, result, 100_000
    )  # as written: some input stays within the band?
    assert "taken as written" in out
    # Networks go by their names, not their order.
    run("run-instance", f"[('g', '{b}'), ('f', '{a}')]", spec, result, 100_000, "--reading", "meant")
    assert result.read_text().splitlines()[0] == "sat"


def test_run_instance_of_version_1(run, files, tmp_path):
    a = files[0]
    network = load_onnx(a)
    top = float(network.forward(np.random.default_rng(0).random((5000, 3)) / 2)[:, 0].max())
    spec, result = tmp_path / "one.vnnlib", tmp_path / "result.txt"
    text = "".join(f"(declare-const X_{i} Real)(assert (<= X_{i} 0.5))(assert (>= X_{i} 0))" for i in range(3))
    text += "(declare-const Y_0 Real)(declare-const Y_1 Real)"
    spec.write_text(text + f"(assert (>= Y_0 {top - 0.1}))")
    code, _, _ = run("run-instance", a, spec, result, 100_000)
    words = result.read_text().replace("(", " ").replace(")", " ").split()
    assert (code, words[0], words[1::2]) == (0, "sat", ["X_0", "X_1", "X_2", "Y_0", "Y_1"])
    x = np.array([float(w) for w in words[2:8:2]])
    assert float(words[8]) == pytest.approx(network.forward(x)[0, 0])
    assert float(words[8]) >= top - 0.1
    spec.write_text(text + f"(assert (>= Y_0 {top + 1}))")
    assert run("run-instance", a, spec, result, 100_000)[0] == 0
    assert result.read_text() == "unsat\n"


def test_run_instance_says_that_it_does_not_know(run, tmp_path):
    """30 inputs are not cut into boxes; a value between what is reached and what bounds show is left open."""
    net = dense(tmp_path, (30, 12, 12, 1), name="wide.onnx")
    top = float(load_onnx(net).forward(np.random.default_rng(0).random((5000, 30)))[:, 0].max())
    spec, result = tmp_path / "wide.vnnlib", tmp_path / "result.txt"
    text = "".join(f"(declare-const X_{i} Real)(assert (<= X_{i} 1))(assert (>= X_{i} 0))" for i in range(30))
    spec.write_text(text + f"(declare-const Y_0 Real)(assert (>= Y_0 {3 * top}))")
    code, _, err = run("run-instance", net, spec, result, 100_000)
    assert (code, result.read_text()) == (3, "unknown\n")
    assert "30 inputs of positive width" in err


def test_run_instance_says_error(run, files, tmp_path):
    a, b, _ = files
    spec, result = tmp_path / "band.vnnlib", tmp_path / "result.txt"
    spec.write_text(band(0.05))
    for networks, words in (
        (a, "declares 2 networks, but 1 are given"),
        (f"[('f', '{a}'), ('h', '{b}')]", "h is not declared; it declares f, g"),
        (f"[('f', '{a}')]", "no file is given for g"),
        (pair(a, tmp_path / "none.onnx"), "no such file"),
    ):
        result.unlink(missing_ok=True)
        code, _, err = run("run-instance", networks, spec, result, 100_000)
        assert (code, result.read_text()) == (2, "error\n")
        assert words in err
        assert err.count("\n") == 1
    for networks in ("[('f', 'a.onnx'", "[]", "['f']", "[('f', 1)]", "[" * 5000, "[('f', 'a'), ('f', 'b')]"):
        code, _, err = run("run-instance", networks, spec, result, 100_000)
        assert code == 2
        assert "a list such as" in err
    assert run("run-instance", pair(a, b), spec)[0] == 2
    code, _, err = run("run-instance", pair(a, b), spec, a, 100_000)
    assert code == 2
    assert load_onnx(a).n_inputs == 3  # the network is not written over


def test_relative_names_are_looked_for_beside_the_folder_of_the_specification(run, files, tmp_path, monkeypatch):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "vnnlib").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name, source in (("f", files[0]), ("g", files[2])):
        (tmp_path / "onnx" / f"{name}.onnx").write_bytes(source.read_bytes())
    (tmp_path / "vnnlib" / "s.vnnlib").write_text(band(0.05))
    monkeypatch.chdir(tmp_path / "elsewhere")
    networks = "[('f', 'onnx/f.onnx'), ('g', 'onnx/g.onnx')]"
    code, _, _ = run("run-instance", networks, tmp_path / "vnnlib" / "s.vnnlib", "r.txt", 100_000, "--reading", "meant")
    assert (code, Path("r.txt").read_text()) == (0, "unsat\n")


@pytest.mark.skipif(os.name != "posix", reason="shell scripts")
def test_scripts_of_the_competition(files, tmp_path):
    a, _, c = files
    spec, result = tmp_path / "band.vnnlib", tmp_path / "result.txt"
    spec.write_text(band(0.05))
    program = tmp_path / "stablenet"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stablenet "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"STABLENET": str(program), "STABLENET_READING": "meant"}

    def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        words = ["sh", str(SCRIPTS / name), *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=600)

    prepared = script("prepare_instance.sh", "v1", "isomorphic_acasxu", pair(a, c), spec)
    assert prepared.returncode == 0
    assert "read as what is meant" not in prepared.stdout  # it reads the files alone
    done = script("run_instance.sh", "v1", "isomorphic_acasxu", pair(a, c), spec, result, 100_000)
    assert (done.returncode, result.read_text()) == (0, "unsat\n"), done.stderr
    assert script("run_instance.sh", "v2", "x", pair(a, c), spec, result, 100_000).returncode == 2
    assert script("prepare_instance.sh", "v1", "x", "none.onnx", spec).returncode == 2
