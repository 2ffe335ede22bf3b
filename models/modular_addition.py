"""Grokking of addition modulo a prime: quadratic neurons whose Fourier modes specialise, sampled and predicted.

A neuron with weights (u, v) makes (u_i + v_j)² of a pair (i, j). The readout is integrated out and all outputs share
the hidden weights, which carry a regulator of sixth order in their Fourier modes beside the normal prior. As the noise
falls, a mode of a neuron leaves the central well, where its weights are noise, for one in which u and v are cosines of
one frequency: first no mode does, then more and more while the residual falls in proportion to the noise, at last all
have. Noise is in units of `noise_scale`, where this begins:

    fieldprob sweep modular_addition --noise 1.2,0.9,0.7,0.4
    fieldprob sweep modular_addition --width 25,50,100,200
    fieldprob sweep modular_addition --train 20,30,40 --noise 0.1

Theories are of the whole table. A part of it is learned without the rest at modulus 7: the kernel of many neurons of
random weights, or of neurons in which every mode has specialised, weighs all products of waves in i and j alike, and
never gives the right answer of an unseen pair; test losses exceed that of predicting nothing. Chains from both sides
(`start_from`) take thousands of steps to agree on the specialised fraction where most modes are specialised: see R-hat.
"""

from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.infer import init_to_sample

import fieldprob as fp
from fieldprob.sweep import mean_and_error
from fieldprob.theory.grokking import modular

presets = {
    "small": {},
    "wide": {"width": 200},
    "full": {"width": 200, "draws": 4000, "chains": 8},
    "part": {"train": 35, "noise": 0.1},
}

BINS = np.linspace(0, 2, 21)  # edges of the histogram of powers, in units of the side well
LIMIT = 10**6 + 3  # a modulus that stands for the limit: 4 readout_variance is nothing beside noise_scale
DIMS = {"specialised_neuron": ("layer_part", "residue")}


# --- model ------------------------------------------------------------------------------------------------------------


def modular_addition(net, task, *, sextic, threshold=0.45, **options):
    """The model: y ~ N(f(X), noise) of a network with the regulator, `options` those of `fp.regression`.

    Registers, besides `f`, `f_test` and the losses: `residual_amplitude`, `specialised_fraction` (modes whose powers in
    u and v both exceed `threshold` side wells), `mode_power`, `power_histogram` (bin), `target_eigenvalue`,
    `train_accuracy` and `test_accuracy` of the largest output, and `specialised_neuron` (layer_part, residue): u and v
    of the neuron in which one mode stands out most.
    """
    hide = numpyro.handlers.block(hide_fn=lambda site: site["name"].startswith(("kernel_", "alignment_")))
    with hide, numpyro.handlers.trace() as sites:
        fp.regression(net, task, **options)
    values = {name: site["value"] for name, site in sites.items()}
    powers = fp.statistics.fourier_powers(parts(values["weight_0"]))
    numpyro.factor("regulator", log_regulator(powers, task.outputs, sextic))
    for name, value in measured(net, task, values, powers, sextic, threshold).items():
        numpyro.deterministic(name, value)


def parts(weight):
    """(neurons, 2P) as (neurons, 2, P): u and v."""
    return weight.reshape(len(weight), 2, -1)


def log_regulator(powers, modulus, sextic):
    """-(P sextic / 6) sum over k ≠ 0 of |u_k|^6 + |v_k|^6, over independent modes twice."""
    return -modulus * sextic / 3 * jnp.sum(powers**3)


def measured(net, task, values, powers, sextic, threshold):
    """The statistics of given weights; of what is integrated out they are means."""
    well = np.sqrt(3 / sextic)
    weaker = jnp.min(powers, axis=1)  # of u and v
    purest = jnp.argmax(2 * jnp.max(weaker, axis=-1) - jnp.mean(jnp.sum(powers, axis=-1), axis=1))
    F = net.output_features(net.hidden(values, task.X)[-1])
    found = {
        "residual_amplitude": fp.statistics.residual_amplitude(values["f"], task.y),
        "specialised_fraction": jnp.mean(weaker > threshold * well, dtype=weaker.dtype),
        "mode_power": jnp.mean(powers),
        "power_histogram": fp.statistics.histogram_density(powers.ravel(), BINS * well),
        "target_eigenvalue": fp.statistics.target_eigenvalue(F @ F.T, task.y),
        "train_accuracy": accuracy(values["f"], task.y),
        "specialised_neuron": parts(values["weight_0"])[purest],
    }
    return found | ({"test_accuracy": accuracy(values["f_test"], task.y_test)} if task.test_points else {})


def accuracy(f, y):
    return jnp.mean(jnp.argmax(f, axis=-1) == jnp.argmax(y, axis=-1), dtype=f.dtype)


def start(site, *, share, modulus, sextic):
    """Where a chain starts: a draw of the prior in which a share of the modes is in the side well, with free phases.

    `share` is a number, or None for one that each chain draws itself, uniform on [0, 1].
    """
    drawn: Any = init_to_sample(site)
    if site["name"] != "weight_0" or drawn is None:
        return drawn
    key_share, key_mode, key_phase = jax.random.split(jax.random.fold_in(site["kwargs"]["rng_key"], 1), 3)
    shape = (len(drawn), (modulus - 1) // 2)
    share = jax.random.uniform(key_share) if share is None else share
    amplitude = 2 * jnp.sqrt(jnp.sqrt(3 / sextic)) * jax.random.bernoulli(key_mode, share, shape)
    phase = jax.random.uniform(key_phase, (len(drawn), 2, shape[1], 1), maxval=2 * jnp.pi)
    k, x = np.arange(1, shape[1] + 1), np.arange(modulus)
    waves = amplitude[:, None, :, None] * jnp.cos(2 * jnp.pi * np.outer(k, x) / modulus + phase)
    return drawn + waves.sum(axis=2).reshape(drawn.shape)


# --- theories ---------------------------------------------------------------------------------------------------------


def of_full_table(theory, net, task, *, sextic):
    """A theory's prediction of this network, with the outputs that it implies: f = (1 - a) y."""
    setting = modular.ModularAddition(task.outputs, net.widths[0], task.noise_variance, net.readout_variance, sextic)
    prediction = theory(setting)
    mean = prediction.mean | {"f": (1 - prediction.mean["residual_amplitude"]) * task.y}
    return replace(prediction, mean=mean, coords=coordinates(sextic))


def coordinates(sextic):
    """Centres of the bins of powers."""
    return {"bin": (BINS[1:] + BINS[:-1]) / 2 * np.sqrt(3 / sextic)}


# --- figures ----------------------------------------------------------------------------------------------------------


def draw_powers(result, sextic):
    """Density of the power of a Fourier mode of a neuron: samples as bars, mean field as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    ax = figure.subplots()
    well = np.sqrt(3 / sextic)
    edges = BINS * well
    sampled = np.asarray(result.samples["posterior"]["power_histogram"].mean(("chain", "draw")))
    ax.stairs(sampled, edges, fill=True, color="0.8", label="sampled")
    lowest = sampled[sampled > 0].min()
    for prediction in result.predictions:
        if "power_histogram" in prediction.mean:
            ax.stairs(prediction.mean["power_histogram"], edges, color="#0072B2", linewidth=1.8, label="mean field")
    ax.axvline(well, color="#D55E00", linestyle=":", label="side well at coexistence")
    ax.set(
        xlabel="power |u_k|², |v_k|² of a Fourier mode of a neuron", ylabel="density over modes and neurons",
        yscale="log", xlim=(0, edges[-1]), ylim=(max(lowest / 2, 1e-5), None),
    )  # fmt: skip
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure


def draw_neuron(result):
    """The weights of the neuron in which one mode stands out most, at the last draw, with that mode."""
    from matplotlib.figure import Figure

    weights = np.asarray(result.samples["posterior"]["specialised_neuron"][0, -1])
    P = weights.shape[-1]
    k = 1 + int(np.argmax(fp.statistics.fourier_powers(weights).min(axis=0)))
    x = np.linspace(0, P - 1, 40 * P)
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name, summand, w in zip(axes, "uv", "ij", weights, strict=True):
        mode = np.mean(w * np.exp(2j * np.pi * k * np.arange(P) / P))
        wave = w.mean() + 2 * np.real(mode * np.exp(-2j * np.pi * k * x / P))
        ax.plot(x, wave, color="#0072B2", label=f"their mean and one mode, of wavelength {P}/{k}")
        ax.plot(np.arange(P), w, "o", color="0.2", markersize=5, label="sampled weights")
        ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        ax.set(xlabel=f"summand {summand}", title=f"weights {name}: power {abs(mode) ** 2:.2f}")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("weight")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


@cache
def phase_curves(moduli, width, sextic, end, noise):
    """Residual amplitude and specialised fraction over the noise, for each modulus and as it grows (None)."""
    curves = {}
    for modulus in (*moduli, None):
        theory = modular.large_modulus if modulus is None else modular.mean_field
        tasks = [modular.ModularAddition.with_phases(modulus or LIMIT, width, sextic, end=end, noise=x) for x in noise]
        found = [theory(task).mean for task in tasks]
        curves[modulus] = {
            n: np.array([float(m[n]) for m in found]) for n in ("residual_amplitude", "specialised_fraction")
        }
    return curves


def draw_phases(results, *, modulus, width, sextic, end, others=(31, 101)):
    """Residual and specialised fraction over the noise: theory as lines, also for other moduli, samples as points.

    `results` are pairs (noise in units of noise_scale, Result), all at this modulus and width.
    """
    from matplotlib.figure import Figure

    noise = tuple(np.linspace(0.3, 1.3, 21).tolist())
    moduli = (modulus, *(m for m in others if m != modulus))
    curves = phase_curves(moduli, width, sextic, end, noise)
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    labels = {"residual_amplitude": "residual amplitude a", "specialised_fraction": "specialised share of modes"}
    colours = ("#0072B2", "#009E73", "#CC79A7", "#E69F00")
    for ax, (name, label) in zip(axes, labels.items(), strict=True):
        ax.axvspan(1 - end, 1, color="0.94", zorder=0)
        for x, text in ((1 - end) / 2 + 0.15, "all\nspecialised"), (1 - end / 2, "mixed"), (1.15, "none"):
            ax.text(x, 1.06, text, ha="center", va="bottom", fontsize=9, color="0.35")
        for (P, curve), colour in zip(curves.items(), (*colours[: len(moduli)], "k"), strict=True):
            style = {"linestyle": "--", "linewidth": 1.2} if P is None else {"linewidth": 1.6}
            text = "modulus → ∞" if P is None else f"mean field, modulus {P}"
            ax.plot(noise, curve[name], color=colour, label=text, **style)
        points = [(x, *map(float, mean_and_error(r.samples["posterior"][name]))) for x, r in results]
        at, mean, error = np.array(points).T
        ax.errorbar(
            at, mean, 2 * error, fmt="o", color=colours[0], markersize=5, capsize=3, zorder=4,
            label=f"sampled, modulus {modulus}, width {width} (± 2 errors)",
        )  # fmt: skip
        ax.set(xlabel="noise variance / noise scale Σ", ylabel=label, ylim=(-0.03, 1.04), xlim=(0.3, 1.3))
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


# --- study ------------------------------------------------------------------------------------------------------------


def study(
    modulus: int = 7,
    width: int = 50,
    noise: float = 0.9,
    sextic: float = 1.0,
    end: float = 0.5,
    train: int | None = None,
    threshold: float = 0.45,
    start_from: Literal["spread", "prior", "specialised"] = "spread",
    draws: int = 2000,
    chains: int = 4,
    warmup: int = 300,
    seed: int = 0,
):
    """A network that learns addition modulo a prime, from the whole table or from a part of it.

    Args:
        modulus: the prime.
        width: neurons.
        noise: noise variance in units of the scale below which modes specialise.
        sextic: strength of the regulator.
        end: modes specialise while `noise` falls from 1 to 1 - end, on the whole table.
        train: pairs to learn from, the other pairs are the test set; the whole table unless given. Theories are of the
            whole table, and hold for no part of it.
        threshold: power, in units of the side well, above which a mode of a neuron counts as specialised.
        start_from: where chains start: all modes noise (prior), all in the side well (specialised), or a share of them
            that each chain draws for itself (spread). R-hat is about agreement from both sides with the last.
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the table's order and of the chains.
    """
    setting = modular.ModularAddition.with_phases(modulus, width, sextic, end=end, noise=noise)
    net = fp.Mlp(width, 1, "square", weight_variance=2.0 * modulus, readout_variance=float(setting.readout_variance))
    task = fp.tasks.modular_addition(modulus, train, noise_variance=float(setting.noise_variance), seed=seed)
    theories = []
    figures = {"powers": partial(draw_powers, sextic=sextic), "neuron": draw_neuron}
    if task.points == modulus**2:
        mean_field = partial(modular.mean_field, edges=BINS * float(setting.side_well), threshold=threshold)
        one_loop = partial(modular.one_loop, key=jax.random.key(seed))
        theories = [
            partial(of_full_table, theory, sextic=sextic) for theory in (mean_field, one_loop, modular.large_modulus)
        ]
        figures["phases"] = lambda result: draw_phases(
            [(noise, result)], modulus=modulus, width=width, sextic=sextic, end=end
        )
    share = {"spread": None, "prior": 0.0, "specialised": 1.0}[start_from]
    init = partial(start, share=share, modulus=modulus, sextic=sextic)
    return fp.Study(
        net,
        task,
        theories=theories,
        sampling={
            "model": partial(modular_addition, sextic=sextic, threshold=threshold),
            "kernel": partial(fp.infer.HilbertHMC, init_strategy=init),
            "precision": "full",
            "draws": draws,
            "chains": chains,
            "warmup": warmup,
            "dims": DIMS,
            "coords": coordinates(sextic) | {"layer_part": ["u", "v"]},
        },
        seed=seed,
        figures=figures,
        marks={"noise": {"specialised modes appear": 1.0, "all specialised": 1 - end}},
    )
