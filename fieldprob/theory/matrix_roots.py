"""The symmetric root of a covariance, differentiable to any order where eigenvalues coincide or vanish."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_RANK = 1e-7  # of the largest sum of two roots: below it are directions that the covariance does not have


@jax.custom_jvp
def positive_root(C: Float[Array, "points points"]) -> Float[Array, "points points"]:
    """S symmetric, S S = C; what rounding leaves below zero counts as zero.

    Unlike the factor that an eigendecomposition or a Cholesky decomposition gives it is a smooth function of C, and C
    may be singular: perturbations are taken within the span of C.

    >>> positive_root(jnp.array([[4.0, 0.0], [0.0, 0.0]])).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    eigenvalues, U = jnp.linalg.eigh((C + C.T) / 2)
    return (U * jnp.sqrt(jnp.maximum(eigenvalues, 0))) @ U.T


@positive_root.defjvp
def _(primals, tangents):
    (C,), (dC,) = primals, tangents
    S = positive_root(C)
    return S, lyapunov(S, (dC + dC.T) / 2)


def lyapunov(S: Float[Array, "points points"], E: Float[Array, "points points"]) -> Float[Array, "points points"]:
    """X with S X + X S = E, for a symmetric S >= 0; zero between directions that S does not have.

    A linear solve: its derivatives never pass through the eigenvectors.

    >>> lyapunov(jnp.eye(2), 2 * jnp.ones((2, 2))).round(12).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    s, U = jnp.linalg.eigh(jax.lax.stop_gradient(S))
    total = s[:, None] + s
    present = total > _RANK * jnp.max(total)

    def solve(_, E):
        return U @ jnp.where(present, (U.T @ E @ U) / jnp.where(present, total, 1), 0) @ U.T

    return jax.lax.custom_linear_solve(lambda X: S @ X + X @ S, E, solve, symmetric=True)
