"""The Gaussian that a dimension-robust sampler rotates or contracts exactly.

Such samplers split U(z) = ½|u|² + Φ(z), u = (z − loc)/scale. Any loc and scale > 0 leave the target exact; the sampler
is robust where they are those of the prior, for then Φ is what the data say.
"""

from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.core import Tracer
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import init_to_uniform

from fieldprob.infer.samplers.base import per_site


class Reference(NamedTuple):
    """Location and scale of a product of normals, pytrees shaped as z."""

    loc: Any
    scale: Any

    def whiten(self, z):
        """u = (z − loc)/scale."""
        return jax.tree.map(lambda x, m, s: (x - m) / s, z, *self)

    def unwhiten(self, u):
        """z = loc + scale u."""
        return jax.tree.map(lambda x, m, s: m + s * x, u, *self)


def make_reference(reference, z, model=None, model_args=(), model_kwargs=None) -> Reference:
    """The reference that was asked for, or the model's own normal priors.

    Args:
        reference: (loc, scale), each a number or {site: number or array}; or None: sites with a normal prior that
            depends on no other latent site take that one, all others (and bare potentials) the standard normal in
            unconstrained space.
        z: a position, for its structure.

    Raises:
        ValueError: not a pair, a shape that does not fit, or a scale that is not positive.

    >>> import numpyro, jax.numpy as jnp
    >>> def model():
    ...     x = numpyro.sample("x", dist.Normal(1.0, 3.0))
    ...     numpyro.sample("y", dist.Normal(x, 1.0))
    >>> zero = jnp.zeros(())
    >>> loc, scale = make_reference(None, {"x": zero, "y": zero}, model)
    >>> [float(v) for v in (loc["x"], scale["x"], loc["y"], scale["y"])]
    [1.0, 3.0, 0.0, 1.0]
    """
    # Evaluated now even where `init` is traced: a kernel keeps its reference after that, as it could no traced value.
    with jax.ensure_compile_time_eval():
        z = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), z)
        loc, scale = (0.0, 1.0) if reference is None else _pair(reference)
        loc, scale = per_site("reference (loc)", loc, z), per_site("reference (scale)", scale, z)
        if reference is None and model is not None and isinstance(z, dict):
            normals = _normal_priors(model, model_args, model_kwargs, z)
            loc, scale = ({k: normals[k][n] if k in normals else v[k] for k in z} for n, v in enumerate((loc, scale)))
        if not all(isinstance(s, Tracer) or bool(jnp.all(s > 0)) for s in jax.tree.leaves(scale)):
            raise ValueError("reference: the scale must be positive.")
    return Reference(loc, scale)


def _pair(reference):
    if not (isinstance(reference, tuple) and len(reference) == 2):
        raise ValueError(f"reference is {reference!r}: give a pair (loc, scale).")
    return reference


def _normal_priors(model, model_args, model_kwargs, z) -> dict[str, tuple]:
    """{site: (loc, scale)} of the normal priors that depend on no other latent site: those that stay the same when
    the others are drawn anew."""
    first, second = (_first_sites(model, model_args, model_kwargs or {}, set(z), seed) for seed in (0, 1))
    found = {}
    for name, x in z.items():
        pair = [_parameters(sites[name]["fn"], x) for sites in (first, second) if name in sites]
        if len(pair) == 2 and None not in pair and all(bool(jnp.all(a == b)) for a, b in zip(*pair, strict=True)):
            found[name] = pair[0]
    return found


def _parameters(distribution, x) -> tuple | None:
    base: Any = distribution
    while isinstance(base, (dist.Independent, dist.ExpandedDistribution)):
        base = base.base_dist
    if type(base) is not dist.Normal:
        return None
    values = (jnp.asarray(getattr(base, parameter), x.dtype) for parameter in ("loc", "scale"))
    return tuple(jnp.broadcast_to(v, x.shape) for v in values)


class _Complete(Exception):
    """All sites have been met: what the model does with them does not matter."""


class _Until(trace):
    """Records sites until all of these are there; a likelihood that comes later is not computed."""

    def __init__(self, model, names: set[str]):
        super().__init__(model)
        self._missing = set(names)

    def postprocess_message(self, msg):
        super().postprocess_message(msg)
        self._missing.discard(msg.get("name"))
        if not self._missing:
            raise _Complete


def _first_sites(model, model_args, model_kwargs, names: set[str], rng_seed: int) -> Any:
    # started as NumPyro does, so that a prior need not be one that can be drawn from
    start = substitute(seed(model, rng_seed=rng_seed), substitute_fn=init_to_uniform)
    handler = _Until(start, names)
    with suppress(_Complete):
        handler.get_trace(*model_args, **model_kwargs)
    return handler.trace
