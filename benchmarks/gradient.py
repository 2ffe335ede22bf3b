"""Cost of one value-and-gradient of the collapsed log density, as sampling uses it, against its bare matrix algebra.

One hidden layer, erf, one output, noise variance 0.01. Contestants, for P points, N neurons, d inputs:

    mixed, full      the potential of `regression` on the face `collapsed`, features in float32 or float64
    bare32, bare64   only what no implementation avoids: X W^T, the smaller of F F^T and F^T F, its Cholesky factor in
                     float64, and the products of the backward pass, dF = M F and dW = dF^T X; features as above
    erf32, erf64     erf and its derivative, elementwise on P x N: part of the gradient, not of the bare algebra
    auto64, auto32   JAX through `MultivariateNormal(covariance_matrix=F F^T + noise)`, all in one precision

Every contestant runs in one compiled loop whose input depends on the step before, as in a trajectory, so that the
dispatch from Python does not count. Times are CPU time on one core; contestants are interleaved, and a ratio is the
median over rounds of the ratio within a round. Run as `python -m benchmarks.gradient`.
"""

import argparse

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.infer.util import initialize_model

import fieldprob as fp
from fieldprob.networks.regression import regression

POINTS, NEURONS, INPUTS, NOISE = (50, 100, 200, 400), (64, 128, 512, 2048), 50, 0.01
RATIOS = (
    ("mixed", "bare32"),
    ("full", "bare64"),
    ("erf32", "mixed"),
    ("erf64", "full"),
    ("auto64", "mixed"),
    ("auto64", "full"),
    ("auto32", "mixed"),
)
AIM = 1.7


def contestants(points: int, neurons: int) -> dict:
    """{name: function of the number of steps}, each a compiled loop."""
    random = np.random.default_rng(0)
    X, y = random.standard_normal((points, INPUTS)), random.standard_normal((points, 1))
    W = random.standard_normal((neurons, INPUTS))
    result = {}
    with jax.enable_x64(True):
        task = fp.Task(X, y, NOISE)
        for precision in ("mixed", "full"):
            options = {"face": "collapsed", "precision": precision}
            info = initialize_model(
                jax.random.key(0), regression, model_args=(fp.Mlp(width=neurons), task), model_kwargs=options
            )
            result[precision] = _loop(_descend(info.potential_fn), info.param_info.z, x64=True)
        for bits in (32, 64):
            dtype = jnp.dtype(f"float{bits}")
            result[f"bare{bits}"] = _loop(_bare(jnp.asarray(X, dtype)), jnp.asarray(W, dtype), x64=True)
            result[f"erf{bits}"] = _loop(_erf, jnp.asarray(X @ W.T / np.sqrt(INPUTS), dtype), x64=True)
    for bits in (64, 32):
        with jax.enable_x64(bits == 64):
            potential = _textbook(jnp.asarray(X, float), jnp.asarray(y[:, 0], float))
            result[f"auto{bits}"] = _loop(_descend(potential), jnp.asarray(W, float), x64=bits == 64)
    return result


def _loop(step, start, *, x64: bool):
    with jax.enable_x64(x64):
        run = jax.jit(lambda n, z: jax.lax.fori_loop(0, n, lambda _, z: step(z), z)).lower(1, start).compile()

    def repeat(n: int):
        with jax.enable_x64(x64):
            return jax.block_until_ready(run(n, start))

    return repeat


def _descend(potential):
    def step(z):
        value, gradient = jax.value_and_grad(potential)(z)
        # The value must be computed too: it decides a step that is never taken.
        return jax.tree.map(lambda a, g: a - jnp.where(value == 0.125, 1.0, 1e-6).astype(a.dtype) * g, z, gradient)

    return step


def _bare(X):
    def step(W):
        F = X @ W.T
        wide = F.shape[0] <= F.shape[1]
        gram = (F @ F.T if wide else F.T @ F).astype(float)
        # Scaled down, and a strong diagonal: positive definite whatever W has become.
        L = jax.lax.linalg.cholesky(1e-6 * gram + jnp.eye(gram.shape[0]), symmetrize_input=False).astype(F.dtype)
        dF = L @ F if wide else F @ L
        return W - 1e-9 * (dF.T @ X)

    return step


def _erf(h):
    value, pull = jax.vjp(jax.scipy.special.erf, h)
    return h - 1e-6 * pull(value)[0]


def _textbook(X, y):
    def potential(W):
        F = jax.scipy.special.erf(X @ W.T / np.sqrt(X.shape[1])) / np.sqrt(W.shape[0])
        covariance = F @ F.T + NOISE * jnp.eye(X.shape[0])
        prior = 0.5 * jnp.sum(W**2)
        return prior - dist.MultivariateNormal(0.0, covariance_matrix=covariance).log_prob(y)

    return potential


def measure(points: int, neurons: int, rounds: int, seconds: float) -> dict:
    """One row of the table: microseconds per step of each contestant, and ratios with their quartiles."""
    times = common.per_step(contestants(points, neurons), rounds=rounds, seconds=seconds)
    row = {"P": points, "N": neurons, "d": INPUTS}
    row |= {f"{name}_us": round(1e6 * float(np.median(t)), 1) for name, t in times.items()}
    for top, bottom in RATIOS:
        low, middle, high = np.quantile(times[top] / times[bottom], (0.25, 0.5, 0.75))
        row |= {f"{top}/{bottom}": round(middle, 3), f"{top}/{bottom}_quartiles": f"{low:.3f}-{high:.3f}"}
    rest = (times["mixed"] - times["erf32"]) / times["bare32"]
    return row | {"mixed_without_erf/bare32": round(float(np.median(rest)), 3), "load": common.load()}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=POINTS)
    parser.add_argument("--neurons", type=int, nargs="+", default=NEURONS)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds")
    parser.add_argument("--seconds", type=float, default=0.02, help="CPU time of a contestant in a round")
    parser.add_argument("--out", default=common.HERE / "gradient.csv", type=common.Path)
    options = parser.parse_args(arguments)
    common.pin()
    print(
        f"# load {common.load()}; aim: mixed/bare32 <= {AIM} for N >= P >= 100; [quartiles]; microseconds: mixed, full"
    )
    options.out.unlink(missing_ok=True)
    header = [f"{a}/{b}" for a, b in RATIOS]
    print("   P    N |    mixed     full | " + " ".join(f"{h:>19}" for h in header) + " | (mixed-erf32)/bare32")
    for points in options.points:
        for neurons in options.neurons:
            row = measure(points, neurons, options.rounds, options.seconds)
            common.append(options.out, row)
            cells = " ".join(f"{row[h]:6.2f} {'[' + row[h + '_quartiles'] + ']':>12}" for h in header)
            miss = " *" if neurons >= points >= 100 and row["mixed/bare32"] > AIM else ""
            print(
                f"{points:4d} {neurons:4d} | {row['mixed_us']:8.0f} {row['full_us']:8.0f} | {cells} |"
                f" {row['mixed_without_erf/bare32']:6.2f}  load {row['load']}{miss}",
                flush=True,
            )
            jax.clear_caches()
    print(f"# load {common.load()}")


if __name__ == "__main__":
    main()
