"""Mercer spectra: reference numbers, sum rules, orthonormality, reconstruction of the kernel, and samples."""

from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tinygp
from scipy.special import eval_gegenbauer, gamma, iv, ive, zeta

import fieldprob as fp
from fieldprob import kernels
from fieldprob.kernels import Spectrum, spectra

D = 10


def arcsin(q):
    """The erf kernel on the unit sphere, q = weight_variance |x|^2 / inputs."""
    c = 2 * q / (1 + 2 * q)
    return lambda t: 2 / jnp.pi * jnp.arcsin(c * t)


def relu(t):
    return (jnp.sqrt(jnp.maximum(1 - t**2, 0)) + (jnp.pi - jnp.arccos(jnp.clip(t, -1, 1))) * t) / (2 * jnp.pi)


@pytest.fixture(scope="module")
def erf_sphere():
    return spectra.sphere(arcsin(1.0), D)


# --- the sphere -------------------------------------------------------------------------------------------------------


def test_erf_kernel_on_the_sphere_has_the_printed_eigenvalues(erf_sphere):
    np.testing.assert_allclose(erf_sphere.eigenvalues[1], 0.043291111649834, rtol=1e-13)
    np.testing.assert_allclose(erf_sphere.eigenvalues[3], 1.28976651426532e-4, rtol=1e-11)
    assert np.all(erf_sphere.eigenvalues[::2] == 0), "the kernel is odd"


@pytest.mark.parametrize("d", [3, 4, 5, 10, 784])
def test_degeneracies_count_the_polynomials(d):
    """Polynomials of degree l restricted to the sphere: binom(l+d-1, l) + binom(l+d-2, l-1) in number."""
    counts = [spectra.degeneracy(d, degree) for degree in range(6)]
    polynomials = [comb(n + d - 1, n) + (comb(n + d - 2, n - 1) if n else 0) for n in range(6)]
    np.testing.assert_allclose(np.cumsum(counts), polynomials)


@pytest.mark.parametrize("d", [3, 5, 10])
def test_eigenvalues_sum_to_the_kernel_at_coincidence(d):
    for kernel in (arcsin(1.0), relu, lambda t: jnp.exp(3 * (t - 1))):
        spectrum = spectra.sphere(kernel, d, nodes=800)
        np.testing.assert_allclose(spectrum.trace, kernel(1.0), rtol=1e-12)
    assert spectrum.tail < 1e-9


@pytest.mark.parametrize("d", [3, 5, 10])
def test_quadrature_and_series_agree(d):
    modes = 8
    series = {
        arcsin(1.0): spectra.sphere_series(spectra.erf_series(2 / 3, 200), d, modes=modes),
        relu: spectra.sphere_series(spectra.relu_series(4000), d, modes=modes, constant=0.5),
        (lambda t: jnp.exp(3 * (t - 1))): spectra.sphere_series(
            spectra.exponential_series(3.0, 60, log_prefactor=-3.0), d, modes=modes
        ),
    }
    for (kernel, summed), tolerance in zip(series.items(), (1e-10, 2e-6, 1e-10), strict=True):
        spectrum = spectra.sphere(kernel, d, modes=modes, nodes=2000)
        np.testing.assert_allclose(spectrum.weights, summed.weights, rtol=tolerance, atol=1e-14)


def test_exponential_kernel_has_bessel_functions_as_eigenvalues():
    d, s = 7, 2.5
    expected = gamma(d / 2) * (2 / s) ** (d / 2 - 1) * iv(np.arange(12) + d / 2 - 1, s)
    spectrum = spectra.sphere_series(spectra.exponential_series(s, 80), d, modes=12)
    np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=1e-12)
    quadrature = spectra.sphere(lambda t: jnp.exp(s * t), d, modes=12)
    np.testing.assert_allclose(quadrature.eigenvalues, expected, rtol=1e-8, atol=1e-15)


def test_series_and_quadrature_are_stable_in_784_dimensions():
    """Where Gamma and Bessel functions overflow: d lambda_1 of a kernel a_1 t + a_3 t^3 + ... is about a_1."""
    d, q = 784, 1.0
    summed = spectra.sphere_series(spectra.erf_series(2 / 3, 400), d, modes=40, constant=2 / np.pi * np.arcsin(2 / 3))
    quadrature = spectra.sphere(arcsin(q), d)
    assert 4 <= quadrature.modes < 40
    n = quadrature.modes
    np.testing.assert_allclose(quadrature.weights, summed.weights[:n], atol=1e-9)
    np.testing.assert_allclose(quadrature.weights[1], summed.weights[1], rtol=1e-12)
    np.testing.assert_allclose(quadrature.trace, summed.trace, rtol=1e-11)
    # to first order in 1/d: t^3 = (3/(d+2)) t + ...
    a = np.exp(np.asarray(spectra.erf_series(2 / 3, 8)))
    leading = a[1] + 3 * a[3] / (d + 2) + 15 * a[5] / ((d + 2) * (d + 4))
    np.testing.assert_allclose(summed.weights[1], leading, rtol=1e-6)


def test_zonal_eigenfunctions_are_orthonormal_gegenbauer_polynomials(erf_sphere):
    nodes, weights = erf_sphere.quadrature
    phi = erf_sphere.eigenfunctions(nodes)
    np.testing.assert_allclose((phi * weights[:, None]).T @ phi, np.eye(erf_sphere.modes), atol=1e-10)
    t = np.asarray(nodes[:, 0])
    scale = [spectra.degeneracy(D, n) ** 0.5 for n in range(7)]
    expected = [eval_gegenbauer(n, 4.0, t) / eval_gegenbauer(n, 4.0, 1.0) * scale[n] for n in range(7)]
    np.testing.assert_allclose(phi[:, :7], np.transpose(expected), rtol=1e-9, atol=1e-9)


def test_addition_theorem_rebuilds_the_kernel(erf_sphere):
    """k(u.x) = sum of lambda_l sqrt(N(d, l)) p_l(u.x)."""
    X = np.random.default_rng(0).normal(size=(20, D))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    phi = erf_sphere.eigenfunctions(jnp.asarray(X))
    rebuilt = phi @ (erf_sphere.eigenvalues * jnp.sqrt(erf_sphere.degeneracies))
    np.testing.assert_allclose(rebuilt, arcsin(1.0)(X[:, 0]), atol=1e-8)


def test_a_network_and_a_covariance_have_the_spectrum_of_their_angle_kernel(erf_sphere):
    radius = D**0.5
    net = fp.Mlp(width=9, activation="erf")
    network = spectra.sphere(net, D, radius=radius)
    covariance = spectra.sphere(net.limit, D, radius=radius)
    for other in (network, covariance):
        np.testing.assert_allclose(other.eigenvalues, erf_sphere.eigenvalues, atol=1e-16)


def test_monte_carlo_eigenvalue_of_a_deep_network():
    """E k(x, x') p_l(x) p_l(x') = lambda_l: 2000 x 2000 pairs, threshold 6 standard errors."""
    net = fp.Mlp(width=9, depth=3, activation="relu", weight_variance=2.0, bias_variance=0.1)
    radius = 5**0.5
    spectrum = spectra.sphere(net, 5, radius=radius, modes=4)
    rng = np.random.default_rng(1)
    X = rng.normal(size=(20, 500, 5))
    X *= radius / np.linalg.norm(X, axis=-1, keepdims=True)
    estimates = []
    for block in X:
        phi = np.asarray(spectrum.eigenfunctions(jnp.asarray(block)))
        K = np.array(net.limit(jnp.asarray(block)))
        np.fill_diagonal(K, 0)
        estimates.append(np.einsum("ik,ij,jk->k", phi, K, phi) / (500 * 499))
    estimates = np.array(estimates)
    error = estimates.std(axis=0, ddof=1) / np.sqrt(20)
    # 20 blocks: Student's t with 19 degrees of freedom, 8 standard errors have a false-alarm rate below 2e-7
    assert np.all(np.abs(estimates.mean(axis=0) - spectrum.eigenvalues) < 8 * error)
    assert np.all(error < 0.15 * np.asarray(spectrum.eigenvalues[:2]).min())


def test_coefficients_of_a_single_index_target_along_any_direction():
    direction = np.random.default_rng(2).normal(size=D)
    spectrum = spectra.sphere(arcsin(1.0), D, radius=None, direction=direction)
    u = direction / np.linalg.norm(direction)

    def target(X):
        t = X @ u
        return D**0.5 * t + 0.6 * 210**0.5 * (12 * t**3 - 3 * t) / 9

    expected = np.zeros(spectrum.modes)
    expected[[1, 3]] = 1, 0.6
    with_target = spectrum.with_target(target)
    np.testing.assert_allclose(with_target.coefficients, expected, atol=1e-12)
    assert with_target.target_tail < 1e-12
    rough = spectrum.with_target(lambda X: jnp.sign(X @ u))
    np.testing.assert_allclose(rough.target_power, 1.0, rtol=1e-12)
    assert rough.target_tail > 1e-4
    with pytest.raises(ValueError, match="not a function of direction"):
        spectrum.with_target(lambda X: X[:, 0])


def test_coefficients_from_data_converge():
    """5 standard errors of an average over 20000 points."""
    spectrum = spectra.sphere(arcsin(1.0), D, modes=4)
    X = np.random.default_rng(3).normal(size=(20000, D))
    X = jnp.asarray(X / np.linalg.norm(X, axis=1, keepdims=True))
    y = 2 * D**0.5 * X[:, 0]
    found = spectrum.with_target(data=(X, y)).coefficients
    error = np.std(np.asarray(y[:, None] * spectrum.eigenfunctions(X)), axis=0) / 20000**0.5
    assert np.all(np.abs(found - jnp.array([0, 2.0, 0, 0])) < 5 * error)


def test_eigenvalues_are_differentiable_in_the_network():
    def largest(variance):
        return spectra.sphere(fp.Mlp(9, 2, weight_variance=variance), 6, radius=6**0.5, modes=4, nodes=60).eigenvalues[
            1
        ]

    step = 1e-5
    difference = (largest(1.3 + step) - largest(1.3 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(largest)(1.3), difference, rtol=1e-8)


def test_float32_kernels_have_spectra_too():
    kernel = lambda t: jnp.exp(jnp.asarray(t, jnp.float32) - 1)  # noqa: E731
    spectrum = spectra.sphere(kernel, D, modes=3)
    assert spectrum.eigenvalues.dtype == jnp.float32
    double = spectra.sphere(lambda t: jnp.exp(t - 1), D, modes=3)
    np.testing.assert_allclose(spectrum.eigenvalues, double.eigenvalues, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectra.sphere(arcsin(1.0), 2), "inputs = 2.*circle"),
        (lambda: spectra.sphere(fp.Mlp(9), 5), "radius"),
        (lambda: spectra.sphere(fp.Mlp(9), 5, radius=-1.0), "radius = -1.0 must be positive"),
        (lambda: spectra.sphere(lambda t: 1.0, 5), "without radius"),
        (lambda: spectra.sphere(lambda t: -t, 5), "not positive semi-definite: eigenvalue 1"),
        (lambda: spectra.sphere(lambda X, Y: X[:, :1] * Y[:, 0], 5, radius=1.0), "not rotation invariant"),
        (lambda: spectra.sphere(lambda t: jnp.exp(3e4 * (t - 1)), 5), "nodes = 400 are too few"),
        (lambda: spectra.sphere(arcsin(1.0), 784, modes=30), "modes = 30 in 784 dimensions.*tail"),
        (lambda: spectra.sphere(arcsin(1.0), 5, modes=30, nodes=40), "nodes = 40 for 30 modes"),
        (lambda: spectra.sphere(arcsin(1.0), 5, direction=np.ones(4)), "direction has shape"),
        (lambda: spectra.sphere(arcsin(1.0), 5).eigenfunctions(jnp.ones((2, 4))), r"points are \(points, 5\)"),
        (lambda: spectra.circle(lambda a: jnp.sin(a)), "not even"),
        (lambda: spectra.circle(lambda a: -jnp.cos(a)), "not positive semi-definite"),
        (lambda: spectra.circle(fp.Mlp(9)), "radius"),
        (lambda: spectra.ring(jnp.array([1.0, 2.0, 0.0])), "not even"),
        (lambda: spectra.rbf_gaussian(length=-1.0), "length = -1.0"),
        (lambda: spectra.rbf_gaussian(length=0.1, modes=600, nodes=64), "Give more nodes"),
        (lambda: spectra.power_law(1.0, modes=10, infinite=True), "diverges"),
        (lambda: spectra.power_law(2.0, modes=0), "modes = 0"),
        (lambda: spectra.empirical(jnp.ones((2, 3))), r"shape \(2, 3\)"),
        (lambda: spectra.empirical(jnp.array([[1.0, 2.0], [2.0, 1.0]])), "not positive semi-definite"),
        (lambda: spectra.empirical(jnp.array([[1.0, 0.2], [0.0, 1.0]])), "not symmetric"),
        (lambda: spectra.sampling_bias(Spectrum([1.0, 0.5], [1, 2]), 10), "eigenvalue 1 is degenerate"),
        (lambda: spectra.sampling_bias(Spectrum([1.0, 1.0]), 10), "eigenvalue 0 is degenerate"),
        (lambda: Spectrum([1.0, -1.0]), r"eigenvalues\[1\] = -1"),
        (lambda: Spectrum([1.0, jnp.nan]), "finite"),
        (lambda: Spectrum([[1.0]]), "shape"),
        (lambda: Spectrum([1.0], [1, 2]), "degeneracies has 2 entries"),
        (lambda: Spectrum([1.0], [0]), r"degeneracies\[0\] = 0"),
        (lambda: Spectrum([1.0], tail=-1.0), "tail = -1"),
        (lambda: Spectrum([1.0], labels=[1, 2]), "labels has 2"),
        (lambda: Spectrum([1.0]).target_power, "no target"),
        (lambda: Spectrum([1.0]).with_target(lambda x: x), "no eigenfunctions"),
        (lambda: Spectrum([1.0]).with_target(), "give one of them"),
        (lambda: Spectrum([1.0], eigenfunctions=jnp.ones_like).with_target(lambda x: x), "no quadrature"),
        (lambda: spectra.interval(jnp.ones(2)).with_target(lambda x: jnp.ones(3)), "one number per input"),
    ],
)
def test_bad_input_is_named_with_its_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- circle, ring, interval -------------------------------------------------------------------------------------------


def test_circle_has_bessel_eigenvalues_twice():
    spectrum = spectra.circle(lambda angle: jnp.exp(2 * jnp.cos(angle)), modes=20)
    np.testing.assert_allclose(spectrum.eigenvalues, ive(np.arange(20), 2.0) * np.exp(2), atol=1e-15 * np.exp(2))
    assert spectrum.degeneracies.tolist() == [1.0] + [2.0] * 19
    np.testing.assert_allclose(spectrum.trace, np.exp(2), rtol=1e-14)


def test_ring_has_the_eigenvalues_and_vectors_of_its_matrix():
    for sites in (9, 12):
        distance = np.minimum(np.arange(sites), sites - np.arange(sites))
        row = np.exp(-0.7 * distance)
        K = row[(np.arange(sites)[:, None] - np.arange(sites)) % sites]
        spectrum = spectra.ring(row)
        every = np.repeat(np.asarray(spectrum.eigenvalues), np.asarray(spectrum.degeneracies, int))
        np.testing.assert_allclose(np.sort(every), np.linalg.eigvalsh(K / sites), rtol=1e-12)
        phi = spectrum.eigenfunctions(spectrum.quadrature.nodes)
        np.testing.assert_allclose(phi.T @ phi / sites, np.eye(spectrum.modes), atol=1e-12)
        np.testing.assert_allclose(K @ phi / sites, phi * spectrum.eigenvalues, atol=1e-12)


def test_circle_turns_each_pair_of_modes_along_the_target():
    def target(X):
        return 1 - jnp.cos(X[:, 0]) + 2 * jnp.cos(3 * X[:, 0] - 0.4)

    spectrum = spectra.circle(jnp.ones(6)).with_target(target)
    np.testing.assert_allclose(spectrum.coefficients, [1, 0.5**0.5, 0, 2**0.5, 0, 0], atol=1e-12)
    angles = jnp.linspace(0, 6, 7)[:, None]
    np.testing.assert_allclose(spectrum.eigenfunctions(angles) @ spectrum.coefficients, target(angles), atol=1e-12)
    assert spectrum.target_tail < 1e-12


def test_network_on_the_circle_of_the_plane():
    net = fp.Mlp(9, activation="erf")
    spectrum = spectra.circle(net, radius=2**0.5, modes=8)
    c = 2 / 3
    direct = spectra.circle(lambda angle: 2 / jnp.pi * jnp.arcsin(c * jnp.cos(angle)), modes=8)
    np.testing.assert_allclose(spectrum.eigenvalues, direct.eigenvalues, atol=1e-15)
    X = spectrum.quadrature.nodes
    K = net.limit(X[:1], X)[0]
    phi = spectrum.eigenfunctions(X)
    np.testing.assert_allclose((spectrum.quadrature.weights * K) @ phi, spectrum.eigenvalues * phi[0], atol=1e-13)


def test_interval_modes_are_orthonormal_up_to_products_of_four():
    spectrum = spectra.interval(jnp.arange(1.0, 13) ** -1.5)
    nodes, weights = spectrum.quadrature
    phi = np.asarray(spectrum.eigenfunctions(nodes))
    np.testing.assert_allclose((phi * weights[:, None]).T @ phi, np.eye(12), atol=1e-13)
    np.testing.assert_allclose(weights @ phi[:, 3] ** 4, 1.5, rtol=1e-12)


# --- Gaussian kernel --------------------------------------------------------------------------------------------------


def test_hermite_functions_rebuild_the_gaussian_kernel_and_are_orthonormal():
    spectrum = spectra.rbf_gaussian(0.7, 1.3, modes=60)
    nodes, weights = spectrum.quadrature
    phi = spectrum.eigenfunctions(nodes)
    np.testing.assert_allclose((phi * weights[:, None]).T @ phi, np.eye(60), atol=1e-10)
    np.testing.assert_allclose(spectrum.trace, 1.0, rtol=1e-15)
    assert spectrum.tail < 1e-12
    x = jnp.linspace(-1, 1, 9)[:, None]
    phi = spectrum.eigenfunctions(x)
    np.testing.assert_allclose((phi * spectrum.eigenvalues) @ phi.T, np.exp(-((x - x.T) ** 2) / (2 * 0.49)), atol=1e-12)


def test_gaussian_kernel_in_two_dimensions_is_a_product():
    spectrum = spectra.rbf_gaussian([0.7, 1.5], [1.3, 0.6], inputs=2, modes=40)
    x = np.random.default_rng(0).normal(size=(6, 2)) * 0.5
    phi = spectrum.eigenfunctions(jnp.asarray(x))
    squared = (((x[:, None] - x) / np.array([0.7, 1.5])) ** 2).sum(-1)
    np.testing.assert_allclose((phi * spectrum.eigenvalues) @ phi.T, np.exp(-squared / 2), atol=1e-7)
    assert spectrum.labels[:3] == ((0, 0), (0, 1), (1, 0))
    nodes, weights = spectrum.quadrature
    small = spectrum.eigenfunctions(nodes)[:, :15]
    np.testing.assert_allclose((small * weights[:, None]).T @ small, np.eye(15), atol=1e-10)


def test_coefficients_on_the_line():
    spectrum = spectra.rbf_gaussian(0.7, 1.3, modes=60)
    exact = spectrum.with_target(lambda X: 2 * spectrum.eigenfunctions(X)[:, 5])
    np.testing.assert_allclose(exact.coefficients, 2 * np.eye(60)[5], atol=1e-12)
    np.testing.assert_allclose(spectrum.with_target(lambda X: X[:, 0]).target_power, 1.3, rtol=1e-10)


# --- power laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [1.0, 1.3, 2.5])
def test_grouped_power_law_has_the_sums_of_the_full_one(exponent):
    modes = 200_000
    k = np.arange(1.0, modes + 1)
    spectrum = spectra.power_law(exponent, modes=modes, target_exponent=1.7)
    assert spectrum.modes < 1500
    assert spectrum.degeneracies.sum() == modes
    np.testing.assert_allclose(spectrum.trace, (k**-exponent).sum(), rtol=1e-12)
    np.testing.assert_allclose(spectrum.target_power, (k**-1.7).sum(), rtol=1e-12)
    m = modes**-exponent * 1e3
    grouped = (spectrum.degeneracies / (1 + m / spectrum.eigenvalues)).sum()
    np.testing.assert_allclose(grouped, (1 / (1 + m * k**exponent)).sum(), rtol=3e-5)


def test_infinite_power_law_has_the_trace_of_zeta():
    for exponent in (1.2, 2.0, 3.5):
        for modes in (3, 5000):
            spectrum = spectra.power_law(exponent, modes=modes, infinite=True)
            np.testing.assert_allclose(spectrum.trace, zeta(exponent), rtol=1e-11)
    # with respect to the exponent: -sum of log k / k^2
    slope = jax.grad(lambda a: spectra.power_law(a, modes=10, infinite=True).trace)(2.0)
    np.testing.assert_allclose(slope, -0.9375482543158437, rtol=1e-10)


# --- spectra of samples -----------------------------------------------------------------------------------------------


def test_nystrom_functions_are_the_eigenvectors_on_the_sample_and_extend_beyond():
    X = jnp.asarray(np.random.default_rng(0).normal(size=(40, 3)))
    net = fp.Mlp(9)
    y = X[:, 0] * 2
    spectrum = spectra.empirical(net, X, y=y)
    phi = spectrum.eigenfunctions(X)
    np.testing.assert_allclose(phi.T @ phi / 40, np.eye(40), atol=1e-7)
    np.testing.assert_allclose((phi * spectrum.eigenvalues) @ phi.T, net.limit(X), atol=1e-10)
    np.testing.assert_allclose(phi @ spectrum.coefficients, y, atol=1e-8)
    np.testing.assert_allclose(spectrum.with_target(data=(X, y)).coefficients, spectrum.coefficients, atol=1e-8)
    other = X[:5] + 0.1
    extended = spectrum.eigenfunctions(other)[:, :3]
    np.testing.assert_allclose(net.limit(other, X) @ phi[:, :3] / 40, extended * spectrum.eigenvalues[:3], rtol=1e-9)
    short = spectra.empirical(net.limit, X, y=y, modes=5)
    np.testing.assert_allclose(short.trace, spectrum.trace, rtol=1e-12)
    np.testing.assert_allclose(short.target_power, jnp.mean(y**2), rtol=1e-12)


def sample_eigenvalues(features, eigenvalues, sizes, draws, top=4):
    rng = np.random.default_rng(7)
    found = []
    for P in sizes:
        values = []
        for _ in range(draws):
            phi = features(rng, P, len(eigenvalues)) * np.sqrt(eigenvalues)
            gram = phi.T @ phi / P if len(eigenvalues) < P else phi @ phi.T / P
            values.append(np.linalg.eigvalsh(gram)[::-1][:top])
        found.append(np.array(values))
    return found


def gaussian_features(rng, P, modes):
    return rng.normal(size=(P, modes))


def cosine_features(rng, P, modes):
    return np.sqrt(2) * np.cos(np.pi * np.arange(1, modes + 1) * rng.uniform(size=(P, 1)))


EIGENVALUES = 0.5 ** np.arange(12)


@pytest.mark.parametrize("kind", ["gaussian", "cosine"])
def test_sample_eigenvalues_shift_as_one_over_points_and_scatter_as_its_root(kind):
    """200 and 3200 points, 600 draws: within 5 standard errors and the next order of the expansion."""
    gaussian = kind == "gaussian"
    spectrum = Spectrum(EIGENVALUES) if gaussian else spectra.interval(jnp.asarray(EIGENVALUES))
    sizes = (200, 3200)
    features = gaussian_features if gaussian else cosine_features
    for P, values in zip(sizes, sample_eigenvalues(features, EIGENVALUES, sizes, 600), strict=True):
        bias, sd = spectra.sampling_bias(spectrum, P, modes=4)
        error = values.std(axis=0) / np.sqrt(len(values))
        shift = values.mean(axis=0) - EIGENVALUES[:4]
        assert np.all(np.abs(shift - bias) < 5 * error + 0.02 * 200 / P * np.abs(bias) + 4 * (200 / P) ** 2 * bias**2)
        np.testing.assert_allclose(values.std(axis=0), sd, rtol=5 / np.sqrt(2 * 600) + 6 / P)
    # at P = 200 the shift is seen
    assert abs(spectra.sampling_bias(spectrum, 200, modes=4).bias[0]) > 0


def test_correction_by_the_sample_itself_removes_the_bias():
    """The largest eigenvalue of 200 points, corrected from its own spectrum: bias falls by a factor 5 at least."""
    rng = np.random.default_rng(5)
    P, raw, corrected = 60, [], []
    bias = jax.jit(lambda s: spectra.sampling_bias(s, P, modes=1).bias)
    for _ in range(400):
        phi = rng.normal(size=(P, 12)) * np.sqrt(EIGENVALUES)
        spectrum = spectra.empirical(jnp.asarray(phi @ phi.T), modes=12)
        raw.append(spectrum.eigenvalues[0])
        corrected.append(spectrum.eigenvalues[0] - bias(spectrum)[0])
    error = np.std(corrected) / 20
    assert np.mean(raw) - 1 > 0.4 * float(spectra.sampling_bias(Spectrum(EIGENVALUES), P).bias[0])
    assert abs(np.mean(corrected) - 1) < 5 * error


def test_eigenvalues_of_a_real_kernel_on_the_sphere_rise_by_the_tail():
    """The erf kernel on S^9: the sum of the sample's eigenvalues has no bias, and the ten of degree one move up."""
    spectrum = spectra.sphere(arcsin(1.0), D)
    rng = np.random.default_rng(11)
    X = rng.normal(size=(400, D))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    sample = spectra.empirical(arcsin(1.0)(jnp.asarray(X @ X.T).clip(-1, 1)))
    np.testing.assert_allclose(sample.trace, spectrum.trace, rtol=1e-12)
    first = float(sample.eigenvalues[:10].mean())
    rest = float(spectrum.trace - spectrum.weights[1])
    # mean of the ten: lambda + tail / P, to a few percent of the shift's own size
    np.testing.assert_allclose(first, spectrum.eigenvalues[1] + rest / 400, rtol=0.02)


def test_a_spectrum_is_a_pytree_and_prints_itself():
    spectrum = spectra.interval(jnp.arange(1.0, 5) ** -2.0)
    doubled = jax.jit(lambda s: jax.tree.map(lambda a: 2 * a, s))(spectrum)
    np.testing.assert_allclose(doubled.eigenvalues, 2 * spectrum.eigenvalues)
    assert "traced" in str(jax.eval_shape(lambda s: s, spectrum))
    assert repr(spectrum).startswith("spectrum on the interval: 4 eigenspaces, eigenvalues 0.0625 to 1, trace 1.424")


# --- arguments that cannot be right -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [lambda X: X[:, 1] ** 2, lambda X: jnp.abs(X[:, 1])], ids=["square", "abs"])
def test_a_target_that_is_even_across_the_axis_is_no_function_of_it(target):
    with pytest.raises(ValueError, match="not a function of direction"):
        spectra.sphere(jnp.exp, inputs=3, modes=6).with_target(target)


@pytest.mark.parametrize("length", [[1.0, 0.1], [0.1, 1.0]])
def test_a_quadrature_too_coarse_along_any_input_is_refused(length):
    with pytest.raises(ValueError, match="nodes: the quadrature normalises"):
        spectra.rbf_gaussian(length, inputs=2, modes=16, nodes=96)
    fine = spectra.rbf_gaussian(length, inputs=2, modes=16)  # as many nodes as the highest mode needs
    phi = fine.eigenfunctions(fine.quadrature.nodes)
    np.testing.assert_allclose(phi.T @ (fine.quadrature.weights[:, None] * phi), np.eye(fine.modes), atol=1e-9)


@pytest.mark.parametrize("kernel", [kernels.Network(["erf"], [1, 1], [0, 0]), tinygp.kernels.ExpSquared(1.0)])
def test_kernels_of_tinygp_have_an_empirical_spectrum(kernel):
    X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    expected = np.linalg.eigvalsh(kernel(X, X))[::-1] / 5
    np.testing.assert_allclose(spectra.empirical(kernel, X).eigenvalues, expected, atol=1e-14)


def test_a_series_without_even_terms_is_differentiable():
    def value(c):
        return spectra.sphere_series(spectra.series.erf_series(c, 60), 5, modes=4).eigenvalues[1]

    numeric = (value(0.6 + 1e-6) - value(0.6 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(value)(0.6), numeric, rtol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectra.interval(jnp.ones(10), nodes=4), "nodes = 4"),
        (lambda: spectra.interval(jnp.ones(5), first=-2), "first = -2"),
        (lambda: spectra.circle(lambda th: jnp.exp(50 * (jnp.cos(th) - 1)), modes=8, nodes=16), "too few"),
        (lambda: spectra.power_law(2.0, modes=3.5), "whole number"),
        (lambda: spectra.sphere_series(spectra.series.relu_series(400), 5, modes=5, constant=0.1), "sum to"),
        (lambda: spectra.sphere_series(jnp.zeros(3), 5, modes=0), "modes = 0"),
        (lambda: spectra.sampling_bias(kernels.Spectrum([1.0, 0.5]), points=0), "points = 0"),
        (lambda: spectra.sampling_bias(kernels.Spectrum([1.0, 1 - 1e-12]), points=9), "degenerate"),
        (lambda: spectra.ring(jnp.ones(1)), "at least 2 sites"),
        (lambda: spectra.sphere(jnp.exp, inputs=3, direction=jnp.zeros(3)), "points somewhere"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_right_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
