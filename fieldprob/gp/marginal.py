"""The marginal likelihood of noisy outputs given their covariance, y ~ N(0, K + noise), as a NumPyro distribution.

Its gradient is written by hand (reverse mode only) because this is the hot path of sampling. In coordinates in which
the noise is the identity, with F the features (K = F F^T), S = 1 + F F^T and alpha = S^-1 y over C outputs,

    log p = -1/2 tr(y^T alpha) - C/2 log det S + const,     d log p / dF = (alpha alpha^T - C S^-1) F,

so nothing differentiates a Cholesky factor or solves triangular systems: S^-1 and log det S come from a block recursion
made of matrix products. With fewer features than points the same is written with A = 1 + F^T F. Features may be float32
while the P x P system is float64 ("mixed precision").
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from fieldprob.gp.checks import check_covariance, check_noise
from fieldprob.gp.covariance import Covariance, Dense, LowRank

_BASE_BLOCK = 32  # below this LAPACK's Cholesky beats the recursion (measured: 25 to 50)


def inverse_and_log_determinant(S: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """Inverse and log determinant of a symmetric positive definite matrix by recursive Schur complements.

    Nearly all the work is matrix products, several times faster on a CPU than two triangular solves.
    A matrix that is not positive definite gives NaN, as `jnp.linalg.cholesky` does.

    >>> import jax.numpy as jnp
    >>> inverse, log_determinant = inverse_and_log_determinant(jnp.diag(jnp.array([2.0, 4.0])))
    >>> round(inverse[0, 0].item(), 3), round(log_determinant.item(), 3)
    (0.5, 2.079)
    """
    n = S.shape[-1]
    if n <= _BASE_BLOCK:
        L = jnp.linalg.cholesky(S)
        L_inverse = jax.lax.linalg.triangular_solve(L, jnp.eye(n, dtype=S.dtype), left_side=True, lower=True)
        return L_inverse.T @ L_inverse, 2.0 * jnp.sum(jnp.log(jnp.diagonal(L)))
    m = n // 2
    A_inverse, log_det_A = inverse_and_log_determinant(S[:m, :m])
    T = A_inverse @ S[:m, m:]
    C_inverse, log_det_C = inverse_and_log_determinant(S[m:, m:] - S[m:, :m] @ T)
    U = T @ C_inverse
    inverse = jnp.block([[A_inverse + U @ T.T, -U], [-U.T, C_inverse]])
    return inverse, log_det_A + log_det_C


def _feature_forward(F, y):
    """Log density (without the 2 pi) in whitened coordinates, and what its gradient needs."""
    points, features = F.shape
    outputs = y.shape[-1]
    if points <= features:
        S = (F @ F.T).astype(y.dtype) + jnp.eye(points, dtype=y.dtype)
        inverse, log_det = inverse_and_log_determinant(S)
        alpha = inverse @ y
        beta = None
    else:
        A = (F.T @ F).astype(y.dtype) + jnp.eye(features, dtype=y.dtype)
        inverse, log_det = inverse_and_log_determinant(A)
        F_wide = F.astype(y.dtype)
        beta = inverse @ (F_wide.T @ y)
        alpha = y - F_wide @ beta
    value = -0.5 * jnp.sum(y * alpha) - 0.5 * outputs * log_det
    return value, (F, alpha, beta, inverse)


@jax.custom_vjp
def _feature_log_density(F, y):
    return _feature_forward(F, y)[0]


def _feature_backward(residuals, cotangent):
    F, alpha, beta, inverse = residuals
    points, features = F.shape
    outputs = alpha.shape[-1]
    if points <= features:
        dF = (alpha @ alpha.T - outputs * inverse).astype(F.dtype) @ F
    else:
        # F^T alpha = A^-1 F^T y: as a product with alpha it would cancel badly in float32.
        dF = alpha.astype(F.dtype) @ beta.astype(F.dtype).T - F @ (outputs * inverse).astype(F.dtype)
    return (cotangent * dF).astype(F.dtype), -cotangent * alpha


_feature_log_density.defvjp(_feature_forward, _feature_backward)


def _whitening(noise):
    """Functions M -> noise^(-1/2) M (rows are points) and the log determinant of the noise per output."""
    noise = jnp.asarray(noise)
    if noise.ndim == 0:
        return (lambda M: M / jnp.sqrt(noise).astype(M.dtype)), lambda points: points * jnp.log(noise)
    if noise.ndim == 1:
        return (lambda M: M / jnp.sqrt(noise)[:, None].astype(M.dtype)), lambda points: jnp.sum(jnp.log(noise))
    # Data, not parameters, as a rule: a concrete matrix is factorised once at trace time, not in every gradient.
    with jax.ensure_compile_time_eval():
        L = jnp.linalg.cholesky(noise)
        identity = jnp.eye(noise.shape[-1], dtype=noise.dtype)
        L_inverse = jax.scipy.linalg.solve_triangular(L, identity, lower=True)
        log_det = 2.0 * jnp.sum(jnp.log(jnp.diagonal(L)))
    return (lambda M: L_inverse.astype(M.dtype) @ M), lambda points: log_det


@jax.custom_vjp
def _dense_log_density(S, y):
    return _dense_forward(S, y)[0]


def _dense_forward(S, y):
    inverse, log_det = inverse_and_log_determinant(S)
    alpha = inverse @ y
    return -0.5 * jnp.sum(y * alpha) - 0.5 * y.shape[-1] * log_det, (alpha, inverse)


def _dense_backward(residuals, cotangent):
    alpha, inverse = residuals
    return 0.5 * cotangent * (alpha @ alpha.T - alpha.shape[-1] * inverse), -cotangent * alpha


_dense_log_density.defvjp(_dense_forward, _dense_backward)


class Marginal(dist.Distribution):
    """Noisy outputs with the function integrated out: y (points, outputs), each output ~ N(0, covariance + noise).

    Args:
        covariance: `LowRank` (its features are used, the smaller of points and features decides the algebra),
            `Dense`, or a (points, points) array.
        noise_variance: effective noise variance; scalar, (points,) or a (points, points) matrix.
        outputs: number of outputs, independent given the covariance.
        loc: mean, broadcast against (points, outputs).

    The log density is differentiable in reverse mode only (`jax.grad`, not `jax.jvp`) in the features and the noise.

    Raises:
        ValueError: a noise that is no variance, or of the wrong shape; a covariance that is not symmetric and positive
            semidefinite. Traced values are not checked.

    >>> import jax.numpy as jnp
    >>> d = Marginal(LowRank(jnp.ones((2, 1))), 1.0)
    >>> round(d.log_prob(jnp.zeros((2, 1))).item(), 4)     # -log(2 pi) - log(3) / 2
    -2.3872
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_matrix  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("covariance", "noise_variance", "loc")
    pytree_aux_fields = ("outputs",)
    reparametrized_params: ClassVar = []

    def __init__(self, covariance, noise_variance, outputs: int = 1, *, loc=0.0, validate_args=None):
        self.covariance = covariance if isinstance(covariance, Covariance) else Dense(jnp.asarray(covariance))
        self.noise_variance = jnp.asarray(noise_variance)
        self.outputs = int(outputs)
        self.loc = jnp.asarray(loc)
        if self.outputs < 1:
            raise ValueError(f"outputs is {outputs!r}: give at least 1.")
        points = self.covariance.points
        check_noise(self.noise_variance, points)
        if isinstance(self.covariance, Dense):
            check_covariance("covariance", self.covariance.value)
        super().__init__(event_shape=(points, self.outputs), validate_args=validate_args)

    def log_prob(self, value):
        value = jnp.asarray(value)
        if value.shape[-2:] != self.event_shape:
            raise ValueError(f"value has shape {value.shape}, expected (..., {self.event_shape[0]}, {self.outputs}).")
        if value.ndim > 2:
            return jnp.vectorize(self._log_prob, signature="(p,c)->()")(value)
        return self._log_prob(value)

    def _log_prob(self, value):
        y = value - self.loc
        y = y.astype(jnp.promote_types(y.dtype, jnp.result_type(float)))
        points, outputs = y.shape
        if isinstance(self.covariance, LowRank):
            whiten, noise_log_det = _whitening(self.noise_variance)
            density = _feature_log_density(whiten(self.covariance.features), whiten(y))
            density = density - 0.5 * outputs * noise_log_det(points)
        else:
            noise = self.noise_variance if self.noise_variance.ndim == 2 else self.noise_variance * jnp.eye(points)
            density = _dense_log_density(self.covariance.matrix + noise, y)
        return density - 0.5 * points * outputs * jnp.log(2 * jnp.pi)

    def sample(self, key=None, sample_shape=()):
        if key is None:
            raise ValueError("key is None: give a JAX key, e.g. jax.random.key(0).")
        key_f, key_noise = jax.random.split(key)
        points = self.covariance.points
        shape = (*sample_shape, points, self.outputs)
        if isinstance(self.covariance, LowRank):
            F = self.covariance.features
            f = F @ jax.random.normal(key_f, (*sample_shape, F.shape[-1], self.outputs), F.dtype)
        else:
            K = self.covariance.matrix
            w, V = jnp.linalg.eigh(K)
            f = (V * jnp.sqrt(jnp.maximum(w, 0.0))) @ jax.random.normal(key_f, shape, K.dtype)
        eps = jax.random.normal(key_noise, shape, jnp.result_type(float))
        noise = self.noise_variance
        if noise.ndim == 0:
            return self.loc + f + jnp.sqrt(noise) * eps
        if noise.ndim == 1:
            return self.loc + f + jnp.sqrt(noise)[:, None] * eps
        return self.loc + f + jnp.linalg.cholesky(noise) @ eps
