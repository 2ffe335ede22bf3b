"""Gaussian-process regression given a covariance: the one place where that algebra is written.

`LowRank` and `Dense` are covariances over the given points, `Marginal` is the distribution of noisy outputs with its
own gradient rule (the hot path of sampling), and `condition` gives posterior, evidence and leave-one-out residuals.
`ScaleMixture` and `OutputScaled` are superpositions of processes that differ by a scale, diagonalised once (`modes`);
`FluctuatingCovariance` is one of processes whose covariance is Gaussian. `coefficients` and `log_evidence` are those of
a linear readout, given what data or a population say of it.
Observations other than values at points are linear operators (`Derivative`, `Laplacian`, `Functional`, ...): `observe`
stacks those of a task, `cross_covariance` applies them to a covariance function, `regress` does regression on them.
"""

from fieldprob.gp.covariance import Covariance, Dense, LowRank
from fieldprob.gp.evidence import Coefficients, coefficients, log_evidence
from fieldprob.gp.fluctuating import FluctuatingCovariance
from fieldprob.gp.marginal import Marginal, inverse_and_log_determinant
from fieldprob.gp.modes import Diagonal, Modes, modes
from fieldprob.gp.observations import Observed, cross_covariance, observe, regress
from fieldprob.gp.operators import (
    Derivative,
    Functional,
    Gradient,
    Laplacian,
    Operator,
    Stack,
    Values,
)
from fieldprob.gp.regression import Posterior, condition
from fieldprob.gp.superposition import OutputScaled, ScaleMixture, sample_wishart

__all__ = [
    "Coefficients",
    "Covariance",
    "Dense",
    "Derivative",
    "Diagonal",
    "FluctuatingCovariance",
    "Functional",
    "Gradient",
    "Laplacian",
    "LowRank",
    "Marginal",
    "Modes",
    "Observed",
    "Operator",
    "OutputScaled",
    "Posterior",
    "ScaleMixture",
    "Stack",
    "Values",
    "coefficients",
    "condition",
    "cross_covariance",
    "inverse_and_log_determinant",
    "log_evidence",
    "modes",
    "observe",
    "regress",
    "sample_wishart",
]  # fmt: skip
