"""Overdamped Langevin dynamics: ULA, Leimkuhler–Matthews and MALA.

The stationary law of dz = −μ∇U dt + √(2μT) dB is exp(−U/T), for any mobility μ; training with weight decay γ adds
½Σγz² to U (theory 01, B1–B2). With a step η, on the quadratic potential ½ a z² (μ = 1), it is discretised as

    ULA                   z' = z − ημ∇U(z) + √(2ημT) ξ              variance T/a/(1 − ηa/2)     B5
    Leimkuhler–Matthews   z' = z − ημ∇U(z) + √(ημT/2)(ξ + ξ')       variance T/a exactly        B7
    MALA                  ULA as a proposal, accepted or rejected   exact for any potential     B8

The first two are stable for ημa < 2. `num_steps` is the number of gradients between two draws.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import diffusions, mala
from jax.core import Tracer

from fieldprob.infer.samplers.base import (
    Kernel,
    StepSize,
    dot,
    float_dtype,
    normal_like,
    per_site,
    select,
    start_step_size,
)


class LangevinState(NamedTuple):
    """State of the overdamped kernels; `fieldprob.infer.samplers.base` says what the fields are.

    potential_energy is U, weight decay included, not divided by the temperature. `noise` is the last ξ of the
    Leimkuhler–Matthews method, which the next step uses again (None for the others). accept_prob is 1 for unadjusted
    kernels, whose `diverging` says that the energy is no longer finite: the step is too large.
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
    noise: Any
    rng_key: Any


class LangevinKernel(Kernel):
    """What the Langevin samplers share: temperature, mobility, weight decay, and several steps a draw."""

    def __init__(self, model, potential_fn, step_size, temperature, mobility, weight_decay, num_steps, **kwargs):
        super().__init__(model, potential_fn, **kwargs)
        for name, value in (("step_size", step_size), ("temperature", temperature)):
            if not float(value) > 0:
                raise ValueError(f"{type(self).__name__}: {name} is {value}: give a positive number.")
        if not (isinstance(num_steps, int) and num_steps > 0):
            raise ValueError(f"{type(self).__name__}: num_steps is {num_steps}: give a positive integer.")
        self._step_size = step_size
        self._temperature = temperature
        self._mobility = mobility
        self._weight_decay = weight_decay
        self._steps = num_steps

    def _prepare(self, z, model_args, model_kwargs):
        with jax.ensure_compile_time_eval():  # `init` may be traced
            z = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), z)
            per_site("weight_decay", self._weight_decay, z)
            mobility = jax.tree.leaves(per_site("mobility", self._mobility, z))
            if not all(isinstance(x, Tracer) or bool(jnp.all(x > 0)) for x in mobility):
                raise ValueError(f"{type(self).__name__}: mobility is {self._mobility}: give positive numbers.")

    def get_potential_fn(self, model_args=(), model_kwargs=None):
        """z -> U(z), weight decay included."""
        potential = super().get_potential_fn(model_args, model_kwargs)
        if isinstance(self._weight_decay, (int, float)) and self._weight_decay == 0:
            return potential
        return lambda z: potential(z) + 0.5 * dot(per_site("weight_decay", self._weight_decay, z), _square(z))

    def _root_mobility(self, z):
        return jax.tree.map(jnp.sqrt, per_site("mobility", self._mobility, z))

    def _start(self, key, z, potential):
        energy, grad = jax.value_and_grad(potential)(z)
        dtype = float_dtype(z)
        one = jnp.ones((), dtype)
        return LangevinState(
            i=0,
            z=z,
            z_grad=grad,
            potential_energy=energy,
            num_steps=jnp.asarray(self._steps),
            accept_prob=one,
            mean_accept_prob=one,
            diverging=~jnp.isfinite(energy),
            adapt_state=start_step_size(self._step_size, dtype),
            noise=self._first_noise(key, z),
            rng_key=None,
        )

    def _first_noise(self, key, z):
        return None

    def _step(self, key, state, potential):
        keys = jax.random.split(key, self._steps)

        def body(carry, key):
            state, accepted, diverging = carry
            state = self._move(key, state, potential)
            return (state, accepted + state.accept_prob, diverging | state.diverging), None

        start = (state, jnp.zeros_like(state.accept_prob), jnp.zeros((), bool))
        (new, accepted, diverging), _ = jax.lax.scan(body, start, keys)
        return new._replace(accept_prob=accepted / self._steps, diverging=diverging)

    def _move(self, key, state, potential) -> LangevinState:
        raise NotImplementedError

    def _whitened(self, potential, z):
        """log density of u = z/√μ at temperature T, and z from u; BlackJAX knows neither mobility nor temperature."""
        root = self._root_mobility(z)

        def to_z(u):
            return jax.tree.map(jnp.multiply, root, u)

        def log_density(u):
            return -potential(to_z(u)) / self._temperature

        return log_density, to_z, root

    def _to_blackjax(self, state, root):
        u = jax.tree.map(jnp.divide, state.z, root)
        grad = jax.tree.map(lambda r, g: -r * g / self._temperature, root, state.z_grad)
        return u, -state.potential_energy / self._temperature, grad

    def _from_blackjax(self, new, to_z, root):
        grad = jax.tree.map(lambda r, g: -self._temperature * g / r, root, new.logdensity_grad)
        return {"z": to_z(new.position), "potential_energy": -self._temperature * new.logdensity, "z_grad": grad}


class ULA(LangevinKernel):
    """Unadjusted Langevin: z' = z − ημ∇U(z) + √(2ημT) ξ. Training as the papers write it, bias included.

    The bias is of the size ηλ/2 in a direction of curvature λ (theory 01, B5), largest in those that the data fix.

    Args:
        model: a NumPyro model, U = −log joint density in unconstrained space.
        potential_fn: or U itself, for training a loss; `fieldprob.infer.training` maps a loss to a posterior.
        step_size: η, the learning rate. Not adapted; stable for ημλ < 2, λ the largest curvature of U.
        temperature: T.
        mobility: μ, a number or {site: number or array}, positive; does not change the stationary law of dt → 0.
        weight_decay: γ, a number or {site: number or array}: adds ½Σγz² to U.
        num_steps: steps between draws.
        init_strategy: as in NumPyro.

    Raises:
        ValueError: an argument is out of range or does not fit the sites.

    >>> import jax, jax.numpy as jnp
    >>> from numpyro.infer import MCMC
    >>> kernel = ULA(potential_fn=lambda z: 0.5 * z**2, step_size=0.5)
    >>> mcmc = MCMC(kernel, num_warmup=100, num_samples=20_000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), init_params=jnp.zeros(()))
    >>> bool(abs(mcmc.get_samples().var() - 1 / (1 - 0.5 / 2)) < 0.1)  # 4/3, not 1
    True
    """

    def __init__(
        self, model=None, potential_fn=None, *, step_size, temperature=1.0, mobility: Any = 1.0,
        weight_decay: Any = 0.0, num_steps=1, **kwargs,
    ):  # fmt: skip
        super().__init__(model, potential_fn, step_size, temperature, mobility, weight_decay, num_steps, **kwargs)

    def _move(self, key, state, potential):
        log_density, to_z, root = self._whitened(potential, state.z)
        integrate = diffusions.overdamped_langevin(jax.value_and_grad(log_density))
        before = diffusions.DiffusionState(*self._to_blackjax(state, root))
        step = self._step_size * self._temperature
        new = state._replace(**self._from_blackjax(integrate(key, before, step), to_z, root))
        new = select(True, new, state)  # in its own precision: BlackJAX's noise is of the default float
        return new._replace(diverging=~jnp.isfinite(new.potential_energy))


class LeimkuhlerMatthews(LangevinKernel):
    """The Leimkuhler–Matthews method: z' = z − ημ∇U(z) + √(ημT/2)(ξ_n + ξ_{n+1}).

    One gradient a step, as ULA, and the exact variance for a quadratic potential at any stable step (theory 01, B7;
    Leimkuhler & Matthews 2013); for other potentials the bias is of second order in η. Arguments as `ULA`.

    >>> import jax, jax.numpy as jnp
    >>> from numpyro.infer import MCMC
    >>> kernel = LeimkuhlerMatthews(potential_fn=lambda z: 0.5 * z**2, step_size=0.5)
    >>> mcmc = MCMC(kernel, num_warmup=100, num_samples=20_000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), init_params=jnp.zeros(()))
    >>> bool(abs(mcmc.get_samples().var() - 1) < 0.1)
    True
    """

    def __init__(
        self, model=None, potential_fn=None, *, step_size, temperature=1.0, mobility: Any = 1.0,
        weight_decay: Any = 0.0, num_steps=1, **kwargs,
    ):  # fmt: skip
        super().__init__(model, potential_fn, step_size, temperature, mobility, weight_decay, num_steps, **kwargs)

    def _first_noise(self, key, z):
        return normal_like(key, z)

    def _move(self, key, state, potential):
        eta, root = self._step_size, self._root_mobility(state.z)
        noise = normal_like(key, state.z)
        amplitude = jnp.sqrt(0.5 * eta * self._temperature)
        z = jax.tree.map(
            lambda z, g, r, old, new: (z - eta * r**2 * g + (amplitude * r * (old + new))).astype(z.dtype),
            state.z, state.z_grad, root, state.noise, noise,
        )  # fmt: skip
        energy, grad = jax.value_and_grad(potential)(z)
        return state._replace(z=z, z_grad=grad, potential_energy=energy, noise=noise, diverging=~jnp.isfinite(energy))


class MALA(LangevinKernel):
    """Metropolis-adjusted Langevin (BlackJAX's): a step of `ULA` as a proposal, exact for any potential and step.

    Args:
        step_size: η, where adaptation starts.
        adapt_step_size: adapt η in warm-up.
        target_accept_prob: to this acceptance; 0.574 is optimal in high dimension (Roberts & Rosenthal 1998).
        num_steps: proposals between draws; `accept_prob` is their mean.

    The others as `ULA`. Source: theory 01, B8.

    >>> import jax, jax.numpy as jnp
    >>> from numpyro.infer import MCMC
    >>> mcmc = MCMC(MALA(potential_fn=lambda z: 0.5 * z**2), num_warmup=500, num_samples=20_000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), init_params=jnp.zeros(()))
    >>> bool(abs(mcmc.get_samples().var() - 1) < 0.1)
    True
    """

    def __init__(
        self, model=None, potential_fn=None, *, step_size=0.1, adapt_step_size=True, target_accept_prob=0.574,
        temperature=1.0, mobility: Any = 1.0, weight_decay: Any = 0.0, num_steps=1, **kwargs,
    ):  # fmt: skip
        super().__init__(model, potential_fn, step_size, temperature, mobility, weight_decay, num_steps, **kwargs)
        if not 0 < target_accept_prob < 1:
            raise ValueError(f"MALA: target_accept_prob is {target_accept_prob}: give a number between 0 and 1.")
        self._adapt_step_size = adapt_step_size
        self._target_accept_prob = target_accept_prob

    def _move(self, key, state, potential):
        log_density, to_z, root = self._whitened(potential, state.z)
        # in the default float, as is BlackJAX's noise
        before = jax.tree.map(
            lambda x: x.astype(jnp.result_type(float)), mala.MALAState(*self._to_blackjax(state, root))
        )
        step = state.adapt_state.step_size * self._temperature
        after, info = mala.build_kernel()(key, before, log_density, step)
        probability = jnp.nan_to_num(info.acceptance_rate).astype(state.accept_prob.dtype)
        new = state._replace(accept_prob=probability, diverging=jnp.zeros((), bool))
        # a rejected state is kept bit for bit, not reconstructed from u
        return select(info.is_accepted, new._replace(**self._from_blackjax(after, to_z, root)), new)

    def _step(self, key, state, potential):
        new = super()._step(key, state, potential)
        if not self._adapt_step_size:
            return new
        return new._replace(
            adapt_state=self._adapt(state.adapt_state, new.accept_prob, state.i, self._target_accept_prob)
        )


def _square(z):
    return jax.tree.map(jnp.square, z)
