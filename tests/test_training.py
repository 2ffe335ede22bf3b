"""Langevin training against the Bayesian posterior: the mapping of losses, decays and temperatures, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import log_density

import fieldprob as fp
from fieldprob.gp import condition
from fieldprob.infer.training import (
    noise_variance,
    prior_variance,
    temperature,
    training_parameters,
    training_potential,
    weight_decay,
)
from fieldprob.infer.trajectories.dynamics import Langevin
from fieldprob.infer.trajectories.ensemble import trajectories

LOSSES = ("half_sum", "sum", "half_mean", "mean")
TASK = fp.tasks.cubic_teacher(7, 3, test=2, noise_variance=0.3, seed=0)


def deep(scaling="mean-field"):
    return fp.Mlp(
        (5, 4), 2, "erf", weight_variance=(1.3, 0.7), bias_variance=(0.2, 0.0, 0.4), readout_variance=1.9,
        scaling=scaling,
    )  # fmt: skip


@pytest.mark.parametrize(("loss", "expected"), list(zip(LOSSES, (0.6, 0.3, 6.0, 3.0), strict=True)))
def test_the_likelihood_variance_of_each_loss_is_the_one_of_the_table(loss, expected):
    """B4 at T = 0.6 and 10 points: T, T/2, P T, P T/2."""
    points = 10 if "mean" in loss else None
    assert noise_variance(0.6, loss=loss, points=points) == pytest.approx(expected, rel=1e-15)
    assert temperature(expected, loss=loss, points=points) == pytest.approx(0.6, rel=1e-15)


def test_weight_decay_and_prior_variance_are_inverse_at_fixed_temperature():
    assert weight_decay(0.25, 0.5) == 2.0 and prior_variance(2.0, 0.5) == 0.25
    assert np.array_equal(weight_decay(np.array([0.5, 2.0]), 1.0), [2.0, 0.5])


@pytest.mark.parametrize("scaling", ["standard", "mean-field"])
def test_decays_are_those_of_the_papers(scaling):
    """B9, and 04 (2.10) at chi = 1: gamma_w = T d / sigma_w^2, gamma_a = kappa^2 N / sigma_a^2 whatever chi is."""
    net = fp.Mlp(50, 1, weight_variance=1.7, readout_variance=0.6, scaling=scaling)
    chi = 50 if scaling == "mean-field" else 1
    T, gamma, _ = training_parameters(net, TASK)
    assert set(gamma) == {"weight_0", "readout"}
    assert float(T) == pytest.approx(0.3 / chi, rel=1e-14)
    assert float(gamma["weight_0"]) == pytest.approx(0.3 * 3 / (chi * 1.7), rel=1e-14)
    assert float(gamma["readout"]) == pytest.approx(0.3 * 50 / 0.6, rel=1e-14)


def test_noise_that_is_not_rescaled_is_the_temperature_itself():
    net = fp.Mlp(50, scaling="mean-field", rescale_noise=False)
    assert float(training_parameters(net, TASK).temperature) == pytest.approx(0.3, rel=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scaling", ["standard", "mean-field"])
def test_the_stationary_law_of_training_is_the_posterior(loss, scaling):
    """-(loss + 1/2 sum gamma theta^2) / T is the log joint density of the NumPyro model, up to one constant (B2)."""
    net = deep(scaling)
    T, gamma, variance = training_parameters(net, TASK, loss)
    potential, initial, _ = training_potential(net, TASK, loss)
    differences = []
    for key in jax.random.split(jax.random.key(1), 4):
        theta = jax.tree.map(lambda x: 1.5 * x, initial(key))
        U = potential(theta) + 0.5 * sum(gamma[site] * jnp.sum(theta[site] ** 2) for site in theta)
        z = {site: theta[site] / jnp.sqrt(variance[site]) for site in theta}
        model = lambda: fp.regression(net, TASK, face="weights")  # noqa: E731
        differences.append(float(log_density(model, (), {}, z)[0] + U / T))
    assert np.ptp(differences) < 1e-10 * max(1, np.abs(differences).max())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scaling", ["standard", "mean-field"])
def test_trained_linear_readout_is_the_gaussian_process_of_its_features(loss, scaling):
    """At fixed hidden weights the loss is quadratic: A S + S A = 2T solved exactly, against GP regression, to 1e-12."""
    net = deep(scaling)
    T, gamma, _ = training_parameters(net, TASK, loss)
    potential, initial, statistics = training_potential(net, TASK, loss)
    theta = initial(jax.random.key(3))
    readout, unravel = ravel_pytree({k: theta[k] for k in ("readout", "bias_2")})
    decay = ravel_pytree({k: jnp.broadcast_to(gamma[k], theta[k].shape) for k in ("readout", "bias_2")})[0]

    def outputs(a):
        values = statistics(theta | unravel(a))
        return jnp.concatenate([values["f"], values["f_test"]])[:, 0]

    def U(a):
        return potential(theta | unravel(a)) + 0.5 * jnp.sum(decay * a**2)

    A, Phi = jax.hessian(U)(readout), jax.jacobian(outputs)(readout)
    best = -jnp.linalg.solve(A, jax.grad(U)(jnp.zeros_like(readout)))
    eigenvalues, V = jnp.linalg.eigh(A)  # Lyapunov: (V^T S V)_ij = 2T delta_ij / (a_i + a_j)
    S = V @ jnp.diag(2 * T / (eigenvalues + eigenvalues)) @ V.T

    variance = training_parameters(net, TASK).prior_variance
    D = jnp.concatenate([jnp.full(1, variance["bias_2"]), jnp.full(4, variance["readout"])])  # keys in sorted order
    K, P = (Phi * D) @ Phi.T, TASK.points
    exact = condition(K[:P, :P], net.effective_noise(TASK), TASK.y, K[:, :P], K)
    assert jnp.max(jnp.abs(A @ S + S @ A - 2 * T * jnp.eye(5))) < 1e-12 * float(T)
    assert jnp.max(jnp.abs(Phi @ best - exact.mean[:, 0])) < 1e-12
    assert jnp.max(jnp.abs(Phi @ S @ Phi.T - exact.covariance)) < 1e-12 * float(jnp.max(K))


def test_the_gaussian_process_test_can_fail():
    """Half the decay, or chi forgotten in the temperature, moves the log density by more than rounding."""
    net = deep()
    T, gamma, variance = training_parameters(net, TASK)
    potential, initial, _ = training_potential(net, TASK)

    def spread(T, gamma):
        found = []
        for key in jax.random.split(jax.random.key(1), 4):
            theta = initial(key)
            U = potential(theta) + 0.5 * sum(gamma[site] * jnp.sum(theta[site] ** 2) for site in theta)
            z = {site: theta[site] / jnp.sqrt(variance[site]) for site in theta}
            found.append(float(log_density(lambda: fp.regression(net, TASK, face="weights"), (), {}, z)[0] + U / T))
        return np.ptp(found)

    assert spread(T, gamma) < 1e-8 < 1e-2 < spread(net.chi * T, gamma)
    assert spread(T, gamma | {"weight_1": gamma["weight_1"] / 2}) > 1e-2


@pytest.mark.slow
@pytest.mark.long
def test_raw_and_whitened_training_are_the_same_process():
    """Langevin on the loss in the network's weights, and on the model with mobility gamma at temperature 1: the same
    steps from the same noise, at any step size."""
    net, times = deep(), [0.0, 0.04, 0.2]
    T, gamma, _ = training_parameters(net, TASK, "mean")
    loss, initial, statistics = training_potential(net, TASK, "mean")
    options = {"times": times, "particles": 3, "seed": 4, "progress": False}
    raw = trajectories(
        potential_fn=loss, initial=initial, weight_decay=gamma, statistics=statistics,
        dynamics=Langevin(step_size=0.02, temperature=T), **options,
    )  # fmt: skip
    whitened = trajectories(net, TASK, mobility=gamma, dynamics=Langevin(step_size=0.02), **options)
    for name in ("f", "f_test", "kernel_2", "train_loss"):
        assert raw["trajectory"][name].dims == whitened["trajectory"][name].dims
        assert np.allclose(raw["trajectory"][name], whitened["trajectory"][name], rtol=1e-10, atol=1e-10)
    assert raw["trajectory"]["f"].std("time").min() > 1e-4


def test_the_loss_is_that_of_the_forward_pass_written_out():
    net, task = deep("standard"), TASK
    loss, initial, statistics = training_potential(net, task, "half_mean")
    theta = initial(jax.random.key(0))
    erf = jax.scipy.special.erf
    assert {k: v.shape for k, v in theta.items()} == {
        "weight_0": (5, 3), "bias_0": (5,), "weight_1": (4, 5), "readout": (4, 1), "bias_2": (1,),
    }  # fmt: skip
    h = erf(task.X @ theta["weight_0"].T + theta["bias_0"])
    f = erf(h @ theta["weight_1"].T) @ theta["readout"] + theta["bias_2"]
    assert jnp.allclose(statistics(theta)["f"], f, rtol=1e-12)
    assert float(loss(theta)) == pytest.approx(float(jnp.mean((task.y - f) ** 2) / 2), rel=1e-12)


def test_initial_weights_have_the_variances_of_the_prior():
    """2000 draws; the variance of each site within 6 standard errors of s^2 (five sites, false alarm 1e-8)."""
    net = deep()
    _, initial, _ = training_potential(net, TASK)
    variance = training_parameters(net, TASK).prior_variance
    draws = jax.vmap(initial)(jax.random.split(jax.random.key(0), 2000))
    for site, x in draws.items():
        ratio = float(jnp.mean(x**2) / variance[site])
        assert abs(ratio - 1) < 6 * np.sqrt(2 / x.size), site


def test_decays_are_differentiable_in_the_noise_and_the_variances():
    def gamma(noise, variance):
        net = fp.Mlp(10, weight_variance=variance)
        return training_parameters(net, TASK.replace(noise_variance=noise)).weight_decay["weight_0"]

    d_noise, d_variance = jax.grad(gamma, (0, 1))(0.3, 2.0)
    assert float(d_noise) == pytest.approx(3 / 2.0) and float(d_variance) == pytest.approx(-0.3 * 3 / 4.0)


def test_random_phases_have_no_variance_to_tune():
    net = fp.Mlp(6, 1, "random_phase_cosine")
    T, gamma, variance = training_parameters(net, TASK)
    assert variance["phase_0"] == 1.0 and gamma["phase_0"] == pytest.approx(float(T))
    assert training_potential(net, TASK).initial(jax.random.key(0))["phase_0"].shape == (6,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: noise_variance(1.0, loss="mse"), ValueError, "loss is 'mse': give one of 'half_sum'"),
        (lambda: noise_variance(1.0, loss="mean"), ValueError, "points is None: the loss 'mean' is a mean"),
        (lambda: noise_variance(1.0, points=3), ValueError, "points is 3, but the loss 'half_sum' is a sum"),
        (lambda: noise_variance(0.0), ValueError, "temperature is 0.0: give a positive"),
        (lambda: temperature(-1), ValueError, "noise_variance is -1"),
        (lambda: weight_decay(float("nan"), 1), ValueError, "prior_variance is nan"),
        (lambda: prior_variance("0.1", 1), ValueError, "weight_decay is '0.1'"),
        (lambda: training_parameters(lambda x: x, TASK), TypeError, "net is a function: give a fieldprob.Mlp"),
        (lambda: training_parameters(deep(), (1, 2)), TypeError, "task is a tuple"),
        (lambda: training_potential(deep(), TASK, "l2"), ValueError, "loss is 'l2'"),
        (
            lambda: training_parameters(deep(), TASK.replace(noise_variance=np.full(7, 0.1))),
            ValueError,
            r"noise_variance of the task has shape \(7,\)",
        ),
        (lambda: training_potential(deep(), TASK).loss({"w": jnp.ones(2)}), ValueError, "theta has w: give a dict"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
