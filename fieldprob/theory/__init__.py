"""The companion analytic module: each theory is a function (prior, task) -> `Prediction`."""

from fieldprob.prediction import Prediction
from fieldprob.theory import grokking, learnability, learning_curves, renormalisation
from fieldprob.theory.adaptation import adaptation
from fieldprob.theory.dynamics import gradient_flow, langevin
from fieldprob.theory.exact_linear import exact_linear
from fieldprob.theory.exact_small import exact_small
from fieldprob.theory.fluctuation_growth import fluctuation_growth
from fieldprob.theory.fluctuation_response import fluctuation_response, kernel_response
from fieldprob.theory.forward_backward import forward_backward
from fieldprob.theory.infinite_width import limit
from fieldprob.theory.ising_linear import ising_linear
from fieldprob.theory.linear_sampler import sample_exact_linear
from fieldprob.theory.mean_field import mean_field
from fieldprob.theory.perturbative import perturbative
from fieldprob.theory.prior_fluctuations import fourth_cumulant, kernel_covariance, prior_fluctuations
from fieldprob.theory.rescaling import rescaling

__all__ = [
    "Prediction", "adaptation", "exact_linear", "exact_small", "fluctuation_growth", "fluctuation_response",
    "forward_backward", "fourth_cumulant", "gradient_flow", "grokking", "ising_linear", "kernel_covariance",
    "kernel_response", "langevin", "learnability", "learning_curves", "limit", "mean_field", "perturbative",
    "prior_fluctuations", "renormalisation", "rescaling", "sample_exact_linear",
]  # fmt: skip
