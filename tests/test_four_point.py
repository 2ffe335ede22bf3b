"""Four-point functions of neurons against brute-force quadrature that shares no code with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.special import erf, ndtr

from fieldprob.activations import (
    Monomial,
    RandomPhaseCosine,
    Smooth,
    four_point,
    get,
    unit_covariance,
)

ROOT = np.random.default_rng(0).normal(size=(4, 4)) / 3
K = ROOT @ ROOT.T
PHI = {
    "linear": lambda z: z,
    "erf": erf,
    "square": np.square,
    "cube": lambda z: z**3,
    "quartic": lambda z: z**4,
    "sin": np.sin,
    "cos": np.cos,
    "exp": np.exp,
    "gelu": lambda z: z * ndtr(z),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
}
ACTIVATION = {"cube": Monomial(3), "quartic": Monomial(4)}


@pytest.fixture(scope="module")
def gauss_hermite():
    """Nodes (u_1, .., u_4) of N(0, K), 32 in each direction, and weights."""
    x, w = np.polynomial.hermite_e.hermegauss(32)
    z = np.stack(np.meshgrid(x, x, x, x, indexing="ij"), axis=-1).reshape(-1, 4)
    weights = np.einsum("i,j,k,l->ijkl", w, w, w, w).ravel() / w.sum() ** 4
    return z @ np.linalg.cholesky(K).T, weights


@pytest.mark.parametrize("name", ["linear", "erf", "square", "cube", "quartic", "sin", "cos", "exp"])
def test_closed_forms_are_the_integrals(name, gauss_hermite):
    """01 E3 and E4, Wick's theorem and exponentials."""
    u, weights = gauss_hermite
    expected = np.prod(PHI[name](u), axis=1) @ weights
    found = four_point(ACTIVATION.get(name, get(name)), jnp.asarray(K))
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("name", "accuracy"), [("gelu", 1e-6), ("tanh", 3e-4), ("relu", 0.05)])
def test_any_other_activation_by_quadrature(name, accuracy, gauss_hermite):
    u, weights = gauss_hermite
    expected = np.prod(PHI[name](u), axis=1) @ weights
    np.testing.assert_allclose(four_point(get(name), jnp.asarray(K)), expected, rtol=accuracy)


def test_more_nodes_of_the_quadrature_are_more_accurate(gauss_hermite):
    u, weights = gauss_hermite
    expected = np.prod(np.sin(u), axis=1) @ weights
    errors = [abs(four_point(Smooth(jnp.sin), jnp.asarray(K), nodes=n) - expected) for n in (4, 6, 8)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_random_phases_are_averaged_over(gauss_hermite):
    u, weights = gauss_hermite
    phases = 2 * np.pi * np.arange(8) / 8  # exact for the four harmonics
    expected = np.mean([4 * np.prod(np.cos(u + b), axis=1) @ weights for b in phases])
    np.testing.assert_allclose(four_point(RandomPhaseCosine(), jnp.asarray(K)), expected, rtol=1e-13)


@pytest.mark.parametrize("variance", [0.3, 1.3, 3.0, 10.0, 30.0, 100.0])
def test_erf_of_four_equal_points(variance):
    """All points coincide: a one-dimensional integral, also where erf is nearly a step."""
    expected = integrate.quad(
        lambda z: erf(np.sqrt(variance) * z) ** 4 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
        -12,
        12,
        points=[-0.3, 0, 0.3],
        limit=400,
        epsabs=1e-14,
    )[0]
    found = four_point(get("erf"), variance * jnp.ones((4, 4)))
    np.testing.assert_allclose(found, expected, atol=1e-14 if variance < 50 else 1e-11)


def test_two_pairs_of_equal_points():
    """A singular covariance: E[erf(u)^2 erf(v)^2]."""
    pair = np.array([[0.7, -0.4], [-0.4, 0.5]])
    x, w = np.polynomial.hermite_e.hermegauss(150)
    u = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1) @ np.linalg.cholesky(pair).T
    expected = np.einsum("i,j,ij->", w, w, np.prod(erf(u) ** 2, axis=-1)) / w.sum() ** 2
    index = np.array([0, 1, 0, 1])
    np.testing.assert_allclose(four_point(get("erf"), jnp.asarray(pair)[index][:, index]), expected, rtol=1e-12)


def test_squares_of_one_point_and_a_scale_of_erf():
    assert four_point(get("square"), jnp.ones((4, 4))) == 105
    probit = type(get("erf"))(scale=0.5)
    np.testing.assert_allclose(four_point(probit, jnp.asarray(K)), four_point(get("erf"), K / 4), rtol=1e-15)


def test_batches_and_derivatives():
    batch = jnp.stack([jnp.asarray(K), 2 * jnp.asarray(K)])
    found = four_point(get("erf"), batch)
    np.testing.assert_allclose(found, [four_point(get("erf"), k) for k in batch], rtol=1e-14)
    direction = np.ones((4, 4)) + np.diag([1.0, 2.0, 0.0, 1.0])
    slope = jax.jvp(lambda k: four_point(get("erf"), k), (jnp.asarray(K),), (jnp.asarray(direction),))[1]
    step = 1e-5
    ahead, behind = (four_point(get("erf"), K + s * direction) for s in (step, -step))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-7)


@pytest.mark.parametrize("name", ["linear", "erf", "square"])
def test_unit_covariance_has_the_entries_and_symmetries_it_should(name):
    V = np.asarray(unit_covariance(get(name), jnp.asarray(K[:3, :3])))
    phi = get(name)
    for a, b, c, d in [(0, 1, 2, 2), (0, 0, 0, 0), (2, 1, 0, 1)]:
        index = np.array([a, b, c, d])
        pairs = [phi.dual(K[i, i], K[i, j], K[j, j]) for i, j in ((a, b), (c, d))]
        expected = four_point(phi, jnp.asarray(K)[index][:, index]) - pairs[0] * pairs[1]
        np.testing.assert_allclose(V[a, b, c, d], expected, rtol=1e-12)
    for axes in ((1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1)):
        np.testing.assert_allclose(V, V.transpose(axes), atol=1e-15)
    assert np.linalg.eigvalsh(V.reshape(9, 9))[0] > -1e-14


def test_linear_unit_covariance_is_that_of_a_wishart_matrix():
    V = unit_covariance(get("linear"), jnp.asarray(K))
    np.testing.assert_allclose(V, np.einsum("ac,bd->abcd", K, K) + np.einsum("ad,bc->abcd", K, K), atol=1e-15)


def test_a_matrix_of_another_size_is_refused():
    with pytest.raises(Exception, match=r"\(3, 3\): give the covariance of four|Type-check"):
        four_point(get("erf"), jnp.eye(3))
