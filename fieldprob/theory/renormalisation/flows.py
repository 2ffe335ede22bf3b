"""Running ridges: what modes above a cutoff add to the ridge that the kept ones see, for Gaussian features.

A cutoff is the number of eigenspaces kept, 0 ... modes, in the order in which the spectrum lists them. With P points,
ridge k2 (the tail of the spectrum included), eigenvalues lambda_k of degeneracy g_k and the sums over the modes above
the cutoff (theory 05),

    leading   k2 + sum of g lambda                                            (7),
    local     s <- s + g lambda s / (s + P lambda), shell by shell            below (12),
    closed    s = k2 + sum of g lambda s / (s + P lambda)                     (11),
    matched   k2 + sum of g lambda r / (r + P lambda), r the root for all     (14),

closed <= matched <= leading. The kept modes with the matched ridge have the effective ridge r of all of them, at any
cutoff, hence the same average learnabilities and posterior variances; the closed one is biased where the modes at the
cutoff are learnable, and the leading one is right only where nothing above the cutoff is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.kernels import Spectrum
from fieldprob.theory.learning_curves import effective_ridge
from fieldprob.theory.learning_curves.setting import check_sizes, variance
from fieldprob.theory.precision import require_float64
from fieldprob.theory.solvers import require_converged

_BATCH = 8  # cutoffs whose equations are solved at once: bounds the memory, and fits a cache


class RidgeFlow(NamedTuple):
    """Ridges at every cutoff, (modes + 1,) each; `contraction` is the D of (12), below one where `closed` is stable."""

    leading: Float[Array, " cutoffs"]
    local: Float[Array, " cutoffs"]
    closed: Float[Array, " cutoffs"]
    matched: Float[Array, " cutoffs"]
    contraction: Float[Array, " cutoffs"]


def ridge_flow(spectrum: Spectrum, points: Any, noise_variance: Any) -> RidgeFlow:
    """The four running ridges at every cutoff.

    >>> flow = ridge_flow(Spectrum([1.0, 0.25]), 10, 0.1)
    >>> [round(x, 4) for x in (flow.leading[1].item(), flow.closed[1].item(), flow.matched[1].item())]
    [0.35, 0.1106, 0.1118]
    """
    closed = closed_ridge(spectrum, points, noise_variance)
    return RidgeFlow(
        leading_ridge(spectrum, noise_variance),
        local_ridge(spectrum, points, noise_variance),
        closed,
        matched_ridge(spectrum, points, noise_variance),
        contraction(spectrum, points, closed),
    )


def above(values: Float[Array, " modes"]) -> Float[Array, " cutoffs"]:
    """Sums over the modes above every cutoff, 0 ... modes.

    >>> above(jnp.array([1.0, 2.0])).tolist()
    [3.0, 2.0, 0.0]
    """
    return jnp.append(jnp.cumsum(values[::-1])[::-1], 0.0)


def leading_ridge(spectrum: Spectrum, noise_variance: Any) -> Float[Array, " cutoffs"]:
    """The ridge with the traces of all integrated modes added (05, (7)), at every cutoff.

    Raises ValueError for a noise that is no variance.

    >>> leading_ridge(Spectrum([1.0, 0.5], tail=0.25), 0.25).tolist()
    [2.0, 1.0, 0.5]
    """
    require_float64("renormalisation")
    return variance("noise_variance", noise_variance) + spectrum.tail + above(spectrum.weights)


def matched_ridge(spectrum: Spectrum, points: Any, noise_variance: Any) -> Float[Array, " cutoffs"]:
    """The ridge with the shells evaluated at the effective ridge of all modes (05, (14)), at every cutoff.

    Raises ValueError as `learning_curves.effective_ridge`.

    >>> spectrum = Spectrum([1.0, 0.25])
    >>> matched_ridge(spectrum, 10, 0.1)[0] == effective_ridge(spectrum, 10, 0.1)
    Array(True, dtype=bool)
    """
    require_float64("renormalisation")
    r = effective_ridge(spectrum, points, noise_variance)
    shells = spectrum.weights * r / (r + points * spectrum.eigenvalues)
    ridge = noise_variance + spectrum.tail + above(shells)
    return ridge.at[0].set(r)


def local_ridge(spectrum: Spectrum, points: Any, noise_variance: Any) -> Float[Array, " cutoffs"]:
    """The one-loop flow (05, below (12)), from the last mode to the first; an eigenspace is one shell.

    Raises ValueError for points or a noise out of range.

    >>> local_ridge(Spectrum([1.0, 0.5]), 1, 0.5).round(6).tolist()
    [1.178571, 0.75, 0.5]
    """
    require_float64("renormalisation")
    check_sizes(points)
    start = variance("noise_variance", noise_variance) + spectrum.tail

    def shell(s, mode):
        eigenvalue, weight = mode
        share = jnp.where(s > 0, s / jnp.where(s > 0, s + points * eigenvalue, 1.0), 0.0)
        s = s + weight * share
        return s, s

    ridges = jax.lax.scan(shell, start, (spectrum.eigenvalues, spectrum.weights), reverse=True)[1]
    return jnp.append(ridges, start)


def closed_ridge(spectrum: Spectrum, points: Any, noise_variance: Any, cutoffs: Any = None) -> Float[Array, "*cutoffs"]:
    """The self-consistent ridge of the integrated modes alone (05, (11)), at the given cutoffs or at every one.

    Zero where the ridge is and no more modes than points are integrated. Differentiable in eigenvalues, degeneracies,
    noise and points.

    Raises ValueError for points, a noise or a cutoff out of range, and if an equation was not solved.

    >>> closed_ridge(Spectrum([1.0, 1.0]), 1, 1.0, jnp.array([1])).round(6).tolist()     # s = 1 + s / (s + 1)
    [1.618034]
    """
    require_float64("renormalisation")
    check_sizes(points)
    cutoffs = jnp.arange(spectrum.modes + 1) if cutoffs is None else jnp.asarray(cutoffs)
    if not isinstance(cutoffs, Tracer) and not np.all((cutoffs >= 0) & (cutoffs <= spectrum.modes)):
        raise ValueError(f"cutoffs = {cutoffs}: give numbers of kept eigenspaces, 0 ... {spectrum.modes}.")
    points = jnp.asarray(points, jnp.result_type(float))
    ridge = variance("noise_variance", noise_variance) + spectrum.tail
    value, residual = _closed(spectrum.eigenvalues, spectrum.degeneracies, points, ridge, cutoffs.reshape(-1))
    advice = f"residuals relative to it are up to {_largest(residual)}: are the eigenvalues finite and in float64?"
    return require_converged("the closed ridge", jnp.abs(residual) < 1e-10, advice, value).reshape(cutoffs.shape)


def contraction(spectrum: Spectrum, points: Any, ridge: Float[Array, " cutoffs"]) -> Float[Array, " cutoffs"]:
    """D = sum over the integrated modes of g P lambda^2 / (s + P lambda)^2, for a ridge at every cutoff (05, (12)).

    Modes of eigenvalue zero add nothing, whatever the ridge.

    >>> contraction(Spectrum([1.0]), 1, jnp.array([1.0, 0.0])).tolist()
    [0.25, 0.0]
    """

    return _contraction(spectrum.eigenvalues, spectrum.degeneracies, points, ridge)


@jax.jit
def _contraction(eigenvalues, degeneracies, points, ridge):
    def one(x):
        cutoff, s = x
        shell = (jnp.arange(eigenvalues.size) >= cutoff) & (eigenvalues > 0)
        share = jnp.where(shell, eigenvalues / jnp.where(shell, s + points * eigenvalues, 1.0), 0.0)
        return points * jnp.sum(degeneracies * share**2)

    return jax.lax.map(one, (jnp.arange(ridge.size), ridge), batch_size=_BATCH)


@jax.jit
def _closed(eigenvalues, degeneracies, points, ridge, cutoffs):
    def one(cutoff):
        weight = jnp.where(jnp.arange(eigenvalues.size) < cutoff, 0.0, degeneracies)
        trace = ridge + weight @ eigenvalues
        solvable = (ridge > 0) | (jnp.sum(jnp.where(eigenvalues > 0, weight, 0.0)) > points)
        # in units of the leading ridge, an upper bound from which Newton's steps on a convex function never overshoot
        unit = jnp.where(solvable, trace, 1.0)
        args = eigenvalues / unit, jnp.where(solvable, weight, 0.0), points, jnp.where(solvable, ridge / unit, 1.0)
        solution = optx.root_find(
            _defect, optx.Newton(rtol=1e-13, atol=1e-13), jnp.ones_like(trace), args, max_steps=200, throw=False
        )
        u = solution.value
        residual = jax.lax.stop_gradient(_defect(u, args))
        return jnp.where(solvable, u * unit, 0.0), residual

    return jax.lax.map(one, cutoffs, batch_size=_BATCH)


def _defect(s, args):
    """Relative to s, a constant to Newton's method: the steps are those of the convex function, the end is relative."""
    eigenvalues, weight, points, ridge = args
    return (s - ridge - jnp.sum(weight * eigenvalues * s / (s + points * eigenvalues))) / jax.lax.stop_gradient(s)


def _largest(residual):
    return "unknown" if isinstance(residual, Tracer) else f"{np.max(np.abs(residual), initial=0):.1g}"
