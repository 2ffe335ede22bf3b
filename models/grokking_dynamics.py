"""Delayed generalisation: Langevin training of a network on a linear-plus-cubic teacher, as a function of time.

The train loss falls first, by memorising with neurons that know nothing of the teacher, and the test loss rises
meanwhile. Much later single neurons specialise to the teacher, one after the other, and the test loss falls. When they
do depends on the algorithm, the step size and the start: this is no statement about the posterior, which the same
training samples once it has forgotten its start. Equilibrium is the subject of `grokking`; given `equilibrium_draws`
the posterior of the same task is sampled too, by HMC, to show where training is heading.

    fieldprob run grokking_dynamics --equilibrium-draws 400
"""

from functools import partial
from math import sqrt

import jax.numpy as jnp
import numpy as np
import xarray as xr

import fieldprob as fp
from fieldprob.infer.trajectories import Langevin, trajectories

presets = {
    "small": {},
    "fewer_points": {"points": 80},  # the test loss rises before it falls
    "full": {
        "width": 700, "inputs": 150, "points": 600, "cubic": -1.2, "noise_variance": 0.05, "readout_variance": 0.011,
        "steps": 7_000_000, "step_size": 2e-3, "particles": 50,
    },
}  # fmt: skip

EDGES = np.linspace(-2.4, 2.4, 49)
DEGREES = (1, 3)
TIMES = 60
COLOURS = {"train": "#0072B2", "test": "#D55E00", "linear": "#009E73", "cubic": "#CC79A7"}


def neurons(net, task, teacher, threshold, z):
    """Statistics of the neurons at whitened weights z: `residual` (mode), what of the polynomials He_1 and He_3 of the
    teacher is not learned, an average over all inputs; `overlap_histogram` (bin) and `specialised_fraction`."""
    W = z["weight_0"] * jnp.sqrt(net.weight_variance[0] / task.inputs)
    readout = z["readout"][:, 0] * jnp.sqrt(net.readout_variance / net.chi / net.widths[0])
    m = W[:, 0]
    return {
        "residual": fp.networks.polynomial_residual(net.activations[0], W, readout, teacher, DEGREES),
        "overlap_histogram": fp.statistics.histogram_density(m, EDGES),
        "specialised_fraction": fp.statistics.specialised_fraction(m, threshold),
    }


def train(net, task, *, measure, step_size, steps, particles, equilibrium, seed, progress=True):
    """Langevin training from draws of the prior, in the network's own weights with the loss 1/2 sum (y - f)^2; `time`
    counts steps. Beside it in the group `equilibrium` the posterior means of the losses, where draws are asked for."""
    recorded = np.unique(np.concatenate([[0], np.rint(np.geomspace(1, steps, TIMES))]).astype(int))
    mobility = fp.infer.training.training_parameters(net, task).weight_decay
    tree = trajectories(
        net,
        task,
        dynamics=Langevin(step_size=step_size),
        mobility=mobility,
        times=recorded * step_size,
        particles=particles,
        batch=particles,
        statistics=measure,
        seed=seed,
        progress=progress,
        coords={"mode": list(DEGREES), "bin": (EDGES[1:] + EDGES[:-1]) / 2},
    )
    kept = ("train_loss", "test_loss", "residual", "overlap_histogram", "specialised_fraction")
    trajectory = tree["trajectory"].to_dataset()[list(kept)].assign_coords(step=("time", recorded))
    groups = {"trajectory": trajectory, "trajectory_stats": tree["trajectory_stats"].to_dataset()}
    if equilibrium:
        samples = fp.sample(net, task, draws=equilibrium, chains=2, face="collapsed", seed=seed, progress=progress)
        groups["equilibrium"] = samples["posterior"].to_dataset()[["train_loss", "test_loss"]]
    found = xr.DataTree.from_dict(groups, name="fieldprob")
    found.attrs |= tree.attrs
    return found


def draw_training(result, threshold, coefficients):
    """Losses, what is learned of the teacher, and the share of specialised neurons, against training steps."""
    from matplotlib.figure import Figure

    data = result.samples["trajectory"].to_dataset().sel(time=slice(1e-300, None))
    figure = Figure(figsize=(7.0, 7.6), layout="constrained")
    losses, learned, special = axes = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1.4, 1))

    def curve(ax, values, colour, label):
        ax.plot(data["step"], values.transpose("time", "particle"), color=colour, alpha=0.25, linewidth=0.8)
        ax.plot(data["step"], values.mean("particle"), color=colour, linewidth=2, label=label)

    for name in ("train", "test"):
        curve(losses, data[f"{name}_loss"], COLOURS[name], f"{name} loss")
    if "equilibrium" in result.samples.children:
        for name in ("train", "test"):
            level = float(result.samples["equilibrium"][f"{name}_loss"].mean())
            losses.axhline(level, color=COLOURS[name], linestyle=":", label=f"posterior, {name} (sampled by HMC)")
    losses.set(ylabel="mean squared error", ylim=(0, None))
    for mode, name in zip(DEGREES, ("linear", "cubic"), strict=True):
        scale = coefficients[DEGREES.index(mode)]
        curve(learned, 1 - data["residual"].sel(mode=mode) / scale, COLOURS[name], f"{name} part")
    for level in (0, 1):
        learned.axhline(level, color="0.8", linewidth=0.8, zorder=0)
    learned.set(ylabel="learned share\nof the teacher")
    curve(special, 100 * data["specialised_fraction"], "#555555", f"neurons with |overlap| > {threshold:g}")
    special.set(ylabel="specialised\nneurons (%)", xlabel="training step", xscale="log")
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, loc="best", fontsize=9)
    count = data.sizes["particle"]
    figure.suptitle(f"Training in time: {count} networks (thin), their mean (thick)", fontsize=11)
    return figure


def draw_overlaps(result, threshold):
    """The overlaps of neurons with the teacher, at four times of training."""
    from matplotlib.figure import Figure

    data = result.samples["trajectory"].to_dataset()
    steps = np.asarray(data["step"])
    chosen = [int(np.abs(steps - s).argmin()) for s in (0, *(steps[-1] ** np.array([0.55, 0.8, 1.0])))]
    figure = Figure(figsize=(9.0, 2.8), layout="constrained")
    for ax, index in zip(figure.subplots(1, len(chosen), sharey=True), chosen, strict=True):
        at = data["overlap_histogram"].isel(time=index).mean("particle")
        ax.stairs(at, EDGES, fill=True, color="0.7")
        for edge in (-threshold, threshold):
            ax.axvline(edge, color="0.4", linestyle=":", linewidth=0.8)
        ax.set(yscale="log", title=f"step {steps[index]:,}", xlabel="overlap with the teacher")
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("density of neurons")
    return figure


def study(
    width: int = 100,
    inputs: int = 20,
    points: int = 160,
    test: int = 2000,
    cubic: float = -0.6,
    noise_variance: float = 0.02,
    weight_variance: float = 0.5,
    readout_variance: float = 0.4,
    step_size: float = 5e-4,
    steps: int = 60_000,
    particles: int = 4,
    threshold: float = 0.6,
    equilibrium_draws: int = 0,
    seed: int = 0,
):
    """Langevin training of a network of erf neurons on y = He_1(z) + cubic He_3(z), followed in time.

    Args:
        width: hidden neurons.
        inputs: input dimension.
        points: training points.
        test: test points.
        cubic: coefficient of He_3, negative for what erf finds hard.
        noise_variance: of the likelihood, the temperature of training; labels have no noise.
        weight_variance: of the hidden weights, per fan-in.
        readout_variance: of the readout, per fan-in.
        step_size: learning rate of the loss 1/2 sum (y - f)^2.
        steps: of training; losses are recorded at 60 times, evenly on a logarithmic scale.
        particles: networks trained, each from its own draw of the prior and with its own noise, on the same data.
        threshold: of |overlap| above which a neuron counts as specialised.
        equilibrium_draws: draws of each of two HMC chains of the posterior, for comparison; 0 for none.
        seed: of the data, the starts and the noise.
    """
    net = fp.Mlp(width, 1, "erf", weight_variance, readout_variance=readout_variance)
    task = fp.tasks.cubic_teacher(
        points, inputs, cubic=sqrt(6) * cubic, test=test, noise_variance=noise_variance, seed=seed
    )
    coefficients = (1.0, cubic)
    return fp.Study(
        net,
        task,
        sampler=train,
        sampling={
            "measure": partial(neurons, net, task, fp.tasks.HermiteTeacher((0.0, 1.0, 0.0, cubic)), threshold),
            "step_size": step_size,
            "steps": steps,
            "particles": particles,
            "equilibrium": equilibrium_draws,
        },
        seed=seed,
        figures={
            "training": partial(draw_training, threshold=threshold, coefficients=coefficients),
            "overlaps": partial(draw_overlaps, threshold=threshold),
        },
    )
