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
