"""The recursion of layer covariances at infinite width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fieldprob import activations, kernels

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
Z = jnp.concatenate([X[:2], jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)))])
DEEP = {"activations": ["erf", "relu"], "weight_variance": [1.5, 2.0, 0.7], "bias_variance": [0.1, 0.2, 0.05]}


@jax.jit
def deep(X1, X2=None):
    return kernels.nngp(X1, X2, **DEEP)


def test_a_deep_linear_network_has_the_kernel_of_a_linear_model():
    """K^(L+1) = (prod of weight variances) X X' / d when there are no biases."""
    K = kernels.nngp(X, activations=["linear"] * 3, weight_variance=[2.0, 0.5, 3.0, 0.7], bias_variance=[0.0] * 4)
    assert len(K) == 4
    np.testing.assert_allclose(K[-1], 2.0 * 0.5 * 3.0 * 0.7 * X @ X.T / 3, rtol=1e-12)


def test_the_recursion_is_the_written_formula_layer_by_layer():
    K = [0.1 + 1.5 * np.asarray(X @ X.T) / 3]
    d = np.diag(K[0])
    K.append(0.2 + 2.0 * (2 / np.pi) * np.arcsin(2 * K[0] / np.sqrt(np.outer(1 + 2 * d, 1 + 2 * d))))
    d = np.sqrt(np.diag(K[1]))
    theta = np.arccos(np.clip(K[1] / np.outer(d, d), -1, 1))
    np.fill_diagonal(theta, 0)
    K.append(0.05 + 0.7 * np.outer(d, d) * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi))
    for computed, written in zip(deep(X), K, strict=True):
        np.testing.assert_allclose(computed, written, rtol=1e-12)


def test_kernels_are_exactly_symmetric_with_exact_diagonals():
    computed = deep(X)
    diagonals = jax.jit(lambda X: kernels.nngp_diagonal(X, **DEEP))(X)
    for K, q in zip(computed, diagonals, strict=True):
        assert jnp.all(K == K.T)
        np.testing.assert_allclose(jnp.diag(K), q, rtol=1e-15)
    assert jnp.linalg.eigvalsh(computed[-1])[0] > 0
    q = diagonals[0]
    np.testing.assert_allclose(jnp.diag(computed[1]), 0.2 + 2.0 * activations.get("erf").dual(q, q, q), rtol=1e-15)


def test_two_sets_of_points_give_the_blocks_of_the_joint_kernel():
    joint = deep(jnp.concatenate([X, Z]))
    for block, K in zip(deep(X, Z), joint, strict=True):
        np.testing.assert_allclose(block, K[:5, 5:], rtol=1e-7)  # shared points: angle accurate to sqrt(rounding)
    np.testing.assert_allclose(deep(X, Z)[-1][:, 2:], joint[-1][:5, 7:], rtol=1e-12)


def test_the_limit_is_the_average_over_wide_random_networks():
    """One hidden layer of 400,000 neurons; each entry within 6 standard errors (false alarm below 1e-7)."""
    rng, width = np.random.default_rng(2), 400_000
    for name, phi in (("relu", lambda z: np.maximum(z, 0)), ("tanh", np.tanh)):
        z = np.sqrt(1.5 / 3) * np.asarray(X) @ rng.normal(size=(3, width)) + np.sqrt(0.1) * rng.normal(size=width)
        products = phi(z)[:, None] * phi(z)[None]
        error = 2.0 * products.std(axis=-1) / np.sqrt(width)
        K = kernels.nngp(X, activations=[name], weight_variance=[1.5, 2.0], bias_variance=[0.1, 0.2])[-1]
        assert np.all(np.abs(0.2 + 2.0 * products.mean(axis=-1) - K) < 6 * error)


@pytest.mark.parametrize("phi", ["relu", "gelu", activations.Kinked(jax.nn.elu)], ids=["relu", "gelu", "elu"])
def test_gradients_in_inputs_and_variances_agree_with_finite_differences_with_coincident_points(phi):
    points = jnp.concatenate([X[:2], X[:1], -X[1:2]])  # one point twice, one point and its mirror image
    probe = jnp.asarray(np.random.default_rng(3).normal(size=(4, 4)))

    @jax.jit
    def energy(points, weight, bias):
        return jnp.sum(probe * kernels.nngp(points, activations=[phi], weight_variance=weight, bias_variance=bias)[-1])

    arguments = (points, jnp.array([1.5, 2.0]), jnp.array([0.1, 0.2]))
    gradients = jax.grad(energy, argnums=(0, 1, 2))(*arguments)
    step = 1e-4
    for i, (gradient, argument) in enumerate(zip(gradients, arguments, strict=True)):
        direction = jnp.asarray(np.random.default_rng(4 + i).normal(size=argument.shape))
        moved = [energy(*arguments[:i], argument + sign * step * direction, *arguments[i + 1 :]) for sign in (1, -1)]
        finite = (moved[0] - moved[1]) / (2 * step)
        np.testing.assert_allclose(jnp.sum(gradient * direction), finite, rtol=2e-4 if phi != "gelu" else 1e-6)


def test_a_zero_input_without_bias_has_a_zero_finite_gradient():
    points = X.at[0].set(0.0)
    options = {"activations": ["relu", "relu"], "weight_variance": [2.0] * 3, "bias_variance": [0.0] * 3}
    K, pull = jax.vjp(jax.jit(lambda x: kernels.nngp(x, **options)[-1]), points)
    assert jnp.all(K[0] == 0) and jnp.all(jnp.isfinite(pull(jnp.ones_like(K))[0]))


def test_the_erf_network_flows_to_its_known_fixed_point():
    """Weight variance 2, bias variance 0.1: q*, and the slopes of the correlation and variance maps there."""
    depth = 80
    options = {"weight_variance": [2.0] * (depth + 1), "bias_variance": [0.1] * (depth + 1)}
    q = kernels.nngp_diagonal(X[:1], activations=["erf"] * depth, **options)[-1][0]
    assert f"{float(q):.13f}" == "1.0462553601214"
    erf = activations.get("erf")
    assert f"{float(2.0 * erf.dual_derivative(q, q, q)):.13f}" == "1.1183167661184"
    susceptibility = jax.grad(lambda q: 2.0 * erf.dual(q, q, q))(q)
    assert f"{float(susceptibility):.10f}" == "0.3616209828"


def test_relu_with_weight_variance_two_keeps_every_length():
    K = kernels.nngp(X, activations=["relu"] * 4, weight_variance=[2.0] * 5, bias_variance=[0.0] * 5)
    np.testing.assert_allclose(jnp.diag(K[-1]), jnp.diag(K[0]), rtol=1e-13)


def test_single_precision_inputs_stay_single():
    K = deep(X.astype(jnp.float32))
    assert all(k.dtype == jnp.float32 for k in K)
    np.testing.assert_allclose(K[-1], deep(X)[-1], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_variance": [1.0, 1.0]}, "weight_variance has 2 entries for 2 activations: it needs 3"),
        ({"weight_variance": 1.0}, "weight_variance is one number"),
        ({"bias_variance": [0.0, -1.0, 0.0]}, r"bias_variance\[1\] = -1.0"),
        ({"weight_variance": [1.0, np.nan, 1.0]}, r"weight_variance\[1\] = nan"),
        ({"activations": ["erf", "relo"]}, "relo"),
        ({"X1": X[0]}, r"X1 has shape \(3,\)"),
        ({"X2": X[:, :2]}, "X2 has 2 inputs but X1 has 3"),
    ],
)
def test_bad_input_names_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.nngp(**({"X1": X} | DEEP | arguments))
