"""Hilbert-space HMC: Hamiltonian dynamics whose drift rotates the Gaussian prior exactly.

With U(z) = ½|u|² + Φ(z) (`fieldprob.infer.samplers.reference`), a step of size ε kicks with Φ alone and rotates,

    p ← p − (ε/2)∇Φ(u),    (u, p) ← (u cos ε + p sin ε, p cos ε − u sin ε),    p ← p − (ε/2)∇Φ(u).

The error of the energy comes from Φ only, so that it does not grow with the number of weights that the data leave as
the prior made them, where that of leapfrog does (Beskos, Pinski, Sanz-Serna & Stuart 2011, Hybrid Monte Carlo on
Hilbert spaces). One radian decorrelates nearly: trajectories longer than π/2 turn back.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.infer import init_to_sample

from fieldprob.infer.samplers.base import (
    DIVERGENCE,
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


class HilbertHMCState(NamedTuple):
    """State of `HilbertHMC`; `fieldprob.infer.samplers.base` says what the fields are.

    energy is U plus the kinetic energy at the end of the last trajectory; trajectory_length its length in radians.
    """

    i: Any
    z: Any
    z_grad: Any
    potential_energy: Any
    energy: Any
    trajectory_length: Any
    num_steps: Any
    accept_prob: Any
    mean_accept_prob: Any
    diverging: Any
    adapt_state: StepSize
    rng_key: Any


class HilbertHMC(Kernel):
    """HMC for posteriors that are close to a Gaussian prior of many dimensions; exact for any target.

    Args:
        model: a NumPyro model.
        potential_fn: or a potential energy, with a standard normal reference unless given.
        step_size: ε in radians, where adaptation starts.
        trajectory_length: in radians. The number of steps is this over ε, rounded, at least 2 and at most `max_steps`.
        jitter: each trajectory multiplies ε by a uniform number from 1 − jitter to 1 + jitter.
        adapt_step_size: adapt ε in warm-up, each chain its own,
        target_accept_prob: to this acceptance.
        max_steps: bound on the steps of a trajectory.
        reference: (loc, scale) of the Gaussian; unless given, the model's normal priors, see
            `fieldprob.infer.samplers.reference.make_reference`.
        init_strategy: as in NumPyro; chains start from the prior.

    Raises:
        ValueError: an argument is out of range.

    >>> import jax, jax.numpy as jnp
    >>> from numpyro.infer import MCMC
    >>> kernel = HilbertHMC(potential_fn=lambda z: 0.5 * jnp.sum(z**2) + 2 * (z[0] - 1) ** 2)
    >>> mcmc = MCMC(kernel, num_warmup=200, num_samples=2000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), init_params=jnp.zeros(1000))
    >>> z = mcmc.get_samples()  # z[0] has mean 4/5 and variance 1/5, all others are standard normal
    >>> bool(abs(z[:, 0].mean() - 0.8) < 0.05), bool(abs(z[:, 1:].var() - 1) < 0.01)
    (True, True)
    """

    def __init__(
        self,
        model=None,
        potential_fn=None,
        *,
        step_size=0.3,
        trajectory_length=1.1,
        jitter=0.2,
        adapt_step_size=True,
        target_accept_prob=0.7,
        max_steps=256,
        reference=None,
        init_strategy=init_to_sample,
    ):
        super().__init__(model, potential_fn, init_strategy=init_strategy)
        for name, value, valid, expected in (
            ("step_size", step_size, step_size > 0, "a positive number"),
            ("trajectory_length", trajectory_length, trajectory_length > 0, "a positive number of radians"),
            ("jitter", jitter, 0 <= jitter < 1, "a number from 0 to below 1"),
            ("target_accept_prob", target_accept_prob, 0 < target_accept_prob < 1, "a number between 0 and 1"),
            ("max_steps", max_steps, max_steps >= 2, "an integer of at least 2"),
        ):
            if not valid:
                raise ValueError(f"HilbertHMC: {name} is {value}: give {expected}.")
        self._step_size = step_size
        self._trajectory_length = trajectory_length
        self._jitter = jitter
        self._adapt_step_size = adapt_step_size
        self._target_accept_prob = target_accept_prob
        self._max_steps = max_steps
        self._reference_argument = reference

    def _prepare(self, z, model_args, model_kwargs):
        self._reference = make_reference(self._reference_argument, z, self._model, model_args, model_kwargs)

    def _start(self, key, z, potential):
        energy, grad = jax.value_and_grad(potential)(z)
        zero = jnp.zeros((), float_dtype(z))
        return HilbertHMCState(
            i=0,
            z=z,
            z_grad=grad,
            potential_energy=energy,
            energy=energy,
            trajectory_length=zero,
            num_steps=jnp.zeros((), int),
            accept_prob=zero,
            mean_accept_prob=zero,
            diverging=jnp.zeros((), bool),
            adapt_state=start_step_size(self._step_size, zero.dtype),
            rng_key=None,
        )

    def _step(self, key, state, potential):
        key_momentum, key_jitter, key_accept = jax.random.split(key, 3)
        reference, dtype = self._reference, float_dtype(state.z)
        # Two steps of more than half the trajectory would be longer than it.
        largest = 0.5 * self._trajectory_length
        step = jnp.minimum(state.adapt_state.step_size, largest)
        count = jnp.clip(jnp.round(self._trajectory_length / step), 2, self._max_steps).astype(int)
        jitter = jax.random.uniform(key_jitter, (), dtype, 1 - self._jitter, 1 + self._jitter)
        step = (step * jitter).astype(dtype)

        value_and_grad = jax.value_and_grad(potential)
        u = reference.whiten(state.z)
        p = normal_like(key_momentum, u)
        kinetic = 0.5 * dot(p, p)
        cos, sin = jnp.cos(step), jnp.sin(step)

        def force(u, grad):
            return jax.tree.map(lambda g, s, x: s * g - x, grad, reference.scale, u)  # ∇Φ in u

        def kick(p, force, size):
            """Half a kick, and the change of ½|p|²: summed up, it avoids the difference of two large energies."""
            change = -size * dot(force, p) + 0.5 * size**2 * dot(force, force)
            return jax.tree.map(lambda a, b: a - size * b, p, force), change

        def body(_, carry):
            u, p, grad, _, change = carry
            p, first = kick(p, force(u, grad), 0.5 * step)
            u, p = (
                jax.tree.map(lambda a, b: cos * a + sin * b, u, p),
                jax.tree.map(lambda a, b: cos * b - sin * a, u, p),
            )
            energy, grad = value_and_grad(reference.unwhiten(u))
            p, second = kick(p, force(u, grad), 0.5 * step)
            return u, p, grad, energy, change + first + second

        start = (u, p, state.z_grad, state.potential_energy, jnp.zeros_like(kinetic))
        u_new, p_new, grad, energy, change = jax.lax.fori_loop(0, count, body, start)
        # The rotation conserves ½|u|² + ½|p|², the kicks change ½|p|² by `change`: what is left is Φ.
        norm = 0.5 * jax.tree.reduce(jnp.add, jax.tree.map(lambda a, b: jnp.sum((a - b) * (a + b)), u_new, u))
        error = energy - state.potential_energy - norm + change
        error = jnp.where(jnp.isnan(error), jnp.inf, error)
        accept, probability = metropolis(key_accept, -error)
        adapt_state = state.adapt_state
        if self._adapt_step_size:
            adapt_state = self._adapt(
                adapt_state, probability.astype(dtype), state.i, self._target_accept_prob, largest
            )
        proposal = {"z": reference.unwhiten(u_new), "z_grad": grad, "potential_energy": energy}
        current = {name: getattr(state, name) for name in proposal}
        chosen = select(accept, proposal, current)
        end_kinetic = jnp.where(accept, 0.5 * dot(p_new, p_new), kinetic)
        return state._replace(
            **chosen,
            energy=(chosen["potential_energy"] + end_kinetic).astype(state.energy.dtype),
            trajectory_length=(count * step).astype(dtype),
            num_steps=count,
            accept_prob=probability.astype(dtype),
            diverging=error > DIVERGENCE,
            adapt_state=adapt_state,
        )
