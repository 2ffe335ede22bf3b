"""Statistics that were streamed as block means are compared with the errors of their draws."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.signal import lfilter

import fieldprob as fp

CHAINS, DRAWS, LENGTH, ENTRIES, RHO = 4, 10_000, 50, 150, 0.9


def autoregression(rng):
    noise = rng.normal(size=(CHAINS, DRAWS, ENTRIES)) * np.sqrt(1 - RHO**2)
    noise[:, 0] = rng.normal(size=(CHAINS, ENTRIES))
    return lfilter([1], [1, -RHO], noise, axis=1)


def streamed(**draws) -> xr.DataTree:
    variables = {}
    for name, x in draws.items():
        blocks = x.reshape(CHAINS, -1, LENGTH, ENTRIES)
        dims = ("chain", "block", "mode")
        variables |= {name: (dims, blocks.mean(2)), f"{name}_square": (dims, (blocks**2).mean(2))}
    return xr.DataTree.from_dict({"posterior": xr.Dataset(), "stream": xr.Dataset(variables)})


def theory(name, mean, variance):
    dims = {name: ("mode",)}
    full = {name: np.full(ENTRIES, mean)}, {name: np.full(ENTRIES, variance)}
    return fp.Prediction(theory="exact", mean=full[0], variance=full[1], dims=dims)


def test_p_values_of_streamed_means_and_variances_are_uniform():
    x = 3 + 2 * autoregression(np.random.default_rng(0))
    numbers = fp.compare(streamed(q=x), theory("q", 3.0, 4.0)).to_dataframe()
    for moment in ("mean", "variance"):
        p = numbers.loc[numbers["moment"] == moment, "p_value"]
        # Kolmogorov-Smirnov, one-sided: p-values may be too large (errors are widened), not too small; false alarm 1e-6
        assert stats.kstest(p, "uniform", alternative="greater").pvalue > 1e-6
    wrong = fp.compare(streamed(q=x), theory("q", 3.0, 4.6))
    assert wrong.verdicts == {"exact": "differs"}


@pytest.mark.slow
def test_streamed_and_kept_draws_have_the_same_moments_and_like_errors():
    x = autoregression(np.random.default_rng(1))
    kept = xr.Dataset({"q": (("chain", "draw", "mode"), x)})
    a, b = (fp.compare(s, theory("q", 0.0, 1.0)).to_dataframe() for s in (kept, streamed(q=x)))
    np.testing.assert_allclose(a["sampled"], b["sampled"], atol=2e-3)  # but for the bias of a sample variance
    assert abs(np.mean(a["mcse"] / b["mcse"]) - 1) < 0.05


def test_a_streamed_conditional_variance_adds_to_that_of_the_mean():
    rng = np.random.default_rng(2)
    mean, inner = autoregression(rng), np.exp(0.5 * autoregression(rng))
    tree = streamed(q=mean, q_conditional_variance=inner)
    assert fp.compare(tree, theory("q", 0.0, 1 + np.exp(0.125))).verdicts == {"exact": "agrees"}
    lone = streamed(q=mean)
    lone["posterior"] = xr.Dataset({"q_conditional_variance": (("chain", "draw", "mode"), inner)})
    with pytest.raises(ValueError, match="stream both or none"):
        fp.compare(lone, theory("q", 0.0, 2.0))


def test_an_ensemble_is_compared_at_one_time():
    x = np.random.default_rng(3).normal(size=(2000, 3, 4))
    tree = xr.DataTree.from_dict({"trajectory": xr.Dataset({"q": (("particle", "time", "mode"), x)})})
    exact = fp.Prediction(theory="exact", mean={"q": np.zeros(4)}, dims={"q": ("mode",)})
    assert fp.compare(tree.isel(time=1), exact).verdicts == {"exact": "agrees"}
    with pytest.raises(ValueError, match=r"choose one, samples.isel\(time=-1\)"):
        fp.compare(tree, exact)
