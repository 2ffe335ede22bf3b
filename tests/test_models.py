"""The models that ship: small versions of what they show."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import fieldprob as fp

MODELS = Path(__file__).parent.parent / "models"
SMALL = {"train": 12, "test": 6, "draws": 700, "chains": 4, "warmup": 200}


@cache
def load(name):
    spec = importlib.util.spec_from_file_location(f"model_{name}", MODELS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits():
    return load("bnn").study(**SMALL, width=8, noise_variance=0.2).run(progress=False)


@pytest.mark.slow
def test_a_narrow_network_differs_from_its_limit_on_digits(digits):
    assert digits.comparison.verdicts == {"limit": "differs"}
    assert set(digits.comparison.summary().reset_index()["statistic"]) >= {"f", "f_test", "kernel_1", "alignment_1"}


def test_results_survive_the_disk(digits, tmp_path):
    digits.save(tmp_path)
    again = fp.load(tmp_path)
    assert np.array_equal(again.samples.posterior["f"], digits.samples.posterior["f"])
    assert again.comparison.verdicts == digits.comparison.verdicts


@pytest.mark.slow
def test_sampled_hyperparameters_agree_with_quadrature():
    """Two independent routes to one posterior: the verdict's own false-alarm rate is set to 1e-5."""
    result = load("gp_regression").study(**SMALL).run(progress=False)
    comparison = fp.compare(result.samples, result.predictions, false_alarm=1e-5)
    assert comparison.verdicts["quadrature"] == "agrees"
    assert comparison.verdicts["prior median"] == "differs"


@pytest.mark.slow
def test_slopes_and_noise_that_differs_from_point_to_point_agree_with_quadrature():
    """Values with two noise levels and slopes of a curve: same verdicts; without the slopes the predictions differ."""
    curve = {"data": "curve", "train": 5, "test": 5, "slopes": 4, "repeats": 8, "draws": 1000, "chains": 4}
    result = load("gp_regression").study(**curve).run(progress=False)
    comparison = fp.compare(result.samples, result.predictions, false_alarm=1e-5)
    assert comparison.verdicts["quadrature"] == "agrees"
    assert comparison.verdicts["without slopes"] == "differs"


@pytest.mark.slow
def test_outputs_sampled_at_fixed_hyperparameters_agree_with_the_limit():
    result = load("gp_regression").study(**SMALL, hyperparameters=False).run(progress=False)
    assert fp.compare(result.samples, result.predictions, false_alarm=1e-5).verdicts["limit"] == "agrees"


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"slopes": 2}, {"repeats": 8}, {"hyperparameters": False}])
def test_the_curve_is_drawn_with_its_observations_and_theories(options):
    study = load("gp_regression").study(data="curve", train=5, test=7, draws=50, chains=2, warmup=50, **options)
    (ax,) = study.figures["curve"](study.run(progress=False)).axes
    labels = ax.get_legend_handles_labels()[1]
    slopes = {"without slopes, ±2σ", "without slopes, mean", "slopes ±σ"} if "slopes" in options else set()
    theory = "quadrature" if options.get("hyperparameters", True) else "limit"
    expected = {"sampled, ±2σ", "sampled, mean", f"{theory}, mean and ±2σ", "true curve", "values ±σ"} | slopes
    assert set(labels) == expected and len(labels) == len(expected)


@pytest.mark.slow
@pytest.mark.long
def test_limit_is_approached_with_width_at_standard_scaling_only():
    """Relative distance of the kernel from the limit's: falls as 1/width at standard, not at mean-field scaling."""
    distance = {}
    for scaling in ("standard", "mean-field"):
        for width in (8, 64):
            study = load("bnn").study(width=width, scaling=scaling, train=30, test=10, draws=500, noise_variance=0.1)
            summary = study.run(progress=False).comparison.summary().reset_index().set_index(["statistic", "moment"])
            distance[scaling, width] = summary.loc[("kernel_1", "mean"), "relative_error"]
    assert distance["standard", 64] < 0.3 * distance["standard", 8]
    assert distance["mean-field", 64] > 0.5 * distance["mean-field", 8]
    assert distance["mean-field", 64] > 3 * distance["standard", 64]


@pytest.mark.slow
@pytest.mark.parametrize("features", ["gaussian", pytest.param("circle", marks=pytest.mark.slow)])
def test_learning_curves_of_the_shipped_study_run_and_are_compared(features, tmp_path):
    result = load("learning_curve").study(features=features, points=(10, 40), datasets=300).run(progress=False)
    ranking = result.comparison.ranking()
    assert ranking.index[0] == "renormalised ridge"
    assert set(result.samples["posterior"].sizes) == {"dataset", "points", "mode"}
    result.save(tmp_path)
    assert fp.load(tmp_path).comparison.verdicts == result.comparison.verdicts
    assert result.comparison.plot(tmp_path / "figure.png") is not None and (tmp_path / "figure.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("features", "given"),
    [
        ("circle", {"activation": "relu"}),
        ("circle", {"weight_variance": 9.0}),
        ("digits", {"label_noise_variance": 0.0}),
        ("digits", {"inputs": 77}),
        ("sphere", {"exponent": 2.0}),
        ("sphere", {"modes": 10}),
        ("gaussian", {"test_points": 50}),
    ],
)
def test_options_that_the_features_of_a_learning_curve_do_not_use_are_refused_by_name(features, given):
    with pytest.raises(ValueError, match=f"features='{features}' do not use {next(iter(given))}="):
        load("learning_curve").study(features=features, **given)


def test_a_learning_curve_says_which_options_it_chose():
    chosen = load("learning_curve").study(features="gaussian", exponent=2.0).chosen
    assert chosen == {"label_noise_variance": 0.05, "exponent": 2.0, "modes": 400}
