"""Preconditioned Crank–Nicolson: a random walk that leaves a Gaussian prior invariant in any dimension.

    u' = u √(1 − β²) + β ξ,   accepted with probability min(1, exp(Φ(u) − Φ(u'))),   Φ = U − ½|u|²,

with u the position in units of the reference Gaussian (`fieldprob.infer.samplers.reference`); Cotter, Roberts, Stuart &
White 2013, MCMC Methods for Functions. It needs no gradient, and none is computed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.infer import init_to_sample

from fieldprob.infer.samplers.base import (
    Kernel,
    StepSize,
    dot,
    float_dtype,
    metropolis,
    normal_like,
    select,
    start_step_size,
)
from fieldprob.infer.samplers.reference import make_reference


class PCNState(NamedTuple):
    """State of `PreconditionedCrankNicolson`; `fieldprob.infer.samplers.base` says what the fields are.

    adapt_state.step_size is β. There is no gradient; num_steps counts energies.
    """

    i: Any
    z: Any
    potential_energy: Any
    num_steps: Any
    accept_prob: Any
    mean_accept_prob: Any
    diverging: Any
    adapt_state: StepSize
    rng_key: Any


class PreconditionedCrankNicolson(Kernel):
    """pCN for posteriors of a Gaussian prior; exact for any target.

    Args:
        model: a NumPyro model.
        potential_fn: or a potential energy, with a standard normal reference unless given.
        step_size: β, from 0 to 1 (independent draws from the reference), where adaptation starts.
        adapt_step_size: adapt β in warm-up,
        target_accept_prob: to this acceptance; 0.234 is optimal for random walks in high dimension.
        num_steps: proposals between draws; `accept_prob` is their mean.
        reference: (loc, scale) of the Gaussian; unless given, the model's normal priors, see
            `fieldprob.infer.samplers.reference.make_reference`.
        init_strategy: as in NumPyro; chains start from the prior.

    Raises:
        ValueError: an argument is out of range.

    >>> import jax, jax.numpy as jnp
    >>> from numpyro.infer import MCMC
    >>> kernel = PreconditionedCrankNicolson(potential_fn=lambda z: 0.5 * jnp.sum(z**2) + 2 * (z[0] - 1) ** 2)
    >>> mcmc = MCMC(kernel, num_warmup=1000, num_samples=20_000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), init_params=jnp.zeros(1000))
    >>> z = mcmc.get_samples()
    >>> bool(abs(z[:, 0].mean() - 0.8) < 0.05)
    True
    """

    def __init__(
        self,
        model=None,
        potential_fn=None,
        *,
        step_size=0.2,
        adapt_step_size=True,
        target_accept_prob=0.234,
        num_steps=1,
        reference=None,
        init_strategy=init_to_sample,
    ):
        super().__init__(model, potential_fn, init_strategy=init_strategy)
        for name, value, valid, expected in (
            ("step_size", step_size, 0 < step_size <= 1, "a number above 0 and at most 1"),
            ("target_accept_prob", target_accept_prob, 0 < target_accept_prob < 1, "a number between 0 and 1"),
            ("num_steps", num_steps, isinstance(num_steps, int) and num_steps > 0, "a positive integer"),
        ):
            if not valid:
                raise ValueError(f"PreconditionedCrankNicolson: {name} is {value}: give {expected}.")
        self._step_size = step_size
        self._adapt_step_size = adapt_step_size
        self._target_accept_prob = target_accept_prob
        self._steps = num_steps
        self._reference_argument = reference

    def _prepare(self, z, model_args, model_kwargs):
        self._reference = make_reference(self._reference_argument, z, self._model, model_args, model_kwargs)

    def refresh(self, state, model_args=(), model_kwargs=None):
        """The state with the energy recomputed at `state.z` for these arguments of the model (one chain)."""
        return state._replace(potential_energy=self.get_potential_fn(model_args, model_kwargs)(state.z))

    def _start(self, key, z, potential):
        zero = jnp.zeros((), float_dtype(z))
        return PCNState(
            i=0,
            z=z,
            potential_energy=potential(z),
            num_steps=jnp.asarray(self._steps),
            accept_prob=zero,
            mean_accept_prob=zero,
            diverging=jnp.zeros((), bool),
            adapt_state=start_step_size(self._step_size, zero.dtype),
            rng_key=None,
        )

    def _step(self, key, state, potential):
        reference = self._reference
        beta = jnp.minimum(state.adapt_state.step_size, 1.0)

        def propose(carry, key):
            z, energy, total = carry
            key_noise, key_accept = jax.random.split(key)
            u = reference.whiten(z)
            noise = normal_like(key_noise, u)
            u_new = jax.tree.map(lambda a, b: jnp.sqrt(1 - beta**2) * a + beta * b, u, noise)
            z_new = reference.unwhiten(u_new)
            energy_new = potential(z_new)
            norm = 0.5 * jax.tree.reduce(jnp.add, jax.tree.map(lambda a, b: jnp.sum((a - b) * (a + b)), u_new, u))
            accept, probability = metropolis(key_accept, energy - energy_new + norm)
            z, energy = select(accept, (z_new, energy_new), (z, energy))
            return (z, energy, total + probability), None

        start = (state.z, state.potential_energy, jnp.zeros_like(dot(state.z, state.z)))
        (z, energy, total), _ = jax.lax.scan(propose, start, jax.random.split(key, self._steps))
        probability = (total / self._steps).astype(state.accept_prob.dtype)
        adapt_state = state.adapt_state
        if self._adapt_step_size:
            adapt_state = self._adapt(adapt_state, probability, state.i, self._target_accept_prob, 1.0)
        return state._replace(z=z, potential_energy=energy, accept_prob=probability, adapt_state=adapt_state)
