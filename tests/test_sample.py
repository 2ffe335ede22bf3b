"""The driver: what a DataTree holds, kernels of every make, reproducibility, interruption, bad arguments."""

import json
from functools import partial

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import HMC, NUTS

import fieldprob as fp

TASK = fp.tasks.linear_teacher(6, 3, test=2, noise_variance=0.1, seed=0)
NET = fp.Mlp(4, 1, "erf")
OPTIONS = {"draws": 40, "chains": 2, "warmup": 20, "seed": 0, "progress": False}


@pytest.fixture(scope="module")
def samples():
    return fp.sample(NET, TASK, **OPTIONS)


def test_datatree_has_named_dimensions_statistics_data_and_settings(samples):
    post = samples.posterior
    assert post["f"].dims == ("chain", "draw", "train_point", "output") and post["f"].shape == (2, 40, 6, 1)
    assert post["kernel_1"].dims == ("chain", "draw", "point", "point_")
    assert post["split"].values.tolist() == ["train"] * 6 + ["test"] * 2
    assert {"acceptance_rate", "n_steps", "lp", "diverging", "step_size"} <= set(samples.sample_stats)
    assert np.array_equal(samples.observed_data["y"], TASK.y)
    assert float(samples.constant_data["effective_noise"]) == pytest.approx(0.1)
    assert not any(name.startswith("weight_") for name in post)
    settings = json.loads(samples.attrs["settings"])
    assert settings["face"] == "collapsed" and settings["draws"] == 40 and samples.attrs["interrupted"] == 0


def test_same_seed_same_draws_other_seed_other_draws(samples):
    again = fp.sample(NET, TASK, **OPTIONS)
    assert np.array_equal(again.posterior["f"], samples.posterior["f"])
    key = fp.sample(NET, TASK, **(OPTIONS | {"seed": jax.random.key(0)}))
    assert np.array_equal(key.posterior["f"], samples.posterior["f"])
    other = fp.sample(NET, TASK, **(OPTIONS | {"seed": 1}))
    assert not np.allclose(other.posterior["f"], samples.posterior["f"])


@pytest.mark.parametrize(
    "kernel", [NUTS, partial(NUTS, max_tree_depth=3), partial(HMC, num_steps=4, trajectory_length=None)]
)
def test_any_factory_of_a_numpyro_kernel_samples(kernel):
    result = fp.sample(NET, TASK, **(OPTIONS | {"kernel": kernel, "chains": 1, "store_weights": True}))
    assert result.posterior["weight_0"].shape == (1, 40, 4, 3)


def test_any_numpyro_model_samples_and_names_its_dimensions():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.deterministic("square", x**2)

    result = fp.sample(model, dims={"x": ("mode",)}, coords={"mode": [1, 2, 4]}, **OPTIONS)
    assert result.posterior["x"].dims == ("chain", "draw", "mode")
    assert result.posterior["mode"].values.tolist() == [1, 2, 4]
    hidden = fp.sample(model, store_weights=False, dims={"square": ("mode",)}, **OPTIONS)
    assert list(hidden.posterior.data_vars) == ["square"]
    assert np.array_equal(hidden.posterior["square"], result.posterior["x"] ** 2)
    assert result.posterior["square"].dims[-1] == "square_dim_0"
    assert "observed_data" not in result.children


def test_interruption_keeps_the_blocks_that_are_done(monkeypatch):
    """A KeyboardInterrupt during the fifth block of draws leaves the four before it; before the first it propagates."""
    original = jax.block_until_ready
    blocks_of_warmup, per_block = 20, 1

    def interrupt_in(block):
        calls = iter(range(100))

        def interrupting(x):
            if next(calls) == block:
                raise KeyboardInterrupt
            return original(x)

        monkeypatch.setattr(jax, "block_until_ready", interrupting)

    interrupt_in(blocks_of_warmup + 4)
    result = fp.sample(NET, TASK, **OPTIONS)
    assert result.attrs["interrupted"] == 1 and result.posterior.sizes["draw"] == 4 * per_block
    assert result.attrs["stopped"] == "interrupted"
    interrupt_in(blocks_of_warmup)
    with pytest.raises(KeyboardInterrupt):
        fp.sample(NET, TASK, **OPTIONS)


def test_float32_samples_too():
    with jax.enable_x64(False):
        task = fp.tasks.linear_teacher(6, 3, test=2, noise_variance=0.1, seed=0)
        result = fp.sample(fp.Mlp(4), task, **OPTIONS)
    assert result.posterior["f"].dtype == np.float32 and np.all(np.isfinite(result.posterior["f"]))
    assert json.loads(result.attrs["settings"])["float"] == "float32"


def test_chains_are_split_over_nothing_but_still_differ(samples):
    assert not np.allclose(samples.posterior["f"][0], samples.posterior["f"][1])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"draws": 0}, ValueError, "draws is 0"),
        ({"chains": -1}, ValueError, "chains is -1"),
        ({"warmup": 1.5}, ValueError, "warmup is 1.5"),
        ({"seed": "one"}, TypeError, "seed is 'one'"),
        ({"face": "kernel"}, ValueError, "no face 'kernel'"),
        ({"kernel_points": [0, 99]}, ValueError, "from 0 to 7"),
        ({"kernel_points": [1, 1]}, ValueError, "distinct"),
        ({"precision": "half"}, ValueError, "precision is 'half'"),
        ({"kernel": "nuts"}, TypeError, "kernel is 'nuts'"),
        ({"kernel": lambda model: None}, TypeError, "give a function model -> MCMCKernel"),
        ({"seed": -1}, TypeError, "seed is -1"),
        ({"seed": 2**70}, TypeError, "integer from 0 to"),
        ({"kernel_points": [0.7]}, ValueError, "distinct indices"),
        ({"kernel_points": 3}, ValueError, "distinct indices"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        fp.sample(NET, TASK, **(OPTIONS | changes))


def test_a_prior_that_is_neither_network_nor_model_is_refused():
    with pytest.raises(TypeError, match="give a network"):
        fp.sample(3, TASK)
    with pytest.raises(TypeError, match="task is a NoneType: give a fieldprob.Task"):
        fp.sample(NET)
    with pytest.raises(TypeError, match="task is a tuple"):
        fp.sample(NET, (TASK.X, TASK.y))
    with pytest.raises(ValueError, match="no latent variable"):
        fp.sample(lambda: numpyro.sample("y", dist.Normal(0, 1), obs=0.0))


def test_noise_too_small_to_invert_the_covariance_is_refused_by_name():
    """Coincident points and noise 1e-15: before this was checked, outputs came out wrong without a word."""
    X = np.repeat(np.asarray(TASK.X), 2, axis=0)
    task = fp.Task(X, np.arange(12.0), 1e-15)
    with pytest.raises(ValueError, match="noise_variance is too small"):
        fp.sample(NET, task, **OPTIONS)
    with pytest.raises(ValueError, match="noise_variance is too small"):
        fp.theory.limit(NET, task)


def test_an_energy_that_is_not_finite_says_what_to_do():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("broken", jax.numpy.log(-jax.numpy.abs(x)))

    with pytest.raises((ValueError, RuntimeError), match="not finite|initial"):
        fp.sample(model, **OPTIONS)
