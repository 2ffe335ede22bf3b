"""The mean-field limit: one solution, found from two sides."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import fieldprob as fp
from fieldprob.theory.adaptation.nonlinear import saddle
from fieldprob.theory.adaptation.theory import neuron_and_data
from fieldprob.theory.neuron_sets import quadrature
from fieldprob.theory.setting import setting

RNG = np.random.default_rng(9)
X, Y = RNG.normal(size=(6, 2)), RNG.normal(size=6)
TASK = fp.Task(X, Y, 0.3, X[:2] + 1)


def mean_field(N, activation, task=TASK, **options):
    return fp.theory.mean_field(fp.Mlp(N, 1, activation, 1.5, scaling="mean-field"), task, **options)


@pytest.mark.parametrize(
    "activation", ["linear", "erf", pytest.param("relu", marks=[pytest.mark.slow, pytest.mark.long])]
)
def test_it_is_adaptation_at_any_width(activation):
    """02 (30b), (49): nothing but the scale of the kernel depends on the width; to solver precision."""
    adapted = fp.theory.adaptation(fp.Mlp(16, 1, activation, 1.5, scaling="mean-field"), TASK)
    for N in (16, 256):
        theory = mean_field(N, activation)
        for name, scale in (("f", 1), ("f_test", 1), ("weight_covariance", 1), ("kernel_1", N / 16)):
            np.testing.assert_allclose(theory.mean[name] * scale, adapted.mean[name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(theory.variance["f_test"] * N / 16, adapted.variance["f_test"], rtol=1e-8)


def test_the_self_consistent_measure_by_hand():
    """F16-F17 of theory 01, iterated with damping on a grid in plain NumPy."""
    x = np.linspace(-7, 7, 161) * np.sqrt(0.75)
    w = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)
    phi, phi_test = erf(w @ X.T), erf(w @ np.asarray(TASK.X_test).T)
    delta = np.zeros(6)
    for _ in range(300):
        p = np.exp(-np.sum(w**2, axis=1) / 1.5 + 0.75 * (phi @ delta) ** 2)
        p /= p.sum()
        K = 1.5 * (phi.T * p) @ phi
        delta = 0.7 * delta + 0.3 * np.linalg.solve(K + 0.3 * np.eye(6), Y)
    theory = mean_field(32, "erf")
    np.testing.assert_allclose(theory.mean["f"][:, 0], Y - 0.3 * delta, atol=1e-9)
    np.testing.assert_allclose(theory.mean["f_test"][:, 0], 1.5 * (phi_test.T * p) @ (phi @ delta), atol=1e-9)
    np.testing.assert_allclose(theory.mean["kernel_1"][:6, :6] * 32, K, atol=1e-9)
    np.testing.assert_allclose(theory.mean["weight_covariance"], (w.T * p) @ w, atol=1e-9)


@pytest.mark.slow
def test_two_sides_agree_when_sampled_and_their_error_is_right():
    """Importance samples against the quadrature, 6 standard errors."""
    exact, theory = mean_field(32, "erf"), mean_field(32, "erf", average="importance", key=jax.random.key(4))
    for name, error in theory.error.items():
        assert np.all(np.abs(theory.mean[name] - exact.mean[name]) < 6 * error + 1e-12), name


def test_one_solution_where_the_measure_breaks_the_symmetry():
    """02 (45): a target sign(x_1 x_2) spreads the weights to four times their prior and more; the solutions from both
    sides agree, and those from random fields."""
    task = TASK.replace(y=2 * np.sign(X[:, 0] * X[:, 1]), noise_variance=0.05)
    net = fp.Mlp(16, 1, "erf", 1.5, scaling="mean-field")
    theory = fp.theory.mean_field(net, task)
    assert np.linalg.eigvalsh(theory.mean["weight_covariance"])[-1] > 4 * 0.75
    neuron, data = neuron_and_data("test", setting("test", net, task))
    tau = (data.y - theory.mean["f"][:, 0]) / (0.05 / 16)
    for factors in np.random.default_rng(1).normal(size=(3, 6)):
        found, converged, _ = saddle(neuron, quadrature(neuron), data, 3 * factors * tau)
        assert converged
        np.testing.assert_allclose(found, tau, rtol=1e-9)


def test_disagreement_of_the_two_sides_is_not_converged(monkeypatch):
    module = importlib.import_module("fieldprob.theory.mean_field")
    honest = module.find_saddle

    def dishonest(*arguments, tilted, **options):
        saddle = honest(*arguments, tilted=tilted, **options)
        return saddle if tilted else saddle._replace(tau=saddle.tau * 1.01)

    monkeypatch.setattr(module, "find_saddle", dishonest)
    with pytest.raises(ValueError, match="did not converge: the solutions from the prior and .* differ by 0.01"):
        mean_field(16, "erf")


@pytest.mark.slow
@pytest.mark.long
def test_it_is_jitted_and_differentiated():
    def output(noise):
        return mean_field(16, "erf", fp.Task(X, Y, noise)).mean["f"][0, 0]

    slope = (output(jnp.array(0.3001)) - output(jnp.array(0.2999))) / 2e-4
    assert np.isclose(jax.jit(jax.grad(output))(jnp.array(0.3)), slope, rtol=1e-5)


def test_what_it_is_not_for():
    for net in (fp.Mlp(16), fp.Mlp(16, scaling=1.5), fp.Mlp(16, scaling="mean-field", rescale_noise=False)):
        with pytest.raises(ValueError, match="give scaling='mean-field', rescale_noise=True"):
            fp.theory.mean_field(net, TASK)
    with pytest.raises(ValueError, match="grows faster than linearly"):
        mean_field(16, "square")
    with pytest.raises(ValueError, match="give key="):
        mean_field(16, "erf", average="particles")
