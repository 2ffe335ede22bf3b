"""Layers of networks: each with its parameters, its finite-width map and its map of kernels at infinite width."""

from fieldprob.networks.layers.base import Layer, Space
from fieldprob.networks.layers.convolution import Convolution
from fieldprob.networks.layers.dense import Dense
from fieldprob.networks.layers.limit import Kernels
from fieldprob.networks.layers.nonlinearity import Nonlinearity
from fieldprob.networks.layers.normalisation import LayerNorm
from fieldprob.networks.layers.readouts import AveragePooling, Flatten
from fieldprob.networks.layers.residual import Residual

__all__ = [
    "AveragePooling", "Convolution", "Dense", "Flatten", "Kernels", "Layer", "LayerNorm", "Nonlinearity", "Residual",
    "Space",
]  # fmt: skip
