"""Kernel adaptation: a conjugate field tilts the distribution of the hidden neurons (arXiv:2502.03210)."""

from fieldprob.theory.adaptation.theory import adaptation

__all__ = ["adaptation"]
