"""Learning curves of the renormalised process: the kept modes alone, with a running ridge (theory 05, (25)).

The integrated modes are ridge for the process and label noise for its target. Everything else is the renormalised ridge
of `theory.learning_curves`, of which the curve of all modes (24) is the one without a cutoff.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fieldprob.kernels import Spectrum
from fieldprob.prediction import Prediction
from fieldprob.theory.learning_curves import renormalised_ridge
from fieldprob.theory.learning_curves.setting import setting
from fieldprob.theory.renormalisation.flows import closed_ridge, leading_ridge, local_ridge, matched_ridge

_FLOWS = {
    "bare": lambda spectrum, points, noise: jnp.full(spectrum.modes + 1, noise),
    "leading": lambda spectrum, points, noise: leading_ridge(spectrum, noise),
    "local": local_ridge,
    "closed": closed_ridge,
    "matched": matched_ridge,
}


def uniform_ridge(
    spectrum: Spectrum, points: Any, noise_variance: Any, ridge: str = "matched"
) -> Float[Array, " cutoffs"]:
    """A uniform running ridge by name, at every cutoff: "bare", "leading", "local", "closed" or "matched".

    Raises ValueError for another name.

    >>> uniform_ridge(Spectrum([1.0, 0.5]), 10, 0.5, "leading").tolist()
    [2.0, 1.0, 0.5]
    """
    if ridge not in _FLOWS:
        raise ValueError(f"ridge = {ridge!r}: give one of {', '.join(_FLOWS)}.")
    return _FLOWS[ridge](spectrum, points, noise_variance)


def kept_spectrum(spectrum: Spectrum, cutoff: int) -> Spectrum:
    """The first eigenspaces alone: the target in the others becomes its tail, their trace is dropped.

    Raises ValueError for a cutoff out of range.

    >>> kept_spectrum(Spectrum([1.0, 0.5], coefficients=[1.0, 2.0]), 1).target_tail.item()
    4.0
    """
    if not 1 <= cutoff <= spectrum.modes:
        raise ValueError(f"cutoff = {cutoff}: the spectrum lists {spectrum.modes} eigenspaces, keep one at least.")
    coefficients = spectrum.coefficients
    lost = 0.0 if coefficients is None else jnp.sum(coefficients[cutoff:] ** 2) + spectrum.target_tail
    return Spectrum(
        spectrum.eigenvalues[:cutoff],
        spectrum.degeneracies[:cutoff],
        None if coefficients is None else coefficients[:cutoff],
        target_tail=lost,
        labels=spectrum.labels[:cutoff],
        homogeneous=spectrum.homogeneous,
        name=f"{spectrum.name}, first {cutoff}",
    )


def learning_curve(spectrum: Spectrum, task: Any, *, cutoff: Any, ridge: str = "matched") -> Prediction:
    """The learning curve of the first `cutoff` eigenspaces under a running ridge.

    Args:
        spectrum: with a target, or a bare one where the population has it.
        task: a population, as `learning_curves.renormalised_ridge` takes it.
        cutoff: how many eigenspaces are kept, one number, or one for each size of the population.
        ridge: which ridge, see `uniform_ridge`.

    Returns:
        A `Prediction` named "kept modes, <ridge> ridge" with the statistics of `renormalised_ridge` along `points`
        (those along modes only if the cutoff is one number); `posterior_variance` is that of the kept modes alone.

    Raises:
        TypeError, ValueError: as `renormalised_ridge`; a cutoff or ridge out of range.

    >>> from types import SimpleNamespace as Population
    >>> from fieldprob.kernels import spectra
    >>> spectrum = spectra.power_law(2.0, modes=400, target_exponent=2.0)
    >>> task = Population(points=(50, 100), noise_variance=0.05, label_noise_variance=0.0, poisson=False, target=None)
    >>> kept, every = learning_curve(spectrum, task, cutoff=100), renormalised_ridge(spectrum, task)
    >>> (kept.mean["test_error"] / every.mean["test_error"]).round(2).tolist()
    [1.01, 1.02]
    """
    s = setting("kept modes", spectrum, task)
    if not np.issubdtype(np.asarray(cutoff).dtype, np.integer):
        raise ValueError(f"cutoff = {cutoff}: give numbers of eigenspaces, integers.")
    cutoffs = np.broadcast_to(np.asarray(cutoff), (len(s.sizes),))
    curves = []
    for size, kept in zip(s.sizes, cutoffs, strict=True):
        flow = uniform_ridge(s.spectrum, float(size), s.ridge, ridge)
        one = _Size((size,), flow[int(kept)], s.label_noise, s.poisson)
        curves.append(renormalised_ridge(kept_spectrum(s.spectrum, int(kept)), one))
    names = [n for n, v in curves[0].mean.items() if v.ndim == 1 or np.all(cutoffs == cutoffs[0])]
    mean = {name: jnp.concatenate([curve.mean[name] for curve in curves]) for name in names}
    variance = {n: jnp.concatenate([c.variance[n] for c in curves]) for n in curves[0].variance if n in names}
    coords = {"points": s.sizes} | ({"mode": curves[0].coords["mode"]} if "learnability" in names else {})
    return replace(
        curves[0],
        theory=f"kept modes, {ridge} ridge",
        order=f"{curves[0].order}; integrated modes not learned",
        source="theory of arXiv:2405.06008 with the renormalised ridge",
        mean=mean,
        variance=variance,
        coords=coords,
    )


class _Size:
    """A population of one size with the running ridge of the kept modes."""

    def __init__(self, points, noise_variance, label_noise_variance, poisson):
        self.points, self.noise_variance, self.poisson = points, noise_variance, poisson
        self.label_noise_variance, self.target = label_noise_variance, None
