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


def to_datatree(
    posterior: Mapping[str, np.ndarray],
    stats: Mapping[str, np.ndarray],
    net,
    task,
    dims: Mapping[str, tuple[str, ...]],
    coords: Mapping[str, Any],
) -> xr.DataTree:
    """The groups posterior, sample_stats, observed_data and constant_data from arrays (chain, draw, ...).

    Dimensions come from `fieldprob.statistics`, else from `dims`, else are numbered `name_dim_0`, ... as ArviZ does.
    """
    groups: dict[str, xr.Dataset] = {
        "posterior": _dataset(posterior, dims, coords, ("chain", "draw")),
        "sample_stats": _dataset(_arviz_names(stats), dims, coords, ("chain", "draw")),
    }
    if "point" in groups["posterior"].dims and task is not None:
        points = groups["posterior"]["point"].values
        split = np.where(points < task.points, "train", "test")
        groups["posterior"] = groups["posterior"].assign_coords(split=("point", split))
    if task is not None:
        groups["observed_data"] = _dataset({"y": np.asarray(task.y)}, {"y": ("train_point", "output")}, coords)
        groups["constant_data"] = _constant_data(net, task, coords)
    attrs = {"inference_library": "numpyro", "inference_library_version": version("numpyro")}
    groups["posterior"] = groups["posterior"].assign_attrs(attrs)
    return xr.DataTree.from_dict(groups, name="fieldprob")


def _arviz_names(stats):
    renamed = {_SAMPLE_STATS.get(name, name): np.asarray(value) for name, value in stats.items()}
    if "lp" in renamed:
        renamed["lp"] = -renamed["lp"]
    return renamed


def _constant_data(net, task, coords) -> xr.Dataset:
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
    return _dataset({name: np.asarray(value) for name, value in data.items()}, names, coords).assign_attrs(
        task=task.name
    )


def _dataset(data, dims, coords, sample_dims: tuple[str, ...] = ()) -> xr.Dataset:
    variables = {}
    for name, value in data.items():
        event = value.ndim - len(sample_dims)
        variables[name] = ((*sample_dims, *_dims_of(name, event, dims)), value)
    dataset = xr.Dataset(variables)
    given = {
        d: np.asarray(c) for d, c in coords.items() if d in dataset.dims and len(np.asarray(c)) == dataset.sizes[d]
    }
    missing = {d: np.arange(n) for d, n in dataset.sizes.items() if d not in given}
    return dataset.assign_coords(given | missing)


def _dims_of(name: str, event: int, dims) -> tuple[str, ...]:
    if name in dims:
        known = tuple(dims[name])
    else:
        try:
            known = statistics.dims(name)
        except ValueError:
            known = ()
    return known if len(known) == event else tuple(f"{name}_dim_{i}" for i in range(event))
