"""The driver: one compiled function, statistics where they are kept, budgets, streaming in memory that stays flat."""

import json
import logging
import os
from functools import partial
from pathlib import Path

import arviz as az
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from numpyro.infer import HMC, MCMC, BarkerMH

import fieldprob as fp
from fieldprob.infer import run as run_module
from fieldprob.infer.driver import sample
from fieldprob.infer.monitor import GroupMeans
from fieldprob.infer.stream import streamed_moments
from tests.autoregression import Autoregression, model

OPTIONS = {"draws": 60, "chains": 4, "warmup": 25, "seed": 0, "progress": False, "kernel": Autoregression}


def values(tree, name="x"):
    return tree["posterior"][name].values


@pytest.fixture(scope="module")
def plain():
    return sample(model, **OPTIONS)


def test_all_blocks_of_warmup_and_draws_are_one_compiled_function(caplog):
    with jax.log_compiles(True), caplog.at_level(logging.WARNING):
        sample(model, **(OPTIONS | {"draws": 90, "thinning": 2}))
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA compilation of jit(advance)" in r.getMessage()]
    assert len(compiled) == 1


def test_draws_are_those_of_numpyros_mcmc_to_the_last_bit():
    task = fp.tasks.linear_teacher(6, 3, test=2, noise_variance=0.1, seed=0)
    net, kernel = fp.Mlp(4, 1, "erf"), partial(HMC, num_steps=3, trajectory_length=None)
    ours = sample(net, task, draws=30, chains=2, warmup=25, seed=3, kernel=kernel, progress=False)
    bare = kernel(partial(fp.regression, net))
    start = bare.init

    # The driver starts chains in one compilation; op by op, as MCMC does, energies differ in the last bit.
    def compiled_start(key, num_warmup, init_params, model_args, model_kwargs):
        return jax.jit(lambda key: start(key, num_warmup, init_params, model_args, model_kwargs))(key)

    bare.init = compiled_start
    theirs = MCMC(
        bare,
        num_warmup=25,
        num_samples=30,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    theirs.run(jax.random.key(3), task)
    found = theirs.get_samples(group_by_chain=True)
    for name in ("f", "f_test", "kernel_1", "train_loss"):
        assert np.array_equal(values(ours, name), found[name]), name


def test_thinning_keeps_every_nth_draw_and_warmup_is_as_long_as_asked(plain):
    thinned = sample(model, **(OPTIONS | {"draws": 20, "thinning": 3}))
    assert np.array_equal(values(thinned), values(plain)[:, 2::3])
    assert json.loads(thinned.attrs["settings"])["warmup"] == 25
    skipped = sample(model, **(OPTIONS | {"draws": 30, "warmup": 55}))
    assert np.array_equal(values(skipped), values(plain)[:, 30:])


def test_statistics_are_evaluated_at_kept_draws_only():
    seen = []

    class Counting(Autoregression):
        def postprocess_fn(self, model_args, model_kwargs):
            def post(z):
                jax.debug.callback(lambda x: seen.append(1), z["x"])
                return z

            return post

    sample(model, **(OPTIONS | {"kernel": Counting, "thinning": 5, "draws": 7, "chains": 2}))
    jax.effects_barrier()
    assert len(seen) == 7 * 2


def test_a_chain_does_not_depend_on_how_many_there_are(plain):
    alone = sample(model, **(OPTIONS | {"chains": 1}))
    assert np.array_equal(values(alone)[0], values(plain)[0])
    assert alone["sample_stats"]["lp"].shape == (1, 60)


def test_a_kernel_that_takes_no_batch_of_keys_is_named():
    with pytest.raises(ValueError, match="the kernel BarkerMH cannot move several chains at once"):
        sample(model, **(OPTIONS | {"kernel": BarkerMH}))


# ---------------------------------------------------------------------------------------------------- budgets


def test_a_run_stops_at_its_target_with_the_draws_that_were_needed(plain):
    full = sample(model, **(OPTIONS | {"draws": 4000}))
    assert full.attrs["stopped"] == "draws"
    for budget in ({"target_ess": 400}, {"target_mcse": {"x": 0.04, "outer": 0.1}}):
        early = sample(model, **(OPTIONS | {"draws": 4000} | budget))
        found = values(early)
        assert early.attrs["stopped"] == next(iter(budget)) and early.attrs["interrupted"] == 0
        assert 100 <= found.shape[1] < 2000 and found.shape[1] % 100 == 0, "whole blocks, no padding"
        assert np.array_equal(found, values(full)[:, : found.shape[1]])
        x = np.moveaxis(found, 2, 0)
        mcse = array_stats.mcse(x, method="mean")
        if "target_ess" in budget:
            assert np.all(x.var(axis=(1, 2)) / mcse**2 >= 400)
        else:
            assert np.all(mcse <= 0.04)


def test_a_run_stops_when_its_time_is_over(monkeypatch):
    clock = iter(np.arange(0.0, 1e6, 1.0))
    monkeypatch.setattr(run_module.time, "perf_counter", lambda: next(clock))
    short = sample(model, **(OPTIONS | {"warmup": 0, "time_limit": 20.0}))
    assert short.attrs["stopped"] == "time_limit" and 1 <= short["posterior"].sizes["draw"] <= 20
    with pytest.raises(TimeoutError, match="time_limit is 5.0 s, which was over after .* of 60 steps of warm-up"):
        sample(model, **(OPTIONS | {"warmup": 60, "time_limit": 5.0}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thinning": 0}, "thinning is 0"),
        ({"stream": "nothing"}, "stream names 'nothing', which is not sampled; there are: constant, copy"),
        ({"draws_per_block": 61}, "draws_per_block is 61, more than draws"),
        ({"time_limit": -1}, "time_limit is -1"),
        ({"target_ess": 0}, "target_ess is 0"),
        ({"target_mcse": {"f": 1.0}}, "target_mcse names 'f', which is not sampled"),
        ({"target_mcse": {"x": "low"}}, "target_mcse of x is 'low'"),
        ({"resume": True}, "resume is True, but there is no directory"),
    ],
)
def test_a_wrong_argument_of_the_driver_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        sample(model, **(OPTIONS | changes))


# ---------------------------------------------------------------------------------------------------- monitoring


def test_group_means_are_means_of_all_draws_in_memory_that_does_not_grow():
    """2048 groups at most; the mean, the variance and the error of the mean are those of the draws.

    The error is estimated twice from the same 4 x 50000 draws of an AR(1) process; the two estimates of the variance of
    the mean of one number differ by about 3 %, their mean over 20 numbers by 0.7 %; 3 % is more than four of these.
    """
    rng, rho = np.random.default_rng(0), 0.8
    x = rng.standard_normal((20, 4, 50_000))
    for t in range(1, x.shape[2]):
        x[:, :, t] = rho * x[:, :, t - 1] + np.sqrt(1 - rho**2) * x[:, :, t]
    x += 3.0
    groups = GroupMeans(20, 4)
    for start, stop in zip([0, 1, 777, 20_000], [1, 777, 20_000, 50_000], strict=True):
        groups.add(x[:, :, start:stop])
    assert groups.count <= groups.limit <= 2048 and groups.length > 1
    used = groups.count * groups.length
    np.testing.assert_allclose(groups.means.mean(axis=(1, 2)), x[:, :, :used].mean(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(groups.variance, x.var(axis=(1, 2)), rtol=1e-10)
    ratio = groups.mcse() / array_stats.mcse(x, method="mean")
    assert abs(np.mean(ratio**2) - 1) < 0.03
    assert np.all(np.abs(groups.rhat() - 1) < 0.02)


def test_constants_neither_stop_nor_prolong_a_run():
    groups = GroupMeans(1, 2)
    groups.add(np.full((1, 2, 100), 3.7))
    assert groups.mcse() == [0.0] and np.isinf(groups.ess()) and groups.rhat() == [1.0]


def test_the_bar_tells_acceptance_rhat_and_ess(monkeypatch, capsys):
    monkeypatch.setattr("fieldprob.infer.monitor._SHARE", np.inf)
    kernel = partial(HMC, num_steps=2, trajectory_length=None)
    sample(model, **(OPTIONS | {"progress": True, "kernel": kernel, "draws": 200}))
    text = capsys.readouterr().err
    assert "acceptance 0." in text and "R-hat " in text and "ESS " in text


# ---------------------------------------------------------------------------------------------------- streaming


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_streamed_moments_are_within_two_percent_of_arviz_on_all_draws(rho):
    """100 numbers, 4 chains of 8000 draws, 200 block means of 40 draws a chain.

    The mean and variance are the same to rounding. ArviZ's two estimates of one MCSE scatter by up to 5 % (their window
    is chosen by noise), independently from number to number, so that their mean over 100 numbers is known to about
    0.5 %; 2 % is four of these. A block too short for the process, or an error of the block means divided by one count
    too few, is off by far more.
    """
    size = 100
    kernel = partial(Autoregression, rho=rho, size=size)
    options = OPTIONS | {"draws": 8000, "kernel": kernel, "stream": ("copy",)}
    tree = sample(partial(model, size), **options)
    assert tree["stream"]["copy"].dims[:2] == ("chain", "block") and tree["stream"].attrs["draws_per_block"] == 40
    assert tree["stream"].sizes["block"] == 200 and "copy" not in tree["posterior"]
    moments, x = streamed_moments(tree, "copy"), np.moveaxis(values(tree), 2, 0)
    np.testing.assert_allclose(moments.mean, x.mean(axis=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(moments.variance, x.var(axis=(1, 2)), rtol=1e-10)
    mcse = array_stats.mcse(x, method="mean")
    assert abs(np.mean(moments.mcse.values / mcse) - 1) < 0.02
    assert abs(np.mean(moments.ess.values) / np.mean(x.var(axis=(1, 2)) / mcse**2) - 1) < 0.02
    assert np.all(np.abs(moments.rhat.values[:10] / array_stats.rhat(x[:10]) - 1) < 0.02)


def test_streamed_matrices_keep_their_dimensions_and_leave_incomplete_blocks_out(plain):
    tree = sample(model, **(OPTIONS | {"stream": ("outer",), "draws_per_block": 7}))
    assert tree["stream"].sizes["block"] == 8, "56 of 60 draws"
    x = values(plain, "outer")[:, :56].reshape(4, 8, 7, 3, 3)
    np.testing.assert_allclose(tree["stream"]["outer"], x.mean(axis=2), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(tree["stream"]["outer_square"], (x**2).mean(axis=2), rtol=1e-12, atol=1e-14)
    assert streamed_moments(tree, "outer").mcse.shape == (3, 3)
    with pytest.raises(KeyError, match="'x' was not streamed; streamed are: outer"):
        streamed_moments(tree, "x")


def resident() -> float:
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory cannot be read here")
def test_resident_memory_stays_flat_while_matrices_are_streamed(tmp_path, monkeypatch):
    """200 x 200 matrices, 2 x 3000 draws, 1.9 GB if they were kept; the second half of the run adds no 30 MB."""
    seen = []
    original = run_module.Run._keep

    def keep(self, *rest):
        original(self, *rest)
        seen.append(resident())

    monkeypatch.setattr(run_module.Run, "_keep", keep)
    options = OPTIONS | {"draws": 3000, "chains": 2, "stream": ("outer",), "draws_per_block": 75}
    kernel = partial(Autoregression, size=200)
    tree = sample(partial(model, 200), **(options | {"kernel": kernel, "directory": tmp_path / "run"}))
    assert max(seen[len(seen) // 2 :]) - max(seen[: len(seen) // 2]) < 30
    assert resident() - max(seen) < 60, "nor does merging"
    assert tree["stream"]["outer"].shape == (2, 40, 200, 200)
    tree.close()


def test_latent_sites_of_a_model_with_thinning_and_a_directory_are_read_by_arviz(tmp_path):
    def normal():
        x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.deterministic("sign", x > 0)

    kernel = partial(HMC, num_steps=2, trajectory_length=None)
    tree = sample(normal, **(OPTIONS | {"kernel": kernel, "directory": tmp_path, "thinning": 2}))
    stored = az.from_netcdf(tmp_path / "samples.nc")
    assert stored["posterior"]["sign"].dtype == bool and stored["sample_stats"]["diverging"].dtype == bool
    assert len(az.summary(stored, var_names=["x"])) == 2
    assert np.array_equal(values(tree), values(stored))
