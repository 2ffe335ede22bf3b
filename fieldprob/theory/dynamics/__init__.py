"""Dynamics at infinite width: gradient flow and Langevin training of models that are linear in their parameters."""

from fieldprob.theory.dynamics.linear import LinearDynamics
from fieldprob.theory.dynamics.predictions import gradient_flow, langevin

__all__ = ["LinearDynamics", "gradient_flow", "langevin"]
