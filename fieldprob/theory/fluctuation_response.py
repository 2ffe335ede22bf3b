"""What data do to the kernels of a network, to first order in 1/N: the response of the prior to the force of the data.

The log evidence of data under outputs of covariance C = kernel_L changes by tr(E dC), with the force
E = (z z^T - R) / 2, R = (C + noise)^-1, z = R y. The mean of any kernel then moves by its prior covariance with C,

    <kernel_l>_posterior - <kernel_l>_prior = G^(l,L) : E    (theory 03, (27)-(31)),

which takes one sweep back through the layers, E^(l-1) = J^lT : E^l, and one forward,
dC^l = variance^2 Cov(phi phi) : E^l / N_l + J^l : dC^(l-1): nothing is larger than a matrix over the points.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from fieldprob import statistics
from fieldprob.activations.four_point import unit_covariance
from fieldprob.networks.regression import check_values_only
from fieldprob.prediction import Prediction
from fieldprob.theory.kernel_fluctuations import along, chosen_method
from fieldprob.theory.precision import require_float64
from fieldprob.theory.prior_fluctuations import check_layer, problem, require_small

_REPLICAS = 16  # independent sets of draws, from which errors follow
_BATCH = 1024  # neurons drawn at once


class Response(NamedTuple):
    """Changes of kernel_0, ..., kernel_L, their standard errors, and the force on each (zero beyond its layer)."""

    kernels: list[Array]
    errors: list[Array]
    forces: list[Array]


def kernel_response(
    net,
    X,
    force: Float[Array, "points points"],
    layer: int | None = None,
    *,
    method: str = "auto",
    neurons: int = 2**16,
    key: Array | None = None,
    nodes: int = 16,
) -> Response:
    """G^(l,layer) : force for every l: what a force on one layer's kernel does to the mean of all, in points^2 memory.

    Args:
        net: an `Mlp`.
        X: inputs, (points, inputs).
        force: a symmetric matrix E that tilts the prior by exp(tr E kernel_layer); ":" sums over all ordered pairs.
        layer: 1 to L, the last unless given.
        method, key, nodes: as for `theory.prior_fluctuations`; "tensor" makes points^4 numbers a layer.
        neurons: draws for each layer of "neurons", in 16 independent parts whose spread gives the errors.

    Raises:
        TypeError, ValueError: as `theory.prior_fluctuations`; there is no such layer; the force is not symmetric.

    Source: theory 03, (27)-(31), section 4.2.

    >>> import fieldprob as fp, jax.numpy as jnp
    >>> net = fp.Mlp(width=(10, 20), depth=2, activation="linear")
    >>> found = kernel_response(net, jnp.ones((1, 1)), jnp.ones((1, 1)))
    >>> [round(float(K[0, 0]), 12) for K in found.kernels]
    [0.0, 0.2, 0.3]
    """
    X, layers, kernels = problem("kernel_response", net, X)
    layer = net.depth if layer is None else check_layer(net, layer)
    if layer == 0:
        raise ValueError("layer is 0: kernel_0 is fixed, a force on it does nothing; give 1 to the depth.")
    force = jnp.asarray(force, float)
    if force.shape != kernels[0].shape or not jnp.allclose(force, force.T, rtol=1e-8, atol=0):
        raise ValueError(
            f"force has shape {force.shape} for {len(X)} points: give a symmetric (points, points) matrix."
        )
    method = chosen_method(method, net.activations, len(X), neurons, key)
    if method == "tensor":
        require_small("kernel_response", len(X))
        units = [unit_covariance(m.activation, K, nodes=nodes) for m, K in zip(layers[:layer], kernels, strict=False)]
        changes, forces = _sweep(layers, kernels, force, layer, units)
        return Response(changes, [jnp.zeros_like(K) for K in kernels], forces)
    draws = -(-neurons // (_REPLICAS * _BATCH))
    keys = jax.random.split(key, _REPLICAS)  # pyright: ignore[reportArgumentType]
    parts, forces = _sampled(layers, kernels, force, layer, draws, keys)
    means = [jnp.mean(part, axis=0) for part in parts]
    return Response(means, [jnp.std(part, axis=0, ddof=1) / _REPLICAS**0.5 for part in parts], forces)


def fluctuation_response(
    net, task, *, method: str = "auto", neurons: int = 2**16, key: Array | None = None, nodes: int = 16
) -> Prediction:
    """What a network learns to first order in 1/N: posterior less prior of its kernels and of their alignments.

    `kernel_shift_l` is the posterior mean of kernel_l less its prior mean, over training then test points, and
    `alignment_gain_l` the same of the centred alignment of kernel_l with the targets, l = 1..L. Both are strict first
    orders: linear in the force. They need sampled differences of posterior and prior (`infer.Importance`), not of
    posterior and limit, from which the prior mean is as far. Valid while the shift is small, as for
    `theory.perturbative`; a bias of the readout is allowed here.

    Args:
        net: an `Mlp` with one output.
        task: a `Task` of values at points.
        method, neurons, key, nodes: as for `kernel_response`.

    Raises:
        TypeError, ValueError: as `kernel_response`; the task has several outputs or observes linear operators.

    Source: theory 03, (16), (27)-(31), (46).

    >>> import fieldprob as fp
    >>> task = fp.tasks.linear_teacher(4, inputs=3, noise_variance=0.3, seed=0)
    >>> wide, wider = (fp.theory.fluctuation_response(fp.Mlp(width=n), task) for n in (100, 200))
    >>> round(float(wide.mean["alignment_gain_1"] / wider.mean["alignment_gain_1"]), 10)
    2.0
    """
    check_values_only(task, "theory 'fluctuation_response'")
    require_float64("fluctuation_response", task)
    if task.outputs != 1:
        raise ValueError(f"the task has {task.outputs} outputs: theory 'fluctuation_response' is for one.")
    P, y = task.points, task.y
    X = task.X if not task.test_points else jnp.concatenate([task.X, task.X_test])
    kernels = net.limit_kernels(X)
    pull = statistics.conjugate_kernel(kernels[-1][:P, :P], y, jnp.asarray(net.effective_noise(task)))
    force = jnp.zeros_like(kernels[0]).at[:P, :P].set((pull + pull.T) / 2)
    found = kernel_response(net, X, force, method=method, neurons=neurons, key=key, nodes=nodes)

    def gain(K, V):
        return along(lambda K: statistics.centred_kernel_alignment(K, y), K[:P, :P], V[:P, :P])

    mean, error = {}, {}
    for layer, (K, V, S) in enumerate(zip(kernels, found.kernels, found.errors, strict=True)):
        if layer:
            mean |= {f"kernel_shift_{layer}": V, f"alignment_gain_{layer}": gain(K, V)}
            error |= {f"kernel_shift_{layer}": S}
    return Prediction(
        theory="linear response",
        order="first order in 1/N",
        source="theory 03, (16), (27)-(31), (46)",
        mean=mean,
        error=error,
    )


# --- one sweep back and one forward -----------------------------------------------------------------------------------


def _backward(layers, kernels, force, layer: int) -> list[Array]:
    """The forces on kernel_0, ..., kernel_layer: E^(l-1) = J^lT : E^l."""
    forces = [force]
    for at in range(layer, 0, -1):
        pull = jax.vjp(layers[at - 1], kernels[at - 1])[1](forces[0])[0]
        forces.insert(0, (pull + pull.T) / 2)
    return forces


def _forward(layers, kernels, forces, source) -> list[Array]:
    """The changes of all kernels, where `source(l)` is Cov(phi phi) : E^l of layer l."""
    changes = [jnp.zeros_like(kernels[0])]
    for at, (layer, K) in enumerate(zip(layers, kernels[:-1], strict=True), start=1):
        change = along(layer, K, changes[-1])
        if at < len(forces):
            change += layer.weight**2 / layer.width * source(at)
        changes.append(change)
    return changes


def _padded(forces, kernels):
    return forces + [jnp.zeros_like(kernels[0])] * (len(kernels) - len(forces))


@eqx.filter_jit
def _sweep(layers, kernels, force, layer: int, units):
    forces = _backward(layers, kernels, force, layer)
    changes = _forward(layers, kernels, forces, lambda at: jnp.einsum("abcd,cd->ab", units[at - 1], forces[at]))
    return changes, _padded(forces, kernels)


@eqx.filter_jit
def _sampled(layers, kernels, force, layer: int, batches: int, keys):
    """The changes from independent sets of `batches` x 1024 neurons a layer, and the forces."""
    forces = _backward(layers, kernels, force, layer)
    roots = [_root(K) for K in kernels[:layer]]

    def replica(key):
        def source(at):
            layer, K, draws = layers[at - 1], kernels[at - 1], jax.random.fold_in(key, at)
            return _pull(layer, K, roots[at - 1], forces[at], batches, draws)

        return _forward(layers, kernels, forces, source)

    return jax.lax.map(replica, keys), _padded(forces, kernels)


def _root(K):
    eigenvalues, vectors = jnp.linalg.eigh(K)
    return vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))


def _pull(layer, K, root, force, batches: int, key):
    """Cov(phi phi^T, phi^T force phi) of one neuron, averaged over draws: two products of matrices a batch."""
    q = jnp.diagonal(K)
    F = layer.activation.dual(q[:, None], K, q[None, :])
    expected = jnp.sum(F * force)

    def batch(total, index):
        for_h, for_phase = jax.random.split(jax.random.fold_in(key, index))
        h = jax.random.normal(for_h, (_BATCH, len(q)), K.dtype) @ root.T
        phase = 2 * jnp.pi * jax.random.uniform(for_phase, (_BATCH, 1), K.dtype)
        phi = layer.activation.phi(h, phase) if layer.activation.random_phase else layer.activation.phi(h)
        excess = jnp.sum((phi @ force) * phi, axis=1) - expected
        return total + (phi.T * excess) @ phi - F * jnp.sum(excess), None

    total = jax.lax.scan(batch, jnp.zeros_like(K), jnp.arange(batches))[0]
    return total / (batches * _BATCH)
