"""Replica exchange: the law at every temperature, barriers that no single chain crosses, the ladder, the interface.

Chains are independent, so that errors come from their scatter and scores are Student's t (see `tests.gaussian`).
"""

import pickle
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.contrib.control_flow import scan
from numpyro.infer import AIES, HMC, MCMC, NUTS, BarkerMH
from numpyro.infer.util import potential_energy

import fieldprob as fp
from fieldprob.infer.samplers import ladder
from fieldprob.infer.samplers.hilbert import HilbertHMC
from fieldprob.infer.samplers.langevin import MALA
from fieldprob.infer.samplers.tempered import BETA, TemperedModel
from fieldprob.infer.samplers.tempering import ReplicaExchange
from tests.gaussian import FALSE_ALARM, scores, threshold


def run(kernel, *, chains, warmup, draws, start=None, seed=0, collect=lambda state: state.z, args=()):
    """Draws (chain, draw, ...) of one compiled scan, and the last state."""
    state = kernel.init(jax.random.split(jax.random.key(seed), chains), warmup, start, args, {})

    def transition(state, _):
        state = kernel.sample(state, args, {})
        return state, collect(state)

    state, kept = jax.jit(lambda state: jax.lax.scan(transition, state, length=warmup + draws))(state)
    return jax.tree.map(lambda x: np.swapaxes(np.asarray(x[warmup:]), 0, 1), kept), state


def t_scores(samples, expected) -> np.ndarray:
    """Of means over chains (axis 0) against numbers."""
    samples = np.asarray(samples, float)
    return (samples.mean(0) - expected) / (samples.std(0, ddof=1) / np.sqrt(len(samples)))


def worst(scores, chains) -> float:
    """Largest |t| in units of the threshold; above 1 with probability below 1e-6 if all is right."""
    scores = np.ravel(scores)
    scores = np.where(np.isfinite(scores), scores, np.inf)
    return float(np.max(np.abs(scores)) / threshold(scores.size, chains, FALSE_ALARM))


# --- the law at every temperature -------------------------------------------------------------------------------------

DESIGN = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -1.5]])
PRIOR_COVARIANCE = np.array([[1.0, 0.6, 0.0], [0.6, 1.0, 0.3], [0.0, 0.3, 2.0]])
PRIOR_MEAN = np.array([0.5, 0.0, -1.0])
DATA = np.array([1.0, -1.0])
NOISE = 0.3  # variance


def linear_gaussian():
    z = numpyro.sample("z", dist.MultivariateNormal(jnp.asarray(PRIOR_MEAN), jnp.asarray(PRIOR_COVARIANCE)))
    numpyro.sample("y", dist.Normal(DESIGN @ z, NOISE**0.5), obs=jnp.asarray(DATA))


def slot_law(tempering, beta):
    """Mean and covariance of linear_gaussian at inverse temperature β."""
    prior, data = (1.0, beta) if tempering == "likelihood" else (beta, beta)
    precision = prior * np.linalg.inv(PRIOR_COVARIANCE) + data * DESIGN.T @ DESIGN / NOISE
    shift = prior * np.linalg.solve(PRIOR_COVARIANCE, PRIOR_MEAN) + data * DESIGN.T @ DATA / NOISE
    covariance = np.linalg.inv(precision)
    return covariance @ shift, covariance


CHAINS = 64


class Slots(NamedTuple):
    z: np.ndarray  # (chain, draw, slot, dimension)
    energies: np.ndarray
    state: Any


def linear_gaussian_potential(z):
    prior, residual = z - PRIOR_MEAN, DATA - DESIGN @ z
    return 0.5 * prior @ np.linalg.inv(PRIOR_COVARIANCE) @ prior + 0.5 * residual @ residual / NOISE


def run_slots(kernel, temperatures, draws=2000, **options):
    kernel = ReplicaExchange(kernel, temperatures, **({"adapt_ladder": False} | options))
    # far from the target: an exchange that does nothing is caught as well
    start = np.broadcast_to(PRIOR_MEAN + 2, (CHAINS, 3)) if kernel.model is None else None

    def collect(state):
        z = state.inner.z
        return (z if kernel.model is None else z["z"]), state.energies

    (z, energies), state = run(kernel, chains=CHAINS, warmup=200, draws=draws, start=start, collect=collect)
    return Slots(z, energies, state)


def run_potential():
    # a loss of twice the energy at temperature 2 has the same law
    kernel = MALA(potential_fn=lambda z: 2 * linear_gaussian_potential(z), temperature=2.0)
    return run_slots(kernel, [1, 1.5, 3, 5], draws=4000, tempering="potential")


def law_scores(slots: Slots, tempering):
    betas = np.asarray(slots.state.inverse_temperatures[0])
    laws = [slot_law(tempering, beta) for beta in betas]
    return np.stack([scores(slots.z[:, :, k], *law) for k, law in enumerate(laws)])


@pytest.fixture(scope="module")
def likelihood_slots():
    return run_slots(HMC(linear_gaussian, num_steps=3, trajectory_length=None), [1, 2, 8, np.inf])


@pytest.mark.slow
def test_every_slot_has_the_gaussian_law_of_its_temperature_where_the_likelihood_is_tempered(likelihood_slots):
    assert worst(law_scores(likelihood_slots, "likelihood"), CHAINS) < 1
    assert np.all(np.asarray(likelihood_slots.state.swap_accept_prob) > 0.2)


@pytest.mark.slow
def test_every_slot_has_the_gaussian_law_of_its_temperature_where_the_potential_is_tempered():
    assert worst(law_scores(run_potential(), "potential"), CHAINS) < 1


def _flipped(betas, energies, exact=ladder.swap_log_ratio):
    return -exact(betas, energies)


def _always(betas, energies):
    return jnp.zeros(len(energies) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["sign flipped", "always accepted", "not refreshed"])
def test_a_broken_exchange_is_caught_by_the_law_of_the_slots(monkeypatch, broken):
    if broken == "not refreshed":
        monkeypatch.setattr(MALA, "refresh", lambda self, state, *args: state)
    else:
        monkeypatch.setattr(ladder, "swap_log_ratio", _flipped if broken == "sign flipped" else _always)
    assert worst(law_scores(run_potential(), "potential"), CHAINS) > 3


def test_the_evidence_of_a_linear_model_is_its_closed_form(likelihood_slots):
    covariance = DESIGN @ PRIOR_COVARIANCE @ DESIGN.T + NOISE * np.eye(2)
    exact = scipy.stats.multivariate_normal(DESIGN @ PRIOR_MEAN, covariance).logpdf(DATA)
    slots = likelihood_slots
    estimates = np.asarray(ladder.log_evidence(slots.energies, slots.state.inverse_temperatures))
    assert estimates.std(ddof=1) / np.sqrt(CHAINS) < 0.01
    assert worst(t_scores(estimates, exact), CHAINS) < 1
    # the energies are those of the likelihood: of the normalised one, at the prior
    mean, prior = slots.energies.mean((1,))[:, -1], slot_law("likelihood", 0.0)[1]
    residual = DATA - DESIGN @ PRIOR_MEAN
    expected = np.log(2 * np.pi * NOISE) + (residual @ residual + np.trace(DESIGN @ prior @ DESIGN.T)) / (2 * NOISE)
    assert worst(t_scores(mean, expected), CHAINS) < 1


def scale_of_noise(y):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    shift = numpyro.sample("shift", dist.LogNormal(0.0, 0.5))
    numpyro.sample("y", dist.Normal(shift, scale), obs=y)


@pytest.mark.slow
@pytest.mark.long
def test_likelihood_tempering_leaves_prior_and_jacobian_of_constrained_sites_also_where_the_hottest_is_drawn():
    """Mean and mean square of log scale and log shift, by quadrature on a grid of the two logarithms."""
    y = np.array([0.3, 2.0, 1.2, -0.5])
    kernel = ReplicaExchange(MALA(scale_of_noise), [1, 4, np.inf], adapt_ladder=False, prior_draws=True)
    z, state = run(kernel, chains=64, warmup=300, draws=2000, args=(y,), collect=lambda state: state.inner.z)
    u, v = np.meshgrid(np.linspace(-9, 4, 651), np.linspace(-5, 5, 201), indexing="ij")
    prior = scipy.stats.halfnorm(scale=2).logpdf(np.exp(u)) + u + scipy.stats.norm(0, 0.5).logpdf(v)
    likelihood = scipy.stats.norm(np.exp(v)[..., None], np.exp(u)[..., None]).logpdf(y).sum(-1)
    samples = np.stack([z["scale"], z["shift"], z["scale"] ** 2, z["shift"] ** 2], -1).mean(1)
    for k, beta in enumerate(np.asarray(state.inverse_temperatures[0])):
        weight = np.exp(prior + beta * likelihood - np.max(prior + beta * likelihood))
        moments = [np.sum(weight * f) / weight.sum() for f in (u, v, u**2, v**2)]
        assert worst(t_scores(samples[:, k], moments), 64) < 1
    # the prior slot is new at every second draw at the latest
    hottest = z["shift"][:, :, -1]
    assert abs(np.corrcoef(hottest[:, 2:].ravel(), hottest[:, :-2].ravel())[0, 1]) < 0.03


# --- barriers ---------------------------------------------------------------------------------------------------------

HEIGHT, TILT = 16.0, 0.43  # in kT


def double_well():
    """Wells at z_0 = ±1 with a wall between them; the other coordinates do not matter."""
    z = numpyro.sample("z", dist.Normal(jnp.array([TILT, 0, 0]), 1).to_event(1))
    numpyro.sample("y", dist.Normal(z[0] ** 2, (2 * HEIGHT) ** -0.5), obs=1.0)


def double_well_potential(z):
    return 0.5 * (z[0] - TILT) ** 2 + HEIGHT * (z[0] ** 2 - 1) ** 2 + 0.5 * jnp.sum(z[1:] ** 2)


def well_weight_and_barrier():
    """Weight of the well at 1, and the wall as seen from the higher well, by quadrature on a line."""
    x = np.linspace(-3, 3, 200_001)
    energy = 0.5 * (x - TILT) ** 2 + HEIGHT * (x**2 - 1) ** 2
    weight = np.exp(-energy)
    wall = energy[np.abs(x) < 0.5].max()
    return weight[x > 0].sum() / weight.sum(), wall - energy[x < 0].min()


def test_the_double_well_has_a_barrier_of_15_kT_and_weights_of_3_to_7():
    weight, barrier = well_weight_and_barrier()
    assert barrier > 15 and weight == pytest.approx(0.7, abs=0.01)


BARRIERS = {
    "NUTS, likelihood": (NUTS(double_well, max_tree_depth=3), {"temperatures": 6}),
    "MALA, potential": (
        MALA(potential_fn=double_well_potential, num_steps=5),
        {"temperatures": 7, "tempering": "potential", "top_temperature": 20.0},
    ),
}


@pytest.mark.parametrize("name", [pytest.param("NUTS, likelihood", marks=pytest.mark.slow), "MALA, potential"])
def test_replica_exchange_finds_the_weights_of_two_wells_where_single_chains_never_cross(name):
    """Chains start in the wells at -1 and 1 by halves.

    A single chain crosses at the rate of transition-state theory, at most exp(−15)/2π = 5e-8 per unit of time where the
    well has unit frequency; times π, the longest useful trajectory of NUTS: 1.5e-7 a draw, 3e-3 in the 20 000 draws.
    MALA: Kramers' rate √(U''(-1) |U''(0)|)/2π exp(−15) = 4e-6 times a step of about 0.01, five steps a draw: 4e-3.
    (Before the step size has adapted, a leapfrog step of NUTS may leap from well to well: warm-up does not count.)
    """
    kernel, options = BARRIERS[name]
    chains, warmup, draws = 16, 300, 1000
    start = np.zeros((chains, 3)) + np.where(np.arange(chains) % 2, 1.0, -1.0)[:, None] * [1, 0, 0]
    start = jnp.asarray(start) if kernel.model is None else {"z": jnp.asarray(start)}

    def first(state):
        return (state.z if kernel.model is None else state.z["z"])[:, 0]

    single, _ = run(kernel, chains=chains, warmup=warmup, draws=draws, start=start, collect=first)
    assert np.array_equal(single > 0, np.broadcast_to(single[:, :1] > 0, single.shape))

    exchange = ReplicaExchange(kernel, **options)
    z, state = run(exchange, chains=chains, warmup=warmup, draws=draws, start=start, collect=first)
    weights = (z > 0).mean(1)
    assert weights.std(ddof=1) / np.sqrt(chains) < 0.02
    assert worst(t_scores(weights, well_weight_and_barrier()[0]), chains) < 1
    assert np.all(np.asarray(state.round_trips) > 20)


# --- the ladder -------------------------------------------------------------------------------------------------------


class Independent(MALA):
    """Draws from N(0, 1/β): what the theory of Syed et al. assumes, exploration that forgets."""

    def sample(self, state, model_args, model_kwargs):
        z = jax.random.normal(state.rng_key, state.z.shape) / jnp.sqrt(model_kwargs[BETA])
        return self.refresh(state._replace(z=z, i=state.i + 1), model_args, model_kwargs)


@pytest.mark.slow
@pytest.mark.long
def test_the_adapted_ladder_rejects_equally_and_makes_the_round_trips_of_the_theory():
    chains, warmup, draws = 32, 4096, 4096
    kernel = ReplicaExchange(
        Independent(potential_fn=lambda z: 0.5 * jnp.sum(z**2)), [1, 1.2, 1.5, 2, 10, 15, 18, 20], tempering="potential"
    )
    start = np.zeros((chains, 20))
    _, state = run(kernel, chains=chains, warmup=warmup, draws=draws, start=start, collect=lambda s: s.i)
    rejection = 1 - np.asarray(state.swap_accept_prob)
    assert np.all(np.asarray(state.swap_attempts) >= draws // 2 - 1)
    assert worst(t_scores(rejection - rejection.mean(1, keepdims=True), 0.0), chains) < 1
    assert np.abs(rejection - rejection.mean(1, keepdims=True)).max() < 0.05
    # equal rejection for a Gaussian is a geometric ladder
    ratios = np.diff(np.log(np.asarray(state.inverse_temperatures)), axis=1)
    assert np.allclose(ratios.mean(0), -np.log(20) / 7, rtol=0.02)
    theory = 1 / (2 + 2 * np.sum(rejection / (1 - rejection), axis=1))
    trips = np.asarray(state.round_trips)
    assert trips.sum() > 2500
    assert worst(t_scores(trips / draws / theory, 1.0), chains) < 1


def test_a_ladder_of_measured_rejections_is_cut_into_equal_parts_between_fixed_ends():
    betas = jnp.array([1.0, 0.5, 0.1, 0.0])
    new = ladder.equalise(betas, jnp.array([0.3, 0.3, 0.3]))
    assert np.allclose(new, betas, atol=1e-12)
    new = ladder.equalise(betas, jnp.array([0.9, 0.1, 0.0]))
    assert new[0] == 1 and new[-1] == 0 and np.all(np.diff(new) < 0) and new[1] > 0.5
    assert np.all(np.diff(ladder.equalise(betas, jnp.zeros(3))) < 0)


# --- models -----------------------------------------------------------------------------------------------------------


def walk(y):
    rate = numpyro.sample("rate", dist.HalfNormal(1.0))

    def step(x, _):
        x = numpyro.sample("x", dist.LogNormal(jnp.log(x), rate))
        return x, x

    _, xs = scan(step, 1.0, jnp.arange(3))
    with (
        numpyro.plate("data", 3),
        numpyro.handlers.scale(scale=2.0),
        numpyro.handlers.mask(mask=jnp.array([True, False, True])),
    ):
        numpyro.sample("y", dist.Normal(xs, 0.5), obs=y)
    with numpyro.handlers.scope(prefix="group"):
        inside = numpyro.sample("inside", dist.Gamma(2.0, 1.0))
        numpyro.factor("more", -inside)


@pytest.mark.parametrize("tempering", ["likelihood", "potential"])
def test_beta_multiplies_what_is_observed_or_everything_whatever_surrounds_the_sites(tempering):
    """In scans, plates, masks, scopes: U_β = A + β L, A being the potential of the same model without data."""
    y = np.array([1.0, 2.0, 0.5])
    z = {"rate": 0.3, "x": jnp.array([0.1, -0.4, 0.8]), "group/inside": -0.7}
    tempered = TemperedModel(walk, frozenset({"y", "group/more"}) if tempering == "likelihood" else None)
    full = float(potential_energy(walk, (y,), {}, z))
    xs, inside = np.exp(np.asarray(z["x"])), np.exp(z["group/inside"])
    likelihood = -2 * (scipy.stats.norm(xs, 0.5).logpdf(y) * [1, 0, 1]).sum() + inside
    base, part = (full - likelihood, likelihood) if tempering == "likelihood" else (0.0, full)
    for beta in (1.0, 0.3, 0.0):
        energy = float(potential_energy(tempered, (y,), {BETA: beta}, z))
        assert energy == pytest.approx(base + beta * part, rel=1e-12)
    assert float(potential_energy(tempered, (y,), {}, z)) == pytest.approx(full, rel=1e-12)


# --- the interface ----------------------------------------------------------------------------------------------------


def two_sites(y=1.0):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([2]).to_event(1))
    b = numpyro.sample("b", dist.HalfNormal(1.0))
    numpyro.deterministic("sum", a.sum() + b)
    numpyro.sample("y", dist.Normal(a[0] * b, 0.5), obs=y)


def test_mcmc_collects_the_fields_of_its_state_and_goes_on_where_it_stopped():
    kernel = ReplicaExchange(MALA(two_sites), 3, swap_every=2)
    mcmc = MCMC(kernel, num_warmup=40, num_samples=20, progress_bar=False)
    fields = ("potential_energy", "num_steps", "accept_prob", "adapt_state.step_size", "energies", "round_trips")
    mcmc.run(jax.random.key(0), 1.5, extra_fields=fields)
    samples, extra = mcmc.get_samples(), mcmc.get_extra_fields()
    assert np.allclose(samples["sum"], samples["a"].sum(-1) + samples["b"]) and np.all(samples["b"] > 0)
    assert extra["energies"].shape == (20, 3)
    assert extra["num_steps"].tolist() == [3, 6] * 10  # three replicas, and three for an exchange
    # energies and potential energies are those of the cold slot's position, whoever came there
    last = mcmc.last_state
    assert last.potential_energy == pytest.approx(potential_energy(two_sites, (1.5,), {}, last.z))
    b = np.exp(last.z["b"])
    assert last.energies[0] == pytest.approx(-scipy.stats.norm(last.z["a"][0] * b, 0.5).logpdf(1.5))
    mcmc.post_warmup_state = last
    mcmc.run(jax.random.key(5), 1.5)
    assert mcmc.last_state.i == last.i + 20
    text = kernel.get_diagnostics_str(last)
    assert "round trips" in text and "swaps accepted" in text


@pytest.mark.slow
def test_a_batch_of_chains_makes_the_draws_of_each_alone_and_a_pickled_kernel_the_same_again():
    kernel = ReplicaExchange(MALA(two_sites), 3)
    keys = jax.random.split(jax.random.key(1), 2)
    start = kernel.init(keys, 20, None, (), {})
    loaded = pickle.loads(pickle.dumps(kernel))
    alone = loaded.init(keys[1], 20, None, (), {})

    def go(kernel):
        return jax.jit(lambda s: jax.lax.scan(lambda s, _: (kernel.sample(s, (), {}), None), s, length=30)[0])

    advance = go(kernel)
    batch, alone = advance(start), go(loaded)(alone)
    assert np.allclose(batch.z["a"][1], alone.z["a"], rtol=1e-9)
    assert np.array_equal(batch.replica_index[1], alone.replica_index)
    assert np.allclose(batch.inverse_temperatures[1], alone.inverse_temperatures)
    # MCMC goes on with another key by replacing that of the state: then all replicas move otherwise
    other = advance(start._replace(rng_key=jax.random.split(jax.random.key(2), 2)))
    assert not np.any(np.isclose(other.inner.z["a"], batch.inner.z["a"]))


def test_the_driver_samples_by_replica_exchange_around_the_kernels_of_the_package():
    options = {"draws": 40, "chains": 2, "warmup": 40, "seed": 0, "progress": False}
    tree = fp.sample(two_sites, kernel=lambda model: ReplicaExchange(HilbertHMC(model), 3), **options)
    assert tree.posterior["a"].shape[:2] == (2, 40) and tree.posterior["sum"].dims[:2] == ("chain", "draw")
    assert {"lp", "step_size", "n_steps", "acceptance_rate"} <= set(tree.sample_stats)


def test_it_works_in_float32_on_a_pytree_with_prior_and_likelihood_potentials():
    def prior(z):
        return 0.5 * z[0] ** 2 + 0.5 * jnp.sum(z[1] ** 2)

    kernel = ReplicaExchange(
        MALA(potential_fn=lambda z: prior(z) + jnp.sum((z[0] - z[1]) ** 2)),
        [1, 3, np.inf],
        prior_potential_fn=prior,
    )
    with jax.enable_x64(False):
        state = kernel.init(jax.random.key(0), 10, (jnp.zeros(()), jnp.zeros(2)), (), {})
        state = jax.jit(lambda s: jax.lax.scan(lambda s, _: (kernel.sample(s, (), {}), None), s, length=5)[0])(state)
    assert state.z[1].dtype == jnp.float32 and state.inverse_temperatures.dtype == jnp.float32
    assert state.energies[0] == pytest.approx(float(jnp.sum((state.z[0] - state.z[1]) ** 2)), rel=1e-5)


def test_the_kernel_may_be_wrapped_and_refreshed_by_another():
    kernel = ReplicaExchange(MALA(two_sites), [1, 5])
    with pytest.raises(RuntimeError, match="run `init` first"):
        kernel.get_potential_fn()
    wrapped = kernel.wrap_model(partial(_conditioned, data={"b": jnp.asarray(2.0)}))
    state = wrapped.init(jax.random.key(0), 0, None, (), {"y": 1.0})
    assert set(state.z) == {"a"}
    state = wrapped.refresh(state, (), {"y": 3.0})
    assert state.energies[0] == pytest.approx(
        -dist.Normal(2 * state.z["a"][0], 0.5).log_prob(3.0) - dist.HalfNormal(1.0).log_prob(2.0)
    )
    assert state.potential_energy == pytest.approx(float(wrapped.get_potential_fn((), {"y": 3.0})(state.z)))


def _conditioned(model, data):
    return numpyro.handlers.condition(model, data)


def _prior_only():
    numpyro.sample("a", dist.Normal(0, 1))


def _discrete():
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(k, 1), obs=0.0)


def _improper():
    a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(a, 1), obs=0.0)


KEY, POTENTIAL = jax.random.key(0), {"tempering": "potential"}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ReplicaExchange(MALA(two_sites), [1]), "at least two, increasing"),
        (lambda: ReplicaExchange(MALA(two_sites), [2, 4]), "the first of them 1"),
        (lambda: ReplicaExchange(MALA(two_sites), [1, 4, 3]), "increasing"),
        (lambda: ReplicaExchange(MALA(two_sites), [1, np.nan]), "increasing"),
        (lambda: ReplicaExchange(MALA(two_sites), 1), "at least 2 replicas"),
        (lambda: ReplicaExchange(MALA(two_sites), 4, tempering="potential"), "top_temperature"),
        (lambda: ReplicaExchange(MALA(two_sites), 4, top_temperature=0.5), "increasing"),
        (lambda: ReplicaExchange(MALA(two_sites), [1, 2], top_temperature=4), "only with a number"),
        (lambda: ReplicaExchange(MALA(two_sites), [1, np.inf], tempering="potential"), "infinity"),
        (lambda: ReplicaExchange(MALA(two_sites), [1, 2], tempering="all"), "'likelihood' or 'potential'"),
        (lambda: ReplicaExchange(MALA(two_sites), [1, 2], swap_every=0), "swap_every is 0"),
        (lambda: ReplicaExchange(MALA(two_sites), [1, 2], prior_draws=True), "prior_draws"),
        (lambda: ReplicaExchange(MALA(potential_fn=jnp.sum), [1, 2]), "prior_potential_fn"),
        (lambda: ReplicaExchange(MALA(two_sites), [1, 2], prior_potential_fn=jnp.sum), "omit it"),
        (lambda: ReplicaExchange(BarkerMH(two_sites), [1, 2]), "BarkerMH, which lacks"),
        (lambda: ReplicaExchange(AIES(two_sites), [1, 2]), "AIES, whose chains depend"),
        (lambda: ReplicaExchange(NUTS, [1, 2]), "kernel instance"),
        (lambda: ReplicaExchange(NUTS(two_sites, find_heuristic_step_size=True), [1, 2]), "find_heuristic_step_size"),
        (lambda: ReplicaExchange(ReplicaExchange(MALA(two_sites), 2), 2), "one ladder"),
        (lambda: ReplicaExchange(MALA(_prior_only), 2).init(KEY, 0), "no observed site"),
        (lambda: ReplicaExchange(MALA(_discrete), 2).init(KEY, 0), "discrete"),
        (lambda: ReplicaExchange(MALA(_improper), 2).init(KEY, 0), "improper"),
        (
            lambda: ReplicaExchange(MALA(potential_fn=jnp.sum), [1, 2], tempering="potential").init(
                jax.random.key(0), 0
            ),
            "init_params",
        ),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_draws_from_a_prior_whose_density_is_scaled_are_refused():
    def scaled():
        with numpyro.handlers.scale(scale=4.0):
            z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=1.0)

    kernel = ReplicaExchange(MALA(scaled), [1, 2.0, np.inf], prior_draws=True)
    state = kernel.init(jax.random.key(0), 10)
    with pytest.raises(ValueError, match=r"density of \['z'\] is scaled"):
        kernel.sample(state, (), {})
