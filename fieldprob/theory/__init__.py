"""The companion analytic module: each theory is a function (prior, task) -> `Prediction`."""

from fieldprob.prediction import Prediction
from fieldprob.theory import learning_curves
from fieldprob.theory.dynamics import gradient_flow, langevin
from fieldprob.theory.exact_small import exact_small
from fieldprob.theory.infinite_width import limit
from fieldprob.theory.perturbative import perturbative

__all__ = ["Prediction", "exact_small", "gradient_flow", "langevin", "learning_curves", "limit", "perturbative"]
