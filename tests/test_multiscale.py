"""The shipped models of finite width: every parametrisation against the exact answer, and the tables of the ladder."""

from functools import partial

import jax
import numpy as np
import numpyro
import pytest
from scipy.stats import kstest

import fieldprob as fp
from fieldprob.sweep import as_table, average_seeds, mean_and_error, slopes, theory_errors
from tests.test_models import load

E1 = {
    "points": 6, "test": 2, "inputs": 8, "width": 10, "weight_variance": 1.2, "readout_variance": 0.9,
    "noise_variance": 0.3, "draws": 500, "chains": 4,
}  # fmt: skip


def verdicts(study):
    """The verdict's own false-alarm rate is set to 1e-5."""
    result = study.run(progress=False)
    return result, fp.compare(result.samples, result.predictions, false_alarm=1e-5).verdicts


@pytest.mark.parametrize(
    ("parametrisation", "chi"),
    [
        pytest.param("weight-marginal", "width", marks=[pytest.mark.slow, pytest.mark.long]),
        ("readout-marginal", "width"),
        *(
            pytest.param(parametrisation, chi, marks=[pytest.mark.slow, pytest.mark.long])
            for parametrisation in ("centred", "non-centred", "readout-marginal", "weight-marginal")
            for chi in (1.0, "width")
            if chi == 1.0 or "marginal" not in parametrisation
        ),
    ],
)
def test_parametrisations_have_the_exact_posterior(parametrisation, chi):
    """02 E1."""
    result, found = verdicts(load("multiscale").study(**E1, parametrisation=parametrisation, chi=chi))
    assert found["exact linear"] == "agrees"
    if chi == "width":
        assert found["limit"] == found["rescaling"] == "differs"
    assert {"f", "f_test", "kernel_1", "discrepancy"} <= set(result.samples["posterior"])


@pytest.mark.slow
@pytest.mark.long
def test_ranks_of_independent_draws_among_those_of_nuts_are_uniform():
    """02 E1: the probability transform of exact draws by the empirical law of NUTS, for f, |a|^2 and tr H, thinned to
    independence (Kolmogorov-Smirnov of two samples, p > 1e-6)."""
    study = load("multiscale").study(**E1 | {"draws": 4000}, parametrisation="non-centred", chi="width")
    samples = study.sample(progress=False)["posterior"]
    exact = fp.theory.sample_exact_linear(jax.random.key(9), study.prior, study.task, 4000)
    for name, of in (
        ("f", lambda v: v[..., 0, 0]),
        ("readout_norm", lambda v: v),
        ("kernel_1", lambda v: v.trace(0, -2, -1)),
    ):
        drawn = np.asarray(of(np.asarray(samples[name])))[:, ::10].ravel()
        assert kstest(drawn, np.asarray(of(np.asarray(exact[name])))).pvalue > 1e-6, name


def ladder(points, **options):
    """The rows that a sweep of a preset writes, averaged over its one seed."""
    preset = load("multiscale").presets[options.pop("preset")]
    studies = [(point, load("multiscale").study(**preset | options | point)) for point in points]
    summaries = [(point, theory_errors([p.to_dataset() for p in study.predict()])) for point, study in studies]
    return average_seeds(as_table(summaries), [*points[0]])


def numbers(averaged, statistic, quantity, theory, **point):
    rows = averaged[(averaged["statistic"] == statistic) & (averaged["quantity"] == quantity)]
    rows = rows[rows["theory"] == theory]
    for name, value in point.items():
        rows = rows[rows[name] == value]
    return rows["value"].tolist()


def printed(values, texts):
    """Whether the numbers are what is printed, to all its digits."""
    digits = [len(text.split("e")[0].replace(".", "").lstrip("0")) for text in texts]
    found = [f"{value:.{n - 1}e}" for value, n in zip(values, digits, strict=True)]
    return [float(text) for text in found] == [float(text) for text in texts]


E3 = {
    "limit": "2.8e-2 1.9e-1 7.4e-1 2.3 4.4",
    "adaptation": "2.6e-2 3.0e-2 2.5e-2 1.4e-2 8.2e-3",
    "adaptation (one-loop)": "8.8e-4 4.3e-4 1.1e-4 5.7e-5 2.2e-5",
    "adaptation (self-consistent)": "2.1e-3 3.3e-3 4.9e-3 4.4e-3 2.4e-3",
    "rescaling": "2.4e-3 2.9e-3 1.6e-3 4.0e-4 1.5e-4",
    "rescaling (corrected)": "1.2e-5 4.8e-6 3.9e-6 9e-8 1.5e-8",
}


@pytest.mark.slow
@pytest.mark.long
def test_e2_and_e3_over_chi_to_the_printed_digits():
    chis = [1.0, 4.0, 16.0, 100.0, 400.0]
    table = ladder([{"chi": chi} for chi in chis], preset="ising", test=20)
    exact = partial(numbers, table, quantity="size", theory="exact linear")
    assert printed(exact("discrepancy"), ["0.6695", "0.5815", "0.4073", "0.2182", "0.1325"])
    norms = [chi * norm for chi, norm in zip(chis, exact("readout_norm"), strict=True)]
    assert [round(norm, 5) for norm in norms] == [0.21938, 0.32850, 0.72664, 2.27115, 5.13269]
    for theory, row in E3.items():
        assert printed(numbers(table, "discrepancy", "error", theory), row.split()), theory


def test_rescaling_and_adaptation_have_one_mean_at_tree_level():
    """(29), at training and test points, and not of one kernel."""
    study = load("multiscale").study(**load("multiscale").presets["ising"] | {"test": 20, "chi": 100.0})
    tree = fp.theory.rescaling(study.prior, study.task, order="tree").mean
    adapted = fp.theory.adaptation(study.prior, study.task).mean
    for name in ("f", "f_test"):
        np.testing.assert_allclose(tree[name], adapted[name], rtol=0, atol=1e-13)
    assert np.abs(tree["kernel_1"] / adapted["kernel_1"] - 1).max() > 1


E3_WIDTH = {
    ("adaptation", 1.0): ("4.9e-2 1.3e-2 3.2e-3", -1),
    ("adaptation (one-loop)", 1.0): ("9.6e-4 6.4e-5 4.0e-6", -2),
    ("rescaling", 1.0): ("1.6e-2 4.1e-3 1.0e-3", -1),
    ("rescaling (corrected)", 1.0): ("1.3e-4 9.2e-6 5.9e-7", -2),
    ("perturbative", 1.0): ("7.7e-4 5.0e-5 3.2e-6", -2),
    # the document prints 2.7e-2 for 2.65e-2
    ("adaptation", "width"): ("2.6e-2 6.7e-3 1.7e-3", -1),
    ("adaptation (one-loop)", "width"): ("4.1e-4 2.6e-5 1.6e-6", -2),
    ("rescaling", "width"): ("7.7e-3 1.9e-3 4.8e-4", -1),
    ("rescaling (corrected)", "width"): ("4.2e-5 2.6e-6 1.6e-7", -2),
    ("perturbative", "width"): ("0.90 0.96 0.98", 0),
}


@pytest.mark.slow
@pytest.mark.long
def test_e3_over_the_width_to_the_printed_digits():
    """And its slopes; the first order fails in mean-field scaling."""
    points = [{"width": width, "chi": chi} for width in (40, 160, 640) for chi in (1.0, "width")]
    table = ladder(points, preset="ladder")
    fitted = slopes(table, "width", ["chi"])
    for (theory, chi), (row, slope) in E3_WIDTH.items():
        assert printed(numbers(table, "discrepancy", "error", theory, chi=chi), row.split()), (theory, chi)
        assert abs(fitted[chi, "discrepancy", theory] - slope) < 0.1, (theory, chi)


@pytest.mark.slow
@pytest.mark.long
def test_e4_to_the_printed_digits():
    """Theories of about one mean predictor that say opposite things of the kernel."""
    for width, row in {20: "2.653 2.589 2.700 0.963 1.004 2.700", 160: "2.597 2.589 2.898 0.999 1.004 2.898"}.items():
        study = load("multiscale").study(**load("multiscale").presets["directional"], width=width, chi="width")
        found = {prediction.theory: prediction.mean for prediction in study.predict()}
        theories = ("exact linear", "adaptation", "rescaling")
        names = ("alignment_parallel", "alignment_orthogonal")
        assert [f"{float(found[theory][name]):.3f}" for name in names for theory in theories] == row.split()


@pytest.mark.slow
@pytest.mark.long
def test_exact_draws_side_with_adaptation_on_the_kernel():
    """02 E4. The verdict's own false-alarm rate is set to 1e-5."""
    study = load("multiscale").study(**load("multiscale").presets["directional"], width=20, chi="width")
    result, found = verdicts(study)
    assert found["exact linear"] == "agrees" and found["rescaling"] == "differs"
    orthogonal = float(result.samples["posterior"]["alignment_orthogonal"].mean())
    assert abs(orthogonal - 1.004) < 0.1 * abs(orthogonal - 2.700), "adaptation's, and rescaling's"


@pytest.mark.slow
@pytest.mark.long
def test_deep_linear_study():
    """02 E7 at small size: a network of two hidden layers, sampled."""
    small = {"train": 8, "test": 4, "inputs": 12, "width": 5, "draws": 500}
    _, found = verdicts(load("deep_linear").study(**small))
    assert found["exact linear"] == "agrees" and found["limit"] == "differs"


@pytest.mark.slow
@pytest.mark.long
def test_nonlinear_network_in_every_parametrisation():
    """erf: two parametrisations agree with each other; one posterior, no theory involved (|z| < 6)."""
    options = E1 | {"activation": "erf", "chi": "width", "draws": 1000}
    found = []
    for parametrisation in ("centred", "readout-marginal"):
        samples = load("multiscale").study(**options, parametrisation=parametrisation).sample(progress=False)
        found.append(mean_and_error(samples["posterior"]["f"]))
    (a, da), (b, db) = found
    assert float(np.abs((a - b) / np.sqrt(da**2 + db**2)).max()) < 6


def test_bad_input():
    with pytest.raises(ValueError, match="'weight-marginal' is for activation 'linear'"):
        load("multiscale").study(activation="erf", parametrisation="weight-marginal")
    for chi in (0.5, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"chi is {chi}: give a number of at least 1, or 'width'"):
            load("multiscale").study(chi=chi)


def test_noise_of_each_point_is_refused():
    multiscale, finite_width = load("multiscale"), load("finite_width")
    net = fp.Mlp(4, activation="linear")
    task = fp.tasks.ising(4, 6, 0.1).replace(noise_variance=np.array([0.1, 0.2, 0.3, 0.4]))
    with pytest.raises(ValueError, match="noise of one variance"), numpyro.handlers.seed(rng_seed=0):
        multiscale.multiscale(net, task, parametrisation="centred")
    with pytest.raises(ValueError, match="noise of one variance"), numpyro.handlers.seed(rng_seed=0):
        finite_width.finite_width(net, task)
