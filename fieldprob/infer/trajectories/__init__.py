"""Ensembles out of equilibrium: many runs of Langevin dynamics, gradient flow or gradient descent from a given start.

fp.infer.trajectories(net, task, dynamics=Langevin(step_size=0.01), times=[0, 1, 10], particles=1000)
"""

import sys
from types import ModuleType
from typing import Any

from fieldprob.infer.trajectories.dynamics import GradientDescent, GradientFlow, Langevin
from fieldprob.infer.trajectories.ensemble import trajectories

__all__ = ["GradientDescent", "GradientFlow", "Langevin", "trajectories"]


class _Callable(ModuleType):
    # As `fieldprob.compare`: the package and its function have one name, and either is what it seems.
    def __call__(self, *args: Any, **kwargs: Any):
        return trajectories(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
