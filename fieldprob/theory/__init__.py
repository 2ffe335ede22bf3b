"""The companion analytic module: each theory is a function (prior, task) -> `Prediction`."""

from fieldprob.prediction import Prediction
from fieldprob.theory import learning_curves
from fieldprob.theory.adaptation import adaptation
from fieldprob.theory.dynamics import gradient_flow, langevin
from fieldprob.theory.infinite_width import limit
from fieldprob.theory.mean_field import mean_field

__all__ = ["Prediction", "adaptation", "gradient_flow", "langevin", "learning_curves", "limit", "mean_field"]
