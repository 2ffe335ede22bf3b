"""Underdamped (kinetic) Langevin dynamics: BAOAB without, generalised HMC with acceptance steps.

The stationary law of

    dz = μ p dt,    dp = −∇U dt − γ p dt + √(2γT/μ) dB

is exp(−(U + ½μ|p|²)/T) for any mobility μ (inverse mass) and friction γ. In units of its standard deviation the
momentum v = p √(μ/T) is standard normal, and a step of size ε is made of

    B:  v ← v − (ε/2) √(μ/T) ∇U(z),    A:  z ← z + (ε/2) √(μT) v,    O:  v ← c v + √(1 − c²) ξ,    c = e^(−γε).

`Underdamped` does B A O A B: one gradient a step. On the quadratic ½ a z² it is stable for ε² μ a < 4, at any friction
with the exact variance T/a of z, and 1 − ε² μ a/4 of v (Leimkuhler & Matthews 2013, Rational construction of stochastic
numerical methods for molecular sampling, §4). `GHMC` does O, B A A B and then accepts or turns v round (Horowitz 1991,
A generalized guided Monte Carlo algorithm): exact for any potential and step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import ghmc

from fieldprob.infer.samplers.base import DIVERGENCE, StepSize, float_dtype, normal_like, select
from fieldprob.infer.samplers.langevin import LangevinKernel


class UnderdampedState(NamedTuple):
    """State of the underdamped kernels; `fieldprob.infer.samplers.base` says what the fields are.

    potential_energy is U, weight decay included, not divided by the temperature. momentum is v, in units of its
    standard deviation √(T/μ). slice, between −1 and 1, is what `GHMC` accepts by (None for `Underdamped`). accept_prob
    is 1 for `Underdamped`, whose `diverging` says that the energy is no longer finite: the step is too large.
    """

    i: Any
    z: Any
    z_grad: Any
    potential_energy: Any
    num_steps: Any
    accept_prob: Any
    mean_accept_prob: Any
    diverging: Any
    adapt_state: StepSize
    momentum: Any
    slice: Any
    rng_key: Any


class _Kinetic(LangevinKernel):
    def __init__(self, model, potential_fn, friction, *args, **kwargs):
        super().__init__(model, potential_fn, *args, **kwargs)
        if not float(friction) > 0:
            raise ValueError(f"{type(self).__name__}: friction is {friction}: give a positive number.")
        self._friction = friction

    def _start(self, key, z, potential):
        key_momentum, key_slice = jax.random.split(key)
        start = super()._start(key, z, potential)._asdict()
        del start["noise"]
        return UnderdampedState(
            **start, momentum=normal_like(key_momentum, z), slice=self._first_slice(key_slice, float_dtype(z))
        )

    def _first_slice(self, key, dtype):
        return None


class Underdamped(_Kinetic):
    """Kinetic Langevin dynamics, discretised by BAOAB; unadjusted: exact for quadratics, else a bias of order ε².

    Args:
        model: a NumPyro model, U = −log joint density in unconstrained space.
        potential_fn: or U itself.
        step_size: ε. Not adapted; stable for ε²μλ < 4, λ the largest curvature of U.
        friction: γ, per unit of time. √(μλ) of the softest direction decorrelates it fastest.
        temperature: T.
        mobility: μ, the inverse mass, a number or {site: number or array}, positive.
        weight_decay: a number or {site: number or array}: adds ½Σ weight_decay z² to U.
        num_steps: steps, hence gradients, between draws.
        init_strategy: as in NumPyro.

    Raises:
        ValueError: an argument is out of range or does not fit the sites.

    >>> import jax, jax.numpy as jnp
    >>> from numpyro.infer import MCMC
    >>> kernel = Underdamped(potential_fn=lambda z: 0.5 * z**2, step_size=1.0)
    >>> mcmc = MCMC(kernel, num_warmup=100, num_samples=4000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), extra_fields=("momentum",), init_params=jnp.zeros(()))
    >>> z, v = mcmc.get_samples(), mcmc.get_extra_fields()["momentum"]
    >>> bool(abs(z.var() - 1) < 0.1), bool(abs(v.var() - (1 - 1 / 4)) < 0.1)  # exact; that of the discretised law
    (True, True)
    """

    def __init__(
        self, model=None, potential_fn=None, *, step_size, friction=1.0, temperature=1.0, mobility=1.0,
        weight_decay=0.0, num_steps=5, **kwargs,
    ):  # fmt: skip
        super().__init__(
            model, potential_fn, friction, step_size, temperature, mobility, weight_decay, num_steps, **kwargs
        )

    def _move(self, key, state, potential):
        half, root, heat = 0.5 * self._step_size, self._root_mobility(state.z), jnp.sqrt(self._temperature)
        keep = jnp.exp(-self._friction * self._step_size)

        def kick(v, grad):
            return jax.tree.map(lambda v, g, r: (v - half * r / heat * g).astype(v.dtype), v, grad, root)

        def drift(z, v):
            return jax.tree.map(lambda z, v, r: (z + half * r * heat * v).astype(z.dtype), z, v, root)

        v = kick(state.momentum, state.z_grad)
        z = drift(state.z, v)
        noise = normal_like(key, z)
        v = jax.tree.map(lambda v, x: (keep * v + jnp.sqrt(1 - keep**2) * x).astype(v.dtype), v, noise)
        z = drift(z, v)
        energy, grad = jax.value_and_grad(potential)(z)
        return state._replace(
            z=z, z_grad=grad, potential_energy=energy, momentum=kick(v, grad), diverging=~jnp.isfinite(energy)
        )


class GHMC(_Kinetic):
    """Generalised HMC (BlackJAX's): Langevin steps with partially refreshed momentum, accepted or turned round.

    A transition refreshes v with α = 1 − e^(−2γε) (v ← √(1 − α) v + √α ξ), does one leapfrog step, and accepts it with
    probability min(1, e^(−ΔH/T)); otherwise z stays and v is reversed. As each rejection turns the motion round,
    rejections that come together cost less than scattered ones. Hence the number that decides is not drawn afresh, but
    carried on and shifted by δ each time (Neal 2020, Non-reversibly updating a uniform [0, 1] value for Metropolis
    accept/reject decisions), uniform as before.

    Args:
        step_size: ε, where adaptation starts.
        friction: γ, per unit of time, so that the persistence of the velocity does not depend on the adapted ε.
        delta: δ; unless given, α/2 (Hoffman & Sountsov 2022, Tuning-free generalized HMC).
        adapt_step_size: adapt ε in warm-up, each chain its own,
        target_accept_prob: to this mean of min(1, e^(−ΔH/T)).
        num_steps: transitions, hence gradients, between draws; `accept_prob` is their mean.

    The others, and what it raises, as `Underdamped`.

    >>> import jax, jax.numpy as jnp
    >>> from numpyro.infer import MCMC
    >>> mcmc = MCMC(GHMC(potential_fn=lambda z: 0.5 * z**2), num_warmup=500, num_samples=4000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), init_params=jnp.zeros(()))
    >>> bool(abs(mcmc.get_samples().var() - 1) < 0.1)
    True
    """

    def __init__(
        self, model=None, potential_fn=None, *, step_size=0.1, friction=1.0, delta=None, adapt_step_size=True,
        target_accept_prob=0.8, temperature=1.0, mobility=1.0, weight_decay=0.0, num_steps=5, **kwargs,
    ):  # fmt: skip
        super().__init__(
            model, potential_fn, friction, step_size, temperature, mobility, weight_decay, num_steps, **kwargs
        )
        if not 0 < target_accept_prob < 1:
            raise ValueError(f"GHMC: target_accept_prob is {target_accept_prob}: give a number between 0 and 1.")
        if delta is not None and not 0 <= delta <= 1:
            raise ValueError(f"GHMC: delta is {delta}: give a number from 0 to 1, or None.")
        self._delta = delta
        self._adapt_step_size = adapt_step_size
        self._target_accept_prob = target_accept_prob

    def _first_slice(self, key, dtype):
        return jax.random.uniform(key, (), dtype, -1.0, 1.0)

    def _move(self, key, state, potential):
        log_density, to_z, root = self._whitened(potential, state.z)
        position, value, grad = self._to_blackjax(state, root)
        step = state.adapt_state.step_size
        alpha: Any = -jnp.expm1(-2 * self._friction * step)
        delta: Any = 0.5 * alpha if self._delta is None else jnp.asarray(self._delta, step.dtype)
        before = ghmc.GHMCState(position, state.momentum, value, grad, state.slice)
        unit = jax.tree.map(jnp.ones_like, position)
        # In the units of v time runs √T times as fast.
        scaled = (step * jnp.sqrt(self._temperature)).astype(step.dtype)
        after, info = ghmc.build_kernel(divergence_threshold=DIVERGENCE)(
            key, before, log_density, scaled, unit, alpha, delta
        )
        # A rejected slice is the shifted one. BlackJAX multiplies it by exp(ΔH) * accepted + (1 - accepted), which is
        # inf * 0 once exp(ΔH) overflows, and relies on XLA to make 0 of that; a NaN would never accept again.
        shifted = (state.slice + 1 + delta) % 2 - 1
        new = state._replace(
            momentum=after.momentum,
            slice=jnp.where(info.is_accepted, after.slice, shifted),
            accept_prob=info.acceptance_rate,
            diverging=info.is_divergent,
        )
        # a rejected state is kept bit for bit, not reconstructed
        return select(info.is_accepted, new._replace(**self._from_blackjax(after, to_z, root)), new)

    def _step(self, key, state, potential):
        new = super()._step(key, state, potential)
        if not self._adapt_step_size:
            return new
        return new._replace(
            adapt_state=self._adapt(state.adapt_state, new.accept_prob, state.i, self._target_accept_prob)
        )
