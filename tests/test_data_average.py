"""Averages over random data sets: exact identities of every data set, brute force, and bad input."""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tinygp

import fieldprob as fp
from fieldprob.infer.datasets import data_average

MODES = 40
EIGENVALUES = np.arange(1.0, MODES + 1) ** -1.3
COEFFICIENTS = np.sqrt(EIGENVALUES) * np.random.default_rng(0).normal(size=MODES)


def spectrum(eigenvalues=EIGENVALUES, coefficients=COEFFICIENTS, degeneracies=None, **more):
    degeneracies = np.ones(len(eigenvalues)) if degeneracies is None else degeneracies
    return SimpleNamespace(
        eigenvalues=jnp.asarray(eigenvalues), coefficients=jnp.asarray(coefficients), degeneracies=degeneracies,
        labels=np.arange(len(eigenvalues)), tail=0.0, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def gaussian():
    population = fp.tasks.Population((5, 30), 0.2, 0.05)
    return data_average(spectrum(), population, datasets=2000, modes=MODES, seed=1, progress=False)["posterior"]


@pytest.mark.slow
def test_posterior_variance_is_the_sum_over_modes_of_what_was_not_learned(gaussian):
    left = (EIGENVALUES * (1 - gaussian["learnability"])).sum("mode")
    np.testing.assert_allclose(left, gaussian["posterior_variance"], rtol=1e-10)


def test_learnabilities_of_a_data_set_sum_to_less_than_its_points(gaussian):
    total = gaussian["learnability"].sum("mode")
    assert np.all(total < gaussian["points"]) and np.all(total > 0)


def test_test_error_is_the_distance_of_predictor_and_target_mode_by_mode(gaussian):
    distance = ((gaussian["predictor"] - COEFFICIENTS) ** 2).sum("mode")
    np.testing.assert_allclose(distance, gaussian["test_error"], rtol=1e-9)
    np.testing.assert_allclose(gaussian["noisy_test_error"] - gaussian["test_error"], 0.05, atol=1e-12)


def brute_force(P, ridge, label_noise, datasets, seed):
    """Ridge regression in the space of weights, where nothing of a kernel appears."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(datasets):
        features = rng.normal(size=(P, MODES)) * np.sqrt(EIGENVALUES)
        y = features @ (COEFFICIENTS / np.sqrt(EIGENVALUES)) + np.sqrt(label_noise) * rng.normal(size=P)
        precision = features.T @ features / ridge + np.eye(MODES)
        covariance = np.linalg.inv(precision)
        weights = covariance @ features.T @ y / ridge
        f = np.sqrt(EIGENVALUES) * weights
        found.append(
            (
                np.sum((f - COEFFICIENTS) ** 2),
                np.mean((y - features @ weights) ** 2),
                np.sum(EIGENVALUES * np.diag(covariance)),
                f[0],
                1 - covariance[2, 2],
            )
        )
    return np.array(found)


@pytest.mark.parametrize("P", [5, 30])
def test_averages_are_those_of_ridge_regression_on_weights(gaussian, P):
    """Ten means of 2,000 independent data sets each: |z| < 6 fails by chance with probability below 1e-7."""
    mine = gaussian.sel(points=P)
    mine = np.stack(
        [
            mine["test_error"], mine["train_error"], mine["posterior_variance"], mine["predictor"][:, 0],
            mine["learnability"][:, 2],
        ],
        axis=1,
    )  # fmt: skip
    theirs = brute_force(P, 0.2, 0.05, 2000, seed=2)
    error = np.hypot(mine.std(axis=0), theirs.std(axis=0)) / np.sqrt(2000)
    assert np.all(np.abs(mine.mean(axis=0) - theirs.mean(axis=0)) < 6 * error)


def test_degenerate_modes_are_independent_features_and_the_target_lies_along_one(gaussian):
    degenerate = spectrum([1.0, 0.3], [0.7, -0.4], np.array([3.0, 2.0]))
    plain = spectrum([1.0, 1.0, 1.0, 0.3, 0.3], [0.7, 0.0, 0.0, -0.4, 0.0])
    population = fp.tasks.Population(8, 0.1)
    a, b = (data_average(s, population, datasets=20, progress=False)["posterior"] for s in (degenerate, plain))
    np.testing.assert_allclose(a["test_error"], b["test_error"], rtol=1e-10)
    np.testing.assert_allclose(a["learnability"], b["learnability"][:, :, [0, 3]], rtol=1e-10)


@pytest.mark.slow
def test_a_poisson_number_of_points_has_its_mean_and_may_be_zero():
    """A single mode and no noise in the labels: n points leave the error c²/(1 + λ Σφ²/κ²)², c² where n is zero.

    The mean over 4,000 data sets against numpy: |z| < 6, chance below 1e-8.
    """
    one = spectrum([1.0], [1.0])
    population = fp.tasks.Population((1, 4), 0.5, 0.0, poisson=True)
    errors = data_average(one, population, datasets=4000, progress=False)["posterior"]["test_error"]
    rng = np.random.default_rng(5)
    for P in (1, 4):
        features = [rng.normal(size=n) for n in rng.poisson(P, 4000)]
        theirs = np.array([(1 + np.sum(x**2) / 0.5) ** -2 for x in features])
        mine = errors.sel(points=P).values
        assert mine.max() == 1.0
        assert abs(np.mean(mine == 1.0) - np.exp(-P)) < 6 * np.sqrt(np.exp(-P) / 4000)
        error = np.hypot(mine.std(), theirs.std()) / np.sqrt(4000)
        assert abs(mine.mean() - theirs.mean()) < 6 * error


def test_a_network_learns_on_the_sphere_as_its_limit_does():
    """Each data set by itself, with the generators replayed: the errors are those of `gp.condition`."""
    net = fp.Mlp(width=1, weight_variance=1.5)
    population = fp.tasks.Population(12, 0.1, 0.0, measure=fp.tasks.Sphere(4), target=lambda X: X[:, 0] ** 3)
    found = data_average(net, population, datasets=3, test_points=7, seed=4, progress=False)["posterior"]
    for i in range(3):
        key = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(4), 12), i), 3)[0]
        key_train, key_test = jax.random.split(key)
        X, X_test = population.measure(key_train, 12), population.measure(key_test, 7)
        y = X[:, :1] ** 3
        posterior = fp.gp.condition(net.limit(X), 0.1, y, net.limit(X_test, X), net.limit(X_test))
        error = np.mean((posterior.mean - X_test[:, :1] ** 3) ** 2)
        np.testing.assert_allclose(found["test_error"][i, 0], error, rtol=1e-9)
        np.testing.assert_allclose(found["posterior_variance"][i, 0], posterior.variance.mean(), rtol=1e-9)


def test_a_pool_is_drawn_without_replacement_and_tested_on_the_rest():
    X = np.arange(10.0)[:, None]
    pool = fp.tasks.Pool(X, X[:, 0])

    def covariance(X1, X2):  # no two points of the pool share anything: what was not seen is predicted as zero
        return jnp.where(X1 == X2.T, 1.0, 0.0)

    population = fp.tasks.Population(9, 1e-12, 0.0, measure=pool)
    found = data_average(covariance, population, datasets=200, test_points=5, progress=False)["posterior"]
    assert set(np.round(np.sqrt(found["test_error"].values[:, 0]), 6)) == set(np.arange(10.0))


def test_labels_of_a_pool_carry_no_noise_unless_given():
    pool = fp.tasks.Pool(np.random.default_rng(0).normal(size=(30, 2)), np.zeros(30))
    population = fp.tasks.Population(20, 0.1, measure=pool)
    assert population.label_noise_variance == 0.0
    error = data_average(fp.Mlp(width=1), population, datasets=3, progress=False)["posterior"]["test_error"]
    assert np.all(error == 0.0)
    assert fp.tasks.Population(20, 0.1, 0.2, measure=pool).label_noise_variance == 0.2


@pytest.mark.slow
def test_batches_change_nothing_and_sizes_have_data_of_their_own():
    population = fp.tasks.Population((5, 6), 0.2)
    a, b = (data_average(spectrum(), population, datasets=10, batch=n, progress=False)["posterior"] for n in (3, 10))
    np.testing.assert_allclose(a["test_error"], b["test_error"], rtol=1e-12)
    alone = data_average(spectrum(), population.replace(points=6), datasets=10, progress=False)["posterior"]
    np.testing.assert_allclose(alone["test_error"][:, 0], a["test_error"].sel(points=6), rtol=1e-12)


@pytest.mark.slow
def test_two_devices_share_the_data_sets_and_change_none(tmp_path):
    program = """
import jax, numpy as np, sys
jax.config.update("jax_enable_x64", True)
import fieldprob as fp
from fieldprob.infer.datasets import data_average
population = fp.tasks.Population((4, 9), 0.1, measure=fp.tasks.Sphere(3), target=lambda X: X[:, 0])
tree = data_average(fp.Mlp(width=1), population, datasets=7, progress=False)
np.save(sys.argv[1], tree["posterior"]["test_error"].values)
"""
    found = []
    for devices in (1, 2):
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        path = tmp_path / f"{devices}.npy"
        subprocess.run([sys.executable, "-c", program, str(path)], check=True, env=environment)
        found.append(np.load(path))
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_a_singular_covariance_is_named():
    with pytest.raises(FloatingPointError, match="larger noise_variance"):
        data_average(
            lambda X1, X2: jnp.ones((len(X1), len(X2))),
            fp.tasks.Population(4, 0.0, measure=fp.tasks.Circle(), target=lambda X: X[:, 0]),
            datasets=2,
            progress=False,
        )


def rbf(X1, X2):
    return jnp.exp(-jnp.sum((X1[:, None] - X2) ** 2, axis=-1) / 2)


INTERVAL = {"measure": fp.tasks.Interval(0.0, 1.0), "target": lambda X: X[:, 0]}


@pytest.mark.parametrize("ridge", [1e-15, 1e-12])
def test_a_covariance_that_is_almost_singular_is_not_solved_wrongly(ridge):
    """Two modes at five points, and a smooth kernel at thirty: rounding over ridge reaches one."""
    two = spectrum([1.0, 0.1], [1.0, 1.0])
    for prior, population in (
        (two, fp.tasks.Population(5, ridge, 0.1)),
        (rbf, fp.tasks.Population(30, ridge, 0.1, **INTERVAL)),
        (two, fp.tasks.Population(5, ridge, 0.1, poisson=True)),
    ):
        with pytest.raises(FloatingPointError, match="relative residual .*larger noise_variance"):
            data_average(prior, population, datasets=20, progress=False)


def test_a_small_ridge_that_can_be_solved_is_accurate():
    """Two modes at five points: the posterior variance is ridge times the trace of (features features')^-1."""
    population, two = fp.tasks.Population(5, 1e-7, 0.1), spectrum([1.0, 0.1], [1.0, 1.0])
    variance = data_average(two, population, datasets=20, progress=False)["posterior"]["posterior_variance"]
    assert np.all((variance > 1e-8) & (variance < 1e-5))


def indefinite(X1, X2):
    return 1 - jnp.sum((X1[:, None] - X2) ** 2, axis=-1)


def inconsistent(X1, X2):  # of points with others three times that of points with themselves
    return rbf(X1, X2) * (1.0 if X1.shape == X2.shape else 3.0)


@pytest.mark.parametrize(
    ("prior", "change", "message"),
    [
        (lambda X1, X2: -rbf(X1, X2), {}, "prior gives 8 random points is not positive semidefinite"),
        (indefinite, {}, "not positive semidefinite"),
        (lambda X1, X2: rbf(X1, X2) * (1 + X1[:, :1] ** 2), {}, "is not symmetric"),
        (lambda X1, X2: rbf(X1, X2) * jnp.nan, {}, "prior gives 8 random points has 64 of 64 entries that are NaN"),
        (
            inconsistent,
            {},
            "no covariance function: in 20 of 20 data sets of 8 points a posterior variance is negative",
        ),
        (lambda X1, X2: X1, {}, r"prior returned shape \(3, 1\) for 3 and 8 points"),
        (rbf, {"measure": lambda key, points: jnp.ones(points)}, r"measure returned shape \(8,\) for 8 points"),
        (rbf, {"target": lambda X: jnp.nan * X[:, 0]}, "target of random points has 8 NaN or infinite entries"),
        (rbf, {"target": lambda X: jnp.where(X[:, 0] < 0.95, X[:, 0], jnp.nan)}, "target of random points has 1 NaN"),
        (rbf, {"target": lambda X: X[:, 0] if len(X) == 8 else X[:, 0] * jnp.nan}, "20 of 20 .* check that target"),
    ],
)
def test_what_is_wrong_with_prior_measure_or_target_is_named(prior, change, message):
    population = fp.tasks.Population(8, 20.0, 0.1, **(INTERVAL | change))
    with pytest.raises(ValueError, match=message):
        data_average(prior, population, datasets=20, test_points=3, progress=False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"datasets": 0}, ValueError, "datasets is 0"),
        ({"test_points": 1.5}, ValueError, "test_points is 1.5"),
        ({"population": 3}, TypeError, "fieldprob.tasks.Population"),
        ({"prior": fp.Mlp(width=1)}, TypeError, "needs a Spectrum"),
        ({"prior": spectrum(degeneracies=np.full(MODES, 0.5))}, ValueError, "whole number"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    arguments = {"prior": spectrum(), "population": fp.tasks.Population(5, 0.1), "datasets": 2, **change}
    prior, population = arguments.pop("prior"), arguments.pop("population")
    with pytest.raises(error, match=message):
        data_average(prior, population, progress=False, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": ()}, "points"),
        ({"points": (10, 5)}, "increase"),
        ({"points": 0}, "points = 0 must be at least 1"),
        ({"points": 5, "noise_variance": -0.1}, "noise_variance"),
        ({"points": 5, "target": np.sin}, "without measure"),
        ({"points": 5, "measure": fp.tasks.Circle()}, "without target"),
        ({"points": 5, "measure": fp.tasks.Pool(np.ones((7, 1)), np.ones(7)), "target": np.sin}, "leave target out"),
    ],
)
def test_a_population_says_what_is_wrong_with_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        fp.tasks.Population(**{"noise_variance": 0.1, **arguments})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda k: fp.kernels.spectra.sphere(tinygp.kernels.ExpSquared(1.5), 3, radius=3**0.5, modes=8),
        lambda k: fp.kernels.spectra.sphere(k, 3, radius=1.0, modes=8),
    ],
    ids=["kernel", "radius"],
)
def test_the_spectrum_of_another_prior_is_refused(wrong):
    kernel = tinygp.kernels.ExpSquared(0.5)
    population = fp.tasks.Population(10, 0.1, measure=fp.tasks.Sphere(3), target=lambda X: X[:, 0])
    with pytest.raises(ValueError, match="spectrum is not that of prior"):
        fp.infer.data_average(kernel, population, datasets=5, spectrum=wrong(kernel), progress=False)
