"""Critical feature learning: how much a deep network learns depends on how close it is to the edge of chaos.

To first order in 1/width what is learned is the fluctuation of the layers' kernels in the prior times the force of the
data. Fluctuations grow with depth, most where signals survive, at the edge of chaos; so the gain in alignment with the
targets has a broad maximum near it. Sweep the variance of all weights after the first layer to see it:

    fieldprob sweep criticality --weight-variance 0.7,0.9,1.1,1.376,1.7,2.2

With noise of 1e-3 in place of 0.1 (preset "small_noise") there is no maximum: deep in the ordered phase kernels are
small against the targets, the force explodes and the gain falls with the variance throughout. There the first order is
no longer small either, and is no prediction.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
import numpyro

import fieldprob as fp
from fieldprob import statistics
from fieldprob.activations import get

presets = {
    "critical": {},
    "small_noise": {"noise_variance": 1e-3, "weight_variance": 2.2, "width": 2000},
    "full": {"draws": 200_000},
}


def xor(per_cluster, inputs, spread, noise_variance, seed):
    """Four clusters at +-e_1 (y = 1) and +-e_2 (y = -1): no linear function of the inputs tells them apart."""
    axes = np.eye(inputs)
    centres = np.repeat([axes[0], -axes[0], axes[1], -axes[1]], per_cluster, axis=0)
    X = centres + spread * np.random.default_rng(seed).normal(size=centres.shape) / np.sqrt(inputs)
    return fp.Task(X, np.repeat([1.0, -1.0], 2 * per_cluster), noise_variance, name="xor")


def network(width, depth, weight_variance, bias_variance, activation, inputs):
    """Kernel_0 is X X^T; all later variances move together."""
    variances = (float(inputs), *[weight_variance] * (depth - 1))
    return fp.Mlp(width, depth, activation, variances, (0.0, *[bias_variance] * depth), weight_variance)


def model(net, task, **_):
    """One network from the prior, as its layer kernels, and the targets given the last: alignments, and that kernel."""
    kernels = net.sample_kernels(task.X)
    for layer, K in enumerate(kernels[1:], start=1):
        numpyro.deterministic(f"alignment_{layer}", statistics.centred_kernel_alignment(K.matrix, task.y))
    numpyro.deterministic(f"kernel_{net.depth}", kernels[-1].matrix)
    numpyro.sample("y", fp.gp.Marginal(kernels[-1], net.effective_noise(task), task.outputs), obs=task.y)


def paired_importance(net, task, *, draws, batch, seed, progress=False):
    """Posterior less prior from the same networks: one number a draw, whose mean is the difference (`shift_draws`)."""
    import xarray as xr

    shifts = {f"alignment_{layer}": f"alignment_gain_{layer}" for layer in range(1, net.depth + 1)}
    shifts[f"kernel_{net.depth}"] = f"kernel_shift_{net.depth}"
    found = fp.infer.Importance.sample(
        net, task, key=jax.random.key(seed), draws=draws, batch=batch, model=model, keep=tuple(shifts)
    )
    variables: dict[str, Any] = {}
    for name, shift in shifts.items():
        variables[shift] = (("particle", *statistics.dims(shift)), found.shift_draws(name))
    coords = {"particle": np.arange(draws), "point": np.arange(task.points), "point_": np.arange(task.points)}
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset(variables, coords=coords)}, name="fieldprob")
    tree.attrs["effective_sample_size"] = found.effective_sample_size
    return tree


def limit(net, task):
    """Of infinite width: kernels that do not fluctuate learn nothing."""
    mean = {f"alignment_gain_{layer}": 0.0 for layer in range(1, net.depth + 1)}
    shift = {f"kernel_shift_{net.depth}": np.zeros((task.points,) * 2)}
    return fp.Prediction(theory="limit", order="exact as width → ∞", mean=mean | shift)


def theories():
    return [limit, fp.theory.fluctuation_response]


def edge_of_chaos(activation, bias_variance):
    """The weight variance at the edge for this bias variance, None if there is none."""
    w, b = fp.kernels.edge_of_chaos(activation, np.concatenate([[0.0], np.geomspace(1e-4, 1e2, 4000)]))
    usable = np.isfinite(w) & np.isfinite(b)
    w, b = np.asarray(w)[usable], np.asarray(b)[usable]
    if not len(b) or not b.min() <= bias_variance <= b.max() or np.any(np.diff(b) <= 0):
        return None
    return float(np.interp(bias_variance, b, w))


def draw_gain(result, build, task, weight_variance, critical):
    """Width times the gain of every layer against the variance of the weights: theory as lines, the run as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    grid = np.linspace(min(0.5, 0.8 * weight_variance), max(3.0, 1.2 * weight_variance), 26)
    nets = [build(g) for g in grid]
    with jax.enable_x64(True):
        found = [fp.theory.fluctuation_response(net, task).mean for net in nets]
    depth, width = nets[0].depth, nets[0].widths[0]
    colours = ("#56B4E9", "#E69F00", "#009E73", "#D55E00", "#0072B2")
    for layer in range(1, depth + 1):
        name, colour = f"alignment_gain_{layer}", colours[(layer - depth - 1) % len(colours)]
        line = [width * float(mean[name]) for mean in found]
        draws = width * np.asarray(result.samples["posterior"][name])
        ax.plot(grid, line, color=colour, linewidth=1.6, label=f"kernel {layer}")
        error = 2 * draws.std(ddof=1) / np.sqrt(len(draws))
        ax.errorbar(weight_variance, draws.mean(), error, fmt="o", color=colour, capsize=3, markersize=5, zorder=3)
    ax.errorbar([], [], [], fmt="o", color="0.3", capsize=3, markersize=5, label="sampled ± 2 standard errors")
    largest = width * float(np.mean(result.samples["posterior"][f"alignment_gain_{depth}"]))
    if ax.get_ylim()[1] > 3 * largest:  # where the first order explodes it is no prediction
        ax.set_ylim(top=3 * largest)
    if critical is not None and grid[0] < critical < grid[-1]:
        ax.axvline(critical, color="0.6", linestyle="--", linewidth=1, zorder=0, label=f"edge of chaos, {critical:.3f}")
    ax.set(xlabel="weight variance of all layers after the first", ylabel="width × alignment gained from the data")
    figure.legend(loc="outside right center", frameon=False, title="first order in 1/width", alignment="left")
    return figure


def study(
    weight_variance: float = 1.376,
    bias_variance: float = 0.05,
    depth: int = 5,
    width: int = 400,
    activation: str = "erf",
    noise_variance: float = 0.1,
    per_cluster: int = 2,
    inputs: int = 10,
    spread: float = 0.4,
    draws: int = 12_000,
    batch: int = 500,
    data_seed: int = 0,
    seed: int = 0,
):
    """What the kernels of a deep network gain in alignment with the targets of an XOR task, layer by layer.

    Args:
        weight_variance: variance per fan-in of all weights after the first layer, the readout's included; at the edge
            of chaos for the default bias variance.
        bias_variance: variance of all biases but those of the first layer, which has none.
        depth: hidden layers.
        width: neurons of each hidden layer.
        activation: name of the activation function.
        noise_variance: likelihood variance.
        per_cluster: training points of each of the four clusters.
        inputs: input dimension.
        spread: of a cluster, relative to the distance of its centre from the origin.
        draws: networks drawn from the prior; they give prior and posterior, so that their difference is precise.
        batch: networks drawn at once.
        data_seed: of the points.
        seed: of the networks.
    """
    task = xor(per_cluster, inputs, spread, noise_variance, data_seed)
    build = partial(network, width, depth, bias_variance=bias_variance, activation=activation, inputs=inputs)
    critical = edge_of_chaos(get(activation), bias_variance)
    return fp.Study(
        build(weight_variance=weight_variance),
        task,
        theories=theories(),
        sampling={"draws": draws, "batch": batch},
        sampler=paired_importance,
        seed=seed,
        marks={} if critical is None else {"weight_variance": {"edge of chaos": critical}},
        figures={
            "gain": lambda result: draw_gain(
                result, lambda g: build(weight_variance=g), task, weight_variance, critical
            )
        },
    )
