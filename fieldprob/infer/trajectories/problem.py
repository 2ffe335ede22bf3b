"""What is moved by `trajectories`: a network, a NumPyro model or a bare potential, brought to one form in which a
particle is a vector of unconstrained coordinates."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import constrain_fn, potential_energy, unconstrain_fn

from fieldprob.networks.regression import check_face, check_task, regression

_DEFAULT_PARTICLES = 1000


class Problem(NamedTuple):
    """A potential, where particles start, and what is measured.

    Attributes:
        name: for the stored settings.
        particles: their number.
        example: one position as the user sees it, all zeros; gives shapes and dtypes.
        potential: position -> U.
        draw: key -> position (None where `positions` holds them).
        positions: (particles, coordinates) or None.
        measure: position -> {name: array}.
    """

    name: str
    particles: int
    example: Any
    potential: Callable
    draw: Callable | None
    positions: Any
    measure: Callable


def describe(prior, task, potential_fn, initial, particles, statistics, store_positions) -> Problem:
    """The problem that the arguments of `trajectories` describe; errors as documented there."""
    if (prior is None) == (potential_fn is None):
        raise ValueError("give either a prior (a network or a NumPyro model) or a potential_fn.")
    if statistics is not None and not callable(statistics):
        raise TypeError(f"statistics is a {type(statistics).__name__}: give a function z -> {{name: array}}.")
    if potential_fn is not None:
        if initial is None:
            raise ValueError("initial is None: a potential_fn has no prior, so say where particles start.")
        potential, prior_draw, sites, name = potential_fn, None, _leaves, "potential_fn"
        has_statistics = statistics is not None
    else:
        potential, prior_draw, sites, name, has_statistics = _model(prior, task)
        has_statistics |= statistics is not None
    keep = not has_statistics if store_positions is None else store_positions

    given = prior_draw if initial is None else initial
    draw, positions, count, example = _start(given, particles)
    if prior_draw is not None and initial is not None:
        _check_sites(example, jax.eval_shape(prior_draw, jax.random.key(0)))

    def measure(z):
        parts = [sites(z, keep), _own(statistics, z)]
        if both := parts[0].keys() & parts[1].keys():
            raise ValueError(f"statistics returns {', '.join(sorted(both))}, which exist already: rename them.")
        return parts[0] | parts[1]

    return Problem(name, count, example, potential, draw, positions, measure)


def _model(prior, task):
    """potential, draw, sites, name, and whether there are deterministic sites, of a network or NumPyro model."""
    if hasattr(prior, "faces"):
        check_task(task)
        check_face(prior, "weights")
        model, name = partial(regression, prior, face="weights"), " ".join(repr(prior).split())[:500]
    elif callable(prior):
        model, name = prior, getattr(getattr(prior, "func", prior), "__name__", type(prior).__name__)
    else:
        raise TypeError(f"prior is a {type(prior).__name__}: give a network (e.g. fp.Mlp) or a NumPyro model.")
    arguments = () if task is None else (task,)
    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(model).get_trace(*arguments)
    latent = [k for k, site in trace.items() if site["type"] == "sample" and not site["is_observed"]]
    if not latent:
        raise ValueError("the model has no latent variable: there is nothing to move.")
    if discrete := [k for k in latent if trace[k]["fn"].is_discrete]:
        raise ValueError(f"the site {discrete[0]!r} is discrete: particles move in continuous variables only.")

    def draw(key):
        with numpyro.handlers.seed(rng_seed=key):
            values = numpyro.handlers.trace(model).get_trace(*arguments)
        return unconstrain_fn(model, arguments, {}, {k: values[k]["value"] for k in latent})

    def sites(z, keep: bool):
        values = constrain_fn(model, arguments, {}, z, return_deterministic=True)
        return {k: v for k, v in values.items() if keep or k not in latent}

    deterministic = any(site["type"] == "deterministic" for site in trace.values())
    return partial(potential_energy, model, arguments, {}), draw, sites, name, deterministic


def _leaves(z, keep: bool) -> dict[str, Any]:
    """The leaves of a position by name: its keys, or z."""
    if not keep:
        return {}
    paths = jax.tree_util.tree_flatten_with_path(z)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="_") or "z": leaf for path, leaf in paths}


def _own(statistics, z) -> dict[str, Any]:
    if statistics is None:
        return {}
    values = statistics(z)
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise TypeError(f"statistics returned a {type(values).__name__}: return a dictionary from names to arrays.")
    return {name: jnp.asarray(value) for name, value in values.items()}


def _start(given, particles):
    """(draw, positions, number, an example) from a function of a key or from positions along a leading axis."""
    if particles is not None and (
        isinstance(particles, bool) or not isinstance(particles, int | np.integer) or particles < 1
    ):
        raise ValueError(f"particles is {particles!r}: give an integer of at least 1.")
    if callable(given):
        shapes = jax.eval_shape(given, jax.random.key(0))
        positions, draw, count = None, given, _DEFAULT_PARTICLES if particles is None else int(particles)
    else:
        arrays = jax.tree.map(jnp.asarray, given)
        leaves = jax.tree.leaves(arrays)
        counts = sorted({x.shape[0] if x.ndim else 0 for x in leaves})
        if len(counts) != 1 or counts[0] < 1:
            raise ValueError(
                f"initial has leaves of shapes {', '.join(str(x.shape) for x in leaves) or 'none'}: give a function "
                "key -> z, or arrays whose first axis runs over the same particles."
            )
        count, draw = counts[0], None
        if particles is not None and particles != count:
            raise ValueError(f"particles is {particles}, but initial holds {count}: leave particles out.")
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), arrays)
        positions = arrays
    for x in jax.tree.leaves(shapes):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"initial has entries of type {x.dtype}: give real floats.")
    example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    if not jax.tree.leaves(example):
        raise ValueError("initial gives positions without any entry.")
    if positions is not None:
        positions = jax.vmap(lambda z: ravel_pytree(z)[0])(positions)
    return draw, positions, count, example


def _check_sites(given, expected) -> None:
    shapes = [{k: x.shape for k, x in z.items()} if isinstance(z, Mapping) else None for z in (given, expected)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"initial gives {shapes[0]}: the model has the unconstrained sites {shapes[1]}.")
