"""fieldprob: probabilistic programming for the statistical field theory of neural networks.

Define a network and a task, sample the posterior, compare it with theory:

    net = fp.Mlp(width=200, depth=1, activation="erf")
    task = fp.tasks.digits(classes=(0, 1), train=100, test=50, noise_variance=0.01)
    samples = fp.sample(net, task, draws=1000, chains=4, seed=0)
    print(fp.compare(samples, [fp.theory.limit(net, task)]))

Names are imported when first used: `import fieldprob` itself loads neither JAX nor ArviZ and changes no setting.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_MODULES = (
    "activations",
    "gp",
    "infer",
    "kernels",
    "networks",
    "plots",
    "plots_criticality",
    "report",
    "statistics",
    "study",
    "tasks",
    "theory",
)
_NAMES = {
    "Comparison": "fieldprob.compare",
    "Mlp": "fieldprob.networks",
    "Prediction": "fieldprob.prediction",
    "Result": "fieldprob.study",
    "Sequential": "fieldprob.networks",
    "Study": "fieldprob.study",
    "Task": "fieldprob.tasks",
    "compare": "fieldprob.compare",
    "load": "fieldprob.study",
    "regression": "fieldprob.networks",
    "sample": "fieldprob.infer",
}

if TYPE_CHECKING:
    from fieldprob import (
        activations,
        gp,
        infer,
        kernels,
        networks,
        plots,
        plots_criticality,
        report,
        statistics,
        study,
        tasks,
        theory,
    )
    from fieldprob.compare import Comparison, compare
    from fieldprob.infer import sample
    from fieldprob.networks import Mlp, Sequential, regression
    from fieldprob.prediction import Prediction
    from fieldprob.study import Result, Study, load
    from fieldprob.tasks import Task

__all__ = [
    "Comparison", "Mlp", "Prediction", "Result", "Sequential", "Study", "Task", "activations", "compare", "gp", "infer",
    "kernels", "load", "networks", "plots", "plots_criticality", "regression", "report", "sample", "statistics",
    "study", "tasks", "theory",
]  # fmt: skip


def __getattr__(name: str):
    if name in _NAMES:
        value = getattr(import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"fieldprob.{name}")
    else:
        raise AttributeError(f"module 'fieldprob' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
