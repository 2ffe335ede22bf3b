"""Names, dimensions and formulas of the statistics."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fieldprob import statistics


def test_doctests_run():
    assert doctest.testmod(statistics).failed == 0


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("f", ("train_point", "output")),
        ("f_test", ("test_point", "output")),
        ("f_conditional_variance", ("train_point",)),
        ("f_test_conditional_variance", ("test_point",)),
        ("kernel_0", ("point", "point_")),
        ("kernel_12", ("point", "point_")),
        ("alignment_1", ()),
        ("train_loss", ()),
        ("test_loss", ()),
    ],
)
def test_every_statistic_has_its_dimensions(name, dims):
    assert statistics.dims(name) == dims


@pytest.mark.parametrize("name", ["g", "kernel", "kernel_", "kernel_1_test", ""])
def test_an_unknown_statistic_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"unknown statistic .*known are f, f_test.*dims="):
        statistics.dims(name)


def test_only_latent_sites_change_under_permutations_of_the_neurons():
    assert all(map(statistics.is_invariant, ["f", "kernel_2", "alignment_1", "train_loss", "overlap", "weight_norm"]))
    assert not any(map(statistics.is_invariant, ["weight_0", "bias_1", "phase_0", "readout"]))


def brute_force_alignment(K, Y):
    P = len(K)
    H = np.eye(P) - np.ones((P, P)) / P
    A, B = H @ K @ H, H @ Y @ Y.T @ H
    return np.trace(A @ B) / np.sqrt(np.trace(A @ A) * np.trace(B @ B))


def test_alignment_is_the_cosine_between_the_centred_kernels():
    rng = np.random.default_rng(0)
    root, Y = rng.normal(size=(3, 7, 4)), rng.normal(size=(7, 2))
    K = root @ root.swapaxes(1, 2)
    expected = [brute_force_alignment(k, Y) for k in K]
    np.testing.assert_allclose(statistics.centred_kernel_alignment(K, Y), expected, rtol=1e-12)
    jitted = jax.jit(statistics.centred_kernel_alignment)(jnp.asarray(K), jnp.asarray(Y))
    np.testing.assert_allclose(jitted, expected, rtol=1e-12)


def test_alignment_ignores_scale_and_constant_shifts():
    rng = np.random.default_rng(1)
    root, Y = rng.normal(size=(6, 6)), rng.normal(size=(6, 1))
    K = root @ root.T
    value = statistics.centred_kernel_alignment(K, Y)
    np.testing.assert_allclose(statistics.centred_kernel_alignment(5 * K + 2, -3 * Y + 1), value, rtol=1e-12)
    np.testing.assert_allclose(statistics.centred_kernel_alignment(7 * Y @ Y.T, Y), 1, rtol=1e-12)


def test_alignment_with_constant_targets_is_zero():
    assert statistics.centred_kernel_alignment(np.eye(3), np.ones((3, 1))) == 0


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("K", "Y", "message"),
    [
        (np.eye(3), np.ones(3), r"Y has shape \(3,\).*Y\[:, None\]"),
        (np.eye(3), np.ones((4, 1)), "K has 3 points and Y has 4"),
        (np.ones((3, 4)), np.ones((4, 1)), r"K has shape \(3, 4\): give a square kernel"),
        (np.ones(3), np.ones((3, 1)), r"K has shape \(3,\): give a square kernel"),
    ],
)
def test_alignment_of_what_does_not_fit_is_refused(K, Y, message, jit):
    alignment = inspect.unwrap(statistics.centred_kernel_alignment)  # without the shape checks of the test suite
    alignment = jax.jit(alignment) if jit else alignment
    with pytest.raises(ValueError, match=message):
        alignment(K, Y)


# --- finite width -----------------------------------------------------------------------------------------------------


def test_statistics_of_finite_width_on_batches_of_numpy_and_jax_arrays():
    """Against their definitions written out, for arrays (samples, ...)."""
    rng = np.random.default_rng(2)
    y, f, B = rng.normal(size=(5, 1)), rng.normal(size=(3, 5, 1)), rng.normal(size=(3, 5, 5))
    K, reference = B @ B.swapaxes(1, 2), np.eye(5) + 0.1
    readout, weight, z = rng.normal(size=(3, 7, 1)), rng.normal(size=(3, 7, 2)), rng.normal(size=5)
    projector = np.eye(5) - y @ y.T / np.sum(y**2)
    noise = np.diag(np.arange(1.0, 6.0))
    expected = {
        "normalised_discrepancy": (y - f) / np.arange(1.0, 6.0)[:, None],
        "alignment_parallel": [(y.T @ k @ y / (y.T @ reference @ y)).item() for k in K],
        "alignment_orthogonal": [np.trace(projector @ k) / np.trace(projector @ reference) for k in K],
        "readout_norm": [np.sum((np.sqrt(0.4 / 7) * a) ** 2) for a in readout],
        "weight_covariance": [(w := np.sqrt(0.6 / 2) * v).T @ w / 7 for v in weight],
        "hermite_coefficient": [
            [np.mean(g), np.mean(g * z), np.mean(g * (z**2 - 1)) / 2, np.mean(g * (z**3 - 3 * z)) / 6]
            for g in f[..., 0]
        ],
    }
    arguments = {
        "normalised_discrepancy": (f, y, noise),
        "alignment_parallel": (K, reference, y[:, 0]),
        "alignment_orthogonal": (K, reference, y[:, 0]),
        "readout_norm": (readout, 0.4),
        "weight_covariance": (weight, 0.6),
        "hermite_coefficient": (f[..., 0], z, 4),
    }
    for name, given in arguments.items():
        function = getattr(statistics, name)
        found = function(*given)
        assert isinstance(found, np.ndarray) and found.ndim == 1 + len(statistics.dims(name)), name
        np.testing.assert_allclose(found, expected[name], rtol=1e-12, err_msg=name)
        on_jax = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in given]
        compiled = jax.jit(function, static_argnums=2) if name == "hermite_coefficient" else jax.jit(function)
        np.testing.assert_allclose(compiled(*on_jax), expected[name], rtol=1e-12, err_msg=name)


def test_noise_of_a_discrepancy_is_a_number_a_vector_or_a_matrix():
    y, f = np.ones((3, 1)), np.zeros((3, 1))
    for noise in (0.5, np.full(3, 0.5), 0.5 * np.eye(3)):
        np.testing.assert_allclose(statistics.normalised_discrepancy(f, y, noise), 2.0, rtol=1e-15)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("normalised_discrepancy", (np.ones((3, 1)), np.ones((2, 1)), 1.0), "give both"),
        ("alignment_parallel", (np.eye(3), np.eye(2), np.ones(3)), "do not fit"),
        ("alignment_orthogonal", (np.eye(3), np.eye(3), np.ones((3, 1))), "do not fit"),
        ("readout_norm", (np.ones(3), 1.0), "give the sites"),
        ("weight_covariance", (np.ones(3), 1.0), "give the sites"),
        ("hermite_coefficient", (np.ones(3), np.ones(2), 2), "same points"),
        ("hermite_coefficient", (np.ones(3), np.ones(3), 0), "at least 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, arguments, message):
    function = inspect.unwrap(getattr(statistics, name))  # without the shape checks of the test suite
    with pytest.raises(ValueError, match=message):
        function(*arguments)
