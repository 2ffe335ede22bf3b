"""The kernel superposition prior: the layer kernels of a finite network, drawn layer by layer without its weights.

Given kernel_{l-1} over the points, the pre-activations of the N_l neurons of layer l are independent draws of
N(0, kernel_{l-1}), whatever the activation, so that (theory 03, (1) and (4); exact at every width)

    h = R z,   R R^T = kernel_{l-1},   z standard normal (columns of R, N_l),
    kernel_l = (weight_variance[l] / N_l) phi(h) phi(h)^T + bias_variance[l].

What is carried from layer to layer is a root of each kernel: [sqrt(variance / N_l) phi(h), sqrt(bias)] is one of
kernel_l, and where it has more columns than there are data points it is replaced by the lower triangular one, so that a
layer has as few latents as neurons or points allow. Being triangular, it leaves the kernel of the first points to the
first latents: those of test points do not enter a likelihood. For a linear layer z z^T is a Wishart matrix, and its
Bartlett factor A takes the place of z: lower trapezoidal, A_ij standard normal, A_ii^2 ~ chi^2 of N_l - i degrees of
freedom, i = 0, 1, ...; with min(N_l, columns of R) columns it exists also where N_l is smaller than the rank.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import ndtr
from jaxtyping import Array, Float
from numpyro.distributions.transforms import AffineTransform, ExpTransform

from fieldprob.activations import Linear
from fieldprob.networks.arguments import _is_zero, _standard_normal

_ROUNDING = 10.0  # units in the last place and point, added to the diagonal of a kernel before its triangular root


class LayerPlan(NamedTuple):
    """How a layer is drawn: columns of the root of the kernel before it, and whether that root is made triangular."""

    columns: int
    triangular: bool


def plan(net, inputs: int, points: int, leading: int) -> tuple[LayerPlan, ...]:
    """One `LayerPlan` a hidden layer, for kernels over `points` points of which the first `leading` carry data.

    >>> import fieldprob as fp
    >>> plan(fp.Mlp(width=(2, 50), depth=2), inputs=9, points=5, leading=4)
    (LayerPlan(columns=5, triangular=True), LayerPlan(columns=2, triangular=False))
    """
    layers, columns = [], inputs + _has_bias(net, 0)
    for layer, (width, activation) in enumerate(zip(net.widths, net.activations, strict=True), start=1):
        triangular = columns > leading
        kept = points if triangular else columns
        layers.append(LayerPlan(kept, triangular))
        columns = min(kept, width) if isinstance(activation, Linear) else width
        columns += layer < net.depth and _has_bias(net, layer)
    return tuple(layers)


def sample_latents(net, layers: tuple[LayerPlan, ...]) -> dict[str, Array]:
    """NumPyro sites of the superposition prior, for l = 1..L: `latent_l` (columns, N_l), standard normal; for a linear
    layer `bartlett_l`, the standard normals of its Bartlett factor row by row, and `chi_l`, see `log_chi_square`, for
    its diagonal; for random phases `phase_{l-1}` (N_l,), standard normal."""
    latents = {}
    for layer, (width, activation, (columns, _)) in enumerate(zip(net.widths, net.activations, layers, strict=True), 1):
        if isinstance(activation, Linear):
            kept = min(columns, width)
            latents[f"chi_{layer}"] = numpyro.sample(f"chi_{layer}", log_chi_square(_degrees(width, kept)).to_event(1))
            if below := len(_below_diagonal(columns, kept)[0]):
                latents[f"bartlett_{layer}"] = _standard_normal(f"bartlett_{layer}", below)
            continue
        latents[f"latent_{layer}"] = _standard_normal(f"latent_{layer}", columns, width)
        if activation.random_phase:
            latents[f"phase_{layer - 1}"] = _standard_normal(f"phase_{layer - 1}", width)
    return latents


def kernel_roots(
    net, latents: dict[str, Array], layers: tuple[LayerPlan, ...], X: Float[Array, "points inputs"], leading: int
) -> list[Float[Array, "points columns_"]]:
    """Roots [R_0, ..., R_L] of the layer kernels, kernel_l = R_l R_l^T, for given latents; in the dtype of X.

    `X` are the points of the plan `layers`, or only the `leading` ones, whose kernels are then the same.
    """
    root = features(X, net.weight_variance[0] / X.shape[-1], net.bias_variance[0])
    roots = [root]
    for layer, (width, activation, how) in enumerate(zip(net.widths, net.activations, layers, strict=True), start=1):
        root = triangular_root(root, leading) if how.triangular else root
        columns = root.shape[-1]
        if isinstance(activation, Linear):
            A = _bartlett_factor(latents, layer, how.columns, width).astype(root.dtype)
            phi = root @ A[:columns, : min(columns, width)]
        else:
            h = root @ latents[f"latent_{layer}"][:columns].astype(root.dtype)
            if activation.random_phase:
                phi = activation.phi(h, 2 * jnp.pi * ndtr(latents[f"phase_{layer - 1}"].astype(root.dtype)))
            else:
                phi = activation.phi(h)
        variance, bias = net._output_variances()
        if layer < net.depth:
            variance, bias = net.weight_variance[layer], net.bias_variance[layer]
        root = features(phi, variance / width, bias)
        roots.append(root)
    return roots


def features(
    phi: Float[Array, "points columns"], variance, bias: float | Float[Array, ""]
) -> Float[Array, "points columns_"]:
    """[sqrt(variance) phi, sqrt(bias)], whose Gram matrix is variance phi phi^T + bias; no last column for no bias.

    >>> import jax.numpy as jnp
    >>> features(jnp.ones((2, 3)), 4.0, 9.0)[0].tolist()
    [2.0, 2.0, 2.0, 3.0]
    """
    F = phi * jnp.sqrt(variance).astype(phi.dtype)
    if _is_zero(bias):
        return F
    return jnp.concatenate([F, jnp.full_like(F[:, :1], 1.0) * jnp.sqrt(bias).astype(F.dtype)], axis=1)


def triangular_root(root: Float[Array, "points columns"], leading: int | None = None) -> Float[Array, "points points"]:
    """The lower triangular L with L L^T = root root^T, and its derivative also where that is singular.

    Singular kernels are common (coincident points, more points than inputs, ReLU neurons that are all silent at a
    point), and a triangular root has no derivative there. The diagonal of the kernel is therefore raised by a few units
    in the last place and point, of its mean over the `leading` points, and behind them of its largest entry: rounding,
    to the kernel. Points behind the leading ones leave the root of these as it is.

    >>> import jax, jax.numpy as jnp
    >>> R = jnp.array([[1.0, 0.0, 2.0], [1.0, 0.0, 2.0]])
    >>> L = triangular_root(R)
    >>> bool(jnp.allclose(L @ L.T, R @ R.T, rtol=1e-4)), L[0, 1].item()
    (True, 0.0)
    """
    kernel = root @ root.T
    points, diagonal, precision = len(root), jnp.diagonal(kernel), jnp.finfo(kernel.dtype)
    leading = points if leading is None else leading
    unit = _ROUNDING * precision.eps
    of_leading = unit * leading * jnp.mean(diagonal[:leading]) + precision.tiny
    of_others = jnp.maximum(of_leading, unit * points * jnp.max(diagonal))
    return jnp.linalg.cholesky(kernel + jnp.diag(jnp.where(jnp.arange(points) < leading, of_leading, of_others)))


def log_chi_square(degrees: Float[Array, "..."]) -> dist.TransformedDistribution:
    """The law of u where chi^2 = degrees exp(sqrt(2 / degrees) u): close to standard normal, as other latents are.

    >>> import jax.numpy as jnp
    >>> round(float(jnp.exp(log_chi_square(jnp.array(200.0)).log_prob(0.0))), 3)  # of the standard normal: 0.399
    0.399
    """
    scale = jnp.sqrt(degrees / 2)
    standardise = AffineTransform(-scale * jnp.log(degrees), scale)
    return dist.TransformedDistribution(dist.Chi2(degrees), [ExpTransform().inv, standardise])


def _degrees(width: int, columns: int) -> Float[Array, " columns"]:
    return width - jnp.arange(columns, dtype=float)


def _has_bias(net, layer: int) -> bool:
    return not _is_zero(net.bias_variance[layer])


def _below_diagonal(rows: int, columns: int):
    return np.tril_indices(rows, -1, columns)


def _bartlett_factor(latents, layer: int, rows: int, width: int) -> Float[Array, "rows columns"]:
    columns = min(rows, width)
    degrees = _degrees(width, columns)
    diagonal = jnp.sqrt(degrees) * jnp.exp(latents[f"chi_{layer}"] / jnp.sqrt(2 * degrees))
    A = jnp.zeros((rows, columns), diagonal.dtype).at[np.arange(columns), np.arange(columns)].set(diagonal)
    if f"bartlett_{layer}" in latents:
        A = A.at[_below_diagonal(rows, columns)].set(latents[f"bartlett_{layer}"])
    return A
