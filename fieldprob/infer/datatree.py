"""Samples as an ArviZ DataTree: named dimensions and coordinates, ArviZ's names of sample statistics, and the data."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr

from fieldprob import statistics

# NumPyro's field -> ArviZ's name, as in arviz.from_numpyro.
_SAMPLE_STATS = {
    "potential_energy": "lp",
    "energy": "energy",
    "num_steps": "n_steps",
    "accept_prob": "acceptance_rate",
    "adapt_state.step_size": "step_size",
    "diverging": "diverging",
}

# Of `ReplicaExchange`, cold to hot.
_STAT_DIMS = {"swap_accept_prob": ("pair",), "energies": ("slot",), "inverse_temperatures": ("slot",)}


def to_datatree(
    posterior: Mapping[str, np.ndarray],
    stats: Mapping[str, np.ndarray],
    net,
    task,
    dims: Mapping[str, tuple[str, ...]],
    coords: Mapping[str, Any],
    stream: Mapping[str, np.ndarray] | None = None,
    draws_per_block: int = 1,
) -> xr.DataTree:
    """The groups posterior, sample_stats, observed_data and constant_data from arrays (chain, draw, ...).

    Dimensions come from `fieldprob.statistics`, else from `dims`, else are numbered `name_dim_0`, ... as ArviZ does.
    Streamed statistics, arrays (chain, block, ...) of block means `name` and `name_square`, make the group stream.
    """
    groups: dict[str, xr.Dataset] = {
        "posterior": labelled(posterior, dims, coords, ("chain", "draw")),
        "sample_stats": labelled(arviz_names(stats), {**_STAT_DIMS, **dims}, coords, ("chain", "draw")),
    }
    # Every statistic may be streamed; chain and draw are dimensions of the posterior nevertheless.
    for name in ("chain", "draw"):
        if name not in groups["posterior"].dims and name in groups["sample_stats"].coords:
            groups["posterior"] = groups["posterior"].assign_coords({name: groups["sample_stats"][name]})
    if stream:
        shared = {square_name(name): event_dims(name, stream[name].ndim - 2, dims) for name in stream}
        groups["stream"] = labelled(stream, {**shared, **dims}, coords, ("chain", "block"))
        groups["stream"].attrs["draws_per_block"] = int(draws_per_block)
    for group in ("posterior", "stream"):
        if group in groups and "point" in groups[group].dims and task is not None:
            split = np.where(groups[group]["point"].values < task.points, "train", "test")
            groups[group] = groups[group].assign_coords(split=("point", split))
    if task is not None:
        groups["observed_data"] = observed_data(task, coords)
        groups["constant_data"] = constant_data(net, task, coords)
    attrs = {"inference_library": "numpyro", "inference_library_version": version("numpyro")}
    groups["posterior"] = groups["posterior"].assign_attrs(attrs)
    return xr.DataTree.from_dict(groups, name="fieldprob")


def square_name(name: str) -> str:
    """The name of the block means of x^2 beside those of x."""
    return f"{name}_square"


def arviz_names(stats: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sample statistics under the names of `arviz.from_numpyro`; its `lp` is a log density, so the sign changes."""
    renamed = {_SAMPLE_STATS.get(name, name): np.asarray(value) for name, value in stats.items()}
    if "lp" in renamed:
        renamed["lp"] = -renamed["lp"]
    return renamed


def observed_data(task, coords) -> xr.Dataset:
    """Targets: `y` at the training points, `y_1`, `y_2`, ... of observations through linear operators."""
    data, names = {"y": np.asarray(task.y)}, {"y": ("train_point", "output")}
    for i, observation in enumerate(getattr(task, "observations", ())[1:], start=1):
        data[f"y_{i}"], names[f"y_{i}"] = np.asarray(observation.y), (f"observation_{i}", "output")
    return labelled(data, names, coords)


def constant_data(net, task, coords) -> xr.Dataset:
    """What was given: inputs, noise, test points."""
    noise_dims = ((), ("train_point",), ("train_point", "train_point_"))
    data = {"X": task.X, "noise_variance": task.noise_variance}
    names: dict[str, tuple[str, ...]] = {
        "X": ("train_point", "input"),
        "noise_variance": noise_dims[task.noise_variance.ndim],
    }
    if net is not None:
        data["effective_noise"] = net.effective_noise(task)
        names["effective_noise"] = names["noise_variance"]
        data["chi"] = net.chi
    if task.test_points:
        data["X_test"], names["X_test"] = task.X_test, ("test_point", "input")
        if task.y_test is not None:
            data["y_test"], names["y_test"] = task.y_test, ("test_point", "output")
    return labelled({name: np.asarray(value) for name, value in data.items()}, names, coords).assign_attrs(
        task=task.name
    )


def labelled(data, dims, coords, sample_dims: tuple[str, ...] = ()) -> xr.Dataset:
    """Arrays (sample dimensions, ...) as a Dataset with named dimensions and coordinates."""
    variables = {}
    for name, value in data.items():
        event = value.ndim - len(sample_dims)
        variables[name] = ((*sample_dims, *event_dims(name, event, dims)), value)
    dataset = xr.Dataset(variables)
    given = {
        d: np.asarray(c) for d, c in coords.items() if d in dataset.dims and len(np.asarray(c)) == dataset.sizes[d]
    }
    missing = {d: np.arange(n) for d, n in dataset.sizes.items() if d not in given}
    return dataset.assign_coords(given | missing)


def event_dims(name: str, event: int, dims: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Names of the `event` dimensions of a statistic that come after those of the sample."""
    if name in dims:
        known = tuple(dims[name])
    else:
        try:
            known = statistics.dims(name)
        except ValueError:
            known = ()
    return known if len(known) == event else tuple(f"{name}_dim_{i}" for i in range(event))
