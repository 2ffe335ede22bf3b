"""The tilted measure of one neuron: quadrature, importance samples and particles against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import fieldprob as fp
from fieldprob.theory import neuron_sets, tilted
from fieldprob.theory.adaptation.theory import neuron_and_data
from fieldprob.theory.setting import setting

RNG = np.random.default_rng(5)
X2 = np.array([[1.2, -0.3], [0.4, 1.1], [-0.7, 0.9]])
VECTOR = jnp.array([0.5, -0.3, 0.2])


def neuron(X, activation, **options):
    net = fp.Mlp(4, 1, activation, weight_variance=1.6, **options)
    return tilted.one_neuron("test", setting("test", net, fp.Task(X, np.ones(len(X)), 0.1)))


def grid(X, phi, vector, coefficient, variance, extent=8.0, nodes=241):
    """ln Z, <phi phi^T> and <w w^T> of two weights by the trapezoidal rule, in plain NumPy."""
    x = np.linspace(-extent, extent, nodes) * np.sqrt(variance)
    w = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)
    F = phi(w @ X.T)
    prior = np.exp(-np.sum(w**2, axis=1) / (2 * variance))
    prior /= prior.sum()
    p = prior * np.exp(coefficient / 2 * (F @ vector) ** 2)
    return np.log(p.sum()), (F.T * p) @ F / p.sum(), (w.T * p) @ w / p.sum()


@pytest.mark.parametrize("coefficient", [-2.0, 3.0])
def test_quadrature_is_the_grid_of_a_smooth_activation(coefficient):
    n = neuron(X2, "erf")
    neurons = neuron_sets.quadrature(n)
    measure = tilted.tilt(n.features(neurons.w), neurons, VECTOR[:, None], jnp.array([coefficient]))
    log_z, gram, weights = grid(X2, erf, VECTOR, coefficient, 0.8)
    p = measure.probability[:, None]
    assert np.isclose(measure.log_normaliser, log_z, atol=1e-12)
    np.testing.assert_allclose(tilted.second_moments(n, neurons.w, p)[0], gram, atol=1e-12)
    np.testing.assert_allclose(tilted.first_moment(n, neurons.w, p[:, 0]), 0.0, atol=1e-13)
    np.testing.assert_allclose(n.weight_covariance((neurons.w * p).T @ neurons.w), weights, atol=1e-12)


def test_general_tilt_of_two_vectors_with_a_bias_is_gaussian_for_a_linear_neuron():
    """Covariance (prior^-1 - X^T M X)^-1; the bias is one more input, whose prior has another variance."""
    n = neuron(RNG.normal(size=(3, 1)), "linear", bias_variance=(0.5, 0.0))
    assert n.directions == 2
    vectors, coefficients = jnp.asarray(RNG.normal(size=(3, 2))) / 4, jnp.array([0.6, -1.1])
    neurons = neuron_sets.quadrature(n)
    measure = tilted.tilt(n.features(neurons.w), neurons, vectors, coefficients)
    M = vectors @ jnp.diag(coefficients) @ vectors.T
    K = n.variance * n.coordinates @ n.coordinates.T
    gram = np.linalg.inv(np.eye(3) - K @ M) @ K
    found = tilted.second_moments(n, neurons.w, measure.probability[:, None])[0]
    np.testing.assert_allclose(found, gram, atol=1e-11)
    assert np.isclose(measure.log_normaliser, -np.linalg.slogdet(np.eye(3) - K @ M)[1] / 2, atol=1e-11)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "abs"])
def test_quadrature_meets_the_radial_identity(activation):
    """E exp(c r^2 / 2) = E_n (1 - c(n))^(-d/2) for a homogeneous activation, 02 (50), and the domain's edge c < 1."""
    phi = {"relu": lambda h: np.maximum(h, 0), "leaky_relu": lambda h: np.where(h > 0, h, 0.01 * h), "abs": np.abs}
    n = neuron(X2, activation)
    angle = (np.arange(200_000) + 0.5) * 2 * np.pi / 200_000
    units = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    growth = 0.8 * (phi[activation](units @ X2.T) @ np.asarray(VECTOR)) ** 2
    coefficient = 0.9 / growth.max()
    neurons = neuron_sets.quadrature(n)
    measure = tilted.tilt(n.features(neurons.w), neurons, VECTOR[:, None], jnp.array([coefficient]))
    expected = np.mean(1 / (1 - coefficient * growth))
    assert np.isclose(measure.log_normaliser, np.log(expected), rtol=1e-7)
    assert np.isclose(
        tilted.largest_growth(n, neurons.w, VECTOR, coefficient), 0.9, rtol=3e-5
    )  # the grid of angles misses a kink


def test_quadrature_in_one_direction():
    """Points on a line through the origin of a larger space: what is orthogonal to it keeps the prior."""
    n = neuron(np.outer([1.0, -0.5], RNG.normal(size=5)), "erf")
    neurons = neuron_sets.quadrature(n)
    assert n.directions == 1
    p = jnp.exp(neurons.log_weights)
    assert np.isclose(p.sum(), 1.0, rtol=1e-12)
    np.testing.assert_allclose(
        n.weight_covariance((neurons.w * p[:, None]).T @ neurons.w), 0.32 * np.eye(5), atol=1e-12
    )


def test_importance_samples_have_the_moments_of_the_quadrature():
    """48,000 draws; 6 standard errors by the delta method."""
    n = neuron(X2, "erf")
    coefficient, nodes = jnp.array([6.0]), neuron_sets.quadrature(n)
    exact = tilted.tilt(n.features(nodes.w), nodes, VECTOR[:, None], coefficient)
    draws = neuron_sets.importance(n, jnp.diag(jnp.array([1.5, 0.7])), 48_000, jax.random.key(1))
    sampled = tilted.tilt(n.features(draws.w), draws, VECTOR[:, None], coefficient)
    truth = tilted.second_moments(n, nodes.w, exact.probability[:, None])[0]
    F, p = n.features(draws.w), sampled.probability
    products = F[:, :, None] * F[:, None, :]
    found = jnp.einsum("s,sab->ab", p, products)
    error = jnp.sqrt(jnp.einsum("s,sab->ab", p**2, (products - found) ** 2))
    assert np.all(np.abs(found - truth) < 6 * error)
    assert 10_000 < sampled.effective_sample_size < 48_000
    weights = jnp.exp(draws.log_weights)
    error = jnp.sqrt(jnp.sum((weights - jnp.mean(weights)) ** 2))
    assert abs(weights.sum() - 1) < 6 * error


def test_every_block_of_the_errors_has_draws_of_every_well():
    """Else the spread of blocks is that of wells, which are in fixed proportion: errors twenty times too large in the
    case of theory 04's E5."""
    found = neuron_sets.Wells(jnp.arange(8.0)[:, None], jnp.zeros((8, 1, 1)))
    w = neuron_sets.about_wells(neuron(np.ones((1, 1)), "erf"), found, 240, jax.random.key(0))
    counts = np.array([np.bincount(block, minlength=8) for block in np.asarray(w, int).reshape(-1, 16).T])
    assert np.ptp(counts) <= 1 and np.all(counts.sum(axis=0) == 30)


@pytest.mark.slow
def test_particles_draw_from_the_self_consistent_measure():
    """Against the saddle on a grid: kernel within 6 standard errors of 4800 independent draws."""
    n = neuron(X2, "erf")
    y, noise = jnp.array([1.5, -1.0, 0.4]), 0.2 * jnp.eye(3)
    tau, coupling = np.zeros(3), 0.8
    for _ in range(400):  # a damped iteration, for a solver that shares nothing with the package
        gram = grid(X2, erf, tau, coupling, 0.8, nodes=61)[1]
        tau = 0.8 * tau + 0.2 * np.linalg.solve(noise + coupling * gram, y)
    draws = neuron_sets.particles(n, y, noise, coupling, 1.0, jnp.zeros(3), 4800, jax.random.key(2))
    measure = tilted.tilt(n.features(draws.w), draws, jnp.asarray(tau)[:, None], jnp.array([coupling]))
    products = n.features(draws.w)[:, :, None] * n.features(draws.w)[:, None, :]
    found = jnp.einsum("s,sab->ab", measure.probability, products)
    error = jnp.sqrt(jnp.einsum("s,sab->ab", measure.probability**2, (products - found) ** 2))
    assert np.all(np.abs(found - gram) < 6 * error)
    assert measure.effective_sample_size > 4000


@pytest.mark.parametrize("activation", ["square", "cube", "exp", lambda z: z * jnp.abs(z)])
def test_activations_without_a_tilted_measure_are_refused(activation):
    with pytest.raises(ValueError, match=r"grows faster than linearly.*fp\.sample"):
        neuron(X2, activation)


@pytest.mark.parametrize("activation", ["linear", "relu", "gelu", "tanh", "sin", "step", "abs"])
def test_activations_with_a_tilted_measure_are_not(activation):
    assert neuron(X2, activation).directions == 2


def test_quadrature_of_kinks_and_steep_neurons_covers_test_points():
    """Finer angles and radii change nothing, at test points and at large weights either."""
    X, y = RNG.normal(size=(3, 2)), RNG.normal(size=3)
    for activation, variance in (("relu", 1.0), ("erf", 1e3)):
        net, task = fp.Mlp(8, 1, activation, variance, scaling="mean-field"), fp.Task(X, y, 0.3, X[:2] + 0.3)
        coarse = fp.theory.adaptation(net, task, average="quadrature")
        neuron, data = neuron_and_data("test", setting("test", net, task))
        w = fine_grid(neuron)
        features = neuron.activation.phi(w.w @ neuron.coordinates.T)
        tau = np.linalg.solve(np.asarray(data.noise), y - np.asarray(coarse.mean["f"])[:, 0])
        measure = tilted.tilt(features[:, :3], w, tau[:, None], jnp.asarray(data.G / data.N)[None])
        kernel = data.G * (features * measure.probability[:, None]).T @ features
        np.testing.assert_allclose(coarse.mean["kernel_1"], kernel, atol=1e-7 * float(jnp.max(kernel)))


def fine_grid(neuron):
    """Products of Gauss-Legendre rules between kinks, far finer than those of the library."""
    angles = np.arctan2(*np.asarray(neuron.coordinates).T[::-1])
    ends = np.sort(np.concatenate([angles + np.pi / 2, angles - np.pi / 2]) % (2 * np.pi))
    ends = np.append(ends, ends[0] + 2 * np.pi)
    x, gauss = np.polynomial.legendre.leggauss(400)
    half = np.diff(ends)[:, None] / 2
    angle, arc = (ends[:-1, None] + half * (1 + x)).ravel(), (half * gauss).ravel()
    x, gauss = np.polynomial.legendre.leggauss(160)
    scale = 3 * np.sqrt(float(neuron.variance))
    r, dr = scale * (1 + x) / (1 - x), 2 * scale * gauss / (1 - x) ** 2
    w = (r[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)).reshape(-1, 2)
    log_weights = np.log(np.outer(r * dr, arc)).ravel() - (w**2).sum(1) / (2 * float(neuron.variance))
    return tilted.Neurons(jnp.asarray(w), jnp.asarray(log_weights - np.log(2 * np.pi * float(neuron.variance))))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "erf"])
def test_theories_of_the_measure_are_mapped(activation):
    task, net = fp.Task([[1.0, 0.2], [0.3, -1.0]], [0.7, -0.5], 0.4), fp.Mlp(20, 1, activation, readout_variance=1.1)

    def log_evidence(noise):
        return fp.theory.adaptation(net, task.replace(noise_variance=noise)).log_evidence

    mapped = jax.jit(jax.vmap(log_evidence))(jnp.array([0.4, 0.8]))
    np.testing.assert_allclose(mapped, [log_evidence(0.4), log_evidence(0.8)], rtol=1e-9)


def test_bad_input():
    with pytest.raises(ValueError, match="random phase"):
        neuron(X2, "random_phase_cosine")
    with pytest.raises(ValueError, match="these span 3: use average='importance'"):
        neuron_sets.quadrature(neuron(np.eye(3), "erf"))
    with pytest.raises(ValueError, match="effective sample size of the tilted neurons is 12, below 200"):
        tilted.require_sample_size("test", 12.3)
