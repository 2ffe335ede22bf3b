"""The Ising task with its mean kernel: every equation of a linear network with one hidden layer is a scalar one.

The kernel of y = +-1 balanced over P points is g [(1 - u^2) 1 + u^2 y y^T], u = 2 bias, with eigenvalues
lambda_par = g (1 - u^2 + P u^2) along y and lambda_perp = g (1 - u^2), P - 1 times (theory 02, (36)-(38)).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.activations import Linear
from fieldprob.gp import Diagonal
from fieldprob.gp.scales import log_density, posterior_nodes
from fieldprob.networks import Mlp
from fieldprob.theory.precision import require_float64
from fieldprob.theory.rescaling import saddle_point


class IsingLinear(NamedTuple):
    """Posterior means: `readout_norm` |a|^2; y times the discrepancy y - f at a training and at a test point; and the
    eigenvalues of kernel_1 on the training points along y and orthogonal to it."""

    readout_norm: Float[Array, ""]
    train_discrepancy: Float[Array, ""]
    test_discrepancy: Float[Array, ""]
    kernel_parallel: Float[Array, ""]
    kernel_orthogonal: Float[Array, ""]


def ising_linear(
    net: Mlp,
    *,
    points: int,
    bias: float,
    noise_variance: float,
    order: str = "exact",
) -> IsingLinear:
    """A linear network on the Ising task with its mean kernel, in closed scalar form.

    Args:
        net: a linear `Mlp` with one hidden layer and no biases.
        points: P.
        bias: in [0, 1/2]: P(x_j = +1 | y) = 1/2 + bias y.
        noise_variance: before division by chi.
        order: "exact" averages over the scale; "tree" and "saddle" are points, with the kernel of adaptation and of
            rescaling respectively.

    Raises:
        ValueError: another network, bias out of range, an unknown order, or JAX not in float64.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(100, activation="linear", weight_variance=0.5, readout_variance=0.2)
    >>> ising = fp.theory.ising_linear(net, points=80, bias=0.1, noise_variance=1.0)
    >>> round(ising.train_discrepancy.item(), 4), round(ising.test_discrepancy.item(), 4)
    (0.6887, 0.7605)
    """
    require_float64("ising linear")
    if net.depth != 1 or not isinstance(net.activations[0], Linear) or any(net.bias_variance):
        raise ValueError("net must be a linear Mlp with one hidden layer and no biases, activation='linear'.")
    if not 0 <= bias <= 0.5:
        raise ValueError(f"bias is {bias}: give a number from 0 to 1/2.")
    if order not in ("exact", "tree", "saddle"):
        raise ValueError(f"order is {order!r}: give 'exact', 'tree' or 'saddle'.")
    N, G, u2 = net.widths[0], net.readout_variance / net.chi, (2 * bias) ** 2
    noise = jnp.asarray(noise_variance / net.chi if net.rescale_noise else noise_variance, float)
    scale = G * net.weight_variance[0]
    parallel, orthogonal = scale * (1 - u2 + points * u2), scale * (1 - u2)
    data = Diagonal(
        eigenvalues=jnp.full(points, orthogonal).at[0].set(parallel),
        y=jnp.zeros(points).at[0].set(jnp.sqrt(points)),
        noise=noise,
        log_det=jnp.zeros(()),
    )
    if order == "exact":
        nodes = posterior_nodes(data, (N,))
        s = jnp.exp(nodes.z)
        w = jax.nn.softmax(nodes.log_weight + log_density(nodes, (N,)) + data.log_likelihood(s))
    else:
        s, w = jnp.exp(saddle_point(data, N, tree=order == "tree"))[None], jnp.ones(1)

    def gain(eigenvalue, target):
        """Relative growth of kernel_1 along a mode in which the data are `target`."""
        if order == "saddle":
            return s - 1
        variance = noise + s * eigenvalue
        shrinkage = 0.0 if order == "tree" else 1 / variance
        return s * eigenvalue * (target / variance**2 - shrinkage) / N

    return IsingLinear(
        readout_norm=G * w @ s,
        train_discrepancy=w @ (noise / (noise + s * parallel)),
        test_discrepancy=1 - w @ (s * scale * u2 * points / (noise + s * parallel)),
        kernel_parallel=parallel * (1 + w @ gain(parallel, points)),
        kernel_orthogonal=orthogonal * (1 + w @ gain(orthogonal, 0.0)),
    )
