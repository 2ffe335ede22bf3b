"""The law of one neuron at fixed effective points: overlaps, the concave dual, its loop, against brute force."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import fieldprob as fp
from fieldprob.activations import Erf, ReLU, get
from fieldprob.networks.overlaps import direction, features, target_coefficients
from fieldprob.tasks import Gaussian, HermiteTeacher, Population, Sphere
from fieldprob.theory import grokking
from fieldprob.theory.grokking import loop
from fieldprob.theory.grokking.dual import Dual, negative_dual, tilted
from fieldprob.theory.grokking.neuron import neurons, panels

pytestmark = [pytest.mark.slow, pytest.mark.long]  # by hand, until the studies of grokking bring short versions

POINTS = [(0.3, 0.4), (-0.9, 1.7), (1.4, 2.5), (0.02, 0.03)]  # m, q
M, Q = (jnp.array(x) for x in zip(*POINTS, strict=True))


def problem(A, *, width=200, inputs=20, epsilon=-1.2, activation="erf", measure=Gaussian, points=None, noise=1.0):
    """04's E3: sigma_w² = 1/4, G_0 = 0.2, effective points A width inputs / (4 / width inputs ...) = 5 A width."""
    net = fp.Mlp(width=width, activation=activation, weight_variance=0.25, readout_variance=0.2 * inputs / width)
    points = round(5 * A * width) if points is None else points
    teacher = HermiteTeacher((0, 1, 0, epsilon))
    return net, Population(points, noise, 0.0, measure=measure(inputs), target=teacher)


def paper(noise):
    net = fp.Mlp(width=700, activation="erf", weight_variance=0.5, readout_variance=8 / 700)
    return net, Population(3000, noise, 0.0, measure=Gaussian(150), target=HermiteTeacher((0, 1, 0, -0.3)))


# --- overlaps: T1 -----------------------------------------------------------------------------------------------------


def plane(function, m, q, degree, nodes=120):
    """E[function(g) He_k(z)] / sqrt(k!) for Var g = q, Cov(g, z) = m: a product of Gauss-Hermite rules."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    g = m * x[:, None] + math.sqrt(q - m**2) * x[None]
    He = special.eval_hermitenorm(degree, x) / math.sqrt(math.factorial(degree))
    return np.einsum("i,j,ij,i->", w, w, function(g), He)


@pytest.mark.parametrize("degree", [1, 3, 5, 7])
def test_overlaps_of_erf_are_those_of_a_quadrature_in_the_plane(degree):
    found = grokking.overlaps(Erf(), M, Q, (degree, degree + 1))
    expected = [plane(special.erf, m, q, degree) for m, q in POINTS]
    np.testing.assert_allclose(found[0], expected, atol=3e-14)
    np.testing.assert_array_equal(found[1], 0.0)  # erf is odd


def test_overlaps_of_erf_are_the_documents_closed_forms():
    h = grokking.overlaps(Erf(), M, Q, (1, 3, 5)) * jnp.sqrt(jnp.array([1.0, 6.0, 120.0]))[:, None]
    t = M / jnp.sqrt(1 + 2 * Q)
    np.testing.assert_allclose(h, jnp.stack([2 * t, -4 * t**3, 24 * t**5]) / np.sqrt(np.pi), rtol=1e-13)


def test_the_scale_of_erf_multiplies_the_weights():
    np.testing.assert_allclose(
        grokking.overlaps(Erf(scale=1.7), M, Q, (1, 3)),
        grokking.overlaps(Erf(), 1.7 * M, 1.7**2 * Q, (1, 3)),
        rtol=1e-13,
    )


@pytest.fixture(scope="module")
def smooth():
    """Overlaps of tanh, by the rule that serves any activation."""
    return features(get("tanh"), M, Q, (0, 1, 3, 5), Gaussian(1))


def test_overlaps_of_any_smooth_activation_are_those_of_a_quadrature_in_the_plane(smooth):
    expected = [[plane(np.tanh, m, q, k, 200) for m, q in POINTS] for k in (0, 1, 3, 5)]
    # the Gauss-Hermite reference itself converges slowly for tanh at large variance, 1e-9 at q = 2.5
    np.testing.assert_allclose(smooth.overlap, expected, atol=1e-8)
    small = [i for i, (_, q) in enumerate(POINTS) if q < 0.5]
    np.testing.assert_allclose(smooth.overlap[:, small], np.array(expected)[:, small], atol=1e-12)


def test_power_is_the_dual_of_the_activation_and_the_sum_over_degrees(smooth):
    np.testing.assert_allclose(smooth.power, get("tanh").dual(Q, Q, Q), atol=1e-12)
    erf = features(Erf(), M, Q, (1,), Gaussian(1))
    np.testing.assert_allclose(erf.power, 2 / np.pi * jnp.arcsin(2 * Q / (1 + 2 * Q)), rtol=1e-13)  # (3.4)
    # along w itself, m = sqrt q, the squares over all degrees make up the power
    degrees = tuple(range(1, 60, 2))
    total = jnp.sum(grokking.overlaps(Erf(), jnp.sqrt(Q), Q, degrees) ** 2, axis=0)
    np.testing.assert_allclose(total[Q < 0.5], erf.power[Q < 0.5], rtol=1e-8)
    assert bool(jnp.all(total < erf.power + 1e-14))


def test_overlaps_of_a_kink_are_exact():
    """E[|g| He_2(z)] = rho² E[|g| He_2(g / sqrt q)] = rho² sqrt(2 q / pi); relu is (g + |g|) / 2."""
    h = grokking.overlaps(ReLU(), M, Q, (0, 1, 2, 3))
    expected = [jnp.sqrt(Q / (2 * np.pi)), M / 2, M**2 / Q * jnp.sqrt(Q / np.pi) / 2, 0 * M]
    np.testing.assert_allclose(h, jnp.stack(expected), atol=1e-13)


@pytest.mark.parametrize("inputs", [5, 12, 40])
def test_overlaps_on_the_sphere_are_the_hypergeometric_closed_forms(inputs):
    d, s = inputs, np.sqrt(np.asarray(Q))
    m = np.asarray(M)

    def cubic(z):
        return z**3 - 3 * d / (d + 2) * z

    C_3 = d**2 * (d - 1) / ((d + 2) ** 2 * (d + 4))
    linear = 2 * m / np.sqrt(np.pi) * special.hyp1f1(0.5, d / 2 + 1, -d * s**2)  # (3.7)
    bracket = 4 * s**4 * d / (d + 6) * special.hyp1f1(1.5, d / 2 + 4, -d * s**2)
    bracket = bracket - 2 * s**2 * special.hyp1f1(0.5, d / 2 + 3, -d * s**2)
    third = cubic(np.sqrt(d) * m / s) / cubic(np.sqrt(d)) * C_3 * 2 * s / np.sqrt(np.pi) * bracket  # (3.8)
    found = grokking.overlaps(Erf(), M, Q, (1, 3), Sphere(d))
    np.testing.assert_allclose(found, [linear, third / np.sqrt(6 * C_3)], atol=1e-12)
    np.testing.assert_allclose(direction(Sphere(d), 4).norms[[1, 3]], [1, np.sqrt(6 * C_3)], rtol=1e-13)


def test_overlaps_on_the_sphere_are_those_of_an_adaptive_quadrature():
    """relu in 5 dimensions: z has density (1 - z²/5), and the rest of x . w a semicircle-like law given z."""
    d, m, q = 5, 0.3, 0.4
    Q_2 = direction(Sphere(d), 3).norms[2]

    def given(z, c):  # c: the component along w_perp, with density (1 - c²/(d - z²))^((d - 4)/2)
        return max(m * z + math.sqrt(q - m**2) * c, 0.0) * (z**2 - 1) / Q_2

    def weight(z, c):
        return (d - z**2 - c**2) ** ((d - 4) / 2)

    def end(z):
        return math.sqrt(d - z**2)

    def average(f):
        ends = (-math.sqrt(d), math.sqrt(d), lambda z: -end(z), end)
        return integrate.dblquad(lambda c, z: f(z, c) * weight(z, c), *ends, epsabs=1e-8)[0]

    expected = average(given) / average(lambda z, c: 1.0)
    found = grokking.overlaps(ReLU(), jnp.array(m), jnp.array(q), (2,), Sphere(d))[0]
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_on_the_sphere_the_cubic_hermite_polynomial_has_a_linear_part():
    """(3.6): z + eps He_3 = (1 - 6 eps / (d + 2)) z + eps Q_3."""
    d, epsilon = 12, -0.7
    found = target_coefficients(HermiteTeacher((0, 1, 0, epsilon)).link, Sphere(d), 4) / direction(Sphere(d), 4).norms
    np.testing.assert_allclose(found, [0, 1 - 6 * epsilon / (d + 2), 0, epsilon], atol=1e-12)


# --- the solution -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curve():
    """04's E3 (tree), as one curve in points."""
    net, task = problem(1.0, points=(700, 1200, 1800))
    return grokking.mean_field(net, task).mean


def test_mean_field_table_of_the_population_network(curve):
    """04, E3: (b, c), E m², P(|m| > 1/2)."""
    np.testing.assert_allclose(curve["residual"], [[0.7821, -1.1968], [0.4135, -1.1668], [0.0885, -1.1091]], atol=6e-5)
    np.testing.assert_allclose(curve["overlap_second_moment"], [0.0219, 0.0525, 0.0902], atol=6e-5)
    np.testing.assert_allclose(curve["specialised_fraction"], [0.0018, 0.0530, 0.0754], atol=6e-5)
    np.testing.assert_allclose(curve["test_error"], curve["residual"] ** 2 @ jnp.array([1.0, 6.0]), rtol=1e-12)


def test_a_curve_is_what_each_size_gives_and_only_effective_points_matter(curve):
    single = grokking.mean_field(*problem(1.2))
    assert single.dims["residual"] == ("mode",) and single.coords["mode"] == (1, 3)
    scaled = grokking.mean_field(*problem(1.0, points=2400, noise=2.0))  # exact invariance under 04's alpha
    for name, value in single.mean.items():
        np.testing.assert_allclose(value, curve[name][1], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(value, scaled.mean[name], rtol=1e-9, atol=1e-12)


def test_the_histogram_is_a_symmetric_density_that_holds_the_specialised(curve):
    density = curve["overlap_histogram"][1]
    np.testing.assert_allclose(density, density[::-1], atol=1e-12)
    edges = np.linspace(-2, 2, 81)
    centres = (edges[1:] + edges[:-1]) / 2
    tails = float(jnp.sum(density[np.abs(centres) > 0.5]) * 0.05)
    np.testing.assert_allclose(tails, curve["specialised_fraction"][1], rtol=1e-10)
    np.testing.assert_allclose(jnp.sum(density) * 0.05, 1.0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.long
def test_the_quadrature_is_converged(curve):
    fine = grokking.mean_field(*problem(1.2), edges=np.linspace(-2, 2, 321), radii=70, extent=4.0)
    for name in ("residual", "overlap_second_moment", "specialised_fraction", "test_loss"):
        np.testing.assert_allclose(fine.mean[name], curve[name][1], rtol=1e-9)
    merged = fine.mean["overlap_histogram"].reshape(80, 4).mean(axis=1)
    np.testing.assert_allclose(merged, curve["overlap_histogram"][1], atol=1e-9)


@pytest.fixture(scope="module")
def dual():
    """The dual of E3 on a coarse quadrature of its own, by draws from the prior."""
    rng = np.random.default_rng(0)
    w = 0.5 / math.sqrt(20) * rng.normal(size=(4000, 20))
    w[::2, 0] *= 6  # so that side wells are visited: any set of neurons has a concave dual
    h = grokking.overlaps(Erf(), jnp.asarray(w[:, 0]), jnp.asarray((w**2).sum(axis=1)), (1, 3))
    prior = jnp.full(4000, -math.log(4000.0))
    return Dual(h, prior, jnp.zeros((2, 1)), jnp.array([1.0, -1.2 * 6**0.5]), 0.02 / 200, 200.0)


def test_the_dual_is_strictly_concave_and_its_derivatives_are_its_derivatives(dual):
    kappa = 1 / 1200

    def value(T):
        return negative_dual(T, (kappa, dual)).value

    @jax.jit
    def both(T):
        return negative_dual(T, (kappa, dual)), jax.grad(value)(T), jax.hessian(value)(T)

    for T in np.random.default_rng(0).normal(size=(3, 2)) * 1500:
        at, gradient, hessian = both(T)
        np.testing.assert_allclose(at.gradient, gradient, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(at.hessian, hessian, rtol=1e-7, atol=1e-12)
        assert np.linalg.eigvalsh(at.hessian)[0] >= kappa * (1 - 1e-9)


def test_every_start_leads_to_the_one_solution(dual):
    from fieldprob.theory.solvers import minimise_convex

    kappa = 1 / 1200
    starts = jnp.asarray(np.random.default_rng(1).normal(size=(6, 2)) * 4000)
    found, converged = jax.vmap(lambda T: minimise_convex(negative_dual, T, (kappa, dual)))(starts)
    assert bool(converged.all())
    np.testing.assert_allclose(found, jnp.broadcast_to(found[0], found.shape), rtol=1e-8)


def test_the_solution_is_self_consistent_under_direct_draws_of_neurons(curve):
    """(3.16) and E m² by importance sampling of w from the prior, 4e6 draws, at the field of the solver.

    Six comparisons at 5.5 sigma: false alarms below 3e-7.
    """
    net, task = problem(1.2)
    found = grokking.field(net, task)
    rng = np.random.default_rng(2)
    T, gamma, kappa, sigma_a2 = np.asarray(found.field), 0.02 / 200, 1 / 1200, 0.02
    m = 0.5 / math.sqrt(20) * rng.normal(size=4_000_000)
    q = m**2 + 0.25 / 20 * rng.chisquare(19, size=m.size)
    t = m / np.sqrt(1 + 2 * q)
    h = np.stack([2 * t / np.sqrt(np.pi), -4 * t**3 / np.sqrt(6 * np.pi)])
    weights = np.exp(gamma / 2 * (T @ h) ** 2)
    defect = np.array([1.0, -1.2 * 6**0.5])[:, None] - kappa * T[:, None] - sigma_a2 * h * (T @ h)
    residual_scale = weights.mean()
    for row in (*defect, m**2 - float(curve["overlap_second_moment"][1])):
        terms = weights * row / residual_scale
        error = terms.std() / math.sqrt(m.size)
        assert abs(terms.mean()) < 5.5 * error


def test_no_data_leaves_the_prior():
    """T13: at vanishing effective points the residual is the target and m is normal."""
    net, _ = problem(1.0)
    task = Population(1, 1e9, 0.0, measure=Gaussian(20), target=HermiteTeacher((0, 1, 0, -1.2)))
    mean = grokking.mean_field(net, task).mean
    np.testing.assert_allclose(mean["residual"], [1, -1.2], rtol=1e-8)
    edges, scale = np.linspace(-2, 2, 81), 0.5 / math.sqrt(20)
    np.testing.assert_allclose(
        mean["overlap_histogram"], np.diff(special.ndtr(edges / scale)) / np.diff(edges), atol=1e-9
    )
    np.testing.assert_allclose(mean["specialised_fraction"], 2 * special.ndtr(-0.5 / scale), rtol=1e-9)
    np.testing.assert_allclose(mean["overlap_second_moment"], scale**2, rtol=1e-12)


def test_an_infinitely_wide_network_is_its_gaussian_process():
    """T5: gamma -> 0 at fixed readout_variance: one minus the residual is the learnability of the NNGP modes."""
    net = fp.Mlp(width=10**9, activation="erf", weight_variance=0.25, readout_variance=0.7)
    task = Population(40, 1.0, 0.0, measure=Gaussian(20), target=HermiteTeacher((0, 1, 0, 1e-9)))
    b = grokking.mean_field(net, task).mean["residual"][0]
    # q = 0.25 chi²_20 / 20, and m² averages to q / d by symmetry
    law = stats.chi2(20)
    mean = integrate.quad(lambda c: law.pdf(c) * c / 80 / (1 + 2 * c / 80), 0, 200, epsabs=1e-13)[0]
    np.testing.assert_allclose(b, 1 / (1 + 40 * 0.7 * 4 / (np.pi * 20) * mean), rtol=1e-3)  # degree 3: Q_13 Q_31
    leading = 4 / (np.pi * 20) * 0.25 / (1 + 2 * 0.25)
    np.testing.assert_allclose(b, 1 / (1 + 40 * 0.7 * leading), rtol=1 / 20)


def test_the_direction_of_the_teacher_does_not_matter(curve):
    net, task = problem(1.2)
    turned = task.replace(target=HermiteTeacher((0, 1, 0, -1.2), direction=np.arange(1.0, 21.0)))
    np.testing.assert_array_equal(
        grokking.mean_field(net, turned).mean["residual"], grokking.mean_field(net, task).mean["residual"]
    )


@pytest.mark.slow
@pytest.mark.long
def test_gradients_are_those_of_finite_differences():
    def residual(noise, epsilon, variance):
        net = fp.Mlp(width=200, activation="erf", weight_variance=variance, readout_variance=0.02)
        task = Population(1200, noise, 0.0, measure=Gaussian(20), target=HermiteTeacher((0, 1, 0, epsilon)))
        mean = grokking.mean_field(net, task, extent=3.0, edges=np.array([-1.0, 1.0])).mean
        return mean["residual"][0] + mean["specialised_fraction"]

    at = (1.0, -1.2, 0.25)
    gradient = jax.grad(residual, argnums=(0, 1, 2))(*at)
    for i, slope in enumerate(gradient):
        step = 1e-5 * np.eye(3)[i]
        finite = (residual(*(at + step)) - residual(*(at - step))) / 2e-5
        np.testing.assert_allclose(slope, finite, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.long
def test_a_network_is_mapped_over_noise(curve):
    net, task = problem(1.0, points=1000)
    b = jax.vmap(lambda noise: grokking.mean_field(net, task.replace(noise_variance=noise)).mean["residual"])(
        1000 / jnp.array([700.0, 1200.0, 1800.0])
    )
    np.testing.assert_allclose(b, curve["residual"], rtol=1e-9)


# --- finite width -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("A", "width", "expected"),
    [
        (1.0, 50, (0.5907, 0.0372, 0.0261)),
        (1.0, 100, (0.5810, 0.0374, 0.0267)),
        (1.4, 50, (0.2945, 0.0671, 0.0677)),
        (1.4, 100, (0.2879, 0.0665, 0.0667)),
    ],
)
def test_one_loop_table(A, width, expected):
    """04, E4: b, E m² and P(|m| > 1/2) with the first correction in inputs/width.

    The document counts the functions He_2(z) x_e, which specialised neurons have, by their trace only: ours are kept,
    which moves b by up to 6e-4 (see `test_the_log_determinant_is_that_of_all_functions`).
    """
    mean = grokking.mean_field(*problem(A, width=width), order="one-loop").mean
    found = (mean["residual"][0], mean["overlap_second_moment"], mean["specialised_fraction"])
    np.testing.assert_allclose(found[0], expected[0], atol=7e-4)
    np.testing.assert_allclose(found[1:], expected[1:], atol=1.5e-4)


@pytest.mark.parametrize(
    ("activation", "coefficients", "degrees", "extent"),
    [("erf", (0, 1, 0, -1.2), (5, 7, 9), 3.0), ("relu", (0, 1, -0.8), (4, 6), 8.0)],
)
def test_the_log_determinant_is_that_of_all_functions(activation, coefficients, degrees, extent):
    """ln det H / kappa of the loop, against that of networks' Gram matrices, which hold every function: 1500 neurons of
    the tilted law, twice the value less that of its halves for what is of first order in one over their number, 8 times
    over; within what Student's t exceeds once in 1e6 and half a percent."""
    d, width = 20, 50
    net = fp.Mlp(width, activation=activation, weight_variance=0.25, readout_variance=0.2 * d / width)
    kappa = float(net.readout_variance) / (1.4 * d)
    task = Population(1000, 1000 * kappa, 0.0, measure=Gaussian(d), target=HermiteTeacher(coefficients))
    kept, T, gamma = grokking.field(net, task, degrees=degrees, extent=extent)
    prior = neurons(panels(np.zeros(0), 0.5, extent, 0.25 / d), d, 0.25 / d, 40)
    q = prior.m**2 + prior.r
    response = features(net.activations[0], prior.m, q, kept, Gaussian(d))
    h, across = (x.reshape(len(x), -1) for x in (response.overlap, response.across))
    rest = response.power.ravel() - jnp.sum(h**2, axis=0) - jnp.sum(across**2, axis=0)
    dual = Dual(h, prior.log_prior.ravel(), jnp.zeros((len(kept), 1)), None, gamma, width)
    at, others = tilted(T, kappa, dual), loop.Rest(across, rest, d - 1)
    found = loop.log_determinant(kappa, loop.spectrum(T, at, kappa, dual, others), others)

    u, p = np.asarray(T @ h), np.asarray(at.probability)
    curvature = p * (1 + gamma * u**2)
    rng = np.random.default_rng(0)

    def of_functions(W, u_share):
        q = jnp.sum(W**2, axis=1)
        gram = np.asarray(net.activations[0].dual(q[:, None], W @ W.T, q[None]))
        size = gamma * width * curvature.sum() / kappa / len(W)
        B = np.eye(len(W)) + size * gram
        mean = gram @ u_share / len(W)
        # less the square of the mean of u phi
        lost = u_share @ mean / len(W) - size * mean @ np.linalg.solve(B, mean)
        return np.linalg.slogdet(B)[1] + np.log(1 - width * gamma**2 / kappa * lost)

    def draw(count):
        i = rng.choice(len(p), count, p=curvature / curvature.sum())
        x = rng.normal(size=(count, d - 1))
        x *= np.sqrt(np.asarray(prior.r).ravel()[i])[:, None] / np.linalg.norm(x, axis=1, keepdims=True)
        W, share = np.c_[np.asarray(prior.m).ravel()[i], x], (u * curvature.sum() / (1 + gamma * u**2))[i]
        half = count // 2
        halves = [of_functions(jnp.asarray(W[part]), share[part]) for part in (slice(half), slice(half, None))]
        return 2 * of_functions(jnp.asarray(W), share) - np.mean(halves)

    values = np.array([draw(1500) for _ in range(8)])
    error = values.std(ddof=1) / np.sqrt(8)
    assert abs(values.mean() - found) < stats.t.isf(5e-7, 7) * error + 0.005 * found


def test_the_loop_vanishes_with_one_over_width():
    def difference(width):
        net, task = problem(1.0, width=width)
        loop, tree = (grokking.mean_field(net, task, order=order).mean for order in ("one-loop", "tree"))
        return np.array(
            [loop[name].ravel()[0] - tree[name].ravel()[0] for name in ("residual", "overlap_second_moment")]
        )

    np.testing.assert_allclose(difference(1600), difference(3200) * 2, rtol=0.01)
    np.testing.assert_allclose(difference(1600)[0], 0.00976 * 100 / 1600, rtol=0.02)  # E4: .5810 - .5712 at 100


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_the_theory_is_not_for_is_refused():
    net, task = problem(1.0)
    for change, message in (
        ({"label_noise_variance": 0.1}, "label_noise_variance = 0.1"),
        ({"noise_variance": 0.0}, "noise_variance = 0"),
        ({"measure": fp.tasks.Interval(0.0, 1.0)}, "Gaussian"),
        ({"measure": Gaussian(20, 2.0)}, "variance 2"),
        ({"target": HermiteTeacher((0, 0))}, "nothing to learn"),
    ):
        with pytest.raises(ValueError, match=message):
            grokking.mean_field(net, task.replace(**change))
    with pytest.raises(TypeError, match="HermiteTeacher"):
        grokking.mean_field(net, task.replace(target=lambda X: X[:, 0]))
    for options, message in (
        ({"activation": "square"}, "faster than linearly"),
        ({"depth": 2}, "one hidden layer"),
        ({"bias_variance": 0.1}, "without biases"),
    ):
        with pytest.raises(ValueError, match=message):
            grokking.mean_field(fp.Mlp(width=200, **options), task)
    for options, message in (
        ({"order": "two"}, "one-loop"),
        ({"edges": [1.0, 0.0]}, "increasing"),
        ({"extent": 1.0}, "reach"),
    ):
        with pytest.raises(ValueError, match=message):
            grokking.mean_field(net, task, **options)
    with pytest.raises(ValueError, match="larger extent"):
        grokking.mean_field(net, task, edges=[-0.3, 0.3], threshold=0.2, extent=0.5)


def test_a_teacher_is_a_polynomial_of_one_direction():
    X = np.random.default_rng(0).normal(size=(5, 3))
    u = np.array([1.0, 2.0, 2.0])
    z = X @ u / 3
    expected = 0.5 + 2 * (z**2 - 1) - 0.1 * (z**4 - 6 * z**2 + 3)
    teacher = HermiteTeacher((0.5, 0, 2, 0, -0.1), u)
    np.testing.assert_allclose(teacher(X), expected, atol=1e-12)
    np.testing.assert_allclose(jax.jit(teacher)(jnp.asarray(X)), expected, atol=1e-12)
    with pytest.raises(ValueError, match="3 inputs|direction"):
        teacher(X[:, :2])
    with pytest.raises(ValueError, match="one number for each degree"):
        HermiteTeacher(())


# --- longer -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (0.3, (0.4668, -0.2957, 1.732e-4)),
        (0.2, (0.3041, -0.2871, 9.608e-3)),
        (0.18, (0.2674, -0.2798, 1.5594e-2)),
        (0.15, (0.2106, -0.2636, 2.1834e-2)),
        (0.1, (0.1124, -0.2300, 2.4998e-2)),
    ],
)
def test_mean_field_at_the_papers_parameters(noise, expected):
    """04, (3.28)."""
    mean = grokking.mean_field(*paper(noise)).mean
    np.testing.assert_allclose(mean["residual"], expected[:2], atol=6e-5)
    np.testing.assert_allclose(mean["specialised_fraction"], expected[2], rtol=3e-4)


@pytest.mark.slow
@pytest.mark.long
def test_many_inputs_approach_the_closed_form_as_one_over_their_number():
    """T8. The limit is that of a free norm; 04 after (3.26) has (b, c, droplets) = (.2341, -.2811, 2.264) at 9600
    inputs, from a quadrature that does not reach the norms of its side wells (see the next test)."""
    limit = grokking.phase_diagram(8 / 700 * 3000 / (0.15 * 150), 8 / 150, 0.5, -0.3)

    def gap(inputs):
        sizes = grokking.scaling.Cubic(700, 150, 3000, 0.15, 8 / 700).scaled(size=(inputs / 150) ** 2)
        net = fp.Mlp(
            width=round(sizes.width), activation="erf", weight_variance=0.5, readout_variance=sizes.readout_variance
        )
        task = Population(
            3000, sizes.noise_variance, 0.0, measure=Gaussian(inputs), target=HermiteTeacher((0, 1, 0, -0.3))
        )  # fmt: skip
        mean = grokking.mean_field(net, task).mean
        return np.array([*mean["residual"], mean["specialised_fraction"] * inputs]) - np.array(
            [limit.linear, limit.cubic, limit.droplets]
        )

    large, largest = gap(2400), gap(9600)
    assert np.all(np.abs(largest) < [3e-4, 3e-5, 0.015])
    np.testing.assert_allclose(large[[0, 2]], 4 * largest[[0, 2]], rtol=0.25)


@pytest.mark.slow
@pytest.mark.long
def test_the_solution_with_many_inputs_is_self_consistent_on_a_dense_grid():
    """(3.16) at 9600 inputs, summed over 4000 x 3000 points of m in (-1.5, 1.5) and of every r from V/4 to 5/4 V."""
    sizes = grokking.scaling.Cubic(700, 150, 3000, 0.15, 8 / 700).scaled(size=64.0**2)
    net = fp.Mlp(
        width=round(sizes.width), activation="erf", weight_variance=0.5, readout_variance=sizes.readout_variance
    )
    teacher = HermiteTeacher((0, 1, 0, -0.3))
    task = Population(3000, sizes.noise_variance, 0.0, measure=Gaussian(9600), target=teacher)
    found = grokking.field(net, task)
    T, gamma, d, kappa = (
        np.asarray(found.field),
        float(found.readout_weight_variance),
        9600,
        sizes.noise_variance / 3000,
    )
    r = np.linspace(0.125, 0.625, 3000)
    log_r = (d - 3) / 2 * np.log(r) - d * r
    total, gram, top = 0.0, 0.0, -np.inf
    for half in np.array_split(np.linspace(0, 1.5, 2001), 40):
        m = half[:, None]
        s = 1 + 2 * m**2 + 2 * r
        t = m / np.sqrt(s)
        h = np.stack([2 * t / np.sqrt(np.pi), -4 * t**3 / np.sqrt(6 * np.pi)])
        u = T[0] * h[0] + T[1] * h[1]
        exponent = log_r - d * m**2 + gamma / 2 * u**2
        new = max(top, exponent.max())
        p = np.exp(exponent - new) * np.where(m == 0, 0.5, 1.0)
        total, gram = (x * np.exp(top - new) for x in (total, gram))
        total, gram, top = total + p.sum(), gram + (h * (p * u)).sum(axis=(1, 2)), new
    defect = np.array([1, -0.3 * 6**0.5]) - kappa * T - gamma * net.widths[0] * gram / total
    np.testing.assert_allclose(defect, 0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.long
def test_erf_makes_a_cubic_part_of_a_linear_teacher_that_vanishes_with_many_inputs():
    """T4: at epsilon = 0 the network has c ≠ 0, kept if asked for."""

    def cubic(inputs):
        net = fp.Mlp(width=10 * inputs, activation="erf", weight_variance=0.25, readout_variance=0.02)
        task = Population(50 * inputs, 1.0, 0.0, measure=Gaussian(inputs), target=HermiteTeacher((0, 1)))
        return float(grokking.mean_field(net, task, degrees=(3,)).mean["residual"][1])

    small, large = cubic(10), cubic(160)
    assert abs(small) > 1e-3 and abs(large) < abs(small) / 8


@pytest.mark.slow
@pytest.mark.long
def test_sphere_and_gaussian_inputs_agree_as_one_over_their_number():
    def gap(inputs):
        on, off = (
            grokking.mean_field(*problem(1.2, width=10 * inputs, inputs=inputs, measure=kind)).mean["residual"]
            for kind in (Sphere, Gaussian)
        )
        return float(on[0] - off[0])

    assert abs(gap(160)) < 0.35 * abs(gap(40))


def importance(net, task, prediction, overlap, degrees, draws, seed):
    """Self-consistency defects, E m² and the specialised fraction by direct draws of weights, in standard errors.

    Half of the overlaps are drawn four times wider than the prior: from the prior itself side wells are so rare that
    3e6 draws miss most of them, and the error with them.
    """
    d, N = task.measure.inputs, net.widths[0]
    field = grokking.field(net, task, degrees=degrees, extent=5.0)
    T, gamma = np.asarray(field.field), float(field.readout_weight_variance)
    rng = np.random.default_rng(seed)
    scale = math.sqrt(float(net.weight_variance[0]) / d)
    m = scale * rng.normal(size=draws) * np.where(np.arange(draws) % 2, 4.0, 1.0)
    q = m**2 + scale**2 * rng.chisquare(d - 1, size=draws)
    h = overlap(m, q)
    u = T @ h
    z2 = (m / scale) ** 2
    exponent = gamma / 2 * u**2 - z2 / 2 - np.log(np.exp(-z2 / 2) + np.exp(-z2 / 32) / 4)
    weights = np.exp(exponent - exponent.max())
    kappa = float(task.noise_variance) / task.points[0]
    norms = np.sqrt([math.factorial(k) for k in field.degrees])
    target = np.array(
        [task.target.coefficients[k] if k < len(task.target.coefficients) else 0.0 for k in field.degrees]
    )
    rows = [
        *((target * norms - kappa * T)[:, None] - gamma * N * h * u),
        m**2 - float(prediction["overlap_second_moment"]),
    ]
    rows.append((np.abs(m) > 0.5) - float(prediction["specialised_fraction"]))
    deviations = []
    for row in rows:
        terms = weights * row / weights.mean()
        deviations.append(terms.mean() / (terms.std() / math.sqrt(draws)))
    return np.array(deviations), weights.sum() ** 2 / (weights**2).sum()


@pytest.mark.slow
@pytest.mark.long
def test_another_teacher_and_activation_against_direct_draws():
    """tanh that learns z + 0.15 He_5: neurons of degree 1, 3 and 5, by importance sampling of 1e6 weights.

    Five comparisons at 5.5 sigma: false alarms below 2e-7.
    """
    net = fp.Mlp(width=100, activation="tanh", weight_variance=0.7, readout_variance=0.03)
    task = Population(1500, 1.0, 0.0, measure=Gaussian(8), target=HermiteTeacher((0, 1, 0, 0, 0, 0.15)))
    prediction = grokking.mean_field(net, task, extent=5.0)
    assert prediction.coords["mode"] == (1, 3, 5)
    knots = np.linspace(1e-4, 80.0, 40000)
    x, w = np.polynomial.hermite_e.hermegauss(300)
    values = np.tanh(np.sqrt(knots)[:, None] * x) * w / w.sum()

    def overlap(m, q):
        rho, clipped = m / np.sqrt(q), np.minimum(q, 80.0)
        assert not np.any(q > 80.0)
        rows = []
        for k in (1, 3, 5):
            alpha = values @ special.eval_hermitenorm(k, x) / math.sqrt(math.factorial(k))
            rows.append(np.interp(clipped, knots, alpha) * rho**k)
        return np.stack(rows)

    deviations, size = importance(net, task, prediction.mean, overlap, (), 1_000_000, 0)
    assert size > 1e4
    assert np.abs(deviations).max() < 5.5, deviations
    assert prediction.mean["residual"][0] < 0.9  # something is learned


@pytest.mark.slow
@pytest.mark.long
def test_relu_learns_an_even_teacher_through_its_constant_part():
    """relu that learns He_1 + He_2 / 2, with degree 0, by importance sampling; 5 comparisons at 5.5 sigma."""
    net = fp.Mlp(width=60, activation="relu", weight_variance=0.5, readout_variance=0.05)
    task = Population(100, 1.0, 0.0, measure=Gaussian(8), target=HermiteTeacher((0, 1, 0.5)))
    prediction = grokking.mean_field(net, task)
    assert prediction.coords["mode"] == (0, 1, 2)

    def overlap(m, q):
        return np.stack([np.sqrt(q / (2 * np.pi)), m / 2, m**2 / np.sqrt(q * np.pi) / 2])

    deviations, size = importance(net, task, prediction.mean, overlap, (), 1_000_000, 1)
    assert size > 1e4
    assert np.abs(deviations).max() < 5.5, deviations
    density = prediction.mean["overlap_histogram"]
    assert float(jnp.max(jnp.abs(density - density[::-1]))) > 1e-2  # no symmetry m -> -m


@pytest.mark.slow
@pytest.mark.long
def test_log_evidence_against_direct_draws_of_networks():
    """ln of E_W [evidence of the population given W, (2.8)] over 2e5 draws of networks, at widths 4 and 8.

    The theory is the first loop, so that the difference falls as 1/width. 5 sigma of the Monte Carlo error: false
    alarms below 1e-6.
    """
    d, sigma_w2 = 3, 0.5

    def gap(N):
        sa2, points = 6.0 / N, N
        net = fp.Mlp(width=N, activation="erf", weight_variance=sigma_w2, readout_variance=sa2)
        task = Population(points, 1.0, 0.0, measure=Gaussian(d), target=HermiteTeacher((0, 1, 0, -0.1)))
        theory = float(grokking.mean_field(net, task, degrees=(5, 7)).log_evidence)
        gamma, eps = sa2 / N, -0.1

        @jax.jit
        def log_evidence(key):
            W = jnp.sqrt(sigma_w2 / d) * jax.random.normal(key, (N, d))
            s = 1 + 2 * jnp.sum(W**2, axis=1)
            G = 2 / jnp.pi * jnp.arcsin(jnp.clip(2 * W @ W.T / jnp.sqrt(jnp.outer(s, s)), -1, 1))
            t = W[:, 0] / jnp.sqrt(s)
            eta = 2 * t / jnp.sqrt(jnp.pi) - 4 * eps * t**3 / jnp.sqrt(jnp.pi)
            B = jnp.eye(N) + gamma * points * G
            quadratic = 0.5 * gamma * points**2 * eta @ jnp.linalg.solve(B, eta)
            return quadratic - jnp.linalg.slogdet(B)[1] / 2

        values = jax.lax.map(log_evidence, jax.random.split(jax.random.key(N), 200_000), batch_size=2000)
        values = np.asarray(values)
        weights = np.exp(values - values.max())
        error = weights.std() / weights.mean() / math.sqrt(len(weights))
        alone = -points / 2 * math.log(2 * math.pi) - points / 2 * (1 + 6 * eps**2)
        return theory - (values.max() + math.log(weights.mean()) + alone), error

    (coarse, coarse_error), (fine, fine_error) = gap(4), gap(8)
    assert coarse_error < 2e-3 and fine_error < 2e-3
    assert abs(coarse) < 0.2
    assert abs(fine - coarse / 2) < 5 * math.hypot(fine_error, coarse_error / 2) + abs(coarse) / 16
