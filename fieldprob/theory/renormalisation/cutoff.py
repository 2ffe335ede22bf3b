"""Where to cut: the last mode that the data determine, by the learnability under the leading flow (theory 05, (16))."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from fieldprob.kernels import Spectrum
from fieldprob.theory.learning_curves.setting import check_sizes
from fieldprob.theory.renormalisation.flows import leading_ridge


class Cutoff(NamedTuple):
    """The number of eigenspaces to keep; whether a mode that is not learned follows; the learnabilities (modes,)."""

    kept: Int[Array, ""]
    exists: Bool[Array, ""]
    learnability: Float[Array, " modes"]


def cutoff(spectrum: Spectrum, points: Any, noise_variance: Any, threshold: Any = 0.1) -> Cutoff:
    """The modes up to the last one with learnability P lambda_k / (k2 + sum over j > k of lambda_j + P lambda_k) of at
    least the threshold.

    The last of all: where eigenvalues fall exponentially and the ridge is small, learnabilities do not decrease and no
    finite cutoff exists. Then `exists` is False, and so it is where all listed modes are learned and nothing is known
    of further ones. Vectorises over points, noise and threshold; the learnabilities are differentiable.

    Args:
        spectrum: eigenvalues in the order of the cutoff; the tail counts as an additional ridge.
        points, noise_variance: of the regression.
        threshold: T, between 0 and 1.

    Raises ValueError for arguments out of range.

    >>> from fieldprob.kernels import spectra
    >>> found = cutoff(spectra.power_law(2.0, modes=600), 100, 0.05)
    >>> int(found.kept), bool(found.exists)
    (126, True)
    """
    check_sizes(points)
    if not isinstance(threshold, Tracer) and not 0 < threshold < 1:
        raise ValueError(f"threshold = {threshold}: give a learnability between 0 and 1.")
    P = jnp.asarray(points, jnp.result_type(float))
    ridge = leading_ridge(spectrum, noise_variance)[1:]
    positive = spectrum.eigenvalues > 0
    learnability = P * spectrum.eigenvalues / jnp.where(positive, ridge + P * spectrum.eigenvalues, 1.0)
    learned = learnability >= threshold
    kept, last = (jnp.max(jnp.where(where, jnp.arange(1, spectrum.modes + 1), 0)) for where in (learned, positive))
    return Cutoff(kept, kept < last, learnability)
