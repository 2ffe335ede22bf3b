"""Networks as random kernels: architectures, their scaling rules and their faces."""

from fieldprob.networks.mlp import Mlp
from fieldprob.networks.regression import regression

__all__ = ["Mlp", "regression"]
