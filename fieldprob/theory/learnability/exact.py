"""What a kernel has learned from any data set, measured on an idealised measure q: exact, for every data set.

The kernel has eigenvalues λ_t and orthonormal eigenfunctions φ_t on the probability measure q; regression on data X, y
with ridge δ (the noise variance) gives f̂. With K = k(X, X), R = (K + δ)⁻¹ and φ_t = φ_t(X) (theory 06, (3), (4)):

    <φ_t, f̂>_q = λ_t φ_tᵀ R y,      L_t = λ_t φ_tᵀ R φ_t = 1 - Var <φ_t, f>_q / λ_t,     0 <= L_t < 1.

Nothing is assumed of the data. Several outputs with a kernel k_ij(x, x') are data of length points x outputs:
`stack_outputs`. Where k_ij = δ_ij k, the functions of targets take all outputs at once.
"""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular
from jaxtyping import Array, Float

from fieldprob.gp.regression import add_noise


def overlap(
    eigenvalues: Float[Array, " modes"],
    features: Float[Array, "points modes"],
    K: Float[Array, "points points"],
    ridge,
    y: Float[Array, " points"],
) -> Float[Array, " modes"]:
    """λ_t φ_tᵀ R y, the coefficient of the predictor along every mode on q (06, (3)).

    >>> one = jnp.ones((1, 1))
    >>> overlap(jnp.array([0.5]), one, one, 1.0, jnp.array([2.0])).round(12).tolist()
    [0.5]
    """
    factor = cho_factor(add_noise(K, ridge), lower=True)
    return eigenvalues * (features.T @ cho_solve(factor, y))


def learnability(
    eigenvalues: Float[Array, " modes"],
    features: Float[Array, "points modes"],
    K: Float[Array, "points points"],
    ridge,
) -> Float[Array, " modes"]:
    """λ_t φ_tᵀ R φ_t, the share of each mode that is learned where it is itself the target (06, (4)).

    A squared norm, so that no share is negative, however small.

    >>> one = jnp.ones((1, 1))
    >>> learnability(jnp.array([0.5]), one, one, 1.0).round(12).tolist()
    [0.25]
    """
    root = jnp.linalg.cholesky(add_noise(K, ridge))
    return eigenvalues * jnp.sum(solve_triangular(root, features, lower=True) ** 2, axis=0)


def information(
    eigenvalues: Float[Array, " modes"],
    features: Float[Array, "points modes"],
    K: Float[Array, "points points"],
    ridge,
) -> Float[Array, " modes"]:
    """g_t = φ_tᵀ (K - λ_t φ_t φ_tᵀ + δ)⁻¹ φ_t, the Fisher information of the data on the coefficient of a mode.

    L_t = λ_t g_t / (1 + λ_t g_t) (06, (7)). The eigenfunctions must be exact.

    >>> one = jnp.ones((1, 1))
    >>> round(information(jnp.array([0.5]), one, one, 1.0).item(), 12)
    0.666666666667
    """

    def one(mode):
        eigenvalue, phi = mode
        return phi @ jnp.linalg.solve(add_noise(without_mode(eigenvalue, phi, K), ridge), phi)

    return jax.lax.map(one, (eigenvalues, features.T))


def without_mode(
    eigenvalue: Float[Array, ""], phi: Float[Array, " points"], K: Float[Array, "points points"]
) -> Float[Array, "points points"]:
    """K - λ φ φᵀ, the kernel of all other modes."""
    return K - eigenvalue * phi[:, None] * phi


def target_overlap(
    image: Float[Array, "points outputs"],
    K: Float[Array, "points points"],
    ridge,
    y: Float[Array, "points outputs"],
) -> Float[Array, ""]:
    """<y, f̂>_q = (T y)(X)ᵀ R y, summed over outputs, of a target that is no eigenfunction (06, (15)).

    Args:
        image: (T y)(X), T y (x) = ∫ dq(x') k(x, x') y(x').
        y: the labels, of y itself or with noise.

    >>> one = jnp.ones((1, 1))
    >>> round(target_overlap(0.5 * one, one, 1.0, 2 * one).item(), 12)
    0.5
    """
    factor = cho_factor(add_noise(K, ridge), lower=True)
    return jnp.sum(image * cho_solve(factor, y))


def label_noise_overlap(
    eigenvalues: Float[Array, " modes"],
    features: Float[Array, "points modes"],
    K: Float[Array, "points points"],
    ridge,
    label_noise_variance,
) -> Float[Array, " modes"]:
    """Variance σ² λ_t² φ_tᵀ R² φ_t that label noise of variance σ² gives the overlap; at most σ² λ_t L_t / δ.

    >>> one = jnp.ones((1, 1))
    >>> label_noise_overlap(jnp.array([0.5]), one, one, 1.0, 2.0).round(12).tolist()
    [0.125]
    """
    factor = cho_factor(add_noise(K, ridge), lower=True)
    return label_noise_variance * eigenvalues**2 * jnp.sum(cho_solve(factor, features) ** 2, axis=0)


def stack_outputs(
    features: Float[Array, "points outputs modes"], K: Float[Array, "points outputs points outputs"]
) -> tuple[Float[Array, "data modes"], Float[Array, "data data"]]:
    """Features and kernel over all points and outputs as one set of data, of a matrix-valued kernel (06, (16)).

    Entry (μ, i, ν, j) of K is k_ij(x_μ, x_ν). Labels (points, outputs) go with it as `y.reshape(-1)`.

    >>> features, K = stack_outputs(jnp.ones((3, 2, 5)), jnp.ones((3, 2, 3, 2)))
    >>> features.shape, K.shape
    ((6, 5), (6, 6))
    """
    points, outputs, modes = features.shape
    data = points * outputs
    return features.reshape(data, modes), K.reshape(data, data)
