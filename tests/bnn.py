"""A small Bayesian network as a joint law of parameters and data, simulated from the very model that is sampled."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, substitute, trace, uncondition

import fieldprob as fp

NOISE = 0.3
_rng = np.random.default_rng(2)
TASK = fp.Task(_rng.normal(size=(5, 2)), np.zeros(5), NOISE, _rng.normal(size=(1, 2)))
NET = fp.Mlp(4, 1, "erf", weight_variance=2.0, bias_variance=0.2)


def model(y, face="weights", noise_variance=NOISE):
    """`fieldprob.regression` with targets y (5, 1); all its latent sites are standard normal and unconstrained."""
    fp.regression(NET, TASK.replace(y=y, noise_variance=noise_variance), face=face, precision="full")


def prior(key, face="weights"):
    """(parameters, data): one draw of the joint law."""
    sites = trace(uncondition(seed(partial(model, face=face), key))).get_trace(TASK.y)
    z = {k: s["value"] for k, s in sites.items() if s["type"] == "sample" and k != "y"}
    return z, sites["y"]["value"]


def data(key, z, face="weights", noise_variance=NOISE):
    """Data given parameters."""
    given = substitute(seed(partial(model, face=face, noise_variance=noise_variance), key), data=z)
    return trace(uncondition(given)).get_trace(TASK.y)["y"]["value"]


def statistics(z, y, face="weights"):
    """Statistics of the model at parameters z and data y: `f`, `f_test`, `kernel_1`, ..., and `log_likelihood`."""
    sites = trace(substitute(partial(model, face=face), data=z)).get_trace(y)
    values = {k: s["value"] for k, s in sites.items() if s["type"] == "deterministic"}
    return values | {"log_likelihood": jnp.sum(sites["y"]["fn"].log_prob(y))}


def batch(draw, key, count, *arguments):
    """`draw(key, *arguments)` for many keys, compiled."""
    return jax.jit(jax.vmap(draw))(jax.random.split(key, count), *arguments)
