"""An independent oracle and auditor: what the product says is compared with what this package works out by itself.

Nothing here imports ``stablenet``. `networks` makes random networks, `exact` knows the true extrema of their
pre-activations in rational arithmetic, `graph` evaluates ONNX files in float64 with error bounds, and `auditor`
reads reports.
"""
