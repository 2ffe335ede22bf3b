"""`Kernel`: what all samplers of this package share with NumPyro's HMC.

A sampler states how one chain starts and how it moves, given its potential energy U(z) in unconstrained space:

    _start(key, z, potential) -> state        _step(key, state, potential) -> state

Everything else is here: models and bare potentials, a key or a batch of keys, adaptation only during warm-up, pickling,
and NumPyro's protocol for kernels inside kernels (`get_potential_fn`, `refresh`, `wrap_model`). A state is a NamedTuple
with the fields of `numpyro.infer.hmc.HMCState` that make sense for it:

    i                 transitions so far, warm-up included
    z                 position, a pytree (of a model: its latent sites, unconstrained)
    z_grad            gradient of the potential energy at z
    potential_energy  U(z) = -log density, up to a constant
    num_steps         gradients of U (for gradient-free kernels: energies) that the last transition took
    accept_prob       of the last transition; mean_accept_prob: its mean since the last change of phase
    diverging         whether the last transition met a non-finite or hopeless energy
    adapt_state       what adapts during warm-up; `adapt_state.step_size`
    rng_key           key of the next transition
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.infer import init_to_uniform
from numpyro.infer.hmc_util import dual_averaging
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import initialize_model
from numpyro.util import identity, is_prng_key

DIVERGENCE = 1000.0  # a rise of the energy by this much is a divergence, as in NumPyro and Stan


class StepSize(NamedTuple):
    """A step size that adapts to an acceptance probability by dual averaging (Hoffman & Gelman 2014, §3.2)."""

    step_size: jax.Array
    averaging: tuple


class Kernel(MCMCKernel):
    """Base class of the samplers; see the module. Give either `model` or `potential_fn`.

    Args:
        model: a NumPyro model.
        potential_fn: z -> -log density, for z a pytree of arrays; then `init_params` is required.
        init_strategy: where chains of a model start, see `numpyro.infer.initialization`.

    Raises:
        ValueError: both or neither of model and potential_fn; a bare potential without init_params.
    """

    def __init__(self, model=None, potential_fn=None, *, init_strategy: Callable = init_to_uniform):
        if (model is None) == (potential_fn is None):
            raise ValueError(f"{type(self).__name__}: give either a model or a potential_fn.")
        self._model = model
        self._potential_fn = potential_fn
        self._init_strategy = init_strategy
        self._num_warmup = 0
        self._forget()

    def _forget(self) -> None:
        # what init builds from the model
        self._potential_fn_gen: Callable | None = None
        self._postprocess_fn: Callable | None = None
        self._ready = False

    # --- what a sampler is ------------------------------------------------------------------------------------------

    @abstractmethod
    def _start(self, key, z, potential: Callable) -> Any:
        """The first state of one chain; `i`, `rng_key` are overwritten."""

    @abstractmethod
    def _step(self, key, state, potential: Callable) -> Any:
        """The next state of one chain; `i`, `rng_key`, `mean_accept_prob` are overwritten."""

    def _prepare(self, z, model_args, model_kwargs) -> None:
        """Called by `init` with the position of one chain, before any chain starts."""

    # --- NumPyro's interface ----------------------------------------------------------------------------------------

    def init(self, rng_key, num_warmup, init_params=None, model_args=(), model_kwargs=None):
        """The first state: of one chain for a key, of a batch of chains (along axis 0) for a batch of keys."""
        batched = not is_prng_key(rng_key)
        split = jax.vmap(partial(jax.random.split, num=3)) if batched else partial(jax.random.split, num=3)
        keys = split(rng_key)
        rng_key, key_start, key_model = (keys[:, n] for n in range(3)) if batched else keys
        if self._model is not None:
            info = initialize_model(
                key_model,
                self._model,
                dynamic_args=True,
                init_strategy=self._init_strategy,
                model_args=model_args,
                model_kwargs=model_kwargs,
            )
            self._potential_fn_gen, self._postprocess_fn = info.potential_fn, info.postprocess_fn
            init_params = info.param_info.z if init_params is None else init_params
        elif init_params is None:
            raise ValueError(f"{type(self).__name__}: a potential_fn needs init_params, where the chain starts.")
        self._num_warmup = num_warmup
        z = jax.tree.map(jnp.asarray, init_params)
        self._prepare(jax.tree.map(lambda x: x[0], z) if batched else z, model_args, model_kwargs)
        self._ready = True
        potential = self.get_potential_fn(model_args, model_kwargs)

        def start(key, key_start, z):
            return self._start(key_start, z, potential)._replace(i=jnp.zeros((), int), rng_key=key)

        # one compilation, where op by op there would be hundreds
        return jax.jit(jax.vmap(start) if batched else start)(rng_key, key_start, z)

    def sample(self, state, model_args, model_kwargs):
        """The next state of one chain, or of a batch of chains."""
        advance = partial(self._advance, model_args=model_args, model_kwargs=model_kwargs)
        return jax.vmap(advance)(state) if jnp.ndim(state.i) else advance(state)

    def _advance(self, state, model_args, model_kwargs):
        rng_key, key = jax.random.split(state.rng_key)
        new = self._step(key, state, self.get_potential_fn(model_args, model_kwargs))
        i = state.i + 1
        n = jnp.where(state.i < self._num_warmup, i, i - self._num_warmup)
        mean = state.mean_accept_prob + (new.accept_prob - state.mean_accept_prob) / n
        return new._replace(i=i, rng_key=rng_key, mean_accept_prob=mean)

    @property
    def _sample_fn(self):
        # MCMC starts afresh at every `run` of a kernel for which this is None.
        return self._advance if self._ready else None

    @property
    def model(self):
        return self._model

    @property
    def sample_field(self):
        return "z"

    @property
    def default_fields(self):
        return ("z", "diverging")

    def postprocess_fn(self, model_args, model_kwargs):
        """Unconstrained to constrained latent sites, with the deterministic ones."""
        if self._postprocess_fn is None:
            return identity
        return self._postprocess_fn(*model_args, **(model_kwargs or {}))

    def get_diagnostics_str(self, state) -> str:
        return f"{state.num_steps} steps of size {state.adapt_state.step_size:.2e}. acc. prob={state.accept_prob:.2f}"

    # --- kernels inside kernels -------------------------------------------------------------------------------------

    def get_potential_fn(self, model_args=(), model_kwargs=None) -> Callable:
        """z -> U(z) for these arguments of the model; after `init`."""
        if self._potential_fn is not None:
            return self._potential_fn
        if self._potential_fn_gen is None:
            raise RuntimeError(f"{type(self).__name__}.get_potential_fn: run `init` first.")
        return self._potential_fn_gen(*model_args, **(model_kwargs or {}))

    def refresh(self, state, model_args=(), model_kwargs=None):
        """The state with energy and gradient recomputed at `state.z` for these arguments of the model (one chain)."""
        energy, grad = jax.value_and_grad(self.get_potential_fn(model_args, model_kwargs))(state.z)
        return state._replace(potential_energy=energy, z_grad=grad)

    def wrap_model(self, wrapper: Callable) -> "Kernel":
        """A copy of this kernel bound to `wrapper(model)`; needs `init` again."""
        if self._model is None:
            raise ValueError(f"{type(self).__name__}.wrap_model: the kernel was built from a potential_fn.")
        kernel = copy.copy(self)
        kernel._model = wrapper(self._model)
        kernel._forget()
        return kernel

    def __getstate__(self):
        # closures over the model are rebuilt by `init`
        return self.__dict__ | {"_potential_fn_gen": None, "_postprocess_fn": None, "_ready": False}

    # --- adaptation -------------------------------------------------------------------------------------------------

    def _adapt(self, state: StepSize, accept_prob, i, target: float, largest: float = jnp.inf) -> StepSize:
        """One update of the step size in warm-up; at its end the average; nothing afterwards."""
        averaging = _dual_averaging_step(target - accept_prob, state.averaging, jnp.log(largest))
        log_step = jnp.where(i + 1 == self._num_warmup, averaging[1], averaging[0])
        new = StepSize(jnp.exp(log_step).astype(state.step_size.dtype), averaging)
        return select(i < self._num_warmup, new, state)


_GAMMA, _KAPPA = 0.05, 0.75


def _dual_averaging_step(g, state: tuple, upper) -> tuple:
    """NumPyro's update, with the step bounded: where the bound holds, the averaged gradient is set to what belongs to
    it, so that it does not wind up and the step can come back."""
    _, update = dual_averaging(gamma=_GAMMA, kappa=_KAPPA)
    x, x_average, g_average, t, centre = update(g, state)
    bounded = jnp.minimum(x, upper)
    weight = t ** (-_KAPPA)
    x_average = jnp.where(x > upper, (1 - weight) * state[1] + weight * bounded, x_average)
    g_average = jnp.where(x > upper, (centre - bounded) * _GAMMA / jnp.sqrt(t), g_average)
    return bounded, x_average, g_average, t, centre


def start_step_size(step_size, dtype) -> StepSize:
    """Dual averaging starts at this step and is drawn towards ten times as much."""
    start, _ = dual_averaging(gamma=_GAMMA, kappa=_KAPPA)
    step = jnp.asarray(step_size, dtype)
    averaging = start(jnp.log(10 * step))  # pyright: ignore[reportArgumentType]
    return StepSize(step, jax.tree.map(jnp.asarray, averaging))


# --- arithmetic on pytrees --------------------------------------------------------------------------------------------


def select(condition, if_true, if_false):
    """`jnp.where` on pytrees, which must have equal dtypes, so that the state keeps its own."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b).astype(jnp.asarray(b).dtype), if_true, if_false)


def dot(a, b) -> jax.Array:
    """Inner product of two pytrees."""
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)), start=jnp.zeros(()))


def normal_like(key, z):
    """A pytree of independent standard normals, shaped as z."""
    leaves, treedef = jax.tree.flatten(z)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
        [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)],
    )


def float_dtype(z):
    """The float type of a position."""
    return jnp.result_type(*jax.tree.leaves(z))


def per_site(name: str, value, z):
    """A number for all of z, or a mapping {site: number or array}, as a pytree of arrays shaped as z.

    Raises:
        ValueError: an unknown or a missing site, or a shape that does not broadcast to the site's.
    """
    if isinstance(value, Mapping):
        if not isinstance(z, Mapping) or set(value) != set(z):
            sites = ", ".join(z) if isinstance(z, Mapping) else "none, for z is not a mapping of sites"
            raise ValueError(f"{name} has entries {', '.join(map(str, value))}: give one for each site ({sites}).")
    elif not isinstance(value, (tuple, list)) and jnp.ndim(value) == 0:
        value = jax.tree.map(lambda _: value, z)

    def spread(entry, x):
        try:
            return jnp.broadcast_to(jnp.asarray(entry, x.dtype), x.shape)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name} does not fit a site of shape {x.shape}: {error}") from error

    return jax.tree.map(spread, value, z) if jax.tree.structure(value) == jax.tree.structure(z) else _refuse(name, z)


def _refuse(name, z):
    raise ValueError(f"{name}: give a number, or a pytree with the structure of z, {jax.tree.structure(z)}.")


def metropolis(key, log_ratio):
    """(accept?, acceptance probability) for a log ratio; NaN rejects."""
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    probability = jnp.exp(jnp.minimum(log_ratio, 0.0))
    return jnp.log(jax.random.uniform(key, dtype=probability.dtype)) < log_ratio, probability
