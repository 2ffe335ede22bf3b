"""Kernel rescaling: the tables of theory 02, slopes in the width, and identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fieldprob as fp
from fieldprob.theory import exact_linear, rescaling
from tests.test_exact_linear import NOISE, TASK, X, Y, alignments, at_chi, ising, linear

ORDERS = ("tree", "saddle", "corrected")
DEEP = fp.Task(
    np.random.default_rng(7).normal(size=(20, 40)),
    np.random.default_rng(8).normal(size=20),
    0.3,
    np.random.default_rng(9).normal(size=(6, 40)),
)


def error(theory, exact, task):
    """Relative error of the mean training discrepancy."""
    difference = jnp.linalg.norm(theory.mean["f"] - exact.mean["f"])
    return float(difference / jnp.linalg.norm(task.y - exact.mean["f"]))


def printed(value, digits):
    return f"{value:.{digits - 1}e}"


@pytest.mark.parametrize(
    ("chi", "row"),
    [
        (1, ("2.8e-02", "2.6e-02", "2.4e-03", "1.2e-05")),
        (4, ("1.9e-01", "3.0e-02", "2.9e-03", "4.8e-06")),
        (16, ("7.4e-01", "2.5e-02", "1.6e-03", "3.9e-06")),
        (100, ("2.3e+00", "1.4e-02", "4.0e-04", "9.1e-08")),
        (400, ("4.4e+00", "8.2e-03", "1.5e-04", "1.5e-08")),
    ],
)
def test_table_e3_at_hundred_neurons(chi, row):
    """The document prints 9e-8 at chi = 100."""
    net, task = at_chi(100, chi, 0.5, 0.2, ising(80, 200, 0.1, 1.0))
    exact = exact_linear(net, task)
    theories = [fp.theory.limit(net, task), *(rescaling(net, task, order) for order in ORDERS)]
    assert tuple(printed(error(theory, exact, task), 2) for theory in theories) == row


def test_table_e3_and_slopes_in_the_width():
    """Tree -1, saddle -1, corrected -2, at both scalings; tree loses to the limit at chi = 1 on these data.

    The document prints 2.7e-2 for the tree level at N = chi = 40, which is 0.026498.
    """
    task, widths = ising(4, 20, 0.1, 0.5), (40, 160, 640)
    expected = {
        "standard": (
            ("4.9e-02", "1.3e-02", "3.2e-03"), ("1.6e-02", "4.1e-03", "1.0e-03"), ("1.3e-04", "9.2e-06", "5.9e-07")
        ),
        "mean-field": (
            ("2.6e-02", "6.7e-03", "1.7e-03"), ("7.7e-03", "1.9e-03", "4.8e-04"), ("4.2e-05", "2.6e-06", "1.6e-07")
        ),
    }  # fmt: skip
    for scaling, table in expected.items():
        errors = []
        for width in widths:
            net = linear(width, scaling, weight_variance=0.5, readout_variance=2.0)
            exact = exact_linear(net, task)
            errors.append([error(rescaling(net, task, order), exact, task) for order in ORDERS])
            beaten = error(fp.theory.limit(net, task), exact, task) > errors[-1][0]
            assert beaten == (scaling == "mean-field")
        assert tuple(tuple(printed(e, 2) for e in column) for column in zip(*errors, strict=True)) == table
        slopes = np.polyfit(np.log(widths), np.log(errors), 1)[0]
        np.testing.assert_allclose(slopes, (-1, -1, -2), atol=0.1)


@pytest.mark.parametrize(
    ("width", "scaling", "alignment"), [(20, "mean-field", 2.700), (160, "mean-field", 2.898), (20, "standard", 0.921)]
)
def test_table_e4_rescaling_is_isotropic(width, scaling, alignment):
    task = ising(8, 30, 0.15, 0.5, seed=9)
    net = linear(width, scaling)
    K = fp.theory.limit(net, task).mean["kernel_1"]
    measured = alignments(rescaling(net, task).mean["kernel_1"], K, task.y[:, 0])
    assert [round(a, 3) for a in measured] == [alignment] * 2


def test_quadrature_is_exact_for_linear_networks():
    """The outputs and the evidence; the kernel it attributes to the network is not the network's."""
    net = linear(4, "mean-field", weight_variance=1.2, bias_variance=(0.3, 0.0))
    exact, theory = exact_linear(net, TASK), rescaling(net, TASK, "quadrature")
    for name in ("f", "f_test", "readout_norm", "train_loss", "test_loss"):
        np.testing.assert_allclose(theory.mean[name], exact.mean[name], rtol=1e-10)
    np.testing.assert_allclose(theory.covariance["f_test"], exact.covariance["f_test"], rtol=1e-9)
    np.testing.assert_allclose(theory.log_evidence, exact.log_evidence, rtol=1e-12)
    assert np.abs(theory.mean["kernel_1"] - exact.mean["kernel_1"]).max() > 0.01


@pytest.mark.parametrize("order", ["tree", "saddle"])
def test_saddle_point_by_hand(order):
    """(18)-(27) written out with dense matrices, for correlated noise: root, mean and both covariance blocks."""
    N, net = 6, linear(6, "mean-field", weight_variance=1.2)
    K = np.asarray(net.limit(jnp.asarray(X)))
    noise, theory = NOISE / 6, rescaling(net, TASK, order)
    s = float(theory.mean["rescaling_1"])
    A = s * K[:3, :3] + noise
    t, A_inverse = np.linalg.solve(A, Y), np.linalg.inv(A)
    trace = 0.0 if order == "tree" else np.trace(K[:3, :3] @ A_inverse)
    assert np.isclose(1 / s, 1 - (t @ K[:3, :3] @ t - trace) / N, rtol=1e-12)
    np.testing.assert_allclose(theory.mean["f_test"][:, 0], s * K[3:, :3] @ t, rtol=1e-12)
    slope = K[:, :3] @ A_inverse @ noise @ t  # d(s K t)/ds
    loops = 0.0 if order == "tree" else 0.5 * np.trace(np.linalg.matrix_power(K[:3, :3] @ A_inverse, 2))
    curvature = N / (2 * s**2) - loops + t @ K[:3, :3] @ A_inverse @ K[:3, :3] @ t
    covariance = s * K - s**2 * K[:, :3] @ A_inverse @ K[:3] + np.outer(slope, slope) / curvature
    np.testing.assert_allclose(theory.covariance["f"], covariance[:3, :3], rtol=1e-9)
    np.testing.assert_allclose(theory.covariance["f_test"], covariance[3:, 3:], rtol=1e-9)
    if order == "tree":  # the matrix form (27)
        v = K[:, :3] @ t
        M = A + 2 * s**2 / N * np.outer(v[:3], v[:3])
        np.testing.assert_allclose(theory.covariance["f"], noise - noise @ np.linalg.solve(M, noise), rtol=1e-9)
        C = K + s / N * np.outer(v, v)  # (28): the adapted kernel has the same mean predictor, (29)
        adapted = C[:, :3] @ np.linalg.solve(C[:3, :3] + noise, Y)
        np.testing.assert_allclose(adapted[3:], theory.mean["f_test"][:, 0], rtol=1e-12)


def test_tree_level_depends_on_chi_over_width_alone():
    """(30b): (N, chi) = (20, 4) and (80, 16)."""
    a, b = (rescaling(*at_chi(width, chi, 0.5, 1.3, TASK), "tree").mean for width, chi in ((20, 4), (80, 16)))
    np.testing.assert_allclose(a["f_test"], b["f_test"], rtol=1e-13)
    np.testing.assert_allclose(a["rescaling_1"], b["rescaling_1"], rtol=1e-13)


def test_zero_targets():
    """Item 4 of 02 section 6: the tree level keeps the kernel, the saddle point shrinks it."""
    zero = fp.Task(X[:3], np.zeros(3), NOISE)
    assert np.isclose(rescaling(linear(5), zero, "tree").mean["rescaling_1"], 1.0, rtol=1e-14)
    assert rescaling(linear(5), zero).mean["rescaling_1"] < 0.95


def test_large_and_small_noise():
    """Item 7: the prior at large noise; at small noise f -> y and 01 F5, Q^2 - (1 - P/N) Q - y K^-1 y / N = 0."""
    net = linear(6)
    large = rescaling(net, TASK.replace(noise_variance=1e8))
    assert np.isclose(large.mean["rescaling_1"], 1.0, rtol=1e-7) and jnp.abs(large.mean["f"]).max() < 1e-7
    small = rescaling(net, TASK.replace(noise_variance=1e-9))
    K = np.asarray(net.limit(TASK.X))
    b = 1 - 3 / 6
    root = (b + np.sqrt(b**2 + 4 * Y @ np.linalg.solve(K, Y) / 6)) / 2
    assert np.isclose(small.mean["rescaling_1"], root, rtol=1e-7)
    np.testing.assert_allclose(small.mean["f"][:, 0], Y, atol=1e-7)


def test_errors_of_variance_and_evidence_fall_with_width():
    """Variance and Laplace evidence as 1/N, their corrected versions as 1/N^2."""
    task = ising(4, 20, 0.1, 0.5)
    errors = []
    for width in (80, 320):
        net = linear(width, weight_variance=0.5, readout_variance=2.0)
        exact = exact_linear(net, task)
        row = []
        for order in ("saddle", "corrected"):
            theory = rescaling(net, task, order)
            row += [
                jnp.abs(theory.variance["f"] - exact.variance["f"]).max(),
                abs(theory.log_evidence - exact.log_evidence),
            ]
        errors.append(row)
    slopes = np.log(np.divide(*errors)) / np.log(4)
    np.testing.assert_allclose(slopes[:3], (1, 1, 2), atol=0.2)
    assert slopes[3] > 1.8


def test_nonlinear_network_is_its_limit_kernel_rescaled():
    """01 F6: a linear network on features whose Gram matrix is the erf kernel has the same outputs."""
    net = fp.Mlp(7, activation="erf", weight_variance=1.5, readout_variance=0.8, scaling="mean-field")
    K = net.limit(jnp.asarray(X)) * net.chi / 0.8
    F = np.linalg.cholesky(K + 1e-14 * np.eye(5)) * np.sqrt(5)
    same = fp.Task(F[:3], Y, NOISE, F[3:])
    for order in ("saddle", "quadrature"):
        a = rescaling(net, TASK, order)
        b = rescaling(linear(7, "mean-field", readout_variance=0.8), same, order)
        np.testing.assert_allclose(a.mean["f_test"], b.mean["f_test"], rtol=1e-9)
        np.testing.assert_allclose(a.covariance["f_test"], b.covariance["f_test"], rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("order", [pytest.param("tree", marks=[pytest.mark.slow, pytest.mark.long]), "saddle"])
def test_deep_factors_solve_their_equations_and_approach_the_exact_answer(order):
    """02 (60): Q_l = 1 + B/N_l. The error of the mean falls as 1/N at chi = N, where both orders are leading."""
    errors = []
    for width in (50, 200):
        net = linear((width, width + 10), "mean-field", weight_variance=(1.2, 0.9), readout_variance=0.9)
        theory, exact = rescaling(net, DEEP, order), exact_linear(net, DEEP)
        q = np.array([theory.mean["rescaling_1"], theory.mean["rescaling_2"]])
        K = np.asarray(net.limit(DEEP.X))
        A = np.prod(q) * K + 0.3 / net.chi * np.eye(20)
        t = np.linalg.solve(A, np.asarray(DEEP.y[:, 0]))
        B = np.prod(q) * (t @ K @ t - (order == "saddle") * np.trace(np.linalg.solve(A, K)))
        np.testing.assert_allclose(q, 1 + B / np.array(net.widths), rtol=1e-10)
        np.testing.assert_allclose(theory.mean["kernel_2"][:20, :20], np.prod(q) * K, rtol=1e-10)
        variance = jnp.abs(theory.variance["f_test"] / exact.variance["f_test"] - 1).max()
        errors.append([error(theory, exact, DEEP), float(variance)])
    np.testing.assert_allclose(np.log(np.divide(*errors)) / np.log(4), 1.0, atol=0.1)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_e7_errors_of_deep_saddle_points(depth):
    """02 E7: chi = N, P = 20, d = 40: the error of the discrepancy falls as 1/N at every depth."""
    errors = []
    for width in (25, 50, 100, 200):
        net = fp.Mlp(width, depth, "linear", scaling="mean-field")
        errors.append(error(rescaling(net, DEEP), exact_linear(net, DEEP), DEEP))
    slope = np.polyfit(np.log([25, 50, 100, 200]), np.log(errors), 1)[0]
    assert abs(slope + 1) < 0.12


@pytest.mark.slow
@pytest.mark.long
def test_deep_nonlinear_factors_minimise_the_action():
    """01 F8 for erf, written out with NumPy: no other factors, on a grid around, have a lower action."""
    net = fp.Mlp((9, 14), 2, "erf", weight_variance=(1.4, 1.1), readout_variance=0.9, bias_variance=(0.2, 0.1, 0.0))
    theory = rescaling(net, TASK)

    def action(q):
        K = 0.2 + 1.4 * X[:3] @ X[:3].T / 4
        for factor, variance, bias in zip(q, (1.1, 0.9), (0.1, 0.0), strict=True):
            r = 1 + 2 * np.diag(K)
            K = bias + factor * variance * 2 / np.pi * np.arcsin(2 * K / np.sqrt(np.outer(r, r)))
        S = K + NOISE
        return np.array([9, 14]) @ (q - np.log(q)) + Y @ np.linalg.solve(S, Y) + np.linalg.slogdet(S)[1]

    q = np.array([theory.mean["rescaling_1"], theory.mean["rescaling_2"]])
    around = [action(q * np.exp(h * np.array([a, b]))) for h in (1e-3, 0.3) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    assert action(q) <= min(around) + 1e-12


@pytest.mark.parametrize(
    ("order", "depth"),
    [
        pytest.param("tree", 1, marks=[pytest.mark.slow, pytest.mark.long]),
        ("saddle", 1),
        pytest.param("corrected", 1, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param("saddle", 2, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_derivatives_in_the_variances_are_finite_differences(order, depth):
    def value(v):
        net = fp.Mlp(7, depth, "linear", weight_variance=v[0], readout_variance=v[1], scaling="mean-field")
        theory = rescaling(net, TASK.replace(noise_variance=v[2]), order)
        return jnp.sum(theory.mean["f_test"]) + jnp.sum(theory.covariance["f_test"]) + theory.mean["readout_norm"]

    at, h = jnp.array([1.2, 0.9, 0.3]), 1e-5
    finite = [(value(at + h * e) - value(at - h * e)) / (2 * h) for e in jnp.eye(3)]
    np.testing.assert_allclose(jax.grad(value)(at), finite, rtol=1e-6)


def test_maps_over_scale_and_noise():
    def predict(readout, noise):
        net = linear(5, readout_variance=readout)
        return rescaling(net, TASK.replace(noise_variance=noise)).mean["f_test"]

    chi = jnp.array([1.0, 4.0])
    mapped = jax.vmap(predict)(0.8 / chi, 0.3 / chi)
    np.testing.assert_allclose(mapped[1], predict(0.2, 0.075), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.long
def test_deep_rescaling_is_jitted_mapped_and_differentiated():
    """In the readout variance against central differences; a map over targets is a loop."""

    def predict(readout, y):
        net = fp.Mlp((5, 4), 2, "erf", readout_variance=readout, scaling="mean-field")
        return rescaling(net, TASK.replace(y=y)).mean["f_test"][:, 0]

    def with_slope(readout, y):
        return jax.jvp(lambda readout: predict(readout, y), (readout,), (jnp.ones(()),))

    y, h = TASK.y[:, 0], 1e-4
    readouts, targets = jnp.array([0.8, 0.8 + h, 0.8 - h, 0.8]), jnp.stack([y, y, y, y[::-1]])
    values, slopes = jax.jit(jax.vmap(with_slope))(readouts, targets)
    one = jax.jit(predict)
    np.testing.assert_allclose(values[jnp.array([0, 3])], [one(0.8, y), one(0.8, y[::-1])], rtol=1e-8)
    np.testing.assert_allclose(slopes[0], (values[1] - values[2]) / (2 * h), rtol=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match="order is 'loop': give one of 'tree'"):
        rescaling(linear(3), TASK, "loop")
    with pytest.raises(ValueError, match="order 'corrected' is for one hidden layer, and net has 2"):
        rescaling(linear((3, 3)), TASK, "corrected")
    with pytest.raises(ValueError, match="no bias at the readout"):
        rescaling(fp.Mlp(3, bias_variance=0.1), TASK)
    with pytest.raises(TypeError, match="fully connected"):
        rescaling(lambda X: X @ X.T, TASK)


@pytest.mark.parametrize("order", ["saddle", "tree"])
def test_deep_factors_where_the_covariance_is_nearly_singular(order):
    """More points than inputs at small noise: the factors hardly depend on the noise."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(4, 3)), 15 * random.normal(size=4)
    net = fp.Mlp((3, 3), 2, "linear", readout_variance=1.3)
    a, b = (fp.theory.rescaling(net, fp.Task(X, y, noise), order).mean["rescaling_1"] for noise in (1e-3, 1e-4))
    np.testing.assert_allclose(a, b, rtol=1e-3)
