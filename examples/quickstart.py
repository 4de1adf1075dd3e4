"""Find the stable neurons of the example network from Python, look at a verdict, and use the MILP itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyomo.environ as pyo

from stablenet import LinfBall, build_model, find_stable, load_onnx


def main() -> None:
    """Find, look, optimise."""
    network = load_onnx(Path(__file__).with_name("digits_3x100.onnx"))
    domain = LinfBall(np.full(network.n_inputs, 0.5), 0.1, 0, 1)  # all images within 0.1 of plain grey

    report = find_stable(network, domain, time_limit=120)
    print(report.counts)

    neurons = report.to_json()["neurons"]
    unstable = next(neuron for neuron in neurons if neuron["verdict"] == "unstable")
    layer, index = unstable["layer"], unstable["neuron"]
    for side in ("positive", "negative"):
        image = np.array(report.to_json()["witnesses"][unstable[side]["witness"]])
        value = network.evaluate(image[None]).pre[layer][0, index]
        print(f"layer {layer}, neuron {index}: pre-activation {value:+.3f} at a witness of its {side} side")

    model = build_model(network, domain)  # an ordinary Pyomo model: extend it, write it, solve it
    pre = model.layer[1].pre[3]
    model.largest = pyo.Objective(expr=pre, sense=pyo.maximize)
    pyo.SolverFactory("highs").solve(model)
    print(f"layer 1, neuron 3: at most {pyo.value(pre):.3f} by MILP, {pre.ub:.3f} by CROWN")


if __name__ == "__main__":
    main()
