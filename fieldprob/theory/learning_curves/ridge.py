"""The effective ridge: all modes together renormalise the ridge that each of them sees.

With P points, ridge k2 and eigenvalues lambda_k of degeneracy g_k, the effective ridge is the root of

    m = k2 + V(m),   V(m) = sum of g_k lambda_k / (1 + P lambda_k / m)

(Sollich 2001; Bordelon, Canatar & Pehlevan, arXiv:2002.02561; Canatar, Bordelon & Pehlevan, arXiv:2006.13198, eq. 3;
Simon et al., arXiv:2110.03922: their kappa is m/P). It is unique, in [k2, k2 + trace], for m - V(m) is convex. It is
found in log m, since with a power law m falls over many decades; derivatives are those of the implicit function.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.kernels import Spectrum
from fieldprob.theory.learning_curves.setting import check_sizes, variance


def effective_ridge(spectrum: Spectrum, points: Any, noise_variance: Any) -> Float[Array, "*sizes"]:
    """The effective ridge of kernel regression, of the shape of `points`.

    The trace in `spectrum.tail` acts as an additional ridge. Differentiable in eigenvalues, tail and noise.

    Args:
        spectrum: eigenvalues and degeneracies.
        points: sizes of the data sets, of any shape, real numbers above zero.
        noise_variance: ridge of the model, a variance; zero is allowed while there are more modes than points.

    Raises:
        ValueError: points or noise_variance out of range; the ridge and the tail are zero and points >= the number of
            modes: the root is then zero, the data determine every mode.

    >>> from fieldprob.kernels import Spectrum
    >>> round(effective_ridge(Spectrum([1.0]), 1, 1.0).item(), 6)             # m = 1 + m / (m + 1)
    1.618034
    """
    check_sizes(points)
    points = jnp.asarray(points, jnp.result_type(float))
    ridge = variance("noise_variance", noise_variance) + spectrum.tail
    value, defect = _roots(spectrum.eigenvalues, spectrum.degeneracies, points.reshape(-1), ridge)
    if not isinstance(value, Tracer):
        _check(spectrum, np.asarray(points).reshape(-1), np.asarray(value), np.asarray(defect), ridge)
    return value.reshape(points.shape)


@jax.jit
@partial(jax.vmap, in_axes=(None, None, 0, None))
def _roots(eigenvalues, degeneracies, points, ridge):
    positive = eigenvalues > 0
    modes = jnp.sum(jnp.where(positive, degeneracies, 0.0))
    smallest = jnp.min(jnp.where(positive, eigenvalues, jnp.inf))
    # counting every mode as the smallest one bounds the root from below where the ridge is zero
    lower = jnp.maximum(ridge, jnp.maximum(modes - points, 0.0) * jnp.where(jnp.isfinite(smallest), smallest, 0.0))
    upper = ridge + jnp.sum(degeneracies * eigenvalues)
    solvable = lower > 0
    bounds = jnp.log(jnp.where(solvable, jnp.stack([lower, upper]), 1.0))

    def defect(log_m, args):
        eigenvalues, degeneracies, points, ridge = args
        m = jnp.exp(log_m)
        return jnp.log(ridge + jnp.sum(degeneracies * eigenvalues * m / (m + points * eigenvalues))) - log_m

    args = (eigenvalues, degeneracies, points, jnp.where(solvable, ridge, 1.0))
    solution = optx.root_find(
        defect,
        optx.Bisection(rtol=1e-15, atol=1e-15, flip=True),
        bounds.mean(),
        args,
        options={"lower": bounds[0] - 1e-9, "upper": bounds[1] + 1e-9},
        max_steps=200,
        throw=False,
    )
    remaining = jax.lax.stop_gradient(defect(solution.value, args))
    return jnp.where(solvable, jnp.exp(solution.value), jnp.nan), remaining


def _check(spectrum, points, value, defect, ridge):
    if np.isnan(value).any():
        size = points[np.isnan(value)][0]
        modes = float(jnp.sum(jnp.where(spectrum.eigenvalues > 0, spectrum.degeneracies, 0.0)))
        raise ValueError(
            f"noise_variance = 0 with points = {size:g} and {modes:g} modes: the data determine every mode and the "
            "effective ridge is zero. Give a positive noise_variance, fewer points, or a spectrum with more modes."
        )
    worst = np.abs(defect).max()
    if not worst < 1e-10:
        raise ValueError(
            f"effective_ridge did not converge (relative residual {worst:.1g}) at noise_variance + tail = "
            f"{float(ridge):g}: are the eigenvalues, at most {float(spectrum.eigenvalues.max()):g}, in float64?"
        )
