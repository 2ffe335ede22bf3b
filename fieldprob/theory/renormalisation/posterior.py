"""The posterior of the kept modes for a data set, with the integrated ones as noise (theory 05, (4) and (29)).

With f_> integrated out the data are y = Phi f + noise of covariance S, S = k2 + K_> exactly, or an approximation of it.
With Phi_w = Phi sqrt(lambda) and whitened coefficients w, f = sqrt(lambda) w,

    Cov w = (1 + Phi_w^T S^-1 Phi_w)^-1,   mean w = Cov w Phi_w^T S^-1 y,   evidence N(y; 0, Phi_w Phi_w^T + S).

The mean is that of least squares, |S^-1/2 (y - Phi_w w)|^2 + |w|^2, whose minimum is the exponent of the evidence.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class KeptPosterior(NamedTuple):
    """Mean (kept, outputs) and covariance (kept, kept) of the coefficients; log evidence of all outputs."""

    mean: Float[Array, "kept outputs"]
    covariance: Float[Array, "kept kept_"]
    log_evidence: Float[Array, ""]

    @property
    def variance(self) -> Float[Array, " kept"]:
        """Posterior variances of the coefficients, the same for every output."""
        return jnp.diagonal(self.covariance)

    def predict(self, features: Float[Array, "queries kept"]) -> tuple[Array, Array]:
        """Mean (queries, outputs) and variance (queries,) of the kept part of the outputs at other points."""
        return features @ self.mean, jnp.sum((features @ self.covariance) * features, axis=1)


@jax.jit
def kept_posterior(
    eigenvalues: Float[Array, " kept"],
    features: Float[Array, "points kept"],
    noise: Any,
    y: Float[Array, "points outputs"],
) -> KeptPosterior:
    """Posterior of the coefficients of the kept modes, in O((points + kept) kept^2) if the noise is no matrix.

    Args:
        eigenvalues: their prior variances; may be zero.
        features: their eigenfunctions at the data.
        noise: what the data are noisy with, integrated modes included: (), (points,) or (points, points).
        y: the data.

    >>> one = jnp.ones((1, 1))
    >>> posterior = kept_posterior(one[0], one, 1.0, 2 * one)
    >>> round(posterior.mean.item(), 12), round(posterior.variance.item(), 12)
    (1.0, 0.5)
    """
    root = jnp.sqrt(eigenvalues)
    noise = jnp.asarray(noise, features.dtype)
    if noise.ndim == 2:
        factor = jnp.linalg.cholesky(noise)
        whitened, target = (jax.scipy.linalg.solve_triangular(factor, a, lower=True) for a in (features * root, y))
        log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
    else:
        scale = jnp.sqrt(jnp.broadcast_to(noise, features.shape[:1]))[:, None]
        whitened, target, log_det = features * root / scale, y / scale, jnp.sum(jnp.log(scale))
    orthogonal, triangle = jnp.linalg.qr(jnp.concatenate([whitened, jnp.eye(root.size)]))  # a Gram matrix
    w = jax.scipy.linalg.solve_triangular(triangle, orthogonal[: len(y)].T @ target)  # would lose half of the digits
    half = jax.scipy.linalg.solve_triangular(triangle, jnp.diag(root), trans=1)
    log_det = log_det + jnp.sum(jnp.log(jnp.abs(jnp.diagonal(triangle))))
    points, outputs = y.shape
    quadratic = jnp.sum((target - whitened @ w) ** 2) + jnp.sum(w**2)
    return KeptPosterior(
        mean=root[:, None] * w,
        covariance=half.T @ half,
        log_evidence=-0.5 * quadratic - outputs * (log_det + 0.5 * points * jnp.log(2 * jnp.pi)),
    )
