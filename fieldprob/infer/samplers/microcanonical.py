"""Microcanonical Langevin: motion at constant speed whose direction is bent by the gradient, BlackJAX's, tuned online.

With a unit vector u for momentum, d dimensions and a diagonal inverse mass σ²,

    dz = σu dt,    du = −(1 − uuᵀ) σ∇U/(d − 1) dt    (+ noise that turns u round over a length L)

leaves exp(−U) invariant as dt → 0 (Robnik, De Luca, Silverstein & Seljak 2023, Microcanonical Hamiltonian Monte Carlo).
A step of size ε (McLachlan's integrator, two gradients) changes the energy by ΔE. Var(ΔE) is proportional to d ε⁶ for
small ε, and to a higher power of ε, about 8, where curvatures differ and the stiffest are near the stability limit.

`MCLMC` accepts each step. Its ε is tuned to a given Var(ΔE)/d; its bias is of order ε², hence as the cube root of that.
`AdjustedMCLMC` makes trajectories of mean length L, accepted with probability min(1, e^(−ΔE)), the u of each drawn
afresh: exact (Robnik, Cohn-Gordon & Seljak 2025, Metropolis adjusted microcanonical Hamiltonian Monte Carlo).

Both tune within warm-up, transition by transition, each chain its own; all that the tuning knows is in `adapt_state`.
The step size adapts throughout. Over three windows (from 10 to 20, to 40 and to 80 % of warm-up) the mean and variance
of every coordinate are accumulated; at the end of each, σ² becomes these variances (if preconditioned) and L a given
multiple of the radius √(Σ variance/σ²). BlackJAX does so once, and then refines L by an autocorrelation time, for which
it must store the draws.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc.adjusted_mclmc import adjusted_mclmc_proposal
from blackjax.mcmc.adjusted_mclmc_dynamic import trajectory_length
from blackjax.mcmc.integrators import IntegratorState, isokinetic_mclachlan, with_isokinetic_maruyama
from blackjax.util import generate_unit_vector
from jax.flatten_util import ravel_pytree

from fieldprob.infer.samplers.base import DIVERGENCE, Kernel, StepSize, float_dtype, select, start_step_size
from fieldprob.infer.samplers.microcanonical_tuning import (
    MicrocanonicalAdaptState,
    Moments,
    accumulate,
    end_window,
    first_prediction,
    predict_step_size,
)


class MicrocanonicalState(NamedTuple):
    """State of the microcanonical kernels; `fieldprob.infer.samplers.base` says what the fields are.

    momentum is a unit vector, energy_change the ΔE of the last step, whose variance over draws, divided by the
    dimension, measures the bias (both None for `AdjustedMCLMC`). diverging says that, since the last draw, a step was
    undone as its energy was not finite (`MCLMC`), or that the energy of the last trajectory rose hopelessly.
    """

    i: Any
    z: Any
    z_grad: Any
    potential_energy: Any
    momentum: Any
    energy_change: Any
    num_steps: Any
    accept_prob: Any
    mean_accept_prob: Any
    diverging: Any
    adapt_state: MicrocanonicalAdaptState
    rng_key: Any


class _Microcanonical(Kernel):
    def __init__(self, model, potential_fn, step_size, L, L_factor, adapt, diagonal_preconditioning, **kwargs):
        super().__init__(model, potential_fn, **kwargs)
        for name, value in (("step_size", step_size), ("L", L), ("L_factor", L_factor)):
            if value is not None and not float(value) > 0:
                raise ValueError(f"{type(self).__name__}: {name} is {value}: give a positive number, or None.")
        self._step_size = step_size
        self._L = L
        self._L_factor = L_factor
        self._adapt_all = adapt
        self._diagonal = diagonal_preconditioning

    def _prepare(self, z, model_args, model_kwargs):
        size = sum(x.size for x in jax.tree.leaves(z))
        if size < 2:
            raise ValueError(
                f"{type(self).__name__}: the position has dimension {size}; to turn at constant speed needs at least 2."
                " Take another kernel, for example HMC."
            )

    def _start(self, key, z, potential):
        energy, grad = jax.value_and_grad(potential)(z)
        flat, dtype = ravel_pytree(z)[0], float_dtype(z)
        zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
        radius = jnp.sqrt(jnp.asarray(flat.size, dtype))
        step = 0.25 * radius if self._step_size is None else jnp.asarray(self._step_size, dtype)
        adapt_state = MicrocanonicalAdaptState(
            step_size=step,
            L=radius if self._L is None else jnp.asarray(self._L, dtype),
            inverse_mass_matrix=jnp.ones_like(flat, dtype),
            moments=Moments(zero, jnp.zeros_like(flat, dtype), jnp.zeros_like(flat, dtype)),
            averaging=self._first_averaging(step),
        )
        return MicrocanonicalState(
            i=0,
            z=z,
            z_grad=grad,
            potential_energy=energy,
            momentum=self._first_momentum(key, z),
            energy_change=self._first_energy_change(energy),
            num_steps=jnp.zeros((), int),
            accept_prob=one,
            mean_accept_prob=one,
            diverging=~jnp.isfinite(energy),
            adapt_state=adapt_state,
            rng_key=None,
        )

    def _first_momentum(self, key, z):
        return None

    def _first_energy_change(self, energy):
        return None

    def _first_averaging(self, step_size) -> tuple:
        raise NotImplementedError

    def _end_window(self, adapt, i):
        return end_window(adapt, i, self._num_warmup, self._L_factor, self._diagonal, self._first_averaging)


class MCLMC(_Microcanonical):
    """Microcanonical Langevin, unadjusted; biased by as much as `desired_energy_var` allows.

    Args:
        model: a NumPyro model, U = −log joint density in unconstrained space; at least two dimensions.
        potential_fn: or U itself.
        desired_energy_var: Var(ΔE)/d to which ε is tuned; the bias is as its cube root, or shrinks more slowly (see the
            module). At 5e-4, variances of a Gaussian with curvatures from 1 to 30 come out 2 % too small on average,
            and 5 % in the stiffest direction.
        step_size: ε, where tuning starts; unless given, √d/4.
        L: the length over which the momentum is forgotten, where tuning starts; unless given, √d.
        L_factor: what L is tuned to, in units of the radius of the posterior (see the module).
        adapt: tune ε, L and the inverse mass in warm-up; otherwise step_size and L stay.
        diagonal_preconditioning: σ² from the variances of the coordinates, otherwise 1.
        num_steps: steps between draws, of two gradients each.
        init_strategy: as in NumPyro.

    Raises:
        ValueError: an argument is out of range; fewer than two dimensions.

    >>> import jax, jax.numpy as jnp
    >>> from numpyro.infer import MCMC
    >>> kernel = MCLMC(potential_fn=lambda z: 0.5 * jnp.sum((z / jnp.arange(1, 11)) ** 2))
    >>> mcmc = MCMC(kernel, num_warmup=500, num_samples=2000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), init_params=jnp.zeros(10))
    >>> variance = mcmc.get_samples().var(0) / jnp.arange(1, 11) ** 2
    >>> bool(jnp.all(abs(variance - 1) < 0.3))
    True
    """

    def __init__(
        self, model=None, potential_fn=None, *, desired_energy_var=5e-4, step_size=None, L=None, L_factor=1.0,
        adapt=True, diagonal_preconditioning=True, num_steps=5, **kwargs,
    ):  # fmt: skip
        super().__init__(model, potential_fn, step_size, L, L_factor, adapt, diagonal_preconditioning, **kwargs)
        if not float(desired_energy_var) > 0:
            raise ValueError(f"MCLMC: desired_energy_var is {desired_energy_var}: give a positive number.")
        if not (isinstance(num_steps, int) and num_steps > 0):
            raise ValueError(f"MCLMC: num_steps is {num_steps}: give a positive integer.")
        self._desired_energy_var = desired_energy_var
        self._steps = num_steps

    def _first_momentum(self, key, z):
        return generate_unit_vector(key, z)

    def _first_energy_change(self, energy):
        return jnp.zeros_like(energy)

    def _first_averaging(self, step_size):
        return first_prediction(step_size)

    def _step(self, key, state, potential):
        warming = (state.i < self._num_warmup) & self._adapt_all

        def log_density(z):
            return -potential(z)

        def body(carry, key):
            new: Any
            point, adapt, failed, _ = carry
            # BlackJAX's own kernel draws two more momenta, in case that the step is undone; here it turns round.
            move = with_isokinetic_maruyama(isokinetic_mclachlan(log_density, adapt.inverse_mass_matrix))
            new, kinetic_change = move(point, adapt.step_size, adapt.L, key)
            change = kinetic_change - new.logdensity + point.logdensity
            finite = jnp.isfinite(change) & jnp.all(jnp.isfinite(ravel_pytree((new.position, new.momentum))[0]))
            back = point._replace(momentum=jax.tree.map(jnp.negative, point.momentum))
            new = select(finite, new, back)
            change = jnp.where(finite, change, 0).astype(state.energy_change.dtype)
            tuned = predict_step_size(adapt, change, finite, self._desired_energy_var)
            moments = accumulate(adapt.moments, new.position, jnp.where(finite, adapt.step_size, 0))
            tuned = tuned._replace(moments=moments)
            return (new, select(warming, tuned, adapt), failed | ~finite, change), None

        grad = jax.tree.map(jnp.negative, state.z_grad)
        point = IntegratorState(state.z, state.momentum, -state.potential_energy, grad)
        start = (point, state.adapt_state, jnp.zeros_like(state.diverging), state.energy_change)
        (point, adapt, failed, change), _ = jax.lax.scan(body, start, jax.random.split(key, self._steps))
        return state._replace(
            z=point.position,
            z_grad=jax.tree.map(jnp.negative, point.logdensity_grad),
            potential_energy=-point.logdensity,
            momentum=point.momentum,
            energy_change=change,
            num_steps=jnp.asarray(2 * self._steps),
            diverging=failed,
            adapt_state=select(warming, self._end_window(adapt, state.i), adapt),
        )


class AdjustedMCLMC(_Microcanonical):
    """Metropolis-adjusted microcanonical trajectories; exact for any potential.

    Args:
        target_accept_prob: acceptance to which ε is tuned by dual averaging; 0.9 as in the paper.
        step_size: ε, where tuning starts; unless given, √d/4.
        L: mean length of a trajectory, where tuning starts; unless given, √d.
        L_factor: what L is tuned to, in units of the radius of the posterior; 1.3 as in BlackJAX.
        max_steps: bound on the steps of a trajectory, of two gradients each.

    The number of steps runs through a quasi-random (Halton) sequence, uniform from 1 to twice its mean L/ε and the same
    for all chains, so that chains that run side by side wait little for each other. The others, and what it raises, as
    `MCLMC`.

    >>> import jax, jax.numpy as jnp
    >>> from numpyro.infer import MCMC
    >>> kernel = AdjustedMCLMC(potential_fn=lambda z: 0.5 * jnp.sum((z / jnp.arange(1, 11)) ** 2))
    >>> mcmc = MCMC(kernel, num_warmup=500, num_samples=2000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), init_params=jnp.zeros(10))
    >>> variance = mcmc.get_samples().var(0) / jnp.arange(1, 11) ** 2
    >>> bool(jnp.all(abs(variance - 1) < 0.3))
    True
    """

    def __init__(
        self, model=None, potential_fn=None, *, target_accept_prob=0.9, step_size=None, L=None, L_factor=1.3,
        adapt=True, diagonal_preconditioning=True, max_steps=256, **kwargs,
    ):  # fmt: skip
        super().__init__(model, potential_fn, step_size, L, L_factor, adapt, diagonal_preconditioning, **kwargs)
        if not 0 < target_accept_prob < 1:
            raise ValueError(f"AdjustedMCLMC: target_accept_prob is {target_accept_prob}: give a number in (0, 1).")
        if not (isinstance(max_steps, int) and max_steps > 0):
            raise ValueError(f"AdjustedMCLMC: max_steps is {max_steps}: give a positive integer.")
        self._target_accept_prob = target_accept_prob
        self._max_steps = max_steps

    def _first_averaging(self, step_size):
        return start_step_size(step_size, step_size.dtype).averaging

    def _step(self, key, state, potential):
        key_momentum, key_accept = jax.random.split(key)
        adapt = state.adapt_state
        integrate = isokinetic_mclachlan(lambda z: -potential(z), adapt.inverse_mass_matrix)
        mean_count: Any = jnp.clip(adapt.L / adapt.step_size, 1, 0.5 * (self._max_steps + 1))
        count: Any = jnp.clip(trajectory_length(state.i + 1, mean_count), 1, self._max_steps).astype(int)
        # BlackJAX's own kernel would also draw the noise of an infinite L at every step.
        propose = adjusted_mclmc_proposal(
            lambda point, step_size, *_: integrate(point, step_size), adapt.step_size, jnp.inf, count, DIVERGENCE
        )
        grad = jax.tree.map(jnp.negative, state.z_grad)
        momentum = generate_unit_vector(key_momentum, state.z)
        before = IntegratorState(state.z, momentum, -state.potential_energy, grad)
        after, info, _ = propose(key_accept, before)
        probability = info.acceptance_rate.astype(state.accept_prob.dtype)
        if self._adapt_all:
            averaged = self._adapt(
                StepSize(adapt.step_size, adapt.averaging), probability, state.i, self._target_accept_prob
            )
            tuned = adapt._replace(
                step_size=averaged.step_size,
                averaging=averaged.averaging,
                moments=accumulate(adapt.moments, after.position, 1),
            )
            adapt = select(state.i < self._num_warmup, self._end_window(tuned, state.i), adapt)
        return state._replace(
            z=after.position,
            z_grad=jax.tree.map(jnp.negative, after.logdensity_grad),
            potential_energy=-after.logdensity,
            num_steps=2 * count,
            accept_prob=probability,
            diverging=info.is_divergent,
            adapt_state=adapt,
        )
