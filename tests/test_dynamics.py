"""Dynamics at infinite width (theory 01, G1-G6): against matrix exponentials, simulated Langevin dynamics, and networks
of finite width under gradient flow."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import fieldprob as fp
from fieldprob.infer.training import training_parameters, training_potential
from fieldprob.infer.trajectories.dynamics import GradientFlow, Langevin
from fieldprob.infer.trajectories.ensemble import trajectories
from fieldprob.theory.dynamics import LinearDynamics, gradient_flow, langevin
from fieldprob.theory.dynamics.modes import integrated_decay, integrated_decay_difference, sandwich, sandwich_diagonal

# X10 of theory 01: a linear model of 30 parameters, 5 data, and 3 test points.
D, P, G, T, S0 = 30, 5, 0.4, 0.3, 0.8
RNG = np.random.default_rng(10)
X, X_TEST = RNG.normal(size=(P, D)), RNG.normal(size=(3, D))
Y = RNG.normal(size=(P, 1))
TASK = fp.Task(X, Y, T, X_TEST, RNG.normal(size=3))
PHI = np.concatenate([X, X_TEST]) / np.sqrt(D)  # every point is a query
TIMES = np.array([0.0, 0.1, 0.7, 2.0, 6.0, 7.0])
predict = partial(langevin, temperature=T, weight_decay=G, initial_variance=S0)


def linear(X1, X2):
    return X1 @ X2.T / X1.shape[1]


def model(phi=PHI, y=Y, g=G, T=T, s0=S0, initial=None):
    K, P = jnp.asarray(phi @ phi.T), len(y)
    g, T, s0 = (jnp.asarray(v) for v in (g, T, s0))  # arrays, so that one compilation serves all
    return LinearDynamics(K[:P, :P], K[:, :P], K, jnp.asarray(y), g, T, s0, initial)


@eqx.filter_jit
def moments(model, times):
    """Means, variances, two-time covariances, and autocovariances of the times with themselves in reverse."""
    covariance = jax.vmap(jax.vmap(model.covariance, (None, 0)), (0, None))(times, times)
    return model.mean(times), model.variance(times), covariance, model.autocovariance(times, times[::-1])


@eqx.filter_jit
def linear_response(model, later, earlier):
    return model.response(later, earlier), model.covariance_rate(later, earlier)


@eqx.filter_jit
def ratio(model, later, earlier):
    return model.fluctuation_dissipation_ratio(later, earlier)


@eqx.filter_jit
def covariance(model, first, second):
    return model.covariance(first, second)


def brute_force(phi, y, g, T, s0, first, second):
    """Mean at the first time and covariance between two in weight space: matrix exponentials only (Van Loan 1978)."""
    P, D = len(y), phi.shape[1]
    A, zero = g * np.eye(D) + phi[:P].T @ phi[:P], np.zeros((D, D))
    t, later = min(first, second), max(first, second)
    augmented = scipy.linalg.expm(first * np.block([[-A, phi[:P].T @ y], [np.zeros((1, D)), np.zeros((1, 1))]]))
    block = scipy.linalg.expm(t * np.block([[-2 * A, 2 * T * np.eye(D)], [zero, zero]]))
    equal = s0 * scipy.linalg.expm(-2 * A * t) + block[:D, D:]
    lagged = equal @ scipy.linalg.expm(-A * (later - t))
    C = phi @ (lagged if first <= second else lagged.T) @ phi.T
    return phi @ augmented[:D, D:], C


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("g", [G, 0.0, 1e-9])
@pytest.mark.parametrize("case", ["more parameters than data", "fewer parameters than data", "repeated points"])
def test_mean_and_covariance_are_matrix_exponentials(case, g):
    """G1, G2, G4 with null modes of every kind, to 1e-12: also without weight decay, where some modes diffuse."""
    phi = PHI
    if case == "fewer parameters than data":
        phi = RNG.normal(size=(8, 3))
    elif case == "repeated points":
        phi = np.concatenate([PHI[:1], PHI[:1], PHI[2:]])
    found = model(phi, g=g)
    mean, variance, covariance, lagged = moments(found, jnp.asarray(TIMES))
    for i, first in enumerate(TIMES):
        for j, second in enumerate(TIMES):
            m, C = brute_force(phi, Y, g, T, S0, first, second)
            np.testing.assert_allclose(covariance[i, j], C, rtol=0, atol=1e-12 * max(1, first))
        np.testing.assert_allclose(mean[i], m, rtol=0, atol=1e-12)
        np.testing.assert_allclose(variance[i], np.diagonal(covariance[i, i]), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(lagged, [np.diagonal(covariance[i, 5 - i]) for i in range(6)], rtol=1e-11, atol=1e-13)


def test_divided_differences_are_accurate_at_all_rates_and_times():
    """Against Gauss-Legendre integrals of the derivative, dI/dalpha = -int u e^(-alpha u) du, on a grid of decades."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    for g in (0.0, 1e-8, 0.03, 0.5, 4.0):
        for b in (0.0, 1e-12, 1e-6, 0.09, 0.11, 0.5, 5.0):
            u, alpha = 0.5 * (nodes + 1)[:, None] * 2.0, g + b * 0.5 * (nodes + 1)[None, :]
            expected = -np.einsum("i,ij,j", weights, u * np.exp(-alpha * u), weights) * 0.5 * 2.0 * 0.5
            np.testing.assert_allclose(integrated_decay_difference(g, b, 2.0), expected, rtol=2e-14)
    for rate in (0.0, 1e-14, 1e-3, 0.099, 0.101, 30.0):
        exact = 2.0 if rate == 0 else -np.expm1(-2 * rate) / rate
        np.testing.assert_allclose(integrated_decay(rate, 2.0), exact, rtol=1e-15)


def test_the_infinite_time_limit_is_the_posterior_of_a_gaussian_process():
    """G3: the kernel is (T/g) Phi Phi^T and the noise variance T, to 1e-12; rate of the slowest mode is g."""
    K = T / G * PHI @ PHI.T
    exact = fp.gp.condition(jnp.asarray(K[:P, :P]), T, jnp.asarray(Y), jnp.asarray(K[:, :P]), jnp.asarray(K))
    mean, _, covariance, _ = moments(model(), jnp.full(6, 100.0))
    np.testing.assert_allclose(mean[0], exact.mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(covariance[0, 1], exact.covariance, rtol=1e-12, atol=1e-13)


def test_by_default_langevin_training_of_the_readout_ends_in_the_limit_of_the_network():
    net = fp.Mlp(50, 2, "erf", weight_variance=1.4, bias_variance=0.1, scaling="mean-field")
    task = fp.tasks.single_index_teacher(8, inputs=4, test=3, noise_variance=0.2, seed=1)
    late = langevin(net, task, times=1e7)
    theory = fp.theory.limit(net, task)
    for name in ("f", "f_test"):
        np.testing.assert_allclose(late.mean[name], theory.mean[name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(late.variance[name], theory.variance[name], rtol=1e-8)
    np.testing.assert_allclose(late.mean["test_loss"], theory.mean["test_loss"], rtol=1e-9)


def test_fluctuation_and_dissipation_are_related_in_equilibrium_only():
    """dC/dt = T R once the start is forgotten (to 1e-12 of each); from a hot start, the ratio begins far from 1."""
    found = model()
    response, rate = linear_response(found, jnp.array(82.0), jnp.array(80.0))
    np.testing.assert_allclose(rate, T * response, rtol=1e-10, atol=1e-14)
    times = jnp.array([0.1, 2.0, 20.0])
    early, later, late = (ratio(found, t + 1, t) for t in times)
    assert np.all(np.abs(early - 1) > 0.2) and np.all(np.abs(later - 1) < 0.2)
    np.testing.assert_allclose(late, 1.0, atol=1e-6)
    # without data, and s_0 = T / g, from the first moment
    zero = (jnp.zeros_like(found.tangent), jnp.zeros_like(found.tangent_cross))
    prior = LinearDynamics(*zero, found.tangent_query, found.y, *(jnp.array(v) for v in (G, T, T / G)))
    np.testing.assert_allclose(ratio(prior, times[0] + 1, times[0]), 1.0, rtol=1e-12)


def test_covariance_rate_and_response_are_derivatives():
    """dC/dt by central differences; R by the mean of a model whose energy carries a field from a time on."""
    found, h = model(), 1e-5
    C = {sign: covariance(found, jnp.array(2.0), jnp.array(0.7 + sign * h)) for sign in (1, -1)}
    rate = linear_response(found, jnp.array(2.0), jnp.array(0.7))[1]
    np.testing.assert_allclose(rate, (C[1] - C[-1]) / (2 * h), atol=1e-9)
    A = G * np.eye(D) + PHI[:P].T @ PHI[:P]
    for lag in (0.0, 0.3, 4.0):
        expected = PHI @ scipy.linalg.expm(-A * lag) @ PHI.T
        response = linear_response(found, jnp.array(1.0 + lag), jnp.array(1.0))[0]
        np.testing.assert_allclose(response, expected, atol=1e-14)
        own = found.self_response(jnp.array([1.0 + lag, 0.5]), jnp.ones(2))
        np.testing.assert_allclose(own, [np.diagonal(response), np.zeros(8)], atol=1e-14)
    assert not np.any(linear_response(found, jnp.array(0.5), jnp.array(1.0))[0])


def _kernels(seed=4):
    """K and Theta that do not commute, on 4 data and 3 queries more."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(7, 9)), rng.normal(size=(7, 9))
    return a @ a.T / 9, b @ b.T / 9, rng.normal(size=(4, 2))


def _split(K, P=4):
    return jnp.asarray(K[:P, :P]), jnp.asarray(K[:, :P]), jnp.asarray(K)


def test_the_ntk_ensemble_is_the_flow_of_every_initial_function():
    """G6 at one and two times: F' = -M (F - Y), M acting on training and test outputs at once."""
    K, Theta, y = _kernels()
    found = LinearDynamics(*_split(Theta), jnp.asarray(y), initial=_split(K))
    M = np.zeros((7, 7))
    M[:, :4] = Theta[:, :4]
    flow = {t: scipy.linalg.expm(-M * t) for t in (0.3, 2.0)}
    mean, variance, covariance, lagged = moments(found, jnp.array([0.3, 2.0]))
    for k, t in enumerate((0.3, 2.0)):
        push = np.block([[-M, M[:, :4] @ y], [np.zeros((2, 9))]])
        np.testing.assert_allclose(mean[k], scipy.linalg.expm(t * push)[:7, 7:], atol=1e-13)
        np.testing.assert_allclose(variance[k], np.diag(flow[t] @ K @ flow[t].T), atol=1e-13)
    np.testing.assert_allclose(covariance[0, 1], flow[0.3] @ K @ flow[2.0].T, atol=1e-13)
    np.testing.assert_allclose(lagged[0], np.diag(flow[0.3] @ K @ flow[2.0].T), atol=1e-13)


def test_the_ntk_ensemble_is_no_posterior_unless_the_two_kernels_are_proportional():
    """t -> infinity: interpolation at the data. At the test points the noiseless posterior if Theta = 2 K, else not."""
    K, Theta, y = _kernels()
    posterior = fp.gp.condition(*_split(K)[:1], 1e-13, jnp.asarray(y), *_split(K)[1:])
    late = jnp.array([1e6, 2e6])
    mean, _, covariance, _ = moments(LinearDynamics(*_split(2 * K), jnp.asarray(y), initial=_split(K)), late)
    np.testing.assert_allclose(mean[0], posterior.mean, atol=1e-9)
    np.testing.assert_allclose(covariance[0, 0], posterior.covariance, atol=1e-9)
    mean, _, covariance, _ = moments(LinearDynamics(*_split(Theta), jnp.asarray(y), initial=_split(K)), late)
    np.testing.assert_allclose(mean[0, :4], y, atol=1e-9)
    cross = fp.gp.condition(*_split(Theta)[:1], 1e-13, jnp.asarray(y), *_split(Theta)[1:])
    np.testing.assert_allclose(mean[0], cross.mean, atol=1e-8)
    for kernel in (posterior, cross):
        assert np.abs(covariance[0, 0] - kernel.covariance)[4:, 4:].max() > 0.05


def test_a_linear_model_is_its_own_ntk_ensemble():
    """Theta = K = s_0 Phi Phi^T with s_0 = 1: G6 is G1 and G2 at g = T = 0."""
    kernel = _split(PHI @ PHI.T, P)
    ensemble, weights = model(g=0.0, T=0.0, initial=kernel), model(g=0.0, T=0.0, s0=1.0)
    times = jnp.asarray(TIMES)
    np.testing.assert_allclose(moments(ensemble, times)[2], moments(weights, times)[2], atol=1e-13)


# --- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eigenvalues", [[0.0, 0.0, 1.0, 1.0, 2.0], [0.0, 1e-9, 1.0, 1.0 + 1e-7, 3.0]])
def test_functions_of_degenerate_matrices_have_derivatives(eigenvalues):
    """Directional derivatives, forward and reverse, against Frechet derivatives of the exponential, to 1e-8."""
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    M, E = V * np.array(eigenvalues) @ V.T, rng.normal(size=(5, 5))
    M, E, A, B = (jnp.asarray(x) for x in (M, E + E.T, rng.normal(size=(3, 5)), rng.normal(size=(3, 5))))
    exact = -A @ scipy.linalg.expm_frechet(-np.asarray(M), np.asarray(E), compute_expm=False) @ B.T
    exponential = partial(sandwich, _exponential)
    tangent = jax.jvp(lambda M: exponential(M, A, B), (M,), (E,))[1]
    np.testing.assert_allclose(tangent, exact, atol=1e-8)
    diagonal = jax.grad(lambda M: jnp.sum(sandwich_diagonal(_exponential, M, A, B)))(M)
    np.testing.assert_allclose(jnp.sum(diagonal * E), np.trace(exact), atol=1e-8)
    np.testing.assert_allclose(exponential(M, A, B), A @ scipy.linalg.expm(-np.asarray(M)) @ B.T, atol=1e-12)


def _exponential(x):
    return jnp.exp(-x)


def test_predictions_are_differentiable_in_every_hyperparameter():
    """Reverse mode against central differences, repeated points and g -> 0 included."""
    repeated = fp.Task(np.concatenate([X, X[:2]]), np.r_[Y, Y[:2]], T, X_TEST)

    def value(p):
        theory = langevin(lambda a, b: p[0] * linear(a, b), repeated, times=[0.5, 2.0], temperature=p[1],
                          weight_decay=p[2], initial_variance=p[3])  # fmt: skip
        flow = gradient_flow(lambda a, b: p[0] * linear(a, b), repeated, times=[0.5])
        return sum(jnp.sum(x**2) for x in jax.tree.leaves((theory.mean, theory.variance, flow.variance)))

    both, h = jax.jit(jax.value_and_grad(value)), 1e-5
    for point in ([1.0, T, G, S0], [1.0, T, 1e-3, S0]):
        point = jnp.array(point)
        gradient = both(point)[1]
        for i, step in enumerate(h * jnp.eye(4)):
            numeric = (both(point + step)[0] - both(point - step)[0]) / (2 * h)
            np.testing.assert_allclose(gradient[i], numeric, rtol=1e-6)


# --- against simulated dynamics ---------------------------------------------------------------------------------------


def statistics(theta):
    f = (PHI @ theta)[:, None]
    return {"f": f[:P], "f_test": f[P:], "train_loss": jnp.mean((Y - f[:P]) ** 2)}


def start(key):
    return jnp.sqrt(S0) * jax.random.normal(key, (D,))


def potential(theta, field=0.0):
    f = PHI @ theta
    return 0.5 * jnp.sum((Y[:, 0] - f[:P]) ** 2) - field * f[0]


def simulate(particles, step_size=0.02, **options):
    dynamics = Langevin(step_size, T, "leimkuhler-matthews")
    options = {"potential_fn": potential, "initial": start, "times": TIMES} | options
    return trajectories(weight_decay=G, dynamics=dynamics, particles=particles, statistics=statistics,
                        progress=False, batch=5000, **options)  # fmt: skip


def check_two_times(f, theory, false_alarm=1e-6):
    """Whether sampled two-time covariances of f (particle, time, point) are within their errors of the theory."""
    n, times = f.shape[:2]
    x = (f - np.asarray(theory.mean["f"])[None, :, :, 0]).reshape(n, -1)
    C = np.asarray(theory.covariance["f"])[:, :, 0, :, :, 0].reshape(x.shape[1], -1)
    assert times == len(TIMES)
    error = np.sqrt((np.outer(np.diag(C), np.diag(C)) + C**2) / n)  # Isserlis
    z = ((x.T @ x / n - C) / error)[np.triu_indices(len(C))]
    return np.abs(z).max() < scipy.stats.norm.isf(false_alarm / 2 / len(z))


@pytest.fixture(scope="module")
def ensemble():
    return simulate(4000)


@pytest.mark.slow
def test_langevin_dynamics_has_the_predicted_moments_at_all_times(ensemble):
    """X10 small: mean and variance of curves, and of one time against a theory at that time; false alarm 1e-6 each."""
    theory = predict(linear, TASK, times=TIMES)
    assert fp.compare(ensemble, theory, false_alarm=1e-6).verdicts == {"langevin": "agrees"}
    at_one = predict(linear, TASK, times=TIMES[2])
    assert fp.compare(ensemble.isel(time=2), at_one, false_alarm=1e-6).verdicts == {"langevin": "agrees"}
    for change in ({"temperature": 1.3 * T}, {"weight_decay": 2 * G}, {"initial_variance": 1.3 * S0}):
        wrong = langevin(
            linear, TASK, times=TIMES, **({"temperature": T, "weight_decay": G, "initial_variance": S0} | change)
        )
        assert fp.compare(ensemble, wrong, false_alarm=1e-6).verdicts == {"langevin": "differs"}


@pytest.mark.optimised
def test_langevin_dynamics_has_the_predicted_two_time_covariance(ensemble):
    f = ensemble["trajectory"]["f"].values[..., 0]
    theory = predict(linear, TASK, times=TIMES, covariance=True)
    assert check_two_times(f, theory)
    assert not check_two_times(f, langevin(linear, TASK, times=TIMES, temperature=T, weight_decay=1.5 * G,
                                           initial_variance=S0, covariance=True))  # fmt: skip


@pytest.mark.slow
@pytest.mark.long
def test_x10_of_theory_01_at_its_full_size():
    """10^4 trajectories, eta = 0.005: moments, two-time covariance (false alarm 1e-6 each)."""
    ensemble = simulate(10_000, step_size=0.005)
    theory = predict(linear, TASK, times=TIMES, covariance=True)
    assert fp.compare(ensemble, theory, false_alarm=1e-6).verdicts == {"langevin": "agrees"}
    assert check_two_times(ensemble["trajectory"]["f"].values[..., 0], theory)


@pytest.mark.optimised
def test_the_fluctuation_dissipation_ratio_of_sampled_covariances_goes_to_one(ensemble):
    """T chi(t', t_w) over the sampled C(t', t') - C(t', t_w), for every output, chi = int R: one from t_w = 6 to
    t' = 7, not so from 0.1 to 0.7, and as predicted (5 standard errors, 1e-5 for 24 numbers)."""
    x = np.concatenate([ensemble["trajectory"][name].values[..., 0] for name in ("f", "f_test")], axis=2)
    x = x - x.mean(0)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    C = moments(model(), jnp.asarray(TIMES))[2]
    for first, second in ((1, 2), (4, 5)):
        waiting, lag = TIMES[first], TIMES[second] - TIMES[first]
        responses = [linear_response(model(), jnp.array(TIMES[second]), jnp.array(waiting + lag / 2 * (node + 1)))[0]
                     for node in nodes]  # fmt: skip
        chi = lag / 2 * sum(w * np.diagonal(R) for w, R in zip(weights, responses, strict=True))
        products = x[:, second] * (x[:, second] - x[:, first])
        fall, error = products.mean(0), products.std(0) / np.sqrt(len(x))
        predicted = np.diagonal(C[second, second] - C[second, first])
        assert np.max(np.abs(fall - predicted) / error) < 5
        if first == 4:
            assert np.max(np.abs(fall - T * chi) / error) < 5
        else:
            assert np.max(np.abs(fall - T * chi) / error) > 10


@pytest.mark.slow
def test_the_sampled_fluctuation_dissipation_ratio_goes_to_one():
    """A field on a training output from a waiting time on, same noise with and without, so that the response has no
    Monte Carlo error: T chi(t', t_w) over C(t', t') - C(t', t_w), early and in equilibrium (5 standard errors)."""
    lag, field, n, found = 1.0, 0.5, 4000, model()
    nodes, weights = np.polynomial.legendre.leggauss(12)
    response = jax.jit(jax.vmap(lambda s, t: found.response(s, t)[0, 0], (None, 0)))
    ratios, errors = [], []
    for waiting in (0.04, 20.0):
        before = simulate(n, times=[waiting], store_positions=True)["trajectory"]
        initial = before["z"].values[:, 0]
        x, y, pushed = (
            before["f"].values[:, 0, 0, 0],
            *(
                simulate(n, initial=initial, potential_fn=partial(potential, field=h), times=[lag], seed=1)[
                    "trajectory"
                ]["f"].values[:, 0, 0, 0]
                for h in (0.0, field)
            ),
        )
        chi = np.mean(pushed - y) / field
        products = (y - y.mean()) * (y - y.mean() - x + x.mean())
        ratios.append(T * chi / products.mean())
        errors.append(abs(ratios[-1]) * products.std() / np.sqrt(n) / abs(products.mean()))
        expected = lag / 2 * weights @ response(waiting + lag, waiting + lag / 2 * (nodes + 1))
        np.testing.assert_allclose(chi, expected, rtol=0.02)  # of order the step size
        C = [covariance(found, jnp.array(waiting + lag), jnp.array(t))[0, 0] for t in (waiting + lag, waiting)]
        assert abs(ratios[-1] - T * expected / (C[0] - C[1])) < 5 * errors[-1]
    assert abs(ratios[1] - 1) < 5 * errors[1] and abs(ratios[0] - 1) > 5 * errors[0]


def test_gradient_flow_takes_the_tangent_kernel_of_the_network():
    net = fp.Mlp(64, 1, "erf", weight_variance=1.5, readout_variance=1.2)
    own, given = (
        gradient_flow(net, TASK, times=TIMES),
        gradient_flow(net.limit, TASK, times=TIMES, tangent=erf_tangent(net)),
    )
    np.testing.assert_allclose(own.mean["f_test"], given.mean["f_test"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(own.variance["f_test"], given.variance["f_test"], rtol=1e-9)


def erf_tangent(net):
    """`limit_tangent` of one hidden layer of erf without biases, written out (A15)."""

    def tangent(X1, X2):
        K = net.weight_variance[0] * X1 @ X2.T / X1.shape[1]
        q1, q2 = (1 + 2 * net.weight_variance[0] * jnp.sum(x**2, 1) / x.shape[1] for x in (X1, X2))
        derivative = 4 / jnp.pi / jnp.sqrt(q1[:, None] * q2 - 4 * K**2)
        return net.limit(X1, X2) + net.readout_variance * derivative * K

    return tangent


FLOW_TIMES = np.array([0.0, 2.0, 8.0])


def flow(width, particles, seed=0):
    net = fp.Mlp(width, 1, "erf", weight_variance=1.5, readout_variance=1.2)
    task = fp.tasks.single_index_teacher(4, inputs=3, test=3, noise_variance=0.1, seed=2)
    loss, initial, measured = training_potential(net, task)
    mobility = training_parameters(net, task).prior_variance
    tree = trajectories(
        potential_fn=loss, initial=initial, statistics=measured, mobility=mobility, times=FLOW_TIMES,
        particles=particles, dynamics=GradientFlow(1e-4, 1e-6), progress=False, seed=seed,
    )  # fmt: skip
    return net, task, tree["trajectory"]


def deviation(width, particles, times=slice(None)):
    """Mean and log variance of f_test over networks minus those of the NTK ensemble, and their standard errors."""
    net, task, tree = flow(width, particles)
    theory = gradient_flow(net.limit, task, times=FLOW_TIMES, tangent=erf_tangent(net))
    x = tree["f_test"].values[:, times, :, 0]
    mean, variance = (np.asarray(m["f_test"])[times, :, 0] for m in (theory.mean, theory.variance))
    kurtosis = np.mean((x - x.mean(0)) ** 4, 0) / x.var(0) ** 2
    value = np.stack([x.mean(0) - mean, np.log(x.var(0) / variance)])
    return value, np.stack([x.std(0), np.sqrt(kurtosis - 1)]) / np.sqrt(particles)


@pytest.mark.slow
@pytest.mark.long
def test_networks_under_gradient_flow_approach_the_ntk_ensemble_as_one_over_width():
    """Mean and variance over networks at the test points and three times: at width 8 they differ beyond doubt, and what
    is left after removing a bias linear in 1/N is within 5 standard errors of nothing (18 numbers, 1e-5)."""
    (narrow, error_narrow), (wide, error_wide) = deviation(8, 2000), deviation(32, 2000)
    assert np.max(np.abs(narrow[:, -1] / error_narrow[:, -1])) > 5
    assert np.mean(wide[:, -1] ** 2) < np.mean(narrow[:, -1] ** 2) / 4
    extrapolated, error = (4 * wide - narrow) / 3, np.hypot(4 * error_wide, error_narrow) / 3
    assert np.max(np.abs(extrapolated / error)) < 5


@pytest.mark.long
@pytest.mark.slow
def test_the_bias_of_gradient_flow_is_linear_in_inverse_width():
    """Widths 16 to 64, 10000 networks each: a weighted fit c / N + d / N^2 without a constant describes all (chi^2 at
    1e-6 each number), with a bias beyond doubt at the smallest."""
    widths = np.array([16, 32, 64])
    found = [deviation(int(width), 10_000, times=slice(1, None)) for width in widths]
    value, error = (np.stack([f[k].ravel() for f in found]) for k in (0, 1))
    for v, e in zip(value.T, error.T, strict=True):
        design = np.stack([1 / widths, 1 / widths**2], axis=1) / e[:, None]
        residual = np.linalg.lstsq(design, v / e)[1]
        assert residual[0] < scipy.stats.chi2.isf(1e-6, 1)
    assert np.max(np.abs(value[0] / error[0])) > 7


# --- as theories ------------------------------------------------------------------------------------------------------


def test_predictions_have_a_time_dimension_and_survive_the_disk():
    theory = predict(linear, TASK, times=TIMES, reference_time=0.7, covariance=True)
    dataset = theory.to_dataset()
    assert dataset["f_test"].dims == ("time", "test_point", "output") and dataset["train_loss"].dims == ("time",)
    assert dataset["f_covariance"].dims == ("time", "train_point", "output", "time_", "train_point_", "output_")
    assert np.array_equal(dataset["time"], TIMES) and np.array_equal(dataset["time_"], TIMES)
    again = fp.Prediction.from_dataset(dataset)
    np.testing.assert_array_equal(again.mean["f_autocovariance"], theory.mean["f_autocovariance"])
    variance = theory.variance["f"][2]
    np.testing.assert_allclose(theory.mean["f_autocovariance"][2], variance, rtol=1e-12)
    np.testing.assert_allclose(theory.mean["f_response"][:2], 0.0)
    np.testing.assert_allclose(theory.mean["f_response"][2, :, 0], np.sum(X**2, 1) / D, rtol=1e-12)
    one = predict(linear, TASK, times=0.7, covariance=True).to_dataset()
    assert one["f"].dims == ("train_point", "output")
    np.testing.assert_allclose(one["f_variance"], variance, rtol=1e-12)
    np.testing.assert_allclose(one["f_covariance"].values, dataset["f_covariance"].values[2, :, :, 2], rtol=1e-12)


def test_several_outputs_are_independent_copies():
    two = fp.Task(X, np.c_[Y, 2 * Y], T, X_TEST)
    theory, single = (predict(linear, task, times=TIMES, covariance=True) for task in (two, TASK))
    np.testing.assert_allclose(theory.mean["f"][..., 1], 2 * single.mean["f"][..., 0], rtol=1e-12)
    np.testing.assert_allclose(theory.variance["f"][..., 1], single.variance["f"][..., 0], rtol=1e-12)
    assert not np.any(theory.covariance["f"][:, :, 0, :, :, 1])
    assert "test_loss" not in theory.mean


NET = fp.Mlp(8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: langevin(linear, TASK, times=[-1.0]), ValueError, "times is .*zero or positive"),
        (lambda: model().fluctuation_dissipation_ratio(0.5, 1.0), ValueError, "give 0 <= earlier < later"),
        (lambda: model().fluctuation_dissipation_ratio(1.0, 1.0), ValueError, "later = 1.0 and earlier = 1.0"),
        (lambda: langevin(linear, TASK, times=[np.inf]), ValueError, "times is"),
        (lambda: langevin(linear, TASK, times=[]), ValueError, "times is"),
        (lambda: langevin(linear, TASK, times=1, temperature=-1), ValueError, "temperature is -1"),
        (lambda: langevin(linear, TASK, times=1, weight_decay=np.nan), ValueError, "weight_decay is nan"),
        (lambda: langevin(linear, TASK, times=1, initial_variance=[1]), ValueError, r"initial_variance is \[1\]"),
        (lambda: langevin(linear, TASK, times=1, reference_time=-2), ValueError, "reference_time is -2"),
        (
            lambda: langevin(NET, TASK.replace(noise_variance=np.ones(P)), times=1),
            ValueError,
            "have one noise variance",
        ),
        (lambda: langevin(3, TASK, times=1), TypeError, "neither a network nor a function"),
        (lambda: langevin(NET, 3, times=1), TypeError, "task is a int"),
        (lambda: langevin(lambda a, b: -linear(a, b), TASK, times=1), ValueError, "not positive semidefinite"),
        (lambda: langevin(lambda a, b: linear(a, b) * a[:, :1] ** 2, TASK, times=1), ValueError, "not symmetric"),
        (lambda: langevin(lambda a, b: jnp.ones(3), TASK, times=1), ValueError, r"has shape \(3,\)"),
        (lambda: gradient_flow(lambda a, b: linear(a, b) * jnp.nan, TASK, times=1), ValueError, "NaN or infinite"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_float32_is_refused():
    with pytest.raises(ValueError, match="needs float64"), jax.enable_x64(False):
        langevin(linear, fp.Task(X, Y, T), times=1)
