"""Infinitely wide networks as tinygp kernels."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import tinygp

import fieldprob as fp
from fieldprob import kernels
from fieldprob.networks import Convolution, Dense, Flatten

RNG = np.random.default_rng(0)
X, Z, y = RNG.normal(size=(6, 3)), RNG.normal(size=(4, 3)), jnp.asarray(RNG.normal(size=6))
NET: dict[str, Any] = {
    "activations": ["erf", "relu"],
    "weight_variance": [1.5, 2.0, 0.7],
    "bias_variance": [0.1, 0.2, 0.05],
}
KINDS = {"nngp": False, "ntk": True}


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_diagonals_and_entries_are_those_of_the_recursion(kind):
    kernel = kernels.Network(tangent=KINDS[kind], **NET)
    function = getattr(kernels, kind)
    same, other = function(X, **NET)[-1], function(X, Z, **NET)[-1]
    np.testing.assert_allclose(kernel(X, X), same, rtol=1e-14)
    np.testing.assert_allclose(kernel(X, Z), other, rtol=1e-14)
    np.testing.assert_allclose(kernel(X), jnp.diag(same), rtol=1e-14)
    np.testing.assert_allclose(kernel.evaluate(X[0], Z[1]), other[0, 1], rtol=1e-13)
    assert kernel.evaluate(X[0], X[0]) == pytest.approx(float(same[0, 0]), rel=1e-14)  # no angle of sqrt(rounding)
    np.testing.assert_allclose(kernel.evaluate_diag(X[0]), same[0, 0], rtol=1e-14)


def test_sums_and_products_with_other_kernels_are_those_of_the_matrices():
    network, rbf = kernels.Network(**NET), tinygp.kernels.ExpSquared(1.2)
    K, R = network(X, Z), rbf(X, Z)
    for combined, expected in (
        (network + rbf, K + R),
        (rbf + network, K + R),
        (network * rbf, K * R),
        (rbf * network, K * R),
        (2.0 * network + 0.5, 2 * K + 0.5),
        (network * network + 3 * (rbf + network) * network, K * K + 3 * (R + K) * K),
        (sum([network, rbf]), K + R),
    ):
        np.testing.assert_allclose(combined(X, Z), expected, rtol=1e-12)
        np.testing.assert_allclose(jax.vmap(lambda x, c=combined: c.evaluate(x, Z[0]))(X), expected[:, 0], rtol=1e-12)
        np.testing.assert_allclose(combined(X), jnp.diag(combined(X, X)), rtol=1e-12)


def test_a_gaussian_process_of_tinygp_is_regression_with_the_kernel():
    for kernel in (kernels.Network(**NET), kernels.Network(tangent=True, **NET) + tinygp.kernels.Matern32(2.0)):
        gp = tinygp.GaussianProcess(kernel, X, diag=0.1)
        S = kernel(X, X) + 0.1 * jnp.eye(6)
        evidence = -0.5 * y @ jnp.linalg.solve(S, y) - 0.5 * jnp.linalg.slogdet(2 * np.pi * S)[1]
        np.testing.assert_allclose(gp.log_probability(y), evidence, rtol=1e-10)
        conditioned = gp.condition(y, Z, diag=0.0).gp
        gain = jnp.linalg.solve(S, kernel(X, Z)).T
        np.testing.assert_allclose(conditioned.loc, gain @ y, rtol=1e-10)
        np.testing.assert_allclose(conditioned.variance, kernel(Z) - jnp.sum(gain * kernel(Z, X), 1), rtol=1e-8)


def test_the_evidence_is_differentiable_in_the_variances_of_every_layer():
    def evidence(kernel):
        return tinygp.GaussianProcess(kernel, X, diag=0.1).log_probability(y)

    def at(weight):
        return kernels.Network(["erf", "relu"], tuple(weight), (0.1, 0.2, 0.05), tangent=True)

    weight = jnp.array([1.5, 2.0, 0.7])
    gradient = jax.jit(jax.grad(lambda weight: evidence(at(weight))))(weight)
    for layer in range(3):
        step = 1e-5 * jnp.eye(3)[layer]
        finite = (evidence(at(weight + step)) - evidence(at(weight - step))) / 2e-5
        np.testing.assert_allclose(gradient[layer], finite, rtol=1e-6)


def test_points_may_be_numbers_and_batches_of_kernels_vmap():
    kernel = kernels.Network(["erf"], [1.0, 1.0], [0.1, 0.0])
    x = jnp.linspace(-1, 1, 5)
    np.testing.assert_allclose(kernel(x, x), kernel(x[:, None], x[:, None]), rtol=1e-14)
    assert tinygp.GaussianProcess(kernel, x, diag=0.1).log_probability(jnp.sin(x)).shape == ()
    batch = jax.vmap(lambda w: kernels.Network(["erf"], (w, 1.0), (0.1, 0.0))(x, x))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(batch[1], kernel(x, x), rtol=1e-14)


def test_bad_input_names_the_argument_and_the_value():
    with pytest.raises(ValueError, match="weight_variance has 1 entries for 1 activations"):
        kernels.Network(["erf"], [1.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="jumps"):
        kernels.Network(["sign"], [1.0, 1.0], [0.0, 0.0], tangent=True)
    with pytest.raises(ValueError, match="they must be points of one space"):
        kernels.Network(["erf"], [1.0, 1.0], [0.0, 0.0])(X, Z[:, :2])


@pytest.mark.slow
@pytest.mark.long
def test_any_network_is_a_kernel_through_its_limit():
    layers = (Convolution(4, filter_size=3), "relu", Flatten(), Dense())
    net = fp.Sequential(*layers, positions=(3, 3))
    points, other = RNG.normal(size=(5, 9)), RNG.normal(size=(4, 9))
    kernel = 2.0 * kernels.Limit(net) + tinygp.kernels.ExpSquared(1.0)
    rbf = tinygp.kernels.ExpSquared(1.0)
    np.testing.assert_allclose(kernel(points, other), 2 * net.limit(points, other) + rbf(points, other), rtol=1e-14)
    np.testing.assert_allclose(kernel(points), jnp.diagonal(kernel(points, points)), rtol=1e-14)
    entries = jax.vmap(lambda x: jax.vmap(lambda z: kernel.evaluate(x, z))(jnp.asarray(other)))(jnp.asarray(points))
    np.testing.assert_allclose(entries, kernel(points, other), rtol=1e-13)
    tangent = kernels.Limit(net, tangent=True)
    np.testing.assert_allclose(tangent(points), jnp.diagonal(net.limit_tangent(points)), rtol=1e-13)
    process = tinygp.GaussianProcess(kernel, jnp.asarray(points), diag=0.1)
    expected = scipy.stats.multivariate_normal(cov=kernel(points, points) + 0.1 * np.eye(5)).logpdf(np.ones(5))
    np.testing.assert_allclose(process.log_probability(jnp.ones(5)), expected, rtol=1e-12)


def test_a_network_itself_is_no_kernel():
    with pytest.raises(TypeError, match=r"kernels.Limit\(network\)"):
        fp.Mlp(8) + tinygp.kernels.ExpSquared()  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
    with pytest.raises(ValueError, match="no infinite-width limit"):
        kernels.Limit(tinygp.kernels.ExpSquared())


# --- what must not pass -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda X: kernels.nngp(X, **NET),
        lambda X: kernels.ntk(X, **NET),
        lambda X: list(kernels.blocks(X, **NET)),
        lambda X: kernels.Network(**NET)(X, X),
        lambda X: kernels.erf_derivatives(X, weight_variance=[1.0, 1.0], bias_variance=[0.0, 0.0]),
    ],
)
def test_inputs_that_are_no_numbers_are_refused(call):
    with pytest.raises(ValueError, match="first in row 1"):
        call(jnp.array([[1.0, 2.0, 3.0], [jnp.nan, 1.0, 1.0]]))
    with pytest.raises(ValueError, match="first in row 0"):
        call(jnp.array([[jnp.inf, 2.0, 3.0]]))
    with pytest.raises(ValueError, match="complex"):
        call(jnp.array([[1j, 2.0, 3.0]]))


def test_one_name_for_all_activations_is_refused():
    with pytest.raises(ValueError, match="pass a list"):
        kernels.nngp(X, activations="relu", weight_variance=[1, 1], bias_variance=[0, 0])


def test_inaccurate_averages_of_numerical_activations_are_reported():
    """tanh at variance 100: E[phi'^2] of the expansion is 8 % low (by a sum over 10^5 nodes)."""
    net: dict[str, Any] = {"activations": ["tanh"], "weight_variance": [100, 100], "bias_variance": [0, 0]}
    with pytest.warns(UserWarning, match="'tanh' at variance 100"):
        kernels.ntk(np.ones((2, 3)), **net)
    with pytest.warns(UserWarning, match="'tanh' at variance"):
        kernels.criticality("tanh", 100.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernels.ntk(np.ones((2, 3)), **(net | {"weight_variance": [2, 2]}))


def test_kernels_that_do_not_fit_are_refused_with_advice():
    big = jnp.zeros((10**6, 1))
    dense = fp.Sequential(Dense(8), "relu", Dense())
    for call in (
        lambda: fp.Mlp(8).limit(big),
        lambda: dense.limit(big),
        lambda: kernels.derivatives.gradient(kernels.Network(["erf"], [1, 1], [0, 0]), big),
        lambda: kernels.erf_derivatives(big, weight_variance=[1, 1], bias_variance=[0, 0]),
    ):
        with pytest.raises(MemoryError, match="blocks|points at a time"):
            call()
