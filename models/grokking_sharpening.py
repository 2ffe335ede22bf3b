"""The transition of grokking sharpens as the network grows: families of networks that share one limit.

Width, inputs, points and readout variance grow together such that the couplings of the data and of the width stay. With
infinitely many inputs the residual of what is hard, the cubic part, stays at that of the target until a noise at which
it has a kink; any finite network rounds it off. Lines are the mean field, exact in the number of inputs; dots are the
smallest network of the family, sampled on a population.

    fieldprob run grokking_sharpening
    fieldprob run grokking_sharpening --preset full
"""

from functools import partial

import numpy as np
from grokking import kernels, neuron_proposal
from grokking_loop import loop, network

import fieldprob as fp

presets = {"small": {}, "full": {"chains": 16, "sweeps": 100, "sampled": 8}}

PAPER = fp.theory.grokking.scaling.Cubic(700, 150, 3000, 1.0, 8 / 700)  # noise_variance is set
WEIGHT_VARIANCE, CUBIC = 0.5, -0.3
UNIT = 1000  # points are integers: of so much noise each
COLOURS = ("#56B4E9", "#0072B2", "#CC79A7", "#D55E00")


def rounded(size: float):
    """Neurons and inputs of a member of the family."""
    sizes = PAPER.scaled(size, size)
    return round(sizes.width), round(sizes.inputs)


def member(size: float):
    """The network of a family, with sizes rounded, and the population function noises -> Population."""
    width, inputs = rounded(size)
    strength = PAPER.readout_variance * PAPER.width / PAPER.inputs
    net = fp.Mlp(
        width, activation="erf", weight_variance=WEIGHT_VARIANCE, readout_variance=strength * inputs / width
    )  # A and G are kept in spite of rounding

    def population(noise):
        effective = data_coupling(np.atleast_1d(noise)) * inputs / net.readout_variance
        points = tuple(np.round(UNIT * effective).astype(int).tolist())
        teacher = fp.tasks.HermiteTeacher((0.0, 1.0, 0.0, CUBIC))
        return fp.tasks.Population(points, UNIT, 0.0, measure=fp.tasks.Gaussian(inputs), target=teacher)

    return net, population


def data_coupling(noise):
    """A of all members at a noise variance of the paper's units."""
    return PAPER.readout_variance * PAPER.points / (np.asarray(noise) * PAPER.inputs)


def curves(size: float, noise, degrees=(5, 7, 9), **options) -> dict[str, np.ndarray]:
    """Residuals b and c (noise,), and what else the mean field says; `noise` decreases. Specialised neurons
    have `degrees` that the target does not, which the limit leaves out."""
    net, population = member(size)
    mean = fp.theory.grokking.mean_field(net, population(noise), degrees=degrees, **options).mean
    return dict(mean) | {"residual_1": mean["residual"][:, 0], "residual_3": mean["residual"][:, 1]}


def limit(noise):
    """The state of infinitely many inputs at some noises, and the noise of its kink."""
    strength = PAPER.readout_variance * PAPER.width / PAPER.inputs
    critical = fp.theory.grokking.critical_point(strength, WEIGHT_VARIANCE, CUBIC).data
    state = fp.theory.grokking.phase_diagram(data_coupling(noise), strength, WEIGHT_VARIANCE, CUBIC)
    return state, float(data_coupling(1.0) / critical)


def sampled_both_ways(model, task=None, **options):
    """`grokking_loop.loop`, whose two ways agree where neurons jump, as one."""
    tree = loop(model, task, **options)
    tree["posterior"] = tree["posterior"].to_dataset()[["residual_1", "residual_3", "specialised_fraction"]].mean("way")
    return tree


def draw_sharpening(result, sizes, sampled, low, high, two):
    """Residuals against noise, and the law of a neuron's overlap on either side of the transition."""
    from matplotlib.figure import Figure

    noise = np.linspace(high, low, 61)
    state, kink = limit(noise)
    figure = Figure(figsize=(9.5, 7.0), layout="constrained")
    axes = figure.subplots(2, 2)
    panels = (("residual_3", "cubic residual c", state.cubic), ("residual_1", "linear residual b", state.linear))
    edges = np.linspace(-1.4, 1.4, 141)
    middle = (edges[1:] + edges[:-1]) / 2
    for size, colour in zip(sizes, COLOURS, strict=False):
        label = "{} neurons, {} inputs".format(*rounded(size))
        found = curves(size, noise)
        for ax, (name, _, _) in zip(axes[0], panels, strict=True):
            ax.plot(noise, found[name], color=colour, label=label)
        law = curves(size, np.array(two), edges=edges)["overlap_histogram"]
        for ax, density in zip(axes[1], law, strict=True):
            action = -np.log(density)
            ax.plot(middle, action - action.min(), color=colour)
    posterior = result.samples["posterior"]
    x = float(data_coupling(1.0)) / posterior["data"].values
    loop_at = curves(sampled, noise, order="one-loop")
    for ax, (name, label, infinite) in zip(axes[0], panels, strict=True):
        ax.plot(noise, infinite, color="k", linestyle="--", label="infinitely many inputs")
        ax.plot(noise, loop_at[name], color="k", linewidth=0.8, label="one loop, of the sampled network")
        draws = posterior[name]
        error = 2 * draws.std("particle", ddof=1) / np.sqrt(draws.sizes["particle"])
        ax.errorbar(
            x, draws.mean("particle"), error, color="k", marker="o", markersize=4, linestyle="none", capsize=2,
            label=f"sampled, {member(sampled)[0].widths[0]} neurons (± 2 errors)",
        )  # fmt: skip
        ax.axvline(kink, color="0.6", linestyle=":", linewidth=1, label="where neurons begin to specialise")
        ax.set(xlabel="noise variance", ylabel=label)
        ax.locator_params(axis="x", nbins=5)
    for ax, value in zip(axes[1], two, strict=True):
        side = "above" if value > kink else "below"
        ax.set(
            xlabel="overlap of a neuron with the teacher, m", ylabel="−log p(m), from its minimum", ylim=(0, 25),
            title=f"noise variance {value:g}, {side} the transition",
        )  # fmt: skip
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def study(
    sizes: tuple[float, ...] = (0.125, 0.5, 1.0, 2.0),
    sampled: float = 0.125,
    low: float = 0.1,
    high: float = 0.3,
    steps: int = 5,
    jumps: int = 10,
    sweeps: int = 15,
    warmup: int = 60,
    chains: int = 8,
    seed: int = 0,
):
    """Residuals of a family of networks against noise, with samples of one of them.

    Args:
        sizes: members of the family, widths over 700; at most four.
        sampled: the member that is sampled.
        low: the smallest noise variance.
        high: the largest.
        steps: noise variances that are sampled.
        jumps: of neurons, attempted in each sweep.
        sweeps: trajectories of HMC at each noise, on the way down and on the way up.
        warmup: sweeps at the largest noise, in which the step size adapts.
        chains: independent ones.
        seed: of the chains.
    """
    if not 0 < len(sizes) <= len(COLOURS):
        raise ValueError(f"sizes has {len(sizes)} members: give one to {len(COLOURS)}.")
    noise = np.linspace(high, low, steps)
    net, population = member(sampled)
    task = population(noise[-1])
    _, inputs = rounded(sampled)
    law = fp.theory.grokking.mean_field(net, task)
    proposal = neuron_proposal(law, np.eye(inputs)[0], WEIGHT_VARIANCE)
    edges = {"two": (0.25, 0.15), "low": low, "high": high, "sizes": sizes, "sampled": sampled}
    return fp.Study(
        partial(network, net=net, population=task, threshold=0.5),
        sampling={
            "kernel": kernels("jumps", proposal, jumps, None), "data": data_coupling(noise),
            "noise": UNIT * noise / noise[-1], "sweeps": sweeps, "warmup": warmup, "chains": chains,
        },
        seed=seed,
        sampler=sampled_both_ways,
        figures={"sharpening": partial(draw_sharpening, **edges)},
    )  # fmt: skip
