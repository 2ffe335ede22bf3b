"""Bounds from symmetry (theory 06, F2-F5, F11): circle, sphere, subspaces, parity; the heuristic that is no bound."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln

from fieldprob.kernels import spectra
from fieldprob.kernels.spectra import series
from fieldprob.theory import learnability as lb

EXPONENTIAL = jnp.asarray(-gammaln(np.arange(80.0) + 1) - 1)  # log a_n of e^(t - 1)


def exponential(t):
    return jnp.exp(t - 1)


@eqx.filter_jit
def forms(prior, X, ridge):
    """L and the bounds (5), (8), (10) of every mode, (4, modes)."""
    eigenvalues, K, phi = prior.spectrum.eigenvalues, prior.kernel(X, X), prior.spectrum.eigenfunctions(X)
    rest = lb.remaining_ridge(eigenvalues, phi, K)
    return jnp.stack([
        lb.learnability(eigenvalues, phi, K, ridge),
        lb.linear_bound(eigenvalues, phi, ridge),
        lb.saturated_bound(eigenvalues, phi, ridge),
        lb.saturated_bound(eigenvalues, phi, ridge + rest),
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ circle

WAVES = np.arange(1, 41)


def modes_of_circle(x):
    """1, √2 cos mx, √2 sin mx for m <= 40, (points, 81)."""
    angles = x[:, None] * WAVES
    return jnp.concatenate([jnp.ones((len(x), 1)), jnp.sqrt(2.0) * jnp.cos(angles), jnp.sqrt(2.0) * jnp.sin(angles)], 1)


CIRCLE = jnp.concatenate([jnp.ones(1), jnp.tile(1.0 / WAVES**2, 2)])  # k = 1 + 2 Σ m^-2 cos m(x - x')


def test_on_the_circle_both_phases_together_obey_bounds_that_know_no_data():
    """F2, (13) and (14): 100 clustered data sets; each phase alone may exceed them, the mean never does."""

    @jax.jit
    @jax.vmap
    def learned(x, ridge):
        phi = modes_of_circle(x)
        return lb.learnability(CIRCLE, phi, (phi * CIRCLE) @ phi.T, ridge)

    rng = np.random.default_rng(0)
    x = rng.uniform(0, 2 * np.pi, (100, 1)) + 0.1 * rng.normal(size=(100, 7))
    ridge = 10.0 ** rng.uniform(-3, 1, 100)
    L = np.asarray(learned(jnp.asarray(x), jnp.asarray(ridge)))
    phases = L[:, 1:].reshape(100, 2, 40)
    bound = np.minimum(lb.eigenspace_bound(1.0 / WAVES**2, 7, ridge[:, None]), lb.ridge_free_bound(7, 2))
    assert np.all(phases.mean(1) <= bound + 1e-9)
    assert np.any(phases.max(1) > bound)
    assert np.all(L.sum(1) <= 7) and np.all(phases[:, :, :20].mean((1, 2)) <= lb.ridge_free_bound(7, 40))


def test_error_under_another_law_is_bounded_where_it_dominates_the_uniform_one():
    """F11, (17), (18): points from (1 + a cos x)/2π, a = 0.8, labels √2 cos 5x + sin 2x/√2. The printed errors, .799
    and .697 with bounds .577 and .115, lie within three standard deviations over 20 draws."""
    a, points, ridge = 0.8, 30, 5.0
    grid = jnp.arange(512) * 2 * jnp.pi / 512
    density = (1 + a * jnp.cos(grid)) / 512
    coefficients = jnp.zeros(81).at[5].set(1.0).at[40 + 2].set(0.5)

    @jax.jit
    @jax.vmap
    def errors(x):
        phi = modes_of_circle(x)
        K, y = (phi * CIRCLE) @ phi.T, phi @ coefficients
        overlap = lb.overlap(CIRCLE, phi, K, ridge, y)
        bounds = lb.saturated_overlap_bound(CIRCLE, phi, ridge, y) / jnp.abs(coefficients)
        difference = modes_of_circle(grid) @ (overlap - coefficients)
        lower = lb.error_bound(bounds, coefficients)
        under_p = jnp.sum(density * difference**2), lb.shifted_error_bound(lower, 1 / (1 - a))
        return jnp.stack([jnp.mean(difference**2), lower, *under_p])

    rng = np.random.default_rng(0)
    u = rng.uniform(0, 2 * np.pi, (20, 10 * points))
    kept = rng.uniform(0, 1 + a, u.shape) < 1 + a * np.cos(u)
    x = np.stack([row[keep][:points] for row, keep in zip(u, kept, strict=True)])
    found = np.asarray(errors(jnp.asarray(x)))
    assert np.all(found[:, 0] >= found[:, 1]) and np.all(found[:, 2] >= found[:, 3]) and found[:, 1].min() > 0.1
    assert np.all(np.abs(found.mean(0) - [0.799, 0.577, 0.697, 0.115]) < 3 * found.std(0, ddof=1) + 5e-4)


# ------------------------------------------------------------------------------------------------------------ sphere


@pytest.fixture(scope="module")
def cubic():
    """F3: d = 20, e^(t-1), the targets x_1 and x_1 x_2 x_3."""
    return lb.on_sphere(exponential, 20, [lb.Harmonic(jnp.eye(1, 20)), lb.Harmonic(jnp.eye(3, 20))])


def data(law, points, rng, d=20):
    z = rng.normal(size=(points, d))
    if law == "anisotropic":
        z = z / np.arange(1, d + 1)
    elif law == "subspace":
        z[:, 4:] = 0
    elif law == "cube":
        z = np.sign(z)
    elif law == "clusters":
        z = rng.normal(size=(3, d))[rng.integers(3, size=points)] + 0.3 * z
    return jnp.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))


def test_harmonic_targets_are_orthonormal_eigenfunctions(cubic):
    """(20) and Funk-Hecke at random points, 4e4 points of q: five standard errors each, false alarm below 1e-5."""
    X = data("sphere", 40_000, np.random.default_rng(1))
    phi = np.asarray(eqx.filter_jit(cubic.spectrum.eigenfunctions)(X))
    products = np.stack([phi[:, 0] ** 2, phi[:, 1] ** 2, phi[:, 0] * phi[:, 1]])
    error = products.std(1) / np.sqrt(len(X))
    assert np.all(np.abs(products.mean(1) - [1, 1, 0]) < 5 * error)
    at = data("sphere", 2, np.random.default_rng(2))
    integrand = np.asarray(cubic.kernel(at, X))[:, :, None] * phi
    error = integrand.std(1) / np.sqrt(len(X))
    expected = cubic.spectrum.eigenvalues * cubic.spectrum.eigenfunctions(at)
    assert np.all(np.abs(integrand.mean(1) - expected) < 5 * error)


@pytest.mark.parametrize(
    ("law", "printed"),
    [
        ("sphere", (0.0139, 0.0178, 0.0175, 0.0169)),
        ("anisotropic", (0.272, 0.421, 0.296, 0.296)),
        ("subspace", (0.422, 0.770, 0.435, 0.435)),
        ("cube", (0.0146, 0.0188, 0.0184, 0.0179)),
        ("clusters", None),
    ],
)
def test_the_cubic_target_on_data_of_five_laws(cubic, law, printed):
    """F3, P = 400, δ = 1: L, and the bounds that it obeys. The printed L and (10) are within 5 % relative to the
    printed linear and saturated bounds; these themselves depend on the draw (16 % on the sphere, one sd): within 3 sd
    of twenty draws. The law of the clusters is not given, so that only the bounds are tested there."""
    rng = np.random.default_rng(0)
    found = np.asarray([forms(cubic, data(law, 400, rng), 1.0)[:, 1] for _ in range(3 if printed else 1)])
    L, linear, saturated, effective = found.T
    assert np.all(found[:, 0] <= effective) and np.all(effective <= saturated) and np.all(saturated < linear)
    np.testing.assert_allclose(saturated, linear / (1 + linear), rtol=1e-12)
    if printed is None:
        return
    np.testing.assert_allclose(np.mean(L / linear), printed[0] / printed[1], rtol=0.05)
    np.testing.assert_allclose(np.mean(effective / saturated), printed[3] / printed[2], rtol=0.05)
    X = np.stack([data(law, 400, rng) for _ in range(20)])
    draws = 400 * cubic.spectrum.eigenvalues[1] * 20 * 22 * 24 * np.mean(np.prod(X[:, :, :3] ** 2, axis=2), axis=1)
    assert abs(printed[1] - draws.mean()) < 3 * draws.std(ddof=1) + 5e-5


@pytest.mark.slow
def test_tightness_is_lost_as_the_ridge_vanishes(cubic):
    """F3: δ = 0.01, sphere, P = 400, cubic: .092 below .25 (10) below .58 (8); within three sd over draws."""
    rng = np.random.default_rng(5)
    found = np.asarray([forms(cubic, data("sphere", 400, rng), 0.01)[[0, 3, 2], 1] for _ in range(6)])
    assert np.all(np.abs(found.mean(0) - [0.092, 0.25, 0.58]) < 3 * found.std(0, ddof=1))


@pytest.mark.slow
def test_rotating_data_and_target_changes_nothing(cubic):
    """Section 6, 8, with one target in the new frame."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    X = data("anisotropic", 400, np.random.default_rng(0))
    turned = [lb.Harmonic(jnp.asarray(rotation[:, :degree].T)) for degree in (1, 3)]
    other = lb.on_sphere(exponential, 20, turned)
    np.testing.assert_allclose(forms(other, X @ rotation.T, 1.0), forms(cubic, X, 1.0), rtol=1e-9)


def test_directions_of_a_target_must_be_orthonormal():
    with pytest.raises(ValueError, match="orthonormal"):
        lb.Harmonic(jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="origin"):
        lb.Harmonic(jnp.eye(1, 3))(jnp.zeros((1, 3)))


@pytest.mark.slow
def test_a_relu_network_without_bias_learns_nothing_cubic(cubic):
    """Section 6, 7 and 9: odd degrees from 3 on vanish, and so does their bound; κ = t has the degree 1 only; (12)."""
    log_eigenvalues = jax.jit(series.log_eigenvalues, static_argnums=(1, 2))
    eigenvalues = jnp.exp(log_eigenvalues(spectra.relu_series(400), 20, 8))
    assert np.all(np.asarray(eigenvalues)[[3, 5, 7]] == 0) and np.all(np.asarray(eigenvalues)[[0, 1, 2, 4]] > 0)
    X = data("clusters", 400, np.random.default_rng(0))
    phi = eqx.filter_jit(cubic.spectrum.eigenfunctions)(X)[:, 1:]
    assert lb.saturated_bound(eigenvalues[3:4], phi, 1.0)[0] == 0
    only = jnp.exp(log_eigenvalues(jnp.log(jnp.array([0.0, 1.0])), 20, 3))
    np.testing.assert_allclose(only, [0, 1 / 20, 0], rtol=1e-14)
    harmonics = np.array([spectra.degeneracy(20, degree) for degree in range(8)])
    assert np.all(np.asarray(eigenvalues) <= lb.irreducible_eigenvalue_bound(0.5, harmonics))


def products_on_low_dimensional_data(dimensions, count, points, steepness, rng):
    """Random problems: products of one to three coordinates as targets, data z_i i^-a with a uniform to `steepness`.

    Returns eigenvalues and degrees, (problems,), targets on the data, (problems, points), and the data on the sphere,
    (problems, points, inputs) with zeros where there are fewer inputs.
    """
    eigenvalues, degrees, features, data = [], [], [], []
    for d in dimensions:
        z = rng.normal(size=(count, points, d)) * np.arange(1, d + 1) ** -rng.uniform(0, steepness, (count, 1, 1))
        X = z / np.linalg.norm(z, axis=2, keepdims=True)
        degree, axes = rng.integers(1, 4, count), rng.permuted(np.tile(np.arange(d), (count, 1)), axis=1)
        chosen = np.take_along_axis(X, axes[:, None, :3], axis=2)
        factors = np.where(np.arange(3) < degree[:, None], np.sqrt(d + 2.0 * np.arange(3)), 1.0)
        features.append(np.prod(np.where(np.arange(3) < degree[:, None, None], chosen, 1.0) * factors[:, None], axis=2))
        eigenvalues.append(np.asarray(spectra.sphere_series(EXPONENTIAL, d, modes=4).eigenvalues)[degree])
        degrees.append(degree)
        data.append(np.pad(X, ((0, 0), (0, 0), (0, max(dimensions) - d))))
    return *(np.concatenate(found) for found in (eigenvalues, degrees, features)), np.concatenate(data)


def test_the_heuristic_ridge_is_no_bound():
    """(11) in 6000 random problems of 3 to 6 dimensions on 8 anisotropic points, δ = 10^U(-4, 2): violated in .198 to
    .216 of them, by factors up to 55 to 141, over four seeds in plain NumPy; (10) in none. The document has 1243 of
    6000 and ×396, its law unstated: with a steeper spectrum, i^-a and a to 4 instead of 3, we find .24 to .25 and ×195
    to ×366. Where Gershgorin's promise says something it is below the smallest eigenvalue."""

    @jax.jit
    @jax.vmap
    def both(eigenvalue, phi, K, ridge, added):
        one = eigenvalue[None], phi[:, None]
        rest = lb.remaining_ridge(*one, K)
        bound, estimate = lb.saturated_bound(*one, ridge + rest), lb.saturated_bound(*one, ridge + added)
        return jnp.concatenate([lb.learnability(*one, K, ridge), bound, estimate])

    rng = np.random.default_rng(0)
    eigenvalues, degrees, phi, X = products_on_low_dimensional_data((3, 4, 5, 6), 1500, 8, 3.0, rng)
    K, ridge = np.exp(X @ X.transpose(0, 2, 1) - 1), 10.0 ** rng.uniform(-4, 2, len(X))
    added = np.array([lb.heuristic_ridge(EXPONENTIAL, degree) for degree in range(4)])[degrees]
    found = np.asarray(both(*(jnp.asarray(a) for a in (eigenvalues, phi, K, ridge, added))))
    L, bound, estimate = found.T
    assert np.all(bound * (1 + 1e-8) + 1e-8 >= L)
    violated = estimate * (1 + 1e-6) < L
    assert 0.18 < violated.mean() < 0.24 and 30 < (L / estimate).max() < 400
    orthogonal = jnp.asarray(np.linalg.qr(rng.normal(size=(6, 6)))[0] + 0.05 * rng.normal(size=(6, 6)))
    orthogonal = lb.unit(orthogonal)
    beyond = jnp.exp(orthogonal @ orthogonal.T - 1) - jnp.exp(-1) * (1 + orthogonal @ orthogonal.T)
    promised = lb.gershgorin_ridge(EXPONENTIAL, orthogonal, 1)
    assert 0.1 < promised <= jnp.linalg.eigvalsh(beyond)[0] < lb.heuristic_ridge(EXPONENTIAL, 1)


FIVE = ((2, 9), (5, 20), (10, 40), (20, 78), (40, 156))  # dimension and points of F5


@pytest.fixture(scope="module")
def linear_in_subspace():
    """Mean L of a linear target over draws and over directions in an r-dimensional subspace of 40, e^(t-1), δ = 1."""
    eigenvalue = spectra.sphere(exponential, 40, modes=2).eigenvalues[1]

    @jax.jit
    def learned(z, r, points):
        inside = jnp.arange(40) < r
        X = z * inside
        X = X / jnp.linalg.norm(X, axis=2, keepdims=True)
        noise = jnp.where(jnp.arange(z.shape[1]) < points, 1.0, 1e12)  # later points do not count

        def one(X):
            return lb.learnability(jnp.full(40, eigenvalue), jnp.sqrt(40.0) * X, exponential(X @ X.T), noise)

        mean = jnp.sum(jax.lax.map(one, X) * inside, axis=1) / r
        return jnp.mean(mean), jnp.std(mean) / jnp.sqrt(len(z))

    return eigenvalue, learned


@pytest.mark.parametrize(
    ("r", "needed"),
    [pytest.param(r, P, marks=() if r == 20 else pytest.mark.slow) for r, P in FIVE],
)
def test_a_linear_target_needs_points_in_proportion_to_the_intrinsic_dimension(linear_in_subspace, r, needed):
    """F5: the smallest P with mean L >= 1/2 is 9, 20, 40, 78, 156, ±1, five standard errors of 40 draws (false alarm
    6e-7 each); averages over all directions of the subspace. (The document prints 8, 20, 38, 74, 154: averages over a
    few draws of one direction, first crossed too early.) The bound 5.4 ... 107.4 is a constant factor below."""
    eigenvalue, learned = linear_in_subspace
    z = jnp.asarray(np.random.default_rng(r).normal(size=(40, 160, 40)))
    (above, error), (below, error_) = learned(z, r, needed + 1), learned(z, r, needed - 2)
    assert above + 5 * error > 0.5 and below - 5 * error_ < 0.5
    assert above - below < 0.15  # else nothing would be tested
    bound = float(lb.subspace_sample_complexity(0.5, 1.0, eigenvalue, 40, r))
    assert abs(bound - 2.6861 * r) < 0.01 * r and 1.4 < needed / bound < 1.7


# ------------------------------------------------------------------------------------------------------------ parity


def corners(d):
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=d)))
    return signs / np.sqrt(d), np.prod(signs, axis=1)


def parity_learned(d, rows=None):
    """L of parity on some corners at δ = 1e-6, and its bound."""
    X, parity = corners(d)
    rows = np.arange(len(X)) if rows is None else rows
    eigenvalue = jnp.exp(lb.log_parity_eigenvalue(EXPONENTIAL, d))[None]
    phi = jnp.asarray(parity[rows, None] * np.exp(0.5 * lb.log_parity_square(d)))
    K = exponential(jnp.asarray(X[rows] @ X[rows].T))
    return float(lb.learnability(eigenvalue, phi, K, 1e-6)[0]), float(lb.saturated_bound(eigenvalue, phi, 1e-6)[0])


@pytest.mark.parametrize(
    "table",
    [
        {4: (1.997e-4, 7.5, 1.498e-3, 25, 3.33), 20: (1.45e-32, 2.44e5, 3.538e-27, 5.13e10, 2.10e5)},
        pytest.param(
            {8: (2.205e-10, 101.5, 2.239e-8, 4719, 46.5), 12: (3.07e-17, 1362, 4.184e-14, 9.99e5, 734)},
            marks=(pytest.mark.slow, pytest.mark.long),
        ),
    ],
)
def test_parity_on_the_sphere_and_on_the_cube(table):
    """(22)-(24), the table, to the digits printed; λ_cube by its closed form, and never below λ_d φ²."""
    for d, printed in table.items():
        eigenvalue, square = lb.log_parity_eigenvalue(EXPONENTIAL, d), lb.log_parity_square(d)
        cube, harmonics = lb.log_cube_eigenvalue(EXPONENTIAL, d), spectra.degeneracy(d, d)
        found = [*np.exp([eigenvalue, square, cube]), harmonics, harmonics / np.exp(square)]
        np.testing.assert_allclose(found, printed, rtol=3e-3)
        np.testing.assert_allclose(cube, d * np.log(np.sinh(1 / d)) - 1, atol=1e-12)
        assert 0 <= cube - eigenvalue - square < 1e-3
        exact, universal = (
            lb.parity_sample_complexity(0.5, 1.0, EXPONENTIAL, d),
            lb.universal_parity_sample_complexity(0.5, 1.0, 1.0, d),
        )
        assert exact >= universal and abs(universal / (harmonics / np.exp(square)) - 1) < 1e-9
    signs, parity = corners(4)  # the sum over corners itself
    direct = np.mean(parity * np.exp(signs @ signs[0] - 1) * parity[0])
    if 4 in table:
        np.testing.assert_allclose(direct, np.exp(lb.log_cube_eigenvalue(EXPONENTIAL, 4)), rtol=1e-12)


@pytest.mark.parametrize(
    ("d", "printed", "bound"),
    [
        pytest.param(6, (0.9981, 0.0077), 0.996, marks=pytest.mark.slow),
        pytest.param(8, (0.8514, 0.00025), 0.741, marks=pytest.mark.slow),
        pytest.param(10, (0.0369, 1.4e-5), 0.0188, marks=pytest.mark.slow),
    ],
)
def test_half_a_cube_teaches_almost_no_parity(d, printed, bound):
    """F4, δ = 1e-6. All corners: L = 2^d λ_d φ²/(δ + 2^d λ_cube), to rounding; (8) exceeds it by 1 - λ_d φ²/λ_cube,
    1e-5 at d = 6, since harmonics of degree d + 2 and more contain parity on the cube. A random half: the printed value
    lies within the range of 20 draws."""
    whole, saturated = parity_learned(d)
    assert abs(whole - printed[0]) < 5e-5
    signal, cube = (
        np.exp(d * np.log(2) + log)
        for log in (
            lb.log_parity_eigenvalue(EXPONENTIAL, d) + lb.log_parity_square(d), lb.log_cube_eigenvalue(EXPONENTIAL, d),
        )
    )  # fmt: skip
    np.testing.assert_allclose(whole, signal / (1e-6 + cube), rtol=1e-7)
    assert whole <= saturated < whole * (1 + 3e-5)
    rng = np.random.default_rng(0)
    halves = np.array([parity_learned(d, rng.permutation(2**d)[: 2 ** (d - 1)]) for _ in range(20)])
    np.testing.assert_allclose(halves[:, 1], bound, rtol=2e-3)
    assert halves[:, 0].min() < printed[1] < halves[:, 0].max() and halves[:, 0].max() < 0.02 * bound


@pytest.mark.slow
@pytest.mark.long
def test_parity_on_twelve_bits():
    """F4 full: 4096 corners."""
    whole, saturated = parity_learned(12)
    np.testing.assert_allclose(whole, saturated, rtol=1e-5)


def test_parity_on_the_cube_of_a_slowly_decaying_series():
    """0.01 / (1 - 0.99 t), of which terms beyond n = 225 are a tenth of the eigenvalue."""
    corners = np.array([1, 1 / 3, -1 / 3, -1])
    exact = np.array([1, -3, 3, -1]) @ (0.01 / (1 - 0.99 * corners)) / 8
    found = lb.log_cube_eigenvalue(jnp.log(0.01) + jnp.log(0.99) * jnp.arange(5000.0), 3)
    np.testing.assert_allclose(jnp.exp(found), exact, rtol=1e-12)


def test_targets_and_shares_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="harmonic in 5 dimensions"):
        lb.on_sphere(exponential, 20, [lb.Harmonic(jnp.eye(1, 5))])
    with pytest.raises(ValueError, match="not orthonormal"):
        lb.Harmonic(jnp.full((1, 3), jnp.nan))
    with pytest.raises(ValueError, match=r"share = 1\.5"):
        lb.sample_complexity(1.5, 1.0, 0.1)
