"""The kernel superposition prior: a finite network as a mixture of Gaussian processes, reweighted by data.

A network of finite width is a random kernel in every layer. Data reweight the kernels: those that explain the targets
gain, and that is feature learning. One task, four ways to sample it: with all weights, without the readout, the kernels
themselves, or the infinite-width limit, in which nothing is left to reweight; the first three give one posterior.

    fieldprob sweep kernel_superposition --width 20,40,80
"""

from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from scipy.special import ndtr

import fieldprob as fp

presets = {
    "small": {},
    "digits": {"data": "digits", "points": 12, "test": 8, "width": 60, "noise_variance": 0.5, "readout_bias": 0.0},
    "full": {
        "data": "digits", "points": 40, "test": 20, "width": 200, "noise_variance": 0.1, "readout_bias": 0.0,
        "reference": 0, "draws": 4000, "chains": 8,
    },
}  # fmt: skip

EDGES = np.linspace(-2, 2, 17)  # of the histograms, in prior standard deviations; further out draws are few
COLOURS = {  # in the order of the comparison's figure
    "limit": "#0072B2", "perturbative": "#D55E00", "forward_backward": "#009E73", "forward_backward (exact)": "#009E73",
    "forward_backward (gaussian)": "#009E73", "importance": "#CC79A7",
}  # fmt: skip


def kernel_superposition(net, task, *, prior, entries, **options):
    """The model: y ~ N(f(X), noise) of a network on any face, `options` those of `fp.regression`; and what its kernels
    have become.

    Beside the statistics of `fp.regression`: `conjugate_kernel_L`, the force of the data on kernel_L; `kernel_gain_l`,
    the coefficient of y y^T in kernel_l less its prior mean `prior["mean"]`; and `kernel_law` (entry, bin), the density
    of `entries` of kernel_L in prior standard deviations.
    """
    with numpyro.handlers.trace() as sites:
        fp.regression(net, task, **options)
    kernels = [sites[f"kernel_{layer}"]["value"] for layer in range(1, net.depth + 1)]
    for name, value in kernel_statistics(kernels, task, prior, entries).items():
        numpyro.deterministic(name, value)
    last = kernels[-1][: task.points, : task.points]
    force = fp.statistics.conjugate_kernel(last, task.y, net.effective_noise(task))
    numpyro.deterministic(f"conjugate_kernel_{net.depth}", force)


def kernel_statistics(kernels, task, prior, entries):
    """`kernel_gain_l` and `kernel_law` of the kernels [kernel_1, ..., kernel_L] over training, then test points."""
    P = task.points
    found = {
        f"kernel_gain_{layer}": fp.statistics.kernel_gain(K[:P, :P], mean[:P, :P], task.y)
        for layer, (K, mean) in enumerate(zip(kernels, prior["mean"], strict=True), start=1)
    }
    x = (kernels[-1] - prior["mean"][-1])[*entries.T] / prior["scale"][*entries.T]
    inside = (x[:, None] >= EDGES[:-1]) & (x[:, None] < EDGES[1:])
    return found | {"kernel_law": inside / np.diff(EDGES)}


def prior_moments(net, task, draws, key):
    """Mean of every kernel_l over training, then test points, and standard deviation of kernel_L, by draws of the
    prior."""
    X = task.X if not task.test_points else jnp.concatenate([task.X, task.X_test])

    def one(key):
        with numpyro.handlers.seed(rng_seed=key):
            K = jnp.stack([K.matrix for K in net.sample_kernels(X)[1:]])
        return K, K[-1] ** 2

    mean, square = jax.lax.map(one, jax.random.split(key, draws), batch_size=min(500, draws))
    mean, square = mean.mean(0), square.mean(0)
    return {"mean": np.asarray(mean), "scale": np.asarray(jnp.sqrt(square - mean[-1] ** 2))}


def three_entries(task):
    """(0, 0), the first point with one whose target has the same sign, and with one of the opposite sign."""
    same = np.asarray(task.y[0, 0] * task.y[1:, 0] > 0)
    if same.all() or not same.any():
        raise ValueError("all targets but the first have one sign: give more points or another seed.")
    return np.array([[0, 0], [0, 1 + np.argmax(same)], [0, 1 + np.argmin(same)]])


DIMS = {"kernel_law": ("entry", "bin")}


def coordinates(entries):
    """Labels of the entries of kernel_L, and the left edges of the bins."""
    return {"bin": EDGES[:-1], "entry": [f"{a},{b}" for a, b in entries]}


# --- theories ---------------------------------------------------------------------------------------------------------


def of_kernels(theory, net, task, *, prior, entries, base=None):
    """A theory's prediction, and what follows of its kernels for the statistics of the model.

    The shift is from the prior mean of the theory itself: the kernels `base` where that is not the prior's own, as for
    theories that leave out the shift of the prior mean with 1/N. A theory with a variance of kernel_L predicts a
    Gaussian law.
    """
    prediction = theory(net, task)
    P, entry = task.points, tuple(entries.T)
    mean = {
        f"kernel_gain_{layer}": fp.statistics.kernel_gain(
            jnp.asarray(prediction.mean[f"kernel_{layer}"])[:P, :P],
            jnp.asarray(prior["mean"][layer - 1] if base is None else base[layer])[:P, :P],
            task.y,
        )
        for layer in range(1, net.depth + 1)
    }
    last = f"kernel_{net.depth}"
    if last in prediction.variance:
        edges = prior["mean"][-1][entry][:, None] + prior["scale"][entry][:, None] * EDGES
        centre = np.asarray(prediction.mean[last])[entry][:, None]
        width = np.sqrt(np.asarray(prediction.variance[last])[entry])[:, None]
        mean["kernel_law"] = np.diff(ndtr((edges - centre) / width), axis=1) / np.diff(EDGES)
    coords = prediction.coords | coordinates(entries)
    return replace(prediction, mean=prediction.mean | mean, dims=prediction.dims | DIMS, coords=coords)


def importance(net, task, *, draws, key, prior, entries):
    """The exact posterior, from draws of the prior kernels weighted by the likelihood; refuses where few count."""
    total = np.arange(task.points + task.test_points)
    model = partial(kernel_superposition, prior=prior, entries=entries)
    drawn = fp.infer.Importance.sample(
        net, task, key=key, draws=draws, face="kernels", model=model, kernel_points=total
    )
    found = drawn.posterior
    kept = [name for name in found.mean if not name.endswith("conditional_variance")]
    outputs = [name for name in ("f", "f_test") if name in kept]
    return fp.Prediction(
        theory="importance",
        mean={name: found.mean[name].value for name in kept},
        error={name: found.mean[name].error for name in kept},
        variance={name: found.variance[name].value for name in outputs},
        variance_error={name: found.variance[name].error for name in outputs},
        log_evidence=drawn.log_evidence.value,
        exact=True,
        order="exact",
        source="theory 03, (4)",
        dims=DIMS,
        coords=coordinates(entries),
    )


def theories(net, task, *, tilt, reference, key, prior, entries):
    """What is held against the samples; another theory of kernels is one more entry, through `of_kernels`."""
    common = {"prior": prior, "entries": entries}
    base = net.limit_kernels(task.X)
    found = [
        partial(of_kernels, fp.theory.limit, base=base, **common),
        partial(of_kernels, partial(fp.theory.perturbative, key=key), **common),
    ]
    if tilt != "none":
        found.append(partial(of_kernels, partial(fp.theory.forward_backward, tilt=tilt, key=key), **common))
    return [*found, partial(importance, draws=reference, key=key, **common)] if reference else found


# --- figures ----------------------------------------------------------------------------------------------------------


def draw_law(result, entries, depth):
    """Densities of three entries of kernel_L, out to two standard deviations: sampled, predicted, and a Gaussian prior
    for the eye."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    axes = figure.subplots(1, len(entries), sharey=True)
    sampled = np.asarray(result.samples["posterior"]["kernel_law"].mean(("chain", "draw")))
    centres = (EDGES[1:] + EDGES[:-1]) / 2
    predicted = [p for p in result.predictions if "kernel_law" in p.mean]
    for index, (ax, (a, b)) in enumerate(zip(axes, entries, strict=True)):
        ax.spines[["top", "right"]].set_visible(False)
        ax.set(xlabel=f"kernel_{depth} − prior mean\nin prior standard deviations")
        ax.set_title(f"covariance of points {a} and {b}" if a != b else f"variance of point {a}", fontsize=10)
        ax.stairs(sampled[index], EDGES, fill=True, color="0.82", label="sampled posterior")
        prior = np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
        ax.plot(centres, prior, color="0.4", linestyle=":", label="Gaussian with the prior's moments")
        for prediction in predicted:
            ax.stairs(
                prediction.mean["kernel_law"][index], EDGES, color=COLOURS.get(prediction.theory), linewidth=1.4,
                label=prediction.theory,
            )  # fmt: skip
    axes[0].set_ylabel("density of the entry")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def draw_layers(result, depth):
    """What the targets do to the kernel of each layer: its shift along y y^T, and its alignment with them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    layers = np.arange(1, depth + 1)
    posterior = result.samples["posterior"]
    labels = {"kernel_gain": "coefficient of y yᵀ gained", "alignment": "alignment with the targets"}
    for ax, (name, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        ax.spines[["top", "right"]].set_visible(False)
        ax.set(xlabel="layer", ylabel=label, xticks=layers, xlim=(0.7, depth + 0.3))
        draws = np.stack([posterior[f"{name}_{layer}"] for layer in layers])
        error = draws.mean(2).std(1, ddof=1) / np.sqrt(draws.shape[1]) if draws.shape[1] > 1 else None
        ax.errorbar(
            layers, draws.mean((1, 2)), None if error is None else 2 * error, color="k", marker="o", markersize=4,
            linestyle="none", capsize=2, label="sampled ± 2 errors", zorder=3,
        )  # fmt: skip
        for prediction in result.predictions:
            values = [prediction.mean[f"{name}_{layer}"] for layer in layers]
            ax.plot(layers, values, color=COLOURS.get(prediction.theory), marker=".", label=prediction.theory)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def study(
    data: Literal["normal", "digits"] = "normal",
    points: int = 3,
    test: int = 1,
    inputs: int = 4,
    width: int = 20,
    depth: int = 2,
    activation: str = "erf",
    first_variance: float = 1.0,
    weight_variance: float = 1.5,
    readout_variance: float = 1.3,
    bias_variance: float = 0.05,
    readout_bias: float = 0.05,
    scaling: Literal["standard", "mean-field"] | float = "standard",
    noise_variance: float = 0.2,
    face: Literal["kernels", "collapsed", "weights", "limit"] = "kernels",
    tilt: Literal["leading", "exact", "gaussian", "none"] | None = None,
    reference: int = 20_000,
    prior_draws: int = 10_000,
    draws: int = 1000,
    chains: int = 4,
    warmup: int = 300,
    seed: int = 4,
):
    """The posterior of the layer kernels of a finite network, in any of its faces.

    Args:
        data: standard normal inputs with targets 1, -1, 0.8, 1, ...; or two of the digits.
        points: training points.
        test: test points.
        inputs: input dimension of normal data.
        width: neurons of each hidden layer.
        depth: hidden layers.
        activation: name of the activation function.
        first_variance: variance per fan-in of the first layer.
        weight_variance: variance per fan-in of the layers in between.
        readout_variance: variance per fan-in of the readout.
        bias_variance: of the biases of the layers in between; the first has none.
        readout_bias: variance of the readout's bias.
        scaling: standard, mean-field, or an exponent gamma of at least 1.
        noise_variance: likelihood variance, before it is divided by chi.
        face: what is sampled: kernels, weights without the readout (collapsed), all weights, or the limit's outputs.
        tilt: of the forward-backward theory, or none for without; exact at up to 8 points unless given, else leading.
        reference: draws of the prior that, reweighted, are the exact reference; 0 for none, for more than a few points.
        prior_draws: draws of the prior for its mean kernels, from which shifts are measured.
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the data, the chains and the prior draws.
    """
    between = depth - 1
    net = fp.Mlp(
        width,
        depth,
        activation,
        (first_variance, *[weight_variance] * between),
        (0.0, *[bias_variance] * between, readout_bias),
        readout_variance,
        scaling,
    )
    if data == "digits":
        task = fp.tasks.digits(classes=(0, 1), train=points, test=test, noise_variance=noise_variance, seed=seed)
    else:
        rng = np.random.default_rng(seed)
        X, X_test = rng.normal(size=(points, inputs)), rng.normal(size=(test, inputs))
        task = fp.Task(X, np.resize([1.0, -1.0, 0.8], points), noise_variance, X_test if test else None)
    key = jax.random.key(seed)
    sampling = {"draws": draws, "chains": chains, "warmup": warmup, "face": face}
    if face == "limit":  # its kernels do not fluctuate: nothing to shift, no law
        return fp.Study(net, task, theories=[fp.theory.limit], sampling=sampling, seed=seed)
    tilt = tilt or ("exact" if points + test <= 8 else "leading")
    common = {"prior": prior_moments(net, task, prior_draws, key), "entries": three_entries(task)}
    return fp.Study(
        net,
        task,
        theories=theories(net, task, tilt=tilt, reference=reference, key=key, **common),
        sampling={
            **sampling,
            "model": partial(kernel_superposition, **common),
            "kernel_points": np.arange(points + test),
            "dims": DIMS,
            "coords": coordinates(common["entries"]),
        },
        seed=seed,
        chosen={"tilt": tilt},
        figures={
            "kernel_law": partial(draw_law, entries=common["entries"], depth=depth),
            "layers": partial(draw_layers, depth=depth),
        },
    )
