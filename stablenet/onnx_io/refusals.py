"""Why operators are refused: the line that a network with one of them gets."""

from __future__ import annotations

_REASONS = {
    "it is smooth, not piecewise linear": (
        "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh CumProd Elu Erf Exp Gelu HardSwish Log Mish Pow "
        "Reciprocal ReduceL2 ReduceLogSum ReduceLogSumExp ReduceProd ReduceSumSquare Selu Sigmoid Sin Sinh Softplus "
        "Softsign Sqrt Swish Tan Tanh"
    ),
    "it divides by what it computes from the input; that is not piecewise linear": (
        "GroupNormalization InstanceNormalization LRN LayerNormalization LpNormalization MeanVarianceNormalization "
        "RMSNormalization"
    ),
    "it is smooth, not piecewise linear (at the end of a classifier it can go: it keeps the order of the outputs)": (
        "LogSoftmax Softmax"
    ),
    "its result jumps; that is not piecewise linear": (
        "ArgMax ArgMin Ceil Floor Hardmax IsInf IsNaN Mod NonZero Round ThresholdedRelu TopK Unique"
    ),
    "it multiplies what it computes from the input; that is not piecewise linear": "Attention Det",
    "its result depends on chance": (
        "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike"
    ),
    "it is recurrent; unroll it before export": "GRU LSTM Loop RNN Scan",
    "it is for integers after quantised activations, whose rounding jumps": (
        "ConvInteger DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul"
    ),
}

REASONS = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""By operator, why it has no exact piecewise-linear form here."""
