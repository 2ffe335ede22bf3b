"""Sampling: the driver `sample`, which runs any NumPyro kernel on a face of a network or on any NumPyro model into a
DataTree; MCMC kernels that NumPyro lacks; trajectories out of equilibrium.

Every kernel is a `numpyro.infer.mcmc.MCMCKernel`: `MCMC(MALA(model), ...)`, or `fp.sample(net, task, kernel=MALA)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

# Loaded when first used: BlackJAX, Diffrax and Dask take seconds to import.
_NAMES = {
    "AdjustedMCLMC": "samplers.microcanonical",
    "GHMC": "samplers.underdamped",
    "GradientDescent": "trajectories",
    "GradientFlow": "trajectories",
    "HilbertHMC": "samplers.hilbert",
    "Importance": "importance",
    "Langevin": "trajectories",
    "LeimkuhlerMatthews": "samplers.langevin",
    "MALA": "samplers.langevin",
    "MCLMC": "samplers.microcanonical",
    "NeuronJumps": "samplers.jumps",
    "NormalButAlong": "samplers.jumps",
    "PreconditionedCrankNicolson": "samplers.pcn",
    "ReplicaExchange": "samplers.tempering",
    "ULA": "samplers.langevin",
    "Underdamped": "samplers.underdamped",
    "data_average": "datasets",
    "log_evidence": "samplers.ladder",
    "sample": "driver",
    "streamed_moments": "stream",
}
_MODULES = ("driver", "training", "trajectories")

if TYPE_CHECKING:
    from fieldprob.infer import driver, training, trajectories
    from fieldprob.infer.datasets import data_average
    from fieldprob.infer.driver import sample
    from fieldprob.infer.importance import Importance
    from fieldprob.infer.samplers.hilbert import HilbertHMC
    from fieldprob.infer.samplers.jumps import NeuronJumps, NormalButAlong
    from fieldprob.infer.samplers.ladder import log_evidence
    from fieldprob.infer.samplers.langevin import MALA, ULA, LeimkuhlerMatthews
    from fieldprob.infer.samplers.microcanonical import MCLMC, AdjustedMCLMC
    from fieldprob.infer.samplers.pcn import PreconditionedCrankNicolson
    from fieldprob.infer.samplers.tempering import ReplicaExchange
    from fieldprob.infer.samplers.underdamped import GHMC, Underdamped
    from fieldprob.infer.stream import streamed_moments
    from fieldprob.infer.trajectories import GradientDescent, GradientFlow, Langevin

__all__ = [
    "GHMC", "MALA", "MCLMC", "ULA", "AdjustedMCLMC", "GradientDescent", "GradientFlow", "HilbertHMC", "Importance",
    "Langevin", "LeimkuhlerMatthews", "NeuronJumps", "NormalButAlong", "PreconditionedCrankNicolson", "ReplicaExchange",
    "Underdamped", "data_average", "driver", "log_evidence", "sample", "streamed_moments", "training", "trajectories",
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
