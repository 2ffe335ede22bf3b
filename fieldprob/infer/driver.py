"""The driver around `numpyro.infer.MCMC`: chains batched on one device, draws taken in blocks so that an interruption
keeps the blocks that are done, and an ArviZ DataTree out."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import numpyro
import xarray as xr
from numpyro.infer import MCMC, NUTS, init_to_sample
from numpyro.infer.mcmc import MCMCKernel
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from fieldprob.infer.datatree import to_datatree
from fieldprob.networks.regression import check_face, check_task, default_kernel_points, regression

KernelFactory = Callable[..., Any]

_BLOCKS = 40  # how often progress is shown and an interruption is noticed
_NO_START = (
    "the potential energy is not finite where the chains start: the model returns NaN, or noise_variance is too small. "
    "Use float64 (--precision 64, or jax_enable_x64) or a larger noise_variance."
)
_EXTRA_FIELDS = ("potential_energy", "energy", "num_steps", "accept_prob", "adapt_state.step_size")


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
    store_weights: bool = False,
    progress: bool = True,
    dims: Mapping[str, tuple[str, ...]] | None = None,
    coords: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Sample the posterior of a network on a task, or of any NumPyro model.

    Args:
        prior: a network (its `face` becomes the model), or a NumPyro model: a callable of the task, or of nothing
            where `task` is None.
        task: the data, see `fieldprob.Task`.
        draws: draws kept per chain.
        chains: number of chains, batched on one device.
        seed: an integer or a JAX key.
        warmup: adaptation steps, discarded; as many as draws, but at most 1000, unless given. Rounded up to whole
            blocks of a fortieth of the draws.
        kernel: model -> NumPyro MCMCKernel, e.g. `numpyro.infer.NUTS` or `functools.partial(NUTS, max_tree_depth=6)`.
            Unless given: see `default_kernel`.
        model: (network, task, face=, precision=, kernel_points=) -> None, the NumPyro model of a network on a task.
        face: which face of the network is sampled; "auto" takes "collapsed" (see `choose_face`).
        precision: of the features of the collapsed face, see `fieldprob.regression`.
        kernel_points: points whose layer kernels are recorded, see `fieldprob.regression`.
        store_weights: keep the latent sites too (they are many, and not invariant under permutations of neurons).
        progress: show progress bars.
        dims: names of the dimensions of sites that fieldprob does not know.
        coords: coordinates of dimensions.

    Returns:
        A DataTree with the groups posterior, sample_stats, observed_data and constant_data, and the settings as
        attributes. After an interruption it holds the draws of the finished blocks, and `attrs["interrupted"]` is 1.

    Raises:
        ValueError: an argument is out of range; the model has no latent variable; the initial energy is not finite.
        KeyboardInterrupt: interrupted before the first block of draws was complete.

    >>> import fieldprob as fp
    >>> task = fp.tasks.linear_teacher(4, inputs=2, noise_variance=0.1, seed=0)
    >>> samples = fp.sample(fp.Mlp(width=4), task, draws=20, chains=2, warmup=10, seed=0, progress=False)
    >>> dict(samples.posterior["f"].sizes)
    {'chain': 2, 'draw': 20, 'train_point': 4, 'output': 1}
    """
    warmup = min(draws, 1000) if warmup is None else warmup
    for name, value, least in (("draws", draws, 1), ("chains", chains, 1), ("warmup", warmup, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}: give an integer of at least {least}.")
    _check_seed(seed)
    block, warmup_blocks = _block_sizes(draws, warmup)
    settings: dict[str, Any] = {"draws": int(draws), "chains": int(chains), "warmup": block * warmup_blocks}
    is_network = hasattr(prior, "faces")
    if is_network:
        check_task(task)
        face = choose_face(prior, task) if face == "auto" else face
        check_face(prior, face)
        kernel_points = default_kernel_points(task) if kernel_points is None else np.asarray(kernel_points)
        _check_points(kernel_points, task)
        model = partial(model, prior, face=face, precision=precision, kernel_points=kernel_points)
        settings |= {"face": face, "precision": precision, "prior": repr_short(prior)}
        coords = {"point": kernel_points, "point_": kernel_points} | dict(coords or {})
    elif callable(prior):
        model = prior
        settings |= {"prior": getattr(getattr(prior, "func", prior), "__name__", type(prior).__name__)}
    else:
        raise TypeError(f"prior is a {type(prior).__name__}: give a network (e.g. fp.Mlp) or a NumPyro model.")
    arguments = () if task is None else (task,)

    latent = _latent_sites(model, arguments)
    if not latent:
        raise ValueError("the model has no latent variable to sample: its posterior is the closed form of its theory.")
    factory = default_kernel(settings.get("face")) if kernel is None else kernel
    sampler = factory(model) if callable(factory) else None
    if not isinstance(sampler, MCMCKernel):
        raise TypeError(f"kernel is {kernel!r}: give a function model -> MCMCKernel, e.g. numpyro.infer.NUTS.")
    settings |= {"kernel": type(sampler).__name__, "float": str(jax.numpy.result_type(float)), "seed": _seed_text(seed)}

    remove = () if store_weights else tuple(f"~{sampler.sample_field}.{site}" for site in latent if is_network)
    posterior, stats, interrupted = _run(sampler, arguments, draws, chains, warmup, seed, remove, progress)
    tree = to_datatree(posterior, stats, prior if is_network else None, task, dims or {}, coords or {})
    tree.attrs |= {"settings": json.dumps(settings), "interrupted": int(interrupted)}
    return tree


def choose_face(net, task) -> str:
    """`collapsed` where there is one: it lost in no cell of `benchmarks/sampling.csv`."""
    return "collapsed" if "collapsed" in net.faces else net.faces[0]


def repr_short(prior) -> str:
    """A one-line description of a network for the stored settings."""
    text = " ".join(repr(prior).split())
    return text if len(text) < 500 else text[:497] + "..."


def default_kernel(face: str | None) -> KernelFactory:
    """The kernel that `sample` uses unless given one: NUTS started from the prior.

    On the collapsed face the posterior is close to its standard normal prior: there is no mass matrix to learn, and a
    trajectory of about one unit decorrelates, where NUTS would go on to its U-turn at pi. On digits (60 points, noise
    variance 0.1, widths 128 and 512) trees of depth 3, 7 steps, gave 2 to 4 times the effective samples per second of
    depths 4 and 5. On a cubic teacher that made the step small (0.1), depth 4 was better, and
    `functools.partial(numpyro.infer.HMC, trajectory_length=1.2, adapt_mass_matrix=False)` better still: 1.4 to 2.3
    times the default on three tasks at width 128, one seed each.
    """
    if face == "collapsed":
        return partial(NUTS, adapt_mass_matrix=False, max_tree_depth=3, init_strategy=init_to_sample)
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


def _check_seed(seed) -> None:
    is_integer = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    is_key = isinstance(seed, jax.Array) and (seed.ndim == 0 or seed.dtype == np.uint32)
    if not (is_key or is_integer) or (is_integer and not 0 <= seed < 2**63):
        raise TypeError(f"seed is {seed!r}: give an integer from 0 to 2^63 - 1, or a JAX key.")


def _latent_sites(model, arguments) -> list[str]:
    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(model).get_trace(*arguments)
    return [k for k, site in trace.items() if site["type"] == "sample" and not site["is_observed"]]


def _run(sampler, arguments, draws, chains, warmup, seed, remove, progress):
    """Warm up, then draw, in equal blocks of one compiled function; (posterior, sample statistics, interrupted) with
    arrays (chain, draw, ...)."""
    key = jax.random.key(seed) if isinstance(seed, int | np.integer) else seed
    keys = jax.random.split(key, chains) if chains > 1 else key
    block, warmup_blocks = _block_sizes(draws, warmup)
    try:
        state = sampler.init(keys, block * warmup_blocks, None, arguments, {})
    except RuntimeError as error:
        if "initial parameters" not in str(error):
            raise
        raise ValueError(_NO_START) from error
    _check_initial_energy(state)
    fields = tuple(f for f in _EXTRA_FIELDS if _has_field(state, f)) + remove

    @jax.jit
    def advance(state):
        # MCMC inside jit: compiled once and repeated, where MCMC.run alone would compile every block again.
        mcmc = MCMC(
            sampler,
            num_warmup=0,
            num_samples=block,
            num_chains=chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.post_warmup_state = state
        mcmc.run(state.rng_key, *arguments, extra_fields=fields)
        return mcmc.last_state, mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields(group_by_chain=True)

    blocks: list[tuple[dict, dict]] = []
    interrupted = False
    # LAPACK sees only small blocks here (fieldprob.gp.marginal). Its own threads would wait for one another: beside one
    # busy process on two cores, a gradient of 0.2 ms took 16 ms.
    try:
        with (
            threadpool_limits(1, user_api="blas"),
            tqdm(total=block * warmup_blocks + draws, disable=not progress, unit="draw", desc="compiling") as bar,
        ):
            for index in range(warmup_blocks - (-draws // block)):
                state, samples, stats = jax.block_until_ready(advance(state))
                if index >= warmup_blocks:
                    blocks.append(jax.tree.map(np.asarray, (samples, stats)))
                bar.set_description("warmup" if index + 1 < warmup_blocks else "sample", refresh=False)
                bar.set_postfix_str(_progress_text(stats), refresh=False)
                bar.update(min(block, bar.total - bar.n))
    except KeyboardInterrupt:
        if not blocks:
            raise
        interrupted = True
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, :draws], *blocks)
    return (*joined, interrupted)


def _block_sizes(draws: int, warmup: int) -> tuple[int, int]:
    """Length of a block, and the number of blocks of warmup (the last of them rounds the warmup up)."""
    block = -(-draws // _BLOCKS)
    return block, -(-warmup // block)


def _has_field(state, field: str) -> bool:
    for part in field.split("."):
        if not hasattr(state, part):
            return False
        state = getattr(state, part)
    return True


def _check_initial_energy(state) -> None:
    energy = getattr(state, "potential_energy", None)
    if energy is not None and not np.all(np.isfinite(energy)):
        raise ValueError(_NO_START)


def _progress_text(stats) -> str:
    parts = []
    if "num_steps" in stats:
        parts.append(f"{np.mean(stats['num_steps']):.0f} steps")
    if "accept_prob" in stats:
        parts.append(f"acceptance {np.mean(stats['accept_prob']):.2f}")
    return ", ".join(parts)


def _seed_text(seed) -> str:
    return str(int(seed)) if isinstance(seed, int | np.integer) else str(jax.random.key_data(seed).tolist())
