"""The superposition prior in kernel space: the same law of every layer kernel, and the same posterior, as networks with
weights; where it is singular; and the identities of theory 03.

Thresholds are in standard errors of independent draws: with at most 1000 numbers in a comparison, a false alarm at 7
has a probability below 1e-8 for Gaussian errors, and below 1e-5 for means of the products of kernels compared here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import NUTS
from numpyro.infer.util import potential_energy

import fieldprob as fp
from fieldprob.infer import Importance
from fieldprob.networks import Dense, Sequential
from fieldprob.networks.superposition import kernel_roots, log_chi_square, plan, sample_latents, triangular_root
from fieldprob.statistics import conjugate_kernel, residual_conjugate_kernel, ward_identity
from tests.brute_force import importance_moments
from tests.plain_networks import layer_kernels

THRESHOLD = 7.0
KEY = jax.random.key(3)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def case_S(width, noise=0.2):
    """The small case of theory 03, section 5."""
    rng = np.random.default_rng(4)
    net = fp.Mlp(width, 2, "erf", (1.0, 1.5), bias_variance=(0.0, 0.05, 0.05), readout_variance=1.3)
    return net, fp.Task(rng.normal(size=(3, 4)), np.array([1.0, -1.0, 0.8]), noise)


def drawn(net, X, draws, key=KEY):
    """Layer kernels of the face, (draws, layers, P, P)."""

    def one(key):
        with seed(rng_seed=key):
            return jnp.stack([K.matrix for K in net.sample_kernels(X)])

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, draws)))


def mean_and_error(x):
    return x.mean(0), x.std(0) / np.sqrt(len(x))


def assert_same(a, b, threshold=THRESHOLD):
    """Two (value, error) of independent draws; where nothing fluctuates the values are equal."""
    error = np.hypot(a[1], b[1])
    np.testing.assert_array_less(np.abs(a[0] - b[0]), threshold * error + 1e-10)
    assert np.max(error) < 0.2 * np.max(np.abs(b[0]))


# --- the prior --------------------------------------------------------------------------------------------------------

PRIORS = {
    # more points than inputs; a layer of fewer neurons than points and one of more
    "erf": ("erf", (3, 9), (1.2, 1.6), 1.3, (0.1, 0.2, 0.3), "mean-field", 5, 3),
    "relu": ("relu", (9, 4), (2.0, 1.6), 1.3, 0.0, "standard", 4, 6),
    "linear": ("linear", (3, 7, 2), (1.2, 0.8, 1.6), 1.3, (0.1, 0.0, 0.2, 0.3), 1.5, 4, 3),
    "phase": ("random_phase_cosine", (4,), (1.5,), 1.1, (0.2, 0.0), "standard", 3, 2),
    "one point": ("erf", (4, 6), (1.2, 1.6), 1.3, 0.0, "standard", 1, 3),
}


QUICK, LATE = ("erf",), ("relu", "one point")
SLOW, LONG = (pytest.mark.slow,), (pytest.mark.slow, pytest.mark.long)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=(LONG if n in LATE else SLOW)) for n in PRIORS]
)
def test_the_kernels_of_all_layers_have_the_joint_law_of_a_network_with_weights(name, rng):
    """Means, and products of every two entries of the kernels of all layers, against 3e4 networks drawn in NumPy."""
    phi, widths, weight, readout, bias, scaling, points, inputs = PRIORS[name]
    net = fp.Mlp(widths, len(widths), phi, weight, bias, readout, scaling)
    X = rng.normal(size=(points, inputs))
    variances = (*net.weight_variance, net.readout_variance / net.chi)
    biases = (*net.bias_variance[:-1], net.bias_variance[-1] / net.chi)
    expected, _ = layer_kernels(rng, X, widths, phi, variances, biases, 30_000)
    found = drawn(net, X, 30_000)
    np.testing.assert_allclose(found[0, 0], expected[0, 0], rtol=1e-12)
    upper = np.triu_indices(points)
    found, expected = (k[:, 1:, *upper].reshape(len(k), -1) for k in (found, expected))
    scale = np.sqrt(np.mean(expected**2, axis=0))
    found, expected = found / scale, expected / scale
    assert_same(mean_and_error(found), mean_and_error(expected))
    found, expected = (x[:, :, None] * x[:, None, :] for x in (found, expected))
    assert_same(mean_and_error(found), mean_and_error(expected))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("width", [3, 4])
def test_the_fourth_cumulant_of_outputs_is_the_covariance_of_the_kernel(width, rng):
    """03, (6): three layers, two points, outputs of 4e5 networks with weights against 2e5 kernels; 7 standard errors
    over 200 batches."""
    net = fp.Mlp(width, 3, "erf", (1.2, 1.5, 1.4), bias_variance=(0.0, 0.1, 0.1, 0.1), readout_variance=1.3)
    X = np.array([[0.9, -0.4], [0.5, 0.8]])
    _, f = layer_kernels(rng, X, net.widths, "erf", (1.2, 1.5, 1.4, 1.3), net.bias_variance, 400_000)
    K = drawn(net, X, 200_000)[:, -1]

    def batched(x, cumulant):
        return mean_and_error(np.array([cumulant(part) for part in np.split(x, 200)]))

    for a, b, c, d in ((0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 1, 1)):

        def of_outputs(f, a=a, b=b, c=c, d=d):
            def m(*i):
                return np.mean(np.prod(f[:, i], axis=1))

            return m(a, b, c, d) - m(a, b) * m(c, d) - m(a, c) * m(b, d) - m(a, d) * m(b, c)

        def of_kernels(K, a=a, b=b, c=c, d=d):
            pairs = (((a, b), (c, d)), ((a, c), (b, d)), ((a, d), (b, c)))
            return sum(np.cov(K[:, *i], K[:, *j])[0, 1] for i, j in pairs)

        assert_same(batched(f, of_outputs), batched(K, of_kernels))


@pytest.mark.parametrize(
    ("rank", "width"), [(4, 2), pytest.param(3, 7, marks=pytest.mark.slow), pytest.param(1, 5, marks=pytest.mark.slow)]
)
def test_the_bartlett_factor_has_the_moments_of_a_wishart_matrix(rank, width):
    """E W = N 1, E W_ij W_kl = N^2 d_ij d_kl + N (d_ik d_jl + d_il d_jk), its rank, and, where it is regular, E det W =
    N! / (N - r)!: 4e4 draws."""
    net = fp.Mlp(width, 1, "linear", readout_variance=float(width))
    W = drawn(net, np.sqrt(rank) * np.eye(rank), 40_000)[:, -1]
    one = np.eye(rank)
    exact = np.einsum("ik,jl->ijkl", one, one) + np.einsum("il,jk->ijkl", one, one)
    exact = width**2 * np.einsum("ij,kl->ijkl", one, one) + width * exact
    for x, expected in ((W, width * one), (np.einsum("nij,nkl->nijkl", W, W), exact)):
        mean, error = mean_and_error(x)
        assert_same((mean, error), (expected, 0.0))
    assert np.linalg.matrix_rank(W[0], tol=1e-6) == min(rank, width)
    if rank <= width:
        mean, error = mean_and_error(np.linalg.det(W))
        assert abs(mean - np.prod(width - np.arange(rank))) < THRESHOLD * error


def test_the_law_of_the_log_chi_square_integrates_to_one_and_has_its_mean():
    """By a sum over a grid, to 1e-6 at 1 degree of freedom and up."""
    u = np.linspace(-80, 12, 200_001)
    for degrees in (1.0, 3.0, 50.0):
        density = np.exp(log_chi_square(jnp.asarray(degrees)).log_prob(jnp.asarray(u)))
        density = np.where(np.isfinite(density), density, 0.0) * (u[1] - u[0])
        chi_square = degrees * np.exp(np.sqrt(2 / degrees) * u)
        np.testing.assert_allclose([density.sum(), density @ chi_square], [1.0, degrees], rtol=1e-6)


# --- the posterior ----------------------------------------------------------------------------------------------------

POSTERIORS = [
    ("relu", 2, 3, 5, 0.5, "standard"),  # fewer neurons than points
    ("erf", 1, 16, 4, 0.3, "mean-field"),
    ("erf", 2, 5, 8, 0.5, "standard"),
    ("erf", 3, 20, 8, 0.5, "standard"),
    ("relu", 1, 10, 8, 0.5, "standard"),
    ("relu", 3, 12, 6, 0.5, 1.3),
    ("erf", 2, 30, 20, 1.0, "standard"),
    ("relu", 2, 12, 20, 1.5, "standard"),
]


@pytest.mark.parametrize(
    "case", [c if i < 1 else pytest.param(c, marks=SLOW if i < 3 else LONG) for i, c in enumerate(POSTERIORS)], ids=str
)
def test_the_posterior_is_that_of_networks_with_weights(case):
    """Outputs, their variances, the last kernel and the training loss, over training and two test points: weighted
    draws of the prior against networks with weights written again."""
    phi, depth, width, points, noise, scaling = case
    rng = np.random.default_rng(1)
    X, X_test = rng.normal(size=(points, 3)), rng.normal(size=(2, 3))
    y = np.tanh(1.5 * X[:, 0]) - 0.5 * X[:, 1]
    net = fp.Mlp(width, depth, phi, 1.6, bias_variance=0.1, scaling=scaling)
    slow = case not in POSTERIORS[:1]
    draws = 200_000 if slow else 40_000
    task, recorded = fp.Task(X, y, noise, X_test), np.arange(points + 2)
    found = Importance.sample(net, task, key=KEY, face="kernels", draws=draws, batch=2000, kernel_points=recorded)
    expected, _ = importance_moments(
        key=jax.random.key(9), X=X, X_test=X_test, y=y, width=width, depth=depth, phi=phi, weight=1.6, bias=0.1,
        readout=1.6, noise=noise, chi=net.chi, draws=draws, chunk=20_000,
    )  # fmt: skip
    mean, variance = found.posterior.mean, found.posterior.variance

    def outputs(moment):
        return [
            np.concatenate([getattr(moment[n], part) for n in ("f", "f_test")])[:, 0] for part in ("value", "error")
        ]

    assert_same(outputs(mean), expected["mean"])
    assert_same(outputs(variance), expected["variance"])
    assert_same(mean[f"kernel_{depth}"], expected["kernel"])
    assert_same(mean["train_loss"], expected["train_loss"])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("case", POSTERIORS[:6], ids=str)
def test_every_statistic_has_the_posterior_of_the_collapsed_face(case, rng):
    """All kernels, alignments, outputs and losses: weighted draws of both faces."""
    phi, depth, width, points, noise, scaling = case
    task = fp.Task(*(rng.normal(size=s) for s in ((points, 4), points)), noise, rng.normal(size=(2, 4)))
    net = fp.Mlp(width, depth, phi, 1.6, bias_variance=(0.0, *[0.1] * depth), scaling=scaling)
    faces = [
        Importance.sample(net, task, key=jax.random.key(i), face=face, draws=100_000, batch=5000)
        for i, face in enumerate(("kernels", "collapsed"))
    ]
    for moment in ("mean", "variance"):
        a, b = (getattr(face.posterior, moment) for face in faces)
        assert set(a) == set(b)
        for name in a:
            error = np.hypot(a[name].error, b[name].error)
            np.testing.assert_array_less(np.abs(a[name].value - b[name].value), THRESHOLD * error + 1e-10, name)
    a, b = (face.log_evidence for face in faces)
    assert abs(a.value - b.value) < THRESHOLD * np.hypot(a.error, b.error) < 0.5


@pytest.mark.slow
@pytest.mark.long
def test_the_small_case_of_theory_03_has_its_posterior_kernel():
    """E1's row of importance sampling (its error up to 2e-4), by 6e4 draws at N = 10: six numbers, 6 errors: 1e-8."""
    found = Importance.sample(*case_S(10), key=KEY, face="kernels", draws=60_000, batch=5000).posterior.mean["kernel_2"]
    upper = np.triu_indices(3)
    row = np.array([0.5908, 0.0115, 0.3582, 0.5346, 0.2771, 0.5776])
    assert np.all(np.abs(found.value[upper] - row) < 6 * np.hypot(found.error[upper], 2e-4))
    assert np.max(found.error) < 2e-3


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kernel", [None, NUTS])
def test_a_markov_chain_finds_the_posterior_kernel_of_the_small_case(kernel):
    """E1's row against the default sampler and NUTS, 5 Monte Carlo errors (six numbers: 3e-6)."""
    samples = fp.sample(*case_S(10), face="kernels", kernel=kernel, draws=4000, chains=4, seed=1, progress=False)
    upper = np.triu_indices(3)
    row = np.array([0.5908, 0.0115, 0.3582, 0.5346, 0.2771, 0.5776])
    predicted = np.zeros((3, 3))
    predicted[upper] = row
    predicted = np.maximum(predicted, predicted.T)
    theory = fp.Prediction(
        theory="importance", mean={"kernel_2": predicted}, error={"kernel_2": np.full((3, 3), 2e-4)},
    )  # fmt: skip
    table = fp.compare(samples, theory).to_dataframe()
    assert len(table) and table["z"].abs().max() < 5
    assert not samples.sample_stats["diverging"].any()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("widths", [(2,), (6, 3), (6, 3, 7)])
def test_linear_networks_have_their_exact_posterior(widths):
    """Outputs, evidence and the kernels of every layer against the exact integral over scales (03, (9)-(10))."""
    weight = (1.3, 0.9, 1.2)[: len(widths)]
    net = fp.Mlp(widths, len(widths), "linear", weight, readout_variance=1.4)
    rng = np.random.default_rng(2)
    task = fp.Task(rng.normal(size=(4, 6)), rng.normal(size=4), 0.3, rng.normal(size=(1, 6)))
    exact = fp.theory.exact_linear(net, task)
    found = Importance.sample(net, task, key=KEY, face="kernels", draws=50_000, batch=5000)
    for name in ("f", "f_test", "train_loss", *(f"kernel_{layer}" for layer in range(len(widths) + 1))):
        estimate = found.posterior.mean[name]
        np.testing.assert_array_less(abs(estimate.value - exact.mean[name]), THRESHOLD * estimate.error + 1e-10)
        assert np.max(estimate.error) < 0.1
    assert_same(found.posterior.variance["f"], (exact.variance["f"], 0.0))
    assert_same(found.log_evidence, (exact.log_evidence, 0.0))


@pytest.mark.slow
@pytest.mark.long
def test_one_point_of_a_linear_network_fluctuates_as_the_product_of_its_layers():
    """03, (11): Var = K^2 (prod (1 + 2 / N_l) - 1); 2e5 draws."""
    net = fp.Mlp((6, 3), 2, "linear")
    K = drawn(net, np.array([[1.0, 0.5]]), 200_000)[:, -1, 0, 0] / 0.625
    assert_same(mean_and_error(K), (1.0, 0.0))
    assert_same(mean_and_error((K - 1) ** 2), ((1 + 2 / 6) * (1 + 2 / 3) - 1, 0.0))


# --- its latents ------------------------------------------------------------------------------------------------------


def latents_of(net, layers):
    def draw():
        with seed(rng_seed=0):
            return sample_latents(net, layers)

    return jax.jit(draw)()


@pytest.mark.parametrize(("phi", "widths"), [("erf", (9, 3)), pytest.param("linear", (5, 9), marks=pytest.mark.slow)])
def test_latents_of_test_points_do_not_touch_the_kernels_of_training_points(phi, widths, rng):
    net = fp.Mlp(widths, 2, phi, bias_variance=(0.0, 0.2, 0.1))
    X = jnp.asarray(rng.normal(size=(6, 7)))
    layers = plan(net, 7, 6, 4)
    latents = latents_of(net, layers)
    roots = jax.jit(lambda z, x: kernel_roots(net, z, layers, x, 4))
    together, alone = (roots(latents, x) for x in (X, X[:4]))
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose((a @ a.T)[:4, :4], b @ b.T, rtol=1e-9)
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(roots(z, X)[-1][:4] ** 3)))(latents)
    if phi == "erf":
        assert np.all(gradient["latent_1"][4:] == 0) and np.all(gradient["latent_1"][:4] != 0)


def sites_of(net, points, inputs):
    """{site: shape} of the latents of the face; nothing is computed."""
    shapes = {}

    def record():
        with seed(rng_seed=0), trace() as sites:
            K = net.kernels(jnp.ones((points, inputs)))
        shapes.update({name: site["value"].shape for name, site in sites.items()})
        return K.matrix

    assert jax.eval_shape(record).shape == (points, points)
    return shapes


def test_a_layer_has_no_more_latents_than_neurons_or_points_allow():
    shapes = sites_of(fp.Mlp((50, 2, 50), 3, "erf", bias_variance=(0.0, 0.0, 0.1, 0.0)), 4, 9)
    assert shapes == {"latent_1": (4, 50), "latent_2": (4, 2), "latent_3": (3, 50)}
    assert not any(fp.statistics.is_invariant(name) for name in shapes)
    shapes = sites_of(fp.Mlp((50, 2), 2, "linear"), 4, 9)
    assert shapes == {"chi_1": (4,), "bartlett_1": (6,), "chi_2": (2,), "bartlett_2": (5,)}


def singular_inputs(rng):
    X = rng.normal(size=(5, 2))
    X[1], X[3], X[4] = X[0], -X[2], 0.0
    return X


def gradients(net, task, draws, key=KEY):
    """Potential energies and gradients at draws of the prior."""

    def energy(z):
        return potential_energy(fp.regression, (net, task), {"face": "kernels"}, z)

    def one(key):
        sites = trace(seed(fp.regression, key)).get_trace(net, task, face="kernels")
        z = {k: s["value"] for k, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
        return z, jax.value_and_grad(energy)(z), sites["kernel_1"]["value"]

    return energy, jax.jit(jax.vmap(one))(jax.random.split(key, draws))


@pytest.mark.parametrize(
    ("phi", "width"),
    [("relu", 6), pytest.param("erf", 7, marks=pytest.mark.slow), pytest.param("linear", 4, marks=pytest.mark.slow)],
)
def test_gradients_are_finite_and_right_where_kernels_are_singular(phi, width, rng):
    """Coincident, opposite and zero inputs, more points than inputs; of ReLU neurons often all are silent at a point.
    Against central differences along random directions; where a neuron is just switching, they may differ."""
    net = fp.Mlp(width, 2, phi)
    task = fp.Task(singular_inputs(rng), rng.normal(size=5), 0.3)
    energy, (z, (values, gradient), K) = gradients(net, task, 200)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((values, gradient)))
    if phi == "relu":
        assert np.any(np.diagonal(K, axis1=1, axis2=2)[:, :4] == 0)
    direction = {k: rng.normal(size=x.shape) for k, x in z.items()}
    h = 3e-4  # the energy has an error of rounding of 1e-9, from the roots of singular kernels
    steps = [jax.jit(jax.vmap(energy))({k: x + s * h * direction[k] for k, x in z.items()}) for s in (1, -1)]
    finite = (steps[0] - steps[1]) / (2 * h)
    slope = sum(np.sum((gradient[k] * direction[k]).reshape(200, -1), axis=1) for k in z)
    wrong = np.abs(finite - slope) > 1e-4 * np.abs(slope) + 1e-4 * np.std(slope)
    assert np.mean(wrong) <= (0.1 if phi == "relu" else 0.0)


@pytest.mark.slow
@pytest.mark.long
def test_coincident_points_have_one_kernel_and_draws_stay_finite(rng):
    X = singular_inputs(rng)
    K = drawn(fp.Mlp((7, 9), 2, "erf"), X, 500)
    assert np.all(np.isfinite(K))
    np.testing.assert_allclose(K[:, :, 0], K[:, :, 1], atol=1e-6)
    np.testing.assert_allclose(K[:, :, 2], -K[:, :, 3], atol=1e-6)
    assert np.max(np.abs(K[:, :, 4])) < 1e-6


@pytest.mark.parametrize("columns", [2, 3, 8])
def test_the_triangular_root_has_the_kernel(columns, rng):
    R = jnp.asarray(rng.normal(size=(4, columns)))
    for root in (R, R.at[2].set(R[1]), R.at[0].set(0.0), jnp.zeros_like(R)):
        L = triangular_root(root)
        np.testing.assert_allclose(L @ L.T, root @ root.T, atol=1e-12 * float(jnp.sum(root**2)) + 1e-200)
        assert np.all(np.triu(L, 1) == 0)


@pytest.mark.parametrize(("count", "stretch"), [(300, 1.0), (6, 100.0)])
def test_many_and_distant_test_points_leave_the_training_points_alone(count, stretch, rng):
    """Roots over all points are finite, and over the training points those without any others."""
    net, X, Z = fp.Mlp(20, 2, "relu", 2.0, 0.1), rng.normal(size=(4, 1)), stretch * rng.normal(size=(count, 1))
    layers = plan(net, 1, 4 + count, 4)
    every = kernel_roots(net, latents_of(net, layers), layers, jnp.concatenate([X, Z]), 4)
    alone = kernel_roots(net, latents_of(net, layers), layers, jnp.asarray(X), 4)
    for a, b in zip(every, alone, strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a[:4] @ a[:4].T, b @ b.T, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.long
def test_float32_kernels_are_those_of_float64(rng):
    net, X = fp.Mlp((7, 5), 2, ["erf", "linear"], bias_variance=0.1), rng.normal(size=(3, 4))
    layers = plan(net, 4, 3, 3)
    latents = latents_of(net, layers)
    wide = kernel_roots(net, latents, layers, jnp.asarray(X), 3)
    narrow = kernel_roots(net, latents, layers, jnp.asarray(X, jnp.float32), 3)
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a @ a.T, b @ b.T, rtol=1e-3)
    with jax.enable_x64(False), seed(rng_seed=0):
        assert fp.Mlp((7, 5), 2, ["erf", "linear"]).kernels(X.astype("float32")).features.dtype == jnp.float32


# --- identities -------------------------------------------------------------------------------------------------------


def weighted_draws(face, functions, net, task, draws, key=KEY):
    """Posterior means, with errors, of functions of a trace of the model on this face."""

    def draw(key):
        sites = trace(seed(fp.regression, key)).get_trace(net, task, face=face)
        values = {k: s["value"] for k, s in sites.items()}
        return sites["y"]["fn"].log_prob(sites["y"]["value"]).sum(), functions(values)

    return Importance.average(draw, key=key, draws=draws, batch=5000).posterior.mean


def test_every_latent_obeys_its_virial_identity():
    """03, (45), for each coordinate of each latent: < z dU/dz > = 1, at case S with N = 4."""
    net, task = case_S(4)

    def draw(key):
        sites = trace(seed(fp.regression, key)).get_trace(net, task, face="kernels")
        z = {k: s["value"] for k, s in sites.items() if k.startswith("latent")}

        def likelihood(z):
            y = trace(substitute(fp.regression, z)).get_trace(net, task, face="kernels")["y"]
            return y["fn"].log_prob(y["value"]).sum()

        value, gradient = jax.value_and_grad(likelihood)(z)
        return value, {k: x * (x - gradient[k]) for k, x in z.items()}

    found = Importance.average(draw, key=KEY, draws=40_000, batch=5000)
    assert set(found.posterior.mean) == {"latent_1", "latent_2"}
    for estimate in found.posterior.mean.values():
        assert_same(estimate, (np.ones_like(estimate.value), 0.0))
    # under the prior they are not: the identity sees the likelihood
    assert any(np.max(np.abs(e.value - 1) / e.error) > 10 for e in found.prior.mean.values())


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["scalar", pytest.param("matrix", marks=pytest.mark.slow)])
def test_the_conjugate_kernel_is_measured_from_residuals(noise):
    """03, (43), and the readout's Ward identities (44), on the faces weights and kernels of one network."""
    net, task = case_S(5, 0.3 if noise == "scalar" else np.diag([0.2, 0.3, 0.4]) + 0.05)
    net = fp.Mlp(5, 2, "erf", (1.0, 1.5), bias_variance=(0.0, 0.05, 0.4), readout_variance=1.3, scaling=1.3)
    kappa, y = net.effective_noise(task), task.y

    def of_weights(sites):
        f, b = sites["f"], jnp.sqrt(0.4 / net.chi) * sites["bias_2"][None] * jnp.ones((3, 1))
        return {
            "conjugate": residual_conjugate_kernel(f, y, kappa),
            "readout": ward_identity(sites["readout"], f - b, f, y, kappa),
            "bias": ward_identity(sites["bias_2"][None], b, f, y, kappa),
            "residual": y - f,
        }

    def of_kernels(sites):
        K = sites["kernel_2"]
        noise = kappa if jnp.ndim(kappa) == 2 else kappa * jnp.eye(3)
        residual = noise @ jnp.linalg.solve(K + noise, y)
        return {"conjugate": conjugate_kernel(K, y, kappa), "residual": residual}

    weights = weighted_draws("weights", of_weights, net, task, 100_000)
    kernels = weighted_draws("kernels", of_kernels, net, task, 40_000, jax.random.key(1))
    assert_same(weights["conjugate"], kernels["conjugate"])
    assert_same(weights["residual"], kernels["residual"])
    for name in ("readout", "bias"):
        assert abs(weights[name].value) < THRESHOLD * weights[name].error < 1.0


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_the_face_cannot_do_is_refused_by_name():
    net, task = case_S(4)
    slopes = task.replace(observations=[fp.tasks.Observation(fp.gp.Gradient(task.X[:1]), np.zeros((4, 1)), 0.1)])
    with pytest.raises(ValueError, match=r"face 'kernels' .* use another face \(weights, collapsed, limit\)"):
        fp.sample(net, slopes, face="kernels", progress=False)
    with pytest.raises(ValueError, match="entries that are NaN"):
        net.kernels(np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match="Sequential has no face 'kernels'; it has: weights, collapsed, limit"):
        fp.regression(Sequential(Dense(4), "erf", Dense()), task, face="kernels")
    with pytest.raises(ValueError, match="noise_variance is too small"):
        fp.sample(net, task.replace(noise_variance=1e-15), face="kernels", progress=False)
    with pytest.raises(ValueError, match="precision is 'half'"), numpyro.handlers.seed(rng_seed=0):
        fp.regression(net, task, face="kernels", precision="half")


NOISES = [np.array([0.1, 0.2, 0.3]), np.diag([0.1, 0.2, 0.3]) + 0.05]


@pytest.mark.parametrize("noise", NOISES, ids=["points", "matrix"])
def test_several_outputs_and_any_noise_reach_the_likelihood(noise, rng):
    """The observed site is N(0, kernel + noise) for each output."""
    net, task = case_S(6)
    task = fp.Task(task.X, rng.normal(size=(3, 2)), noise)
    with seed(rng_seed=0):
        sites = trace(fp.regression).get_trace(net, task, face="kernels")
    S = sites["kernel_2"]["value"] + (noise if noise.ndim == 2 else np.diag(noise))
    y = np.asarray(task.y)
    expected = -0.5 * np.sum(y * np.linalg.solve(S, y)) - np.linalg.slogdet(2 * np.pi * S)[1]
    assert np.isclose(sites["y"]["fn"].log_prob(task.y), expected, rtol=1e-9)
    assert sites["f"]["value"].shape == (3, 2)
