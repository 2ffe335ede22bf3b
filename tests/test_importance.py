"""Importance sampling against exact posteriors, and its arithmetic against the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.integrate import quad
from scipy.special import erf

import fieldprob as fp
from fieldprob import weighted
from fieldprob.infer import Importance

KEY = jax.random.key(7)
RNG = np.random.default_rng(4)
PAIR = fp.Task(np.array([[1.2, -0.3], [0.4, 1.1]]), np.array([0.9, -0.6]), 0.3)


def conjugate(y):
    """z ~ N(0, 1), y ~ N(z, 1/2): the posterior is N(2y/3, 1/3), the evidence N(y; 0, 3/2)."""
    z = numpyro.deterministic("z", numpyro.sample("latent", dist.Normal(0.0, 1.0)))
    numpyro.deterministic("square", jnp.stack([z**2, 1.0 + z]))
    numpyro.sample("y", dist.Normal(z, np.sqrt(0.5)), obs=y)


# --- the arithmetic of weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_weights_of_any_scale(array):
    """The mean, its delta-method error, the effective sample size and the log of the mean, written out."""
    w, x = np.array([1.0, 2.0, 5.0]), np.array([[0.0, 1.0], [2.0, -1.0], [1.0, 4.0]])
    logs = array(np.log(w) + 800.0)
    p = w / w.sum()
    np.testing.assert_allclose(weighted.normalised(logs), p, rtol=1e-12)
    np.testing.assert_allclose(weighted.effective_sample_size(logs), 64 / 30, rtol=1e-12)
    mean = weighted.log_mean_weight(logs)
    np.testing.assert_allclose(mean.value, np.log(8 / 3) + 800, rtol=1e-14)
    np.testing.assert_allclose(mean.error, np.std(w) / (8 / 3) / np.sqrt(3), rtol=1e-12)
    estimate = weighted.weighted_mean(logs, array(x))
    np.testing.assert_allclose(estimate.value, p @ x, rtol=1e-12)
    np.testing.assert_allclose(estimate.error, np.sqrt(p**2 @ (x - p @ x) ** 2), rtol=1e-12)


def test_a_small_effective_sample_size_is_refused():
    weighted.require_effective(np.zeros(200), "take more")
    with pytest.raises(ValueError, match="199 draws have an effective sample size of 199, below 200: take more"):
        weighted.require_effective(np.zeros(199), "take more")
    with pytest.raises(ValueError, match="NaN"):
        weighted.require_effective(np.array([0.0, np.nan]), "")
    with pytest.raises(ValueError, match="none is finite"):
        weighted.require_effective(np.full(300, -np.inf), "")


# --- draws ------------------------------------------------------------------------------------------------------------


def test_moments_and_errors_are_the_formulas_over_the_same_draws():
    """All draws made again and kept: every mean, variance, shift and error, to rounding; batches change nothing."""

    def draw(key):
        z, v = jax.random.normal(key, (2, 3))
        return z[0] - 0.3 * v[1] ** 2, {"x": z, "x_conditional_variance": v**2}

    found, other = (Importance.average(draw, key=KEY, draws=3000, batch=b) for b in (700, 3000))
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(3000))
    log_weight, values = jax.vmap(draw)(keys)
    x, inner = np.asarray(values["x"]), np.asarray(values["x_conditional_variance"])
    u, v = np.exp(log_weight) / np.exp(log_weight).sum(), np.full(3000, 1 / 3000)
    influences = []
    for moments, weights in ((found.posterior, u), (found.prior, v)):
        mean = weights @ x
        spread = (x - mean) ** 2 + inner
        pair = [weights[:, None] * (x - mean), weights[:, None] * (spread - weights @ spread)]
        influences.append((mean, weights @ spread, *pair))
        np.testing.assert_allclose(moments.mean["x"].value, mean, rtol=1e-10)
        np.testing.assert_allclose(moments.variance["x"].value, weights @ spread, rtol=1e-10)
        for estimate, influence in zip((moments.mean["x"], moments.variance["x"]), pair, strict=True):
            np.testing.assert_allclose(estimate.error, np.sqrt(np.sum(influence**2, axis=0)), rtol=1e-9)
    for k, estimate in enumerate((found.shift.mean["x"], found.shift.variance["x"])):
        np.testing.assert_allclose(estimate.value, influences[0][k] - influences[1][k], rtol=1e-9, atol=1e-12)
        difference = influences[0][k + 2] - influences[1][k + 2]
        np.testing.assert_allclose(estimate.error, np.sqrt(np.sum(difference**2, axis=0)), rtol=1e-8)
    np.testing.assert_allclose(other.posterior.mean["x"].value, found.posterior.mean["x"].value, rtol=1e-12)
    np.testing.assert_array_equal(other.particles["x"], found.particles["x"])


def test_a_numpyro_model_with_a_known_posterior():
    """Thresholds of 6 standard errors; the particles are independent draws of the posterior."""
    found = Importance.sample(conjugate, 1.5, key=KEY, draws=40_000, batch=10_000)
    for estimate, exact in (
        (found.posterior.mean["z"], 1.0),
        (found.posterior.variance["z"], 1 / 3),
        (found.prior.mean["z"], 0.0),
        (found.prior.variance["z"], 1.0),
        (found.shift.variance["z"], -2 / 3),
        (found.log_evidence, dist.Normal(0.0, np.sqrt(1.5)).log_prob(1.5)),
    ):
        assert abs(estimate.value - exact) < 6 * estimate.error < 0.1
    exact = fp.Prediction(theory="exact", mean={"z": 1.0}, variance={"z": 1 / 3}, dims={"z": ()})
    wrong = fp.Prediction(theory="prior", mean={"z": 0.0}, dims={"z": ()})
    verdicts = fp.compare(found.to_datatree(), [exact, wrong], false_alarm=1e-5).verdicts
    assert verdicts == {"exact": "agrees", "prior": "differs"}


@pytest.mark.slow
@pytest.mark.long
def test_a_network_against_its_exact_posterior():
    """Two points, erf, mean-field: moments on the collapsed face by 6 standard errors, and through `compare`."""
    net = fp.Mlp(8, 1, "erf", weight_variance=2.0, readout_variance=1.5, scaling="mean-field")
    exact, base = fp.theory.exact_small(net, PAIR, nodes=49), fp.theory.limit(net, PAIR)
    found = Importance.sample(net, PAIR, key=KEY, draws=30_000)
    for name in ("f", "kernel_1", "train_loss"):
        estimate = found.posterior.mean[name]
        assert np.all(np.abs(estimate.value - exact.mean[name]) < 6 * estimate.error), name
    estimate = found.posterior.variance["f"]
    assert np.all(np.abs(estimate.value - exact.variance["f"]) < 6 * estimate.error)
    assert abs(found.log_evidence.value - exact.log_evidence) < 6 * found.log_evidence.error
    exact = fp.Prediction(
        theory="exact",
        mean={name: exact.mean[name] for name in ("f", "kernel_1", "train_loss")},
        variance=exact.variance,
        error={name: exact.error[name] for name in ("f", "kernel_1", "train_loss")},
    )
    tree = found.to_datatree()
    assert fp.compare(tree, [exact, base], false_alarm=1e-5).verdicts == {"exact": "agrees", "limit": "differs"}
    assert tree["posterior_moments"]["kernel_1"].dims == ("point", "point_")
    assert tree["shift"]["f_error"].shape == (2, 1) and tree.attrs["effective_sample_size"] > 200


def test_neurons_of_a_tilted_measure():
    """02 (39)-(40) at one point: E[phi^2] under exp(c phi(h)^2) times the prior of h, against quadrature."""
    c, variance = 1.3, 0.8

    def draw(key):
        phi = jax.scipy.special.erf(np.sqrt(variance) * jax.random.normal(key))
        return c * phi**2, {"phi": phi**2}

    def integral(f):
        return quad(lambda z: f(erf(np.sqrt(variance) * z) ** 2) * np.exp(-(z**2) / 2), -10, 10, limit=200)[0]

    exact = integral(lambda p: p * np.exp(c * p)) / integral(lambda p: np.exp(c * p))
    estimate = Importance.average(draw, key=KEY, draws=20_000).posterior.mean["phi"]
    assert abs(estimate.value - exact) < 6 * estimate.error < 0.05


def test_draws_of_a_shift_have_its_mean_and_its_error():
    """Every kept statistic, arrays too; and far less spread than prior and posterior apart."""

    def draw(key):
        z = jax.random.normal(key, (3,))
        return 0.2 * z[0], {"x": z, "square": jnp.outer(z, z)}

    found = Importance.average(draw, key=KEY, draws=2000, batch=300, keep=("x", "square"))
    for name in ("x", "square"):
        draws, shift = found.shift_draws(name), found.shift.mean[name]
        np.testing.assert_allclose(draws.mean(axis=0), shift.value, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(draws.std(axis=0) / np.sqrt(len(draws)), shift.error, rtol=1e-10)
    assert found.shift_draws("x").std(axis=0)[1] < 0.5 * found.kept["x"].std(axis=0)[1]
    with pytest.raises(ValueError, match=r"'y' was not kept in every draw: .* Kept: \['square', 'x'\]"):
        found.shift_draws("y")
    with pytest.raises(ValueError, match=r"keep holds \['y'\]: the statistics are"):
        Importance.average(draw, key=KEY, draws=2000, keep=("y",))


# --- 01 X7 ------------------------------------------------------------------------------------------------------------


def x7(N, draws, key):
    """erf, d = 3, P = 5: N times the shift of mean and variance at a test point, with errors, and what E8, E9 say."""
    rng = np.random.default_rng(1)
    X, X_test = rng.normal(size=(5, 3)), rng.normal(size=(1, 3))
    task = fp.Task(X, 1.2 * np.sin(X[:, 0]), 0.3, X_test)
    net = fp.Mlp(N, 1, "erf", weight_variance=2.0, readout_variance=1.5)
    theory, base = fp.theory.perturbative(net, task), fp.theory.limit(net, task)
    found = Importance.sample(net, task, key=key, draws=draws, batch=2000)
    rows = []
    for moment in ("mean", "variance"):
        for name in ("f", "f_test"):
            start, estimate = getattr(base, moment)[name], getattr(found.posterior, moment)[name]
            rows.append((N * (estimate.value - start), N * estimate.error, N * (getattr(theory, moment)[name] - start)))
    return [np.concatenate([np.ravel(row[k]) for row in rows]) for k in range(3)], (theory, base, found)


@pytest.mark.slow
@pytest.mark.long
def test_first_order_in_one_over_n_is_what_networks_do():
    """X7, small: errors of 6 sigma (12 numbers) plus 10 / N for the second order."""
    (sampled, error, predicted), (theory, base, found) = x7(100, 10_000, KEY)
    assert np.all(np.abs(sampled - predicted) < 6 * error + 10 / 100 * np.max(np.abs(predicted)))
    # prior and posterior kernels from the same draws: their difference is known far better than either
    shift, expected = found.shift.mean["kernel_1"], theory.mean["kernel_1"] - base.mean["kernel_1"]
    assert np.all(np.abs(shift.value - expected) < 6 * shift.error + 10 / 100 * np.max(np.abs(expected)))
    assert np.all(shift.error < 0.2 * found.posterior.mean["kernel_1"].error)
    assert fp.compare(found.to_datatree(), [base], false_alarm=1e-5).verdicts == {"limit": "differs"}


@pytest.mark.slow
@pytest.mark.long
def test_first_order_at_larger_widths():
    """X7: the same at N = 400 with ten times the draws, where the second order is below the errors."""
    (sampled, error, predicted), _ = x7(400, 100_000, KEY)
    assert np.all(np.abs(sampled - predicted) < 6 * error + 5 / 400 * np.max(np.abs(predicted)))


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_batch_without_any_weight():
    def tail(key):
        z = jax.random.normal(key)
        return jnp.where(z > 2.5, 0.0, -jnp.inf), {"z": z}

    found = Importance.average(tail, key=jax.random.key(0), draws=100_000, batch=50)
    whole = Importance.average(tail, key=jax.random.key(0), draws=100_000, batch=100_000)
    np.testing.assert_allclose(found.posterior.mean["z"].value, whole.posterior.mean["z"].value, rtol=1e-12)


def test_a_posterior_far_from_the_prior_is_refused():
    X = RNG.normal(size=(30, 3))
    task = fp.Task(X, 5 * np.sin(3 * X[:, 0]), 0.01)
    with pytest.raises(ValueError, match=r"effective sample size of .*below 200: take more draws.*fp\.sample"):
        Importance.sample(fp.Mlp(10), task, key=KEY, draws=1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"draws": 0}, "draws is 0: give"), ({"batch": 1.5}, r"batch is 1\.5: give"), ({"face": "none"}, "no face")],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Importance.sample(fp.Mlp(4), PAIR, key=KEY, **options)


def test_other_priors_are_refused():
    with pytest.raises(TypeError, match="prior is a int: give a network"):
        Importance.sample(3, PAIR, key=KEY)
