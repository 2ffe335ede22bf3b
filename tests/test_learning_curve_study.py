"""Learning curves of theories against averages over random data sets (theory 01, X4 and X5)."""

import jax.numpy as jnp
import numpy as np
import pytest

import fieldprob as fp
from fieldprob.kernels import Spectrum, spectra
from fieldprob.kernels.spectra.base import Quadrature
from fieldprob.theory import learning_curves


def mean_and_error(samples):
    return samples.mean("dataset").values, samples.std("dataset").values / np.sqrt(samples.sizes["dataset"])


def gaussian_features(ridge, points, datasets, modes):
    spectrum = spectra.power_law(1.3, modes=modes)
    target = np.sqrt(np.asarray(spectrum.eigenvalues)) * np.random.default_rng(0).normal(size=modes)
    spectrum = spectrum.with_target(coefficients=target)
    population = fp.tasks.Population(points, ridge, 0.05)
    samples = fp.infer.data_average(spectrum, population, datasets=datasets, seed=3, progress=False)["posterior"]
    return samples, learning_curves.renormalised_ridge(spectrum, population).mean


@pytest.mark.slow
@pytest.mark.parametrize(
    "ridge", [pytest.param(0.001, marks=pytest.mark.slow), 0.1, pytest.param(1.0, marks=pytest.mark.slow)]
)
def test_the_renormalised_ridge_is_right_for_gaussian_features(ridge):
    """Within 1 % (corrections of order 1/P) and 6 standard errors; chance below 1e-7."""
    samples, predicted = gaussian_features(ridge, (80,), 400, 200)
    for name in ("noisy_test_error", "train_error", "posterior_variance"):
        mean, error = mean_and_error(samples[name])
        assert abs(mean[0] - predicted[name][0]) < 0.01 * mean[0] + 6 * error[0], name
    mean, error = mean_and_error(samples["learnability"][:, 0])
    assert np.all(np.abs(mean - predicted["learnability"][0, :10]) < 0.006 + 6 * error)


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [0.001, 0.1, 1.0])
@pytest.mark.long
def test_learning_curves_of_gaussian_features_hold_from_ten_to_three_hundred_points(ridge):
    """E within 0.5 %, V within 0.3 %, train error within 0.7 % from 80 points on; 6 standard errors, chance 1e-7."""
    samples, predicted = gaussian_features(ridge, (10, 30, 80, 300), 3000, 400)
    within = {"noisy_test_error": 0.005, "posterior_variance": 0.003, "train_error": 0.007}
    for name, relative in within.items():
        mean, error = mean_and_error(samples[name])
        allowed = relative * np.array([8, 3, 1, 1]) * mean + 6 * error  # the corrections are of order 1/P
        assert np.all(np.abs(mean - predicted[name]) < allowed), name


# ------------------------------------------------------------------------------------------------ the first correction


def cosines(X):
    return jnp.sqrt(2) * jnp.cos(jnp.pi * X * jnp.arange(1, 13))


@pytest.fixture(scope="module")
def interval():
    """Twelve cosine modes on [0, 1], λ_k = k^-1.5: v(x, x) is not constant, so that modes mix."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    target = np.zeros(12)
    target[[0, 1, 4]] = 1.0, -0.5, 0.7
    return Spectrum(
        np.arange(1, 13.0) ** -1.5, coefficients=target, labels=range(1, 13), eigenfunctions=cosines,
        quadrature=Quadrature(jnp.asarray((nodes[:, None] + 1) / 2), jnp.asarray(weights / 2)),
    )  # fmt: skip


def first_mode(interval, ridge, noise, datasets, poisson, seed=0):
    """Sampled coefficient of the first mode with its error, and what the two theories say."""
    population = fp.tasks.Population(
        30, ridge, noise, measure=fp.tasks.Interval(0.0, 1.0), target=lambda X: cosines(X) @ interval.coefficients,
        poisson=poisson,
    )  # fmt: skip
    samples = fp.infer.data_average(
        interval, population, datasets=datasets, test_points=1, modes=12, seed=seed, progress=False
    )["posterior"]["predictor"]
    mean, error = mean_and_error(samples[:, 0])
    theories = learning_curves.equivalent_kernel, learning_curves.equivalent_kernel_corrected
    kernel, corrected = (np.asarray(theory(interval, population).mean["predictor"][0]) for theory in theories)
    return mean, error, kernel, corrected


@pytest.mark.slow
@pytest.mark.parametrize("poisson", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_first_correction_accounts_for_what_the_equivalent_kernel_misses(interval, poisson):
    """X4: mode 1 is missed by −0.0236 (fixed) and −0.0287 (Poisson); what is left is of second order. 6 s.e.: 1e-7."""
    mean, error, kernel, corrected = first_mode(interval, 8.0, 0.5, 60_000 if poisson else 20_000, poisson)
    assert abs((mean - kernel)[0] - (-0.0287 if poisson else -0.0236)) < 6 * np.hypot(error[0], 0.0006)
    assert np.all(np.abs(mean - corrected) < 0.0025 + 6 * error)
    assert abs((mean - kernel)[0]) > 12 * error[0]


@pytest.mark.slow
@pytest.mark.long
def test_what_the_first_correction_leaves_falls_as_the_square_of_variance_over_ridge(interval):
    """X4 without label noise, 2.4e5 data sets a ridge: residuals relative to the equivalent kernel's coefficient,
    −.0036, −.0014, −.0001, .0002 (± .00015) against −.030, −.030, −.028, −.023. 6 s.e. and the printed digits."""
    for ridge, left, missed in (
        (4.0, -0.0036, -0.030),
        (8.0, -0.0014, -0.030),
        (16.0, -0.0001, -0.028),
        (32.0, 0.0002, -0.023),
    ):
        mean, error, kernel, corrected = first_mode(interval, ridge, 0.0, 240_000, False, seed=1)
        allowed = 6 * np.hypot(error[0] / kernel[0], 0.00015)
        assert abs((mean - corrected)[0] / kernel[0] - left) < allowed + 0.00005, ridge
        assert abs((mean - kernel)[0] / kernel[0] - missed) < allowed + 0.0005, ridge


# -------------------------------------------------------------------------------------------------- where it fails


def circle(datasets, ridge):
    """λ_n = 1/n², frequencies 1..100, both phases; mode 5's learnability at 40 points on the circle and as Gaussian."""
    n = np.arange(1, 101)
    eigenvalues = np.repeat(1 / n**2.0, 2)

    def waves(X):
        angle = X * n
        return jnp.sqrt(2) * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1).reshape(X.shape[0], -1)

    spectrum = Spectrum(eigenvalues, coefficients=np.zeros(200), eigenfunctions=waves)
    found = []
    for measure in (fp.tasks.Circle(), None):
        more = {} if measure is None else {"measure": measure, "target": lambda X: 0 * X[:, 0]}
        population = fp.tasks.Population(40, ridge, 0.0, **more)
        samples = fp.infer.data_average(
            spectrum, population, datasets=datasets, test_points=1, modes=10, progress=False
        )["posterior"]["learnability"]
        found.append(mean_and_error(samples[:, 0, 8:].mean("mode")))
    predicted = learning_curves.renormalised_ridge(spectrum, fp.tasks.Population(40, ridge)).mean
    return *found, float(predicted["effective_ridge"][0]), float(predicted["learnability"][0, 8])


def test_on_the_circle_the_renormalised_ridge_fails_at_small_noise_and_gaussian_features_do_not():
    """3C, item 3: theory 0.891, Gaussian 0.887, circle 0.820 at κ² = 0.001. 6 s.e. and three digits: chance 1e-7."""
    (ring, ring_error), (gauss, gauss_error), ridge, theory = circle(400, 0.001)
    assert abs(ridge - 0.197) < 5e-4 and abs(theory - 0.891) < 1e-3
    assert abs(gauss - 0.887) < 6 * np.sqrt(2) * gauss_error + 5e-4
    assert abs(ring - 0.820) < 6 * np.sqrt(2) * ring_error + 5e-4
    assert theory - ring > 0.03 and abs(theory - gauss) < 0.01


@pytest.mark.slow
def test_on_the_circle_a_large_noise_makes_the_renormalised_ridge_right_again():
    """theory 0.506, Gaussian 0.500, circle 0.496 at κ² = 1."""
    (ring, ring_error), (gauss, gauss_error), _, theory = circle(400, 1.0)
    assert abs(theory - 0.506) < 1e-3
    assert abs(gauss - 0.500) < 6 * np.sqrt(2) * gauss_error + 5e-4
    assert abs(ring - 0.496) < 6 * np.sqrt(2) * ring_error + 5e-4


@pytest.mark.slow
@pytest.mark.long
def test_the_erf_kernel_on_the_sphere_learns_as_the_renormalised_ridge_says():
    """X5 on S⁹, κ² = 0.01: noisy test error .680, .408, .211, .0972 predicted at 20, 60, 200 and 500 points.

    The samples within 6 % at 20 and 60 points, where the closure is rough, and 2 % above; 6 s.e., chance 1e-7.
    """
    d = 10
    net = fp.Mlp(width=1, weight_variance=1.5, readout_variance=1.0)

    def target(X):
        t = X[:, 0] / np.sqrt(d)
        return np.sqrt(d) * t + 0.6 * np.sqrt(spectra.degeneracy(d, 3)) * ((d + 2) * t**3 - 3 * t) / (d - 1)

    spectrum = spectra.sphere(net, d, radius=np.sqrt(d), modes=12).with_target(target)
    population = fp.tasks.Population((20, 60, 200, 500), 0.01, 0.05, measure=fp.tasks.Sphere(d), target=target)
    predicted = learning_curves.renormalised_ridge(spectrum, population).mean
    np.testing.assert_allclose(predicted["noisy_test_error"], [0.680, 0.408, 0.211, 0.0972], atol=5e-4)
    samples = fp.infer.data_average(net, population, datasets=300, spectrum=spectrum, progress=False)["posterior"]
    for name, relative in (("noisy_test_error", [0.06, 0.06, 0.02, 0.02]), ("posterior_variance", [0.01] * 4)):
        mean, error = mean_and_error(samples[name])
        assert np.all(np.abs(mean - predicted[name]) < np.array(relative) * mean + 6 * error), name
