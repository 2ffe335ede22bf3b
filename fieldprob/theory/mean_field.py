"""The mean-field limit: chi = N, N -> infinity, where the neurons of the posterior are independent draws of

    p(w) ~ prior(w) exp[g (delta . phi(X w))^2 / 2],   K = g <phi phi^T>,   delta = (K + noise)^-1 y,

with g the readout variance and the noise before their division by chi. In theory 02's variables this is the tree level
of `adaptation` at chi/N = 1 (02 (30b)). It minimises a convex function of the measure (02 (45)): one solution, which
must be found from both sides.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fieldprob.activations import Linear
from fieldprob.prediction import Prediction
from fieldprob.theory.adaptation.averages import find_saddle
from fieldprob.theory.adaptation.linear import adaptation_linear
from fieldprob.theory.adaptation.nonlinear import standard_errors
from fieldprob.theory.adaptation.theory import neuron_and_data, saddle_prediction
from fieldprob.theory.setting import predict, setting

_ORDER = "exact as width → ∞ at chi = width; variances leading, O(1/width)"
_SOURCE = "theory 01, F16-F17; theory 02, (30b), (49)"
_RELATIVE = 1e-6
_STANDARD_ERRORS = 10.0  # of differences at many points, each error from 16 blocks


def mean_field(net, task, *, average: str = "auto", samples: int = 48_000, key=None) -> Prediction:
    """The mean-field posterior of a network with one hidden layer.

    The tree level of `adaptation`, found twice: from the prior of a neuron and from its Gaussian closure, which lie on
    either side. For a linear network the saddle is one scalar root between two bounds.

    Args:
        net: a `fieldprob.Mlp` with one hidden layer, scaling="mean-field" and rescale_noise.
        task: a `fieldprob.Task` with one output, values at points.
        average, samples, key: as in `adaptation`.

    Returns:
        A `Prediction` with the statistics of `adaptation`; variances are O(1/width).

    Raises:
        ValueError: as `adaptation`; chi is not the width; the two solutions differ by more than their errors.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=64, activation="erf", scaling="mean-field")
    >>> task = fp.Task([[1.0], [2.0]], [1.0, -1.0], noise_variance=0.5)
    >>> mean_field(net, task).mean["kernel_1"].shape
    (2, 2)
    """
    problem = setting("mean field", net, task, depth=1)
    if not np.isclose(net.chi, net.widths[-1]) or not net.rescale_noise:
        raise ValueError(
            "theory 'mean field' is for chi = width, readout and noise divided by it: give scaling='mean-field', "
            "rescale_noise=True. For scalings in between use fp.theory.adaptation."
        )
    if isinstance(problem.activations[0], Linear) and average == "auto":
        return predict("mean field", problem, order=_ORDER, source=_SOURCE, **adaptation_linear(problem, "tree"))
    neuron, data = neuron_and_data("mean field", problem)
    keys = (None, None) if key is None else jax.random.split(key)
    sides = [
        find_saddle("mean field", neuron, data, average, samples, side_key, tilted=tilted)
        for side_key, tilted in zip(keys, (False, True), strict=True)
    ]
    difference = jnp.abs(sides[0].tau - sides[1].tau)
    allowed = _RELATIVE * jnp.max(jnp.abs(sides[1].tau))
    if sides[0].sampled:
        variances = [standard_errors(neuron, s.neurons, data, s.tau)["tau"] ** 2 for s in sides]
        allowed = allowed + _STANDARD_ERRORS * jnp.sqrt(sum(variances))
    excess = jnp.max(difference - allowed)
    if not isinstance(excess, Tracer) and not excess <= 0:
        raise ValueError(
            "theory 'mean field' did not converge: the solutions from the prior and from the Gaussian closure differ "
            f"by {float(jnp.max(difference / jnp.max(jnp.abs(sides[1].tau)))):.1g}: give more samples."
        )
    evidence = average != "particles"
    return saddle_prediction("mean field", problem, neuron, data, sides[1], "tree", evidence=evidence)
