"""Renormalisation of a Gaussian process: exact identities and limits (sampled: test_renormalisation_sampled.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss

import fieldprob as fp
from fieldprob import studyfile
from fieldprob.kernels import Spectrum, spectra
from fieldprob.theory import renormalisation
from fieldprob.theory.learning_curves import effective_ridge, renormalised_ridge
from fieldprob.theory.renormalisation.flows import above

P, NOISE = 100.0, 0.05
POWER_LAW = spectra.power_law(2.0, modes=600)
LEVELS = Spectrum([1.0, 0.3, 0.02, 0.0, 0.004], degeneracies=[1, 3, 20, 5, 200], tail=0.03)


@pytest.fixture(scope="module")
def flow():
    return renormalisation.ridge_flow(POWER_LAW, P, NOISE)


@pytest.fixture(scope="module")
def levels():
    return renormalisation.ridge_flow(LEVELS, 20.0, 0.01)


def normal_nodes(count=40):
    x, w = hermegauss(count)
    return jnp.array(x), jnp.array(w / w.sum())


# --- uniform ridges ---------------------------------------------------------------------------------------------------


def test_ends_of_the_flows(flow, levels):
    for spectrum, ridges, points, noise in ((POWER_LAW, flow, P, NOISE), (LEVELS, levels, 20.0, 0.01)):
        r = effective_ridge(spectrum, points, noise)
        np.testing.assert_allclose([ridges.closed[0], ridges.matched[0]], r, rtol=1e-12)
        for ridge in ridges[:4]:
            np.testing.assert_allclose(ridge[-1], noise + spectrum.tail, rtol=1e-14)
        np.testing.assert_allclose(ridges.leading[0], noise + spectrum.trace, rtol=1e-14)


def test_the_kept_modes_with_the_matched_ridge_have_the_effective_ridge_of_all(levels):
    """(14) composes exactly, at two cutoffs; the closed ridge does not."""
    r = effective_ridge(LEVELS, 20.0, 0.01)
    for cutoff in (2, 4):
        kept = renormalisation.kept_spectrum(LEVELS, cutoff)
        np.testing.assert_allclose(effective_ridge(kept, 20.0, levels.matched[cutoff]), r, rtol=1e-12)
    kept = renormalisation.kept_spectrum(LEVELS, 2)
    assert effective_ridge(kept, 20.0, levels.closed[2]) < 0.99 * r


def test_ridges_are_ordered_fall_with_the_cutoff_and_are_stable(flow, levels):
    for ridges in (flow, levels):
        assert np.all(ridges.closed <= ridges.matched * (1 + 1e-12))
        assert np.all(ridges.matched <= ridges.leading * (1 + 1e-12))
        for ridge in ridges[:4]:
            assert np.all(np.diff(ridge) <= 1e-15)
        assert np.all(ridges.contraction < 1) and np.all(ridges.contraction >= 0)


@pytest.mark.slow
def test_the_closed_ridge_approaches_the_leading_one_as_expanded(flow):
    """(15): what is missing is P sum lambda^2 / leading, to within the next order."""
    shell = P * above(POWER_LAW.eigenvalues**2) / flow.leading
    missing = (flow.leading - flow.closed) / shell
    assert abs(missing[80] - 1) < 0.15 and abs(missing[320] - 1) < 0.02
    assert np.all(np.abs(flow.local / flow.closed - 1)[10:] <= flow.contraction[10:])  # one loop: good to O(D)


@pytest.mark.slow
def test_slope_of_the_closed_ridge(flow):
    """(12) is its derivative in the number of modes at the cutoff, here by the implicit function and by differences."""

    def closed(extra):
        spectrum = Spectrum(LEVELS.eigenvalues, LEVELS.degeneracies.at[2].add(extra), tail=LEVELS.tail)
        return renormalisation.closed_ridge(spectrum, 20.0, 0.01, jnp.array([2]))[0]

    s, eigenvalue = closed(0.0), LEVELS.eigenvalues[2]
    D = renormalisation.contraction(LEVELS, 20.0, jnp.full(6, s))[2]
    expected = eigenvalue * s / (s + 20 * eigenvalue) / (1 - D)
    np.testing.assert_allclose(jax.grad(closed)(0.0), expected, rtol=1e-9)
    np.testing.assert_allclose((closed(1e-3) - closed(-1e-3)) / 2e-3, expected, rtol=1e-5)


def test_modes_that_the_noise_hides_add_their_trace():
    small = Spectrum(1e-7 * POWER_LAW.eigenvalues)
    np.testing.assert_allclose(effective_ridge(small, P, 1.0) - 1, small.trace, rtol=1e-4)


@pytest.mark.slow
def test_a_shell_of_fewer_modes_than_points_adds_nothing_without_noise():
    flat = Spectrum(jnp.full(30, 0.1))
    ridge = renormalisation.closed_ridge(flat, 10, 0.0)  # s = n lambda - P lambda
    np.testing.assert_allclose(ridge, 0.1 * np.maximum(20 - np.arange(31), 0), atol=1e-12)


@pytest.mark.slow
def test_ridges_are_differentiable_and_vectorise_over_sizes():
    def ridges(noise):
        return jnp.stack([flow[2] for flow in renormalisation.ridge_flow(LEVELS, 20.0, noise)])

    slope = jax.jacfwd(ridges)(0.01)[:4]
    np.testing.assert_allclose(slope, (ridges(0.01 + 1e-6) - ridges(0.01 - 1e-6))[:4] / 2e-6, rtol=1e-6)
    sizes = jnp.array([5.0, 20.0])
    both = jax.vmap(lambda points: renormalisation.matched_ridge(LEVELS, points, 0.01))(sizes)
    np.testing.assert_allclose(both[1], renormalisation.matched_ridge(LEVELS, 20.0, 0.01), rtol=1e-12)


# --- cutoff -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [pytest.param(20.0, marks=pytest.mark.slow), 2000.0])
def test_cutoff_of_a_power_law(points):
    """kappa = [P (1 - T) / (T ridge)]^(1/2), with the ridge at the cutoff."""
    spectrum = spectra.power_law(2.0, modes=1024, infinite=True)
    found = renormalisation.cutoff(spectrum, points, 0.05, 0.3)
    ridge = renormalisation.leading_ridge(spectrum, 0.05)[found.kept]
    assert found.exists
    assert abs(found.kept - (points * 0.7 / 0.3 / ridge) ** 0.5) < 1


@pytest.mark.slow
def test_an_exponential_spectrum_without_noise_has_no_cutoff():
    spectrum = Spectrum(0.5 ** jnp.arange(40.0), tail=0.5**39)
    assert not renormalisation.cutoff(spectrum, 10, 0.0, 0.5).exists
    assert renormalisation.cutoff(spectrum, 10, 1e-3, 0.5).exists
    assert int(renormalisation.cutoff(spectrum, 1e-6, 1.0, 0.5).kept) == 0


@pytest.mark.slow
def test_the_last_learned_mode_counts_where_learnabilities_are_not_ordered():
    """Bias-free ReLU: odd degrees vanish, and even ones beyond them are learned."""
    spectrum = Spectrum([1.0, 0.5, 0.1, 0.0, 0.05, 0.0, 1e-6])
    found = renormalisation.cutoff(spectrum, 100, 0.01, 0.5)
    assert (int(found.kept), bool(found.exists)) == (5, True)
    assert found.learnability[3] == 0


# --- one data set -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    """30 points, 60 features that are not Gaussian, the first 8 kept."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(30, 60)) * np.exp(0.6 * rng.normal(size=(30, 1)))
    spectrum = Spectrum(np.arange(1.0, 61) ** -1.5, eigenfunctions=lambda X: X, tail=0.02)
    return spectrum, fp.Task(X, X @ (np.arange(1.0, 61) ** -1.0), 0.1)


def test_kept_modes_with_correlated_noise_are_the_marginal_of_the_whole_process(data):
    spectrum, task = data
    found = renormalisation.kept(spectrum, task, cutoff=8, ridge="exact")
    phi, eigenvalues = task.X, spectrum.eigenvalues
    S = (phi * eigenvalues) @ phi.T + 0.12 * jnp.eye(30)
    gain = (eigenvalues[:, None] * phi.T) @ jnp.linalg.inv(S)
    covariance = jnp.diag(eigenvalues) - gain @ phi * eigenvalues
    np.testing.assert_allclose(found.mean["mode_coefficient"], (gain @ task.y[:, 0])[:8], rtol=1e-10)
    np.testing.assert_allclose(found.covariance["mode_coefficient"], covariance[:8, :8], atol=1e-10)
    learnability = eigenvalues * jnp.diagonal(phi.T @ jnp.linalg.solve(S, phi))
    np.testing.assert_allclose(found.mean["mode_learnability"], learnability[:8], rtol=1e-10)
    evidence = fp.gp.condition(S, 1e-300, task.y, S, S).log_evidence
    np.testing.assert_allclose(found.log_evidence, evidence, rtol=1e-10)


@pytest.mark.slow
def test_one_point_is_exact_with_the_first_cumulant(data):
    spectrum, task = data
    one = fp.Task(task.X[:1], task.y[:1], 0.1)
    exact, found = (renormalisation.kept(spectrum, one, cutoff=8, ridge=r) for r in ("exact", "first-cumulant"))
    np.testing.assert_allclose(found.mean["mode_coefficient"], exact.mean["mode_coefficient"], rtol=1e-12)
    np.testing.assert_allclose(found.variance["mode_coefficient"], exact.variance["mode_coefficient"], rtol=1e-12)
    np.testing.assert_allclose(found.log_evidence, exact.log_evidence, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.long
def test_an_orthogonal_design_is_not_renormalised():
    phi = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (30, 12)))[0] * jnp.sqrt(30)
    spectrum = Spectrum(np.arange(1.0, 13) ** -2.0, eigenfunctions=lambda X: X)
    found = renormalisation.kept(spectrum, fp.Task(phi, jnp.ones(30), 0.2), cutoff=5, ridge="exact")
    expected = 30 * spectrum.eigenvalues / (0.2 + 30 * spectrum.eigenvalues)
    np.testing.assert_allclose(found.mean["mode_learnability"], expected[:5], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.long
def test_an_equispaced_grid_aliases():
    """L = P lambda_m / (k2 + P sum over j of lambda_|m + jP|): not what random inputs give."""
    wave = jnp.arange(401.0)
    spectrum = spectra.complete(spectra.circle(jnp.where(wave == 0, 1.0, 1 / jnp.maximum(wave, 1.0) ** 2)))
    grid = 2 * jnp.pi * jnp.arange(16.0)[:, None] / 16
    found = renormalisation.kept(spectrum, fp.Task(grid, jnp.ones(16), 0.05), cutoff=7, ridge="exact")
    m, j = 3, np.arange(-25, 25)
    aliased = np.sum(1 / np.abs(m + 16.0 * j) ** 2)
    np.testing.assert_allclose(found.mean["mode_learnability"][6], 16 / 9 / (0.05 + 16 * aliased), rtol=1e-10)
    random = 16 / 9 / (effective_ridge(spectrum, 16, 0.05) + 16 / 9)
    assert abs(random - found.mean["mode_learnability"][6]) > 0.002


@pytest.mark.slow
@pytest.mark.long
def test_complete_eigenspaces_have_a_constant_first_cumulant():
    """k_>(x, x) = c on the circle and the sphere; half of a pair leaves a dependence on the angle."""
    circle = spectra.complete(spectra.circle(jnp.array([1.0, 0.5, 0.2, 0.1])))
    angles = jnp.linspace(0.0, 5.0, 9)[:, None]
    whole, half = (renormalisation.split(circle, angles, cutoff) for cutoff in (3, 4))
    np.testing.assert_allclose(whole.noise(0.1, "first-cumulant"), whole.noise(0.1, "leading"), rtol=1e-12)
    expected = 0.1 + 2 * 0.1 + 2 * 0.2 * jnp.sin(2 * angles[:, 0]) ** 2
    np.testing.assert_allclose(half.noise(0.1, "first-cumulant"), expected, rtol=1e-12)

    net = fp.Mlp(width=1, activation="relu", weight_variance=2.0, readout_variance=1.0)
    sphere = spectra.complete(spectra.sphere(net, 8, radius=8**0.5, modes=20), spaces=3)
    X = fp.tasks.Sphere(8)(jax.random.key(0), 12)
    cut = renormalisation.split(sphere, X, 44, kernel=net)
    np.testing.assert_allclose(cut.noise(0.01, "first-cumulant"), cut.noise(0.01, "leading"), rtol=1e-9)
    np.testing.assert_allclose(sphere.eigenvalues[jnp.array([0, 1, 9])], [0.33878, 0.0625, 0.0041825], atol=5e-6)
    np.testing.assert_allclose(cut.noise(0.0, "leading"), 0.0148, atol=5e-5)


@pytest.mark.slow
@pytest.mark.long
def test_every_harmonic_is_listed_once():
    """Sums over a degree are the addition theorem, the first of each is zonal, and the target stays where it was."""
    listed = spectra.sphere(lambda t: jnp.exp(t), inputs=5, modes=4).with_target(lambda X: X[:, 0] ** 2)
    every = spectra.complete(listed)
    X = fp.tasks.Sphere(5, radius=1.0)(jax.random.key(0), 7)
    phi = every.eigenfunctions(X)
    K = (phi * every.eigenvalues) @ phi.T + listed.tail
    np.testing.assert_allclose(K, jnp.exp(X @ X.T), atol=2 * float(listed.tail))
    zonal = np.array([0, 1, 6, 20])
    np.testing.assert_allclose(phi[:, zonal], listed.eigenfunctions(X), atol=1e-10)
    np.testing.assert_allclose(every.required_coefficients()[zonal], listed.required_coefficients())
    # exact to the degree of the quadrature: products of two harmonics of degree 3 by many random rotations
    assert every.modes == 1 + 5 + 14 + 30
    np.testing.assert_allclose(phi[:, 1:6] @ phi[:, 1:6].T, 5 * X @ X.T, atol=1e-10)


@pytest.mark.slow
@pytest.mark.long
def test_the_first_cumulant_averages_to_the_leading_ridge():
    spectrum = spectra.rbf_gaussian(0.5, 1.0, modes=24)
    assert spectrum.quadrature is not None
    nodes, weights = spectrum.quadrature
    features = spectrum.eigenfunctions(nodes)
    s = renormalisation.first_cumulant_ridge(spectrum.eigenvalues, features, 0.1, 5)
    np.testing.assert_allclose(weights @ s + spectrum.tail, renormalisation.leading_ridge(spectrum, 0.1)[5], rtol=1e-6)


@pytest.mark.slow
def test_functional_ridges_are_the_uniform_ones_where_features_are_constant_in_size():
    """Features +-1: the flow is the local one, and its matched form solves the equation of the effective ridge."""
    signs = jnp.array(np.random.default_rng(0).choice([-1.0, 1.0], size=(20, 40)))
    spectrum = Spectrum(np.arange(1.0, 41) ** -1.5)
    local, matched = renormalisation.local_ridge(spectrum, 20, 0.1), renormalisation.matched_ridge(spectrum, 20, 0.1)
    for cutoff in (0, 7):
        found = renormalisation.functional_flow(spectrum.eigenvalues, signs, 0.1, cutoff)
        np.testing.assert_allclose(found, local[cutoff], rtol=1e-12)
    cutoffs = jnp.array([0, 7, 40])
    found = jax.vmap(lambda c: renormalisation.input_dependent_ridge(spectrum.eigenvalues, signs, 0.1, c))(cutoffs)
    np.testing.assert_allclose(found, jnp.broadcast_to(matched[cutoffs][:, None], (3, 20)), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.long
def test_the_input_dependent_ridge_is_differentiable(data):
    spectrum, task = data

    def total(noise):
        return jnp.sum(renormalisation.input_dependent_ridge(spectrum.eigenvalues, task.X, noise, 8))

    np.testing.assert_allclose(jax.grad(total)(0.1), (total(0.1 + 1e-5) - total(0.1 - 1e-5)) / 2e-5, rtol=1e-6)


# --- averages with an input-dependent ridge ---------------------------------------------------------------------------

HERMITE = {
    40: {"input-dependent": (0.795, -0.872, 0.244, 0.165, -0.143), "first": (0.785, -0.875, 0.240, 0.160, -0.141),
         "uniform": (0.473, -0.342, 0.124, 0.091, -0.043)},
    160: {"input-dependent": (0.937, -0.804, 0.372, 0.305, -0.248), "first": (0.910, -0.841, 0.337, 0.286, -0.242),
          "uniform": (0.788, -0.562, 0.301, 0.216, -0.113)},
}  # fmt: skip


@pytest.fixture(scope="module")
def hermite():
    """Five Hermite polynomials of a standard normal and 300 integrated modes of strength 2 / (1 + exp(-3x))."""
    x = jnp.linspace(-9.0, 9.0, 400)
    weights = jnp.exp(-(x**2) / 2) / jnp.sum(jnp.exp(-(x**2) / 2))
    he = jnp.stack([x**0, x, x**2 - 1, x**3 - 3 * x, x**4 - 6 * x**2 + 3], axis=1)
    features = he / jnp.sqrt(jnp.array([1.0, 1.0, 2.0, 6.0, 24.0]))
    shell = renormalisation.ShellMoments(jnp.array([2 / 300]), jnp.array([300.0]), (2 * jax.nn.sigmoid(3 * x))[:, None])
    return jnp.array([0.05, 0.05, 0.02, 0.02, 0.01]), features, weights, shell


@pytest.mark.slow
@pytest.mark.parametrize("points", [40.0, 160.0])
def test_mode_mixing_has_the_printed_predictors(hermite, points):
    eigenvalues, features, weights, shell = hermite
    y = jnp.array([1.0, -0.7, 0.5, 0.4, -0.3])
    kept = (eigenvalues, features, weights, points)
    found = {
        "input-dependent": renormalisation.input_dependent_average(*kept, 0.1, shell),
        "first": renormalisation.mode_mixing(*kept, 0.1 + shell.variance),
        "uniform": renormalisation.mode_mixing(*kept, 2.1),
    }
    for name, expected in HERMITE[int(points)].items():
        np.testing.assert_allclose(found[name].response @ y, expected, atol=1.6e-3)


@pytest.mark.slow
def test_a_uniform_ridge_does_not_mix_modes(hermite):
    """With v its average and s constant, the re-weighted equivalent kernel is diagonal."""
    eigenvalues, features, weights, _ = hermite
    bare = renormalisation.mode_mixing(eigenvalues, features, weights, 40.0, 2.1, bare=True)
    np.testing.assert_allclose(bare.response, jnp.diag(40 * eigenvalues / (40 * eigenvalues + 2.1)), atol=1e-10)


@pytest.mark.slow
def test_a_fluctuating_ridge_acts_by_its_shifted_harmonic_mean():
    """One part in two of the points without information: as the others alone; one value: the effective ridge."""
    spectrum = Spectrum(np.arange(1.0, 31) ** -2.0)
    half = renormalisation.harmonic_ridge(spectrum, 100, [0.1, 1e12])
    np.testing.assert_allclose(half, 2 * effective_ridge(spectrum, 50, 0.1), rtol=1e-9)
    np.testing.assert_allclose(
        renormalisation.harmonic_ridge(spectrum, 100, [0.1, 0.1]), effective_ridge(spectrum, 100, 0.1), rtol=1e-12
    )


# --- cumulants --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_ridge_to_first_order_in_cumulants_is_the_conditional_variance():
    """Densities normal times 1 + kappa/4 H2(u) H2(v) + gamma/2 H2(u) v: (19) with its third cumulant is exact there."""
    nodes, weights = normal_nodes()
    u, v = (g.reshape(-1) for g in jnp.meshgrid(nodes, nodes))
    kappa, gamma = 0.3, 0.2
    density = 1 + kappa / 4 * (u**2 - 1) * (v**2 - 1) + gamma / 2 * (u**2 - 1) * v
    w = (weights[:, None] * weights).reshape(-1) * density
    cumulants = renormalisation.joint_cumulants(v[:, None], u[:, None], w)
    np.testing.assert_allclose(cumulants.third, [[gamma]], atol=1e-10)
    np.testing.assert_allclose(cumulants.fourth, [[[kappa]]], atol=1e-10)
    points = jnp.linspace(-2.0, 2.0, 5)
    found = renormalisation.cumulant_ridge(jnp.ones(1), cumulants, points[:, None], 0.1)
    expected = [0.1 + jnp.sum(weights * nodes**2 * (1 + kappa / 4 * (nodes**2 - 1) * (p**2 - 1)
                                                    + gamma / 2 * (nodes**2 - 1) * p)) for p in points]  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.long
def test_moments_and_histograms_of_features():
    nodes, weights = normal_nodes()
    moments = renormalisation.feature_moments(jnp.stack([nodes, nodes**3 / jnp.sqrt(15.0)], axis=1), weights)
    np.testing.assert_allclose(moments.variance, 1.0, rtol=1e-10)
    np.testing.assert_allclose(moments.excess_kurtosis, [0.0, 10395 / 225 - 3], atol=1e-8)
    sample = jax.random.normal(jax.random.key(0), (200, 2))
    histogram = renormalisation.joint_histogram(sample, (0, 1), bins=8, reach=6.0)
    width = histogram.edges[1] - histogram.edges[0]
    np.testing.assert_allclose(jnp.sum(histogram.density) * width**2, 1.0)
    np.testing.assert_allclose(jnp.sum(histogram.gaussian) * width**2, 1.0, atol=0.02)


# --- replicas ---------------------------------------------------------------------------------------------------------


def test_the_determinant_is_the_average_over_gaussian_features():
    nodes, weights = normal_nodes(80)
    features = jnp.stack([g.reshape(-1) for g in jnp.meshgrid(nodes, nodes)], axis=1)
    w = (weights[:, None] * weights).reshape(-1)
    f, y, eigenvalues = jnp.array([[0.3, -0.2], [1.0, 0.4]]), jnp.array([0.8, -0.5]), jnp.array([1.0, 0.3])
    direct = renormalisation.poisson_action(f, y, eigenvalues, 1.5, 2.5, features, w)
    np.testing.assert_allclose(renormalisation.determinant_action(f, y, eigenvalues, 1.5, 2.5), direct, rtol=1e-9)


@pytest.mark.slow
def test_replicas_to_first_order_in_the_number_of_points():
    """d <Z^2> / d eta at zero is the average of Z^2 - 1 over data sets of one point, by quadrature; 5 errors, 6e-7."""
    y, eigenvalues, noise = jnp.array([0.8, -0.5]), jnp.array([1.0, 0.3]), 0.5
    key = jax.random.key(0)

    def averaged(points):
        return renormalisation.replicated_partition_function(y, eigenvalues, noise, points, 2, draws=20_000, key=key)

    value, slope = jax.jvp(averaged, (0.0,), (1.0,))
    nodes, weights = normal_nodes(80)
    a, b = jnp.meshgrid(nodes, nodes)
    variance = noise + eigenvalues[0] * a**2 + eigenvalues[1] * b**2
    Z = jnp.sqrt(noise / variance) * jnp.exp(-((a * y[0] + b * y[1]) ** 2) / (2 * variance))
    expected = jnp.sum(weights[:, None] * weights * Z**2) - 1
    assert value.value == 1.0
    spread = averaged(1e-3).error / 1e-3
    assert abs(slope.value - expected) < 5 * spread


# --- evidence and learning curves -------------------------------------------------------------------------------------


def test_the_log_determinant_is_stationary_in_the_effective_ridge():
    """d/d k2 of E log det is P / r, the trace of the resolvent: only if the ridge's own change does not matter."""

    def value(noise):
        return renormalisation.log_determinant(LEVELS, 20.0, noise, corrected=False)

    np.testing.assert_allclose(jax.grad(value)(0.01), 20 / effective_ridge(LEVELS, 20.0, 0.01), rtol=1e-9)


def test_log_evidence_of_a_typical_target_has_a_quadratic_form_of_one_a_point():
    spectrum = LEVELS.with_target(coefficients=jnp.sqrt(LEVELS.weights), tail=LEVELS.tail)
    found = renormalisation.average_log_evidence(spectrum, 20.0, 0.01)
    log_det = renormalisation.log_determinant(spectrum, 20.0, 0.01)
    np.testing.assert_allclose(-2 * found - log_det - 20 * jnp.log(2 * jnp.pi), 20.0, rtol=1e-12)


@pytest.mark.slow
def test_learning_curves_of_kept_modes():
    """All modes kept: (24). With the target inside the kept modes and the matched ridge, only gamma changes."""
    from fieldprob.tasks import Population

    y = jnp.where(jnp.arange(600) < 10, jnp.sqrt(POWER_LAW.eigenvalues), 0.0)
    spectrum = POWER_LAW.with_target(coefficients=y)
    population = Population((50, 100), NOISE, 0.02)
    every = renormalised_ridge(spectrum, population)
    same = renormalisation.learning_curve(spectrum, population, cutoff=600)
    for name, value in every.mean.items():
        np.testing.assert_allclose(same.mean[name], value, rtol=1e-12)
    kept = renormalisation.learning_curve(spectrum, population, cutoff=40)
    np.testing.assert_allclose(kept.mean["learnability"], every.mean["learnability"][:, :40], rtol=1e-12)
    L = every.mean["learnability"]
    gamma, inner = (jnp.sum(x**2, axis=1) / jnp.array([50.0, 100.0]) for x in (L, L[:, :40]))
    ratio = kept.mean["noisy_test_error"] / every.mean["noisy_test_error"]
    np.testing.assert_allclose(ratio, (1 - gamma) / (1 - inner), rtol=1e-12)
    two = renormalisation.learning_curve(spectrum, population, cutoff=(20, 40))
    np.testing.assert_allclose(two.mean["test_error"][1], kept.mean["test_error"][1], rtol=1e-12)
    assert "learnability" not in two.mean


# --- errors -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused(data):
    spectrum, task = data
    with pytest.raises(ValueError, match="give one of exact"):
        renormalisation.kept(spectrum, task, cutoff=8, ridge="none")
    with pytest.raises(ValueError, match="cutoff = 61"):
        renormalisation.kept(spectrum, task, cutoff=61)
    with pytest.raises(ValueError, match="no eigenfunctions"):
        renormalisation.split(Spectrum([1.0]), task.X, 1)
    with pytest.raises(ValueError, match="spectra.complete"):
        renormalisation.split(spectra.circle(jnp.array([1.0, 0.5])), jnp.zeros((2, 1)), 2)
    with pytest.raises(ValueError, match="needs one number"):
        renormalisation.split(spectrum, task.X, 8).noise(jnp.full(30, 0.1), "matched")
    with pytest.raises(TypeError, match="learns from"):
        renormalisation.kept(spectrum, None, cutoff=8)
    with pytest.raises(ValueError, match="one of bare"):
        renormalisation.uniform_ridge(LEVELS, 20.0, 0.01, "none")
    with pytest.raises(ValueError, match="not known"):
        spectra.complete(Spectrum([1.0], degeneracies=[2]))


def test_learnability_from_draws():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(2, 500, 3)) * [1.0, 0.5, 0.1]
    found = fp.statistics.mode_learnability(draws, np.ones(3)).mean(axis=(0, 1))
    np.testing.assert_allclose(found, 1 - draws.reshape(-1, 3).var(axis=0, ddof=1), rtol=1e-12)
    with pytest.raises(ValueError, match="never learned"):
        fp.statistics.mode_learnability(draws, np.array([1.0, 0.0, 1.0]))


# --- the last digits --------------------------------------------------------------------------------------------------


def test_closed_ridges_far_below_the_trace_solve_their_equation():
    """Exponential eigenvalues and no noise: roots below 1e-15 of the trace."""
    eigenvalues = np.exp(-np.arange(60.0))
    found = np.asarray(renormalisation.closed_ridge(Spectrum(eigenvalues), 50, 0.0))
    for cutoff, s in enumerate(found[:10]):
        np.testing.assert_allclose(np.sum(eigenvalues[cutoff:] / (s + 50 * eigenvalues[cutoff:])), 1.0, rtol=1e-12)
    assert np.all(found[10:] == 0)  # no more modes than points


def test_modes_of_eigenvalue_zero_are_not_learned_and_add_nothing_without_noise():
    spectrum = Spectrum([1.0, 0.5, 0.0])
    np.testing.assert_allclose(renormalisation.contraction(spectrum, 2, jnp.zeros(4)), [1.0, 0.5, 0.0, 0.0], rtol=1e-12)
    found, pullback = jax.vjp(lambda x: renormalisation.cutoff(Spectrum(x), 2, 0.0).learnability, spectrum.eigenvalues)
    np.testing.assert_allclose(found, [2 / 2.5, 1, 0], rtol=1e-12)
    assert jnp.all(jnp.isfinite(pullback(jnp.ones(3))[0]))


def test_the_kept_posterior_loses_no_digits_to_a_small_noise():
    """An orthogonal design with more modes than points, where everything is a ratio."""
    phi, y, noise = jnp.array([[1.0, 1, 1, 1], [1, -1, 1, -1]]), jnp.array([[1.0], [0.3]]), 1e-14
    found = renormalisation.kept_posterior(jnp.ones(4), phi, noise, y)
    np.testing.assert_allclose(found.mean, phi.T @ y / (4 + noise), rtol=1e-8)
    np.testing.assert_allclose(found.variance, 0.5, rtol=1e-8)
    evidence = -0.5 * jnp.sum(y**2) / 4 - jnp.log(4.0) - jnp.log(2 * jnp.pi)
    np.testing.assert_allclose(found.log_evidence, evidence, rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: renormalisation.closed_ridge(s, 10, float("nan")), "noise_variance = nan"),
        (lambda s: renormalisation.closed_ridge(s, -3, 0.1), "points = -3"),
        (lambda s: renormalisation.closed_ridge(s, 3, 0.1, jnp.array([-1, 5])), r"0 \.\.\. 2"),
        (lambda s: renormalisation.leading_ridge(s, -1.0), "noise_variance = -1"),
        (lambda s: renormalisation.local_ridge(s, -3, 0.1), "points = -3"),
        (lambda s: renormalisation.cutoff(s, 3, 0.1, -1), "threshold = -1"),
        (lambda s: renormalisation.average_log_evidence(s, 3, 0.1, -3.0), "label_noise_variance = -3"),
        (lambda s: renormalisation.average_log_evidence(s, 3, 0.0), "the data determine every mode"),
        (lambda s: renormalisation.functional_flow(s.eigenvalues, jnp.ones((3, 2)), 0.0, 1), "noise has the value 0"),
        (lambda s: renormalisation.harmonic_ridge(s, 3, [0.3, float("nan")]), "ridges has the value nan"),
        (lambda s: renormalisation.mode_mixing(s.eigenvalues, jnp.eye(2), jnp.ones(2), 3, -0.1, bare=True), "-0.1"),
        (
            lambda s: renormalisation.replicated_partition_function(
                jnp.ones(2), s.eigenvalues, -1.0, 2.0, 1, draws=10, key=jax.random.key(0)
            ),
            "noise_variance has the value -1",
        ),
        (lambda s: renormalisation.split(s, jnp.ones((3, 1)), 1), "one column for each mode"),
        (
            lambda s: renormalisation.split(
                Spectrum(s.eigenvalues, eigenfunctions=lambda X: X),
                jnp.eye(2),
                1,
                kernel=lambda X1, X2: 0.1 * X1 @ X2.T,
            ),
            "less the kept modes",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    spectrum = Spectrum([1.0, 0.5], coefficients=[1.0, 0.5], eigenfunctions=lambda X: X[:, :1])
    with pytest.raises(ValueError, match=message):
        call(spectrum)


def test_a_tail_without_its_kernel_is_not_exact(data):
    """It becomes white noise, and the prediction says so."""
    spectrum, task = data
    found = renormalisation.kept(spectrum, task, cutoff=8, ridge="exact")
    assert not found.exact
    assert "white" in found.order
    every = Spectrum(spectrum.eigenvalues, eigenfunctions=spectrum.eigenfunctions)
    assert renormalisation.kept(every, task, cutoff=8, ridge="exact").exact


@pytest.mark.slow
def test_the_quadratic_form_of_the_log_evidence_is_that_of_random_data_sets():
    """20 points, 202 Gaussian features, a target along two of them and label noise: within 5 sigma (false alarms 6e-7),
    where the form to leading order is more than 10 off."""
    rng = np.random.default_rng(0)
    eigenvalues, y = np.r_[1.0, 0.5, 0.5, 0.3 * np.arange(1.0, 200) ** -1.5], np.r_[0.2, 0.0, 0.1, np.zeros(199)]
    phi = rng.normal(size=(2000, 20, 202))
    R = np.linalg.inv((phi * eigenvalues) @ phi.transpose(0, 2, 1) + 0.08 * np.eye(20))
    labels = phi @ y
    sampled = np.einsum("ai,aij,aj->a", labels, R, labels) + 0.4 * np.trace(R, axis1=1, axis2=2)
    spectrum = Spectrum(
        [1.0, 0.5, *eigenvalues[3:]], [1, 2, *np.ones(199)], coefficients=[0.2, 0.1, *np.zeros(199)], tail=0.03
    )
    evidence = renormalisation.average_log_evidence(spectrum, 20.0, 0.05, 0.4)
    found = -2 * evidence - renormalisation.log_determinant(spectrum, 20.0, 0.05) - 20 * jnp.log(2 * jnp.pi)
    r, error = effective_ridge(spectrum, 20.0, 0.05), sampled.std(ddof=1) / 2000**0.5
    leading = 20 * (0.04 / (r + 20) + 0.01 / (r + 10) + 0.4 / r)
    assert abs(found - sampled.mean()) < 5 * error < 10 * error < abs(leading - sampled.mean())


def test_cumulants_do_not_depend_on_the_means():
    kept, shell = jax.random.normal(jax.random.key(0), (2, 200, 1))
    found, moved = (renormalisation.joint_cumulants(kept + mean, shell - mean) for mean in (0.0, 0.15))
    np.testing.assert_allclose(moved.third, found.third, atol=1e-12)
    np.testing.assert_allclose(moved.fourth, found.fourth, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param("renormalisation", {"recorded": (0,)}, "recorded", marks=pytest.mark.slow),
        pytest.param("renormalisation", {"recorded": (9999,)}, "recorded", marks=pytest.mark.slow),
        pytest.param("renormalisation", {"cutoffs": (0,)}, "cutoffs", marks=pytest.mark.slow),
        pytest.param(
            "renormalisation", {"label_noise_variance": -0.1}, "label_noise_variance=-0.1", marks=pytest.mark.slow
        ),
        ("replicas", {"noise_variance": -1.0}, "noise_variance=-1"),
        ("replicas", {"replicas": 0}, "replicas=0"),
        ("learnability", {"linear_modes": -1}, "linear_modes=-1"),
    ],
)
def test_studies_refuse_options_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        studyfile.find(name).load()(**options)


@pytest.mark.parametrize("cutoff", [10.7, True])
def test_a_cutoff_that_is_no_integer_is_refused(cutoff):
    from fieldprob.tasks import Population

    spectrum = Spectrum(np.ones(20), coefficients=np.ones(20))
    with pytest.raises(ValueError, match="integers"):
        renormalisation.learning_curve(spectrum, Population((50,), NOISE, 0.02), cutoff=cutoff)
