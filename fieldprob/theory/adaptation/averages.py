"""The set of neurons on which the tilted measure is averaged, fitted to it, and the saddle on that set."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jaxtyping import Float

from fieldprob.theory.adaptation.closure import gaussian_closure
from fieldprob.theory.adaptation.nonlinear import Data, measure_at, saddle
from fieldprob.theory.neuron_sets import importance, particles, quadrature, strongest_wells
from fieldprob.theory.solvers import require_converged
from fieldprob.theory.tilted import Neuron, Neurons, largest_growth, require_sample_size, slopes

_ROUNDS = 4
_BLOCK = 192  # samples come in multiples: 3 or 4 parts of the mixture, 16 blocks of the errors


class Saddle(NamedTuple):
    """The field at the saddle and the neurons it was found on; `sampled` where these are random."""

    neurons: Neurons
    tau: Float[Array, " points"]
    sampled: bool


def find_saddle(
    theory: str,
    neuron: Neuron,
    data: Data,
    average: str,
    samples: int,
    key,
    *,
    tilted: bool | None = None,
) -> Saddle:
    """The saddle (40), searched for from the Gaussian closure (`tilted`) or from the prior.

    The action is convex, so that either start will do; by default the closure where it serves as a proposal.

    Raises:
        ValueError: no key for a random average; a low effective sample size; no convergence; a tilt beyond the domain
            of the activation (50).
    """
    if average == "auto":
        average = "quadrature" if neuron.directions <= 2 else "importance"
    if average not in ("quadrature", "importance", "particles"):
        raise ValueError(f"average={average!r}: give 'auto', 'quadrature', 'importance' or 'particles'.")
    if average != "quadrature" and key is None:
        raise ValueError(f"average={average!r} draws neurons at random: give key=jax.random.key(0).")
    base, tau = _start(neuron, data, average != "quadrature" if tilted is None else tilted)
    if average == "quadrature":
        neurons = quadrature(neuron)
        tau, _ = _solve(theory, neuron, neurons, data, tau)
    elif average == "importance":
        neurons, tau = _importance_rounds(theory, neuron, data, base, tau, samples, key)
    else:
        neurons = particles(neuron, data.y, data.noise, data.G, data.N, tau, _multiple(samples), key)
        tau, sample_size = _solve(theory, neuron, neurons, data, tau)
        require_sample_size(theory, sample_size)
    _require_domain(theory, neuron, neurons, data, tau)
    return Saddle(neurons, tau, average != "quadrature")


def _start(neuron: Neuron, data: Data, tilted: bool):
    if tilted:
        closure = gaussian_closure(neuron, data)
        return closure.covariance, closure.tau
    prior = neuron.variance * jnp.eye(neuron.directions)
    return prior, jnp.zeros_like(data.y)


def _solve(theory: str, neuron: Neuron, neurons: Neurons, data: Data, start):
    tau, converged, sample_size = saddle(neuron, neurons, data, start)
    advice = "give a smaller chi, or raise noise_variance."
    return require_converged(f"theory {theory!r}", converged, advice, (tau, sample_size))


def _importance_rounds(theory: str, neuron: Neuron, data: Data, base, tau, samples: int, key):
    covariance, found = base, None
    for round_key in jax.random.split(key, _ROUNDS - 1):
        neurons = importance(neuron, covariance, _multiple(samples), round_key, found)
        tau, _, _ = saddle(neuron, neurons, data, tau)
        measure = measure_at(tau, neuron, neurons, data)
        covariance = 0.8 * (neurons.w * measure.probability[:, None]).T @ neurons.w + 0.2 * base
        of_the_prior = neurons.w[: len(neurons.w) // 4]  # the first part of the mixture
        found = strongest_wells(neuron, tau, data.G / data.N, of_the_prior)
    neurons = importance(neuron, covariance, _multiple(samples), jax.random.fold_in(key, _ROUNDS), found)
    tau, sample_size = _solve(theory, neuron, neurons, data, tau)
    require_sample_size(theory, sample_size)
    return neurons, tau


def _multiple(samples: int) -> int:
    return -(-samples // _BLOCK) * _BLOCK


def _require_domain(theory: str, neuron: Neuron, neurons: Neurons, data: Data, tau) -> None:
    if isinstance(tau, Tracer) or not any(slopes(neuron.activation)):
        return
    growth = float(largest_growth(neuron, neurons.w, tau, data.G / data.N))
    if not growth < 1:
        raise ValueError(
            f"theory {theory!r}: the saddle lies outside of the domain of activation {neuron.activation.name!r} "
            f"(growth {growth:.3g}, the tilted measure exists below 1): give more samples, or a smaller chi."
        )
