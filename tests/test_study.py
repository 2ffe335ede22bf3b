"""Studies and their results: what `Study.run` does in which order, and the file that holds a result."""

import errno
import json
import os
import subprocess
import sys
import textwrap

import arviz as az
import numpy as np
import pytest
import xarray as xr

import fieldprob as fp
import fieldprob.study as study_module
from fieldprob.prediction import Prediction
from fieldprob.study import Result, Study, atomic, load, read_settings


def draws(seed=0, interrupted=0):
    rng = np.random.default_rng(seed)
    posterior = xr.Dataset(
        {
            "train_loss": (("chain", "draw"), rng.normal(1.0, 0.1, (4, 500))),
            "f": (("chain", "draw", "train_point", "output"), rng.normal(2.0, 0.1, (4, 500, 3, 1))),
        },
        coords={"train_point": np.arange(3), "output": [0]},
    )
    groups = {
        "posterior": posterior,
        "sample_stats": xr.Dataset({"diverging": (("chain", "draw"), np.zeros((4, 500), bool))}),
        "observed_data": xr.Dataset({"y": (("train_point", "output"), np.ones((3, 1)))}),
    }
    tree = xr.DataTree.from_dict(groups)
    tree.attrs |= {"settings": json.dumps({"warmup": 5}), "interrupted": interrupted}
    return tree


def exact(prior, task):
    return Prediction(
        theory="exact", mean={"train_loss": 1.0, "f": np.full((3, 1), 2.0)}, variance={"f": np.full((3, 1), 0.01)}
    )


def low(prior, task):
    return Prediction(
        theory="low", mean={"train_loss": 0.0}, kind={"train_loss": "lower"}, order="bound", source="here"
    )


@pytest.fixture
def result():
    samples, predictions = draws(), (exact(None, None), low(None, None))
    settings = {"study": "toy", "parameters": {"width": 3, "classes": [0, 1]}}
    return Result(samples, predictions, fp.compare(samples, predictions), settings)


def model():
    return None


def test_theories_are_asked_before_the_long_part_so_that_their_refusal_comes_first(monkeypatch):
    monkeypatch.setattr(study_module, "sample", lambda *_, **__: pytest.fail("sampled before the theories were asked"))

    def refuses(prior, task):
        raise ValueError("needs float64")

    with pytest.raises(ValueError, match="needs float64"):
        Study(model, theories=(refuses,)).run()


def test_a_study_passes_its_sampling_and_seed_on_and_compares_all_theories(monkeypatch):
    seen = {}

    def sample(prior, task, **options):
        seen.update(options, prior=prior, task=task)
        return draws()

    monkeypatch.setattr(study_module, "sample", sample)
    found = Study(model, None, theories=(exact, low), sampling={"draws": 7, "seed": 5}).run(progress=False)
    assert seen == {"prior": model, "task": None, "draws": 7, "seed": 5, "progress": False}
    assert [p.theory for p in found.predictions] == ["exact", "low"]
    assert found.comparison is not None and set(found.comparison.verdicts) == {"exact", "low"}


def test_a_study_without_theories_is_sampled_and_not_compared(monkeypatch):
    monkeypatch.setattr(study_module, "sample", lambda *_, **__: draws())
    assert Study(model).run().comparison is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prior": 3}, TypeError, "prior is a int"),
        ({"prior": model, "theories": ("limit",)}, TypeError, "theories holds 'limit'"),
        ({"prior": model, "sampling": 100}, TypeError, "sampling is a int"),
        ({"prior": model, "sampling": {"seed": 1}, "seed": 2}, ValueError, "give one of them"),
    ],
)
def test_a_wrong_argument_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        Study(**arguments)


def test_a_theory_must_return_a_prediction_of_its_own_name():
    with pytest.raises(TypeError, match="returned a dict"):
        Study(model, theories=(lambda prior, task: {},)).predict()
    with pytest.raises(ValueError, match="two theories of the study are called 'exact'"):
        Study(model, theories=(exact, exact)).predict()


def test_a_result_survives_the_file(result, tmp_path):
    result.save(tmp_path)
    again = load(tmp_path)
    xr.testing.assert_identical(again.samples["posterior"].to_dataset(), result.samples["posterior"].to_dataset())
    assert [p.theory for p in again.predictions] == ["exact", "low"]
    assert again.predictions[1].kind == {"train_loss": "lower"} and again.predictions[1].source == "here"
    np.testing.assert_array_equal(again.predictions[0].variance["f"], np.full((3, 1), 0.01))
    assert again.settings == result.settings and not again.interrupted
    assert again.comparison.verdicts == result.comparison.verdicts


def test_arviz_opens_a_result_without_fieldprob(result, tmp_path):
    result.save(tmp_path)
    with az.from_netcdf(tmp_path / "result.nc") as tree:
        assert {"posterior", "sample_stats", "observed_data", "predictions", "comparison"} == set(tree.children)
        assert set(tree["predictions"].children) == {"exact", "low"}
        assert len(tree["comparison"]["sampled"]) == len(result.comparison.to_dataframe())
        assert float(az.summary(tree, var_names=["train_loss"])["mean"].iloc[0])


def test_an_interrupted_result_says_so(result, tmp_path):
    Result(draws(interrupted=1), result.predictions, result.comparison, {}).save(tmp_path)
    assert load(tmp_path).interrupted and read_settings(tmp_path)["interrupted"]


@pytest.mark.parametrize("kept", [0, 10, 5000, -1])
def test_a_truncated_file_is_named_with_the_remedy(result, tmp_path, kept):
    path = result.save(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"result.nc is truncated .* delete it and run again"):
        load(tmp_path)


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no result at"):
        load(tmp_path)
    xr.Dataset({"a": 1.0}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="not written by fieldprob"):
        load(tmp_path / "other.nc")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(result, tmp_path, monkeypatch):
    path = result.save(tmp_path)
    before = path.read_bytes()

    def full(tree, target, **_):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(xr.DataTree, "to_netcdf", full)
    with pytest.raises(OSError, match=r"No space left on device.*free some space") as caught:
        result.save(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["result.nc"]


def test_an_atomic_write_that_is_stopped_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "a.txt") as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room on the disk cannot be claimed here")
def test_a_disk_that_is_really_full_gives_an_error_and_no_crash(tmp_path):
    program = textwrap.dedent("""
        import resource, sys
        import numpy as np, xarray as xr
        from fieldprob.study import Result
        draws = xr.Dataset({"x": (("chain", "draw"), np.zeros((4, 100_000)))})
        result = Result(xr.DataTree.from_dict({"posterior": draws}), (), None)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        try:
            result.save(sys.argv[1])
        except OSError as error:
            print(error.strerror)
    """)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "free some space" in done.stdout and not list(tmp_path.iterdir())
