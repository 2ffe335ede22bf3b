"""Learning curves: exact identities, limits, printed numbers, errors (sampled: test_learning_curves_sampled.py)."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import fieldprob as fp
from fieldprob.kernels import Spectrum, spectra
from fieldprob.theory import learning_curves


def population(points, noise_variance, label_noise_variance=None, poisson=False, target=None):
    """The fields of a population that learning curves read."""
    return SimpleNamespace(
        points=points,
        noise_variance=noise_variance,
        label_noise_variance=label_noise_variance,
        poisson=poisson,
        target=target,
        measure=None,
    )


K = np.arange(1.0, 401)
POWER_LAW = Spectrum(K**-1.3, coefficients=np.sqrt(K**-1.3) * np.random.default_rng(0).normal(size=400))
SIZES = np.array([10, 80, 300])


# --- renormalised ridge -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.1, 1.0, 1e6])
def test_learnabilities_and_ridge_add_up_to_the_number_of_points(ridge):
    prediction = learning_curves.renormalised_ridge(POWER_LAW, population(SIZES, ridge, 0.05))
    total = prediction.mean["learnability"].sum(axis=1) + SIZES * ridge / prediction.mean["effective_ridge"]
    np.testing.assert_allclose(total, SIZES, rtol=1e-12)


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("tail", [0.0, 0.3])
def test_error_of_a_typical_target_with_the_true_noise_is_the_effective_ridge(ridge, tail):
    """Bayes: targets drawn from the prior and label noise equal to the ridge; degenerate modes and a tail included."""
    degeneracies = np.arange(1.0, 31)
    spectrum = Spectrum(np.arange(1.0, 31) ** -2.0, degeneracies, tail=tail)
    spectrum = spectrum.with_target(coefficients=np.sqrt(spectrum.weights), tail=tail)
    prediction = learning_curves.renormalised_ridge(spectrum, population(SIZES, ridge))
    np.testing.assert_allclose(prediction.mean["noisy_test_error"], prediction.mean["effective_ridge"], rtol=1e-12)
    np.testing.assert_allclose(prediction.mean["test_error"], prediction.mean["posterior_variance"], rtol=1e-12)
    total = (degeneracies * prediction.mean["learnability"]).sum(axis=1)
    np.testing.assert_allclose(total + SIZES * (ridge + tail) / prediction.mean["effective_ridge"], SIZES, rtol=1e-12)


def test_effective_ridge_solves_its_equation_over_many_decades():
    for exponent, modes, points in ((1.1, 10**12, 10.0), (2.0, 10**9, 1e4), (6.0, 10**6, 1e3)):
        spectrum = spectra.power_law(exponent, modes=modes)
        for ridge in (0.0, 1e-30, 1e-3):
            m = learning_curves.effective_ridge(spectrum, points, ridge)
            right = ridge + (spectrum.weights / (1 + points * spectrum.eigenvalues / m)).sum()
            np.testing.assert_allclose(m, right, rtol=1e-12)


def test_effective_ridge_is_the_only_root_by_bisection_in_long_arithmetic():
    from decimal import Decimal, getcontext

    getcontext().prec = 40
    spectrum, P, ridge = Spectrum([1.0, 0.2, 0.01], [1, 3, 9]), Decimal(20), Decimal("0.001")
    low, high = ridge, Decimal(3)
    for _ in range(120):
        m = (low + high) / 2
        pairs = zip((1, Decimal("0.2"), Decimal("0.01")), (1, 3, 9), strict=True)
        above = m > ridge + sum(g * e * m / (m + P * e) for e, g in pairs)
        low, high = (low, m) if above else (m, high)
    np.testing.assert_allclose(learning_curves.effective_ridge(spectrum, 20, 0.001), float(low), rtol=1e-13)


@pytest.mark.parametrize(("exponent", "tolerance"), [(1.5, 0.012), (2.0, 0.005)])
def test_ridgeless_power_law_reaches_its_asymptote(exponent, tolerance):
    """Within 1.2 % and 0.5 % at 200 points, and closer with more."""
    spectrum = spectra.power_law(exponent, modes=10**8, infinite=True)
    for points, allowed in ((200, tolerance), (20_000, tolerance / 10)):
        limit = learning_curves.power_law_asymptotics(exponent, points).effective_ridge
        np.testing.assert_allclose(learning_curves.effective_ridge(spectrum, points, 0.0), limit, rtol=allowed)


@pytest.mark.parametrize("target_exponent", [1.6, 2.0, 4.0, 7.0])
@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_test_error_falls_with_the_asymptotic_exponent(target_exponent, ridge):
    exponent = 2.0
    spectrum = spectra.power_law(exponent, modes=10**12, target_exponent=target_exponent)
    sizes = (10**4, 10**5) if ridge == 0 else (10**7, 10**8)
    error = learning_curves.renormalised_ridge(spectrum, population(sizes, ridge, 0.0)).mean["test_error"]
    limits = learning_curves.power_law_asymptotics(exponent, 1, target_exponent=target_exponent)
    expected = limits.ridgeless_exponent if ridge == 0 else limits.fixed_ridge_exponent
    np.testing.assert_allclose(np.log10(error[0] / error[1]), expected, rtol=0.02)
    if ridge:
        only_noise = spectrum.with_target(coefficients=jnp.zeros(spectrum.modes))
        error = learning_curves.renormalised_ridge(only_noise, population(sizes, ridge, 0.3)).mean["test_error"]
        np.testing.assert_allclose(np.log10(error[0] / error[1]), limits.noise_exponent, rtol=0.02)


def test_the_circle_has_the_printed_effective_ridges_and_learnabilities():
    """100 wave numbers, 1/k^2 twice, 40 points: 0.197, 0.891 and 0.506, and 0.615 of the equivalent kernel."""
    k = jnp.arange(101.0)
    spectrum = spectra.circle(jnp.where(k == 0, 0.0, 1 / jnp.maximum(k, 1) ** 2)).with_target(
        coefficients=jnp.zeros(101)
    )
    for ridge, effective, learnability in ((1e-3, 0.197, 0.891), (1.0, None, 0.506)):
        mean = learning_curves.renormalised_ridge(spectrum, population(40, ridge)).mean
        np.testing.assert_allclose(mean["learnability"][0, 5], learnability, atol=6e-4)
        if effective:
            np.testing.assert_allclose(mean["effective_ridge"][0], effective, atol=5e-4)
    bare = learning_curves.equivalent_kernel(spectrum, population(40, 1.0)).mean["learnability"][0, 5]
    np.testing.assert_allclose(bare, 0.615, atol=5e-4)
    tiny = learning_curves.equivalent_kernel(spectrum, population(40, 1e-3)).mean["learnability"][0, 5]
    np.testing.assert_allclose(tiny, 0.999, atol=5e-4)


@pytest.mark.parametrize(
    ("ridge", "errors"), [(0.01, [0.680, 0.408, 0.211, 0.0972]), (0.2, [0.651, 0.457, 0.346, 0.249])]
)
def test_the_erf_kernel_on_the_sphere_has_the_printed_learning_curve(ridge, errors):
    """S^9, weight_variance |x|^2 / inputs = 1.5, a target of degrees one and three, label noise 0.05."""
    net = fp.Mlp(width=10, activation="erf", weight_variance=1.5, readout_variance=1.0)
    spectrum = spectra.sphere(net, 10, radius=10**0.5, modes=30)

    def target(X):
        t = X[:, 0] / 10**0.5
        return 10**0.5 * t + 0.6 * 210**0.5 * (12 * t**3 - 3 * t) / 9

    prediction = learning_curves.renormalised_ridge(
        spectrum, population((20, 60, 200, 500), ridge, 0.05, target=target)
    )
    np.testing.assert_allclose(prediction.mean["noisy_test_error"], errors, atol=6e-4)
    np.testing.assert_allclose(prediction.mean["predictor"][:, 1], prediction.mean["learnability"][:, 1], rtol=1e-12)


def test_degenerate_modes_are_as_many_modes_as_they_count():
    spectrum = Spectrum([1.0, 0.2], [1, 3], [0.5, 2.0])
    listed = Spectrum([1.0, 0.2, 0.2, 0.2], coefficients=[0.5, 2.0, 0.0, 0.0])
    for theory in (learning_curves.renormalised_ridge, learning_curves.equivalent_kernel_corrected):
        some, every = (theory(s, population((5, 9), 2.0, 0.3)).mean for s in (spectrum, listed))
        for name, value in some.items():
            np.testing.assert_allclose(value, every[name][:, :2] if value.ndim == 2 else every[name], rtol=1e-12)


def test_a_tail_is_the_limit_of_many_small_modes():
    spectrum = Spectrum([1.0, 0.2], coefficients=[1.0, 1.0], tail=0.3, target_tail=0.1)
    many = Spectrum([1.0, 0.2, 0.3 / 1e10], [1, 1, 1e10], coefficients=[1.0, 1.0, 0.1**0.5])
    for theory in (
        learning_curves.equivalent_kernel,
        learning_curves.equivalent_kernel_corrected,
        learning_curves.renormalised_ridge,
    ):
        short, full = (theory(s, population((5, 40), 0.7, 0.3)).mean for s in (spectrum, many))
        for name, value in short.items():
            np.testing.assert_allclose(value, full[name][:, :2] if value.ndim == 2 else full[name], rtol=2e-6)


# --- limits between the theories --------------------------------------------------------------------------------------


def test_all_three_theories_agree_at_a_large_ridge():
    """P and ridge grow together, so that the learnabilities stay: differences fall as 1/ridge, then as 1/ridge^2."""
    spectrum = Spectrum(K[:20] ** -1.5, coefficients=K[:20] ** -1.0)

    def difference(one, other, scale):
        task = population(int(10 * scale), 5.0 * scale, 0.5, poisson=True)
        one, other = one(spectrum, task), other(spectrum, task)
        scatter = {"variance": float(jnp.max(other.variance["predictor"]))}  # of which the leading order knows nothing
        return scatter | {name: float(jnp.max(jnp.abs(one.mean[name] - other.mean[name]))) for name in one.mean}

    theories = learning_curves.equivalent_kernel, learning_curves.renormalised_ridge
    first, second = (difference(*theories, scale) for scale in (1e3, 1e4))
    for name in ("test_error", "train_error", "posterior_variance", "learnability", "predictor", "variance"):
        np.testing.assert_allclose(second[name] / first[name], 0.1, rtol=0.02)


def test_first_correction_is_the_renormalised_ridge_to_first_order_for_many_gaussian_modes():
    """With 10^4 modes in each eigenspace the terms of a single mode vanish, as the closure assumes."""
    spectrum = Spectrum([1e-4, 3e-5], [1e4, 1e4], coefficients=[1.0, 0.5])
    errors = []
    for scale in (1e2, 1e3):
        task = population(int(1e4 * scale), scale, 0.5, poisson=True)
        one, other = (
            {**theory(spectrum, task).mean, "predictor_variance": theory(spectrum, task).variance["predictor"]}
            for theory in (learning_curves.equivalent_kernel_corrected, learning_curves.renormalised_ridge)
        )
        errors.append({name: float(jnp.max(jnp.abs(one[name] / other[name] - 1))) for name in one})
    for name, error in errors[1].items():
        # the variance over data sets is of first order itself
        assert error < (0.11 if name == "predictor_variance" else 0.02) * errors[0][name] + 1e-6, name


def test_train_error_of_a_poisson_number_of_points_is_a_mean_over_data_sets():
    """One constant mode, r = y ridge / (n lambda + ridge) at each of n points: E[sum of r^2 / n] over n > 0 is exact.

    P and ridge grow together: what the first correction leaves falls as 1/P^2, the correction itself as 1/P.
    """
    nodes = (jnp.zeros((1, 1)), jnp.ones(1))
    constant = Spectrum([1.0], coefficients=[1.0], eigenfunctions=lambda X: jnp.ones((len(X), 1)), quadrature=nodes)
    left = []
    for P in (100, 1000):
        n = np.arange(1, 3 * P)
        exact = np.sum(scipy.stats.poisson.pmf(n, P) * (0.5 * P / (n + 0.5 * P)) ** 2)
        task = population(P, 0.5 * P, 0.0, poisson=True)
        found = learning_curves.equivalent_kernel_corrected(constant, task).mean["train_error"][0]
        left.append(abs(found - exact))
    assert left[0] < 1e-3 and left[1] < 0.012 * left[0]


def test_first_correction_with_constant_variance_has_its_closed_form():
    """d<f_k> = -P v lambda_k y_k / (P lambda_k + ridge)^2, and + P lambda_k^2 ridge y_k / (P lambda_k + ridge)^3."""
    P, ridge = 30, 8.0
    spectrum = spectra.circle(jnp.arange(1.0, 13) ** -1.5).with_target(coefficients=jnp.arange(12.0) - 5)
    e, y = spectrum.eigenvalues, spectrum.coefficients
    v = float((spectrum.degeneracies * e * ridge / (P * e + ridge)).sum())
    mean = e * P / (P * e + ridge) * y - P * v * e * y / (P * e + ridge) ** 2
    fixed = mean + P * e**2 * ridge * y / (P * e + ridge) ** 3
    for expected, is_poisson in ((mean, True), (fixed, False)):
        task = population(P, ridge, 0.5, poisson=is_poisson)
        prediction = learning_curves.equivalent_kernel_corrected(spectrum, task)
        np.testing.assert_allclose(prediction.mean["predictor"][0], expected, rtol=1e-12)
        diagonal = jnp.diagonal(learning_curves.predictor_covariance_corrected(spectrum, task)[0])
        np.testing.assert_allclose(prediction.variance["predictor"][0], diagonal, rtol=1e-12)


def test_homogeneous_shortcut_is_the_quadrature_over_every_mode():
    """The circle with every cosine and sine listed as a mode of its own, by quadrature."""
    eigenvalues, y = jnp.arange(1.0, 6) ** -1.5, jnp.array([0.3, 1.0, -0.5, 0.0, 0.7])
    short = spectra.circle(eigenvalues).with_target(coefficients=y)

    def every(X):
        n = jnp.arange(1, 5)
        return jnp.concatenate([jnp.ones_like(X), 2**0.5 * jnp.cos(n * X), 2**0.5 * jnp.sin(n * X)], axis=1)

    full = Spectrum(
        jnp.append(eigenvalues, eigenvalues[1:]),
        coefficients=jnp.append(y, jnp.zeros(4)),
        eigenfunctions=every,
        quadrature=short.quadrature,
    )
    for poisson in (False, True):
        task = population((20, 50), 8.0, 0.5, poisson=poisson)
        one, other = (learning_curves.equivalent_kernel_corrected(s, task).mean for s in (short, full))
        for name, value in one.items():
            np.testing.assert_allclose(
                value, other[name][:, :5] if value.ndim == 2 else other[name], rtol=1e-10, atol=1e-14
            )


# --- one data set -----------------------------------------------------------------------------------------------------


def test_cross_validation_is_its_formula_and_leave_one_out_is_leaving_one_out():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    net, task = fp.Mlp(9), fp.Task(X, y, 0.2)
    mean = learning_curves.gcv(net, task).mean
    S = np.asarray(net.limit(task.X)) + 0.2 * np.eye(12)
    hat = np.asarray(net.limit(task.X)) @ np.linalg.inv(S)
    residual = y - hat @ y
    np.testing.assert_allclose(mean["train_error"], [(residual**2).mean()], rtol=1e-10)
    golub = (residual**2).mean() / (1 - np.trace(hat) / 12) ** 2
    np.testing.assert_allclose(mean["noisy_test_error"], [golub], rtol=1e-10)
    np.testing.assert_allclose(mean["effective_ridge"], [12 / np.trace(np.linalg.inv(S))], rtol=1e-12)
    left_out = fp.theory.limit(net, task).mean["leave_one_out"]
    np.testing.assert_allclose(mean["leave_one_out_error"], [(left_out**2).mean()], rtol=1e-9)
    again = learning_curves.gcv(net.limit, task).mean
    np.testing.assert_allclose(again["noisy_test_error"], mean["noisy_test_error"], rtol=1e-12)


def test_cross_validation_of_one_large_data_set_meets_the_theory_of_all():
    """Gaussian features, 400 points: the effective ridge within 2 %, the error within 5 standard errors of |d|^2."""
    rng = np.random.default_rng(1)
    P, ridge, noise = 400, 0.1, 0.05
    phi = rng.normal(size=(P, 400))
    y = phi @ np.asarray(POWER_LAW.coefficients) + noise**0.5 * rng.normal(size=P)
    features = jnp.asarray(phi * np.sqrt(POWER_LAW.eigenvalues))
    task = fp.Task(features, y, ridge)
    estimate = learning_curves.gcv(lambda X1, X2: X1 @ X2.T, task).mean
    theory = learning_curves.renormalised_ridge(POWER_LAW, population(P, ridge, noise)).mean
    np.testing.assert_allclose(estimate["effective_ridge"], theory["effective_ridge"], rtol=0.02)
    for name in ("noisy_test_error", "train_error"):
        np.testing.assert_allclose(estimate[name], theory[name], rtol=5 * (2 / P) ** 0.5)
    np.testing.assert_allclose(estimate["leave_one_out_error"], estimate["noisy_test_error"], rtol=0.1)


# --- interface --------------------------------------------------------------------------------------------------------


def test_predictions_carry_the_coordinates_of_their_curve():
    spectrum = spectra.interval(jnp.arange(1.0, 4) ** -1.5).with_target(coefficients=[1.0, 0.0, 0.0])
    dataset = learning_curves.renormalised_ridge(spectrum, population((5, 9), 0.1)).to_dataset()
    assert dataset.predictor.dims == ("points", "mode")
    assert dataset.points.values.tolist() == [5, 9]
    assert dataset["mode"].values.tolist() == [1, 2, 3]
    assert fp.Prediction.from_dataset(dataset).theory == "renormalised ridge"
    plane = spectra.rbf_gaussian(inputs=2, modes=2).with_target(coefficients=jnp.ones(3))
    labels = learning_curves.equivalent_kernel(plane, population(5, 0.1)).to_dataset()["mode"].values.tolist()
    assert labels == ["(0, 0)", "(0, 1)", "(1, 0)"]


def test_theories_are_differentiable_in_noise_and_spectrum():
    def error(ridge, exponent, theory):
        spectrum = spectra.power_law(exponent, modes=50, target_exponent=2.0)
        return jnp.sum(theory(spectrum, population((20, 30), ridge, 0.05)).mean["noisy_test_error"])

    for theory in (learning_curves.renormalised_ridge, learning_curves.equivalent_kernel_corrected):
        value = jax.jit(lambda r, a, theory=theory: error(r, a, theory))
        gradient = jax.jit(jax.grad(lambda r, a, theory=theory: error(r, a, theory), argnums=(0, 1)))(0.7, 1.4)
        h = 1e-5
        differences = (
            (value(0.7 + h, 1.4) - value(0.7 - h, 1.4)) / (2 * h),
            (value(0.7, 1.4 + h) - value(0.7, 1.4 - h)) / (2 * h),
        )
        np.testing.assert_allclose(gradient, differences, rtol=1e-7)
    slope = jax.grad(lambda e: learning_curves.effective_ridge(Spectrum(e), 5.0, 0.0))(jnp.ones(9))
    np.testing.assert_allclose(slope, np.full(9, 4 / 9), rtol=1e-10)  # nine equal modes: m = (9 - 5) lambda


@pytest.mark.parametrize(
    ("prior", "task", "error", "message"),
    [
        (fp.Mlp(9), population(5, 0.1), TypeError, "needs a Spectrum"),
        (POWER_LAW, fp.Task([[1.0]], [1.0], 0.1), TypeError, "needs a Population"),
        (Spectrum([1.0]), population(5, 0.1), ValueError, "has no target"),
        (POWER_LAW, population(0, 0.1), ValueError, "at least 1"),
        (POWER_LAW, population(5, -0.1), ValueError, "noise_variance = -0.1"),
        (POWER_LAW, population(5, 0.1, -1.0), ValueError, "label_noise_variance = -1"),
        (POWER_LAW, population(5, np.ones(3)), ValueError, "noise_variance has shape"),
        (POWER_LAW, population(400, 0.0), ValueError, "points = 400 and 400 modes"),
    ],
)
def test_bad_input_is_named_with_its_remedy(prior, task, error, message):
    with pytest.raises(error, match=message):
        learning_curves.renormalised_ridge(prior, task)


def test_expansions_refuse_what_they_cannot_expand():
    for theory in (learning_curves.equivalent_kernel, learning_curves.equivalent_kernel_corrected):
        with pytest.raises(ValueError, match="needs a positive one"):
            theory(POWER_LAW, population(5, 0.0))
    degenerate = Spectrum([1.0], [2], [1.0], eigenfunctions=jnp.ones_like, quadrature=(jnp.ones((1, 1)), jnp.ones(1)))
    with pytest.raises(ValueError, match="list every function as a mode"):
        learning_curves.equivalent_kernel_corrected(degenerate, population(5, 1.0))
    without = Spectrum([1.0], coefficients=[1.0], eigenfunctions=jnp.ones_like)
    with pytest.raises(ValueError, match="no quadrature"):
        learning_curves.equivalent_kernel_corrected(without, population(5, 1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: learning_curves.power_law_asymptotics(0.9, 10), "exponent = 0.9: give a finite number above 1"),
        (lambda: learning_curves.power_law_asymptotics(np.inf, 3), "exponent = inf"),
        (lambda: learning_curves.power_law_asymptotics(2.0, 3, target_exponent=np.nan), "target_exponent = nan"),
        (lambda: learning_curves.power_law_asymptotics(2.0, -3), "points = -3: .* above zero"),
        (lambda: learning_curves.power_law_asymptotics(2.0, 0), "points = 0"),
        (lambda: learning_curves.effective_ridge(POWER_LAW, 10, -0.1), "noise_variance = -0.1 must be finite, zero or"),
        (lambda: learning_curves.effective_ridge(POWER_LAW, 10, np.nan), "noise_variance = nan"),
        (lambda: learning_curves.effective_ridge(POWER_LAW, 10, np.inf), "noise_variance = inf"),
        (lambda: learning_curves.effective_ridge(POWER_LAW, 10, [0.1, 0.2]), r"noise_variance has shape \(2,\)"),
        (lambda: learning_curves.effective_ridge(POWER_LAW, [10, np.nan], 0.1), "points = .*nan"),
        (lambda: learning_curves.effective_ridge(POWER_LAW, [], 0.1), r"points = \[\]: give a size"),
        (lambda: learning_curves.effective_ridge(POWER_LAW, 0, 0.1), "points = 0"),
        (lambda: learning_curves.effective_ridge(POWER_LAW, -1, 0.1), "points = -1"),
    ],
)
def test_numbers_out_of_range_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_cross_validation_refuses_what_it_cannot_estimate():
    X = np.random.default_rng(0).normal(size=(4, 2))
    with pytest.raises(TypeError, match="one data set"):
        learning_curves.gcv(fp.Mlp(9), population(5, 0.1))
    with pytest.raises(ValueError, match="the same for every point"):
        learning_curves.gcv(fp.Mlp(9), fp.Task(X, X[:, 0], [0.1] * 4))
    with pytest.raises(ValueError, match="not positive semidefinite"):
        learning_curves.gcv(lambda a, b: -a @ b.T, fp.Task(X, X[:, 0], 0.1))
    slope = fp.tasks.Observation(fp.gp.Derivative(X, [1.0, 0.0]), X[:, 0], 0.1)
    with pytest.raises(TypeError, match="observations through linear operators, and theory 'generalised cross-val"):
        learning_curves.gcv(fp.Mlp(9), fp.Task(X, X[:, 0], 0.1, observations=[slope]))
    with pytest.raises(ValueError, match="not symmetric"):
        learning_curves.gcv(lambda a, b: a @ b.T * (1 + a[:, :1] ** 2), fp.Task(X, X[:, 0], 0.1))
    with pytest.raises(TypeError, match="a function kernel"):
        learning_curves.gcv(np.eye(4), fp.Task(X, X[:, 0], 0.1))
    with pytest.raises(ValueError, match="for 4 points"):
        learning_curves.gcv(lambda a, b: a, fp.Task(X, X[:, 0], 0.1))
    repeated = fp.Task(np.repeat(X, 2, axis=0), np.arange(8.0), 1e-18)
    with pytest.raises(ValueError, match="noise_variance is too small"):
        learning_curves.gcv(fp.Mlp(9), repeated)


def test_float32_is_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match="needs float64"):
        learning_curves.renormalised_ridge(POWER_LAW, population(5, 0.1))
    with jax.enable_x64(False):
        single = Spectrum([1.0], coefficients=[1.0])
    with pytest.raises(ValueError, match="but the spectrum is float32"):
        learning_curves.equivalent_kernel(single, population(5, 0.1))


def test_a_spectrum_with_another_target_than_the_populations_is_refused():
    def target(X):
        return X[:, 0]

    spectrum = fp.kernels.spectra.sphere(jnp.exp, inputs=3, modes=6)
    population = fp.tasks.Population((5,), 0.1, measure=fp.tasks.Sphere(3, 1.0), target=target)
    learning_curves.renormalised_ridge(spectrum.with_target(target), population)
    with pytest.raises(ValueError, match="not the population's"):
        learning_curves.renormalised_ridge(spectrum.with_target(lambda X: 3 * X[:, 0]), population)
