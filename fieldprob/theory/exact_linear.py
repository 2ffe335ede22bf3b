"""Deep linear networks at any width, exactly: their outputs are one Gaussian process of random scale.

Given all weights but the first layer's, f ~ N(0, s K) with K = kernel_L of the limit and s = prod_l chi^2_{N_l} / N_l.
Averages over the posterior of s, E below, with t = (s K + noise)^-1 y, give (theory 02, (7)-(17), (57)-(62); Li &
Sompolinsky, arXiv:2012.04030; Zavatone-Veth & Pehlevan, arXiv:2104.11734)

    <f> = E[s K t],   Cov f = E[s K - s^2 K (s K + noise)^-1 K] + Cov(s K t).

Of the neurons of a layer the data see one combination, whose second moment is that of f up to scale; the others keep
their prior given the layer before. In units of the output, H_l = kernel_l times the later layers' variances,

    <H_l> = (1 - 1/N_l) <H_{l-1}> + (1/N_l) E[s_1 ... s_{l-1} <f f^T>_s / s],   H_0 = K.
"""

import jax
import jax.numpy as jnp

from fieldprob import gp
from fieldprob.gp.scales import log_density, posterior_nodes
from fieldprob.prediction import Prediction
from fieldprob.theory.scale_average import ScaleAverage, outputs
from fieldprob.theory.setting import predict, setting


def exact_linear(net, task) -> Prediction:
    """What a deep linear network of any width predicts, exactly.

    Args:
        net: a linear `fieldprob.Mlp` of any depth and widths; only its first layer may have a bias.
        task: a `fieldprob.Task` of one output; any noise.

    Returns:
        A `Prediction`: mean, variance and covariance of `f` and `f_test`; posterior means of `kernel_0`..`kernel_L`
        over training then test points, of the first layer's `weight_covariance` W^T W / N_1 (inputs, inputs), of
        `readout_norm` |a|^2 (also its variance) and of the losses; the log evidence. Needs one eigendecomposition.
        Differentiable in every variance.

    Raises:
        TypeError, ValueError: the network is not a linear `Mlp` without biases after its first layer, the task has
            several outputs or operators, the noise is not positive definite, or JAX is not in float64.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=(3, 5), depth=2, activation="linear")
    >>> task = fp.tasks.linear_teacher(6, inputs=4, noise_variance=0.1, seed=0)
    >>> fp.theory.exact_linear(net, task).mean["weight_covariance"].shape
    (4, 4)
    """
    problem = setting("exact linear", net, task, linear=True)
    K = net.limit(problem.X)
    modes = gp.modes(K, problem.noise, problem.y, problem.rank)
    moments = _moments(problem.X, K, modes, (*problem.weight_variance, problem.readout), problem.widths)
    return predict(
        "exact linear",
        problem,
        exact=True,
        order="exact at every width",
        source="theory 02, (7)-(15), (57)-(62); Li & Sompolinsky, arXiv:2012.04030",
        **moments,
    )


@jax.jit
def _moments(X, K, modes, variances, widths):
    P, L = modes.y.shape[0], len(widths)
    nodes = posterior_nodes(modes, widths)
    s = jnp.exp(nodes.z)
    log_likelihood = modes.log_likelihood(s) + nodes.log_weight

    def log_weights(*powers):
        """Of the nodes, in averages that contain the layers' scales to these powers."""
        return log_likelihood + log_density(nodes, widths, powers)

    log_evidence = jax.nn.logsumexp(log_weights(*(0,) * L))

    def weights(*powers):
        return jnp.exp(log_weights(*powers) - log_evidence)

    w = weights(*(0,) * L)
    gain = 1 / (modes.noise + s[:, None] * modes.eigenvalues)  # (nodes, points)
    t = gain * modes.y
    centre = (w * s) @ t
    average = ScaleAverage(
        scale=w @ s,
        coefficients=centre,
        spread=jnp.sqrt(w)[:, None] * (s[:, None] * t - centre),
        kept=modes.noise * ((w * s) @ gain),
        explained=(w * s**2) @ gain,
    )
    mean, covariance = outputs(modes, K, average)

    def seen(weight, basis):
        """Average of s K (t t^T - (s K + noise)^-1) K, or the same of other linear maps of the data."""
        columns = jnp.concatenate([basis @ modes.kept(t).T, basis], axis=1)
        return (columns * jnp.concatenate([weight * s, -modes.kept((weight * s) @ gain)])) @ columns.T

    kernels, kept, weight = {0: K}, 1.0, jnp.zeros_like(w)
    for layer, width in enumerate(widths, start=1):
        fresh = weights(*(1,) * (layer - 1), *(0,) * (L - layer + 1))
        kept = (1 - 1 / width) * kept + jnp.sum(fresh) / width
        weight = (1 - 1 / width) * weight + fresh / width
        kernels[layer] = kept * K + seen(weight, modes.cross)
    later = 1.0
    for layer in range(L, -1, -1):
        kernels[layer] = kernels[layer] / later
        later = later * variances[layer]

    prior = variances[0] / X.shape[1]
    first = seen(w, modes.project(X[:P]).T) * prior**2 * jnp.prod(jnp.asarray(variances[1:])) / widths[0]
    norm = [variances[-1] ** power * jnp.sum(weights(*(0,) * (L - 1), power)) for power in (1, 2)]
    return {
        "mean": mean,
        "covariance": covariance,
        "log_evidence": log_evidence,
        # not as `kernels`: the alignment of a mean kernel, which `predict` adds to those, is not the mean alignment
        "mean_of": {f"kernel_{layer}": kernel for layer, kernel in kernels.items()}
        | {"weight_covariance": prior * jnp.eye(X.shape[1]) + first, "readout_norm": norm[0]},
        "variance_of": {"readout_norm": norm[1] - norm[0] ** 2},
    }
