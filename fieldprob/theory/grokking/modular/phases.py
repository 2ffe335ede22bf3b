"""Wells of one mode of a neuron, and the phases of modular addition as the modulus grows."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.prediction import Prediction
from fieldprob.theory.grokking.modular.setting import NAME, ModularAddition, prediction
from fieldprob.theory.precision import require_float64
from fieldprob.theory.solvers import bisect


class Side(NamedTuple):
    """The side well at X = u a² as P grows: its `power` Phi_+, the `action` s there, NaN where there is none; the
    `odds` of the two wells and the `covariance` of (Phi, Psi) in it, both leading in 1/P."""

    power: Float[Array, ""]
    action: Float[Array, ""]
    odds: Float[Array, ""]
    covariance: Float[Array, "2 2"]


def action(phi, psi, X, sextic) -> Float[Array, "..."]:
    """s(Phi, Psi) at X = u a² (04 (3.42)). Arguments broadcast.

    >>> print(action(jnp.sqrt(6.0), jnp.sqrt(6.0), 2 * jnp.sqrt(0.5 / 3), 0.5).round(12) + 0)  # side well, coexistence
    0.0
    """
    phi, psi = jnp.asarray(phi), jnp.asarray(psi)
    return (phi + psi) / 2 - X * phi * psi + sextic * (phi**3 + psi**3) / 6


def side_well(X, modulus, sextic) -> Side:
    """The side well at X = u a² (04 (3.46), (3.51)-(3.52)).

    >>> side = side_well(2 * jnp.sqrt(0.5 / 3), 101, 0.5)
    >>> print(side.power.round(6), jnp.sqrt(3 / 0.5).round(6))
    2.44949 2.44949
    """
    X, sextic = jnp.asarray(X, float), jnp.asarray(sextic, float)
    power = (X + jnp.sqrt(X**2 - sextic)) / sextic
    depth = action(power, power, X, sextic)
    determinant = (sextic * power) ** 2 - X**2
    odds = jnp.pi * modulus / jnp.sqrt(determinant) * jnp.exp(-2 * modulus * depth)
    curvature = jnp.stack([jnp.stack([sextic * power, -X]), jnp.stack([-X, sextic * power])])
    return Side(power, depth, odds, jnp.linalg.inv(curvature) / (2 * modulus))


def large_modulus(task: ModularAddition) -> Prediction:
    """The phases as P grows (04 (3.48)-(3.50)): `residual_amplitude` a and `specialised_fraction`, of modes of neurons.

    One well for noise variances above Sigma - 4 readout_variance; below, modes specialise until the residual is
    noise_variance / Sigma, at which the wells are equally deep; below `task.end` all have. The last phase takes the
    largest root, Phi_+ at the residual that it makes itself.

    >>> task = ModularAddition.with_phases(modulus=31, width=50, sextic=0.5, end=0.5, noise=0.7)
    >>> mean = large_modulus(task).mean
    >>> print(f"{mean['residual_amplitude']:.3f} {mean['specialised_fraction']:.3f}")
    0.700 0.600
    """
    require_float64(NAME)
    return prediction(
        "large modulus",
        _phases(task),
        order="leading as modulus → ∞; inputs/width small",
        source="theory 04, (3.46)-(3.50)",
    )


@eqx.filter_jit
def _phases(task: ModularAddition) -> dict[str, Array]:
    noise, scale, prior = task.noise_variance, task.noise_scale, 4 * task.readout_variance
    full = 12 * task.modulus**2 * task.readout_variance / task.sextic
    share = (scale - noise - prior) / (full - prior)
    one = noise / (noise + prior)
    a = jnp.where(share <= 0, one, jnp.where(share < 1, noise / scale, _specialised(task)))
    return {"residual_amplitude": a, "specialised_fraction": jnp.clip(share, 0.0, 1.0)}


def _specialised(task: ModularAddition):
    """a of the phase with side wells only: a (noise + lambda(Phi_+(u a²))) = noise, increasing in a."""
    lowest = jnp.sqrt(jnp.sqrt(task.sextic) / task.coupling)  # where the side well appears

    def defect(a, task):
        X = task.coupling * a**2
        power = (X + jnp.sqrt(jnp.maximum(X**2 - task.sextic, 1e-300))) / task.sextic
        return a * (task.noise_variance + 4 * task.modulus**2 * task.readout_variance * power**2) - task.noise_variance

    return bisect(defect, jnp.minimum(lowest, 1.0), jnp.ones_like(lowest), task)
