"""A kernel whose law is known and which compiles in no time: x' = rho x + sqrt(1 - rho^2) noise, stationary N(0, 1).

The autocorrelation time is (1 + rho) / (1 - rho). Its state has a scalar that all chains share (`i`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer.mcmc import MCMCKernel


class State(NamedTuple):
    i: Any
    z: Any
    potential_energy: Any
    rng_key: Any


class Autoregression(MCMCKernel):
    sample_field = "z"

    def __init__(self, model, rho=0.5, size=3):
        self.model, self.rho, self.size, self._sample_fn = model, rho, size, None

    @property
    def default_fields(self):
        return ("z",)

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        def start(key):
            key, first = jax.random.split(key)
            x = jax.random.normal(first, (self.size,))
            return {"x": x}, 0.5 * jnp.sum(x**2), key

        def move(z, key):
            key, now = jax.random.split(key)
            x = self.rho * z["x"] + jnp.sqrt(1 - self.rho**2) * jax.random.normal(now, (self.size,))
            return {"x": x}, 0.5 * jnp.sum(x**2), key

        self._sample_fn = jax.vmap(move)
        return State(0, *jax.vmap(start)(rng_key))

    def sample(self, state, model_args, model_kwargs):
        return State(state.i + 1, *self._sample_fn(state.z, state.rng_key))

    def postprocess_fn(self, model_args, model_kwargs):
        return lambda z: z | {"copy": z["x"], "outer": z["x"][:, None] * z["x"], "constant": jnp.ones(())}


def model(size=3):
    numpyro.sample("x", dist.Normal(0, 1).expand([size]).to_event(1))
