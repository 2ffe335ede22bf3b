"""`compare`: calibrated on samples whose law is known, powerful, honest about convergence, clear about bad input."""

import doctest
import io
import sys

import numpy as np
import pandas as pd
import pytest
import rich.console
import scipy.signal
import scipy.stats
import xarray as xr

import fieldprob.compare.match
from fieldprob.compare import Comparison, compare, text
from fieldprob.compare.sampled import measure
from fieldprob.compare.verdict import holm, p_values
from fieldprob.prediction import Prediction

CHAIN_DRAW = ("chain", "draw")


def dataset(coords=None, **variables):
    """Samples; dimensions after chain and draw as given with each variable."""
    return xr.Dataset({n: ((*CHAIN_DRAW, *dims), x) for n, (dims, x) in variables.items()}, coords=coords)


def theory(name="t", **arguments):
    dims = {n: ("entry",) for m in ("mean", "variance") for n in arguments.get(m, {}) if n == "x"}
    return Prediction(theory=name, dims=dims, **{"mean": {}, **arguments})


def entries(*shape, seed=0, correlation=0.0):
    """Standard normal chains (chain, draw, entry), autoregressive of order one."""
    noise = np.random.default_rng(seed).normal(size=shape)
    if correlation:
        start = correlation * np.random.default_rng(seed + 1).normal(size=(shape[0], 1, *shape[2:]))
        step = [np.sqrt(1 - correlation**2)]
        noise = scipy.signal.lfilter(step, [1, -correlation], noise, axis=1, zi=start)[0]
    return noise


def binomial_limit(n, p, false_alarm=1e-6):
    return scipy.stats.binom.isf(false_alarm, n, p)


# --- calibration -----------------------------------------------------------------------------------------------------


def test_doctests_run():
    for module in (fieldprob.compare.match, text):
        assert doctest.testmod(module).failed == 0


def test_p_values_of_exact_means_and_variances_are_not_too_small():
    # 600 independent numbers, each with its mean and its variance; false alarm of this test 6 x 1e-6
    x = entries(4, 250, 600)
    result = compare(
        dataset(x=(("entry",), x)), theory(mean={"x": np.zeros(600)}, variance={"x": np.ones(600)}), minimum_ess=0
    ).to_dataframe()
    for moment in ("mean", "variance"):
        p = result.loc[result["moment"] == moment, "p_value"].to_numpy()
        assert len(p) == 600
        for level in (0.1, 1e-2, 1e-3):
            assert (p < level).sum() <= binomial_limit(600, level)
        assert np.mean(p < 0.5) > 0.35  # and not useless: six standard errors below a half


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_verdict_on_an_exact_theory_errs_no_more_often_than_it_says(correlation):
    # the rate is stated for the whole verdict: 60 verdicts on 4 means and 4 variances each; false alarm 1e-6
    exact = theory(mean={"x": np.zeros(4)}, variance={"x": np.ones(4)})
    mixing = np.linalg.cholesky(0.7 + 0.3 * np.eye(4))
    wrong = 0
    for seed in range(60):
        x = entries(4, 250 if not correlation else 2500, 4, seed=2 * seed, correlation=correlation) @ mixing.T
        verdict = compare(dataset(x=(("entry",), x)), exact, false_alarm=0.1, minimum_ess=200).verdicts["t"]
        assert verdict != "not converged"
        wrong += verdict == "differs"
    assert wrong <= binomial_limit(60, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "correlation"),
    [
        (1, 0.9),
        *(
            pytest.param(numbers, correlation, marks=pytest.mark.long)
            for numbers, correlation in (
                (1, 0.0),
                (1, 0.5),
                (30, 0.0),
                (30, 0.5),
                (30, 0.9),
                (1000, 0.0),
                (1000, 0.5),
                (1000, 0.9),
            )
        ),
    ],
)
def test_the_false_alarm_rate_holds_for_one_and_for_a_thousand_numbers(numbers, correlation):
    repetitions = {1: 2000, 30: 300, 1000: 10}[numbers]
    # The smallest ESS of 1000 numbers must pass the gate of 400. With correlation 0.9 its mean is 632 at 4 x 3000 draws
    # but the smallest of 1000 estimates about 300; at 4 x 6000 it is about 850.
    draws = 1000 if correlation < 0.9 else 6000 if numbers == 1000 else 3000
    exact = theory(mean={"x": np.zeros(numbers)}, variance={"x": np.ones(numbers)})
    verdicts = []
    for seed in range(repetitions):
        x = entries(4, draws, numbers, seed=2 * seed, correlation=correlation)
        verdicts.append(compare(dataset(x=(("entry",), x)), exact, false_alarm=0.05).verdicts["t"])
    assert numbers < 1000 or "not converged" not in verdicts  # there are verdicts to count
    assert verdicts.count("differs") <= binomial_limit(repetitions, 0.05)
    assert verdicts.count("agrees") > 0.7 * repetitions


def test_skewed_draws_need_the_correction_and_it_suffices():
    # means of 400 squared normals: a plain t-test is wrong by a factor of several in its lower tail
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 400)) ** 2
    mean, sd = x.mean(axis=1), x.std(axis=1, ddof=1)
    skewness = scipy.stats.skew(x, axis=1) / 20
    p = {}
    for name, s in (("plain", np.zeros(20_000)), ("corrected", skewness)):
        p[name] = p_values(mean - 1, sd / 20, np.zeros(20_000), s, np.full(20_000, 399.0), np.ones(20_000))[1]
    assert (p["plain"] < 1e-3).sum() > binomial_limit(20_000, 1e-3)
    assert (p["corrected"] < 1e-3).sum() <= binomial_limit(20_000, 1e-3)


def test_the_error_of_a_theory_with_numerical_noise_is_counted():
    rng = np.random.default_rng(3)
    x = entries(4, 250, 300)
    noisy = theory(mean={"x": 0.2 * rng.normal(size=300)}, error={"x": np.full(300, 0.2)})
    p = compare(dataset(x=(("entry",), x)), noisy, minimum_ess=0).to_dataframe()["p_value"]
    assert np.sum(p.to_numpy() < 1e-2) <= binomial_limit(300, 1e-2)


def test_holm_steps_down_and_stops_at_the_first_that_passes():
    p = np.array([0.04, 0.001, np.nan, 0.02, 0.9])
    np.testing.assert_array_equal(holm(p, 0.05), [False, True, False, False, False])
    np.testing.assert_array_equal(holm(np.array([0.01, 0.02, 0.04]), 0.05), [True, True, True])
    np.testing.assert_array_equal(holm(np.array([np.nan]), 0.05), [False])


# --- power and bounds ------------------------------------------------------------------------------------------------


def test_one_mean_in_thirty_that_is_off_by_six_standard_errors_is_found():
    x = entries(4, 1000, 30)
    shift = np.zeros(30)
    shift[7] = x.mean(axis=(0, 1))[7] + 6 / np.sqrt(4000)
    result = compare(dataset(x=(("entry",), x)), theory(mean={"x": shift}))
    assert result.verdicts == {"t": "differs"}
    numbers = result.to_dataframe()
    assert numbers.loc[numbers["verdict"] == "differs", "index"].tolist() == ["entry=7"]


def test_a_wrong_variance_is_found_in_either_direction():
    x = entries(4, 1000, 5)
    for variance in (0.8, 1.25):
        result = compare(dataset(x=(("entry",), x)), theory(variance={"x": np.full(5, variance)}))
        assert result.verdicts == {"t": "differs"}


@pytest.mark.parametrize(("kind", "holds"), [("lower", -0.5), ("upper", 0.5)])
def test_a_bound_is_tested_on_its_own_side(kind, holds):
    x = entries(4, 500, 3)
    for value, verdict in ((holds, "agrees"), (-holds, "differs")):
        bound = theory(mean={"x": np.full(3, value)}, kind={"x": kind})
        assert compare(dataset(x=(("entry",), x)), bound).verdicts == {"t": verdict}


# --- convergence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["offset", "stuck", "short", "single", "drift"])
def test_chains_that_have_not_converged_get_no_verdict(fault):
    x = entries(4, 1000, 6)
    if fault == "offset":
        x[0] += 1.5
    if fault == "stuck":
        x[2] = x[2, 0]
    if fault == "short":
        x = x[:, :50]
    if fault == "single":
        x = entries(1, 4000, 6, correlation=0.995)
    if fault == "drift":
        x = x + np.linspace(0, 1.5, 1000)[:, None]
    right = theory("right", mean={"x": x.mean(axis=(0, 1))}, variance={"x": x.var(axis=(0, 1))})
    wrong = theory("wrong", mean={"x": np.full(6, 9.0)})
    result = compare(dataset(x=(("entry",), x)), [right, wrong])
    assert result.verdicts == {"right": "not converged", "wrong": "not converged"}
    assert "not converged" in repr(result)


def test_too_few_independent_samples_get_no_verdict():
    samples = xr.Dataset({"x": (("dataset", "entry"), np.random.default_rng(0).normal(size=(20, 3)))})
    assert compare(samples, theory(mean={"x": np.zeros(3)})).verdicts == {"t": "not converged"}


def test_one_unconverged_number_is_enough():
    x = entries(4, 1000, 6)
    x[1, :, 3] += 2
    result = compare(dataset(x=(("entry",), x)), theory(mean={"x": np.zeros(6)}))
    assert result.verdicts == {"t": "not converged"}
    assert result.to_dataframe()["verdict"].tolist().count("not converged") == 1


def test_chance_alone_does_not_make_converged_chains_unconverged():
    # R-hat of some of 300 numbers is above 1.01 at an ESS of 800, though every chain is exact
    x = entries(4, 200, 300)
    result = compare(dataset(x=(("entry",), x)), theory(mean={"x": np.zeros(300)}))
    assert np.max(result.to_dataframe()["rhat"].to_numpy()) > 1.01
    assert result.verdicts == {"t": "agrees"}


def test_weights_are_not_judged_by_rhat():
    x = entries(4, 1000)[..., None]
    x[0] += 0.3  # a little offset: R-hat sees it, the ESS asked for does not
    result = compare(
        dataset(weight_0=(("neuron",), x)),
        Prediction(theory="t", mean={"weight_0": x.mean(axis=(0, 1))}, dims={"weight_0": ("neuron",)}),
        minimum_ess=0,
    )
    assert np.isnan(result.to_dataframe()["rhat"].to_numpy()).all()
    assert result.verdicts == {"t": "agrees"}


# --- moments ---------------------------------------------------------------------------------------------------------


def test_estimates_are_those_of_arviz():
    import arviz_stats

    x = entries(4, 501, 3, correlation=0.6)
    x[1, 100:150] = x[1, 99]  # a chain that rejected fifty moves: ties
    samples = dataset(x=(("entry",), x))
    numbers = compare(samples, theory(mean={"x": np.zeros(3)})).to_dataframe()
    np.testing.assert_allclose(numbers["sampled"], x.mean(axis=(0, 1)))
    np.testing.assert_allclose(numbers["ess_bulk"], arviz_stats.ess(samples, method="bulk")["x"])
    np.testing.assert_allclose(numbers["rhat"], arviz_stats.rhat(samples, method="rank")["x"])
    # never more optimistic than ArviZ, and hardly less
    ratio = numbers["mcse"] / arviz_stats.mcse(samples, method="mean")["x"].values
    assert np.all((ratio > 1 - 1e-9) & (ratio < 1.1))


def test_variance_of_a_rao_blackwellised_output_is_the_law_of_total_variance():
    import arviz_stats

    rng = np.random.default_rng(0)
    inner = rng.gamma(2.0, 0.5, size=(4, 1000, 3))
    mean = rng.normal(size=(4, 1000, 3, 2)) * 0.7 + 1
    samples = dataset(f=(("train_point", "output"), mean), f_conditional_variance=(("train_point",), inner))
    exact = Prediction(theory="t", mean={"f": np.ones((3, 2))}, variance={"f": np.full((3, 2), 1.49)})
    result = compare(samples, exact)
    assert result.verdicts == {"t": "agrees"}
    numbers = result.to_dataframe().query("moment == 'variance'")
    series = inner[..., None] + (mean - mean.mean(axis=(0, 1))) ** 2
    expected = inner.mean(axis=(0, 1))[:, None] + mean.var(axis=(0, 1), ddof=1)
    np.testing.assert_allclose(numbers["sampled"], expected.ravel(), rtol=1e-4)
    mcse = arviz_stats.mcse(xr.Dataset({"s": ((*CHAIN_DRAW, "p", "o"), series)}), method="mean")["s"].values
    np.testing.assert_allclose(numbers["mcse"], mcse.ravel(), rtol=0.1)


def test_plain_variance_is_unbiased():
    # the average over many of the estimate with 400 draws is the variance, to five standard errors
    x = entries(4, 100, 400)
    numbers = compare(dataset(x=(("entry",), x)), theory(variance={"x": np.ones(400)}), minimum_ess=0).to_dataframe()
    sampled = numbers["sampled"].to_numpy()
    np.testing.assert_allclose(sampled, x.var(axis=(0, 1), ddof=1), rtol=2e-3)
    assert abs(sampled.mean() - 1) < 5 * sampled.std() / 20


def test_what_does_not_fluctuate_is_compared_to_rounding():
    kernel = np.array([[2.0, 0.5], [0.5, 1.0]])
    samples = dataset(kernel_0=(("point", "point_"), np.broadcast_to(kernel, (4, 500, 2, 2))))
    for factor, verdict in ((1 + 1e-9, "agrees"), (1 + 1e-4, "differs")):
        result = compare(samples, Prediction(theory="t", mean={"kernel_0": kernel * factor}))
        assert result.verdicts == {"t": verdict}
        numbers = result.to_dataframe()
        assert np.isnan(numbers[["z", "p_value", "rhat", "ess_bulk"]].to_numpy()).all()
        assert repr(result)
    single = samples.astype(np.float32) + np.float32(1e-7)
    assert compare(single, Prediction(theory="t", mean={"kernel_0": kernel * (1 + 1e-5)})).verdicts == {"t": "agrees"}


@pytest.mark.parametrize("dim", ["dataset", "particle"])
def test_independent_samples_have_the_standard_error_of_the_mean(dim):
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(200, 5))
    samples = xr.Dataset({"x": ((dim, "entry"), x)})
    result = compare(samples, theory(mean={"x": np.full(5, 2.0)}, variance={"x": np.full(5, 9.0)}))
    assert result.verdicts == {"t": "agrees"}
    numbers = result.to_dataframe().query("moment == 'mean'")
    np.testing.assert_allclose(numbers["mcse"], x.std(axis=0, ddof=1) / np.sqrt(200))
    assert set(numbers["ess"]) == {200}
    assert f"200 {dim}s" in repr(result)


def test_a_symmetric_kernel_counts_every_pair_once_and_another_matrix_every_entry():
    raw = entries(4, 200, 5, 5)
    kernel = raw + raw.swapaxes(-1, -2)
    dims = ("point", "point_")
    flat = Prediction(theory="t", mean={"kernel_1": np.zeros((5, 5))})
    assert len(compare(dataset(kernel_1=(dims, kernel)), flat).to_dataframe()) == 15
    assert len(compare(dataset(kernel_1=(dims, raw)), flat).to_dataframe()) == 25
    lopsided = np.zeros((5, 5))
    lopsided[4, 0] = 1.0
    wrong = Prediction(theory="t", mean={"kernel_1": lopsided})
    assert compare(dataset(kernel_1=(dims, kernel)), wrong).verdicts == {"t": "differs"}


# --- matching --------------------------------------------------------------------------------------------------------


def test_samples_may_hold_only_some_of_the_points():
    mean = np.arange(6.0)[:, None]
    x = entries(4, 300, 2, 1) + mean[[4, 1]]
    samples = dataset({"train_point": [4, 1]}, f=(("train_point", "output"), x))
    result = compare(samples, Prediction(theory="t", mean={"f": mean}))
    assert result.verdicts == {"t": "agrees"}
    assert result.to_dataframe()["predicted"].tolist() == [4.0, 1.0]
    assert result.to_dataframe()["index"].tolist() == ["train_point=4, output=0", "train_point=1, output=0"]


def test_a_theory_may_cover_only_some_of_the_samples():
    x = entries(4, 300, 5, 1)
    samples = dataset(f=(("train_point", "output"), x), train_loss=((), entries(4, 300)))
    part = Prediction(theory="part", mean={"f": np.zeros((2, 1))}, coords={"train_point": [3, 0]})
    whole = Prediction(theory="whole", mean={"f": np.zeros((5, 1)), "train_loss": 0.0})
    result = compare(samples, [part, whole])
    assert result.theories["compared"].to_dict() == {"part": 2, "whole": 6}
    assert result.ranking()["statistics"].to_dict() == {"part": 1, "whole": 1}
    assert repr(result)


def test_samples_come_as_a_datatree_or_a_dataset_and_theories_from_files():
    x = entries(4, 300, 3, 1)
    samples = dataset(f=(("train_point", "output"), x))
    p = Prediction(theory="t", mean={"f": np.zeros((3, 1))})
    expected = compare(samples, p).to_dataframe()
    tree = xr.DataTree.from_dict({"posterior": samples, "sample_stats": xr.Dataset()})
    pd.testing.assert_frame_equal(compare(tree, [p.to_dataset()]).to_dataframe(), expected)


def test_theories_are_ranked_by_relative_error_over_what_all_of_them_predict():
    x = entries(4, 1000, 10, 1) * 0.1 + 1
    samples = dataset(f=(("train_point", "output"), x), train_loss=((), entries(4, 1000) + 1))
    ones = np.ones((10, 1))
    near = Prediction(theory="near", mean={"f": ones * 1.05, "train_loss": 50.0})
    far = Prediction(theory="far", mean={"f": ones * 1.5})
    exact = Prediction(theory="exact", mean={"f": ones})
    ranking = compare(samples, [far, near, exact]).ranking()
    assert ranking.index.tolist() == ["exact", "near", "far"]
    np.testing.assert_allclose(ranking["relative_error"], [0, 0.05, 0.5], atol=0.004)
    np.testing.assert_allclose(ranking["noise_floor"], 0.1 / np.sqrt(4000), rtol=0.1)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_by_name():
    x = entries(4, 100, 3, 1)
    samples = dataset(f=(("train_point", "output"), x))
    good = Prediction(theory="t", mean={"f": np.zeros((3, 1))})
    with pytest.raises(
        ValueError, match=r"no statistic in common: sampled are \['f'\], predicted are \['train_loss'\]"
    ):
        compare(samples, Prediction(theory="t", mean={"train_loss": 1.0}))
    with pytest.raises(ValueError, match="no mean and no variance"):
        compare(samples, Prediction(theory="t", mean={}, log_evidence=-1.0))
    with pytest.raises(ValueError, match="two theories of one name"):
        compare(samples, [good, good])
    with pytest.raises(ValueError, match="at least one Prediction"):
        compare(samples, [])
    with pytest.raises(TypeError, match="predictions holds a function"):
        compare(samples, compare)
    with pytest.raises(TypeError, match="samples is a ndarray"):
        compare(x, good)
    with pytest.raises(ValueError, match="no train_point in common"):
        compare(samples, Prediction(theory="t", mean={"f": np.zeros((3, 1))}, coords={"train_point": [7, 8, 9]}))
    with pytest.raises(ValueError, match=r"'f' has dimensions .*give both the same"):
        compare(samples, Prediction(theory="t", mean={"f": np.zeros(3)}, dims={"f": ("train_point",)}))
    with pytest.raises(ValueError, match="need chain and draw"):
        compare(samples.isel(chain=0), good)
    with pytest.raises(ValueError, match="false_alarm=2"):
        compare(samples, good, false_alarm=2)
    x[1, 3] = np.nan
    x[2, 5, 0] = np.inf
    with pytest.raises(ValueError, match="'f' are NaN or infinite in 2 of 400 draws"):
        compare(samples, good)


# --- output ----------------------------------------------------------------------------------------------------------


VALIDITY = "exact as width → ∞ at a fixed number of points; corrections are of order points / width, unless rescaled"


@pytest.fixture(scope="module")
def several() -> Comparison:
    mu = np.random.default_rng(0).normal(size=(6, 1))
    raw = entries(4, 400, 8, 8)
    kernel = 0.1 * (raw + raw.swapaxes(-1, -2)) + np.eye(8)
    samples = dataset(
        f=(("train_point", "output"), entries(4, 400, 6, 1) * 0.3 + mu),
        kernel_0=(("point", "point_"), np.broadcast_to(np.eye(8), (4, 400, 8, 8))),
        kernel_1=(("point", "point_"), kernel),
        train_loss=((), entries(4, 400) + 1),
        alignment_1=((), entries(4, 400) * 0.1 + 0.5),
    )

    def prediction(name, factor):
        return Prediction(
            theory=name,
            mean={"f": mu * factor, "kernel_0": np.eye(8), "kernel_1": np.eye(8) * factor, "train_loss": factor},
            variance={"f": np.full((6, 1), 0.09)},
            log_evidence=-12.5,
            order=VALIDITY,
        )

    return compare(samples, [prediction("limit", 1.0), prediction("rescaling", 1.1), prediction("adaptation", 2.0)])


def test_the_table_fits_a_terminal_and_says_everything(several):
    printed = repr(several)
    assert max(map(len, printed.splitlines())) <= 120
    for word in [
        "limit",
        "rescaling",
        "adaptation",
        "kernel_1",
        "variance",
        "ESS",
        "R-hat",
        "agrees",
        "differs",
        "-12.5",
    ]:
        assert word in printed
    assert "4 chains x 400 draws" in printed
    assert " ".join(printed.split()).count(f"; {VALIDITY}") == 3
    assert several.verdicts == {"limit": "agrees", "rescaling": "differs", "adaptation": "differs"}


def test_the_rich_table_has_the_same_rows(several):
    file = io.StringIO()
    rich.console.Console(width=120, file=file).print(several.rich())
    printed = file.getvalue()
    assert "kernel_1" in printed and "differs" in printed
    assert several.rich().row_count == 5


def test_every_number_is_in_the_data_frame(several):
    numbers = several.to_dataframe()
    assert len(numbers) == 3 * (6 + 6 + 36 + 36 + 1)
    identity = {"theory", "statistic", "moment", "index"}
    values = {"sampled", "mcse", "predicted", "prediction_error", "z", "p_value", "relative_error", "rhat", "ess_bulk"}
    assert identity | values | {"verdict"} <= set(numbers)
    numbers["sampled"] = 0  # a copy: the comparison keeps its own
    assert several.to_dataframe()["sampled"].abs().sum() > 0
    assert len(several.summary()) == 3 * 5


def test_long_names_of_theories_are_never_cut(five_theories):
    heads = [line.split("|")[1:] for line in str(five_theories).splitlines() if "|" in line]
    heads = [part.strip() for line in heads for part in line]
    assert {"tree", "adaptation", "(one-loop)", "(self-consistent)", "(gaussian)"} <= set(heads)
    assert "…" not in str(five_theories)
    file = io.StringIO()
    rich.console.Console(width=200, file=file).print(five_theories.rich())
    assert "(self-consistent)" in file.getvalue() and "…" not in file.getvalue()


@pytest.fixture(scope="module")
def five_theories() -> Comparison:
    samples = dataset(**{name: ((), entries(4, 400) * 0.1 + 0.5) for name in ("train_loss", "alignment_orthogonal")})
    orders = ("one-loop", "self-consistent", "gaussian")
    values = dict.fromkeys(["tree", *(f"adaptation ({order})" for order in orders)], 0.5)
    theories = [Prediction(theory=k, mean=dict.fromkeys(samples, v)) for k, v in {**values, "far away": 2.5}.items()]
    return compare(samples, theories)


def test_the_rows_of_scalars_do_not_mix_and_no_point_is_outside(five_theories):
    (ax,) = five_theories.plot().axes
    points = np.array([xy[0] for line in ax.get_lines() if len(xy := line.get_xydata()) == 1])
    assert len(points) == 10 and points[:, 0].min() < -300
    for axis, limits in enumerate((ax.get_xlim(), ax.get_ylim())):
        assert min(limits) < points[:, axis].min() and points[:, axis].max() < max(limits)
    assert points[:5, 1].max() < 0.4 and points[5:, 1].min() > 0.6


def test_the_figure_is_drawn_from_the_comparison_alone(several, tmp_path):
    figure = several.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    titles = [ax.get_title() for ax in figure.axes if ax.get_visible()]
    assert titles == ["f, mean", "f, variance", "kernel 0, mean", "kernel 1, mean", "scalars"]


@pytest.fixture(scope="module")
def curves_figure():
    """Errors that fall by a factor of 40 and of 5, modes that end at the same height, and a theory that diverges."""
    points = np.array([10, 40, 160])
    coords = {"points": points, "mode": [1, 3, 5]}
    size = {"test_error": 40.0 / points, "noisy_test_error": 0.8 + 40.0 / points, "train_error": [0.1, 0.15, 0.12]}
    learned = np.outer([0.3, 0.6, 0.9], [1.0, 1.01, 1e-4])
    noise = np.random.default_rng(0).normal(size=(500, 3, 3)) * 0.01 * learned
    samples = xr.Dataset(
        {name: (("dataset", "points"), value + noise[:, :, 0]) for name, value in size.items()}
        | {"learnability": (("dataset", "points", "mode"), learned + noise)},
        coords=coords,
    )
    right = Prediction(theory="right", mean=size | {"learnability": learned}, coords=coords)
    wrong = Prediction(theory="wrong", mean={"train_error": np.array([-30.0, -3.0, 0.5])}, coords=coords)
    return compare(samples, [right, wrong]).plot()


def test_curves_share_axes_and_a_diverging_theory_leaves_the_panel(curves_figure):
    axes = {ax.get_title(): ax for ax in curves_figure.axes}
    assert [axes[f"{n}test error, mean"].get_yscale() for n in ("", "noisy ")] == ["log", "log"]
    training = axes["training error, mean"]
    assert training.get_ylabel() == "training error" and training.get_ylim()[0] > -0.15
    labels = [text.get_text() for text in curves_figure.legends[0].get_texts()]
    assert labels == ["sampled ± 2 standard errors", "right (agrees)", "wrong (differs)"]


def test_negligible_curves_are_left_out_and_the_labels_of_the_others_are_apart(curves_figure):
    for ax in curves_figure.axes:
        if ax.get_title().startswith("learnability"):
            heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
            assert set(heights) == {"mode 1", "mode 3"} and heights["mode 1"] - heights["mode 3"] < -0.069


def test_importing_compare_does_not_import_jax_or_arviz():
    import subprocess

    code = "import sys, fieldprob.compare; assert not {'jax', 'arviz_stats', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_module_of_that_name_can_be_called():
    x = entries(4, 200, 2)
    p = theory(mean={"x": np.zeros(2)})
    assert fieldprob.compare(dataset(x=(("entry",), x)), p).verdicts == {"t": "agrees"}  # pyright: ignore


def test_measured_entries_do_not_depend_on_how_many_are_measured_at_once(monkeypatch):
    x = entries(4, 100, 7)
    variable = dataset(x=(("entry",), x))["x"]
    whole = measure(variable, "variance", None, symmetric=False)
    monkeypatch.setattr("fieldprob.compare.sampled._CHUNK", 2)
    parts = measure(variable, "variance", None, symmetric=False)
    np.testing.assert_allclose(parts.mcse, whole.mcse)
    np.testing.assert_allclose(parts.skewness, whole.skewness)


_LOSS = Prediction(theory="t", mean={"train_loss": 1.0}, variance={"train_loss": 4.0})


@pytest.mark.parametrize(
    ("dims", "draws"),
    [
        (("dataset",), [1.3]),
        (("chain", "draw"), [[1.3]]),
        (("chain", "draw"), [[1.3]] * 4),
        (("chain", "draw"), np.full((4, 2), 3.0)),
        (("chain", "draw"), np.full((1, 1000), 3.0)),
        (("chain", "draw"), np.full((4, 1000), 3.0)),
        (("dataset",), np.full(1000, 3.0)),
    ],
)
def test_too_few_draws_and_chains_that_do_not_move_where_they_should_get_no_verdict(dims, draws):
    assert compare(xr.Dataset({"train_loss": (dims, draws)}), _LOSS).verdicts == {"t": "not converged"}


def test_few_equal_draws_are_not_taken_for_a_constant():
    mean = Prediction(theory="t", mean={"train_loss": 1.0})
    for shape, verdict in (((4, 2), "not converged"), ((4, 20), "differs")):
        assert compare(dataset(train_loss=((), np.full(shape, 3.0))), mean).verdicts == {"t": verdict}


@pytest.mark.parametrize("dtype", [float, int])
def test_a_constant_conditional_mean_is_not_stuck_if_its_conditional_variance_is_there(dtype):
    mean = np.array([[1.0], [2.0]])
    samples = dataset(
        f=(("train_point", "output"), np.broadcast_to(mean, (1, 50, 2, 1)).astype(dtype)),
        f_conditional_variance=(("train_point",), np.full((1, 50, 2), 2, dtype)),
    )
    for variance, verdict in ((2.0, "agrees"), (3.0, "differs")):
        p = Prediction(theory="t", mean={"f": mean}, variance={"f": np.full((2, 1), variance)})
        assert compare(samples, p).verdicts == {"t": verdict}


def test_a_predicted_variance_of_the_size_of_rounding_is_none():
    p = Prediction(theory="t", mean={"train_loss": 3.0}, variance={"train_loss": 1e-16})
    assert compare(dataset(train_loss=((), np.full((4, 20), 3.0))), p).verdicts == {"t": "agrees"}


@pytest.mark.parametrize("values", [[[1e6], [1e-3]], [[1e6, 3.0], [5.0, 1e-3]]])
def test_a_small_entry_of_a_deterministic_array_is_not_hidden_by_a_large_one(values):
    values = np.array(values)
    samples = dataset(f=(("train_point", "output"), np.broadcast_to(values, (2, 500, *values.shape))))
    wrong = values.copy()
    wrong[-1, -1] = 0.5
    for predicted, verdict in ((wrong, "differs"), (values * (1 + 1e-9), "agrees")):
        assert compare(samples, Prediction(theory="t", mean={"f": predicted})).verdicts == {"t": verdict}


def test_a_kernel_that_vanishes_at_a_point_has_no_rounding_there():
    kernel = np.broadcast_to(np.diag([1e6, 0.0]), (2, 500, 2, 2))
    for entry, verdict in ((0.5, "differs"), (1e-17, "agrees"), (0.0, "agrees")):
        p = Prediction(theory="k", mean={"kernel_0": np.diag([1e6, entry])})
        assert compare(dataset(kernel_0=(("point", "point_"), kernel)), p).verdicts == {"k": verdict}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1e150, 1e200])
def test_numbers_of_any_size_are_compared(scale):
    samples = dataset(train_loss=((), entries(4, 500) * scale + scale))
    for factor, verdict in ((1, "agrees"), (2, "differs")):
        result = compare(samples, Prediction(theory="t", mean={"train_loss": factor * scale}))
        assert result.verdicts == {"t": verdict}
        assert repr(result)


@pytest.mark.filterwarnings("error")
def test_chains_stuck_at_different_values_are_not_converged_and_warn_of_nothing():
    stuck = np.broadcast_to(np.arange(4.0)[:, None], (4, 100))
    assert compare(dataset(train_loss=((), stuck)), _LOSS).verdicts == {"t": "not converged"}


def test_what_is_no_list_of_predictions_is_refused():
    samples = dataset(train_loss=((), entries(4, 20)))
    with pytest.raises(TypeError, match=r"is a dict: give a list.*values"):
        compare(samples, {"t": _LOSS})
    with pytest.raises(ValueError, match="without a theory's name"):
        compare(samples, xr.Dataset({"train_loss": 1.0}))
    with pytest.raises(ValueError, match="'train_loss' does not say which statistic"):
        compare(samples, xr.Dataset({"train_loss": 1.0}, attrs={"theory": "t"}))


def test_flags_are_numbers():
    flags = entries(4, 1000) > 0
    half = Prediction(theory="t", mean={"train_loss": 0.5}, variance={"train_loss": 0.25})
    assert compare(dataset(train_loss=((), flags)), half).verdicts == {"t": "agrees"}


def test_a_small_entry_of_a_deterministic_kernel_is_not_hidden_by_a_large_one():
    kernel = np.broadcast_to(np.diag([1e6, 1e-3]), (2, 500, 2, 2))
    samples = xr.Dataset({"kernel_0": (("chain", "draw", "point", "point_"), kernel)})
    for entry, verdict in ((0.5, "differs"), (1e-3, "agrees")):
        theory = Prediction(theory="k", mean={"kernel_0": np.diag([1e6, entry])})
        assert compare(samples, theory).verdicts == {"k": verdict}


def test_counts_are_numbers_and_complex_draws_are_not():
    draws = np.random.default_rng(0).integers(0, 3, (4, 1000))
    assert compare(xr.Dataset({"train_loss": (("chain", "draw"), draws)}), _LOSS).verdicts == {"t": "differs"}
    with pytest.raises(ValueError, match="complex128: give real numbers"):
        compare(xr.Dataset({"train_loss": (("chain", "draw"), draws * 1j)}), _LOSS)


@pytest.mark.parametrize(
    "bad",
    [
        {"minimum_ess": -1},
        {"minimum_ess": np.nan},
        {"maximum_rhat": "a"},
        {"maximum_rhat": 0.5},
        {"maximum_rhat": np.complex128(2)},
        {"false_alarm": None},
        {"false_alarm": np.nan},
    ],
)
def test_levels_out_of_range_are_named(bad):
    draws = np.random.default_rng(0).normal(size=(4, 1000))
    with pytest.raises(ValueError, match=next(iter(bad))):
        compare(xr.Dataset({"train_loss": (("chain", "draw"), draws)}), _LOSS, **bad)


def test_a_prediction_for_another_task_is_refused():
    draws = np.random.default_rng(0).normal(size=(4, 500, 3, 1))
    samples = xr.Dataset({"f": (("chain", "draw", "train_point", "output"), draws)})
    with pytest.raises(ValueError, match="was it made for another task"):
        compare(samples, Prediction(theory="other", mean={"f": np.zeros((5, 1))}))
