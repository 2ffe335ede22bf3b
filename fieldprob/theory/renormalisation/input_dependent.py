"""Input-dependent ridges on a data set: what integrated modes with features that are not Gaussian do to kept ones.

The modes above the cutoff add the covariance K_> to the noise of the data; here its diagonal is kept, one ridge a point
(theory 05): the first cumulant of the replicated action (18); its flow with denominators, shell by shell (20); and the
flow evaluated at the final scale, the ridge r(x) of all modes (21),

    (18)  s(x) = k2 + sum of lambda_k phi_k(x)^2,
    (20)  s(x) <- s(x) + lambda_k phi_k(x)^2 / (1 + lambda_k sum over points of phi_k^2 / s), from the last mode down,
    (21)  s(x) = k2 + sum of lambda_k phi_k(x)^2 / (1 + lambda_k sum over points of phi_k^2 / r).

`eigenvalues` (modes,), `features` (points, modes), one column for every eigenfunction; `noise` is one variance, one for
each point where the model has such noise. `cutoff` is the number of kept modes; all functions vectorise over it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.theory.learning_curves.setting import check_positive
from fieldprob.theory.solvers import fixed_point, require_converged


@jax.jit
def first_cumulant_ridge(
    eigenvalues: Float[Array, " modes"], features: Float[Array, "points modes"], noise: Any, cutoff: Any
) -> Float[Array, " points"]:
    """The ridge (18): the noise and the prior variance of the integrated modes at each point.

    >>> first_cumulant_ridge(jnp.array([1.0, 0.5]), jnp.array([[1.0, 2.0], [1.0, 0.0]]), 0.5, 1).tolist()
    [2.5, 0.5]
    """
    return noise + features**2 @ _shell(eigenvalues, cutoff)


def functional_flow(
    eigenvalues: Float[Array, " modes"], features: Float[Array, "points modes"], noise: Any, cutoff: Any
) -> Float[Array, " points"]:
    """The ridge (20), shell by shell from the last mode to the cutoff.

    Raises ValueError unless the noise is positive.

    >>> one = jnp.ones((1, 1))
    >>> functional_flow(one[0], one, 1.0, 0).tolist()                     # 1 + 1 / (1 + 1)
    [1.5]
    """
    start = jnp.broadcast_to(jnp.asarray(noise, features.dtype), features.shape[:1])
    check_positive("noise", start)
    return _flow(eigenvalues, features, start, cutoff)


@jax.jit
def _flow(eigenvalues, features, start, cutoff):
    def shell(s, mode):
        eigenvalue, phi = mode
        return s + eigenvalue * phi**2 / (1 + eigenvalue * jnp.sum(phi**2 / s)), None

    return jax.lax.scan(shell, start, (_shell(eigenvalues, cutoff), features.T), reverse=True)[0]


def input_dependent_ridge(
    eigenvalues: Float[Array, " modes"], features: Float[Array, "points modes"], noise: Any, cutoff: Any
) -> Float[Array, " points"]:
    """The ridge (21) on a data set: integrated modes at the ridge of all. Differentiable.

    Raises ValueError unless the noise is positive, and if the ridge of all modes did not converge.

    >>> s = input_dependent_ridge(jnp.array([1.0, 1.0]), jnp.ones((1, 2)), 1.0, 1)
    >>> round(s.item(), 6)                                                # r = 1 + 2 r / (r + 1), s = 1 + r / (r + 1)
    1.707107
    """
    noise = jnp.broadcast_to(jnp.asarray(noise, features.dtype), features.shape[:1])
    check_positive("noise", noise)
    log_r, converged = _all_modes(eigenvalues, features, noise)
    log_r = require_converged("the input-dependent ridge", converged, "are the eigenvalues finite?", log_r)
    return _above(eigenvalues, features, noise, log_r, cutoff)


@jax.jit
def _above(eigenvalues, features, noise, log_r, cutoff):
    return noise + features**2 @ (_shell(eigenvalues, cutoff) * _damping(eigenvalues, features, log_r))


@jax.jit
def _all_modes(eigenvalues, features, noise):
    def update(log_r, args):
        eigenvalues, features, noise = args
        return jnp.log(noise + features**2 @ (eigenvalues * _damping(eigenvalues, features, log_r)))

    start = jnp.log(noise + features**2 @ eigenvalues)
    log_r, converged, _ = fixed_point(update, start, (eigenvalues, features, noise))
    return log_r, converged


def _damping(eigenvalues, features, log_r):
    return 1 / (1 + eigenvalues * (jnp.exp(-log_r) @ features**2))


def _shell(eigenvalues, cutoff):
    return jnp.where(jnp.arange(eigenvalues.shape[0]) >= cutoff, eigenvalues, 0.0)
