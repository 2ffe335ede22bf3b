"""How Gaussian the features are: moments of each mode, joint histograms, and the ridge to first order in cumulants.

The cumulant form (19) of the input-dependent ridge is a diagnostic: it may be negative where the features are large.
Use `first_cumulant_ridge` or `input_dependent_ridge` to compute with.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class FeatureMoments(NamedTuple):
    """Mean, variance, skewness and excess kurtosis of each mode, (modes,); 0, 1, 0, 0 for a Gaussian feature."""

    mean: Float[Array, " modes"]
    variance: Float[Array, " modes"]
    skewness: Float[Array, " modes"]
    excess_kurtosis: Float[Array, " modes"]


@jax.jit
def feature_moments(features: Float[Array, "nodes modes"], weights: Any = None) -> FeatureMoments:
    """Moments of the features over nodes of the measure or points of a sample.

    Args:
        features: of which a constant one (variance zero) has no skewness or kurtosis, NaN.
        weights: of the nodes (nodes,), equal unless given.

    >>> feature_moments(jnp.array([[1.0], [-1.0]])).excess_kurtosis.item()
    -2.0
    """
    w = _weights(features, weights)
    mean = w @ features
    centred = features - mean
    variance = w @ centred**2
    scale = jnp.where(variance > 1e-12, variance, jnp.nan)
    return FeatureMoments(mean, variance, w @ centred**3 / scale**1.5, w @ centred**4 / scale**2 - 3)


class JointHistogram(NamedTuple):
    """Density (bins, bins) of two modes over a grid of edges (edges,), and that of two independent Gaussians."""

    density: Float[Array, "bins bins_"]
    gaussian: Float[Array, "bins bins_"]
    edges: Float[Array, " edges"]


def joint_histogram(
    features: Float[Array, "nodes modes"], pair: tuple[int, int], *, bins: int = 24, reach: float = 4.0
) -> JointHistogram:
    """The joint distribution of two modes over a sample, within `reach` standard deviations.

    Raises ValueError for a pair that is not among the modes.

    >>> joint_histogram(jnp.zeros((5, 2)), (0, 1), bins=2, reach=1.0).density.tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    if not all(0 <= k < features.shape[1] for k in pair):
        raise ValueError(f"pair = {pair}: there are {features.shape[1]} modes, 0 the first.")
    edges = jnp.linspace(-reach, reach, bins + 1)
    width = edges[1] - edges[0]
    first, second = (features[:, k] for k in pair)
    count = jnp.histogram2d(first, second, bins=(edges, edges))[0]
    centres = (edges[1:] + edges[:-1]) / 2
    normal = jnp.exp(-(centres**2) / 2) / jnp.sqrt(2 * jnp.pi)
    return JointHistogram(count / (features.shape[0] * width**2), normal[:, None] * normal, edges)


class Cumulants(NamedTuple):
    """Joint cumulants of integrated modes k with kept ones l, l': kappa_kkl (shell, kept), kappa_kkll' (shell, kept,
    kept)."""

    third: Float[Array, "shell kept"]
    fourth: Float[Array, "shell kept kept_"]


def joint_cumulants(
    kept: Float[Array, "nodes kept"], shell: Float[Array, "nodes shell"], weights: Any = None
) -> Cumulants:
    """Joint third and fourth cumulants over nodes of the measure, of centred features.

    >>> x = jnp.array([[1.0], [-1.0]])
    >>> joint_cumulants(x + 3.0, x).fourth.item()                # 1 - 3, wherever the means are
    -2.0
    """
    w = _weights(kept, weights)
    kept, shell = kept - w @ kept, shell - w @ shell
    square = w[:, None] * shell**2
    covariance = (kept * w[:, None]).T @ kept
    cross = (shell * w[:, None]).T @ kept
    fourth = jnp.einsum("nk,nl,nm->klm", square, kept, kept)
    fourth = fourth - square.sum(axis=0)[:, None, None] * covariance - 2 * cross[:, :, None] * cross[:, None, :]
    return Cumulants(square.T @ kept, fourth)


@jax.jit
def cumulant_ridge(
    eigenvalues: Float[Array, " shell"], cumulants: Cumulants, kept: Float[Array, "points kept"], noise_variance: Any
) -> Float[Array, " points"]:
    """The ridge to first order in cumulants (19): a diagnostic, which may be negative.

        s = k2 + sum of lambda_k [1 + sum of kappa_kkl phi_l + (1/2) sum of kappa_kkll' (phi_l phi_l' - delta_ll')]

    >>> cumulants = Cumulants(jnp.zeros((1, 1)), jnp.full((1, 1, 1), 0.5))
    >>> cumulant_ridge(jnp.ones(1), cumulants, jnp.array([[1.0], [3.0]]), 0.1).round(12).tolist()
    [1.1, 3.1]
    """
    third = eigenvalues @ cumulants.third
    fourth = jnp.einsum("k,klm->lm", eigenvalues, cumulants.fourth)
    quadratic = jnp.sum((kept @ fourth) * kept, axis=1) - jnp.trace(fourth)
    return noise_variance + jnp.sum(eigenvalues) + kept @ third + 0.5 * quadratic


def _weights(features, weights):
    return jnp.full(features.shape[0], 1 / features.shape[0]) if weights is None else jnp.asarray(weights)
