"""Prior fluctuations: how far the kernels of finite networks are from fixed, layer by layer, in three phases.

Before any data, the kernel of a layer fluctuates with a variance of order 1/width. Relative to the kernel's square it
saturates in the ordered (with biases) and the chaotic phase; at the edge of chaos of erf, which has no biases, it grows
by 2/3 a layer. The first order in 1/width holds while depth is small against width:

    fieldprob sweep prior_fluctuations --width 32,64,128,256,512
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fieldprob as fp
from fieldprob.activations import get

presets = {
    "small": {},
    "deep": {"depth": 30, "width": 300},
    "full": {"width": 512, "draws": 100_000},
}

PHASES = ("ordered", "critical", "chaotic")
DIMS = {"relative_fluctuation": ("phase", "layer"), "mean_kernel": ("phase", "layer")}


def layer_kernels(activation, weight_variance, bias_variance, start, depth, width, key):
    """Kernels of layers 1..depth of one network at one input: neurons are independent given the kernel before."""

    def layer(K, key):
        features = activation.phi(jnp.sqrt(K) * jax.random.normal(key, (width,)))
        K = bias_variance + weight_variance * jnp.mean(features**2)
        return K, K

    return jax.lax.scan(layer, jnp.asarray(start), jax.random.split(key, depth))[1]


def sample_prior(prior, task, *, depth, width, draws, batch, seed, progress=False):
    """Networks of each phase, as numbers one a network whose means are the statistics.

    `relative_fluctuation` is width times the variance over the squared sampled mean. A ratio of averages is a mean of
    what each draw contributes to first order (the delta method), which gives its error too.
    """
    import xarray as xr

    fluctuation, mean_kernel = [], []
    for index, (weight_variance, bias_variance) in enumerate(prior["phases"]):
        one = partial(layer_kernels, prior["activation"], weight_variance, bias_variance, prior["start"], depth, width)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), draws)
        K = np.asarray(jax.jit(lambda keys, one=one: jax.lax.map(one, keys, batch_size=batch))(keys))
        mean = K.mean(axis=0)
        excess = K / mean - 1
        ratio = np.mean(excess**2, axis=0)
        fluctuation.append(width * (excess**2 - 2 * ratio * excess))
        mean_kernel.append(K)
    dims = ("particle", "phase", "layer")
    variables: dict[str, Any] = {
        "relative_fluctuation": (dims, np.stack(fluctuation, axis=1)),
        "mean_kernel": (dims, np.stack(mean_kernel, axis=1)),
    }
    coords = {"particle": np.arange(draws), "phase": list(PHASES), "layer": np.arange(1, depth + 1)}
    return xr.DataTree.from_dict({"posterior": xr.Dataset(variables, coords=coords)}, name="fieldprob")


def first_order(prior, task, *, depth, width):
    """Theory 03, (28) and (30) at one input."""
    grown = [
        fp.theory.fluctuation_growth(prior["activation"], w, b, depth, kernel=prior["start"])
        for w, b in prior["phases"]
    ]
    return fp.Prediction(
        theory="first order",
        order="first order in 1/N",
        source="theory 03, (28), (30), (32)-(35)",
        mean={
            "relative_fluctuation": np.stack([at.relative_fluctuation[1:] for at in grown]),
            "mean_kernel": np.stack([at.kernel[1:] + at.mean_shift[1:] / width for at in grown]),
        },
        dims=DIMS,
        coords={"phase": PHASES, "layer": tuple(range(1, depth + 1))},
    )


def draw_depth(result, width):
    """Width times the variance over the squared mean against depth, a colour a phase: sampled, and to first order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    sampled = result.samples["posterior"]["relative_fluctuation"]
    layer = np.asarray(sampled["layer"])
    error = 2 * sampled.std("particle", ddof=1) / math.sqrt(sampled.sizes["particle"])
    predicted = np.asarray(result.predictions[0].mean["relative_fluctuation"])
    for index, (phase, colour) in enumerate(zip(PHASES, ("#0072B2", "#D55E00", "#009E73"), strict=True)):
        ax.plot(layer, predicted[index], color=colour, linewidth=1.6, label=f"{phase}, first order")
        part = {"phase": phase}
        ax.errorbar(
            layer, sampled.mean("particle").sel(part), error.sel(part), fmt="o", color=colour, capsize=3, markersize=4.5
        )
    ax.errorbar([], [], [], fmt="o", color="0.3", capsize=3, markersize=4.5, label="sampled ± 2 standard errors")
    ax.set(xlabel="layer", ylabel="width × variance of the kernel / (mean kernel)²", ylim=(0, None))
    ax.set_title(f"one input, {width} neurons a layer", fontsize=10)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def study(
    width: int = 128,
    depth: int = 10,
    activation: str = "erf",
    ordered: tuple[float, float] = (0.6, 0.1),
    critical: tuple[float, float] = (math.pi / 4, 0.0),
    chaotic: tuple[float, float] = (2.0, 0.1),
    start: float = 0.5,
    draws: int = 20_000,
    batch: int = 500,
    seed: int = 0,
):
    """Fluctuations of the kernel of every layer in the prior, at one input, in the ordered, critical and chaotic phase.

    Args:
        width: neurons of each hidden layer.
        depth: hidden layers.
        activation: name of the activation function.
        ordered: weight and bias variance of the ordered networks.
        critical: those of the critical networks; at the edge of chaos of erf unless given.
        chaotic: those of the chaotic networks.
        start: variance of the first pre-activations.
        draws: networks of each phase.
        batch: networks drawn at once.
        seed: of the networks.
    """
    prior = {
        "activation": get(activation),
        "phases": (ordered, critical, chaotic),
        "start": start,
    }
    return fp.Study(
        prior,
        theories=[partial(first_order, depth=depth, width=width)],
        sampling={"depth": depth, "width": width, "draws": draws, "batch": batch},
        sampler=sample_prior,
        seed=seed,
        figures={"depth": partial(draw_depth, width=width)},
    )
