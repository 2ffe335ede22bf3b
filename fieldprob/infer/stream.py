"""Moments, errors and diagnostics of streamed statistics, from means of x and of x^2 over blocks of draws.

The mean over a block of n draws has the Monte Carlo standard error of the draws: sums are the same. ArviZ estimates it
from the block means as it would from draws; the variance of a single draw is <x^2> - <x>^2, and
ESS = variance / MCSE^2. R-hat is ArviZ's on the block means; within a block a chain averages, so that it is stricter
than R-hat of the draws where chains have not met.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from fieldprob.infer.datatree import square_name

_ENTRIES = 4096  # at a time, so that memory holds a few of the arrays (chain, block, entries) only


class StreamedMoments(NamedTuple):
    """Of every entry of a streamed statistic; arrays with its dimensions.

    Attributes:
        mean: posterior mean.
        variance: posterior variance.
        mcse: Monte Carlo standard error of the mean.
        ess: effective number of independent draws behind the mean.
        rhat: potential scale reduction of the block means.
    """

    mean: xr.DataArray
    variance: xr.DataArray
    mcse: xr.DataArray
    ess: xr.DataArray
    rhat: xr.DataArray


def streamed_moments(tree: xr.DataTree, name: str) -> StreamedMoments:
    """Posterior moments of a statistic that `fieldprob.sample` was told to stream, with their errors.

    Args:
        tree: of `fieldprob.sample(..., stream=(name, ...))`.
        name: of the statistic.

    Returns:
        mean, variance, mcse, ess and rhat, each with the dimensions of the statistic. Entries that are the same in all
        draws have mcse 0 and NaN for ess and rhat; with fewer than four blocks a chain the last three are NaN.

    Raises:
        KeyError: nothing of this name was streamed.

    >>> import fieldprob as fp
    >>> from fieldprob.infer.stream import streamed_moments
    >>> task = fp.tasks.linear_teacher(4, inputs=2, noise_variance=0.1, seed=0)
    >>> tree = fp.sample(fp.Mlp(width=4), task, draws=40, chains=2, stream=("kernel_1",), progress=False)
    >>> streamed_moments(tree, "kernel_1").mean.dims
    ('point', 'point_')
    """
    from arviz_stats.base import array_stats  # two seconds, so not before it is needed

    streamed = tree.children.get("stream")
    if streamed is None or square_name(name) not in streamed.data_vars:
        known = [] if streamed is None else [n for n in map(str, streamed.data_vars) if square_name(n) in streamed]
        raise KeyError(
            f"{name!r} was not streamed; " + (f"streamed are: {', '.join(known)}" if known else "nothing was")
        )
    dataset = streamed.to_dataset()
    means, squares = dataset[name], dataset[square_name(name)]
    shape = means.shape[2:]
    numbers = np.full((5, *shape), np.nan)
    flat = numbers.reshape(5, -1)
    rows = max(1, _ENTRIES // int(np.prod(shape[1:]))) if shape else 1
    for start in range(0, shape[0] if shape else 1, rows):
        part = (slice(None), slice(None), slice(start, start + rows)) if shape else ...
        x, square = (np.asarray(a.variable[part].values, float).reshape(*a.shape[:2], -1) for a in (means, squares))
        x, square = np.moveaxis(x, 2, 0), np.moveaxis(square, 2, 0)
        mean = x.mean(axis=(1, 2))
        variance = np.maximum(square.mean(axis=(1, 2)) - mean**2, 0.0)
        varying = variance > (1e-7 * mean) ** 2
        mcse = np.where(varying, np.nan, 0.0)
        rhat = np.full(len(x), np.nan)
        if varying.any() and x.shape[2] >= 4:
            with np.errstate(divide="ignore", invalid="ignore"):  # chains that do not move
                mcse[varying] = array_stats.mcse(x[varying], method="mean")
                rhat[varying] = array_stats.rhat(x[varying])
        with np.errstate(divide="ignore", invalid="ignore"):
            ess = np.where(varying, variance / mcse**2, np.nan)
        entries = slice(start * int(np.prod(shape[1:])), None) if shape else slice(None)
        flat[:, entries][:, : len(x)] = mean, variance, mcse, ess, rhat
    coords = {key: c for key, c in means.coords.items() if {*c.dims} <= {*means.dims[2:]}}
    return StreamedMoments(*(xr.DataArray(n, dims=means.dims[2:], coords=coords, name=name) for n in numbers))
