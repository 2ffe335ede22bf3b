"""The learnability bound on random kernels, measures and data (theory 06, F1, and section 6): identities and bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldprob.theory import learnability as lb

STATES, POINTS = 8, 6  # one shape, so that everything is compiled once
EXPONENTS = st.floats(-4, 2)


learnability = jax.jit(lb.learnability)  # op by op, compilation takes seconds


@jax.jit
def quantities(eigenvalues, features, K, ridge, y, noise):
    """Everything exact, and every bound, of one problem."""
    L = lb.learnability(eigenvalues, features, K, ridge)
    rest = lb.remaining_ridge(eigenvalues, features, K)
    smallest = jnp.maximum(jnp.linalg.eigvalsh(K)[0], 0.0)
    energy = y @ jnp.linalg.solve(K + ridge * jnp.eye(len(y)), y)
    return {
        "overlap": lb.overlap(eigenvalues, features, K, ridge, y),
        "learnability": L,
        "information": lb.information(eigenvalues, features, K, ridge),
        "linear": lb.linear_bound(eigenvalues, features, ridge),
        "saturated": lb.saturated_bound(eigenvalues, features, ridge),
        "effective": lb.saturated_bound(eigenvalues, features, ridge + rest),
        "overlap linear": lb.linear_overlap_bound(eigenvalues, features, ridge, y),
        "overlap effective": lb.linear_overlap_bound(eigenvalues, features, ridge + smallest, y),
        "overlap saturated": lb.saturated_overlap_bound(eigenvalues, features, ridge, y),
        "overlap energy": lb.energy_overlap_bound(eigenvalues, L, energy),
        "energy": energy,
        "label noise": lb.label_noise_overlap(eigenvalues, features, K, ridge, noise),
    }


@jax.jit
def of_target(bounds, coefficients, image, K, ridge, y, power):
    """The share of the whole target (15), its bound at δ and at δ + the smallest eigenvalue; (17) for each bound."""
    smallest = jnp.maximum(jnp.linalg.eigvalsh(K)[0], 0.0)
    image, y = image[:, None], y[:, None]
    share = lb.target_overlap(image, K, ridge, y)
    limits = jnp.stack([lb.target_bound(image, y, power, delta) for delta in (ridge, ridge + smallest)])
    return share, limits, jax.vmap(lb.error_bound, (0, None))(bounds / jnp.abs(coefficients), coefficients)


@st.composite
def problems(draw):
    """A kernel on eight states: measure, orthonormal modes, eigenvalues (some zero, some equal); data with repeats."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q = rng.dirichlet(np.full(STATES, draw(st.sampled_from([0.5, 1.0, 10.0]))))
    q = np.maximum(q, 1e-4) / np.maximum(q, 1e-4).sum()
    basis = np.linalg.qr(rng.normal(size=(STATES, STATES)))[0] / np.sqrt(q)[:, None]
    levels = np.exp(draw(st.floats(0.1, 3)) * rng.normal(size=STATES))
    levels = np.append(levels, 0.0)
    eigenvalues = levels[draw(st.lists(st.integers(0, STATES), min_size=STATES, max_size=STATES))]
    states = np.array(draw(st.lists(st.integers(0, STATES - 1), min_size=POINTS, max_size=POINTS)))
    return q, basis, eigenvalues, states, 10.0 ** draw(EXPONENTS), rng.normal(size=STATES)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
@settings(max_examples=200, deadline=None, derandomize=True)
@given(problems())
def test_no_bound_is_violated_and_the_identities_hold(problem):
    """F1: (3), (4), (5), (7)-(10), (14), (17), to 1e-8 (1 + bound), and round-off in proportion to the conditioning.

    Round-off of one identity alone needs the latter: the variance (4) as k - k R k on q, small differences of numbers
    of the size of E k(x, x). In 20000 problems of this kind it was off by at most 0.08 units of E k(x, x), 1e-15 and
    the conditioning, and beyond 1e-8 in 172, by up to 1e-4; in 60 digits all of the worst 23 of the first 4000 obey it,
    and every other line, to 1e-50. No bound was ever exceeded by more than 1e-15, in either arithmetic.
    """
    q, basis, eigenvalues, states, ridge, coefficients = problem
    kernel = (basis * eigenvalues) @ basis.T
    K, phi, target = kernel[np.ix_(states, states)], basis[states], basis @ coefficients
    y = target[states]
    found = {k: np.asarray(v) for k, v in quantities(eigenvalues, phi, K, ridge, y, 0.7).items()}
    condition = 1 + np.trace(K) / ridge
    slack = 1e-15 * condition

    def below(value, bound):
        return np.all(value <= bound + (1e-8 + slack) * (1 + np.abs(bound)))

    def same(value, other, scale=1.0):
        return np.all(np.abs(value - other) <= (1e-8 + slack) * (scale + np.abs(other)))

    L, overlap = found["learnability"], found["overlap"]
    R = np.linalg.inv(K + ridge * np.eye(POINTS))
    predictor = kernel[:, states] @ R @ y  # at every state
    assert same(overlap, basis.T @ (q * predictor))
    posterior = kernel - kernel[:, states] @ R @ kernel[states]
    variance = np.einsum("at,a,ab,b,bt->t", basis, q, posterior, q, basis)
    positive = eigenvalues > 0
    assert same(eigenvalues * (1 - L), variance, scale=eigenvalues.sum())
    assert same(L, eigenvalues * found["information"] / (1 + eigenvalues * found["information"]))
    assert np.all(L >= 0) and below(L, 1.0) and np.all(L[~positive] == 0)
    assert below(L, found["effective"]) and below(found["effective"], found["saturated"])
    assert below(found["saturated"], found["linear"])
    for name in ("overlap linear", "overlap effective", "overlap saturated", "overlap energy"):
        assert below(np.abs(overlap), found[name]), name
    assert below(found["overlap saturated"], found["overlap linear"])
    norm = np.sum(coefficients[positive] ** 2 / eigenvalues[positive])
    if positive.all():
        assert below(found["energy"], norm)
    assert below(found["label noise"], 0.7 * eigenvalues * L / ridge)
    assert below(L.sum(), min(POINTS, np.trace(K) / ridge)) and same(L.sum(), np.trace(K @ R))
    for modes in (np.arange(3), np.arange(STATES)):
        assert below(L[modes].mean(), lb.ridge_free_bound(POINTS, len(modes)))
    # (17), with each of the bounds on |overlap|, and (15) for the whole target
    error, power = q @ (predictor - target) ** 2, q @ target**2
    image = (kernel @ (q * target))[states]
    bounds = np.stack([bound for name, bound in found.items() if name.startswith("overlap ")])
    share, limits, errors = of_target(bounds, coefficients, image, K, ridge, y, power)
    assert np.all(errors <= error + (1e-8 + slack) * (1 + error))
    assert same(share, q @ (target * predictor)) and below(abs(share) / power, limits)


def test_the_saturated_bound_is_reached_by_a_single_mode_and_the_linear_one_at_a_large_ridge():
    """Section 6, 3 and 4: a kernel of rank one; δ → ∞, where L δ tends to λ |φ|² to first order in 1/δ."""
    rng = np.random.default_rng(0)
    phi, eigenvalues = jnp.asarray(rng.normal(size=(POINTS, STATES))), jnp.asarray(rng.uniform(0.1, 1, STATES))
    one = quantities(eigenvalues[:1], phi[:, :1], eigenvalues[0] * phi[:, :1] @ phi[:, :1].T, 0.3, phi[:, 0], 0.0)
    np.testing.assert_allclose(one["learnability"], one["saturated"], rtol=1e-12)
    many = quantities(eigenvalues, phi, (phi * eigenvalues) @ phi.T, 1e6, phi[:, 0], 0.0)
    np.testing.assert_allclose(many["learnability"], many["linear"], rtol=1e-4)


def test_one_point_learns_its_share_of_the_kernel():
    """Section 6, 2: P = 1."""
    phi, eigenvalues = jnp.array([[1.0, -2.0, 0.0]]), jnp.array([0.5, 0.25, 3.0])
    k = jnp.sum(eigenvalues * phi**2)
    L = learnability(eigenvalues, phi, k[None, None], 0.1)
    np.testing.assert_allclose(L, eigenvalues * phi[0] ** 2 / (0.1 + k), rtol=1e-13)
    assert L[2] == 0  # section 6, 7: a mode that vanishes on the data is not learned at all


@pytest.fixture(scope="module")
def discrete():
    """A uniform measure on eight states with its modes, kernel and labels."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(STATES, STATES)))[0] * np.sqrt(STATES)
    eigenvalues = rng.uniform(0.01, 1, STATES)
    return jnp.asarray(basis), jnp.asarray(eigenvalues), jnp.asarray((basis * eigenvalues) @ basis.T)


@pytest.mark.slow
def test_more_points_teach_more_and_more_ridge_less(discrete):
    """Section 6, 4."""
    basis, eigenvalues, kernel = discrete
    states = np.array([0, 0, 3, 5, 3, 7])
    curve = [learnability(eigenvalues, basis[states[:P]], kernel[np.ix_(states[:P], states[:P])], 0.1) for P in (4, 6)]
    assert np.all(curve[1] >= curve[0] - 1e-12)
    K = kernel[np.ix_(states, states)]
    ridges = [learnability(eigenvalues, basis[states], K, ridge) for ridge in (0.1, 0.2)]
    assert np.all(ridges[1] <= ridges[0])


def test_repeating_the_data_is_dividing_the_ridge(discrete):
    """Section 6, 6: three points twice with 2δ, against the three themselves with δ."""
    basis, eigenvalues, kernel = (np.asarray(array) for array in discrete)
    once, y = np.array([0, 3, 5]), np.array([1.0, -1.0, 0.5])
    twice = np.tile(once, 2)
    found = quantities(eigenvalues, basis[twice], kernel[np.ix_(twice, twice)], 0.2, np.tile(y, 2), 0.0)
    R, phi = np.linalg.inv(kernel[np.ix_(once, once)] + 0.1 * np.eye(3)), basis[once]
    np.testing.assert_allclose(found["overlap"], eigenvalues * (phi.T @ R @ y), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(found["learnability"], eigenvalues * np.sum(phi * (R @ phi), axis=0), rtol=1e-11)


def test_the_whole_support_teaches_every_mode_by_its_eigenvalue(discrete):
    """Section 6, 10, and the eigenspace bound (13) as an equality there."""
    basis, eigenvalues, kernel = discrete
    L = learnability(eigenvalues, basis, kernel, 0.3)
    np.testing.assert_allclose(L, lb.eigenspace_bound(eigenvalues, STATES, 0.3), rtol=1e-12)


@pytest.mark.slow
def test_learning_does_not_depend_on_the_basis_of_an_eigenspace(discrete):
    """Section 6, 1: the eigenspace's part of f̂, and of the sum of L_t, in a rotated basis."""
    basis, eigenvalues, _ = discrete
    eigenvalues = eigenvalues.at[:3].set(0.4)
    kernel = (basis * eigenvalues) @ basis.T
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    rotated = basis.at[:, :3].set(basis[:, :3] @ rotation)
    states, y = np.array([0, 1, 1, 4, 6, 7]), jnp.arange(6.0)
    K = kernel[np.ix_(states, states)]
    one, other = (quantities(eigenvalues, b[states], K, 0.2, y, 0.0) for b in (basis, rotated))
    np.testing.assert_allclose(basis[:, :3] @ one["overlap"][:3], rotated[:, :3] @ other["overlap"][:3], rtol=1e-11)
    np.testing.assert_allclose(one["learnability"][:3].sum(), other["learnability"][:3].sum(), rtol=1e-12)


@pytest.mark.slow
def test_several_outputs_are_longer_data():
    """(16): a random matrix-valued kernel on four states and two outputs, against the predictor itself."""
    rng = np.random.default_rng(5)
    states, outputs, points = 4, 2, 3
    q = rng.dirichlet(np.ones(states))
    weight = np.repeat(q, outputs)  # of (state, output)
    basis = np.linalg.qr(rng.normal(size=(8, 8)))[0] / np.sqrt(weight)[:, None]
    eigenvalues = rng.uniform(0, 1, 8)
    kernel = ((basis * eigenvalues) @ basis.T).reshape(states, outputs, states, outputs)
    data, y = np.array([2, 0, 2]), rng.normal(size=(points, outputs))
    features = jnp.asarray(basis.reshape(states, outputs, 8)[data])
    features, K = lb.stack_outputs(features, jnp.asarray(kernel[data][:, :, data]))
    found = lb.overlap(jnp.asarray(eigenvalues), features, K, 0.2, jnp.asarray(y.reshape(-1)))
    cross = kernel[:, :, data].reshape(8, 6)
    predictor = cross @ np.linalg.solve(np.asarray(K) + 0.2 * np.eye(6), y.reshape(-1))
    np.testing.assert_allclose(found, basis.T @ (weight * predictor), rtol=1e-10)
    L = learnability(jnp.asarray(eigenvalues), features, K, 0.2)
    assert np.all(lb.saturated_bound(jnp.asarray(eigenvalues), features, 0.2) >= L)


@pytest.mark.slow
def test_exact_and_bounds_can_be_differentiated(discrete):
    """d L_t / d δ against a difference, and of the bounds."""
    basis, eigenvalues, kernel = discrete
    states = np.array([0, 1, 3, 4, 6, 7])
    phi, K = basis[states], kernel[np.ix_(states, states)]

    @jax.jit
    def values(ridge):
        rest = lb.remaining_ridge(eigenvalues, phi, K)
        return jnp.stack([
            lb.learnability(eigenvalues, phi, K, ridge)[0],
            lb.linear_bound(eigenvalues, phi, ridge)[0],
            lb.saturated_bound(eigenvalues, phi, ridge + rest)[0],
        ])  # fmt: skip

    slope = jax.jacfwd(values)(0.5)
    np.testing.assert_allclose(slope, (values(0.5 + 1e-5) - values(0.5 - 1e-5)) / 2e-5, rtol=1e-6)
    scale = jax.grad(lambda s: lb.learnability(s * eigenvalues, phi, s * K, 0.5)[0])(1.0)
    np.testing.assert_allclose(scale, -0.5 * slope[0], rtol=1e-9)  # only K/δ matters


def test_points_needed_at_least():
    """(6), (8), (12): at P* the bound is ε."""
    ridge, eigenvalue, mean_square, share = 0.3, 0.02, 1.7, 0.4
    P = lb.sample_complexity(share, ridge, eigenvalue, mean_square)
    features = jnp.full((1, 1), np.sqrt(P * mean_square))
    np.testing.assert_allclose(lb.saturated_bound(jnp.array([eigenvalue]), features, ridge), share)
    P = lb.linear_sample_complexity(share, ridge, eigenvalue, mean_square)
    features = jnp.full((1, 1), np.sqrt(P * mean_square))
    np.testing.assert_allclose(lb.linear_bound(jnp.array([eigenvalue]), features, ridge), share)
    # mixed labels y = c φ + ...: |overlap| <= ε |c| at P*
    P = lb.target_sample_complexity(share, ridge, eigenvalue, -0.5, mean_square, 2.5)
    norms = np.sqrt(P * mean_square), np.sqrt(P * 2.5)
    bound = lb.linear_overlap_bound(jnp.array([eigenvalue]), jnp.full((1, 1), norms[0]), ridge, jnp.full(1, norms[1]))
    np.testing.assert_allclose(bound, share * 0.5)
    assert lb.irreducible_sample_complexity(share, ridge, 1.0, 40) <= lb.sample_complexity(share, ridge, 1 / 41)
