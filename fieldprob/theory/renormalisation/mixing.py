"""Averages over data sets with an input-dependent ridge: modes mix where it is not constant (theory 05, (21)-(23)).

With the measure given by nodes and weights, W_kl = sum of w phi_k phi_l / (s + v), kept modes k, l, their prior
variances lambda and their posterior variance v(x) at each node,

    Sigma = (1/lambda + P W)^-1,   mean coefficients = Sigma P W y,   v(x) = phi(x)^T Sigma phi(x).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.kernels import Spectrum
from fieldprob.theory.learning_curves.setting import check_positive, check_sizes
from fieldprob.theory.solvers import bisect, fixed_point, require_converged


class KeptAverages(NamedTuple):
    """Averages over data sets: the ridge and the kept modes' posterior variance at the nodes; their posterior
    covariance; the mean predictor's coefficients as a matrix that acts on the target's."""

    ridge: Float[Array, " nodes"]
    variance: Float[Array, " nodes"]
    covariance: Float[Array, "kept kept_"]
    response: Float[Array, "kept kept_"]


class ShellMoments(NamedTuple):
    """Integrated modes in groups: eigenvalue and number of modes of each group (groups,), and E[phi^2 | x] at the nodes
    (nodes, groups). Features that are functions of x have phi^2 itself."""

    eigenvalues: Float[Array, " groups"]
    degeneracies: Float[Array, " groups"]
    moments: Float[Array, "nodes groups"]

    @property
    def variance(self) -> Float[Array, " nodes"]:
        """Their prior variance at each node."""
        return self.moments @ (self.degeneracies * self.eigenvalues)


def mode_mixing(
    eigenvalues: Float[Array, " kept"],
    features: Float[Array, "nodes kept"],
    weights: Float[Array, " nodes"],
    points: Any,
    ridge: Any,
    *,
    bare: bool = False,
) -> KeptAverages:
    """The kept modes under a given ridge, one number or one for each node (22).

    Args:
        eigenvalues, features: of the kept modes.
        weights: of the nodes, summing to one.
        points: P.
        ridge: s(x).
        bare: leave out the kept modes' own variance v: the equivalent kernel of the re-weighted measure.

    Raises ValueError for points or ridges out of range, and if the fixed point was not found.

    >>> averages = mode_mixing(jnp.ones(1), jnp.ones((1, 1)), jnp.ones(1), 1, 1.0)      # v = (1 + v) / (2 + v)
    >>> round(averages.variance.item(), 6)
    0.618034
    """
    s = jnp.broadcast_to(jnp.asarray(ridge, features.dtype), features.shape[:1])
    check_sizes(points)
    check_positive("ridge", s)
    if bare:
        covariance, response, v = _kept(eigenvalues, features, weights, points, s)
        return KeptAverages(s, v, covariance, response)
    return _solved(eigenvalues, features, weights, points, s, None)


def input_dependent_average(
    eigenvalues: Float[Array, " kept"],
    features: Float[Array, "nodes kept"],
    weights: Float[Array, " nodes"],
    points: Any,
    noise_variance: Any,
    shell: ShellMoments,
) -> KeptAverages:
    """The kept modes under the ridge of the integrated ones that is consistent with both, (21) with (22).

        s(x) = k2 + sum of lambda_k E[phi_k^2 | x] / (1 + P lambda_k q_k),   q_k = sum of w E[phi_k^2 | x] / (s + v).

    Arguments as `mode_mixing`; the noise is that of the model. Raises ValueError as `mode_mixing`.

    >>> shell = ShellMoments(jnp.array([0.01]), jnp.array([100.0]), jnp.ones((1, 1)))
    >>> averages = input_dependent_average(jnp.ones(1), jnp.ones((1, 1)), jnp.ones(1), 5, 0.1, shell)
    >>> r = averages.ridge + averages.variance                  # features are constant: the effective ridge of all
    >>> from fieldprob.theory.learning_curves import effective_ridge
    >>> bool(jnp.abs(r[0] - effective_ridge(Spectrum([1.0, 0.01], [1, 100]), 5, 0.1)) < 1e-9)
    True
    """
    noise = jnp.broadcast_to(jnp.asarray(noise_variance, features.dtype), features.shape[:1])
    check_sizes(points)
    check_positive("noise_variance", noise)
    return _solved(eigenvalues, features, weights, points, noise, shell)


def harmonic_ridge(spectrum: Spectrum, points: Any, ridges: Any, weights: Any = None) -> Float[Array, ""]:
    """The effective ridge of kept Gaussian modes under ridges that are independent of them (23).

        1/r = E[1 / (s + tau)],   tau = sum of g lambda r / (r + P lambda),   learnability P lambda / (r + P lambda).

    A harmonic mean, raised by tau: a few large ridges do not matter.

    Args:
        spectrum: the kept modes; its tail counts as a part of every ridge.
        points: P.
        ridges: samples or nodes of s, (nodes,), positive.
        weights: of the nodes, equal unless given.

    Raises ValueError for points or ridges out of range.

    >>> from fieldprob.theory.learning_curves import effective_ridge
    >>> spectrum = Spectrum([1.0, 0.1])
    >>> bool(jnp.abs(harmonic_ridge(spectrum, 9, [0.3]) - effective_ridge(spectrum, 9, 0.3)) < 1e-12)
    True
    """
    s = jnp.asarray(ridges, jnp.result_type(float)).reshape(-1)
    check_sizes(points)
    check_positive("ridges", s)
    s = s + spectrum.tail
    w = jnp.full(s.shape, 1 / s.size) if weights is None else jnp.asarray(weights)
    low, high = jnp.log(1 / jnp.sum(w / s)), jnp.log(jnp.sum(w * s) + jnp.sum(spectrum.weights))

    def defect(log_r, args):
        eigenvalues, total, points, s, w = args
        r = jnp.exp(log_r)
        tau = jnp.sum(total * r / (r + points * eigenvalues))
        return -jnp.log(jnp.sum(w / (s + tau))) - log_r

    args = spectrum.eigenvalues, spectrum.weights, jnp.asarray(points, s.dtype), s, w
    return jnp.exp(bisect(defect, low - 1e-9, high + 1e-9, args))


def _solved(eigenvalues, features, weights, points, noise, shell) -> KeptAverages:
    log_r, converged = _fixed_point(eigenvalues, features, weights, jnp.asarray(points, noise.dtype), noise, shell)
    advice = "are the features orthonormal under the weights?"
    log_r = require_converged("the average over data sets", converged, advice, log_r)
    covariance, response, v = _kept(eigenvalues, features, weights, points, jnp.exp(log_r))
    return KeptAverages(jnp.exp(log_r) - v, v, covariance, response)


@jax.jit
def _fixed_point(eigenvalues, features, weights, points, noise, shell):
    def update(log_r, args):
        eigenvalues, features, weights, points, noise, shell = args
        r = jnp.exp(log_r)
        s = noise
        if shell is not None:
            q = (weights / r) @ shell.moments
            s = s + shell.moments @ (shell.degeneracies * shell.eigenvalues / (1 + points * shell.eigenvalues * q))
        return jnp.log(s + _kept(eigenvalues, features, weights, points, r)[2])

    above = noise if shell is None else noise + shell.variance
    start = jnp.log(above + features**2 @ eigenvalues)
    log_r, converged, _ = fixed_point(update, start, (eigenvalues, features, weights, points, noise, shell))
    return log_r, converged


@jax.jit
def _kept(eigenvalues, features, weights, points, ridge):
    """Posterior covariance, response and posterior variance at the nodes, for a total ridge; lambda may be zero."""
    root = jnp.sqrt(eigenvalues)
    PW = points * (features * (weights / ridge)[:, None]).T @ features
    inner = jnp.eye(root.size) + root[:, None] * PW * root
    covariance = root[:, None] * jnp.linalg.solve(inner, jnp.diag(root))
    return covariance, covariance @ PW, jnp.sum((features @ covariance) * features, axis=1)
