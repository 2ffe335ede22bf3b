"""Which face of a network samples its output kernel fastest: weights, collapsed or kernels.

Erf, depth 2, variances 1.5, standard normal inputs, y = sign(x_1 x_2), noise variance 0.1, no test points; each face
with its default sampler (`HilbertHMC`; NUTS on `weights`), everything in float64. Two costs, each against the others in
the same run: one value-and-gradient of the potential, in a compiled loop (`gradient_us`, median over interleaved
rounds), and effective draws of kernel_L for each second of CPU time (`ess_per_s`: the smallest of its entries at eight
points, 4 chains that move together, warm-up and compilation not counted). Run as `python -m benchmarks.faces`.
"""

import argparse

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import numpy as np
from arviz_stats.base import array_stats
from numpyro.infer.util import initialize_model

import fieldprob as fp
from benchmarks.gradient import _descend, _loop
from fieldprob.infer.driver import default_kernel
from fieldprob.networks.regression import regression

FACES = ("weights", "collapsed", "kernels")
# points, neurons, inputs: few points in a wide network, as many as neurons, more; few and many inputs
CASES = ((8, 10, 5), (8, 40, 5), (8, 160, 5), (8, 40, 100), (40, 40, 5), (40, 160, 20), (100, 40, 20), (100, 160, 20))


def problem(points: int, neurons: int, inputs: int):
    random = np.random.default_rng(0)
    X = random.standard_normal((points, inputs))
    return fp.Mlp(neurons, 2, "erf", 1.5), fp.Task(X, np.sign(X[:, 0] * X[:, 1]), 0.1)


def measure(points: int, neurons: int, inputs: int, *, seconds: float, rounds: int) -> dict:
    """One row of the table."""
    row: dict = {"P": points, "N": neurons, "d": inputs}
    with jax.enable_x64(True):
        net, task = problem(points, neurons, inputs)
        loops, samplers = {}, {}
        for face in FACES:
            options = {"face": face, "precision": "full"}
            info = initialize_model(jax.random.key(0), regression, model_args=(net, task), model_kwargs=options)
            loops[face] = _loop(_descend(info.potential_fn), info.param_info.z, x64=True)
            row[f"{face}_latents"] = sum(z.size for z in info.param_info.z.values())
            samplers[face] = default_kernel(face)(_model(face, net, task))
    for face, times in common.per_step(loops, rounds=rounds, seconds=0.02).items():
        row[f"{face}_gradient_us"] = round(1e6 * float(np.median(times)), 1)
    if not seconds:
        return row | {"load": common.load()}
    chains = {
        face: common.Chains(kernel, (), chains=4, warmup=300, seed=1, record=("kernel_2",))
        for face, kernel in samplers.items()
    }
    spent = 0.0
    while spent < seconds:  # in turns, so that all see the same machine
        for contestant in chains.values():
            contestant.step(min(seconds, 1.0))
        spent += min(seconds, 1.0)
    for face, contestant in chains.items():
        K = contestant.sites()["kernel_2"]
        columns = K[:, :, *np.triu_indices(K.shape[-1])]
        ess = [array_stats.ess(c, method="mean", chain_axis=0, draw_axis=1) for c in np.moveaxis(columns, -1, 0)]
        row[f"{face}_ess_per_s"] = float(f"{min(ess) / contestant.seconds:.3g}")
        row[f"{face}_gradients_a_draw"] = round(float(contestant.stat("num_steps").mean()), 1)
        row[f"{face}_ess"] = round(float(min(ess)))
    return row | {"load": common.load()}


def _model(face, net, task):
    def model():
        regression(net, task, face=face, precision="full", kernel_points=np.arange(8))

    return model


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="numbers of the cases to run")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds of gradients")
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU time of a sampler; 0 for gradients alone")
    parser.add_argument("--out", default=common.HERE / "faces.csv", type=common.Path)
    options = parser.parse_args(arguments)
    common.pin()
    print("   P    N    d | gradient, us: " + "  ".join(FACES) + " | effective draws a second")
    for index in options.cases:
        row = measure(*CASES[index], seconds=options.seconds, rounds=options.rounds)
        common.append(options.out, row)
        numbers = [row.get(f"{face}_{cost}", float("nan")) for cost in ("gradient_us", "ess_per_s") for face in FACES]
        print(f"{row['P']:4d} {row['N']:4d} {row['d']:4d} | " + " ".join(f"{x:9.4g}" for x in numbers), flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main()
