"""Ensembles out of equilibrium: many particles from an initial distribution, each moved by Langevin dynamics, gradient
flow or gradient descent, looked at at given times.

Particles are moved in batches, each split over the local devices; a jitted function takes a batch from one time to the
next and evaluates the statistics there, and nowhere else. Particle i has the key fold_in(seed, i), whatever the batch
and the number of devices.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, PartitionSpec
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from fieldprob.infer import layout
from fieldprob.infer.datatree import constant_data, event_dims, labelled, observed_data
from fieldprob.infer.driver import check_seed, seed_text
from fieldprob.infer.samplers.base import per_site
from fieldprob.infer.trajectories.dynamics import Dynamics
from fieldprob.infer.trajectories.problem import Problem, describe
from fieldprob.infer.trajectories.record import Moments, Particles, sums
from fieldprob.networks.regression import default_kernel_points

_BATCH = 1000
_GROUPS = ("trajectory", "trajectory_stats")


def trajectories(
    prior=None,
    task=None,
    *,
    dynamics: Dynamics,
    times,
    particles: int | None = None,
    initial=None,
    potential_fn: Callable | None = None,
    mobility: Any = 1.0,
    weight_decay: Any = 0.0,
    statistics: Callable[[Any], Mapping[str, Any]] | None = None,
    store: bool = True,
    store_positions: bool | None = None,
    reference_time: float | None = None,
    seed=0,
    batch: int | None = None,
    progress: bool = True,
    dims: Mapping[str, tuple[str, ...]] | None = None,
    coords: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Run an ensemble of particles from an initial distribution and record statistics at given times.

    A particle moves in U(z) = potential(z) + 1/2 sum weight_decay z^2, in the unconstrained space of a model. Give
    either a prior (its potential is minus the log joint density) or a `potential_fn`.

    Args:
        prior: a network (on its face `weights`, whitened) or a NumPyro model, as for `fieldprob.sample`.
        task: the data.
        dynamics: `Langevin(step_size, temperature)`, `GradientDescent(step_size)` or `GradientFlow(rtol, atol)`.
        times: when to record, increasing, from 0; for dynamics in steps rounded to whole steps.
        particles: their number; 1000 unless given, or as many as `initial` holds.
        initial: where they start: a function key -> z, or z with a leading axis over particles. The prior unless given.
        potential_fn: z -> number, z a pytree of floats (for a dictionary, its keys name the sites).
        mobility, weight_decay: a number, or one for each site, zero or positive. To train a network as the papers do,
            see `fieldprob.infer.training`.
        statistics: z (one particle, unconstrained) -> {name: array}, beside the deterministic sites of a model.
        store: keep every particle, or only moments over the particles: memory then does not grow with their number.
        store_positions: keep the latent sites (constrained), or the leaves of z, too; by default only where there are
            no statistics.
        reference_time: with store=False, one of `times`: record the covariance with this time too.
        seed: an integer or a JAX key.
        batch: particles moved at once, rounded up to a multiple of the local devices; bounds the memory. 1000 unless
            given. Equal seeds give equal particles, to rounding, in batches of any size.
        progress: show a progress bar.
        dims, coords: names of dimensions and coordinates, as for `fieldprob.sample`.

    Returns:
        A DataTree with the group `trajectory`, dims (particle, time, ...), its coordinate `time` the times reached;
        `trajectory_stats` with the energy U and the integration steps taken; the data; the settings as attributes. With
        store=False, dims (time, ...): `<name>` is the mean over particles, `<name>_error` its standard error,
        `<name>_variance` and `<name>_variance_error`, and `<name>_autocovariance`, entry by entry, with the reference
        time (NaN before it). After an interruption it holds the finished batches, and `attrs["interrupted"]` is 1.

    Raises:
        ValueError: an argument is out of range; shapes do not fit; a particle starts where U is not finite.
        FloatingPointError: particles left the finite numbers, or a flow needs more than max_steps.
        KeyboardInterrupt: interrupted before the first batch was complete.

    >>> import jax
    >>> from fieldprob.infer.trajectories.dynamics import Langevin
    >>> tree = trajectories(potential_fn=lambda z: 0.5 * z**2, initial=jax.random.normal, particles=100,
    ...                     dynamics=Langevin(step_size=0.01), times=[0, 0.5, 1], progress=False)
    >>> dict(tree["trajectory"].sizes)
    {'particle': 100, 'time': 3}
    """
    check_seed(seed)
    times = _times(times)
    if not isinstance(dynamics, Dynamics):
        raise TypeError(f"dynamics is {dynamics!r}: give Langevin(...), GradientDescent(...) or GradientFlow(...).")
    grid, reached = dynamics.grid(times)
    problem = describe(prior, task, potential_fn, initial, particles, statistics, store_positions)
    reference = _reference(reference_time, times, store, problem.particles)
    devices = layout.choose_devices(jax.local_device_count())
    batch = _batch_size(batch, problem.particles, len(devices))

    record = Particles(problem.particles, len(times)) if store else Moments(len(times))
    movers = _movers(problem, dynamics, mobility, weight_decay, devices)
    interrupted = _run(problem, movers, dynamics, grid, reached, reference, batch, seed, record, progress)

    settings = {
        "prior": problem.name, "dynamics": repr(dynamics), "mobility": _text(mobility),
        "weight_decay": _text(weight_decay), "particles": record.done, "batch": batch,
        "layout": layout.describe(devices), "float": str(ravel_pytree(problem.example)[0].dtype),
        "seed": seed_text(seed), "reference_time": None if reference is None else float(reached[reference]),
    }  # fmt: skip
    tree = _tree(record, prior if hasattr(prior, "faces") else None, task, dims or {}, dict(coords or {}), reached)
    tree.attrs |= {"settings": json.dumps(settings), "interrupted": int(interrupted)}
    return tree


# --- arguments --------------------------------------------------------------------------------------------------------


def _times(times) -> np.ndarray:
    values = np.asarray(times, float)
    if values.ndim != 1 or not values.size or not np.all(np.isfinite(values)) or values[0] < 0:
        raise ValueError(f"times is {times!r}: give a sequence of finite numbers from 0 on.")
    if np.any(late := np.diff(values) <= 0):
        k = int(np.argmax(late))
        raise ValueError(f"times has {values[k]:g} before {values[k + 1]:g}: give increasing times.")
    return values


def _reference(reference_time, times, store: bool, particles: int) -> int | None:
    if not store and particles < 2:
        raise ValueError(f"particles is {particles}: moments over particles (store=False) need at least 2.")
    if reference_time is None:
        return None
    if store:
        raise ValueError("reference_time is for store=False: with every particle stored, take the covariance yourself.")
    found = np.flatnonzero(np.isclose(times, reference_time, rtol=1e-9, atol=0))
    if not found.size:
        raise ValueError(f"reference_time is {reference_time!r}: give one of times, {times[0]:g} to {times[-1]:g}.")
    return int(found[0])


def _batch_size(batch, particles: int, devices: int) -> int:
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1):
        raise ValueError(f"batch is {batch!r}: give an integer of at least 1.")
    return -(-min(_BATCH * devices if batch is None else int(batch), particles) // devices) * devices


def _coefficients(name: str, value, example):
    """One number for each coordinate."""
    vector = ravel_pytree(per_site(name, value, example))[0]
    if not np.all(np.isfinite(vector) & (np.asarray(vector) >= 0)):
        raise ValueError(f"{name} is {value!r}: give finite numbers that are not negative.")
    return vector


# --- motion -----------------------------------------------------------------------------------------------------------


def _movers(problem: Problem, dynamics: Dynamics, mobility, weight_decay, devices) -> tuple[Callable, Callable]:
    """Jitted functions `start` and `move` of a batch, split over the devices."""
    unravel = ravel_pytree(problem.example)[1]
    mobility = _coefficients("mobility", mobility, problem.example)
    decay = _coefficients("weight_decay", weight_decay, problem.example)

    def energy(z):
        return problem.potential(unravel(z)) + 0.5 * jnp.sum(decay * z**2)

    def start(key, position):
        key_start, key = jax.random.split(key)
        z = ravel_pytree(problem.draw(key_start))[0] if problem.draw is not None else position
        return key, dynamics.start(key, z), jnp.all(jnp.isfinite(z)), jnp.isfinite(energy(z))

    def move(key, particle, begin, end):
        particle = dynamics.advance(jax.grad(energy), mobility, key, particle, begin, end)
        z = particle.z
        values = problem.measure(unravel(z)), {"energy": energy(z), "num_steps": particle.num_steps}
        return particle, dict(zip(_GROUPS, values, strict=True)), jnp.all(jnp.isfinite(z))

    return _split(start, 2, 0, devices), _split(move, 2, 2, devices)


def _split(function, batched: int, shared: int, devices) -> Callable:
    """`function` of one particle, mapped over a batch and jitted; the batch is split over the devices."""
    mapped = jax.vmap(function, in_axes=(0,) * batched + (None,) * shared)
    if len(devices) > 1:
        mesh = Mesh(np.array(devices), ("particle",), axis_types=(AxisType.Auto,))
        split, same = PartitionSpec("particle"), PartitionSpec()
        specs = (split,) * batched + (same,) * shared
        mapped = jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    return jax.jit(mapped)


@jax.jit
def _sums(values, valid, reference):
    """`Sums` of every statistic; of the first group also with its values at the reference time."""
    recorded = {group: {name: sums(x, valid) for name, x in named.items()} for group, named in values.items()}
    if reference is not None:
        first = values[_GROUPS[0]]
        recorded[_GROUPS[0]] = {name: sums(x, valid, reference[name]) for name, x in first.items()}
    return recorded


def _run(problem, movers, dynamics, grid, reached, reference, batch, seed, record, progress) -> bool:
    """Move all batches through all times; whether that was interrupted."""
    start, move = movers
    root = jax.random.key(seed) if isinstance(seed, int | np.integer) else seed
    grid = [jnp.asarray(point) for point in grid]
    span = float(grid[-1]) or 1.0
    moments = isinstance(record, Moments)
    bar = tqdm(
        total=-(-problem.particles // batch) * span, disable=not progress, desc="compiling",
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
    )  # fmt: skip
    try:
        with threadpool_limits(1, user_api="blas"), bar:
            for first in range(0, problem.particles, batch):
                # the last batch is filled up with copies of the last particle: one shape, one compilation
                index = np.minimum(np.arange(first, first + batch), problem.particles - 1)
                valid = np.arange(first, first + batch) < problem.particles
                keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(index)
                positions = index if problem.positions is None else problem.positions[index]
                keys, state, finite, bounded = start(keys, positions)
                _check_start(np.asarray(finite)[valid], np.asarray(bounded)[valid])
                begin, origin = jnp.zeros_like(grid[0]), None
                for k, end in enumerate(grid):
                    state, values, finite = move(keys, state, begin, end)
                    ok = np.asarray(finite)[valid], np.asarray(state.reached)[valid]
                    _check_arrival(*ok, reached, k, dynamics)
                    if moments:
                        origin = values[_GROUPS[0]] if k == reference else origin
                        values = _sums(values, valid, origin)
                    record.add(first, k, values)
                    bar.set_description(f"t = {reached[k]:g}", refresh=False)
                    batched = f"particles {first + 1}-{first + int(valid.sum())} of {problem.particles}"
                    bar.set_postfix_str(batched, refresh=False)
                    bar.update(float(end - begin))
                    begin = end
                record.close(min(first + batch, problem.particles))
    except KeyboardInterrupt:
        if not record.done:
            raise
        return True
    return False


def _check_start(finite, bounded) -> None:
    for ok, what in ((finite, "at positions that are NaN or infinite"), (bounded, "where U is not finite")):
        if not ok.all():
            raise ValueError(f"initial: {np.sum(~ok)} of {ok.size} particles start {what}.")


def _check_arrival(finite, arrived, reached, k: int, dynamics) -> None:
    since = f"between time {reached[k - 1] if k else 0:g} and {reached[k]:g}"
    if not arrived.all():
        raise FloatingPointError(f"{np.sum(~arrived)} of {arrived.size} particles got stuck {since}: {dynamics.delay}")
    if not finite.all():
        raise FloatingPointError(
            f"{np.sum(~finite)} of {finite.size} particles became NaN or infinite {since}: {dynamics.remedy}"
        )


# --- the result -------------------------------------------------------------------------------------------------------


def _tree(record, net, task, dims, coords, reached) -> xr.DataTree:
    if net is not None:
        points = default_kernel_points(task)
        coords = {"point": points, "point_": points} | coords
    coords = coords | {"time": reached}
    groups = {}
    for group in _GROUPS:
        arrays, named = {}, {}
        for name, parts in record.result(group).items():
            known = event_dims(name, next(iter(parts.values())).ndim - len(record.sample_dims), dims)
            for end, array in parts.items():
                arrays[name + end], named[name + end] = array, known
        groups[group] = labelled(arrays, named, coords, record.sample_dims)
    if "point" in groups[_GROUPS[0]].dims and task is not None:
        split = np.where(groups[_GROUPS[0]]["point"].values < task.points, "train", "test")
        groups[_GROUPS[0]] = groups[_GROUPS[0]].assign_coords(split=("point", split))
    if task is not None and hasattr(task, "noise_variance"):
        groups["observed_data"] = observed_data(task, coords)
        groups["constant_data"] = constant_data(net, task, coords)
    return xr.DataTree.from_dict(groups, name="fieldprob")


def _text(value) -> str:
    """A number, or the numbers of small sites, for the stored settings."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(entry)}" for name, entry in value.items())
    return f"{float(value):.9g}" if np.ndim(value) == 0 else f"array {np.shape(value)}"
