"""The marginal likelihood and its hand-written gradient against SciPy's density and automatic differentiation."""

from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from fieldprob.gp import Dense, LowRank, Marginal, condition, cross_covariance, inverse_and_log_determinant

P, C = 9, 2
RNG = np.random.default_rng(0)
Y = jnp.asarray(RNG.normal(size=(P, C)))
_ROOT = RNG.normal(size=(P, P))
NOISES = {"scalar": 0.3, "per point": np.linspace(0.1, 0.5, P), "matrix": _ROOT @ _ROOT.T / P + 0.1 * np.eye(P)}


def full(noise):
    noise = np.asarray(noise)
    return noise if noise.ndim == 2 else noise * np.eye(P)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("features", [4, 9, 30])
def test_log_density_is_that_of_the_multivariate_normal(features, noise):
    F = RNG.normal(size=(P, features)) / 2
    S = F @ F.T + full(noise)
    expected = sum(multivariate_normal(np.zeros(P), S).logpdf(np.asarray(Y[:, c])) for c in range(C))
    assert np.isclose(Marginal(LowRank(jnp.asarray(F)), noise, C).log_prob(Y), expected, rtol=1e-12)
    assert np.isclose(Marginal(Dense(jnp.asarray(F @ F.T)), noise, C).log_prob(Y), expected, rtol=1e-12)
    assert np.isclose(Marginal(jnp.asarray(F @ F.T), noise, C, loc=1.0).log_prob(Y + 1.0), expected, rtol=1e-12)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("features", [4, 30])
def test_hand_written_gradient_is_the_derivative_of_the_density(features, noise):
    F = jnp.asarray(RNG.normal(size=(P, features)) / 2)
    noise = jnp.asarray(noise)

    def plain(F, noise, y):
        S = F @ F.T + (noise if noise.ndim == 2 else noise * jnp.eye(P))
        return sum(jax.scipy.stats.multivariate_normal.logpdf(y[:, c], jnp.zeros(P), S) for c in range(C))

    def ours(F, noise, y):
        return Marginal(LowRank(F), noise, C).log_prob(y)

    expected = jax.grad(plain, (0, 1, 2))(F, noise, Y)
    for got, want in zip(jax.grad(ours, (0, 1, 2))(F, noise, Y), expected, strict=True):
        np.testing.assert_allclose(
            got + got.T if got.shape == (P, P) else got,
            want + want.T if want.shape == (P, P) else want,
            rtol=1e-9,
            atol=1e-10,
        )
    K = F @ F.T
    dense = jax.grad(lambda K: Marginal(K, noise, C).log_prob(Y))(K)
    S_inverse = np.linalg.inv(K + full(noise))
    np.testing.assert_allclose(dense, 0.5 * (S_inverse @ Y @ Y.T @ S_inverse - C * S_inverse), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 31, 33, 97, 150])
def test_block_recursion_inverts(n):
    A = RNG.normal(size=(n, n + 3))
    S = A @ A.T / n + 0.01 * np.eye(n)
    inverse, log_det = inverse_and_log_determinant(jnp.asarray(S))
    np.testing.assert_allclose(inverse @ S, np.eye(n), atol=1e-9)
    assert np.isclose(log_det, np.linalg.slogdet(S)[1], rtol=1e-11)


@pytest.mark.parametrize("features", [20, 300])
def test_float32_features_leave_the_density_accurate(features):
    """1e-3 in the log density and 1e-5 relative in its gradient at noise sd 0.1, either form of the algebra."""
    P = 100
    F = RNG.normal(size=(P, features)) / np.sqrt(features)
    y = jnp.asarray(RNG.normal(size=(P, 1)))
    density = jax.value_and_grad(lambda F: Marginal(LowRank(F), 0.01).log_prob(y))
    v64, g64 = density(jnp.asarray(F))
    v32, g32 = density(jnp.asarray(F, jnp.float32))
    assert v32.dtype == jnp.float64 and g32.dtype == jnp.float32
    assert abs(v32 - v64) < 1e-3
    assert np.linalg.norm(g32 - g64) < 1e-5 * np.linalg.norm(g64)


def test_singular_covariance_is_finite_in_value_and_gradient():
    F = jnp.ones((P, 3))
    value, gradient = jax.value_and_grad(lambda F: Marginal(LowRank(F), 1e-6, C).log_prob(Y))(F)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_samples_have_the_stated_covariance():
    """Wick: entries of the empirical covariance of 2e5 draws within 6 standard errors (false alarm below 1e-6)."""
    F = jnp.asarray(RNG.normal(size=(P, 4)))
    for noise in NOISES.values():
        for covariance in (LowRank(F), Dense(F @ F.T)):
            draws = np.asarray(Marginal(covariance, noise, 1).sample(jax.random.key(0), (200_000,)))[..., 0]
            S = np.asarray(F @ F.T) + full(noise)
            error = np.sqrt((np.outer(np.diag(S), np.diag(S)) + S**2) / 200_000)
            assert np.max(np.abs(draws.T @ draws / 200_000 - S) / error) < 6


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="noise_variance has shape"):
        Marginal(LowRank(jnp.ones((3, 2))), jnp.ones(4))
    with pytest.raises(ValueError, match="value has shape"):
        Marginal(LowRank(jnp.ones((3, 2))), 1.0).log_prob(jnp.ones((4, 1)))


EYE, ONES = jnp.eye(3), jnp.ones((3, 1))
SKEW = EYE + 0.1 * jnp.eye(3, k=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: condition(-0.5 * EYE, 2.0, ONES, EYE, EYE), "K is not positive semidefinite.* -0.5"),
        (lambda: condition(SKEW, 0.1, ONES, EYE, EYE), "K is not symmetric, it differs from its transpose by 0.1"),
        (lambda: condition(EYE, 0.1, ONES, EYE, SKEW), "K_query is not symmetric"),
        (lambda: condition(EYE, 0.1, ONES, EYE, -ONES[:, 0]), "posterior variance falls to -1.91"),
        (lambda: condition(EYE, 0.1, ONES, 3 * EYE, EYE), "posterior variance falls to -7.18.* from one kernel"),
        (lambda: condition(EYE, -0.5, ONES, EYE, EYE), "noise_variance falls to -0.5"),
        (lambda: condition(EYE, [0.1, 0.1, np.nan], ONES, EYE, EYE), "noise_variance has 1 of 3 entries"),
        (lambda: condition(EYE, [0.1], ONES, EYE, EYE), r"noise_variance has shape \(1,\)"),
        (lambda: condition(EYE, SKEW, ONES, EYE, EYE), "noise_variance is not symmetric"),
        (lambda: condition(EYE, 0.1, ONES, EYE, EYE, jitter=-0.5), "jitter is -0.5: give zero or a small"),
        (lambda: condition(EYE, 0.1, ONES.at[1].set(jnp.nan), EYE, EYE), "y has 1 of 3 entries that are NaN"),
        (
            lambda: unwrap(condition)(EYE, 0.1, ONES[:, 0], EYE, EYE),
            r"y has shape \(3,\).* y\[:, None\] for one output",
        ),
        (lambda: unwrap(condition)(EYE, 0.1, ONES, EYE[:, :2], EYE), r"K_cross has shape \(3, 2\)"),
        (lambda: unwrap(condition)(EYE, 0.1, ONES, EYE, EYE[:2, :2]), r"K_query has shape \(2, 2\)"),
        (lambda: Marginal(EYE, -0.5), "noise_variance falls to -0.5"),
        (lambda: Marginal(LowRank(EYE), [0.1, -0.5, 0.1]), "noise_variance falls to -0.5"),
        (lambda: Marginal(-EYE, 2.0), "covariance is not positive semidefinite"),
        (lambda: Marginal(SKEW, 2.0), "covariance is not symmetric"),
        (lambda: cross_covariance(lambda a, b: a @ b.T * (1 + a[:, :1] ** 2), SKEW), "is not symmetric"),
    ],
)
def test_what_is_no_covariance_or_no_variance_is_refused(call, message):
    """Shapes without the run-time type checking of the tests, which would refuse them first."""
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("points", [30, 200])
def test_rounding_of_a_singular_covariance_is_no_defect(points):
    x = np.sort(RNG.uniform(size=points))
    K = jnp.exp(-((x[:, None] - x) ** 2) / 2)
    assert np.linalg.eigvalsh(K)[0] < 0
    variance = condition(K, 1e-3, jnp.ones((points, 1)), K, K).variance
    assert np.all((variance > 0) & (variance < 1e-3))
    single = K.astype(jnp.float32)
    assert np.all(condition(single, jnp.float32(0.1), single[:, :1], single, single).variance < 0.1)


def test_conditioning_traces_whatever_the_values():
    @jax.jit
    def variance(noise):
        return condition(EYE, noise, ONES, EYE, EYE).variance

    np.testing.assert_allclose(variance(1.0), 0.5)
    np.testing.assert_allclose(jax.vmap(variance)(jnp.ones(2)), 0.5)


def test_conditioning_equals_the_partitioned_gaussian():
    A = RNG.normal(size=(P + 3, P + 3))
    K = A @ A.T
    noise = NOISES["matrix"]
    post = condition(jnp.asarray(K[:P, :P]), noise, Y, jnp.asarray(K[P:, :P]), jnp.asarray(K[P:, P:]))
    S = K[:P, :P] + noise
    np.testing.assert_allclose(post.mean, K[P:, :P] @ np.linalg.solve(S, Y), rtol=1e-8)
    diagonal = condition(jnp.asarray(K[:P, :P]), noise, Y, jnp.asarray(K[P:, :P]), jnp.asarray(np.diag(K[P:, P:])))
    np.testing.assert_allclose(diagonal.variance, post.variance, atol=1e-8)
    np.testing.assert_allclose(post.covariance, K[P:, P:] - K[P:, :P] @ np.linalg.solve(S, K[:P, P:]), atol=1e-7)
    for i in range(P):  # leave one out by really leaving it out
        keep = np.arange(P) != i
        left = K[i, :P][keep] + noise[i, keep]
        expected = Y[i] - left @ np.linalg.solve(S[np.ix_(keep, keep)], np.asarray(Y)[keep])
        np.testing.assert_allclose(post.leave_one_out[i], expected, rtol=1e-7)
