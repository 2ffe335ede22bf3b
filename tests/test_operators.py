"""Observations through linear operators: against analytic derivatives and integrals, finite differences, and joint
Gaussians built by quadrature."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from scipy.special import erf
from scipy.stats import multivariate_normal

import fieldprob as fp
from fieldprob.gp import (
    Derivative,
    Functional,
    Gradient,
    Laplacian,
    Stack,
    Values,
    condition,
    cross_covariance,
    observe,
    regress,
)

RNG = np.random.default_rng(5)
X, Z = RNG.normal(size=(4, 3)), RNG.normal(size=(2, 3))
X[1] = Z[0]  # coincident points
ELL = 0.8
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)
NODES, WEIGHTS = 0.5 * (NODES[:, None] + 1), 0.5 * WEIGHTS  # on [0, 1]


def rbf(X1, X2, ell=ELL):
    return jnp.exp(-((X1[:, None] - X2[None]) ** 2).sum(-1) / (2 * ell**2))


# --- covariances ------------------------------------------------------------------------------------------------------


def test_derivatives_of_the_rbf_kernel_are_the_known_polynomials_times_it():
    """Values, gradients and Laplacians in three dimensions, coincident points included, to 1e-13."""
    D = X[:, None] - Z[None]
    r2, d, k, s = (D**2).sum(-1), 3, np.asarray(rbf(X, Z)), ELL**-2
    gradient = cross_covariance(rbf, Gradient(X), Z).reshape(4, 3, 2)
    np.testing.assert_allclose(gradient, -s * np.swapaxes(D, 1, 2) * k[:, None], rtol=1e-13, atol=1e-15)
    both = cross_covariance(rbf, Gradient(X), Gradient(Z)).reshape(4, 3, 2, 3)
    exact = (s * np.eye(3)[None, :, None] - s**2 * np.einsum("xzi,xzj->xizj", D, D)) * k[:, None, :, None]
    np.testing.assert_allclose(both, exact, rtol=1e-12, atol=1e-14)
    laplacian = (s**2 * r2 - s * d) * k
    np.testing.assert_allclose(cross_covariance(rbf, Laplacian(X), Z), laplacian, rtol=1e-12, atol=1e-14)
    twice = (s**4 * r2**2 - 2 * (d + 2) * s**3 * r2 + d * (d + 2) * s**2) * k
    np.testing.assert_allclose(cross_covariance(rbf, Laplacian(X), Laplacian(Z)), twice, rtol=1e-12, atol=1e-13)


def test_derivatives_of_the_erf_kernel_are_its_closed_forms():
    """A19 to A21 of theory 01, written out in NumPy."""
    s, bias, out = 1.3 / 3, 0.2, 0.9
    net = fp.Mlp(5, 1, "erf", weight_variance=1.3, bias_variance=(bias, 0.0), readout_variance=out)
    gradient = np.asarray(cross_covariance(net.limit, Gradient(X), Z)).reshape(4, 3, 2)
    mixed = np.asarray(cross_covariance(net.limit, Gradient(X), Gradient(Z))).reshape(4, 3, 2, 3)
    laplacian = cross_covariance(net.limit, Laplacian(X), Z)
    for i, x in enumerate(X):
        for j, y in enumerate(Z):
            a, b, c = bias + s * x @ x, bias + s * y @ y, bias + s * x @ y
            A, B = 1 + 2 * a, 1 + 2 * b
            D, u, p = A * B - 4 * c**2, y - 2 * c / A * x, out * 4 / np.pi
            np.testing.assert_allclose(gradient[i, :, j], p * s * u / np.sqrt(D), rtol=1e-10)
            second = (np.eye(3) - 2 * s / A * np.outer(x, x)) / np.sqrt(D)
            second -= 0.5 * D**-1.5 * np.outer(u, 4 * s * A * y - 8 * s * c * x)
            np.testing.assert_allclose(mixed[i, :, j], p * s * second, rtol=1e-10, atol=1e-13)
            value = -0.5 * D**-1.5 * (4 * s * B * x - 8 * s * c * y) @ u
            value += (-2 / A * s * x @ y + 8 * c * s / A**2 * x @ x - 2 * c * 3 / A) / np.sqrt(D)
            np.testing.assert_allclose(laplacian[i, j], p * s * value, rtol=1e-10)


def test_integrals_of_the_rbf_kernel_are_error_functions():
    """Mean over [0, 1] by 20 Gauss-Legendre nodes; its covariance with a value, and its variance."""
    mean, z = Functional(NODES, WEIGHTS), np.linspace(-1, 2, 5)[:, None]
    exact = ELL * np.sqrt(np.pi / 2) * (erf((1 - z) / ELL / np.sqrt(2)) + erf(z / ELL / np.sqrt(2)))
    np.testing.assert_allclose(cross_covariance(rbf, z, mean), exact, rtol=1e-13)
    u = 1 / (ELL * np.sqrt(2))
    variance = (np.sqrt(np.pi) * u * erf(u) + np.exp(-(u**2)) - 1) / u**2
    np.testing.assert_allclose(cross_covariance(rbf, mean), [[variance]], rtol=1e-13)


def test_mode_coefficients_of_a_periodic_process_are_its_spectrum():
    """k = sum_m lambda_m cos(m (x - x')): coefficients of cos and sin modes are independent."""
    spectrum = np.array([1.0, 0.5, 0.2])

    def kernel(X1, X2):
        return sum(v * jnp.cos(m * (X1[:, None, 0] - X2[None, :, 0])) for m, v in enumerate(spectrum))

    x = np.arange(32)[:, None] * 2 * np.pi / 32
    modes = np.concatenate([np.ones((32, 1)), *(trig(m * x) for m in (1, 2) for trig in (np.cos, np.sin))], axis=1)
    norm = np.array([1, 2, 2, 2, 2])
    K = cross_covariance(kernel, Functional(x, (modes * norm / 32).T))
    np.testing.assert_allclose(K, np.diag(np.repeat(spectrum, (1, 2, 2))), atol=1e-14)


def test_operators_are_linear():
    """Sums, scales, coefficients that vary in space, and weights on rows, on a function and on a covariance."""
    field = RNG.normal(size=4)
    operator = 2.0 * Gradient(X[:1]) - Gradient(X[:1]) * np.array([1.0, 0.5, 3.0])
    value = operator.apply(lambda x: jnp.stack([jnp.sum(x**3), jnp.sum(jnp.sin(x))]))
    np.testing.assert_allclose(value[:, 1], np.cos(X[0]) * [1.0, 1.5, -1.0], rtol=1e-13)
    pde = -Laplacian(X) + Values(X) * field
    rows = cross_covariance(rbf, pde, Stack((Values(Z), pde)))
    parts = [cross_covariance(rbf, op, Values(Z)) for op in (Laplacian(X), Values(X))]
    np.testing.assert_allclose(rows[:, :2], -parts[0] + field[:, None] * parts[1], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(rows[:, 2:], cross_covariance(rbf, pde), rtol=1e-12, atol=1e-13)
    W = RNG.normal(size=(2, 4))
    np.testing.assert_allclose(cross_covariance(rbf, Functional(pde, W)), W @ rows[:, 2:] @ W.T, rtol=1e-11, atol=1e-12)


def test_directions_and_orders():
    """Derivative along e_i is a row of the gradient; order 2 along all axes is the Laplacian; the length counts."""
    f = partial(_features, np.random.default_rng(0).normal(size=(6, 3)))
    gradient = Gradient(X).apply(f).reshape(4, 3, 6)
    directions = RNG.normal(size=(4, 3))
    along = Derivative(X, directions).apply(f)
    np.testing.assert_allclose(along, np.einsum("pi,pif->pf", directions, gradient), rtol=1e-12, atol=1e-14)
    second = sum(Derivative(X, e, order=2).apply(f) for e in np.eye(3))
    np.testing.assert_allclose(second, Laplacian(X).apply(f), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(Derivative(X, 2 * directions, 2).apply(f), 4 * Derivative(X, directions, 2).apply(f))


def _features(W, x):
    return jnp.tanh(W @ x)


def test_an_operator_on_features_is_that_on_their_gram_kernel():
    """Finite features, with finite differences of the features as a third route (1e-7)."""
    f = partial(_features, RNG.normal(size=(6, 3)))

    def gram(X1, X2):
        return jax.vmap(f)(X1) @ jax.vmap(f)(X2).T

    operator = Stack((Values(X), Gradient(Z), Laplacian(Z), Functional(X, np.ones(4) / 4)))
    F = operator.apply(f)
    np.testing.assert_allclose(F @ F.T, cross_covariance(gram, operator), rtol=1e-11, atol=1e-12)
    h = 1e-4
    numeric = [(f(z + h * e) - f(z - h * e)) / (2 * h) for z in Z for e in np.eye(3)]
    np.testing.assert_allclose(F[4:10], np.stack(numeric), atol=1e-7)


# --- posteriors -------------------------------------------------------------------------------------------------------

LINE = np.linspace(0, 1, 4)[:, None]
FINE = np.linspace(0.05, 0.95, 7)[:, None]


def task_of_everything():
    """Two outputs; three values with noise that differs, slopes with correlated noise, one mean over [0, 1]."""
    rng = np.random.default_rng(1)
    root = rng.normal(size=(2, 2))
    slopes = fp.tasks.Observation(
        Derivative([[0.2], [0.9]]), rng.normal(size=(2, 2)), 0.1 * (root @ root.T + np.eye(2))
    )
    mean = fp.tasks.Observation(Functional(NODES, WEIGHTS), rng.normal(size=(1, 2)), 0.02)
    return fp.Task(LINE[:3], rng.normal(size=(3, 2)), [0.1, 0.2, 0.3], FINE, observations=[slopes, mean])


def test_the_posterior_is_that_of_the_joint_gaussian_on_a_grid():
    """Values on a grid, slopes by central differences (h = 1e-3), the integral by 201 Simpson nodes: conditioned in
    NumPy with every noise written out. Agreement to 1e-5, from the finite differences."""
    task, h = task_of_everything(), 1e-3
    simpson = np.linspace(0, 1, 201)
    w = np.r_[1, np.tile([4, 2], 99), 4, 1] / 600
    grid = np.concatenate([LINE[:3, 0], [0.2 - h, 0.2 + h, 0.9 - h, 0.9 + h], simpson, FINE[:, 0]])
    L = np.zeros((6, len(grid)))
    L[:3, :3] = np.eye(3)
    L[3, 3:5], L[4, 5:7], L[5, 7:208] = np.array([-1, 1]) / (2 * h), np.array([-1, 1]) / (2 * h), w
    noise = np.diag([0.1, 0.2, 0.3, 0, 0, 0.02])
    noise[3:5, 3:5] = task.observations[1].noise_variance
    K = np.asarray(rbf(grid[:, None], grid[:, None]))
    y = np.concatenate([o.y for o in task.observations])
    S, cross = L @ K @ L.T + noise, K[208:] @ L.T
    posterior = regress(rbf, task, FINE)
    np.testing.assert_allclose(posterior.mean, cross @ np.linalg.solve(S, y), atol=1e-5)
    np.testing.assert_allclose(posterior.covariance, K[208:, 208:] - cross @ np.linalg.solve(S, cross.T), atol=1e-5)
    evidence = sum(multivariate_normal(np.zeros(6), S).logpdf(y[:, c]) for c in range(2))
    np.testing.assert_allclose(posterior.log_evidence, evidence, atol=1e-5)
    np.testing.assert_allclose(observe(task).noise_variance, noise)


def test_the_posterior_slope_is_the_slope_of_the_posterior():
    """Mean and variance of a derivative query, from derivatives of the posterior mean and covariance functions."""
    task = task_of_everything()
    query = np.array([[0.33]])
    slope = regress(rbf, task, Derivative(query))
    mean = jax.jacfwd(lambda x: regress(rbf, task, x[None]).mean[0])(query[0])
    np.testing.assert_allclose(slope.mean, mean.T, rtol=1e-9)

    def covariance(x, x_):
        return regress(rbf, task, jnp.stack([x, x_])).covariance[0, 1]

    exact = jax.jacfwd(jax.jacfwd(covariance, 0), 1)(query[0], query[0])
    np.testing.assert_allclose(slope.variance, exact.ravel(), rtol=1e-8)


def test_leaving_out_a_row_is_refitting_without_it():
    """Every row of a task of values, slopes with correlated noise and an integral: residual, variance, density."""
    operator, y, noise = observe(task_of_everything())
    K = np.asarray(cross_covariance(rbf, operator))
    posterior, S = condition(jnp.asarray(K), noise, y, jnp.asarray(K), jnp.asarray(K)), K + np.asarray(noise)
    total = 0.0
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        gain = np.linalg.solve(S[np.ix_(rest, rest)], S[rest, i])
        variance = S[i, i] - S[i, rest] @ gain
        np.testing.assert_allclose(posterior.leave_one_out[i], y[i] - gain @ y[rest], rtol=1e-9)
        np.testing.assert_allclose(posterior.leave_one_out_variance[i], variance, rtol=1e-9)
        total += multivariate_normal(np.zeros(2), variance * np.eye(2)).logpdf(y[i] - gain @ y[rest])
    np.testing.assert_allclose(posterior.leave_one_out_log_density, total, rtol=1e-10)


@pytest.mark.parametrize("kind", ["one number", "one per point", "a matrix"])
def test_evidence_and_posterior_under_every_kind_of_noise(kind):
    """Against a multivariate normal density and the textbook formula in NumPy; a row alone by refitting."""
    rng = np.random.default_rng(3)
    root, y = rng.normal(size=(4, 4)), rng.normal(size=(4, 1))
    noise = {"one number": 0.3, "one per point": rng.uniform(0.1, 1, 4), "a matrix": root @ root.T + 0.1 * np.eye(4)}[
        kind
    ]
    N = noise if np.ndim(noise) == 2 else noise * np.eye(4)
    K, cross = np.asarray(rbf(X, X)), np.asarray(rbf(Z, X))
    posterior = regress(rbf, fp.Task(X, y, noise), Z)
    np.testing.assert_allclose(posterior.mean, cross @ np.linalg.solve(K + N, y), rtol=1e-11)
    exact = np.asarray(rbf(Z, Z)) - cross @ np.linalg.solve(K + N, cross.T)
    np.testing.assert_allclose(posterior.covariance, exact, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(
        posterior.log_evidence, multivariate_normal(np.zeros(4), K + N).logpdf(y[:, 0]), rtol=1e-12
    )


def test_a_differential_equation_is_solved_by_observing_it():
    """-f'' + f = (1 + pi^2) sin(pi x), f(0) = f(1) = 0, at 15 points without a value inside: f = sin(pi x) to 1e-4."""
    inside = np.linspace(0, 1, 15)[:, None]
    equation = -Laplacian(inside) + Values(inside)
    source = (1 + np.pi**2) * np.sin(np.pi * inside)
    task = fp.Task([[0.0], [1.0]], [0.0, 0.0], 1e-8,
                   observations=[fp.tasks.Observation(equation, source, 1e-5)])  # fmt: skip
    posterior = regress(partial(rbf, ell=0.5), task, FINE)
    error = np.abs(posterior.mean - np.sin(np.pi * FINE))[:, 0]
    assert np.max(error) < 1e-4 and np.all(error < 5 * np.sqrt(posterior.variance) + 1e-4)


def test_evidence_of_slopes_is_differentiable_in_hyperparameters_and_points():
    def evidence(ell, at):
        task = fp.Task(LINE, np.sin(LINE), 0.1, observations=[fp.tasks.Observation(Derivative(at), [0.3], 0.1)])
        return regress(partial(rbf, ell=ell), task, LINE).log_evidence

    gradient = jax.jit(jax.grad(evidence, (0, 1)))(0.7, jnp.array([[0.4]]))
    h = 1e-5
    numeric = (evidence(0.7 + h, jnp.array([[0.4]])) - evidence(0.7 - h, jnp.array([[0.4]]))) / (2 * h)
    moved = (evidence(0.7, jnp.array([[0.4 + h]])) - evidence(0.7, jnp.array([[0.4 - h]]))) / (2 * h)
    np.testing.assert_allclose([gradient[0], gradient[1][0, 0]], [numeric, moved], rtol=1e-6)


# --- networks ---------------------------------------------------------------------------------------------------------


def network_task(outputs=1):
    rng = np.random.default_rng(8)
    slope = fp.tasks.Observation(Derivative(Z, [1.0, 0.0, 0.5]), rng.normal(size=(2, outputs)), 0.2)
    mean = fp.tasks.Observation(Functional(X, np.ones(4) / 4), rng.normal(size=(1, outputs)), [0.1])
    return fp.Task(X, rng.normal(size=(4, outputs)), 0.3, Z, rng.normal(size=(2, outputs)), observations=[slope, mean])


@pytest.mark.slow
def test_the_collapsed_face_is_the_weights_face_with_the_readout_integrated_out():
    """For fixed hidden weights the rows are linear in the readout: their Gaussian density by hand, to 1e-10."""
    net, task = fp.Mlp(5, 1, "erf", bias_variance=0.3, scaling="mean-field"), network_task(outputs=2)
    with numpyro.handlers.seed(rng_seed=1):
        trace = numpyro.handlers.trace(fp.regression).get_trace(net, task, face="collapsed")
    hidden = {name: site["value"] for name, site in trace.items() if name in ("weight_0", "bias_0")}
    observed = observe(task)

    def rows(readout, bias):
        model = numpyro.handlers.substitute(fp.regression, data=hidden | {"readout": readout, "bias_1": bias})
        weights = numpyro.handlers.trace(model).get_trace(net, task, face="weights")
        return weights["y"]["fn"].base_dist.loc

    L = np.stack([rows(e[:5, None] * np.ones(2), e[5:] * np.ones(2))[:, 0] for e in np.eye(6)], axis=1)
    S = L @ L.T + np.diag(np.broadcast_to(net.effective_noise(observed), 7))
    exact = sum(multivariate_normal(np.zeros(7), S).logpdf(observed.y[:, c]) for c in range(2))
    site = trace["y"]
    np.testing.assert_allclose(site["fn"].log_prob(site["value"]), exact, rtol=1e-10)
    K = L[:4] @ L.T
    np.testing.assert_allclose(trace["f"]["value"], K @ np.linalg.solve(S, np.asarray(observed.y)), rtol=1e-9)


def test_the_limit_theory_uses_all_observations():
    """Posterior and evidence of the theory are those of `regress`; the slope moves the prediction."""
    net, task = fp.Mlp(5, 1, "erf", bias_variance=0.3, scaling="mean-field"), network_task()
    theory = fp.theory.limit(net, task)
    scaled = observe(task)._replace(noise_variance=net.effective_noise(observe(task)))
    K, cross = (cross_covariance(net.limit, x, scaled.operator) for x in (scaled.operator, Values(Z)))
    posterior = condition(K, scaled.noise_variance, scaled.y, cross, net.limit(Z))
    np.testing.assert_allclose(theory.mean["f_test"], posterior.mean, rtol=1e-9)
    np.testing.assert_allclose(theory.covariance["f_test"], posterior.covariance, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(theory.log_evidence, posterior.log_evidence, rtol=1e-10)
    values_only = fp.theory.limit(net, task.replace(observations=()))
    assert np.max(np.abs(values_only.mean["f_test"] - theory.mean["f_test"])) > 0.01


@pytest.mark.slow
def test_sampled_faces_agree_with_the_limit_on_a_task_with_slopes():
    """The Gaussian process sampled by NUTS; a network of width 400 with its readout integrated out within 3 % of it.
    Verdicts at a false-alarm rate of 1e-5."""
    net, task = fp.Mlp(400, 1, "erf", bias_variance=0.3), network_task()
    theory, wrong = fp.theory.limit(net, task), fp.theory.limit(net, task.replace(observations=()))
    samples = fp.sample(net, task, face="limit", draws=700, chains=4, warmup=200, progress=False)
    assert fp.compare(samples, theory, false_alarm=1e-5).verdicts == {"limit": "agrees"}
    assert samples["observed_data"]["y_1"].dims == ("observation_1", "output")
    assert fp.compare(samples, wrong, false_alarm=1e-5).verdicts == {"limit": "differs"}
    samples = fp.sample(net, task, draws=500, chains=4, warmup=200, progress=False)
    for prediction, near in ((theory, True), (wrong, False)):
        table = fp.compare(samples, prediction).summary()
        errors = table[(table["statistic"] == "f_test") & (table["moment"] == "mean")]["relative_error"]
        assert (errors.iloc[0] < 0.03) == near


# --- errors -----------------------------------------------------------------------------------------------------------


def _solve(K, noise=0.0, **options):
    K = jnp.asarray(K)
    return condition(K, noise, jnp.ones((len(K), 1)), K, K, **options)


def test_singular_systems_are_refused_and_jitter_is_reported():
    repeated = rbf(X[[0, 0, 2]], X[[0, 0, 2]])
    with pytest.raises(ValueError, match=r"noise_variance is too small .*coincident points.*jitter="):
        _solve(repeated)
    with pytest.raises(ValueError, match="noise_variance is too small"):
        fp.theory.limit(fp.Mlp(5, bias_variance=0.1), fp.Task(X[[0, 0, 2]], np.ones(3), 1e-18))
    posterior = _solve(repeated, jitter=1e-6)
    assert posterior.jitter == 1e-6 and _solve(rbf(X, X), 0.1).jitter == 0.0
    np.testing.assert_allclose(posterior.mean, _solve(repeated, 1e-6).mean)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _solve([[1.0, 2.0], [2.0, 1.0]], 0.1), ValueError, "K is not positive semidefinite.* -1, "),
        (lambda: _solve([[1.0, np.nan], [np.nan, 1.0]], 0.1), ValueError, "NaN or infinite"),
        (
            lambda: cross_covariance(fp.Mlp(4, 1, "relu").limit, Laplacian(X)),
            ValueError,
            "derivatives of the process do",
        ),
        (lambda: Derivative(X), ValueError, r"direction is None with 3 inputs: give \\(3,\\) or \\(4, 3\\)"),
        (lambda: Derivative(X, np.ones(2)), ValueError, r"direction has shape \\(2,\\)"),
        (lambda: Derivative(X, np.ones(3), 0), ValueError, "order is 0"),
        (lambda: Values(np.ones(3)), ValueError, r"X has shape \\(3,\\)"),
        (lambda: Functional(X, np.ones(3)), ValueError, r"weights has shape \\(3,\\), but the operator has 4 rows"),
        (lambda: Values(X) + Values(Z), ValueError, "operators of 4, 2 rows are added"),
        (lambda: Values(X) * np.ones(3), ValueError, r"multiplied by an array of shape \\(3,\\)"),
        (lambda: fp.tasks.Observation(X, np.ones(4), 0.1), TypeError, "operator is a ndarray"),
        (lambda: fp.tasks.Observation(Values(X), np.ones(3), 0.1), ValueError, "y has 3 rows but the operator has 4"),
        (lambda: fp.tasks.Observation(Values(X), np.ones(4), 0.0), ValueError, "noise_variance = 0 must be positive"),
        (lambda: fp.Task(X, np.ones(4), 0.1, observations=[Values(X)]), TypeError, r"observations\\[0\\] is a Values"),
        (lambda: fp.Task(X, np.ones(4), 0.1, observations=Values(X)), TypeError, "observations is a Values"),
        (
            lambda: fp.theory.gradient_flow(fp.Mlp(4), network_task(), times=1.0),
            TypeError,
            "has observations through linear operators, and theory 'gradient_flow' is for values",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message.replace("\\\\", "\\")):
        call()


def test_regression_predicts_at_the_test_points_and_asks_for_a_function():
    task = fp.tasks.linear_teacher(8, inputs=4, noise_variance=0.1, seed=0, test=3)
    net = fp.Mlp(8)
    expected = fp.theory.limit(net, task).mean["f_test"]
    np.testing.assert_allclose(fp.gp.regress(net.limit, task).mean, expected, rtol=1e-10)
    with pytest.raises(ValueError, match=r"net\.limit of a network"):
        fp.gp.regress(net, task, task.X_test)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="query is missing"):
        fp.gp.regress(net.limit, fp.Task(task.X, task.y, 0.1))
