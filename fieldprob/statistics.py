"""What is measured: the names of the statistics, their dimensions, and the formulas of the derived ones.

A statistic is a named array with named dimensions. The same name with the same dimensions is a deterministic site of a
NumPyro model, a variable of the sampled DataTree and an entry of a `Prediction`; this table makes the three meet.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from jaxtyping import Float

# name (a regular expression where the layer is a number), dimensions after the sample dimensions, meaning
_TABLE: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("f", ("train_point", "output"), "network outputs at the training inputs"),
    ("f_test", ("test_point", "output"), "network outputs at the test inputs"),
    (
        "f_conditional_variance",
        ("train_point",),
        "variance of f given the hidden weights, the same for every output",
    ),
    (
        "f_test_conditional_variance",
        ("test_point",),
        "variance of f_test given the hidden weights",
    ),
    (
        r"kernel_\d+",
        ("point", "point_"),
        "covariance of the pre-activations that follow layer l, training then test",
    ),
    (
        r"alignment_\d+",
        (),
        "centred kernel alignment of kernel_l with the targets, on the training inputs",
    ),
    ("weight_covariance", ("input", "input_"), "first-layer weights, W^T W / neurons"),
    ("weight_spike", (), "mean square first-layer weight along the teacher"),
    ("weight_bulk", (), "mean square first-layer weight in the other directions"),
    (r"hermite_\d+", (), "coefficient of He_l in the learned function along the teacher, over test inputs"),
    ("train_loss", (), "mean over training points and outputs of (y - f)^2"),
    ("test_loss", (), "mean over test points and outputs of (y - f)^2"),
    # averages over data sets, along a curve of their sizes
    ("test_error", ("points",), "mean square error of the mean predictor against clean targets"),
    ("noisy_test_error", ("points",), "mean square error of the mean predictor against noisy targets"),
    ("train_error", ("points",), "mean square error of the mean predictor on the noisy targets learned from"),
    ("leave_one_out_error", ("points",), "mean square of the leave-one-out residuals"),
    ("effective_ridge", ("points",), "ridge that one mode sees, all others included: points / tr resolvent"),
    ("posterior_variance", ("points",), "posterior variance, averaged over test inputs"),
    ("learnability", ("points", "mode"), "1 - posterior variance of a mode / its prior variance"),
    ("predictor", ("points", "mode"), "coefficient of the mean predictor, averaged over data sets"),
)

# Latent sites: relabelling the hidden neurons, or flipping the sign of an odd one, changes them but not the network.
_LATENT = re.compile(r"(weight|bias|phase)_\d+|readout")


def names() -> tuple[str, ...]:
    """The known statistics, with `l` for the index of a layer.

    >>> names()[:2]
    ('f', 'f_test')
    """
    return tuple(pattern.replace(r"\d+", "l") for pattern, _, _ in _TABLE)


def dims(name: str) -> tuple[str, ...]:
    """Dimensions of a statistic, without those of the sample (chain, draw).

    The second of two equal dimensions carries an underscore, so that an xarray variable can hold both.

    Raises:
        ValueError: `name` is not a known statistic.

    >>> dims("kernel_1")
    ('point', 'point_')
    """
    for pattern, dimensions, _ in _TABLE:
        if re.fullmatch(pattern, name):
            return dimensions
    raise ValueError(
        f"unknown statistic {name!r}: known are {', '.join(names())}; "
        f'for one of your own, give its dimensions, dims={{{name!r}: ("point", ...)}}'
    )


def is_invariant(name: str) -> bool:
    """Whether a site is unchanged by permutations and sign flips of the hidden neurons.

    R-hat and the effective sample size mean something only for such sites: equivalent posterior modes of the weights
    differ by these symmetries, and a chain that stays in one of them has still converged. A name that is not a latent
    site of a network (`weight_0`, `bias_1`, `phase_0`, `readout`, ...) counts as invariant.

    >>> is_invariant("kernel_1"), is_invariant("weight_0")
    (True, False)
    """
    return _LATENT.fullmatch(name) is None


def centred_kernel_alignment(
    K: Float[Any, "*batch points points"], Y: Float[Any, "*#batch points outputs"]
) -> Float[Any, "*batch"]:
    """Centred kernel alignment of a kernel with the targets, tr(HKH YYᵀ) / (|HKH| |HYYᵀH|), H = 1 − 11ᵀ/P.

    1 where the centred kernel is proportional to the centred target kernel, 0 where they are orthogonal (and, by
    convention, where either vanishes, as it does for constant targets). Scale-free in both arguments. Works on NumPy
    and on JAX arrays, in O(points² outputs).

    Raises:
        ValueError: K is not square, or Y is not (points, outputs) with as many points.

    Source: Cortes, Mohri & Rostamizadeh, Algorithms for Learning Kernels Based on Centered Alignment, JMLR 13 (2012),
    definition 4.

    >>> import numpy as np
    >>> Y = np.array([[1.0], [-1.0], [2.0]])
    >>> round(float(centred_kernel_alignment(3 * Y @ Y.T, Y)), 12)
    1.0
    """
    kernel, targets = np.shape(K), np.shape(Y)
    if len(kernel) < 2 or kernel[-1] != kernel[-2]:
        raise ValueError(f"K has shape {kernel}: give a square kernel, (points, points)")
    if len(targets) < 2:
        raise ValueError(f"Y has shape {targets}: give (points, outputs), for a single output Y[:, None]")
    if targets[-2] != kernel[-1]:
        raise ValueError(
            f"K has {kernel[-1]} points and Y has {targets[-2]}: give both on the same, the training points"
        )
    K = K - K.mean(axis=-1, keepdims=True)
    K = K - K.mean(axis=-2, keepdims=True)
    Y = Y - Y.mean(axis=-2, keepdims=True)
    overlap = ((K @ Y) * Y).sum(axis=(-2, -1))
    gram = Y.swapaxes(-2, -1) @ Y  # |YYᵀ| = |YᵀY| in the Frobenius norm, and outputs are few
    norm = ((K * K).sum(axis=(-2, -1)) * (gram * gram).sum(axis=(-2, -1))) ** 0.5
    return overlap / (norm + (norm == 0))
