"""Upper bounds on what a kernel can learn, whatever the data: from λ_t, the norm of φ_t on the data, and the ridge.

All need exact eigenfunctions, but `target_bound`. Where the kernel of the other modes has a smallest eigenvalue ρ on
the data, ridge + ρ (`remaining_ridge`) is a valid ridge in each of them (06, (10)). The sum of the Taylor coefficients
beyond the target's degree (`heuristic_ridge`) is not: it is that of a typical direction of nearly orthogonal data, not
of the worst one, and bounds from it are violated.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.theory.learnability.exact import without_mode


def linear_bound(eigenvalues: Float[Array, " modes"], features: Float[Array, "points modes"], ridge) -> Array:
    """λ_t |φ_t|² / δ (06, (5)): `learnability` is never above; tight at a large ridge.

    `ridge` is one number or one for each mode.

    >>> linear_bound(jnp.array([0.5]), jnp.ones((3, 1)), 2.0).tolist()
    [0.75]
    """
    return eigenvalues * jnp.sum(features**2, axis=0) / ridge


def saturated_bound(eigenvalues: Float[Array, " modes"], features: Float[Array, "points modes"], ridge) -> Array:
    """λ_t |φ_t|² / (δ + λ_t |φ_t|²) (06, (8)): never above one nor above `linear_bound`.

    An equality where the other modes' kernel does not see φ_t. With ridge + `remaining_ridge` it is (10).

    >>> saturated_bound(jnp.array([0.5]), jnp.ones((4, 1)), 2.0).tolist()
    [0.5]
    """
    signal = eigenvalues * jnp.sum(features**2, axis=0)
    return signal / (ridge + signal)


def remaining_ridge(
    eigenvalues: Float[Array, " modes"], features: Float[Array, "points modes"], K: Float[Array, "points points"]
) -> Float[Array, " modes"]:
    """Smallest eigenvalue of K - λ_t φ_t φ_tᵀ, at least zero: the ridge that the other modes add for sure (06, (10)).

    >>> remaining_ridge(jnp.array([0.5]), jnp.array([[1.0], [0.0]]), jnp.eye(2)).tolist()
    [0.5]
    """

    def one(mode):
        eigenvalue, phi = mode
        return jnp.linalg.eigvalsh(without_mode(eigenvalue, phi, K))[0]

    return jnp.maximum(jax.lax.map(one, (eigenvalues, features.T)), 0.0)


def heuristic_ridge(log_coefficients: Float[Array, " terms"], degree: int) -> Float[Array, ""]:
    """Sum of a_n for n > degree of k = Σ a_n (x·x')ⁿ (06, (11)): an estimate of the added ridge, NOT a bound.

    >>> round(heuristic_ridge(jnp.log(jnp.array([0.5, 0.3, 0.2])), 0).item(), 12)
    0.5
    """
    return jnp.sum(jnp.exp(log_coefficients[degree + 1 :]))


def gershgorin_ridge(
    log_coefficients: Float[Array, " terms"], X: Float[Array, "points inputs"], degree: int
) -> Float[Array, ""]:
    """A bound from below, at least zero, on the smallest eigenvalue of Σ_{n > degree} a_n (x·x')ⁿ on unit vectors.

    Gershgorin: Σ a_n (1 - max_μ Σ_{ν≠μ} |x_μ·x_ν|ⁿ). It counts in (06, (10)) where these terms do not contain φ_t.

    >>> gershgorin_ridge(jnp.log(jnp.array([0.5, 0.5])), jnp.eye(3), 0).item()
    0.5
    """
    overlaps = jnp.abs(X @ X.T) * (1 - jnp.eye(len(X), dtype=X.dtype))

    def one(term):
        n, log_a = term
        return jnp.exp(log_a) * (1 - jnp.max(jnp.sum(overlaps**n, axis=1)))

    n = jnp.arange(degree + 1, len(log_coefficients))
    return jnp.maximum(jnp.sum(jax.lax.map(one, (n, log_coefficients[degree + 1 :]))), 0.0)


def linear_overlap_bound(
    eigenvalues: Float[Array, " modes"],
    features: Float[Array, "points modes"],
    ridge,
    y: Float[Array, " points"],
) -> Float[Array, " modes"]:
    """λ_t |φ_t| |y| / δ (06, (5)), a bound on |overlap| for any labels. The ridge may be δ + the smallest eigenvalue
    of K (10).

    >>> linear_overlap_bound(jnp.array([0.5]), jnp.ones((4, 1)), 1.0, jnp.ones(4)).tolist()
    [2.0]
    """
    return eigenvalues * jnp.linalg.norm(features, axis=0) * jnp.linalg.norm(y) / ridge


def saturated_overlap_bound(
    eigenvalues: Float[Array, " modes"],
    features: Float[Array, "points modes"],
    ridge,
    y: Float[Array, " points"],
) -> Float[Array, " modes"]:
    """λ_t |φ_t| |y| / sqrt(δ (δ + λ_t |φ_t|²)) (06, (9)), a bound on |overlap| for any labels.

    >>> saturated_overlap_bound(jnp.array([0.75]), jnp.ones((4, 1)), 1.0, jnp.ones(4)).tolist()
    [1.5]
    """
    signal = eigenvalues * jnp.sum(features**2, axis=0)
    return jnp.sqrt(eigenvalues * signal / (ridge * (ridge + signal))) * jnp.linalg.norm(y)


def energy_overlap_bound(eigenvalues: Float[Array, " modes"], learnability: Float[Array, " modes"], energy) -> Array:
    """sqrt(λ_t L_t yᵀRy) (06, (9)), a bound on |overlap|; `energy` is yᵀRy or, without label noise, |y|²_H.

    >>> energy_overlap_bound(jnp.array([0.5]), jnp.array([0.5]), 4.0).tolist()
    [1.0]
    """
    return jnp.sqrt(eigenvalues * learnability * energy)


def target_bound(
    image: Float[Array, "points outputs"], y: Float[Array, "points outputs"], power, ridge
) -> Float[Array, ""]:
    """|T y (X)| |y| / (δ <y, y>_q) (06, (15)): on the learned share of a target that need be no eigenfunction.

    `image` is as in `target_overlap`, `power` <y, y>_q. It may exceed one, and then says nothing.

    >>> target_bound(0.1 * jnp.ones((4, 1)), jnp.ones((4, 1)), 1.0, 1.0).item()
    0.4
    """
    return jnp.linalg.norm(image) * jnp.linalg.norm(y) / (ridge * power)


def eigenspace_bound(eigenvalue, points, ridge):
    """λ P / (δ + λ P) (06, (13)): on the mean of L_t over an eigenspace with Σ_t φ_t(x)² constant, for any P points.

    >>> eigenspace_bound(0.5, 4, 2.0)
    0.5
    """
    return eigenvalue * points / (ridge + eigenvalue * points)


def ridge_free_bound(points, dimension):
    """P / dimension (06, (14)): on the mean of L_t over any `dimension` modes, since all L_t sum to at most P.

    >>> ridge_free_bound(5, 10)
    0.5
    """
    return points / dimension


def irreducible_eigenvalue_bound(trace, dimension):
    """E_q k(x, x) / dimension (06, (12)): on an eigenvalue whose eigenspace carries a representation of a dimension.

    >>> irreducible_eigenvalue_bound(1.0, 20)
    0.05
    """
    return trace / dimension


def error_bound(bounds: Float[Array, " modes"], coefficients: Float[Array, " modes"]) -> Float[Array, ""]:
    """Σ (1 - B_t)₊² c_t² (06, (17)): the mean square error on q is at least this.

    `bounds` B_t are on |overlap / c_t|; entries with c_t = 0 do not matter.

    >>> error_bound(jnp.array([0.5, 2.0]), jnp.array([2.0, 1.0])).item()
    1.0
    """
    return jnp.sum(jnp.where(coefficients == 0, 0.0, jnp.maximum(1 - bounds, 0.0) * coefficients) ** 2)


def shifted_error_bound(error, density_ratio):
    """MSE_q / C (06, (18)): a lower bound on the error under p where dq/dp <= C everywhere; without such C there is
    none.

    >>> shifted_error_bound(0.5, 5.0)
    0.1
    """
    return error / density_ratio
