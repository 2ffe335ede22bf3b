"""Sampling: `sample` runs any NumPyro kernel on any face of a network, or on any NumPyro model, into an ArviZ DataTree."""

from fieldprob.infer.driver import sample

__all__ = ["sample"]
