"""Sampling: `sample` runs any NumPyro kernel on a face of a network, or on any NumPyro model, into a DataTree."""

from fieldprob.infer.driver import sample

__all__ = ["sample"]
