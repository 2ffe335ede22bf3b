"""Kernels of more points than fit into memory, block by block.

One compiled function computes every block: the last ones are padded, so that all have one shape. Of a symmetric kernel
only the blocks on and below the diagonal are computed.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float, Num

from fieldprob.kernels import recursion


class Block(NamedTuple):
    """One block of the output's kernels: `nngp[i, j]` belongs to point `rows.start + i` of the first set and
    `columns.start + j` of the second. `mirrored` if its transpose is the block (columns, rows), which is not computed.
    `ntk` is None where only the covariance was asked for."""

    rows: slice
    columns: slice
    mirrored: bool
    nngp: Float[Array, "rows columns"]
    ntk: Float[Array, "rows columns"] | None


def blocks(
    X1: Float[Any, "points inputs"],
    X2: Float[Any, "points_ inputs"] | None = None,
    *,
    activations: Sequence,
    weight_variance: Sequence | Num[ArrayLike, " layers"],
    bias_variance: Sequence | Num[ArrayLike, " layers"],
    tangent: bool = True,
    size: int = 2048,
    progress: bool = False,
) -> Iterator[Block]:
    """The covariance of the outputs and (unless `tangent=False`) their tangent kernel in blocks of `size` points.

    The points may be anything that slices into NumPy arrays (`numpy.memmap`, HDF5): only the rows of two blocks are on
    the device at a time. With `X2` left out: the blocks on and below the diagonal, with the same exact diagonals as
    `nngp` and `ntk`. A few blocks of memory are needed, for any number of points. `progress=True` shows a bar.

    Raises ValueError for the same reasons as `ntk`, and if `size` is not a positive integer.

    >>> import numpy as np
    >>> from fieldprob import kernels
    >>> net = {"activations": ["erf"], "weight_variance": [1.0, 1.0], "bias_variance": [0.1, 0.0]}
    >>> for block in kernels.blocks(np.eye(3), size=2, **net):
    ...     print(block.rows, block.columns, block.ntk.shape)
    slice(0, 2, None) slice(0, 2, None) (2, 2)
    slice(2, 3, None) slice(0, 2, None) (1, 2)
    slice(2, 3, None) slice(2, 3, None) (1, 1)
    """
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
        raise ValueError(f"size = {size!r} must be a positive integer: the points of a block")
    net = recursion.architecture(activations, weight_variance, bias_variance)
    if tangent:
        recursion.require_tangent(net)
    for name, X in (("X1", X1), ("X2", X2)):
        if X is not None and (np.ndim(X) != 2 or X.shape[1] == 0 or X.shape[0] == 0):
            raise ValueError(f"{name} has shape {np.shape(X)}: it must be (points, inputs) with at least one of each")
    if X2 is not None and X1.shape[1] != X2.shape[1]:
        raise ValueError(f"X2 has {X2.shape[1]} inputs but X1 has {X1.shape[1]}: they must be points of one space")
    return _blocks(net, X1, X2, tangent, int(size), progress)


def write(source: Iterable[Block], *, nngp=None, ntk=None) -> None:
    """Write the blocks of `kernels.blocks` into `nngp` and `ntk`, where given; both triangles of a symmetric kernel.

    The targets are whatever takes `target[rows, columns] = block`: a NumPy array, a `numpy.memmap`, an HDF5 dataset.

    Raises ValueError if a target is too small, or `ntk` is given for blocks without it.

    >>> import numpy as np
    >>> from fieldprob import kernels
    >>> net = {"activations": ["relu"], "weight_variance": [2.0, 2.0], "bias_variance": [0.0, 0.0]}
    >>> K = np.zeros((3, 3))
    >>> kernels.write(kernels.blocks(np.eye(3), size=2, **net), nngp=K)
    >>> np.allclose(K, kernels.nngp(np.eye(3), **net)[-1])
    True
    """
    for block in source:
        for name, target in (("nngp", nngp), ("ntk", ntk)):
            if target is None:
                continue
            if (value := getattr(block, name)) is None:
                raise ValueError(f"{name} was given, but the blocks were made with tangent=False: leave that out")
            if target.shape[0] < block.rows.stop or target.shape[1] < block.columns.stop:
                raise ValueError(f"{name} has shape {target.shape}: it has no room for {block.rows}, {block.columns}")
            value = np.asarray(value)
            target[block.rows, block.columns] = value
            if block.mirrored:
                target[block.columns, block.rows] = value.T


def _blocks(net, X1, X2, tangent, size, progress) -> Iterator[Block]:
    same = X2 is None
    size = min(size, max(X1.shape[0], 0 if same else X2.shape[0]))
    starts = [range(0, X.shape[0], size) for X in (X1, X1 if same else X2)]
    pairs = [(i, j) for i in starts[0] for j in starts[1] if not same or j <= i]
    if progress:
        from tqdm import tqdm

        pairs = tqdm(pairs, unit="block")
    pending, held, rows = None, None, None
    for i, j in pairs:
        if held != i:
            held, rows = i, _padded(X1, i, size)
            recursion.warn_if_inaccurate(net, rows, tangent=tangent)
        columns = rows if same and i == j else _padded(X1 if same else X2, j, size)
        positions = (i + np.arange(size), j + np.arange(size)) if same else None
        both = recursion.rectangular(net, rows, columns, positions, tangent=tangent, every_layer=False)
        # The next block is under way while this one is used.
        if pending is not None:
            yield pending
        pending = _cut(i, j, X1.shape[0], (X1 if same else X2).shape[0], same and i != j, size, both)
        del both
    if pending is not None:
        yield pending


def _padded(X, start: int, size: int) -> Array:
    part = recursion.points("X", X[start : start + size])
    missing = size - part.shape[0]
    return part if missing == 0 else jnp.concatenate([part, jnp.repeat(part[-1:], missing, axis=0)])


def _cut(i, j, rows, columns, mirrored, size, both) -> Block:
    rows, columns = slice(i, min(i + size, rows)), slice(j, min(j + size, columns))
    height, width = rows.stop - i, columns.stop - j
    kernels = [k[0] if (height, width) == (size, size) else k[0][:height, :width] for k in both if k]
    return Block(rows, columns, mirrored, kernels[0], kernels[1] if len(kernels) == 2 else None)
