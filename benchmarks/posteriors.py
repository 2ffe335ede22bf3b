"""What the benchmarks of samplers sample, and how much a run tells.

Posteriors of an erf network, 100 points, 20 inputs, single-index tanh teacher, label noise as in the likelihood:

    wide         width 512, noise standard deviation 0.3
    sharp        width 128, noise 0.03
    mean-field   width 128, mean-field scaling, noise 0.3 (hence 0.3/sqrt(128) in the likelihood)
    target-512   width 512, noise 0.1       target-128   width 128, noise 0.1

Three measures, each an effective number of independent draws of f_test:

    f   effective sample size of draws of f (collapsed: conditional mean plus a draw of the conditional Gaussian)
    m   Var f / MCSE(posterior mean)^2, collapsed by Rao-Blackwell
    v   2 (Var f)^2 / MCSE(posterior variance)^2, collapsed by Rao-Blackwell
"""

import math
from functools import partial
from typing import NamedTuple

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

import fieldprob as fp
from fieldprob.infer import driver
from fieldprob.networks.regression import default_kernel_points, regression

POINTS, TEST_POINTS, INPUTS, CHAINS = 100, 50, 20, 4
TRUSTED_ESS = 50
MEASURES = ("f", "m", "v")


class Posterior(NamedTuple):
    width: int
    noise_sd: float
    scaling: str = "standard"

    def net(self):
        return fp.Mlp(width=self.width, scaling=self.scaling)

    def task(self, seed: int):
        net = self.net()
        variance = self.noise_sd**2
        return fp.tasks.single_index_teacher(
            POINTS, INPUTS, "tanh", test=TEST_POINTS, seed=seed,
            noise_variance=variance, label_noise_variance=variance / net.chi,
        )  # fmt: skip


POSTERIORS = {
    "wide": Posterior(512, 0.3),
    "sharp": Posterior(128, 0.03),
    "mean-field": Posterior(128, 0.3, "mean-field"),
    "target-512": Posterior(512, 0.1),
    "target-128": Posterior(128, 0.1),
}

# --- models -----------------------------------------------------------------------------------------------------------


def textbook(width: int, X, y, X_test, noise_sd, scale):
    """The weight-space model of one hidden layer as a textbook writes it; `scale` multiplies the output."""
    W = numpyro.sample("W", dist.Normal(0.0, 1.0).expand([width, X.shape[1]]).to_event(2))
    a = numpyro.sample("a", dist.Normal(0.0, 1.0).expand([width]).to_event(1))

    def f(X):
        return scale * jax.scipy.special.erf(X @ jnp.transpose(W) / np.sqrt(X.shape[1])) @ a

    numpyro.sample("y", dist.Normal(f(X), noise_sd).to_event(1), obs=y)
    numpyro.deterministic("f_test", f(X_test))


def collapsed(net, task):
    """The model that `fp.sample(net, task)` samples."""
    face = driver.choose_face(net, task)
    return partial(regression, net, face=face, precision="auto", kernel_points=default_kernel_points(task))


def collapsed_chains(kernel, task, *, seed, warmup, chains=CHAINS, **options):
    record = ("f_test", "f_test_conditional_variance")
    return common.Chains(kernel, (task,), chains=chains, warmup=warmup, seed=seed, record=record, **options)


def plain_chains(factory, posterior: Posterior, task, *, seed, warmup, chains=CHAINS, **options):
    net = posterior.net()
    noise_sd = float(np.sqrt(net.effective_noise(task)))
    scale = 1 / math.sqrt(posterior.width * net.chi)
    with jax.enable_x64(False):
        data = [jnp.asarray(np.asarray(a), float) for a in (task.X, task.y[:, 0], task.X_test)]
        kernel = factory(partial(textbook, posterior.width))
    return common.Chains(
        kernel, (*data, noise_sd, scale), chains=chains, warmup=warmup, seed=seed, record=("f_test",), batched=False,
        x64=False, **options,
    )  # fmt: skip


# --- what a run tells -------------------------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """information: {measure: equivalent independent draws, (test point,)}; posterior moments with standard errors."""

    information: dict[str, np.ndarray]
    mean: np.ndarray
    mean_error: np.ndarray
    variance: np.ndarray
    variance_error: np.ndarray
    smallest_ess: float  # behind the three measures, median over test points
    rhat: float  # largest


def estimate(sites: dict, seed: int) -> Estimate:
    f = mean = sites["f_test"].reshape(*sites["f_test"].shape[:2], -1)
    conditional = np.zeros_like(mean)
    if "f_test_conditional_variance" in sites:
        conditional = sites["f_test_conditional_variance"].reshape(mean.shape)
        f = mean + np.sqrt(conditional) * np.random.default_rng(seed).standard_normal(mean.shape)
    square = conditional + (mean - mean.mean((0, 1))) ** 2
    variance = square.mean((0, 1))
    ess = {k: effective_sample_size(x) for k, x in (("f", f), ("m", mean), ("v", square))}
    error = {k: np.sqrt(x.var((0, 1)) / ess[k]) for k, x in (("m", mean), ("v", square))}
    information = {"f": ess["f"], "m": variance / error["m"] ** 2, "v": 2 * variance**2 / error["v"] ** 2}
    least = min(float(np.median(x)) for x in ess.values())
    rhat = float(np.max(split_gelman_rubin(f)))
    return Estimate(information, mean.mean((0, 1)), error["m"], variance, error["v"], least, rhat)


def rms_z(a: Estimate, b: Estimate) -> tuple[float, float]:
    """Root-mean-square difference in units of the combined error, of the posterior means and of the variances."""
    mean = (a.mean - b.mean) / np.hypot(a.mean_error, b.mean_error)
    variance = (a.variance - b.variance) / np.hypot(a.variance_error, b.variance_error)
    return float(np.sqrt(np.mean(mean**2))), float(np.sqrt(np.mean(variance**2)))


def score(e: Estimate, gradients: float) -> float:
    """Geometric mean of the three measures, median test point, per gradient."""
    return float(np.exp(np.mean([np.log(np.median(e.information[k])) for k in MEASURES]))) / gradients
