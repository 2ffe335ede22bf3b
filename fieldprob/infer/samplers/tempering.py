"""Replica exchange (parallel tempering): copies of a chain at rising temperatures that swap their positions.

Slot k of the ladder samples a law flattened by its inverse temperature β_k (`fieldprob.infer.samplers.ladder`),

    likelihood tempering   p(z) p(y | z)^β_k     the prior, Jacobians of constrained sites included, is left as it is
    potential tempering    exp(−β_k U(z))        all is flattened, in unconstrained space

so that a hot replica crosses barriers and hands what it finds down to the target, β_0 = 1. L = ∂U_β/∂β, the energy that
a swap needs, is that of the observed sites and factors, or U.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.util import identity, is_prng_key

from fieldprob.infer.samplers import ladder
from fieldprob.infer.samplers.around import KernelAround
from fieldprob.infer.samplers.tempered import BETA, bind_temperature, check_kernel, draw_prior


class TemperingAdaptState(NamedTuple):
    """step_size: of the cold slot."""

    step_size: jax.Array


class ReplicaExchangeState(NamedTuple):
    """State of `ReplicaExchange`; of a batch of chains all fields have a leading axis `chain`.

    i                     draws so far, warm-up included
    z, potential_energy   position of the cold slot, and U there at β = 1
    accept_prob, mean_accept_prob, diverging, adapt_state.step_size   of the kernel in the cold slot
    num_steps             gradients of this draw, of all replicas and for the exchange
    energies              (slots,) L of each slot as of the last exchange, untempered, in units of the kernel's
                          temperature where it has one
    inverse_temperatures  (slots,) β, the first 1; fixed after the first half of warm-up
    swap_accept_prob      (slots − 1,) mean acceptance probability of each pair of neighbours since the end of
                          warm-up (before it: since the ladder last changed)
    swap_attempts         (slots − 1,) over how many attempts
    replica_index         (slots,) which replica sits at each slot
    trip_phase            (slots,) of each replica, see `fieldprob.infer.samplers.ladder.count_round_trips`
    round_trips           complete ways of a replica from the hottest slot to the coldest and back to the hottest,
                          summed over replicas, since the end of warm-up
    inner                 states of the kernels, slots along the first axis
    rng_key               key of the next draw
    """

    i: Any
    z: Any
    potential_energy: Any
    accept_prob: Any
    mean_accept_prob: Any
    diverging: Any
    num_steps: Any
    adapt_state: TemperingAdaptState
    energies: Any
    inverse_temperatures: Any
    swap_accept_prob: Any
    swap_attempts: Any
    replica_index: Any
    trip_phase: Any
    round_trips: Any
    inner: Any
    rng_key: Any


class ReplicaExchange(KernelAround):
    """Parallel tempering around a kernel, its replicas vectorised on one device.

    Each draw moves all replicas by the kernel, then swaps positions of neighbouring slots, even and odd pairs in turn.
    Step sizes and mass matrices stay with the slot. In the first half of warm-up the ladder is adapted until all pairs
    swap equally often, and the kernels go on adapting to it; each chain has its own. A kernel that is exact stays so;
    one that is not (`ULA`) brings its bias, and `LeimkuhlerMatthews`, whose noise is tied to its position, gains one.
    What else a state holds, such as a momentum, stays with the slot, and must be independent of the position.

    Args:
        kernel: NumPyro's HMC or NUTS, or a kernel of this package, on a model or a potential_fn; or any that has
            `get_potential_fn`, `refresh` and `wrap_model`. A model may not have discrete latent sites.
        temperatures: increasing, the first 1, the last may be infinite (the prior) where the likelihood is tempered;
            or the number of replicas. About twice the sum of the rejection probabilities is a good number.
        tempering: "likelihood": observed sites and factors of the model; "potential": everything.
        top_temperature: the last, if `temperatures` is a number: infinite unless given; potentials must have it.
        adapt_ladder: adapt the temperatures between the first and the last.
        swap_every: draws between exchanges. An exchange costs each replica one gradient and one energy, which doubles
            the cost of kernels that take one gradient a draw (give those num_steps, or an exchange every few draws).
            Replicas move in step: kernels of variable length, such as NUTS, wait for the longest.
        prior_draws: replace the hottest replica by an independent draw from the prior at every second exchange, in
            which it has no partner. Needs a model and an infinite last temperature. Where the likelihood may vanish
            altogether, a hottest replica that moves by the kernel keeps to where it does not, and `log_evidence` is
            then relative to the prior there: draw it from the prior.
        prior_potential_fn: z -> −log prior density, for likelihood tempering of a kernel on a potential_fn.

    Raises:
        ValueError: an argument is out of range; the kernel does not follow the protocol; the model has no observed
            site, a discrete latent one, or an improper prior at infinite temperature.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import MCMC, NUTS
    >>> def model():  # wells at z = 1 and -1, 15 kT deep, of weights 0.7 and 0.3
    ...     z = numpyro.sample("z", dist.Normal(0.42, 1))
    ...     numpyro.sample("y", dist.Normal(z**2, 30**-0.5), obs=1.0)
    >>> mcmc = MCMC(ReplicaExchange(NUTS(model), 6), num_warmup=300, num_samples=2000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0))
    >>> bool(abs((mcmc.get_samples()["z"] > 0).mean() - 0.7) < 0.1)
    True
    >>> int(mcmc.get_extra_fields()["round_trips"][-1]) > 100
    True
    """

    def __init__(
        self,
        kernel: Any,
        temperatures,
        *,
        tempering: str = "likelihood",
        top_temperature: float | None = None,
        adapt_ladder: bool = True,
        swap_every: int = 1,
        prior_draws: bool = False,
        prior_potential_fn=None,
    ):
        if isinstance(kernel, ReplicaExchange):
            raise ValueError("kernel is a ReplicaExchange: give one ladder with all temperatures.")
        check_kernel(kernel)
        self._start = ladder.check_temperatures(temperatures, tempering, top_temperature)
        if isinstance(swap_every, bool) or not isinstance(swap_every, int | np.integer) or swap_every < 1:
            raise ValueError(f"swap_every is {swap_every!r}: give a positive integer.")
        if kernel.model is None and tempering == "likelihood" and prior_potential_fn is None:
            raise ValueError(
                "the kernel has a potential_fn, in which prior and likelihood are not told apart: give "
                "prior_potential_fn, or tempering='potential' with a finite top_temperature."
            )
        if prior_potential_fn is not None and (kernel.model is not None or tempering == "potential"):
            raise ValueError("prior_potential_fn is for likelihood tempering of a kernel on a potential_fn: omit it.")
        if prior_draws and (kernel.model is None or self._start[-1] > 0):
            raise ValueError("prior_draws needs a kernel on a model, and an infinite last temperature.")
        super().__init__(kernel)
        self._tempering = tempering
        self._adapt_ladder = adapt_ladder
        self._swap_every = int(swap_every)
        self._prior_draws = prior_draws
        self._prior_potential_fn = prior_potential_fn
        self._num_warmup = 0

    # --- NumPyro's interface ----------------------------------------------------------------------------------------

    def init(self, rng_key, num_warmup, init_params=None, model_args=(), model_kwargs=None):
        """The first state of one chain, or of a batch of chains. All replicas of a chain start from its init_params,
        or else each from a point of its own."""
        if self.model is None and init_params is None:
            raise ValueError("ReplicaExchange: a potential_fn needs init_params, where the chain starts.")
        single = is_prng_key(rng_key)
        slots = len(self._start)
        keys = rng_key[None] if single else rng_key
        rng_key, key_inner = jnp.swapaxes(jax.vmap(jax.random.split)(keys), 0, 1)
        replica_keys = jax.vmap(partial(jax.random.split, num=slots))(key_inner)
        replica_keys = replica_keys.reshape(-1, *replica_keys.shape[2:])
        if init_params is not None:
            chains = jax.tree.map(lambda x: x[None], init_params) if single else init_params
            init_params = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), slots, axis=0), chains)

        bind = bind_temperature(
            self._kernel, self._tempering, self._prior_potential_fn, self._start[-1], keys[0], model_args, model_kwargs
        )
        # The kernel starts its replicas as it would start chains of the target; the copy that moves them is prepared
        # for one chain, for it is vmapped over (state, β). Both outside of any trace.
        states = bind().init(replica_keys, num_warmup, init_params, model_args, dict(model_kwargs or {}))
        inner = bind()
        first = None if init_params is None else jax.tree.map(lambda x: x[0], init_params)
        inner.init(replica_keys[0], num_warmup, first, model_args, dict(model_kwargs or {}))
        self._inner, self._num_warmup = inner, int(num_warmup)
        self._sample_fn = self.sample

        states = jax.tree.map(lambda x: x.reshape(-1, slots, *x.shape[1:]), states)
        first_state = partial(self._first, model_args=model_args, model_kwargs=model_kwargs)
        start = jax.jit(jax.vmap(first_state))(rng_key, states)
        return jax.tree.map(lambda x: x[0], start) if single else start

    def _first(self, rng_key, inner, model_args, model_kwargs):
        slots = len(self._start)
        betas = jnp.asarray(self._start, inner.potential_energy.dtype)
        zero = jnp.zeros((), int)
        state = ReplicaExchangeState(
            i=zero,
            **self._cold(inner),
            num_steps=zero,
            energies=jnp.zeros(slots, betas.dtype),
            inverse_temperatures=betas,
            swap_accept_prob=jnp.zeros(slots - 1, betas.dtype),
            swap_attempts=jnp.zeros(slots - 1, int),
            replica_index=jnp.arange(slots),
            trip_phase=jnp.zeros(slots, int),
            round_trips=zero,
            inner=inner,
            rng_key=rng_key,
        )
        return self._refresh(state, model_args, model_kwargs)

    def sample(self, state, model_args, model_kwargs):
        """The next state of one chain, or of a batch of chains."""
        move = partial(self._move, model_args=model_args, model_kwargs=model_kwargs)
        exchange = partial(self._exchange, model_args=model_args, model_kwargs=model_kwargs)
        batched = jnp.ndim(state.i) > 0
        state = (jax.vmap(move) if batched else move)(state)
        exchange = jax.vmap(exchange) if batched else exchange
        if self._swap_every == 1:
            return exchange(state)
        # All chains are equally old, so that the condition is a scalar and exchanges not due cost nothing.
        due = state.i.reshape(-1)[0] % self._swap_every == 0
        return jax.lax.cond(due, exchange, identity, state)

    @property
    def default_fields(self):
        return ("z", "diverging", "swap_accept_prob", "round_trips", "energies", "inverse_temperatures")

    def get_diagnostics_str(self, state) -> str:
        cold = self._kernel.get_diagnostics_str(jax.tree.map(lambda x: x[0], state.inner))
        low, high = jnp.min(state.swap_accept_prob), jnp.max(state.swap_accept_prob)
        return f"{cold}; swaps accepted {low:.2f} to {high:.2f}, {state.round_trips} round trips"

    # --- kernels inside kernels -------------------------------------------------------------------------------------

    def refresh(self, state, model_args=(), model_kwargs=None):
        """The state with all energies and gradients recomputed for these arguments of the model."""
        refresh = partial(self._refresh, model_args=model_args, model_kwargs=model_kwargs)
        return jax.vmap(refresh)(state) if jnp.ndim(state.i) else refresh(state)

    # --- one chain --------------------------------------------------------------------------------------------------

    def _arguments(self, beta, model_args, model_kwargs):
        return model_args, dict(model_kwargs or {}) | {BETA: beta}

    def _energy(self, z, beta, model_args, model_kwargs):
        """L(z) = ∂U_β(z)/∂β: one evaluation, without the cancellation of a difference of U."""

        def potential(beta):
            return self._inner.get_potential_fn(*self._arguments(beta, model_args, model_kwargs))(z)

        _, energy = jax.jvp(potential, (beta,), (jnp.ones_like(beta),))
        # A Langevin kernel at temperature T samples exp(−U/T).
        return energy / getattr(self._kernel, "_temperature", 1.0)

    def _evaluate(self, inner, betas, model_args, model_kwargs):
        """States of the kernels with energies and gradients at their z and β, and L."""
        refresh = jax.vmap(lambda s, beta: self._inner.refresh(s, *self._arguments(beta, model_args, model_kwargs)))
        energy = jax.vmap(partial(self._energy, model_args=model_args, model_kwargs=model_kwargs))
        return refresh(inner, betas), energy(inner.z, betas)

    def _cold(self, inner) -> dict:
        """Fields of the state that are those of the kernel in the cold slot."""
        fields = ("z", "potential_energy", "accept_prob", "mean_accept_prob", "diverging")
        cold = {name: jax.tree.map(lambda x: x[0], getattr(inner, name)) for name in fields}
        return cold | {"adapt_state": TemperingAdaptState(inner.adapt_state.step_size[0])}

    def _refresh(self, state, model_args, model_kwargs):
        inner, energies = self._evaluate(state.inner, state.inverse_temperatures, model_args, model_kwargs)
        return state._replace(inner=inner, energies=energies, **self._cold(inner))

    def _move(self, state, model_args, model_kwargs):
        """One transition of the kernel in each slot."""
        rng_key, key = jax.random.split(state.rng_key)
        # From the key of the chain, which is the one that MCMC replaces when a run goes on with another.
        inner = state.inner._replace(rng_key=jax.random.split(key, len(self._start)))

        def move(inner, beta):
            return self._inner.sample(inner, *self._arguments(beta, model_args, model_kwargs))

        inner = jax.vmap(move)(inner, state.inverse_temperatures)
        fresh = state.i == self._num_warmup

        def restart(x):
            return jnp.where(fresh, jnp.zeros_like(x), x)

        return state._replace(
            i=state.i + 1,
            num_steps=jnp.sum(inner.num_steps).astype(int),
            inner=inner,
            swap_accept_prob=restart(state.swap_accept_prob),
            swap_attempts=restart(state.swap_attempts),
            round_trips=restart(state.round_trips),
            rng_key=rng_key,
            **self._cold(inner),
        )

    def _exchange(self, state, model_args, model_kwargs):
        """Swap neighbours; or, at the end of a round of adaptation, change the ladder."""
        slots = len(self._start)
        own, pairs = jnp.arange(slots), jnp.arange(slots - 1)
        rng_key, key_accept, key_prior = jax.random.split(state.rng_key, 3)
        exchange = state.i // self._swap_every
        parity = (exchange - 1) % 2
        partner = jnp.asarray(ladder.partners(slots))[parity]
        betas = state.inverse_temperatures
        change = jnp.zeros((), bool)
        if self._adapt_ladder and slots > 2:
            ends = ladder.adaptation_rounds(self._num_warmup // 2 // self._swap_every)
            change = jnp.any(exchange == jnp.asarray(ends))
            betas = jnp.where(change, ladder.equalise(betas, 1 - state.swap_accept_prob), betas)
            partner = jnp.where(change, own, partner)

        # All slots are evaluated at the position they would get; those that get it take the result.
        z = jax.tree.map(lambda x: x[partner], state.inner.z)
        drawn = jnp.zeros(slots, bool)
        if self._prior_draws:
            drawn = (own == slots - 1) & (partner == own)
            draw = draw_prior(key_prior, self.model, model_args, model_kwargs)
            z = {name: x.at[-1].set(jnp.where(drawn[-1], draw[name], x[-1])) for name, x in z.items()}
        proposal, proposed = self._evaluate(state.inner._replace(z=z), betas, model_args, model_kwargs)
        energies = jnp.where(drawn, proposed, proposed[partner])
        log_ratio = ladder.swap_log_ratio(betas, energies)
        accepted = jnp.log(jax.random.uniform(key_accept, (slots - 1,), log_ratio.dtype)) < log_ratio
        swapped = (partner != own) & accepted[jnp.clip(jnp.minimum(own, partner), 0, slots - 2)]

        def choose(new, old):
            where = (swapped | drawn | change).reshape(-1, *[1] * (jnp.ndim(new) - 1))
            return new if jax.dtypes.issubdtype(new.dtype, jax.dtypes.prng_key) else jnp.where(where, new, old)

        inner = jax.tree.map(choose, proposal, state.inner)
        attempted = partner[:-1] == pairs + 1
        attempts = jnp.where(change, 0, state.swap_attempts + attempted)
        probability = jnp.exp(jnp.minimum(log_ratio, 0))
        step = (probability - state.swap_accept_prob) / jnp.maximum(attempts, 1)
        replica_index = jnp.where(swapped, state.replica_index[partner], state.replica_index)
        trip_phase, round_trips = ladder.count_round_trips(state.trip_phase, replica_index, state.round_trips)
        return state._replace(
            num_steps=state.num_steps + slots,
            energies=jnp.where(swapped, energies[partner], energies),
            inverse_temperatures=betas,
            swap_accept_prob=state.swap_accept_prob + jnp.where(attempted, step, 0).astype(betas.dtype),
            swap_attempts=attempts,
            replica_index=replica_index,
            trip_phase=trip_phase,
            round_trips=round_trips,
            inner=inner,
            rng_key=rng_key,
            **self._cold(inner),
        )
