"""Activation functions and their Gaussian averages E[phi phi], E[phi' phi'].

`get` turns a name, a callable or an activation into an activation.
"""

from fieldprob.activations.base import Activation
from fieldprob.activations.closed_form import GELU, Cos, Erf, Exp, Linear, Monomial, RandomPhaseCosine, Sin
from fieldprob.activations.four_point import four_point, unit_covariance
from fieldprob.activations.hermite import Rough, Smooth
from fieldprob.activations.polar import Kinked
from fieldprob.activations.rectified import Abs, LeakyReLU, ReLU, Sign, Step
from fieldprob.activations.registry import get, names

__all__ = [
    "GELU",
    "Abs",
    "Activation",
    "Cos",
    "Erf",
    "Exp",
    "Kinked",
    "LeakyReLU",
    "Linear",
    "Monomial",
    "RandomPhaseCosine",
    "ReLU",
    "Rough",
    "Sign",
    "Sin",
    "Smooth",
    "Step",
    "four_point",
    "get",
    "names",
    "unit_covariance",
]
