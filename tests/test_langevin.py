"""Overdamped Langevin: the stationary law is that of the discretised algorithm, to all digits that can be resolved.

Exact laws are solved here in NumPy and SciPy, from the recursion itself. Unless a test says otherwise, its false alarms
have probability 1e-6 (`tests.gaussian`), for t-scores of independent chains; all of this file together less than 1e-5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
from blackjax.mcmc import mala

from fieldprob.infer import training
from fieldprob.infer.samplers.langevin import MALA, ULA, LeimkuhlerMatthews
from tests.gaussian import assert_moments, scores, threshold

DIMENSION, STIFF = 20, 5


class Quadratic:
    """U = ½ zᵀ A z in random axes; the last STIFF curvatures are equal, which gives five variances to average."""

    curvatures = np.concatenate([np.geomspace(0.25, 3.0, DIMENSION - STIFF), np.full(STIFF, 4.0)])
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((DIMENSION, DIMENSION)))[0]
    matrix = (axes * curvatures) @ axes.T
    largest = 4.0

    def potential_fn(self, z):
        x = jnp.concatenate([z["a"], z["b"]]) if isinstance(z, dict) else z
        return 0.5 * x @ jnp.asarray(self.matrix) @ x

    def in_axes(self, function):
        """The matrix with the same axes and with these functions of the curvatures as eigenvalues."""
        return (self.axes * function(self.curvatures)) @ self.axes.T


TARGET = Quadratic()


def start(kernel, positions, seed=0):
    """The batched state of chains at given positions (chains, ...)."""
    chains = len(jax.tree.leaves(positions)[0])
    init = jax.jit(lambda keys, z: kernel.init(keys, 0, z))
    return init(jax.random.split(jax.random.key(seed), chains), jax.tree.map(jnp.asarray, positions))


def gaussian(covariance, chains, seed=1):
    draws = np.random.default_rng(seed).standard_normal((chains, len(covariance)))
    return draws @ np.linalg.cholesky(covariance).T


def walk(kernel, state, draws, steps=1, keep=lambda state: state.z):
    """(what is kept of the states after each `steps` transitions, (chains, draws, ...); the last state)."""

    def block(state, _):
        state, _ = jax.lax.scan(lambda s, _: (kernel.sample(s, (), {}), None), state, length=steps)
        return state, keep(state)

    state, kept = jax.jit(lambda state: jax.lax.scan(block, state, length=draws))(state)
    return jax.tree.map(lambda x: np.swapaxes(np.asarray(x), 0, 1), kept), state


def discrete_law(A, step, mobility=None, temperature=1.0):
    """Stationary covariance C = B C Bᵀ + 2ηTM of z' = Bz + √(2ηTM) ξ, B = 1 − ηMA."""
    M = np.diag(np.ones(len(A)) if mobility is None else mobility)
    return scipy.linalg.solve_discrete_lyapunov(np.eye(len(A)) - step * M @ A, 2 * step * temperature * M)


# --- one step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("Kernel", [ULA, LeimkuhlerMatthews])
def test_a_step_on_a_quadratic_is_the_linear_map_of_its_definition(Kernel):
    """With equal noise, z'(z) − z'(0) = (1 − ηMA) z to rounding, and the noise scales as √(ηTM)."""
    mobility = np.linspace(0.5, 2.0, DIMENSION)
    z = np.random.default_rng(0).standard_normal((2, DIMENSION))
    z[1] = 0

    def step(eta, temperature, mobility):
        kernel = Kernel(
            potential_fn=TARGET.potential_fn, step_size=eta, temperature=temperature, mobility=jnp.asarray(mobility)
        )
        state = start(kernel, z)
        same = jax.tree.map(lambda x: jnp.repeat(x[:1], 2, axis=0), (state.rng_key, state.noise))
        return np.asarray(kernel.sample(state._replace(rng_key=same[0], noise=same[1]), (), {}).z)

    moved = step(0.2, 0.7, mobility)
    expected = z[0] - 0.2 * mobility * (TARGET.matrix @ z[0])
    np.testing.assert_allclose(moved[0] - moved[1], expected, rtol=0, atol=1e-13)
    plain = step(1.0, 1.0, np.ones(DIMENSION))
    np.testing.assert_allclose(moved[1], np.sqrt(0.2 * 0.7 * mobility) * plain[1], rtol=1e-12)


def test_mala_accepts_with_the_probability_of_b8():
    """On a quartic potential, with mobility and temperature: log r of theory 01, B8, from the accepted moves."""
    T, mobility, eta = 0.6, np.array([0.5, 1.0, 3.0]), 0.15

    def energy(z):
        return 0.25 * (z**4).sum(-1) + 0.3 * z[..., 0] * z[..., 1]

    def gradient(z):
        return z**3 + 0.3 * np.stack([z[:, 1], z[:, 0], 0 * z[:, 0]], axis=1)

    kernel = MALA(potential_fn=energy, step_size=eta, temperature=T, mobility=jnp.asarray(mobility))
    state = start(kernel, np.random.default_rng(0).normal(scale=1.3, size=(500, 3)))
    new = jax.jit(lambda state: kernel.sample(state, (), {}))(state)
    z, after, probability = (np.asarray(x) for x in (state.z, new.z, new.accept_prob))
    moved = np.any(z != after, axis=1)

    def distance(x):
        return (x**2 / mobility).sum(1)

    back = distance(z - after + eta * mobility * gradient(after))
    forth = distance(after - z + eta * mobility * gradient(z))
    log_r = -(energy(after) - energy(z)) / T - (back - forth) / (4 * eta * T)
    np.testing.assert_allclose(probability[moved], np.exp(np.minimum(log_r, 0))[moved], rtol=1e-10)
    assert moved.sum() > 250 and (probability[moved] < 0.99).sum() > 60
    # a rejected move leaves everything as it was
    for field in ("z", "z_grad", "potential_energy"):
        assert np.array_equal(np.asarray(getattr(new, field))[~moved], np.asarray(getattr(state, field))[~moved])
    # and they are as many as they should be: a sum of independent Bernoulli variables, 5 standard deviations (6e-7)
    assert abs(moved.sum() - probability.sum()) < 5 * np.sqrt((probability * (1 - probability)).sum())


# --- the stationary law -----------------------------------------------------------------------------------------------

CHAINS, STEPS = 4096, 400


@pytest.fixture(scope="module")
def stationary():
    """ULA and Leimkuhler–Matthews at η = 1/λ_max, each started in the law it should have: positions at four times, and
    each chain's average of the squares in the five stiff directions, in units of 1/λ_max."""
    eta = 1 / TARGET.largest
    result = {}
    for Kernel in (ULA, LeimkuhlerMatthews):
        kernel = Kernel(potential_fn=TARGET.potential_fn, step_size=eta)
        if Kernel is ULA:
            state = start(kernel, gaussian(TARGET.in_axes(lambda a: 1 / (a * (1 - eta * a / 2))), CHAINS))
        else:  # z and the noise that is used again are correlated: z = √(η/2) ξ + an independent rest
            state = start(kernel, np.zeros((CHAINS, DIMENSION)))
            rest = gaussian(TARGET.in_axes(lambda a: 1 / a - eta / 2), CHAINS)
            z = np.sqrt(eta / 2) * np.asarray(state.noise) + rest
            state = jax.vmap(kernel.refresh)(state._replace(z=jnp.asarray(z)))
        stiff = jnp.asarray(TARGET.axes[:, -STIFF:])

        def step(carry, _, kernel=kernel, stiff=stiff):
            state, total = carry
            state = kernel.sample(state, (), {})
            return (state, total + jnp.mean((state.z @ stiff) ** 2, axis=1)), None

        def run(state, step=step):
            times, total = [state.z], jnp.zeros(CHAINS)
            for length in (1, 2, STEPS - 3):
                (state, total), _ = jax.lax.scan(step, (state, total), length=length)
                times.append(state.z)
            return jnp.stack(times, 1), total / STEPS

        z, squares = jax.jit(run)(state)
        result[Kernel] = np.asarray(z), np.asarray(squares) * TARGET.largest
    return result


@pytest.mark.slow
@pytest.mark.parametrize(("Kernel", "inflation"), [(ULA, 2.0), (LeimkuhlerMatthews, 1.0)])
def test_variance_in_the_stiff_directions_is_that_of_b5_and_b7_to_three_digits(stationary, Kernel, inflation):
    """At ηλ = 1 ULA's variance is 1/(1 − ½) = 2 times the exact one, and Leimkuhler–Matthews' is exact."""
    squares = stationary[Kernel][1]
    error = squares.std(ddof=1) / np.sqrt(CHAINS)
    assert error / inflation < 7e-4  # what three digits need
    assert abs(squares.mean() - inflation) < 5 * error  # probability 6e-7


@pytest.mark.optimised
def test_stationary_covariance_of_ula_is_that_of_b5_and_of_leimkuhler_matthews_exact(stationary):
    eta = 1 / TARGET.largest
    biased = TARGET.in_axes(lambda a: 1 / (a * (1 - eta * a / 2)))
    np.testing.assert_allclose(biased, discrete_law(TARGET.matrix, eta), rtol=1e-10)
    exact = np.linalg.inv(TARGET.matrix)
    for Kernel, covariance, other in ((ULA, biased, exact), (LeimkuhlerMatthews, exact, biased)):
        last = stationary[Kernel][0][:, -1]
        assert_moments(last, np.zeros(DIMENSION), covariance, 3e-7)
        t = scores(last, np.zeros(DIMENSION), other)  # and each law excludes the other
        assert np.max(np.abs(t)) > 3 * threshold(len(t), CHAINS)


@pytest.mark.optimised
def test_autocorrelation_decays_as_one_minus_step_times_curvature(stationary):
    """⟨z_n z_0ᵀ⟩ = (1 − ηA)ⁿ C for ULA; the noise that Leimkuhler–Matthews uses twice makes it
    (1 − ηA)ⁿ⁻¹ (1 − ηA/2) / A."""
    eta = 1 / TARGET.largest
    a = TARGET.curvatures
    r = 1 - eta * a
    for Kernel in (ULA, LeimkuhlerMatthews):
        x = stationary[Kernel][0] @ TARGET.axes
        for column, n in ((1, 1), (2, 3)):
            product = x[:, column, :, None] * x[:, 0, None, :]
            expected = r**n / (a * (1 - eta * a / 2)) if Kernel is ULA else r ** (n - 1) * (1 - eta * a / 2) / a
            t = (product.mean(0) - np.diag(expected)) / (product.std(0, ddof=1) / np.sqrt(CHAINS))
            assert np.max(np.abs(t)) < threshold(t.size, CHAINS, 3e-7), (Kernel, n)


def test_variance_after_n_steps_is_that_of_b6():
    """s₀ r²ⁿ + (1 − r²ⁿ)/(a(1 − ηa/2)), from N(0, s₀), for n = 1, 2, 5 and 20 steps."""
    eta, s0, chains = 0.4 / TARGET.largest, 3.0, 8192
    kernel = ULA(potential_fn=TARGET.potential_fn, step_size=eta)
    draws, _ = walk(kernel, start(kernel, gaussian(s0 * np.eye(DIMENSION), chains)), 20)
    for n in (1, 2, 5, 20):

        def law(a, n=n):
            r = (1 - eta * a) ** (2 * n)
            return s0 * r + (1 - r) / (a * (1 - eta * a / 2))

        assert_moments(draws[:, n - 1], np.zeros(DIMENSION), TARGET.in_axes(law), 2e-7)


SITES = {"a": 8, "b": 12}


@pytest.fixture(scope="module")
def everything():
    """Each kernel with its own mobility and weight decay at each site, a temperature and three steps a draw: (draws,
    covariance that they should have, the exact one)."""
    rng = np.random.default_rng(3)
    mobility = {"a": 0.7, "b": jnp.asarray(rng.uniform(0.3, 1.5, 12))}
    decay = {"a": 0.4, "b": 0.0}
    T, M = 0.7, np.concatenate([np.full(8, 0.7), mobility["b"]])
    A = TARGET.matrix + np.diag(np.concatenate([np.full(8, 0.4), np.zeros(12)]))
    eta = 1.2 / np.max(np.linalg.eigvalsh(np.sqrt(M)[:, None] * A * np.sqrt(M)))
    exact = T * np.linalg.inv(A)
    options = {"temperature": T, "mobility": mobility, "weight_decay": decay, "potential_fn": TARGET.potential_fn}
    kernels = {
        "ULA": (ULA(step_size=eta, num_steps=3, **options), discrete_law(A, eta, M, T)),
        "LeimkuhlerMatthews": (LeimkuhlerMatthews(step_size=eta, num_steps=3, **options), exact),
        "MALA": (MALA(step_size=eta / 2, num_steps=3, **options), exact),
    }
    result = {}
    for name, (kernel, covariance) in kernels.items():
        z = gaussian(1.5**2 * np.diag(np.diag(covariance)), 768)  # not in the target
        state = start(kernel, {"a": z[:, :8], "b": z[:, 8:]})
        draws, _ = walk(kernel, state, 8, 10, keep=lambda state: (state.z, state.accept_prob))
        draws = jax.tree.map(lambda x: x[:, 4:], draws)  # 120 steps of burn-in
        result[name] = np.concatenate([draws[0]["a"], draws[0]["b"]], -1), covariance, exact, draws[1]
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ULA", "LeimkuhlerMatthews", "MALA"])
def test_mobility_weight_decay_and_temperature_give_the_law_of_the_lyapunov_equation(everything, name):
    draws, covariance, exact, accept_prob = everything[name]
    assert_moments(draws, np.zeros(DIMENSION), covariance)
    if name == "ULA":  # which differs from the exact one, by what is resolved
        assert np.max(np.abs(scores(draws, np.zeros(DIMENSION), exact))) > 20
    if name == "MALA":
        assert 0.3 < accept_prob.mean() < 0.9  # rejections matter
    else:
        assert np.all(accept_prob == 1)


def log_cosh(z):
    """A convex potential that is not quadratic and whose curvature, at most 2, leaves ULA stable."""
    return 2 * jnp.logaddexp(z, -z)


def relative_error_of_the_variance(kernel, temperature, chains=8192, draws=10):
    """(estimate − exact)/exact and its standard error, for `log_cosh` at a temperature; exact by quadrature."""

    def moment(n):
        return scipy.integrate.quad(lambda z: z**n * np.cosh(z) ** (-2 / temperature), -20, 20)[0]

    exact = moment(2) / moment(0)
    z, _ = walk(kernel, start(kernel, np.zeros(chains)), draws + 3, 10)
    square = (z[:, 3:] ** 2).mean(1)
    return square.mean() / exact - 1, square.std(ddof=1) / np.sqrt(chains) / exact


@pytest.mark.slow
def test_only_mala_is_exact_where_the_potential_is_not_quadratic():
    T, bias = 0.5, {}
    for Kernel in (ULA, LeimkuhlerMatthews, MALA):
        bias[Kernel], error = relative_error_of_the_variance(
            Kernel(potential_fn=log_cosh, step_size=0.4, temperature=T), T
        )
        if Kernel is not LeimkuhlerMatthews:
            assert (abs(bias[Kernel]) < 5 * error) == (Kernel is MALA), (Kernel, bias[Kernel] / error)
    assert abs(bias[LeimkuhlerMatthews]) < 0.3 * abs(bias[ULA])


# --- posterior of a linear model (theory 01, X3) ----------------------------------------------------------------------


class LinearModel:
    """y = Xw/√D + noise, D = 30 weights with prior variance s², P = 5 points; trained as in the papers, with loss
    ½Σ(y − f)², weight decay T/s² and temperature T = noise variance."""

    def __init__(self, weights=30, points=5, prior_variance=1.7, noise=0.05):
        rng = np.random.default_rng(5)
        self.features = rng.standard_normal((points, weights)) / np.sqrt(weights)
        self.y = rng.standard_normal(points)
        self.temperature = training.temperature(noise)
        self.weight_decay = training.weight_decay(prior_variance, self.temperature)
        K = prior_variance * self.features @ self.features.T
        gain = K @ np.linalg.inv(K + noise * np.eye(points))
        self.posterior_mean, self.posterior_covariance = gain @ self.y, K - gain @ K
        # curvatures of loss + weight decay along the data, with their axes in the space of f_train
        k, self.axes = np.linalg.eigh(self.features @ self.features.T)
        self.curvatures = self.weight_decay + k
        self.exact = self.temperature * k / self.curvatures
        np.testing.assert_allclose((self.axes * self.exact) @ self.axes.T, self.posterior_covariance, atol=1e-12)

    def loss(self, w):
        return 0.5 * jnp.sum((jnp.asarray(self.y) - jnp.asarray(self.features) @ w) ** 2)


LINEAR = LinearModel()
LARGEST = LINEAR.curvatures.max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fraction", "Kernels"), [(1.0, (ULA, LeimkuhlerMatthews)), (0.5, (ULA, MALA)), (0.25, (ULA,))]
)
def test_ula_inflates_the_train_variance_of_a_gp_posterior_and_the_others_do_not(fraction, Kernels):
    """Var f_train in each mode is that of the GP posterior times 1/(1 − ηλ/2) (B5); the mean is unbiased."""
    eta, chains = fraction / LARGEST, 1024
    options = {
        "potential_fn": LINEAR.loss,
        "step_size": eta,
        "temperature": LINEAR.temperature,
        "weight_decay": LINEAR.weight_decay,
    }
    # Weights that the data do not see take 1/(η × weight decay) steps, but f_train does not depend on them.
    burn_in = int(np.ceil(9 / (eta * LINEAR.curvatures.min())))
    inflated = (LINEAR.axes * (LINEAR.exact / (1 - eta * LINEAR.curvatures / 2))) @ LINEAR.axes.T
    w = np.sqrt(1.7) * np.random.default_rng(0).standard_normal((chains, 30))
    for kernel in (Kernel(**options) for Kernel in Kernels):
        f, _ = walk(kernel, start(kernel, w), 20, burn_in // 4, keep=lambda state: state.z @ LINEAR.features.T)
        f = f[:, 4:]
        law = inflated if type(kernel) is ULA else LINEAR.posterior_covariance
        assert_moments(f, LINEAR.posterior_mean, law, 1e-7)
        if type(kernel) is ULA:
            t = scores(f, LINEAR.posterior_mean, LINEAR.posterior_covariance)
            assert np.max(t) > threshold(len(t), chains, 1e-7)  # the inflation is resolved


# --- what is caught ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("defect", ["accepts always", "no reverse proposal"])
def test_a_broken_acceptance_rule_of_mala_shows_in_the_variance(monkeypatch, defect):
    if defect == "accepts always":
        monkeypatch.setattr(
            mala.proposal, "static_binomial_sampling", lambda key, p, old, new: (new, (True, jnp.ones(()), None))
        )
    else:
        monkeypatch.setattr(
            mala.proposal,
            "compute_asymmetric_acceptance_ratio",
            lambda energy: lambda old, new, step_size: new.logdensity - old.logdensity,
        )
    bias, error = relative_error_of_the_variance(MALA(potential_fn=log_cosh, step_size=0.4, temperature=0.5), 0.5)
    assert abs(bias) > 10 * error


def test_a_step_that_is_too_large_is_reported_as_a_divergence():
    for Kernel in (ULA, LeimkuhlerMatthews):
        kernel = Kernel(potential_fn=lambda z: 0.25 * jnp.sum(z**4), step_size=1.0)
        diverging, state = walk(kernel, start(kernel, np.full((2, 3), 4.0)), 30, keep=lambda state: state.diverging)
        assert np.all(diverging[:, -1]) and not np.any(diverging[:, 0])
        assert not np.any(np.isfinite(state.potential_energy))
