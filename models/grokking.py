"""Grokking: neurons that specialise to what the others miss, in a network that learns a polynomial of one direction.

A network of one hidden layer learns y = sum_k coefficients[k] He_k(teacher . x), by default z - 1.2 (z^3 - 3 z). With
enough data a few of its neurons leave the bulk and align with the teacher: both kinds are there at once, in one
network. Three systems show it, from what is exact down to what a theory of one neuron says:

    fieldprob run grokking                                the network on a population: infinitely many inputs at a fixed
                                                          ratio of points to noise, no data set
    fieldprob run grokking --system neurons               neurons that are independent, in the field of the theory
    fieldprob run grokking --system network               the network on a data set
    fieldprob run grokking --start both                   half of the chains start with specialised neurons
    fieldprob run grokking --preset barrier --sampler hmc what local moves get wrong, and jumps of neurons get right
    fieldprob sweep grokking --data 0.7,1.0,1.2,1.4,1.8   through the transition
    fieldprob sweep grokking --width 25,50,100,200        the 1/N law

Sizes are set by two couplings: `data` is A = readout variance x points / (noise x inputs), `strength` is
G = readout variance x width / inputs, the variances per fan-in. Members of a family of networks that share A and G have
one mean field as they grow.
"""

from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import xarray as xr

import fieldprob as fp
from fieldprob.networks.overlaps import overlaps
from fieldprob.networks.population import along_teacher

presets = {
    "small": {},
    "full": {"width": 200, "draws": 4000, "chains": 8, "jumps": 20},
    "table": {"width": 200, "draws": 1000, "jumps": 20},
    "data": {"system": "network", "width": 50, "data": 1.4, "points": 250},
    "barrier": {
        "width": 120, "inputs": 60, "data": 1.8, "start": "both", "jumps": 60, "draws": 150, "warmup": 80,
    },
    "quadratic": {
        "activation": "relu", "coefficients": (0.0, 1.0, -0.8), "degrees": (4, 6), "data": 1.5, "extent": 8.0,
    },
}  # fmt: skip

RADII = 60  # nodes of the quadrature: specialised neurons of 120 inputs are far from where the prior has them
RAREST = 2e-3  # predicted share of the neurons in a bin of the histogram; bins of fewer are joined
START_SHARE, START_OVERLAP = 0.2, 1.0  # of the neurons of a specialised start, and where they are

# --- the three systems ------------------------------------------------------------------------------------------------


def population_network(net, population, *, degrees, edges, threshold):
    """The network on a population, its readout integrated out (theory 04, (2.8))."""
    with numpyro.handlers.trace() as sites:
        W = fp.networks.population_regression(net, population, degrees=degrees)
    record_residual(sites["residual"]["value"], degrees)
    record_neurons(along_teacher(W, population.target), net.activations[0], edges, threshold)


def independent_neurons(net, population, *, solution, edges, threshold):
    """Neurons that feel nothing but the field of the mean-field solution: p(w) ~ prior(w) exp[gamma (T . h(w))² / 2]
    (theory 04, (2.9))."""
    W = hidden_weights(net.sample_hidden(population.measure.inputs), net)
    m, q = along_teacher(W, population.target), jnp.sum(W**2, axis=1)
    force = solution.field @ overlaps(net.activations[0], m, q, solution.degrees, population.measure)
    numpyro.factor("field", solution.readout_weight_variance / 2 * jnp.sum(force**2))
    record_neurons(m, net.activations[0], edges, threshold)


def data_network(net, task, *, teacher, degrees, edges, threshold, **options):
    """The network on a data set, its readout integrated out (theory 04, (2.5)), and what it has learned of the
    polynomial: the residual that fresh Gaussian inputs would show."""
    with numpyro.handlers.trace() as sites:
        fp.regression(net, task, **options)
    W = hidden_weights({"weight_0": sites["weight_0"]["value"]}, net)
    m = along_teacher(W, teacher)
    F = net.output_features(net.activations[0].phi(task.X @ W.T))
    noise = net.effective_noise(task)
    readout = fp.gp.coefficients(F.T @ F / noise, F.T @ task.y[:, 0] / noise).mean
    readout = readout * jnp.sqrt(net.readout_variance / net.chi / net.widths[0])
    record_residual(fp.networks.polynomial_residual(net.activations[0], W, readout, teacher, degrees), degrees)
    record_neurons(m, net.activations[0], edges, threshold)


def hidden_weights(parameters, net):
    """Weights of the first layer (neurons, inputs), from their standard normal sites."""
    W = parameters["weight_0"]
    return W * jnp.sqrt(net.weight_variance[0] / W.shape[1])


def record_residual(residual, degrees):
    """One number for each degree."""
    for degree, value in zip(degrees, residual, strict=True):
        numpyro.deterministic(f"residual_{degree}", value)


def record_neurons(m, activation, edges, threshold):
    """What no relabelling of neurons alters, and no change of their signs where the network does not know these."""
    both = jnp.concatenate([m, -m]) if has_parity(activation) else m
    numpyro.deterministic("overlap_histogram", fp.statistics.histogram_density(both, edges))
    numpyro.deterministic("specialised_fraction", fp.statistics.specialised_fraction(m, threshold))
    numpyro.deterministic("overlap_second_moment", jnp.mean(m**2))


def has_parity(activation):
    """Whether an activation is odd or even, so that w and -w are one neuron once the readout is integrated out."""
    with jax.ensure_compile_time_eval():
        z = jnp.linspace(0.1, 3.0, 9)
        plus, minus = activation.phi(z), activation.phi(-z)
        return bool(jnp.allclose(minus, plus) or jnp.allclose(minus, -plus))


# --- samplers ---------------------------------------------------------------------------------------------------------


def specialised_start(site=None, *, direction, scale, share=START_SHARE, overlap=START_OVERLAP):
    """NumPyro's init_strategy: a draw of the prior, in which some neurons have overlaps of +-`overlap`."""
    if site is None:
        return partial(specialised_start, direction=direction, scale=scale, share=share, overlap=overlap)
    if site["type"] != "sample" or site["is_observed"]:
        return None
    w = site["fn"].sample(site["kwargs"]["rng_key"])
    if site["name"] != "weight_0":
        return w
    chosen = round(share * len(w))
    sign = (-1.0) ** np.arange(chosen)
    along = w[:chosen] @ direction
    return w.at[:chosen].add((overlap / scale * sign - along)[:, None] * direction)


def neuron_proposal(prediction, direction, weight_variance, broad=0.1):
    """The law of a neuron's whitened weights that jumps propose: overlaps from a predicted histogram, smoothed by its
    bins, and from a broad normal; in all other directions normal, as narrow as the wells of erf are."""
    m, scale = np.asarray(prediction.coords["bin"]), np.sqrt(weight_variance / len(direction))
    share = np.asarray(prediction.mean["overlap_histogram"])
    share = np.append((1 - broad) * share / share.sum(), broad)
    middle, width = np.append(m, 0.0), np.append(np.full(len(m), m[1] - m[0]), 0.5)
    law = dist.Normal(jnp.asarray(middle / scale), jnp.asarray(width / scale))
    along = dist.MixtureSameFamily(dist.Categorical(jnp.asarray(share)), law)

    def across(s):
        """sqrt(1 - 2t), t = m² / (1 + 2 |w|²) with |w|² - m² where it is most likely given m, in many dimensions."""
        square = (scale * s) ** 2
        total = 1 + 2 * weight_variance + 2 * square
        return jnp.sqrt(1 - 4 * square / (total + jnp.sqrt(total**2 - 16 * weight_variance * square)))

    return fp.infer.NormalButAlong(direction, along, across)


def kernels(sampler, proposal, jumps, replicas, **options):
    """The sampler's name -> a function model -> kernel. `options` are those of HilbertHMC."""

    def hmc(model):
        return fp.infer.HilbertHMC(model, **options)

    return {
        "hmc": hmc,
        "jumps": lambda model: fp.infer.NeuronJumps(hmc(model), {"weight_0": proposal}, jumps=jumps),
        "tempering": lambda model: fp.infer.ReplicaExchange(hmc(model), replicas),
    }[sampler]


def from_both_sides(prior, task, *, kernel, chains, seed, **options):
    """`fp.sample` with half of the chains from a draw of the prior, the others from specialised neurons; `kernel` is a
    pair of kernels. A state that is unique does not remember."""
    parts = [
        fp.sample(prior, task, kernel=one, chains=chains // 2, seed=2 * seed + n, **options)
        for n, one in enumerate(kernel)
    ]
    second = parts[1].map_over_datasets(
        lambda d: d.assign_coords(chain=d["chain"] + chains // 2) if "chain" in d else d
    )
    joined = {}
    for nodes in zip(parts[0].subtree, second.subtree, strict=True):
        pair = [node.to_dataset(inherit=False) for node in nodes]
        joined[nodes[0].path] = xr.concat(pair, "chain") if "chain" in pair[0].dims else pair[0]
    tree = xr.DataTree.from_dict(joined, name=parts[0].name)
    tree.attrs |= parts[0].attrs | {"interrupted": max(int(part.attrs["interrupted"]) for part in parts)}
    return tree


def exponent(widths, gaps, errors):
    """(exponent, its standard error) of the power law of gaps |sampled - predicted| with some errors, over widths.

    >>> [round(float(x), 3) for x in exponent([25, 50, 100], [0.04, 0.02, 0.01], [0.001, 0.001, 0.001])]
    [-1.0, 0.058]
    """
    x, y = np.log(widths), np.log(np.abs(gaps))
    weight = (np.abs(gaps) / np.asarray(errors)) ** 2
    x = x - np.average(x, weights=weight)
    return np.sum(weight * x * y) / np.sum(weight * x**2), 1 / np.sqrt(np.sum(weight * x**2))


# --- figures ----------------------------------------------------------------------------------------------------------


def joined_edges(prediction, smallest=RAREST):
    """Edges of bins, joined from zero outwards until a share of at least `smallest` is predicted in each."""
    centre = np.asarray(prediction.coords["bin"])
    width = centre[1] - centre[0]
    share = np.asarray(prediction.mean["overlap_histogram"]) * width

    def outwards(distance, share):
        edges, total = [], 0.0
        for m, p in zip(distance, share, strict=True):
            total += p
            if total >= smallest:
                edges.append(m + width / 2)
                total = 0.0
        return edges

    right = outwards(centre[centre > 0], share[centre > 0])
    left = outwards(-centre[centre < 0][::-1], share[centre < 0][::-1])
    return np.array([*[-edge for edge in left[::-1]], 0.0, *right])


def draw_overlaps(result, edges, fine, threshold):
    """The law of a neuron's overlap: sampled as bars, predicted as a line; and its logarithm, which shows the wells."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    draws = result.samples["posterior"]["overlap_histogram"]
    mean = np.asarray(draws.mean(("chain", "draw")))
    error = np.asarray(draws.mean("draw").std("chain", ddof=1)) / np.sqrt(draws.sizes["chain"])
    m, density = np.asarray(fine.coords["bin"]), np.asarray(fine.mean["overlap_histogram"])
    middle = (edges[1:] + edges[:-1]) / 2
    for ax, scale in zip(figure.subplots(1, 2), ("linear", "log"), strict=True):
        ax.spines[["top", "right"]].set_visible(False)
        ax.stairs(mean, edges, fill=True, color="0.8", label="sampled, all neurons of all draws")
        ax.errorbar(middle, mean, 2 * error, color="0.35", linestyle="none", capsize=1.5, label="± 2 errors")
        ax.plot(m, density, color="#D55E00", label=f"predicted: {fine.theory}")
        for sign in (-1, 1):
            ax.axvline(
                sign * threshold,
                color="0.5",
                linestyle=":",
                linewidth=1,
                label="specialised beyond" if sign > 0 else None,
            )
        ax.set(xlabel="overlap of a neuron with the teacher, w · teacher", yscale=scale, xlim=(-1.6, 1.6))
    low = max(1e-4, 0.3 * float(mean[mean > 0].min()))
    figure.axes[1].set(ylim=(low, 2 * float(mean.max())), ylabel="the same, logarithmic")
    bulk = np.abs(middle) > threshold
    if bulk.any() and (mean[bulk] > 0).any():
        figure.axes[0].set_ylim(0, min(1.1 * float(mean.max()), max(8 * float(mean[bulk].max()), 0.5)))
    figure.axes[0].set(ylabel="density of the overlap\n(bulk cut off)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def draw_phases(result, net, population, degrees):
    """Where the run is among the phases: what is left to learn, and the share of specialised neurons, as data grow."""
    from matplotlib.figure import Figure

    grokking = fp.theory.grokking
    here = grokking.couplings(net, population)
    critical = float(grokking.critical_point(here.width, here.weight_variance, here.cubic).data)
    data = np.linspace(0.3, max(2.0, 1.2 * float(here.data) / critical), 50) * critical
    limit = grokking.phase_diagram(data, here.width, here.weight_variance, here.cubic)
    inputs, unit = population.measure.inputs, float(population.points[0] / here.data) * 1000
    several = population.replace(
        points=tuple(np.round(data * unit).astype(int).tolist()), noise_variance=1000 * population.noise_variance
    )
    curve = grokking.mean_field(net, several, degrees=degrees).mean
    posterior = result.samples["posterior"]
    panels = {
        "residual_1": ("linear residual", curve["residual"][:, 0], limit.linear),
        "residual_3": ("cubic residual", curve["residual"][:, 1], limit.cubic),
        "specialised_fraction": (
            "share of specialised neurons",
            curve["specialised_fraction"],
            limit.droplets / inputs,
        ),
    }
    figure = Figure(figsize=(10.0, 3.4), layout="constrained")
    for ax, (name, (label, line, infinite)) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        ax.spines[["top", "right"]].set_visible(False)
        ax.plot(data, line, color="#0072B2", label=f"mean field, {inputs} inputs")
        ax.plot(data, infinite, color="0.5", linestyle="--", label="infinitely many inputs")
        ax.axvline(critical, color="0.5", linestyle=":", label="neurons begin to specialise")
        mean, error = float(posterior[name].mean()), float(posterior[name].mean("draw").std("chain", ddof=1))
        ax.errorbar(
            float(here.data), mean, 2 * error / np.sqrt(posterior.sizes["chain"]), color="k", marker="o",
            linestyle="none", label=f"sampled, {net.widths[0]} neurons",
        )  # fmt: skip
        ax.set(xlabel="data coupling A", ylabel=label)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


# --- the study --------------------------------------------------------------------------------------------------------


def study(
    system: Literal["population", "neurons", "network"] = "population",
    width: int = 50,
    inputs: int = 20,
    data: float = 1.2,
    strength: float = 0.2,
    weight_variance: float = 0.25,
    coefficients: tuple[float, ...] = (0.0, 1.0, 0.0, -1.2),
    degrees: tuple[int, ...] = (5, 7, 9),
    activation: str = "erf",
    extent: float = 3.0,
    points: int = 250,
    threshold: float = 0.5,
    start: Literal["prior", "specialised", "both"] = "prior",
    sampler: Literal["hmc", "jumps", "tempering"] = "jumps",
    jumps: int = 10,
    replicas: int = 8,
    draws: int = 1000,
    chains: int = 4,
    warmup: int = 200,
    seed: int = 0,
):
    """A network that learns a polynomial, with its readout integrated out: residual and overlaps of its neurons.

    Args:
        system: the network on a population, independent neurons, or the network on a data set.
        width: neurons.
        inputs: input dimension.
        data: A, the coupling of the data; the noise variance follows from it.
        strength: G, the coupling of the width; the readout variance follows from it.
        weight_variance: per fan-in, of the first layer.
        coefficients: of the teacher in He_0, He_1, ...
        degrees: further degrees of the residual that are kept. The target does not have them, but specialised neurons
            do: without them the linear residual is off by a tenth where data are many.
        activation: name of the activation function.
        extent: largest |overlap| that the theory reckons with; more where neurons grow further.
        points: of the data set (system network only); a population knows only points over noise.
        threshold: |overlap| beyond which a neuron counts as specialised.
        start: of the chains: a draw of the prior; that with a fifth of the neurons at overlaps of 1 and -1; half each.
        sampler: Hilbert-space HMC; with jumps of single neurons; or with replica exchange.
        jumps: attempted after each trajectory of HMC.
        replicas: of replica exchange.
        draws: draws of each chain.
        chains: number of chains; even for start both.
        warmup: adaptation steps of each chain, discarded.
        seed: of the chains and of the data set.
    """
    grokking, readout_variance = fp.theory.grokking, strength * inputs / width
    net = fp.Mlp(width, activation=activation, weight_variance=weight_variance, readout_variance=readout_variance)
    teacher = fp.tasks.HermiteTeacher(coefficients)
    effective = data * inputs / readout_variance
    count = points if system == "network" else max(1, round(effective))
    population = fp.tasks.Population(count, count / effective, 0.0, measure=fp.tasks.Gaussian(inputs), target=teacher)
    quadrature = {"degrees": degrees, "extent": extent, "radii": RADII}
    fine = grokking.mean_field(net, population, threshold=threshold, **quadrature)
    edges, modes = joined_edges(fine), tuple(fine.coords["mode"])
    common = {"edges": edges, "threshold": threshold}

    direction, scale = np.eye(inputs)[0], np.sqrt(weight_variance / inputs)
    proposal = neuron_proposal(fine, direction, weight_variance)
    make = partial(kernels, sampler, proposal, jumps, replicas)
    starts = {"prior": {}, "specialised": {"init_strategy": specialised_start(direction=direction, scale=scale)}}
    if start == "both" and (chains < 2 or chains % 2):
        raise ValueError(f"chains is {chains}: give an even number, half of which start from either side.")
    kernel = tuple(make(**option) for option in starts.values()) if start == "both" else make(**starts[start])

    prior, task, further = population_network, None, {}
    theories = [partial(grokking.mean_field, order=order, **quadrature, **common) for order in ("tree", "one-loop")]
    theories = [lambda *_, theory=theory: by_degree(theory(net, population)) for theory in theories]
    if system == "population":
        prior = partial(population_network, net, population, degrees=modes, **common)
    elif system == "neurons":
        solution = grokking.field(net, population, **quadrature)
        prior = partial(independent_neurons, net, population, solution=solution, **common)
        theories = theories[:1]
    else:
        task = data_set(teacher, points, inputs, count / effective, seed)
        prior = net
        further = {"model": partial(data_network, teacher=teacher, degrees=modes, **common), "precision": "full"}
        theories = [
            lambda net, task: by_degree(
                grokking.on_data(net, task, teacher, key=jax.random.key(seed), degrees=degrees, **common)
            ),
            lambda *_: of_the_average(by_degree(grokking.mean_field(net, population, **quadrature, **common))),
        ]
    figures = {"overlaps": partial(draw_overlaps, edges=edges, fine=fine, threshold=threshold)}
    marks = {}
    if has_phases(net, population):
        coupled = grokking.couplings(net, population)
        critical = grokking.critical_point(strength, weight_variance, coupled.cubic)
        marks = {"data": {"neurons begin to specialise": float(critical.data)}}
        if system != "neurons":
            figures["phases"] = partial(draw_phases, net=net, population=population, degrees=degrees)
    middle = (edges[1:] + edges[:-1]) / 2
    return fp.Study(
        prior,
        task,
        theories=theories,
        sampling={
            **{"draws": draws, "chains": chains, "warmup": warmup, "kernel": kernel, "store_weights": False, **further},
            "coords": {"mode": list(modes), "bin": middle},
        },
        seed=seed,
        sampler=from_both_sides if start == "both" else None,
        figures=figures,
        marks=marks,
        chosen={"readout_variance": readout_variance, "noise_variance": count / effective, "points": count},
    )


def data_set(teacher, points, inputs, noise_variance, seed):
    """Standard normal inputs with the teacher's labels, and no noise in these."""
    X = np.random.default_rng(seed).normal(size=(points, inputs))
    return fp.Task(X, teacher(X), noise_variance, name="polynomial of one direction")


def by_degree(prediction):
    """A prediction with one number for each degree of the residual, which a sweep draws."""
    mean, error = dict(prediction.mean), dict(prediction.error)
    for numbers in (mean, error):
        for degree, value in zip(prediction.coords["mode"], numbers.pop("residual", ()), strict=False):
            numbers[f"residual_{degree}"] = value
    return replace(prediction, mean=mean, error=error)


def of_the_average(prediction):
    """What a theory of the average over data sets says of one of them; its losses are others."""
    kept = [name for name in prediction.mean if name not in ("test_error", "test_loss")]
    return replace(prediction, mean={name: prediction.mean[name] for name in kept}, log_evidence=None)


def has_phases(net, population):
    """Whether the closed form of infinitely many inputs is for this network and teacher."""
    try:
        fp.theory.grokking.couplings(net, population)
    except ValueError:
        return False
    return True
