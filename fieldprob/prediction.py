"""`Prediction`: what a theory says about named statistics.

A theory is any function (prior, task) -> Prediction. `Prediction(theory="mine", mean={"f": ...})` is a complete one: no
class to inherit from and nothing to register. It is a JAX pytree: a theory can be jitted, mapped and differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import numpy as np
from jax.core import Tracer

from fieldprob import statistics

if TYPE_CHECKING:
    import xarray as xr
    from jax.typing import ArrayLike

Kind = Literal["value", "lower", "upper"]
_MOMENTS = {
    "mean": "",
    "variance": "_variance",
    "covariance": "_covariance",
    "error": "_error",
}
_MOMENTS["variance_error"] = "_variance_error"


class _Static(dict[str, Any]):
    """A dictionary that hashes by content, so that it may be part of a pytree's structure."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(tuple(sorted(self.items())))


def _arrays(argument: str) -> Callable[[Mapping[str, ArrayLike]], dict[str, Any]]:
    # numbers and lists become float64 NumPy arrays, whatever JAX's precision; arrays and tracers stay what they are
    def convert(values: Mapping[str, ArrayLike]) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        for name, value in _named(argument, values, '{"f": array}').items():
            try:
                arrays[name] = value if hasattr(value, "dtype") else np.asarray(value, dtype=float)
            except (TypeError, ValueError):
                raise ValueError(f"{argument}[{name!r}]={value!r}: give a number or an array of real numbers") from None
        return arrays

    return convert


def _kinds(values: Mapping[str, Any]) -> _Static:
    return _Static(_named("kind", values, '{"f": "lower"}'))


def _tuples(argument: str, example: str) -> Callable[[Mapping[str, Any]], _Static]:
    def convert(values: Mapping[str, Any]) -> _Static:
        tuples = _Static()
        for name, value in _named(argument, values, example).items():
            if np.ndim(value) != 1:
                raise ValueError(f"{argument}[{name!r}]={value!r}: give a sequence, such as {example}")
            tuples[name] = tuple(np.asarray(value).tolist())
        return tuples

    return convert


def _named(argument: str, values: Any, example: str) -> dict[str, Any]:
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{argument}={values!r}: give a dictionary from names, such as {example}")
    return dict(values)


_dims, _coords = _tuples("dims", '{"x": ("mode",)}'), _tuples("coords", '{"train_point": [0, 1]}')


class Prediction(eqx.Module):
    """Moments of named statistics as a theory predicts them.

    An array has the dimensions of its statistic (`fieldprob.statistics.dims`), in that order and over all points;
    `f` for instance is (points, outputs), with an `output` dimension of size one for a single output. Variances are
    those of the statistic over the posterior, likelihood noise not included.

    Attributes:
        theory: name of the theory, as tables and figures show it.
        mean: posterior mean of each statistic.
        variance: posterior variance, the shape of the mean.
        covariance: posterior covariance between the entries of a statistic: either (first dimension, first dimension),
            the same for every output, or the shape of the statistic twice. Kept and saved; `compare` does not use it.
        log_evidence: log marginal likelihood of the data.
        error: standard error of `mean` from the theory's own numerics; absent where the number is exact (closed form
            or converged quadrature).
        variance_error: the same for `variance`.
        kind: "value" (the default), or "lower" or "upper" where `mean` is a bound.
        exact: whether `mean` is that of the posterior itself: a sweep measures the errors of other theories against it.
        order: to what order the theory is exact, e.g. "exact as width → ∞".
        source: paper and equation.
        dims: dimensions of statistics that fieldprob does not know by name.
        coords: coordinate values of dimensions, by name; 0, 1, ... where absent.

    Raises:
        ValueError: on an unknown statistic without `dims`, arguments that are no dictionaries of numbers, wrong shapes,
            values that are not finite, negative variances or errors. Traced values are not inspected, their shapes are.

    >>> Prediction(theory="flat", mean={"train_loss": 0.1}).mean["train_loss"].shape
    ()
    """

    theory: str = eqx.field(static=True)
    mean: dict[str, Any] = eqx.field(converter=_arrays("mean"), default_factory=dict)
    variance: dict[str, Any] = eqx.field(converter=_arrays("variance"), default_factory=dict)
    covariance: dict[str, Any] = eqx.field(converter=_arrays("covariance"), default_factory=dict)
    log_evidence: Any = None
    error: dict[str, Any] = eqx.field(converter=_arrays("error"), default_factory=dict)
    variance_error: dict[str, Any] = eqx.field(converter=_arrays("variance_error"), default_factory=dict)
    kind: dict[str, Kind] = eqx.field(converter=_kinds, default_factory=dict, static=True)
    exact: bool = eqx.field(default=False, static=True)
    order: str = eqx.field(default="", static=True)
    source: str = eqx.field(default="", static=True)
    dims: dict[str, tuple[str, ...]] = eqx.field(converter=_dims, default_factory=dict, static=True)
    coords: dict[str, tuple[Hashable, ...]] = eqx.field(converter=_coords, default_factory=dict, static=True)

    def __check_init__(self):
        if not isinstance(self.theory, str) or not self.theory:
            raise ValueError(f"theory={self.theory!r}: give the theory a name")
        if not (self.mean or self.variance or self.log_evidence is not None):
            raise ValueError(f"the prediction of {self.theory!r} is empty: give mean, variance or log_evidence")
        sizes = {dim: (len(values), "coords") for dim, values in self.coords.items()}
        for moment in _MOMENTS:
            for name, value in getattr(self, moment).items():
                where = f"{moment}[{name!r}] of {self.theory!r}"
                _check_shape(where, value, self._dims(name, moment, value), sizes)
                _check_values(where, value, moment)
        _check_same_names("error", self.error, self.mean)
        _check_same_names("variance_error", self.variance_error, self.variance)
        _check_same_names("kind", self.kind, self.mean)
        for name, kind in self.kind.items():
            if kind not in ("value", "lower", "upper"):
                raise ValueError(f'kind[{name!r}]={kind!r}: one of "value", "lower", "upper"')
        if self.log_evidence is not None:
            _check_values(f"log_evidence of {self.theory!r}", self.log_evidence, "mean")

    def _dims(self, name: str, moment: str = "mean", value: Any = None) -> tuple[str, ...]:
        dims = self.dims[name] if name in self.dims else statistics.dims(name)
        if moment != "covariance":
            return dims
        # one matrix for every output, or the full covariance between all entries
        if np.ndim(value) == 2 and len(dims) > 1:
            return (dims[0], f"{dims[0]}_")
        return (*dims, *(f"{dim}_" for dim in dims))

    def to_dataset(self) -> xr.Dataset:
        """As an xarray Dataset that can be written to netCDF and read by `from_dataset`.

        Variables are `<name>`, `<name>_variance`, `<name>_covariance`, `<name>_error` and `<name>_variance_error`, each
        with attributes statistic, moment and kind; attributes of the dataset are theory, exact (0 or 1), order, source,
        log_evidence.
        """
        import xarray as xr

        variables = {}
        for moment, suffix in _MOMENTS.items():
            for name, value in getattr(self, moment).items():
                attrs = {
                    "statistic": name,
                    "moment": moment,
                    "kind": self.kind.get(name, "value"),
                }
                variables[name + suffix] = (
                    self._dims(name, moment, value),
                    np.asarray(value),
                    attrs,
                )
        attrs: dict[str, Any] = {
            "theory": self.theory,
            "exact": int(self.exact),
            "order": self.order,
            "source": self.source,
        }
        if self.log_evidence is not None:
            attrs["log_evidence"] = float(self.log_evidence)
        dataset = xr.Dataset(variables, attrs=attrs)
        coords = {dim: np.asarray(self._coordinate(str(dim), size)) for dim, size in dataset.sizes.items()}
        return dataset.assign_coords(coords)

    def _coordinate(self, dim: str, size: int) -> Any:
        return self.coords.get(dim, self.coords.get(dim.removesuffix("_"), range(size)))

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> Prediction:
        """The prediction that `to_dataset` wrote.

        Raises:
            ValueError: the dataset was not written by `to_dataset`.
        """
        if "theory" not in dataset.attrs or any("moment" not in v.attrs for v in dataset.data_vars.values()):
            raise ValueError("dataset is not a saved prediction: read one that Prediction.to_dataset wrote")
        moments: dict[str, dict[str, Any]] = {moment: {} for moment in _MOMENTS}
        kind, dims = {}, {}
        for variable in dataset.data_vars.values():
            name, moment = variable.attrs["statistic"], variable.attrs["moment"]
            moments[moment][name] = variable.values
            if variable.attrs["kind"] != "value":
                kind[name] = variable.attrs["kind"]
            if moment != "covariance":
                dims[name] = tuple(map(str, variable.dims))
        coords: dict[str, Any] = {}
        for dim, size in dataset.sizes.items():
            values, name = dataset[dim].values, str(dim)
            implied = coords.get(name.removesuffix("_"), range(size))
            if not np.array_equal(values, np.asarray(implied)):
                coords[name] = values
        attrs = dataset.attrs
        return cls(
            theory=attrs["theory"],
            exact=bool(attrs.get("exact", False)),
            order=attrs["order"],
            source=attrs["source"],
            log_evidence=attrs.get("log_evidence"),
            kind=kind,
            dims={name: d for name, d in dims.items() if not _is_default(name, d)},
            coords=coords,
            **moments,
        )


def _is_default(name: str, dims: tuple[str, ...]) -> bool:
    try:
        return statistics.dims(name) == dims
    except ValueError:
        return False


def _check_shape(where: str, value: Any, dims: tuple[str, ...], sizes: dict[str, tuple[int, str]]) -> None:
    shape = np.shape(value)
    if len(shape) != len(dims):
        raise ValueError(f"{where} has shape {shape}: its dimensions are ({', '.join(dims)}), {len(dims)} of them")
    for dim, size in zip(dims, shape, strict=True):
        base = dim.removesuffix("_")
        known, whose = sizes.setdefault(dim if dim in sizes else base, (size, where))
        if known != size:
            raise ValueError(f"{where} has {size} entries along {dim}, but {whose} has {known}: give both the same")


def _check_values(where: str, value: Any, moment: str) -> None:
    if isinstance(value, Tracer):
        return
    value = np.asarray(value)
    if not np.issubdtype(value.dtype, np.number) or np.iscomplexobj(value):
        raise ValueError(f"{where} has dtype {value.dtype}: give real numbers")
    if not np.all(np.isfinite(value)):
        raise ValueError(f"{where} has {np.sum(~np.isfinite(value))} of {value.size} values that are NaN or infinite")
    # a variance that is the difference of two covariances may round to just below zero
    floor = -1e-8 * np.max(np.abs(value), initial=0) if moment == "variance" else 0.0
    if moment in ("variance", "error", "variance_error") and np.any(value < floor):
        raise ValueError(f"{where} is negative ({np.min(value):.3g}): variances and errors cannot be")


def _check_same_names(argument: str, given: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    for name in given:
        if name not in allowed:
            raise ValueError(f"{argument}[{name!r}] belongs to no predicted statistic: predicted are {sorted(allowed)}")
