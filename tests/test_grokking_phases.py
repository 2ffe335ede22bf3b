"""Phases of grokking in closed form, and modular addition, against grids, quadrature and exact diagonalisation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize

import fieldprob as fp
from fieldprob.theory.grokking import critical_point, modular, phase_diagram, scaling, spinodal
from fieldprob.theory.grokking.modular import ModularAddition
from fieldprob.theory.grokking.wells import action

PAPER = (8 / 150, 0.5, -0.3)  # G, sigma_w², epsilon
NOISE = np.array([0.175, 0.17, 0.16, 0.15, 0.12, 0.10, 0.08, 0.05])
PAPER_DATA = 8 / 700 * 3000 / 150  # A times the noise variance
# G, sigma_w², epsilon; both signs of epsilon
COUPLINGS = np.array([PAPER, (0.2, 0.25, -1.2), (2.0, 0.25, -0.6), (1.0, 0.5, 0.6)])


def grid_action(m, u, b, c, weight_variance):
    s = 1 + 2 * weight_variance + 2 * m**2
    return m**2 / (2 * weight_variance) - 2 * u / np.pi * m**2 * (b / np.sqrt(s) - 2 * c * m**2 / s**1.5) ** 2


def lowest_over_norms(m, u, b, c, weight_variance):
    """min over r of the joint action, prior of r included: r / V - 1 - ln(r / V) over two."""
    log_r = np.linspace(-3.0, 0.5, 200)[:, None] + math.log(weight_variance)

    def joint(log_r):
        r = np.exp(log_r)
        q = 1 + 2 * m**2 + 2 * r
        prior = (m**2 + r) / (2 * weight_variance) - 0.5 - (log_r - math.log(weight_variance)) / 2
        return prior - 2 * u / np.pi * m**2 / q * (b - 2 * c * m**2 / q) ** 2

    start, step = np.take_along_axis(log_r, joint(log_r).argmin(axis=0)[None], axis=0)[0], 1e-3
    for _ in range(6):
        up, here, down = joint(start + step), joint(start), joint(start - step)
        start = start - step / 2 * (up - down) / (up - 2 * here + down)
    return joint(start)


def central(A, G, weight_variance):
    """b of (3.22) by brent."""
    s_0, u = 1 + 2 * weight_variance, A**2 / G

    def defect(b):
        left = 1 - 4 * u * weight_variance * b**2 / (np.pi * s_0)
        return b * (left + 4 * A * weight_variance / (np.pi * s_0)) - left

    return optimize.brentq(defect, 0, min(1, math.sqrt(np.pi * s_0 / (4 * u * weight_variance))), xtol=1e-15)


@pytest.fixture(scope="module")
def critical():
    return {norm: critical_point(*jnp.asarray(COUPLINGS.T), norm=norm) for norm in ("fixed", "free")}


@pytest.fixture(scope="module")
def table(critical):
    """The mixed phase at the paper's parameters, then one point with a metastable well and one without, and three
    about the transition."""
    A = float(critical["fixed"].data[0])
    data = [*PAPER_DATA / np.array([*NOISE, 0.185, 0.3]), *A * (1 + np.array([-1e-5, 1e-5, 2e-5]))]
    return phase_diagram(jnp.asarray(data), *PAPER, norm="fixed")


def test_transition_of_the_paper(critical):
    """04 §3.3: A_c = 1.27894, u_c = 30.669, b = 0.29196, m_* = 0.7214, s_v = 2.979, barrier 0.01042."""
    critical = critical["fixed"]
    found = [x[0] for x in critical]
    np.testing.assert_allclose(found, [1.27894, 30.669, 0.29196, 0.7214, 2.979, 0.01042], rtol=5e-4)
    np.testing.assert_allclose(critical.data[0], 1.27894, atol=5e-6)
    np.testing.assert_allclose(PAPER_DATA / critical.data[0], 0.17872, atol=5e-6)  # sigma_c²


@pytest.mark.parametrize("norm", ["fixed", "free"])
def test_the_transition_is_where_brute_force_minima_reach_zero(critical, norm):
    """The lowest S beyond the barrier over a grid of 6000 m, made zero over A by brent: A_c to 2e-7, u_c to 1e-6.

    With a free norm S is minimised over r at each m too, from 200 starts and by Newton's method.
    """
    critical = critical[norm]
    for i, (G, weight_variance, epsilon) in enumerate(COUPLINGS):
        m = np.linspace(0.01, 2.0, 6000) * float(critical.overlap[i])

        def values(A, m=m, G=G, weight_variance=weight_variance, epsilon=epsilon):
            found = (m, A**2 / G, central(A, G, weight_variance), epsilon, weight_variance)
            return grid_action(*found) if norm == "fixed" else lowest_over_norms(*found)

        def lowest(A, m=m, values=values):
            S = values(A)
            k = 2400 + S[2400:].argmin()
            parabola = np.polyfit(m[k - 2 : k + 3] - m[k], S[k - 2 : k + 3], 2)
            return parabola[2] - parabola[1] ** 2 / (4 * parabola[0])

        found = float(critical.data[i])
        A = optimize.brentq(lowest, 0.995 * found, 1.005 * found, xtol=1e-12)
        np.testing.assert_allclose(found, A, rtol=2e-7)
        np.testing.assert_allclose(critical.u[i], A**2 / G, rtol=1e-6)
        np.testing.assert_allclose(
            critical.overlap[i], m[2400 + values(A)[2400:].argmin()], rtol=5e-4
        )  # the grid's spacing
        np.testing.assert_allclose(critical.linear[i], central(A, G, weight_variance), rtol=1e-6)
        low = m < float(critical.overlap[i])
        np.testing.assert_allclose(critical.barrier[i], values(A)[low].max(), atol=1e-6)


def test_table_of_barriers():
    """04 (3.29); its last row, (2, -1.2), has |m| and barrier .956 and .129, here .955 and .128 (.9552, .1285)."""
    found = critical_point(
        jnp.array([0.2, 0.6, 2, 2]), jnp.full(4, 0.25), jnp.array([-1.2, -1.2, -0.6, -1.2]), norm="fixed"
    )
    np.testing.assert_allclose(found.data, [1.088, 2.063, 7.775, 4.221], atol=6e-4)
    np.testing.assert_allclose(found.u, [5.92, 7.09, 30.2, 8.91], rtol=1e-3)
    np.testing.assert_allclose(found.linear, [0.661, 0.553, 0.258, 0.424], atol=6e-4)
    np.testing.assert_allclose(found.overlap, [0.837, 0.889, 0.908, 0.9552], atol=6e-4)
    np.testing.assert_allclose(found.barrier, [0.069, 0.092, 0.101, 0.1285], atol=6e-4)


def test_side_wells_first_exist_where_a_grid_first_has_a_second_minimum():
    """04 §3.3: u = 26.95, m = 0.531, S = 0.0143; noise variance 0.1907."""
    found = spinodal(*PAPER, norm="fixed")
    np.testing.assert_allclose([found.u, found.overlap, found.action], [26.95, 0.531, 0.0143], rtol=2e-3)
    np.testing.assert_allclose(PAPER_DATA / found.data, 0.1907, atol=5e-5)
    m = np.linspace(0.2, 3, 20_000)
    for factor, expected in ((1 - 1e-4, False), (1 + 1e-4, True)):
        A = float(found.data) * factor
        S = grid_action(m, A**2 / PAPER[0], central(A, PAPER[0], 0.5), -0.3, 0.5)
        assert bool((np.diff(S) < 0).any()) == expected


def test_table_of_the_mixed_phase(table):
    """04 §3.3."""
    n = len(NOISE)
    table = jax.tree.map(lambda x: x[: n + 2], table)
    assert table.mixed.tolist() == [True] * n + [False] * 2
    assert table.metastable.tolist() == [False] * n + [True, False]
    np.testing.assert_allclose(
        table.linear[:n], [0.2846, 0.2746, 0.2545, 0.2343, 0.1726, 0.1304, 0.0874, 0.0210], atol=6e-5
    )
    np.testing.assert_allclose(
        table.cubic, [-0.2976, -0.2943, -0.2878, -0.2811, -0.2604, -0.2455, -0.2293, -0.2003, -0.3, -0.3], atol=6e-5
    )
    np.testing.assert_allclose(
        table.overlap[:n], [0.7305, 0.7430, 0.7694, 0.7977, 0.8968, 0.9794, 1.0826, 1.3097], atol=6e-5
    )
    np.testing.assert_allclose(
        table.droplets, [0.370, 0.827, 1.611, 2.243, 3.414, 3.737, 3.793, 3.490, 0, 0], atol=6e-4
    )
    assert math.isnan(table.overlap[-1]) and table.overlap[-2] < table.overlap[0]


def test_wells_stay_degenerate_and_residuals_solve_their_equations_in_the_mixed_phase(table):
    """T9 and (3.24), written out: S and its slope vanish at the side well, min S = 0."""
    G, weight_variance, epsilon = PAPER
    s_0, A = 1 + 2 * weight_variance, PAPER_DATA / NOISE
    b, c, m, rho, spread = (np.asarray(x)[: len(NOISE)] for x in table[2:])
    u = A**2 / G
    np.testing.assert_allclose(grid_action(m, u, b, c, weight_variance), 0, atol=1e-13)
    slope = jax.vmap(jax.grad(lambda m, u, b, c: action(m, u, b, c, weight_variance, norm="fixed")))(
        *map(jnp.asarray, (m, u, b, c))
    )
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    assert grid_action(np.linspace(0, 4, 4001)[:, None], u, b, c, weight_variance).min() > -1e-12
    np.testing.assert_allclose(spread, weight_variance / (1 - 4 * u * weight_variance * b**2 / (np.pi * s_0)))
    s = s_0 + 2 * m**2
    h = np.stack([2 * m / np.sqrt(np.pi * s), -4 * m**3 / np.sqrt(6 * np.pi) / s**1.5])
    residual = np.stack([b, math.sqrt(6) * c])
    left = residual + A * (np.stack([4 * spread / (np.pi * s_0) * b, 0 * b]) + rho * h * (h * residual).sum(axis=0))
    np.testing.assert_allclose(left[0], 1, atol=1e-12)
    np.testing.assert_allclose(left[1], math.sqrt(6) * epsilon, atol=1e-12)


def test_droplets_appear_continuously(table):
    """T9: droplets grow linearly from zero at A_c while b and c are continuous."""
    assert table.mixed[-3:].tolist() == [False, True, True]
    np.testing.assert_allclose(table.droplets[-1], 2 * table.droplets[-2], rtol=1e-3)
    assert 0 < table.droplets[-2] < 1e-3
    np.testing.assert_allclose(table.linear[-3], table.linear[-2], atol=1e-4)


def test_a_free_norm_lets_neurons_specialise_earlier(critical):
    """In the paper's units noise variance 0.2171 and u_c = 20.78 at its parameters, not 0.1787 and 30.67."""
    np.testing.assert_allclose(PAPER_DATA / critical["free"].data[0], 0.21710, atol=5e-6)
    np.testing.assert_allclose(critical["free"].u[0], 20.784, rtol=1e-5)
    assert bool(jnp.all(critical["free"].data < critical["fixed"].data))
    # one central well in both
    np.testing.assert_allclose(
        critical["free"].linear, [central(A, *c[:2]) for A, c in zip(critical["free"].data, COUPLINGS, strict=True)]
    )


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("norm", ["fixed", "free"])
def test_phases_are_differentiable(norm):
    def observable(A, G, weight_variance, epsilon):
        state = phase_diagram(A, G, weight_variance, epsilon, norm=norm)
        critical = critical_point(G, weight_variance, epsilon, norm=norm)
        return state.linear + state.cubic + state.droplets + critical.u + critical.barrier

    for A in (0.9, 1.6):
        at = np.array([A, *PAPER])
        gradient = jax.grad(observable, argnums=(0, 1, 2, 3))(*at)
        for slope, step in zip(gradient, 1e-6 * np.eye(4), strict=True):
            finite = (observable(*(at + step)) - observable(*(at - step))) / 2e-6
            np.testing.assert_allclose(slope, finite, rtol=1e-5, atol=1e-6)


def test_couplings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="cubic is 0"):
        critical_point(0.1, 0.5, 0.0)
    with pytest.raises(ValueError, match="width is -1"):
        critical_point(-1.0, 0.5, 0.3)
    with pytest.raises(ValueError, match="norm = 'none'"):
        critical_point(1.0, 0.5, 0.3, norm="none")


def test_the_scaling_family_keeps_the_couplings():
    paper = scaling.Cubic(700, 150, 3000, 0.15, 8 / 700)
    for member in (paper.scaled(data=3.0), paper.scaled(size=0.125), paper.scaled(0.5, 0.5)):
        A = member.readout_variance * member.points / (member.noise_variance * member.inputs)
        np.testing.assert_allclose(
            [A, member.width * member.readout_variance / member.inputs], [PAPER_DATA / 0.15, 8 / 150]
        )


# --- modular addition -------------------------------------------------------------------------------------------------

FIRST = (1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


def table_of(P):
    i, j = np.meshgrid(np.arange(P), np.arange(P), indexing="ij")
    return i.ravel(), j.ravel(), (np.arange(P)[:, None] == (i.ravel() + j.ravel()) % P) - 1 / P


def powers(u):
    return np.abs(np.fft.ifft(u, axis=-1)) ** 2  # sum_x u_x exp(+2 pi i k x / P) / P


@pytest.mark.parametrize("P", [7, 11])
def test_the_quartic_identity(P):
    """(3.41), T10."""
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, P))
    i, j, y = table_of(P)
    left = ((y @ (u[i] + v[j]) ** 2) ** 2).sum()
    products = (powers(u) * powers(v))[1:]
    np.testing.assert_allclose(left, 4 * P**3 * products.sum(), rtol=1e-12)
    np.testing.assert_allclose(left, 8 * P**3 * products[: (P - 1) // 2].sum(), rtol=1e-12)
    np.testing.assert_allclose((y**2).sum(), P * (P - 1), rtol=1e-12)


def test_eigenvalues_of_the_gaussian_process():
    """(3.44), T10: exact diagonalisation at P = 7 gives 4, 18 and 228 in units of the readout variance."""
    P = 7
    i, j, y = table_of(P)
    gram = (i[:, None] == i) * 1.0 + (j[:, None] == j)  # x . x', |x|² = 2
    kernel = 2 * 2 + 2 * gram**2  # E[(w.x)² (w.x')²] = |x|²|x'|² + 2 (x.x')²
    values = np.linalg.eigvalsh(kernel)
    np.testing.assert_allclose(values, [4] * 36 + [18] * 12 + [228], atol=1e-10)
    np.testing.assert_allclose(kernel @ y.T, 4 * y.T, atol=1e-10)


def test_eigenvalue_of_specialised_neurons_by_diagonalisation():
    """(3.43): one mode of power Phi, Psi with free phases gives the target modes 4 P² Phi Psi / (P - 1) on average.

    Phases are summed exactly over a grid of 8, on which trigonometric polynomials of degree 4 are exact.
    """
    P, Phi, Psi, k = 7, 1.3, 0.8, 2
    i, j, y = table_of(P)
    kernel, phases = 0.0, 2 * np.pi * np.arange(8) / 8
    for a in phases:
        for b in phases:
            u, v = (2 * np.sqrt(p) * np.cos(2 * np.pi * k * np.arange(P) / P + t) for p, t in ((Phi, a), (Psi, b)))
            phi = (u[i] + v[j]) ** 2
            kernel = kernel + np.outer(phi, phi) / 64
    # y projects on all (k', k'), of which the mode is +-k: a share 2 / (P - 1)
    found = np.einsum("pa,ab,pb->", y, kernel, y) / (y**2).sum()
    np.testing.assert_allclose(found, 4 * P**2 * Phi * Psi * 2 / (P - 1), rtol=1e-12)


@pytest.fixture(scope="module")
def means():
    return [modular.mean_field(ModularAddition.with_phases(31, 50, 0.5, end=0.5, noise=x)).mean for x in FIRST]


def test_table_of_modular_addition(means):
    """04 after (3.53): P = 31, gamma_6 = 1/2, N = 50, f = 1/2."""
    np.testing.assert_allclose(
        [m["residual_amplitude"] for m in means],
        [0.9999, 0.9858, 0.8910, 0.7933, 0.6952, 0.5971, 0.5007, 0.4083],
        atol=6e-5,
    )
    np.testing.assert_allclose(
        [m["specialised_fraction"] for m in means], [0.0, 0.033, 0.242, 0.452, 0.656, 0.852, 0.996, 1.0], atol=6e-4
    )


def test_the_residual_is_self_consistent(means):
    """(3.43) and T12: a = noise / (noise + lambda); in the mixed phase noise + lambda = Sigma up to log P / P."""
    for x, mean in zip(FIRST, means, strict=True):
        task = ModularAddition.with_phases(31, 50, 0.5, end=0.5, noise=x)
        noise = float(task.noise_variance)
        np.testing.assert_allclose(mean["residual_amplitude"], noise / (noise + mean["target_eigenvalue"]), rtol=1e-9)
        if 0.55 < x < 0.95:
            np.testing.assert_allclose(noise + mean["target_eigenvalue"], task.noise_scale, rtol=math.log(31) / 31)
        bins = float(task.side_well) * 3 / 60
        np.testing.assert_allclose(mean["power_histogram"].sum() * bins, 1.0, atol=1e-6)


def test_mean_field_of_modular_addition_against_adaptive_quadrature():
    """04, E8 at P = 7, N = 50: (a, p, E Phi); p above .45 side wells by cubature."""
    P, N, gamma = 7, 50, 1.0
    expected = {1.2: (0.9935, 0.183), 0.9: (0.8659, 0.698), 0.7: (0.6899, 1.2375), 0.4: (0.4103, 1.839)}
    for x, (a, power) in expected.items():
        task = ModularAddition.with_phases(P, N, gamma, end=0.5, noise=x)
        mean = modular.mean_field(task).mean
        np.testing.assert_allclose([mean["residual_amplitude"], mean["mode_power"]], [a, power], atol=6e-4)
        X = float(task.coupling * mean["residual_amplitude"] ** 2)
        well = math.sqrt(3 / gamma)

        def density(phi, psi, X=X):
            return np.exp(-2 * P * ((phi + psi) / 2 - X * phi * psi + gamma / 6 * (phi**3 + psi**3)))

        total, high = (integrate.dblquad(density, low, 8, low, 8, epsabs=1e-9)[0] for low in (0.0, 0.45 * well))
        np.testing.assert_allclose(mean["specialised_fraction"], high / total, rtol=1e-6)
        assert x != 0.9 or abs(high / total - 0.3878) < 1e-4  # 04 has .3825


def test_wells_coexist_where_the_closed_forms_say():
    """(3.46): side well, its depth and the barrier, at coexistence."""
    gamma = 0.5
    X = 2 * math.sqrt(gamma / 3)
    side = modular.side_well(X, 31, gamma)
    np.testing.assert_allclose(side.power, math.sqrt(3 / gamma), rtol=1e-12)
    np.testing.assert_allclose(side.action, 0.0, atol=1e-14)
    phi = np.linspace(0, 3, 601)
    grid = np.asarray(modular.action(phi[:, None], phi[None], X, gamma))
    assert grid.min() > -1e-12
    diagonal = np.asarray(modular.action(phi, phi, X, gamma))
    top = diagonal[phi < math.sqrt(3 / gamma)]
    np.testing.assert_allclose(2 * 31 * top.max(), 8 * 31 / 27 * math.sqrt(3 / gamma), rtol=1e-4)
    np.testing.assert_allclose(phi[top.argmax()], math.sqrt(3 / gamma) / 3, atol=5e-3)


@pytest.mark.parametrize("P", [13, 31, 101])
def test_odds_and_widths_of_the_side_well_against_quadrature(P):
    """(3.51) and (3.52) at coexistence: odds and Gaussian widths, both to O(1/P).

    The odds are overestimated by 1.139, 1.048 and 1.014: 04 has 1.113, 1.045, 1.014.
    """
    gamma = 0.5
    X = 2 * math.sqrt(gamma / 3)
    side = modular.side_well(X, P, gamma)
    x, w = np.polynomial.legendre.leggauss(8)
    ends = np.concatenate([np.linspace(0, 8 / P, 9)[:-1], np.linspace(8 / P, 6, 90)])
    width = np.diff(ends)[:, None]
    phi, weights = (ends[:-1, None] + width * (1 + x) / 2).ravel(), (width * w / 2).ravel()
    density = np.exp(-2 * P * np.asarray(modular.action(phi[:, None], phi[None], X, gamma))) * np.outer(
        weights, weights
    )
    high = (phi > 0.45 * float(side.power)).astype(float)
    inside = density * np.outer(high, high)
    odds = inside.sum() / (density.sum() - inside.sum())
    assert 1.3 < P * (1 - odds / float(side.odds)) < 1.7
    p = inside / inside.sum()
    mean = phi @ p.sum(axis=1)
    variance = (phi - mean) ** 2 @ p.sum(axis=1)
    covariance = (phi - mean) @ p @ (phi - mean)
    found = np.array([variance, covariance]) / np.asarray(side.covariance[0])
    np.testing.assert_allclose(found, 1, atol=12 / P)


def test_scaling_the_regulator_scales_powers():
    """T11: Phi -> Phi / s, sextic -> s² sextic, with lambda, Sigma and so the phase fixed."""
    P, s = 101, 3.0
    for noise in (1.2, 0.8, 0.45):
        task = ModularAddition.with_phases(P, 50, 0.5, end=0.5, noise=noise)
        # lambda_+ = 12 P² readout / sextic and Sigma² = readout P² sqrt 3 / (N sqrt sextic)
        scaled = ModularAddition(P, 150, task.noise_variance, task.readout_variance * s**2, task.sextic * s**2)
        one, two = (modular.large_modulus(t).mean for t in (task, scaled))
        np.testing.assert_allclose(task.noise_scale, scaled.noise_scale, rtol=1e-12)
        np.testing.assert_allclose(scaled.side_well, task.side_well / s, rtol=1e-12)
        np.testing.assert_allclose(one["residual_amplitude"], two["residual_amplitude"], rtol=2e-4)
        np.testing.assert_allclose(one["specialised_fraction"], two["specialised_fraction"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.long
def test_finite_modulus_tends_to_the_phases_at_large_modulus():
    """(3.48)-(3.50): all three phases, the differences falling about as log P / P."""
    gaps = []
    for P in (31, 101):
        pairs = []
        for noise in (1.1, 0.8, 0.6, 0.4):
            task = ModularAddition.with_phases(P, 50, 0.5, end=0.5, noise=noise)
            found, limit = modular.mean_field(task).mean, modular.large_modulus(task).mean
            pairs.append([found[n] - limit[n] for n in ("residual_amplitude", "specialised_fraction")])
        gaps.append(np.abs(np.array(pairs)))
    assert gaps[0].max() < 0.08
    assert np.all(gaps[1] < 0.6 * gaps[0] + 1e-4)


def test_only_the_corrected_family_of_scalings_keeps_the_residual():
    """As P grows; the paper's, without the factor 4 P², does not."""
    task = ModularAddition.with_phases(31, 50, 0.5, end=0.5, noise=0.7)
    start = scaling.Modular(50, 31, task.noise_variance, task.readout_variance)
    member = start.scaled(9.0)
    ours = ModularAddition(93, 450, member.noise_variance, member.readout_variance, 0.5)
    np.testing.assert_allclose(ours.noise_variance / ours.noise_scale, 0.7, rtol=1e-12)
    np.testing.assert_allclose(ours.end / ours.noise_scale, 0.5, rtol=1e-12)
    theirs = ModularAddition(93, 50 * 81, task.noise_variance / 9, task.readout_variance / 9, 0.5)
    np.testing.assert_allclose(theirs.noise_variance / theirs.noise_scale, 0.7, rtol=1e-12)
    assert theirs.end < 0  # the phase with side wells only is lost


def test_modular_addition_out_of_range_is_refused():
    for arguments, message in (
        ({"modulus": 8}, "must be odd"),
        ({"noise_variance": 0.0}, "noise_variance = 0"),
        ({"sextic": -1.0}, "sextic = -1"),
    ):
        with pytest.raises(ValueError, match=message):
            ModularAddition(
                **(
                    {"modulus": 7, "width": 50, "noise_variance": 1.0, "readout_variance": 1.0, "sextic": 1.0}
                    | arguments
                )
            )
    with pytest.raises(ValueError, match="large_modulus"):
        modular.mean_field(ModularAddition(401, 1000, 0.2, 2e-6, 1e-4))


@pytest.mark.slow
@pytest.mark.long
def test_modular_mean_field_is_differentiable():
    def amplitude(noise, readout, sextic):
        mean = modular.mean_field(ModularAddition(7, 50, noise, readout, sextic)).mean
        return mean["residual_amplitude"] + mean["specialised_fraction"]

    task = ModularAddition.with_phases(7, 50, 1.0, end=0.5, noise=0.8)
    at = np.array([float(task.noise_variance), float(task.readout_variance), 1.0])
    gradient = jax.jit(jax.grad(amplitude, argnums=(0, 1, 2)))(*at)
    for slope, step in zip(gradient, 1e-5 * np.diag(at), strict=True):
        finite = (amplitude(*(at + step)) - amplitude(*(at - step))) / (2 * step.sum())
        np.testing.assert_allclose(slope, finite, rtol=1e-6)


def test_trailing_zeros_of_a_teacher_change_nothing():
    def couplings(*further):
        teacher = fp.tasks.HermiteTeacher((0, 1, 0, -1.2, *further))
        task = fp.tasks.Population(70, 1.0, 0.0, measure=fp.tasks.Gaussian(4), target=teacher)
        return fp.theory.grokking.couplings(fp.Mlp(5, activation="erf", readout_variance=0.02), task)

    assert couplings() == couplings(0, 0.0)


@pytest.mark.parametrize(("name", "value"), [("sextic", -1.0), ("end", -0.5), ("end", 1.5), ("noise", 0.0)])
def test_modular_addition_names_the_argument_that_is_out_of_range(name, value):
    options = {"modulus": 7, "width": 50, "sextic": 1.0, name: value}
    with pytest.raises(ValueError, match=name):
        fp.theory.grokking.modular.ModularAddition.with_phases(**options)
