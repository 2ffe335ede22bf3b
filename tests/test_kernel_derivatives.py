"""Derivatives of kernels with respect to inputs: closed forms, automatic differentiation, brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tinygp
from scipy.special import erf, ndtr

from fieldprob import kernels
from fieldprob.activations import Kinked
from fieldprob.kernels import derivatives

RNG = np.random.default_rng(0)
X, Y = jnp.asarray(RNG.normal(size=(3, 2))), jnp.asarray(RNG.normal(size=(2, 2)))
BOTH = jnp.concatenate([X, Y])
OPERATORS = (derivatives.gradient, derivatives.mixed, derivatives.laplacian, derivatives.double_laplacian)
WEIGHT, BIAS = [1.3, 0.8], [0.2, 0.1]

# phi, phi', phi'' in NumPy
PHI = {
    "erf": (
        erf,
        lambda z: 2 / np.sqrt(np.pi) * np.exp(-(z**2)),
        lambda z: -4 / np.sqrt(np.pi) * z * np.exp(-(z**2)),
    ),
    "gelu": (
        lambda z: z * ndtr(z),
        lambda z: ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
        lambda z: (2 - z**2) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
    ),
    "sin": (np.sin, np.cos, lambda z: -np.sin(z)),
}


def test_closed_forms_of_the_erf_covariance_are_its_automatic_derivatives():
    """Theory 01, A19-A21, to rounding, coincident points and five inputs included."""
    points = jnp.asarray(RNG.normal(size=(4, 5)))
    points = points.at[3].set(points[0])
    closed = kernels.erf_derivatives(points, weight_variance=WEIGHT, bias_variance=BIAS)
    k = kernels.Network(["erf"], WEIGHT, BIAS)
    for operator, written in zip(OPERATORS, closed, strict=False):
        np.testing.assert_allclose(operator(k, points), written, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(operator(k.evaluate, points), written, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", PHI)
def test_derivatives_are_gaussian_averages_of_derivatives_of_the_activation(name):
    """Gauss-Hermite over the two weights and the bias of one neuron: E[phi' phi w], E[phi' phi' w w^T],
    E[phi'' phi |w|^2], E[phi'' phi'' |w|^4]; all pairs of five points, each with itself too."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    keep = weights > 1e-20
    nodes, weights = nodes[keep], weights[keep] / weights.sum()
    w = np.sqrt(WEIGHT[0] / 2) * np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    density = WEIGHT[1] * np.outer(weights, weights).ravel()
    orders = [0, 0, 0]
    for bias, share in zip(np.sqrt(BIAS[0]) * nodes, weights, strict=True):
        z = np.asarray(BOTH) @ w.T + bias
        orders = [total + [f(z)] for total, f in zip([[]] * 3, PHI[name], strict=True)]
        value, first, second = (order[0] for order in orders)
        p, square = share * density, np.sum(w**2, axis=1)
        parts = (
            np.einsum("am,bm,m,mi->abi", first, value, p, w),
            np.einsum("am,bm,mij->abij", first, first, p[:, None, None] * w[:, :, None] * w[:, None, :], optimize=True),
            (second * p * square) @ value.T,
            (second * p * square**2) @ second.T,
        )
        if bias == np.sqrt(BIAS[0]) * nodes[0]:
            brute = list(parts)
        else:
            brute = [b + part for b, part in zip(brute, parts, strict=True)]
    k = kernels.Network([name], WEIGHT, BIAS)
    for operator, expected in zip(OPERATORS, brute, strict=True):
        np.testing.assert_allclose(operator(k, BOTH), expected, rtol=1e-10, atol=1e-12)


def test_relu_derivatives_are_averages_over_the_half_planes_where_both_neurons_are_active():
    """E[1 1 w w^T] for weights in the plane: the mean of n n^T over the common half circle; at coincident points half
    of the weights' covariance. The Laplacian is an average over the line where the neuron at x is at its kink."""
    s = 1.3 / 2
    k = kernels.Network(["relu"], [1.3, 0.8], [0.0, 0.0])
    mixed, laplace = derivatives.mixed(k, BOTH), derivatives.laplacian(k, BOTH)
    angle = (np.arange(400_000) + 0.5) / 400_000 * 2 * np.pi
    n = np.stack([np.cos(angle), np.sin(angle)], -1)
    active = np.asarray(BOTH) @ n.T > 0
    for i in range(5):
        for j in range(5):
            both = n[active[i] & active[j]]
            expected = 0.8 * s * 2 * both.T @ both / len(angle)  # E r^2 = 2
            np.testing.assert_allclose(mixed[i, j], expected, atol=3e-5)
            x, y = np.asarray(BOTH[i]), np.asarray(BOTH[j])
            across = np.abs(x[0] * y[1] - x[1] * y[0]) / np.linalg.norm(x)
            # delta(w.x) |w|^2 relu(w.y): w = +-r perpendicular to x with density exp(-r^2/2s) / (2 pi s) dr / |x|
            cubed = 2 * s**2  # int r^3 exp(-r^2/2s) dr
            np.testing.assert_allclose(
                laplace[i, j], 0.8 * cubed * across / (2 * np.pi * s * np.linalg.norm(x)), rtol=1e-7, atol=1e-9
            )
    np.testing.assert_allclose(mixed[0, 0], 0.8 * s / 2 * np.eye(2), rtol=1e-14)


DEEP = {
    "erf, gelu": (["erf", "gelu"], False),
    "tanh, tangent": (["tanh"], True),
    "gelu, erf, tangent": (["gelu", "erf"], True),
    "relu, relu": (["relu", "relu"], False),
    "erf, relu, tangent": (["erf", "relu"], True),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n if n in ("erf, gelu", "erf, relu, tangent") else pytest.param(n, marks=pytest.mark.slow) for n in DEEP]
)
def test_derivatives_of_deep_kernels_agree_with_finite_differences(name):
    phis, tangent = DEEP[name]
    layers = len(phis) + 1
    k = kernels.Network(phis, [1.5, 1.2, 0.9][:layers], [0.1, 0.2, 0.05][:layers], tangent=tangent)
    h = 1e-3
    shifts = jnp.concatenate([jnp.zeros((1, 2)), h * jnp.eye(2), -h * jnp.eye(2)])
    values = np.asarray(k((X[:, None] + shifts).reshape(-1, 2), (Y[:, None] + shifts).reshape(-1, 2)))
    values = values.reshape(3, 5, 2, 5).transpose(0, 2, 1, 3)
    first = (values[:, :, 1:3] - values[:, :, 3:]) / (2 * h)
    mixed = (first[..., 1:3] - first[..., 3:]) / (2 * h)
    laplacian = (values[:, :, 1:].sum(2) - 4 * values[:, :, 0])[..., 0] / h**2
    for operator, finite in zip(OPERATORS, (first[..., 0], mixed, laplacian), strict=False):
        np.testing.assert_allclose(operator(k, X, Y), finite, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_both_ways_of_differentiating_agree_for_deep_kernels_with_coincident_points():
    """Through |x|^2, x.x', |x'|^2 and directly."""
    k = kernels.Network(["gelu", "erf"], [1.5, 1.2, 0.9], [0.1, 0.2, 0.05], tangent=True)
    for operator in OPERATORS[:3]:
        np.testing.assert_allclose(operator(k, X), operator(k.evaluate, X), rtol=1e-9, atol=1e-11)


def test_the_covariance_of_two_laplacians_is_a_laplacian_of_a_laplacian():
    k = kernels.Network(["gelu"], WEIGHT, BIAS)
    h = 2e-3
    shifts = jnp.concatenate([jnp.zeros((1, 2)), h * jnp.eye(2), -h * jnp.eye(2)])
    moved = derivatives.laplacian(k, X, (Y[:, None] + shifts).reshape(-1, 2)).reshape(3, 2, 5)
    finite = (moved[..., 1:].sum(-1) - 4 * moved[..., 0]) / h**2
    np.testing.assert_allclose(derivatives.double_laplacian(k, X, Y), finite, rtol=1e-4)


def test_derivatives_of_sums_and_products_and_of_other_kernels():
    """ExpSquared with unit scale: d_x d_x'^T k = (1 - r r^T) k; a sum adds, a product follows Leibniz."""
    rbf, k = tinygp.kernels.ExpSquared(1.0), kernels.Network(["erf"], WEIGHT, BIAS)
    r = X[:, None] - Y[None]
    value = jnp.exp(-jnp.sum(r**2, -1) / 2)
    np.testing.assert_allclose(derivatives.gradient(rbf, X, Y), -r * value[..., None], rtol=1e-12)
    mixed = (jnp.eye(2) - r[..., :, None] * r[..., None, :]) * value[..., None, None]
    np.testing.assert_allclose(derivatives.mixed(rbf, X, Y), mixed, rtol=1e-12)
    np.testing.assert_allclose(
        derivatives.laplacian(k + 2.0 * rbf, X, Y),
        derivatives.laplacian(k, X, Y) + 2 * (jnp.sum(r**2, -1) - 2) * value,
        rtol=1e-11,
    )
    product = derivatives.gradient(k, X, Y) * value[..., None] - k(X, Y)[..., None] * r * value[..., None]
    np.testing.assert_allclose(derivatives.gradient(k * rbf, X, Y), product, rtol=1e-11)


def test_derivatives_are_differentiable_in_hyperparameters_and_compile():
    def energy(weight):
        k = kernels.Network(["erf"], [weight, 0.8], BIAS)
        return jnp.sum(derivatives.mixed(k, X))

    finite = (energy(1.3 + 1e-5) - energy(1.3 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(energy))(1.3), finite, rtol=1e-8)


MISSING = {
    "the tangent kernel of a kink, gradient": (["relu"], True, derivatives.gradient),
    "the covariance of a kink, both Laplacians": (["relu"], False, derivatives.double_laplacian),
    "the covariance of a jump, gradient": (["sign"], False, derivatives.gradient),
    "a kink after a smooth layer, tangent": (["erf", "leaky_relu"], True, derivatives.laplacian),
}


@pytest.mark.parametrize("name", MISSING)
def test_derivatives_that_do_not_exist_at_coincident_points_are_refused(name):
    phis, tangent, operator = MISSING[name]
    layers = len(phis) + 1
    k = kernels.Network(phis, [1.5] * layers, [0.1] * layers, tangent=tangent)
    with pytest.raises(ValueError, match=r"does not exist .* at 3 pairs of points, the first X1\[0\], X2\[0\]"):
        operator(k, X)
    assert np.isfinite(operator(k, X, Y)).all()
    assert np.isnan(jax.jit(operator)(k, X)[0, 0]).all()


def test_a_kernel_with_a_rough_part_is_as_rough():
    k = kernels.Network(["relu"], WEIGHT, BIAS, tangent=True) + tinygp.kernels.ExpSquared(1.0)
    with pytest.raises(ValueError, match="does not exist"):
        derivatives.gradient(k, X)


def test_the_tangent_kernel_of_a_callable_with_a_kink_has_no_derivatives_by_quadrature():
    k = kernels.Network([Kinked(jax.nn.elu)], WEIGHT, BIAS, tangent=True)
    with pytest.raises(ValueError, match="second derivatives of the Gaussian averages"):
        derivatives.gradient(k, X, Y)


def test_a_zero_input_without_bias_has_no_gradient_under_relu():
    k = kernels.Network(["relu"], [1.5, 1.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="does not exist"):
        derivatives.gradient(k, jnp.zeros((1, 2)), X)
    assert np.isfinite(derivatives.mixed(k, X, -2 * X)).all()  # opposite points: the covariance has two derivatives


@pytest.mark.long
@pytest.mark.parametrize("name", ["erf", "gelu", "tanh", "sin", "cos", "random_phase_cosine", "cube", "exp"])
@pytest.mark.slow
def test_smooth_activations_have_every_derivative_at_coincident_and_vanishing_points(name):
    k = kernels.Network([name], [0.5, 0.6], [0.0, 0.1], tangent=name == "gelu")
    points = jnp.concatenate([jnp.zeros((1, 2)), X[:1]])
    for operator in OPERATORS[: 3 if name == "tanh" else 4]:
        assert np.isfinite(operator(k, points)).all()


def test_a_kink_that_is_hidden_inside_another_kernel_is_refused():
    kinked = kernels.Network(["relu"], [2.0, 2.0], [0.1, 0.1], tangent=True)
    with pytest.raises(ValueError, match="cannot be located inside a Linear"):
        derivatives.gradient(tinygp.transforms.Linear(jnp.array(1.0), kinked), X)
    smooth = kernels.Network(["erf"], [2.0, 2.0], [0.1, 0.1])
    scaled = derivatives.gradient(tinygp.transforms.Linear(jnp.array(2.0), smooth), X)
    np.testing.assert_allclose(scaled, 2 * derivatives.gradient(smooth, 2 * X), rtol=1e-12)


def test_closed_derivatives_of_erf_do_not_cancel_at_large_inputs():
    """At coincident x = (s, 0): d_2 d_2' k = 4 w_0 w_1 / (2 pi sqrt(1 + 2 w_0 s^2)), twice the inputs' 1/2."""
    result = kernels.erf_derivatives([[1e8, 0.0]], weight_variance=[1.0, 1.0], bias_variance=[0.0, 0.0])
    expected = 4 / np.pi * 0.5 / np.sqrt(1 + 2 * 1e16)
    np.testing.assert_allclose(result.mixed[0, 0, 1, 1], expected, rtol=1e-12)
