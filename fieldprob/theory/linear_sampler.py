"""Independent draws from the posterior of a linear network with one hidden layer (theory 02, (17)).

With features F = [sqrt(g/d) X, sqrt(b)] and standard normal W the outputs are F W^T a: given Q = |a|^2 they are
F theta, theta ~ N(0, Q), so that theta is drawn by Matheron's rule; a = sqrt(Q) u has a uniform direction u; and of W
only u^T W = theta / sqrt(Q) is seen by the data.
"""

import jax
import jax.numpy as jnp
from jax import Array

from fieldprob import gp
from fieldprob.gp.scales import log_density, posterior_nodes
from fieldprob.networks.arguments import _integer
from fieldprob.theory.setting import setting


def sample_exact_linear(key, net, task, draws: int) -> dict[str, Array]:
    """Exact, independent posterior draws of a linear network: the standard against which MCMC is held.

    Args:
        key: a JAX key.
        net: a linear `fieldprob.Mlp` with one hidden layer; only its first layer may have a bias.
        task: a `fieldprob.Task` of one output; any noise.
        draws: number of draws.

    Returns:
        The sites of `net.weights`, standard normal a priori: `weight_0` (draws, N, inputs), `readout` (draws, N, 1),
        `bias_0` (draws, N) if there is one; and the statistics `f` (draws, points, 1), `f_test`, `kernel_1` over all
        points, `readout_norm`, `weight_covariance` and `train_loss`.

    Raises:
        TypeError, ValueError: as `exact_linear`, and for other depths.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=3, activation="linear")
    >>> task = fp.tasks.linear_teacher(6, inputs=4, noise_variance=0.1, seed=0)
    >>> fp.theory.sample_exact_linear(jax.random.key(0), net, task, draws=5)["weight_0"].shape
    (5, 3, 4)
    """
    draws = _integer("draws", draws)
    problem = setting("exact linear", net, task, linear=True, depth=1)
    bias = problem.bias_variance[0]
    d = problem.X.shape[1]
    columns = [jnp.sqrt(problem.weight_variance[0] / d) * problem.X]
    if has_bias := not (isinstance(bias, float) and bias == 0.0):
        columns.append(jnp.full((len(problem.X), 1), jnp.sqrt(bias)))
    F = jnp.concatenate(columns, axis=1)
    W, a = _draw(key, F, problem.y, problem.noise, problem.readout, problem.widths[0], draws)

    h = F @ jnp.swapaxes(W, 1, 2)  # (draws, points, neurons)
    f = h @ a[..., None]
    sites = {"weight_0": W[..., :d], "readout": a[..., None] / jnp.sqrt(problem.readout / problem.widths[0])}
    if has_bias:
        sites["bias_0"] = W[..., d]
    P = problem.points
    weights = jnp.sqrt(problem.weight_variance[0] / d) * sites["weight_0"]
    statistics = {
        "f": f[:, :P],
        "kernel_1": problem.readout / problem.widths[0] * h @ jnp.swapaxes(h, 1, 2),
        "readout_norm": jnp.sum(a**2, axis=1),
        "weight_covariance": jnp.swapaxes(weights, 1, 2) @ weights / problem.widths[0],
        "train_loss": jnp.mean((problem.y[:, None] - f[:, :P]) ** 2, axis=(1, 2)),
    }
    if len(F) > P:
        statistics["f_test"] = f[:, P:]
    return sites | statistics


def _draw(key, F, y, noise, readout, width, draws):
    """Standard normal weights (draws, width, features) and readout weights (draws, width)."""
    P = y.shape[0]
    modes = gp.modes(F[:P] @ F[:P].T * readout, noise, y)
    keys = jax.random.split(key, 6)
    Q = readout * jnp.exp(_log_scales(keys[0], modes, width, draws))[:, None]

    theta = jnp.sqrt(Q) * jax.random.normal(keys[1], (draws, F.shape[1]))
    features = modes.project(F[:P])  # (points, features)
    residual = modes.y - theta @ features.T - jnp.sqrt(modes.noise) * jax.random.normal(keys[2], (draws, P))
    theta = theta + Q * (residual / (modes.noise + Q / readout * modes.eigenvalues)) @ features

    u = jax.random.normal(keys[3], (draws, width))
    u = u / jnp.linalg.norm(u, axis=1, keepdims=True)
    W = jax.random.normal(keys[4], (draws, width, F.shape[1]))
    W = W + u[..., None] * (theta / jnp.sqrt(Q) - jnp.einsum("sn,snd->sd", u, W))[:, None]
    return W, jnp.sqrt(Q) * u


def _log_scales(key, modes, width, draws):
    """Draws of log s by the inverse of its cumulative distribution, tabulated on a fine grid."""
    nodes = posterior_nodes(modes, (width,), count=4001)
    log_weight = nodes.log_weight + log_density(nodes, (width,)) + modes.log_likelihood(jnp.exp(nodes.z))
    w = jax.nn.softmax(log_weight)
    return jnp.interp(jax.random.uniform(key, (draws,)), jnp.cumsum(w) - w / 2, nodes.z)
