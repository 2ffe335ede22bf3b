"""Exponents of learning curves with power laws: lambda_k = k^-a, y_k^2 = k^-b, P points.

At zero ridge the sum over modes in the equation of the effective ridge m becomes an integral, and
m/P -> [pi / (a sin(pi/a) P)]^a. Modes with lambda_k above m/P are learned, so that without label noise the test error
falls as P^-min(b - 1, 2a) at zero ridge. At a fixed ridge m -> ridge, the modes above ridge/P are learned, and the bias
falls as P^-min((b - 1)/a, 2). Label noise adds a constant at zero ridge, and at a fixed one an error that falls as
P^-(1 - 1/a) (Bordelon, Canatar & Pehlevan, arXiv:2002.02561; Spigler, Geiger & Wyart, arXiv:1905.10843; Cui et al.,
arXiv:2105.15004).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.theory.learning_curves.setting import check_sizes


class PowerLawAsymptotics(NamedTuple):
    """Limits at many points. Errors fall as P^-exponent."""

    effective_ridge: Float[Array, "*sizes"]
    ridgeless_exponent: Float[Array, ""]
    fixed_ridge_exponent: Float[Array, ""]
    noise_exponent: Float[Array, ""]


def power_law_asymptotics(exponent: Any, points: Any, *, target_exponent: Any = None) -> PowerLawAsymptotics:
    """Effective ridge at zero ridge, and exponents of the test error without label noise.

    Args:
        exponent: a of the eigenvalues k^-a, above 1.
        points: P, of any shape.
        target_exponent: b of the target's power k^-b, above 1; by default a, a target drawn from the prior.

    Returns:
        `effective_ridge` at zero ridge, `ridgeless_exponent` and `fixed_ridge_exponent` of the bias, and
        `noise_exponent` of the variance that label noise adds at fixed ridge.

    Raises:
        ValueError: an exponent of at most 1, whose sums diverge, or an infinite one; points that are not positive.

    >>> curve = power_law_asymptotics(2.0, 100)
    >>> round(curve.effective_ridge.item(), 6), curve.ridgeless_exponent.item()       # (pi/2)^2 / P
    (0.024674, 1.0)
    """
    target_exponent = exponent if target_exponent is None else target_exponent
    for name, value in (("exponent", exponent), ("target_exponent", target_exponent)):
        if not isinstance(value, Tracer) and not 1 < value < np.inf:
            raise ValueError(f"{name} = {value}: give a finite number above 1, else the sum over modes diverges.")
    check_sizes(points)
    a, b, P = (jnp.asarray(x, jnp.result_type(float)) for x in (exponent, target_exponent, points))
    return PowerLawAsymptotics(
        effective_ridge=P * (jnp.pi / (a * jnp.sin(jnp.pi / a) * P)) ** a,
        ridgeless_exponent=jnp.minimum(b - 1, 2 * a),
        fixed_ridge_exponent=jnp.minimum((b - 1) / a, 2.0),
        noise_exponent=1 - 1 / a,
    )
