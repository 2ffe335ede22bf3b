"""Networks as random kernels: the finite network fluctuates around its limit, scaling rules, faces, bad arguments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

import fieldprob as fp
from fieldprob.networks.regression import default_kernel_points, feature_dtype, regression

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(3, 5)))
TASK = fp.Task(RNG.normal(size=(6, 5)), RNG.normal(size=6), 0.2, RNG.normal(size=(2, 5)), RNG.normal(size=2))


def random_kernels(net, X, networks, key):
    """Layer kernels of many networks drawn from the prior, (networks, layers, points, points)."""

    def one(key):
        with numpyro.handlers.seed(rng_seed=key):
            parameters = net.sample_hidden(X.shape[1])
        return jnp.stack(net.layer_kernels(net.hidden(parameters, X), X))

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, networks)))


@pytest.mark.parametrize("activation", ["erf", "relu", "random_phase_cosine"])
def test_kernel_of_a_wide_random_network_is_the_limit(activation):
    """Mean over networks within 6 standard errors plus the O(depth / N) bias (false alarm below 1e-6)."""
    net = fp.Mlp(
        (300, 200), 2, activation, weight_variance=(1.7, 1.2), bias_variance=(0.2, 0.1, 0.3), readout_variance=0.8
    )
    kernels = random_kernels(net, X, 300, jax.random.key(0))
    limit = np.stack(net.limit_kernels(X))
    error = kernels.std(0) / np.sqrt(len(kernels))
    assert np.all(np.abs(kernels.mean(0) - limit) < 6 * error + 2 / 200 * np.max(np.abs(limit)) + 1e-12)
    np.testing.assert_allclose(net.limit(X[:2], X[2:]), limit[-1][:2, 2:], rtol=1e-12)
    np.testing.assert_allclose(net.limit_variance(X), np.diag(limit[-1]), rtol=1e-12)


def test_kernel_fluctuations_fall_as_one_over_width():
    """Var K is proportional to 1/N: ratio 4 between widths 20 and 80 within 25 % (4000 networks: 6 sd is 22 %)."""
    variance = [random_kernels(fp.Mlp(n, 1, "erf"), X, 4000, jax.random.key(1))[:, -1].var(0).mean() for n in (20, 80)]
    assert 3.0 < variance[0] / variance[1] < 5.0


def test_chi_divides_readout_and_noise_so_that_the_limit_mean_does_not_move():
    means = []
    for scaling in ("standard", 1.5, "mean-field"):
        net = fp.Mlp(50, 1, "erf", bias_variance=0.3, scaling=scaling)
        assert net.chi == pytest.approx(50 ** {"standard": 0, 1.5: 0.5, "mean-field": 1}[scaling])
        assert net.effective_noise(TASK) == pytest.approx(0.2 / net.chi)
        means.append(fp.theory.limit(net, TASK).mean["f_test"])
    np.testing.assert_allclose(means[1], means[0], rtol=1e-10)
    np.testing.assert_allclose(means[2], means[0], rtol=1e-10)
    assert fp.Mlp(50, 1, scaling="mean-field", rescale_noise=False).effective_noise(TASK) == 0.2


def test_chi_uses_the_width_of_the_last_hidden_layer():
    assert fp.Mlp((7, 30), 2, scaling="mean-field").chi == 30


def test_readout_variance_is_the_weight_variance_unless_given():
    assert fp.Mlp(3, 1, weight_variance=1.5).readout_variance == 1.5
    assert fp.Mlp(3, 2, weight_variance=(1.5, 0.7)).readout_variance == 0.7
    assert fp.Mlp(3, 1, weight_variance=1.5, readout_variance=2.0).readout_variance == 2.0


def test_weights_face_has_the_covariance_of_the_collapsed_face():
    """Given the hidden weights, outputs over readouts have covariance K (5e4 readouts, 6 standard errors)."""
    net = fp.Mlp(6, 1, "erf", bias_variance=0.4, scaling=1.3)
    with numpyro.handlers.seed(rng_seed=0):
        parameters = net.sample_hidden(5)
    phi = net.hidden(parameters, X)[-1]
    K = np.asarray(net.layer_kernels([phi], X)[-1])

    def outputs(key):
        with numpyro.handlers.seed(rng_seed=key):
            return net.outputs(net.sample_readout(1), phi)[:, 0]

    f = np.asarray(jax.jit(jax.vmap(outputs))(jax.random.split(jax.random.key(2), 50_000)))
    error = np.sqrt((np.outer(np.diag(K), np.diag(K)) + K**2) / len(f))
    assert np.max(np.abs(f.T @ f / len(f) - K) / error) < 6


def test_faces_are_numpyro_statements():
    net = fp.Mlp(4, 2, ["erf", "relu"], bias_variance=(0.1, 0.0, 0.2))
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        f = net.weights(X, outputs=2)
    assert f.shape == (3, 2)
    assert set(trace) == {"weight_0", "bias_0", "weight_1", "readout", "bias_2"}
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        K = net.collapsed(X)
    assert K.shape == (3, 3) and jnp.asarray(K).shape == (3, 3)
    assert set(trace) == {"weight_0", "bias_0", "weight_1"}
    assert K.features.shape == (3, 5)  # four neurons and the bias


@pytest.mark.parametrize("face", ["weights", "collapsed", "kernels", "limit"])
def test_every_face_registers_the_same_statistics(face):
    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(regression).get_trace(fp.Mlp(4, 2), TASK, face=face)
    sites = {k: v["value"].shape for k, v in trace.items() if v["type"] == "deterministic"}
    expected = {"f": (6, 1), "f_test": (2, 1), "train_loss": (), "test_loss": (), "alignment_1": (), "alignment_2": ()}
    expected |= {f"kernel_{i}": (8, 8) for i in range(3)}
    assert expected.items() <= sites.items()
    assert set(sites) - set(expected) <= {"f_conditional_variance", "f_test_conditional_variance"}
    assert trace["y"]["is_observed"] and trace["y"]["value"].shape == (6, 1)


@pytest.mark.parametrize("noise", ["point", "matrix"])
def test_noise_per_point_and_matrix_reach_the_likelihood_of_both_faces(noise):
    value = np.linspace(0.1, 0.6, 6)
    task = TASK.replace(noise_variance=value if noise == "point" else np.diag(value))
    reference = TASK.replace(noise_variance=value)
    net = fp.Mlp(4)
    for face in ("weights", "collapsed"):
        traces = []
        for t in (task, reference):
            with numpyro.handlers.seed(rng_seed=0):
                traces.append(numpyro.handlers.trace(regression).get_trace(net, t, face=face, precision="full"))
        log_prob = [jnp.sum(t["y"]["fn"].log_prob(t["y"]["value"])) for t in traces]
        assert np.isclose(*log_prob, rtol=1e-10)


def test_prior_predictive_has_the_prior_covariance():
    """`Predictive` works on the collapsed face: 4000 draws of y have variance K + noise within 6 standard errors."""
    net = fp.Mlp(40, 1, "erf")

    def model(task):
        numpyro.sample("y", fp.gp.Marginal(net.collapsed(task.X), net.effective_noise(task), task.outputs))

    y = numpyro.infer.Predictive(model, num_samples=4000)(jax.random.key(0), TASK)["y"][..., 0]
    variance = np.diag(net.limit(TASK.X)) + 0.2
    assert np.all(np.abs(np.mean(np.asarray(y) ** 2, 0) / variance - 1) < 6 * np.sqrt(2 / 4000) * 1.1)


def test_mixed_precision_is_chosen_only_where_it_is_accurate():
    assert feature_dtype(fp.Mlp(4), TASK) == jnp.float32
    assert feature_dtype(fp.Mlp(4, activation="relu"), TASK) == jnp.float64
    assert feature_dtype(fp.Mlp(4), TASK.replace(noise_variance=1e-6)) == jnp.float64
    assert feature_dtype(fp.Mlp(4), TASK, "full") == jnp.float64
    assert feature_dtype(fp.Mlp(4, activation="relu"), TASK, "mixed") == jnp.float32
    with pytest.raises(ValueError, match="precision is 'half'"):
        feature_dtype(fp.Mlp(4), TASK, "half")


def test_float32_is_refused_where_it_cannot_resolve_the_noise():
    with jax.enable_x64(False):
        task = fp.Task(np.ones((4, 2)), np.ones(4), 1e-6)
        with pytest.raises(ValueError, match="noise_variance is too small .* in float32"):
            feature_dtype(fp.Mlp(4), task)
        assert feature_dtype(fp.Mlp(4), task.replace(noise_variance=0.01)) == jnp.float32


def test_limit_is_differentiable_in_every_variance_and_the_inputs():
    net = fp.Mlp(10, 2, "relu", bias_variance=0.1)
    gradient = eqx.filter_grad(lambda n: fp.theory.limit(n, TASK).log_evidence)(
        jax.tree.map(lambda v: jnp.asarray(float(v)), net)
    )
    assert all(np.isfinite(g) for g in jax.tree.leaves(gradient)) and len(jax.tree.leaves(gradient)) == 6
    step = 1e-5
    up, down = (
        fp.theory.limit(fp.Mlp(10, 2, "relu", (1 + s, 1.0), 0.1, 1.0), TASK).log_evidence for s in (step, -step)
    )
    assert np.isclose(gradient.weight_variance[0], (up - down) / (2 * step), rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(lambda X: jnp.sum(net.limit(X)))(jnp.concatenate([X, X]))))


def test_recorded_points_are_all_if_few_else_spread_over_train_and_test():
    assert default_kernel_points(TASK).tolist() == list(range(8))
    many = fp.Task(np.ones((100, 1)), np.ones(100), 1.0, np.ones((50, 1)))
    points = default_kernel_points(many)
    assert len(points) == 24 and (points < 100).sum() == 12 and points.max() == 149


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": 2.5}, "width is 2.5"),
        ({"width": (3, 4)}, "width has 2 entries"),
        ({"depth": 0}, "depth is 0"),
        ({"width": "a"}, "width is 'a'"),
        ({"width": None}, "width is None"),
        ({"width": float("inf")}, "width is inf"),
        ({"weight_variance": "1"}, "weight_variance is '1'"),
        ({"weight_variance": True}, "weight_variance is True"),
        ({"rescale_noise": "no"}, "rescale_noise is 'no'"),
        ({"activation": "erfc"}, "erfc"),
        ({"weight_variance": 0.0}, "weight_variance is 0.0"),
        ({"weight_variance": -1.0}, "weight_variance is -1.0"),
        ({"weight_variance": float("nan")}, "weight_variance is nan"),
        ({"weight_variance": "big"}, "weight_variance is 'big'"),
        ({"bias_variance": (0.1, -0.1)}, "bias_variance"),
        ({"bias_variance": (0.1, 0.1, 0.1)}, "bias_variance has 3 entries"),
        ({"readout_variance": 0.0}, "readout_variance is 0.0"),
        ({"scaling": "lazy"}, "scaling is 'lazy'"),
        ({"scaling": float("inf")}, "scaling is inf"),
        ({"scaling": 0.5}, "scaling is 0.5"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        fp.Mlp(**({"width": 4} | kwargs))


def test_numpy_numbers_and_arrays_are_numbers():
    net = fp.Mlp(np.array([3, 4]), np.int64(2), weight_variance=np.array([1.0, 2.0]), scaling=np.float32(1.5))
    assert net.widths == (3, 4) and net.chi == 2.0


def test_wrong_inputs_and_faces_are_named():
    net = fp.Mlp(4)
    with pytest.raises(ValueError, match="X1 has 15 entries that are NaN"):
        net.limit(X * np.nan)
    with pytest.raises(ValueError, match="X1 is complex"):
        net.limit(X * 1j)
    with pytest.raises(TypeError, match="net is a Task"):
        fp.theory.limit(TASK, TASK)
    with pytest.raises(ValueError, match="X1 has shape"):
        net.limit(jnp.ones(3))
    with pytest.raises(ValueError, match="X1 has 5 inputs and X2 has 2"):
        net.limit(X, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="no face 'dual'; it has: weights, collapsed, kernels, limit"):
        regression(net, TASK, face="dual")
