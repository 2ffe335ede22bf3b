"""`Study`: a prior, a task, the theories that predict it and how to sample it; `Result`: what came of it.

A result is one xarray DataTree in one netCDF file. `arviz.from_netcdf` opens it without fieldprob: the groups of the
samples (posterior, sample_stats, observed_data, constant_data), one group a theory under `predictions`, and the table
`comparison`.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import xarray as xr

from fieldprob.compare import Comparison, compare
from fieldprob.infer import sample
from fieldprob.prediction import Prediction

__all__ = ["Result", "Study", "atomic", "load", "opened", "read_settings"]

RESULT = "result.nc"


@dataclass(frozen=True)
class Result:
    """The samples, predictions and comparison of a study.

    Attributes:
        samples: DataTree of draws, as `fieldprob.sample` returns it.
        predictions: one `Prediction` a theory.
        comparison: the `Comparison` of the two, None where there was nothing to compare.
        settings: what is needed to repeat it (plain JSON values); stored as the attribute `study` of the file.
    """

    samples: xr.DataTree
    predictions: tuple[Prediction, ...]
    comparison: Comparison | None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def interrupted(self) -> bool:
        """Whether sampling was stopped before all draws were made."""
        return bool(self.samples.attrs.get("interrupted", 0))

    def to_datatree(self) -> xr.DataTree:
        """Everything in one DataTree of plain arrays and attributes, ready for netCDF."""
        groups = {node.path: node.to_dataset(inherit=False) for node in self.samples.subtree}
        groups["/"] = groups["/"].assign_attrs(study=json.dumps(self.settings, default=str))
        for index, prediction in enumerate(self.predictions):
            groups[f"/predictions/{prediction.theory.replace('/', ' ')}"] = prediction.to_dataset().assign_attrs(
                index=index
            )
        if self.comparison is not None:
            groups["/comparison"] = _table_to_dataset(self.comparison.to_dataframe())
        return xr.DataTree.from_dict({path: _plain(dataset) for path, dataset in groups.items()})

    def save(self, path: str | Path) -> Path:
        """Writes one netCDF file, all of it or nothing: an existing file is replaced only by a complete one.

        Args:
            path: the file, or a directory, in which the file is called `result.nc`.

        Raises:
            OSError: the file cannot be written, the disk is full, say.
        """
        path = _result_file(path)
        tree = self.to_datatree()
        with atomic(path) as temporary:
            _reserve(temporary, sum(node.dataset.nbytes for node in tree.subtree) + 2**20)
            tree.to_netcdf(temporary, engine="h5netcdf")
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Reads what `save` wrote (a file, or a directory that holds `result.nc`) and compares it anew.

        Raises:
            FileNotFoundError: there is no result.
            ValueError: the file is truncated or was not written by fieldprob.
        """
        with opened(path) as unread:
            tree = unread.load()
        groups = {
            node.path: node.to_dataset(inherit=False)
            for node in tree.subtree
            if not node.path.startswith(("/predictions", "/comparison"))
        }
        samples = xr.DataTree.from_dict(groups)
        settings = json.loads(samples.attrs.pop("study"))
        branch = tree["predictions"].children if "predictions" in tree.children else {}
        stored = [node.to_dataset(inherit=False) for node in branch.values()]
        stored.sort(key=lambda dataset: int(dataset.attrs["index"]))
        predictions = tuple(Prediction.from_dataset(dataset) for dataset in stored)
        return cls(samples, predictions, _compare(samples, predictions), settings)


@dataclass(frozen=True)
class Study:
    """A prior on a task, the theories to hold against it, and how to sample it.

    Args:
        prior: a network, or any NumPyro model. A system without data has task=None.
        task: what is observed, or None.
        theories: functions (prior, task) -> Prediction.
        sampling: arguments of `fieldprob.sample` (draws, chains, warmup, kernel, face, ...).
        seed: of the sampler.
        sampler: what samples, a function (prior, task, *, seed, progress, ...) -> DataTree; `fieldprob.sample` unless
            given, `fieldprob.infer.data_average` for a population.
        figures: what a run draws beside its comparison: name -> function (Result) -> matplotlib Figure, written as
            `<name>.png`.
        chosen: values of the parameters that were left to the study (None); a run records them.
        marks: values to point out where a parameter is swept: parameter -> {label: value}.

    A study does nothing until it is asked to:

    >>> study = Study(prior=lambda: None, sampling={"draws": 100, "chains": 2}, seed=3)
    >>> study.seed, study.predict()
    (3, ())
    """

    prior: Any
    task: Any = None
    theories: Sequence[Callable[[Any, Any], Prediction]] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    sampler: Callable[..., xr.DataTree] | None = None
    figures: Mapping[str, Callable[[Result], Any]] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self):
        if self.sampler is None and not callable(self.prior) and not hasattr(self.prior, "faces"):
            raise TypeError(
                f"Study: prior is a {type(self.prior).__name__}; give a network or a NumPyro model (a function)"
            )
        theories = (self.theories,) if callable(self.theories) else tuple(self.theories)
        for theory in theories:
            if not callable(theory):
                raise TypeError(f"Study: theories holds {theory!r}; each is a function (prior, task) -> Prediction")
        if not isinstance(self.sampling, Mapping):
            raise TypeError(
                f"Study: sampling is a {type(self.sampling).__name__}; give a dictionary, dict(draws=1000, chains=4)"
            )
        sampling = dict(self.sampling)
        seed = sampling.pop("seed", self.seed)
        if self.seed not in (0, seed):
            raise ValueError(f"Study: seed={self.seed}, but sampling has seed={seed}; give one of them")
        object.__setattr__(self, "theories", theories)
        object.__setattr__(self, "sampling", sampling)
        object.__setattr__(self, "seed", seed)

    def predict(self) -> tuple[Prediction, ...]:
        """The prediction of each theory, computed in float64 whatever the precision of the samples.

        Raises:
            TypeError: a theory returned something else than a `Prediction`.
            ValueError: two theories have one name.
        """
        with jax.enable_x64(True):
            prior, task = _in_float64((self.prior, self.task))
            predictions = tuple(theory(prior, task) for theory in self.theories)
        for theory, prediction in zip(self.theories, predictions, strict=True):
            if not isinstance(prediction, Prediction):
                name = getattr(theory, "__name__", repr(theory))
                raise TypeError(
                    f"the theory {name} returned a {type(prediction).__name__}; it must return a fp.Prediction"
                )
        names = [prediction.theory for prediction in predictions]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two theories of the study are called '{name}'; give each Prediction its own name")
        return predictions

    def sample(self, progress: bool = True) -> xr.DataTree:
        """Draws from the posterior, as the sampler returns them."""
        options = {"seed": self.seed, "progress": progress, **self.sampling}
        return (self.sampler or sample)(self.prior, self.task, **options)

    def run(self, progress: bool = True) -> Result:
        """Predicts, samples and compares. Theories come first: what they refuse is known before the long part."""
        predictions = self.predict()
        samples = self.sample(progress=progress)
        return Result(samples, predictions, _compare(samples, predictions))


def _in_float64(tree):
    return jax.tree.map(lambda x: x.astype("float64") if eqx.is_inexact_array(x) else x, tree)


def load(path: str | Path) -> Result:
    """Reads a saved result: a `result.nc`, or the directory of a run. See `Result.load`."""
    return Result.load(path)


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a saved result, and under "interrupted" whether it is one; the samples are not read.

    Raises:
        FileNotFoundError, ValueError: as `Result.load`.
    """
    with opened(path) as tree:
        return {**json.loads(tree.attrs["study"]), "interrupted": bool(tree.attrs.get("interrupted", 0))}


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name once the block has ended well, and is removed otherwise."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as either
        code, reason = getattr(error, "errno", None) or 0, getattr(error, "strerror", None) or str(error)
        message = f"cannot write {path} ({reason}); free some space or choose another directory"
        raise OSError(code, message) from error
    finally:
        temporary.unlink(missing_ok=True)


def _reserve(path: Path, size: int) -> None:
    # HDF5 crashes the process when the disk fills up under it, so that the room is claimed for a moment beforehand.
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, size)
        path.unlink()


def _result_file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".nc" else path / RESULT


def _compare(samples: xr.DataTree, predictions: Sequence[Prediction]) -> Comparison | None:
    return compare(samples, predictions) if predictions else None


@contextmanager
def opened(path: str | Path) -> Iterator[xr.DataTree]:
    """The tree of a saved result, arrays unread; closed at the end, so that no handle hinders replacing the file.

    Raises:
        FileNotFoundError, ValueError: as `Result.load`.
    """
    path = _result_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no result at {path}; `fieldprob run` writes one")
    try:
        tree = xr.open_datatree(path, engine="h5netcdf")
    except PermissionError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is truncated or not a netCDF file; delete it and run again") from error
    with tree:
        if "study" not in tree.attrs or not {"posterior", "trajectory"} & set(tree.children):
            raise ValueError(f"{path} was not written by fieldprob; give the directory of a `fieldprob run`")
        try:
            yield tree
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged and cannot be read; delete it and run again") from error


def _table_to_dataset(table: pd.DataFrame) -> xr.Dataset:
    # A plain numbered table: whatever labels its rows becomes columns.
    if table.index.nlevels > 1 or table.index.name is not None:
        table = table.reset_index()
    columns = {}
    for name, column in table.items():
        values = column.to_numpy()
        numeric = values.dtype.kind in "fiub"
        columns[str(name)] = (
            "row",
            values if numeric else np.array(["" if v is None else str(v) for v in values], dtype=str),
        )
    return xr.Dataset(columns)


def _plain(dataset: xr.Dataset) -> xr.Dataset:
    dataset = dataset.assign(
        {name: array.copy(data=np.asarray(array.values)) for name, array in dataset.data_vars.items()}
    )
    for holder in (dataset, *dataset.variables.values()):
        holder.attrs = {str(key): _plain_attribute(value) for key, value in holder.attrs.items() if value is not None}
    return dataset


def _plain_attribute(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, str | int | float | np.number):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return value
    return json.dumps(value, default=str)
