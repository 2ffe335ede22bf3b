"""Reports, and the figure of a sweep: self-contained pages, honest numbers."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.lines import Line2D

from fieldprob import report
from fieldprob.compare import compare
from fieldprob.plots_ladder import plot_ladder
from fieldprob.plots_sweep import legend_below, plot_sweep, swept_axis
from fieldprob.prediction import Prediction
from fieldprob.study import Result
from fieldprob.sweep import as_table, average_seeds, mean_and_error, slopes, summarise, theory_errors


def make_result(**attrs):
    rng = np.random.default_rng(1)
    posterior = xr.Dataset(
        {
            "train_loss": (("chain", "draw"), rng.normal(1.0, 0.1, (4, 500))),
            "f": (("chain", "draw", "train_point", "output"), rng.normal(2.0, 0.1, (4, 500, 3, 1))),
            "temperature": (("chain", "draw"), rng.normal(5.0, 0.1, (4, 500))),
        },
        coords={"train_point": np.arange(3), "output": [0]},
    )
    stats = xr.Dataset({"diverging": (("chain", "draw"), np.eye(4, 500, dtype=bool))})
    samples = xr.DataTree.from_dict({"posterior": posterior, "sample_stats": stats})
    samples.attrs |= {"settings": '{"warmup": 77}', **attrs}
    theories = (
        Prediction(
            theory="<limit>", mean={"f": np.full((3, 1), 2.1), "train_loss": 1.0}, variance={"train_loss": 0.01}
        ),
    )
    settings = {
        "study": "toy",
        "doc": "A <toy>.",
        "parameters": {"width": 3, "classes": [0, 1]},
        "command": "fieldprob run toy --width 3",
        "explicit_command": "fieldprob run toy --width 3 --seed 0",
        "versions": {"jax": "1.2.3"},
    }
    return Result(samples, theories, compare(samples, theories), settings)


def test_a_page_holds_figure_table_parameters_diagnostics_and_how_to_repeat_it():
    page = report.run_page(make_result(), figure=b"\x89PNG")
    assert 'src="data:image/png;base64,iVBORw=="' in page
    for text in ("train_loss", "differs", "width", "0 1", "divergent transitions", "warmup", "--seed 0", "1.2.3"):
        assert text in page
    assert "A &lt;toy&gt;." in page and "<limit>" not in page, "texts are escaped"
    assert not re.search(r"(src|href)=\"(?!data:)", page), "nothing is loaded from elsewhere"
    assert "prefers-color-scheme: dark" in page


def test_an_interrupted_run_is_marked():
    assert "Interrupted: sampling was stopped after 500 draws" in report.run_page(make_result(interrupted=1))


def test_diagnostics_count_divergences():
    found = report.diagnostics(make_result().samples)
    assert found["divergent transitions"] == "4" and found["chains × draws"] == "4 × 500" and found["warmup"] == "77"


def test_the_error_of_batch_means_is_that_of_autocorrelated_chains():
    # AR(1) with coefficient 0.8: the variance of the mean is 9 times that of independent draws. 400 batch means give
    # the error a standard deviation of 3.5 %, finite batches a bias of -4 %: 25 % is more than five deviations.
    rng, rho = np.random.default_rng(2), 0.8
    noise = rng.normal(size=(20, 2000))
    x = np.zeros_like(noise)
    for t in range(1, 2000):
        x[:, t] = rho * x[:, t - 1] + noise[:, t]
    _, error = mean_and_error(xr.DataArray(x, dims=("chain", "draw")))
    assert float(error) == pytest.approx(1 / (1 - rho) / np.sqrt(x.size), rel=0.25)


def test_the_summary_has_values_of_scalars_and_relative_distances_of_arrays():
    result = make_result()
    table = summarise(result.comparison.to_dataframe(), result.samples["posterior"].to_dataset())
    rows = table.set_index(["statistic", "quantity", "theory"])["value"]
    assert rows["train_loss", "value", "<limit>"] == 1.0
    assert rows["train_loss", "value", ""] == pytest.approx(1.0, abs=0.02)
    assert rows["train_loss_variance", "value", "<limit>"] == 0.01
    assert rows["temperature", "value", ""] == pytest.approx(5.0, abs=0.02), "scalars that nobody predicts appear too"
    # |2 - 2.1| / 2; the floor is 0.1 / sqrt(2000) / 2
    assert rows["f", "distance", "<limit>"] == pytest.approx(0.05, abs=0.01)
    assert rows["f", "distance", ""] == pytest.approx(0.00112, rel=0.3)


def sweep_table(widths, seeds, **others):
    rng = np.random.default_rng(0)
    summaries = []
    for width in widths:
        for seed in range(seeds):
            for extra in others.get("scaling", [None]):
                rows = [
                    ("train_loss", "value", "", 1 + 1 / width + 0.1 * rng.normal(), 0.02),
                    ("train_loss", "value", "limit", 1.0, 0.0),
                    ("f", "distance", "", 0.01, 0.0),
                    ("f", "distance", "limit", 1 / width, 0.001),
                    ("kernel_0", "distance", "", 0.0, 0.0),
                    ("kernel_0", "distance", "limit", 1e-16, 0.0),
                ]
                frame = pd.DataFrame(rows, columns=["statistic", "quantity", "theory", "value", "error"])
                point = {"width": width, "seed": seed} | ({"scaling": extra} if extra else {})
                summaries.append((point, frame))
    return as_table(summaries)


def test_seeds_are_combined_as_mean_and_standard_error():
    table = sweep_table([4], seeds=25)
    row = average_seeds(table, ["width"]).set_index(["statistic", "theory"]).loc[("train_loss", "")]
    values = table[(table["statistic"] == "train_loss") & (table["theory"] == "")]["value"]
    assert row["value"] == pytest.approx(values.mean()) and row["error"] == pytest.approx(values.std() / 5)
    assert row["seeds"] == 25


@pytest.mark.parametrize("scaling", [[None], ["standard", "mean-field"]])
def test_the_figure_has_a_panel_a_statistic_but_none_for_identities(tmp_path, scaling):
    table = sweep_table([8, 64, 512], seeds=2, scaling=scaling)
    swept = ["width"] + (["scaling"] if scaling[0] else [])
    figure = plot_sweep(table, swept, tmp_path / "figure.png")
    panels = [axes for axes in figure.axes if axes.axison]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["f", "train_loss"]
    assert all(axes.get_xscale() == "log" for axes in panels) and panels[0].get_yscale() == "log"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"limit", "sampled, mean of 2 seeds", "Monte Carlo noise floor"} <= set(labels)
    assert ("scaling = mean-field" in labels) == (scaling[0] is not None)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    plt.close(figure)


@pytest.mark.parametrize("long", [False, True])
def test_the_legend_of_a_narrow_figure_is_within_it(long):
    figure = plt.figure(figsize=(3.3, 3.3), layout="constrained")
    figure.subplots().plot([1, 2])
    legend_below(figure, [Line2D([], [], label=f"theory {i}" + " of a long name" * long) for i in range(5)])
    figure.canvas.draw()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert extent.x0 >= -1 and extent.x1 <= figure.bbox.width + 1
    assert len(legend.get_texts()) == 5
    plt.close(figure)


@pytest.mark.parametrize("others", [[], ["chi"]])
def test_every_panel_has_the_limits_of_the_sweep_and_theories_keep_their_colours(others):
    """One theory predicts one point only; the second of two theories is exact."""
    table = power_laws([10, 30, 40], chis=("1", "width")[: 1 + len(others)])
    rows = table[table["quantity"] == "error"].assign(quantity="value")
    table = pd.concat(
        [table, rows[(rows["statistic"] == "f") | (rows["width"] == 30)], rows.assign(theory="", value=1)]
    )
    figures = plot_sweep(table, ["width", *others]), plot_ladder(table, ["width", *others])
    panels = [axes for figure in figures for axes in figure.axes if axes.axison]
    assert len(panels) == 4 and len({axes.get_xlim() for axes in panels}) == 1
    looks = [{line.get_label(): line for line in figure.legends[0].get_lines()} for figure in figures]
    for theory in ("order 1", "order 2"):
        assert len({look[theory].get_color() for look in looks}) == 1
    if others:
        assert [looks[0][f"chi = {chi}"].get_markerfacecolor() for chi in ("1", "width")] == ["black", "white"]
    for figure in figures:
        plt.close(figure)


def test_the_first_numeric_parameter_is_the_horizontal_axis():
    table = pd.DataFrame({"scaling": ["a"], "flag": [True], "width": [3], "seed": [0]})
    assert swept_axis(table, ["scaling", "flag", "width"]) == ("width", ["scaling", "flag"])
    assert swept_axis(table, ["scaling"]) == ("scaling", [])
    assert swept_axis(table, []) == ("seed", [])


def test_only_seeds_may_be_swept():
    figure = plot_sweep(sweep_table([8], seeds=3).drop(columns="width"), [])
    assert figure.axes[0].get_xlabel() or figure.axes[1].get_xlabel() == "seed"
    plt.close(figure)


def power_laws(widths, chis=("1", "width")):
    """Errors 3 / width^k of two theories in an array and a number, of which the exact theory covers more."""
    summaries = []
    for width in widths:
        for chi in chis:
            f = np.array([[1.0], [-2.0], [2.0]])
            predictions = [Prediction(theory="exact", exact=True, mean={"f": f, "train_loss": 5.0, "test_loss": 1.0})]
            for power in (1, 2):
                factor = 1 + 3 / width**power
                mean = {"f": factor * f[1:], "train_loss": 5.0 * factor}
                error = {"train_loss": 0.5}
                coords = {"train_point": [1, 2]}
                predictions.append(Prediction(theory=f"order {power}", mean=mean, error=error, coords=coords))
            frame = summarise(None, xr.Dataset(), [p.to_dataset() for p in predictions])
            summaries.append(({"chi": chi, "width": width}, frame))
    return as_table(summaries)


def test_errors_against_an_exact_theory_and_their_slopes():
    table = power_laws([10, 40, 160])
    at_10 = table[(table["width"] == 10) & (table["chi"] == "1")].set_index(["statistic", "quantity", "theory"])
    assert at_10.loc[("f", "size", "exact"), "value"] == pytest.approx(3**0.5), "over all its points"
    assert at_10.loc[("f", "error", "order 1"), "value"] == pytest.approx(0.3), "over the points of both"
    assert at_10.loc[("train_loss", "error", "order 2"), "value"] == pytest.approx(0.03)
    assert at_10.loc[("train_loss", "error", "order 2"), "error"] == pytest.approx(0.1)
    fitted = slopes(average_seeds(table, ["chi", "width"]), "width", ["chi"])
    assert len(fitted) == 8 and all(slope == pytest.approx(-int(key[-1][-1])) for key, slope in fitted.items())
    assert not slopes(average_seeds(table, ["chi", "width"]), "chi", ["width"]), "no slope along words"
    bent = table.assign(value=table["value"].mask((table["width"] == 40) & (table["theory"] == "order 1"), 0.2))
    fitted = slopes(average_seeds(bent, ["chi", "width"]), "width", ["chi"])
    assert {key[-1] for key in fitted} == {"order 2"}, "no slope where there is no power law"
    assert theory_errors([Prediction(theory="inexact", mean={"train_loss": 1.0}).to_dataset()]).empty


def test_the_ladder_has_a_panel_a_statistic_and_its_slopes(tmp_path):
    figure = plot_ladder(power_laws([10, 40, 160]), ["chi", "width"], tmp_path / "ladder.png")
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == ["f", "train_loss"]
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in panels)
    assert [text.get_text() for text in panels[0].get_legend().get_texts()] == ["-1.00"] * 2 + ["-2.00"] * 2
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["order 1", "order 2", "chi = 1", "chi = width"]
    assert (tmp_path / "ladder.png").stat().st_size > 10_000
    plt.close(figure)
    with pytest.raises(ValueError, match="no error to draw"):
        plot_ladder(sweep_table([8], seeds=1), ["width"])
