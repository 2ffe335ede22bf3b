"""Neural tangent kernels at infinite width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fieldprob as fp
from fieldprob import activations, kernels

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
Z = jnp.concatenate([X[:2], jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)))])
DEEP = {"activations": ["erf", "relu"], "weight_variance": [1.5, 2.0, 0.7], "bias_variance": [0.1, 0.2, 0.05]}


@pytest.fixture(scope="module")
def joint():
    return kernels.nngp_and_ntk(jnp.concatenate([X, Z]), **DEEP)


def test_the_recursion_is_the_written_formula_layer_by_layer(joint):
    """erf then ReLU, with NumPy (theory 01, A3, A4, A15)."""
    K = 0.1 + 1.5 * np.asarray(X @ X.T) / 3
    T = [K]
    q = 1 + 2 * np.diag(K)
    slope = (4 / np.pi) / np.sqrt(np.outer(q, q) - 4 * K**2)
    K = 0.2 + 2.0 * (2 / np.pi) * np.arcsin(2 * K / np.sqrt(np.outer(q, q)))
    T.append(K + 2.0 * slope * T[-1])
    r = np.sqrt(np.outer(np.diag(K), np.diag(K)))
    theta = np.arccos(np.clip(K / r, -1, 1))
    np.fill_diagonal(theta, 0)
    K = 0.05 + 0.7 * r * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
    T.append(K + 0.7 * (np.pi - theta) / (2 * np.pi) * T[-1])
    for computed, written in zip(joint.ntk, T, strict=True):
        np.testing.assert_allclose(computed[:5, :5], written, rtol=1e-12)


def test_two_layers_without_biases_are_a_sum_over_readout_and_weights():
    """Theta = readout variance [C + (weight variance x.x'/d) C']."""
    K = 1.3 * X @ X.T / 3
    q = jnp.diag(K)
    for name in ("erf", "gelu", "cube"):
        phi = activations.get(name)
        moments = q[:, None], K, q[None, :]
        expected = 0.8 * (phi.dual(*moments) + K * phi.dual_derivative(*moments))
        T = kernels.ntk(X, activations=[name], weight_variance=[1.3, 0.8], bias_variance=[0, 0])[-1]
        np.testing.assert_allclose(T, expected, rtol=1e-12)


SMOOTH_OR_KINKED = [name for name in activations.names() if name not in ("sign", "step")]


@pytest.mark.parametrize("name", SMOOTH_OR_KINKED)
def test_the_tangent_kernel_is_the_response_to_decorrelating_the_parameters_of_each_layer(name):
    """Two copies of a network, parameters of layer l correlated by r_l, have covariance c^(l+1) = r_l (b + w C(c^l))
    at unchanged variances; the derivative at r = 1, summed over layers, is the tangent kernel."""
    phi, w, b = activations.get(name), [0.9, 0.7, 0.4], [0.1, 0.2, 0.05]
    x, y = X[0], X[1]

    def covariance(r):
        q1, q2 = b[0] + w[0] * x @ x / 3, b[0] + w[0] * y @ y / 3
        c = r[0] * (b[0] + w[0] * x @ y / 3)
        for layer in (1, 2):
            q1, c, q2 = (
                b[layer] + w[layer] * phi.dual(q1, q1, q1),
                r[layer] * (b[layer] + w[layer] * phi.dual(q1, c, q2)),
                b[layer] + w[layer] * phi.dual(q2, q2, q2),
            )
        return c

    response = jax.jit(jax.grad(covariance))(jnp.ones(3)).sum()
    T = kernels.ntk(X[:1], X[1:2], activations=[phi] * 2, weight_variance=w, bias_variance=b)[-1]
    np.testing.assert_allclose(T[0, 0], response, rtol=1e-11)


def test_kernels_are_exactly_symmetric_with_exact_diagonals_and_positive(joint):
    diagonals = kernels.ntk_diagonal(jnp.concatenate([X, Z]), **DEEP)
    for T, t in zip(joint.ntk, diagonals, strict=True):
        assert jnp.all(T == T.T)
        np.testing.assert_allclose(jnp.diag(T), t, rtol=1e-15)
    distinct = jnp.array([0, 1, 2, 3, 4, 7, 8])
    assert jnp.linalg.eigvalsh(joint.ntk[-1][distinct][:, distinct])[0] > 0


def test_hermite_expansions_give_symmetric_tangent_kernels_too():
    T = kernels.ntk(X, activations=["tanh", "erf"], weight_variance=[1.5, 1.0, 1.0], bias_variance=[0.1] * 3)
    assert all(jnp.all(t == t.T) for t in T)


def test_two_sets_of_points_give_the_blocks_of_the_joint_kernel(joint):
    both = kernels.nngp_and_ntk(X, Z, **DEEP)
    for block, T in zip(both.ntk, joint.ntk, strict=True):
        np.testing.assert_allclose(block, T[:5, 5:], rtol=1e-7)  # shared points: angle accurate to sqrt(rounding)
    np.testing.assert_allclose(both.ntk[-1][:, 2:], joint.ntk[-1][:5, 7:], rtol=1e-12)
    np.testing.assert_allclose(both.nngp[-1][:, 2:], joint.nngp[-1][:5, 7:], rtol=1e-12)


def test_asking_for_the_output_alone_gives_the_last_of_all_layers(joint):
    both = kernels.nngp_and_ntk(jnp.concatenate([X, Z]), every_layer=False, **DEEP)
    assert len(both.nngp) == len(both.ntk) == 1
    np.testing.assert_allclose(both.nngp[0], joint.nngp[-1], rtol=1e-14)
    np.testing.assert_allclose(both.ntk[0], joint.ntk[-1], rtol=1e-14)


def test_a_critical_relu_network_has_a_tangent_kernel_that_grows_with_its_depth():
    """Weight variance 2, no bias: Theta^(L+1)(x, x) = (L + 1) K^(L+1)(x, x)."""
    options = {"activations": ["relu"] * 4, "weight_variance": [2.0] * 5, "bias_variance": [0.0] * 5}
    T, q = kernels.ntk_diagonal(X, **options), kernels.nngp_diagonal(X, **options)
    for depth, (t, k) in enumerate(zip(T, q, strict=True), start=1):
        np.testing.assert_allclose(t, depth * k, rtol=1e-13)


def test_gradients_in_inputs_and_variances_agree_with_finite_differences_with_coincident_points():
    points = jnp.concatenate([X[:2], X[:1], -X[1:2]])
    probe = jnp.asarray(np.random.default_rng(3).normal(size=(4, 4)))

    @jax.jit
    def energy(points, weight, bias):
        T = kernels.ntk(points, activations=["gelu", "erf"], weight_variance=weight, bias_variance=bias)[-1]
        return jnp.sum(probe * T)

    arguments = (points, jnp.array([1.5, 2.0, 0.5]), jnp.array([0.1, 0.2, 0.3]))
    gradients = jax.grad(energy, argnums=(0, 1, 2))(*arguments)
    step = 1e-4
    for i, (gradient, argument) in enumerate(zip(gradients, arguments, strict=True)):
        direction = jnp.asarray(np.random.default_rng(4 + i).normal(size=argument.shape))
        moved = [energy(*arguments[:i], argument + sign * step * direction, *arguments[i + 1 :]) for sign in (1, -1)]
        np.testing.assert_allclose(jnp.sum(gradient * direction), (moved[0] - moved[1]) / (2 * step), rtol=1e-6)


def test_single_precision_inputs_stay_single(joint):
    T = kernels.ntk(X.astype(jnp.float32), **DEEP)
    assert all(t.dtype == jnp.float32 for t in T)
    np.testing.assert_allclose(T[-1], joint.ntk[-1][:5, :5], rtol=1e-3)


@pytest.mark.parametrize("phi", ["sign", "step", activations.Kinked(lambda z: jnp.sign(z) + z, continuous=False)])
def test_activations_that_jump_have_no_tangent_kernel(phi):
    with pytest.raises(ValueError, match="jumps, so phi' is a distribution"):
        kernels.ntk(X, activations=[phi], weight_variance=[1, 1], bias_variance=[0, 0])
    with pytest.raises(ValueError, match="jumps, so phi' is a distribution"):
        kernels.ntk_diagonal(X, activations=[phi], weight_variance=[1, 1], bias_variance=[0, 0])


def _empirical(net, parameters, points):
    """(d f / d parameters)(d f / d parameters)' of a finite network, by reverse differentiation."""

    def output(parameters):
        return net.outputs(parameters, net.hidden(parameters, points)[-1])[:, 0]

    jacobian = jax.tree.leaves(jax.jacrev(output)(parameters))
    return sum(j.reshape(len(points), -1) @ j.reshape(len(points), -1).T for j in jacobian)


def test_the_tangent_kernel_of_a_linear_model_needs_no_width():
    """Four linear neurons, 20,000 draws: the expected tangent kernel is that of infinite width at any width. Each entry
    within 6 standard errors (false alarm below 1e-7). At mean-field scaling the readout's 1/chi is in it."""
    net = fp.Mlp(4, 1, "linear", 1.3, (0.2, 0.1), readout_variance=0.8, scaling="mean-field")
    keys = jax.random.split(jax.random.key(0), 20_000)

    @jax.jit
    @jax.vmap
    def draw(key):
        k = jax.random.split(key, 4)
        parameters = {
            "weight_0": jax.random.normal(k[0], (4, 3)),
            "bias_0": jax.random.normal(k[1], (4,)),
            "readout": jax.random.normal(k[2], (4, 1)),
            "bias_1": jax.random.normal(k[3], (1,)),
        }
        return _empirical(net, parameters, X[:2])

    T = np.asarray(draw(keys))
    error = T.std(axis=0) / np.sqrt(len(keys))
    assert np.all(np.abs(T.mean(axis=0) - net.limit_tangent(X[:2])) < 6 * error)
    assert np.all(error < 0.03 * np.abs(net.limit_tangent(X[:2])).max())


def test_the_tangent_kernel_of_a_network_includes_its_scaling():
    standard, mean_field = (fp.Mlp(64, 2, "erf", bias_variance=0.1, scaling=s) for s in ("standard", "mean-field"))
    np.testing.assert_allclose(standard.limit_tangent(X), 64 * mean_field.limit_tangent(X), rtol=1e-12)
    np.testing.assert_allclose(standard.limit_tangents(X, Z)[-1], standard.limit_tangent(X, Z), rtol=1e-14)
