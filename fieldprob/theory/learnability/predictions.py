"""What one data set teaches each mode, and bounds on it, as predictions (`kind` "upper") to hold against samples.

Each is a function (prior, task) -> Prediction of a `KernelSpectrum` and a `fieldprob.Task` with one output, along
`mode`, the labels of the spectrum.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from fieldprob.prediction import Kind, Prediction
from fieldprob.theory.learnability import bounds, exact
from fieldprob.theory.learnability.setting import Setting, setting


def exact_overlap(prior: Any, task: Any) -> Prediction:
    """Mean and variance of every mode's coefficient on q, `mode_coefficient`, and `mode_learnability` (06, (3), (4)).

    Args:
        prior: a `KernelSpectrum`.
        task: a `fieldprob.Task` of one output, whose noise variance is the ridge.

    Returns:
        A `Prediction` named 'exact overlap', exact for any data.

    Raises:
        TypeError, ValueError: see `setting`.

    >>> import fieldprob as fp
    >>> from fieldprob.kernels import Spectrum
    >>> wave = Spectrum([0.5], eigenfunctions=lambda X: jnp.sqrt(2) * jnp.cos(X))
    >>> from fieldprob.theory.learnability import KernelSpectrum
    >>> prior = KernelSpectrum(lambda X1, X2: jnp.cos(X1) * jnp.cos(X2).T, wave)
    >>> exact_overlap(prior, fp.Task([[0.0]], [1.0], noise_variance=1.0)).mean["mode_learnability"].round(12).tolist()
    [0.5]
    """
    s = setting("exact overlap", prior, task)
    L = exact.learnability(s.eigenvalues, s.features, s.K, s.ridge)
    overlap = exact.overlap(s.eigenvalues, s.features, s.K, s.ridge, s.y)
    return Prediction(
        theory="exact overlap",
        mean={"mode_coefficient": overlap, "mode_learnability": L},
        variance={"mode_coefficient": s.eigenvalues * jnp.maximum(1 - L, 0.0)},
        exact=True,
        order="exact for any data",
        source="theory 06, (3), (4)",
        coords={"mode": np.asarray(prior.spectrum.labels)},
    )


def saturated(prior: Any, task: Any) -> Prediction:
    """The bound λ|φ|²/(δ + λ|φ|²) on every mode's `mode_learnability` (06, (8)); arguments as `exact_overlap`."""
    s = setting("saturated bound", prior, task)
    bound = bounds.saturated_bound(s.eigenvalues, s.features, s.ridge)
    return _of_learnability("saturated bound", bound, "upper", "a bound for any data", "(8)", prior)


def linear(prior: Any, task: Any) -> Prediction:
    """The bound λ|φ|²/δ on every mode's `mode_learnability` (06, (5)); arguments as `exact_overlap`."""
    s = setting("linear bound", prior, task)
    bound = bounds.linear_bound(s.eigenvalues, s.features, s.ridge)
    return _of_learnability("linear bound", bound, "upper", "a bound for any data", "(5)", prior)


def effective_ridge(prior: Any, task: Any) -> Prediction:
    """The saturated bound with the smallest eigenvalue of the other modes' kernel added to the ridge (06, (10)).

    Arguments as `exact_overlap`. A diagonalisation of the kernel matrix for each mode.
    """
    s = setting("effective-ridge bound", prior, task)
    bound = bounds.saturated_bound(s.eigenvalues, s.features, s.ridge + _rest(s))
    return _of_learnability("effective-ridge bound", bound, "upper", "a bound for any data", "(10)", prior)


def heuristic(prior: Any, task: Any, *, added_ridge: Any) -> Prediction:
    """The saturated form with a ridge raised by `heuristic_ridge` (06, (11)): an estimate, NOT a bound.

    Args:
        prior, task: as in `exact_overlap`.
        added_ridge: one number, or one for each mode: the Taylor coefficients beyond its degree.

    Raises TypeError and ValueError as `setting`, and for a ridge that is negative.
    """
    name = "heuristic estimate, not a bound"
    s = setting(name, prior, task)
    ridge = s.ridge + jnp.asarray(added_ridge)
    if not isinstance(ridge, Tracer) and not jnp.all((ridge >= s.ridge) & jnp.isfinite(ridge)):
        raise ValueError(f"added_ridge = {added_ridge}: give a sum of Taylor coefficients, zero or positive.")
    value = bounds.saturated_bound(s.eigenvalues, s.features, ridge)
    return _of_learnability(name, value, "value", "nearly orthogonal data", "(11)", prior)


def _rest(s: Setting) -> Array:
    return bounds.remaining_ridge(s.eigenvalues, s.features, s.K)


def _of_learnability(theory: str, value: Array, kind: Kind, order: str, equation: str, prior) -> Prediction:
    return Prediction(
        theory=theory,
        mean={"mode_learnability": value},
        kind={} if kind == "value" else {"mode_learnability": kind},
        order=order,
        source=f"theory 06, {equation}",
        coords={"mode": np.asarray(prior.spectrum.labels)},
    )
