"""The saddle point of the kernels of all layers: its equations, their closed forms, exact answers and sampled networks.

Equation numbers without a document are those of theory 03.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fieldprob as fp
from fieldprob.activations import get
from fieldprob.theory import adaptation, exact_linear, exact_small, forward_backward, rescaling
from fieldprob.theory.kernel_fluctuations import Layer, along
from fieldprob.theory.kernel_saddle import data_force
from fieldprob.theory.kernel_tilts import Nodes, block_root, exact, gaussian, leading, nodes_for
from fieldprob.theory.matrix_roots import positive_root
from fieldprob.theory.perturbative import expansion
from fieldprob.theory.setting import setting

pytestmark = pytest.mark.filterwarnings("ignore:theory .* is not to be trusted")

_RNG = np.random.default_rng(4)
X, Y = _RNG.normal(size=(3, 4)), np.array([1.0, -1.0, 0.8])  # case S
STAR = np.array([[0.5, -0.3, 1.0, 0.2]])
CASE, CASE_TEST = fp.Task(X, Y, 0.2), fp.Task(X, Y, 0.2, STAR)
# E5
C_PAIR = np.array([[0.8, 0.3], [0.3, 0.6]])
PAIR = fp.Task(np.linalg.cholesky(C_PAIR) * np.sqrt(2), np.array([1.0, -0.8]), 0.3)

C = jnp.array([[1.0, 0.3, 0.2], [0.3, 0.8, -0.1], [0.2, -0.1, 0.6]])
T = jnp.array([[0.5, -0.8, 0.3], [-0.8, 1.1, 0.2], [0.3, 0.2, -0.4]])
E = jnp.array([[0.3, 0.5, -0.2], [0.5, -0.4, 0.7], [-0.2, 0.7, 0.1]])


def deep(N, activation="erf", scale=1.0, bias=0.05):
    """Case S."""
    variances = {"weight_variance": (1.0 * scale**2, 1.5), "readout_variance": 1.3}
    return fp.Mlp(N, 2, activation, bias_variance=(0.0, bias, bias), **variances)


def numbers(net, task):
    """The problem with arrays for numbers, as the theory hands it to its solver."""
    problem = setting("test", net, task, readout_bias=True)
    problem = problem._replace(widths=tuple(float(n) for n in problem.widths))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, problem)


def saddle(net, task, tilt="exact"):
    """Kernels without fluctuations, and forces, as lists."""
    found = forward_backward(net, task, tilt, fluctuations=False).mean
    layers = range(1, net.depth + 1)
    return [found[f"kernel_{i}"] for i in (0, *layers)], [found[f"conjugate_kernel_{i}"] for i in layers]


def first_order(net, task):
    """The change of the kernels by (31), strictly to first order."""
    problem, limits = numbers(net, task), net.limit_kernels(task.X)
    pulled, not_pulled = (expansion(problem, limits, pulled=pulled)[1].mean for pulled in (True, False))
    return [pulled[f"kernel_{i}"] - not_pulled[f"kernel_{i}"] for i in range(1, net.depth + 1)]


def size(V):
    return float(np.linalg.norm(np.asarray(V)))


def orders(errors, factor=2.0):
    """Of the decay of errors at widths that grow by a factor."""
    return -np.diff(np.log(errors), axis=0) / np.log(factor)


# --- one layer --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid():
    return nodes_for(3, 0, True, None)


@pytest.fixture(scope="module")
def exact_tilt(grid):
    """The exact tilt of an erf layer, as a compiled function of (C, T, width)."""
    return jax.jit(lambda C, T, width: exact(Layer(get("erf"), 1.5, 0.05, width), C, T, grid, len(C)))


def test_kernel_and_force_are_derivatives_of_the_log_normaliser(exact_tilt):
    """(15) and (18) against finite differences of W."""
    at = exact_tilt(C, T, 10.0)
    for expected, step in ((at.kernel, lambda e: (C, T + e)), (at.force, lambda e: (C + e, T))):
        up, down = (exact_tilt(*step(sign * 1e-4 * E), 10.0).log_normaliser for sign in (1, -1))
        np.testing.assert_allclose(jnp.sum(expected * E), (up - down) / 2e-4, rtol=1e-6)


def test_price_form_and_inverse_form_agree(exact_tilt, grid):
    """(15) written out, and (17) against (18)."""
    at, h = exact_tilt(C, T, 10.0), np.asarray(grid.z) @ np.linalg.cholesky(C).T
    phi = np.asarray(get("erf").phi(h))
    p = np.asarray(grid.weights) * np.exp(0.15 * np.sum(phi @ np.asarray(T) * phi, axis=1))
    p /= p.sum()
    np.testing.assert_allclose(at.kernel, 1.5 * phi.T @ (p[:, None] * phi) + 0.05, atol=1e-6)
    inverse = np.linalg.inv(C)
    np.testing.assert_allclose(at.force, 5 * (inverse @ h.T @ (p[:, None] * h) @ inverse - inverse), atol=2e-6)


def test_a_kink_needs_no_second_derivative():
    """The force on a ReLU layer against (17), on a fine grid of two points; good to some 1e-4 at the kink."""
    x = np.linspace(-8, 8, 401)
    z = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)
    w = np.exp(-np.sum(z**2, axis=1) / 2)
    nodes = Nodes(jnp.asarray(z), jnp.asarray(w / w.sum()))
    K, force = C[:2, :2], T[:2, :2]
    at = exact(Layer(get("relu"), 1.5, 0.0, 10.0), K, force, nodes, 2)
    h = z @ np.asarray(positive_root(K))
    phi = np.maximum(h, 0)
    p = w * np.exp(0.15 * np.sum(phi @ np.asarray(force) * phi, axis=1))
    p /= p.sum()
    inverse = np.linalg.inv(K)
    np.testing.assert_allclose(at.force, 5 * (inverse @ h.T @ (p[:, None] * h) @ inverse - inverse), atol=2e-4)
    np.testing.assert_allclose(at.kernel, 1.5 * phi.T @ (p[:, None] * phi), atol=2e-4)


def test_responses_are_the_closed_forms_of_erf():
    """(20b) and (20c), and that they are adjoint under the sum over ordered pairs."""
    g, layer = 1.5, Layer(get("erf"), 1.5, 0.05, 10.0)
    K, F = np.asarray(C), np.asarray(E)
    d = 1 + 2 * np.diag(K)
    s = np.sqrt(np.outer(d, d) - 4 * K**2)
    ratio = np.diag(F) / d
    forward = 4 * g / (np.pi * s) * (F - K * (ratio[:, None] + ratio))
    t = np.asarray(T)
    backward = 4 * g / np.pi * t / s
    off = t * K / s
    np.fill_diagonal(backward, 4 * g / (np.pi * d) * (np.diag(t / s) - 2 * (off.sum(1) - np.diag(off))))
    np.testing.assert_allclose(along(layer, C, E), forward, atol=1e-14)
    np.testing.assert_allclose(leading(layer, C, T, None, 3).force, backward, atol=1e-14)
    np.testing.assert_allclose(np.sum(t * forward), np.sum(backward * F), rtol=1e-13)


def test_the_leading_tilt_misses_what_the_document_says(exact_tilt):
    """(19): the error of the kernel is of order N^-2, that of the force of order 1/N; averages over nodes give the same
    as the four-point functions."""
    errors = []
    for N in (100.0, 200.0, 400.0):
        at, first = exact_tilt(C, T, N), leading(Layer(get("erf"), 1.5, 0.05, N), C, T, None, 3)
        errors.append([size(at.kernel - first.kernel), size(at.force - first.force)])
    np.testing.assert_allclose(orders(errors), [[2, 1]] * 2, atol=0.05)


def test_nodes_do_what_the_four_point_functions_do(grid):
    layer = Layer(get("erf"), 1.5, 0.05, 10.0)
    tensor, averaged = leading(layer, C, T, None, 3), leading(layer, C, T, grid, 3)
    for found, expected in zip(averaged, tensor, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-7)
    quasi = leading(layer, C, T, nodes_for(3, 4096, False, jax.random.key(0)), 3)
    assert size(quasi.kernel - tensor.kernel) < 1e-2 * size(tensor.kernel - layer(C))


def test_quasi_random_nodes_do_what_the_grid_does(exact_tilt):
    """To a per cent of the change; what is left to the nodes is of order 1/N beyond the first order."""
    nodes = nodes_for(3, 4096, False, jax.random.key(0))
    layer = Layer(get("erf"), 1.5, 0.05, 10.0)
    found, expected, base = exact(layer, C, T, nodes, 3), exact_tilt(C, T, 10.0), leading(layer, C, T, None, 3)
    assert size(found.kernel - expected.kernel) < 0.01 * size(expected.kernel - layer(C))
    assert size(found.force - expected.force) < 0.01 * size(expected.force - base.force)
    np.testing.assert_allclose(found.overlap, expected.overlap, rtol=1e-3)
    np.testing.assert_allclose(found.log_normaliser, expected.log_normaliser, atol=1e-3)


def test_a_linear_layer_has_the_closed_form_of_23(grid):
    layer = Layer(get("linear"), 1.5, 0.05, 10.0)
    _, closed = gaussian(layer, C, T, C)
    averaged = exact(layer, C, T, grid, 3)
    for found, expected in zip(averaged[:3], closed[:3], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.slow
@pytest.mark.long
def test_points_without_force_receive_none(exact_tilt, grid):
    """Identity 15: with the third point a test point, its row of the force before stays zero; and its kernel does not
    change that of the others."""
    padded = T.at[2].set(0).at[:, 2].set(0)
    layer, small = Layer(get("erf"), 1.5, 0.05, 10.0), Nodes(grid.z[:, :2], grid.weights)
    found = [exact(layer, C, padded, grid, 2), leading(layer, C, padded, None, 2)]
    found += [gaussian(layer, C, padded, C)[1]]
    alone = [exact(layer, C[:2, :2], T[:2, :2], small, 2), leading(layer, C[:2, :2], T[:2, :2], None, 2)]
    alone += [gaussian(layer, C[:2, :2], T[:2, :2], C[:2, :2])[1]]
    for every, at_data in zip(found, alone, strict=True):
        np.testing.assert_allclose(every.force[2], 0, atol=1e-14)
        np.testing.assert_allclose(every.kernel[:2, :2], at_data.kernel, atol=1e-12)
        np.testing.assert_allclose(every.force[:2, :2], at_data.force, atol=1e-12)
    R = block_root(C, 2)
    np.testing.assert_allclose(R @ R.T, C, atol=1e-14)


def test_a_bias_adds_to_the_kernel_and_nothing_else(exact_tilt):
    """Identity 14, (12)."""
    at = exact_tilt(C, T, 10.0)
    without = exact(Layer(get("erf"), 1.5, 0.0, 10.0), C, T, nodes_for(3, 0, True, None), 3)
    np.testing.assert_allclose(at.kernel, without.kernel + 0.05, atol=1e-14)
    np.testing.assert_allclose(at.force, without.force, atol=1e-13)
    np.testing.assert_allclose(at.log_normaliser, without.log_normaliser + 0.05 * jnp.sum(T), atol=1e-13)


def test_the_symmetric_root_is_smooth_at_singular_and_degenerate_covariances():
    """First and second derivatives against finite differences where two eigenvalues coincide and one vanishes."""
    base = jnp.diag(jnp.array([1.0, 1.0, 0.0]))
    tangent = base @ E @ base  # within the span

    def f(t):
        return jnp.sum(jnp.sin(positive_root(base + t * tangent)))

    np.testing.assert_allclose(jax.grad(f)(0.0), (f(1e-4) - f(-1e-4)) / 2e-4, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(jax.grad(f))(0.0), (f(1e-3) - 2 * f(0.0) + f(-1e-3)) / 1e-6, rtol=1e-4)


# --- linear networks --------------------------------------------------------------------------------------------------

LINEAR = fp.Task(_RNG.normal(size=(4, 6)), np.array([1.0, -0.7, 0.4, 1.2]), 0.3)


def linear_net(widths, bias=0.0):
    depth = len(widths)
    return fp.Mlp(widths, depth, "linear", (1.2, 0.9, 1.1)[:depth], (0.0, 0.0, bias, 0.0)[: depth + 1], 1.3)


@pytest.mark.slow
@pytest.mark.long
def test_linear_networks_conserve_a_matrix():
    """(24): T_l C_l is the same in all layers, and the kernels a product; the bias of a kernel breaks
    it between the layers before and after (identity 14)."""
    kernels, forces = saddle(linear_net((40, 30, 50)), LINEAR)
    M = [S @ K for S, K in zip(forces, kernels[1:], strict=True)]
    scale = size(M[0])
    assert max(size(m - M[-1]) for m in M) < 1e-12 * scale
    product = kernels[0]
    for g, N in ((0.9, 40), (1.1, 30), (1.3, 50)):
        product = g * product @ (np.eye(4) + 2 / N * M[0])
    np.testing.assert_allclose(kernels[-1], product, atol=1e-11)
    kernels, forces = saddle(linear_net((40, 30, 50), bias=0.3), LINEAR)
    assert size(forces[0] @ kernels[1] - forces[2] @ kernels[3]) > 1e-3 * scale


@pytest.mark.slow
@pytest.mark.long
def test_linear_saddle_is_the_fixed_point_of_its_matrix_equations():
    """(23) iterated in NumPy: the minimum of (22) is the exact tilt."""
    net = linear_net((10, 12))
    kernels = [np.asarray(K) for K in net.limit_kernels(LINEAR.X)]
    for _ in range(400):
        K = np.linalg.inv(kernels[2] + 0.3 * np.eye(4))
        force = (np.outer(K @ LINEAR.y[:, 0], K @ LINEAR.y[:, 0]) - K) / 2
        new = list(kernels)
        for layer, g, N in ((2, 1.3, 12), (1, 0.9, 10)):
            gain = np.linalg.inv(np.eye(4) - 2 * g / N * force @ kernels[layer - 1])
            new[layer] = g * kernels[layer - 1] @ gain
            force = g * gain @ force
        kernels = [(a + b) / 2 for a, b in zip(kernels, new, strict=True)]
    for tilt in ("exact", "gaussian"):
        for found, expected in zip(saddle(net, LINEAR, tilt)[0], kernels, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-8)


def scalar_saddle(s, N, L, c):
    """t and the factor of each layer of (25)."""
    low, high = 0.0, s / max(c, 1e-3) ** L + N * s
    for _ in range(200):
        t = (low + high) / 2
        low, high = (t, high) if t * (c + t / N) ** L < s else (low, t)
    return t, c + t / N


@pytest.mark.slow
@pytest.mark.long
def test_linear_saddle_without_noise_is_a_scalar_equation():
    """(25)-(26), at three hidden layers."""
    N, net = 30, fp.Mlp(30, 3, "linear", weight_variance=(1.2, 0.9, 1.1), readout_variance=1.3)
    A, y = np.asarray(net.limit(LINEAR.X)), np.asarray(LINEAR.y[:, 0])
    t, Q = scalar_saddle(y @ np.linalg.solve(A, y), N, 3, 1 - 1 / N)
    c = (1 - 1 / N) ** 3
    expected = c * A + (Q**3 - c) / (t * Q**3) * np.outer(y, y)
    kernels, _ = saddle(net, LINEAR.replace(noise_variance=1e-9))
    np.testing.assert_allclose(kernels[-1], expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.long
def test_linear_saddle_is_off_by_second_order_at_fixed_points():
    """E4 (a): against (10), for which the prior mean is the limit."""
    errors = []
    for N in (80, 160, 320):
        net = linear_net((N, N))
        found, expected = saddle(net, LINEAR)[0], exact_linear(net, LINEAR).mean
        errors.append([size(found[i] - expected[f"kernel_{i}"]) for i in (1, 2)])
    np.testing.assert_allclose(orders(errors), 2, atol=0.1)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("alpha", "printed"), [(0.25, 0.830), (0.5, 0.733), (1.0, 0.619), (2.0, 0.500)])
def test_linear_saddle_is_wrong_at_points_of_order_width(alpha, printed):
    """E4 (b): the coefficient u of y y^T / N for typical y (3.4). The saddle does not approach one; the exact average
    and the saddle of one scalar do."""

    def coefficient(kernel, y, N):
        return float(y @ (kernel - (1 - 1 / N) * np.eye(len(y))) @ y) * N / len(y) ** 2

    found = {}
    for P in (8, 64):
        N = int(P / alpha)
        y = np.ones(P)
        net, task = fp.Mlp(N, 1, "linear"), fp.Task(np.sqrt(P) * np.eye(P), y, 1e-8)
        found["exact", P] = coefficient(exact_linear(net, task).mean["kernel_1"], y, N)
        found["scalar", P] = coefficient(forward_backward(net, task, scalar=True).mean["kernel_1"], y, N)
    kernels, _ = saddle(fp.Mlp(int(8 / alpha), 1, "linear"), fp.Task(np.sqrt(8) * np.eye(8), np.ones(8), 1e-8))
    by_formula = {
        N: (-(1 - 1 / N) + np.sqrt((1 - 1 / N) ** 2 + 4 * alpha)) / (2 * alpha) for N in (int(8 / alpha), 400)
    }
    np.testing.assert_allclose(coefficient(kernels[1], np.ones(8), int(8 / alpha)), by_formula[8 / alpha], atol=1e-5)
    assert abs(by_formula[400] - printed) < 2e-3
    np.testing.assert_allclose(found["scalar", 64], 1, atol=1e-5)
    assert abs(found["exact", 64] - 1) < 4 / 64 and abs(found["exact", 64] - 1) < abs(found["exact", 8] - 1)


@pytest.mark.slow
@pytest.mark.long
def test_deep_linear_coefficient_at_as_many_points_as_neurons():
    """3.4: L = 2, s = 1.5 P, N = 400: exact 1.637, saddle 1.023, saddle of the scalars 1.635."""
    P = N = 400
    y = np.zeros(P)
    y[0] = np.sqrt(1.5 * P)
    net, task = fp.Mlp(N, 2, "linear"), fp.Task(np.sqrt(P) * np.eye(P), y, 1e-8)
    t, Q = scalar_saddle(1.5 * P, N, 2, 1 - 1 / N)
    plain = (Q**2 - (1 - 1 / N) ** 2) / (t * Q**2)
    found = [exact_linear(net, task).mean["kernel_2"], forward_backward(net, task, scalar=True).mean["kernel_2"]]
    exact_value, scalar_value = ((K[0, 0] - K[1, 1]) / y[0] ** 2 for K in found)
    np.testing.assert_allclose([N * exact_value, N * plain, N * scalar_value], [1.637, 1.023, 1.635], atol=2e-3)


# --- theory 01, F9-F15 ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
def test_gaussian_tilt_of_a_linear_layer_is_f13():
    """Covariance of the first layer's weights by 01 F13, at intermediate chi."""
    net = fp.Mlp(20, 1, "linear", weight_variance=1.2, readout_variance=1.3, scaling=1.5)
    kernels, _ = saddle(net, LINEAR, "gaussian")
    x, y = np.asarray(LINEAR.X), np.asarray(LINEAR.y[:, 0])
    K = net.chi * np.asarray(kernels[1])  # 01's K and noise are those at chi = 1
    G = np.linalg.inv(K + 0.3 * np.eye(4))
    pull = np.outer(G @ y, G @ y) - G / net.chi
    covariance = np.linalg.inv(6 / 1.2 * np.eye(6) - net.chi * 1.3 / 20 * x.T @ pull @ x)
    np.testing.assert_allclose(K, 1.3 * x @ covariance @ x.T, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.long
def test_gaussian_tilt_of_erf_solves_f10_and_is_the_closure_of_adaptation():
    """01 F10 in weight space; at chi = N -> infinity the Gaussian closure of `theory.adaptation`, which has no log
    determinant."""
    N = 1_000_000
    net = fp.Mlp(N, 1, "erf", weight_variance=2.0, readout_variance=1.5, scaling="mean-field")
    found = saddle(net, PAIR, "gaussian")[0][1]
    expected = adaptation(net, PAIR, closure="gaussian").mean["kernel_1"]
    np.testing.assert_allclose(N * found, N * expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.long
def test_two_linear_layers_are_the_two_scalars_of_f15():
    """01 F15: in mean-field scaling the predictor of the Gaussian equations of two hidden layers is that of the saddle
    of two scalars, as N grows."""
    task = fp.Task(LINEAR.X, LINEAR.y[:, 0], 0.3)
    net = fp.Mlp(1_000_000, 2, "linear", (1.2, 0.9), 0.0, 1.3, scaling="mean-field")
    K = saddle(net, task, "gaussian")[0][2] * net.chi
    predictor = K @ np.linalg.solve(K + 0.3 * np.eye(4), task.y[:, 0])
    np.testing.assert_allclose(predictor, rescaling(net, task, order="tree").mean["f"][:, 0], rtol=1e-5)


# --- the gaussian minimum ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("noise", [*(pytest.param(x, marks=pytest.mark.long) for x in (0.2, 0.01)), 1e-3])
def test_the_minimum_solves_the_gaussian_equations(noise):
    """(21) against (22), at as many points as neurons and small noise, where the fixed-point iteration stalls."""
    rng = np.random.default_rng(0)
    task = fp.Task(rng.normal(size=(10, 6)), np.sign(rng.normal(size=10)), noise)
    net = fp.Mlp(10, 2, "erf", weight_variance=1.3, bias_variance=(0.0, 0.05, 0.05))
    kernels, forces = saddle(net, task, "gaussian")
    force = data_force(kernels[2], task.y[:, 0], noise * jnp.eye(10))[0]
    np.testing.assert_allclose(force, forces[1], atol=1e-9 * size(forces[1]))
    for i in (1, 0):
        layer, F = Layer(get("erf"), 1.3, 0.05, 10.0), np.pi / 2 * (np.asarray(kernels[i + 1]) - 0.05) / 1.3
        d = 1 / (1 - np.sin(np.diag(F)))  # the covariance of the measure, from its kernel by (20a)
        S = jnp.asarray(np.sin(F) * np.sqrt(np.outer(d, d)) / 2)
        found, at = gaussian(layer, kernels[i], forces[i], S)
        np.testing.assert_allclose(found, S, atol=1e-8 * size(S))
        if i:
            np.testing.assert_allclose(at.force, forces[0], atol=1e-7 * size(forces[0]))


# --- limits and symmetries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tilt", ["leading", "exact", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_without_data_or_fluctuations_it_is_the_limit(tilt):
    """Identities 3 and 4."""
    limits = deep(10).limit_kernels(X)
    for net, task in ((deep(10), CASE.replace(noise_variance=1e8)), (deep(10**8), CASE)):
        kernels, forces = saddle(net, task, tilt)
        for found, expected in zip(kernels, limits, strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-6)
    for a in (1.0, 3.0):  # identity 5
        kernels, forces = saddle(deep(10), CASE.replace(y=a * Y), tilt)
        K = kernels[2] + 0.2 * np.eye(3)
        np.testing.assert_allclose(np.trace(forces[1] @ K), (a**2 * Y @ np.linalg.solve(K, Y) - 3) / 2, rtol=1e-8)


@pytest.mark.parametrize("tilt", ["leading", "exact", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_sign_of_the_targets_and_order_of_the_points(tilt):
    """Identity 12."""
    kernels, forces = saddle(deep(10), CASE, tilt)
    flipped = saddle(deep(10), CASE.replace(y=-Y), tilt)
    order = np.array([2, 0, 1])
    permuted = saddle(deep(10), fp.Task(X[order], Y[order], 0.2), tilt)
    for pair in zip(kernels + forces, flipped[0] + flipped[1], permuted[0] + permuted[1], strict=True):
        np.testing.assert_allclose(pair[1], pair[0], atol=1e-8)
        np.testing.assert_allclose(pair[2], pair[0][np.ix_(order, order)], atol=1e-6)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("tilt", ["leading", "exact"])
def test_small_arguments_make_erf_linear(tilt):
    """Identity 9: inputs times epsilon, variances after erf times pi / 4; corrections of order epsilon^2."""
    errors = []
    for epsilon in (0.04, 0.02):
        variances = {"weight_variance": (epsilon**2, np.pi / 4), "readout_variance": np.pi / 4 / epsilon**2}
        found = saddle(fp.Mlp(10, 2, "erf", **variances), CASE, tilt)[0][2]
        linear = {"weight_variance": (epsilon**2, 1.0), "readout_variance": 1 / epsilon**2}
        expected = saddle(fp.Mlp(10, 2, "linear", **linear), CASE, tilt)[0][2]
        errors.append(size(found - expected) / size(expected))
    assert errors[0] < 0.02
    np.testing.assert_allclose(orders(errors), 2, atol=0.1)


# --- order of the errors, and what the fluctuations add --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("tilt", ["leading", "exact"])
def test_all_statistics_agree_with_first_order_to_second_order(tilt):
    """Kernels, outputs, variances and evidence of the saddle with its fluctuations against the strict expansion, two
    independent routes to first order in 1/N: they differ by order N^-2."""
    errors = []
    for N in (200, 400):
        net = deep(N)
        found = forward_backward(net, CASE_TEST, tilt)
        base, shift, _ = expansion(numbers(net, CASE_TEST), net.limit_kernels(np.concatenate([X, STAR])))
        total = jax.tree.map(jnp.add, base, shift)
        names = ("kernel_1", "kernel_2", "f", "f_test", "train_loss", "alignment_1", "alignment_2")
        pairs = [(found.mean[n], total.mean[n]) for n in names]
        pairs += [(found.variance[n], total.variance[n]) for n in ("f", "f_test")]
        errors.append([size(a - b) for a, b in (*pairs, (found.log_evidence, total.log_evidence))])
    np.testing.assert_allclose(orders(errors), 2, atol=0.2)


@pytest.mark.slow
@pytest.mark.long
def test_predictor_of_e9():
    """E9 at N = 10, strictly to first order: the printed mean, variance and evidence; the adapted kernel alone in the
    formula of the process moves the mean the wrong way."""
    net = deep(10)
    limit, total = fp.theory.limit(net, CASE_TEST), fp.theory.perturbative(net, CASE_TEST)
    np.testing.assert_allclose(total.mean["f_test"], 0.7690, atol=2e-4)
    np.testing.assert_allclose(total.variance["f_test"], 0.2128, atol=2e-4)
    np.testing.assert_allclose(total.log_evidence, -4.4730, atol=5e-4)
    found = forward_backward(net, CASE_TEST, "exact")
    assert abs(found.mean["f_test"] - 0.7684) < 0.002  # sampled 0.7684(2), limit 0.7752
    K = saddle(net, CASE_TEST, "exact")[0][2]
    plugged = K[3, :3] @ np.linalg.solve(K[:3, :3] + 0.2 * np.eye(3), Y)
    assert plugged > limit.mean["f_test"] + 0.03


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("tilt", "order"), [("leading", 2), ("exact", 2), ("gaussian", 1)])
def test_order_of_the_error_against_the_exact_posterior_of_two_points(tilt, order):
    """One hidden layer in standard scaling, where the prior mean is the limit: second order in 1/N for both tilts,
    first for the Gaussian one (3.3)."""
    errors = []
    for N in (40, 80):
        net = fp.Mlp(N, 1, "erf", weight_variance=2.0, readout_variance=1.5)
        errors.append(size(saddle(net, PAIR, tilt)[0][1] - exact_small(net, PAIR, nodes=49).mean["kernel_1"]))
    np.testing.assert_allclose(orders(errors), order, atol=0.15)


@pytest.mark.slow
@pytest.mark.long
def test_mean_field_readout():
    """E5: adaptation of 46 % to 41 %, N times the relative error flat near 0.2 with the log determinant, and the
    Gaussian tilt 16 % off; the tree of `theory.adaptation` is the limit of large N."""
    scaled, wrong = [], []
    for N in (20, 80):
        net = fp.Mlp(N, 1, "erf", readout_variance=1.5, scaling="mean-field")
        truth, base = exact_small(net, PAIR, nodes=61).mean["kernel_1"], net.limit(PAIR.X)
        change = truth - base
        assert 0.40 < size(change) / size(base) < 0.47
        scaled.append(N * size(saddle(net, PAIR)[0][1] - truth) / size(truth))
        wrong.append(size(saddle(net, PAIR, "gaussian")[0][1] - truth) / size(change))
    assert all(0.15 < s < 0.27 for s in scaled), scaled
    assert 0.13 < wrong[-1] < 0.19, wrong
    net = fp.Mlp(1_000_000, 1, "erf", readout_variance=1.5, scaling="mean-field")
    expected = net.chi * adaptation(net, PAIR).mean["kernel_1"]
    np.testing.assert_allclose(net.chi * saddle(net, PAIR)[0][1], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.long
def test_first_order_change_is_affine_in_the_square_of_the_targets():
    """E10, first half."""
    at = [np.stack(first_order(deep(100), CASE.replace(y=a * Y))) for a in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose((at[2] - at[1]) / 3, (at[1] - at[0]) / 0.75, rtol=1e-9)


# --- against sampled networks -----------------------------------------------------------------------------------------


def sampled_adaptation(N, y, nets, seed):
    """Posterior minus prior mean of both kernels of case S, from the same importance draws: of the kernels themselves,
    layer by layer (4); and the standard errors."""
    rng, noise = np.random.default_rng(seed), 0.2
    erf = jax.jit(jax.scipy.special.erf)
    kernels, weights = [], []
    for _ in range(nets // 10_000):
        K, both = X @ X.T / 4, []
        root = np.broadcast_to(np.linalg.cholesky(K), (10_000, 3, 3))
        for g in (1.5, 1.3):
            phi = np.asarray(erf(root @ rng.normal(size=(10_000, 3, N))))
            K = g / N * phi @ np.swapaxes(phi, 1, 2) + 0.05
            root = np.linalg.cholesky(K)
            both.append(K)
        S = both[1] + noise * np.eye(3)
        log_w = -(y @ np.linalg.solve(S, np.broadcast_to(y[:, None], (10_000, 3, 1)))[..., 0].T) / 2
        kernels.append(np.stack(both, axis=1))
        weights.append(np.exp(log_w) / np.sqrt(np.linalg.det(S)))
    kernels, w = np.concatenate(kernels), np.concatenate(weights)
    w /= w.mean()
    posterior = np.einsum("n,nlab->lab", w, kernels) / len(w)
    influence = w[:, None, None, None] * (kernels - posterior) - (kernels - kernels.mean(0))
    return posterior - kernels.mean(0), influence.std(0) / np.sqrt(len(w))


def relative_errors(N, truth, tilts):
    """Of the two layers' adaptation, by tilt."""
    limits, found = deep(N).limit_kernels(X), {}
    for tilt in tilts:
        if tilt == "strict":
            changes = first_order(deep(N), CASE)
        else:
            changes = [K - K0 for K, K0 in zip(saddle(deep(N), CASE, tilt)[0], limits, strict=True)][1:]
        found[tilt] = [size(d - t) / size(t) for d, t in zip(changes, truth, strict=True)]
    return found


# E2: two layers each
PRINTED = {
    10: {"exact": (0.158, 0.101), "leading": (0.261, 0.182), "gaussian": (0.286, 0.225), "strict": (0.042, 0.059)},
    30: {"exact": (0.061, 0.041), "leading": (0.122, 0.085), "gaussian": (0.252, 0.211), "strict": (0.014, 0.021)},
    100: {
        "exact": (0.018, 0.011),
        "leading": (0.042, 0.029),
        "gaussian": (0.241, 0.211),
        "strict": (0.009, 0.008),
    },
}
NORMS = {10: (1.474, 2.057), 30: (1.506, 2.128), 100: (1.514, 2.153)}


@pytest.mark.parametrize(
    ("N", "tilts", "nets"),
    [
        (10, ("exact", "leading"), 100_000),
        *(pytest.param(N, tuple(PRINTED[N]), 1_000_000, marks=[pytest.mark.slow, pytest.mark.long]) for N in PRINTED),
    ],
)
def test_table_of_e2(N, tilts, nets):
    """Norms and relative errors of the adaptation against importance draws: within what is printed, which has errors
    too, and 5 standard errors of the draws (false alarm < 1e-6 for each of at most ten numbers)."""
    truth, error = sampled_adaptation(N, Y, nets, 1)
    noise = np.array([size(e) / size(t) for e, t in zip(error, truth, strict=True)])
    assert np.all(noise < 0.02)
    assert np.all(np.abs([N * size(t) for t in truth] / np.array(NORMS[N]) - 1) < 0.01 + 5 * noise)
    for tilt, found in relative_errors(N, truth, tilts).items():
        assert np.all(np.abs(np.array(found) - PRINTED[N][tilt]) < 0.01 + 5 * noise), (tilt, found, noise)


@pytest.mark.slow
@pytest.mark.long
def test_sampled_change_follows_first_order_while_it_is_small():
    """E10, second half, at N = 100: relative errors grow with the targets and stay below the change relative to the
    kernel; thresholds are an order above the errors of the draws."""
    limits = deep(100).limit_kernels(X)
    for a in (0.5, 1.0, 2.0):
        truth, error = sampled_adaptation(100, a * Y, 200_000, 2)
        changes = first_order(deep(100), CASE.replace(y=a * Y))
        for t, d, e, K in zip(truth, changes, error, limits[1:], strict=True):
            assert size(d - t) < 6 * size(e) + 3 * size(d) ** 2 / size(K)


# --- as a function ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("tilt", ["leading", "gaussian", "exact"])
def test_predictions_are_differentiable(tilt):
    """Implicit derivatives of a kernel and of a force against central differences."""
    task = fp.Task(PAIR.X, PAIR.y[:, 0], 0.3)

    def moments(theta):
        net = fp.Mlp(12, 2, "erf", weight_variance=(theta[0], theta[1]), readout_variance=1.3)
        found = forward_backward(net, task.replace(noise_variance=theta[2]), tilt, fluctuations=False).mean
        return jnp.stack([found["kernel_2"][0, 1], found["conjugate_kernel_1"][0, 0]])

    theta = jnp.array([1.1, 1.4, 0.3])
    slopes = jax.jit(jax.jacfwd(moments))(theta)
    moments = jax.jit(moments)
    for i in range(3):
        step = 1e-4 * jnp.eye(3)[i]
        np.testing.assert_allclose(slopes[:, i], (moments(theta + step) - moments(theta - step)) / 2e-4, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.long
def test_other_activations_and_many_points_go_through_nodes():
    """ReLU over quasi-random nodes agrees with the strict first order to second order in 1/N."""
    problem = fp.Task(X, Y, 0.5)
    errors = []
    for N in (200, 400):
        net = fp.Mlp(N, 1, "relu", readout_variance=1.5)
        K = forward_backward(net, problem, "exact", fluctuations=False, samples=2**14, key=jax.random.key(1)).mean
        L = forward_backward(net, problem, "leading", fluctuations=False, samples=2**14, key=jax.random.key(1)).mean
        errors.append(size(K["kernel_1"] - L["kernel_1"]))
    np.testing.assert_allclose(orders(errors), 2, atol=0.2)


@pytest.mark.parametrize(
    ("net", "task", "options", "message"),
    [
        (deep(10), CASE, {"tilt": "cubic"}, "tilt='cubic': give"),
        (deep(10), fp.Task(X, np.ones((3, 2)), 0.2), {}, "has 2 outputs"),
        (deep(10), fp.Task(np.ones((5, 4)) + np.eye(5, 4), np.ones(5), 0.2), {"tilt": "exact"}, "give key="),
        (fp.Mlp(10), CASE, {"scalar": True}, "for linear networks"),
        (fp.Mlp(10, 1, "square"), CASE, {"tilt": "exact"}, "grows faster than linearly"),
        (fp.Mlp(10, 1, "random_phase_cosine"), CASE, {"tilt": "exact"}, "random phase"),
    ],
)
def test_bad_arguments_are_refused(net, task, options, message):
    with pytest.raises(ValueError, match=message):
        forward_backward(net, task, **options)


@pytest.mark.slow
@pytest.mark.long
def test_tilts_that_do_not_exist_or_that_nodes_miss_are_refused():
    task = fp.Task(X, 30 * Y, 0.2)
    options = {"tilt": "exact", "key": jax.random.key(0), "fluctuations": False}
    with pytest.raises(ValueError, match=r"cannot be normalised|effective sample size|did not converge"):
        forward_backward(fp.Mlp(3, 1, "relu", scaling="mean-field"), task, **options)
    with pytest.raises(ValueError, match="effective sample size"):
        forward_backward(deep(10), CASE, "exact", fluctuations=False) and forward_backward(
            fp.Mlp(10, 1, "tanh"), fp.Task(np.eye(5), np.ones(5), 0.2), samples=64, **options
        )


def test_float32_and_saturated_networks(monkeypatch):
    with pytest.warns(UserWarning, match=r"not to be trusted at 3 points and 10 neurons"):
        forward_backward(deep(10), CASE, fluctuations=False)
    with jax.enable_x64(False):
        task = fp.Task(X, Y, 0.2)
        with pytest.raises(ValueError, match="needs float64"):
            forward_backward(deep(10), task)


def test_one_point_solves_its_scalar_equations():
    """(15), (16) and the Price form (18) of two layers, averages by a dense grid of one pre-activation."""
    net = fp.Mlp((7, 4), 2, "erf", (1.2, 1.5), (0.1, 0.2, 0.3), 1.3)
    kernels, forces = saddle(net, fp.Task([[1.0, 0.4]], [1.5], 0.2))
    (C_0, C_1, C_2), (T_1, T_2) = (np.squeeze(v) for v in (kernels, forces))
    h = np.linspace(-12, 12, 200_001)
    phi, slope = np.asarray(jax.scipy.special.erf(h)), 2 / np.sqrt(np.pi) * np.exp(-(h**2))

    def layer(C, T, g, bias, N):
        p = np.exp(-(h**2) / (2 * C) + g / N * T * phi**2)
        p /= p.sum()
        force = g * T * p @ (slope**2 - 2 * h * slope * phi) + 2 * g**2 / N * T**2 * p @ (slope * phi) ** 2
        return g * p @ phi**2 + bias, force

    np.testing.assert_allclose(layer(C_0, T_1, 1.5, 0.2, 7)[0], C_1, rtol=1e-9)
    np.testing.assert_allclose(layer(C_1, T_2, 1.3, 0.3, 4), (C_2, T_1), rtol=1e-9)
    np.testing.assert_allclose((1.5**2 / (C_2 + 0.2) ** 2 - 1 / (C_2 + 0.2)) / 2, T_2, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.long
def test_large_pre_activations_take_the_nodes_they_need():
    """A grid too coarse for them is not used: with a key, test points leave the training points as they are."""
    net = fp.Mlp(6, 1, "erf", 12.0, (0.6, 0.2), 1.5)
    X = np.array([[1.0, 0.2], [-0.3, 0.9]])
    task = fp.Task(X, [1.0, -0.8], 0.2)
    more = fp.Task(X, [1.0, -0.8], 0.2, np.array([[0.3, 0.8]]))
    assert net.limit_kernels(X)[0][0, 0] > 6
    with pytest.raises(ValueError, match="too large for a grid"):
        forward_backward(net, more, "exact", fluctuations=False)
    alone = forward_backward(net, task, "exact", fluctuations=False).mean["kernel_1"]
    key = jax.random.key(0)
    found = forward_backward(net, more, "exact", fluctuations=False, key=key).mean["kernel_1"][:2, :2]
    change = size(alone - net.limit_kernels(X)[1])
    assert size(found - alone) < 2e-3 * change


@pytest.mark.slow
@pytest.mark.long
def test_quasi_random_nodes_can_be_compiled():
    net, key = deep(20, "relu"), jax.random.key(0)

    def kernel(noise):
        return forward_backward(net, CASE.replace(noise_variance=noise), key=key, fluctuations=False).mean["kernel_2"]

    np.testing.assert_allclose(jax.jit(kernel)(0.2), kernel(0.2), rtol=1e-9)
