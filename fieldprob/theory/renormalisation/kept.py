"""What the kept modes of a Gaussian process learn from one data set, under any of the renormalised ridges."""

from typing import Any

import jax.numpy as jnp

from fieldprob.kernels import Spectrum
from fieldprob.prediction import Prediction
from fieldprob.theory.precision import require_float64
from fieldprob.theory.renormalisation.posterior import kept_posterior
from fieldprob.theory.renormalisation.split import split

_ROUNDING = jnp.finfo(jnp.float64).eps
_ORDER = {
    "exact": "exact",
    "bare": "integrated modes left out",
    "leading": "integrated modes not learnable, Gaussian features: variances averaged over data sets",
    "local": "one loop, Gaussian features: variances averaged over data sets",
    "closed": "integrated modes not learnable, Gaussian features: variances averaged over data sets",
    "matched": "Gaussian features, many modes: variances averaged over data sets",
    "first-cumulant": "first cumulant: integrated modes not learnable",
    "functional": "diagonal of the shells' covariance",
    "input-dependent": "mean field: variances averaged over data sets",
}


def kept(spectrum: Spectrum, task: Any, *, cutoff: int, ridge: str = "input-dependent", kernel: Any = None):
    """The posterior of the first `cutoff` modes' coefficients on a data set.

    Args:
        spectrum: of the prior, with eigenfunctions; see `split`.
        task: a `fieldprob.Task` of one output.
        cutoff: how many modes are kept.
        ridge: what becomes of the others; see `Split.noise`. With "exact" it is the posterior of the whole process, but
            for the tail of a spectrum without its kernel, which is white noise then.
        kernel: the prior's covariance, where the spectrum does not list all of it.

    Returns:
        A `Prediction` named after the ridge, along `mode`: mean, variance and covariance of `mode_coefficient`, and
        `mode_learnability`, 1 - variance / eigenvalue (zero where the eigenvalue is); and the log evidence.

    Raises:
        TypeError: a task without values at points. ValueError: float32, several outputs, or as `split`.

    >>> import fieldprob as fp
    >>> spectrum = Spectrum([1.0, 0.5], eigenfunctions=lambda X: X)
    >>> task = fp.Task(jnp.array([[1.0, 1.0]]), jnp.array([1.0]), 0.5)
    >>> prediction = kept(spectrum, task, cutoff=1, ridge="first-cumulant")        # exact for one point
    >>> round(prediction.mean["mode_learnability"].item(), 12)
    0.5
    """
    name = f"{ridge} ridge" if ridge != "exact" else "exact"
    if not hasattr(task, "X") or not hasattr(task, "y"):
        raise TypeError(f"task is a {type(task).__name__}: theory {name!r} learns from a fp.Task.")
    require_float64(name, task)
    if task.y.shape[1] != 1:
        raise ValueError(f"task has {task.y.shape[1]} outputs: the coefficients of one output are predicted.")
    cut = split(spectrum, task.X, cutoff, kernel=kernel)
    posterior = kept_posterior(cut.eigenvalues, cut.kept, cut.noise(task.noise_variance, ridge), task.y)
    exact = ridge == "exact" and (kernel is not None or bool(spectrum.tail <= _ROUNDING * spectrum.trace))
    positive = cut.eigenvalues > 0
    learnability = jnp.where(positive, 1 - posterior.variance / jnp.where(positive, cut.eigenvalues, 1.0), 0.0)
    return Prediction(
        theory=name,
        order="exact but for the tail of the spectrum, white noise"
        if ridge == "exact" and not exact
        else _ORDER[ridge],
        source="theory of Howard, Jefferson, Maiti & Ringel, arXiv:2405.06008, and its extensions",
        exact=exact,
        mean={"mode_coefficient": posterior.mean[:, 0], "mode_learnability": learnability},
        variance={"mode_coefficient": posterior.variance},
        covariance={"mode_coefficient": posterior.covariance},
        log_evidence=posterior.log_evidence,
    )
