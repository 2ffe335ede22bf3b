"""Networks that learn a population: averages over inputs in place of a data set, and the readout integrated out."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

import fieldprob as fp
from fieldprob.gp import Marginal, coefficients, log_evidence
from fieldprob.gp.covariance import LowRank
from fieldprob.networks.overlaps import features
from fieldprob.networks.population import along_teacher, averages, population_regression
from tests.gaussian import threshold

INPUTS, WIDTH = 4, 5
DIRECTION = np.array([1.0, -2.0, 0.5, 0.0])
Z = np.random.default_rng(3).normal(size=(WIDTH, INPUTS))


def network(activation="erf"):
    return fp.Mlp(WIDTH, activation=activation, weight_variance=3.0, readout_variance=0.8)


def population(teacher, points=60, noise_variance=0.5):
    return fp.tasks.Population(points, noise_variance, 0.0, measure=fp.tasks.Gaussian(INPUTS), target=teacher)


def sites(net, task, degrees=()):
    """The deterministic sites, and log likelihood, at fixed weights."""
    model = numpyro.handlers.substitute(population_regression, {"weight_0": jnp.asarray(Z)})
    trace = numpyro.handlers.trace(model).get_trace(net, task, degrees=degrees)
    values = {name: site["value"] for name, site in trace.items() if site["type"] == "deterministic"}
    return values, trace["y"]["fn"].log_factor


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_the_evidence_of_a_readout_is_the_marginal_likelihood_of_its_outputs():
    """Less that of outputs that are zero; and so is the mean of the readout, from the dense formula."""
    rng = np.random.default_rng(0)
    F, y, noise = rng.normal(size=(7, 3)), rng.normal(size=(7, 1)), 0.3
    A, b = jnp.asarray(F.T @ F / noise), jnp.asarray(F.T @ y[:, 0] / noise)
    zero = Marginal(LowRank(jnp.zeros((7, 1))), noise).log_prob(y)
    assert np.isclose(log_evidence(A, b), Marginal(LowRank(jnp.asarray(F)), noise).log_prob(y) - zero, rtol=1e-12)
    dense = F.T @ np.linalg.solve(F @ F.T + noise * np.eye(7), y[:, 0])
    np.testing.assert_allclose(coefficients(A, b).mean, dense, rtol=1e-10)


def test_the_gradient_of_the_evidence_is_that_of_its_formula():
    rng = np.random.default_rng(1)
    F, b = jnp.asarray(rng.normal(size=(4, 6))), jnp.asarray(rng.normal(size=4))

    def formula(F, b):
        S = jnp.eye(4) + F @ F.T
        return b @ jnp.linalg.solve(S, b) / 2 - jnp.linalg.slogdet(S)[1] / 2

    found = jax.grad(lambda F, b: log_evidence(F @ F.T, b), (0, 1))(F, b)
    for one, other in zip(found, jax.grad(formula, (0, 1))(F, b), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


# --- averages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "coefficients"),
    [("erf", (0.0, 1.0, 0.0, -0.7)), pytest.param("relu", (0.3, 1.0, -0.8), marks=pytest.mark.slow)],
)
def test_a_population_is_the_limit_of_many_points(activation, coefficients):
    """Averages of features and their products with the target, the loss and the residual of the mean readout, against
    400 blocks of 500 inputs: a false alarm of 1e-6 (T14)."""
    net, teacher = network(activation), fp.tasks.HermiteTeacher(coefficients, DIRECTION)
    task = population(teacher)
    degrees = tuple(range(len(coefficients)))
    W = jnp.asarray(Z * np.sqrt(3.0 / INPUTS))
    found = averages(net, W, task, degrees)
    values, evidence = sites(net, task, degrees)

    X = np.random.default_rng(2).normal(size=(200_000, INPUTS))
    F = np.asarray(net.output_features(net.activations[0].phi(jnp.asarray(X) @ W.T)))
    y, z = teacher(X), X @ DIRECTION / np.linalg.norm(DIRECTION)
    norms = [1.0, 1.0, 2**0.5, 6**0.5][: len(degrees)]
    p = np.stack([np.ones_like(z), z, z**2 - 1, z**3 - 3 * z][: len(degrees)]) / np.array(norms)[:, None]
    points = 60 / 0.5
    target = np.asarray(coefficients) * norms
    readout = fp.gp.coefficients(points * found.gram, points * target @ found.overlap)
    f = F @ np.asarray(readout.mean)
    variance = np.sum((F @ np.asarray(readout.covariance)) * F, axis=1)
    sampled = np.concatenate(
        [
            (F[:, :, None] * F[:, None, :]).reshape(len(X), -1),
            (F[:, None, :] * p.T[:, :, None]).reshape(len(X), -1),
            ((y - f) ** 2 + variance)[:, None],
            ((y - f)[:, None] * p.T) / norms,
        ],
        axis=1,
    )
    expected = np.concatenate(
        [found.gram.ravel(), found.overlap.ravel(), [values["test_loss"]], np.asarray(values["residual"])]
    )
    blocks = sampled.reshape(400, 500, -1).mean(1)
    t = (blocks.mean(0) - expected) / (blocks.std(0, ddof=1) / 20)
    assert np.max(np.abs(t)) < threshold(t.size, 400, 1e-6)
    assert np.isclose(evidence, log_evidence(points * found.gram, points * target @ found.overlap), rtol=1e-12)


@pytest.mark.parametrize("measure", [fp.tasks.Gaussian(7), fp.tasks.Sphere(7)])
def test_a_neurons_overlap_with_functions_across_the_teacher_is_an_average_over_inputs(measure):
    """Of p_k'(z) x_e with unit norm: 400 000 inputs, each with either sign of x_e, for two neurons and three degrees; a
    false alarm of 4e-6."""
    m, across = np.array([0.8, -0.4]), np.array([0.5, 1.1])
    found = features(network("relu").activations[0], jnp.asarray(m), jnp.asarray(m**2 + across**2), (0, 2, 3), measure)
    assert found.across.shape == (3, 2)  # degrees 1, 2, 3
    X = np.random.default_rng(4).normal(size=(400_000, 7))
    if isinstance(measure, fp.tasks.Sphere):
        X *= np.sqrt(7) / np.linalg.norm(X, axis=1, keepdims=True)
    z, x = X[:, 0], X[:, 1]
    slopes = [np.ones_like(z), z, z**2 - (1 if isinstance(measure, fp.tasks.Gaussian) else 7 / 9)]
    functions = np.stack([s * x / np.sqrt(np.mean((s * x) ** 2)) for s in slopes])
    h = m[:, None] * z
    odd = (np.maximum(h + across[:, None] * x, 0) - np.maximum(h - across[:, None] * x, 0)) / 2
    products = (functions[:, None] * odd[None]).reshape(6, -1)
    error = products.std(axis=1) / np.sqrt(len(X))
    # the sampled norms of the functions have errors of their own, of the size of 2e-3 at most
    assert np.max(np.abs(products.mean(1) - np.asarray(found.across).ravel()) / (error + 1e-3)) < 5


def test_turning_teacher_and_neurons_together_changes_nothing():
    """T7; and a sign of a neuron does not matter either, for an odd activation."""
    net = network()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(INPUTS, INPUTS)))[0]
    e = DIRECTION / np.linalg.norm(DIRECTION)
    W = jnp.asarray(Z)
    before = averages(net, W, population(fp.tasks.HermiteTeacher((0, 1, 0, -0.7), e)), (1, 3))
    after = averages(net, W @ turn.T, population(fp.tasks.HermiteTeacher((0, 1, 0, -0.7), turn @ e)), (1, 3))
    np.testing.assert_allclose(after.overlap, before.overlap, atol=1e-12)
    np.testing.assert_allclose(after.gram, before.gram, atol=1e-12)
    assert np.allclose(along_teacher(W, fp.tasks.HermiteTeacher((0, 1), e)), Z @ e)


def test_only_points_over_noise_matters():
    teacher = fp.tasks.HermiteTeacher((0, 1, 0, -0.7))
    few, _ = sites(network(), population(teacher, 60, 0.5))
    many, _ = sites(network(), population(teacher, 600, 5.0))
    for name in few:
        np.testing.assert_allclose(few[name], many[name], rtol=1e-10)


TEACHER = fp.tasks.HermiteTeacher((0, 1, 0, -0.7))


@pytest.mark.parametrize(
    ("net", "task", "message"),
    [
        (fp.Mlp(4, depth=2), population(TEACHER), "net has depth 2"),
        (fp.Mlp(4, bias_variance=0.1), population(TEACHER), "without biases"),
        (network(), fp.Task(np.ones((2, 4)), np.ones(2), 0.1), "give a fp.tasks.Population, or use fp.regression"),
        (network(), population(lambda X: X[:, 0]), "target=fp.tasks.HermiteTeacher"),
        (network(), population(fp.tasks.HermiteTeacher((0.0, 0.0))), "there is nothing to learn"),
        (network(), population(TEACHER, (10, 20)), "give one number of points"),
        (network(), population(TEACHER, 10, 0.0), "a positive noise_variance"),
    ],
)
def test_what_the_model_is_not_for_is_refused(net, task, message):
    with pytest.raises((ValueError, TypeError), match=message):
        population_regression(net, task)


@pytest.mark.parametrize(
    ("degrees", "error", "match"),
    [(3, TypeError, "several integers"), ((1.5,), TypeError, "not an integer"), ((True,), TypeError, "not an integer")]
    + [((-1,), ValueError, "at least 0"), ((200,), ValueError, "none above")],
)
def test_degrees_out_of_range_are_refused(degrees, error, match):
    net, task = network(), population(fp.tasks.HermiteTeacher((0, 1, 0, -1.2)))
    with pytest.raises(error, match=match), numpyro.handlers.seed(rng_seed=0):
        population_regression(net, task, degrees=degrees)
    if error is ValueError:  # of the other types the run-time check of the tests says so first
        with pytest.raises(error, match=match):
            fp.theory.grokking.mean_field(net, task, degrees=degrees)


def test_a_teacher_in_another_space_is_refused():
    net, task = network(), population(fp.tasks.HermiteTeacher((0, 1, 0, -1.2), (1.0, 2.0)))
    for function in (population_regression, fp.theory.grokking.mean_field):
        with pytest.raises(ValueError, match="direction has 2 entries"), numpyro.handlers.seed(rng_seed=0):
            function(net, task)
