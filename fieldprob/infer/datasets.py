"""Averages over random data sets: the sampled side of a learning curve.

For every data set drawn from a `Population` the Gaussian-process posterior is computed exactly, G = (K + κ²)⁻¹,
δ = G y, and so are (theory 01, C1-C2, C14-C17)

    test_error = ∫dμ (f̂ − target)²,  posterior_variance = ∫dμ Var f,  train_error = |y − f̂|²/P = |κ²δ|²/P,
    predictor_k = λ_k φ_kᵀδ,  learnability_k = λ_k φ_kᵀGφ_k = 1 − Var f_k/λ_k,

with φ_k the k-th eigenfunction at the points. With independent Gaussian features the integrals are sums over modes; on
an input measure they are means over fresh test points, the same number for each data set.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.scipy.linalg import cho_solve
from jax.sharding import AxisType, Mesh, PartitionSpec
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from fieldprob.gp.checks import check_covariance
from fieldprob.gp.regression import solver_tolerance
from fieldprob.infer import layout
from fieldprob.infer.datatree import labelled
from fieldprob.infer.driver import check_seed, seed_text
from fieldprob.tasks.arguments import require_finite
from fieldprob.tasks.population import Population

_CURVE = {  # dimensions after dataset and points
    "test_error": (),
    "noisy_test_error": (),
    "train_error": (),
    "posterior_variance": (),
    "learnability": ("mode",),
    "predictor": ("mode",),
}


class _Data(NamedTuple):
    """One data set: covariance of the points, targets without noise, and what the integrals need."""

    K: Any  # (points, points)
    target: Any  # (points,)
    modes: Any  # (modes, points), λ_k φ_k(x_i), or None
    eigenvalues: Any  # (modes,), of the modes
    error: Callable  # (G, δ) -> test error, posterior variance, the smallest one over the largest prior variance


def data_average(
    prior,
    population: Population,
    *,
    datasets: int = 1000,
    test_points: int = 200,
    spectrum=None,
    modes: int = 10,
    seed=0,
    batch: int | None = None,
    progress: bool = True,
) -> xr.DataTree:
    """Learn from many random data sets exactly, and record how well.

    Args:
        prior: a network (its infinite-width limit), a covariance function (X1, X2) -> matrix, or a `kernels.Spectrum`:
            independent Gaussian features unless the population has a measure, where it must hold every eigenfunction.
        population: sizes and law of the data sets.
        datasets: how many of each size; different sizes use independent data.
        test_points: fresh test inputs of each data set, where there is an input measure.
        spectrum: of `prior` on the population's measure, for `learnability` and `predictor` along its eigenfunctions;
            `prior` itself where that is a spectrum. Checked by sampling: other kernels, measures, radii are refused.
        modes: of the spectrum, how many are recorded, the first ones.
        seed: an integer or a JAX key.
        batch: data sets computed at once, rounded up to a multiple of the local devices; bounds the memory. As many as
            take about 200 MB unless given.
        progress: show a progress bar.

    Returns:
        A DataTree with the group `posterior`, dims (dataset, points, ...), points being the sizes: `test_error` against
        noiseless and `noisy_test_error` against noisy labels, `train_error` (zero for a Poisson data set without
        points), `posterior_variance`, and with a spectrum `learnability` and `predictor` (dataset, points, mode).
        Systems are solved to 1e-6 at least, in float32 to 1e-2. `fieldprob.compare` takes it as independent
        samples.
        After an interruption it holds the data sets that are finished, and `attrs["interrupted"]` is 1.

    Raises:
        TypeError, ValueError: an argument is out of range or of the wrong kind; the prior is no covariance function,
            which the first data set of the largest size shows, or the target not finite.
        FloatingPointError: the covariance of a data set is singular: noise_variance is too small for it.
        KeyboardInterrupt: interrupted before the first batch was complete.

    >>> import fieldprob as fp
    >>> population = fp.tasks.Population(20, 0.1, measure=fp.tasks.Sphere(5), target=lambda X: X[:, 0])
    >>> tree = data_average(fp.Mlp(width=1), population, datasets=50, progress=False)
    >>> dict(tree["posterior"].sizes)
    {'dataset': 50, 'points': 1}
    """
    check_seed(seed)
    if not isinstance(population, Population):
        raise TypeError(f"population is a {type(population).__name__}: give a fieldprob.tasks.Population.")
    for name, value in (("datasets", datasets), ("test_points", test_points), ("modes", modes), ("batch", batch)):
        if (value is not None or name != "batch") and (
            isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1
        ):
            raise ValueError(f"{name} is {value!r}: give an integer of at least 1.")
    draw, size = _source(prior, population, spectrum, int(test_points), int(modes))
    devices = layout.choose_devices(jax.local_device_count())
    root = jax.random.key(seed) if isinstance(seed, int | np.integer) else seed
    _check_data(draw, _key(root, population.points[-1], 0), population.points[-1])
    if spectrum is not None and callable(population.measure) and not hasattr(population.measure, "permutation"):
        _check_spectrum(_covariance(prior), spectrum, population, _key(root, 0, 0), int(modes))

    curves: list[dict[str, np.ndarray]] = []
    interrupted = False
    bar = tqdm(total=len(population.points) * datasets, disable=not progress, desc="data sets")
    with threadpool_limits(1, user_api="blas"), bar:
        for P in population.points:
            if interrupted:
                break
            largest = _largest(P, population.poisson)
            chunk = _batch_size(batch, datasets, size(largest), len(devices))
            learn = _learner(draw, population, P, largest, devices)
            bar.set_postfix_str(f"points {P}", refresh=False)
            parts = []
            try:
                for first in range(0, datasets, chunk):
                    index = np.minimum(np.arange(first, first + chunk), datasets - 1)
                    keys = jax.vmap(lambda i, P=P: _key(root, P, i))(index)
                    values = jax.tree.map(lambda x, n=datasets - first: np.asarray(x)[:n], learn(keys))
                    _check_learned(values, P, lambda i, keys=keys, size=largest: _check_data(draw, keys[i], size))
                    parts.append(values)
                    bar.update(min(chunk, datasets - first))
            except KeyboardInterrupt:
                interrupted = True
                if not curves and not parts:
                    raise
            if parts:
                curves.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    done = min(len(curve["test_error"]) for curve in curves)
    stacked = {name: np.stack([curve[name][:done] for curve in curves], axis=1) for name in curves[0]}
    coords: dict[str, Any] = {"points": list(population.points[: len(curves)])}
    labels = getattr(spectrum if spectrum is not None else prior, "labels", None)
    if "learnability" in stacked and labels is not None:
        coords["mode"] = list(labels)[: int(modes)]
    named = {name: ("points", *_CURVE[name]) for name in stacked}
    settings = {
        "population": repr(population), "datasets": done, "test_points": int(test_points),
        "layout": layout.describe(devices), "float": str(jnp.result_type(float)), "seed": seed_text(seed),
    }  # fmt: skip
    tree = xr.DataTree.from_dict({"posterior": labelled(stacked, named, coords, ("dataset",))}, name="fieldprob")
    tree.attrs |= {"settings": json.dumps(settings), "interrupted": int(interrupted)}
    return tree


# --- data sets --------------------------------------------------------------------------------------------------------


def _source(prior, population, spectrum, test_points: int, modes: int) -> tuple[Callable, Callable]:
    """A function (key, size) -> _Data, and the number of floats that a data set of a size takes."""
    if population.measure is None:
        if not hasattr(prior, "degeneracies"):
            raise TypeError(f"prior is a {type(prior).__name__}: a population without measure needs a Spectrum.")
        return _gaussian_features(prior, modes), lambda P: P * (P + int(np.sum(prior.degeneracies)))
    covariance = _covariance(prior)
    if spectrum is None and hasattr(prior, "degeneracies"):
        spectrum = prior
    functions = getattr(spectrum, "eigenfunctions", None)
    if spectrum is not None and functions is None:
        raise ValueError("spectrum has no eigenfunctions: leave it out, learnability is then not recorded.")
    pool = population.measure if hasattr(population.measure, "permutation") else None
    if pool is not None and max(population.points) >= len(pool.y):
        raise ValueError(f"points is {max(population.points)}, but the pool holds {len(pool.y)}: leave some for tests.")
    if pool is not None and population.poisson:
        raise ValueError("poisson is True, but a pool is drawn from without replacement: fix the number of points.")

    def draw(key, size: int) -> _Data:
        if pool is None:
            key_train, key_test = jax.random.split(key)
            X, X_test = (_points(population, *each) for each in ((key_train, size), (key_test, test_points)))
            target, target_test = (_target(population, x) for x in (X, X_test))
        else:
            order = pool.permutation(key)
            kept, rest = order[:size], order[size : size + test_points]
            X, X_test, target, target_test = pool.X[kept], pool.X[rest], pool.y[kept], pool.y[rest]
        K_cross = covariance(X_test, X)
        k_test = jax.vmap(lambda x: covariance(x[None], x[None])[0, 0])(X_test)

        def error(G, delta):
            left = k_test - jnp.sum((K_cross @ G) * K_cross, axis=1)
            return jnp.mean((K_cross @ delta - target_test) ** 2), jnp.mean(left), _smallest(left, k_test)

        eigenvalues = None if spectrum is None else spectrum.eigenvalues[:modes]
        weighted = None if functions is None or eigenvalues is None else eigenvalues[:, None] * functions(X).T[:modes]
        return _Data(covariance(X, X), target, weighted, eigenvalues, error)

    return draw, lambda P: 2 * P * P + 2 * P * test_points


def _check_spectrum(covariance, spectrum, population, key, modes: int, blocks: int = 64, size: int = 64) -> None:
    """Raises ValueError unless the average of φ_k(x) K(x, x') φ_k(x') over the measure is λ_k, within 7 standard errors
    of independent blocks (false alarms below 1e-8 a mode) and the solver's tolerance."""
    expected = np.asarray(spectrum.eigenvalues[:modes])

    def block(key):
        X = _points(population, key, size)
        phi, K = spectrum.eigenfunctions(X)[:, :modes], covariance(X, X)
        return jnp.einsum("im,ij,jm->m", phi, K - jnp.diag(jnp.diagonal(K)), phi) / (size * (size - 1))

    found = np.asarray(jax.jit(partial(jax.lax.map, block))(jax.random.split(key, blocks)))
    mean, error = found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(blocks)
    wrong = np.abs(mean - expected) > 7 * error + solver_tolerance(found.dtype) * expected.max()
    if np.any(wrong):
        k = int(np.argmax(wrong))
        raise ValueError(
            f"spectrum is not that of prior on the population's measure: eigenvalue {k} is {expected[k]:.4g}, and "
            f"{mean[k]:.4g} ± {error[k]:.1g} by sampling. Make it of the same kernel, measure and radius."
        )


def _points(population, key, size: int):
    X = population.measure(key, size)
    if jnp.ndim(X) != 2 or len(X) != size:
        raise ValueError(f"measure returned shape {jnp.shape(X)} for {size} points: it must be ({size}, inputs).")
    return X


def _smallest(variances, prior):
    """The smallest of the variances, over the largest of the prior's."""
    return jnp.min(variances) / jnp.maximum(jnp.max(jnp.abs(prior)), jnp.finfo(prior.dtype).tiny)


def _target(population, X):
    y = jnp.asarray(population.target(X))
    if y.shape not in ((X.shape[0],), (X.shape[0], 1)):
        raise ValueError(f"target returned shape {y.shape} for {X.shape[0]} points: it must be (points,).")
    return y.reshape(-1)


def _covariance(prior) -> Callable:
    if hasattr(prior, "degeneracies"):
        functions = prior.eigenfunctions
        if functions is None or float(prior.tail) > 0 or bool(np.any(np.asarray(prior.degeneracies) > 1)):
            raise ValueError(
                "prior is a spectrum that does not hold every eigenfunction: give the network or the covariance "
                "function as prior, and the spectrum as spectrum=."
            )
        return lambda X1, X2: functions(X1) @ (prior.eigenvalues[:, None] * functions(X2).T)
    kernel = prior.limit if hasattr(prior, "limit_variance") else prior
    if callable(kernel):
        return partial(_matrix, kernel)
    raise TypeError(f"prior is a {type(prior).__name__}: give a Spectrum, a network, or a function (X1, X2) -> matrix.")


def _matrix(kernel, X1, X2):
    K = jnp.asarray(kernel(X1, X2))
    if K.shape != (len(X1), len(X2)):
        raise ValueError(
            f"prior returned shape {K.shape} for {len(X1)} and {len(X2)} points: it must be a matrix of these."
        )
    return K


def _gaussian_features(spectrum, modes: int) -> Callable:
    """Every eigenfunction, degenerate ones one by one, an independent standard normal at every point."""
    degeneracies = np.asarray(spectrum.degeneracies)
    if not np.all(degeneracies == np.round(degeneracies)) or degeneracies.sum() > 1e5:
        raise ValueError(f"prior has {degeneracies.sum():g} modes: Gaussian features need at most 1e5, a whole number.")
    if float(getattr(spectrum, "tail", 0.0)) > 0:
        raise ValueError("prior is cut off (tail > 0): Gaussian features need all of its modes, or tail=0.")
    if spectrum.coefficients is None:
        raise ValueError("prior has no coefficients: give the target's, spectrum.with_target(...).")
    first = np.cumsum(degeneracies).astype(int) - degeneracies.astype(int)  # the target lies along the first of each
    recorded = first[:modes]
    every = jnp.repeat(spectrum.eigenvalues, degeneracies.astype(int), total_repeat_length=int(degeneracies.sum()))
    coefficients = jnp.zeros_like(every).at[first].set(spectrum.coefficients)

    def draw(key, size: int) -> _Data:
        features = jax.random.normal(key, (every.size, size), every.dtype)
        weighted = every[:, None] * features

        def error(G, delta):
            f = weighted @ delta
            left = every - jnp.sum((weighted @ G) * weighted, axis=1)
            return jnp.sum((f - coefficients) ** 2), jnp.sum(left), _smallest(left, every)

        return _Data(features.T @ weighted, features.T @ coefficients, weighted[recorded], every[recorded], error)

    return draw


# --- learning ---------------------------------------------------------------------------------------------------------


def _learner(draw, population, P: int, largest: int, devices) -> Callable:
    """Jitted: keys of a batch of data sets -> statistics, split over the devices."""
    ridge, label_noise = population.noise_variance, population.label_noise_variance

    def learn(key):
        key_data, key_noise, key_size = jax.random.split(key, 3)
        data = draw(key_data, largest)
        # Points beyond a Poisson number are kept in the arrays and cut out of the algebra.
        size = jax.random.poisson(key_size, P) if population.poisson else largest
        here = jnp.arange(largest) < size
        y = data.target + jnp.sqrt(label_noise) * jax.random.normal(key_noise, (largest,))
        both = here[:, None] & here[None, :]
        S = jnp.where(both, data.K, 0.0) + jnp.diag(jnp.where(here, ridge, 1.0))
        G = jnp.where(both, cho_solve((jnp.linalg.cholesky(S), True), jnp.eye(largest)), 0.0)
        delta = G @ jnp.where(here, y, 0.0)
        probe = jnp.where(here, jnp.cos(jnp.arange(1.0, largest + 1) ** 2), 0.0)  # has all modes
        error, variance, smallest = data.error(G, delta)
        values = {
            "test_error": error,
            "noisy_test_error": error + label_noise,
            "train_error": jnp.sum((ridge * delta) ** 2) / jnp.maximum(size, 1),
            "posterior_variance": variance,
        }
        if data.modes is not None:
            values["predictor"] = data.modes @ delta
            scale = jnp.where(data.eigenvalues > 0, data.eigenvalues, 1.0)  # what has no variance is not learned
            values["learnability"] = jnp.sum((data.modes @ G) * data.modes, axis=1) / scale
        residual = jnp.max(jnp.abs(S @ (G @ probe) - probe))
        return values | {"overflow": jnp.asarray(size > largest), "residual": residual, "smallest": smallest}

    mapped = jax.vmap(learn)
    if len(devices) > 1:
        mesh = Mesh(np.array(devices), ("dataset",), axis_types=(AxisType.Auto,))
        spec = PartitionSpec("dataset")
        mapped = jax.shard_map(mapped, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return jax.jit(mapped)


def _largest(P: int, poisson: bool) -> int:
    """Array length that a Poisson number of points exceeds with probability below 1e-12."""
    return int(P + 8 * P**0.5 + 16) if poisson else P


def _batch_size(batch, datasets: int, floats: int, devices: int) -> int:
    chosen = max(1, int(2.5e7 / floats)) if batch is None else int(batch)
    return -(-min(chosen, datasets) // devices) * devices


# --- checks -----------------------------------------------------------------------------------------------------------


def _key(root, P: int, index):
    """The key of a data set."""
    return jax.random.fold_in(jax.random.fold_in(root, P), index)


def _check_data(draw, key, size: int) -> None:
    """Raise a ValueError if the prior gives no covariance for this data set, or the target is not finite."""
    data = draw(jax.random.split(key, 3)[0], size)
    check_covariance(f"the covariance that prior gives {size} random points", data.K)
    require_finite("the target of random points", data.target)


def _check_learned(values, P: int, check_data: Callable) -> None:
    """Raise unless every data set of a batch was solved; `check_data(i)` says if its data are to blame."""
    overflow, residual, smallest = (values.pop(name) for name in ("overflow", "residual", "smallest"))
    if overflow.any():
        raise FloatingPointError(f"points is {P}: a Poisson number of points did not fit; use another seed.")
    tolerance = solver_tolerance(residual.dtype)
    solved, positive = residual < tolerance, smallest > -tolerance
    bad = ~(solved & positive & np.isfinite(values["test_error"]))
    if not bad.any():
        return
    first = int(np.argmax(bad))
    check_data(first)
    number = f"{bad.sum()} of {bad.size} data sets of {P} points"
    if not solved[first]:
        raise FloatingPointError(
            f"the covariance of {number} is singular (relative residual {residual[first]:.1g}): use a larger "
            "noise_variance."
        )
    if not positive[first]:
        raise ValueError(
            f"prior is no covariance function: in {number} a posterior variance is negative ({smallest[first]:.2g} of "
            "the largest prior variance). Check the kernel between different points."
        )
    raise ValueError(f"the test error of {number} is NaN or infinite: check that target and prior are finite.")
