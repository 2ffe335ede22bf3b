"""Runs that survive: killed at random moments, with damaged files, on a full disk, interrupted, extended."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

from fieldprob.cli import main
from fieldprob.infer import storage
from fieldprob.infer.driver import sample
from fieldprob.infer.samplers.langevin import MALA, ULA
from fieldprob.infer.samplers.tempering import ReplicaExchange
from fieldprob.study import load
from tests.autoregression import Autoregression, model

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = {
    "draws": 200,
    "chains": 2,
    "warmup": 100,
    "seed": 0,
    "progress": False,
    "kernel": Autoregression,
    "stream": ("outer",),
    "draws_per_block": 3,
}


def assert_same(tree, reference):
    for node in reference.subtree:
        found = tree[node.path].to_dataset(inherit=False).load()
        xr.testing.assert_identical(found.drop_attrs(), node.to_dataset(inherit=False).drop_attrs())


def blocks(directory):
    return sorted(Path(directory).glob("block_*.nc"))


@pytest.fixture(scope="module")
def reference():
    """The uninterrupted run, in memory."""
    return sample(model, **OPTIONS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, reference):
    """The directory of the same run."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    with sample(model, **OPTIONS, directory=directory) as tree:
        assert_same(tree, reference)
        assert tree.attrs["stopped"] == "draws"
    assert len(blocks(directory)) == 20 + 40 and not list(directory.glob(".*.partial"))
    return directory


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


# ---------------------------------------------------------------------------------------------------- kill -9


@pytest.fixture(scope="module")
def victims():
    """Starts processes that sample into a given directory; the next one imports while a test runs."""
    program = textwrap.dedent("""
        from tests.test_resume import OPTIONS, model, sample
        sample(model, **OPTIONS, directory=input(), resume=True)
    """)
    command, environment = [sys.executable, "-c", program], {**os.environ, "JAX_ENABLE_X64": "1"}
    waiting = []

    def prepare():
        waiting.append(subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd=ROOT, env=environment))

    def victim(directory):
        child = waiting.pop()
        child.stdin.write(f"{directory}\n")
        child.stdin.close()
        prepare()
        return child

    prepare()
    yield victim
    for child in waiting:
        child.kill()
        child.communicate()


def kill_after(victims, directory, number, delay):
    """kill -9, `delay` seconds after the file of that number has appeared."""
    child = victims(directory)
    give_up = time.monotonic() + 120
    while not (directory / f"block_{number:05d}.nc").exists() and child.poll() is None:
        assert time.monotonic() < give_up, "it does not sample"
        time.sleep(0.0005)
    time.sleep(delay)
    child.kill()
    assert child.wait() == -signal.SIGKILL, "it was alive when it was killed"


def killed_and_resumed(victims, directory, seed, reference):
    number, delay = np.random.default_rng(seed).uniform([0, 0], [45, 0.03])
    kill_after(victims, directory, int(number), delay)
    assert number < len(blocks(directory)) < 60
    with sample(model, **OPTIONS, directory=directory, resume=True) as tree:
        assert_same(tree, reference)
    assert len(blocks(directory)) == 60 and not list(directory.glob(".*.partial"))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_killed_run_is_resumed_to_the_same_bits(victims, tmp_path, seed, reference):
    killed_and_resumed(victims, tmp_path / "run", seed, reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [*range(100, 103), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(103, 120))]
)
def test_a_run_killed_twenty_times_over_is_resumed_to_the_same_bits(victims, tmp_path, seed, reference):
    killed_and_resumed(victims, tmp_path / "run", seed, reference)


# ---------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("index", [7, 59])
def test_a_truncated_block_is_made_again_and_never_read(copied, reference, index):
    path = blocks(copied)[index]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(storage.Damaged):
        storage.read_block(path, storage.fingerprint(json.loads((copied / storage.MANIFEST).read_text())))
    with sample(model, **OPTIONS, directory=copied, resume=True) as tree:
        assert_same(tree, reference)
    assert path.read_bytes() == whole, "and the file is what it was"


def test_a_single_flipped_bit_is_detected_in_every_array(copied):
    """Flip one bit in each array of a block in turn, with the file otherwise sound: the checksum must tell."""
    run = storage.fingerprint(json.loads((copied / storage.MANIFEST).read_text()))
    path = blocks(copied)[-1]
    block = storage.read_block(path, run)
    stored = storage.checksum(block)
    assert set(block.groups) == {"posterior", "sample_stats", "stream", "state"}
    for group, arrays in block.groups.items():
        for name, array in arrays.items():
            flipped = array.copy()
            flipped.reshape(-1).view(np.uint8)[-1] ^= 1
            assert storage.checksum(block._replace(groups=block.groups | {group: arrays | {name: flipped}})) != stored
    assert storage.checksum(block._replace(first=block.first + 1)) != stored
    with pytest.raises(storage.Damaged, match="another run"):
        storage.read_block(path, "other")
    content = path.read_bytes()
    value = block.groups["posterior"]["x"].tobytes()
    path.write_bytes(content.replace(value, bytes(len(value))))
    with pytest.raises(storage.Damaged, match="checksum is wrong"):
        storage.read_block(path, run)


def test_blocks_are_netcdf_files_with_the_complete_state(finished):
    with xr.open_datatree(blocks(finished)[-1], engine="h5netcdf") as tree:
        assert tree["posterior"]["x"].dims[:2] == ("chain", "draw") and list(tree["state"].data_vars) == ["leaves"]
    manifest = json.loads((finished / storage.MANIFEST).read_text())
    assert len(storage.read_block(blocks(finished)[-1], storage.fingerprint(manifest)).groups["state"]) == 6
    with xr.open_datatree(blocks(finished)[0], engine="h5netcdf") as tree:
        assert set(tree.children) == {"state"}, "of warm-up the state alone"


# ---------------------------------------------------------------------------------------------------- another run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"chains": 3}, "chains was 2, is 3"),
        ({"thinning": 2}, "thinning was 1, is 2"),
        ({"warmup": 99}, "warmup was 100, is 99"),
        ({"stream": ()}, r"stream was \['outer'\], is \[\]"),
        ({"kernel": lambda m: Autoregression(m, rho=0.6)}, "rho was 0.5, is 0.6"),
        ({"draws": 100}, "draws is 100, but .* holds 200 draws per chain already"),
    ],
)
def test_a_run_of_another_configuration_is_refused_by_what_differs(copied, changes, message):
    before = [path.read_bytes() for path in blocks(copied)]
    with pytest.raises(ValueError, match=message):
        sample(model, **(OPTIONS | changes), directory=copied, resume=True)
    assert [path.read_bytes() for path in blocks(copied)] == before, "nothing is touched"


def test_a_model_that_has_changed_is_told_by_its_energy(copied):
    manifest = json.loads((copied / storage.MANIFEST).read_text())
    manifest["potential_energy_at_start"][0] += 1e-3
    (copied / storage.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="the model or its data have changed"):
        sample(model, **OPTIONS, directory=copied, resume=True)


def test_another_layout_warns_and_names_what_differs(copied, reference):
    manifest = json.loads((copied / storage.MANIFEST).read_text())
    manifest["layout"]["cores"], manifest["layout"]["versions"]["jax"] = 999, "0.1"
    (copied / storage.MANIFEST).write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match=r"another layout \(cores was 999, is .*; jax was 0.1"):
        sample(model, **OPTIONS, directory=copied, resume=True).close()


def test_a_directory_that_holds_a_run_is_not_overwritten(copied):
    with pytest.raises(ValueError, match="holds 60 blocks of a run: continue it with resume=True, give another"):
        sample(model, **OPTIONS, directory=copied)
    for path in [*blocks(copied), copied / storage.MANIFEST]:
        path.unlink()
    for resume in (False, True):
        with pytest.raises(ValueError, match="a finished run, samples.nc|but not the run behind it"):
            sample(model, **OPTIONS, directory=copied, resume=resume)


def test_two_processes_cannot_sample_into_one_directory(tmp_path):
    pytest.importorskip("fcntl")
    store = storage.BlockStore(tmp_path, {})
    with pytest.raises(ValueError, match="in use by another process"):
        sample(model, **OPTIONS, directory=tmp_path)
    store.close()


# ---------------------------------------------------------------------------------------------------- extended, stopped


def test_more_draws_can_be_asked_for_and_are_those_of_the_longer_run(copied):
    longer = OPTIONS | {"draws": 263}
    with sample(model, **longer, directory=copied, resume=True) as tree:
        assert_same(tree, sample(model, **longer))


def test_an_interrupted_run_keeps_its_blocks_and_is_resumed(tmp_path, monkeypatch, reference):
    original, calls = jax.block_until_ready, iter(range(1000))

    def interrupting(x):
        if next(calls) == 25:
            raise KeyboardInterrupt
        return original(x)

    with monkeypatch.context() as patch:
        patch.setattr(jax, "block_until_ready", interrupting)
        with sample(model, **OPTIONS, directory=tmp_path) as tree:
            assert tree.attrs["interrupted"] == 1 and tree["posterior"].sizes["draw"] == 25
    with sample(model, **OPTIONS, directory=tmp_path, resume=True) as tree:
        assert_same(tree, reference)


def test_a_resumed_run_stops_where_the_uninterrupted_one_does(tmp_path):
    options = OPTIONS | {"draws": 4000, "target_ess": 300}
    expected = sample(model, **options)
    with sample(model, **options, directory=tmp_path) as tree:
        assert_same(tree, expected)
    for path in blocks(tmp_path)[22:]:
        path.unlink()
    with sample(model, **options, directory=tmp_path, resume=True) as tree:
        assert tree.attrs["stopped"] == "target_ess"
        assert_same(tree, expected)


# ---------------------------------------------------------------------------------------------------- a full disk


def test_a_disk_that_fills_up_stops_the_run_with_nothing_lost(tmp_path, monkeypatch, reference):
    original, calls = os.fsync, iter(range(1000))

    def full(handle):
        if next(calls) == 60:  # two of the manifest, two of each block before
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", full)
        with pytest.raises(
            OSError, match=r"cannot write block 29 .*No space left.* the 29 blocks before it are complete"
        ):
            sample(model, **OPTIONS, directory=tmp_path / "run")
    assert len(blocks(tmp_path / "run")) == 29 and not list((tmp_path / "run").glob(".*.partial"))
    with sample(model, **OPTIONS, directory=tmp_path / "run", resume=True) as tree:
        assert_same(tree, reference)


@pytest.mark.parametrize("at", ["block", "merge"])
def test_a_disk_that_is_really_full_gives_an_error_and_no_crash(tmp_path, at, finished, reference):
    """In the middle of the run, and when only the merged file has no room."""
    needed = sum(4096 * -(-path.stat().st_size // 4096) for path in blocks(finished))
    size, message = needed // 2, "cannot write block .* free some space"
    if at == "merge":
        size, message = needed + 500_000, "all draws are safe in the blocks"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(tmp_path)], capture_output=True)
    if made.returncode:
        pytest.skip("a small file system cannot be made here")
    try:
        with pytest.raises(OSError, match=message) as caught:
            sample(model, **OPTIONS, directory=tmp_path / "run")
        assert caught.value.errno == errno.ENOSPC
        assert not list((tmp_path / "run").glob(".*.partial"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(tmp_path)], check=True)
        with sample(model, **OPTIONS, directory=tmp_path / "run", resume=True) as tree:
            assert_same(tree, reference)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


# ---------------------------------------------------------------------------------------------------- command line


STUDY = '''
"""A toy."""
import fieldprob as fp
from tests.autoregression import Autoregression, model

def study(draws: int = 80, seed: int = 0):
    """Builds it."""
    return fp.Study(model, sampling={"draws": draws, "chains": 2, "warmup": 40, "kernel": Autoregression}, seed=seed)
'''


def test_the_command_line_continues_an_interrupted_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("toy.py").write_text(STUDY)
    original, stop = jax.block_until_ready, {"at": 30}

    def interrupting(x):
        stop["at"] -= 1
        if stop["at"] == 0:
            raise KeyboardInterrupt
        return original(x)

    monkeypatch.setattr(jax, "block_until_ready", interrupting)
    assert main(["run", "toy.py", "--out", "a"]) == 130
    assert "18 draws per chain were finished and are in a; the same command with --resume" in capsys.readouterr().err
    assert main(["run", "toy.py", "--out", "a"]) == 2
    assert "continue it with --resume, or start over with --overwrite" in capsys.readouterr().err
    assert main(["run", "toy.py", "--out", "a", "--resume", "--seed", "1"]) == 2
    assert "unfinished run of another configuration (seed=0)" in capsys.readouterr().err
    stop["at"] = -1
    assert main(["run", "toy.py", "--out", "a", "--resume"]) == 0
    assert not Path("a/blocks").exists() and not load("a").interrupted
    assert main(["run", "toy.py", "--out", "b"]) == 0
    assert_same(load("a").samples, load("b").samples)
    capsys.readouterr()
    assert main(["run", "toy.py", "--out", "a", "--resume"]) == 0
    assert "finished already" in capsys.readouterr().err
    stop["at"] = 5
    assert main(["run", "toy.py", "--out", "c"]) == 130
    assert "interrupted during warm-up; the same command with --resume continues it" in capsys.readouterr().err
    assert main(["run", "toy.py", "--out", "c", "--resume", "--overwrite"]) == 2
    assert main(["run", "toy.py", "--out", "c", "--overwrite", "--seed", "1"]) == 0
    assert not Path("c/blocks").exists()


# ------------------------------------------------------------------------------------- what can be wrong around it


def start_and_go_on(directory, first, second):
    settings = {"draws": 4, "chains": 2, "warmup": 2, "progress": False, "directory": directory}
    sample(model, **settings, kernel=first)
    return sample(model, **settings | {"draws": 8}, kernel=second, resume=True)


@pytest.mark.parametrize("changed", ["entry of a mapping", "entry of an array", "kernel inside a kernel"])
def test_a_changed_setting_of_the_kernel_is_found_wherever_it_is(tmp_path, changed):
    def kernel(value):
        if changed == "kernel inside a kernel":
            return lambda m: ReplicaExchange(MALA(m, step_size=value), [1.0, 2.0], tempering="potential")
        mobility = {"x": value if changed == "entry of a mapping" else np.array([1.0] * 2 + [value])}
        return partial(ULA, step_size=0.01, mobility=mobility)

    with pytest.raises(ValueError, match="another configuration"):
        start_and_go_on(tmp_path / "other", kernel(0.5), kernel(0.6))
    if changed == "entry of an array":
        assert start_and_go_on(tmp_path / "same", kernel(0.5), kernel(0.5)).posterior.sizes["draw"] == 8


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "3", '{"format": 1}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is damaged: remove"):
        sample(model, **OPTIONS, directory=tmp_path, resume=True)


def test_blocks_without_their_manifest_are_not_written_over(copied):
    (copied / "run.json").unlink()
    with pytest.raises(ValueError, match="60 blocks of a run, but not its run.json"):
        sample(model, **OPTIONS, directory=copied, resume=True)


def test_another_length_of_the_streams_blocks_is_refused(copied):
    with pytest.raises(ValueError, match="draws_per_block is 4, but the run to go on with has 3"):
        sample(model, **OPTIONS | {"draws_per_block": 4}, directory=copied, resume=True)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(OSError, match="cannot be made .*is a file"):
            sample(model, **OPTIONS, directory=tmp_path / place)


@pytest.mark.parametrize("target", [{"target_ess": 10.0}, {"target_mcse": {"x": 1.0}}])
def test_chains_that_do_not_move_reach_no_target(target):
    stuck = partial(MALA, step_size=1e9, adapt_step_size=False)
    tree = sample(model, draws=80, chains=1, warmup=0, progress=False, kernel=stuck, **target)
    assert tree.attrs["stopped"] == "draws"
