"""Tasks: what a task refuses, the physics of the teachers, and the split and scale of real data.

Statistical tests have fixed seeds and a threshold of `SIGMAS` standard errors: 2e-9 for a Gaussian mean. The means
compared here have a skewness below 0.1, which raises the false-alarm rate of one comparison to at most 1e-6.
"""

import contextlib
import functools
import socket
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import numpyro
import pytest
from numpyro import handlers
from scipy.special import erf

from fieldprob import tasks
from fieldprob.tasks import Task, Values
from fieldprob.tasks.arguments import generator
from fieldprob.tasks.datasets import standardise, stratified_order
from fieldprob.tasks.teachers import LINKS, hermite

SIGMAS = 6.0
NODES = np.polynomial.hermite_e.hermegauss(120)
X = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 2.0]])
Y = np.array([1.0, -1.0, 0.5])

DATASETS = [tasks.digits, tasks.breast_cancer, tasks.diabetes]
TEACHERS = [tasks.linear_teacher, tasks.single_index_teacher, tasks.cubic_teacher, tasks.ising]
RANDOM_TASKS = [*DATASETS, *(functools.partial(teacher, 20, 6, test=4) for teacher in TEACHERS)]


def gaussian_average(function):
    """E[function(z)], z ~ N(0, 1)."""
    z, weights = NODES
    return function(z) @ weights / weights.sum()


def assert_mean(samples, expected):
    """The mean of independent samples is `expected` within SIGMAS standard errors."""
    samples = np.asarray(samples, dtype=float)
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert abs(samples.mean() - expected) < SIGMAS * error, (samples.mean(), expected, error)


@contextlib.contextmanager
def refused(error, message):
    """The block raises `error` in at most two lines that contain `message`."""
    with pytest.raises(error) as caught:
        yield
    if isinstance(caught.value, jaxtyping.TypeCheckError):
        pytest.skip("run-time type checking of the annotations refused the argument first")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


# ---- Task


def test_a_task_knows_its_sizes_and_stores_targets_as_points_by_outputs():
    task = Task(X, Y, 0.1, X_test=X[:2], y_test=Y[:2])
    assert (task.points, task.inputs, task.outputs, task.test_points) == (3, 2, 1, 2)
    assert task.y.shape == (3, 1) and task.y_test.shape == (2, 1) and task.noise_variance.shape == ()
    two = Task(X, np.stack([Y, -Y], axis=1), 0.1)
    assert (two.outputs, two.test_points, two.X_test, two.y_test) == (2, 0, None, None)


def test_a_task_is_a_tuple_of_observations_of_which_its_arrays_are_views():
    task = Task(X, Y, 0.1)
    (values,) = task.observations
    assert isinstance(values, Values)
    assert task.X is values.X and task.y is values.y and task.noise_variance is values.noise_variance


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, lambda a: a.astype(np.float16), lambda a: a.astype(int)])
def test_data_of_any_real_type_become_arrays_of_the_default_float_type(convert):
    task = Task(convert(X), convert(np.round(Y)), 1, X_test=convert(X), y_test=np.array([True, False, True]))
    assert {leaf.dtype for leaf in jax.tree.leaves(task)} == {jnp.result_type(float)}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(task))
    assert task.y_test[:, 0].tolist() == [1.0, 0.0, 1.0]


def test_noise_is_one_number_or_one_per_point_or_a_covariance():
    covariance = np.diag([0.1, 0.2, 0.3]) + 0.05
    for noise in (0.1, [0.1, 0.2, 0.3], covariance):
        np.testing.assert_allclose(Task(X, Y, noise).noise_variance, noise, rtol=1e-6)
    with jax.enable_x64(False):  # a covariance that rounding has made slightly asymmetric is accepted
        factor = np.random.default_rng(0).standard_normal((3, 40))
        assert Task(X, Y, jnp.asarray(factor) @ jnp.asarray(factor).T).noise_variance.dtype == jnp.float32


def test_the_representation_says_what_the_task_is():
    task = Task(X, Y, 0.01, X[:1], Y[:1], name="three points")
    assert repr(task) == "Task 'three points': 3 points, 2 inputs, 1 output, 1 test point, noise variance 0.01"
    assert repr(task.replace(y_test=None)).endswith("1 test point (no targets), noise variance 0.01")
    assert repr(task.replace(noise_variance=[1, 2, 3])).endswith("noise variances 1 to 3")
    assert repr(task.replace(noise_variance=np.eye(3))).endswith("noise covariance (3, 3)")
    assert repr(jax.tree.map(lambda leaf: None, task)) == "Task 'three points'"


def test_the_noise_of_a_task_can_be_a_sampled_hyperparameter():
    task = Task(X, Y, 0.1, name="noisy")
    seen = []

    def model():
        noise = numpyro.sample("noise", numpyro.distributions.LogNormal(0.0, 1.0))
        traced = task.replace(noise_variance=noise)
        seen.append(repr(traced))
        numpyro.sample("y", numpyro.distributions.Normal(0.0, jnp.sqrt(traced.noise_variance)), obs=traced.y)

    density = jax.jit(lambda noise: numpyro.infer.util.log_density(model, (), {}, {"noise": noise})[0])
    value, slope = jax.value_and_grad(density)(0.7)
    assert np.isfinite(value) and np.isfinite(slope)
    assert seen[0].endswith("noise variance traced")
    assert "noise" in handlers.trace(handlers.seed(model, 0)).get_trace()


def test_tasks_pass_through_transformations_and_may_be_built_and_batched_inside_them():
    task = Task(X, Y, 0.1, X, Y)
    through = jax.jit(lambda t: t)(task)
    assert eqx.tree_equal(task, through)
    built = jax.jit(lambda X, y, v: Task(X, y, v, name="inside"))(X, Y, np.eye(3))
    assert built.name == "inside" and built.y.shape == (3, 1)
    batch = jax.vmap(lambda v: task.replace(noise_variance=v))(jnp.arange(1.0, 5.0))
    assert batch.noise_variance.shape == (4,) and batch.points == 3
    edited = eqx.tree_at(lambda t: t.observations[0].noise_variance, task, jnp.asarray(2.0))
    assert float(edited.noise_variance) == 2.0 and edited.X is task.X


def test_traced_data_are_still_checked_for_shape():
    with pytest.raises(ValueError, match="y has 2 rows but X has 3"):
        jax.jit(lambda y: Task(X, y, 0.1).y)(Y[:2])
    with pytest.raises(ValueError, match="noise_variance has shape"):
        jax.jit(lambda v: Task(X, Y, v).y)(Y[:2])
    with pytest.raises(TypeError, match="complex"):
        jax.jit(lambda y: Task(X, y, 0.1).y)(Y * 1j)


def test_replacing_keeps_the_rest_and_checks_again():
    task = Task(X, Y, 0.1, X, Y, name="a")
    other = task.replace(y=np.stack([Y, Y], 1), y_test=None, name="b")
    assert (other.name, other.outputs, other.test_points) == ("b", 2, 3)
    with pytest.raises(TypeError, match="replace has no argument 'noise'"):
        task.replace(noise=0.1)
    with pytest.raises(ValueError, match="y_test is given without X_test"):
        task.replace(X_test=None)


NAN = np.where(X == 2.0, np.nan, X)
BAD_DATA = [
    ({"X": Y}, "X has shape (3,) but must be (points, inputs); for one input per point pass X[:, None]"),
    ({"X": X[None]}, "X has shape (1, 3, 2) but must be (points, inputs)"),
    ({"X": 1.0}, "X has shape ()"),
    ({"y": X[None]}, "y has shape (1, 3, 2) but must be (points,) or (points, outputs)"),
    ({"y": Y[:2]}, "y has 2 rows but X has 3: pass one row per point"),
    ({"y": Y[None]}, "y has 1 row but X has 3: pass y.T"),
    ({"X": NAN}, "X has 1 NaN or infinite entry in float64, the first (nan) at index (2, 1)"),
    ({"X": np.ma.masked_equal(X, 0.0)}, "X has 2 NaN or infinite entries in float64, the first (nan) at index (0, 1)"),
    ({"y": [0.0, np.inf, -np.inf]}, "y has 2 NaN or infinite entries in float64, the first (inf) at index (1, 0)"),
    ({"X": np.zeros((0, 2)), "y": []}, "X has shape (0, 2), which is empty: pass at least one point"),
    ({"X": np.zeros((3, 0))}, "X has shape (3, 0), which is empty"),
    ({"y": np.zeros((3, 0))}, "y has shape (3, 0), which is empty"),
    ({"noise_variance": 0.0}, "noise_variance = 0 must be positive"),
    ({"noise_variance": -0.1}, "noise_variance = -0.1 must be positive"),
    ({"noise_variance": [0.1, 0.0, -1.0]}, "noise_variance = 0 at index (1,) must be positive"),
    ({"noise_variance": np.nan}, "noise_variance has 1 NaN or infinite entry in float64 (nan)"),
    ({"noise_variance": [0.1, 0.2]}, "noise_variance has shape (2,) but must be one number, (3,) (one per point)"),
    ({"noise_variance": np.ones((3, 1))}, "noise_variance has shape (3, 1)"),
    ({"noise_variance": np.eye(3) - 1.0}, "positive definite but its smallest eigenvalue is -2"),
    ({"noise_variance": np.ones((3, 3))}, "must be positive definite"),
    ({"noise_variance": np.eye(3) + np.eye(3, k=1)}, "must be symmetric but differs from its transpose by 1"),
    ({"X_test": Y}, "X_test has shape (3,) but must be (test_points, inputs)"),
    ({"X_test": X[:, :1]}, "X_test has 1 columns but X has 2"),
    ({"X_test": X[:0]}, "X_test has shape (0, 2), which is empty: pass None for no test points"),
    ({"X_test": NAN}, "X_test has 1 NaN or infinite entry"),
    ({"y_test": Y}, "y_test is given without X_test"),
    ({"X_test": X, "y_test": Y[:2]}, "y_test has 2 rows but X_test has 3"),
    ({"X_test": X, "y_test": X}, "y_test has 2 outputs but y has 1"),
    ({"X_test": X, "y_test": np.nan * Y}, "y_test has 3 NaN or infinite entries"),
]
BAD_TYPES = [
    ({"X": [["a", "b"]] * 3}, "X has dtype <U1: pass real numbers"),
    ({"y": [1.0, None, 2.0]}, "y has dtype object: pass real numbers"),
    ({"y": None}, "y has dtype object"),
    ({"X": X * 1j}, "X has dtype complex128"),
    ({"X": [[1.0], [1.0, 2.0], [3.0]]}, "X (list) is not an array: pass a rectangular array of numbers"),
    ({"noise_variance": "0.1"}, "noise_variance has dtype <U3"),
    ({"name": 3}, "name = 3 is not a string"),
]


@pytest.mark.parametrize(
    ("changes", "message", "error"),
    [(*case, ValueError) for case in BAD_DATA] + [(*case, TypeError) for case in BAD_TYPES],
)
def test_bad_data_are_refused_in_a_line_that_names_the_argument_and_the_remedy(changes, message, error):
    with refused(error, message):
        Task(**({"X": X, "y": Y, "noise_variance": 0.1} | changes))


def test_numbers_beyond_float32_are_refused_rather_than_made_infinite():
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"X has entries too large for float32 \(up to 1e\+300"):
        Task(1e300 * np.eye(3), Y, 0.1)


# ---- Randomness


@pytest.mark.parametrize("make", RANDOM_TASKS)
def test_the_same_seed_gives_the_same_task_and_another_seed_another(make):
    assert eqx.tree_equal(make(seed=3), make(seed=3))
    assert eqx.tree_equal(make(seed=np.int64(3)), make(seed=3))
    key = jax.random.key(3)
    assert eqx.tree_equal(make(seed=key), make(seed=jax.random.PRNGKey(3)))
    tasks_differ = [make(seed=seed).X for seed in (3, 4, key, jax.random.split(key)[0])]
    assert all(not np.array_equal(a, b) for i, a in enumerate(tasks_differ) for b in tasks_differ[:i])


@pytest.mark.parametrize("make", RANDOM_TASKS)
def test_the_data_do_not_depend_on_the_precision_beyond_rounding(make):
    with jax.enable_x64(True):
        double = jax.tree.leaves(make(seed=0))
    with jax.enable_x64(False):
        single = jax.tree.leaves(make(seed=0))
    for a, b in zip(double, single, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "seed = -1 must be at least 0"),
        (0.5, TypeError, "seed = 0.5 is neither an int nor one JAX key"),
        (None, TypeError, "seed = None"),
        (True, TypeError, "seed = True"),
    ],
)
def test_a_seed_is_an_int_or_a_key(seed, error, message):
    with pytest.raises(error, match=message):
        generator(seed)
    with pytest.raises(TypeError, match="seed is traced"):
        jax.jit(lambda key: tasks.ising(4, 4, seed=key).X)(jax.random.key(0))
    with pytest.raises(TypeError, match="one JAX key"):
        generator(jax.random.split(jax.random.key(0), 3))


# ---- Teachers


def test_hermite_polynomials_are_orthonormal_under_the_standard_gaussian():
    gram = [[gaussian_average(lambda z, m=m, n=n: hermite(m, z) * hermite(n, z)) for m in range(7)] for n in range(7)]
    np.testing.assert_allclose(gram, np.eye(7), atol=1e-12)
    z = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(hermite(3, z) * np.sqrt(6), z**3 - 3 * z, atol=1e-12)
    np.testing.assert_allclose(LINKS["hermite_3"](z), hermite(3, z), atol=1e-12)


def test_the_cubic_teacher_is_linear_plus_cubic_along_one_direction():
    u = np.arange(1.0, 6.0)
    task = tasks.cubic_teacher(50, 5, linear=0.5, cubic=-2.0, direction=u, test=20, seed=1)
    for inputs, targets in ((task.X, task.y), (task.X_test, task.y_test)):
        z = np.asarray(inputs) @ u / np.linalg.norm(u)
        np.testing.assert_allclose(targets[:, 0], 0.5 * z - 2.0 * (z**3 - 3 * z) / np.sqrt(6), rtol=1e-5, atol=1e-5)


def test_the_default_cubic_teacher_is_that_of_the_grokking_paper():
    task = tasks.cubic_teacher(100, 8, seed=21)
    data = np.random.default_rng(21).standard_normal((100, 8))
    np.testing.assert_allclose(task.X, data, rtol=1e-6)
    z = data[:, 0]
    np.testing.assert_allclose(task.y[:, 0], z - 0.3 * (z**3 - 3 * z), rtol=1e-5, atol=1e-5)


def test_second_moment_of_the_cubic_teacher_is_the_sum_of_the_squares_of_its_components():
    linear, cubic = 0.8, -1.5
    task = tasks.cubic_teacher(1_000_000, 3, linear=linear, cubic=cubic, direction=[1.0, 2.0, -2.0], seed=2)
    y, z = np.asarray(task.y[:, 0]), np.asarray(task.X) @ np.array([1.0, 2.0, -2.0]) / 3.0
    assert_mean(y**2, linear**2 + cubic**2)
    for order, component in enumerate((0.0, linear, 0.0, cubic)):
        assert_mean(y * hermite(order, z), component)


def test_inputs_of_the_gaussian_teachers_are_isotropic_with_squared_norm_one_per_input():
    X = np.asarray(tasks.linear_teacher(20_000, 10, seed=5).X)
    assert_mean((X**2).mean(axis=1), 1.0)
    assert_mean(X[:, 0] * X[:, 1], 0.0)
    assert_mean(X[:, 3], 0.0)


def test_second_moment_of_the_linear_teacher_is_the_squared_norm_of_its_weights_for_each_output():
    weights = np.random.default_rng(0).standard_normal((6, 2))
    task = tasks.linear_teacher(100_000, 6, weights=weights, seed=3)
    assert task.outputs == 2
    np.testing.assert_allclose(task.y, np.asarray(task.X) @ weights, rtol=1e-4, atol=1e-4)
    for k in range(2):
        assert_mean(np.asarray(task.y[:, k]) ** 2, weights[:, k] @ weights[:, k])
    first = tasks.linear_teacher(5, 6)
    np.testing.assert_array_equal(first.y[:, 0], first.X[:, 0])


@pytest.mark.parametrize("link", [*LINKS, jnp.tanh])
def test_a_single_index_teacher_is_its_link_of_one_projection(link):
    task = tasks.single_index_teacher(1000, 2, link, direction=[3.0, 4.0], seed=7)
    z = np.asarray(task.X) @ np.array([0.6, 0.8])
    np.testing.assert_allclose(
        task.y[:, 0], (LINKS[link] if isinstance(link, str) else np.tanh)(z), rtol=1e-4, atol=1e-4
    )
    assert task.name == f"single-index teacher {link if isinstance(link, str) else 'tanh'}"


@pytest.mark.parametrize("link", ["erf", "tanh", "sin", "cos", "abs", "relu", "hermite_2"])
def test_second_moment_of_a_single_index_teacher_is_the_gaussian_average_of_its_squared_link(link):
    task = tasks.single_index_teacher(50_000, 2, link, direction=[3.0, 4.0], seed=7)
    assert_mean(np.asarray(task.y[:, 0]) ** 2, gaussian_average(lambda z: LINKS[link](z) ** 2))


def test_label_noise_has_its_variance_on_training_targets_and_is_absent_from_test_targets():
    options = {"direction": [1.0, 1.0], "test": 1000, "seed": 11}
    clean = tasks.single_index_teacher(20_000, 2, "erf", **options)
    noisy = tasks.single_index_teacher(20_000, 2, "erf", label_noise_variance=0.25, noise_variance=2.0, **options)
    np.testing.assert_array_equal(clean.X, noisy.X)
    np.testing.assert_array_equal(clean.y_test, noisy.y_test)
    noise = np.asarray(noisy.y - clean.y)[:, 0]
    assert_mean(noise, 0.0)
    assert_mean(noise**2, 0.25)
    assert_mean(noise * np.asarray(clean.y[:, 0]), 0.0)
    assert float(noisy.noise_variance) == 2.0
    z = np.asarray(clean.X_test).sum(axis=1) / np.sqrt(2)
    np.testing.assert_allclose(clean.y_test[:, 0], erf(z), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("teacher", [tasks.linear_teacher, tasks.single_index_teacher, tasks.cubic_teacher])
def test_more_points_keep_the_earlier_ones_and_the_test_set(teacher):
    few = teacher(10, 4, test=5, label_noise_variance=0.1, seed=8)
    many = teacher(30, 4, test=9, label_noise_variance=0.1, seed=8)
    for a, b in ((few.X, many.X), (few.y, many.y), (few.X_test, many.X_test), (few.y_test, many.y_test)):
        np.testing.assert_array_equal(a, b[: len(a)])
    assert not np.isin(many.X, many.X_test).any()


def test_ising_spins_are_balanced_and_biased_along_their_label():
    points, inputs, bias = 1000, 400, 0.15
    task = tasks.ising(points, inputs, bias, test=600, seed=4)
    for inputs_, targets in ((task.X, task.y), (task.X_test, task.y_test)):
        x, y = np.asarray(inputs_), np.asarray(targets)[:, 0]
        assert set(np.unique(x)) == set(np.unique(y)) == {-1.0, 1.0}
        assert y.sum() == 0
        for sign in (-1.0, 1.0):
            assert_mean((x[y == sign] > 0).ravel(), 0.5 + bias * sign)


def test_two_point_correlations_of_the_ising_task_are_those_of_its_ideal_kernel():
    points, inputs, bias = 40, 20_000, 0.1
    task = tasks.ising(points, inputs, bias, seed=6)
    x, y, u = np.asarray(task.X, dtype=float), np.asarray(task.y, dtype=float)[:, 0], 2 * bias
    np.testing.assert_allclose((x * x).mean(axis=1), 1.0, rtol=1e-12)  # the diagonal, exactly
    positive, negative = x[y > 0].sum(axis=0), x[y < 0].sum(axis=0)  # per input: independent samples over inputs
    half = points // 2
    pairs = half * (half - 1)
    assert_mean((positive**2 - half) / pairs, u**2)
    assert_mean((negative**2 - half) / pairs, u**2)
    assert_mean(positive * negative / half**2, -(u**2))
    # eigenvalues along y and orthogonal to it
    parallel = (y @ x) ** 2 / points
    assert_mean(parallel, 1 - u**2 + points * u**2)
    assert_mean(((x**2).sum(axis=0) - parallel) / (points - 1), 1 - u**2)


def test_the_ising_task_reproduces_the_reference_data_and_its_gaussian_process():
    points, inputs, bias = 80, 200, 0.1
    task = tasks.ising(points, inputs, bias, noise_variance=1.0, seed=0)
    y = np.repeat([1.0, -1.0], points // 2)
    data = np.where(np.random.default_rng(0).random((points, inputs)) < 0.5 + bias * y[:, None], 1.0, -1.0)
    np.testing.assert_array_equal(task.X, data)
    np.testing.assert_array_equal(task.y[:, 0], y)
    kernel = 0.2 * 0.5 * data @ data.T / inputs  # readout variance 0.2, weight variance 0.5
    discrepancy = np.linalg.solve(kernel + np.eye(points), y)
    assert np.sqrt((discrepancy**2).mean()) == pytest.approx(0.6873, abs=5e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tasks.linear_teacher(0, 3), ValueError, "points = 0 must be at least 1"),
        (lambda: tasks.linear_teacher(3, 0), ValueError, "inputs = 0 must be at least 1"),
        (lambda: tasks.linear_teacher(3.5, 3), TypeError, "points = 3.5 is not an integer"),
        (lambda: tasks.linear_teacher(3, 3, test=-1), ValueError, "test = -1 must be at least 0"),
        (lambda: tasks.linear_teacher(3, 3, weights=np.ones(4)), ValueError, "weights has shape (4,) but must be"),
        (lambda: tasks.linear_teacher(3, 2, weights=[np.nan, 1]), ValueError, "weights has 1 NaN"),
        (
            lambda: tasks.linear_teacher(3, 3, label_noise_variance=-1.0),
            ValueError,
            "label_noise_variance = -1 must be",
        ),
        (lambda: tasks.linear_teacher(3, 3, noise_variance=0), ValueError, "noise_variance = 0 must be positive"),
        (
            lambda: tasks.single_index_teacher(3, 3, "erff"),
            ValueError,
            "link = 'erff' is unknown: pass a function or one of linear, erf",
        ),
        (lambda: tasks.single_index_teacher(3, 3, 5), TypeError, "link = 5 is neither a name nor a function"),
        (lambda: tasks.single_index_teacher(3, 3, np.sum), ValueError, "must act elementwise"),
        (lambda: tasks.single_index_teacher(3, 3, lambda z: z / 0), ValueError, "link(z) has 3 NaN or infinite"),
        (lambda: tasks.single_index_teacher(3, 3, direction=np.ones(2)), ValueError, "direction has shape (2,)"),
        (lambda: tasks.single_index_teacher(3, 3, direction=np.zeros(3)), ValueError, "direction is zero"),
        (lambda: tasks.cubic_teacher(3, 3, cubic=np.inf), ValueError, "cubic = inf must be finite"),
        (lambda: tasks.cubic_teacher(3, 3, linear="a"), TypeError, "linear = 'a' is not a number"),
        (lambda: tasks.ising(5, 3), ValueError, "points = 5 is odd"),
        (lambda: tasks.ising(4, 3, test=3), ValueError, "test = 3 is odd"),
        (lambda: tasks.ising(4, 3, bias=0.6), ValueError, "bias = 0.6 must be in"),
        (lambda: tasks.ising(4, 3, bias=-0.1), ValueError, "bias = -0.1 must be in"),
    ],
)
def test_teachers_refuse_bad_arguments(make, error, message):
    with np.errstate(divide="ignore"), refused(error, message):
        make()


# ---- Real data


def test_every_prefix_and_suffix_of_the_stratified_order_holds_the_classes_in_proportion():
    labels = np.random.default_rng(0).choice(4, p=[0.1, 0.2, 0.3, 0.4], size=300)
    order = stratified_order(labels, np.random.default_rng(1))
    assert sorted(order) == list(range(300))
    share = np.bincount(labels) / 300
    counts = np.cumsum(np.eye(4)[labels[order]], axis=0)
    allowed = 0.5 + 0.5 * 4 * share + 1e-9  # half a point of the class, plus its share of half a point of each
    assert (abs(counts - np.arange(1, 301)[:, None] * share) <= allowed).all()


def test_standardisation_uses_statistics_of_the_training_set_only():
    random = np.random.default_rng(0)
    train, test = random.normal(3.0, 2.0, (50, 4)), random.normal(-1.0, 5.0, (30, 4))
    train[:, 2] = 0.1  # constant, with a mean that rounds
    scaled, scaled_test = standardise(train, test)
    alone, _ = standardise(train, test[:1])
    np.testing.assert_array_equal(scaled, alone)
    vary = [0, 1, 3]
    np.testing.assert_allclose(scaled[:, vary].mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(scaled[:, vary].std(0), 1.0, rtol=1e-12)
    np.testing.assert_allclose(scaled_test[:, vary], ((test - train.mean(0)) / train.std(0))[:, vary], rtol=1e-12)
    assert (scaled[:, 2] == 0).all() and (scaled_test[:, 2] == 0).all()
    common, common_test = standardise(train, test, common_scale=True)
    assert (common**2).mean() == pytest.approx(1.0, rel=1e-12)
    scale = np.sqrt(train.var(0).mean())
    np.testing.assert_allclose(common_test, (test - train.mean(0)) / scale, rtol=1e-12)


def test_digits_have_balanced_signs_and_unit_mean_squared_norm_per_pixel():
    task = tasks.digits(classes=(0, 1), train=100, test=50, noise_variance=0.01, seed=0)
    assert repr(task) == ("Task 'digits 0 vs 1': 100 points, 64 inputs, 1 output, 50 test points, noise variance 0.01")
    assert set(np.unique(task.y)) == set(np.unique(task.y_test)) == {-1.0, 1.0}
    assert abs(float(task.y.sum())) <= 4 and abs(float(task.y_test.sum())) <= 4
    np.testing.assert_allclose(np.asarray(task.X).mean(0), 0.0, atol=1e-5)
    assert float((task.X**2).mean()) == pytest.approx(1.0, rel=1e-5)
    squared_norms = np.asarray(task.X_test**2).mean(axis=1)
    assert squared_norms.min() > 0.3 and squared_norms.max() < 3.0


def test_digits_are_the_images_with_the_right_labels_and_no_image_is_in_both_sets():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    wanted = (3, 8, 1)
    images, labels = images[np.isin(labels, wanted)], labels[np.isin(labels, wanted)]
    task = tasks.digits(classes=wanted, train=len(images) - 200, test=200, seed=2)  # every image
    assert task.outputs == 3 and task.name == "digits 3, 8, 1"
    np.testing.assert_allclose(task.y.sum(axis=1), 0.0, atol=1e-6)
    np.testing.assert_allclose(np.unique(np.round(task.y, 6)), [-1 / 3, 2 / 3], atol=1e-6)
    points, targets = np.concatenate([task.X, task.X_test]), np.concatenate([task.y, task.y_test])
    scale = np.ptp(images, axis=0).max() / np.ptp(points, axis=0).max()  # one for all pixels; the shift is per pixel
    back = np.round((points - points.min(axis=0)) * scale + images.min(axis=0), 3)
    found = {tuple(image): wanted[k] for image, k in zip(back.tolist(), targets.argmax(axis=1), strict=True)}
    assert found == {tuple(image): label for image, label in zip(images.tolist(), labels, strict=True)}
    assert len(found) == len(images)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_first_class_is_minus_one_and_the_second_plus_one(order):
    task = tasks.digits(classes=order, train=100, test=0)
    center = np.asarray(task.X).reshape(100, 8, 8)[:, 3:5, 3:5].mean(axis=(1, 2))  # ink in the middle: a one
    one = center > 0
    assert (np.asarray(task.y)[one, 0].mean() > 0.8) == (order == (0, 1))


def test_breast_cancer_and_diabetes_are_standardised_feature_by_feature():
    cancer, diabetes = tasks.breast_cancer(), tasks.diabetes()
    for task in (cancer, diabetes):
        np.testing.assert_allclose(np.asarray(task.X).mean(0), 0.0, atol=1e-5)
        np.testing.assert_allclose(np.asarray(task.X).std(0), 1.0, rtol=1e-4)
        assert 0.5 < float((task.X_test**2).mean()) < 2.0
    assert abs(float((cancer.y > 0).mean()) - 357 / 569) < 0.01  # stratified
    assert abs(float((cancer.y_test > 0).mean()) - 357 / 569) < 0.02
    assert abs(float(diabetes.y.mean())) < 1e-6 and float(diabetes.y.std()) == pytest.approx(1.0, rel=1e-5)
    assert abs(float(diabetes.y_test.mean())) > 1e-4  # not by its own statistics


@pytest.mark.parametrize("make", DATASETS)
def test_growing_the_training_set_keeps_its_points_and_the_test_set(make):
    few, many = make(train=40, test=30, seed=9), make(train=90, test=60, seed=9)
    assert _same_up_to_an_affine_map(few.X, many.X[:40])
    assert _same_up_to_an_affine_map(few.X_test, many.X_test[:30])
    assert _same_up_to_an_affine_map(few.y, many.y[:40]) and _same_up_to_an_affine_map(few.y_test, many.y_test[:30])


def _same_up_to_an_affine_map(few, many):
    for a, b in zip(np.asarray(few).T, np.asarray(many).T, strict=True):
        if np.ptp(a) > 0 and np.ptp(b) > 0 and abs(np.corrcoef(a, b)[0, 1] - 1.0) > 1e-4:
            return False
    return True


def test_all_points_can_be_used_and_train_and_test_share_none():
    task = tasks.diabetes(train=342, test=100)
    rows = np.unique(np.round(np.concatenate([task.X, task.X_test]), 4), axis=0)
    assert len(rows) == 442


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: tasks.digits(train=300, test=100),
            ValueError,
            "train + test = 300 + 100 points, but digits 0 vs 1",
        ),
        (lambda: tasks.digits(train=300, test=100), ValueError, "has 360: ask for at most 360 together"),
        (lambda: tasks.breast_cancer(train=570, test=0), ValueError, "breast cancer has 569"),
        (lambda: tasks.diabetes(train=443, test=0), ValueError, "diabetes has 442"),
        (lambda: tasks.digits(train=1), ValueError, "train = 1 must be at least 2"),
        (lambda: tasks.digits(train=2.5), TypeError, "train = 2.5 is not an integer"),
        (lambda: tasks.digits(test=-1), ValueError, "test = -1 must be at least 0"),
        (lambda: tasks.digits(classes=(0,)), ValueError, "classes = (0,) must be two or more different digits"),
        (lambda: tasks.digits(classes=(0, 0)), ValueError, "two or more different digits"),
        (lambda: tasks.digits(classes=(0, 10)), ValueError, "two or more different digits"),
        (lambda: tasks.digits(classes=(0, -1)), ValueError, "classes = -1 must be at least 0"),
        (lambda: tasks.digits(classes=3), TypeError, "classes = 3 is not a sequence of digits"),
        (lambda: tasks.digits(classes=("0", "1")), TypeError, "is not a sequence of digits"),
    ],
)
def test_data_sets_refuse_bad_arguments(make, error, message):
    with refused(error, message):
        make()


def test_scikit_learn_is_imported_only_when_real_data_are_asked_for():
    program = "import sys, fieldprob.tasks as t; t.ising(4, 4); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("make", DATASETS)
def test_no_network_is_needed_for_real_data(make, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a task opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    assert make(train=10, test=5).points == 10


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tasks.Interval(1.0, 0.0), ValueError, "low = 1.0 and high = 0.0: give low below high"),
        (lambda: tasks.Interval(0.0, np.inf), ValueError, "high = inf must be finite"),
        (lambda: tasks.Interval(0.0, 1.0, 3), TypeError, "positional arguments"),
        (lambda: tasks.Circle(2), TypeError, "positional argument"),
        (lambda: tasks.Gaussian(2, -1.0), ValueError, "variance = -1.0 must be positive"),
        (lambda: tasks.Gaussian(0), ValueError, "inputs = 0 must be at least 1"),
        (lambda: tasks.Sphere(3, np.nan), ValueError, "radius = nan must be finite"),
        (lambda: tasks.Sphere(3, -1.0), ValueError, "radius = -1.0 must be positive"),
        (lambda: tasks.Sphere(3, 0.0), ValueError, "radius = 0.0 must be positive"),
    ],
)
def test_measures_refuse_bad_arguments(make, error, message):
    with refused(error, message):
        make()


def test_measures_take_traced_numbers():
    def largest(radius):
        key = jax.random.key(0)
        points = tasks.Sphere(3, radius)(key, 2), tasks.Gaussian(3, radius)(key, 2), tasks.Interval(0.0, radius)(key, 2)
        return sum(jnp.abs(x).max() for x in points)

    assert np.isfinite(jax.jit(largest)(2.0))
