"""Networks as random kernels: architectures, their scaling rules and their faces."""

from fieldprob.networks.layers import AveragePooling, Convolution, Dense, Flatten, LayerNorm, Nonlinearity, Residual
from fieldprob.networks.mlp import Mlp
from fieldprob.networks.population import polynomial_residual, population_regression
from fieldprob.networks.regression import regression
from fieldprob.networks.sequential import Sequential

__all__ = [
    "AveragePooling", "Convolution", "Dense", "Flatten", "LayerNorm", "Mlp", "Nonlinearity", "Residual", "Sequential",
    "polynomial_residual", "population_regression", "regression",
]  # fmt: skip
