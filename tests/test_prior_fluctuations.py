"""Fluctuations of the layer kernels in the prior: recursions against sampled networks, exact cases, and each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import erf
from scipy import special

import fieldprob as fp
from fieldprob.theory import (
    fluctuation_growth,
    fluctuation_response,
    fourth_cumulant,
    kernel_covariance,
    kernel_response,
    perturbative,
    prior_fluctuations,
)

RNG = np.random.default_rng(11)
X = jnp.asarray(RNG.normal(size=(3, 4)))
FORCE = RNG.normal(size=(3, 3))
FORCE = jnp.asarray(FORCE + FORCE.T)
# unequal widths and variances, biases everywhere
NET = fp.Mlp((8, 5, 11), 3, "erf", (1.2, 1.6, 1.4), (0.0, 0.1, 0.2, 0.3), 1.5)


def sampled_kernels(net, X, phi, networks, seed, batch=1000):
    """kernel_1..kernel_L of networks with Gaussian weights, (networks, L, points, points): every weight is drawn."""
    variances, biases = (*net.weight_variance, net.readout_variance), net.bias_variance

    def network(key):
        h, kernels = X, []
        for layer, width in enumerate((*net.widths, 0)):
            if layer:
                h = phi(h)
                kernels.append(variances[layer] / h.shape[1] * h @ h.T + biases[layer])
            for_weight, for_bias = jax.random.split(jax.random.fold_in(key, layer))
            W = jax.random.normal(for_weight, (h.shape[1], width)) * math.sqrt(variances[layer] / h.shape[1])
            h = h @ W + math.sqrt(biases[layer]) * jax.random.normal(for_bias, (width,))
        return jnp.stack(kernels)

    keys = jax.random.split(jax.random.key(seed), networks)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(network, keys, batch_size=batch))(keys))


def covariance_with_error(x, y):
    """Of samples of two numbers, with its standard error."""
    products = (x - x.mean(axis=0)) * (y - y.mean(axis=0))
    return products.mean(axis=0), products.std(axis=0) / math.sqrt(len(x))


# --- against sampled networks -----------------------------------------------------------------------------------------


def check_against_networks(net, X, phi, networks, seed, covariances, shifts, second_order):
    """Means and all covariances of all layers: 6 standard errors (some hundred numbers, false alarm below 1e-6) plus
    `second_order` / N of the largest entry."""
    sampled = sampled_kernels(net, X, phi, networks, seed)
    limit, L = net.limit_kernels(X), net.depth
    for layer in range(1, L + 1):
        x = sampled[:, layer - 1]
        shift, error = x.mean(axis=0) - limit[layer], x.std(axis=0) / math.sqrt(networks)
        size = max(np.max(np.abs(shifts[layer])), 1e-12)
        assert np.all(np.abs(shift - shifts[layer]) < 6 * error + second_order / min(net.widths) * size), layer
    for pair, expected in covariances.items():
        x, y = (sampled[:, layer - 1] for layer in pair)
        found, error = covariance_with_error(x[:, :, :, None, None], y[:, None, None])
        allowed = 6 * error + second_order / min(net.widths) * np.max(np.abs(expected))
        assert np.all(np.abs(found - expected) < allowed), pair


def predicted(net, X, pairs):
    theory, limit = prior_fluctuations(net, X, method="tensor"), net.limit_kernels(X)
    shifts = [np.asarray(theory.mean[f"kernel_{layer}"] - limit[layer]) for layer in range(net.depth + 1)]
    covariances = {pair: np.asarray(kernel_covariance(net, X, pair)) for pair in pairs}
    for layer in range(1, net.depth + 1):
        diagonal = np.einsum("abab->ab", kernel_covariance(net, X, (layer, layer)))
        np.testing.assert_allclose(theory.variance[f"kernel_{layer}"], diagonal, rtol=1e-12)
    return covariances, shifts


PAIRS = [(1, 1), (2, 2), (3, 3), (1, 3), (3, 2)]


def e6(N):
    """03 E6."""
    return fp.Mlp(N, 3, "erf", (1.0, 1.6, 1.4), (0.0, 0.1, 0.1, 0.1), 1.5), X[:2]


def kernels_layer_by_layer(net, C, networks, random):
    """kernel_1..kernel_L of an erf network, (networks, L, 2, 2): neurons are independent given the kernel before."""
    variances, biases = (*net.weight_variance[1:], net.readout_variance / net.chi), list(net.bias_variance[1:])
    biases[-1] /= net.chi
    C, kernels = np.broadcast_to(C, (networks, 2, 2)), []
    for width, variance, bias in zip(net.widths, variances, biases, strict=True):
        phi = special.erf(np.linalg.cholesky(C) @ random.normal(size=(networks, 2, width)))
        C = variance / width * phi @ np.swapaxes(phi, 1, 2) + bias
        kernels.append(C)
    return np.stack(kernels, axis=1)


def test_means_and_covariances_are_those_of_networks_at_any_scaling():
    """1e5 networks drawn in NumPy: 6.5 standard errors of 9 means (false alarm below 1e-9 each), which see the shift at
    more than 7; covariances to 3 % of the largest, of which 2.5 are six of its errors."""
    net = fp.Mlp((60, 40, 90), 3, "erf", (1.2, 1.6, 1.4), (0.1, 0.1, 0.2, 0.3), 1.5, scaling=1.3)
    random, networks = np.random.default_rng(0), 100_000
    limit = net.limit_kernels(X[:2])
    parts = [kernels_layer_by_layer(net, np.asarray(limit[0]), networks // 10, random) for _ in range(10)]
    sampled = np.concatenate(parts)
    covariances, shifts = predicted(net, X[:2], [(1, 1), (2, 2), (3, 3), (1, 3), (3, 2)])
    seen = []
    for layer in (1, 2, 3):
        x = sampled[:, layer - 1]
        error = x.std(axis=0) / math.sqrt(networks)
        assert np.all(np.abs(x.mean(axis=0) - limit[layer] - shifts[layer]) < 6.5 * error), layer
        seen.append(np.max(np.abs(shifts[layer]) / error))
    assert max(seen) > 7
    for pair, expected in covariances.items():
        x, y = (sampled[:, layer - 1] for layer in pair)
        found = covariance_with_error(x[:, :, :, None, None], y[:, None, None])[0]
        assert np.max(np.abs(found - expected)) < 0.03 * np.max(np.abs(expected)), pair


@pytest.mark.slow
@pytest.mark.long
def test_the_scaling_of_the_readout_is_in_its_variances():
    """chi divides readout variance, readout bias and noise, and nothing else knows of it: in all kernel theories."""
    hidden = {"depth": 2, "activation": "erf", "weight_variance": (1.2, 1.6)}
    net = fp.Mlp(16, bias_variance=(0.1, 0.2, 0.3), readout_variance=1.5, scaling=1.5, **hidden)
    assert net.chi == 4.0
    plain = fp.Mlp(16, bias_variance=(0.1, 0.2, 0.3 / 4), readout_variance=1.5 / 4, **hidden)
    task = fp.Task(X, np.array([1.0, -1.0, 0.8]), 0.4)
    for theory in (fluctuation_response, perturbative, fp.theory.forward_backward):
        found, other = theory(net, task), theory(plain, task.replace(noise_variance=0.1))
        for name, value in other.mean.items():
            np.testing.assert_allclose(found.mean[name], value, rtol=1e-8, atol=1e-10, err_msg=name)
    found, other = prior_fluctuations(net, X), prior_fluctuations(plain, X)
    for name in other.mean:
        np.testing.assert_allclose(found.mean[name], other.mean[name], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found.variance.get(name, 0.0), other.variance.get(name, 0.0), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@pytest.mark.long
def test_covariances_and_shifts_of_e6_at_larger_width():
    net, points = e6(100)
    check_against_networks(net, points, erf, 30_000, 1, *predicted(net, points, PAIRS), second_order=4)


@pytest.mark.slow
@pytest.mark.long
def test_second_order_is_what_remains_of_e6():
    """N Var of the off-diagonal entry of kernel_3 at widths 12 and 48: what differs from the first order is there, by 5
    standard errors, and shrinks as 1/N, to half of it and 5 standard errors."""
    rest = []
    for N in (12, 48):
        net, points = e6(N)
        x = sampled_kernels(net, points, erf, 100_000, 2)[:, -1, 0, 1]
        found, error = covariance_with_error(x, x)
        rest.append((N * (found - kernel_covariance(net, points)[0, 1, 0, 1]), N * error))
    (narrow, error), (wide, wide_error) = rest
    assert abs(narrow) > 5 * error
    assert abs(4 * wide - narrow) < 5 * np.hypot(4 * wide_error, error) + 0.5 * abs(narrow)


@pytest.mark.slow
@pytest.mark.long
def test_rectified_units_by_draws_of_neurons():
    """ReLU has no closed four-point function: shifts and variances by one-neuron draws, 1 % of the largest."""
    net = fp.Mlp((30, 40), 2, "relu", 1.8, (0.0, 0.1, 0.2), 1.5)
    theory = prior_fluctuations(net, X, neurons=20_000, key=jax.random.key(3))
    sampled = sampled_kernels(net, X, jax.nn.relu, 30_000, 3)
    for layer in (1, 2):
        name = f"kernel_{layer}"
        x = sampled[:, layer - 1]
        error = np.hypot(x.std(axis=0) / math.sqrt(len(x)), theory.error[name])
        assert np.all(np.abs(x.mean(axis=0) - theory.mean[name]) < 6 * error + 1e-3)
        found, error = covariance_with_error(x, x)
        error, size = np.hypot(error, theory.variance_error[name]), np.max(theory.variance[name])
        assert np.all(np.abs(found - theory.variance[name]) < 6 * error + 4 / 30 * size)


def test_linear_networks_exactly():
    """03 below (31): Cov = sum_l 1/N_l (C C + C C), and no shift of the mean."""
    net = fp.Mlp((5, 7, 9), 3, "linear", (1.3, 0.9, 1.1), 0.0, 1.2)
    C = np.asarray(net.limit_kernels(X)[3])
    expected = np.einsum("ac,bd->abcd", C, C) + np.einsum("ad,bc->abcd", C, C)
    np.testing.assert_allclose(kernel_covariance(net, X), (1 / 5 + 1 / 7 + 1 / 9) * expected, rtol=1e-12, atol=1e-15)
    assert np.max(np.abs(prior_fluctuations(net, X).mean["kernel_3"] - C)) < 1e-14


@pytest.mark.slow
@pytest.mark.long
def test_variance_of_a_linear_network_is_the_first_order_of_11():
    """03 (11), exact at every width, by the product of chi-squares; the recursion is its first order."""
    N, L, one = 6, 4, jnp.ones((1, 2))
    net = fp.Mlp(N, L, "linear", 1.1)
    K = float(net.limit(one)[0, 0])
    exact = K**2 * ((1 + 2 / N) ** L - 1)
    x = sampled_kernels(net, one, lambda h: h, 50_000, 4, batch=5000)[:, -1, 0, 0]
    found, error = covariance_with_error(x, x)
    assert abs(found - exact) < 6 * error < 0.3 * exact
    assert abs(kernel_covariance(net, one).item() - K**2 * 2 * L / N) < 1e-12


def test_output_cumulant_at_three_neurons():
    """03 (6) is exact given the covariance of the kernel: fourth cumulants of outputs of networks of three neurons a
    layer, erf, depth 3 (03 quotes 0.421 and 0.423); 6 standard errors. To first order it is `fourth_cumulant`."""
    net, points = fp.Mlp(3, 3, "erf", (1.0, 1.6, 1.4), 0.1, 1.5), X[:2]
    kernels = sampled_kernels(net, points, erf, 60_000, 5, batch=5000)[:, -1]
    normals = jax.random.normal(jax.random.key(6), (len(kernels), 2))
    f = np.einsum("nij,nj->ni", np.linalg.cholesky(kernels + 1e-12 * np.eye(2)), normals)
    a, b = f[:, 0], f[:, 1]
    K = kernels.mean(axis=0)
    terms = a**2 * b**2 - K[0, 0] * b**2 - K[1, 1] * a**2 - 4 * K[0, 1] * a * b + K[0, 0] * K[1, 1] + 2 * K[0, 1] ** 2
    centred = kernels - K
    exact = centred[:, 0, 0] * centred[:, 1, 1] + 2 * centred[:, 0, 1] ** 2
    difference = terms - exact
    assert abs(difference.mean()) < 6 * difference.std() / math.sqrt(len(f))
    cumulant = fourth_cumulant(fp.Mlp(3000, 3, "erf", (1.0, 1.6, 1.4), 0.1, 1.5), points)
    assert 0.5 < exact.mean() / (1000 * cumulant[0, 0, 1, 1]) < 1.5


# --- identities -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensors():
    return {layer: np.asarray(kernel_covariance(NET, X, (layer, layer))) for layer in (1, 2, 3)}


def test_covariances_are_symmetric_and_positive(tensors):
    for G in tensors.values():
        for order in ((1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1)):
            np.testing.assert_allclose(G, G.transpose(order), rtol=1e-12, atol=1e-15)
        eigenvalues = np.linalg.eigvalsh(G.reshape(9, 9))
        assert eigenvalues[0] > -1e-12 * eigenvalues[-1] and eigenvalues[3] > 1e-6 * eigenvalues[-1]


def test_first_order_scales_as_one_over_width(tensors):
    wide = fp.Mlp((80, 50, 110), 3, "erf", (1.2, 1.6, 1.4), (0.0, 0.1, 0.2, 0.3), 1.5)
    np.testing.assert_allclose(10 * kernel_covariance(wide, X), tensors[3], rtol=1e-12)
    limit = NET.limit_kernels(X)[3]
    shifts = [prior_fluctuations(net, X).mean["kernel_3"] - limit for net in (NET, wide)]
    np.testing.assert_allclose(10 * shifts[1], shifts[0], rtol=1e-10, atol=1e-15)


def test_layers_in_either_order(tensors):
    np.testing.assert_allclose(
        kernel_covariance(NET, X, (1, 3)), kernel_covariance(NET, X, (3, 1)).transpose(2, 3, 0, 1), rtol=1e-12
    )
    assert np.max(np.abs(kernel_covariance(NET, X, (0, 2)))) == 0


def jacobian_of_erf(C, g, E):
    """03 (20b)."""
    d = 1 + 2 * np.diag(C)
    s = np.sqrt(np.outer(d, d) - 4 * C**2)
    return 4 * g / (np.pi * s) * (E - C * ((np.diag(E) / d)[:, None] + (np.diag(E) / d)[None, :]))


def adjoint_of_erf(C, g, T):
    """03 (20c)."""
    d = 1 + 2 * np.diag(C)
    s = np.sqrt(np.outer(d, d) - 4 * C**2)
    result = 4 * g / np.pi * T / s
    off = T * C / s
    np.fill_diagonal(off, 0)
    np.fill_diagonal(result, 4 * g / (np.pi * d) * (np.diag(T) / np.diag(s) * 1.0 - 2 * off.sum(axis=1)))
    return result


def test_contractions_of_erf_are_20b_and_20c_and_adjoint():
    """A force on layer 2 reaches layer 1 by (20c); a change of layer 2 reaches layer 3 by (20b)."""
    kernels = [np.asarray(K) for K in NET.limit_kernels(X)]
    found = kernel_response(NET, X, FORCE, 2)
    np.testing.assert_allclose(found.forces[1], adjoint_of_erf(kernels[1], 1.4, np.asarray(FORCE)), rtol=1e-10)
    change = np.asarray(found.kernels[2])
    np.testing.assert_allclose(found.kernels[3], jacobian_of_erf(kernels[2], 1.5, change), rtol=1e-10)
    E = np.asarray(FORCE)[::-1, ::-1] + np.eye(3)
    T = np.asarray(FORCE)
    there, back = jacobian_of_erf(kernels[1], 1.4, E), adjoint_of_erf(kernels[1], 1.4, T)
    np.testing.assert_allclose(np.sum(there * T), np.sum(E * back), rtol=1e-12)


def test_response_is_the_contracted_tensor():
    """Every layer, forces on the second and the last; by draws of neurons within 6 of their errors."""
    for at in (2, 3):
        found = kernel_response(NET, X, FORCE, at)
        for layer in (1, 2, 3):
            expected = np.einsum("abcd,cd->ab", kernel_covariance(NET, X, (layer, at)), FORCE)
            np.testing.assert_allclose(found.kernels[layer], expected, rtol=1e-10, atol=1e-14)
    drawn = kernel_response(NET, X, FORCE, 3, method="neurons", key=jax.random.key(2), neurons=2**16)
    for layer in (1, 2, 3):
        difference = np.abs(drawn.kernels[layer] - found.kernels[layer])
        # sixteen parts: Student's t of 15 degrees of freedom has a tail of 1e-7 at 9 standard errors
        assert np.all(difference < 9 * drawn.errors[layer])
        assert np.max(drawn.errors[layer]) < 0.05 * np.max(np.abs(found.kernels[layer]))


@pytest.mark.slow
@pytest.mark.long
def test_shift_of_the_perturbative_theory_is_response_and_prior_shift():
    """03 (31) and (30): posterior mean of every kernel = limit + m + G : force; test rows of the force stay zero."""
    net = fp.Mlp((30, 20), 2, "erf", (1.2, 1.6), (0.0, 0.1, 0.0), 1.5)
    task = fp.Task(X, np.array([1.0, -1.0, 0.8]), 0.2, X[:1] + 0.5)
    posterior, found = perturbative(net, task), fluctuation_response(net, task)
    prior = prior_fluctuations(net, jnp.concatenate([task.X, task.X_test]))
    for layer in (1, 2):
        name = f"kernel_{layer}"
        shift = posterior.mean[name] - prior.mean[name]
        np.testing.assert_allclose(found.mean[f"kernel_shift_{layer}"], shift, rtol=1e-9, atol=1e-14)
    force = jnp.zeros((4, 4)).at[:3, :3].set(FORCE)
    forces = kernel_response(net, jnp.concatenate([task.X, task.X_test]), force).forces
    assert all(np.all(E[3] == 0) and np.all(E[:, 3] == 0) for E in forces)


def test_scaling_the_targets_is_affine_in_their_square():
    """03 E10: y -> a y."""
    net = fp.Mlp((30, 20), 2, "erf", (1.2, 1.6), (0.0, 0.1, 0.0), 1.5)
    shifts = [
        fluctuation_response(net, fp.Task(X, a * np.array([1.0, -1.0, 0.8]), 0.2)).mean["kernel_shift_2"]
        for a in (0.0, 1.0, 2.0)
    ]
    np.testing.assert_allclose(shifts[2] - shifts[0], 4 * (shifts[1] - shifts[0]), rtol=1e-9)


# --- growth with depth ------------------------------------------------------------------------------------------------

EDGE = math.pi / 4


@pytest.fixture(scope="module")
def at_the_edge():
    return fluctuation_growth("erf", EDGE, 0.0, 3000, kernel=0.5)


def test_growth_at_the_edge_of_chaos(at_the_edge):
    """03 (35): 2/3 a layer, with the numbers printed there."""
    printed = {10: 0.6530, 100: 0.6615, 1000: 0.6659, 5: 3.32 / 5, 20: 13.07 / 20}
    for layer, number in printed.items():
        tolerance = 6e-5 if layer in (100, 1000) else 1e-3
        assert abs(at_the_edge.relative_fluctuation[layer] / layer - number) < tolerance
    assert abs(at_the_edge.kernel[-1] * 2 * 3000 - 1) < 0.01
    assert abs((1 - at_the_edge.variance_susceptibility[-1]) * 3000 / 2 - 1) < 0.01
    assert math.isinf(at_the_edge.variance_depth)


def test_susceptibilities_of_erf_are_32(at_the_edge):
    K = at_the_edge.kernel[:50]
    chi_1 = 4 * EDGE / (math.pi * jnp.sqrt(1 + 4 * K))
    np.testing.assert_allclose(at_the_edge.correlation_susceptibility[:50], chi_1, rtol=1e-12)
    np.testing.assert_allclose(at_the_edge.variance_susceptibility[:50], chi_1 / (1 + 2 * K), rtol=1e-12)


@pytest.mark.parametrize(("variance", "printed"), [(0.79, 170.0), (0.82, 22.4), (0.9, 6.68), (1.2, 1.88), (2.0, 0.74)])
def test_saturation_in_the_chaotic_phase(variance, printed):
    """03 (33) and its table, by the recursion and by the fixed point."""
    at = fluctuation_growth("erf", variance, 0.0, 3000)
    assert abs(at.relative_fluctuation[-1] / printed - 1) < 6e-3
    np.testing.assert_allclose(at.saturation, at.kernel_covariance[-1], rtol=1e-8)


def test_growth_in_the_ordered_phase_without_bias():
    """03 below (35): the kernel dies as (4 w / pi)^l and its relative fluctuation grows by 2 a layer, as if linear."""
    at = fluctuation_growth("erf", 0.7, 0.0, 3000)
    assert at.saturation == 0 and at.kernel_covariance[300] < 1e-20
    np.testing.assert_allclose(at.kernel[301] / at.kernel[300], 0.7 * 4 / math.pi, rtol=1e-10)
    assert abs(at.relative_fluctuation[301] - at.relative_fluctuation[300] - 2) < 1e-9


def test_linear_networks_grow_by_two_a_layer():
    at = fluctuation_growth("linear", 1.0, 0.0, 20)
    np.testing.assert_allclose(at.relative_fluctuation, 2 * np.arange(21), rtol=1e-12)


def test_edge_of_chaos_of_erf_is_34():
    g = np.array([EDGE, 1.0, 1.37584])
    K = ((4 * g / np.pi) ** 2 - 1) / 4
    w, b = fp.kernels.edge_of_chaos("erf", K)
    np.testing.assert_allclose(w, g, rtol=1e-12)
    np.testing.assert_allclose(b, K - 2 * g / np.pi * np.arcsin(2 * K / (1 + 2 * K)), rtol=1e-10, atol=1e-15)
    assert abs(b[2] - 0.05) < 1e-5


@pytest.mark.parametrize(("name", "second"), [("erf", 1e-3), pytest.param("sin", 1e-3, marks=pytest.mark.slow)])
def test_growth_is_the_tensor_recursion_for_close_inputs(name, second):
    """03 (36)-(37): K, the relative distance delta and their covariance after four layers, at a squared distance of
    1e-4 of the variance; `second` is the order of the distance."""
    w, b, K = 1.3, 0.1, 0.5
    at = fluctuation_growth(name, w, b, 4, kernel=K)
    net = fp.Mlp(1, 4, name, (1.0, w, w, w), (0.0, b, b, b, b), w)
    shift = prior_fluctuations(net, math.sqrt(2 * K) * jnp.eye(1, 2)).mean["kernel_4"].item() - at.kernel[4]
    np.testing.assert_allclose(shift, at.mean_shift[4], rtol=1e-9)
    angle = 0.01
    points = math.sqrt(2 * K) * jnp.array([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    G, C = np.asarray(kernel_covariance(net, points)), np.asarray(net.limit(points))
    D = np.array([[1.0, -1.0], [-1.0, 1.0]])
    distance = np.sum(D * C)
    np.testing.assert_allclose(G[0, 0, 0, 0], at.kernel_covariance[4], rtol=1e-10)
    covariance = np.einsum("ab,ab->", G[0, 0], D) / distance
    np.testing.assert_allclose(covariance, at.discriminating_covariance[4], rtol=second)
    relative = np.einsum("ab,abcd,cd->", D, G, D) / distance**2
    np.testing.assert_allclose(relative, at.discriminating_fluctuation[4], rtol=second)


def test_rectified_units_grow_at_one_input():
    """ReLU at w = 2: Var(phi^2) = (3/2 - 1/4) K^2, chi_q = 1, so 5 a layer; kinks lie on the edge of a panel."""
    at = fluctuation_growth("relu", 2.0, 0.0, 10)
    np.testing.assert_allclose(at.relative_fluctuation, 5 * np.arange(11), rtol=1e-10)


PHASES = {"ordered": (0.6, 0.1), "critical": (EDGE, 0.0), "chaotic": (2.0, 0.1)}


def sampled_at_one_input(w, b, K, N, depth, networks, seed):
    """kernel_1..kernel_depth, (networks, depth), by their exact law: neurons independent given the kernel before."""

    def network(key):
        def layer(K, key):
            K = b + w * jnp.mean(erf(jnp.sqrt(K) * jax.random.normal(key, (N,))) ** 2)
            return K, K

        return jax.lax.scan(layer, jnp.asarray(K), jax.random.split(key, depth))[1]

    keys = jax.random.split(jax.random.key(seed), networks)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(network, keys, batch_size=500))(keys))


def check_phase(phase, N, sampled):
    """N Var / mean^2 by 6 standard errors plus 3 depth / N where depth / N < 0.1, and its trend everywhere."""
    w, b = PHASES[phase]
    at = fluctuation_growth("erf", w, b, 10, kernel=0.5)
    mean = sampled.mean(axis=0)
    found, error = covariance_with_error(sampled / mean, sampled / mean)
    expected = np.asarray(at.relative_fluctuation[1:])
    layer = np.arange(1, 11)
    excess, allowed = np.abs(N * found - expected) / expected, 6 * N * error / expected + 3 * layer / N
    assert np.all((excess < allowed)[layer / N < 0.1]), (N, excess, allowed)
    if phase == "critical":
        assert np.all(np.diff(found) > 0)
    return N * found[-1]


@pytest.mark.slow
def test_fluctuations_at_the_edge_of_chaos():
    """03 E7, small."""
    check_phase("critical", 64, sampled_at_one_input(EDGE, 0.0, 0.5, 64, 10, 4000, 8))


@pytest.mark.slow
@pytest.mark.long
def test_fluctuations_of_networks_with_every_weight_drawn():
    net = fp.Mlp(32, 10, "erf", (0.5, *[EDGE] * 9), 0.0, EDGE)
    check_phase("critical", 32, sampled_kernels(net, jnp.ones((1, 1)), erf, 10_000, 8)[:, :, 0, 0])


@pytest.mark.slow
@pytest.mark.long
def test_fluctuations_of_networks_in_three_phases():
    """03 E7: 10 layers, widths 32 to 512, one input; deep fluctuations of the critical networks are the largest."""
    for N in (32, 128, 512):
        last = {
            phase: check_phase(phase, N, sampled_at_one_input(*PHASES[phase], 0.5, N, 10, 20_000, N))
            for phase in PHASES
        }
        assert last["critical"] > 1.5 * max(last["ordered"], last["chaotic"])


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused():
    many = jnp.ones((61, 4))
    with pytest.raises(ValueError, match=r"four of 61 points takes 0\.103 GiB.*at most 60 points"):
        kernel_covariance(NET, many)
    with pytest.raises(ValueError, match="give a key"):
        prior_fluctuations(NET, many)
    with pytest.raises(ValueError, match=r"there is no kernel_4: .* depth 3"):
        kernel_covariance(NET, X, (1, 4))
    with pytest.raises(ValueError, match="force has shape"):
        kernel_response(NET, X, jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="symmetric"):
        kernel_response(NET, X, jnp.triu(jnp.ones((3, 3))))
    with pytest.raises(ValueError, match="layer is 0"):
        kernel_response(NET, X, jnp.eye(3), layer=0)
    with pytest.raises(TypeError, match=r"give it the inputs, task\.X"):
        prior_fluctuations(NET, fp.Task(X, np.ones(3), 0.1))
    with pytest.raises(ValueError, match="method is 'all'"):
        prior_fluctuations(NET, X, method="all")
    with pytest.raises(TypeError, match=r"net is a int: .* fp\.Mlp"):
        prior_fluctuations(3, X)
    with pytest.raises(ValueError, match="depth is 0"):
        fluctuation_growth("erf", 1.0, 0.0, 0)
    with pytest.raises(ValueError, match="kernel is -1"):
        fluctuation_growth("erf", 1.0, 0.0, 3, kernel=-1.0)
    with pytest.raises(ValueError, match="has 2 outputs"):
        fluctuation_response(NET, fp.Task(X, np.ones((3, 2)), 0.1))
