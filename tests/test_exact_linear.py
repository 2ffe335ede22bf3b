"""Exact deep linear networks: brute force over weights, tables of theory 02, identities, the independent sampler."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln
from scipy.stats import kstest

import fieldprob as fp
from fieldprob.theory import exact_linear, ising_linear, sample_exact_linear

RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(5, 4)), 1.2 * RNG.normal(size=3)
NOISE = np.array([[0.3, 0.1, 0.0], [0.1, 0.4, 0.0], [0.0, 0.0, 0.2]])
TASK = fp.Task(X[:3], Y, NOISE, X[3:], [0.5, -0.3])


def ising(points, inputs, bias, noise, seed=0):
    """The generator of the tables of theory 02."""
    r = np.random.default_rng(seed)
    y = np.repeat([1.0, -1.0], points // 2)
    return fp.Task(np.where(r.random((points, inputs)) < 0.5 + bias * y[:, None], 1.0, -1.0), y, noise)


def linear(width, scaling="standard", **options):
    depth = len(width) if isinstance(width, tuple) else 1
    return fp.Mlp(width, depth, "linear", scaling=scaling, **options)


def at_chi(width, chi, weight_variance, readout_variance, task):
    """A network and a task at any chi, also above the width: both divided by hand."""
    net = linear(width, weight_variance=weight_variance, readout_variance=readout_variance / chi)
    return net, task.replace(noise_variance=task.noise_variance / chi)


def brute_force(net, widths, draws, seed=0, chunk=10_000):
    """Importance sampling over the hidden weights, the readout integrated out: no formula of the theory.

    Returns name -> (value, standard error) from the scatter of independent chunks.
    """
    G, bias, P = net.readout_variance / net.chi, net.bias_variance[0], 3
    noise = NOISE / net.chi

    def one(key):
        keys, h, kernels = jax.random.split(key, len(widths) + 1), X, []
        for layer, n in enumerate(widths):
            W = jax.random.normal(keys[layer], (n, h.shape[1])) * jnp.sqrt(net.weight_variance[layer] / h.shape[1])
            h = h @ W.T
            if layer == 0:
                h, covariance = h + jax.random.normal(keys[-1], (n,)) * jnp.sqrt(bias), W.T @ W / n
            kernels.append(h @ h.T / n)
        K = G * kernels[-1]
        S_inverse = jnp.linalg.inv(K[:P, :P] + noise)
        log_weight = -0.5 * Y @ S_inverse @ Y + 0.5 * jnp.linalg.slogdet(S_inverse)[1] - P / 2 * jnp.log(2 * jnp.pi)
        mean = K[:, :P] @ S_inverse @ Y
        gain = G / widths[-1] * h[:P].T @ S_inverse
        norm = jnp.sum((gain @ Y) ** 2) + G - G / widths[-1] * jnp.trace(gain @ h[:P])
        second = K - K[:, :P] @ S_inverse @ K[:P] + jnp.outer(mean, mean)
        later = (*net.weight_variance[1:], G)
        layers = {f"kernel_{i}": g * k for i, (g, k) in enumerate(zip(later, kernels, strict=True), start=1)}
        return jnp.exp(log_weight), {
            "f": mean, "second": second, **layers, "weight_covariance": covariance, "readout_norm": norm
        }  # fmt: skip

    @jax.jit
    def average(key):
        w, values = jax.vmap(one)(jax.random.split(key, chunk))
        return jnp.mean(w), jax.tree.map(lambda v: jnp.tensordot(w, v, 1) / chunk, values)

    keys = jax.random.split(jax.random.key(seed), draws // chunk)
    Z, sums = jax.tree.map(lambda *parts: np.stack(parts), *[average(key) for key in keys])
    result = {"evidence": (Z.mean(), Z.std() / np.sqrt(len(Z)))}
    for name, total in sums.items():
        value = total.mean(0) / Z.mean()
        scatter = (total - value * Z.reshape(-1, *[1] * value.ndim)) / Z.mean()
        result[name] = value, scatter.std(0) / np.sqrt(len(Z))
    return result


def predicted(net):
    theory = exact_linear(net, TASK)
    m, P = np.concatenate([theory.mean["f"], theory.mean["f_test"]])[:, 0], 3
    second = np.outer(m, m)
    second[:P, :P] += theory.covariance["f"]
    second[P:, P:] += theory.covariance["f_test"]
    second[:P, P:] = second[P:, :P] = np.nan  # not predicted
    return theory.mean | {"f": m, "second": second, "evidence": np.exp(theory.log_evidence)}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("width", "scaling", "draws"),
    [
        ((3, 4), "mean-field", 400_000),
        pytest.param((4,), "mean-field", 2_000_000, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param((4,), "standard", 2_000_000, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param((2, 3, 2), "standard", 2_000_000, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param((2, 3, 2), "mean-field", 2_000_000, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_brute_force_over_weights(width, scaling, draws):
    """Every mean, second moment, layer kernel, weight covariance, readout norm and the evidence, with a bias and
    correlated noise. At least 40 chunks give the errors: below 8 of them (Student) the false-alarm rate of about 100
    numbers is below 1e-6."""
    L = len(width)
    variances = {"weight_variance": (1.2, 0.8, 1.3)[:L], "bias_variance": (0.3, *[0.0] * L), "readout_variance": 0.9}
    net = linear(width, scaling, **variances)
    theory = predicted(net)
    for name, (value, error) in brute_force(net, width, draws).items():
        z = (np.asarray(theory[name]) - value) / error
        assert np.nanmax(np.abs(z)) < 8, name
        assert np.nanmax(np.abs(error)) < 0.05 * np.max(np.abs(value)), name


def test_scale_density_of_two_layers_is_a_bessel_function():
    """p(z) of a product of two Gammas: 2 x^((a+b)/2) K_(a-b)(2 sqrt x) / (Gamma(a) Gamma(b)), x = a b s."""
    from scipy.special import kve

    from fieldprob.gp.scales import log_density, scale_nodes

    for widths in ((3, 4), (2, 9), (40, 60)):
        nodes = scale_nodes(widths, jnp.zeros_like, jnp.zeros(()))
        a, b = widths[0] / 2, widths[1] / 2
        x = a * b * np.exp(nodes.z)
        root = 2 * np.sqrt(x)
        exact = np.log(2 * kve(a - b, root)) - root + (a + b) / 2 * np.log(x) - gammaln(a) - gammaln(b)
        np.testing.assert_allclose(log_density(nodes, widths), exact, atol=1e-9)


@pytest.mark.parametrize("widths", [(1,), (10**4,), (1, 1), (1, 10**4), (1000,) * 3])
def test_scale_moments_are_those_of_chi_squares(widths):
    """E s^k, k = -1/4, 0, 1, 2, and E s_1 s = 1 + 2/N_1, for widths from 1 to 10^4 and up to four layers."""
    from fieldprob.gp.scales import log_density, scale_nodes

    nodes = scale_nodes(widths, jnp.zeros_like, jnp.zeros(()))
    w, s = jnp.exp(nodes.log_weight + log_density(nodes, widths)), jnp.exp(nodes.z)
    n = np.array(widths) / 2
    for power in (-0.25, 0.0, 1.0, 2.0):
        exact = np.exp(np.sum(gammaln(n + power) - gammaln(n) - power * np.log(n)))
        assert np.isclose(w @ s**power, exact, rtol=3e-9)
    first = jnp.exp(nodes.log_weight + log_density(nodes, widths, (1,) + (0,) * (len(widths) - 1)))
    assert np.isclose(first @ s, 1 + 2 / widths[0], rtol=1e-10)


@pytest.mark.parametrize(
    ("chi", "discrepancy", "norm"),
    [
        (1, 0.6695, 0.21938),
        pytest.param(4, 0.5815, 0.32850, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(16, 0.4073, 0.72664, marks=[pytest.mark.slow, pytest.mark.long]),
        (100, 0.2182, 2.27115),
        pytest.param(400, 0.1325, 5.13269, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_table_e2(chi, discrepancy, norm):
    task = ising(80, 200, 0.1, 1.0)
    net, scaled = at_chi(100, chi, 0.5, 0.2, task)
    theory = exact_linear(net, scaled)
    assert round(float(jnp.sqrt(jnp.mean((task.y - theory.mean["f"]) ** 2))), 4) == discrepancy
    assert round(float(chi * theory.mean["readout_norm"]), 5) == norm
    limit = fp.theory.limit(net, scaled)
    assert round(float(jnp.sqrt(jnp.mean((task.y - limit.mean["f"]) ** 2))), 4) == 0.6873


def alignments(M, K, y):
    """Parallel and orthogonal to the target, relative to K (theory 02, (16))."""
    parallel = y @ M @ y / (y @ K @ y)
    rest = [jnp.trace(A) - y @ A @ y / (y @ y) for A in (M, K)]
    return float(parallel), float(rest[0] / rest[1])


@pytest.mark.parametrize(
    ("width", "scaling", "exact"),
    [
        (20, "mean-field", (2.653, 0.963)),
        pytest.param(160, "mean-field", (2.597, 0.999), marks=[pytest.mark.slow, pytest.mark.long]),
        (20, "standard", (1.118, 0.969)),
    ],
)
def test_table_e4_exact_alignments(width, scaling, exact):
    task = ising(8, 30, 0.15, 0.5, seed=9)
    net = linear(width, scaling)
    K = fp.theory.limit(net, task).mean["kernel_1"]
    measured = alignments(exact_linear(net, task).mean["kernel_1"], K, task.y[:, 0])
    assert tuple(round(a, 3) for a in measured) == exact


def test_one_point_is_an_integral_over_the_scale():
    """P = 1 (01 section 6, item 5): every number by adaptive quadrature of the chi-square law."""
    task, net = fp.Task(X[:1], [1.5], 0.3), linear(3, weight_variance=1.2, readout_variance=0.8)
    k = float(net.limit(task.X)[0, 0])

    def average(g):
        def integrand(s):
            v = s * k + 0.3
            return s**0.5 * np.exp(-1.5 * s - 0.5 * 1.5**2 / v) / np.sqrt(v) * g(s, v)

        return quad(integrand, 0, 60, epsabs=1e-14, epsrel=1e-13, limit=500)[0]

    Z, theory = average(lambda s, v: 1.0), exact_linear(net, task)
    mean = average(lambda s, v: 1.5 * s * k / v) / Z
    square = average(lambda s, v: (1.5 * s * k / v) ** 2 + 0.3 * s * k / v) / Z
    scale = average(lambda s, v: s) / Z
    constant = 1.5 * np.log(1.5) - gammaln(1.5) - 0.5 * np.log(2 * np.pi)
    assert np.isclose(theory.mean["f"].item(), mean, rtol=1e-10)
    assert np.isclose(theory.variance["f"].item(), square - mean**2, rtol=1e-9)
    assert np.isclose(theory.mean["readout_norm"], 0.8 * scale, rtol=1e-10)
    assert np.isclose(theory.log_evidence, np.log(Z) + constant, rtol=1e-10)


@pytest.mark.parametrize("width", [1, 6])
def test_kernel_is_the_prior_and_one_second_moment_over_the_scale(width):
    """N H = (N - 1) K + <f f^T> / Q on average over the posterior of Q, by a sum over its density on a grid (items
    6 and 10 of 02 section 6)."""
    net = linear(width, weight_variance=1.2)
    K = np.asarray(net.limit(jnp.asarray(X)))
    s = np.exp(np.linspace(-80, 6, 40001))[:, None, None]
    S = np.linalg.inv(s * K[:3, :3] + NOISE)
    t = S @ Y
    weights = width / 2 * (np.log(s) - s)[:, 0, 0] - 0.5 * t @ Y + 0.5 * np.linalg.slogdet(S)[1]
    weights = np.exp(weights - weights.max())
    seen = np.tensordot(weights / weights.sum(), s * (t[:, :, None] * t[:, None] - S), 1)
    kernel = (width - 1) * K + K + K[:, :3] @ seen @ K[:3]
    np.testing.assert_allclose(exact_linear(net, TASK).mean["kernel_1"], kernel / width, rtol=1e-9, atol=1e-12)


def test_evidence_gives_mean_and_covariance():
    """(35): <y - f> = -noise grad log p, Cov f = noise + noise (grad grad log p) noise, by automatic derivatives."""
    net = linear(5, "mean-field", readout_variance=0.7)
    noise = NOISE / net.chi

    def log_evidence(y):
        return exact_linear(net, fp.Task(X[:3], y, NOISE)).log_evidence

    theory, y = exact_linear(net, TASK), jnp.asarray(Y)
    np.testing.assert_allclose(y - theory.mean["f"][:, 0], -noise @ jax.grad(log_evidence)(y), rtol=1e-8)
    hessian = jax.hessian(log_evidence)(y)
    np.testing.assert_allclose(theory.covariance["f"], noise + noise @ hessian @ noise, rtol=1e-6, atol=1e-9)


def test_large_width_tends_to_the_limit_as_one_over_width():
    errors = []
    for width in (200, 800):
        net = linear(width)
        exact, limit = exact_linear(net, TASK), fp.theory.limit(net, TASK)
        errors.append(
            [jnp.abs(exact.mean[k] - limit.mean[k]).max() for k in ("f", "f_test", "kernel_1")]
            + [jnp.abs(exact.covariance["f_test"] - limit.covariance["f_test"]).max()]
        )
    np.testing.assert_allclose(np.array(errors[0]) / np.array(errors[1]), 4, rtol=0.05)


def test_scale_and_rotation_covariance():
    """Items 8 and 9 of 02 section 6: y -> c y, G -> c^2 G, noise -> c^2 noise leaves H; X -> X R leaves all but W."""
    net, scaled = linear(5, readout_variance=0.7), linear(5, readout_variance=0.7 * 9)
    a = exact_linear(net, TASK)
    b = exact_linear(scaled, fp.Task(X[:3], 3 * Y, 9 * NOISE, X[3:]))
    np.testing.assert_allclose(b.mean["kernel_1"], 9 * a.mean["kernel_1"], rtol=1e-10)
    R = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))[0]
    c = exact_linear(net, fp.Task(X[:3] @ R, Y, NOISE, X[3:] @ R))
    np.testing.assert_allclose(c.mean["f_test"], a.mean["f_test"], rtol=1e-10)
    np.testing.assert_allclose(R @ c.mean["weight_covariance"] @ R.T, a.mean["weight_covariance"], atol=1e-12)


def test_duplicated_points_are_one_point_with_less_noise():
    """A singular kernel: a point seen twice with noise 2 k is a point seen once with noise k."""
    net = linear(3)
    twice = fp.Task(X[[0, 0, 1]], [0.7, 0.7, -1.0], [0.4, 0.4, 0.3], X[3:])
    once = fp.Task(X[:2], [0.7, -1.0], [0.2, 0.3], X[3:])
    a, b = exact_linear(net, twice), exact_linear(net, once)
    np.testing.assert_allclose(a.mean["f_test"], b.mean["f_test"], rtol=1e-10)
    np.testing.assert_allclose(a.covariance["f_test"], b.covariance["f_test"], rtol=1e-10)
    np.testing.assert_allclose(a.mean["kernel_1"][1:, 1:], b.mean["kernel_1"], rtol=1e-10)


def test_zero_targets_and_large_and_small_noise():
    net = linear(6)
    zero = exact_linear(net, fp.Task(X[:3], np.zeros(3), 0.1))
    assert jnp.abs(zero.mean["f"]).max() == 0
    prior = exact_linear(net, TASK.replace(noise_variance=1e9))
    np.testing.assert_allclose(prior.mean["kernel_1"], net.limit(jnp.asarray(X)), rtol=1e-8)
    np.testing.assert_allclose(prior.mean["readout_norm"], 1.0, rtol=1e-8)
    small = exact_linear(net, TASK.replace(noise_variance=1e-10))
    np.testing.assert_allclose(small.mean["f"][:, 0], Y, atol=1e-9)
    assert np.all(small.variance["f"] > 0) and np.allclose(small.variance["f"], 1e-10, rtol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "depth"),
    [
        (X, 1),
        pytest.param(X[[0, 0, 1, 3, 4]], 1, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(X[:, :2], 2, marks=[pytest.mark.slow, pytest.mark.long]),
    ],
    ids=["regular", "duplicate", "singular and deep"],
)
def test_derivatives_in_the_variances_are_finite_differences(inputs, depth):
    def value(v):
        net = fp.Mlp(3, depth, "linear", weight_variance=v[0], readout_variance=v[1])
        theory = exact_linear(net, fp.Task(inputs[:3], Y, v[2], inputs[3:]))
        return theory.log_evidence + jnp.sum(theory.mean["f_test"]) + jnp.sum(theory.mean["kernel_1"])

    at, h = jnp.array([1.2, 0.9, 0.3]), 1e-5
    finite = [(value(at + h * e) - value(at - h * e)) / (2 * h) for e in jnp.eye(3)]
    np.testing.assert_allclose(jax.grad(value)(at), finite, rtol=1e-6)


def test_maps_over_noise():
    values = jnp.array([0.1, 0.5])
    mapped = jax.vmap(lambda noise: exact_linear(linear(4), TASK.replace(noise_variance=noise)).mean["f_test"])(values)
    single = exact_linear(linear(4), TASK.replace(noise_variance=0.5)).mean["f_test"]
    np.testing.assert_allclose(mapped[1], single, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scaling", [pytest.param("standard", marks=[pytest.mark.slow, pytest.mark.long]), "mean-field"]
)
def test_independent_draws_have_the_exact_moments(scaling):
    """4e4 draws; of about 100 numbers none is 6.5 standard errors away (false alarms below 1e-7)."""
    net = linear(10, scaling, weight_variance=1.2, bias_variance=(0.3, 0.0), readout_variance=0.9)
    exact, draws = exact_linear(net, TASK), sample_exact_linear(jax.random.key(0), net, TASK, 40_000)
    for name in ("f", "f_test", "kernel_1", "readout_norm", "weight_covariance", "train_loss"):
        value = draws[name]
        error = value.std(0) / np.sqrt(len(value))
        assert np.max(np.abs(value.mean(0) - exact.mean[name]) / error) < 6.5, name
    square = (draws["f"] - exact.mean["f"]) ** 2
    error = square.std(0) / np.sqrt(len(square))
    assert np.max(np.abs(square.mean(0) - exact.variance["f"]) / error) < 6.5
    one = {name: draws[name][7] for name in ("weight_0", "bias_0", "readout")}
    hidden = net.hidden(one, TASK.X)
    np.testing.assert_allclose(net.outputs(one, hidden[-1]), draws["f"][7], rtol=1e-10)


def test_draws_of_the_raw_weights_are_normal_where_the_data_do_not_reach():
    """At large noise every site is a standard normal (Kolmogorov-Smirnov, p > 1e-6)."""
    draws = sample_exact_linear(jax.random.key(1), linear(3), TASK.replace(noise_variance=1e8), 4000)
    assert kstest(np.ravel(draws["weight_0"]), "norm").pvalue > 1e-6
    assert kstest(np.ravel(draws["readout"]), "norm").pvalue > 1e-6


@pytest.mark.parametrize(
    ("scaling", "train", "test"),
    [
        pytest.param("standard", 0.6887, 0.7605, marks=[pytest.mark.slow, pytest.mark.long]),
        ("mean-field", 0.1692, 0.3609),
    ],
)
def test_ising_scalars(scaling, train, test):
    """02 section 3.6, and the same from the P x P kernel."""
    net = linear(100, scaling, weight_variance=0.5, readout_variance=0.2)
    scalars = ising_linear(net, points=80, bias=0.1, noise_variance=1.0)
    assert (round(float(scalars.train_discrepancy), 4), round(float(scalars.test_discrepancy), 4)) == (train, test)
    y, gram, task = mean_ising(80, 0.1)
    np.testing.assert_allclose(net.limit_kernels(task.X)[0], 0.5 * gram, atol=1e-12)
    for order in ("exact", "tree", "saddle"):
        theory = exact_linear(net, task) if order == "exact" else fp.theory.rescaling(net, task, order)
        scalars = ising_linear(net, points=80, bias=0.1, noise_variance=1.0, order=order)
        assert np.isclose(1 - y @ theory.mean["f"][:, 0] / 80, scalars.train_discrepancy, rtol=1e-10)
        assert np.isclose(theory.mean["readout_norm"], scalars.readout_norm, rtol=1e-10)
        if order != "tree":  # whose kernel is that of adaptation
            K = theory.mean["kernel_1"]
            assert np.isclose(y @ K @ y / 80, scalars.kernel_parallel, rtol=1e-10)
            assert np.isclose((jnp.trace(K) - y @ K @ y / 80) / 79, scalars.kernel_orthogonal, rtol=1e-10)


@cache
def mean_ising(points, bias):
    y, u = np.repeat([1.0, -1.0], points // 2), 2 * bias
    gram = (1 - u**2) * np.eye(points) + u**2 * np.outer(y, y)
    return y, gram, fp.Task(np.linalg.cholesky(gram) * np.sqrt(points), y, 1.0)


def test_tree_kernel_of_the_ising_task():
    """(28): along y it grows by Q_T/G, orthogonal it stays."""
    net = linear(100, "mean-field", weight_variance=0.5, readout_variance=0.2)
    tree = ising_linear(net, points=80, bias=0.1, noise_variance=1.0, order="tree")
    K = fp.theory.limit(net, mean_ising(80, 0.1)[2]).mean["kernel_1"]
    y = mean_ising(80, 0.1)[0]
    assert np.isclose(tree.kernel_parallel / (y @ K @ y / 80), tree.readout_norm / 0.002, rtol=1e-10)
    assert np.isclose(tree.kernel_orthogonal, 0.002 * 0.5 * 0.96, rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="activation='linear'"):
        exact_linear(fp.Mlp(4, activation="erf"), TASK)
    with pytest.raises(ValueError, match="without bias after the first layer"):
        exact_linear(fp.Mlp(4, 2, "linear", bias_variance=(0, 0.1, 0)), TASK)
    with pytest.raises(ValueError, match="2 outputs"):
        exact_linear(linear(4), fp.Task(X, np.ones((5, 2)), 0.1))
    with pytest.raises(ValueError, match="for depth 1"):
        sample_exact_linear(jax.random.key(0), linear((3, 4)), TASK, 3)
    with pytest.raises(ValueError, match="draws is 0"):
        sample_exact_linear(jax.random.key(0), linear(3), TASK, 0)
    with pytest.raises(ValueError, match="from 0 to 1/2"):
        ising_linear(linear(3), points=4, bias=0.7, noise_variance=1.0)
    with pytest.raises(ValueError, match="'exact', 'tree' or 'saddle'"):
        ising_linear(linear(3), points=4, bias=0.1, noise_variance=1.0, order="loop")
    with pytest.raises(ValueError, match="one hidden layer"):
        ising_linear(fp.Mlp(3, activation="erf"), points=4, bias=0.1, noise_variance=1.0)
