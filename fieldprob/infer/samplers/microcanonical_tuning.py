"""Tuning of the microcanonical kernels, one transition at a time: step size, length and diagonal inverse mass.

BlackJAX tunes in phases that are whole runs; here the same rules act step by step on a state that can be saved.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fieldprob.infer.samplers.base import select

WINDOWS = (0.1, 0.2, 0.4, 0.8)  # of warm-up: the averages start, and L and the inverse mass are set, at these
SHORTEST_WINDOW = 20  # transitions: a variance from fewer would do more harm than good
TRUST = 1.5  # of the step-size predictor, as in BlackJAX: how far ε may be off before a step counts little,
MEMORY = 150  # and the number of steps it remembers


class Moments(NamedTuple):
    """Weighted running mean and sum of squared deviations of each coordinate (West 1979)."""

    weight: jax.Array
    mean: jax.Array
    squares: jax.Array


class MicrocanonicalAdaptState(NamedTuple):
    """What tuning changes and knows: ε, L, the inverse mass (flat, in the order of `ravel_pytree`), running moments.

    averaging is that of the step size: dual averaging (`AdjustedMCLMC`), or (weight, weighted sum, largest step
    allowed) of the energy-error predictor (`MCLMC`).
    """

    step_size: jax.Array
    L: jax.Array
    inverse_mass_matrix: jax.Array
    moments: Moments
    averaging: tuple


def accumulate(moments: Moments, z, weight) -> Moments:
    """The moments with one more position."""
    flat = ravel_pytree(z)[0]
    total = moments.weight + weight
    share = jnp.where(total > 0, weight / total, 0.0)
    deviation = flat - moments.mean
    mean = moments.mean + share * deviation
    return Moments(total, mean, moments.squares + weight * deviation * (flat - mean))


def end_window(
    adapt: MicrocanonicalAdaptState, i, num_warmup: int, L_factor: float, diagonal: bool, first_averaging: Callable
) -> MicrocanonicalAdaptState:
    """After transition i of warm-up: L, the inverse mass and fresh averages, if a window ends with it."""
    edges = [round(fraction * num_warmup) for fraction in WINDOWS]
    ends = [b for a, b in pairwise(edges) if b - a >= SHORTEST_WINDOW]
    variances = adapt.moments.squares / adapt.moments.weight
    # A chain that never moved has learnt nothing.
    usable = jnp.isin(i + 1, jnp.asarray(ends, int)) & jnp.all(jnp.isfinite(variances) & (variances > 0))
    tuned = adapt
    if diagonal:
        # The steps stay as long as they were: an unadjusted chain that is thrown far off is lost.
        change = jnp.sqrt(jnp.sum(adapt.inverse_mass_matrix) / jnp.sum(variances))
        tuned = tuned._replace(inverse_mass_matrix=variances, step_size=change * adapt.step_size)
    radius = jnp.sqrt(jnp.sum(variances / tuned.inverse_mass_matrix))
    tuned = tuned._replace(L=L_factor * radius, averaging=first_averaging(tuned.step_size))
    adapt = select(usable, tuned, adapt)
    moments = jax.tree.map(jnp.zeros_like, adapt.moments)
    return adapt._replace(moments=select(jnp.isin(i + 1, jnp.asarray(edges)), moments, adapt.moments))


def first_prediction(step_size) -> tuple:
    """The averages of `predict_step_size` before any step."""
    return jnp.zeros_like(step_size), jnp.zeros_like(step_size), jnp.full_like(step_size, jnp.inf)


def predict_step_size(
    adapt: MicrocanonicalAdaptState, energy_change, finite, desired: float
) -> MicrocanonicalAdaptState:
    """One step of BlackJAX's predictor: each step says, by ΔE² ∝ ε⁶, which ε would have been right.

    BlackJAX averages ΔE²/ε⁶; here the average is kept in units of the current ε⁶, as those powers overflow float32.
    A step that was undone caps all later ones of its window at 0.8 of its size.
    """
    size, step = adapt.inverse_mass_matrix.size, adapt.step_size
    weight, total, largest = adapt.averaging
    largest = jnp.where(finite, largest, 0.8 * step)
    excess = jnp.square(energy_change) / (size * desired) + 1e-8
    excess = jnp.minimum(excess, 1e12).astype(step.dtype)
    belief = jnp.exp(-0.5 * jnp.square(jnp.log(excess) / (6 * TRUST)))
    decay = (MEMORY - 1) / (MEMORY + 1)
    weight, total = decay * weight + belief, decay * total + belief * excess
    new = jnp.minimum(step * (total / weight) ** (-1 / 6), largest)
    return adapt._replace(step_size=new, averaging=(weight, total * (new / step) ** 6, largest))
