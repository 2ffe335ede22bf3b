"""Covariance functions of infinitely wide networks."""

from fieldprob.kernels.nngp import linear, nngp, nngp_diagonal

__all__ = ["linear", "nngp", "nngp_diagonal"]
