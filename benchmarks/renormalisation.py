"""What the renormalisation flows cost: 2000 points and 2000 or 20,000 modes, against SciPy's brentq, cutoff by cutoff.

CPU seconds on one core with one thread, in turn in one process: the closed ridge at 200 cutoffs here and with brentq,
the matched ridge at every cutoff, and the gradient of the sum of the closed ridges in all eigenvalues. Memory is what
the flows add to the largest resident size. Run as `python -m benchmarks.renormalisation`; writes renormalisation.csv.
"""

import resource
import time

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq

POINTS, NOISE, CUTOFFS, ROUNDS = 2000, 0.05, 200, 3


def brentq_loop(eigenvalues, cutoffs):
    """The closed ridge at each cutoff, by the usual root finder."""
    found = []
    for cutoff in cutoffs:
        shell = eigenvalues[cutoff:]
        found.append(
            brentq(
                lambda s, shell=shell: s - NOISE - np.sum(shell * s / (s + POINTS * shell)),
                NOISE,
                NOISE + shell.sum() + 1e-12,
                xtol=1e-15,
                rtol=1e-13,
            )
        )
    return np.array(found)


def seconds(function):
    """CPU seconds of a call, and what it returned."""
    start = time.process_time()
    value = jax.block_until_ready(function())
    return time.process_time() - start, value


def main():
    jax.config.update("jax_enable_x64", True)
    from fieldprob.kernels import Spectrum
    from fieldprob.theory import renormalisation

    common.pin()
    path = common.HERE / "renormalisation.csv"
    path.unlink(missing_ok=True)
    print(f"# load {common.load()}")
    for modes in (2000, 20_000):
        eigenvalues = jnp.arange(1.0, modes + 1) ** -2.0
        cutoffs = jnp.linspace(0, modes - 1, CUTOFFS).astype(int)

        def total(eigenvalues, cutoffs=cutoffs):
            return jnp.sum(renormalisation.closed_ridge(Spectrum(eigenvalues), POINTS, NOISE, cutoffs))

        spectrum, gradient = Spectrum(eigenvalues), jax.jit(jax.grad(total))
        contestants = {
            "closed": lambda s=spectrum, c=cutoffs: renormalisation.closed_ridge(s, POINTS, NOISE, c),
            "matched, every cutoff": lambda s=spectrum: renormalisation.matched_ridge(s, POINTS, NOISE),
            "gradient of closed": lambda g=gradient, e=eigenvalues: g(e),
            "brentq": lambda e=eigenvalues, c=cutoffs: brentq_loop(np.asarray(e), np.asarray(c)),
        }
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        first = {name: seconds(function)[1] for name, function in contestants.items()}  # compiles
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        worst = float(np.max(np.abs(np.asarray(first["closed"]) / first["brentq"] - 1)))
        times = {name: [] for name in contestants}
        for _ in range(ROUNDS):
            for name, function in contestants.items():
                times[name].append(seconds(function)[0])
        for name, values in times.items():
            ratio = np.median(np.array(values) / np.array(times["brentq"]))
            row = {"modes": modes, "what": name, "seconds": f"{np.median(values):.3g}", "/ brentq": f"{ratio:.2g}"}
            row |= {"difference": f"{worst:.0e}" if name == "closed" else "", "MB": f"{memory:.0f}"}
            common.append(path, row)
            print(" ".join(str(value) for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
