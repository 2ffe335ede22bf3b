"""The studies of criticality: what deep networks learn near the edge of chaos, and what their priors do before."""

import numpy as np
import pandas as pd
import pytest

import fieldprob as fp
from fieldprob.plots_sweep import plot_sweep
from tests.test_models import load

GAINS = [f"alignment_gain_{layer}" for layer in range(1, 6)]
VARIANCES = (0.7, 0.9, 1.1, 1.376, 1.7, 2.2)


def scaled_gain(**options):
    """Width times the gain of the last kernel, with its standard error, and what the first order says."""
    study = load("criticality").study(**options)
    draws = study.prior.widths[0] * np.asarray(study.sample()["posterior"]["alignment_gain_5"])
    return draws.mean(), draws.std(ddof=1) / np.sqrt(len(draws)), first_order(**options)


def first_order(layer=5, **options):
    study = load("criticality").study(**options)
    prediction = fp.theory.fluctuation_response(study.prior, study.task)
    return study.prior.widths[0] * float(prediction.mean[f"alignment_gain_{layer}"])


@pytest.fixture(scope="module")
def result():
    return load("criticality").study(draws=2000, width=300).run(progress=False)


@pytest.mark.slow
def test_what_is_learned_at_the_edge_of_chaos_is_response_times_force(result):
    """First order against 2000 networks of width 300, 41 numbers in which it is off by O(1/width); false-alarm rate
    of the verdict 1e-5. The limit learns nothing."""
    verdicts = fp.compare(result.samples, result.predictions, false_alarm=1e-5).verdicts
    assert verdicts == {"limit": "differs", "linear response": "agrees"}
    means = [float(result.samples["posterior"][name].mean()) for name in GAINS]
    assert np.all(np.diff(means) > 0)  # deeper kernels learn more


def test_the_task_is_the_one_of_the_document(result):
    task = load("criticality").study().task
    rng = np.random.default_rng(0)
    noise = 0.4 * rng.normal(size=(8, 10)) / np.sqrt(10)
    np.testing.assert_array_equal(task.X[0], np.eye(10)[0] + noise[0])
    np.testing.assert_array_equal(task.X[7], -np.eye(10)[1] + noise[7])
    np.testing.assert_array_equal(task.y[:, 0], [1, 1, 1, 1, -1, -1, -1, -1])
    net = load("criticality").study().prior
    np.testing.assert_allclose(net.limit_kernels(task.X)[0], task.X @ task.X.T, rtol=1e-12)
    assert result.samples.attrs["effective_sample_size"] > 400


def test_the_critical_variance_is_that_of_the_document():
    critical = load("criticality").edge_of_chaos
    assert abs(critical("erf", 0.05) - 1.37584) < 1e-4
    assert abs(critical("erf", 0.0) - np.pi / 4) < 1e-6
    assert critical("relu", 0.05) is None


def test_first_order_peaks_near_the_edge_unless_the_noise_is_small():
    """03 E8: a maximum at noise 0.1; at noise 1e-3 the gain only falls with the variance. Numbers of the strict first
    order (03 prints those of the alignment of the shifted kernel, 2 % off at width 100)."""
    gains = [first_order(weight_variance=g) for g in VARIANCES]
    np.testing.assert_allclose(gains, [1.491, 2.660, 3.332, 3.459, 3.138, 2.547], atol=1e-3)
    small = [first_order(weight_variance=g, noise_variance=1e-3) for g in (0.5, 1.376, 4.0)]
    assert small[0] > 10 * small[1] > 50 * small[2] > 0


def test_alignment_of_the_shifted_kernel_is_what_the_document_prints():
    """03 E8 at noise 1e-3, width 100: 0.2019, 0.0935, 0.0154 at g = 0.5, 1.376, 4; and layer by layer at noise 0.1,
    to the 3 % of its quadrature."""
    alignment = fp.statistics.centred_kernel_alignment
    for g, printed in ((0.5, 0.2019), (1.376, 0.0935), (4.0, 0.0154)):
        study = load("criticality").study(weight_variance=g, noise_variance=1e-3, width=100)
        shift = fp.theory.fluctuation_response(study.prior, study.task).mean["kernel_shift_5"]
        K, y = study.prior.limit(study.task.X), study.task.y
        assert abs(alignment(K + shift, y) - alignment(K, y) - printed) < 1e-4
    layers = [first_order(layer, width=100) / 100 for layer in range(1, 6)]
    np.testing.assert_allclose(layers, [0.0014, 0.0039, 0.0091, 0.0189, 0.0355], rtol=0.03)


@pytest.mark.slow
@pytest.mark.long
def test_sampled_gain_against_the_variance():
    """03 E8, its sampled row at width 400: first order within 5 standard errors (six numbers, false alarm 4e-6) plus
    20 / width of second order; the sampled maximum is at none of the ends."""
    found = np.array([scaled_gain(weight_variance=g) for g in VARIANCES])
    sampled, error, predicted = found.T
    assert np.all(np.abs(sampled - predicted) < 5 * error + 20 / 400 * predicted), found
    assert np.all(error < 0.1)
    middle = sampled[1:-1].max()
    assert middle > sampled[0] + 5 * error[0] and middle > sampled[-1] + 5 * error[-1]


def test_the_edge_is_marked_where_the_variance_is_swept():
    marks = load("criticality").study().marks["weight_variance"]
    assert abs(marks["edge of chaos"] - 1.37584) < 1e-4
    assert load("criticality").study(activation="relu").marks == {}
    columns = ("statistic", "quantity", "theory", "value", "error", "weight_variance", "seed")
    rows = [("alignment_gain_5", "value", theory, 0.1 * g, 0.0, g, 0) for g in (1.0, 2.0) for theory in ("", "limit")]
    figure = plot_sweep(pd.DataFrame(rows, columns=columns), ["weight_variance"], marks=marks)
    assert any(np.allclose(line.get_xdata(), marks["edge of chaos"]) for line in figure.axes[0].get_lines())
    assert "edge of chaos" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.slow
@pytest.mark.long
def test_figures_of_the_studies(result):
    study = load("criticality").study(draws=4000, width=300)
    (ax,) = study.figures["gain"](result).axes
    labels = ax.get_legend_handles_labels()[1]
    assert labels[:5] == [f"kernel {layer}" for layer in range(1, 6)] and "edge of chaos, 1.376" in labels


@pytest.mark.slow
def test_prior_fluctuations_in_three_phases():
    """03 E7 at width 512, depth 5: mean and relative variance of the kernels of 4000 networks a phase, to first order;
    false-alarm rate of the verdict 1e-5."""
    study = load("prior_fluctuations").study(width=512, depth=5, draws=4000)
    result = study.run(progress=False)
    assert fp.compare(result.samples, result.predictions, false_alarm=1e-5).verdicts == {"first order": "agrees"}
    sampled = result.samples["posterior"]["relative_fluctuation"].mean("particle")
    assert list(sampled["phase"].values) == ["ordered", "critical", "chaotic"]
    assert float(sampled.sel(phase="critical")[-1]) > 5 * float(sampled.sel(phase="chaotic")[-1])
    (ax,) = study.figures["depth"](result).axes
    assert len(ax.get_legend_handles_labels()[1]) == 4


@pytest.mark.slow
@pytest.mark.long
def test_first_order_of_prior_fluctuations_is_approached_with_width():
    """Relative distance at the edge of chaos, layer 10: falls with the width; each within 5 standard errors (three
    numbers, false alarm 2e-6) of a deviation of 3 depth / width."""
    for width in (32, 128, 512):
        study = load("prior_fluctuations").study(width=width, draws=20_000)
        draws = np.asarray(study.sample()["posterior"]["relative_fluctuation"].sel(phase="critical", layer=10))
        predicted = float(study.predict()[0].mean["relative_fluctuation"][1, 9])
        error = draws.std(ddof=1) / np.sqrt(len(draws))
        assert abs(draws.mean() - predicted) < 5 * error + 3 * 10 / width * predicted, width
