"""The companion analytic module: each theory is a function (prior, task) -> `Prediction`."""

from fieldprob.prediction import Prediction
from fieldprob.theory.infinite_width import limit

__all__ = ["Prediction", "limit"]
