"""Kernels in blocks, and kernels that do not fit into memory."""

import tracemalloc
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fieldprob as fp
from fieldprob import kernels
from fieldprob.kernels import recursion

RNG = np.random.default_rng(0)
X, Z = RNG.normal(size=(13, 3)), RNG.normal(size=(6, 3))
X[12] = X[1]  # a point twice, in different blocks
NET: dict[str, Any] = {
    "activations": ["erf", "relu"],
    "weight_variance": [1.5, 2.0, 0.7],
    "bias_variance": [0.1, 0.2, 0.05],
}


@pytest.fixture(scope="module")
def whole():
    return kernels.nngp_and_ntk(X, every_layer=False, **NET)


def test_blocks_of_a_symmetric_kernel_make_up_the_whole_with_its_exact_diagonal(whole):
    K, T = np.full((13, 13), np.nan), np.full((13, 13), np.nan)
    kernels.write(kernels.blocks(X, size=5, **NET), nngp=K, ntk=T)
    distinct = ~np.eye(13, dtype=bool)
    distinct[1, 12] = distinct[12, 1] = False
    for block, exact in ((K, whole.nngp[0]), (T, whole.ntk[0])):
        np.testing.assert_allclose(block[distinct], exact[distinct], rtol=1e-13)
        np.testing.assert_allclose(np.diag(block), np.diag(exact), rtol=1e-15)
        np.testing.assert_allclose(block, block.T, rtol=1e-14)
        np.testing.assert_allclose(block[1, 12], exact[1, 12], rtol=1e-6)


def test_every_block_has_one_shape_until_the_padding_is_cut_and_is_compiled_once():
    before = recursion.rectangular._cache_size()
    shapes = [(b.rows.start, b.columns.start, b.nngp.shape, b.mirrored) for b in kernels.blocks(X, size=4, **NET)]
    assert recursion.rectangular._cache_size() == before + 1
    assert len(shapes) == 10  # the lower triangle of 4 x 4 blocks
    assert shapes[0] == (0, 0, (4, 4), False) and shapes[-2:] == [(12, 8, (1, 4), True), (12, 12, (1, 1), False)]


def test_blocks_between_two_sets_of_points_make_up_the_whole():
    both = kernels.nngp_and_ntk(X, Z, every_layer=False, **NET)
    K, T = np.full((13, 6), np.nan), np.full((13, 6), np.nan)
    kernels.write(kernels.blocks(X, Z, size=5, **NET), nngp=K, ntk=T)
    np.testing.assert_allclose(K, both.nngp[0], rtol=1e-13)
    np.testing.assert_allclose(T, both.ntk[0], rtol=1e-13)


def test_a_block_may_be_larger_than_the_data_and_without_tangent_kernel(whole):
    (only,) = kernels.blocks(X, size=100, tangent=False, **NET)
    assert only.ntk is None and only.rows == only.columns == slice(0, 13)
    np.testing.assert_allclose(only.nngp, whole.nngp[0], rtol=1e-13, atol=1e-8)
    with pytest.raises(ValueError, match="ntk was given, but the blocks were made with tangent=False"):
        kernels.write(kernels.blocks(X, tangent=False, **NET), ntk=np.zeros((13, 13)))
    jumping = NET | {"activations": ["sign", "relu"]}
    assert next(kernels.blocks(X, tangent=False, **jumping)).nngp.shape == (13, 13)


def test_blocks_go_from_files_to_files(tmp_path, whole):
    """Points and kernels as numpy.memmap."""
    points = np.memmap(tmp_path / "points", np.float64, "w+", shape=X.shape)
    points[:] = X
    K = np.memmap(tmp_path / "kernel", np.float64, "w+", shape=(13, 13))
    kernels.write(kernels.blocks(points, size=5, **NET), nngp=K)
    np.testing.assert_allclose(
        np.memmap(tmp_path / "kernel", np.float64, "r", shape=(13, 13)), whole.nngp[0], rtol=1e-6
    )


def test_memory_stays_that_of_a_few_blocks():
    """What Python allocates while 300 points are written in blocks of 20 is far below one kernel."""
    many = RNG.normal(size=(300, 3))
    source = kernels.blocks(many, size=20, tangent=False, **NET)
    next(source)
    tracemalloc.start()
    for block in source:
        np.asarray(block.nngp)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 * 300 * 8 / 2


def test_a_progress_bar_appears_only_when_asked_for(capsys):
    list(kernels.blocks(X, size=5, **NET))
    assert capsys.readouterr().err == ""
    list(kernels.blocks(X, size=5, progress=True, **NET))
    assert "6/6" in capsys.readouterr().err


def test_a_kernel_larger_than_memory_is_refused_before_it_is_allocated():
    """A million points: eight terabytes. Also through a network, and inside other functions."""
    many = jnp.zeros((1_000_000, 1))
    with pytest.raises(MemoryError, match=r"3 kernel matrices of 1000000 x 1000000 float64 need .* block by block"):
        kernels.nngp(many, **NET)
    with pytest.raises(MemoryError, match=r"2 kernel matrices .* kernels.blocks\(\.\.\.\)"):
        kernels.nngp_and_ntk(many, every_layer=False, **NET)
    with pytest.raises(MemoryError, match="kernels.blocks"):
        fp.Mlp(width=10).limit(many)
    assert len(kernels.nngp_diagonal(many, **NET)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size = 0 must be a positive integer"),
        ({"size": 2.5}, "size = 2.5"),
        ({"X1": X[0]}, r"X1 has shape \(3,\)"),
        ({"X2": Z[:, :2]}, "X2 has 2 inputs but X1 has 3"),
        ({"activations": ["erf", "sign"]}, "jumps"),
    ],
)
def test_bad_input_is_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.blocks(**({"X1": X} | NET | arguments))
    with pytest.raises(ValueError, match="no room"):
        kernels.write(kernels.blocks(X, **NET), nngp=np.zeros((5, 13)))
