"""The Gaussian surrogate of the fluctuating output covariance, theory 03 (42), on linear networks, whose G is known."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.infer import MCMC, NUTS, init_to_median

import fieldprob as fp
from fieldprob.gp import FluctuatingCovariance, Marginal
from fieldprob.infer import Importance
from fieldprob.statistics import conjugate_kernel

RNG = np.random.default_rng(3)
X = RNG.normal(size=(3, 4))
C = X @ X.T / 4
Y = jnp.array([[1.0], [-1.0], [0.8]])
NOISE = 0.3
KEY = jax.random.key(0)


def linear(width):
    """G of one linear layer: (C_ac C_bd + C_ad C_bc) / N, theory 03 after (31)."""
    return (np.einsum("ac,bd->abcd", C, C) + np.einsum("ad,bc->abcd", C, C)) / width


def surrogate(law):
    z = numpyro.sample("fluctuation", law)
    K = numpyro.deterministic("K", law.covariance(z))
    numpyro.sample("y", Marginal(K, NOISE), obs=Y)


def test_draws_have_the_mean_and_the_covariance():
    """5e4 draws at N = 400, 45 + 6 numbers, 6 standard errors (1e-7); a factor of G gives the same law."""
    law = FluctuatingCovariance(C, linear(400))
    again = FluctuatingCovariance.from_factor(C, law.factor)
    np.testing.assert_allclose(np.einsum("rab,rcd->abcd", law.factor, law.factor), linear(400), atol=1e-12)
    np.testing.assert_array_equal(again.factor, law.factor)
    K = np.asarray(law.covariance(law.sample(KEY, (50_000,))))
    assert np.min(np.linalg.eigvalsh(K)) > -1e-9
    error = K.std(0) / np.sqrt(len(K))
    assert np.max(np.abs(K.mean(0) - C) / error) < 6
    products = np.einsum("nab,ncd->nabcd", K - C, K - C)
    error = products.std(0) / np.sqrt(len(K))
    assert np.max(np.abs(products.mean(0) - linear(400)) / error) < 6


def test_the_posterior_shift_is_fluctuation_times_force_to_first_order():
    """03, (31): N times the shift of the mean covariance tends to N G : force; 5e4 weighted draws, relative distance at
    N = 200 and 1600 by 1/N, the last within 6 standard errors and 1 %."""
    force = np.asarray(conjugate_kernel(C, np.asarray(Y), NOISE))
    distance = []
    for width in (200, 1600):
        law = FluctuatingCovariance(C, linear(width))

        def draw(key, law=law):
            z = law.sample(key)
            K = law.covariance(z)
            return Marginal(K, NOISE).log_prob(Y), {"K": K - C}

        found = Importance.average(draw, key=KEY, draws=50_000, batch=10_000).posterior.mean["K"]
        first = np.einsum("abcd,cd->ab", linear(width), force)
        distance.append((np.abs(found.value - first), found.error, np.max(np.abs(first))))
    difference, error, scale = distance[1]
    assert np.all(difference < 6 * error + 0.01 * scale)
    difference, error, scale = distance[0]
    assert np.all(difference < 6 * error + 0.1 * scale)


@pytest.mark.slow
@pytest.mark.long
def test_a_markov_chain_samples_the_surrogate_under_the_likelihood():
    """NUTS against 1e5 weighted draws at N = 100: six numbers within 6 combined errors."""
    law = FluctuatingCovariance(C, linear(100))
    mcmc = MCMC(
        NUTS(surrogate, init_strategy=init_to_median), num_warmup=300, num_samples=3000, num_chains=2,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(KEY, law)
    K = np.asarray(mcmc.get_samples(group_by_chain=True)["K"])
    samples = fp.infer.datatree.to_datatree({"kernel_1": K}, {}, None, None, {}, {})
    found = Importance.sample(surrogate, law, key=KEY, draws=100_000, batch=10_000).posterior.mean["K"]
    theory = fp.Prediction(theory="weighted draws", mean={"kernel_1": found.value}, error={"kernel_1": found.error})
    table = fp.compare(samples, theory).to_dataframe()
    assert len(table) == 6 and table["z"].abs().max() < 6


def test_widths_at_which_the_covariance_is_indefinite_are_refused():
    fractions = [
        FluctuatingCovariance(C, linear(width), largest_indefinite=0.99).indefinite_fraction()
        for width in (3, 10, 30, 1000)
    ]
    assert fractions[0] > fractions[1] > fractions[2] >= fractions[3] == 0.0
    with pytest.raises(ValueError, match=r"% of the draws .* are indefinite, more than 1.0%.*larger width"):
        FluctuatingCovariance(C, linear(3))
    law = FluctuatingCovariance(C, linear(10), largest_indefinite=0.99)
    z = jax.random.normal(KEY, (2000, 6))
    inside = np.linalg.eigvalsh(law.covariance(z))[:, 0] > 0
    np.testing.assert_array_equal(np.isfinite(law.log_prob(z)), inside)
    assert 0 < inside.mean() < 1
    assert np.min(np.linalg.eigvalsh(law.covariance(law.sample(KEY, (2000,))))) > -1e-9


@pytest.mark.slow
@pytest.mark.long
def test_the_fraction_of_the_small_case_falls_as_in_the_document():
    """03, (42): 22 %, 5.8 %, 0.5 % at N = 10, 20, 40, with the first order of the covariance; here the covariance of
    1e5 draws of the prior, which is larger or smaller by 1/N: within a factor 2 and 1 %."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(3, 4))
    for width, expected in ((10, 0.22), (20, 0.058), (40, 0.005)):
        net = fp.Mlp(width, 2, "erf", (1.0, 1.5), bias_variance=(0.0, 0.05, 0.05), readout_variance=1.3)

        def one(key, net=net):
            with numpyro.handlers.seed(rng_seed=key):
                return net.kernels(X).matrix

        K = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 100_000)))
        d = K - K.mean(0)
        G = np.einsum("nab,ncd->abcd", d, d) / len(K)
        found = FluctuatingCovariance(K.mean(0), G, largest_indefinite=0.99).indefinite_fraction()
        assert expected / 2 - 0.01 < found < 2 * expected + 0.01


def test_what_is_no_law_is_refused():
    G = linear(400)
    with pytest.raises(ValueError, match=r"mean has shape \(3, 3\) and fluctuation \(3, 3, 3\)"):
        FluctuatingCovariance(C, G[0])
    with pytest.raises(ValueError, match="not symmetric in each pair"):
        FluctuatingCovariance(C, G + np.arange(81.0).reshape(3, 3, 3, 3))
    with pytest.raises(ValueError, match="fluctuation is not positive semidefinite"):
        FluctuatingCovariance(C, -G)
    with pytest.raises(ValueError, match="mean is not symmetric"):
        FluctuatingCovariance(C + np.triu(np.ones((3, 3)), 1), G)
    with pytest.raises(ValueError, match="mean has 1 of 9 entries that are NaN"):
        FluctuatingCovariance(np.where(np.eye(3) * [1, 0, 0], np.nan, C), G)
    with pytest.raises(ValueError, match="largest_indefinite is 1.0"):
        FluctuatingCovariance(C, G, largest_indefinite=1.0)
    with pytest.raises(ValueError, match=r"factor \(2, 2\)"):
        FluctuatingCovariance.from_factor(C, np.eye(2))
