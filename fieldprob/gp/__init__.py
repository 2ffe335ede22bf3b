"""Gaussian-process regression given a covariance: the one place where that algebra is written.

`LowRank` and `Dense` are covariances over the given points, `Marginal` is the distribution of noisy outputs with its
own gradient rule (the hot path of sampling), and `condition` gives posterior, evidence and leave-one-out residuals.
"""

from fieldprob.gp.covariance import Covariance, Dense, LowRank
from fieldprob.gp.marginal import Marginal, inverse_and_log_determinant
from fieldprob.gp.regression import Posterior, condition

__all__ = ["Covariance", "Dense", "LowRank", "Marginal", "Posterior", "condition", "inverse_and_log_determinant"]
