"""`Prediction`: what it accepts, what it refuses, and that it survives files and transformations."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fieldprob import prediction
from fieldprob.prediction import Prediction


def full_prediction():
    return Prediction(
        theory="full",
        mean={"f": np.ones((3, 2)), "kernel_1": np.eye(4), "overlap": np.array([0.1, 0.2])},
        variance={"f": np.full((3, 2), 0.5)},
        covariance={"f": np.eye(3)},
        log_evidence=-1.5,
        error={"overlap": np.array([0.01, 0.02])},
        variance_error={"f": np.full((3, 2), 0.1)},
        kind={"overlap": "lower"},
        exact=True,
        order="exact",
        source="nowhere",
        dims={"overlap": ("teacher",)},
        coords={"train_point": [4, 7, 9], "teacher": ["a", "b"]},
    )


def test_doctests_run():
    assert doctest.testmod(prediction).failed == 0


def test_a_name_and_a_mean_are_enough():
    p = Prediction(theory="mine", mean={"train_loss": 0.1})
    assert p.mean["train_loss"] == 0.1
    assert (p.variance, p.covariance, p.error, p.log_evidence, p.order, p.source) == ({}, {}, {}, None, "", "")
    assert p.exact is False


def test_the_evidence_alone_is_a_prediction():
    p = Prediction(theory="e", log_evidence=1.0)
    assert (p.mean, p.variance, p.log_evidence) == ({}, {}, 1.0)


@pytest.mark.parametrize("file", [False, True])
def test_the_dataset_gives_the_prediction_back(file, tmp_path):
    import xarray as xr

    p = full_prediction()
    dataset = p.to_dataset()
    assert dataset["f_covariance"].dims == ("train_point", "train_point_")
    assert dataset["f_covariance"]["train_point_"].values.tolist() == [4, 7, 9]
    assert dataset.attrs == {
        "theory": "full", "exact": 1, "order": "exact", "source": "nowhere", "log_evidence": -1.5,
    }  # fmt: skip
    if file:
        dataset.to_netcdf(tmp_path / "p.nc", engine="h5netcdf")
        dataset = xr.load_dataset(tmp_path / "p.nc", engine="h5netcdf")
    q = Prediction.from_dataset(dataset)
    assert jax.tree.structure(p) == jax.tree.structure(q)
    jax.tree.map(np.testing.assert_array_equal, p, q)


def test_a_full_covariance_spans_every_dimension_twice():
    p = Prediction(theory="t", mean={"f": np.zeros((3, 2))}, covariance={"f": np.zeros((3, 2, 3, 2))})
    assert p.to_dataset()["f_covariance"].dims == ("train_point", "output", "train_point_", "output_")


def test_a_theory_can_be_jitted_mapped_and_differentiated():
    def theory(scale):
        return Prediction(
            theory="t",
            mean={"f": scale * jnp.ones((3, 1))},
            variance={"f": scale**2 * jnp.ones((3, 1))},
            log_evidence=-scale,
            kind={"f": "upper"},
            coords={"train_point": [1, 2, 3]},
        )

    jitted = jax.jit(theory)(2.0)
    np.testing.assert_array_equal(jitted.mean["f"], np.full((3, 1), 2.0))
    assert jitted.coords == {"train_point": (1, 2, 3)}
    np.testing.assert_allclose(jax.grad(lambda s: jnp.sum(theory(s).variance["f"]))(2.0), 12.0)
    assert jax.vmap(theory)(jnp.arange(1.0, 5.0)).mean["f"].shape == (4, 3, 1)
    np.testing.assert_array_equal(jax.jit(lambda p: p.mean["f"] + 1)(jitted), np.full((3, 1), 3.0))


def test_shapes_are_checked_even_where_values_are_traced():
    with pytest.raises(ValueError, match="shape"):
        jax.jit(lambda x: Prediction(theory="t", mean={"f": x}))(jnp.ones(3))


column = np.ones((3, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"theory": "", "mean": {"f": column}}, "give the theory a name"),
        ({"mean": {}}, "is empty"),
        ({"mean": {"g": 1.0}}, "unknown statistic 'g'.*dims="),
        ({"mean": {"f": np.ones(3)}}, r"mean\['f'\].*shape \(3,\).*train_point, output"),
        ({"mean": {"f": column * np.nan}}, "3 of 3 values that are NaN or infinite"),
        ({"mean": {"f": column * 1j}}, "real numbers"),
        ({"mean": {}, "variance": {"f": -column}}, "negative"),
        ({"mean": {"f": column}, "error": {"f": -column}}, "negative"),
        ({"mean": {"f": column}, "variance": {"f": np.ones((4, 1))}}, "4 entries along train_point.*has 3"),
        ({"mean": {"f": column}, "covariance": {"f": np.eye(4)}}, "4 entries along train_point"),
        ({"mean": {"kernel_1": np.ones((3, 4))}}, "4 entries along point_"),
        ({"mean": {"kernel_0": np.eye(3), "kernel_1": np.eye(4)}}, "4 entries along point"),
        ({"mean": {"f": column}, "coords": {"train_point": [1, 2]}}, "3 entries along train_point.*coords has 2"),
        ({"mean": {"f": column}, "kind": {"f": "bound"}}, '"value", "lower", "upper"'),
        ({"mean": {"f": column}, "error": {"train_loss": 0.1}}, r"error\['train_loss'\] belongs to no predicted"),
        ({"mean": {"f": column}, "log_evidence": np.nan}, "log_evidence"),
        ({"mean": 3}, "mean=3: give a dictionary"),
        ({"mean": {1: 3.0}}, "give a dictionary from names"),
        ({"mean": {"train_loss": "a"}}, r"mean\['train_loss'\]='a': give a number"),
        ({"variance": {"f": [[1], [2, 3]]}}, r"variance\['f'\]=.*give a number"),
        ({"mean": {"f": column}, "kind": "lower"}, "kind='lower': give a dictionary"),
        ({"mean": {"x": [1.0]}, "dims": {"x": "mode"}}, "dims.*'mode': give a sequence"),
        ({"mean": {"f": column}, "coords": {"train_point": 3}}, "coords.*=3: give a sequence"),
    ],
)
def test_what_cannot_be_a_prediction_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Prediction(**{"theory": "t", **arguments})


def test_a_variance_may_round_to_just_below_zero():
    Prediction(theory="t", mean={}, variance={"f": np.array([[1.0], [-1e-16]])})


def test_a_foreign_dataset_is_not_a_prediction():
    import xarray as xr

    with pytest.raises(ValueError, match="not a saved prediction"):
        Prediction.from_dataset(xr.Dataset({"f": 1.0}))
