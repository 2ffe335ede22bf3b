"""A loop through the transition of grokking: data grow, then shrink again, with a few sweeps at each amount.

The state of the network is unique for each amount of data, so that a loop that stays open says nothing of equilibrium:
a neuron takes some exp(inputs × barrier) sweeps to cross from one well to the other, and a sampler of local moves does
not follow. Jumps of neurons between wells close it.

    fieldprob run grokking_loop --sampler hmc        local moves
    fieldprob run grokking_loop --sampler jumps      with jumps of neurons
"""

from functools import partial
from typing import Literal

import jax
import numpy as np
import xarray as xr
from grokking import kernels, neuron_proposal, record_neurons
from numpyro.handlers import substitute, trace

import fieldprob as fp
from fieldprob.networks.population import along_teacher

presets = {"small": {}, "full": {"chains": 32, "steps": 15}}


def network(noise_variance, net, population, threshold):
    """The network on a population of this noise."""
    W = fp.networks.population_regression(net, population.replace(noise_variance=noise_variance))
    record_neurons(along_teacher(W, population.target), net.activations[0], np.array([-2.0, 2.0]), threshold)


def loop(model, task=None, *, kernel, data, noise, sweeps, warmup, chains, seed, progress):
    """Chains that start in equilibrium at the first noise, and spend `sweeps` draws at each of the others and back.

    Returns a DataTree whose `posterior` has `specialised_fraction` (particle, way, data), `residual_1` and
    `residual_3`, means over the sweeps, and `opening` (particle), the mean over `data` of the fraction on the way back
    less that on the way out.
    """
    sampler = kernel(model)
    state = sampler.init(jax.random.split(jax.random.key(seed), chains), warmup, None, (noise[0],), {})

    def sweep(state, noise):
        state = sampler.sample(state, (noise,), {})
        return state, jax.vmap(partial(measure, model, noise))(state.z)

    @jax.jit
    def stay(state, noise):
        state = jax.vmap(lambda one: sampler.refresh(one, (noise,), {}))(state)
        state, found = jax.lax.scan(lambda state, _: sweep(state, noise), state, length=sweeps)
        return state, jax.tree.map(lambda x: x.mean(0), found)

    for _ in range(-(-warmup // sweeps)):
        state, _ = stay(state, noise[0])
    visits = []
    for value in (*noise, *noise[::-1]):
        state, found = stay(state, value)
        visits.append(found)
    out, back = visits[: len(noise)], visits[len(noise) :][::-1]
    values = {
        name: np.stack([np.stack([np.asarray(v[name]) for v in way], axis=1) for way in (out, back)], axis=1)
        for name in visits[0]
    }
    dims, coords = ("particle", "way", "data"), {"way": ["growing", "shrinking"], "data": data}
    dataset = xr.Dataset({name: (dims, value) for name, value in values.items()}, coords=coords)
    fraction = dataset["specialised_fraction"]
    opening = (fraction.sel(way="shrinking") - fraction.sel(way="growing")).mean("data")
    return xr.DataTree.from_dict({"posterior": dataset.assign(opening=opening.reset_coords(drop=True))})


def measure(model, noise, z):
    """The statistics of one state."""
    sites = trace(substitute(model, data=z)).get_trace(noise)
    return {
        "specialised_fraction": sites["specialised_fraction"]["value"],
        "residual_1": sites["residual"]["value"][0],
        "residual_3": sites["residual"]["value"][1],
    }


def draw_loop(result, net, population, threshold):
    """Both ways, and the one line of the theory."""
    from matplotlib.figure import Figure

    posterior = result.samples["posterior"]
    data = posterior["data"].values
    fine = np.linspace(data[0], data[-1], 60)
    unit = 100_000 / data[-1]
    effective = float(population.points[0] / population.noise_variance) / float(
        fp.theory.grokking.couplings(net, population).data
    )
    several = population.replace(
        points=tuple(np.round(fine * unit).astype(int).tolist()), noise_variance=unit / effective
    )
    predicted = fp.theory.grokking.mean_field(net, several, threshold=threshold).mean
    lines = {"specialised_fraction": predicted["specialised_fraction"], "residual_1": predicted["residual"][:, 0]}
    labels = {"specialised_fraction": "share of specialised neurons", "residual_1": "linear residual"}
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    for ax, name in zip(figure.subplots(1, 2), lines, strict=True):
        ax.spines[["top", "right"]].set_visible(False)
        ax.plot(fine, lines[name], color="k", label="mean field: one state for each A")
        for way, marker, colour in (("growing", "o", "#0072B2"), ("shrinking", "s", "#D55E00")):
            x = posterior[name].sel(way=way)
            error = 2 * x.std("particle", ddof=1) / np.sqrt(x.sizes["particle"])
            ax.errorbar(
                data, x.mean("particle"), error, color=colour, marker=marker, markersize=4, linewidth=1, capsize=2,
                linestyle="--", label=f"sampled, data {way}",
            )  # fmt: skip
        ax.set(xlabel="data coupling A", ylabel=labels[name])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def study(
    sampler: Literal["hmc", "jumps"] = "hmc",
    width: int = 120,
    inputs: int = 120,
    low: float = 0.6,
    high: float = 1.8,
    steps: int = 7,
    strength: float = 0.2,
    weight_variance: float = 0.25,
    cubic: float = -1.2,
    threshold: float = 0.5,
    jumps: int = 20,
    sweeps: int = 10,
    warmup: int = 60,
    chains: int = 4,
    seed: int = 0,
):
    """Specialised neurons and residual as data grow and then shrink, a few sweeps at each amount.

    Args:
        sampler: Hilbert-space HMC, or that with jumps of single neurons.
        width: neurons.
        inputs: input dimension; the barrier of a neuron is proportional to it.
        low: the smallest data coupling A, where the loop begins and ends.
        high: the largest.
        steps: values of A from low to high.
        strength: G, the coupling of the width.
        weight_variance: per fan-in, of the first layer.
        cubic: epsilon of the target z + epsilon He_3.
        threshold: |overlap| beyond which a neuron counts as specialised.
        jumps: attempted in each sweep.
        sweeps: at each value of A, trajectories of HMC.
        warmup: sweeps at the first value, in which the step size adapts.
        chains: independent loops.
        seed: of the chains.
    """
    readout_variance = strength * inputs / width
    net = fp.Mlp(width, activation="erf", weight_variance=weight_variance, readout_variance=readout_variance)
    teacher = fp.tasks.HermiteTeacher((0.0, 1.0, 0.0, cubic))
    data, points = np.linspace(low, high, steps), 1000
    noise = points * readout_variance / (data * inputs)
    population = fp.tasks.Population(points, float(noise[-1]), 0.0, measure=fp.tasks.Gaussian(inputs), target=teacher)
    law = fp.theory.grokking.mean_field(net, population)
    proposal = neuron_proposal(law, np.eye(inputs)[0], weight_variance)
    return fp.Study(
        partial(network, net=net, population=population, threshold=threshold),
        sampling={
            "kernel": kernels(sampler, proposal, jumps, None), "data": data, "noise": noise, "sweeps": sweeps,
            "warmup": warmup, "chains": chains,
        },
        seed=seed,
        sampler=loop,
        figures={"loop": partial(draw_loop, net=net, population=population, threshold=threshold)},
    )  # fmt: skip
