"""Regression with any face of a network, as one NumPyro model: outputs from the face, y = f + noise, and the statistics
that theories predict, registered as deterministic sites under the same names on every face.

The likelihood needs the training points only; everything else is computed from the samples afterwards (a deterministic
site costs nothing in a gradient). Observations through linear operators (derivatives, integrals) meet every face in one
way: as functions of one input.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer

from fieldprob import statistics
from fieldprob.gp import Dense, LowRank, Marginal, Stack, Values, condition, cross_covariance, observe
from fieldprob.networks.superposition import kernel_roots, plan, sample_latents

_RECORDED_POINTS = 24
# Largest ratio of prior variance to noise at which float32 features leave the log density accurate to about 1e-3.
_MIXED_CONDITION = 1000.0
# Above this condition number the P x P system cannot be solved to a few per mille in float32.
_FLOAT32_CONDITION = 1e5
_FLOAT64_CONDITION = 1e12
# Faces that integrate the readout out, so that `f` is a conditional mean and has a conditional variance.
CONDITIONAL_FACES = ("collapsed", "kernels")


def regression(net, task, *, face: str = "collapsed", precision: str = "auto", kernel_points=None):
    """The NumPyro model of noisy outputs of a network: y ~ N(f(X), effective noise).

    Args:
        net: a network; `face` must be one of `net.faces`.
        task: a `Task`; its noise is rescaled by `net.effective_noise(task)`. Its observations may include linear
            operators, on every face but "kernels".
        face: "weights" samples every weight, "collapsed" all but the readout, which is integrated out exactly (`f` and
            `f_test` are then conditional means, with `f_conditional_variance` and `f_test_conditional_variance` beside
            them), "kernels" the layer kernels without any weights (conditional means as on "collapsed"; values at
            points only), "limit" the outputs of the infinite-width Gaussian process.
        precision: of the features in the likelihood of `collapsed` and `kernels`: "full", "mixed" (float32 features,
            everything else in the default float) or "auto": on `collapsed` mixed where it is accurate, see
            `feature_dtype`, on `kernels` full.
        kernel_points: indices, in train then test points, of the points whose layer kernels are recorded; all if there
            are at most 24 of them, else 12 of each spread evenly.

    Registers `f` (points, outputs), `f_test`, `kernel_0`..`kernel_L` (recorded points squared), `alignment_1`..
    `alignment_L`, `train_loss`, `test_loss` (mean squared errors over points and outputs).

    >>> import fieldprob as fp, jax, numpyro
    >>> task = fp.tasks.linear_teacher(5, inputs=3, noise_variance=0.1, seed=0)
    >>> with numpyro.handlers.seed(rng_seed=0):
    ...     trace = numpyro.handlers.trace(regression).get_trace(fp.Mlp(width=8), task)
    >>> trace["f"]["value"].shape
    (5, 1)
    """
    check_face(net, face)
    if kernel_points is None:
        kernel_points = default_kernel_points(task)
    if face == "weights":
        _weights(net, task, kernel_points)
    elif face == "collapsed":
        _collapsed(net, task, kernel_points, feature_dtype(net, task, precision))
    elif face == "kernels":
        # a triangular root in float32 is coarser than float32 features: only where it is asked for
        _kernels(net, task, kernel_points, feature_dtype(net, task, "full" if precision == "auto" else precision))
    else:
        _limit(net, task, kernel_points)


def check_task(task) -> None:
    """Raise a TypeError unless this looks like a `Task`."""
    if not all(hasattr(task, name) for name in ("X", "y", "noise_variance", "X_test")):
        raise TypeError(f"task is a {type(task).__name__}: give a fieldprob.Task, e.g. fp.Task(X, y, noise_variance).")


def check_values_only(task, what: str) -> None:
    """Raise a TypeError unless this is a `Task` of values at points, which is all that `what` can use."""
    check_task(task)
    if len(getattr(task, "observations", (None,))) > 1:
        raise TypeError(
            f"task {task.name!r} has observations through linear operators, and {what} is for values at points: "
            "remove them, task.replace(observations=())."
        )


def check_face(net, face: str) -> None:
    """Raise a ValueError that names the faces the network has, unless it has this one."""
    if face not in net.faces:
        raise ValueError(f"{type(net).__name__} has no face {face!r}; it has: {', '.join(net.faces)}.")


def default_kernel_points(task) -> np.ndarray:
    """Indices, in the union of train then test points, whose kernels are recorded by default."""
    total = task.points + task.test_points
    if total <= _RECORDED_POINTS:
        return np.arange(total)
    train = np.unique(np.linspace(0, task.points - 1, min(task.points, _RECORDED_POINTS // 2)).astype(int))
    if not task.test_points:
        return train
    test = np.unique(np.linspace(0, task.test_points - 1, min(task.test_points, _RECORDED_POINTS // 2)).astype(int))
    return np.concatenate([train, task.points + test])


def feature_dtype(net, task, precision: str = "auto"):
    """The float type of the features in the collapsed likelihood.

    "auto" takes float32 features where that is accurate: smooth activations, and a prior variance of at most a thousand
    times the effective noise (noise standard deviation of about 0.03 for outputs of order one).

    Raises:
        ValueError: an unknown precision, or noise so small that the covariance of the data cannot be inverted.
    """
    default = jnp.result_type(float)
    if precision not in ("auto", "mixed", "full"):
        raise ValueError(f"precision is {precision!r}: give 'auto', 'mixed' or 'full'.")
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((net, task))):
        return jnp.dtype(jnp.float32) if precision == "mixed" else default
    ratio = _signal_to_noise(net, task)
    _check_conditioning(ratio, task.points, default)
    if len(task.observations) > 1:  # derivatives of features may be of any size
        return jnp.dtype(jnp.float32) if precision == "mixed" else default
    accurate = ratio <= _MIXED_CONDITION and all(a.smooth for a in net.activations)
    return jnp.dtype(jnp.float32) if precision == "mixed" or (precision == "auto" and accurate) else default


def _signal_to_noise(net, task) -> float:
    """Largest prior variance of an output over the smallest variance of the noise."""
    with jax.ensure_compile_time_eval():
        noise = jnp.asarray(net.effective_noise(task))
        smallest = jnp.min(jnp.linalg.eigvalsh(noise) if noise.ndim == 2 else noise)
        return float(jnp.max(net.limit_variance(task.X)) / smallest)


def _check_conditioning(ratio: float, points: int, default) -> None:
    for dtype, largest, remedy in (
        (jnp.float64, _FLOAT64_CONDITION, "a larger noise_variance or face='weights'"),
        (jnp.float32, _FLOAT32_CONDITION, "float64 (--precision 64, or jax_enable_x64) or face='weights'"),
    ):
        if default in (dtype, jnp.float32) and not ratio * points <= largest:
            raise ValueError(
                f"noise_variance is too small to invert the covariance of the data in {jnp.dtype(dtype).name}: the "
                f"prior variance is {ratio:.1g} times the noise, at {points} points. Use {remedy}."
            )


# --- the faces --------------------------------------------------------------------------------------------------------


def _weights(net, task, kernel_points):
    parameters = net.sample_hidden(task.inputs) | net.sample_readout(task.outputs)
    hidden = net.hidden(parameters, task.X)
    f = net.outputs(parameters, hidden[-1])
    if len(task.observations) == 1:
        _observe(f, net.effective_noise(task), task.y)
    else:
        observed = observe(task)
        rows = observed.operator.apply(lambda x: net.outputs(parameters, net.hidden(parameters, x[None])[-1])[0])
        _observe(rows, net.effective_noise(observed), observed.y)
    hidden_test = net.hidden(parameters, task.X_test) if task.test_points else None
    f_all = f if hidden_test is None else jnp.concatenate([f, net.outputs(parameters, hidden_test[-1])])
    _register_outputs(task, f_all, None)
    _register_hidden(net, task, hidden, hidden_test, kernel_points)


def _collapsed(net, task, kernel_points, dtype):
    parameters = net.sample_hidden(task.inputs)
    observed = observe(task)
    noise, several = net.effective_noise(observed), len(task.observations) > 1

    def features(X):
        return net.output_features(net.hidden(parameters, X)[-1])

    def rows(dtype):
        if several:
            return observed.operator.apply(lambda x: features(x[None].astype(dtype))[0])
        return features(task.X.astype(dtype))

    numpyro.sample("y", Marginal(LowRank(rows(dtype)), noise, task.outputs), obs=observed.y)

    # From here on nothing enters the likelihood: recomputed in full precision, outside the gradient.
    hidden = net.hidden(parameters, task.X)
    hidden_test = net.hidden(parameters, task.X_test) if task.test_points else None
    F = net.output_features(hidden[-1])
    F_all = F if hidden_test is None else jnp.concatenate([F, net.output_features(hidden_test[-1])])
    L_F = rows(task.X.dtype) if several else F
    _register_conditional(task, noise, observed.y, L_F, F_all)
    _register_hidden(net, task, hidden, hidden_test, kernel_points)


def _kernels(net, task, kernel_points, dtype):
    if len(task.observations) > 1:
        able = [face for face in net.faces if face != "kernels"]
        raise ValueError(
            f"task {task.name!r} observes linear operators, which act on functions of an input, but face 'kernels' "
            f"samples kernels at given points only: use another face ({', '.join(able)})."
        )
    P = task.points
    layers = plan(net, task.inputs, P + task.test_points, P)
    latents = sample_latents(net, layers)
    noise = net.effective_noise(task)
    root = kernel_roots(net, latents, layers, task.X.astype(dtype), P)[-1]
    numpyro.sample("y", Marginal(LowRank(root), noise, task.outputs), obs=task.y)

    # From here on nothing enters the likelihood.
    X_all = jnp.concatenate([task.X, task.X_test]) if task.test_points else task.X
    roots = kernel_roots(net, latents, layers, X_all, P)
    _register_conditional(task, noise, task.y, roots[-1][:P], roots[-1])
    _register_alignments(task, [root[:P] @ root[:P].T for root in roots[1:]])
    _register_kernels([root[kernel_points] @ root[kernel_points].T for root in roots])


def _limit(net, task, kernel_points):
    X = task.X if not task.test_points else jnp.concatenate([task.X, task.X_test])
    kernels, K = net.limit_kernels(X), None
    if len(task.observations) > 1:
        observed = observe(task)
        K = cross_covariance(net.limit, Stack((Values(X), observed.operator)))
    # A square root that allows singular kernels (coincident points, linear networks) without jitter.
    eigenvalues, vectors = jnp.linalg.eigh(kernels[-1] if K is None else K)
    root = vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0.0))
    z = numpyro.sample("function", dist.Normal(0.0, 1.0).expand((len(root), task.outputs)).to_event(2))
    f = root @ z
    if K is None:
        _observe(f[: task.points], net.effective_noise(task), task.y)
    else:
        _observe(f[len(X) :], net.effective_noise(observed), observed.y)
    _register_outputs(task, f[: len(X)], None)
    _register_alignments(task, [K[: task.points, : task.points] for K in kernels[1:]])
    _register_kernels([K[np.ix_(kernel_points, kernel_points)] for K in kernels])


# --- pieces they share ------------------------------------------------------------------------------------------------


def _observe(f, noise, y):
    noise = jnp.asarray(noise)
    if noise.ndim == 2:
        numpyro.sample("y", Marginal(Dense(noise), 0.0, y.shape[-1], loc=f), obs=y)
    else:
        scale = jnp.sqrt(noise if noise.ndim == 0 else noise[:, None])
        numpyro.sample("y", dist.Normal(f, scale).to_event(2), obs=y)


def _register_outputs(task, f_all, conditional_variance):
    """`f`, `f_test` and the losses; with a conditional variance the losses are conditional expectations."""
    parts = {"f": (slice(None, task.points), task.y, "train_loss")}
    if task.test_points:
        parts["f_test"] = (slice(task.points, None), task.y_test, "test_loss")
    for name, (rows, target, loss_name) in parts.items():
        f = numpyro.deterministic(name, f_all[rows])
        extra = 0.0
        if conditional_variance is not None:
            extra = jnp.mean(numpyro.deterministic(f"{name}_conditional_variance", conditional_variance[rows]))
        if target is not None:
            numpyro.deterministic(loss_name, jnp.mean((target - f) ** 2) + extra)


def _register_conditional(task, noise, y, F, F_all):
    """Outputs at all points given features F of what is observed and F_all of the points, as conditional moments."""
    posterior = condition(F @ F.T, noise, y, F_all @ F.T, jnp.sum(F_all**2, axis=-1))
    _register_outputs(task, posterior.mean, posterior.variance)


def _register_hidden(net, task, hidden, hidden_test, kernel_points):
    _register_alignments(task, net.layer_kernels(hidden, task.X)[1:])
    X_all = task.X
    if hidden_test is not None:
        X_all = jnp.concatenate([task.X, task.X_test])
        hidden = [jnp.concatenate(pair) for pair in zip(hidden, hidden_test, strict=True)]
    _register_kernels(net.layer_kernels([phi[kernel_points] for phi in hidden], X_all[kernel_points]))


def _register_alignments(task, kernels):
    """`alignment_1`, ... of the kernels [kernel_1, ...] over the training points."""
    for layer, K in enumerate(kernels, start=1):
        numpyro.deterministic(f"alignment_{layer}", statistics.centred_kernel_alignment(K, task.y))


def _register_kernels(kernels):
    for layer, K in enumerate(kernels):
        numpyro.deterministic(f"kernel_{layer}", K)
