"""Sampling: `sample` runs any NumPyro kernel on a face of a network, or on any NumPyro model.

What is asked for is checked here; `fieldprob.infer.run` does it, block by block.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import xarray as xr
from jax.core import Tracer
from numpyro.infer import NUTS, init_to_sample, init_to_uniform
from numpyro.infer.mcmc import MCMCKernel

from fieldprob.infer.datatree import to_datatree
from fieldprob.infer.run import Plan, Run
from fieldprob.infer.samplers.hilbert import HilbertHMC
from fieldprob.infer.storage import BlockStore, closing
from fieldprob.networks.regression import (
    CONDITIONAL_FACES,
    check_face,
    check_task,
    default_kernel_points,
    regression,
)

KernelFactory = Callable[..., Any]


def sample(
    prior,
    task=None,
    *,
    draws: int = 1000,
    chains: int = 4,
    seed=0,
    warmup: int | None = None,
    kernel: KernelFactory | None = None,
    model: Callable[..., Any] = regression,
    face: str = "auto",
    precision: str = "auto",
    kernel_points=None,
    store_weights: bool | None = None,
    progress: bool = True,
    dims: Mapping[str, tuple[str, ...]] | None = None,
    coords: Mapping[str, Any] | None = None,
    thinning: int = 1,
    stream: Sequence[str] = (),
    draws_per_block: int | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
    time_limit: float | None = None,
    target_ess: float | None = None,
    target_mcse: Mapping[str, float] | None = None,
    scheduler=None,
    chains_per_task: int | None = None,
) -> xr.DataTree:
    """Sample the posterior of a network on a task, or of any NumPyro model.

    Chains are batched, and split over the local devices where their number has a divisor that allows it. A run is a
    sequence of blocks, a fortieth of the draws each (fewer where they would take more than 64 MiB): between blocks the
    bar moves, budgets are looked at and, with a `directory`, a file is written. All blocks are one compiled function.

    Args:
        prior: a network (its `face` becomes the model), or a NumPyro model: a callable of the task, or of nothing
            where `task` is None.
        task: the data, see `fieldprob.Task`.
        draws: draws kept per chain.
        chains: number of chains.
        seed: an integer, a JAX key, or one key per chain. Chain number i has the same key, and starts at the same
            point, on any number of devices and workers.
        warmup: adaptation steps, discarded; as many as there are steps of sampling, but at most 1000, unless given.
        kernel: model -> NumPyro MCMCKernel, e.g. `numpyro.infer.NUTS` or `functools.partial(NUTS, max_tree_depth=6)`.
            Unless given: see `default_kernel`.
        model: (network, task, face=, precision=, kernel_points=) -> None, the NumPyro model of a network on a task.
        face: which face of the network is sampled; "auto" takes "collapsed" (see `choose_face`).
        precision: of the features of the collapsed face, see `fieldprob.regression`.
        kernel_points: points whose layer kernels are recorded, see `fieldprob.regression`.
        store_weights: keep the latent sites too; unless given, those of a NumPyro model and not those of a network,
            which are many, and not invariant under permutations of neurons.
        progress: show a bar with acceptance and divergences, and, as often as 2 % of the time allows, with the worst
            R-hat and ESS of 32 numbers (entries of the invariant statistics, and the potential energy).
        dims: names of the dimensions of sites that fieldprob does not know.
        coords: coordinates of dimensions.
        thinning: steps per draw. Statistics are evaluated at draws only, and not in warm-up.
        stream: statistics (of any size) that are not kept draw by draw: the group `stream` holds means over blocks of
            consecutive draws, `name` of x and `name_square` of x^2, from which
            `fieldprob.infer.stream.streamed_moments` takes moments and errors. Draws after the last complete block of
            means do not enter.
        draws_per_block: draws of a block of these means; unless given, so many that a chain has at least 200 of them,
            and all chains 800. float32 loses the variance of what fluctuates by less than a thousandth of its mean.
        directory: where to keep the run: a file a block, each with the complete state of the sampler, and at the end
            `samples.nc`, from which the returned tree is read as its arrays are used. The block files may then be
            removed, if more draws will never be wanted.
        resume: go on with the run in `directory`, if there is one: one that was killed, that was interrupted, that used
            up its budget, or that has fewer draws than are asked for now. The draws are bit-identical to those of an
            uninterrupted run; on another number of devices or cores, platform or version they are not, and a warning
            says so. Block files that are damaged are made again.
        time_limit: seconds of warm-up and sampling in this call, compilation not included. Looked at between blocks:
            the run stops where the next block, if as slow as the slowest so far, would end later.
        target_ess: stop, after at least 50 draws, when the effective sample size of the mean of every invariant
            statistic has reached this; of at most 512 of their entries, spread evenly.
        target_mcse: {statistic: Monte Carlo standard error of its mean}: stop when all its entries have reached it,
            e.g. {"f_test": 0.01}. Where both targets are given, both must be reached.
        scheduler: Dask workers that share the chains: the address of a scheduler, a `distributed.Client`, or "local"
            for two worker processes on this machine. Unless given, chains run here.
        chains_per_task: chains that one worker moves together; unless given, all are shared out among the workers.
            The draws depend on it only by rounding, and on the number of workers not at all. Budgets and targets hold
            for each group of chains.

    Returns:
        A DataTree with the groups posterior, sample_stats, observed_data, constant_data and perhaps stream. Attributes:
        `settings` (JSON: the arguments, versions and layout), `stopped` ("draws" if all were made, else "time_limit",
        "target_ess", "target_mcse" or "interrupted") and `interrupted` (0 or 1). A run that stopped early has fewer
        draws: those of the finished blocks.

    Raises:
        TypeError, ValueError: an argument is wrong or out of range; the model has no latent variable; the initial
            energy is not finite; the kernel cannot move a batch of chains; `directory` holds a run and `resume` is
            False, or a run of another configuration, or another process is at it.
        OSError: a file cannot be written (the disk is full); what was written before is complete, and is resumed.
        TimeoutError: `time_limit` was over before the first block of draws.
        KeyboardInterrupt: interrupted before the first block of draws was complete.

    >>> import fieldprob as fp
    >>> task = fp.tasks.linear_teacher(4, inputs=2, noise_variance=0.1, seed=0)
    >>> samples = fp.sample(fp.Mlp(width=4), task, draws=20, chains=2, warmup=10, seed=0, progress=False)
    >>> dict(samples.posterior["f"].sizes)
    {'chain': 2, 'draw': 20, 'train_point': 4, 'output': 1}
    """
    given = dict(locals())
    if scheduler is not None:
        return _on_workers(**{name: given.pop(name) for name in _OF_THE_WHOLE}, arguments=given)
    if chains_per_task is not None:
        raise ValueError(f"chains_per_task is {chains_per_task}, but there is no scheduler: give one, or leave it out.")
    _check_numbers(draws, chains, warmup, thinning, draws_per_block, time_limit)
    check_seed(seed, chains)
    settings: dict[str, Any] = {"chains": int(chains), "thinning": int(thinning)}
    is_network = hasattr(prior, "faces")
    store_weights = not is_network if store_weights is None else bool(store_weights)
    stream = _names(stream)
    if is_network:
        check_task(task)
        face = choose_face(prior, task) if face == "auto" else face
        check_face(prior, face)
        kernel_points = default_kernel_points(task) if kernel_points is None else np.asarray(kernel_points)
        _check_points(kernel_points, task)
        settings |= {"face": face, "precision": precision, "prior": repr_short(prior), "model": _name(model)}
        settings |= {"kernel_points": kernel_points.tolist(), "store_weights": store_weights}
        if face in CONDITIONAL_FACES:  # a conditional mean and its variance go together
            conditional = (f"{name}_conditional_variance" for name in stream if name in ("f", "f_test"))
            stream = tuple(dict.fromkeys((*stream, *conditional)))
        model = partial(model, prior, face=face, precision=precision, kernel_points=kernel_points)
        coords = {"point": kernel_points, "point_": kernel_points} | dict(coords or {})
    elif callable(prior):
        model = prior
        settings |= {"prior": _name(prior), **({} if store_weights else {"store_weights": False})}
    else:
        raise TypeError(f"prior is a {type(prior).__name__}: give a network (e.g. fp.Mlp) or a NumPyro model.")
    arguments = () if task is None else (task,)
    settings["stream"] = list(stream)

    latent = _latent_sites(model, arguments)
    if not latent:
        raise ValueError("the model has no latent variable to sample: its posterior is the closed form of its theory.")
    factory = default_kernel(settings.get("face")) if kernel is None else kernel
    try:
        sampler = factory(model) if callable(factory) else None
    except TypeError as error:
        if isinstance(factory, type) and "required" in str(error):
            raise TypeError(
                f"kernel={factory.__name__}: {error}; give it with functools.partial({factory.__name__}, ...)."
            ) from error
        raise
    clash = [name for name in stream if f"{name}_square" in stream]
    if clash:
        raise ValueError(f"stream names {clash[0]} and {clash[0]}_square, which is the mean of its square: rename one.")
    if not isinstance(sampler, MCMCKernel):
        raise TypeError(f"kernel is {kernel!r}: give a function model -> MCMCKernel, e.g. numpyro.infer.NUTS.")
    settings |= {"kernel": type(sampler).__name__, "float": str(jax.numpy.result_type(float)), "seed": seed_text(seed)}
    details = {"kernel_settings": _kernel_settings(sampler), "data": _digest((prior if is_network else None, task))}

    if resume and directory is None:
        raise ValueError("resume is True, but there is no directory: give the directory of the run to go on with.")
    store = None if directory is None else BlockStore(directory, dict(dims or {}))
    with closing(store):
        manifest = store.manifest() if store is not None and resume else None
        if warmup is None:
            warmup = manifest["identity"]["warmup"] if manifest else min(draws * thinning, 1000)
        settings["warmup"] = steps = int(warmup)  # pyright: ignore[reportArgumentType]
        plan = Plan(
            draws=int(draws),
            chains=int(chains),
            warmup=steps,
            thinning=int(thinning),
            stream=stream,
            draws_per_block=None if draws_per_block is None else int(draws_per_block),
            time_limit=time_limit,
            target_ess=target_ess,
            target_mcse=dict(target_mcse or {}),
            hidden=() if store_weights else tuple(latent),
        )
        net = prior if is_network else None
        run = Run(
            sampler,
            arguments,
            _keys(seed, chains),
            plan,
            lambda posterior, stats, streamed, length: to_datatree(
                posterior, stats, net, task, dims or {}, coords or {}, streamed, length
            ),
            settings | details,
            store,
            resume,
            progress,
        )
        settings |= {"draws": int(draws), **run.settings}
        run.template.attrs["settings"] = json.dumps(settings)
        tree = run.sample()
        tree.attrs["settings"] = json.dumps(settings)
    return tree


# Arguments of `sample` that do not hold for each group of chains.
_OF_THE_WHOLE = ("scheduler", "chains", "seed", "chains_per_task", "directory", "resume", "progress")


def _on_workers(
    scheduler, chains: int, seed, chains_per_task, directory, resume: bool, progress: bool, arguments: dict[str, Any]
) -> xr.DataTree:
    from fieldprob.infer.cluster import sample_on  # three seconds to import

    for name, value in (("chains", chains), ("chains_per_task", chains_per_task)):
        optional = name == "chains_per_task" and value is None
        if not optional and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
            raise ValueError(f"{name} is {value!r}: give an integer of at least 1.")
    check_seed(seed, chains)
    if resume and directory is None:
        raise ValueError("resume is True, but there is no directory: give the directory of the run to go on with.")
    if directory is not None and not resume and any(Path(directory).glob("*")):
        raise ValueError(
            f"directory {directory} is not empty: go on with the run in it (resume=True) or give another directory."
        )
    return sample_on(
        scheduler,
        arguments,
        _keys(seed, chains),
        chains_per_task=chains_per_task,
        directory=directory,
        progress=progress,
    )


def choose_face(net, task) -> str:
    """`collapsed` where there is one: it lost in no cell of `benchmarks/sampling.csv`."""
    return "collapsed" if "collapsed" in net.faces else net.faces[0]


def repr_short(prior) -> str:
    """A one-line description of a network for the stored settings."""
    text = " ".join(repr(prior).split())
    return text if len(text) < 500 else text[:497] + "..."


def default_kernel(face: str | None) -> KernelFactory:
    """The kernel that `sample` uses unless given one: `HilbertHMC` on the faces collapsed and kernels, else NUTS.

    There the posterior is close to its standard normal prior in all but a few of very many directions, which is what
    `HilbertHMC` is made for; the measurements are in `benchmarks/README.md`. Chains start from the prior.
    """
    if face in CONDITIONAL_FACES:
        return HilbertHMC
    return partial(NUTS, init_strategy=init_to_sample)


def _check_points(kernel_points, task) -> None:
    total = task.points + task.test_points
    valid = kernel_points.ndim == 1 and kernel_points.size > 0 and np.issubdtype(kernel_points.dtype, np.integer)
    distinct = set(kernel_points.ravel().tolist())
    if not valid or not distinct <= set(range(total)) or len(distinct) < kernel_points.size:
        raise ValueError(
            f"kernel_points is {kernel_points.tolist()}: give distinct indices from 0 to {total - 1} "
            f"({task.points} training points, then {task.test_points} test points)."
        )


def check_seed(seed, chains: int | None = None) -> None:
    """Raise a TypeError unless it is an integer, a JAX key or a key for each of the chains."""
    is_integer = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if is_integer and 0 <= seed < 2**63:
        return
    if isinstance(seed, jax.Array):
        keys = seed.shape if jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key) else seed.shape[:-1]
        typed = seed.dtype == np.uint32 or jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key)
        if typed and keys in ((), (chains,)):
            return
    raise TypeError(f"seed is {seed!r}: give an integer from 0 to 2^63 - 1, a JAX key, or one key per chain.")


def _latent_sites(model, arguments) -> list[str]:
    found: list[str] = []

    def trace():  # abstractly: nothing is computed
        # started as NumPyro does, so that a prior need not be one that can be drawn from
        start = numpyro.handlers.substitute(numpyro.handlers.seed(model, 0), substitute_fn=init_to_uniform)
        sites = numpyro.handlers.trace(start).get_trace(*arguments)
        found.extend(k for k, site in sites.items() if site["type"] == "sample" and not site["is_observed"])

    jax.eval_shape(trace)
    return found


def _check_numbers(draws, chains, warmup, thinning, draws_per_block, time_limit) -> None:
    integers = (
        ("draws", draws, 1),
        ("chains", chains, 1),
        ("warmup", warmup, 0),
        ("thinning", thinning, 1),
        ("draws_per_block", draws_per_block, 1),
    )
    for name, value, least in integers:
        optional = name in ("warmup", "draws_per_block") and value is None
        if not optional and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least):
            raise ValueError(f"{name} is {value!r}: give an integer of at least {least}.")
    if draws_per_block is not None and draws_per_block > draws:
        raise ValueError(f"draws_per_block is {draws_per_block}, more than draws, {draws}: give fewer.")
    is_time = isinstance(time_limit, int | float | np.number) and not isinstance(time_limit, bool)
    if time_limit is not None and (not is_time or not time_limit > 0):
        raise ValueError(f"time_limit is {time_limit!r}: give a positive number of seconds.")


def _names(stream) -> tuple[str, ...]:
    return (stream,) if isinstance(stream, str) else tuple(stream)


def _name(function) -> str:
    return getattr(getattr(function, "func", function), "__name__", type(function).__name__)


def _keys(seed, chains: int):
    """One key per chain; that of a chain does not depend on where the others run."""
    if isinstance(seed, int | np.integer):
        return jax.random.split(jax.random.key(seed), chains)
    keys = seed if jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(seed)
    return keys if keys.ndim else jax.random.split(keys, chains)


def _kernel_settings(sampler) -> dict[str, Any]:
    """What a kernel was made with, as far as it is numbers, words, arrays, containers of them and kernels."""
    found = {name.lstrip("_"): _plain(value) for name, value in sorted(vars(sampler).items())}
    return {name: value for name, value in found.items() if value is not None}


def _plain(value) -> Any:
    if isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, Tracer):
        return (
            f"{value.dtype} {list(value.shape)} {_digest(value)}" if value.size > 1 else repr(float(value.ravel()[0]))
        )
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return {str(key): _plain(entry) for key, entry in enumerate(value)}
    return {"kernel": type(value).__name__, **_kernel_settings(value)} if isinstance(value, MCMCKernel) else None


def _digest(tree) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, np.ndarray | np.generic | jax.Array):
            array = np.asarray(leaf)
            digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        else:
            digest.update(repr(leaf).encode() if isinstance(leaf, bool | int | float | str) else b"")
    return digest.hexdigest()[:16]


def seed_text(seed) -> str:
    """A seed for the stored settings."""
    return str(int(seed)) if isinstance(seed, int | np.integer) else str(jax.random.key_data(seed).tolist())
