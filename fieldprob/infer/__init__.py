"""Sampling: the driver `sample`, which runs any NumPyro kernel on a face of a network or on any NumPyro model into a
DataTree; MCMC kernels that NumPyro lacks; trajectories out of equilibrium.

Every kernel is a `numpyro.infer.mcmc.MCMCKernel`: `MCMC(MALA(model), ...)`, or `fp.sample(net, task, kernel=MALA)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

# Loaded when first used: BlackJAX and Diffrax take seconds to import.
_NAMES = {
    "AdjustedMCLMC": "microcanonical",
    "GHMC": "underdamped",
    "HilbertHMC": "hilbert",
    "LeimkuhlerMatthews": "langevin",
    "MALA": "langevin",
    "MCLMC": "microcanonical",
    "PreconditionedCrankNicolson": "pcn",
    "ReplicaExchange": "tempering",
    "ULA": "langevin",
    "Underdamped": "underdamped",
    "sample": "driver",
}
_MODULES = ("driver", "training", "trajectories")

if TYPE_CHECKING:
    from fieldprob.infer import driver, training, trajectories
    from fieldprob.infer.driver import sample
    from fieldprob.infer.hilbert import HilbertHMC
    from fieldprob.infer.langevin import MALA, ULA, LeimkuhlerMatthews
    from fieldprob.infer.microcanonical import MCLMC, AdjustedMCLMC
    from fieldprob.infer.pcn import PreconditionedCrankNicolson
    from fieldprob.infer.tempering import ReplicaExchange
    from fieldprob.infer.underdamped import GHMC, Underdamped

__all__ = [
    "GHMC", "MALA", "MCLMC", "ULA", "AdjustedMCLMC", "HilbertHMC", "LeimkuhlerMatthews",
    "PreconditionedCrankNicolson", "ReplicaExchange", "Underdamped", "driver", "sample", "training", "trajectories",
]  # fmt: skip


def __getattr__(name: str):
    if name in _NAMES:
        value = getattr(import_module(f"fieldprob.infer.{_NAMES[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"fieldprob.infer.{name}")
    else:
        raise AttributeError(f"module 'fieldprob.infer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
