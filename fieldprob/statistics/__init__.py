"""What is measured: the names of the statistics, their dimensions, and the formulas of the derived ones.

A statistic is a named array with named dimensions. The same name with the same dimensions is a deterministic site of a
NumPyro model, a variable of the sampled DataTree and an entry of a `Prediction`; this table makes the three meet.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from jaxtyping import Float

from fieldprob.statistics.addition import fourier_powers, residual_amplitude, target_eigenvalue
from fieldprob.statistics.forces import (
    conjugate_kernel,
    kernel_gain,
    normalised_discrepancy,
    residual_conjugate_kernel,
    ward_identity,
)
from fieldprob.statistics.modes import mode_learnability
from fieldprob.statistics.neurons import histogram_density, specialised_fraction

__all__ = [
    "alignment_orthogonal", "alignment_parallel", "centred_kernel_alignment", "conjugate_kernel", "dims",
    "fourier_powers", "hermite_coefficient", "histogram_density", "is_invariant", "kernel_gain", "mode_learnability",
    "names", "normalised_discrepancy", "readout_norm", "residual_amplitude", "residual_conjugate_kernel",
    "specialised_fraction", "target_eigenvalue", "ward_identity", "weight_covariance",
]  # fmt: skip

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
    (
        r"conjugate_kernel_\d+",
        ("train_point", "train_point_"),
        "force of the data on kernel_l: derivative of the log likelihood",
    ),
    (r"kernel_gain_\d+", (), "coefficient of y y^T in kernel_l less its prior mean, on the training inputs"),
    (r"kernel_shift_\d+", ("point", "point_"), "posterior mean of kernel_l less its prior mean"),
    (r"alignment_gain_\d+", (), "posterior mean of alignment_l less its prior mean"),
    ("discrepancy", ("train_point", "output"), "y - f at the training inputs"),
    ("discrepancy_conditional_variance", ("train_point",), "variance of f given the hidden weights"),
    ("discrepancy_test", ("test_point", "output"), "y - f at the test inputs"),
    ("discrepancy_test_conditional_variance", ("test_point",), "variance of f_test given the hidden weights"),
    ("normalised_discrepancy", ("train_point", "output"), "(y - f) / effective noise, a mean over the posterior"),
    ("alignment_parallel", (), "strength of a kernel along the targets, relative to a reference kernel"),
    ("alignment_orthogonal", (), "strength of a kernel orthogonal to the targets, relative to a reference kernel"),
    ("readout_norm", (), "squared norm |a|^2 of the readout weights"),
    (r"rescaling_\d+", (), "factor that multiplies the covariance leaving layer l, 1 as width grows"),
    ("weight_covariance", ("input", "input_"), "average over neurons of w w^T, w the weights that leave the inputs"),
    ("weight_spike", (), "mean square first-layer weight along the teacher"),
    ("weight_bulk", (), "mean square first-layer weight in the other directions"),
    ("hermite_coefficient", ("degree",), "of an output as a function of one standard normal direction of the input"),
    ("residual", ("mode",), "of target - f, in monic orthogonal polynomials of the degrees `mode` along the teacher"),
    (r"residual_\d+", (), "that of one degree"),
    ("overlap_histogram", ("bin",), "density of the overlap of a neuron with the teacher, `bin` its middle"),
    ("overlap_second_moment", (), "mean square overlap of a neuron with the teacher"),
    ("specialised_fraction", (), "share of the neurons (of their Fourier modes) that have left the central well"),
    ("train_loss", (), "mean over training points and outputs of (y - f)^2"),
    ("test_loss", (), "mean over test points and outputs of (y - f)^2"),
    # of modular addition
    ("residual_amplitude", (), "projection of y - f on y, relative to y"),
    ("mode_power", (), "mean over neurons and independent Fourier modes of the power of a mode"),
    ("power_histogram", ("bin",), "density of the power of a Fourier mode of a neuron"),
    ("target_eigenvalue", (), "y^T K y / |y|^2 of the output covariance K, over all outputs"),
    # averages over data sets, along a curve of their sizes
    ("test_error", ("points",), "mean square error of the mean predictor against clean targets"),
    ("noisy_test_error", ("points",), "mean square error of the mean predictor against noisy targets"),
    ("train_error", ("points",), "mean square error of the mean predictor on the noisy targets learned from"),
    ("leave_one_out_error", ("points",), "mean square of the leave-one-out residuals"),
    ("effective_ridge", ("points",), "ridge that one mode sees, all others included: points / tr resolvent"),
    ("posterior_variance", ("points",), "posterior variance, averaged over test inputs"),
    ("learnability", ("points", "mode"), "1 - posterior variance of a mode / its prior variance"),
    ("predictor", ("points", "mode"), "coefficient of the mean predictor, averaged over data sets"),
    ("mode_coefficient", ("mode",), "coefficient of the function along an eigenfunction, for one data set"),
    ("mode_learnability", ("mode",), "1 - posterior variance of a mode_coefficient / its prior variance"),
    ("target_learnability", ("points",), "overlap with the target on the idealised measure / the target's own"),
)

# Latent sites: relabelling the hidden neurons, or flipping the sign of an odd one, changes them but not the network.
_LATENT = re.compile(r"(weight|bias|phase|latent)_\d+|readout")


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
    Y = Y - Y.mean(axis=-2, keepdims=True)
    overlap = ((K @ Y) * Y).sum(axis=(-2, -1))  # the same with K centred
    K = K - K.mean(axis=-1, keepdims=True)
    K = K - K.mean(axis=-2, keepdims=True)
    gram = Y.swapaxes(-2, -1) @ Y  # |YYᵀ| = |YᵀY| in the Frobenius norm, and outputs are few
    square = (K * K).sum(axis=(-2, -1)) * (gram * gram).sum(axis=(-2, -1))
    return overlap / (square + (square == 0)) ** 0.5


def alignment_parallel(
    K: Float[Any, "*batch points points"], reference: Float[Any, "points points"], y: Float[Any, " points"]
) -> Float[Any, "*batch"]:
    """y^T K y / y^T reference y: what a kernel has gained along the targets (theory 02, (16)).

    A theory that rescales the reference kernel has it equal to `alignment_orthogonal`.

    Raises:
        ValueError: the shapes do not fit.

    >>> import numpy as np
    >>> y, reference = np.array([1.0, -1.0]), np.eye(2)
    >>> float(alignment_parallel(reference + np.outer(y, y), reference, y))
    3.0
    """
    _check_alignment(K, reference, y)
    return _along(K, y) / _along(reference, y)


def alignment_orthogonal(
    K: Float[Any, "*batch points points"], reference: Float[Any, "points points"], y: Float[Any, " points"]
) -> Float[Any, "*batch"]:
    """tr PK / tr P reference, with P the projector orthogonal to y: what a kernel has gained elsewhere (02, (16)).

    Raises:
        ValueError: the shapes do not fit.

    >>> import numpy as np
    >>> y, reference = np.array([1.0, -1.0]), np.eye(2)
    >>> float(alignment_orthogonal(reference + np.outer(y, y), reference, y))
    1.0
    """
    _check_alignment(K, reference, y)

    def rest(kernel):
        return kernel.trace(axis1=-2, axis2=-1) - _along(kernel, y) / (y @ y)

    return rest(K) / rest(reference)


def readout_norm(readout: Float[Any, "*batch neurons outputs"], variance) -> Float[Any, "*batch"]:
    """sum a^2 of the readout weights a = sqrt(variance / neurons) x standard normal sites (theory 02's Q = |a|^2).

    `variance` is the readout variance per fan-in, 1/chi included, so that the prior mean for one output is `variance`.

    Raises:
        ValueError: readout is not (..., neurons, outputs).

    >>> import numpy as np
    >>> float(readout_norm(np.ones((4, 1)), 0.5))
    0.5
    """
    shape = np.shape(readout)
    if len(shape) < 2:
        raise ValueError(f"readout has shape {shape}: give the sites (neurons, outputs)")
    return variance / shape[-2] * (readout * readout).sum(axis=(-2, -1))


def weight_covariance(weight: Float[Any, "*batch neurons inputs"], variance) -> Float[Any, "*batch inputs inputs"]:
    """The average over neurons of w w^T, w = sqrt(variance / inputs) x standard normal sites (theory 02, (15)).

    `variance` is the weight variance per fan-in: at the prior it is variance / inputs times the identity, and learning
    a direction e of the inputs makes a spike e^T W e.

    Raises:
        ValueError: weight is not (..., neurons, inputs).

    >>> import numpy as np
    >>> weight_covariance(np.array([[1.0, 0.0], [1.0, 2.0]]), 2.0).tolist()
    [[1.0, 1.0], [1.0, 2.0]]
    """
    shape = np.shape(weight)
    if len(shape) < 2:
        raise ValueError(f"weight has shape {shape}: give the sites (neurons, inputs)")
    return variance / shape[-1] * (weight.swapaxes(-2, -1) @ weight) / shape[-2]


def hermite_coefficient(
    f: Float[Any, "*batch points"], z: Float[Any, " points"], degrees: int
) -> Float[Any, "*batch degrees"]:
    """Mean of f He_n(z) / n! over inputs, n = 0..degrees - 1: the coefficients of f = sum_n c_n He_n(z).

    `z` is a direction of the inputs, a standard normal over them; the average over finitely many inputs has its own
    sampling error.

    Raises:
        ValueError: f and z differ in their number of points; no degrees.

    >>> import numpy as np
    >>> z = np.random.default_rng(0).normal(size=400_000)
    >>> abs(hermite_coefficient(2 * z + 0.5 * (z**3 - 3 * z), z, 4)).round(1).tolist()
    [0.0, 2.0, 0.0, 0.5]
    """
    if np.ndim(z) != 1 or np.shape(f)[-1:] != np.shape(z):
        raise ValueError(f"f has shape {np.shape(f)} and z {np.shape(z)}: give values at the same points")
    if degrees < 1:
        raise ValueError(f"degrees is {degrees}: give at least 1")
    polynomials = [z**0]
    for n in range(degrees - 1):  # He_n / n!
        previous = polynomials[n - 1] if n else 0 * z
        polynomials.append((z * polynomials[n] - previous) / (n + 1))
    return f @ _module(f).stack(polynomials, axis=-1) / np.shape(z)[0]


def _check_alignment(K, reference, y) -> None:
    points = np.shape(y)
    if len(points) != 1 or np.shape(reference) != points * 2 or np.shape(K)[-2:] != points * 2:
        raise ValueError(
            f"K {np.shape(K)}, reference {np.shape(reference)} and y {points} do not fit: give kernels "
            "(points, points) and y (points,), on the training points"
        )


def _along(K, y):
    return ((K @ y) * y).sum(axis=-1)


def _module(array):
    return array.__array_namespace__()  # numpy or jax.numpy, which this module does not import
