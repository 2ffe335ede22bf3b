"""Chains and sweeps on Dask workers: the same keys and draws as here, and workers that die are replaced."""

import json
import os
import signal
import threading
import time

import jax
import numpy as np
import pytest

import fieldprob as fp
from fieldprob.cli import main
from fieldprob.infer.cluster import connect

SETTINGS = {"draws": 60, "chains": 4, "warmup": 40, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def problem():
    return fp.Mlp(width=4), fp.tasks.linear_teacher(4, inputs=2, noise_variance=0.1, seed=0, test=2)


@pytest.fixture(scope="module")
def client():
    with connect("local", workers=2) as client:
        yield client


@pytest.fixture(scope="module")
def by_two(problem, client):
    return fp.sample(*problem, **SETTINGS, scheduler=client, chains_per_task=2, stream=("f_test",))


def differing(a, b) -> list[str]:
    return [
        f"{group}/{name}"
        for group in ("posterior", "sample_stats", "stream")
        for name in a[group].data_vars
        if not np.array_equal(a[group][name].values, b[group][name].values)
    ]


@pytest.mark.slow
def test_two_workers_draw_what_this_process_draws_from_the_same_groups_of_chains(problem, client):
    # To rounding, and so the first draws only: the array checks installed in this process change what is compiled.
    short = {**SETTINGS, "draws": 2, "warmup": 0}
    there = fp.sample(*problem, **short, scheduler=client, chains_per_task=2)
    keys = jax.random.split(jax.random.key(SETTINGS["seed"]), 4)
    for group in range(2):
        chains = slice(2 * group, 2 * group + 2)
        here = fp.sample(*problem, **{**short, "chains": 2, "seed": keys[chains]})
        for name in here.posterior.data_vars:
            found = there.posterior[name].isel(chain=chains)
            np.testing.assert_allclose(here.posterior[name].values, found.values, rtol=1e-9, atol=1e-12)


def test_one_worker_draws_what_two_draw(problem, client, by_two):
    first = sorted(client.scheduler_info()["workers"])[:1]
    with pytest.MonkeyPatch.context() as patch:
        submit = client.submit
        patch.setattr(client, "submit", lambda *a, **k: submit(*a, workers=first, **k))
        alone = fp.sample(*problem, **SETTINGS, scheduler=client, chains_per_task=2, stream=("f_test",))
    assert differing(alone, by_two) == []


def test_chains_are_numbered_through_and_the_layout_is_recorded(by_two):
    assert by_two.posterior["chain"].values.tolist() == [0, 1, 2, 3]
    settings = json.loads(by_two.attrs["settings"])
    assert settings["chains"] == 4 and settings["layout"]["chains_per_task"] == 2


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_draws_are_the_same(problem, client, by_two, tmp_path):
    killed = []

    def kill_the_first_that_writes():
        while not list(tmp_path.rglob("block_*.nc")):
            time.sleep(0.01)
        os.kill(processes[0], signal.SIGKILL)
        killed.append(processes[0])

    processes = [*client.run(os.getpid).values()]
    thread = threading.Thread(target=kill_the_first_that_writes, daemon=True)
    thread.start()
    samples = fp.sample(
        *problem, **SETTINGS, scheduler=client, chains_per_task=2, stream=("f_test",), directory=tmp_path
    )
    thread.join(timeout=60)
    assert killed and differing(samples, by_two) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chains-000", "chains-001"]


def test_an_error_on_a_worker_is_the_error_of_the_call(problem, client):
    with pytest.raises(ValueError, match="has no face 'nope'"):
        fp.sample(*problem, **SETTINGS, scheduler=client, face="nope")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheduler": "nonsense"}, "give 'local', an address"),
        ({"chains_per_task": 2}, "no scheduler"),
        ({"scheduler": "local", "chains_per_task": 0}, "chains_per_task is 0"),
        ({"scheduler": "local", "resume": True}, "no directory"),
    ],
)
def test_wrong_arguments_are_named(problem, arguments, message):
    with pytest.raises(ValueError, match=message):
        fp.sample(*problem, **{**SETTINGS, **arguments})


def test_a_directory_that_holds_something_is_not_written_over(problem, tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(ValueError, match="not empty"):
        fp.sample(*problem, **SETTINGS, scheduler="local", directory=tmp_path)


@pytest.mark.slow
def test_a_run_of_a_study_file_spreads_its_chains(client, tmp_path, capsys):
    words = ["bnn", "--width", "4", "--train", "6", "--test", "3", "--draws", "10", "--chains", "2", "--warmup", "10"]
    assert main(["run", *words, "--out", str(tmp_path), "--scheduler", client.scheduler.address]) == 0
    capsys.readouterr()
    samples = fp.load(tmp_path).samples
    assert samples["posterior"].sizes["chain"] == 2
    assert json.loads(samples.attrs["settings"])["layout"]["chains_per_task"] == 1


@pytest.mark.slow
def test_a_sweep_on_workers_writes_what_a_sweep_here_writes(client, tmp_path, capsys):
    words = ["bnn", "--width", "4,8", "--train", "6", "--test", "3", "--draws", "10", "--chains", "2", "--warmup", "0"]
    assert main(["sweep", *words, "--out", str(tmp_path / "there"), "--scheduler", client.scheduler.address]) == 0
    assert main(["sweep", *words, "--out", str(tmp_path / "here")]) == 0
    capsys.readouterr()
    points = sorted(path.parent.name for path in tmp_path.glob("here/*/result.nc"))
    assert len(points) == 2
    for point in points:
        here, there = (fp.load(tmp_path / side / point).samples for side in ("here", "there"))
        for name in here.posterior.data_vars:
            np.testing.assert_allclose(here.posterior[name].values, there.posterior[name].values, rtol=1e-8, atol=1e-12)
