"""Jumps of single neurons: what local moves cannot do where the law of a neuron has several wells.

A neuron is one row of a latent site, `weight_0` (neurons, inputs) say, or of several. A jump draws a row w' from a law
q that is given, independent of where the neuron is, and accepts it with probability

    min(1, exp(U(w) - U(w')) q(w) / q(w')),

U being the potential energy with all other neurons in place (theory 04, (2.6)). That is exact for every q whose density
is right; it is of use where q is about the law of a neuron. Neurons of a wide network hardly depend on each other, so
that a mean-field theory supplies q, and the barrier between wells does not enter the time that it takes to mix.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.util import is_prng_key

from fieldprob.infer.samplers.around import KernelAround
from fieldprob.infer.samplers.base import metropolis
from fieldprob.infer.samplers.tempered import follows_protocol

_OF_KERNEL = ("accept_prob", "mean_accept_prob", "diverging", "adapt_state")


class NeuronJumpsState(NamedTuple):
    """State of `NeuronJumps`; of a batch of chains all fields have a leading axis `chain`.

    i                   draws so far, warm-up included
    z, z_grad, potential_energy   position, after the jumps
    accept_prob, mean_accept_prob, diverging, adapt_state   of the kernel
    num_steps           gradients of the kernel and energies of the jumps in this draw
    jump_accept_prob    mean acceptance probability of the jumps of this draw
    inner               state of the kernel
    rng_key             key of the next draw
    """

    i: Any
    z: Any
    z_grad: Any
    potential_energy: Any
    accept_prob: Any
    mean_accept_prob: Any
    diverging: Any
    adapt_state: Any
    num_steps: Any
    jump_accept_prob: Any
    inner: Any
    rng_key: Any


class NeuronJumps(KernelAround):
    """A kernel, and after each of its transitions some jumps of single neurons.

    Args:
        kernel: any that has `get_potential_fn` and `refresh`: NumPyro's HMC or NUTS, or a kernel of this package, on a
            model or a potential_fn. Between jumps it moves all neurons at once, within their wells.
        proposal: {site: distribution} of one neuron, the event shape that of a row of the site in unconstrained space;
            of several sites the same row of each jumps. For a potential_fn of one array, the distribution alone.
        jumps: of each draw, each of a neuron chosen at random and at the cost of one energy.

    Raises:
        ValueError: an argument is out of range; the kernel does not follow the protocol; a proposal that does not fit
            its site.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> from numpyro.infer import MCMC
    >>> from fieldprob.infer import HilbertHMC
    >>> def wells(z):  # two neurons, each with wells at 5 and -5 of weights 0.8 and 0.2
    ...     return -jnp.sum(jnp.logaddexp(jnp.log(0.8) - (z - 5) ** 2 / 2, jnp.log(0.2) - (z + 5) ** 2 / 2))
    >>> q = dist.Normal(jnp.zeros(1), 6.0).to_event(1)
    >>> kernel = NeuronJumps(HilbertHMC(potential_fn=wells), q, jumps=4)
    >>> mcmc = MCMC(kernel, num_warmup=100, num_samples=4000, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), init_params=jnp.zeros((2, 1)))
    >>> bool(abs((mcmc.get_samples() > 0).mean() - 0.8) < 0.04)
    True
    """

    def __init__(self, kernel: Any, proposal: Any, *, jumps: int = 10):
        if not follows_protocol(kernel):
            raise ValueError(
                f"kernel is {kernel!r}: give one with get_potential_fn, refresh and wrap_model, such as "
                "NUTS(model) or one of fieldprob.infer."
            )
        if isinstance(jumps, bool) or not isinstance(jumps, int | np.integer) or jumps < 1:
            raise ValueError(f"jumps is {jumps!r}: give a positive integer.")
        given = list(proposal.values()) if isinstance(proposal, Mapping) else [proposal]
        if not given or not all(isinstance(q, dist.Distribution) and not q.batch_shape for q in given):
            raise ValueError(
                f"proposal is {proposal!r}: give the distribution of one neuron without batch dimensions, "
                "{'weight_0': dist.Normal(0, 1).expand([inputs]).to_event(1)}."
            )
        super().__init__(kernel)
        self._proposal = dict(proposal) if isinstance(proposal, Mapping) else proposal
        self._jumps = int(jumps)

    # --- NumPyro's interface ----------------------------------------------------------------------------------------

    def init(self, rng_key, num_warmup, init_params=None, model_args=(), model_kwargs=None):
        """The first state of one chain, or of a batch of chains: that of the kernel."""
        single = is_prng_key(rng_key)
        keys = jax.random.split(rng_key) if single else jnp.swapaxes(jax.vmap(jax.random.split)(rng_key), 0, 1)
        inner = self._kernel.init(keys[0], num_warmup, init_params, model_args, dict(model_kwargs or {}))
        self._check_shapes(inner.z if single else jax.tree.map(lambda x: x[0], inner.z))
        self._inner, self._sample_fn = self._kernel, self.sample
        zero = jnp.zeros_like(inner.accept_prob)
        return NeuronJumpsState(
            i=jnp.zeros_like(inner.i),
            **self._of_kernel(inner),
            num_steps=jnp.zeros_like(inner.num_steps),
            jump_accept_prob=zero,
            inner=inner,
            rng_key=keys[1],
        )

    def sample(self, state, model_args, model_kwargs):
        """The next state of one chain, or of a batch of chains."""
        batched = jnp.ndim(state.i) > 0
        split = partial(jax.random.split, num=3)
        keys = jnp.swapaxes(jax.vmap(split)(state.rng_key), 0, 1) if batched else split(state.rng_key)
        inner = self._kernel.sample(state.inner._replace(rng_key=keys[1]), model_args, dict(model_kwargs or {}))
        jump = partial(self._jump, model_args=model_args, model_kwargs=model_kwargs)
        inner, probability = (jax.vmap(jump) if batched else jump)(inner, keys[2])
        return NeuronJumpsState(
            i=state.i + 1,
            **self._of_kernel(inner),
            num_steps=inner.num_steps + self._jumps + 1,
            jump_accept_prob=probability.astype(state.jump_accept_prob.dtype),
            inner=inner,
            rng_key=keys[0],
        )

    @property
    def default_fields(self):
        return ("z", "diverging", "jump_accept_prob")

    def get_diagnostics_str(self, state) -> str:
        return f"{self._kernel.get_diagnostics_str(state.inner)}; jumps accepted {state.jump_accept_prob:.2f}"

    # --- kernels inside kernels -------------------------------------------------------------------------------------

    def refresh(self, state, model_args=(), model_kwargs=None):
        """The state with energy and gradient recomputed at `state.z` (one chain)."""
        inner = self._kernel.refresh(state.inner._replace(z=state.z), model_args, dict(model_kwargs or {}))
        return state._replace(inner=inner, **self._of_kernel(inner))

    # --- one chain --------------------------------------------------------------------------------------------------

    def _of_kernel(self, inner) -> dict:
        fields = {name: getattr(inner, name) for name in _OF_KERNEL}
        gradient = getattr(inner, "z_grad", None)
        return fields | {"z": inner.z, "z_grad": gradient, "potential_energy": inner.potential_energy}

    def _rows(self, z) -> Any:
        """The sites whose rows are neurons, shaped as the proposal."""
        return {name: z[name] for name in self._proposal} if isinstance(self._proposal, dict) else z

    def _check_shapes(self, z) -> None:
        proposal = self._proposal if isinstance(self._proposal, dict) else {"": self._proposal}
        if isinstance(self._proposal, dict):
            unknown = sorted(self._proposal.keys() - (z.keys() if isinstance(z, Mapping) else set()))
            if unknown:
                raise ValueError(
                    f"proposal names {unknown}, which are no latent sites: there are {', '.join(sorted(z))}."
                )
        rows: Any = self._rows(z) if isinstance(self._proposal, dict) else {"": z}
        shapes = {name: rows[name].shape for name in proposal}
        fits = all(shape and shape[1:] == proposal[name].event_shape for name, shape in shapes.items())
        if not fits or len({shape[0] for shape in shapes.values()}) > 1:
            raise ValueError(
                f"proposals have event shapes {[q.event_shape for q in proposal.values()]}, but the sites have shapes "
                f"{list(shapes.values())}: give each the shape of a row, of sites with as many rows."
            )

    def _jump(self, inner, key, model_args, model_kwargs):
        """The state of the kernel after some jumps, and their mean acceptance probability."""
        potential = self.get_potential_fn(model_args, model_kwargs)
        neurons = jax.tree.leaves(self._rows(inner.z))[0].shape[0]

        def attempt(carry, key):
            z, energy = carry
            key_neuron, key_row, key_accept = jax.random.split(key, 3)
            n = jax.random.randint(key_neuron, (), 0, neurons)
            z_new, log_ratio = self._propose(key_row, z, n)
            energy_new = potential(z_new)
            accept, probability = metropolis(key_accept, energy - energy_new + log_ratio)
            z = jax.tree.map(lambda new, old: jnp.where(accept, new, old), z_new, z)
            return (z, jnp.where(accept, energy_new, energy)), probability

        start = (inner.z, inner.potential_energy)
        (z, _), probability = jax.lax.scan(attempt, start, jax.random.split(key, self._jumps))
        return self._kernel.refresh(inner._replace(z=z), model_args, dict(model_kwargs or {})), jnp.mean(probability)

    def _propose(self, key, z, n):
        """z with another row n, and ln q of the old row less that of the new."""
        several = isinstance(self._proposal, dict)
        proposal = self._proposal if several else {"": self._proposal}
        log_ratio, rows = 0.0, {}
        for (name, q), site_key in zip(proposal.items(), jax.random.split(key, len(proposal)), strict=True):
            x = z[name] if several else z
            row = q.sample(site_key).astype(x.dtype)
            log_ratio = log_ratio + q.log_prob(x[n]) - q.log_prob(row)
            rows[name] = x.at[n].set(row)
        return ({**z, **rows} if several else rows[""]), log_ratio


class NormalButAlong(dist.Distribution):
    """Centred normal in all directions but one, along which the law is another.

    Args:
        direction: (inputs,), divided by its norm.
        along: distribution of the component s along it, a scalar.
        across: standard deviation in all other directions, a function of s; 1 unless given. Where the law of a neuron
            is narrower there in one well than in another, a proposal that is not is hardly ever accepted in many
            dimensions.

    Raises:
        ValueError: no direction, or a law of more than one number.

    >>> import jax, jax.numpy as jnp
    >>> q = NormalButAlong(jnp.array([0.0, 2.0]), dist.Normal(3.0, 0.1), lambda s: 2.0)
    >>> expected = dist.Normal(0.0, 2.0).log_prob(1.0) + dist.Normal(3.0, 0.1).log_prob(2.9)
    >>> bool(jnp.isclose(q.log_prob(jnp.array([1.0, 2.9])), expected))
    True
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    reparametrized_params: ClassVar = []

    def __init__(
        self, direction, along: dist.Distribution, across: Callable[..., Any] | None = None, *, validate_args=None
    ):
        direction = np.asarray(direction, float)
        if direction.ndim != 1 or not 0 < np.linalg.norm(direction) < np.inf:
            raise ValueError(f"direction is {direction}: give a vector of finite numbers, not all zero.")
        if not isinstance(along, dist.Distribution):
            raise TypeError(f"along is {along!r}: give the distribution of one number.")
        if across is not None and not callable(across):
            raise TypeError(f"across is {across!r}: give a function of the component along the direction.")
        if along.batch_shape or along.event_shape:
            raise ValueError(f"along has shape {along.batch_shape + along.event_shape}: give the law of one number.")
        self.direction = direction / np.linalg.norm(direction)
        self.along, self.across = along, across
        super().__init__(event_shape=direction.shape, validate_args=validate_args)

    def _scale(self, s):
        return jnp.ones_like(s) if self.across is None else jnp.broadcast_to(self.across(s), s.shape)

    def sample(self, key=None, sample_shape=()):
        if key is None:
            raise ValueError("key is None: give a JAX key, e.g. jax.random.key(0).")
        key_all, key_along = jax.random.split(key)
        s = self.along.sample(key_along, sample_shape)
        z = self._scale(s)[..., None] * jax.random.normal(key_all, (*sample_shape, *self.event_shape))
        return z + (s - z @ self.direction)[..., None] * self.direction

    def log_prob(self, value):
        s = value @ self.direction
        scale = self._scale(s)
        rest = jnp.sum(value**2, axis=-1) - s**2
        others = self.event_shape[0] - 1
        return self.along.log_prob(s) - rest / (2 * scale**2) - others * jnp.log(scale * jnp.sqrt(2 * jnp.pi))
