"""Superpositions of Gaussian processes as NumPyro distributions: density, draws, shapes; and the Wishart form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.integrate import quad
from scipy.special import kve
from scipy.stats import chi2, kstest

import fieldprob as fp
from fieldprob.gp import OutputScaled, ScaleMixture, sample_wishart

RNG = np.random.default_rng(2)
F = RNG.normal(size=(3, 2))
K = F @ F.T  # singular
NOISE = np.array([[0.3, 0.1, 0.0], [0.1, 0.4, 0.0], [0.0, 0.0, 0.2]])
Y = np.array([0.4, -1.1, 0.7])


@pytest.mark.parametrize(("noise", "width"), [(0.2, 1), (np.array([0.1, 0.2, 0.3]), 4), (NOISE, 30)])
def test_density_is_the_integral_over_the_scale(noise, width):
    """One layer, a singular kernel: adaptive quadrature over the chi-square law of the scale, to 1e-9."""
    covariance = noise if np.ndim(noise) == 2 else np.diag(np.broadcast_to(noise, 3))

    def integrand(z):
        s = np.exp(z)
        gaussian = dist.MultivariateNormal(jnp.zeros(3), s * K + covariance).log_prob(Y)
        return chi2.pdf(width * s, width) * width * s * np.exp(float(gaussian))

    expected = sum(
        quad(integrand, *ends, epsabs=0, epsrel=1e-10, limit=200)[0] for ends in ((-50, -3), (-3, 0), (0, 4))
    )
    assert np.isclose(ScaleMixture(K, noise, width).log_prob(Y), np.log(expected), rtol=1e-9)


def test_function_without_noise_is_a_bessel_density():
    """N = 2, K = 1, P = 3: int e^-s (2 pi s)^(-P/2) e^(-r/2s) ds = 2 (r/2)^(n/2) K_n(sqrt(2 r)) / (2 pi)^(P/2) with
    n = 1 - P/2, from the origin to far out in the tail."""
    for scale in (1e-3, 1.0, 30.0, 1000.0):
        y = scale * Y
        r = y @ y
        exact = np.log(2) - 0.25 * np.log(r / 2) + np.log(kve(0.5, np.sqrt(2 * r))) - np.sqrt(2 * r)
        exact -= 1.5 * np.log(2 * np.pi)
        assert np.isclose(ScaleMixture(np.eye(3), 0.0, 2).log_prob(y), exact, rtol=1e-10, atol=1e-10)


def test_density_is_the_evidence_of_the_network():
    net = fp.Mlp((3, 7), 2, "linear", weight_variance=(1.2, 0.8), scaling="mean-field")
    task = fp.Task(F, Y, NOISE)
    density = ScaleMixture(net.limit(task.X), net.effective_noise(task), net.widths).log_prob(Y)
    assert np.isclose(density, fp.theory.exact_linear(net, task).log_evidence, rtol=1e-12)


def test_wide_mixture_is_the_gaussian():
    gaussian = dist.MultivariateNormal(jnp.zeros(3), K + NOISE).log_prob(Y)
    errors = [abs(ScaleMixture(K, NOISE, width).log_prob(Y) - gaussian) for width in (10**3, 10**4)]
    assert errors[1] < 1e-3 and np.isclose(errors[0] / errors[1], 10, rtol=0.01)


def test_draws_have_the_density():
    """One point: the distribution function by integrating exp(log_prob) (Kolmogorov-Smirnov, p > 1e-6)."""
    d = ScaleMixture(np.array([[1.3]]), 0.2, 2)
    y = np.linspace(-25, 25, 2001)
    density = np.exp(jax.jit(d.log_prob)(y[:, None]))
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(y))])
    assert np.isclose(cumulative[-1], 1.0, atol=1e-8)
    draws = np.asarray(d.sample(jax.random.key(0), (20_000,)))[:, 0]
    assert kstest(draws, lambda x: np.interp(x, y, cumulative)).pvalue > 1e-6


@pytest.mark.slow
@pytest.mark.long
def test_density_of_two_layers_has_its_moments():
    """Norm, variance and fourth moment 3 K^2 (1 + 2/N_1)(1 + 2/N_2) + 6 K + 3 at unit noise, by a sum over a grid."""
    y = np.arange(-40.0, 41.0)
    density = np.exp(jax.jit(ScaleMixture(np.array([[1.3]]), 1.0, (5, 4)).log_prob)(y[:, None]))
    fourth = 3 * 1.3**2 * (1 + 2 / 5) * (1 + 2 / 4) + 6 * 1.3 + 3
    np.testing.assert_allclose([density @ y**k for k in (0, 2, 4)], [1.0, 2.3, fourth], rtol=1e-4)


@pytest.mark.parametrize("noise", [0.2, np.array([0.1, 0.2, 0.3]), NOISE], ids=["scalar", "diagonal", "matrix"])
def test_draws_have_the_covariance(noise):
    """4e4 draws; six numbers within 7 standard errors."""
    d = ScaleMixture(K, noise, 5)
    draws = np.asarray(d.sample(jax.random.key(1), (40_000,)))
    products = draws[:, :, None] * draws[:, None]
    error = products.std(0) / np.sqrt(len(draws))
    expected = K + (noise if np.ndim(noise) == 2 else np.diag(np.broadcast_to(noise, 3)))
    assert np.max(np.abs(products.mean(0) - expected) / error) < 7
    np.testing.assert_allclose(d.variance, np.diag(expected))


@pytest.mark.slow
@pytest.mark.long
def test_batches_and_gradients():
    batch = np.stack([K + np.eye(3), 2 * K + np.eye(3)])
    d = ScaleMixture(batch, 0.1, 4)
    assert d.batch_shape == (2,) and d.event_shape == (3,)
    assert d.sample(jax.random.key(0), (5,)).shape == (5, 2, 3) and d.log_prob(Y).shape == (2,)
    single = [ScaleMixture(k, 0.1, 4).log_prob(Y) for k in batch]
    np.testing.assert_allclose(d.log_prob(Y), single, rtol=1e-12)
    assert d.expand([7, 2]).sample(jax.random.key(0)).shape == (7, 2, 3)
    assert d.support is constraints.real_vector

    def value(y, g, noise):
        return ScaleMixture(g * K, noise, 3).log_prob(y)

    at, h = (jnp.asarray(Y), 0.7, 0.3), 1e-5
    gradient = jax.grad(value, argnums=(0, 1, 2))(*at)
    finite = [
        (value(Y, *(np.array(at[1:]) + h * e)) - value(Y, *(np.array(at[1:]) - h * e))) / (2 * h) for e in np.eye(2)
    ]
    np.testing.assert_allclose(gradient[1:], finite, rtol=1e-7)
    assert jnp.all(jnp.isfinite(gradient[0]))


@pytest.mark.parametrize("noise", [0.2, NOISE], ids=["scalar", "matrix"])
def test_outputs_given_their_covariance_are_one_gaussian(noise):
    S = np.asarray(sample_wishart(jax.random.key(3), 4, 2))
    y = RNG.normal(size=(3, 4))
    covariance = np.kron(S, K) + np.kron(np.eye(4), noise if np.ndim(noise) == 2 else noise * np.eye(3))
    expected = dist.MultivariateNormal(jnp.zeros(12), covariance).log_prob(y.T.ravel())
    d = OutputScaled(K, S, noise)
    assert np.isclose(d.log_prob(y), expected, rtol=1e-12)
    draws = np.asarray(d.sample(jax.random.key(0), (40_000,))).swapaxes(1, 2).reshape(-1, 12)
    products = draws[:, :, None] * draws[:, None]
    error = products.std(0) / np.sqrt(len(draws))
    assert np.max(np.abs(products.mean(0) - covariance) / error) < 7


def test_wishart_average_is_the_density_of_several_outputs():
    """01 F2 with one output is the scale mixture: averaging the density over S by 2e5 draws, within 7 errors."""
    S = sample_wishart(jax.random.key(5), 1, 3, (200_000,))
    density = np.exp(OutputScaled(K, S, NOISE).log_prob(Y[:, None]))
    error = density.std() / np.sqrt(len(density))
    assert abs(density.mean() - np.exp(ScaleMixture(K, NOISE, 3).log_prob(Y))) < 7 * error


@pytest.mark.parametrize(("outputs", "width"), [(3, 7), (4, 2), (2, 2)])
def test_wishart_has_its_moments_and_rank(outputs, width):
    """E S = 1, Var S_ij = (1 + delta_ij) / N, also for N < outputs; the diagonal is chi^2_N / N (p > 1e-6)."""
    S = np.asarray(sample_wishart(jax.random.key(4), outputs, width, (40_000,)))
    error = S.std(0) / np.sqrt(len(S))
    assert np.max(np.abs(S.mean(0) - np.eye(outputs)) / error) < 7
    np.testing.assert_allclose(S.var(0), (1 + np.eye(outputs)) / width, rtol=0.1)
    assert all(kstest(width * S[:, i, i], chi2(width).cdf).pvalue > 1e-6 for i in range(outputs))
    assert np.linalg.matrix_rank(S[0]) == min(outputs, width)


def test_bad_input():
    with pytest.raises(ValueError, match="widths is"):
        ScaleMixture(K, 0.1, (0,))
    with pytest.raises(ValueError, match=r"covariance has shape \(3, 2\)"):
        ScaleMixture(F, 0.1, 3)
    with pytest.raises(ValueError, match=r"noise_variance has shape \(2,\)"):
        ScaleMixture(K, np.ones(2), 3)
    with pytest.raises(ValueError, match=r"scale has shape \(2, 3\)"):
        OutputScaled(K, np.ones((2, 3)), 0.1)
    with pytest.raises(ValueError, match="both must be at least 1"):
        sample_wishart(jax.random.key(0), 0, 3)
