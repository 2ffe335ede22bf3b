"""Copying heads: how much of copying a token a sequence kernel learns from real text, below what symmetry allows.

The kernel is that of linear attention with infinitely many heads, the task to copy the token at one position, the text
Python's own help pages. Regression is done exactly on many random sets of windows; how much of the copying function is
learned is measured on independent uniform tokens. No language changes how the bounds fall: as the context gets longer,
and as the vocabulary grows.

    fieldprob sweep copying_heads --context 8,16,32
    fieldprob sweep copying_heads --vocabulary 10,20,40
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

import fieldprob as fp
from fieldprob.theory.learnability import copying, target_bound, target_overlap

presets = {
    "small": {},
    "full": {"vocabulary": 1000, "context": 128, "points": (2000, 20000), "datasets": 4},
}


class Copying(eqx.Module):
    """The kernel and its copying target: contexts of some length over a vocabulary, and the position that is copied."""

    context: int = eqx.field(static=True)
    vocabulary: int = eqx.field(static=True)
    source: int = eqx.field(static=True)
    positional_variance: float

    def kernel(self, X1, X2):
        return copying.sequence_kernel(X1, X2, self.vocabulary, self.positional_variance)

    def target(self, X):
        return copying.copying_target(X, self.source, self.vocabulary)

    def image(self, X):
        return copying.copying_image(X, self.source, self.vocabulary, self.positional_variance)

    @property
    def power(self):
        return copying.copying_power(self.context, self.vocabulary)

    @property
    def trace(self):
        return copying.kernel_trace(self.context, self.vocabulary, self.positional_variance)


class Text(eqx.Module):
    """All windows of a text, the sizes of data sets drawn from them, and the ridge in units of E k(X, X)."""

    windows: jax.Array
    points: tuple[int, ...] = eqx.field(static=True)
    relative_noise: float


@eqx.filter_jit
def learned(prior, X, relative_noise):
    """The share of the copying target that regression on sequences X learns, on uniform tokens."""
    overlap = target_overlap(prior.image(X), prior.kernel(X, X), relative_noise * prior.trace, prior.target(X))
    return overlap / prior.power


@eqx.filter_jit
def bound(prior, X, relative_noise):
    """What no regression on these sequences exceeds, whatever the kernel makes of them (theory 06, (15))."""
    return target_bound(prior.image(X), prior.target(X), prior.power, relative_noise * prior.trace)


def random_sets_of_windows(prior, text, *, datasets, seed, progress=True):
    """`target_learnability` (dataset, points) on random sets of windows, drawn without replacement, and `copied_share`,
    that of the largest size, for sweeps."""
    rng = np.random.default_rng(seed)
    found = np.empty((datasets, len(text.points)))
    with tqdm(total=found.size, disable=not progress, desc="data sets") as bar:
        for (i, j), _ in np.ndenumerate(found):
            rows = np.sort(rng.choice(len(text.windows), text.points[j], replace=False))
            found[i, j] = learned(prior, text.windows[rows], text.relative_noise)
            bar.update()
    coords = {"dataset": np.arange(datasets), "points": np.array(text.points)}
    shares = {
        "target_learnability": (("dataset", "points"), found),
        "copied_share": (("dataset",), found[:, np.argmax(text.points)]),
    }
    posterior = xr.Dataset(shares, coords=coords)
    return xr.DataTree.from_dict({"posterior": posterior}, name="fieldprob")


@eqx.filter_jit
def mean_squares(prior, windows):
    """Means over windows of |T y|² and of |y|²."""

    def one(window):
        X = window[None]
        return jnp.stack([jnp.sum(prior.image(X) ** 2), jnp.sum(prior.target(X) ** 2)])

    return jnp.mean(jax.lax.map(one, windows, batch_size=256), axis=0)


def for_this_text(prior, text):
    """The bound (06, (15)) averaged over data sets: by Cauchy-Schwarz at most P sqrt(E|T y|² E|y|²) / (δ <y, y>)."""
    image, labels = mean_squares(prior, text.windows)
    ridge = text.relative_noise * prior.trace
    value = jnp.asarray(text.points) * jnp.sqrt(image * labels) / (ridge * prior.power)
    return _bound(
        "bound for this text", value, text, "a bound on the average over random sets of windows of the text", "(15)"
    )


def for_any_language(prior, text):
    """The bound from the dimension of the representation and the largest norm in any text (06, (26)-(28))."""
    eigenvalue = prior.trace / ((prior.context - 1) * (prior.vocabulary - 1))
    square = copying.largest_copying_square(prior.context) / prior.power
    value = jnp.asarray(text.points) * eigenvalue * square / (text.relative_noise * prior.trace)
    order = "a bound where copying is an eigenfunction, in any language"
    return _bound("bound for any language", value, text, order, "(26)-(28)")


def _bound(theory, value, text, order, equation):
    return fp.Prediction(
        theory=theory,
        mean={"target_learnability": value, "copied_share": jnp.max(value)},
        kind={"target_learnability": "upper", "copied_share": "upper"},
        dims={"copied_share": ()},
        order=order,
        source=f"theory 06, {equation}",
        coords={"points": text.points},
    )


def draw_learnability(result, title):
    """The share that is learned, with its spread over data sets, below the two bounds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    sampled = result.samples["posterior"]["target_learnability"]
    points = sampled["points"].values
    for prediction, colour in zip(result.predictions, ("#0072B2", "#D55E00"), strict=True):
        ax.plot(points, prediction.mean["target_learnability"], color=colour, label=prediction.theory)
    ax.errorbar(
        points,
        sampled.mean("dataset"),
        sampled.std("dataset"),
        fmt="ko",
        markersize=4,
        label="learned, ±σ over data sets",
    )
    ax.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
    ax.set(xscale="log", yscale="log", xlabel="sequences in the data set", ylabel="share of copying that is learned")
    ax.set_xticks(points, [str(size) for size in points])
    ax.minorticks_off()
    ax.set_title(title, fontsize=10)
    ax.legend(frameon=False)
    return figure


def study(
    vocabulary: int = 20,
    context: int = 8,
    points: tuple[int, ...] = (50, 100, 200, 400),
    relative_noise: float = 1.0,
    positional_variance: float = 1.0,
    source: int | None = None,
    datasets: int = 100,
    seed: int = 0,
):
    """Copying one token of a context, learned from real English text by a kernel with the symmetry of a transformer.

    Args:
        vocabulary: tokens: the most frequent words, and one token for all others.
        context: tokens in a sequence, at least 2.
        points: sizes of the data sets, in sequences.
        relative_noise: the ridge in units of E k(X, X) on uniform tokens.
        positional_variance: of the position vectors, relative to the token vectors; without them nothing can be copied.
        source: position that is copied; the last but one unless given.
        datasets: random data sets of each size.
        seed: of the data sets.
    """
    if datasets < 1:
        raise ValueError(f"datasets={datasets}: give one at least.")
    if context < 2 or not relative_noise > 0 or not positional_variance >= 0:
        raise ValueError(
            f"context={context}, relative_noise={relative_noise:g}, positional_variance={positional_variance:g}: give "
            "a context of at least 2, a positive noise, and no negative variance."
        )
    source = context - 2 if source is None else source
    if not 0 <= source < context:
        raise ValueError(f"source={source} is not in the context: give a position of 0 ... {context - 1}.")
    windows = fp.tasks.text_windows(context, vocabulary)
    if not points or not 1 <= min(points) <= max(points) <= len(windows):
        raise ValueError(
            f"points={points}: give sizes of data sets between 1 and {len(windows)}, the windows there are."
        )
    title = f"copying one of {context} tokens, vocabulary {vocabulary}, ridge {relative_noise:g} E k"
    return fp.Study(
        Copying(context, vocabulary, source, float(positional_variance)),
        Text(jnp.asarray(windows), points, float(relative_noise)),
        theories=[for_this_text, for_any_language],
        sampling={"datasets": datasets},
        sampler=random_sets_of_windows,
        seed=seed,
        figures={"learnability": partial(draw_learnability, title=title)},
        chosen={"source": source},
    )
