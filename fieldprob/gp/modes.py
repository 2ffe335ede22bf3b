"""Regression with every multiple s K of one covariance at once, in the eigenbasis of K where the noise is isotropic.

With noise covariance R R^T (R = 1 for a scalar noise k, which then stays k), R^-1 K R^-T = U diag(lambda) U^T:

    log N(y; 0, s K + noise) = -1/2 sum_j [ (U^T R^-1 y)_j^2 / v_j + log 2 pi v_j ] - log det R,   v_j = k + s lambda_j,

and likewise every other s: one eigendecomposition, then O(points) for each s.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Diagonal(eqx.Module):
    """Independent data y_k ~ N(0, s eigenvalue_k + noise), densities multiplied by exp(-log_det)."""

    eigenvalues: Float[Array, " points"]
    y: Float[Array, " points"]
    noise: Float[Array, ""]
    log_det: Float[Array, ""]

    def log_likelihood(self, s: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """log N(y; 0, s K + noise)."""
        variance = self.noise + s[..., None] * self.eigenvalues
        return -0.5 * jnp.sum(self.y**2 / variance + jnp.log(2 * jnp.pi * variance), axis=-1) - self.log_det


class Modes(Diagonal):
    """A covariance K over all points and data y at the first of them, in the eigenbasis of the data.

    `eigenvalues` of the (whitened) K of the data, ascending; `y` the data's coefficients; `noise` the variance of each,
    1 unless the noise was a scalar; `log_det` of R. Of the eigenvectors, `vectors` U, the last are kept, those of
    eigenvalues that may differ from zero, and `others` = K_{others, data} R^-T U at the points that are not the data's.
    `root` is R, its diagonal, or None where it is one.
    """

    vectors: Float[Array, "points modes"]
    others: Float[Array, "other_points modes"]
    root: Float[Array, "..."] | None

    @property
    def basis(self) -> Float[Array, "points modes"]:
        """R U."""
        if self.root is None:
            return self.vectors
        return self.root @ self.vectors if self.root.ndim == 2 else self.root[:, None] * self.vectors

    @property
    def cross(self) -> Float[Array, "all_points modes"]:
        """K_{all, data} R^-T U, whose data rows are basis * eigenvalues."""
        return jnp.concatenate([self.basis * self.kept(self.eigenvalues), self.others])

    def kept(self, x: Float[Array, "*batch points"]) -> Float[Array, "*batch modes"]:
        """The entries of the eigenvectors that are kept."""
        return x[..., x.shape[-1] - self.vectors.shape[1] :]

    def project(self, M: Float[Array, "points columns"]) -> Float[Array, "modes columns"]:
        """U^T R^-1 M: coefficients of data-space columns."""
        # a product whose first factor is transposed takes twice as long on a CPU
        return (jax.lax.optimization_barrier(_whiten(self.root, M).T) @ self.vectors).T


@partial(jax.jit, static_argnames="rank")
def modes(
    K: Float[Array, "all_points all_points"],
    noise: Float[Array, "..."],
    y: Float[Array, " points"],
    rank: int | None = None,
) -> Modes:
    """Diagonalise once.

    Args:
        K: over the data's points, then any others. It may be singular.
        noise: of the data; scalar, (points,) or a (points, points) covariance. Zero is allowed as a scalar.
        y: the data.
        rank: a bound on the rank of K, where one is known.

    >>> import jax.numpy as jnp
    >>> m = modes(jnp.eye(2), jnp.asarray(0.5), jnp.array([1.0, 0.0]))
    >>> round(m.log_likelihood(jnp.asarray(1.5)).item(), 4)        # -1/4 - log(4 pi)
    -2.781
    """
    P = y.shape[0]
    noise = jnp.asarray(noise)
    root = jnp.linalg.cholesky(noise) if noise.ndim == 2 else jnp.sqrt(noise) if noise.ndim == 1 else None
    seen = _whiten(root, K[:P])
    eigenvalues, vectors = eigh(_whiten(root, seen[:, :P].T))
    y = vectors.T @ _whiten(root, y[:, None])[:, 0]
    vectors = vectors[:, max(0, P - rank) :] if rank is not None else vectors
    return Modes(
        eigenvalues=eigenvalues,
        y=y,
        noise=noise if noise.ndim == 0 else jnp.ones(()),
        log_det=jnp.zeros(()) if root is None else jnp.sum(jnp.log(jnp.diagonal(root) if root.ndim == 2 else root)),
        vectors=vectors,
        others=seen[:, P:].T @ vectors,
        root=root,
    )


def _whiten(root, M):
    if root is None:
        return M
    if root.ndim == 2:
        return jax.scipy.linalg.solve_triangular(root, M, lower=True)
    return M / root[..., None]


@jax.custom_jvp
def eigh(K: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues, ascending, and eigenvectors of a positive semi-definite matrix; those of rounding size are zero.

    Functions of K that do not depend on the choice of eigenvectors may be differentiated where eigenvalues coincide:
    under differentiation those that agree to 1e-8 are drawn apart by as much, so that derivatives, and values computed
    with them, are good to about 1e-7 there. A null space must not be split.

    >>> import jax, jax.numpy as jnp
    >>> def trace_of_square(c):
    ...     eigenvalues, vectors = eigh(jnp.eye(2) + c * jnp.ones((2, 2)))
    ...     return jnp.sum((vectors * eigenvalues**2) @ vectors.T)
    >>> round(jax.grad(trace_of_square)(0.0).item(), 5)
    8.0
    """
    eigenvalues, vectors = jnp.linalg.eigh(K, symmetrize_input=False)
    rounding = len(K) * jnp.finfo(K.dtype).eps * eigenvalues[-1]
    return jnp.where(eigenvalues > rounding, eigenvalues, 0.0), vectors


@eigh.defjvp
def _eigh_jvp(primals, tangents):
    eigenvalues, vectors = eigh(*primals)
    (dK,) = tangents
    rotated = vectors.T @ ((dK + dK.T) / 2) @ vectors
    eigenvalues = _apart(eigenvalues)
    gap = eigenvalues - eigenvalues[:, None]
    coupling = jnp.where(gap == 0, 0.0, 1.0 / jnp.where(gap == 0, 1.0, gap))
    slopes = jnp.where(eigenvalues > 0, jnp.diagonal(rotated), 0.0)
    return (eigenvalues, vectors), (slopes, vectors @ (coupling * rotated))


def _apart(eigenvalues):
    """Positive eigenvalues, ascending, none closer to the one before than a factor 1 + 1e-8."""
    steps = 1e-8 * jnp.arange(len(eigenvalues))
    logs = jnp.log(jnp.where(eigenvalues > 0, eigenvalues, 1.0)) - steps
    lift = jax.lax.cummax(jnp.where(eigenvalues > 0, logs, -jnp.inf)) - logs
    return eigenvalues * jnp.exp(jax.lax.stop_gradient(jnp.where(eigenvalues > 0, lift, 0.0)))
