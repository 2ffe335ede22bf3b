"""Chains split over 2 and 4 forced host devices: same keys and starts, same first step, same posterior, same bits.

Each number of devices is a process of its own (`python -m tests.test_devices OUT`), since XLA fixes it at the start;
one device is this process.
"""

import json
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest
from arviz_stats.base import array_stats

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = {"draws": 300, "chains": 4, "warmup": 100, "seed": 0, "progress": False}


def observe(out: Path) -> None:
    """Writes what a run is made of: the state it starts from, the state after one step, draws of two equal runs."""
    from numpyro.infer import HMC

    import fieldprob as fp
    from fieldprob.infer import run

    task = fp.tasks.linear_teacher(10, 3, test=2, noise_variance=0.1, seed=0)
    kernel = partial(HMC, num_steps=4, trajectory_length=None, adapt_mass_matrix=False)
    found: dict = {}
    original = run.compile_block

    def watching(recorder, carry, capacity, devices):
        start = carry.state
        found["keys"], found["start"] = jax.random.key_data(start.rng_key), start.z["weight_0"]
        found["devices_of_z"] = len(start.z["weight_0"].sharding.device_set)
        advance = original(recorder, carry, capacity, devices)
        first, _ = advance(carry, 1, 1, False, 0)
        found["gradient"] = first.state.z_grad["weight_0"]
        return advance

    run.compile_block = watching
    for name in ("first", "second"):
        tree = fp.sample(fp.Mlp(5), task, kernel=kernel, stream=("kernel_1",), **OPTIONS)
        found |= {f"{name}_f": tree["posterior"]["f"].values, f"{name}_kernel": tree["stream"]["kernel_1"].values}
        run.compile_block = original
    np.savez(out, settings=tree.attrs["settings"], **{k: np.asarray(v) for k, v in found.items()})


FOUR = pytest.param(4, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The observations on a number of devices, each made once."""
    directory = tmp_path_factory.mktemp("devices")
    if jax.local_device_count() != 1:
        pytest.skip("there are several devices here already")

    @cache
    def on(devices):
        out = directory / f"{devices}.npz"
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        if devices == 1:
            observe(out)
        else:
            command = [sys.executable, "-m", "tests.test_devices", str(out)]
            subprocess.run(command, cwd=ROOT, env=environment, check=True)
        with np.load(out) as arrays:
            return dict(arrays)

    return on


@pytest.mark.parametrize("devices", [2, FOUR])
def test_chains_have_the_same_keys_and_starts_on_any_number_of_devices(runs, devices):
    assert int(runs(devices)["devices_of_z"]) == devices and int(runs(1)["devices_of_z"]) == 1
    assert json.loads(str(runs(devices)["settings"]))["layout"]["devices"] == devices
    for name in ("keys", "start"):
        assert np.array_equal(runs(devices)[name], runs(1)[name]), name


@pytest.mark.parametrize("devices", [2, FOUR])
def test_the_first_step_is_the_same_to_rounding(runs, devices):
    a, b = runs(devices)["gradient"], runs(1)["gradient"]
    assert np.max(np.abs(a - b)) <= 1e-12 * np.max(np.abs(b))


@pytest.mark.parametrize("devices", [2, FOUR])
def test_posterior_means_agree_within_their_errors(runs, devices):
    """20 differences of independent or equal chains; five standard errors, false alarms below 1e-5."""
    (a, da), (b, db) = (_mean(runs(n)["first_f"]) for n in (devices, 1))
    assert np.all(np.abs(a - b) <= 5 * np.hypot(da, db))
    np.testing.assert_allclose(runs(devices)["first_kernel"].shape, runs(1)["first_kernel"].shape)


@pytest.mark.parametrize("devices", [1, 2, FOUR])
def test_the_same_layout_gives_the_same_bits_twice(runs, devices):
    for name in ("f", "kernel"):
        assert np.array_equal(runs(devices)[f"first_{name}"], runs(devices)[f"second_{name}"])


def test_chains_that_devices_cannot_share_equally_use_fewer_of_them(monkeypatch):
    from fieldprob.infer import layout

    monkeypatch.setattr(layout.jax, "local_devices", lambda: list("abcd"))
    counts = {chains: len(layout.choose_devices(chains)) for chains in (1, 2, 3, 4, 6, 7, 8)}
    assert counts == {1: 1, 2: 2, 3: 3, 4: 4, 6: 3, 7: 1, 8: 4}
    assert len(layout.choose_devices(4, splittable=False)) == 1


def _mean(f):
    x = np.moveaxis(f[..., 0], 2, 0)
    return x.mean(axis=(1, 2)), array_stats.mcse(x, method="mean")


if __name__ == "__main__":
    observe(Path(sys.argv[1]))
