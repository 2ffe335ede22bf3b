"""What every learning curve starts from: a spectrum with a target, and the sizes and noises of a population."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.kernels import Spectrum
from fieldprob.prediction import Prediction
from fieldprob.theory.precision import require_float64

_DIMS = ("points", "mode")


class Setting(eqx.Module):
    """A learning curve's inputs. The ridge is that of the model, the label noise that of the world."""

    theory: str = eqx.field(static=True)
    spectrum: Spectrum
    sizes: tuple[int, ...] = eqx.field(static=True)
    points: Float[Array, " points"]
    ridge: Float[Array, ""]
    label_noise: Float[Array, ""]
    poisson: bool = eqx.field(static=True)


def setting(theory: str, prior: Any, task: Any) -> Setting:
    """Read a spectrum and a population. Raises as the theories say."""
    require_float64(theory)
    if not isinstance(prior, Spectrum):
        raise TypeError(
            f"prior is a {type(prior).__name__}: theory {theory!r} needs a Spectrum, such as "
            "fp.kernels.spectra.sphere(net, inputs=..., radius=...); for one data set use theory.learning_curves.gcv."
        )
    if not hasattr(task, "label_noise_variance"):
        raise TypeError(
            f"task is a {type(task).__name__}: theory {theory!r} averages over data sets and needs a Population, "
            "fp.tasks.Population(points=..., noise_variance=...)."
        )
    if prior.eigenvalues.dtype != jnp.float64:
        raise ValueError(f"theory {theory!r} needs float64, but the spectrum is {prior.eigenvalues.dtype}.")
    spectrum = prior if task.target is None else prior.with_target(task.target)
    spectrum.required_coefficients()
    _check_one_target(prior, spectrum)
    sizes = tuple(int(size) for size in np.atleast_1d(np.asarray(task.points)))
    if min(sizes) < 1:
        raise ValueError(f"points = {sizes}: every size of a data set must be at least 1.")
    ridge = variance("noise_variance", task.noise_variance)
    label_noise = ridge if task.label_noise_variance is None else task.label_noise_variance
    return Setting(
        theory,
        spectrum,
        sizes,
        jnp.asarray(sizes, jnp.float64),
        ridge,
        variance("label_noise_variance", label_noise),
        bool(task.poisson),
    )


def _check_one_target(given: Spectrum, spectrum: Spectrum) -> None:
    """Raises ValueError if the spectrum came with another target than the population's."""
    if (
        given.coefficients is None
        or isinstance(spectrum.coefficients, Tracer)
        or isinstance(given.coefficients, Tracer)
    ):
        return
    theirs, ours = np.abs(np.asarray(given.coefficients)), np.abs(np.asarray(spectrum.coefficients))
    if np.max(np.abs(theirs - ours)) > 1e-6 * max(np.max(ours), np.max(theirs)):
        raise ValueError(
            "the spectrum's target is not the population's (their coefficients differ): give the target to one of them."
        )


def positive_ridge(s: Setting) -> None:
    """Raises ValueError unless the ridge is positive: an expansion in variance over ridge."""
    if not isinstance(s.ridge, Tracer) and not s.ridge > 0:
        raise ValueError(
            f"noise_variance = {float(s.ridge):g}: theory {s.theory!r} expands in variance over ridge and needs a "
            "positive one. Use theory.learning_curves.renormalised_ridge."
        )


def curve(s: Setting, *, order: str, source: str, predictor_variance: Array | None = None, **mean: Array) -> Prediction:
    """A prediction with the coordinates of a learning curve; `predictor_variance` is over data sets."""
    labels = [label if isinstance(label, int | float | str) else str(label) for label in s.spectrum.labels]
    coords: dict = {"points": s.sizes}
    if any(value.ndim == 2 for value in mean.values()):
        coords["mode"] = tuple(labels)
    variance = {} if predictor_variance is None else {"predictor": predictor_variance}
    return Prediction(theory=s.theory, order=order, source=source, mean=mean, variance=variance, coords=coords)


def check_sizes(points: Any) -> None:
    """Raises ValueError unless `points` are numbers above zero, one at least. Traced ones are not checked."""
    if not isinstance(points, Tracer) and not (
        np.size(points) and np.all((np.asarray(points) > 0) & np.isfinite(points))
    ):
        raise ValueError(f"points = {points}: give a size of the data set, or an array of them, finite and above zero.")


def variance(name: str, value: Any) -> Array:
    """`value` as an array of one number. Raises ValueError unless it is finite, zero or positive."""
    array = jnp.asarray(value, jnp.result_type(float))
    if array.ndim != 0:
        raise ValueError(f"{name} has shape {array.shape}: a population has one number, the same for every point.")
    if not isinstance(array, Tracer) and not (np.isfinite(array) and array >= 0):
        raise ValueError(f"{name} = {float(array):g} must be finite, zero or positive: it is a variance.")
    return array


def check_positive(name: str, values: Any) -> None:
    """Raises ValueError unless every one of `values` is finite and above zero. Traced ones are not checked.

    >>> check_positive("noise", np.array([0.5, -1.0]))
    Traceback (most recent call last):
    ValueError: noise has the value -1: give finite ones above zero.
    """
    if isinstance(values, Tracer):
        return
    wrong = np.asarray(values)[~(np.isfinite(values) & (np.asarray(values) > 0))]
    if wrong.size:
        raise ValueError(f"{name} has the value {wrong[0]:g}: give finite ones above zero.")
